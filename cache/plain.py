"""Plain hashes: which chunk some content was sealed to, so that content seen before costs a hash and no upload.

Bounded, the oldest forgotten first; forgetting costs sealing and asking once more, nothing else.
"""

import struct
from typing import Final, NamedTuple

from cache.store import Store
from remote.protocol.ids import ChunkId, PlainHash

COUNT_MAX: Final = 400_000
"""Plain hashes remembered."""
_VALUE: Final = struct.Struct("<32s32sI")  # chunk id, key, sealed size


class Known(NamedTuple):
    """A chunk that the server held, when last heard, for content with some plain hash."""

    id: ChunkId
    key: bytes
    sealed_size: int


class PlainHashes:
    """The index from plain hash to chunk, in two tables of the cache's store."""

    def __init__(self, store: Store, table: int, queue: int) -> None:
        self._store = store
        self._table = table
        self._queue = queue
        newest = store.last(queue)
        self._next = int.from_bytes(newest[0], "big") + 1 if newest else 1

    def find(self, plain_hash: PlainHash) -> Known | None:
        """The chunk, as far as remembered."""
        value = self._store.get(self._table, plain_hash)
        if value is None:
            return None
        chunk_id, key, sealed_size = _VALUE.unpack_from(value)
        return Known(ChunkId(chunk_id), key, sealed_size)

    def note(self, plain_hash: PlainHash, known: Known) -> None:
        """Remembers a chunk that the server has."""
        with self._store.change() as change:
            if change.get(self._table, plain_hash) is None:
                change.put(self._queue, self._next.to_bytes(8, "big"), plain_hash)
                self._next += 1
            change.put(self._table, plain_hash, _VALUE.pack(*known))
            if self._store.count(self._queue) >= COUNT_MAX:
                for number, oldest in self._store.scan(self._queue, limit=8):
                    change.delete(self._queue, number)
                    change.delete(self._table, oldest)
