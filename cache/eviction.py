"""Eviction: keeps the cache within its limit and the disk above its floor.

The limit is hard and counts everything: clean chunks, content not yet uploaded, and what is just being fetched. Clean
chunks that nobody needs are dropped. First go spare ones, which backups sent and nobody read. Then those that came in
last and were not wanted again while a tenth of the cache came in behind them, so that what is read through once
displaces nothing; when one of them is fetched again soon, it stays. When these take no more than their tenth, the
others are dropped by SIEVE: oldest first, but once spared when they were read since the hand last passed. What is
pinned, not yet uploaded or being read is never dropped: then writers wait for the uploads, and fetched content is not
kept.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from cache.chunks import Chunks
from cache.errors import DiskFull
from remote.protocol.ids import ChunkId

STEP: Final = 64
"""Chunks that are looked at, or dropped, before others have their turn."""
FLOOR_MAX: Final = 1 << 30
FLOOR_SHARE: Final = 0.02
TRIAL_SHARE: Final = 0.1
"""The part of the cache that is for chunks of which nobody knows yet whether they are wanted again."""
SPARE_SHARE: Final = 0.05
"""The part of the cache that content of backups may take once it is sent."""
_REMEMBERED_MIN: Final = 1_000
_LOOK_AGAIN_SECONDS: Final = 0.2
_UNASKED_BYTES: Final = 1 << 20
_UNASKED_SECONDS: Final = 0.1
"""For so many bytes within so long, the disk is not asked again how much of it is free."""


class Budget:
    """How many bytes this device may take on its disk, and the room that is left."""

    def __init__(
        self,
        limit_bytes: int,
        chunks: Chunks,
        dirty_bytes: Callable[[], int],
        pinned: Callable[[ChunkId], bool],
        *,
        floor_bytes: int | None = None,
    ) -> None:
        """`floor_bytes` of the disk stay free for others: None for 1 GiB, or 2 % of a small disk."""
        self.limit_bytes = limit_bytes
        self._chunks = chunks
        self._dirty_bytes = dirty_bytes
        self._pinned = pinned
        self._floor_bytes = floor_bytes
        self._reserved = 0
        # Up to this position chunks have stood their trial: what is there at the start has.
        self._border = chunks.order.newest
        chunks.is_pinned = pinned
        chunks.spare_limit_bytes = int(limit_bytes * SPARE_SHARE)
        self._proven_bytes = chunks.used_bytes
        # Failed their trial lately: fetched again, they pass.
        self._failed: OrderedDict[ChunkId, None] = OrderedDict()
        self._hand = 0
        self._dropped = 0
        self._one_at_a_time = trio.Lock()
        # When nothing could be dropped: the newest chunk then, and until when that is taken for granted.
        self._stuck: tuple[int, float] | None = None
        self._changed = trio.Event()
        self._released = trio.Event()
        # What the disk had above its floor when last asked, less what was granted since; until when that counts.
        self._unasked = 0
        self._unasked_until = 0.0

    @property
    def used_bytes(self) -> int:
        """Bytes taken: clean, dirty, and promised to fetches that go on."""
        return self._chunks.used_bytes + self._dirty_bytes() + self._reserved

    def has_room(self, n: int) -> bool:
        """Whether `n` more bytes fit just now, without dropping anything."""
        return self._lacking(n) <= 0

    @contextmanager
    def reserved(self, n: int) -> Iterator[None]:
        """Counts `n` bytes as taken while the block runs that takes them; enter it right after `make_room`."""
        self._reserved += n
        try:
            yield
        finally:
            self._reserved -= n
            released, self._released = self._released, trio.Event()
            released.set()

    async def make_room(self, n: int) -> None:
        """Drops clean chunks until `n` more bytes fit; raises DiskFull when what is left may not be dropped."""
        if self._lacking(n) <= 0:
            return
        if n > self.limit_bytes:
            raise DiskFull(f"{n} bytes are more than the whole cache may take ({self.limit_bytes}).")
        async with self._one_at_a_time:
            if (
                self._stuck is not None
                and self._stuck[0] == self._chunks.order.newest
                and trio.current_time() < self._stuck[1]
            ):
                raise DiskFull(self._why(n))
            begun = trio.current_time()
            rounds = 0
            while (lacking := self._lacking(n)) > 0:
                victims, is_end = self._choose(lacking)
                if victims:
                    rounds = 0 if await self._chunks.drop(victims) else rounds
                # A first round may do no more than take the marks of what was read; a third finds nothing new.
                rounds += is_end
                if rounds > 2 and self._reserved:
                    # What is being written becomes a chunk, that can be dropped, or nothing.
                    await self._released.wait()
                    rounds = 0
                elif rounds > 2:
                    # To look through a large cache again and again for nothing would take all of this processor.
                    now = trio.current_time()
                    self._stuck = self._chunks.order.newest, now + 10 * (now - begun)
                    raise DiskFull(self._why(n))
                await trio.lowlevel.checkpoint()

    async def trim(self, target_bytes: int) -> None:
        """Drops clean chunks until no more than this is used, or nothing is left that may be dropped."""
        async with self._one_at_a_time:
            rounds = 0
            while (over := self.used_bytes - target_bytes) > 0 and rounds < 3:
                victims, is_end = self._choose(over)
                if victims and await self._chunks.drop(victims):
                    rounds = 0
                rounds += is_end
                await trio.lowlevel.checkpoint()

    def disk(self) -> tuple[int, int, int]:
        """Bytes of the disk in all, free, and those that stay free for others."""
        total, free = _disk(self._chunks.directory) or (0, 0)
        return total, free, self._floor(total)

    async def wait_for_room(self, n: int, seconds: float) -> None:
        """Returns when `n` more bytes fit, which slows writers to the uploads' pace; raises DiskFull in the end."""
        deadline = trio.current_time() + seconds
        while True:
            changed = self._changed
            try:
                await self.make_room(n)
            except DiskFull:
                if n > self.limit_bytes or trio.current_time() >= deadline:
                    raise
            else:
                return
            # Whoever forgets to call `notice` costs a moment, not the write.
            with trio.move_on_at(min(deadline, trio.current_time() + _LOOK_AGAIN_SECONDS)):
                await changed.wait()

    def notice(self) -> None:
        """Tells waiting writers that there may be room now: an upload was accepted, or something was unpinned."""
        self._stuck = None
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _why(self, n: int) -> str:
        if self._over(n) <= 0:
            return "The disk is nearly full: Satchel keeps the last of it free for others. Make room on it."
        return (
            f"The cache is full ({self.used_bytes} of {self.limit_bytes} bytes) and all of it is pinned, in use or "
            "not yet uploaded. Wait for the uploads, unpin folders, or raise its size."
        )

    def _over(self, n: int) -> int:
        return self.used_bytes + n - self.limit_bytes

    def _lacking(self, n: int) -> int:
        """Bytes to drop before `n` more fit the limit, and leave the floor of the disk free; 0 or less for none."""
        over = self._over(n)
        now = time.monotonic()
        if n <= self._unasked and now < self._unasked_until:
            # Small writes come by the thousand, and asking takes as long as the journal's append.
            self._unasked -= n
            return over
        disk = _disk(self._chunks.directory)
        if disk is None:
            return over
        total, free = disk
        lacking = self._floor(total) + n - free
        self._unasked, self._unasked_until = min(-lacking, _UNASKED_BYTES), now + _UNASKED_SECONDS
        return max(over, lacking)

    def _floor(self, total: int) -> int:
        return min(FLOOR_MAX, int(total * FLOOR_SHARE)) if self._floor_bytes is None else self._floor_bytes

    def _choose(self, lacking: int) -> tuple[list[ChunkId], bool]:
        """The next chunks to drop, and whether the hand reached the last one and starts over."""
        if spare := self._chunks.take_spare(STEP):
            return spare, False
        self._proven_bytes = min(self._proven_bytes, self._chunks.used_bytes)
        on_trial = self._chunks.used_bytes - self._proven_bytes
        if on_trial > TRIAL_SHARE * self._chunks.used_bytes:
            victims = self._judge(lacking)
            if victims or self._border < self._chunks.order.newest:
                return victims, False
        return self._choose_proven(lacking)

    def _judge(self, lacking: int) -> list[ChunkId]:
        """Of the next chunks on trial, those that were not wanted again."""
        victims: list[ChunkId] = []
        rows = self._chunks.order.after(self._border, STEP)
        for position, chunk_id in rows:
            self._border = position
            weight = self._chunks.weight(chunk_id)
            is_known = self._failed.pop(chunk_id, self) is None
            if self._is_kept(chunk_id) or self._chunks.order.take_visited(position) or is_known:
                self._proven_bytes += weight
                continue
            victims.append(chunk_id)
            self._failed[chunk_id] = None
            lacking -= weight
            if lacking <= 0:
                break
        while len(self._failed) > max(_REMEMBERED_MIN, 2 * self._chunks.order.count):
            self._failed.popitem(last=False)
        if not rows:
            self._border = self._chunks.order.newest
        return victims

    def _choose_proven(self, lacking: int) -> tuple[list[ChunkId], bool]:
        victims: list[ChunkId] = []
        rows = [row for row in self._chunks.order.after(self._hand, STEP) if row[0] <= self._border]
        for position, chunk_id in rows:
            self._hand = position
            if self._is_kept(chunk_id) or self._chunks.order.take_visited(position):
                continue
            victims.append(chunk_id)
            weight = self._chunks.weight(chunk_id)
            self._proven_bytes -= weight
            lacking -= weight
            if lacking <= 0:
                break
        self._dropped += len(victims)
        is_end = lacking > 0 and len(rows) < STEP
        # While others come in as fast, the hand would never reach the end, and what was read once long ago would stay
        # for ever.
        if is_end or self._dropped > self._chunks.order.count:
            self._hand = 0
            self._dropped = 0
        return victims, is_end

    def _is_kept(self, chunk_id: ChunkId) -> bool:
        return self._chunks.is_being_used(chunk_id) or self._pinned(chunk_id)


def _disk(directory: Path) -> tuple[int, int] | None:
    """Total and free bytes of the disk, None when the directory is not there."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
