"""Statements on events, and on what leads to them (keyed by space)."""

from dataclasses import dataclass

from remote.protocol.ids import NOWHERE, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.server.database.connection import Row, Session


@dataclass(frozen=True)
class EventRow:
    """One event as stored; `examples` are encoded."""

    event: int
    kind: str
    state: str
    user: UserId
    device: DeviceId
    began_ns: int
    ended_ns: int
    from_rev: Rev
    to_rev: Rev
    removed: int
    overwritten: int
    until_ns: int = 0
    node: NodeId = NOWHERE
    detail: str = ""
    examples: bytes = b""


@dataclass(frozen=True)
class BurstRow:
    """What a device removed and overwrote of late, in two halves of the window; `event`: what became of it."""

    began_ns: int
    first_rev: Rev
    removed: int
    overwritten: int
    earlier_rev: Rev
    earlier_removed: int
    earlier_overwritten: int
    event: int = 0


def guard_row(session: Session, space: SpaceId) -> Row | None:
    """(mode, count, window_seconds, settled_seconds) where somebody has set it."""
    return session.row(
        "SELECT mode, most, window_seconds, settled_seconds FROM guard WHERE space_id = ?",
        space,
    )


def set_guard(
    session: Session, space: SpaceId, mode: str, count: int, window_seconds: int, settled_seconds: int
) -> None:
    """Sets the guard of a space."""
    session.run(
        "INSERT INTO guard (space_id, mode, most, window_seconds, settled_seconds) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id) DO UPDATE SET mode = excluded.mode, most = excluded.most,"
        " window_seconds = excluded.window_seconds, settled_seconds = excluded.settled_seconds",
        space,
        mode,
        count,
        window_seconds,
        settled_seconds,
    )


def burst(session: Session, space: SpaceId, user: UserId, device: DeviceId) -> BurstRow | None:
    """What the device lost of the space of late."""
    found = session.row(
        "SELECT began_ns, first_rev, removed, overwritten, earlier_rev, earlier_removed, earlier_overwritten, event_id"
        " FROM burst WHERE space_id = ? AND user_id = ? AND device_id = ?",
        space,
        user,
        device,
    )
    return BurstRow(*found) if found else None


def put_burst(session: Session, space: SpaceId, user: UserId, device: DeviceId, row: BurstRow) -> None:
    """Notes what the device lost of the space of late."""
    session.run(
        "INSERT INTO burst (space_id, user_id, device_id, began_ns, first_rev, removed, overwritten, earlier_rev,"
        " earlier_removed, earlier_overwritten, event_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id, user_id, device_id) DO UPDATE SET began_ns = excluded.began_ns,"
        " first_rev = excluded.first_rev, removed = excluded.removed, overwritten = excluded.overwritten,"
        " earlier_rev = excluded.earlier_rev, earlier_removed = excluded.earlier_removed,"
        " earlier_overwritten = excluded.earlier_overwritten, event_id = excluded.event_id",
        space,
        user,
        device,
        row.began_ns,
        row.first_rev,
        row.removed,
        row.overwritten,
        row.earlier_rev,
        row.earlier_removed,
        row.earlier_overwritten,
        row.event,
    )


def drop_burst(session: Session, space: SpaceId, user: UserId, device: DeviceId) -> None:
    """What the device did until now counts no more."""
    session.run("DELETE FROM burst WHERE space_id = ? AND user_id = ? AND device_id = ?", space, user, device)


def next_event(session: Session, space: SpaceId) -> int:
    """The number of the space's next event."""
    found = session.row("SELECT max(event_id) FROM event WHERE space_id = ?", space)
    return int(found[0] or 0) + 1 if found else 1


