"""Plain hashes: which chunk some content was sealed to, so that content seen before costs a hash and no upload.

Bounded, the oldest forgotten first; forgetting costs sealing and asking once more, nothing else.
"""

import struct
from typing import Final, NamedTuple

from cache.store import Store
from remote.protocol.ids import ChunkId, PlainHash
from remote.protocol.nodes import Base

COUNT_MAX: Final = 400_000
"""Plain hashes remembered."""
_VALUE: Final = struct.Struct("<32s32sI")  # chunk id, key, sealed size
_BASE: Final = struct.Struct("<32s32sI")  # chunk id, key, length
_DELTA: Final = b"delta"
"""Behind the plain hash of what is known as a delta, in the key: whoever does not know of deltas finds none."""


class Known(NamedTuple):
    """A chunk that the server held, when last heard, for content with some plain hash; with `base` a delta."""

    id: ChunkId
    key: bytes
    sealed_size: int
    base: Base | None = None


class PlainHashes:
    """The index from plain hash to chunk, in two tables of the cache's store."""

    def __init__(self, store: Store, table: int, queue: int) -> None:
        self._store = store
        self._table = table
        self._queue = queue
        newest = store.last(queue)
        self._next = int.from_bytes(newest[0], "big") + 1 if newest else 1

    def find(self, plain_hash: PlainHash) -> Known | None:
        """The chunk, as far as remembered; rather one with the content of its own than a delta."""
        value = self._store.get(self._table, plain_hash)
        base = None
        if value is None:
            value = self._store.get(self._table, plain_hash + _DELTA)
            if value is None:
                return None
            base_id, base_key, base_length = _BASE.unpack_from(value, _VALUE.size)
            base = Base(ChunkId(base_id), base_key, base_length)
        chunk_id, key, sealed_size = _VALUE.unpack_from(value)
        return Known(ChunkId(chunk_id), key, sealed_size, base)

    def note(self, plain_hash: PlainHash, known: Known) -> None:
        """Remembers a chunk that the server has, or is about to have: it is asked before that counts."""
        place = plain_hash + _DELTA if known.base is not None else plain_hash
        value = _VALUE.pack(known.id, known.key, known.sealed_size)
        if known.base is not None:
            value += _BASE.pack(known.base.id, known.base.key, known.base.length)
        with self._store.change() as change:
            if change.get(self._table, place) is None:
                change.put(self._queue, self._next.to_bytes(8, "big"), place)
                self._next += 1
            change.put(self._table, place, value)
            if self._store.count(self._queue) >= COUNT_MAX:
                for number, oldest in self._store.scan(self._queue, limit=8):
                    change.delete(self._queue, number)
                    change.delete(self._table, oldest)
