"""Statements on chunks that are given out no more (keyed by space): of content in which a virus was found."""

from collections.abc import Iterable, Iterator

from remote.protocol.ids import ChunkId, NodeId, SpaceId
from remote.server.database.connection import Row, Session


def refuse(session: Session, space: SpaceId, chunks: Iterable[ChunkId], virus: str, event: int) -> None:
    """These are given to nobody of the space from now on."""
    session.run_many(
        "INSERT INTO refused (space_id, chunk_id, virus, event_id, is_allowed) VALUES (?, ?, ?, ?, 0)"
        " ON CONFLICT (space_id, chunk_id) DO NOTHING",
        [(space, chunk, virus, event) for chunk in chunks],
    )


def is_known(session: Session, space: SpaceId, chunk: ChunkId) -> bool:
    """Whether the chunk is refused, or was and is allowed."""
    sql = "SELECT 1 FROM refused WHERE space_id = ? AND chunk_id = ?"
    return session.row(sql, space, chunk) is not None


def has_any(session: Session, space: SpaceId) -> bool:
    """Whether anything of the space is refused, or was and is allowed."""
    return session.row("SELECT 1 FROM refused WHERE space_id = ? LIMIT 1", space) is not None


def refused(session: Session, space: SpaceId, chunk: ChunkId) -> tuple[int, str] | None:
    """(event, virus) of a chunk that is refused."""
    sql = "SELECT event_id, virus FROM refused WHERE space_id = ? AND chunk_id = ? AND is_allowed = 0"
    found = session.row(sql, space, chunk)
    return (found[0], found[1]) if found else None


def allow(session: Session, space: SpaceId, event: int) -> list[ChunkId]:
    """Gives out again what was refused because of an event, for ever; which chunks these are."""
    session.run("UPDATE refused SET is_allowed = 1 WHERE space_id = ? AND event_id = ?", space, event)
    found = session.rows("SELECT chunk_id FROM refused WHERE space_id = ? AND event_id = ?", space, event)
    return [ChunkId(row[0]) for row in found]


def every_refused(session: Session) -> Iterator[Row]:
    """(space, chunk, virus) of all that is refused."""
    return session.rows("SELECT space_id, chunk_id, virus FROM refused WHERE is_allowed = 0 /* every shard */")


def replace_manifest(session: Session, space: SpaceId, content_id: bytes, sealed: bytes) -> None:
    """Stores a manifest in another form; it is of the same content."""
    session.run("UPDATE manifest SET body = ? WHERE space_id = ? AND content_id = ?", sealed, space, content_id)


def nodes_with(session: Session, space: SpaceId, content_id: bytes, limit: int) -> list[NodeId]:
    """Nodes that have this content now."""
    found = session.rows(
        "SELECT DISTINCT node.node_id FROM version JOIN node ON node.space_id = version.space_id"
        " AND node.node_id = version.node_id AND node.content_id = version.content_id"
        " WHERE version.space_id = ? AND version.content_id = ? LIMIT ?",
        space,
        content_id,
        limit,
    )
    return [NodeId(row[0]) for row in found]
