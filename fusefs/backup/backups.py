"""Backups: all folders of this machine that are kept in one drive; they go on by themselves after a restart."""

import dataclasses
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
import trio

from cache.eviction import Budget
from cache.ignoring import Ignoring
from cache.staging import Staging, Stagings
from fusefs import moments, mounts
from fusefs.backup import disk
from fusefs.backup.backup import Backup, Chosen
from fusefs.backup.copying import Copying
from fusefs.backup.disk import Vanished
from fusefs.backup.entries import Entries, FolderId, Place
from fusefs.backup.mirror import Mirror
from fusefs.backup.taking import Ground
from fusefs.backup.watching import Watching
from fusefs.control import Exit, Refused
from fusefs.settings import Places
from fusefs.volume import Volume
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import NAME_MAX, Kind

_SETTING: Final = "backups"
_HOME: Final = b"Backups"
_MOST: Final = 100
_SHOWN: Final = 100
_FORGOTTEN_AT_ONCE: Final = 200
_CHECKED_SECONDS: Final = 1.0
"""How long who asks waits for a look at the folders."""

Fields = dict[str, Any]  # JSON: see docs/status.md


class Backups:
    """Those of one drive; nothing runs before `run`."""

    def __init__(
        self, volume: Volume, stagings: Stagings, budget: Budget, ignoring: Ignoring, places: Places, device_name: str
    ) -> None:
        self._volume = volume
        self._tree = volume.tree
        self._entries = Entries(self._tree.store)
        self._places = places
        self._device = device_name.replace("/", "_")
        self._watching = Watching(self._missed)
        self._ground = Ground(
            volume,
            stagings,
            budget,
            self._entries,
            self._watching,
            lambda path, is_folder: ignoring.rules.rule_for(path, is_folder=is_folder),
        )
        self._stagings = stagings
        value = self._tree.setting(_SETTING)
        self._chosen = msgspec.msgpack.decode(value, type=list[Chosen]) if value else []
        self._mirrors: dict[FolderId, Mirror] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Keeps all of them until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watching.run)
                for chosen in self._chosen:
                    if chosen.is_removed:
                        nursery.start_soon(self._forget, chosen)
                    else:
                        self._start(chosen)
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._watching.close()

    def _start(self, chosen: Chosen) -> Mirror:
        assert self._nursery is not None
        mirror = self._mirrors[chosen.id] = Mirror(Backup(chosen, self._keep), dataclasses.replace(self._ground))
        self._nursery.start_soon(mirror.run)
        return mirror

    def _keep(self) -> None:
        self._tree.set_setting(_SETTING, msgspec.msgpack.encode(self._chosen))

    def _missed(self) -> None:
        for mirror in self._mirrors.values():
            mirror.overlook()

    def note_sent(self, _: NodeId, staging: Staging) -> None:
        """The server has what a staging held."""
        found = self._ground.unsent.pop(staging.id, None)
        if found is not None and found[0] in self._mirrors:
            top, place = found
            self._mirrors[top].taking.note_sent(place, staging)

    def tops(self) -> list[NodeId]:
        """The folders of the drive in which they are kept."""
        return [mirror.backup.node for mirror in self._mirrors.values()]

    # Commands

    async def told(self) -> list[Fields]:
        """How each of them stands, by name."""
        # A disk that hangs keeps nobody waiting.
        with trio.move_on_after(_CHECKED_SECONDS):
            async with trio.open_nursery() as nursery:
                for mirror in self._mirrors.values():
                    nursery.start_soon(mirror.check)
        return sorted((self._told(mirror) for mirror in self._mirrors.values()), key=lambda one: str(one["folder"]))

    def _told(self, mirror: Mirror) -> Fields:
        backup, reports, taking = mirror.backup, mirror.reports, mirror.taking
        state, reason = "watching", ""
        if mirror.paused:
            state, reason = "paused", mirror.paused
        elif mirror.trouble:
            state, reason = "failing", mirror.trouble
        elif taking.is_waiting:
            state, reason = "waiting", "What was taken before is to be sent first: it may take half of the cache."
        elif mirror.is_working or not mirror.checked_ns:
            state = "working"
        problems = list(reports.problems.values())
        return {
            "folder": os.fsdecode(backup.folder),
            "name": backup.name,
            "target": os.fsdecode(self._tree.path_of(backup.node)),
            "state": state,
            "reason": reason,
            "unwatched": mirror.hints.unwatched,
            "names": mirror.names,
            "taken_files": taking.taken_files,
            "taken_bytes": taking.taken_bytes,
            "checked": moments.iso(mirror.checked_ns) if mirror.checked_ns else "",
            "waiting": len(mirror.hints),
            "restless": len(reports.restless),
            "problem_count": len(problems) + reports.unnamed,
            "problems": [
                {"path": os.fsdecode(one.path), "sentence": one.sentence, "seconds": round(one.seconds, 1)}
                for one in problems[:_SHOWN]
            ],
            "skipped": [
                {"path": os.fsdecode(path), "sentence": why} for path, why in list(reports.skipped.values())[:_SHOWN]
            ],
            "rules": list(backup.faults),
        }

    async def add(self, folder: str, to: str, name: str, *, is_into: bool) -> Fields:
        """Begins to keep a folder, given without symlinks; raises Refused."""
        if self._nursery is None or len(self._mirrors) >= _MOST:
            raise Refused(f"There can be at most {_MOST} backups.")
        path = os.fsencode(folder)
        if not path.startswith(b"/") or path == b"/":
            raise Refused(f"{folder} cannot be backed up as a whole. Choose folders in it.", Exit.USAGE)
        name = name or os.path.basename(folder)
        if not name or "/" in name or len(os.fsencode(name)) > NAME_MAX:
            raise Refused("A backup needs a name without slashes: --name NAME", Exit.USAGE)
        inode = await self._check_folder(path)
        target = os.fsencode(to.strip("/")) if to else b"/".join([_HOME, os.fsencode(self._device), os.fsencode(name)])
        chosen = Chosen(self._entries.new_folder(), path, inode, name, target, ROOT)
        backup = Backup(chosen, self._keep)
        self._check_target(target)
        if not self._tree.has_range:
            await self._volume.sync.ensure_range()
        await backup.list_path(self._volume)
        # No await from here on: nobody else may take the folder, here or there.
        self._check_overlap(path)
        self._check_target(target)
        self._check_content(target, is_into=is_into)
        copying = Copying(chosen.id, self._volume, self._stagings, self._entries)
        chosen.node = copying.make_path(target)
        self._chosen.append(chosen)
        self._keep()
        return self._told(self._start(chosen))

    async def _check_folder(self, path: bytes) -> int:
        """The inode of a folder that can be a backup; raises Refused."""
        shown = os.fsdecode(path)
        for mount in mounts.ours():
            if _is_in(path, os.fsencode(mount.point)):
                raise Refused(f"{shown} lies in a drive: what is there is kept anyway.")
            if _is_in(os.fsencode(mount.point), path):
                raise Refused(f"{shown} holds the drive that is mounted at {mount.point}. Choose folders beside it.")
        places = self._places
        for own in (places.cache, places.state, places.config, places.run):
            real = os.fsencode(mounts.real(str(own)))
            if _is_in(path, real) or _is_in(real, path):
                raise Refused(f"{shown} and {own}, where this device keeps the drive, overlap. Choose other folders.")
        self._check_overlap(path)
        try:
            return await self._ground.in_thread(partial(disk.inode_of, path))
        except Vanished as error:
            raise Refused(str(error)) from None
        except NotADirectoryError:
            raise Refused(f"{shown} is no folder.") from None
        except OSError as error:
            raise Refused(f"{shown} cannot be opened: {error.strerror}.") from None

    def _check_overlap(self, path: bytes) -> None:
        for mirror in self._mirrors.values():
            other = mirror.backup.folder
            if _is_in(path, other) or _is_in(other, path):
                what = "is" if path == other else f"overlaps with {os.fsdecode(other)}, which is"
                where = os.fsdecode(self._tree.path_of(mirror.backup.node))
                raise Refused(f"{os.fsdecode(path)} {what} backed up already, in {where}.")

    def _check_target(self, target: bytes) -> None:
        parts = target.split(b"/")
        if any(part in (b"", b".", b"..", b".versions") or len(part) > NAME_MAX for part in parts):
            raise Refused(f"{os.fsdecode(target)} is no path for a folder of the drive.", Exit.USAGE)
        if rule := self._ground.rule_for(target, True):
            raise Refused(f"{os.fsdecode(target)} is ignored, by {rule}: nothing of it would be sent.")
        for mirror in self._mirrors.values():
            other = self._tree.path_of(mirror.backup.node)
            if _is_in(target, other) or _is_in(other, target):
                raise Refused(
                    f"{os.fsdecode(target)} overlaps with {os.fsdecode(other)}, where "
                    f"{os.fsdecode(mirror.backup.folder)} is kept. Choose another: --to PATH"
                )

    def _check_content(self, target: bytes, *, is_into: bool) -> None:
        node = ROOT
        for part in target.split(b"/"):
            child = self._tree.child(node, part)
            if child is None:
                return
            state = self._volume.record(child).local
            if state is None or state.kind is not Kind.FOLDER:
                raise Refused(f"{os.fsdecode(target)} leads through a file of the drive. Choose another: --to PATH")
            node = child
        if self._tree.has_children(node) and not is_into:
            raise Refused(
                f"{os.fsdecode(target)} has something in it already. Choose another (--to PATH, --name NAME); or say "
                "--into: then what has the same name there becomes an older version, and the rest stays."
            )

    def _find(self, folder: str) -> Mirror:
        path = os.fsencode(folder)
        for mirror in self._mirrors.values():
            if path == mirror.backup.folder or folder == mirror.backup.name:
                return mirror
        raise Refused(f"{folder} is not backed up. satchel backup list shows what is.")

    async def remove(self, folder: str) -> Fields:
        """Ends a backup; what is stored stays. Raises Refused."""
        mirror = self._find(folder)
        told = self._told(mirror)
        chosen = next(one for one in self._chosen if one.id == mirror.backup.id)
        chosen.is_removed = True
        self._keep()
        del self._mirrors[chosen.id]
        mirror.scope.cancel()
        await mirror.ended.wait()
        if self._nursery is not None:
            self._nursery.start_soon(self._forget, chosen)
        return told

    async def _forget(self, chosen: Chosen) -> None:
        """Takes away what was noted of a backup, some at a time."""
        copying = Copying(chosen.id, self._volume, self._stagings, self._entries)
        todo = [chosen.id]
        while todo:
            folder = todo[-1]
            page = self._entries.page(folder, limit=_FORGOTTEN_AT_ONCE)
            folders = [entry.folder for _, entry in page if entry.folder and self._entries.names(entry.folder, limit=1)]
            copying.forget([(Place(folder, name), entry) for name, entry in page if entry.folder not in folders])
            todo += folders
            if not page:
                self._watching.forget(folder)
                todo.pop()
            await trio.lowlevel.checkpoint()
        self._chosen.remove(chosen)
        self._keep()

    async def now(self, folder: str, sent: Callable[[NodeId], Awaitable[None]], *, is_confirmed: bool) -> Fields:
        """Looks through a folder, and returns when the server has all of it, as `sent` does; raises Refused."""
        mirror = self._find(folder)
        await self._look_through(mirror, is_confirmed=is_confirmed)
        while True:
            # Of these, older content is on its way; what is there now is taken when that has arrived, and sent then.
            is_behind = bool(mirror.taking.behind)
            await sent(mirror.backup.node)
            if not is_behind:
                return self._told(mirror)
            await self._look_through(mirror, is_confirmed=False)

    async def _look_through(self, mirror: Mirror, *, is_confirmed: bool) -> None:
        folder = os.fsdecode(mirror.backup.folder)
        number = mirror.ask(is_confirmed=is_confirmed)
        while mirror.answered < number:
            moved = mirror.moved
            await moved.wait()
            if mirror.trouble:
                raise Refused(f"{folder} could not be looked through; it is tried again. {mirror.trouble}")
            if mirror.ended.is_set():
                raise Refused(f"{folder} is not backed up any more.")
        if mirror.paused:
            raise Refused(mirror.paused)


def _is_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")
