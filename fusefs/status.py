"""Status: what `satchel status` tells of one mounted drive, or of one path in it; its words are in docs/status.md."""

import math
import os
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import trio

from cache.grafts import Graft
from cache.merge import is_touch
from cache.records import Record
from fusefs import moments
from fusefs.drive import Drive
from fusefs.guard_verbs import Waiting
from fusefs.settings import Account
from remote.protocol.errors import RemoteError
from remote.protocol.ids import NOW, ROOT, NodeId, Rev
from remote.protocol.nodes import Kind

_LOOKED_AT_ONCE: Final = 200
_STUCK_MAX: Final = 100
_TOUCHED_MAX: Final = 200
_CONFLICTS_SECONDS: Final = 1.0
_CONFLICTS_AGAIN_SECONDS: Final = 5.0
"""How long the server is waited for, and how long its answer will do."""
_IGNORED_MAX: Final = 10_000
"""Ignored files whose bytes are added up: beyond that it is a lower bound."""
_SET_BACK_TOLD_NS: Final = 24 * 3_600 * 10**9
"""How long it is told that the server was put back."""

Fields = dict[str, Any]  # JSON: see docs/status.md


class Status:
    """Answers for one drive."""

    def __init__(self, drive: Drive, account: Account, point: str) -> None:
        self._drive = drive
        self._account = account
        self._point = point
        self._conflicts: int | None = None
        self._conflicts_at = float("-inf")
        self._conflicts_cursor = NOW
        self._events = Waiting(drive)

    async def whole(self, files: int) -> Fields:
        """How the drive stands, with at most so many of the files that are to be sent, those on their way first."""
        drive = self._drive
        await trio.lowlevel.checkpoint()
        standing = drive.sync.standing()
        flow = drive.flow.told()
        open_count = sum(1 for file in drive.files.changed() if not drive.tree.edited_ns(file.node))
        ignored = await self._ignored_bytes()
        pending_bytes = max(0, drive.stagings.total_bytes - ignored)
        count = standing.pending_nodes + open_count
        touched = self._touched()
        if len(touched) >= count:
            touched = set()
        listed, sent = self._files(files, touched)
        rate = drive.flow.rates()[0]
        silent = drive.flow.silent_seconds()
        # Of bytes that wait for somebody it is not known when they go.
        is_waiting = bool(standing.held or standing.asked or standing.no_room)
        is_moving = standing.is_online and not is_waiting and rate > 0
        return {
            "mount": self._point,
            "url": self._account.url,
            "user": self._account.user_name,
            "device": self._account.device_name,
            "pid": os.getpid(),
            "online": standing.is_online,
            "signed_in": standing.is_signed_in,
            "trouble": standing.trouble,
            "silent_seconds": round(silent, 1),
            **flow,
            "pending": {
                "count": count - len(touched),
                "bytes": pending_bytes,
                "sent_bytes": sent,
                "seconds_left": round((pending_bytes - sent) / rate, 1) if is_moving and pending_bytes > sent else None,
                "no_room": standing.no_room,
                "blocked": standing.blocked,
                "files": listed,
            },
            "full": drive.files.room.full,
            "stuck": [
                {"path": os.fsdecode(one.path), "sentence": one.sentence, "seconds": _seconds(one.seconds)}
                for one in [one for one in standing.stuck if not one.asks][:_STUCK_MAX]
            ],
            "asked": {
                "count": standing.asked,
                "sentence": next((one.sentence for one in standing.stuck if one.asks), ""),
            },
            "events": await self._events.waiting(),
            "conflicts": await self._open_conflicts(),
            "rules": list(drive.ignoring.rules.faults),
            "ignored": {"count": drive.tree.ignored_count(), "bytes": ignored},
            "cache": {"bytes": drive.budget.used_bytes, "limit_bytes": drive.budget.limit_bytes},
            "pinned": [os.fsdecode(drive.tree.path_of(node)) or self._point for node in drive.pins.pinned()],
            "kept": asdict(drive.pins.kept()),
            "backups": await drive.backups.told(),
            "spaces": [
                {
                    "name": self._account.user_name,
                    "used_bytes": drive.room.used,
                    "quota_bytes": drive.room.quota,
                    "free_bytes": drive.volume.room().free,
                    "lease_bytes": drive.room.lease,
                    "path": "",
                    "role": "owner",
                    "owner": self._account.user_name,
                    "trouble": standing.trouble,
                    "rev": standing.cursor,
                },
                *map(self._told_space, drive.grafts.all.values()),
            ],
            "set_back": self._set_back(),
            "unlisted_folders": standing.unlisted_folders,
            "rev": standing.cursor,
        }

    def _set_back(self) -> str:
        """When the server was put back to an older state, as long as that is news: in the home or a shared space."""
        drive = self._drive
        standings = [drive.sync.standing(), *(graft.sync.standing() for graft in drive.grafts.all.values())]
        newest = max(one.set_back_ns for one in standings)
        return moments.iso(newest) if 0 <= time.time_ns() - newest < _SET_BACK_TOLD_NS else ""

    def _told_space(self, graft: Graft) -> Fields:
        """A shared space; `free_bytes` is what its owner has left."""
        standing, room = graft.sync.standing(), graft.lease.room
        return {
            "name": graft.known.name,
            "used_bytes": room.used,
            "quota_bytes": room.quota,
            "free_bytes": min(room.free, max(0, room.quota - room.used)) if room.quota else room.free,
            "lease_bytes": room.lease,
            "path": os.fsdecode(self._drive.tree.path_of(graft.part.top)),
            "role": graft.known.role,
            "owner": graft.known.owner_name,
            "trouble": standing.trouble,
            "rev": standing.cursor,
        }

    async def _open_conflicts(self) -> int | None:
        """How many conflicts nobody has settled, as of some seconds ago; None: the server has not told."""
        now = trio.current_time()
        is_there = self._drive.sync.is_online and not self._drive.flow.silent_seconds()
        cursor = Rev(sum(one.cursor for one in self._drive.sights.all()))
        # Conflicts come by commits; that they are settled is only heard when it is asked.
        is_old = cursor != self._conflicts_cursor or now > self._conflicts_at + _CONFLICTS_AGAIN_SECONDS
        if is_there and is_old:
            self._conflicts_at, self._conflicts_cursor = now, cursor
            with suppress(RemoteError, trio.TooSlowError), trio.move_on_after(_CONFLICTS_SECONDS):
                self._conflicts = sum([len(await one.lookback.conflicts()) for one in self._drive.sights.all()])
        return self._conflicts

    def _touched(self) -> set[NodeId]:
        """Folders whose times alone are to be sent, as they moved with what is in them, which counts."""
        found: set[NodeId] = set()
        for node, _ in self._drive.tree.dirty(limit=_TOUCHED_MAX):
            record = self._drive.tree.record(node)
            agreed = record.agreed if record is not None else None
            if record is None or record.local is None or agreed is None or agreed.kind is not Kind.FOLDER:
                continue
            if is_touch(record.local, agreed):
                found.add(node)
        return found

    def _files(self, most: int, touched: set[NodeId]) -> tuple[list[Fields], int]:
        """Some of what is to be sent, and how many bytes of all that is on its way are there already."""
        drive = self._drive
        moving = drive.sync.moving()
        passed = touched | set(moving)
        dirty = drive.tree.dirty(limit=most + len(passed))
        nodes = [*moving, *(node for node, _ in dirty if node not in passed)]
        troubled = {one for one in nodes[:most] if drive.sync.trouble_of(one)}
        listed = [
            {
                "path": os.fsdecode(drive.tree.path_of(node)) or self._point,
                "bytes": self._content_bytes(drive.tree.record(node)),
                "sent_bytes": moving.get(node, 0),
                "state": "stuck" if node in troubled else "sending" if node in moving else "waiting",
            }
            for node in nodes[:most]
        ]
        listed += [
            {"path": os.fsdecode(one.path), "bytes": one.size, "sent_bytes": 0, "state": "lost"}
            for one in drive.conflicts.unsent()[: most - len(listed)]
        ]
        return listed, sum(moving.values())

    @staticmethod
    def _content_bytes(record: Record | None) -> int:
        return record.staged_size if record is not None and record.staged else 0

    async def _ignored_bytes(self) -> int:
        tree = self._drive.tree
        total = 0
        for number, (node, _) in enumerate(tree.ignored()[:_IGNORED_MAX]):
            total += self._content_bytes(tree.record(node))
            if number % _LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return total

    async def of_path(self, path: bytes, node: NodeId) -> Fields:
        """How one path stands, and what is below it."""
        drive = self._drive
        record = drive.volume.record(node)
        rule, trouble = drive.sync.rule_for(node), drive.sync.trouble_of(node)
        lost = [one for _, one, _ in drive.tree.lost()]
        pending = await self._below(node, [*(one for one, _ in drive.tree.dirty()), *lost])
        ignored = await self._below(node, [one for one, _ in drive.tree.ignored()])
        is_pending = record.is_dirty or drive.files.is_unfinished(node) or node in lost
        return {
            "path": os.fsdecode(path) or self._point,
            "kind": record.local.kind.name.lower() if record.local is not None else None,
            "state": "ignored" if rule else "error" if trouble else "pending" if is_pending else "synced",
            "rule": rule,
            "error": trouble,
            "size_bytes": record.size if record.local is not None and record.local.kind is Kind.FILE else 0,
            "cached_bytes": drive.files.held_bytes(node),
            "lost_edits": lost.count(node),
            "pending_below": pending,
            "ignored_below": ignored,
            "held": drive.sync.standing().held,
            "rev": record.rev,
        }

    async def _below(self, top: NodeId, nodes: list[NodeId]) -> int:
        count = 0
        for number, node in enumerate(nodes):
            count += node != top and (top == ROOT or self._drive.sync.is_below(node, top))
            if number % _LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return count


def _seconds(seconds: float) -> float | None:
    """None for never, which JSON has no number for."""
    return None if seconds == math.inf else round(seconds, 1)
