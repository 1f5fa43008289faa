"""Mirror: keeps one folder of this machine in the drive, one way, in rounds: each looks where something may be another.

A round looks at the hints that are due, or at everything. What is new is taken at once; what is gone goes at the end of
the round, so that something that only moved is known again by its inode. Memory grows neither with files nor with
folders: names are looked at by the page, and what was taken lies in the store.
"""

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from cache.errors import CacheError
from cache.ignoring import FILE
from fusefs.backup import disk
from fusefs.backup.backup import Backup
from fusefs.backup.copying import Copying, InTheWay, Spot, matches
from fusefs.backup.disk import Extras, Listing, Look, Top, Vanished
from fusefs.backup.entries import Entry, FolderId, Place
from fusefs.backup.going import Going
from fusefs.backup.hints import Hints
from fusefs.backup.reports import Reports
from fusefs.backup.taking import Ground, Taking
from fusefs.errors import VolumeError
from remote.protocol.errors import RemoteError
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind

log = logging.getLogger(__name__)

_PAGE: Final = 500
_LOOKED_AT_ONCE: Final = 100
"""Names that are compared before programs have their turn."""
_BATCH_FILES: Final = 64
_BATCH_BYTES: Final = 4 << 20
_EVERYTHING_SECONDS: Final = 3_600.0
_UNWATCHED_SECONDS: Final = 300.0
_MISSED_SECONDS: Final = 5.0
"""Between two looks at everything when there are more changes than the kernel tells of."""
_REST_FACTOR: Final = 20
"""Everything is looked through at most for one part in so many of the time."""
_BACK_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = (1.0, 60.0)
_SPECIAL: Final = {
    Kind.FIFO: "a named pipe",
    Kind.SOCKET: "a socket",
    Kind.CHARACTER_DEVICE: "a device",
    Kind.BLOCK_DEVICE: "a device",
}


@dataclass
class _Job:
    """A folder to be looked at: these names, or all, and with `is_deep` everything below."""

    folder: FolderId
    names: set[bytes] | None = None
    is_deep: bool = False


@dataclass
class _Here:
    """The folder that is looked at."""

    parts: list[bytes]
    folder: FolderId
    node: NodeId
    device: int
    is_deep: bool
    path: bytes
    """In the drive."""


