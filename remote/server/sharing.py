"""Sharing: folders that become spaces of their own, invitations, roles. Rights are looked up at every request."""

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from remote.protocol.errors import BadRequest, InTheWay, NotAllowed, NotFound, QuotaExceeded
from remote.protocol.ids import NO_SPACE, NOWHERE, ROOT, ChunkId, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import Done
from remote.protocol.nodes import Kind
from remote.protocol.sharing import (
    KEEPER,
    MANAGER,
    OWNER,
    PERMITS_MAX,
    ROLES,
    Invitation,
    Invitations,
    LimitRequest,
    Members,
    PermitRequest,
    RevokeRequest,
    Shared,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
    Wish,
)
from remote.server import membership
from remote.server.chunks import Chunks
from remote.server.database import accounts as account_rows
from remote.server.database import sharing as rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.sharing import Permit
from remote.server.database.spaces import SpaceRow
from remote.server.files import Files, shown_name
from remote.server.founding import Founder, long_contents
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import MasterKey, SpaceKey, fresh_key
from remote.server.limits import check_count, check_node, check_size, check_space
from remote.server.mail import Mail
from remote.server.membership import Told, find_who, groups_by, listed_members, name_of, note_about, users_of
from remote.server.quotas import count_past
from remote.server.rights import Right, member_space, owner_of
from remote.server.states import decode_state

_INSIDE: Final = "What is in a shared folder cannot be shared by itself: share the folder with others."
SERVER: Final = DeviceId(0)
Result = TypeVar("Result")
Long = Mapping[bytes, frozenset[ChunkId]]


