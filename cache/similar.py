"""Similar: new chunks told as deltas against chunks of the content that they replace, when a program writes all anew.

A save that rewrites a file, or puts a new one in its place, cuts the same chunks but around what was changed. There,
the old chunk that begins at the same distance from the start (or ends at the same from the end) mostly differs in one
stretch only. Only old content that is on this machine is looked at.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import trio

from cache.errors import CacheError
from cache.patches import is_worth
from cache.reader import Reader
from remote.protocol import deltas
from remote.protocol.cutting import Buffer
from remote.protocol.nodes import Base, Entry, Manifest

LEAST: Final = 16 << 10
"""Smaller chunks are sent as they are."""
_PROBE: Final = 4 << 10
"""So many bytes must be alike at one end at least, before all of an old chunk is read."""


class Told(NamedTuple):
    """A new chunk in words of an old one: `same`, or a delta of these bytes on top of `base`."""

    same: Entry | None
    base: Base
    delta: bytes = b""


async def tell(reader: Reader, old: Manifest, size: int, offset: int, data: Buffer) -> Told | None:
    """How the chunk at `offset` of new content of `size` bytes is told by `old` content; None if not worth it."""
    if len(data) < LEAST:
        return None
    for start, entry in _candidates(reader, old, size, offset, len(data)):
        try:
            if not _is_alike(reader, old, start, entry.length, data):
                continue
            content = reader.try_read(old, start, entry.length)
            parts: tuple[deltas.Part, ...] = (deltas.Copy(0, entry.length),)
            if content is not None and entry.base is not None:
                parts = await reader.leaves.delta(entry)
        except CacheError:
            continue
        if content is None:
            continue
        new = await trio.to_thread.run_sync(_parts, parts, bytes(content), bytes(data))
        base = entry.base or Base(entry.id, entry.key, entry.length)
        if new == parts:
            return Told(entry, base)
        if is_worth(new, len(data)):
            return Told(None, base, deltas.encode(base, new))
    return None


def _is_alike(reader: Reader, old: Manifest, start: int, length: int, data: Buffer) -> bool:
    n = min(_PROBE, length)
    return reader.try_read(old, start, n) == data[:n] or reader.try_read(old, start + length - n, n) == data[-n:]


def _candidates(reader: Reader, old: Manifest, size: int, offset: int, length: int) -> Iterator[tuple[int, Entry]]:
    """Old chunks at the same distance from either end, those that begin alike first, each once."""
    seen: set[int] = set()
    shifts = (0, size - old.size)
    for at, is_start in [(offset - shift, True) for shift in shifts] + [
        (offset + length - shift, False) for shift in shifts
    ]:
        found = reader.leaves.entry_at(old, at if is_start else at - 1)
        if found is None:
            continue
        start, entry = found
        if start not in seen and at == (start if is_start else start + entry.length):
            seen.add(start)
            yield start, entry


def _parts(parts: tuple[deltas.Part, ...], old: bytes, new: bytes) -> tuple[deltas.Part, ...]:
    """The new content by the parts of the old one, as far as they begin and end alike, and what is between."""
    first = _common(old, new)
    most = min(len(old), len(new)) - first
    last = _common(old[::-1][:most], new[::-1][:most])
    between: list[deltas.Part] = [new[first : len(new) - last]] if first + last < len(new) else []
    return deltas.joined(
        [*deltas.cut_out(parts, 0, first), *between, *deltas.cut_out(parts, len(old) - last, len(old))]
    )


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
