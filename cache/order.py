"""Order: in which order chunks came into the cache, and which of them were read since; what eviction goes by.

A position is never given twice, and none is written anew because something was read: that is noted in memory only.
"""

from typing import Final

from cache.places import key_of, number_of
from cache.store import Change, Store
from remote.protocol.ids import ChunkId

_YOUNG_SHARE: Final = 20
"""One part in so many of the chunks came in just now."""


class Order:
    """The queue of all chunks that are held, whole or in part."""

    def __init__(self, store: Store, table: int) -> None:
        self._store = store
        self._table = table
        oldest = store.scan(table, limit=1)
        newest = store.last(table)
        self.next: int = number_of(newest[0]) + 1 if newest else 1
        """The position that the next chunk gets."""
        # One byte for each position from _first on: read since the hand passed by.
        self._first = number_of(oldest[0][0]) if oldest else 1
        self._visited = bytearray(self.next - self._first)

    @property
    def count(self) -> int:
        """How many chunks are held, whole or in part."""
        return self._store.count(self._table)

    @property
    def newest(self) -> int:
        """The position of the chunk that came in last."""
        return self.next - 1

    def after(self, position: int, limit: int) -> list[tuple[int, ChunkId]]:
        """Chunks behind a position, each with its own."""
        found = self._store.scan(self._table, key_of(position + 1), limit=limit)
        return [(number_of(key), ChunkId(value)) for key, value in found]

    def add(self, change: Change, chunk_id: ChunkId) -> None:
        """The chunk came in, and has the position that was `next`."""
        change.put(self._table, key_of(self.next), chunk_id)
        self.next += 1
        self._visited.append(0)

    def remove(self, change: Change, position: int) -> None:
        """Whatever has this position is not held any more."""
        change.delete(self._table, key_of(position))

    def visit(self, position: int) -> None:
        """The chunk was read."""
        at = position - self._first
        # Who reads a chunk part by part when it has just come in wants it once, not again.
        if 0 <= at < len(self._visited) - self.count // _YOUNG_SHARE:
            self._visited[at] = 1

    def is_visited(self, position: int) -> bool:
        """Whether the chunk was read since that was last taken."""
        at = position - self._first
        return 0 <= at < len(self._visited) and bool(self._visited[at])

    def take_visited(self, position: int) -> bool:
        """The same, and counts as not read from now on."""
        if not self.is_visited(position):
            return False
        self._visited[position - self._first] = 0
        return True
