"""Statements on chunks (keyed by chunk) and on which chunks a space may read (keyed by space)."""

from collections.abc import Iterable
from dataclasses import dataclass

from remote.protocol.ids import ChunkId, SpaceId
from remote.server.database.connection import Session


@dataclass(frozen=True)
class Place:
    """Where a stored chunk lies: at `offset` of a pack, or (`pack` None) as an object of its own."""

    id: ChunkId
    size: int
    pack: bytes | None
    offset: int = 0


def place(session: Session, chunk: ChunkId) -> Place | None:
    """Where the chunk lies, or None when it is not stored."""
    found = session.row("SELECT size, pack, pack_offset FROM chunk WHERE chunk_id = ?", chunk)
    return Place(chunk, found[0], found[1], found[2]) if found else None


def add_places(session: Session, places: Iterable[Place]) -> None:
    """Notes where chunks lie; a chunk that is noted already keeps its place."""
    session.run_many(
        "INSERT INTO chunk (chunk_id, size, pack, pack_offset) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(place.id, place.size, place.pack, place.offset) for place in places],
    )


def may_read(session: Session, space: SpaceId, chunk: ChunkId) -> bool:
    """Whether members of the space may read the chunk."""
    sql = "SELECT 1 FROM chunk_reference WHERE space_id = ? AND chunk_id = ?"
    return session.row(sql, space, chunk) is not None


def add_references(session: Session, space: SpaceId, chunks: Iterable[ChunkId]) -> None:
    """Lets members of the space read these chunks."""
    session.run_many(
        "INSERT INTO chunk_reference (space_id, chunk_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(space, chunk) for chunk in chunks],
    )


def not_readable(session: Session, space: SpaceId, chunks: Iterable[ChunkId]) -> list[ChunkId]:
    """Those of these chunks that members of the space may not read, stored or not."""
    return [chunk for chunk in chunks if not may_read(session, space, chunk)]
