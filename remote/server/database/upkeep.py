"""Statements that go through all rows, a range at a time, for whoever collects garbage, scrubs or backs up.

Each binds its shard key to a value or, in a walk, to a range, so that every machine goes through its own rows.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from remote.protocol.ids import ChunkId, NodeId, Rev, SpaceId
from remote.server.database.chunks import Place
from remote.server.database.connection import Session


class StoredChunk(NamedTuple):
    """A chunk with its place; `is_doubted`: some space ceased to name it."""

    place: Place
    is_doubted: bool


class LostChunk(NamedTuple):
    """A chunk that the store lost, and how that was found."""

    id: ChunkId
    size: int
    found_ns: int
    reason: str


class Doomed(NamedTuple):
    """An object to be removed from the store."""

    id: bytes
    is_pack: bool


def spaces_after(session: Session, after: int, limit: int) -> list[SpaceId]:
    """Spaces by id."""
    sql = "SELECT space_id FROM space WHERE space_id > ? ORDER BY space_id LIMIT ?"
    return [SpaceId(row[0]) for row in session.rows(sql, after, limit)]


def versions_after(
    session: Session, space: SpaceId, rev: int, ordinal: int, limit: int
) -> list[tuple[int, int, NodeId, bytes | None]]:
    """(rev, ordinal, node, content id) of versions by rev."""
    return list(
        session.rows(
            "SELECT rev, ordinal, node_id, content_id FROM version WHERE space_id = ? AND (rev, ordinal) > (?, ?)"
            " ORDER BY rev, ordinal LIMIT ?",
            space,
            rev,
            ordinal,
            limit,
        )
    )


def nodes_after(session: Session, space: SpaceId, node: int, limit: int) -> list[tuple[NodeId, bytes | None]]:
    """(node, content id) of nodes as they are now, by id."""
    sql = "SELECT node_id, content_id FROM node WHERE space_id = ? AND node_id > ? ORDER BY node_id LIMIT ?"
    return list(session.rows(sql, space, node, limit))


def contents_since(session: Session, space: SpaceId, rev: Rev) -> set[bytes]:
    """Content ids that commits after a rev name."""
    sql = "SELECT content_id FROM version WHERE space_id = ? AND rev > ?"
    return {row[0] for row in session.rows(sql, space, rev) if row[0] is not None}


def names_content(session: Session, space: SpaceId, rev: int, ordinal: int, content_id: bytes) -> bool:
    """Whether the version is still there and names this content."""
    sql = "SELECT content_id FROM version WHERE space_id = ? AND rev = ? AND ordinal = ?"
    found = session.row(sql, space, rev, ordinal)
    return found is not None and found[0] == content_id


def manifests_after(session: Session, space: SpaceId, content_id: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """(content id, sealed body) of manifests, by content id."""
    sql = "SELECT content_id, body FROM manifest WHERE space_id = ? AND content_id > ? ORDER BY content_id LIMIT ?"
    return list(session.rows(sql, space, content_id, limit))


def remove_manifests(session: Session, space: SpaceId, contents: Iterable[bytes]) -> None:
    """Takes manifests away that nothing names."""
    session.run_many("DELETE FROM manifest WHERE space_id = ? AND content_id = ?", [(space, each) for each in contents])


def references_after(session: Session, space: SpaceId, chunk: bytes, limit: int) -> list[tuple[ChunkId, int]]:
    """(chunk, doubted since) of what the space may read, by chunk."""
    sql = (
        "SELECT chunk_id, doubted_ns FROM chunk_reference WHERE space_id = ? AND chunk_id > ? ORDER BY chunk_id LIMIT ?"
    )
    return list(session.rows(sql, space, chunk, limit))


def doubt(session: Session, space: SpaceId, chunks: Iterable[ChunkId], now_ns: int) -> None:
    """Nothing is known to name these chunks in the space."""
    session.run_many(
        "UPDATE chunk_reference SET doubted_ns = ? WHERE space_id = ? AND chunk_id = ? AND doubted_ns = 0",
        [(now_ns, space, chunk) for chunk in chunks],
    )


def drop_reference(session: Session, space: SpaceId, chunk: ChunkId, doubted_ns: int) -> bool:
    """Whether the space may no longer read the chunk, as nobody asked for it since it was doubted."""
    gone = session.run(
        "DELETE FROM chunk_reference WHERE space_id = ? AND chunk_id = ? AND doubted_ns = ?", space, chunk, doubted_ns
    )
    if gone:
        session.run("UPDATE chunk SET doubted = 1 WHERE chunk_id = ?", chunk)
    return bool(gone)


def chunks_after(session: Session, chunk: bytes, limit: int) -> list[StoredChunk]:
    """Stored chunks, by id."""
    found = session.rows(
        "SELECT chunk_id, size, pack, pack_offset, doubted FROM chunk WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?",
        chunk,
        limit,
    )
    return [StoredChunk(Place(ChunkId(row[0]), row[1], row[2], row[3]), bool(row[4])) for row in found]


def trust_chunks(session: Session, chunks: Iterable[ChunkId]) -> None:
    """Spaces were found that refer to these chunks."""
    session.run_many("UPDATE chunk SET doubted = 0 WHERE chunk_id = ?", [(chunk,) for chunk in chunks])


def drop_chunk(session: Session, place: Place) -> bool:
    """Whether the chunk is stored no more, as no space asked for it since it was doubted."""
    gone = session.run("DELETE FROM chunk WHERE chunk_id = ? AND doubted <> 0", place.id)
    if gone and place.pack is None:
        doom(session, place.id, is_pack=False)
    return bool(gone)


def move_chunk(session: Session, old: Place, new: Place) -> bool:
    """Whether the chunk lies in its new place now, as it was still in the old one."""
    return bool(
        session.run(
            "UPDATE chunk SET pack = ?, pack_offset = ? WHERE chunk_id = ? AND pack = ? AND pack_offset = ?",
            new.pack,
            new.offset,
            old.id,
            old.pack,
            old.offset,
        )
    )


def lose_chunk(session: Session, place: Place, now_ns: int, reason: str) -> bool:
    """Whether the chunk is noted as lost now, as it was still noted to lie there."""
    gone = session.run(
        "DELETE FROM chunk WHERE chunk_id = ? AND pack_offset = ? AND pack IS ?", place.id, place.offset, place.pack
    )
    if gone:
        session.run(
            "INSERT INTO lost_chunk (chunk_id, size, found_ns, reason) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (chunk_id) DO UPDATE SET found_ns = excluded.found_ns, reason = excluded.reason",
            place.id,
            place.size,
            now_ns,
            reason,
        )
    return bool(gone)


def lost_after(session: Session, chunk: bytes, limit: int) -> list[LostChunk]:
    """Lost chunks, by id."""
    sql = "SELECT chunk_id, size, found_ns, reason FROM lost_chunk WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?"
    return [LostChunk(ChunkId(row[0]), *row[1:]) for row in session.rows(sql, chunk, limit)]


def forget_lost(session: Session, chunk: ChunkId) -> None:
    """Nobody names the lost chunk any more."""
    session.run("DELETE FROM lost_chunk WHERE chunk_id = ?", chunk)


def doom(session: Session, object_id: bytes, *, is_pack: bool) -> None:
    """The object is to be removed from the store, unless a chunk is noted to lie in it first."""
    session.run("INSERT INTO doomed (object_id, is_pack) VALUES (?, ?) ON CONFLICT DO NOTHING", object_id, int(is_pack))


def doomed(session: Session, limit: int) -> list[Doomed]:
    """The first objects to be removed."""
    sql = "SELECT object_id, is_pack FROM doomed WHERE object_id > ? ORDER BY object_id LIMIT ?"
    return [Doomed(row[0], bool(row[1])) for row in session.rows(sql, b"", limit)]


def journal_gap(session: Session, space: SpaceId) -> tuple[int, Rev, Rev]:
    """How many commits the journal has, and the first and the last rev; zeros when there are none."""
    sql = "SELECT count(*), min(rev), max(rev) FROM journal WHERE space_id = ? AND rev > 0"
    found = session.row(sql, space)
    assert found is not None
    return int(found[0]), Rev(found[1] or 0), Rev(found[2] or 0)


def are_stored(session: Session, chunks: Sequence[ChunkId]) -> list[bool]:
    """Whether each of these chunks is stored."""
    return [session.row("SELECT 1 FROM chunk WHERE chunk_id = ?", chunk) is not None for chunk in chunks]
