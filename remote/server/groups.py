"""Groups of users, which folders can be shared with; each belongs to the user who made it.

Who comes into a group is invited to what is shared with it; who goes loses what he had by it alone, at once.
"""

import secrets
import time
from collections.abc import Callable

from remote.protocol.errors import InTheWay, NotAllowed, NotFound
from remote.protocol.ids import SpaceId, UserId
from remote.protocol.messages import Done
from remote.protocol.sharing import (
    GROUP_MEMBERS_MAX,
    GROUPS_MAX,
    Group,
    GroupMemberRequest,
    GroupRequest,
    Groups,
)
from remote.server import audit
from remote.server.accounts import login_name
from remote.server.database import accounts as account_rows
from remote.server.database import sharing as rows
from remote.server.database import spaces as space_rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.sharing import GroupRow
from remote.server.limits import LABEL_MAX, check_label
from remote.server.membership import Members, Told, name_of
from remote.server.sharing import SharingAnswers


class GroupAnswers:
    """Groups for users."""

    def __init__(self, sharing: SharingAnswers, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._sharing = sharing
        self._now_ns = now_ns

    async def groups(self, device: Device) -> Groups:
        """Those that the user owns or is in."""

        def read(session: Session) -> Groups:
            found = [rows.group_row(session, group) for group in rows.groups_of(session, device.user)]
            told = [told_group(session, row, device.user) for row in found if row is not None]
            return Groups(tuple(sorted(told, key=lambda group: group.name)))

        return await self._sharing.look(read)

    async def make(self, device: Device, request: GroupRequest) -> Group:
        """A new group of nobody; raises InTheWay for a name that is taken, by a user too."""

        def make(session: Session, _: Told) -> Group:
            row = make_group(session, request.name, device.user, self._now_ns())
            return told_group(session, row, device.user)

        return await self._sharing.told(make)

    async def remove(self, device: Device, request: GroupRequest) -> Done:
        """Ends a group: who had folders by it alone loses them."""

        def remove(session: Session, told: Told) -> Done:
            row = _own(session, device.user, request.name)
            remove_group(self._sharing.members_of(session, told), row, device.user)
            return Done()

        return await self._sharing.told(remove)

    async def add_member(self, device: Device, request: GroupMemberRequest) -> Done:
        """Puts a user into a group, and invites him to what is shared with it."""

        def add(session: Session, told: Told) -> Done:
            row = _own(session, device.user, request.name)
            add_to_group(self._sharing.members_of(session, told), row, user_of(session, request.who), device.user)
            return Done()

        return await self._sharing.told(add)

    async def remove_member(self, device: Device, request: GroupMemberRequest) -> Done:
        """Takes a user out of a group; anybody may take out himself."""

        def remove(session: Session, told: Told) -> Done:
            user = user_of(session, request.who)
            row = _own(session, device.user, request.name, or_member=user == device.user)
            take_from_group(self._sharing.members_of(session, told), row, user, device.user)
            return Done()

        return await self._sharing.told(remove)


def make_group(session: Session, name: str, owner: UserId, now_ns: int) -> GroupRow:
    """A new group of nobody; raises InTheWay for a name that is taken, NotAllowed for one group too many."""
    check_label("The group's name", name)
    wanted = login_name(name)
    if account_rows.user_of_login(session, wanted) is not None:
        raise InTheWay(f"There is a user {name}: give the group another name.")
    if rows.group_of_name(session, wanted) is not None:
        raise InTheWay(f"There is a group {name} already: give this one another name.")
    if len(rows.groups_of(session, owner)) >= GROUPS_MAX:
        raise NotAllowed(f"{name_of(session, owner)} owns or is in {GROUPS_MAX} groups, which is all that one gets.")
    row = GroupRow(secrets.randbelow((1 << 63) - 1) + 1, name, owner)
    rows.add_group(session, row, wanted, now_ns)
    rows.note_group(session, owner, row.group)
    audit.note(session, owner, "group made", name)
    return row


def remove_group(members: Members, row: GroupRow, by: UserId) -> None:
    """Ends a group, and what its members had by it alone."""
    session = members.session
    users = rows.group_members(session, row.group)
    for space in rows.group_spaces(session, row.group):
        rows.end_permit(session, space, is_group=True, who=row.group)
        rows.end_group_space(session, row.group, space)
        _refresh(members, space, users, by)
    for user in users:
        rows.end_group_member(session, row.group, user)
        rows.forget_group(session, user, row.group)
    rows.forget_group(session, row.owner, row.group)
    rows.end_group(session, row.group, login_name(row.group_name))
    audit.note(session, row.owner, "group removed", row.group_name)


def add_to_group(members: Members, row: GroupRow, user: UserId, by: UserId) -> None:
    """Puts a user into a group, and invites him to what is shared with it; raises NotAllowed when it is full."""
    session = members.session
    if len(rows.group_members(session, row.group)) >= GROUP_MEMBERS_MAX:
        raise NotAllowed(f"{row.group_name} has {GROUP_MEMBERS_MAX} members, which is all that a group gets.")
    if user != row.owner and len(rows.groups_of(session, user)) >= GROUPS_MAX:
        raise NotAllowed(f"{name_of(session, user)} owns or is in {GROUPS_MAX} groups, which is all that one gets.")
    rows.add_group_member(session, row.group, user)
    rows.note_group(session, user, row.group)
    audit.note(session, row.owner, "group joined", f"{name_of(session, user)} in {row.group_name}")
    for space in rows.group_spaces(session, row.group):
        _refresh(members, space, [user], by)


def take_from_group(members: Members, row: GroupRow, user: UserId, by: UserId) -> None:
    """Takes a user out of a group, and what he had by it alone; raises NotFound when he is not in it."""
    session = members.session
    if not rows.end_group_member(session, row.group, user):
        raise NotFound(f"{name_of(session, user)} is not in {row.group_name}.")
    audit.note(session, row.owner, "group left", f"{name_of(session, user)} in {row.group_name}")
    if user != row.owner:
        rows.forget_group(session, user, row.group)
    for space in rows.group_spaces(session, row.group):
        _refresh(members, space, [user], by)


def group_named(session: Session, name: str) -> GroupRow:
    """The group of this name; raises NotFound."""
    group = rows.group_of_name(session, login_name(name[:LABEL_MAX]))
    row = rows.group_row(session, group) if group is not None else None
    if row is None:
        raise NotFound(f"There is no group {name[:LABEL_MAX]}.")
    return row


def user_of(session: Session, who: str) -> UserId:
    """The user of this name; raises NotFound."""
    user = account_rows.user_of_login(session, login_name(who[:LABEL_MAX]))
    if user is None:
        raise NotFound(f"There is no user {who[:LABEL_MAX]}.")
    return user


def told_group(session: Session, row: GroupRow, asking: UserId) -> Group:
    """The group as a user is told of it."""
    members = sorted(name_of(session, user) for user in rows.group_members(session, row.group))
    return Group(row.group_name, name_of(session, row.owner), tuple(members), row.owner == asking)


def every_group(session: Session) -> list[Group]:
    """All groups, by name; for whoever runs the server."""
    found = [rows.group_row(session, group) for group in rows.every_group(session)]
    return [told_group(session, row, row.owner) for row in found if row is not None]


def _refresh(members: Members, space_id: SpaceId, users: list[UserId], by: UserId) -> None:
    space = space_rows.space_row(members.session, space_id)
    if space is not None:
        for user in users:
            members.refresh(space, user, by)


def _own(session: Session, user: UserId, name: str, *, or_member: bool = False) -> GroupRow:
    """The group of this name, if the user may change it; raises NotFound, NotAllowed."""
    row = group_named(session, name)
    if row.owner != user and not rows.is_in_group(session, row.group, user):
        # As for one that there is not.
        raise NotFound(f"There is no group {name[:LABEL_MAX]}.")
    if row.owner != user and not or_member:
        raise NotAllowed(f"{row.group_name} is a group of {name_of(session, row.owner)}, who alone changes it.")
    return row
