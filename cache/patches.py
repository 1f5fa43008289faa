"""Patches: which chunks of old content an edit changes so little that only what differs is worth sending. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cache.extents import Extents
from remote.protocol import deltas
from remote.protocol.cutting import SIZES, Buffer
from remote.protocol.manifests import Leaf, starts
from remote.protocol.nodes import Base, Entry

Item = Entry | Leaf
_UNKNOWN = b"\1" * 32
"""Stands for the id and the key of a delta that is not made yet."""


@dataclass(frozen=True)
class Patch:
    """A chunk to be told by what differs: `entry`, which was at `start`, and is `size` bytes long now."""

    start: int
    entry: Entry
    size: int
    edits: tuple[tuple[int, int], ...]
    """Stretches of the file with new bytes."""

    @property
    def placeholder(self) -> Entry:
        """What stands in the list of entries until the delta is made."""
        return Entry(self.entry.id, _UNKNOWN, self.size, self.base)

    @property
    def base(self) -> Base:
        """The chunk with content that the delta is told against."""
        return self.entry.base or Base(self.entry.id, self.entry.key, self.entry.length)

    def parts(self, old: Sequence[deltas.Part], read: Callable[[int, int], Buffer]) -> tuple[deltas.Part, ...]:
        """The new content, from the old entry's parts and the new bytes: `read(offset, length)`."""
        found: list[deltas.Part] = []
        at = self.start
        for first, stop in self.edits:
            found += deltas.cut_out(old, at - self.start, first - self.start)
            found.append(bytes(read(first, stop - first)))
            at = stop
        found += deltas.cut_out(old, at - self.start, self.size)
        return deltas.joined(found)


def lengths(items: Sequence[Item]) -> list[Entry]:
    """The items as entries, leaves as one entry each."""
    return [item.entry if isinstance(item, Leaf) else item for item in items]


def find(items: Sequence[Item], size: int, dirty: Sequence[tuple[int, int]]) -> list[tuple[int, Patch]]:
    """Chunks of old content, by index, that may be patched where `dirty` stretches make it new content of `size` bytes.

    What old deltas among them hold already is not counted here: see `is_worth`.
    """
    entries = lengths(items)
    offsets = starts(entries)
    old_size = offsets[-1]
    edited = Extents(dirty)
    edited.add(old_size, size)
    edited.cut(size)
    touched: dict[int, None] = {}
    for first, stop in edited:
        low = max(0, bisect_right(offsets, first) - 1)
        high = bisect_left(offsets, stop)
        if high - low <= 2 + (stop - first) // SIZES.least:
            touched.update(dict.fromkeys(range(low, min(high, len(entries)))))
    if size < old_size:
        touched[bisect_right(offsets, size) - 1] = None
    if size > old_size and entries:
        touched[len(entries) - 1] = None
    found = []
    for index in sorted(touched):
        entry = items[index]
        start = offsets[index]
        if isinstance(entry, Leaf) or entry.is_hole or start >= size:
            continue
        is_last = index == len(entries) - 1
        stop = size if is_last else min(size, offsets[index + 1])
        edits = tuple((max(first, start), min(end, stop)) for first, end, inside in edited.split(start, stop) if inside)
        length = stop - start
        is_changed = bool(edits) or length != entry.length
        if is_changed and length <= SIZES.most and sum(b - a for a, b in edits) <= deltas.literal_max(length):
            found.append((index, Patch(start, entry, length, edits)))
    return found


def is_worth(parts: Sequence[deltas.Part], length: int) -> bool:
    """Whether a delta of these parts is much smaller than a chunk of this length, and cheap to read."""
    own = sum(len(part) for part in parts if isinstance(part, bytes))
    return own <= deltas.literal_max(length) and len(parts) <= deltas.PARTS_MAX


def apply(
    items: Sequence[Item], size: int, dirty: Sequence[tuple[int, int]], patches: Sequence[tuple[int, Patch]]
) -> tuple[list[Item], list[tuple[int, int]]]:
    """The old items with placeholders for what is patched, and the dirty stretches that are left."""
    new: list[Item] = list(items)
    left = Extents(dirty)
    old_size = starts(lengths(items))[-1]
    left.add(old_size, size)
    left.cut(size)
    for index, patch in patches:
        new[index] = patch.placeholder
        left.remove(patch.start, patch.start + patch.size)
        if patch.start + patch.size == size:
            del new[index + 1 :]
    return new, list(left)
