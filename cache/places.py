"""Places: the rows of the chunk index as they lie in the store, and what things cost on disk; pure. See FORMAT.md."""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from cache.blobs import BlobId

PAGE: Final = 4096

CHUNK: Final = struct.Struct("<QQQII")  # position in the queue, blob, offset, length, held frames; then a sum for each
SMALL: Final = struct.Struct("<QQ")  # position in the queue, sum; then the content
BLOB: Final = struct.Struct("<QI")  # allocated bytes, chunks in it
SUM: Final = struct.Struct("<Q")


class Place(NamedTuple):
    """A row of the table `chunks`: where content lies, and the sum of each frame that is held."""

    position: int
    blob: BlobId
    offset: int
    length: int
    frames: int
    sums: bytes

    @staticmethod
    def unpack(row: bytes) -> "Place":
        """The place in a row."""
        position, blob, offset, length, frames = CHUNK.unpack_from(row)
        return Place(position, BlobId(blob), offset, length, frames, row[CHUNK.size :])

    def pack(self) -> bytes:
        """The row."""
        return CHUNK.pack(*self[:5]) + self.sums

    def sum_of(self, frame: int) -> int:
        """What the content of a frame must sum to."""
        return int(SUM.unpack_from(self.sums, 8 * frame)[0])

    def with_frames(self, first: int, sums: Sequence[int]) -> "Place":
        """The same place with more frames held."""
        packed = bytearray(self.sums)
        packed[8 * first : 8 * (first + len(sums))] = pack_sums(sums)
        return self._replace(frames=self.frames | ((1 << len(sums)) - 1) << first, sums=bytes(packed))

    def without_frames(self, frames: Sequence[int]) -> "Place":
        """The same place with these frames not held."""
        left = self.frames
        for frame in frames:
            left &= ~(1 << frame)
        return self._replace(frames=left)


def pack_sums(sums: Sequence[int]) -> bytes:
    """Sums as they lie in a row."""
    return struct.pack(f"<{len(sums)}Q", *sums)


def key_of(value: int) -> bytes:
    """A number as a key, in whose order rows lie."""
    return value.to_bytes(8, "big")


def number_of(key: bytes) -> int:
    """The number in a key."""
    return int.from_bytes(key, "big")


def small_cost(length: int) -> int:
    """What a value of the store takes: pages of its own when it is over half a page."""
    return -(-(length + 16) // PAGE) * PAGE if length > PAGE // 2 else length + 64


def room_for(length: int) -> int:
    """Bytes that content of so many bytes takes on disk at the most."""
    return -(-length // PAGE) * PAGE + 2 * PAGE
