"""Statements on chunks (keyed by chunk) and on which chunks a space may read (keyed by space).

A chunk that may be read may still have no place: the store lost it (`lost_chunk`) until somebody sends it again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from remote.protocol.ids import ChunkId, SpaceId
from remote.server.database.accounts import put_setting, setting
from remote.server.database.connection import Session

_ROUND = "upkeep"


@dataclass(frozen=True)
class Place:
    """Where a stored chunk lies: at `offset` of a pack, or (`pack` None) as an object of its own."""

    id: ChunkId
    size: int
    pack: bytes | None
    offset: int = 0

    @property
    def object_id(self) -> bytes:
        """The id of the object that it lies in."""
        return self.id if self.pack is None else self.pack


def place(session: Session, chunk: ChunkId) -> Place | None:
    """Where the chunk lies, or None when it is not stored."""
    found = session.row("SELECT size, pack, pack_offset FROM chunk WHERE chunk_id = ?", chunk)
    return Place(chunk, found[0], found[1], found[2]) if found else None


def add_places(session: Session, places: Sequence[Place]) -> None:
    """Notes where chunks lie, lost ones too; a chunk that is noted already keeps its place.

    Their objects were seen in the store within this transaction: from now on none of them is removed.
    """
    session.run_many(
        "INSERT INTO chunk (chunk_id, size, pack, pack_offset) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(place.id, place.size, place.pack, place.offset) for place in places],
    )
    session.run_many("DELETE FROM lost_chunk WHERE chunk_id = ?", [(place.id,) for place in places])
    spare(session, {place.object_id for place in places})


def spare(session: Session, objects: Iterable[bytes]) -> None:
    """These objects are not to be removed from the store, should it have been planned."""
    session.run_many("DELETE FROM doomed WHERE object_id = ?", [(each,) for each in objects])


def reference(session: Session, space: SpaceId, chunk: ChunkId) -> int | None:
    """Since when (ns) nothing in the space is known to name a chunk that it may read, 0 otherwise; None: it may not."""
    sql = "SELECT doubted_ns FROM chunk_reference WHERE space_id = ? AND chunk_id = ?"
    found = session.row(sql, space, chunk)
    return int(found[0]) if found else None


def may_read(session: Session, space: SpaceId, chunk: ChunkId) -> bool:
    """Whether members of the space may read the chunk."""
    return reference(session, space, chunk) is not None


def add_references(session: Session, space: SpaceId, chunks: Iterable[ChunkId]) -> None:
    """Lets members of the space read these chunks, and name them in commits for as long as the collector's grace."""
    rows = [(space, chunk) for chunk in chunks]
    session.run_many(
        "INSERT INTO chunk_reference (space_id, chunk_id) VALUES (?, ?)"
        " ON CONFLICT (space_id, chunk_id) DO UPDATE SET doubted_ns = 0 WHERE chunk_reference.doubted_ns <> 0",
        rows,
    )
    session.run_many(
        "UPDATE chunk SET doubted = 0 WHERE chunk_id = ? AND doubted <> 0", [(chunk,) for _, chunk in rows]
    )


def lost_in(session: Session, space: SpaceId, after: bytes, limit: int) -> list[ChunkId]:
    """Lost chunks that the space may read, by id; looks at ten times as many lost ones at the most."""
    found: list[ChunkId] = []
    for (chunk,) in session.rows(
        "SELECT chunk_id FROM lost_chunk WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?", after, 10 * limit
    ):
        if may_read(session, space, ChunkId(chunk)):
            found.append(ChunkId(chunk))
            if len(found) == limit:
                break
    return found


def upkeep_round(session: Session) -> int:
    """Grows whenever references are doubted or removed: what was looked up in another round must be looked up again."""
    found = setting(session, _ROUND)
    return int.from_bytes(found or b"", "big")


def next_round(session: Session) -> None:
    """References were doubted or removed."""
    put_setting(session, _ROUND, (upkeep_round(session) + 1).to_bytes(8, "big"))
