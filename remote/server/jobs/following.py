"""Following: what a job is, and one step of one job in one space: the next changes, done, and noted as done.

Blocks: call it from a thread of the job's own. What a job makes is derived: it can be made again from the journal. So
nothing is lost when a step is done twice, which a crash between the work and the cursor causes.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from remote.protocol.errors import RemoteError
from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.protocol.nodes import NodeState
from remote.server.content import Contents
from remote.server.database import jobs as rows
from remote.server.database.connection import Database, Session
from remote.server.database.jobs import WALKED, Cursor, TroubleRow
from remote.server.database.spaces import life_at, space_row
from remote.server.database.trees import LOST, stored_now
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.states import opened_state

log = logging.getLogger(__name__)

BATCH: Final = 200
"""Changes in one step."""
_REASON_MAX: Final = 500
_ORDINAL_MAX: Final = (1 << 31) - 1
_PURGED: Final = -1


class NotNow(Exception):
    """A job cannot work at all for now (no room, a program that it needs is away): the step is tried again later."""


class Stopped(Exception):
    """The server stops: what was not done will be after its next start."""


@dataclass(frozen=True)
class Changed:
    """A state that a node got with `rev`, with its content; None: it was removed. `is_now`: it has that state still."""

    node: NodeId
    rev: Rev
    state: NodeState | None
    is_now: bool


@dataclass(frozen=True)
class Trouble:
    """A file that a job could not do, and will not try again before it changes; `reason` is for its owner."""

    node: NodeId
    reason: str


class Batch:
    """Changes of one space in order, for a job to go through; ends with Stopped when the server stops."""

    def __init__(
        self,
        space: SpaceId,
        key: SpaceKey,
        changed: Sequence[Changed],
        contents: Contents,
        stopping: threading.Event,
    ) -> None:
        self.space = space
        self.key = key
        self.changed = changed
        self._contents = contents
        self._stopping = stopping

    def __iter__(self) -> Iterator[Changed]:
        for one in self.changed:
            if self._stopping.is_set():
                raise Stopped
            yield one

    def content(self, state: NodeState, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        """The bytes start .. stop of a file's content, in pieces of up to 1.4 MiB, each read when it is asked for.

        Raises RemoteError for what the store lost, and Stopped.
        """
        assert state.content is not None, "only files have content"
        last = state.content.size if stop is None else min(stop, state.content.size)
        for piece in self._contents.read(self.space, state.content, start, last):
            if self._stopping.is_set():
                raise Stopped
            yield piece if isinstance(piece, bytes) else memoryview(piece)

    def unguarded(self) -> "Batch":
        """The same, whose content may be what is given to nobody."""
        return Batch(self.space, self.key, self.changed, self._contents.unguarded(), self._stopping)

    def only(self, one: Changed) -> "Batch":
        """The same with one change."""
        return Batch(self.space, self.key, (one,), self._contents, self._stopping)


class Cursors(Protocol):
    """Where a job's cursors are kept: with what it makes, so that both are lost together or not at all."""

    def cursor(self, space: SpaceId) -> Cursor | None:
        """How far the job has come; None when nothing is known."""

    def put(self, space: SpaceId, cursor: Cursor) -> None:
        """Notes how far it has come; what was made until there must be as durable as this."""


class Job(Protocol):
    """Something done for each change, behind the commits; jobs inherit from it what they have no use for.

    `name` names it in the tables and in the log; it never changes. `is_urgent`: it is not to wait until the machine has
    time.
    """

    name: str
    cursors: Cursors
    is_urgent: bool = False
    takes_lost: bool = False
    """Whether it is given versions, too, that lost a merge and never were the state of their node."""

    def take(self, batch: Batch) -> Sequence[Trouble]:
        """Does these changes, again if need be; returns the files that it could not do.

        An error other than NotNow and Stopped makes the follower give it the changes one by one; one that fails then is
        noted as a trouble.
        """

    def put_by(self, space: SpaceId) -> Sequence[NodeId]:
        """Nodes that it put by for when nothing else is to be done in this space: the next few, if any."""
        return ()

    def take_put_by(self, batch: Batch) -> Sequence[Trouble]:
        """Does these as they are now, those that are there still, and puts none of them by any longer."""
        return ()

    def start_over(self, space: SpaceId) -> None:
        """Drops what was made of this space, cursor and all: it is gone, or its journal is another one now."""

    async def beside(self) -> None:
        """What it does beside following, until it is cancelled."""
        return

    def close(self) -> None:
        """Ends what runs for it, from another thread; `take` raises Stopped then."""