class Mirror:
    """One backup at work."""

    def __init__(self, backup: Backup, ground: Ground) -> None:
        self.backup = backup
        self._ground = ground
        self._entries = ground.entries
        self._volume = ground.volume
        self.hints = Hints()
        self.reports = Reports()
        self._copying = Copying(backup.id, ground.volume, ground.stagings, ground.entries)
        self.taking = Taking(backup.id, ground, self._copying, self.hints, self.reports)
        self._top = Top(backup.folder, backup.inode)
        self._jobs: list[_Job] = []
        self._going = Going(backup, ground, self._copying, self.reports)
        self._is_confirmed = False
        self._failures = 0
        self.paused = ""
        """Why nothing is done, a sentence; empty when it is at work."""
        self.trouble = ""
        """Why it could not go on the last time, a sentence."""
        self.is_working = False
        self.names = 0
        """So many names there were when everything was looked through last."""
        self._counted = 0
        self.checked_ns = 0
        """When everything was looked through last."""
        self._everything_at = 0.0
        self._again_at = 0.0
        self._is_overlooked = False
        self.asked = 0
        """How often somebody asked to look through everything, and the number of the last time that this was done."""
        self.answered = 0
        self._woken = trio.Event()
        self.moved = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    # From outside

    def ask(self, *, is_confirmed: bool) -> int:
        """Looks through everything soon; `answered` reaches the number when that is done.

        `is_confirmed`: also when the folder is not what it was, and all in the drive would go.
        """
        self._is_confirmed = self._is_confirmed or is_confirmed
        self._failures, self._again_at = 0, 0.0
        self.asked += 1
        self._everything_at = 0.0
        self.hints.changed.set()
        self._woken.set()
        return self.asked

    def overlook(self) -> None:
        """Something was missed: everything is looked through."""
        self._is_overlooked = True
        self._everything_at = 0.0
        self.hints.changed.set()

    async def check(self) -> None:
        """Returns when it pauses if its folder is gone: the kernel tells nobody that one above it was moved."""
        if self.paused or self.is_working:
            return
        try:
            await self._ground.in_thread(partial(disk.find, self.backup.folder, self.backup.inode))
        except Vanished:
            moved = self.moved
            self._everything_at = self._again_at = 0.0
            self.hints.changed.set()
            await moved.wait()
        except OSError as error:
            log.info("%s could not be looked at: %s", os.fsdecode(self.backup.folder), error)

    async def run(self) -> None:
        """Keeps at it until cancelled."""
        with self.scope:
            try:
                while True:
                    await self._wait()
                    await self._round_logged()
                    self._tell()
            finally:
                self.ended.set()

    def _tell(self) -> None:
        moved, self.moved = self.moved, trio.Event()
        moved.set()

    # When

    async def _wait(self) -> None:
        """Returns when there is something to look at."""
        while self.paused and self.answered == self.asked:
            self._woken = trio.Event()
            with trio.move_on_after(_BACK_SECONDS):
                await self._woken.wait()
            if self.answered == self.asked and await self._is_back():
                self._everything_at = 0.0
                return
        while True:
            self.hints.changed = trio.Event()
            due = max(min(self._everything_at, self.hints.next_due), self._again_at)
            if due <= trio.current_time():
                return
            with trio.move_on_at(due):
                await self.hints.changed.wait()

    async def _is_back(self) -> bool:
        """Whether the folder is what it was, with some of what it had."""
        try:
            top = await self._ground.in_thread(partial(disk.find, self.backup.folder, self.backup.inode))
            await self._going.check_not_vanished(top, set(), is_confirmed=False)
        except (Vanished, OSError):
            return False
        return True

    async def _round_logged(self) -> None:
        asked = self.asked
        is_everything = trio.current_time() >= self._everything_at or self.hints.is_too_much
        begun = trio.current_time()
        self.is_working = True
        self._is_overlooked = self._is_overlooked and not is_everything
        try:
            await self._round(is_everything=is_everything)
        except Vanished as reason:
            if str(reason) != self.paused:
                log.info("the backup of %s pauses: %s", os.fsdecode(self.backup.folder), reason)
            self.paused = str(reason)
            self._is_confirmed = False
            self.answered = asked
            return
        except (CacheError, RemoteError, VolumeError, OSError, trio.TooSlowError) as error:
            self._failed(str(error) or "The server did not answer in time.")
            return
        except Exception as error:
            # The outermost loop: no backup may take the drive away.
            log.exception("the backup of %s failed and goes on", os.fsdecode(self.backup.folder))
            self._failed(f"It failed ({error!r}) and is tried again. The log says more.")
            return
        finally:
            self.is_working = False
            self._jobs.clear()
            self._going.noted.clear()
        self.paused = self.trouble = ""
        self._failures, self._again_at = 0, 0.0
        if is_everything:
            self._is_confirmed = False
            self.answered = asked
            self.names = self._counted
            self.checked_ns = time.time_ns()
            now = trio.current_time()
            usual = _UNWATCHED_SECONDS if self.hints.unwatched else _EVERYTHING_SECONDS
            pause = _MISSED_SECONDS if self._is_overlooked else max(usual, _REST_FACTOR * (now - begun))
            self._everything_at = now + pause if self.asked == asked else 0.0

    def _failed(self, sentence: str) -> None:
        self.trouble = sentence
        self._again_at = trio.current_time() + min(
            _AGAIN_SECONDS[0] * 2.0 ** min(self._failures, 10), _AGAIN_SECONDS[1]
        )
        self._failures += 1
        self._everything_at = 0.0

    # A round

    async def _round(self, *, is_everything: bool) -> None:
        self._top = await self._find_top()
        node = await self._top_node()
        if is_everything:
            self.hints.clear()
            self.hints.unwatched = ""
            self.reports.begin()
            self.taking.begin()
            self._counted = 0
            for path in self._top.avoided:
                inner = path[len(self.backup.folder) + 1 :]
                self.reports.skip(Place(self.backup.id, inner), inner, "a drive is mounted there")
            await self.backup.load_rules(self._ground.in_thread, self._top)
            self._jobs = [_Job(self.backup.id, is_deep=True)]
        else:
            hints = self.hints.take()
            if FILE in (hints.get(self.backup.id) or ()):
                self.overlook()
            self._jobs = [_Job(folder, names) for folder, names in hints.items()]
        while self._jobs:
            await self._look(self._jobs.pop(), node)
        await self._going.take(self._top, is_confirmed=self._is_confirmed)

    async def _find_top(self) -> Top:
        backup = self.backup
        try:
            return await self._ground.in_thread(partial(disk.find, backup.folder, backup.inode))
        except Vanished:
            if not self._is_confirmed:
                raise
        try:
            inode = await self._ground.in_thread(partial(disk.inode_of, backup.folder))
        except OSError as error:
            raise Vanished(
                f"{os.fsdecode(backup.folder)} is not there ({error.strerror}). If it never comes back: satchel backup "
                "remove, which keeps what is stored."
            ) from None
        self.backup.inode = inode
        self.backup.keep()
        return await self._ground.in_thread(partial(disk.find, backup.folder, inode))

    async def _top_node(self) -> NodeId:
        """The folder of the drive; made again when somebody removed it."""
        record = self._volume.tree.record(self.backup.node)
        if record is None or record.local is None:
            if not self._volume.tree.has_range:
                await self._volume.sync.ensure_range()
            await self.backup.list_path(self._volume)
            self.backup.node = self._copying.make_path(self.backup.target)
            self.backup.keep()
            self._everything_at = 0.0
        return self.backup.node

    async def _look(self, job: _Job, top_node: NodeId) -> None:
        parts = self._entries.path(self.backup.id, job.folder)
        if parts is None:
            return
        node = self._going.node_of(job.folder)
        if node is None:
            # Somebody removed the copy of this folder: whoever looks at all that is above it makes it again.
            self.overlook()
            return
        await self._volume.ensure_listed(node)
        if not self._volume.tree.has_range:
            await self._volume.sync.ensure_range()
        path = b"/".join([self._volume.tree.path_of(top_node), *parts])
        here = _Here(parts, job.folder, node, 0, job.is_deep, path)
        try:
            if job.names is None:
                await self._look_at_all(here)
            else:
                await self._look_at_names(here, sorted(job.names))
                return
            if (place := self._entries.place_of(job.folder)) is not None:
                self.reports.settle(place)
        except OSError as error:
            place = self._entries.place_of(job.folder)
            if place is None:
                raise
            self.taking.failed(place, b"/".join(parts), error)

    async def _look_at_all(self, here: _Here) -> None:
        ground = self._ground
        listing = await ground.in_thread(
            partial(Listing, self._top, here.parts, partial(ground.watching.watch, here.folder, self.hints))
        )
        known = 0
        try:
            here.device = listing.device
            await self._dress_top(here, listing.look)
            if here.folder == self.backup.id:
                await self._going.check_not_vanished(self._top, set(), is_confirmed=self._is_confirmed)
            while looks := await ground.in_thread(partial(listing.page, _PAGE)):
                known += await self._consider_all(here, looks)
        finally:
            listing.close()
        if known < self._entry_count(here.folder):
            await self._find_gone(here)

    def _entry_count(self, folder: FolderId) -> int:
        count, after = 0, b""
        while names := self._entries.names(folder, after):
            count, after = count + len(names), names[-1]
        return count

    async def _find_gone(self, here: _Here) -> None:
        after = b""
        while names := self._entries.names(here.folder, after):
            after = names[-1]
            _, looks = await self._ground.in_thread(partial(disk.look_at, self._top, here.parts, names))
            for name, look in looks:
                if look is None:
                    await self._note_gone(here.folder, name)

    async def _look_at_names(self, here: _Here, names: list[bytes]) -> None:
        watch = partial(self._ground.watching.watch, here.folder, self.hints)
        own, looks = await self._ground.in_thread(partial(disk.look_at, self._top, here.parts, names, watch))
        here.device = own.device
        await self._dress_top(here, own)
        if here.folder != self.backup.id:
            await self._dress_folder(here, own)
        for name, look in looks:
            if look is None:
                await self._note_gone(here.folder, name)
        await self._consider_all(here, [look for _, look in looks if look is not None])

    async def _dress_top(self, here: _Here, look: Look) -> None:
        if here.folder == self.backup.id:
            extras = await self._ground.in_thread(partial(disk.extras_of, self._top, (), look))
            self._copying.put_top(here.node, look, extras)

    async def _dress_folder(self, here: _Here, look: Look) -> None:
        """A folder's own times change with what is in it."""
        place = self._entries.place_of(here.folder)
        entry = self._entries.get(place) if place is not None else None
        if place is None or entry is None or matches(entry, look) or not here.parts:
            return
        parent = self._going.node_of(place.folder)
        if parent is None or not self._copying.is_in_place(spot := Spot(place, parent), entry):
            return
        extras = await self._ground.in_thread(partial(disk.extras_of, self._top, here.parts, look))
        self._copying.put_folder(spot, look, extras, entry)

    async def _consider_all(self, here: _Here, looks: list[Look]) -> int:
        """Takes what is new of these names; how many of them are known now."""
        batch: list[tuple[Spot, Look]] = []
        for number, look in enumerate(looks):
            if number % _LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            self._counted += here.is_deep
            spot = Spot(Place(here.folder, look.name), here.node)
            entry = self._entries.get(spot.place)
            if entry is not None and matches(entry, look) and self._copying.is_in_place(spot, entry):
                is_troubled = spot.place in self.reports.problems
                if entry.folder and (here.is_deep or is_troubled):
                    self._jobs.append(_Job(entry.folder, is_deep=True))
                if not entry.folder or not is_troubled:
                    self.reports.settle(spot.place)
                continue
            if not await self._is_wanted(here, spot, look, entry):
                continue
            if look.kind is not Kind.FILE:
                await self._take_other(here, spot, look, entry)
                continue
            if await self._is_taken_otherwise(here, spot, look, entry):
                continue
            if look.size > disk.SMALL_MAX:
                await self.taking.large(self._top, here.parts, spot)
                continue
            batch.append((spot, look))
            if len(batch) >= _BATCH_FILES or sum(one.size for _, one in batch) >= _BATCH_BYTES:
                await self._take_batch(here, batch)
                batch = []
        if batch:
            await self._take_batch(here, batch)
        return sum(self._entries.get(Place(here.folder, look.name)) is not None for look in looks)

    async def _take_batch(self, here: _Here, batch: list[tuple[Spot, Look]]) -> None:
        await self.taking.small(self._top, here.parts, [spot for spot, _ in batch], [look for _, look in batch])

    async def _is_wanted(self, here: _Here, spot: Spot, look: Look, entry: Entry | None) -> bool:
        """Whether a name is to be taken; what had it and is of another kind goes first."""
        path = b"/".join([*here.parts, look.name])
        why = _SPECIAL.get(look.kind, "")
        if not why and look.device != here.device:
            self.reports.skip(spot.place, path, "another file system is mounted there")
            return False
        if entry is not None and entry.kind is not look.kind:
            self._going.noted.pop(spot.place, None)
            await self._going.remove(spot.place, entry)
            entry = None
        if why:
            self.reports.skip(spot.place, path, f"it is {why}")
            return False
        if entry is None:
            is_folder = look.kind is Kind.FOLDER
            if self.backup.rule_for(path, is_folder) or self._ground.rule_for(here.path + b"/" + look.name, is_folder):
                return False
        return True

    async def _is_taken_otherwise(self, here: _Here, spot: Spot, look: Look, entry: Entry | None) -> bool:
        """Whether a file needs no reading: it is a new name of what the drive has, or was there before the backup."""
        if entry is not None:
            return False
        await self._take_moved(spot, look)
        if self._entries.get(spot.place) is not None:
            # Its content is compared all the same: an inode may be used again.
            return False
        try:
            node = self._volume.tree.child(spot.folder, look.name)
            if node is None:
                return False
            if self._copying.adopt(spot, look, Extras(self._volume_xattrs(node))):
                self.reports.settle(spot.place)
                return True
        except VolumeError as error:
            self.taking.failed(spot.place, b"/".join([*here.parts, look.name]), error)
            return True
        return False

    def _volume_xattrs(self, node: NodeId) -> dict[bytes, bytes]:
        local = self._volume.record(node).local
        return local.xattrs if local is not None else {}

    async def _take_moved(self, spot: Spot, look: Look) -> Entry | None:
        """Moves in the drive what moved on the disk: the same inode, of which the old name is gone."""
        old = self._entries.find(self.backup.id, look.inode)
        entry = self._entries.get(old) if old is not None else None
        if old is None or entry is None or entry.kind is not look.kind or old == spot.place:
            return None
        parts = self._entries.path(self.backup.id, old.folder)
        parent = self._going.node_of(old.folder)
        if parts is None or parent is None:
            return None
        try:
            _, looks = await self._ground.in_thread(partial(disk.look_at, self._top, parts, [old.name]))
        except OSError:
            looks = []
        if any(there is not None and there.inode == look.inode for _, there in looks):
            return None
        if not self._copying.move(Spot(old, parent), entry, spot):
            return None
        self._going.noted.pop(old, None)
        self.reports.settle(old)
        return entry

    async def _take_other(self, here: _Here, spot: Spot, look: Look, entry: Entry | None) -> None:
        """A folder or a symlink."""
        parts = here.parts
        try:
            if entry is None and (moved := await self._take_moved(spot, look)) is not None:
                entry = moved
            extras = await self._ground.in_thread(partial(disk.extras_of, self._top, parts, look))
            if look.kind is Kind.SYMLINK:
                self._copying.put_symlink(spot, look, extras)
            else:
                is_new = entry is None or not self._copying.is_in_place(spot, entry)
                is_new = is_new or spot.place in self.reports.problems
                folder = self._copying.put_folder(spot, look, extras, entry)
                if here.is_deep or is_new or (entry is not None and entry.inode != look.inode):
                    self._jobs.append(_Job(folder, is_deep=True))
            self.reports.settle(spot.place)
        except (OSError, InTheWay) as error:
            self.taking.failed(spot.place, b"/".join([*parts, look.name]), error)

    async def _note_gone(self, folder: FolderId, name: bytes) -> None:
        if self._going.note(Place(folder, name)):
            await self._going.take(self._top, is_confirmed=self._is_confirmed)
