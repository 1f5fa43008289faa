"""Statements on nodes, names, versions and manifests (keyed by space): the present, and every rev before it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.server.database.connection import Row, Session
from remote.server.database.schema import NEVER

WAS_STATE = 0
WAS_STATE_AND_LOST = 1
LOST = 2
"""Marks of a version: it was the node's state; it was, and lost a merge later; it lost and never was."""

NameRow = tuple[NodeId, bytes, NodeId]
"""parent, name, node"""


@dataclass(frozen=True)
class NodeRow:
    """A node as it is now; `state` is encoded without its content, None when the node is removed."""

    node: NodeId
    rev: Rev
    edited_ns: int
    kind: int
    parent: NodeId
    size: int
    state: bytes | None
    content_id: bytes | None


@dataclass(frozen=True)
class VersionRow:
    """A version to write."""

    node: NodeId
    edited_ns: int
    state: bytes | None
    content_id: bytes | None
    mark: int
    overrides: Rev
    past_bytes: int = 0


@dataclass(frozen=True)
class Stored:
    """A node's state as read: `state` without its content, `manifest` sealed."""

    node: NodeId
    rev: Rev
    edited_ns: int
    state: bytes | None
    manifest: bytes | None


def node_row(session: Session, space: SpaceId, node: NodeId) -> NodeRow | None:
    """The node as it is now, also when it is removed; None when it never was."""
    found = session.row(
        "SELECT rev, edited_ns, kind, parent, size, state, content_id FROM node WHERE space_id = ? AND node_id = ?",
        space,
        node,
    )
    return NodeRow(node, *found) if found else None


def stored_now(session: Session, space: SpaceId, node: NodeId) -> Stored | None:
    """The node's present state with its manifest."""
    found = session.row(
        "SELECT node.rev, node.edited_ns, node.state, manifest.body FROM node"
        " LEFT JOIN manifest ON manifest.space_id = node.space_id AND manifest.content_id = node.content_id"
        " WHERE node.space_id = ? AND node.node_id = ?",
        space,
        node,
    )
    return Stored(node, *found) if found else None


def stored_as_of(session: Session, space: SpaceId, node: NodeId, rev: Rev) -> Stored | None:
    """The node's state as of a rev; None when it was not made yet."""
    found = session.row(
        "SELECT version.rev, version.edited_ns, version.state, manifest.body FROM version"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " WHERE version.space_id = ? AND version.node_id = ? AND version.rev <= ? AND version.mark < 2"
        " ORDER BY version.rev DESC LIMIT 1",
        space,
        node,
        rev,
    )
    return Stored(node, *found) if found else None


def last_state(session: Session, space: SpaceId, node: NodeId) -> bytes | None:
    """The encoded state of the node as it is, or was when it was last there."""
    found = session.row(
        "SELECT state FROM version WHERE space_id = ? AND node_id = ? AND state IS NOT NULL AND mark < 2"
        " ORDER BY rev DESC LIMIT 1",
        space,
        node,
    )
    return bytes(found[0]) if found else None


def holder(session: Session, space: SpaceId, parent: NodeId, name: bytes) -> NodeId | None:
    """The node that has this name now."""
    found = session.row(
        "SELECT node_id FROM name WHERE space_id = ? AND parent = ? AND until_rev = ? AND name = ?",
        space,
        parent,
        NEVER,
        name,
    )
    return NodeId(found[0]) if found else None


def child_ids(session: Session, space: SpaceId, folder: NodeId, limit: int) -> list[NodeId]:
    """The first children that the folder has now."""
    found = session.rows(
        "SELECT node_id FROM name WHERE space_id = ? AND parent = ? AND until_rev = ? ORDER BY name LIMIT ?",
        space,
        folder,
        NEVER,
        limit,
    )
    return [NodeId(row[0]) for row in found]


def holder_as_of(session: Session, space: SpaceId, parent: NodeId, name: bytes, rev: Rev) -> NodeId | None:
    """The node that had this name as of a rev."""
    found = session.row(
        "SELECT node_id FROM name WHERE space_id = ? AND parent = ? AND until_rev > ? AND from_rev <= ? AND name = ?",
        space,
        parent,
        rev,
        rev,
        name,
    )
    return NodeId(found[0]) if found else None


