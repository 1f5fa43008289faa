"""Filling: a file that a program reads here and there is fetched whole, once that is cheaper than going on by frames.

Each read of 4 KiB in a cold place fetches a frame of 128 KiB and takes a round trip. When a 128th part of the file was
fetched that way (16 frames at least), the rest comes in order, in large requests. It goes on while the program does,
as long as the rest takes no more than FILL_SECONDS at the pace of this line, and fits a quarter of the cache.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import trio

from cache.fetch import Fetch
from cache.fetching import Fetches
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sealing import FRAME

MISSES_MIN: Final = 16
SHARE: Final = 128
"""A file is worth filling when this part of it was fetched by single frames."""
FILL_SHARE: Final = 4
"""Only a file that takes at most this part of the cache is filled."""
FILL_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 2.0
"""A program that did not read for so long is done with it."""
AT_ONCE: Final = 3
"""Groups of chunks on their way, one at first: reads of the program share the line and the processors with them."""


class Misses:
    """Reads of one open file, in no order, that needed the server, without a longer pause between them."""

    __slots__ = ("count", "is_filling", "read_at")

    def __init__(self) -> None:
        self.count = 0
        self.read_at = 0.0
        """When the program read last, on trio's clock, be it a miss or not."""
        self.is_filling = False

    @property
    def is_going_on(self) -> bool:
        """Whether the program still reads."""
        return trio.current_time() - self.read_at < PAUSE_SECONDS

    def note_read(self) -> None:
        """The program reads."""
        if not self.is_going_on:
            self.count = 0
        self.read_at = trio.current_time()

    def is_enough(self, manifest: Manifest) -> bool:
        """Whether the file is worth filling now."""
        return not self.is_filling and self.count >= max(MISSES_MIN, manifest.size // (SHARE * FRAME))


async def fill(fetches: Fetches, groups: Iterable[list[Entry]], size: int, misses: Misses) -> None:
    """Fetches these groups of chunks, `size` bytes in all, in order, until it is not worth it any more."""
    flying: deque[list[Fetch]] = deque()
    begun, fetched_before = trio.current_time(), fetches.fetched_bytes
    at_once = 1
    left = size
    for group in groups:
        left -= sum(entry.length for entry in group)
        flying.append(fetches.want_ahead(group, lambda: misses.is_going_on))
        if len(flying) < at_once:
            continue
        at_once = min(at_once + 1, AT_ONCE)
        landed = flying.popleft()
        for fetch in landed:
            await fetch.done.wait()
        if not landed:
            continue  # all of it is here, which says nothing about the line
        is_kept = all(fetch.has_room for fetch in landed if fetch.plain is not None)
        pace = (fetches.fetched_bytes - fetched_before) / max(trio.current_time() - begun, 0.001)
        if not is_kept or not misses.is_going_on or left > pace * FILL_SECONDS:
            break
    for fetch in (fetch for landed in flying for fetch in landed):
        await fetch.done.wait()
