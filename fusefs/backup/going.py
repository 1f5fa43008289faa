"""Going: what is gone from a folder goes from the drive, at the end of a round; what is stored stays in the history.

Nothing goes when all of it is gone at once: then the folder is another one, or its disk is not mounted.
"""

import os
import shlex
from functools import partial
from typing import Final

import trio

from fusefs.backup import disk
from fusefs.backup.backup import Backup
from fusefs.backup.copying import Copying, Spot
from fusefs.backup.disk import Top, Vanished
from fusefs.backup.entries import Entry, FolderId, Place
from fusefs.backup.reports import Reports
from fusefs.backup.taking import Ground
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind

_NOTED_MAX: Final = 10_000
"""Beyond, what is gone goes at once, and what only moved is made anew."""
_PAGE: Final = 500
_NOWHERE: Final = NodeId(0)


class Going:
    """For one backup."""

    def __init__(self, backup: Backup, ground: Ground, copying: Copying, reports: Reports) -> None:
        self._backup = backup
        self._ground = ground
        self._entries = ground.entries
        self._copying = copying
        self._reports = reports
        self.noted: dict[Place, Entry] = {}
        """Gone, unless it turns up under another name before the end of the round."""

    def node_of(self, folder: FolderId) -> NodeId | None:
        """What a folder is in the drive; None when somebody removed it there."""
        if folder == self._backup.id:
            return self._backup.node
        place = self._entries.place_of(folder)
        entry = self._entries.get(place) if place is not None else None
        record = self._ground.volume.tree.record(entry.node) if entry is not None else None
        is_there = record is not None and record.local is not None and record.local.kind is Kind.FOLDER
        return entry.node if entry is not None and is_there else None

    def note(self, place: Place) -> bool:
        """Notes that a name is gone; whether so many are that `take` should be called now."""
        self._reports.settle(place)
        entry = self._entries.get(place)
        if entry is not None:
            self.noted[place] = entry
        return len(self.noted) >= _NOTED_MAX

    async def take(self, top: Top, *, is_confirmed: bool) -> None:
        """Takes what was noted out of the drive; raises Vanished, and then nothing goes."""
        at_top = {place.name for place in self.noted if place.folder == self._backup.id}
        if at_top:
            await self.check_not_vanished(top, at_top, is_confirmed=is_confirmed)
        gone, self.noted = self.noted, {}
        for place, entry in gone.items():
            if self._entries.get(place) == entry:
                await self.remove(place, entry)

    async def check_not_vanished(self, top: Top, gone: set[bytes], *, is_confirmed: bool) -> None:
        """Raises Vanished when nothing is left in the folder of what it had, but for these names."""
        after = b""
        is_something = False
        inodes: set[int] = set()
        while names := self._entries.names(self._backup.id, after):
            after = names[-1]
            is_something = True
            left = [name for name in names if name not in gone]
            is_left = await self._ground.in_thread(partial(disk.has_any, top, left))
            if is_left:
                return
            inodes = inodes or await self._ground.in_thread(partial(disk.inodes_in, top))
            if any(
                (entry := self._entries.get(Place(self._backup.id, name))) and entry.inode in inodes for name in left
            ):
                return
        if is_something and not is_confirmed:
            raise Vanished(
                f"{os.fsdecode(self._backup.folder)} has nothing of what it had. Is its disk mounted? If all of it is "
                f"to go from the drive, too: satchel backup now --yes {shlex.quote(os.fsdecode(self._backup.folder))}"
            )

    async def remove(self, place: Place, entry: Entry) -> None:
        """Takes a name, and all below it, out of the drive, as far as it is of this backup."""
        todo = [(place, entry, False)]
        while todo:
            where, one, is_empty = todo.pop()
            if one.folder and not is_empty:
                inner = self._entries.page(one.folder, limit=_PAGE)
                # After a whole page there may be more.
                todo.append((where, one, len(inner) < _PAGE))
                todo += [(Place(one.folder, name), below, False) for name, below in inner]
                continue
            if one.folder:
                self._ground.watching.forget(one.folder)
            parent = self.node_of(where.folder)
            self._copying.remove(Spot(where, parent if parent is not None else _NOWHERE), one)
            self._reports.settle(where)
            await trio.lowlevel.checkpoint()
