"""Status: what `satchel status` tells of one mounted drive, or of one path in it; its words are in docs/status.md."""

import math
import os
from dataclasses import asdict
from typing import Any, Final

import trio

from cache.tree import Record
from fusefs.drive import Drive
from fusefs.settings import Account
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Kind

_LOOKED_AT_ONCE: Final = 200
_STUCK_MAX: Final = 100
_IGNORED_MAX: Final = 10_000
"""Ignored files whose bytes are added up: beyond that it is a lower bound."""

Fields = dict[str, Any]  # JSON: see docs/status.md


class Status:
    """Answers for one drive."""

    def __init__(self, drive: Drive, account: Account, point: str) -> None:
        self._drive = drive
        self._account = account
        self._point = point

    async def whole(self, files: int) -> Fields:
        """How the drive stands, with at most so many of the files that are to be sent, those on their way first."""
        drive = self._drive
        await trio.lowlevel.checkpoint()
        standing = drive.sync.standing()
        flow = drive.flow.told()
        open_count = sum(1 for file in drive.files.changed() if not drive.tree.edited_ns(file.node))
        ignored = await self._ignored_bytes()
        pending_bytes = max(0, drive.stagings.total_bytes - ignored)
        listed, sent = self._files(files)
        rate = drive.flow.rates()[0]
        silent = drive.flow.silent_seconds()
        is_moving = standing.is_online and not standing.held and rate > 0
        return {
            "mount": self._point,
            "url": self._account.url,
            "user": self._account.user_name,
            "device": self._account.device_name,
            "pid": os.getpid(),
            "online": standing.is_online,
            "trouble": standing.trouble,
            "silent_seconds": round(silent, 1),
            **flow,
            "pending": {
                "count": standing.pending_nodes + open_count,
                "bytes": pending_bytes,
                "sent_bytes": sent,
                "seconds_left": round((pending_bytes - sent) / rate, 1) if is_moving and pending_bytes > sent else None,
                "files": listed,
            },
            "stuck": [
                {"path": os.fsdecode(one.path), "sentence": one.sentence, "seconds": _seconds(one.seconds)}
                for one in standing.stuck[:_STUCK_MAX]
            ],
            "rules": list(drive.ignoring.rules.faults),
            "ignored": {"count": drive.tree.ignored_count(), "bytes": ignored},
            "cache": {"bytes": drive.budget.used_bytes, "limit_bytes": drive.budget.limit_bytes},
            "pinned": [os.fsdecode(drive.tree.path_of(node)) or self._point for node in drive.pins.pinned()],
            "kept": asdict(drive.pins.kept()),
            "backups": drive.backups.told(),
            "spaces": [
                {
                    "name": self._account.user_name,
                    "used_bytes": drive.room.used,
                    "quota_bytes": drive.room.quota,
                    "free_bytes": drive.volume.room().free,
                    "lease_bytes": drive.room.lease,
                }
            ],
            "unlisted_folders": standing.unlisted_folders,
            "rev": standing.cursor,
        }

    def _files(self, most: int) -> tuple[list[Fields], int]:
        """Some of what is to be sent, and how many bytes of all that is on its way are there already."""
        drive = self._drive
        moving = drive.sync.moving()
        nodes = [*moving, *(node for node, _ in drive.tree.dirty(limit=most + len(moving)) if node not in moving)]
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
