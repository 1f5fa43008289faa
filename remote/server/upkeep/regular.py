"""Regular: the upkeep that a server does by itself where that is asked for: gc each day, scrub each month.

It rests as long as it works, in a thread of its own. What the end of the server cuts off goes on after its next start.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from remote.protocol.errors import RemoteError
from remote.server.database.accounts import put_setting, setting
from remote.server.database.connection import Database
from remote.server.instance import InstanceTrouble, only_one
from remote.server.keyring import Keyring
from remote.server.objects.store import Removable
from remote.server.upkeep.backing import COLLECT_LOCK
from remote.server.upkeep.collecting import Collector
from remote.server.upkeep.packing import Packer
from remote.server.upkeep.scrubbing import SCRUB_LOCK, Scrubber

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 3_600.0
"""So often it is looked what is due; also after a start, when the server has other things to do."""
REST_SECONDS_MAX: Final = 1.0
SCRUB_RATE: Final = 20 << 20
"""Bytes a second that scrubbing reads."""
_DAY_NS: Final = 86_400 * 10**9
_GC, _SCRUB = "upkeep_gc_ns", "upkeep_scrub_ns"
"""Settings that say when each was done last."""
_EVERY_NS: Final = {_GC: _DAY_NS, _SCRUB: 30 * _DAY_NS}


class Stopped(Exception):
    """The server stops."""


class Upkeep:
    """The upkeep of one instance, for as long as `run` runs."""

    def __init__(
        self,
        data: Path,
        database: Database,
        objects: Removable,
        keyring: Keyring,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._data = data
        self._database = database
        self._objects = objects
        self._keyring = keyring
        self._now_ns = now_ns
        self._stopping = threading.Event()
        self._worked_since = time.monotonic()

    async def run(self) -> None:
        """Looks what is due until it is cancelled; returns when the thread has ended, within about a second."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="upkeep")
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                try:
                    await asyncio.get_running_loop().run_in_executor(executor, self.once)
                except (RemoteError, OSError):
                    log.exception("upkeep failed; it is tried again in an hour")
        finally:
            self.stop()
            executor.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Ends what is being done, from another thread."""
        self._stopping.set()

    def once(self) -> None:
        """Does what is due; nothing while a command does the same."""
        try:
            if self._is_due(_GC):
                self._collect()
            if self._is_due(_SCRUB):
                self._scrub()
        except InstanceTrouble as error:
            log.info("upkeep waits: %s", error)
        except Stopped:
            return

    def _collect(self) -> None:
        with only_one(self._data, COLLECT_LOCK, "Collecting or a backup"):
            self._worked_since = time.monotonic()
            collector = Collector(self._database, self._objects, self._keyring, now_ns=self._now_ns, pause=self._rest)
            collected = collector.run()
            packer = Packer(self._database, self._objects, collector, now_ns=self._now_ns, pause=self._rest)
            packed = packer.run()
        self._note(_GC)
        log.info(
            "gc: %d chunks with %d bytes were removed, %d packs became %d",
            collected.chunks,
            collected.chunk_bytes,
            packed.packs,
            packed.became,
        )
        for sentence in collected.left_alone:
            log.warning("gc left as it is: %s", sentence)
        for name in packed.unreadable:
            log.warning("%s is damaged", name)

    def _scrub(self) -> None:
        with only_one(self._data, SCRUB_LOCK, "Another scrub"):
            scrubbed = Scrubber(self._database, self._objects, pace=self._pace).run()
        self._note(_SCRUB)
        log.info("scrub: %d objects with %d bytes were read", scrubbed.objects, scrubbed.object_bytes)
        if scrubbed.lost:
            log.error("scrub: %d chunks are lost: satchel-server scrub names the files", len(scrubbed.lost))

    def _is_due(self, what: str) -> bool:
        stored = self._database.read_now(partial(setting, name=what))
        # A clock that was set back would keep it away for as long.
        return stored is None or not 0 <= self._now_ns() - int(stored) < _EVERY_NS[what]

    def _note(self, what: str) -> None:
        self._database.write_now(partial(put_setting, name=what, value=str(self._now_ns()).encode()))

    def _rest(self) -> None:
        """As long as was worked since the last rest: devices come first."""
        self._wait(min(time.monotonic() - self._worked_since, REST_SECONDS_MAX))
        self._worked_since = time.monotonic()

    def _pace(self, size: int) -> None:
        self._wait(size / SCRUB_RATE)

    def _wait(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped
