"""Parts: how the answer to `chunks/read` is laid out, and what belongs to a stretch of content below a leaf. No I/O.

The body is one item after the other, each a head (chunk id, first frame, number of frames, length in bytes) and the
sealed bytes, as `ChunkPart` describes them. Behind a leaf asked for with `Below` come the parts below it, each with
what is below it in turn.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from remote.protocol.ids import ChunkId
from remote.protocol.manifests import overlapping
from remote.protocol.messages import Below, ChunkPart
from remote.protocol.nodes import Entry
from remote.protocol.sealing import FRAME, Buffer

PARTS_TYPE: Final = "application/vnd.satchel.parts"
_HEAD: Final = struct.Struct(">32sHHI")
HEAD_SIZE: Final = _HEAD.size


class Head(NamedTuple):
    """What stands before the bytes of one part."""

    id: ChunkId
    first: int
    frames: int
    length: int

    @staticmethod
    def of(chunk: ChunkId, data: Buffer) -> "Head":
        """The head of a whole chunk."""
        return Head(chunk, 0, 0, len(data))

    def pack(self) -> bytes:
        """The head as it is sent."""
        return _HEAD.pack(*self)

    @staticmethod
    def unpack(data: Buffer) -> "Head":
        """The head in HEAD_SIZE bytes."""
        chunk, first, frames, length = _HEAD.unpack(data)
        return Head(ChunkId(chunk), first, frames, length)


def parts_below(entries: Sequence[Entry], below: Below) -> Iterator[tuple[Entry, ChunkPart]]:
    """The parts directly below a leaf with these entries that are needed for `below`, each with its entry.

    Deltas are left out: what they are made over may be on the device.
    """
    for at, entry in overlapping(entries, below.start, below.stop):
        if entry.is_hole or entry.base is not None:
            continue
        start, stop = max(0, below.start - at), min(entry.length, below.stop - at)
        if below.depth > 1:
            yield entry, ChunkPart(entry.id, 0, 1, Below(entry.key, below.depth - 1, start, stop))
        else:
            first = start // FRAME
            yield entry, ChunkPart(entry.id, first, -(-stop // FRAME) - first)
