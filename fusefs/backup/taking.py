"""Taking: reads what is new on the disk and hands it to Copying; of large files that changed, only what differs.

What is changed while it is read is taken again when it has come to rest.
"""

import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import trio
from msgspec.structs import replace

from cache.errors import DiskFull
from cache.eviction import Budget
from cache.staging import Staging, Stagings
from fusefs.backup import disk
from fusefs.backup.copying import Copying, Spot
from fusefs.backup.disk import Look, Top
from fusefs.backup.entries import Entries, Entry, FolderId, Place
from fusefs.backup.hints import Hints
from fusefs.backup.reports import Reports
from fusefs.backup.watching import Watching
from fusefs.errors import VolumeError
from fusefs.volume import Volume
from remote.protocol.ids import ROOT
from remote.protocol.nodes import EMPTY, FILE_SIZE_MAX, Kind

_T = TypeVar("_T")

_THREADS: Final = 2
_UNSENT_SHARE: Final = 0.5
"""Content of backups that is not sent takes at most so much of the cache: the rest is for who works in the drive."""
_UNSENT_FILES: Final = 5_000
_ROOM_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_RACE_NS: Final = 20_000_000
"""The kernel's clock for files may stand still so long: a later change may show the same time."""
_RACE_SECONDS: Final = 0.5
_RESTLESS: Final = (1.0, 16.0)
_RESTLESS_TRIES: Final = 6
"""After so many, a file that never rests is taken as it was read."""
_BEHIND_SECONDS: Final = 30.0
"""A large file of which older content is on its way is looked at when that is there, or after so long."""


@dataclass
class Ground:
    """What a backup stands on; but for its threads it shares all of it with the others of its drive."""

    volume: Volume
    stagings: Stagings
    budget: Budget
    entries: Entries
    watching: Watching
    rule_for: Callable[[bytes, bool], str]
    """The drive's rule that ignores a path in it (and whether it is of a folder); empty when none does."""
    unsent: dict[int, tuple[FolderId, Place]] = field(default_factory=dict)
    """Stagings of large files that are on their way, with the backup and the name that they are of."""

    def __post_init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_THREADS)

    async def in_thread(self, job: Callable[[], _T]) -> _T:
        """What waits for a disk that is not ours."""
        return await trio.to_thread.run_sync(job, limiter=self._limiter, abandon_on_cancel=True)


