"""Membership: who is what in a shared space, as permits of users and groups make it, and where he sees it.

All of these run within one transaction that writes. `Told` gathers whom to wake when it is through.
"""

from dataclasses import dataclass, field

from remote.protocol.errors import InTheWay, NotAllowed, NotFound
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import Change
from remote.protocol.nodes import Kind, Name, NodeState
from remote.protocol.sharing import OWNER, ROLES, SHARED_MAX, Member
from remote.server import audit, commits
from remote.server.accounts import login_name
from remote.server.commits import Draft, Moving
from remote.server.database import accounts as account_rows
from remote.server.database import leases as lease_rows
from remote.server.database import sharing as rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Account, Device
from remote.server.database.connection import Session
from remote.server.database.sharing import InvitationRow
from remote.server.database.spaces import SpaceRow
from remote.server.founding import free_name
from remote.server.keyring import Keyring
from remote.server.limits import LABEL_MAX
from remote.server.reading import asked_op_id
from remote.server.scanning.carrying import Carried
from remote.server.states import encode_state


@dataclass
class Told:
    """Spaces that moved, and users whose spaces, roles or invitations changed."""

    spaces: set[SpaceId] = field(default_factory=set)
    users: set[UserId] = field(default_factory=set)
    invited: list[tuple[UserId, str, str]] = field(default_factory=list)
    """Who is invited now, by whom and to what."""
    refused: list[Carried] = field(default_factory=list)
    """Chunks that are refused where they came to."""


@dataclass(frozen=True)
class Members:
    """Changes who is a member, within one transaction."""

    session: Session
    keyring: Keyring
    told: Told
    now_ns: int

    def refresh(self, space: SpaceRow, user: UserId, by: UserId) -> None:
        """Makes of a user in a space what permits say now: invites, changes his role, or puts him out."""
        session = self.session
        is_now, may_be = space_rows.role_of(session, space.space, user), permitted(session, space.space, user)
        if is_now == OWNER or (is_now is not None and is_now == may_be):
            return
        if is_now is not None and may_be is None:
            self.end(space, user)
            note_about(session, space, user, "share taken away")
        elif is_now is not None and may_be is not None:
            space_rows.set_role(session, space.space, user, may_be)
            note_about(session, space, user, "share role", f"{may_be} instead of {is_now}")
        elif may_be is None:
            if rows.end_invitation(session, user, space.space):
                note_about(session, space, user, "share taken away")
        elif rows.invitation(session, user, space.space) is None:
            # Those that he declined, or left, are none of which he should have to get rid.
            waiting = [one for one in rows.invitations(session, user) if not one.is_declined]
            if len(waiting) >= SHARED_MAX:
                raise NotAllowed(f"{name_of(session, user)} has {SHARED_MAX} invitations, which is all that one gets.")
            rows.put_invitation(session, user, InvitationRow(space.space, by, self.now_ns, is_declined=False))
            self.told.invited.append((user, name_of(session, by), space.name))
            note_about(session, space, user, "share invited", f"as {may_be}")
        self._changed(user)

    def accept(self, space: SpaceRow, user: UserId, node: NodeId) -> None:
        """Makes an invited user a member: `node`, a new id, stands for the space in his home from now on.

        Raises NotFound for who is not invited.
        """
        session = self.session
        role = permitted(session, space.space, user)
        if role is None or not rows.end_invitation(session, user, space.space):
            raise NotFound(f"You are not invited to a shared folder {space.space}.")
        if len(account_rows.mounts(session, user)) > SHARED_MAX:
            raise NotAllowed(f"You have {SHARED_MAX} shared folders, which is all that one user gets: leave some.")
        space_rows.add_member(session, space.space, user, role)
        self._place(space, user, node)
        note_about(session, space, user, "share accepted", f"as {role}")
        self._changed(user)

    def end(self, space: SpaceRow, user: UserId) -> None:
        """Puts a member out: from now on the space is none of his, and what stood for it in his home is gone."""
        session = self.session
        space_rows.end_member(session, space.space, user)
        node = account_rows.mount_node(session, user, space.space)
        account_rows.end_mount(session, user, space.space)
        for device in account_rows.devices(session, user):
            lease_rows.end_holdings(session, [space.space], device.device)
        account = self._account(user)
        home = self._home(account)
        row = trees.node_row(session, home.space, node)
        if row is not None and row.state is not None:
            self._take(home, account, Draft(Change(node, row.rev, self.now_ns, None), None, None, None), space.space)
        self._changed(user)

    def _place(self, space: SpaceRow, user: UserId, node: NodeId) -> None:
        account = self._account(user)
        home = self._home(account)
        name = free_name(self.session, home.space, Name(ROOT, space.name.encode()))
        now_ns = self.now_ns
        state = NodeState(
            Kind.FOLDER, (Name(ROOT, name),), 0o755, 0, 0, now_ns, now_ns, now_ns, now_ns, mounts=space.space
        )
        change = Change(node, Rev(0), self.now_ns, state)
        self._take(home, account, Draft(change, encode_state(state), None, None), space.space)
        account_rows.add_mount(self.session, user, space.space, node)

    def _take(self, home: SpaceRow, account: Account, draft: Draft, space: SpaceId) -> None:
        by = Device(account.user, DeviceId(0), account.user_name, b"")
        answer = commits.take(
            self.session,
            home,
            by,
            asked_op_id(),
            [draft],
            key=self.keyring.key(home),
            now_ns=self.now_ns,
            found=Moving(space),
        )
        if not answer.rev:
            raise InTheWay(f"{answer.reason} Nothing was changed.")
        self.told.spaces.add(home.space)

    def _account(self, user: UserId) -> Account:
        account = account_rows.account(self.session, user)
        if account is None:
            raise NotFound("There is no such user any more.")
        return account

    def _home(self, account: Account) -> SpaceRow:
        row = space_rows.space_row(self.session, account.home)
        assert row is not None, "an account has a home"
        return row

    def _changed(self, user: UserId) -> None:
        account_rows.spaces_changed(self.session, user)
        self.told.users.add(user)


