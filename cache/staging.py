"""Staging: what programs wrote and the server does not have yet, on top of the version that it was written over.

A staging keeps small content in memory and, once flushed, in the store; larger content in a sparse file at the same
offsets. Nothing of the base is needed to write over it. Everything here runs on the event loop's thread.

Safety, by the order of steps: bytes go into the file first, then the record that counts on them (`flush`); a file that
a record counts on is only cut or removed after a record without it was kept. So a killed process finds everything that
was flushed. Bytes written after the last flush may or may not be there, within what was flushed too where they went
over it; only a file emptied and written anew (truncate to 0) is found whole as it was flushed.
"""

import errno
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple, NewType
from weakref import WeakValueDictionary

import trio

from cache import staged
from cache.blobs import punch
from cache.errors import ContentDamaged, ContentUnavailable, DiskFull
from cache.extents import Extents
from cache.store import Change, Store
from remote.protocol.nodes import Manifest

log = logging.getLogger(__name__)

SMALL_MAX: Final = 64 << 10
"""Bytes of content up to which a staging has no file."""
EXTENTS_MAX: Final = 4_096
"""Dirty stretches above which `thin` brings their number down."""
EXTENTS_LIMIT: Final = 65_536
"""Dirty stretches above which writes are refused: the base could not be had to join them."""
OPEN_MAX: Final = 128
"""Files that all stagings together keep open."""

StagingId = NewType("StagingId", int)
Bytes = bytes | bytearray | memoryview


class Stretch(NamedTuple):
    """Bytes to read: from this staging (`read_dirty`) when `is_dirty`, else from the base at the same offset."""

    offset: int
    length: int
    is_dirty: bool


