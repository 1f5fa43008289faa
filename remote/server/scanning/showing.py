"""Showing: one content is shown to the scanner, and marked when something is found in it."""

from remote.protocol.errors import Infected
from remote.protocol.nodes import Manifest
from remote.server.content import Contents
from remote.server.database.connection import Database
from remote.server.jobs.following import Batch, Changed
from remote.server.scanning.clamd import Clamd
from remote.server.scanning.marking import Infection, Tell, free, mark, was_found


class Showing:
    """To one scanner."""

    def __init__(self, database: Database, contents: Contents, clamd: Clamd, tell: Tell) -> None:
        """`tell` is called, in the thread of who shows, when something was found."""
        self._database = database
        self._contents = contents
        self._clamd = clamd
        self._tell = tell

    def show(self, batch: Batch, one: Changed, *, is_new: bool) -> bool:
        """Whether nothing was found; raises ScannerAway, TooLarge, and RemoteError for what cannot be read.

        `is_new`: it may be the cure of what is refused, and is given out again when nothing is found in it. What was
        found itself is none, whatever the scanner knows by now: a manager may say that it is fine.
        """
        state = one.state
        assert state is not None
        assert state.content is not None
        content = state.content
        is_refused, holds_refused = False, False
        try:
            virus = self._clamd.scan(batch.content(state))
        except Infected:
            is_refused, holds_refused = True, self._contents.holds_refused(batch.space, content)
            if holds_refused and (not is_new or self._was_found(batch, one)):
                return False
            virus = self._clamd.scan(batch.unguarded().content(state))
        if not virus:
            if is_refused:
                self._free(batch, one, self._contents.unguarded().freed(batch.space, content))
            return True
        if holds_refused:
            # It was found before, under another name or in another version.
            return False
        # Before it is noted, what is noted must be there.
        entry = self._contents.as_chunk(batch.space, content.inline) if content.inline else None
        infection = Infection(batch.space, one, virus, entry)
        marked = self._database.write_now(lambda session: mark(session, batch.key, infection))
        if marked is not None:
            self._tell(batch.space, marked)
        return False

    def _was_found(self, batch: Batch, one: Changed) -> bool:
        return self._database.read_now(lambda session: was_found(session, batch.key, batch.space, one))

    def _free(self, batch: Batch, one: Changed, freed: Manifest) -> None:
        """Stores content in which nothing was found without the refused chunks that it was told by."""
        marked = self._database.write_now(lambda session: free(session, batch.key, batch.space, one, freed))
        if marked is not None:
            self._tell(batch.space, marked)