class SharingAnswers:
    """Shares folders for users; what it changes, their devices hear of at once."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        master: MasterKey,
        chunks: Chunks,
        files: Files,
        *,
        hub: Hub,
        mail: Mail,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._master = master
        self._chunks = chunks
        self._files = files
        self._hub = hub
        self._mail = mail
        self._now_ns = now_ns

    async def make(self, device: Device, request: ShareRequest) -> Shared:
        """The shared space that a folder is from now on, with invitations as wished.

        Raises NotAllowed for what cannot be shared, NotFound for unknown names, InTheWay, TooLarge.
        """
        check_space("space", request.space)
        check_node("node", request.node)
        check_count("wishes", len(request.wishes), PERMITS_MAX)
        for wish in request.wishes:
            _check_role(wish.role)

        def look(session: Session) -> tuple[Kind, Long]:
            row = member_space(session, request.space, device.user, Right.SHARE)
            if row.payer or _mounted(session, row, request.node):
                return Kind.FOLDER, {}
            _refuse_inside(session, device.user, row, request.node)
            kind = _kind(session, row, request.node)
            key = self._keyring.key(row)
            # What is read from the store is read before others have to wait for it.
            long = long_contents(session, row.space, key, request.node, self._chunks.read_whole)
            return kind, long

        kind, long = await self._database.read(look)
        folder = NOWHERE if kind == Kind.FOLDER else await self._files.fresh_node(device.user)
        return await self.told(partial(self._make, device, request, folder, long))

    def _make(
        self, device: Device, request: ShareRequest, folder: NodeId, long: Long, session: Session, told: Told
    ) -> Shared:
        row = member_space(session, request.space, device.user, Right.SHARE)
        mounted = _mounted(session, row, request.node)
        if row.payer or mounted:
            if row.payer and request.node != ROOT:
                raise NotAllowed(_INSIDE)
            space = row if row.payer else member_space(session, mounted, device.user, Right.SHARE)
            _check_shared(session, space)
            mount = account_rows.mount_node(session, device.user, space.space)
            shared = Shared(space.space, mount, space.name)
        else:
            shared, founder = self._found(device, row, request.node, folder, long, session)
            told.refused += founder.carried
            # Of the new space nobody's device waits yet, but jobs do.
            told.spaces |= {row.space, shared.space}
            self._changed(session, told, device.user)
        space = member_space(session, shared.space, device.user, Right.SHARE)
        for wish in request.wishes:
            self._permit(session, told, device, space, wish)
        return shared

    def _found(
        self, device: Device, home: SpaceRow, node: NodeId, folder: NodeId, long: Long, session: Session
    ) -> tuple[Shared, Founder]:
        by = Device(device.user, SERVER, device.user_name, device.token_hash)
        founder = Founder(session, by, self._chunks.read_whole, long, self._now_ns())
        key = self._keyring.key(home)
        top = node
        if _kind(session, home, node) != Kind.FOLDER:
            if not folder:
                raise InTheWay("It changed meanwhile: nothing was shared.")
            top = founder.into_folder(home, key, node, folder)
            home = member_space(session, home.space, device.user, Right.SHARE)
        row = trees.node_row(session, home.space, top)
        if row is None or row.state is None:
            raise NotFound("That is not on the server: it was removed, or was not sent yet.")
        name = shown_name(decode_state(row.state).names[0].name)
        secret = fresh_key()
        space = SpaceRow(
            SpaceId(secrets.randbelow((1 << 63) - 1) + 1),
            name,
            Rev(0),
            Rev(0),
            0,
            0,
            0,
            self._master.wrap(secret),
            payer=home.space,
            counts_past=home.counts_past,
        )
        founder.found_space(home, key, top, space, SpaceKey(secret))
        founded = space_rows.space_row(session, space.space)
        assert founded is not None, "it was made just now"
        space_rows.pay_anyway(session, home.space, founded.used)
        space_rows.add_paid(session, home.space, space.space)
        space_rows.add_member(session, space.space, device.user, OWNER)
        account_rows.add_mount(session, device.user, space.space, top)
        note_about(session, space, device.user, "folder shared")
        return Shared(space.space, top, name, is_new=True, is_in_new_folder=top != node), founder

    async def members(self, device: Device, request: SharedSpaceRequest) -> Members:
        """Who the space is shared with; raises NotFound."""
        check_space("space", request.space)

        def read(session: Session) -> Members:
            row = member_space(session, request.space, device.user, Right.READ)
            role = space_rows.role_of(session, row.space, device.user)
            return Members(
                row.space, row.name, role or "", tuple(listed_members(session, row.space)), row.used, row.quota
            )

        return await self._database.read(read)

    async def permit(self, device: Device, request: PermitRequest) -> Done:
        """Invites a user or group, or gives them another role."""
        check_space("space", request.space)
        _check_role(request.role)

        def permit(session: Session, told: Told) -> Done:
            space = member_space(session, request.space, device.user, Right.SHARE)
            _check_shared(session, space)
            self._permit(session, told, device, space, Wish(request.who, request.role))
            return Done()

        return await self.told(permit)

    async def revoke(self, device: Device, request: RevokeRequest) -> Done:
        """Takes away what a user or group was granted; who is no member by that any more loses the space at once."""
        check_space("space", request.space)

        def revoke(session: Session, told: Told) -> Done:
            space = member_space(session, request.space, device.user, Right.SHARE)
            is_group, who, name = find_who(session, device.user, request.who)
            is_member = not is_group and space_rows.role_of(session, space.space, UserId(who)) is not None
            if is_member and space_rows.owner_id(session, space.space) == who:
                raise NotAllowed(f"{name} owns this folder: it can be given to another member (transfer), or ended.")
            if not rows.end_permit(session, space.space, is_group=is_group, who=who):
                by = ", ".join(groups_by(session, space.space, UserId(who))) if not is_group else ""
                if by:
                    raise InTheWay(f"{name} has this folder by {by}: take the group away, or {name} out of it.")
                raise NotFound(f"{space.name} is not shared with {name}.")
            if is_group:
                rows.end_group_space(session, who, space.space)
            self.refresh(session, told, space, users_of(session, is_group=is_group, who=who), device.user)
            return Done()

        return await self.told(revoke)

    async def invitations(self, device: Device) -> Invitations:
        """Shared spaces that the user may accept."""

        def read(session: Session) -> Invitations:
            found: list[Invitation] = []
            for row in rows.invitations(session, device.user):
                space = space_rows.space_row(session, row.space)
                role = membership.permitted(session, row.space, device.user)
                if space is not None and role is not None:
                    by = name_of(session, row.invited_by)
                    owner = owner_of(session, row.space)
                    found.append(Invitation(row.space, space.name, role, owner, by, row.invited_ns, row.is_declined))
            return Invitations(tuple(found))

        return await self._database.read(read)

    async def accept(self, device: Device, request: SharedSpaceRequest) -> Shared:
        """Makes the user a member; the folder stands at the top of his drive. Raises NotFound without an invitation."""
        check_space("space", request.space)
        node = await self._files.fresh_node(device.user)

        def accept(session: Session, told: Told) -> Shared:
            space = space_rows.space_row(session, request.space)
            if space is None:
                raise NotFound(f"You are not invited to a shared folder {request.space}.")
            self.members_of(session, told).accept(space, device.user, node)
            return Shared(space.space, node, space.name)

        return await self.told(accept)

    async def decline(self, device: Device, request: SharedSpaceRequest) -> Done:
        """Notes that the user does not want it; he may still accept it later. Raises NotFound."""
        check_space("space", request.space)

        def decline(session: Session, told: Told) -> Done:
            row = rows.invitation(session, device.user, request.space)
            if row is None:
                raise NotFound(f"You are not invited to a shared folder {request.space}.")
            declined = rows.InvitationRow(row.space, row.invited_by, row.invited_ns, is_declined=True)
            rows.put_invitation(session, device.user, declined)
            space = space_rows.space_row(session, request.space)
            if space is not None:
                note_about(session, space, device.user, "share declined")
            self._changed(session, told, device.user)
            return Done()

        return await self.told(decline)

    async def leave(self, device: Device, request: SharedSpaceRequest) -> Done:
        """Ends the user's membership; he may accept again as long as the folder is granted to him."""
        check_space("space", request.space)

        def leave(session: Session, told: Told) -> Done:
            space = member_space(session, request.space, device.user, Right.READ)
            _check_shared(session, space)
            if space_rows.owner_id(session, space.space) == device.user:
                raise NotAllowed(f"{space.name} is yours: give it to another member, or stop sharing it.")
            self.members_of(session, told).end(space, device.user)
            left = rows.InvitationRow(space.space, device.user, self._now_ns(), is_declined=True)
            rows.put_invitation(session, device.user, left)
            note_about(session, space, device.user, "share left")
            return Done()

        return await self.told(leave)

    async def transfer(self, device: Device, request: TransferRequest) -> Done:
        """Makes another member the owner; raises QuotaExceeded when he has no room for what is in it."""
        check_space("space", request.space)

        def transfer(session: Session, told: Told) -> Done:
            space = member_space(session, request.space, device.user, Right.OWN)
            _check_shared(session, space)
            is_group, who, name = find_who(session, device.user, request.who)
            if is_group or space_rows.role_of(session, space.space, UserId(who)) is None:
                raise NotAllowed(f"{name} is no member of {space.name}: only one who accepted it can own it.")
            if who != device.user:
                self._transfer(session, told, space, device.user, UserId(who), name)
            return Done()

        return await self.told(transfer)

    async def limit(self, device: Device, request: LimitRequest) -> Done:
        """Bounds what may be in it, at once; what is over that stays, and nothing more is taken."""
        check_space("space", request.space)
        check_size("limit", request.limit)

        def limit(session: Session, told: Told) -> Done:
            space = member_space(session, request.space, device.user, Right.OWN)
            _check_shared(session, space)
            space_rows.set_quota(session, space.space, request.limit)
            note_about(session, space, device.user, "share bounded", f"{request.limit} bytes")
            for user, _ in space_rows.members(session, space.space):
                self._changed(session, told, user)
            return Done()

        return await self.told(limit)

    async def end(self, device: Device, request: SharedSpaceRequest) -> Done:
        """Stops sharing: all goes back into the owner's folder, others lose it. The history stays readable for him."""
        check_space("space", request.space)

        def look(session: Session) -> Long:
            space = member_space(session, request.space, device.user, Right.OWN)
            _check_shared(session, space)
            return long_contents(session, space.space, self._keyring.key(space), ROOT, self._chunks.read_whole)

        long = await self._database.read(look)

        def end(session: Session, told: Told) -> Done:
            space = member_space(session, request.space, device.user, Right.OWN)
            _check_shared(session, space)
            top = account_rows.mount_node(session, device.user, space.space)
            self._put_out(session, told, space, device.user)
            home = member_space(session, space.payer, device.user, Right.OWN)
            by = Device(device.user, SERVER, device.user_name, device.token_hash)
            founder = Founder(session, by, self._chunks.read_whole, long, self._now_ns())
            founder.dissolve_space(space, self._keyring.key(space), home, self._keyring.key(home), top)
            told.refused += founder.carried
            space_rows.end_paid(session, home.space, space.space)
            account_rows.end_mount(session, device.user, space.space)
            space_rows.set_role(session, space.space, device.user, KEEPER)
            note_about(session, home, device.user, "share ended", space.name)
            told.spaces |= {home.space, space.space}
            self._changed(session, told, device.user)
            return Done()

        return await self.told(end)

    def _put_out(self, session: Session, told: Told, space: SpaceRow, owner: UserId) -> None:
        """Ends all that is granted in the space, but that it is its owner's."""
        members = self.members_of(session, told)
        for permit in rows.permits(session, space.space):
            rows.end_permit(session, space.space, is_group=permit.is_group, who=permit.who)
            if permit.is_group:
                rows.end_group_space(session, permit.who, space.space)
            for user in users_of(session, is_group=permit.is_group, who=permit.who):
                members.refresh(space, user, owner)

    def _transfer(self, session: Session, told: Told, space: SpaceRow, old: UserId, new: UserId, name: str) -> None:
        account = account_rows.account(session, new)
        home = space_rows.space_row(session, account.home) if account is not None else None
        if home is not None:
            # It is counted as everything is that the new owner has.
            count_past(session, space, self._keyring.key(space), counts_past=bool(home.counts_past))
            space = space_rows.space_row(session, space.space) or space
        if account is None or not space_rows.pay(session, account.home, space.used):
            raise QuotaExceeded(f"{name} has no room for the {space.used} bytes that are in {space.name}.")
        space_rows.pay_anyway(session, space.payer, -space.used)
        space_rows.end_paid(session, space.payer, space.space)
        space_rows.add_paid(session, account.home, space.space)
        space_rows.set_payer(session, space.space, account.home)
        rows.end_permit(session, space.space, is_group=False, who=new)
        space_rows.set_role(session, space.space, new, OWNER)
        rows.put_permit(session, space.space, Permit(is_group=False, who=old, role=MANAGER))
        space_rows.set_role(session, space.space, old, MANAGER)
        for user, _ in space_rows.members(session, space.space):
            self._changed(session, told, user)
        note_about(session, space, old, "share given away", f"to {name}")

    def _permit(self, session: Session, told: Told, device: Device, space: SpaceRow, wish: Wish) -> None:
        is_group, who, name = find_who(session, device.user, wish.who)
        if not is_group and space_rows.owner_id(session, space.space) == who:
            raise NotAllowed(f"{name} owns {space.name}.")
        permits = rows.permits(session, space.space)
        is_new = rows.permit_role(session, space.space, is_group=is_group, who=who) is None
        if is_new and len(permits) >= PERMITS_MAX:
            raise NotAllowed(f"{space.name} is shared with {PERMITS_MAX} users and groups: put users into groups.")
        rows.put_permit(session, space.space, Permit(is_group, who, wish.role))
        if is_group:
            rows.add_group_space(session, who, space.space)
        elif (was := rows.invitation(session, UserId(who), space.space)) is not None and was.is_declined:
            # Who is invited by his name is asked anew.
            rows.end_invitation(session, UserId(who), space.space)
        self.refresh(session, told, space, users_of(session, is_group=is_group, who=who), device.user)

    def refresh(self, session: Session, told: Told, space: SpaceRow, users: list[UserId], by: UserId) -> None:
        """Makes of these users in a space what permits say now; new ones are invited `by` that user."""
        members = self.members_of(session, told)
        for user in users:
            members.refresh(space, user, by)

    def members_of(self, session: Session, told: Told) -> membership.Members:
        """What changes members within this transaction."""
        return membership.Members(session, self._keyring, told, self._now_ns())

    def _changed(self, session: Session, told: Told, user: UserId) -> None:
        account_rows.spaces_changed(session, user)
        told.users.add(user)

    async def look(self, job: Callable[[Session], Result]) -> Result:
        """What the job reads."""
        return await self._database.read(job)

    async def told(self, job: Callable[[Session, Told], Result]) -> Result:
        """What the job returns, in one transaction; then all who wait for what it changed are woken."""

        def write(session: Session) -> tuple[Result, Told]:
            told = Told()
            return job(session, told), told

        result, told = await self._database.write(write)
        for space in told.spaces:
            self._hub.moved(space)
        for one in told.refused:
            self._chunks.refuse(one.space, one.chunks, one.virus)
        for user in told.users:
            self._hub.spaces_changed(user)
        for user, who, what in told.invited:
            self._mail.tell(user, "invitation", who=who, what=what)
        return result


