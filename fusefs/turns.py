"""Turns: how the kernel's requests take turns with everything else that the event loop does.

pyfuse3 asks trio to wait for each request, which costs more than a short answer does. Instead, requests that follow
each other at once are answered in one turn of the loop, which is ended after a millisecond for others' sake.
"""

import select
import time
from collections import deque
from types import TracebackType
from typing import Final

import trio

TURN_SECONDS: Final = 0.001
"""How long requests may keep the loop from its other tasks."""
LOOK_OUT_SECONDS: Final = 0.000_05
"""How long the next request is looked out for: to sleep and be woken takes about as long."""


class Door:
    """A lock for tasks of which any will do: who lets go of it may take it again before those who wait.

    So a task that answers request after request without ever waiting keeps at it, and the next one takes over as soon
    as an answer has to wait for something.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._wait()
        self._is_held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_held = False
        if self._waiting:
            trio.lowlevel.reschedule(self._waiting.popleft())

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()

        def stop(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(stop)


class Turns:
    """What pyfuse3 uses of trio, to be put in its place: all as in trio but for `Lock` and `lowlevel.wait_readable`."""

    Lock = Door
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self) -> None:
        self.lowlevel = self
        self._poll = select.poll()
        self._fd = -1
        self._ends_at = 0.0
        self._is_quick = False
        """Whether who asks comes back soon: then it is cheaper to look out for the next request than to sleep."""

    async def wait_readable(self, fd: int) -> None:
        """Returns when there is a request; within a turn at once, when there is one already or very soon."""
        answered_at = time.monotonic()
        if fd == self._fd and self._is_there_soon(answered_at):
            return
        await trio.lowlevel.wait_readable(fd)
        if fd != self._fd:
            self._poll.register(fd, select.POLLIN)
            self._fd = fd
        now = time.monotonic()
        self._is_quick = now - answered_at < LOOK_OUT_SECONDS
        self._ends_at = now + TURN_SECONDS

    def _is_there_soon(self, now: float) -> bool:
        until = min(now + LOOK_OUT_SECONDS, self._ends_at) if self._is_quick else now
        while now < self._ends_at:
            if self._poll.poll(0):
                return True
            now = time.monotonic()
            if now >= until:
                return False
        return False
