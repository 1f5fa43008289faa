"""Filling: a file that a program reads here and there is fetched whole, once that is cheaper than going on by frames.

Each read of 4 KiB in a cold place fetches a frame of 128 KiB and takes a round trip. When a 128th part of the file was
fetched that way (16 frames at least), the rest comes in order, in large requests. It goes on while the program does, as
long as the rest takes no more than FILL_SECONDS at the pace of this line: over a slow one, only what is read comes.
"""

from collections.abc import Iterable
from typing import Final

import trio

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

    __slots__ = ("count", "is_filling", "read_at", "tries")

    def __init__(self) -> None:
        self.count = 0
        self.read_at = 0.0
        """When the program read last, on trio's clock, be it a miss or not."""
        self.is_filling = False
        self.tries = 0
        """How often filling began: each time it takes twice as many misses, for what a slow line carried in vain."""

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
        enough = max(MISSES_MIN, manifest.size // (SHARE * FRAME)) << self.tries
        return not self.is_filling and self.count >= enough


async def fill(fetches: Fetches, groups: Iterable[list[Entry]], size: int, misses: Misses) -> None:
    """Fetches these groups of chunks, `size` bytes in all, in order, until it is not worth it any more."""
    rest = iter(groups)
    left = size
    is_worth_it = True
    begun, fetched_before = trio.current_time(), fetches.fetched_bytes

    def goes_on() -> bool:
        return is_worth_it and misses.is_going_on

    async def bring(most: int) -> None:
        nonlocal is_worth_it, left
        count = 0
        while count < most and goes_on() and (group := next(rest, None)):
            left -= sum(entry.length for entry in group)
            came = await fetches.fetch_ahead(group, goes_on)
            if not came:
                continue  # all of it is here, which says nothing about the line
            count += 1
            pace = (fetches.fetched_bytes - fetched_before) / max(trio.current_time() - begun, 0.001)
            is_kept = all(fetch.has_room for fetch in came)
            is_worth_it = is_worth_it and is_kept and left <= pace * FILL_SECONDS

    await bring(1)
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(bring, size)
