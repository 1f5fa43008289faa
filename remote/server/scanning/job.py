"""Job: shows each new content to the scanner, once, behind the commits; and beside that all of it anew, see there."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from remote.protocol.ids import SpaceId
from remote.protocol.nodes import Kind
from remote.server.database.connection import Database
from remote.server.jobs.following import Batch, Changed, Cursors, Job, NotNow, TableCursors, Trouble
from remote.server.scanning.anew import Anew
from remote.server.scanning.clamd import Clamd, ScannerAway, TooLarge
from remote.server.scanning.showing import Showing
from remote.server.states import encode_manifest

log = logging.getLogger(__name__)

_CLEAN_MAX: Final = 10_000
"""Contents that were found clean lately, and are not shown again when a file of them is renamed or copied."""


class Scanning(Job):
    """The job."""

    name = "scan"
    is_urgent = True
    takes_lost = True

    def __init__(self, database: Database, showing: Showing, clamd: Clamd, anew: Anew) -> None:
        self._kept = TableCursors(database, self.name)
        self.cursors: Cursors = self._kept
        self._showing = showing
        self._clamd = clamd
        self.anew = anew
        # With what the scanner knew then.
        self._clean: OrderedDict[tuple[int, bytes], None] = OrderedDict()

    def take(self, batch: Batch) -> Sequence[Trouble]:
        """Scans what is new."""
        troubles: list[Trouble] = []
        for one in batch:
            try:
                self._take(batch, one)
            except ScannerAway as error:
                raise NotNow(str(error)) from error
            except TooLarge as error:
                troubles.append(Trouble(one.node, str(error)))
        return troubles

    def _take(self, batch: Batch, one: Changed) -> None:
        state = one.state
        if state is None or state.kind is not Kind.FILE or state.content is None or not state.content.size:
            return
        content = state.content
        known = self.anew.patterns, batch.key.content_id(encode_manifest(content))
        if known in self._clean:
            self._clean.move_to_end(known)
            return
        if self._showing.show(batch, one, is_new=True):
            self._clean[known] = None
            if len(self._clean) > _CLEAN_MAX:
                self._clean.popitem(last=False)

    async def beside(self) -> None:
        """Scans anew what is there, when the scanner has learnt new patterns."""
        await self.anew.run()

    def start_over(self, space: SpaceId) -> None:
        """All of it is scanned anew."""
        self._kept.end(space)

    def close(self) -> None:
        """Ends what is being scanned."""
        self._clamd.close()
