"""Statements on the audit log (keyed by the user whom it concerns): added to, read, and let go of by age alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from remote.protocol.ids import DeviceId, UserId
from remote.server.database.connection import Row, Session


@dataclass(frozen=True)
class AuditRow:
    """One thing that was done. `user`: whom it concerns, 0 for a name that nobody has; `by_user` 0: no user."""

    user: UserId
    time_ns: int
    note: int
    by_user: UserId
    device: DeviceId
    address: str
    what: str
    about: str
    is_good: bool


def add_note(session: Session, row: AuditRow) -> None:
    """Writes it down."""
    session.run(
        "INSERT INTO audit (user_id, time_ns, note_id, by_user, device_id, address, what, about, is_good)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row.user,
        row.time_ns,
        row.note,
        row.by_user,
        row.device,
        row.address,
        row.what,
        row.about,
        int(row.is_good),
    )


def notes(session: Session, user: UserId, since_ns: int, before_ns: int, limit: int) -> Iterator[AuditRow]:
    """What concerns a user from a time on and before another, the newest first."""
    found = session.rows(
        "SELECT user_id, time_ns, note_id, by_user, device_id, address, what, about, is_good FROM audit"
        " WHERE user_id = ? AND time_ns >= ? AND time_ns < ? ORDER BY time_ns DESC, note_id DESC LIMIT ?",
        user,
        since_ns,
        before_ns,
        limit,
    )
    return map(_row, found)


def all_notes(session: Session, since_ns: int) -> Iterator[AuditRow]:
    """What concerns anybody from a time on, the oldest first; for whoever runs the server."""
    found = session.rows(
        "SELECT user_id, time_ns, note_id, by_user, device_id, address, what, about, is_good FROM audit"
        " /* every shard */ WHERE time_ns >= ? ORDER BY time_ns, note_id",
        since_ns,
    )
    return map(_row, found)


def users_with_notes(session: Session, after: UserId, limit: int) -> list[UserId]:
    """Whom notes concern, by number, behind this one."""
    found = session.rows("SELECT DISTINCT user_id FROM audit WHERE user_id > ? ORDER BY user_id LIMIT ?", after, limit)
    return [UserId(row[0]) for row in found]


def end_notes(session: Session, user: UserId, before_ns: int, limit: int) -> int:
    """Lets go of the oldest notes before a time, some `limit` of them; how many these were."""
    found = session.row(
        "SELECT time_ns FROM audit WHERE user_id = ? AND time_ns < ? ORDER BY time_ns LIMIT 1 OFFSET ?",
        user,
        before_ns,
        limit,
    )
    until_ns = before_ns if found is None else found[0] + 1
    return session.run("DELETE FROM audit WHERE user_id = ? AND time_ns < ?", user, until_ns)


def _row(found: Row) -> AuditRow:
    user, time_ns, note, by_user, device, address, what, about, is_good = found
    return AuditRow(UserId(user), time_ns, note, UserId(by_user), DeviceId(device), address, what, about, bool(is_good))
