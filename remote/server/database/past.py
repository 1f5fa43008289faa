"""Statements on the past (keyed by space): what changed between revs, what is removed, what is forgotten."""

from collections.abc import Iterable
from dataclasses import dataclass

from remote.protocol.ids import DeviceId, NodeId, Rev, SpaceId, UserId
from remote.server.database.connection import Row, Session
from remote.server.database.schema import NEVER


@dataclass(frozen=True)
class Then:
    """A node as of a rev: `state` without its content (None: removed), and where its content stands."""

    rev: Rev
    edited_ns: int
    state: bytes | None
    content_id: bytes | None
    is_forgotten: bool = False


def changed_between(session: Session, space: SpaceId, since: Rev, to: Rev, limit: int) -> list[NodeId]:
    """Nodes that got a state with since < rev <= to."""
    found = session.rows(
        "SELECT DISTINCT node_id FROM version WHERE space_id = ? AND rev > ? AND rev <= ? AND mark < 2 LIMIT ?",
        space,
        since,
        to,
        limit,
    )
    return [NodeId(row[0]) for row in found]


def changed_by(session: Session, space: SpaceId, rev: Rev) -> list[NodeId]:
    """Nodes that got a state by this commit."""
    sql = "SELECT node_id FROM version WHERE space_id = ? AND rev = ? AND mark < 2 ORDER BY ordinal"
    return [NodeId(row[0]) for row in session.rows(sql, space, rev)]


def then(session: Session, space: SpaceId, node: NodeId, rev: Rev) -> Then | None:
    """The node as of a rev; None before it was made."""
    found = session.row(
        "SELECT rev, edited_ns, state, content_id, overrides < 0 FROM version"
        " WHERE space_id = ? AND node_id = ? AND rev <= ? AND mark < 2 ORDER BY rev DESC LIMIT 1",
        space,
        node,
        rev,
    )
    return Then(found[0], found[1], found[2], found[3], bool(found[4])) if found else None


def contents_after(session: Session, space: SpaceId, node: NodeId, rev: Rev, limit: int) -> list[bytes]:
    """What the next versions of a file contain."""
    found = session.rows(
        "SELECT content_id FROM version WHERE space_id = ? AND node_id = ? AND rev > ? AND mark < 2"
        " AND content_id IS NOT NULL ORDER BY rev LIMIT ?",
        space,
        node,
        rev,
        limit,
    )
    return [row[0] for row in found]


def manifest(session: Session, space: SpaceId, content_id: bytes) -> bytes | None:
    """A sealed manifest."""
    found = session.row("SELECT body FROM manifest WHERE space_id = ? AND content_id = ?", space, content_id)
    return bytes(found[0]) if found else None


def last_commit_of(
    session: Session, space: SpaceId, user: UserId, device: DeviceId, tag: bytes, before: Rev
) -> tuple[Rev, DeviceId] | None:
    """The newest commit before a rev of the device, or of the server (device 0) with an op id of this `tag`."""
    found = session.row(
        "SELECT rev, device_id FROM journal WHERE space_id = ? AND rev > 0 AND rev < ? AND user_id = ?"
        " AND (device_id = ? OR (device_id = 0 AND substr(op_id, 1, 8) = ?)) ORDER BY rev DESC LIMIT 1",
        space,
        before,
        user,
        device,
        tag,
    )
    return (Rev(found[0]), DeviceId(found[1])) if found else None


def op_id(session: Session, space: SpaceId, rev: Rev) -> bytes:
    """The op id of a commit; empty for one that there is not."""
    found = session.row("SELECT op_id FROM journal WHERE space_id = ? AND rev = ?", space, rev)
    return bytes(found[0]) if found else b""


def commit_row(session: Session, space: SpaceId, rev: Rev) -> Row | None:
    """(time_ns, user, device) of a commit."""
    return session.row("SELECT time_ns, user_id, device_id FROM journal WHERE space_id = ? AND rev = ?", space, rev)


def removed_before(session: Session, space: SpaceId, before: int, limit: int) -> list[tuple[NodeId, Rev]]:
    """Nodes that are removed, by the rev that did it, newest first."""
    found = session.rows(
        "SELECT node_id, rev FROM removed WHERE space_id = ? AND rev < ? ORDER BY rev DESC, node_id LIMIT ?",
        space,
        before,
        limit,
    )
    return [(NodeId(row[0]), Rev(row[1])) for row in found]


def removed_by(session: Session, space: SpaceId, rev: Rev) -> list[NodeId]:
    """Nodes that a rev removed, and that are removed still."""
    sql = "SELECT node_id FROM removed WHERE space_id = ? AND rev = ?"
    return [NodeId(row[0]) for row in session.rows(sql, space, rev)]


def names_ended_in(session: Session, space: SpaceId, folder: NodeId, first: Rev) -> list[tuple[NodeId, Rev]]:
    """(node, rev) of names in a folder that ended with rev `first` or later."""
    found = session.rows(
        "SELECT node_id, until_rev FROM name WHERE space_id = ? AND parent = ? AND until_rev >= ?", space, folder, first
    )
    return [(NodeId(row[0]), Rev(row[1])) for row in found]


def last_holder(session: Session, space: SpaceId, folder: NodeId, name: bytes) -> NodeId | None:
    """Who had the name last, of those who have it no more."""
    found = session.row(
        "SELECT node_id FROM name WHERE space_id = ? AND parent = ? AND until_rev < ? AND name = ?"
        " ORDER BY until_rev DESC LIMIT 1",
        space,
        folder,
        NEVER,
        name,
    )
    return NodeId(found[0]) if found else None


def note_removed(session: Session, space: SpaceId, nodes: Iterable[NodeId], rev: Rev) -> None:
    """These nodes are removed from this rev on."""
    session.run_many(
        "INSERT INTO removed (space_id, rev, node_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(space, rev, node) for node in nodes],
    )


def forget_removed(session: Session, space: SpaceId, removed: Iterable[tuple[NodeId, Rev]]) -> None:
    """These nodes exist again, or nothing is known of them any more."""
    session.run_many(
        "DELETE FROM removed WHERE space_id = ? AND rev = ? AND node_id = ?",
        [(space, rev, node) for node, rev in removed],
    )
