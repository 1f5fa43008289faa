"""Statements on spaces, their members and their journal (keyed by space)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from remote.protocol.ids import NO_SPACE, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.nodes import FILE_SIZE_MAX
from remote.server.database.connection import Row, Session


@dataclass(frozen=True)
class SpaceRow:
    """One space as stored; `wrapped_key` is sealed by the master key."""

    space: SpaceId
    name: str
    head: Rev
    floor: Rev
    quota: int
    used: int
    last_time_ns: int
    wrapped_key: bytes
    payer: SpaceId = NO_SPACE
    """The home whose quota counts for this shared space; 0: it is a home itself."""
    shared_used: int = 0
    """Of a home: bytes in the shared spaces that it pays for."""
    counts_past: int = 0
    """1 where older versions count in `used`, each with its size; else 0."""
    limit: int = 0
    """Of a shared space, as `quotas.bounded` tells it: what its owner bounds it to; stored, that is its quota."""
    paid_left: int = FILE_SIZE_MAX
    """The same: what the home that pays has left; FILE_SIZE_MAX when that has no quota."""

    @property
    def left(self) -> int:
        """Bytes that may come before the quota is full; without one, what a file may have. See `quotas.bounded`."""
        return max(0, self.quota - self.used) if self.quota else FILE_SIZE_MAX


@dataclass(frozen=True)
class JournalRow:
    """One accepted commit."""

    rev: Rev
    time_ns: int
    user: UserId
    device: DeviceId


def space_row(session: Session, space: SpaceId) -> SpaceRow | None:
    """The space, or None."""
    found = session.row(
        "SELECT name, head, floor, quota, used, last_time_ns, wrapped_key, payer, shared_used, counts_past FROM space"
        " WHERE space_id = ?",
        space,
    )
    return SpaceRow(space, *found) if found else None


def add_space(session: Session, row: SpaceRow) -> None:
    """Writes a new space."""
    session.run(
        "INSERT INTO space (space_id, name, head, floor, quota, used, last_time_ns, wrapped_key, payer,"
        " shared_used, counts_past) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row.space,
        row.name,
        row.head,
        row.floor,
        row.quota,
        row.used,
        row.last_time_ns,
        row.wrapped_key,
        row.payer,
        row.shared_used,
        row.counts_past,
    )


def set_quota(session: Session, space: SpaceId, quota: int) -> None:
    """Sets how many bytes the space may hold; 0: any number."""
    session.run("UPDATE space SET quota = ? WHERE space_id = ?", quota, space)


def grow(session: Session, space: SpaceId, growth: int) -> None:
    """Counts so many bytes more, or less, outside of a commit."""
    session.run("UPDATE space SET used = used + ? WHERE space_id = ?", growth, space)


def set_counts_past(session: Session, space: SpaceId, *, counts_past: bool) -> None:
    """Whether older versions count; what they count for is another matter (`quotas.count_past`)."""
    session.run("UPDATE space SET counts_past = ? WHERE space_id = ?", int(counts_past), space)


def add_member(session: Session, space: SpaceId, user: UserId, role: str) -> None:
    """Makes the user a member of the space."""
    session.run("INSERT INTO member (space_id, user_id, role) VALUES (?, ?, ?)", space, user, role)


def set_role(session: Session, space: SpaceId, user: UserId, role: str) -> None:
    """Gives a member another role."""
    session.run("UPDATE member SET role = ? WHERE space_id = ? AND user_id = ?", role, space, user)


def end_member(session: Session, space: SpaceId, user: UserId) -> None:
    """The user is no member of the space any more."""
    session.run("DELETE FROM member WHERE space_id = ? AND user_id = ?", space, user)


def members(session: Session, space: SpaceId) -> list[tuple[UserId, str]]:
    """Who is a member of the space, with which role."""
    found = session.rows("SELECT user_id, role FROM member WHERE space_id = ? ORDER BY user_id", space)
    return [(UserId(row[0]), str(row[1])) for row in found]


def owner_id(session: Session, space: SpaceId) -> UserId | None:
    """The user whose space it is."""
    found = session.row("SELECT user_id FROM member WHERE space_id = ? AND role = 'owner'", space)
    return UserId(found[0]) if found else None


def pay(session: Session, home: SpaceId, growth: int, reserved: int = 0) -> bool:
    """Counts what a shared space grew by for the home that pays; False, and nothing done, when that is over its quota.

    `reserved`: bytes that are kept for devices beside that. What does not grow is always taken.
    """
    return bool(
        session.run(
            "UPDATE space SET shared_used = shared_used + ? WHERE space_id = ?"
            " AND (quota = 0 OR ? <= 0 OR used + shared_used + ? + ? <= quota)",
            growth,
            home,
            growth,
            growth,
            reserved,
        )
    )


def pay_anyway(session: Session, home: SpaceId, growth: int) -> None:
    """The same whatever the quota is: what is counted was in it before, in another way."""
    session.run("UPDATE space SET shared_used = shared_used + ? WHERE space_id = ?", growth, home)


def set_payer(session: Session, space: SpaceId, home: SpaceId) -> None:
    """From now on this home pays for the shared space; what is in it is to be counted by `pay`."""
    session.run("UPDATE space SET payer = ? WHERE space_id = ?", home, space)


def paid_by(session: Session, home: SpaceId) -> list[SpaceId]:
    """The shared spaces that a home pays for."""
    return [SpaceId(row[0]) for row in session.rows("SELECT shared FROM paid WHERE space_id = ?", home)]


def add_paid(session: Session, home: SpaceId, space: SpaceId) -> None:
    """The home pays for this shared space."""
    session.run("INSERT INTO paid (space_id, shared) VALUES (?, ?)", home, space)


def end_paid(session: Session, home: SpaceId, space: SpaceId) -> None:
    """The home does not pay for this shared space any more."""
    session.run("DELETE FROM paid WHERE space_id = ? AND shared = ?", home, space)


def role_of(session: Session, space: SpaceId, user: UserId) -> str | None:
    """The user's role in the space; None when not a member."""
    found = session.row("SELECT role FROM member WHERE space_id = ? AND user_id = ?", space, user)
    return str(found[0]) if found else None


