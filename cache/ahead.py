"""Ahead: what a program is still writing goes to the server when it fills the cache, and leaves this disk.

So a file may be larger than the cache, and who writes it goes as fast as the upload. Nothing is committed: the parts
that were sent become the base of the file's staging, which is read as any content is.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from cache.errors import CacheError
from cache.eviction import Budget
from cache.push import Push
from cache.staging import Staging, Stagings
from cache.upload import Upload
from remote.protocol.errors import RemoteError
from remote.protocol.ids import NodeId

log = logging.getLogger(__name__)

LEAST: Final = 3 << 20
"""Bytes of a staging that are worth it: two of the largest chunks, of which the last stays."""
MOST: Final = 64 << 20
_FULL_SHARE: Final = 2
"""Begun with when one part in so many of the cache is not sent; then the rest is for what is written meanwhile."""
_ROUND_SHARE: Final = 4
"""One part in so many of the cache is sent before it is given back: a writer waits no longer than for that."""
_AGAIN_SECONDS: Final = 1.0
RENEW_SECONDS: Final = 6 * 3_600.0
"""Garbage on a server is what nothing needed for days."""
_RENEW_AGAIN_SECONDS: Final = 600.0


class Ahead:
    """Sends ahead what is written to files of one space; `run` must be running."""

    def __init__(
        self,
        stagings: Stagings,
        budget: Budget,
        upload: Upload,
        push: Push,
        is_written: Callable[[NodeId, Staging], bool],
        add_small: Callable[..., None],
    ) -> None:
        """`is_written`: whether this is what a program writes to the node; `add_small` keeps leaves of manifests."""
        self._stagings = stagings
        self._budget = budget
        self._upload = upload
        self._push = push
        self._is_written = is_written
        self._add_small = add_small
        self._wanted: dict[NodeId, Staging] = {}
        self._changed = trio.Event()

    def note(self, node: NodeId, staging: Staging) -> None:
        """Looks whether what is written to this file should go ahead; returns at once."""
        if (
            staging.dirty_bytes >= LEAST
            and node not in self._wanted
            and self._stagings.total_bytes * _FULL_SHARE >= self._budget.limit_bytes
            and self._push.may_be_sent(node)
        ):
            self._wanted[node] = staging
            self._changed.set()

    def can_help(self, node: NodeId, staging: Staging | None) -> bool:
        """Whether room can be made by sending what is written to this file."""
        return staging is not None and staging.dirty_bytes >= LEAST and self._push.may_be_sent(node)

    async def run(self) -> None:
        """Works until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew)
            await self.send()

    async def _renew(self) -> None:
        """Keeps the server from taking what was sent ahead for garbage, as long as it is not committed."""
        while True:
            seconds = RENEW_SECONDS
            for staging_id in self._stagings.all_ids():
                base = self._stagings.base_of(staging_id)
                try:
                    missing = await self._upload.renew(base) if base is not None and base.size >= LEAST else set()
                except (RemoteError, CacheError):
                    seconds = _RENEW_AGAIN_SECONDS
                    continue
                if missing:
                    log.warning("staging %x: the server lacks %d chunks that it was sent", staging_id, len(missing))
            await trio.sleep(seconds)

    async def send(self) -> None:
        """The same for one space of several, of which another one's `run` looks after what was sent ahead."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            while self._wanted:
                node, staging = next(iter(self._wanted.items()))
                try:
                    await self._send(node, staging)
                except (RemoteError, CacheError, OSError) as error:
                    # Whoever needs the room tries again, and is told in the end; Sync tells of the server.
                    log.info("node %d: what is written to it cannot be sent ahead: %s", node, error)
                    await trio.sleep(_AGAIN_SECONDS)
                finally:
                    self._wanted.pop(node, None)

    async def _send(self, node: NodeId, staging: Staging) -> None:
        most = max(LEAST, min(MOST, self._budget.limit_bytes // _ROUND_SHARE))
        async with self._push.kept_back(node):
            if not self._is_written(node, staging):
                return
            front = await self._upload.front(staging, most)
            if front is None or staging.marks != front.mark or not self._is_written(node, staging):
                return
            for chunk, plain in front.small:
                self._add_small(chunk, plain)
            staging.rebase_front(front.manifest, front.stop)
            if staging.is_counted_on:
                with self._stagings.store.change() as change:
                    staging.keep(change)
                await trio.to_thread.run_sync(self._stagings.store.sync)
            # No await from here: a write that came in between would be given back.
            staging.free(front.last)
        self._budget.notice()