def names_in(session: Session, space: SpaceId, folder: NodeId) -> Iterator[Row]:
    """(name, node) of all that the folder has now, by name."""
    return session.rows(
        "SELECT name, node_id FROM name WHERE space_id = ? AND parent = ? AND until_rev = ? ORDER BY name",
        space,
        folder,
        NEVER,
    )


def names_in_as_of(session: Session, space: SpaceId, folder: NodeId, rev: Rev) -> Iterator[Row]:
    """The same as of a rev."""
    return session.rows(
        "SELECT name, node_id FROM name WHERE space_id = ? AND parent = ? AND until_rev > ? AND from_rev <= ?"
        " ORDER BY name",
        space,
        folder,
        rev,
        rev,
    )


def children_now(session: Session, space: SpaceId, folder: NodeId, after: bytes, limit: int) -> Iterator[Row]:
    """(name, node, rev, edited_ns, state, manifest) of the folder's children, in order of their names."""
    return session.rows(
        "SELECT name.name, node.node_id, node.rev, node.edited_ns, node.state, manifest.body FROM name"
        " JOIN node ON node.space_id = name.space_id AND node.node_id = name.node_id"
        " LEFT JOIN manifest ON manifest.space_id = node.space_id AND manifest.content_id = node.content_id"
        " WHERE name.space_id = ? AND name.parent = ? AND name.until_rev = ? AND name.name > ?"
        " ORDER BY name.name LIMIT ?",
        space,
        folder,
        NEVER,
        after,
        limit,
    )


def rows_in(
    session: Session, space: SpaceId, folder: NodeId, after: bytes, limit: int
) -> list[tuple[bytes, NodeRow, bytes | None]]:
    """Name, node and sealed manifest of the folder's children, in order of their names behind `after`."""
    found = session.rows(
        "SELECT name.name, node.node_id, node.rev, node.edited_ns, node.kind, node.parent, node.size, node.state,"
        " node.content_id, manifest.body FROM name"
        " JOIN node ON node.space_id = name.space_id AND node.node_id = name.node_id"
        " LEFT JOIN manifest ON manifest.space_id = node.space_id AND manifest.content_id = node.content_id"
        " WHERE name.space_id = ? AND name.parent = ? AND name.until_rev = ? AND name.name > ?"
        " ORDER BY name.name LIMIT ?",
        space,
        folder,
        NEVER,
        after,
        limit,
    )
    return [(row[0], NodeRow(*row[1:9]), row[9]) for row in found]


def children_as_of(
    session: Session, space: SpaceId, folder: NodeId, rev: Rev, after: bytes, limit: int
) -> Iterator[Row]:
    """The same as of a rev."""
    # The names are chosen first, so that only as many states are looked up as are answered.
    return session.rows(
        "SELECT found.name, version.node_id, version.rev, version.edited_ns, version.state, manifest.body FROM"
        " (SELECT name.name, name.node_id FROM name WHERE name.space_id = ? AND name.parent = ? AND name.until_rev > ?"
        " AND name.from_rev <= ? AND name.name > ? ORDER BY name.name LIMIT ?) AS found"
        " JOIN version ON version.space_id = ? AND version.node_id = found.node_id AND version.mark < 2"
        " AND version.rev = (SELECT max(older.rev) FROM version AS older WHERE older.space_id = ?"
        " AND older.node_id = found.node_id AND older.rev <= ? AND older.mark < 2)"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " ORDER BY found.name",
        space,
        folder,
        rev,
        rev,
        after,
        limit,
        space,
        space,
        rev,
    )


def changes_between(session: Session, space: SpaceId, since: Rev, until: Rev) -> Iterator[Row]:
    """(rev, node, edited_ns, state, manifest) of the states that commits since < rev <= until gave, in order."""
    return session.rows(
        "SELECT version.rev, version.node_id, version.edited_ns, version.state, manifest.body FROM version"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " WHERE version.space_id = ? AND version.rev > ? AND version.rev <= ? AND version.mark < 2"
        " ORDER BY version.rev, version.ordinal",
        space,
        since,
        until,
    )


def versions_before(session: Session, space: SpaceId, node: NodeId, before: Rev, limit: int) -> Iterator[Row]:
    """(rev, edited_ns, state, manifest, mark, time_ns, user, device) of the node's versions, newest first."""
    return session.rows(
        "SELECT version.rev, version.edited_ns, version.state, manifest.body, version.mark,"
        " journal.time_ns, journal.user_id, journal.device_id FROM version"
        " JOIN journal ON journal.space_id = version.space_id AND journal.rev = version.rev"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " WHERE version.space_id = ? AND version.node_id = ? AND version.rev < ? AND version.overrides >= 0"
        " ORDER BY version.rev DESC, version.ordinal DESC LIMIT ?",
        space,
        node,
        before,
        limit,
    )


