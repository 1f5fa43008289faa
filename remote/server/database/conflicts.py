"""Statements on conflicts that nobody has settled (keyed by space): which version of which node lost."""

from collections.abc import Iterable, Iterator

from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.server.database.connection import Row, Session


def add_conflicts(session: Session, space: SpaceId, lost: Iterable[tuple[NodeId, Rev]]) -> None:
    """These versions have lost against others."""
    session.run_many(
        "INSERT INTO conflict (space_id, node_id, rev) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(space, node, rev) for node, rev in lost],
    )


def end_conflicts(session: Session, space: SpaceId, settled: Iterable[tuple[NodeId, Rev]]) -> None:
    """These are settled; what is no open conflict is passed over."""
    session.run_many(
        "DELETE FROM conflict WHERE space_id = ? AND node_id = ? AND rev = ?",
        [(space, node, rev) for node, rev in settled],
    )


def conflicts_after(session: Session, space: SpaceId, node: NodeId, rev: Rev, limit: int) -> Iterator[Row]:
    """(node, rev, edited_ns, state, manifest, mark, time_ns, user, device) of versions that lost, by node and rev."""
    return session.rows(
        "SELECT conflict.node_id, version.rev, version.edited_ns, version.state, manifest.body, version.mark,"
        " journal.time_ns, journal.user_id, journal.device_id FROM conflict"
        " JOIN node ON node.space_id = conflict.space_id AND node.node_id = conflict.node_id"
        " JOIN version ON version.space_id = conflict.space_id AND version.node_id = conflict.node_id"
        " AND version.rev = conflict.rev AND version.mark > 0"
        " JOIN journal ON journal.space_id = conflict.space_id AND journal.rev = conflict.rev"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " WHERE conflict.space_id = ? AND (conflict.node_id, conflict.rev) > (?, ?) AND node.state IS NOT NULL"
        " ORDER BY conflict.node_id, conflict.rev LIMIT ?",
        space,
        node,
        rev,
        limit,
    )


def current(session: Session, space: SpaceId, node: NodeId) -> Row:
    """(rev, edited_ns, state, manifest, mark, time_ns, user, device) of a node as it is now."""
    found = session.row(
        "SELECT node.rev, node.edited_ns, node.state, manifest.body, 0,"
        " journal.time_ns, journal.user_id, journal.device_id FROM node"
        " JOIN journal ON journal.space_id = node.space_id AND journal.rev = node.rev"
        " LEFT JOIN manifest ON manifest.space_id = node.space_id AND manifest.content_id = node.content_id"
        " WHERE node.space_id = ? AND node.node_id = ?",
        space,
        node,
    )
    assert found is not None, "a conflict is of a node that exists"
    return found


def lost_version(session: Session, space: SpaceId, node: NodeId, rev: Rev) -> tuple[bytes, bytes | None] | None:
    """The state, and the id of the content, of a version that lost a merge nobody has settled."""
    found = session.row(
        "SELECT version.state, version.content_id FROM conflict"
        " JOIN version ON version.space_id = conflict.space_id AND version.node_id = conflict.node_id"
        " AND version.rev = conflict.rev AND version.mark > 0"
        " WHERE conflict.space_id = ? AND conflict.node_id = ? AND conflict.rev = ? AND version.state IS NOT NULL",
        space,
        node,
        rev,
    )
    return (bytes(found[0]), found[1] if found[1] is None else bytes(found[1])) if found else None