class Taking:
    """Takes the files of one backup."""

    def __init__(self, top: FolderId, ground: Ground, copying: Copying, hints: Hints, reports: Reports) -> None:
        self._top = top
        self._ground = ground
        self._copying = copying
        self._hints = hints
        self._reports = reports
        self.is_waiting = False
        """For room: what was taken before is to be sent first."""
        self._behind: set[Place] = set()
        self.taken_files = 0
        self.taken_bytes = 0

    async def small(self, top: Top, parts: Sequence[bytes], spots: Sequence[Spot], looks: Sequence[Look]) -> None:
        """Files of one folder of at most SMALL_MAX bytes, together no more than memory bears; raises Vanished."""
        await self._wait_for_room(sum(look.size for look in looks))
        began_ns = time.time_ns()
        reads = await self._ground.in_thread(partial(disk.read_small, top, parts, looks))
        for spot, read in zip(spots, reads, strict=True):
            try:
                await self._take_small(spot, read, began_ns)
            except (OSError, VolumeError, DiskFull) as error:
                self.failed(spot.place, b"/".join([*parts, spot.place.name]), error)

    async def _take_small(self, spot: Spot, read: disk.Read, began_ns: int) -> None:
        if read.error is not None:
            raise read.error
        if read.is_restless and not self._is_given_up(spot.place):
            return
        size = len(read.content)
        digest = disk.digest_of(disk.blocks_of(read.content, disk.BLOCK_LEAST), size)
        entry = self._entry(spot.place, read.look, size, digest, began_ns)
        if self._is_known(spot, entry):
            self._copying.put_file(spot, read.look, read.extras, self._same(spot, entry), None)
        elif not size:
            self._copying.empty(spot, read.look, read.extras, entry)
        else:
            staging = self._ground.stagings.create(EMPTY, is_spare=True)
            async with self._dropped(spot, staging):
                await self._make_room(size)
                staging.write(0, read.content)
                await staging.sync()
                kept = replace(entry, staging=staging.id)
                self._copying.put_file(spot, read.look, read.extras, kept, staging)
        self._settled(spot.place, size)

    async def large(self, top: Top, parts: Sequence[bytes], spot: Spot) -> None:
        """A file of any size: of what was sent before, only blocks that differ are written again; raises Vanished."""
        began_ns = time.time_ns()
        try:
            reader = await self._ground.in_thread(partial(disk.Reader, top, parts, spot.place.name))
            try:
                await self._take_large(spot, reader, began_ns)
            finally:
                reader.close()
        except (OSError, VolumeError, DiskFull) as error:
            self.failed(spot.place, b"/".join([*parts, spot.place.name]), error)

    async def _take_large(self, spot: Spot, reader: disk.Reader, began_ns: int) -> None:
        size = reader.look.size
        if size > FILE_SIZE_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        old = self._ground.entries.get(spot.place)
        found = self._copying.old_content(spot, old)
        if found is None:
            # What was taken before is on its way: to begin anew each time would never come to an end.
            self._behind.add(spot.place)
            self._hints.again(spot.place, _BEHIND_SECONDS)
            return
        self._behind.discard(spot.place)
        base, is_known = found
        is_known = is_known and old is not None and disk.block_size(old.size) == reader.block
        known = self._ground.entries.blocks(spot.place) if is_known else b""
        await self._wait_for_room(size if not known else 0)
        staging = self._ground.stagings.create(base, is_spare=True)
        async with self._dropped(spot, staging):
            if not known:
                staging.truncate(0)
            staging.truncate(size)
            blocks = await self._write(staging, reader, known)
            digest = disk.digest_of(blocks, size)
            is_restless = len(blocks) != disk.DIGEST_SIZE * -(-size // reader.block)
            is_restless = is_restless or await self._ground.in_thread(reader.is_restless)
            if is_restless and not self._is_given_up(spot.place):
                staging.remove()
                return
            entry = self._entry(spot.place, reader.look, size, digest, began_ns)
            if self._is_known(spot, entry):
                staging.remove()
                self._copying.put_file(spot, reader.look, reader.extras, self._same(spot, entry), None)
            else:
                await staging.sync()
                kept = replace(entry, staging=staging.id)
                # Before: it may be sent at once.
                self._ground.unsent[staging.id] = self._top, spot.place
                self._copying.put_file(spot, reader.look, reader.extras, kept, staging, blocks)
        self._settled(spot.place, size)

    async def _write(self, staging: Staging, reader: disk.Reader, known: bytes) -> bytes:
        """Puts blocks that are not known into the staging, and holes nowhere; digests of all blocks."""
        blocks = bytearray()
        offset = 0
        while True:
            content, found = await self._ground.in_thread(partial(reader.piece, offset))
            if not content:
                return bytes(blocks)
            for start, stop in _different(known[len(blocks) : len(blocks) + len(found)], found):
                data = memoryview(content)[start * reader.block : stop * reader.block]
                if known or data.nbytes > content.count(0, start * reader.block, stop * reader.block):
                    await self._make_room(data.nbytes)
                    staging.write(offset + start * reader.block, data)
            blocks += found
            offset += len(content)

    @asynccontextmanager
    async def _dropped(self, spot: Spot, staging: Staging) -> AsyncIterator[None]:
        """Lets go of a staging that came to nothing."""
        try:
            yield
        except BaseException:
            entry = self._ground.entries.get(spot.place)
            if entry is None or entry.staging != staging.id:
                self._ground.unsent.pop(staging.id, None)
                staging.remove()
            raise

    @property
    def behind(self) -> int:
        """How many large files have changed since what is on its way of them was taken."""
        return len(self._behind)

    def note_sent(self, place: Place, staging: Staging) -> None:
        """The server has what a staging held: what came after it can be taken."""
        self._copying.note_sent(place, staging)
        if place in self._behind:
            self._hints.note(place.folder, place.name, is_written=False)

    def begin(self) -> None:
        """All is looked through: what is still behind is noted again."""
        self._behind.clear()

    def failed(self, place: Place, path: bytes, error: Exception) -> None:
        """Notes why a name could not be taken, and when to try again; one that is gone is looked at soon."""
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno == errno.ESTALE):
            self._hints.again(place, _RACE_SECONDS)
            return
        sentence = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        self._hints.again(place, self._reports.fail(place, path, sentence))

    def _settled(self, place: Place, size: int) -> None:
        self._reports.settle(place)
        self.taken_files += 1
        self.taken_bytes += size

    def _entry(self, place: Place, look: Look, size: int, digest: bytes, began_ns: int) -> Entry:
        """What is noted of a file that was read; one that is very young is looked at again."""
        ctime_ns = look.ctime_ns
        if began_ns - ctime_ns < _RACE_NS:
            ctime_ns = 0
            self._hints.again(place, _RACE_SECONDS)
        return Entry(Kind.FILE, ROOT, look.inode, size, look.mtime_ns, ctime_ns, digest=digest)

    def _is_known(self, spot: Spot, entry: Entry) -> bool:
        """Whether the drive has this content already, by what was taken last."""
        old = self._ground.entries.get(spot.place)
        return old is not None and old.digest == entry.digest != b"" and self._copying.is_in_place(spot, old)

    def _same(self, spot: Spot, entry: Entry) -> Entry:
        old = self._ground.entries.get(spot.place)
        assert old is not None
        return replace(entry, manifest=old.manifest, staging=old.staging)

    def _is_given_up(self, place: Place) -> bool:
        """Whether a file that was changed while it was read is taken as it is; if not, it is tried again."""
        tries = self._reports.restless[place] = self._reports.restless.get(place, 0) + 1
        if tries > _RESTLESS_TRIES:
            return True
        self._hints.again(place, min(_RESTLESS[0] * 2.0 ** (tries - 1), _RESTLESS[1]))
        return False

    async def _wait_for_room(self, size: int) -> None:
        """Returns when what was taken before is sent as far as this may be taken: the cache is for others, too."""
        ground = self._ground
        try:
            while True:
                unsent = sum(ground.stagings.spare.values())
                is_much = unsent + size > ground.budget.limit_bytes * _UNSENT_SHARE
                if not ground.stagings.spare or not (is_much or len(ground.stagings.spare) > _UNSENT_FILES):
                    return
                self.is_waiting = True
                await trio.sleep(_LOOK_SECONDS)
        finally:
            self.is_waiting = False

    async def _make_room(self, size: int) -> None:
        if not self._ground.budget.has_room(size):
            self.is_waiting = True
            try:
                await self._ground.budget.wait_for_room(size, _ROOM_SECONDS)
            finally:
                self.is_waiting = False


def _different(known: bytes, found: bytes) -> Iterator[tuple[int, int]]:
    """Runs [start, stop) of blocks whose digests are others than those known."""
    width = disk.DIGEST_SIZE
    start: int | None = None
    count = len(found) // width
    for number in range(count):
        at = number * width
        if known[at : at + width] != found[at : at + width]:
            start = number if start is None else start
        elif start is not None:
            yield start, number
            start = None
    if start is not None:
        yield start, count