def has_version(session: Session, space: SpaceId, node: NodeId, rev: Rev) -> bool:
    """Whether this rev made a version of the node."""
    sql = "SELECT 1 FROM version WHERE space_id = ? AND node_id = ? AND rev = ?"
    return session.row(sql, space, node, rev) is not None


def put_nodes(session: Session, space: SpaceId, rows: Iterable[NodeRow]) -> None:
    """Writes nodes as they are from now on."""
    session.run_many(
        "INSERT INTO node (space_id, node_id, rev, edited_ns, kind, parent, size, state, content_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (space_id, node_id) DO UPDATE SET rev = excluded.rev,"
        " edited_ns = excluded.edited_ns, parent = excluded.parent, size = excluded.size, state = excluded.state,"
        " content_id = excluded.content_id",
        [
            (space, row.node, row.rev, row.edited_ns, row.kind, row.parent, row.size, row.state, row.content_id)
            for row in rows
        ],
    )


def end_names(session: Session, space: SpaceId, names: Iterable[NameRow], rev: Rev) -> None:
    """These names lead nowhere from this rev on."""
    session.run_many(
        "UPDATE name SET until_rev = ? WHERE space_id = ? AND parent = ? AND until_rev = ? AND name = ?",
        [(rev, space, parent, NEVER, name) for parent, name, _ in names],
    )


def add_names(session: Session, space: SpaceId, names: Iterable[NameRow], rev: Rev) -> None:
    """These names lead to their nodes from this rev on."""
    session.run_many(
        "INSERT INTO name (space_id, parent, until_rev, name, node_id, from_rev) VALUES (?, ?, ?, ?, ?, ?)",
        [(space, parent, NEVER, name, node, rev) for parent, name, node in names],
    )


def add_versions(session: Session, space: SpaceId, rev: Rev, rows: Iterable[VersionRow], first: int = 0) -> None:
    """Writes what a commit changed, in its order; `first`: how many of its changes were written before."""
    session.run_many(
        "INSERT INTO version (space_id, rev, ordinal, node_id, edited_ns, state, content_id, mark, overrides,"
        " past_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                space,
                rev,
                at,
                row.node,
                row.edited_ns,
                row.state,
                row.content_id,
                row.mark,
                row.overrides,
                row.past_bytes,
            )
            for at, row in enumerate(rows, start=first)
        ],
    )


def counted_before(session: Session, space: SpaceId, node: NodeId, content_id: bytes) -> list[tuple[Rev, int]]:
    """(rev, bytes) of older versions of a node that count, and have this content."""
    found = session.rows(
        "SELECT rev, past_bytes FROM version"
        " WHERE space_id = ? AND node_id = ? AND content_id = ? AND mark < 2 AND past_bytes > 0",
        space,
        node,
        content_id,
    )
    return [(Rev(rev), size) for rev, size in found]


def set_past_bytes(session: Session, space: SpaceId, rows: Iterable[tuple[int, NodeId, Rev]]) -> None:
    """What versions (bytes, node, rev) that were a node's state count for now that they are the past."""
    session.run_many(
        "UPDATE version SET past_bytes = ? WHERE space_id = ? AND node_id = ? AND rev = ? AND mark < 2",
        [(size, space, node, rev) for size, node, rev in rows],
    )


def mark_lost(session: Session, space: SpaceId, lost: Iterable[tuple[NodeId, Rev]]) -> None:
    """Marks versions that were a node's state as the losers of a merge."""
    session.run_many(
        "UPDATE version SET mark = ? WHERE space_id = ? AND node_id = ? AND rev = ? AND mark = ?",
        [(WAS_STATE_AND_LOST, space, node, rev, WAS_STATE) for node, rev in lost],
    )


def add_manifests(session: Session, space: SpaceId, manifests: Iterable[tuple[bytes, bytes]]) -> None:
    """Keeps sealed manifests by their content id; one that is there already stays."""
    session.run_many(
        "INSERT INTO manifest (space_id, content_id, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(space, content_id, body) for content_id, body in manifests],
    )
