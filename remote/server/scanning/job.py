"""Job: shows each new content to the scanner, once, behind the commits."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from remote.protocol.errors import Infected
from remote.protocol.ids import SpaceId
from remote.protocol.nodes import Kind
from remote.server.content import Contents
from remote.server.database.connection import Database
from remote.server.jobs.following import Batch, Changed, Cursors, Job, NotNow, TableCursors, Trouble
from remote.server.scanning.clamd import Clamd, ScannerAway, TooLarge
from remote.server.scanning.marking import Infection, Tell, mark
from remote.server.states import encode_manifest

log = logging.getLogger(__name__)

_CLEAN_MAX: Final = 10_000
"""Contents that were found clean lately, and are not shown again when a file of them is renamed or copied."""


class Scanning(Job):
    """The job."""

    name = "scan"
    is_urgent = True

    def __init__(self, database: Database, contents: Contents, clamd: Clamd, tell: Tell) -> None:
        """`tell` is called, in the job's thread, when something was found."""
        self._kept = TableCursors(database, self.name)
        self.cursors: Cursors = self._kept
        self._database = database
        self._contents = contents
        self._clamd = clamd
        self._tell = tell
        self._clean: OrderedDict[bytes, None] = OrderedDict()

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
            except Infected:
                # It was found before, under another name or in another version.
                continue
        return troubles

    def _take(self, batch: Batch, one: Changed) -> None:
        state = one.state
        if state is None or state.kind is not Kind.FILE or state.content is None or not state.content.size:
            return
        content = state.content
        content_id = batch.key.content_id(encode_manifest(content))
        if content_id in self._clean:
            self._clean.move_to_end(content_id)
            return
        virus = self._clamd.scan(batch.content(state))
        if not virus:
            self._clean[content_id] = None
            if len(self._clean) > _CLEAN_MAX:
                self._clean.popitem(last=False)
            return
        # Before it is noted, what is noted must be there.
        entry = self._contents.as_chunk(batch.space, content.inline) if content.inline else None
        infection = Infection(batch.space, one, virus, entry)
        marked = self._database.write_now(lambda session: mark(session, batch.key, infection))
        if marked is not None:
            self._tell(batch.space, marked)

    def start_over(self, space: SpaceId) -> None:
        """All of it is scanned anew."""
        self._kept.end(space)

    def close(self) -> None:
        """Ends what is being scanned."""
        self._clamd.close()
