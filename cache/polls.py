"""Polls: one long poll for all spaces of a device, however many of them wait for news: connections are few.

Whoever waits first asks for all; when its own news comes, the next one asks. A drive without shares asks as it did.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from cache.errors import DiskFull
from cache.lease import Lease
from remote.protocol.errors import NotFound
from remote.protocol.ids import Rev, SpaceId
from remote.protocol.messages import Holding, PollAnswer
from remote.protocol.service import Service

SPACES_MAX: Final = 200
"""Spaces in one poll; those beyond are asked about each by itself, every now and then (see Sync)."""


_AGAIN_SECONDS_MAX: Final = 15.0


@dataclass(eq=False)
class _Waiter:
    space: SpaceId
    cursor: Rev
    answer: PollAnswer | None = None
    error: Exception | None = None
    woken: trio.Event = field(default_factory=trio.Event)

    @property
    def is_done(self) -> bool:
        return self.answer is not None or self.error is not None


class Polls:
    """The polls of one device."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.serial = 0
        """Of the list of spaces that the device knows; 0: it is being asked for."""
        self.on_spaces_changed: Callable[[], None] = lambda: None
        """Called when the user's spaces, or roles in them, are not as that list says."""
        self._waiting: dict[SpaceId, _Waiter] = {}
        # What was told last of spaces that do not wait just now: they are busy with it.
        self._told: dict[SpaceId, Rev] = {}
        # Of all spaces that are asked about, and what was said last of what is held.
        self._leases: dict[SpaceId, Lease] = {}
        self._said: dict[SpaceId, Holding] = {}
        self._leader: _Waiter | None = None
        self._asking: trio.CancelScope | None = None
        # Answers in a row that told no more than that the list of spaces is old.
        self._vain = 0

    def forget(self, space: SpaceId) -> None:
        """Nobody asks about this space any more."""
        for table in (self._told, self._leases, self._said):
            table.pop(space, None)

    async def poll(self, space: SpaceId, cursor: Rev, lease: Lease, wait_seconds: int) -> PollAnswer:
        """As Service.poll, for one space; several of these become one request.

        While it waits the lease is lowered as far as others need it. The room that comes with news is the caller's to
        take: he knows what of it is by a commit that is on its way.
        """
        self._leases[space] = lease
        told = self._told.get(space)
        is_new = told is None
        self._told[space] = max(told or cursor, cursor)
        if told is not None and told > cursor:
            # It moved on while its news was taken in.
            self._told[space] = cursor
            return PollAnswer({space: told}, 0)
        waiter = self._waiting[space] = _Waiter(space, cursor)
        try:
            is_lowered = self._held(space) != self._said.get(space)
            if (is_new or is_lowered) and self._asking is not None:
                # Who asks does not know of it yet.
                self._asking.cancel()
            while not waiter.is_done:
                if self._leader is None:
                    await self._lead(waiter, wait_seconds)
                else:
                    await waiter.woken.wait()
                    waiter.woken = trio.Event()
        finally:
            if self._waiting.get(space) is waiter:
                del self._waiting[space]
            if self._leader is None:
                self._wake_next()
        if waiter.error is not None:
            raise waiter.error
        assert waiter.answer is not None
        return waiter.answer

    async def _lead(self, waiter: _Waiter, wait_seconds: int) -> None:
        """Asks for all until this one has its answer."""
        self._leader = waiter
        try:
            while not waiter.is_done:
                with trio.CancelScope() as self._asking:
                    await self._ask(wait_seconds)
        finally:
            self._leader = self._asking = None

    async def _ask(self, wait_seconds: int) -> None:
        if self._vain > 1:
            # A space that is gone is still asked about, as the home cannot hear so yet (its disk may be full).
            await trio.sleep(min(2.0 ** min(self._vain - 2, 10), _AGAIN_SECONDS_MAX))
        cursors = dict(list(self._told.items())[:SPACES_MAX])
        # Who has its answer goes on from there, though it had no turn yet.
        cursors |= {one.space: one.cursor for one in self._waiting.values() if not one.is_done}
        self._said = {space: held for space in cursors if (held := self._held(space)) is not None}
        holding = self._said
        try:
            answer = await self._service.poll(cursors, wait_seconds, holding, self.serial)
        except NotFound as error:
            # One of them is not ours any more: who that is says the list of spaces.
            self.on_spaces_changed()
            self._end_all(None, error)
            return
        except Exception as error:  # noqa: BLE001 - raised by all who wait
            self._end_all(None, error)
            return
        self._vain = self._vain + 1 if answer.spaces_changed and not answer.heads else 0
        if answer.spaces_changed:
            # Not looked at until the new list is here: each poll would be answered at once.
            self.serial = 0
            self.on_spaces_changed()
        if not answer.heads:
            self._end_all(answer, None)
            return
        for space, head in answer.heads.items():
            self._told[space] = head
            one = self._waiting.get(space)
            if one is not None and head != one.cursor:
                one.answer = answer
                one.woken.set()
        for space, room in answer.rooms.items():
            one = self._waiting.get(space)
            if space in self._leases and not (one is not None and one.is_done):
                self._leases[space].take(room)

    def _held(self, space: SpaceId) -> Holding | None:
        """What is held of a space's quota: no more than is needed, and a share."""
        lease = self._leases.get(space)
        if lease is None:
            return None
        with suppress(DiskFull):  # then it is as it was
            lease.lower()
        return lease.held()

    def _end_all(self, answer: PollAnswer | None, error: Exception | None) -> None:
        for one in self._waiting.values():
            one.answer, one.error = answer, error
            one.woken.set()

    def _wake_next(self) -> None:
        """Who waits on asks from now on."""
        for one in self._waiting.values():
            if not one.is_done:
                one.woken.set()
                return
