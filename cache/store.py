"""Store: named tables of bytes that survive a killed process at once and a power cut after `sync`.

The only module that speaks LMDB. Commits of LMDB are durable and ordered, hence slow, so they are rare: changes go
into one write transaction that stays open, and first into a write-ahead journal, whose append survives `kill -9`
without any flush. Opening replays what the last checkpoint had not taken in. See FORMAT.md.

Used from one thread only (the event loop's); `sync` alone may run in another.
"""

import fcntl
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from cache.errors import DiskFull, StoreDamaged, StoreInUse

log = logging.getLogger(__name__)

FORMAT: Final = b"satchel store 1"
MAP_SIZE: Final = 256 << 30
"""Bytes of address space, not of disk."""
CHECKPOINT_BYTES: Final = 8 << 20
CHECKPOINT_PUTS: Final = 8_192
_AGAIN_SECONDS: Final = 2.0
"""After a checkpoint for which the disk had no room, before the next."""

_HEADER: Final = struct.Struct("<IIQ")  # length of the body, CRC-32 of the rest, sequence number
_META: Final = b"meta"
_SEQUENCE: Final = b"sequence"
_FORMAT: Final = b"format"

_Put = tuple[int, bytes, bytes | None]


class Change:
    """Puts and deletes that the store takes whole when the `with` block ends well, or not at all."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._pending: dict[tuple[int, bytes], bytes | None] = {}

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value as this change leaves it."""
        try:
            return self._pending[table, key]
        except KeyError:
            return self._store.get(table, key)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Sets a value."""
        self._pending[table, key] = value

    def delete(self, table: int, key: bytes) -> None:
        """Removes a key; no error when it is not there."""
        self._pending[table, key] = None

    def puts(self) -> list[_Put]:
        """All of it, in the order in which keys were first touched."""
        return [(table, key, value) for (table, key), value in self._pending.items()]


class Store:
    """Tables by number (the position in `tables`), keys of 1-511 bytes, in bytewise order."""

    def __init__(self, path: Path, tables: Sequence[str], *, has_journal: bool) -> None:
        """Opens or makes `path` (one file, beside it `.lock` and, with a journal, `.wal`).

        Without a journal the last seconds before a kill may be forgotten: for what can be fetched again.
        Raises StoreInUse, StoreDamaged, DiskFull.
        """
        self._path = path
        self._names = tuple(tables)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = _lock(path.with_suffix(".lock"))
        self.is_incomplete = not path.exists()
        """Whether it was just made, or changes in its journal could not be read: other files may know more than it."""
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
        self._wal_fd = -1
        self._wal_bytes = 0
        self._puts = 0
        # Without a journal: what a checkpoint that fails must make again.
        self._unsaved: list[_Put] = []
        self._not_before = 0.0
        self._sequence = self._stored_sequence()
        if has_journal:
            self._open_journal(path.with_suffix(".wal"))
        if self.is_incomplete:
            sync_folder(path.parent)

    def _open_engine(self) -> None:
        self._env = lmdb.open(
            str(self._path),
            subdir=False,
            map_size=MAP_SIZE,
            max_dbs=len(self._names) + 1,
            mode=0o600,
            # Another process is kept out by the lock above, and one thread does everything: LMDB's own lock
            # table would only add a file.
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
            self._open_tables(self._names)
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

    def _open_tables(self, tables: Sequence[str]) -> None:
        self._meta = self._env.open_db(_META)
        self._tables = [self._env.open_db(name.encode()) for name in tables]
        self._txn = self._env.begin(write=True)
        found = self._txn.get(_FORMAT, db=self._meta)
        if found is None:
            self._txn.put(_FORMAT, FORMAT, db=self._meta)
        elif found != FORMAT:
            self._txn.abort()
            raise StoreDamaged(
                f"{self._path} has the format {found!r}, this version reads {FORMAT!r}. "
                "It was written by another version of Satchel: use that one, or move the file away."
            )

    def _stored_sequence(self) -> int:
        value = self._txn.get(_SEQUENCE, db=self._meta)
        return int.from_bytes(value, "big") if value else 0

    def _open_journal(self, path: Path) -> None:
        self._wal_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._replay()
        unread = os.fstat(self._wal_fd).st_size - self._wal_bytes
        if unread:
            log.warning("%s: the last %d bytes cannot be read", path, unread)
            self.is_incomplete = True
            # A record appended behind them would never be found again.
            os.ftruncate(self._wal_fd, self._wal_bytes)
        if self._puts:
            self.checkpoint()
        else:
            os.ftruncate(self._wal_fd, 0)
            self._wal_bytes = 0

    def _replay(self) -> None:
        """Makes the changes that the journal has beyond the last checkpoint."""
        self._puts = 0
        for sequence, puts, end in _read_journal(self._wal_fd):
            if sequence > self._sequence + 1:
                # It goes on from what another file held, which was moved away or is an older copy.
                break
            self._wal_bytes = end
            # A power cut may bring back an older journal than the checkpoint: its records are in already.
            if sequence > self._sequence:
                self._apply(puts)
                self._sequence = sequence
                self._puts += len(puts)

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._txn.get(key, db=self._tables[table])

    def has(self, table: int, key: bytes) -> bool:
        """Whether the key is there."""
        return self._txn.get(key, db=self._tables[table]) is not None

    def scan(
        self,
        table: int,
        first: bytes = b"",
        *,
        prefix: bytes = b"",
        limit: int = 1 << 62,
    ) -> list[tuple[bytes, bytes]]:
        """Pairs from the first key >= `first` (or `prefix`, whichever is later) on, while keys begin with `prefix`."""
        found: list[tuple[bytes, bytes]] = []
        with self._txn.cursor(db=self._tables[table]) as cursor:
            if not cursor.set_range(max(first, prefix)):
                return found
            for key, value in cursor:
                if len(found) >= limit or not key.startswith(prefix):
                    break
                found.append((key, value))
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
        with self._txn.cursor(db=self._tables[table]) as cursor:
            return cursor.item() if cursor.last() else None

    def count(self, table: int) -> int:
        """How many keys the table has."""
        return int(self._txn.stat(self._tables[table])["entries"])

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A change; when the block ends without an exception it is kept, even if the process is killed just then."""
        change = Change(self)
        yield change
        puts = change.puts()
        if not puts:
            return
        if self._wal_fd >= 0:
            self._append(puts)
        else:
            self._unsaved += puts
        self._sequence += 1
        self._apply(puts)
        self._puts += len(puts)
        if self._puts >= CHECKPOINT_PUTS or self._wal_bytes >= CHECKPOINT_BYTES:
            self.checkpoint()

    def _append(self, puts: list[_Put]) -> None:
        body = msgspec.msgpack.encode(puts)
        rest = struct.pack("<Q", self._sequence + 1) + body
        record = struct.pack("<II", len(body), zlib.crc32(rest)) + rest
        try:
            written = os.write(self._wal_fd, record)
        except OSError as error:
            raise DiskFull(
                f"{self._path} cannot grow ({error.strerror}): the change was not made. Make room on this disk."
            ) from error
        if written != len(record):
            # A torn record would end the replay before everything that follows it.
            os.ftruncate(self._wal_fd, self._wal_bytes)
            raise DiskFull(f"The disk of {self._path} is full: the change was not made. Make room on this disk.")
        self._wal_bytes += written

    def _apply(self, puts: list[_Put]) -> None:
        for table, key, value in puts:
            if value is None:
                self._txn.delete(key, db=self._tables[table])
            else:
                self._txn.put(key, value, db=self._tables[table])

    @property
    def pending(self) -> int:
        """Puts since the last checkpoint."""
        return self._puts

    def checkpoint(self) -> None:
        """Takes everything into LMDB, durably, and empties the journal; if the disk has no room, the next one does."""
        if time.monotonic() < self._not_before:
            return
        try:
            self._txn.put(_SEQUENCE, self._sequence.to_bytes(8, "big"), db=self._meta)
            self._txn.commit()
        except lmdb.Error as error:
            self._make_again(error)
            return
        self._txn = self._env.begin(write=True)
        self._puts = 0
        self._unsaved.clear()
        self._not_before = 0.0
        if self._wal_fd >= 0:
            os.ftruncate(self._wal_fd, 0)
            self._wal_bytes = 0

    def _make_again(self, error: lmdb.Error) -> None:
        """After a failed commit, which undid everything since the last: the same changes, in memory, as before."""
        if not self._not_before:
            log.warning("%s cannot be written just now: %s", self._path, error)
        self._env.close()
        self._open_engine()
        if self._wal_fd >= 0:
            self._sequence = self._stored_sequence()
            self._replay()
        else:
            self._apply(self._unsaved)
        self._not_before = time.monotonic() + _AGAIN_SECONDS

    def sync(self) -> None:
        """Returns when every change made before the call survives a power cut; blocks: call it in a thread.

        With a journal only: what a checkpoint takes in meanwhile is durable by that.
        """
        os.fdatasync(self._wal_fd)

    def close(self) -> None:
        """Checkpoints and lets go of the files."""
        self._not_before = 0.0
        self.checkpoint()
        self._txn.abort()
        self._env.close()
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
        os.close(self._lock_fd)


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


def _read_journal(fd: int) -> Iterator[tuple[int, list[_Put], int]]:
    """Whole records in order, with where each ends; stops at the first that is torn, which nobody was told is kept."""
    data = b""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read()
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, checksum, sequence = _HEADER.unpack_from(data, offset)
        end = offset + _HEADER.size + length
        if end > len(data) or zlib.crc32(memoryview(data)[offset + 8 : end]) != checksum:
            return
        body = data[offset + _HEADER.size : end]
        yield (
            sequence,
            msgspec.msgpack.decode(body, type=list[tuple[int, bytes, bytes | None]]),
            end,
        )
        offset = end