def _check_shared(session: Session, space: SpaceRow) -> None:
    if not space.payer:
        raise BadRequest(f"{space.name} is a home, not a shared folder.")
    if space.space not in space_rows.paid_by(session, space.payer):
        raise NotFound(f"{space.name} is not shared any more.")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise BadRequest(f"A role is {', '.join(ROLES)}, not {role[:20]!r}.")


def _mounted(session: Session, row: SpaceRow, node: NodeId) -> SpaceId:
    found = trees.node_row(session, row.space, node)
    return decode_state(found.state).mounts if found is not None and found.state is not None else NO_SPACE


def _refuse_inside(session: Session, user: UserId, home: SpaceRow, node: NodeId) -> None:
    """Raises NotAllowed for what is in a shared space: devices show it below a folder of the home."""
    row = trees.node_row(session, home.space, node)
    if row is not None and row.state is not None:
        return
    for space in account_rows.mounts(session, user):
        there = trees.node_row(session, space, node) if space != home.space else None
        if there is not None and there.state is not None:
            raise NotAllowed(_INSIDE)


def _kind(session: Session, row: SpaceRow, node: NodeId) -> Kind:
    found = trees.node_row(session, row.space, node)
    if found is None or found.state is None:
        raise NotFound("That is not on the server: it was removed, or was not sent yet.")
    kind = Kind(found.kind)
    if node == ROOT:
        raise NotAllowed("The top of your drive cannot be shared: share folders in it.")
    if kind not in {Kind.FILE, Kind.FOLDER}:
        raise NotAllowed("A file or a folder can be shared.")
    return kind
