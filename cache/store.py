"""Store: named tables of bytes that survive a killed process at once and a power cut after `sync`.

The only module that speaks LMDB. Commits of LMDB are durable and ordered, hence slow, so they are rare and made by a
thread: a change goes into a journal, whose append survives `kill -9` without any flush, and into a layer in memory.
From time to time the layer is frozen, a new one is put on top, and the frozen one goes into LMDB. Opening replays what
LMDB had not taken in. See FORMAT.md.

Used from one thread only (the event loop's); `sync` alone may run in another.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Self

import lmdb
import trio

from cache.errors import DiskFull, StoreDamaged, StoreInUse
from cache.journal import Journal
from cache.layer import Layer, Puts

log = logging.getLogger(__name__)

FORMAT: Final = b"satchel store 2"
MAP_SIZE: Final = 256 << 30
"""Bytes of address space, not of disk."""
CHECKPOINT_SECONDS: Final = 1.0
CHECKPOINT_BYTES: Final = 8 << 20
CHECKPOINT_PUTS: Final = 8_192
"""What a layer holds before it is frozen, in seconds, bytes and puts, whichever comes first."""
_PATIENCE: Final = 4
"""So many times that may come in while a frozen layer goes into LMDB; beyond, changes wait for the disk."""
_PUTS_AT_ONCE: Final = 256
"""Puts into LMDB between two looks at what else is to be done."""
_MAPPED_PAGES: Final = 4_096
"""Pages of files that may come into the process's view before the store lets go of its own: 16 MiB."""
_ABSENT_MAX: Final = 4_096
"""Keys of one table that are remembered as not being in the file."""
_AGAIN_SECONDS: Final = 2.0
"""After a checkpoint for which the disk had no room, before the next."""

_META: Final = b"meta"
_SEQUENCE: Final = b"sequence"
_FORMAT: Final = b"format"


class Change:
    """Puts and deletes that the store takes whole when the `with` block ends well, or not at all."""

    __slots__ = ("_store", "puts")

    def __init__(self, store: "Store") -> None:
        self._store = store
        self.puts: Puts = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None and self.puts:
            self._store._take(self.puts)

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value as this change leaves it."""
        values = self.puts.get(table)
        if values is not None and key in values:
            return values[key]
        return self._store.get(table, key)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Sets a value."""
        values = self.puts.get(table)
        if values is None:
            self.puts[table] = {key: value}
        else:
            values[key] = value

    def delete(self, table: int, key: bytes) -> None:
        """Removes a key; no error when it is not there."""
        self.puts.setdefault(table, {})[key] = None


class _Commit:
    """A layer on its way into LMDB."""

    def __init__(self, txn: lmdb.Transaction) -> None:
        self.txn = txn
        self.steps: Iterator[None] = iter(())
        """Each puts some of it into the transaction."""
        self.is_running = False
        """Whether a thread makes it durable."""
        self.ended = threading.Event()
        self.error: lmdb.Error | None = None


