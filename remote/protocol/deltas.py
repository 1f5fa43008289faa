"""Deltas: a chunk told as what it shares with another chunk, its base, and the bytes that differ. No I/O.

A delta is sealed as a chunk of one frame. Its base is always a chunk with content of its own, never a delta: an edit on
top of a delta is told against the same base. See PROTOCOL.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from remote.protocol.errors import ChunkDamaged
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Base, Entry
from remote.protocol.sealing import LEAF_PLAIN_MAX

LITERAL_MAX = 64 << 10
"""Bytes of its own that a delta has at the most, and no more than a quarter of the content: else a chunk is better."""
PARTS_MAX = 512


class Copy(NamedTuple):
    """Bytes of the base."""

    start: int
    stop: int


Part = Copy | bytes
"""One stretch of the content: of the base, or its own."""


class _Encoded(msgspec.Struct, frozen=True, array_like=True):
    base: ChunkId
    """Again, so that the id of a delta tells its content."""
    parts: tuple[tuple[int, int] | bytes, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode(base: Base, parts: Sequence[Part]) -> bytes:
    """The content of the chunk that tells these parts."""
    return _encoder.encode(_Encoded(base.id, tuple(parts)))


def decode(entry: Entry, data: bytes | bytearray | memoryview) -> tuple[Part, ...]:
    """The parts of an entry with a base, from its opened delta; raises ChunkDamaged if they do not make it."""
    base = entry.base
    try:
        found = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ChunkDamaged(f"Delta {entry.id.hex()} cannot be read: {error}") from None
    if base is None or found.base != base.id or len(data) > LEAF_PLAIN_MAX:
        raise ChunkDamaged(f"Delta {entry.id.hex()} is on top of another chunk than its entry says.")
    parts = tuple(part if isinstance(part, bytes) else Copy(*part) for part in found.parts)
    if any(isinstance(part, Copy) and not 0 <= part.start < part.stop <= base.length for part in parts):
        raise ChunkDamaged(f"Delta {entry.id.hex()} uses bytes that its base does not have.")
    if sum(map(length_of, parts)) != entry.length:
        raise ChunkDamaged(f"Delta {entry.id.hex()} does not add up to the length in its entry.")
    return parts


def length_of(part: Part) -> int:
    """Bytes of content in a part."""
    return part.stop - part.start if isinstance(part, Copy) else len(part)


def cut_out(parts: Iterable[Part], start: int, stop: int) -> Iterator[Part]:
    """The parts of [start, stop) of the content."""
    at = 0
    for part in parts:
        if at >= stop:
            return
        length = length_of(part)
        first, end = max(start - at, 0), min(stop - at, length)
        if first < end:
            yield Copy(part.start + first, part.start + end) if isinstance(part, Copy) else part[first:end]
        at += length


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same content in as few parts as neighbours allow."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Copy) and isinstance(last, Copy) and last.stop == part.start:
            found[-1] = Copy(last.start, part.stop)
        elif isinstance(part, bytes) and isinstance(last, bytes):
            found[-1] = last + part
        else:
            found.append(part)
    return tuple(found)


def literal_max(length: int) -> int:
    """How many bytes of its own the delta of so much content may have to be worth it."""
    return min(LITERAL_MAX, length // 4)
