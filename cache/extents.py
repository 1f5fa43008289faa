"""Extents: which stretches of a file something is true of; pure, half-open, sorted, never touching each other."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Extents:
    """A set of byte positions, kept as few stretches [start, stop)."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in pairs:
            self.add(start, stop)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # they change

    def __repr__(self) -> str:
        return f"Extents({list(self)})"

    def copy(self) -> "Extents":
        """The same stretches, to be changed apart from these."""
        other = Extents()
        other._starts = self._starts.copy()
        other._stops = self._stops.copy()
        return other

    def add(self, start: int, stop: int) -> None:
        """Takes [start, stop) in; nothing when it is empty."""
        if start >= stop:
            return
        starts, stops = self._starts, self._stops
        if stops and start == stops[-1]:  # a program that writes from front to back
            stops[-1] = stop
            return
        first = bisect_left(stops, start)
        last = bisect_right(starts, stop)
        if first < last:
            start = min(start, starts[first])
            stop = max(stop, stops[last - 1])
        starts[first:last] = [start]
        stops[first:last] = [stop]

    def cut(self, size: int) -> None:
        """Lets go of everything at and after `size`."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:]
        del self._stops[keep:]
        if keep and self._stops[-1] > size:
            self._stops[-1] = size

    def remove(self, start: int, stop: int) -> None:
        """Lets go of [start, stop)."""
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        pairs = []
        if self._starts[first] < start:
            pairs.append((self._starts[first], start))
        if self._stops[last - 1] > stop:
            pairs.append((stop, self._stops[last - 1]))
        self._starts[first:last] = [pair[0] for pair in pairs]
        self._stops[first:last] = [pair[1] for pair in pairs]

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of [start, stop) is in."""
        if start >= stop:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._stops[at] >= stop

    def split(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        """[start, stop) in order as (start, stop, whether it is in)."""
        at = bisect_right(self._stops, start)
        while start < stop:
            if at == len(self._starts) or self._starts[at] >= stop:
                yield start, stop, False
                return
            if self._starts[at] > start:
                yield start, self._starts[at], False
                start = self._starts[at]
            end = min(self._stops[at], stop)
            yield start, end, True
            start = end
            at += 1

    def total(self) -> int:
        """How many positions are in."""
        return sum(self._stops) - sum(self._starts)

    def narrowest_gaps(self, count: int) -> list[tuple[int, int]]:
        """The `count` narrowest gaps between stretches, in order of position."""
        gaps = sorted(zip(self._stops, self._starts[1:], strict=False), key=lambda gap: gap[1] - gap[0])
        return sorted(gaps[:count])