class Store:
    """Tables by number (the position in `tables`), keys of 1-511 bytes, in bytewise order."""

    def __init__(self, path: Path, tables: Sequence[str], *, has_journal: bool) -> None:
        """Opens or makes `path` (one file, beside it `.lock` and, with a journal, the journal's two).

        Without a journal the last seconds before a kill may be forgotten: for what can be fetched again.
        Raises StoreInUse, StoreDamaged, DiskFull.
        """
        self._path = path
        self._names = tuple(tables)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = _lock(path.with_suffix(".lock"))
        self.is_incomplete = not path.exists()
        """Whether it was just made, or changes in its journal could not be read: other files may know more than it."""
        self._active = Layer(len(tables))
        self._frozen: Layer | None = None
        self._commit: _Commit | None = None
        # Tables whose number of keys somebody asked for.
        self._counts: dict[int, int] = {}
        # Keys that the file was found not to have, as of the state that is read. LMDB lets go of the GIL at each look:
        # beside threads that work, what is asked again and again ("is there such a name?") would cost a wait each time.
        self._absent: list[set[bytes]] = []
        self._is_empty: list[bool] = []
        self._is_kept = False
        self.is_short = False
        """A change was not made, or not taken into LMDB, for want of room: until who makes room sets it back."""
        self._is_full = trio.Event()
        self._is_changed = trio.Event()
        self._not_before = 0.0
        try:
            self._open_engine()
        except BaseException as error:
            os.close(self._lock_fd)
            if isinstance(error, lmdb.DiskError):
                raise DiskFull(f"{path} cannot grow ({error}). Make room on this disk.") from error
            if isinstance(error, lmdb.Error):
                raise StoreDamaged(
                    f"{path} cannot be read ({error}). Move it away; what was uploaded is fetched again from the "
                    f"server, and what was not is put aside in {path.with_name('rescued')}."
                ) from error
            raise
        self._sequence = self._stored_sequence()
        self._journal = Journal(path) if has_journal else None
        if self._journal is not None:
            self._replay(self._journal)
        if self.is_incomplete:
            sync_folder(path.parent)

    # The file

    def _open_engine(self) -> None:
        self._pages_of_others = _mapped_pages()
        self._env = lmdb.open(
            str(self._path),
            subdir=False,
            map_size=MAP_SIZE,
            max_dbs=len(self._names) + 1,
            mode=0o600,
            # Another process is kept out by the lock above. Within this one, a thread commits while another reads:
            # without its own locks LMDB demands that no reader is older than the last commit, so `_finish` lets go of
            # the old state before the next write begins.
            lock=False,
            metasync=True,
            sync=True,
            meminit=False,
            max_readers=1,
            # lmdb 3 carries two engines whose files differ: the 0.9 one is the format that other readers know.
            lib_version=0,
        )
        try:
            is_cut = self._fill_up()
            self._open_tables()
            if is_cut:
                self._read_all()
        except BaseException:
            self._env.close()
            raise

    def _read_all(self) -> None:
        """Raises lmdb.Error when there are pages of zeros in the tables: they are found out by reading, and only so."""
        for number in range(len(self._names)):
            for _ in self.walk(number):
                pass

    def _fill_up(self) -> bool:
        """Makes a file longer that ends before its last page, for to read there ends the process; whether it did."""
        length = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if self._path.stat().st_size >= length:
            return False
        os.truncate(self._path, length)
        return True

    def _open_tables(self) -> None:
        self._meta = self._env.open_db(_META)
        self._tables = [self._env.open_db(name.encode()) for name in self._names]
        with self._env.begin(write=True) as txn:
            found = txn.get(_FORMAT, db=self._meta)
            if found is None:
                txn.put(_FORMAT, FORMAT, db=self._meta)
            elif found != FORMAT:
                raise StoreDamaged(
                    f"{self._path} has the format {found!r}, this version reads {FORMAT!r}. "
                    "It was written by another version of Satchel: use that one, or move the file away."
                )
        self._begin_reading()

    def _begin_reading(self) -> None:
        """From now on LMDB's last commit is read."""
        self._txn = self._env.begin()
        self._absent = [set() for _ in self._names]
        self._is_empty = [not self._txn.stat(db)["entries"] for db in self._tables]

    def _stored_sequence(self) -> int:
        value = self._txn.get(_SEQUENCE, db=self._meta)
        return int.from_bytes(value, "big") if value else 0

    def _replay(self, journal: Journal) -> None:
        """Makes the changes that the journal has beyond the last checkpoint."""
        layer = Layer(len(self._names))
        for sequence, puts, size_bytes in journal.replay(self._sequence):
            layer.apply(puts, size_bytes, sequence)
            self._sequence = sequence
        unread = journal.cut()
        if unread:
            log.warning("%s: the last %d bytes of its journal cannot be read", self._path, unread)
            self.is_incomplete = True
        if layer.puts:
            self._frozen = layer
            self.checkpoint()
        if self._frozen is None:
            journal.clear()

    # Reading

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value, or None."""
        values = self._active.tables[table]
        if key in values:
            return values[key]
        if self._frozen is not None:
            values = self._frozen.tables[table]
            if key in values:
                return values[key]
        absent = self._absent[table]
        if self._is_empty[table] or key in absent:
            return None
        value = self._txn.get(key, db=self._tables[table])
        if value is None and len(absent) < _ABSENT_MAX:
            absent.add(key)
        return value

    def has(self, table: int, key: bytes) -> bool:
        """Whether the key is there."""
        return self.get(table, key) is not None

    def scan(
        self,
        table: int,
        first: bytes = b"",
        *,
        prefix: bytes = b"",
        limit: int = 1 << 62,
    ) -> list[tuple[bytes, bytes]]:
        """Pairs from the first key >= `first` (or `prefix`, whichever is later) on, while keys begin with `prefix`."""
        first = max(first, prefix)
        above = self._above(table, first, prefix)
        # Each of those above hides one below at the most.
        below = self._scan_file(table, first, prefix, limit + len(above))
        if not above:
            return below
        merged: dict[bytes, bytes | None] = dict(below)
        merged.update(above)
        live = sorted((key, value) for key, value in merged.items() if value is not None)
        return live[:limit]

    def _above(self, table: int, first: bytes, prefix: bytes) -> dict[bytes, bytes | None]:
        """What the layers have to say of these keys."""
        active = self._active.between(table, first, prefix)
        if self._frozen is None:
            return active
        above = self._frozen.between(table, first, prefix)
        above.update(active)
        return above

    def _scan_file(self, table: int, first: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._tables[table]) as cursor:
            if not cursor.set_range(first):
                return []
            if not prefix:
                return list(islice(cursor, limit))
            found: list[tuple[bytes, bytes]] = []
            for pair in islice(cursor, limit):
                if not pair[0].startswith(prefix):
                    break
                found.append(pair)
            return found

    def walk(self, table: int, *, prefix: bytes = b"", page: int = 1_000) -> Iterator[tuple[bytes, bytes]]:
        """All pairs with this prefix, read by the page: the table may change between two of them."""
        first = prefix
        while True:
            found = self.scan(table, first, prefix=prefix, limit=page)
            yield from found
            if len(found) < page:
                return
            first = found[-1][0] + b"\0"

    def last(self, table: int) -> tuple[bytes, bytes] | None:
        """The pair with the greatest key, or None."""
        above = self._above(table, b"", b"")
        found = [(key, value) for key, value in above.items() if value is not None]
        with self._txn.cursor(db=self._tables[table]) as cursor:
            found += islice((pair for pair in cursor.iterprev() if pair[0] not in above), 1)
        return max(found, default=None)

    def count(self, table: int) -> int:
        """How many keys the table has."""
        count = self._counts.get(table)
        if count is None:
            count = int(self._txn.stat(self._tables[table])["entries"])
            for key, value in self._above(table, b"", b"").items():
                count += (value is not None) - (self._txn.get(key, db=self._tables[table]) is not None)
            self._counts[table] = count
        return count

    # Changing

    @property
    def changes(self) -> int:
        """How many were made so far."""
        return self._sequence

    def change(self) -> Change:
        """A change; when its block ends without an exception it is kept, even if the process is killed just then.

        The end raises DiskFull when it was not made.
        """
        return Change(self)

    def _take(self, puts: Puts) -> None:
        if _is_full(self._active, _PATIENCE):
            self._wait_for_the_disk()
        if self._journal is not None:
            try:
                size_bytes = self._journal.append(self._sequence + 1, puts)
            except DiskFull:
                self.is_short = True
                raise
        else:
            size_bytes = sum(len(value) for values in puts.values() for value in values.values() if value is not None)
        self._sequence += 1
        for table, values in puts.items():
            if table in self._counts:
                more = 0
                for key, value in values.items():
                    more += (value is not None) - (self.get(table, key) is not None)
                self._counts[table] += more
        self._active.apply(puts, size_bytes, self._sequence)
        self._is_changed.set()
        if _is_full(self._active):
            self.hurry()

    def _wait_for_the_disk(self) -> None:
        """Keeps memory bounded when changes come faster than the disk takes them."""
        self.checkpoint()
        if _is_full(self._active, _PATIENCE):
            raise DiskFull(
                f"{self._path} cannot grow, and no more changes can be held in memory. Make room on this disk."
            )

    # Taking layers into LMDB

    @property
    def pending(self) -> int:
        """Puts that LMDB has not taken in."""
        return self._active.puts + (self._frozen.puts if self._frozen is not None else 0)

    def hurry(self) -> None:
        """What was changed is better taken into LMDB soon."""
        self._is_full.set()
        if not self._is_kept:
            self.checkpoint()

    async def keep(self) -> None:
        """Takes changes into LMDB as they come, in a thread, until cancelled; without it, they wait for that."""
        self._is_kept = True
        try:
            while True:
                if not self.pending:
                    await self._is_changed.wait()
                with trio.move_on_after(CHECKPOINT_SECONDS):
                    await self._is_full.wait()
                self._is_full = trio.Event()
                self._is_changed = trio.Event()
                if self.pending and time.monotonic() >= self._not_before:
                    await self._checkpoint_in_thread()
                elif self._not_before:
                    await trio.sleep(CHECKPOINT_SECONDS)
                self.unmap()
        finally:
            self._is_kept = False

    def unmap(self) -> None:
        """Lets go of pages of the file that were read: they stay in the kernel's cache, but not on our account.

        To be called now and then by who reads much; `keep` does when something was changed.
        """
        if self._commit is not None:
            return
        pages = _mapped_pages()
        # Libraries, however many there are, and what others hold stays: to open anew would free nothing of that.
        self._pages_of_others = min(self._pages_of_others, pages)
        if pages - self._pages_of_others > _MAPPED_PAGES:
            self._open_again()

    def _open_again(self) -> None:
        self._txn.abort()
        self._env.close()
        self._open_engine()

    async def _checkpoint_in_thread(self) -> None:
        commit = self._begin_commit()
        for _ in commit.steps:
            await trio.lowlevel.checkpoint()
            if commit is not self._commit:
                # Somebody could not wait, and finished it.
                return
        commit.is_running = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._make_durable, commit)
        if commit is self._commit:
            self._finish(commit)

    def checkpoint(self) -> None:
        """Takes everything into LMDB, durably, and empties the journal; blocks. Without room, a later one does."""
        if time.monotonic() < self._not_before:
            return
        is_older = self._frozen is not None
        if self.pending and self._commit_now() and is_older and self.pending:
            self._commit_now()

    def _commit_now(self) -> bool:
        """Whether the frozen layer is in LMDB."""
        commit = self._commit or self._begin_commit()
        if commit.is_running:
            commit.ended.wait()
        else:
            for _ in commit.steps:
                pass
            self._make_durable(commit)
        return self._finish(commit)

    def _begin_commit(self) -> _Commit:
        if self._frozen is None:
            self._frozen = self._active
            self._active = Layer(len(self._names))
            if self._journal is not None:
                self._journal.turn()
        commit = self._commit = _Commit(self._env.begin(write=True))
        commit.steps = self._steps(commit, self._frozen)
        return commit

    def _steps(self, commit: _Commit, layer: Layer) -> Iterator[None]:
        try:
            yield from self._put_all(commit.txn, layer)
        except lmdb.Error as error:
            commit.error = error

    def _put_all(self, txn: lmdb.Transaction, layer: Layer) -> Iterator[None]:
        for table, db in enumerate(self._tables):
            keys, values = layer.in_order(table)
            for at in range(0, len(keys), _PUTS_AT_ONCE):
                yield
                live = []
                for key in keys[at : at + _PUTS_AT_ONCE]:
                    value = values[key]
                    if value is None:
                        txn.delete(key, db=db)
                    else:
                        live.append((key, value))
                if live:
                    with txn.cursor(db=db) as cursor:
                        cursor.putmulti(live)
        txn.put(_SEQUENCE, layer.sequence.to_bytes(8, "big"), db=self._meta)

    def _make_durable(self, commit: _Commit) -> None:
        """Waits for the disk; in any thread."""
        try:
            if commit.error is not None:
                commit.txn.abort()
                return
            commit.txn.commit()
            if self._journal is not None:
                self._journal.empty()
        except lmdb.Error as error:
            commit.error = error
        finally:
            commit.ended.set()

    def _finish(self, commit: _Commit) -> bool:
        """What was frozen is read from LMDB now; after a failure, all stays as it was and is tried again."""
        self._commit = None
        if commit.error is None:
            self._txn.abort()
            self._begin_reading()
            self._frozen = None
            self._not_before = 0.0
            return True
        if not self._not_before:
            log.warning("%s cannot be written just now: %s", self._path, commit.error)
        self.is_short = True
        self._not_before = time.monotonic() + _AGAIN_SECONDS
        # After some failures LMDB refuses everything until it is opened anew.
        self._open_again()
        return False

    def sync(self) -> None:
        """Returns when every change made before the call survives a power cut; blocks: call it in a thread.

        With a journal only: what a checkpoint takes in meanwhile is durable by that.
        """
        assert self._journal is not None
        self._journal.sync()

    def close(self) -> None:
        """Checkpoints and lets go of the files."""
        self._not_before = 0.0
        self.checkpoint()
        self._txn.abort()
        self._env.close()
        if self._journal is not None:
            self._journal.close()
        os.close(self._lock_fd)


def _is_full(layer: Layer, times: int = 1) -> bool:
    """Whether a layer holds so many times what it may hold before it is frozen."""
    return layer.puts >= times * CHECKPOINT_PUTS or layer.size_bytes >= times * CHECKPOINT_BYTES


def _mapped_pages() -> int:
    """Pages of files, libraries too, that this process has in its view."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[2])


def sync_folder(folder: Path) -> None:
    """Returns when new names in the folder survive a power cut; blocks."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreInUse(
            f"{path.parent} is in use by another Satchel process: stop it, or set another SATCHEL_HOME."
        ) from None
    return fd