class TableCursors:
    """Cursors in the instance's database, for jobs that keep what they make there."""

    def __init__(self, database: Database, job: str) -> None:
        self._database = database
        self._job = job

    def cursor(self, space: SpaceId) -> Cursor | None:
        """How far the job has come; None when nothing is known."""
        return self._database.read_now(lambda session: rows.cursor(session, space, self._job))

    def put(self, space: SpaceId, cursor: Cursor) -> None:
        """Notes how far it has come."""
        self._database.write_now(lambda session: rows.put_cursor(session, space, self._job, cursor))

    def end(self, space: SpaceId) -> None:
        """Lets the job begin anew there."""
        self._database.write_now(lambda session: rows.end_cursor(session, space, self._job))


@dataclass(frozen=True)
class _Work:
    """What a step is to do: nothing when `changed` is empty, and only the cursor moves."""

    changed: tuple[Changed, ...]
    key: SpaceKey
    cursor: Cursor
    has_more: bool
    troubled: frozenset[NodeId]


class Follower:
    """One job in the spaces of an instance, step by step."""

    def __init__(
        self, job: Job, database: Database, keyring: Keyring, contents: Contents, stopping: threading.Event
    ) -> None:
        self.job = job
        self._database = database
        self._keyring = keyring
        self._contents = contents
        self._stopping = stopping

    def step(self, space: SpaceId) -> bool:
        """Does the next changes of a space; whether there is more. Raises NotNow, Stopped, RemoteError."""
        if self._stopping.is_set():
            raise Stopped
        cursor = self.job.cursors.cursor(space)
        if cursor is not None and not self._database.read_now(partial(_is_of, space=space, cursor=cursor)):
            self._start_over(space)
            cursor = None
        work = self._database.read_now(lambda session: self._next(session, space, cursor))
        if work is None:
            self._start_over(space)
            return False
        if work.changed:
            batch = Batch(space, work.key, work.changed, self._contents, self._stopping)
            self._note(space, work, self._done(batch))
        if work.cursor != cursor:
            self.job.cursors.put(space, work.cursor)
        return work.has_more or self._do_put_by(space)

    def _do_put_by(self, space: SpaceId) -> bool:
        """Does some of what the job put by; whether there was any."""
        nodes = self.job.put_by(space)
        if not nodes:
            return False
        work = self._database.read_now(lambda session: self._present(session, space, nodes))
        if work is not None:
            batch = Batch(space, work.key, work.changed, self._contents, self._stopping)
            self._note(space, work, self.job.take_put_by(batch))
        return True

    def _present(self, session: Session, space: SpaceId, nodes: Sequence[NodeId]) -> _Work | None:
        row = space_row(session, space)
        if row is None:
            return None
        key = self._keyring.key(row)
        changed: list[Changed] = []
        for node in nodes:
            stored = stored_now(session, space, node)
            if stored is not None:
                changed.append(Changed(node, stored.rev, opened_state(key, stored.state, stored.manifest), is_now=True))
        troubled = {one.node for one in changed if rows.has_trouble(session, space, self.job.name, one.node)}
        nowhere = Cursor(0, Rev(0), 0, NodeId(0))
        return _Work(tuple(changed), key, nowhere, has_more=False, troubled=frozenset(troubled))

    def _start_over(self, space: SpaceId) -> None:
        self.job.start_over(space)
        self._database.write_now(lambda session: rows.end_all_troubles(session, space, self.job.name))

    def _next(self, session: Session, space: SpaceId, cursor: Cursor | None) -> _Work | None:
        """The next changes; None when there is no such space."""
        row = space_row(session, space)
        if row is None:
            return None
        key = self._keyring.key(row)
        if cursor is None:
            cursor = Cursor(life_at(session, space, row.head), row.head, _ORDINAL_MAX, NodeId(0))
        if cursor.walked != WALKED:
            changed, moved, has_more = _walk(session, space, key, cursor)
            has_more = has_more or row.head > cursor.rev
        else:
            changed, moved, has_more = _changes(session, space, key, cursor, row.head, takes_lost=self.job.takes_lost)
            moved = replace(moved, life=life_at(session, space, moved.rev))
        troubled = {one.node for one in changed if rows.has_trouble(session, space, self.job.name, one.node)}
        return _Work(tuple(changed), key, moved, has_more, frozenset(troubled))

    def _done(self, batch: Batch) -> list[Trouble]:
        """Has the job do it; what it could not do."""
        try:
            return list(self.job.take(batch))
        except (NotNow, Stopped):
            raise
        except Exception as error:  # noqa: BLE001 - one file that a job stumbles over must not hold up all others
            log.warning("job %s in space %d: %s; its files are tried one by one", self.job.name, batch.space, error)
        troubles: list[Trouble] = []
        for one in batch:
            try:
                troubles += self.job.take(batch.only(one))
            except (NotNow, Stopped):
                raise
            except RemoteError as error:
                troubles.append(Trouble(one.node, str(error)))
            except Exception as error:
                log.exception("job %s failed at node %d of space %d", self.job.name, one.node, batch.space)
                troubles.append(Trouble(one.node, f"{type(error).__name__}: {error}"))
        return troubles

    def _note(self, space: SpaceId, work: _Work, troubles: Sequence[Trouble]) -> None:
        revs = {one.node: one.rev for one in work.changed}
        now_ns = time.time_ns()
        found = {
            one.node: TroubleRow(one.node, revs.get(one.node, Rev(0)), one.reason[:_REASON_MAX], now_ns)
            for one in troubles
        }
        over = work.troubled - found.keys()
        if not found and not over:
            return

        def note(session: Session) -> None:
            rows.end_troubles(session, space, self.job.name, over)
            rows.put_troubles(session, space, self.job.name, found.values())

        self._database.write_now(note)


