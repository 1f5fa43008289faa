"""Quota: whether what programs write fits the lease that the server gave this device, also without the server.

Where a program writes straight to us, write(2) says when it does not, and nothing of that write is taken. What the
kernel takes on its own account is kept here all the same; who wrote it is told by close(2) and fsync(2), and it is sent
when there is room for it.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from cache.lease import Lease
from fusefs.errors import OverQuota
from remote.protocol.errors import RemoteError
from remote.protocol.ids import NodeId

NEAR_BYTES: Final = 64 << 20
"""With less room than this, files that are opened only to be written are written straight to us."""
_AHEAD_BYTES: Final = 16 << 20
"""So much more than is needed is asked for, so that not each write asks."""
_ASK_SECONDS: Final = 5.0
"""For so long a write waits for an answer; the server asks other devices meanwhile for what they do not need."""
_AGAIN_SECONDS: Final = 0.5
"""After the server had no more to give it is not asked again for so long."""


async def _nobody(_wanted: int, _needed: int) -> None:
    """Nobody can be asked."""


class Quota:
    """Bounds the sum of all sizes, holes included, as the server does when it takes a commit."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.is_online: Callable[[], bool] = lambda: False
        """Whether there is somebody to ask for more."""
        self.ask: Callable[[int, int], Awaitable[None]] = _nobody
        """Asks the server for a lease of so many bytes, and for what is needed of it; may raise RemoteError."""
        # At most so much larger is what is here than what is there; when that is too much, it is looked up.
        self._known_bound: int | None = None
        self._asked_at = float("-inf")

    @property
    def left_bytes(self) -> int | None:
        """By how much content may still grow; None: there is no quota."""
        if not self.lease.has_quota:
            return None
        return self._limit() - self.lease.growth()

    @property
    def is_near(self) -> bool:
        """Whether there is so little room that a program may soon hear of it."""
        return self.lease.has_quota and self._limit() - self._bound < NEAR_BYTES

    @property
    def _bound(self) -> int:
        if self._known_bound is None:
            self._known_bound = self.lease.growth()
        return self._known_bound

    @_bound.setter
    def _bound(self, growth: int) -> None:
        self._known_bound = growth

    def _limit(self) -> int:
        room = self.lease.room
        return max(room.lease, room.left) if self.is_online() else room.lease

    def grew(self, more_bytes: int) -> None:
        """Content here has grown by so much."""
        if more_bytes > 0 and self._known_bound is not None:
            self._known_bound += more_bytes

    async def make_room(self, more_bytes: int) -> None:
        """Returns when content may grow by so much; raises OverQuota when it may not."""
        if more_bytes > 0:
            await self._fit(more_bytes)

    async def settle(self, node: NodeId) -> None:
        """Raises OverQuota when a file that was flushed has grown, and all together by more than there is room for."""
        if self.lease.has_quota and self._bound > self.lease.room.lease and self.lease.growth_of(node) > 0:
            await self._fit(0)

    async def _fit(self, more_bytes: int) -> None:
        lease = self.lease
        if not lease.has_quota or self._bound + more_bytes <= lease.room.lease:
            return
        self._bound = lease.growth()
        if self._bound + more_bytes > lease.room.lease:
            await self._ask(self._bound + more_bytes)
        if self._bound + more_bytes > lease.room.lease:
            left = max(0, lease.room.lease - self._bound)
            raise OverQuota(f"The quota of this drive is used up: {left} bytes are left.")

    async def _ask(self, wanted: int) -> None:
        if not self.is_online() or trio.current_time() < self._asked_at + _AGAIN_SECONDS:
            return
        try:
            with trio.move_on_after(_ASK_SECONDS):
                await self.ask(wanted + _AHEAD_BYTES, wanted)
        except RemoteError:
            # Away after all: the lease is what counts.
            return
        self._bound = self.lease.growth()
        if wanted > self.lease.room.lease:
            self._asked_at = trio.current_time()
