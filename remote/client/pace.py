"""Pace: how fast bytes may go one way, for threads and for the event loop alike, and whether uploads go on at all.

With a limit, each piece books its time in a row of all pieces. Those that somebody waits for book in a row of their
own, at the front: they never wait for the others, who make up for them later.
"""

import threading
import time
from typing import Final

import trio

LEAST: Final = 32 << 10
"""The slowest limit, in bytes per second: below, messages alone would come too late."""
SLOWEST: Final = 65_536
"""Bytes per second below which a line without a limit counts as unreachable."""
_SHARES: Final = 16
"""So many may be under way at once, each at its share of a limit."""
_PIECES_A_SECOND: Final = 16
_BURST_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.25
"""How often who waits looks whether the limit is another by now."""


class Lane:
    """One direction: `limit` bytes per second, 0 for as fast as it goes."""

    def __init__(self) -> None:
        self.limit = 0
        self._lock = threading.Lock()
        self._free = 0.0
        self._urgent_free = 0.0

    def set_limit(self, limit: int) -> None:
        """From now on; who waits by the old limit goes on at once."""
        with self._lock:
            self.limit = max(LEAST, limit) if limit else 0
            self._free = self._urgent_free = 0.0

    def piece(self, usual: int) -> int:
        """How many bytes to move at once: few where more would come in bursts, or keep others waiting."""
        return min(usual, max(1, self.limit // _PIECES_A_SECOND)) if self.limit else usual

    def seconds_for(self, count: int) -> float:
        """The longest that so many bytes may take."""
        return count / (min(SLOWEST, self.limit / _SHARES) if self.limit else SLOWEST)

    def book(self, count: int, now: float, *, is_urgent: bool) -> float:
        """When so many bytes may go, by the same clock as `now`; they count as gone."""
        with self._lock:
            if not self.limit:
                return now
            seconds = count / self.limit
            earliest = now - _BURST_SECONDS
            start = max(earliest, self._urgent_free if is_urgent else self._free)
            if is_urgent:
                self._urgent_free = start + seconds
            self._free = max(earliest, self._free) + seconds
            return start

    def wait(self, count: int, *, is_urgent: bool) -> None:
        """Returns, in a thread, when so many bytes may go."""
        limit = self.limit
        if not limit:
            return
        start = self.book(count, time.monotonic(), is_urgent=is_urgent)
        while self.limit == limit and (left := start - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))

    async def waited(self, count: int, *, is_urgent: bool) -> None:
        """As `wait`, in the event loop."""
        limit = self.limit
        if not limit:
            return
        start = self.book(count, time.monotonic(), is_urgent=is_urgent)
        while self.limit == limit and (left := start - time.monotonic()) > 0:  # noqa: ASYNC110 - time is what it waits for
            await trio.sleep(min(left, _LOOK_SECONDS))


class Gate:
    """Open, or shut: then content waits to be sent."""

    def __init__(self) -> None:
        self._opened: trio.Event | None = None

    @property
    def is_shut(self) -> bool:
        """Whether who comes now has to wait; any thread may ask."""
        return self._opened is not None

    def shut(self) -> None:
        """Holds up who comes from now on."""
        if self._opened is None:
            self._opened = trio.Event()

    def open(self) -> None:
        """Lets all go on."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.set()

    async def passed(self) -> None:
        """Returns when it is open."""
        while self._opened is not None:
            await self._opened.wait()
