"""Scratch: sets of ids that are too many for memory, in tables of their own that end with whoever made them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from remote.protocol.ids import ChunkId, SpaceId
from remote.server.database.connection import Row, Session, scratch_session

_TABLES = (
    "CREATE TABLE named (content_id BLOB PRIMARY KEY, rev INTEGER, ordinal INTEGER) WITHOUT ROWID",
    "CREATE TABLE reached (chunk_id BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE opened (chunk_id BLOB, depth INTEGER, PRIMARY KEY (chunk_id, depth)) WITHOUT ROWID",
    "CREATE TABLE dropped (space_id INTEGER, chunk_id BLOB, PRIMARY KEY (space_id, chunk_id)) WITHOUT ROWID",
    "CREATE TABLE candidate (chunk_id BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID",
    "CREATE TABLE pack (pack BLOB PRIMARY KEY, live INTEGER) WITHOUT ROWID",
)


class Scratch:
    """The sets of one run of the collector."""

    def __init__(self, session: Session) -> None:
        self._session = session
        for statement in _TABLES:
            session.run(statement)

    def begin_space(self) -> None:
        """Empties what belongs to one space."""
        for statement in ("DELETE FROM named", "DELETE FROM reached", "DELETE FROM opened"):
            self._session.run(statement)

    def name(self, contents: Iterable[tuple[bytes, int, int]]) -> None:
        """These contents (id, rev, ordinal) are named by versions; node rows count as rev 0."""
        self._session.run_many("INSERT OR IGNORE INTO named VALUES (?, ?, ?)", contents)

    def is_named(self, content_id: bytes) -> bool:
        """Whether a version names the content; it is taken from the set."""
        return bool(self._session.run("DELETE FROM named WHERE content_id = ?", content_id))

    def left_named(self, limit: int) -> list[Row]:
        """Contents (id, rev, ordinal) that were named and not asked for."""
        return list(self._session.rows("SELECT content_id, rev, ordinal FROM named LIMIT ?", limit))

    def reach(self, chunks: Iterable[ChunkId]) -> None:
        """These chunks are needed in the space."""
        self._session.run_many("INSERT OR IGNORE INTO reached VALUES (?)", [(chunk,) for chunk in chunks])

    def is_reached(self, chunk: ChunkId) -> bool:
        """Whether the chunk is needed in the space."""
        return self._session.row("SELECT 1 FROM reached WHERE chunk_id = ?", chunk) is not None

    def open(self, leaf: ChunkId, depth: int) -> bool:
        """Whether the leaf was not opened before, in this depth."""
        return bool(self._session.run("INSERT OR IGNORE INTO opened VALUES (?, ?)", leaf, depth))

    def drop(self, space: SpaceId, chunk: ChunkId) -> None:
        """The space needs the chunk no more."""
        self._session.run("INSERT OR IGNORE INTO dropped VALUES (?, ?)", space, chunk)

    def is_dropped(self, space: SpaceId, chunk: ChunkId) -> bool:
        """Whether the space needs the chunk no more."""
        sql = "SELECT 1 FROM dropped WHERE space_id = ? AND chunk_id = ?"
        return self._session.row(sql, space, chunk) is not None

    def dropped_chunks(self) -> Iterator[ChunkId]:
        """Chunks that a space needs no more."""
        return (ChunkId(row[0]) for row in self._session.rows("SELECT DISTINCT chunk_id FROM dropped"))

    def add_candidate(self, chunk: ChunkId, size: int) -> None:
        """The chunk may be needed by nobody."""
        self._session.run("INSERT OR IGNORE INTO candidate VALUES (?, ?)", chunk, size)

    def has_candidates(self) -> bool:
        """Whether there are candidates."""
        return self._session.row("SELECT 1 FROM candidate LIMIT 1") is not None

    def take_candidate(self, chunk: ChunkId) -> bool:
        """Whether the chunk was a candidate; it is none any more."""
        return bool(self._session.run("DELETE FROM candidate WHERE chunk_id = ?", chunk))

    def candidates(self, after: bytes, limit: int) -> list[ChunkId]:
        """Candidates that are left, by id."""
        sql = "SELECT chunk_id FROM candidate WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?"
        return [ChunkId(row[0]) for row in self._session.rows(sql, after, limit)]

    def count_in_pack(self, pack: bytes, size: int) -> None:
        """So many bytes more of the pack are chunks that are stored there."""
        self._session.run(
            "INSERT INTO pack VALUES (?, ?) ON CONFLICT (pack) DO UPDATE SET live = live + excluded.live", pack, size
        )

    def live_in_pack(self, pack: bytes) -> int:
        """Bytes of chunks that are stored in the pack."""
        found = self._session.row("SELECT live FROM pack WHERE pack = ?", pack)
        return int(found[0]) if found else 0


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Empty sets, gone when the block ends."""
    with scratch_session() as session:
        yield Scratch(session)
