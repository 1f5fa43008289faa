"""Cursor: how one open file is being read, and what is worth fetching ahead for that; pure."""

from typing import Final

from cache.filling import Misses

AHEAD_MIN: Final = 1 << 20
AHEAD_MAX: Final = 32 << 20
_SLACK: Final = 1 << 20
"""How far the kernel's own read-ahead may put reads out of order."""


class Cursor:
    """How one open file is being read; notices a program that reads from front to back."""

    __slots__ = ("_last", "ahead", "high", "misses", "steps", "window")

    def __init__(self) -> None:
        self.high = 0
        """Where the reads have come to."""
        self.ahead = 0
        """Up to where content was fetched ahead."""
        self.window = AHEAD_MIN
        """Bytes to fetch ahead with the next step."""
        self.steps = 0
        """Reads in a row, each going on where the last ended."""
        self.misses = Misses()
        self._last = (-1, -1)

    @property
    def is_sequential(self) -> bool:
        """Whether this is worth fetching ahead for."""
        return self.steps >= 2

    def note(self, start: int, stop: int) -> None:
        """Takes one read into account."""
        if (start, stop) == self._last:
            return
        self._last = (start, stop)
        if self.high - _SLACK <= start <= max(self.high, self.ahead) + (_SLACK if self.steps else 0):
            if stop > self.high:
                self.high = stop
                self.steps += 1
        else:
            self.high = self.ahead = stop
            self.steps = 1
            self.window = AHEAD_MIN

    def next_step(self, size: int, most: float = AHEAD_MAX) -> tuple[int, int] | None:
        """What to fetch ahead now, if it is time: the window doubles, up to `most`, each time half of it was read."""
        window = int(min(self.window, most))
        if not (window and self.is_sequential) or self.ahead >= size or self.high + window // 2 < self.ahead:
            return None
        start = max(self.ahead, self.high)
        stop = min(size, self.high + window)
        self.window = min(window * 2, AHEAD_MAX)
        if stop <= start:
            return None
        self.ahead = stop
        return start, stop