def rev_of_op(session: Session, space: SpaceId, op_id: bytes) -> Rev | None:
    """The rev that this op id became, when it was accepted before; 0, when it was refused."""
    found = session.row("SELECT rev FROM op_seen WHERE space_id = ? AND op_id = ?", space, op_id)
    return Rev(found[0]) if found else None


def refuse_op(session: Session, space: SpaceId, op_id: bytes) -> None:
    """Notes that this op id was refused, unless it was accepted before."""
    session.run(
        "INSERT INTO op_seen (space_id, op_id, rev) VALUES (?, ?, 0) ON CONFLICT (space_id, op_id) DO NOTHING",
        space,
        op_id,
    )


def life_at(session: Session, space: SpaceId, rev: Rev) -> int:
    """The life of the journal that this rev was given in; 0: before lives had names."""
    found = session.row(
        "SELECT life FROM life WHERE space_id = ? AND from_rev < ? ORDER BY from_rev DESC LIMIT 1", space, rev
    )
    return int(found[0]) if found else 0


def lives(session: Session, space: SpaceId, limit: int) -> list[tuple[Rev, int]]:
    """The newest lives of the journal, oldest first: the rev after which each began, and its name."""
    found = session.rows(
        "SELECT from_rev, life FROM life WHERE space_id = ? ORDER BY from_rev DESC LIMIT ?", space, limit
    )
    return [(Rev(row[0]), row[1]) for row in found][::-1]


def add_commit(session: Session, space: SpaceId, row: JournalRow, op_id: bytes, used: int) -> None:
    """Moves the space's head to this commit; `used` is the new sum of its file sizes."""
    if life_at(session, space, row.rev) != session.life:
        session.run(
            "INSERT INTO life (space_id, from_rev, life) VALUES (?, ?, ?)", space, Rev(row.rev - 1), session.life
        )
    session.run(
        "UPDATE space SET head = ?, used = ?, last_time_ns = ? WHERE space_id = ?", row.rev, used, row.time_ns, space
    )
    session.run(
        "INSERT INTO journal (space_id, rev, time_ns, user_id, device_id, op_id) VALUES (?, ?, ?, ?, ?, ?)",
        space,
        row.rev,
        row.time_ns,
        row.user,
        row.device,
        op_id,
    )
    session.run("INSERT INTO op_seen (space_id, op_id, rev) VALUES (?, ?, ?)", space, op_id, row.rev)


def add_moments(session: Session, space: SpaceId, folders: Iterable[NodeId], rev: Rev) -> None:
    """Notes that these folders, or something below them, changed with this rev."""
    session.run_many(
        "INSERT INTO moment (space_id, folder, rev) VALUES (?, ?, ?)", [(space, folder, rev) for folder in folders]
    )


def journal_after(session: Session, space: SpaceId, since: Rev, limit: int) -> list[JournalRow]:
    """The oldest commits after a rev."""
    found = session.rows(
        "SELECT rev, time_ns, user_id, device_id FROM journal WHERE space_id = ? AND rev > ? ORDER BY rev LIMIT ?",
        space,
        since,
        limit,
    )
    return [JournalRow(*row) for row in found]


def last_commit_at(session: Session, space: SpaceId, time_ns: int) -> tuple[Rev, int] | None:
    """The rev and time of the last commit at or before a time."""
    found = session.row(
        "SELECT rev, time_ns FROM journal WHERE space_id = ? AND time_ns <= ? ORDER BY time_ns DESC LIMIT 1",
        space,
        time_ns,
    )
    return (Rev(found[0]), found[1]) if found else None


