"""The connections: one writer thread that gathers waiting writes into one durable transaction, and a few readers.

A job is a function of a Session; it runs in a thread, sees one consistent state, and either everything that it wrote is
durable when its result arrives, or (it raised) nothing of it is kept.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from remote.protocol.errors import Busy, ServerFault
from remote.server.database.schema import TABLES

Result = TypeVar("Result")

# What a column holds is known to the statement's author only; callers give it a type at once.
Row = tuple[Any, ...]

READERS = 4
WAITING_MAX = 1_000
"""Writes that may wait; more are told to come back."""
GATHER_MAX = 200
"""Writes in one transaction: bounds how long the first one waits for the last one."""
BUSY_SECONDS = 20.0
"""How long to wait for another process (satchel-server user add) that writes."""


class Session:
    """One connection inside one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def row(self, sql: str, *values: object) -> Row | None:
        """The first row, or None."""
        found: Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def rows(self, sql: str, *values: object) -> Iterator[Row]:
        """The rows, read as they are asked for."""
        return self._connection.execute(sql, values)

    def run(self, sql: str, *values: object) -> int:
        """How many rows were written."""
        return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, rows: Iterable[Row]) -> None:
        """Runs the statement once for each row of values."""
        self._connection.executemany(sql, rows)


Job = Callable[[Session], Result]


@dataclass(frozen=True)
class _Waiting:
    job: Callable[[Session], object]
    future: "Future[Any]"  # of whatever its job returns; `write` gives it back its type


class Database:
    """One SQLite file, opened; `close` ends its threads after the writes that wait are done."""

    def __init__(self, path: Path, on_statement: Callable[[str], object] | None = None) -> None:
        self._path = path
        self._on_statement = on_statement
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(WAITING_MAX)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="database-reader")
        self._writer_connection = self._connect()
        self._writer = threading.Thread(target=self._write_until_closed, name="database-writer", daemon=True)
        self._writer.start()

    async def read(self, job: Job[Result]) -> Result:
        """The job's result, from one consistent state; the job must not write."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, job)

    async def write(self, job: Job[Result]) -> Result:
        """The job's result, after what it wrote is durable."""
        # Shielded: a request that goes away does not tear a future out of the writer's hands.
        return await asyncio.shield(asyncio.wrap_future(self._submit(job)))

    def read_now(self, job: Job[Result]) -> Result:
        """`read` for callers that are in a thread already."""
        connection = self._reader()
        try:
            connection.execute("BEGIN")
            try:
                return job(Session(connection))
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise ServerFault(f"The server's database cannot be read: {error}.") from error

    def write_now(self, job: Job[Result]) -> Result:
        """`write` for callers that are in a thread already."""
        return self._submit(job).result()

    def close(self) -> None:
        """Waits for what was submitted, then closes the file."""
        self._waiting.put(None)
        self._writer.join()
        self._readers.shutdown()
        for connection in self._connections:
            connection.close()

    def _submit(self, job: Job[Result]) -> "Future[Result]":
        future: Future[Result] = Future()
        try:
            self._waiting.put_nowait(_Waiting(job, future))
        except queue.Full:
            raise Busy("The server has too many changes waiting: try again in a moment.", 1.0) from None
        return future

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL: the log is synced at every commit; an acknowledged commit survives a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA temp_store = MEMORY")
        if self._on_statement is not None:
            connection.set_trace_callback(self._on_statement)
        self._connections.append(connection)
        return connection

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
        return connection

    def _write_until_closed(self) -> None:
        while (first := self._waiting.get()) is not None:
            gathered = [first]
            is_last = False
            while len(gathered) < GATHER_MAX and not is_last:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    is_last = True
                else:
                    gathered.append(following)
            _write_together(self._writer_connection, gathered)
            if is_last:
                return


def make_tables(path: Path, fill: Job[None]) -> None:
    """A new database with all tables and what `fill` writes: there as a whole or (killed on the way) not at all."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES:
            connection.execute(statement)
        fill(Session(connection))
        connection.execute("COMMIT")
    finally:
        connection.close()


def _write_together(connection: sqlite3.Connection, gathered: list[_Waiting]) -> None:
    """Runs the jobs in one transaction, each behind a savepoint; futures hear of it after the commit is durable."""
    outcomes: list[tuple[_Waiting, object, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for waiting in gathered:
            if waiting.future.set_running_or_notify_cancel():
                outcomes.append((waiting, *_run_behind_savepoint(connection, waiting.job)))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        fault = ServerFault(f"The server could not write this down, nothing was changed: {error}.")
        for waiting in gathered:
            if not waiting.future.cancelled():
                waiting.future.set_exception(fault)
        return
    for waiting, result, refusal in outcomes:
        if refusal is None:
            waiting.future.set_result(result)
        else:
            waiting.future.set_exception(refusal)


def _run_behind_savepoint(
    connection: sqlite3.Connection, job: Callable[[Session], object]
) -> tuple[object, BaseException | None]:
    connection.execute("SAVEPOINT one")
    try:
        result = job(Session(connection))
    except sqlite3.OperationalError:
        # The disk is full or the file is damaged: this is nobody's own fault, the transaction ends.
        raise
    except Exception as refusal:  # noqa: BLE001  - whatever a job raises belongs to the one who gave it
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return None, refusal
    connection.execute("RELEASE one")
    return result, None
