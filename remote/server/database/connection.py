"""The connections: one writer thread that gathers waiting writes into one durable transaction, and a few readers.

A job is a function of a Session; it runs in a thread, sees one consistent state, and either everything that it wrote is
durable when its result arrives, or (it raised) nothing of it is kept.
"""

import asyncio
import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from remote.protocol.errors import Busy, ServerFault
from remote.server.database.schema import PLANNING, TABLES

Result = TypeVar("Result")

# What a column holds is known to the statement's author only; callers give it a type at once.
Row = tuple[Any, ...]

OnStatement = Callable[[str], object]

READERS = 4
WAITING_MAX = 1_000
"""Writes that may wait; more are told to come back."""
GATHER_MAX = 200
"""Writes in one transaction: bounds how long the first one waits for the last one."""
CACHE_SIZE = 16 << 20
"""Bytes of pages that each connection keeps; the kernel keeps more."""
DERIVED_CACHE_SIZE = 32 << 20
SCRATCH_CACHE_SIZE = 64 << 20
"""Bytes of scratch tables that are kept in memory."""
BUSY_SECONDS = 20.0
"""How long to wait for another process (satchel-server user add) that writes."""


class Session:
    """One connection inside one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, on_statement: "OnStatement | None" = None, life: int = 0
    ) -> None:
        self._connection = connection
        self._on_statement = on_statement
        self.life = life or new_life()
        """Names the run of the server (or of a command) that writes here."""

    def row(self, sql: str, *values: object) -> Row | None:
        """The first row, or None."""
        found: Row | None = self._execute(sql, values).fetchone()
        return found

    def rows(self, sql: str, *values: object) -> Iterator[Row]:
        """The rows, read as they are asked for."""
        return self._execute(sql, values)

    def run(self, sql: str, *values: object) -> int:
        """How many rows were written."""
        return self._execute(sql, values).rowcount

    def run_many(self, sql: str, rows: Iterable[Row]) -> None:
        """Runs the statement once for each row of values."""
        if self._on_statement is not None:
            self._on_statement(sql)
        self._connection.executemany(sql, rows)

    def _execute(self, sql: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        if self._on_statement is not None:
            self._on_statement(sql)
        return self._connection.execute(sql, values)


Job = Callable[[Session], Result]


@dataclass(frozen=True)
class _Waiting:
    job: Callable[[Session], object]
    future: "Future[Any]"  # of whatever its job returns; `write` gives it back its type
    context: Context = field(default_factory=copy_context)


class Database:
    """One SQLite file, opened; `close` ends its threads after the writes that wait are done."""

    def __init__(self, path: Path, on_statement: OnStatement | None = None) -> None:
        self._path = path
        self._on_statement = on_statement
        self._life = new_life()
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(WAITING_MAX)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="database-reader")
        self._writer_connection = self._connect()
        self._elsewhere = _data_version(self._writer_connection)
        self._writer = threading.Thread(target=self._write_until_closed, name="database-writer", daemon=True)
        self._writer.start()

    async def read(self, job: Job[Result]) -> Result:
        """The job's result, from one consistent state; the job must not write."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, job)

    def look_up(self, job: Job[Result]) -> Result:
        """The job's result, at once, for the event loop: of a few rows by their keys, which each request looks up.

        So they are in memory, and readers never wait for the writer; the turn of a thread would cost ten times as much.
        """
        return self.read_now(job)

    async def write(self, job: Job[Result]) -> Result:
        """The job's result, after what it wrote is durable."""
        # Shielded: a request that goes away does not tear a future out of the writer's hands.
        return await asyncio.shield(asyncio.wrap_future(self._submit(job)))

    def read_now(self, job: Job[Result]) -> Result:
        """`read` for callers that are in a thread already."""
        with self.reading() as session:
            return job(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent state, for as long as the block of a caller in a thread lasts."""
        connection = self._reader()
        try:
            connection.execute("BEGIN")
            try:
                yield Session(connection, self._on_statement, self._life)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise ServerFault(f"The server's database cannot be read: {error}.") from error

    async def was_written_elsewhere(self) -> bool:
        """Whether another process wrote since this was asked before; at first, since this was opened."""

        def look(_: Session) -> bool:
            had, self._elsewhere = self._elsewhere, _data_version(self._writer_connection)
            return had != self._elsewhere

        return await self.write(look)

    def write_now(self, job: Job[Result]) -> Result:
        """`write` for callers that are in a thread already."""
        return self._submit(job).result()

    @property
    def waiting(self) -> int:
        """How many writes wait for the writer."""
        return self._waiting.qsize()

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
        connection.execute(f"PRAGMA cache_size = -{CACHE_SIZE >> 10}")
        connection.execute("PRAGMA temp_store = MEMORY")
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
            self._write_together(gathered)
            if is_last:
                return

    def _write_together(self, gathered: list[_Waiting]) -> None:
        """Runs the jobs in one transaction, each behind a savepoint; futures hear of it after the commit is durable."""
        connection = self._writer_connection
        waiting = [each for each in gathered if each.future.set_running_or_notify_cancel()]
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._run_behind_savepoint(each) for each in waiting]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            fault = ServerFault(f"The server could not write this down, nothing was changed: {error}.")
            for each in waiting:
                each.future.set_exception(fault)
            return
        for each, (result, refusal) in zip(waiting, outcomes, strict=True):
            if refusal is None:
                each.future.set_result(result)
            else:
                each.future.set_exception(refusal)

    def _run_behind_savepoint(self, each: _Waiting) -> tuple[object, Exception | None]:
        connection = self._writer_connection
        connection.execute("SAVEPOINT one")
        try:
            # In the context of who gave it, which says who asks.
            result = each.context.run(each.job, Session(connection, self._on_statement, self._life))
        except sqlite3.OperationalError:
            # The disk is full or the file is damaged: no job's own fault, and the end of the transaction.
            raise
        except Exception as refusal:  # noqa: BLE001  - whatever a job raises belongs to the one who gave it
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            return None, refusal
        connection.execute("RELEASE one")
        return result, None


def _data_version(connection: sqlite3.Connection) -> int:
    """Another one whenever others than this connection wrote."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def new_life() -> int:
    """A name that no other run has."""
    return secrets.randbits(62) + 1


@contextmanager
def scratch_session() -> Iterator[Session]:
    """Tables of one's own, in memory and beyond a bound in a file without a name; nothing of it stays."""
    connection = sqlite3.connect("", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = -{SCRATCH_CACHE_SIZE >> 10}")
        connection.execute("BEGIN")
        yield Session(connection)
    finally:
        connection.close()


class DerivedDamaged(Exception):
    """A derived file is no database of ours any more: it is to be removed, and made again."""


@contextmanager
def derived_session(path: Path, tables: Iterable[str], *, writes: bool) -> Iterator[Session]:
    """A file of what can be made again, in one transaction, which is kept when the block ends well.

    With `writes` it is made when it is not there, in a folder that is; after a power cut the last transactions may be
    missing. Raises FileNotFoundError, DerivedDamaged, and ServerFault for a disk that takes no more.
    """
    if not writes and not path.exists():
        raise FileNotFoundError(path)
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute(f"PRAGMA cache_size = -{DERIVED_CACHE_SIZE >> 10}")
            connection.execute("PRAGMA temp_store = MEMORY")
            if writes:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    connection.execute("BEGIN EXCLUSIVE")
                    for statement in tables:
                        connection.execute(statement)
                    connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            yield Session(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise ServerFault(f"{path} cannot be used: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise DerivedDamaged(f"{path} is damaged: {error}.") from error


def make_private(path: Path) -> None:
    """An empty file that only this user may read, in which SQLite then makes a database; its journals are like it."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def copy_database(source: Path, target: Path) -> None:
    """The database as it is at one moment, in a file of its own, durable; others go on reading and writing."""
    target.unlink(missing_ok=True)
    make_private(target)
    reading = sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)
    writing = sqlite3.connect(target, isolation_level=None)
    try:
        # In one step: with several, each commit of another process would make it begin anew.
        reading.backup(writing, pages=-1)
        writing.execute("PRAGMA synchronous = FULL")
        writing.execute("PRAGMA journal_mode = DELETE")
    finally:
        writing.close()
        reading.close()
    with open(target, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def copied_session(path: Path) -> Iterator[Session]:
    """A copy of a database that nobody else uses, in one transaction that is kept when the block ends well."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        yield Session(connection)
        connection.execute("COMMIT")
    finally:
        connection.close()


def faults(session: Session) -> list[str]:
    """What is wrong with the file itself, as far as SQLite can tell; reads all of it."""
    return [str(row[0]) for row in session.rows("PRAGMA integrity_check") if row[0] != "ok"]


def make_tables(path: Path, fill: Job[None]) -> None:
    """A new database with all tables and what `fill` writes; the caller gives it its name when this returns."""
    make_private(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in (*TABLES, *PLANNING):
            connection.execute(statement)
        connection.execute("BEGIN IMMEDIATE")
        fill(Session(connection))
        connection.execute("COMMIT")
    finally:
        connection.close()


def upgrade_tables(path: Path, spare: Path, statements: Iterable[str], note: Job[None]) -> None:
    """Runs the statements and `note` in one transaction: all or nothing; `spare` is a copy of how it was before.

    Nobody else may have the database open. Raises ServerFault, and leaves everything as it was.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        spare.unlink(missing_ok=True)
        make_private(spare)
        connection.execute("VACUUM INTO ?", (str(spare),))
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        note(Session(connection))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise ServerFault(str(error)) from error
    finally:
        connection.close()