def _is_of(session: Session, space: SpaceId, cursor: Cursor) -> bool:
    """Whether the cursor is one of this journal, which may have been put back from an older copy."""
    row = space_row(session, space)
    return row is not None and cursor.rev <= row.head and life_at(session, space, cursor.rev) == cursor.life


def _walk(session: Session, space: SpaceId, key: SpaceKey, cursor: Cursor) -> tuple[list[Changed], Cursor, bool]:
    """The next nodes as they are now."""
    found = list(rows.nodes_after(session, space, cursor.walked, BATCH))
    changed = [
        Changed(NodeId(node), Rev(rev), opened_state(key, state, manifest), is_now=True)
        for node, rev, state, manifest in found
        if state is not None
    ]
    is_end = len(found) < BATCH
    return changed, replace(cursor, walked=WALKED if is_end else NodeId(found[-1][0])), not is_end


def _changes(
    session: Session, space: SpaceId, key: SpaceKey, cursor: Cursor, head: Rev, *, takes_lost: bool
) -> tuple[list[Changed], Cursor, bool]:
    """The next changes of the journal; what is purged is none, what lost a merge and never was only where wanted."""
    found = list(rows.changes_after(session, space, cursor.rev, cursor.ordinal, BATCH))
    changed = [
        Changed(NodeId(node), Rev(rev), opened_state(key, state, manifest), is_now=rev == present and mark != LOST)
        for rev, _, node, state, manifest, mark, overrides, present in found
        if (mark != LOST or takes_lost) and overrides != _PURGED
    ]
    if len(found) < BATCH:
        return changed, replace(cursor, rev=head, ordinal=_ORDINAL_MAX), False
    return changed, replace(cursor, rev=Rev(found[-1][0]), ordinal=found[-1][1]), True