class Staging:
    """The content of one file while it differs from its base: `size` bytes, of which `dirty` are its own."""

    def __init__(self, home: "Stagings", staging_id: StagingId, base: Manifest) -> None:
        """For Stagings only."""
        self.id: Final = staging_id
        self.base = base
        self.size = base.size
        self.generation = 0
        """Grows with every write and truncate."""
        self.base_size = base.size
        """Content of the base from here on was truncated away once, and is never seen again."""
        self.freed = 0
        """Grows when bytes that a plan counts on were given back: who reads by an older plan has to plan anew."""
        self.is_suspect = False
        """Whether the machine went down before the flushed content was synced: bytes of it may be lost."""
        self.is_spare = False
        """Whether nobody is likely to read it here: once sent, the cache drops it before all else."""
        self._home = home
        # Everything at and after base_size is dirty, and what was never written there is zeros in the file too.
        self._dirty = Extents()
        # What the file holds; the same object as _dirty until base bytes are filled in.
        self._local = self._dirty
        # What was written after mark(), and how much of the marked content is still seen.
        self.marks = 0
        self._since: Extents | None = None
        self._since_size = 0
        self._bytes: bytearray | None = bytearray(base.size) if base.size <= SMALL_MAX else None
        self._part = 0
        self._fd = -1
        self._allocated = 0
        self._synced_generation = 0
        self._directory_synced = False
        self._extents_max = EXTENTS_MAX

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    # Reading

    @property
    def dirty(self) -> tuple[tuple[int, int], ...]:
        """Stretches [start, stop) that are not the base's: written, or zeros past the end of what is left of it."""
        return tuple(self._dirty)

    @property
    def since(self) -> tuple[tuple[int, int], ...] | None:
        """Stretches [start, stop) that were written after the last `mark`, within what is left; None without one."""
        return None if self._since is None else tuple(self._since)

    @property
    def dirty_bytes(self) -> int:
        """Bytes that this staging takes, on disk or in the store."""
        return self._allocated

    @property
    def path(self) -> Path | None:
        """Its file, or None while there is none."""
        return self._home.directory / staged.file_name(self.id, self._part) if self._part else None

    def plan_read(self, offset: int, length: int) -> list[Stretch]:
        """Where to read [offset, offset + length) from, in order, ending at the end of the file."""
        stop = min(offset + length, self.size)
        if self._local.covers(offset, stop):
            return [Stretch(offset, stop - offset, True)] if offset < stop else []
        return [Stretch(start, end - start, inside) for start, end, inside in self._local.split(offset, stop)]

    def read_dirty(self, offset: int, length: int) -> bytes:
        """Bytes of a dirty stretch."""
        if self._bytes is not None:
            return bytes(self._bytes[offset : offset + length])
        data = os.pread(self._open(), length, offset) if self._part else b""
        while len(data) < length:
            more = os.pread(self._open(), length - len(data), offset + len(data)) if self._part else b""
            if not more:  # a file is as long as its content, so this is not reached unless somebody cut it
                return data + bytes(length - len(data))
            data += more
        return data

    def open_file(self) -> int:
        """A descriptor of its own of the file, for reading in another thread; the caller closes it."""
        return os.dup(self._open())

    def holes(self) -> list[tuple[int, int]]:
        """Stretches of the dirty ones that are known to be zeros without reading; there may be others."""
        if self._bytes is not None or not self._part:
            return []
        fd = self._open()
        found: list[tuple[int, int]] = []
        for start, stop in self._dirty:
            at = start
            while at < stop:
                try:
                    data = min(os.lseek(fd, at, os.SEEK_DATA), stop)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        return found
                    data = stop
                if data > at:
                    found.append((at, data))
                if data < stop:
                    data = os.lseek(fd, data, os.SEEK_HOLE)
                at = data
        return found

    # Writing

    def write(self, offset: int, data: Bytes) -> None:
        """Takes these bytes; raises DiskFull, ContentUnavailable (then a part of them may have been taken)."""
        stop = offset + len(data)
        if offset == stop:
            return
        if len(self._dirty) >= EXTENTS_LIMIT and not self._dirty.covers(offset, stop):
            raise ContentUnavailable(
                "The file was changed in too many separate places, and its old content, which would join them, cannot "
                "be fetched. Write again when the server can be reached."
            )
        self._put(offset, data, max(stop, self.size))
        self._note(min(offset, self.size), stop)
        self.size = max(self.size, stop)

    def truncate(self, size: int) -> None:
        """Cuts the content or makes it longer by zeros; raises DiskFull."""
        if size > self.size:
            if self._bytes is not None and size <= SMALL_MAX:
                self._bytes.extend(bytes(size - self.size))
                self._home.account(self, size)
            else:
                self._use_file(size)
            self._note(self.size, size)
            self.size = size
        elif size < self.size:
            self._cut(size)

    def fill(self, offset: int, data: Bytes, *, is_dirty: bool = False) -> None:
        """Puts bytes of the base in where nothing was written, so that they are read from here from now on.

        With `is_dirty` they count as written. The content does not change.
        """
        view = memoryview(data)
        for start, stop, is_local in list(self._local.split(offset, min(offset + len(data), self.base_size))):
            if not is_local:
                self._put(start, view[start - offset : stop - offset], self.size)
                if self._local is self._dirty and not is_dirty:
                    self._local = self._dirty.copy()
                self._local.add(start, stop)
            if is_dirty:
                self._dirty.add(start, stop)

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many dirty stretches that `thin` should be run."""
        return len(self._dirty) > self._extents_max

    async def thin(self, read_base: Callable[[int, int], Awaitable[Bytes]]) -> None:
        """Halves the number of dirty stretches by filling gaps from the base, `read_base(offset, length)`.

        When the base cannot be had, that is put off until there are twice as many; at EXTENTS_LIMIT writes are refused.
        """
        gaps = self._dirty.narrowest_gaps(len(self._dirty) - EXTENTS_MAX // 2) if self.is_crowded else []
        self._extents_max = 2 * len(self._dirty)
        try:
            for start, stop in gaps:
                # Meanwhile the program goes on writing: fill leaves alone what it wrote.
                for at in range(start, stop, 1 << 20):
                    self.fill(at, await read_base(at, min(1 << 20, stop - at)), is_dirty=True)
        except (ContentUnavailable, ContentDamaged):
            return
        self._extents_max = EXTENTS_MAX

    # Uploading

    def mark(self) -> int:
        """The generation; what is written from now on is told apart by a later `rebase`."""
        self.marks += 1
        self._since = Extents()
        self._since_size = self.size
        return self.generation

    def rebase(self, base: Manifest) -> None:
        """Makes the content as it was at the last `mark`, now agreed as `base`, what this staging lies on."""
        if self._since is None:
            raise ValueError("rebase without mark")
        self.base = base
        # Bytes that were dirty then are the new base's bytes at the same offsets: the file may go on serving them.
        local = self._local.copy()
        self.base_size = min(self._since_size, base.size)
        self._dirty = self._since
        self._local = local
        self._since = None

    def rebase_front(self, base: Manifest, stop: int) -> None:
        """Makes the content before `stop`, as it was at the last `mark`, that of `base`; see `Large.prepare_front`.

        From there on `base` is what the old base is, or ends. The file goes on serving its bytes until `free`.
        """
        if self._since is None:
            raise ValueError("rebase without mark")
        dirty, local = self._dirty.copy(), self._local.copy()
        dirty.remove(0, stop)
        for start, end in self._since:
            dirty.add(start, end)
        self.base_size = min(stop, self._since_size) if base.size == stop else self.base_size
        self.base = base
        self._dirty, self._local = dirty, local
        self._since = None

    @property
    def is_counted_on(self) -> bool:
        """Whether a record that is kept counts on bytes of its file."""
        return self._part > 0 and self._home.recorded_part(self.id) == self._part

    def keep(self, change: Change) -> None:
        """As `flush`, but what was written since the last flush is still not flushed."""
        self._flush(change, self._dirty, self.base_size, self.size)

    def free(self, stop: int) -> None:
        """Gives the room of what lies before `stop` and is the base's back to the disk.

        Only when no record that could be found after a power cut counts on it (`is_counted_on`, `keep`, and the
        store's sync), and nobody reads the file by a descriptor of their own.
        """
        path = self.path
        if path is None or self._bytes is not None:
            return
        local = self._local.copy()
        for start, end in self._dirty:
            local.remove(start, end)
        local.cut(stop)
        stretches = [(start, end - start) for start, end in local]
        if not stretches:
            return
        for start, end in local:
            self._local.remove(start, end)
        self.freed += 1
        self._home.account(self, punch(str(path), stretches))

    # Keeping

    def flush(self, change: Change) -> None:
        """Puts its record, and small bytes, into the change; when that is kept, a killed process loses nothing."""
        self._flush(change, self._dirty, self.base_size, self.size)
        self._home.settle(self)

    async def sync(self) -> None:
        """Returns when the file's bytes survive a power cut; the record then needs `flush` and the store's sync."""
        if self._bytes is not None or not self._part:
            return
        generation = self.generation
        part = self._part
        directory = None if self._directory_synced else self._home.directory
        fd = self.open_file()
        try:
            await trio.to_thread.run_sync(staged.sync_file, fd, directory)
        finally:
            os.close(fd)
        if part == self._part:
            self._directory_synced = True
            self._synced_generation = max(self._synced_generation, generation)

    def discard(self, change: Change) -> None:
        """Removes its record within the change; when that was kept, adopt the file (`path`) or not, then `remove`."""
        change.delete(self._home.records, staged.key_of(self.id))
        change.delete(self._home.contents, staged.key_of(self.id))

    def remove(self) -> None:
        """Lets go of the file, unless it was adopted; only after the change with `discard` was kept."""
        self._drop_file()
        self._home.forget(self)

    # Inside

    def _note(self, start: int, stop: int) -> None:
        self._dirty.add(start, stop)
        if self._local is not self._dirty:
            self._local.add(start, stop)
        if self._since is not None:
            self._since.add(start, stop)
        self.generation += 1
        self._home.changed(self)

    def _put(self, offset: int, data: Bytes, size: int) -> None:
        """Bytes into memory or the file, which then holds `size` bytes."""
        if self._bytes is not None and size <= SMALL_MAX:
            if size > len(self._bytes):
                self._bytes.extend(bytes(size - len(self._bytes)))
            self._bytes[offset : offset + len(data)] = data
            if self._allocated != size:
                self._home.account(self, size)
            return
        if self._part == 0 or self._bytes is not None:
            self._use_file(self.size)
        fd = self._open()
        try:
            written = os.pwrite(fd, data, offset)
            while written < len(data):
                written += os.pwrite(fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            # What lies past the end must stay zeros: a later write further on shows it.
            os.ftruncate(fd, self.size)
            raise _full(error) from error
        # Also a write over bytes of its own takes new room, where they are a hole.
        self._home.account(self, os.fstat(fd).st_blocks * 512)

    def _use_file(self, size: int) -> None:
        """From now on the content is in a file of `size` bytes."""
        small = self._bytes or b""
        if self._part == 0:
            self._part = self._home.next_part()
            self._directory_synced = False
        fd = self._open()
        try:
            os.ftruncate(fd, size)
            if os.pwrite(fd, small, 0) < len(small):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if self._bytes is not None:
                self._drop_file()
            raise _full(error) from error
        self._bytes = None
        self._home.account(self, os.fstat(fd).st_blocks * 512)

    def _drop_file(self) -> None:
        path = self.path
        self._close()
        self._part = 0
        if path is not None:
            path.unlink(missing_ok=True)

    def _flush(self, change: Change, dirty: Extents, base_size: int, size: int) -> None:
        home = self._home
        key = staged.key_of(self.id)
        record = staged.encode(
            staged.Record(
                format=staged.FORMAT,
                base=self.base,
                base_size=base_size,
                size=size,
                part=self._part,
                dirty=[position for pair in dirty for position in pair],
                generation=self.generation,
                synced_generation=self._synced_generation,
                boot=home.boot,
                is_spare=self.is_spare,
            )
        )
        if self.is_spare:
            home.spare[self.id] = size
        if change.get(home.records, key) == record:
            return
        change.put(home.records, key, record)
        if self._bytes is not None:
            change.put(home.contents, key, bytes(self._bytes))
        else:
            change.delete(home.contents, key)

    def _cut(self, size: int) -> None:
        base_size = min(self.base_size, size)
        if size == 0:
            # A fresh start: the file stays as it is for as long as the kept record counts on it.
            self._home.supersede(self, self.path)
            self._close()
            self._part = 0
            self._bytes = bytearray()
            self._home.account(self, 0)
        elif self._bytes is not None:
            del self._bytes[size:]
            self._home.account(self, size)
        elif self._part:
            if self._home.recorded_part(self.id) == self._part:
                dirty = self._dirty.copy()
                dirty.cut(size)
                with self._home.store.change() as change:
                    self._flush(change, dirty, base_size, size)
            fd = self._open()
            os.ftruncate(fd, size)
            self._home.account(self, os.fstat(fd).st_blocks * 512)
        self._dirty.cut(size)
        if self._local is not self._dirty:
            self._local.cut(size)
        if self._since is not None:
            self._since.cut(size)
            self._since_size = min(self._since_size, size)
        self.base_size = base_size
        self.size = size
        self.generation += 1
        self._home.changed(self)

    def _open(self) -> int:
        if self._fd < 0:
            path = self.path
            assert path is not None
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._home.opened(self)
        return self._fd

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._home.closed(self)

    def _restore(self, record: staged.Record, small: bytes | None) -> None:
        """Takes the state of a record; raises ContentDamaged."""
        self.size = record.size
        self.base_size = record.base_size
        self.generation = record.generation
        self.is_spare = record.is_spare
        self._synced_generation = record.synced_generation
        self._dirty = Extents(zip(record.dirty[::2], record.dirty[1::2], strict=True))
        self._local = self._dirty
        self._part = record.part
        if record.part == 0:
            if small is None and not record.dirty:
                self._bytes = None
                return
            if small is None or len(small) != record.size:
                raise ContentDamaged(
                    f"Staging {self.id:x} has lost its bytes: the last synced version is what is left."
                )
            self._bytes = bytearray(small)
            self._allocated = record.size
            return
        self._bytes = None
        path = self.path
        assert path is not None
        try:
            found = path.stat()
        except FileNotFoundError:
            raise ContentDamaged(f"{path} is gone: the last synced version of this file is what is left.") from None
        if found.st_size < record.size:
            raise ContentDamaged(
                f"{path} is shorter than what was written to it: the last synced version is what is left whole."
            )
        # Writes that no record knows may have made it longer.
        os.ftruncate(self._open(), record.size)
        self._home.account(self, os.fstat(self._open()).st_blocks * 512)
        self.is_suspect = record.boot != self._home.boot and record.synced_generation < record.generation


class Stagings:
    """All stagings of this device: what their records and files in `directory` say."""

    def __init__(self, store: Store, directory: Path, records: int, contents: int) -> None:
        """`records` and `contents` are the numbers of the tables `staged` and `staged_bytes`; removes orphan files."""
        self.store: Final = store
        self.directory: Final = directory
        self.records: Final = records
        self.contents: Final = contents
        self.boot: Final = staged.this_boot()
        self._alive: WeakValueDictionary[StagingId, Staging] = WeakValueDictionary()
        # Not flushed since they changed: these must not go away with the last handle.
        self._unflushed: dict[StagingId, Staging] = {}
        self._open: OrderedDict[StagingId, Staging] = OrderedDict()
        self._superseded: list[tuple[StagingId, int, Path, int]] = []
        self.spare: Final[dict[StagingId, int]] = {}
        """Those with a record that are spare, with their sizes in bytes."""
        # What was counted for each staging that has a file, also while it is not in memory.
        self._counted: dict[StagingId, int] = {}
        self._total = 0
        self._part = 0
        self._last = StagingId(time.time_ns())
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._rescued = directory.with_name("rescued")
        self._take_stock()

    @property
    def total_bytes(self) -> int:
        """Bytes that all stagings take, on disk or in the store."""
        if self._superseded:
            self._drop_superseded()
        return self._total

    def create(self, base: Manifest, *, is_spare: bool = False) -> Staging:
        """A new staging whose content is that of `base`; nothing of it is kept before its first flush."""
        self._last = StagingId(max(self._last + 1, time.time_ns()))
        staging = Staging(self, self._last, base)
        staging.is_spare = is_spare
        self._alive[staging.id] = staging
        return staging

    def load(self, staging_id: StagingId) -> Staging:
        """The one staging with this id; raises KeyError when there is no record, ContentDamaged when bytes are gone."""
        staging = self._alive.get(staging_id)
        if staging is not None:
            return staging
        value = self.store.get(self.records, staged.key_of(staging_id))
        if value is None:
            raise KeyError(staging_id)
        record = staged.decode(value)
        if record is None:
            raise ContentDamaged(f"The record of staging {staging_id:x} cannot be read; its bytes are kept.")
        staging = Staging(self, staging_id, record.base)
        staging._allocated = self._counted.get(staging_id, 0)
        staging._restore(record, self.store.get(self.contents, staged.key_of(staging_id)))
        self._alive[staging_id] = staging
        return staging

    def is_kept(self, staging_id: StagingId) -> bool:
        """Whether a staging has a record, so that it is there after a restart."""
        return self.store.has(self.records, staged.key_of(staging_id))

    def kept_size(self, staging_id: StagingId) -> int | None:
        """Bytes of content by the kept record, None when there is none."""
        value = self.store.get(self.records, staged.key_of(staging_id))
        record = staged.decode(value) if value is not None else None
        return record.size if record is not None else None

    def base_of(self, staging_id: StagingId) -> Manifest | None:
        """What a staging lies on, as it is now or by the kept record; None when there is none."""
        staging = self._alive.get(staging_id)
        if staging is not None:
            return staging.base
        value = self.store.get(self.records, staged.key_of(staging_id))
        record = staged.decode(value) if value is not None else None
        return record.base if record is not None else None

    def all_ids(self) -> set[StagingId]:
        """Every staging, also those that were never flushed."""
        return {*self.ids(), *self._unflushed}

    def taken_bytes(self, staging_id: StagingId, size: int) -> int:
        """Bytes that a kept staging of this size takes, without reading its record."""
        return self._counted.get(staging_id, size)

    def ids(self) -> list[StagingId]:
        """Every staging with a record."""
        return [StagingId(int.from_bytes(key, "big")) for key, _ in self.store.walk(self.records)]

    # For Staging

    def next_part(self) -> int:
        """A number for a file that no record can name yet."""
        self._part += 1
        return self._part

    def recorded_part(self, staging_id: StagingId) -> int:
        """The file that the kept record of a staging counts on, 0 for none."""
        value = self.store.get(self.records, staged.key_of(staging_id))
        record = staged.decode(value) if value is not None else None
        return record.part if record is not None else 0

    def account(self, staging: Staging, allocated: int) -> None:
        """Notes what a staging takes now."""
        self._total += allocated - staging._allocated
        staging._allocated = allocated
        if staging._part:
            self._counted[staging.id] = allocated
        else:
            self._counted.pop(staging.id, None)

    def changed(self, staging: Staging) -> None:
        """Holds on to a staging until it is flushed."""
        self._unflushed[staging.id] = staging

    def settle(self, staging: Staging) -> None:
        """Lets go of a flushed staging."""
        self._unflushed.pop(staging.id, None)

    def forget(self, staging: Staging) -> None:
        """Lets go of a staging that was discarded."""
        self._unflushed.pop(staging.id, None)
        self._alive.pop(staging.id, None)
        self.spare.pop(staging.id, None)
        self.account(staging, 0)
        if self._superseded:
            # Nobody may ask for long how much there is: what it had before goes with it.
            self._drop_superseded()

    def supersede(self, staging: Staging, path: Path | None) -> None:
        """Removes a file as soon as the kept record no longer counts on it."""
        if path is not None:
            self._superseded.append((staging.id, staging._part, path, staging._allocated))
            # Counted until it is gone.
            self._total += staging._allocated
            self._drop_superseded()

    def opened(self, staging: Staging) -> None:
        """Notes the use of an open file; the longest unused is closed when there are many."""
        self._open[staging.id] = staging
        self._open.move_to_end(staging.id)
        if len(self._open) > OPEN_MAX:
            next(iter(self._open.values()))._close()

    def closed(self, staging: Staging) -> None:
        """Notes that a file is not open any more."""
        self._open.pop(staging.id, None)

    def close(self) -> None:
        """Lets go of all files."""
        for staging in list(self._open.values()):
            staging._close()

    # Inside

    def _drop_superseded(self) -> None:
        left = []
        for staging_id, part, path, allocated in self._superseded:
            if self.recorded_part(staging_id) == part:
                left.append((staging_id, part, path, allocated))
            else:
                path.unlink(missing_ok=True)
                self._total -= allocated
        self._superseded = left

    def _take_stock(self) -> None:
        """Adds up what the records count on, and removes files that none does."""
        named: dict[str, StagingId] = {}
        unreadable: set[int] = set()
        for key, value in self.store.walk(self.records):
            staging_id = StagingId(int.from_bytes(key, "big"))
            self._last = max(self._last, staging_id)
            record = staged.decode(value)
            if record is not None and record.is_spare:
                self.spare[staging_id] = record.size
            if record is None:
                unreadable.add(staging_id)
            elif record.part:
                named[staged.file_name(staging_id, record.part)] = staging_id
                self._part = max(self._part, record.part)
            elif self.store.has(self.contents, key):
                self._total += record.size
        with os.scandir(self.directory) as files:
            for file in files:
                if file.name in named:
                    allocated = file.stat(follow_symlinks=False).st_blocks * 512
                    self._counted[named[file.name]] = allocated
                    self._total += allocated
                elif (number := staged.number_in(file.name)) is not None and number not in unreadable:
                    self._drop_orphan(file.path)

    def _drop_orphan(self, path: str) -> None:
        """Removes a file that no record names; one whose record may be lost is put aside for a person to look at."""
        if not self.store.is_incomplete or not os.path.getsize(path):
            os.unlink(path)
            return
        self._rescued.mkdir(mode=0o700, exist_ok=True)
        kept = self._rescued / os.path.basename(path)
        os.replace(path, kept)
        log.warning("%s: what was written to a file whose name is lost with the damaged database", kept)


def _full(error: OSError) -> DiskFull:
    return DiskFull(f"This disk took no more of what was written ({error.strerror}). Make room on it and write again.")
