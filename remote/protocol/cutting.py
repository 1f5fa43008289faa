"""Cutting: where content is divided into chunks, and what of an old cut survives an edit. No I/O of its own.

A cut point depends only on the content after the cut point before it (and on the one byte that follows), so equal
content gives equal chunks wherever it lies. The numbers in `SIZES` are part of the format: other numbers would still
be read correctly, but nothing would be shared any more with what is already stored.
"""

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from pyfastcdc import FastCDC

from remote.protocol.nodes import Entry

Buffer = bytes | bytearray | memoryview
Range = tuple[int, int]
"""Offset and length in bytes."""

WINDOW = 4 << 20
"""Bytes that one `read` asks for at the most."""
_HASH_REACH = 64
"""A cut point is decided by fewer than this many bytes in front of it, and the byte behind it."""


@dataclass(frozen=True)
class Sizes:
    """The parameters of FastCDC (2020); `normal` is its normalization level. Lengths in bytes."""

    least: int
    middle: int
    most: int
    normal: Literal[0, 1, 2, 3]


SIZES = Sizes(least=256 << 10, middle=896 << 10, most=1408 << 10, normal=3)
"""Chunks of 0.96 MiB on the average, none over 1.375 MiB: see PROTOCOL.md for how these were found."""


@dataclass(frozen=True)
class Span:
    """A stretch of the new content: an old entry that stays (`kept`: its index), a hole, or else a new chunk."""

    offset: int
    length: int
    kept: int | None = None
    is_hole: bool = False


def cut(data: Buffer, *, is_last: bool, sizes: Sizes = SIZES) -> list[int]:
    """The lengths of the chunks that `data` starts with; the tail that more content could change is left out.

    `data` begins at a cut point. With `is_last`, content ends with `data`, and the lengths add up to it.
    """
    lengths = []
    left = len(data)
    for chunk in _cutter(sizes).cut_buf(data):
        is_settled = chunk.length < left or left >= sizes.most
        if not (is_last or is_settled):
            break
        lengths.append(chunk.length)
        left -= chunk.length
    return lengths


def recut(
    old: Sequence[Entry],
    size: int,
    dirty: Sequence[Range],
    holes: Sequence[Range],
    read: Callable[[int, int], Buffer],
    sizes: Sizes = SIZES,
) -> Iterator[tuple[Span, Buffer | None]]:
    """Cuts edited content into spans that cover 0 .. `size` in order, with the content of each new chunk.

    `old` are the entries of the content before the edit (cut by this module), `dirty` the ranges in which the new
    content differs (or may differ), `holes` the ranges of the new content known to be zeros; those of at least
    `sizes.least` bytes become holes. What was beyond the old end need not be named as dirty. `read(offset, length)`
    gives new content, is asked for at most WINDOW bytes at a time, and only around what is dirty.
    Without holes, the spans are exactly the chunks that cutting all of the new content gives.
    """
    edit = _Edit(old, size, dirty, holes, sizes)
    for offset, length, is_hole in edit.stretches():
        if not is_hole:
            yield from _recut_stretch(edit, offset, offset + length, read)
            continue
        index = edit.starting_at(offset)
        is_kept = index is not None and edit.is_same_hole(index, length)
        yield Span(offset, length, kept=index if is_kept else None, is_hole=True), None


def _recut_stretch(
    edit: "_Edit", position: int, stop: int, read: Callable[[int, int], Buffer]
) -> Iterator[tuple[Span, Buffer | None]]:
    start = position
    while position < stop:
        kept = edit.kept_at(position, start, stop)
        if kept is not None:
            yield Span(position, edit.old[kept].length, kept=kept), None
            position += edit.old[kept].length
            continue
        for length, content in _new_chunks(edit, position, start, stop, read):
            yield Span(position, length), content
            position += length
            if edit.kept_at(position, start, stop) is not None:
                break


def _new_chunks(
    edit: "_Edit", position: int, start: int, stop: int, read: Callable[[int, int], Buffer]
) -> list[tuple[int, memoryview]]:
    """At least one chunk from `position` on, as many as one window shows."""
    end = min(edit.next_kept(position, start, stop), position + WINDOW)
    while True:
        window = memoryview(read(position, end - position)).cast("B")
        if len(window) != end - position:
            raise ValueError(f"content ends at {position + len(window)}, not at {end} or later")
        lengths = cut(window, is_last=end == stop, sizes=edit.sizes)
        tail = position + sum(lengths)
        if tail < end and edit.is_settled(tail, end, start, stop):
            lengths.append(end - tail)
        if lengths:
            break
        end = min(stop, position + edit.sizes.most)
    starts = accumulate(lengths, initial=0)
    return [(length, window[at : at + length]) for at, length in zip(starts, lengths, strict=False)]