def put_event(session: Session, space: SpaceId, row: EventRow) -> None:
    """Writes an event, in place of what it was."""
    session.run(
        "INSERT INTO event (space_id, event_id, kind, state, user_id, device_id, began_ns, ended_ns, from_rev, to_rev,"
        " removed, overwritten, until_ns, node_id, detail, examples)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id, event_id) DO UPDATE SET state = excluded.state, ended_ns = excluded.ended_ns,"
        " from_rev = excluded.from_rev, to_rev = excluded.to_rev, removed = excluded.removed,"
        " overwritten = excluded.overwritten, until_ns = excluded.until_ns, examples = excluded.examples",
        space,
        row.event,
        row.kind,
        row.state,
        row.user,
        row.device,
        row.began_ns,
        row.ended_ns,
        row.from_rev,
        row.to_rev,
        row.removed,
        row.overwritten,
        row.until_ns,
        row.node,
        row.detail,
        row.examples,
    )


def event(session: Session, space: SpaceId, number: int) -> EventRow | None:
    """An event."""
    found = session.row(
        "SELECT event_id, kind, state, user_id, device_id, began_ns, ended_ns, from_rev, to_rev, removed, overwritten,"
        " until_ns, node_id, detail, examples FROM event WHERE space_id = ? AND event_id = ?",
        space,
        number,
    )
    return EventRow(*found) if found else None


def events(session: Session, space: SpaceId, before: int, limit: int) -> list[EventRow]:
    """Events with a smaller number, the newest first."""
    found = session.rows(
        "SELECT event_id, kind, state, user_id, device_id, began_ns, ended_ns, from_rev, to_rev, removed, overwritten,"
        " until_ns, node_id, detail, examples FROM event WHERE space_id = ? AND event_id < ?"
        " ORDER BY event_id DESC LIMIT ?",
        space,
        before,
        limit,
    )
    return [EventRow(*row) for row in found]


def told_of(session: Session, space: SpaceId, node: NodeId, kind: str, detail: str) -> EventRow | None:
    """The newest event of this kind and detail that waits for a person and is about this node."""
    found = session.row(
        "SELECT event_id, kind, state, user_id, device_id, began_ns, ended_ns, from_rev, to_rev, removed, overwritten,"
        " until_ns, node_id, detail, examples FROM event WHERE space_id = ? AND node_id = ? AND kind = ?"
        " AND detail = ? AND state = 'told' ORDER BY event_id DESC LIMIT 1",
        space,
        node,
        kind,
        detail,
    )
    return EventRow(*found) if found else None


def drop_events(session: Session, space: SpaceId, before: int) -> None:
    """Forgets events with a smaller number."""
    session.run("DELETE FROM event WHERE space_id = ? AND event_id < ?", space, before)


def open_events(session: Session, space: SpaceId, limit: int) -> int:
    """How many events wait for a person, at most `limit`."""
    found = session.row(
        "SELECT count(*) FROM (SELECT 1 FROM event WHERE space_id = ? AND state IN ('told', 'held') LIMIT ?) AS found",
        space,
        limit,
    )
    return int(found[0]) if found else 0


def commits_of(session: Session, space: SpaceId, row: EventRow, limit: int) -> list[Rev]:
    """The commits of an event's device, from its first to its last."""
    found = session.rows(
        "SELECT rev FROM journal WHERE space_id = ? AND rev >= ? AND rev <= ? AND user_id = ? AND device_id = ?"
        " ORDER BY rev LIMIT ?",
        space,
        row.from_rev,
        row.to_rev,
        row.user,
        row.device,
        limit,
    )
    return [Rev(row[0]) for row in found]


def revs_of_node(session: Session, space: SpaceId, node: NodeId, first: Rev, last: Rev) -> list[Rev]:
    """The revs that changed a node, from one rev to another, newest first."""
    found = session.rows(
        "SELECT rev FROM version WHERE space_id = ? AND node_id = ? AND rev >= ? AND rev <= ? AND mark < 2"
        " ORDER BY rev DESC",
        space,
        node,
        first,
        last,
    )
    return [Rev(row[0]) for row in found]


def had_content(session: Session, space: SpaceId, node: NodeId, content_id: bytes) -> bool:
    """Whether this was the content of the node once."""
    found = session.row(
        "SELECT 1 FROM version WHERE space_id = ? AND node_id = ? AND rev >= 0 AND content_id = ? LIMIT 1",
        space,
        node,
        content_id,
    )
    return found is not None
