"""Room: what programs write fits the cache, or they wait until something was sent; how long, and what they are told."""

import logging
from collections.abc import Callable
from typing import Final

import trio

from cache.ahead import Ahead
from cache.errors import DiskFull
from cache.eviction import Budget
from cache.staging import Stagings
from cache.tree import Tree
from fusefs.opened import OpenFile
from remote.protocol.ids import SpaceId

log = logging.getLogger(__name__)

_WAIT_SECONDS: Final = 60.0
_WAIT_AWAY_SECONDS: Final = 3.0
"""How long a writer waits for uploads to make room: with the server, and without it, when it is to say so soon."""
_WAIT_MOST_SECONDS: Final = 3_600.0
"""However much is sent meanwhile."""
_LOOK_SECONDS: Final = 1.0
_SENT: Final = 16 << 10
"""Who asks the server for news sends a little, too."""


class Room:
    """Room for what programs write."""

    def __init__(self, tree: Tree, stagings: Stagings, budget: Budget) -> None:
        self._tree = tree
        self._stagings = stagings
        self._budget = budget
        self.is_online: Callable[[], bool] = lambda: True
        """Whether the server can be reached: then what was written is being sent, which makes room."""
        self.uploaded: Callable[[], int] = lambda: 0
        """Grows while something is being sent."""
        self.ahead: Ahead | None = None
        """Makes room by sending what is being written."""
        self.aheads: dict[SpaceId, Ahead] = {}
        """The same for files of shared spaces."""
        # A write waited for room in vain, and nothing was sent since.
        self._is_full = False
        self._full = ""

    @property
    def full(self) -> str:
        """Why programs cannot write, a sentence; empty when they can."""
        return self._full if self._is_full else ""

    def sent(self) -> None:
        """Something that was written is on the server, so there may be room again."""
        self._is_full = False

    async def make(self, file: OpenFile, n: int) -> None:
        """Returns when so many bytes more may be written to the file; raises DiskFull."""
        if self._budget.has_room(n):
            file.is_refused = self._is_full = False
            return
        own_bytes = file.staging.dirty_bytes if file.staging is not None else 0
        can_help = self._can_help(file)
        # To wait for room that only this file takes is in vain when it cannot be sent. And after one write was refused
        # the file is not whole: were each of the thousands that follow to wait, it would look like a hang.
        # The kernel writes one file back after the other: the wait of the first is that of all.
        is_in_vain = file.is_refused or self._is_full or own_bytes >= self._stagings.total_bytes
        if can_help:
            is_in_vain = file.is_helpless
        try:
            await self._wait(file, n, 0.0 if is_in_vain else _WAIT_SECONDS)
        except DiskFull as error:
            if not self._is_full:
                log.warning("programs cannot write: %s", error)
            self._full = str(error)
            if not self.is_online():
                self._full += " Nothing is sent now, which would make room."
            file.is_refused = self._is_full = True
            file.is_helpless = file.is_helpless and self._can_help(file)
            raise
        file.is_refused = file.is_helpless = self._is_full = False

    def note(self, file: OpenFile) -> None:
        """What is written to the file may be sent ahead, from now on."""
        if (ahead := self._ahead_of(file)) is not None and file.staging is not None and not file.is_orphan:
            ahead.note(file.node, file.staging)

    def _can_help(self, file: OpenFile) -> bool:
        """Whether room comes of sending what is written to this file."""
        ahead = self._ahead_of(file)
        if ahead is None or file.is_orphan or not self.is_online():
            return False
        return ahead.can_help(file.node, file.staging)

    def _ahead_of(self, file: OpenFile) -> Ahead | None:
        if not self.aheads:
            return self.ahead
        record = self._tree.record(file.node)
        return self.aheads.get(record.space, self.ahead) if record is not None else self.ahead

    async def _wait(self, file: OpenFile, n: int, seconds: float) -> None:
        """Returns when there is room; raises DiskFull when nothing was sent for so long, sooner without the server."""
        moved, since = self.uploaded(), trio.current_time()
        limit = since + _WAIT_MOST_SECONDS
        was_away = False
        while True:
            # Whether it can be reached is found out again and again while it is away.
            was_away = was_away or not self.is_online()
            self.note(file)
            left = min(seconds, _WAIT_AWAY_SECONDS if not self.is_online() else seconds) - (trio.current_time() - since)
            try:
                await self._budget.wait_for_room(n, max(0.0, min(_LOOK_SECONDS, left)))
            except DiskFull:
                now = trio.current_time()
                if self.is_online() and self.uploaded() - moved >= _SENT and now < limit:
                    moved, since = self.uploaded(), now
                elif left <= _LOOK_SECONDS:
                    file.is_helpless = not was_away and self.is_online()
                    raise
            else:
                return
