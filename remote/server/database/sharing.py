"""Statements on shared spaces: permits (keyed by space), invitations (by user), groups (by group)."""

from dataclasses import dataclass

from remote.protocol.ids import SpaceId, UserId
from remote.server.database.connection import Session


@dataclass(frozen=True)
class Permit:
    """What is granted in a space to a user or (`is_group`) a group."""

    is_group: bool
    who: int
    role: str


@dataclass(frozen=True)
class InvitationRow:
    """A space that is granted to a user who is no member."""

    space: SpaceId
    invited_by: UserId
    invited_ns: int
    is_declined: bool


@dataclass(frozen=True)
class GroupRow:
    """A group as stored."""

    group: int
    group_name: str
    owner: UserId


def permits(session: Session, space: SpaceId) -> list[Permit]:
    """All that is granted in the space."""
    found = session.rows("SELECT is_group, who, role FROM permit WHERE space_id = ? ORDER BY is_group, who", space)
    return [Permit(bool(row[0]), row[1], row[2]) for row in found]


def permit_role(session: Session, space: SpaceId, *, is_group: bool, who: int) -> str | None:
    """What is granted in the space to this user or group."""
    found = session.row(
        "SELECT role FROM permit WHERE space_id = ? AND is_group = ? AND who = ?", space, int(is_group), who
    )
    return str(found[0]) if found else None


def put_permit(session: Session, space: SpaceId, permit: Permit) -> None:
    """Grants a role, instead of one that was granted before."""
    session.run(
        "INSERT INTO permit (space_id, is_group, who, role) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (space_id, is_group, who) DO UPDATE SET role = excluded.role",
        space,
        int(permit.is_group),
        permit.who,
        permit.role,
    )


def end_permit(session: Session, space: SpaceId, *, is_group: bool, who: int) -> bool:
    """Takes away what was granted; False when nothing was."""
    return bool(
        session.run(
            "DELETE FROM permit WHERE space_id = ? AND is_group = ? AND who = ?",
            space,
            int(is_group),
            who,
        )
    )


def invitation(session: Session, user: UserId, space: SpaceId) -> InvitationRow | None:
    """The invitation of a user to a space."""
    found = session.row(
        "SELECT invited_by, invited_ns, is_declined FROM invitation WHERE user_id = ? AND space_id = ?", user, space
    )
    return InvitationRow(space, UserId(found[0]), found[1], bool(found[2])) if found else None


def invitations(session: Session, user: UserId) -> list[InvitationRow]:
    """All invitations of a user, the newest first."""
    found = session.rows(
        "SELECT space_id, invited_by, invited_ns, is_declined FROM invitation WHERE user_id = ?"
        " ORDER BY invited_ns DESC, space_id",
        user,
    )
    return [InvitationRow(SpaceId(row[0]), UserId(row[1]), row[2], bool(row[3])) for row in found]


def put_invitation(session: Session, user: UserId, row: InvitationRow) -> None:
    """Invites a user, or notes what became of it."""
    session.run(
        "INSERT INTO invitation (user_id, space_id, invited_by, invited_ns, is_declined) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (user_id, space_id) DO UPDATE SET invited_by = excluded.invited_by,"
        " invited_ns = excluded.invited_ns, is_declined = excluded.is_declined",
        user,
        row.space,
        row.invited_by,
        row.invited_ns,
        int(row.is_declined),
    )


def end_invitation(session: Session, user: UserId, space: SpaceId) -> bool:
    """The user is a member now, or not invited any more; False when he was not invited."""
    return bool(session.run("DELETE FROM invitation WHERE user_id = ? AND space_id = ?", user, space))


def group_of_name(session: Session, login_name: str) -> int | None:
    """The group of this name."""
    found = session.row("SELECT group_id FROM group_name WHERE login_name = ?", login_name)
    return int(found[0]) if found else None


def every_group(session: Session) -> list[int]:
    """All groups, by name; for whoever runs the server: it looks into every shard."""
    return [
        int(row[0]) for row in session.rows("SELECT group_id FROM group_name /* every shard */ ORDER BY login_name")
    ]


def group_row(session: Session, group: int) -> GroupRow | None:
    """A group."""
    found = session.row("SELECT group_name, owner FROM user_group WHERE group_id = ?", group)
    return GroupRow(group, found[0], UserId(found[1])) if found else None


def add_group(session: Session, row: GroupRow, login_name: str, now_ns: int) -> None:
    """Writes a new group, and the name it is found by."""
    session.run("INSERT INTO group_name (login_name, group_id) VALUES (?, ?)", login_name, row.group)
    session.run(
        "INSERT INTO user_group (group_id, group_name, owner, created_ns) VALUES (?, ?, ?, ?)",
        row.group,
        row.group_name,
        row.owner,
        now_ns,
    )


def end_group(session: Session, group: int, login_name: str) -> None:
    """Removes a group, of which nobody is a member, and to which nothing is granted any more."""
    session.run("DELETE FROM group_name WHERE login_name = ?", login_name)
    session.run("DELETE FROM user_group WHERE group_id = ?", group)


def groups_of(session: Session, user: UserId) -> list[int]:
    """The groups that a user owns or is in."""
    return [int(row[0]) for row in session.rows("SELECT group_id FROM in_group WHERE user_id = ?", user)]


def note_group(session: Session, user: UserId, group: int) -> None:
    """The user owns the group, or is in it."""
    session.run("INSERT INTO in_group (user_id, group_id) VALUES (?, ?) ON CONFLICT DO NOTHING", user, group)


def forget_group(session: Session, user: UserId, group: int) -> None:
    """The user neither owns the group nor is in it."""
    session.run("DELETE FROM in_group WHERE user_id = ? AND group_id = ?", user, group)


def group_members(session: Session, group: int) -> list[UserId]:
    """Who is in the group."""
    found = session.rows("SELECT user_id FROM group_member WHERE group_id = ? ORDER BY user_id", group)
    return [UserId(row[0]) for row in found]


def is_in_group(session: Session, group: int, user: UserId) -> bool:
    """Whether the user is in the group."""
    return session.row("SELECT 1 FROM group_member WHERE group_id = ? AND user_id = ?", group, user) is not None


def add_group_member(session: Session, group: int, user: UserId) -> None:
    """Puts a user into a group."""
    session.run("INSERT INTO group_member (group_id, user_id) VALUES (?, ?) ON CONFLICT DO NOTHING", group, user)


def end_group_member(session: Session, group: int, user: UserId) -> bool:
    """Takes a user out of a group; False when he was not in it."""
    return bool(session.run("DELETE FROM group_member WHERE group_id = ? AND user_id = ?", group, user))


def group_spaces(session: Session, group: int) -> list[SpaceId]:
    """The spaces that are granted to the group."""
    found = session.rows("SELECT space_id FROM group_permit WHERE group_id = ? ORDER BY space_id", group)
    return [SpaceId(row[0]) for row in found]


def add_group_space(session: Session, group: int, space: SpaceId) -> None:
    """A space is granted to the group."""
    session.run("INSERT INTO group_permit (group_id, space_id) VALUES (?, ?) ON CONFLICT DO NOTHING", group, space)


def end_group_space(session: Session, group: int, space: SpaceId) -> None:
    """A space is not granted to the group any more."""
    session.run("DELETE FROM group_permit WHERE group_id = ? AND space_id = ?", group, space)