def permitted(session: Session, space: SpaceId, user: UserId) -> str | None:
    """The highest role that is granted to the user or to a group that he is in."""
    found = [rows.permit_role(session, space, is_group=False, who=user)]
    for group in rows.groups_of(session, user):
        role = rows.permit_role(session, space, is_group=True, who=group)
        # Who owns a group is no member by that.
        if role is not None and rows.is_in_group(session, group, user):
            found.append(role)
    return max((role for role in found if role is not None), key=ROLES.index, default=None)


def note_about(session: Session, space: SpaceRow, user: UserId, what: str, detail: str = "") -> None:
    """Notes what happened to a user in a space, for him and for its owner."""
    about = f"{name_of(session, user)} in {space.name}{': ' if detail else ''}{detail}"
    for concerned in dict.fromkeys((user, space_rows.owner_id(session, space.space))):
        if concerned is not None:
            audit.note(session, concerned, what, about)


def name_of(session: Session, user: UserId) -> str:
    """The name of a user; empty for one who is gone."""
    account = account_rows.account(session, user)
    return account.user_name if account is not None else ""


def find_who(session: Session, asking: UserId, name: str) -> tuple[bool, int, str]:
    """Whether the name is a group's, the id of the user or group, and the name as it is written; raises NotFound.

    A group is found by its owner and by those who are in it.
    """
    wanted = login_name(name[:LABEL_MAX])
    user = account_rows.user_of_login(session, wanted)
    if user is not None:
        return False, user, name_of(session, user)
    group = rows.group_of_name(session, wanted)
    found = rows.group_row(session, group) if group is not None else None
    if found is not None and (found.owner == asking or rows.is_in_group(session, found.group, asking)):
        return True, found.group, found.group_name
    raise NotFound(
        f"There is no user, and no group of yours, called {name[:LABEL_MAX]}. To make a group: satchel group add NAME"
    )


def users_of(session: Session, *, is_group: bool, who: int) -> list[UserId]:
    """The user, or those who are in the group."""
    return rows.group_members(session, who) if is_group else [UserId(who)]


def groups_by(session: Session, space: SpaceId, user: UserId) -> list[str]:
    """Names of the groups by which a user has a space."""
    found = [permit.who for permit in rows.permits(session, space) if permit.is_group]
    groups = [rows.group_row(session, group) for group in found if rows.is_in_group(session, group, user)]
    return [f"the group {group.group_name}" for group in groups if group is not None]


def listed_members(session: Session, space: SpaceId) -> list[Member]:
    """Who a space is shared with: users and groups, the owner first."""
    roles = dict(space_rows.members(session, space))
    found: list[Member] = []
    by_group: dict[UserId, list[str]] = {}
    own = {user for user, role in roles.items() if role == OWNER}
    for permit in rows.permits(session, space):
        if permit.is_group:
            group = rows.group_row(session, permit.who)
            name = group.group_name if group is not None else ""
            found.append(Member(name, "group", permit.role))
            for user in rows.group_members(session, permit.who):
                by_group.setdefault(user, []).append(name)
        else:
            by_group.setdefault(UserId(permit.who), [])
            own.add(UserId(permit.who))
    users: list[Member] = []
    for user in sorted({*roles, *by_group}):
        role, standing = roles.get(user), "member"
        if role is None:
            invited = rows.invitation(session, user, space)
            standing = "declined" if invited is not None and invited.is_declined else "invited"
            role = permitted(session, space, user) or ""
        groups = tuple(by_group.get(user, ()))
        users.append(Member(name_of(session, user), "user", role, standing, groups, user in own))
    return sorted([*users, *found], key=lambda each: (each.role != OWNER, each.kind == "group", each.who))