class _Edit:
    """What is known of an edit: which old entries lie where, and which stretches changed or are zeros."""

    def __init__(
        self, old: Sequence[Entry], size: int, dirty: Sequence[Range], holes: Sequence[Range], sizes: Sizes
    ) -> None:
        self.old = old
        self.size = size
        self.sizes = sizes
        self._starts = list(accumulate((entry.length for entry in old), initial=0))
        old_size = self._starts[-1]
        self._dirty = _merged([*dirty, (old_size, max(0, size - old_size))], size)
        self._dirty_stops = [stop for _, stop in self._dirty]
        clean_holes = (
            piece
            for index, entry in enumerate(old)
            if entry.is_hole
            for piece in self._clean_pieces(self._starts[index], min(size, self._starts[index + 1]))
        )
        zeros = _merged([*holes, *clean_holes], size)
        self._zeros = [(first, stop) for first, stop in zeros if stop - first >= sizes.least]

    def stretches(self) -> Iterator[tuple[int, int, bool]]:
        """Offset, length and is-hole of the parts between which content is never cut together."""
        position = 0
        for first, stop in self._zeros:
            if position < first:
                yield position, first - position, False
            yield first, stop - first, True
            position = stop
        if position < self.size:
            yield position, self.size - position, False

    def starting_at(self, position: int) -> int | None:
        """The index of the old entry that starts here."""
        index = bisect_left(self._starts, position)
        return index if index < len(self.old) and self._starts[index] == position else None

    def is_same_hole(self, index: int, length: int) -> bool:
        """Whether this old entry is a hole of just this length that was not written to."""
        return self.old[index].is_hole and self.old[index].length == length and self._is_clean(*self._bounds(index))

    def kept_at(self, position: int, start: int, stop: int) -> int | None:
        """The index of the old chunk that starts here and would be cut here again, in a stretch start .. stop."""
        index = self.starting_at(position)
        return index if index is not None and self._is_kept(index, start, stop) else None

    def next_kept(self, position: int, start: int, stop: int) -> int:
        """The first old boundary after `position` from which on chunks may stay (looking one window far), or `stop`."""
        index = bisect_right(self._starts, position)
        while index < len(self.old) and self._starts[index] < min(stop, position + WINDOW):
            if self._is_kept(index, start, stop):
                return self._starts[index]
            index += 1
        return stop

    def is_settled(self, position: int, end: int, start: int, stop: int) -> bool:
        """Whether a chunk from `position` in which no cut point was found ends at `end`, as it did before the edit.

        It does when nothing changed among the bytes that decided on `end`. This spares reading the next chunk.
        """
        index = self.starting_at(position)
        if index is None or self.old[index].is_hole or self._starts[index + 1] != end:
            return False
        decided_by = max(position, end - _HASH_REACH)
        return self._is_clean(decided_by, end) and self.kept_at(end, start, stop) is not None

    def _is_kept(self, index: int, start: int, stop: int) -> bool:
        first, end = self._bounds(index)
        if self.old[index].is_hole or first < start or end > stop or not self._is_clean(first, end):
            return False
        if end == stop:
            return True
        # The byte behind a chunk decides on its end too, unless zeros of a hole ended it; and as bytes are looked at in
        # pairs, that byte may not be looked at when it is the last.
        is_ended_by_hole = index + 1 < len(self.old) and self.old[index + 1].is_hole
        return not is_ended_by_hole and stop - end > 1 and self._is_clean(end, end + 1)

    def _bounds(self, index: int) -> tuple[int, int]:
        return self._starts[index], self._starts[index + 1]

    def _is_clean(self, first: int, stop: int) -> bool:
        index = bisect_right(self._dirty_stops, first)
        return index == len(self._dirty) or self._dirty[index][0] >= stop

    def _clean_pieces(self, first: int, stop: int) -> Iterator[Range]:
        for index in range(bisect_right(self._dirty_stops, first), len(self._dirty)):
            dirty_first, dirty_stop = self._dirty[index]
            if dirty_first >= stop:
                break
            if first < dirty_first:
                yield first, dirty_first - first
            first = dirty_stop
        if first < stop:
            yield first, stop - first


def _merged(ranges: Iterable[Range], size: int) -> list[tuple[int, int]]:
    """These (offset, length) ranges as sorted (first, stop) pairs within 0 .. size that do not touch each other."""
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        first, stop = max(0, offset), min(size, offset + length)
        if first >= stop:
            continue
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((first, stop))
    return merged


@functools.cache
def _cutter(sizes: Sizes) -> FastCDC:
    """The cutter for these sizes; it holds nothing but its parameters, so that threads may share it."""
    return FastCDC(sizes.middle, min_size=sizes.least, max_size=sizes.most, normalized_chunking=sizes.normal)
