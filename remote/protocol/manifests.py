"""Manifests: built flat or as a tree, checked, searched by offset. No I/O: who has a leaf's bytes opens them here.

A tree's leaves end where the id of an entry says so, not at a fixed number: entries that stay the same give leaves
that stay the same, wherever in the list they lie.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from remote.protocol.errors import BadRequest, ChunkDamaged
from remote.protocol.nodes import ENTRIES_MAX, INLINE_MAX, Base, Entry, Manifest
from remote.protocol.sealing import LEAF_PLAIN_MAX, PLAIN_MAX, Sealed

DEPTH_MAX = 4
SIZE_MAX = 2**63 - 1
LEAF_ENTRIES_MIN = 8
LEAF_ENTRIES_MAX = 64
"""A full leaf takes 5 KiB."""
_LEAF_END = 2**32 // 20
"""An entry ends its leaf when the first four bytes of its id, as a number, are below this."""
_ID = 32

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Entry, ...])


@dataclass(frozen=True)
class Leaf:
    """A leaf of content that is known to the server, to be used as it is; `entry` stands for it."""

    entry: Entry


def build(size: int, items: Iterable[Entry | Leaf], seal: Callable[[bytes], Sealed]) -> tuple[Manifest, list[Sealed]]:
    """The manifest of `size` bytes made of these entries, and the leaves to store before it (none when it is flat).

    Adjacent holes become one; equal entries give equal leaves, if `seal` gives equal bytes for equal content. What
    stays of an older manifest may be given as its leaves of the lowest level.
    """
    leaves: list[Sealed] = []

    def leaf_of(group: Sequence[Entry]) -> Entry:
        leaf = seal(encode_leaf(group))
        leaves.append(leaf)
        return Entry(leaf.id, leaf.key, sum(entry.length for entry in group))

    runs = list(_runs(items))
    level: list[Entry] = []
    depth = int(len(runs) > 1)
    for kept, run in runs:
        level += map(leaf_of, _leaf_groups(run)) if depth else run
        if kept is not None:
            level.append(kept.entry)
    total = sum(entry.length for entry in level)
    if total != size:
        raise ValueError(f"the entries cover {total} bytes, the content has {size}")
    while len(level) > ENTRIES_MAX:
        level = [leaf_of(group) for group in _leaf_groups(level)]
        depth += 1
    return Manifest(size=size, depth=depth, entries=tuple(level)), leaves


def unsettled(items: Sequence[Entry | Leaf]) -> int | None:
    """The index of a leaf to be told by its entries: those before it end where, among equal content, no leaf would."""
    for index, item in enumerate(items):
        before = items[index - 1] if index else None
        if isinstance(item, Leaf) and isinstance(before, Entry) and not _is_end(before):
            return index
    return None


def encode_leaf(entries: Sequence[Entry]) -> bytes:
    """The content of the chunk that holds these entries."""
    return _encoder.encode(tuple(entries))


def decode_leaf(data: bytes | bytearray | memoryview) -> tuple[Entry, ...]:
    """The entries of a leaf; raises ChunkDamaged when it is anything else."""
    try:
        entries = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ChunkDamaged(f"A leaf of a manifest cannot be read: {error}") from None
    if not entries or len(data) > LEAF_PLAIN_MAX:
        raise ChunkDamaged(f"A leaf of a manifest has {len(entries)} entries in {len(data)} bytes.")
    for entry in entries:
        fault = _entry_fault(entry)
        if fault:
            raise ChunkDamaged(f"A leaf of a manifest has an entry {fault}.")
    return entries


def decode_entries(data: bytes) -> tuple[Entry, ...]:
    """Any number of entries, of a source that is trusted; what `encode_leaf` made."""
    return _decoder.decode(data)


def starts(entries: Sequence[Entry]) -> list[int]:
    """The offset at which each entry starts, and behind them the end of the last one."""
    return list(accumulate((entry.length for entry in entries), initial=0))


def overlapping(
    entries: Sequence[Entry], start: int, stop: int, offsets: Sequence[int] | None = None
) -> Iterator[tuple[int, Entry]]:
    """The entries with bytes within start .. stop, each with its offset; `offsets`: `starts(entries)`, if known."""
    if start >= stop:
        return
    offsets = starts(entries) if offsets is None else offsets
    for index in range(max(0, bisect_right(offsets, start) - 1), len(entries)):
        if offsets[index] >= stop:
            return
        yield offsets[index], entries[index]


def check(manifest: Manifest) -> None:
    """Raises BadRequest with what is wrong, if anything in the manifest cannot be."""
    fault = _manifest_fault(manifest)
    if fault:
        raise BadRequest(f"A manifest {fault}.")


def _manifest_fault(manifest: Manifest) -> str | None:
    if not 0 <= manifest.size <= SIZE_MAX:
        return f"has a size of {manifest.size} bytes"
    if not 0 <= manifest.depth <= DEPTH_MAX:
        return f"has a depth of {manifest.depth}, where at most {DEPTH_MAX} is allowed"
    if len(manifest.inline) > INLINE_MAX:
        return f"has {len(manifest.inline)} bytes inline, where at most {INLINE_MAX} are allowed"
    if manifest.inline and (manifest.entries or manifest.depth):
        return "has both inline content and entries"
    if manifest.depth and not manifest.entries:
        return "has depth but no entries"
    if len(manifest.entries) > ENTRIES_MAX:
        return f"has {len(manifest.entries)} entries, where at most {ENTRIES_MAX} are allowed"
    for number, entry in enumerate(manifest.entries):
        fault = _entry_fault(entry) or (_branch_fault(entry) if manifest.depth else _chunk_fault(entry))
        if fault:
            return f"has an entry {fault} (number {number})"
    total = sum(entry.length for entry in manifest.entries) + len(manifest.inline)
    if total != manifest.size:
        return f"covers {total} bytes but says {manifest.size}"
    return None


def _entry_fault(entry: Entry) -> str | None:
    """What is wrong with an entry at any depth."""
    if not 0 < entry.length <= SIZE_MAX:
        return f"of {entry.length} bytes"
    if entry.is_hole:
        return "that is a hole with a key or a base" if entry.key or entry.base else None
    if len(entry.id) != _ID or len(entry.key) != _ID:
        return f"with an id of {len(entry.id)} and a key of {len(entry.key)} bytes"
    return _base_fault(entry.base) if entry.base else None


def _base_fault(base: Base) -> str | None:
    if len(base.id) != _ID or len(base.key) != _ID:
        return f"with a base id of {len(base.id)} and a base key of {len(base.key)} bytes"
    return None if 0 < base.length <= PLAIN_MAX else f"with a base of {base.length} bytes"


def _chunk_fault(entry: Entry) -> str | None:
    """What is wrong with an entry that should stand for content."""
    is_too_long = not entry.is_hole and entry.length > PLAIN_MAX
    return f"of {entry.length} bytes, where one chunk holds at most {PLAIN_MAX}" if is_too_long else None


def _branch_fault(entry: Entry) -> str | None:
    """What is wrong with an entry that should stand for a leaf."""
    return "above the leaves that is a hole or a delta" if entry.is_hole or entry.base else None


def _without_split_holes(entries: Iterable[Entry]) -> list[Entry]:
    joined: list[Entry] = []
    for entry in entries:
        if entry.is_hole and joined and joined[-1].is_hole:
            joined[-1] = Entry(entry.id, entry.key, joined[-1].length + entry.length)
        else:
            joined.append(entry)
    return joined


def _runs(items: Iterable[Entry | Leaf]) -> Iterator[tuple[Leaf | None, list[Entry]]]:
    """The entries in front of each leaf with it, and those behind the last one."""
    run: list[Entry] = []
    for item in items:
        if isinstance(item, Leaf):
            yield item, _without_split_holes(run)
            run = []
        else:
            run.append(item)
    yield None, _without_split_holes(run)


def _is_end(entry: Entry) -> bool:
    return bool(entry.id) and int.from_bytes(entry.id[:4], "big") < _LEAF_END


def _leaf_groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    first = 0
    for index, entry in enumerate(entries, start=1):
        length = index - first
        if (length >= LEAF_ENTRIES_MIN and _is_end(entry)) or length == LEAF_ENTRIES_MAX:
            yield entries[first:index]
            first = index
    if first < len(entries):
        yield entries[first:]
