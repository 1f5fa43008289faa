"""Needs: a device needs more of a quota than is left, while others hold some of it: these are asked to let go.

Hints only, kept in memory; what each device holds stands in rows (leases.py). Lives on the event loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from remote.protocol.errors import QuotaExceeded
from remote.protocol.ids import DeviceId, SpaceId
from remote.server import leases
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.hub import Hub
from remote.server.leases import Holder
from remote.server.quotas import bounded
from remote.server.rights import Right, member_space

T = TypeVar("T")

NEED_SECONDS: Final = 2.0
"""For so long those that are asked are waited for: a program waits meanwhile."""
_AGAIN_SECONDS: Final = 10.0
"""Who got no more since he was asked is not asked again for so long: what he holds he needs, or he is away."""
_SCARCE_SECONDS: Final = 30.0
"""For so long after a need nobody gets a share that he did not ask for: it would have to be asked for at once."""


@dataclass(eq=False)
class Need:
    """One that waits until others let go."""

    clock: Callable[[], float]
    ends_at: float
    waiting_for: set[Holder]
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def hears(self) -> bool:
        """Returns when one of them was heard since this was asked last; False when there is nobody to wait for."""
        if self.waiting_for or self.moved.is_set():
            try:
                async with asyncio.timeout(max(0.0, self.ends_at - self.clock())):
                    await self.moved.wait()
            except TimeoutError:
                return False
            self.moved.clear()
            return True
        return False


@dataclass
class _Asked:
    """`lease`: what it held when it was asked, or holds itself to since."""

    lease: int
    asked_at: float
    is_told: bool = False
    is_heard: bool = False


class Needs:
    """Who is asked to let go of what he does not need."""

    def __init__(self, database: Database, hub: Hub, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._hub = hub
        self._clock = clock
        self._asked: dict[Holder, _Asked] = {}
        self._open: set[Need] = set()
        self._scarce_until: dict[SpaceId, float] = {}

    def is_scarce(self, home: SpaceId) -> bool:
        """Whether somebody needs what this home pays for, or did just now; may be asked from any thread."""
        return self._clock() < self._scarce_until.get(home, 0.0)

    async def met(self, device: Device, space: SpaceId, attempt: Callable[[], Awaitable[T]]) -> T:
        """What the attempt to write something gives; made again when the quota was only kept for others, who let go."""
        try:
            return await attempt()
        except QuotaExceeded as error:
            if not error.is_kept:
                raise
        async with self.need(device, space) as need:
            while True:
                # Also at first: somebody may have let go before he was asked.
                try:
                    return await attempt()
                except QuotaExceeded:
                    if not await need.hears():
                        raise

    @asynccontextmanager
    async def need(self, device: Device, space: SpaceId, needed: int = 0) -> AsyncIterator[Need]:
        """Asks all others who hold some of what pays for the space, if that is enough; not who just had no more."""

        def look(session: Session) -> tuple[SpaceId, dict[Holder, int]]:
            row = bounded(session, member_space(session, space, device.user, Right.WRITE))
            is_enough = needed <= leases.most(row)
            holders = leases.elsewhere(session, row, device.device, time.time_ns()) if is_enough else {}
            return row.payer or row.space, holders

        home, holders = await self._database.read(look)
        need = self._ask(home, holders)
        try:
            yield need
        finally:
            self._open.discard(need)

    def _ask(self, home: SpaceId, holders: Mapping[Holder, int]) -> Need:
        now = self._clock()
        if holders:
            self._scarce_until[home] = now + _SCARCE_SECONDS
        self._asked = {one: asked for one, asked in self._asked.items() if now < asked.asked_at + _AGAIN_SECONDS}
        fresh = {
            one: _Asked(lease, now)
            for one, lease in holders.items()
            if one not in self._asked or lease > self._asked[one].lease
        }
        self._asked |= fresh
        need = Need(self._clock, now + NEED_SECONDS, {one for one in holders if self._may_be_heard(one, now)})
        self._open.add(need)
        self._hub.look({space for space, _ in fresh})
        return need

    def _may_be_heard(self, holder: Holder, now: float) -> bool:
        asked = self._asked[holder]
        return not asked.is_heard and now < asked.asked_at + NEED_SECONDS

    def untold(self, device: DeviceId, spaces: Collection[SpaceId]) -> list[SpaceId]:
        """Those of these spaces in which the device is asked and was not told so."""
        return [space for space in spaces if (asked := self._asked.get((space, device))) and not asked.is_told]

    def tell(self, device: DeviceId, spaces: Collection[SpaceId]) -> None:
        """The device is told now."""
        for space in self.untold(device, spaces):
            self._asked[space, device].is_told = True

    def heard(self, device: DeviceId, holding: Mapping[SpaceId, int]) -> None:
        """The device holds itself to these leases: what is beyond them is free."""
        for space, lease in holding.items():
            asked = self._asked.get((space, device))
            if asked is None or not asked.is_told or asked.is_heard:
                continue
            asked.is_heard, asked.lease = True, lease
            for need in self._open:
                if (space, device) in need.waiting_for:
                    need.waiting_for.discard((space, device))
                    need.moved.set()
