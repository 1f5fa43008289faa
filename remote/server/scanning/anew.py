"""Anew: shows all content to the scanner again when that has learnt new patterns, versions of the past included.

One pass goes through the versions of each space, the newest first, those that lost a merge too; each content once, at
a pace that leaves the machine to others. A pass that is under way goes on to its end when patterns change once more:
else what is oldest in a large store would never have its turn. Then the next begins.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from remote.protocol.errors import RemoteError
from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.server.content import Contents
from remote.server.database import jobs as rows
from remote.server.database.connection import Database, Row, Session
from remote.server.database.jobs import Cursor
from remote.server.database.retention import every_space
from remote.server.database.spaces import space_row
from remote.server.database.trees import LOST
from remote.server.jobs.following import Batch, Changed, Stopped, TableCursors
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.scanning.clamd import Clamd, ScannerAway, TooLarge
from remote.server.scanning.showing import Showing
from remote.server.states import opened_state

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 600.0
"""How often the scanner is asked what it knows."""
BYTES_PER_SECOND: Final = 16 << 20
"""What is scanned at most; and after each content there is a rest as long as that took."""
_VERSIONS: Final = 20
"""Looked at in one step."""


class Anew:
    """The passes of one server.

    How far each space's is, is kept as a cursor of a job: `life` names the patterns that it began with, and what is at
    `rev` and `ordinal` and behind is done; rev 0: all.
    """

    def __init__(
        self, database: Database, keyring: Keyring, contents: Contents, clamd: Clamd, showing: Showing
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._contents = contents
        self._clamd = clamd
        self._showing = showing
        self._cursors = TableCursors(database, "scan anew")
        self._stopping = threading.Event()
        self.patterns = 0
        """Stands for what the scanner knew when it was asked last."""

    async def run(self) -> None:
        """Looks for new patterns, and does what there is to do then, until it is cancelled."""
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1, thread_name_prefix="scan-anew")
        try:
            while True:
                try:
                    await loop.run_in_executor(executor, self.go_through)
                except Stopped:
                    return
                except (ScannerAway, RemoteError, OSError) as error:
                    log.warning("scanning anew waits %.0f s: %s", CHECK_SECONDS, error)
                except Exception:
                    log.exception("scanning anew failed; it goes on there in %.0f s", CHECK_SECONDS)
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            self._stopping.set()
            self._clamd.close()
            executor.shutdown(cancel_futures=True)

    def go_through(self) -> None:
        """Scans what is to be scanned anew by what the scanner knows now, a few versions of each space in turn."""
        told = hashlib.blake2b(self._clamd.version().encode(), digest_size=8).digest()
        self.patterns = int.from_bytes(told) >> 1
        todo = deque(self._database.read_now(every_space))
        while todo:
            space = todo.popleft()
            if self.step(space):
                todo.append(space)

    def step(self, space: SpaceId) -> bool:
        """Scans the next versions of a space; whether there may be more."""
        cursor = self._cursors.cursor(space)
        if cursor is not None and cursor.rev == 0 and cursor.life == self.patterns:
            return False
        row = self._database.read_now(lambda session: space_row(session, space))
        if row is None:
            return False
        if cursor is None or cursor.rev == 0:
            cursor = Cursor(self.patterns, Rev(row.head + 1), 0, NodeId(0))
            log.info("space %d is scanned anew, from rev %d back", space, row.head)
        key = self._keyring.key(row)
        found = self._database.read_now(lambda session: _before(session, space, cursor))
        done = cursor
        try:
            for one in found:
                self._look(space, key, one)
                done = Cursor(cursor.life, Rev(one[0]), one[1], NodeId(0))
            if len(found) < _VERSIONS:
                done = Cursor(cursor.life, Rev(0), 0, NodeId(0))
        finally:
            self._cursors.put(space, done)
        return True

    def _look(self, space: SpaceId, key: SpaceKey, row: Row) -> None:
        rev, _, node, state, manifest, mark, present, is_seen = row
        if self._stopping.is_set():
            raise Stopped
        if state is None or manifest is None or is_seen:
            return
        one = Changed(
            NodeId(node), Rev(rev), opened_state(key, state, manifest), is_now=rev == present and mark != LOST
        )
        if one.state is None or one.state.content is None or not one.state.content.size:
            return
        began = time.monotonic()
        try:
            self._showing.show(Batch(space, key, (one,), self._contents, self._stopping), one, is_new=False)
        except TooLarge:
            # Of what is there now that was noted when it came.
            return
        except RemoteError as error:
            log.warning("node %d of space %d at rev %d is not scanned anew: %s", node, space, rev, error)
        took = time.monotonic() - began
        if self._stopping.wait(max(took, one.state.content.size / BYTES_PER_SECOND - took)):
            raise Stopped


def _before(session: Session, space: SpaceId, cursor: Cursor) -> Sequence[Row]:
    return list(rows.versions_before(session, space, cursor.rev, cursor.ordinal, _VERSIONS))