def moments_after(session: Session, space: SpaceId, folder: NodeId, since: Rev, limit: int) -> list[Row]:
    """(rev, time_ns, user, device) of the oldest commits after a rev that changed the folder or what is below."""
    found = session.rows(
        "SELECT moment.rev, journal.time_ns, journal.user_id, journal.device_id FROM moment"
        " JOIN journal ON journal.space_id = moment.space_id AND journal.rev = moment.rev"
        " WHERE moment.space_id = ? AND moment.folder = ? AND moment.rev > ? ORDER BY moment.rev LIMIT ?",
        space,
        folder,
        since,
        limit,
    )
    return list(found)


def versions_after(session: Session, space: SpaceId, node: NodeId, since: Rev, limit: int) -> list[Row]:
    """(rev, time_ns, user, device) of the oldest commits after a rev that gave the node a state."""
    found = session.rows(
        "SELECT version.rev, journal.time_ns, journal.user_id, journal.device_id FROM version"
        " JOIN journal ON journal.space_id = version.space_id AND journal.rev = version.rev"
        " WHERE version.space_id = ? AND version.node_id = ? AND version.rev > ? AND version.mark < 2"
        " ORDER BY version.rev LIMIT ?",
        space,
        node,
        since,
        limit,
    )
    return list(found)


def moments(session: Session, space: SpaceId, folder: NodeId, last: int, limit: int) -> Iterator[Row]:
    """(rev, time_ns, user, device) of the newest commits up to rev `last` that changed the folder or what is below."""
    return session.rows(
        "SELECT moment.rev, journal.time_ns, journal.user_id, journal.device_id FROM moment"
        " JOIN journal ON journal.space_id = moment.space_id AND journal.rev = moment.rev"
        " WHERE moment.space_id = ? AND moment.folder = ? AND moment.rev <= ? ORDER BY moment.rev DESC LIMIT ?",
        space,
        folder,
        last,
        limit,
    )


_REMOVED: Final = "(removed)"
_EMPTIED: Final = (
    # Each from the first on: a statement on a large table says which part of it is meant, and all of it is.
    (
        "SELECT space_id, rev, ordinal FROM version WHERE space_id = ? AND rev >= ? ORDER BY rev, ordinal LIMIT ?",
        "DELETE FROM version WHERE space_id = ? AND rev = ? AND ordinal = ?",
        0,
    ),
    (
        "SELECT space_id, parent, until_rev, name FROM name WHERE space_id = ? AND parent >= ? ORDER BY parent LIMIT ?",
        "DELETE FROM name WHERE space_id = ? AND parent = ? AND until_rev = ? AND name = ?",
        0,
    ),
    (
        "SELECT space_id, node_id FROM node WHERE space_id = ? AND node_id >= ? ORDER BY node_id LIMIT ?",
        "DELETE FROM node WHERE space_id = ? AND node_id = ?",
        0,
    ),
    (
        "SELECT space_id, folder, rev FROM moment WHERE space_id = ? AND folder >= ? ORDER BY folder, rev LIMIT ?",
        "DELETE FROM moment WHERE space_id = ? AND folder = ? AND rev = ?",
        0,
    ),
    (
        "SELECT space_id, op_id FROM op_seen WHERE space_id = ? AND op_id >= ? ORDER BY op_id LIMIT ?",
        "DELETE FROM op_seen WHERE space_id = ? AND op_id = ?",
        b"",
    ),
)


def empty_some(session: Session, space: SpaceId, count: int) -> bool:
    """Forgets so many rows of a space that nobody has any more (`remove_space`); False when there are none left.

    What its files need of chunks and manifests, a collection removes. The journal stays, which says when there was a
    commit, and by whom; nothing says of what.
    """
    found = session.row("SELECT name FROM space WHERE space_id = ?", space)
    if found is None or found[0] != _REMOVED or members(session, space):
        return False
    for look, forget, first in _EMPTIED:
        rows = list(session.rows(look, space, first, count))
        if rows:
            session.run_many(forget, rows)
            return True
    return False


def remove_space(session: Session, space: SpaceId) -> None:
    """Nobody has the space any more; all that was in it is to be forgotten, by `empty_some`."""
    session.run("DELETE FROM member WHERE space_id = ?", space)
    session.run("DELETE FROM conflict WHERE space_id = ?", space)
    session.run("DELETE FROM removed WHERE space_id = ?", space)
    session.run("DELETE FROM kept WHERE space_id = ?", space)
    session.run("DELETE FROM holding WHERE space_id = ?", space)
    session.run("DELETE FROM event WHERE space_id = ?", space)
    session.run("DELETE FROM burst WHERE space_id = ?", space)
    session.run("DELETE FROM refused WHERE space_id = ?", space)
    session.run("DELETE FROM job_trouble WHERE space_id = ?", space)
    session.run("UPDATE space SET name = ?, used = 0, quota = 0 WHERE space_id = ?", _REMOVED, space)
