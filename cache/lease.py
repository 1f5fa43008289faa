"""Lease: by how much content may grow here before the server is asked again, as it said last; kept over restarts.

What is not sent counts against it, so what a program was told is written fits the quota when it is sent, without the
server too (see remote/server/leases.py).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
from msgspec.structs import replace

from cache.errors import DiskFull
from cache.records import Record
from cache.tree import Tree
from remote.protocol.ids import NodeId
from remote.protocol.messages import Holding, Room

_SETTING: Final = "lease"
_LOOK_SECONDS: Final = 1.0
_MANY: Final = 1_000
"""With more dirty nodes than this their growth is added up once in so long."""


class Lease:
    """That of one space."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        kept = tree.setting(_SETTING)
        self.room = msgspec.msgpack.decode(kept, type=Room) if kept else Room(free=1 << 40)
        """What the server said last; before it said anything: plenty."""
        self.unflushed_bytes: Callable[[], int] = lambda: 0
        """By how much files are larger that programs write to than the tree says."""
        self.on_more: Callable[[], None] = lambda: None
        """Called when there is more room than before."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the server says that it lost chunks of the space."""
        self._serial = self.room.serial
        self._growth = 0
        self._looked_at = -_LOOK_SECONDS

    @property
    def has_quota(self) -> bool:
        """Whether the space is bounded."""
        return self.room.quota > 0

    def growth(self) -> int:
        """By how much content is larger here than on the server; less than nothing when it is smaller."""
        self._look()
        return self._growth + self.unflushed_bytes()

    def _look(self) -> bool:
        """Adds up; False when it was too much to be done so soon again."""
        now = time.monotonic()
        if self._tree.dirty_count() > _MANY and now - self._looked_at <= _LOOK_SECONDS:
            return False
        self._growth = sum(_growth(self._tree.record(node)) for node, _ in self._tree.dirty())
        self._looked_at = now
        return True

    def growth_of(self, node: NodeId) -> int:
        """By how much one node is larger here than on the server, of what was flushed."""
        return _growth(self._tree.record(node))

    def held(self) -> Holding | None:
        """What this device holds itself to, to be told to the server; None without a quota."""
        return Holding(self.room.lease, self._serial) if self.has_quota else None

    def lower(self) -> None:
        """Lets go of what is beyond what is needed and a share, for others; raises DiskFull."""
        # What programs wrote since it was added up must not be let go of.
        if not self.has_quota or not self._look():
            return
        kept = max(0, self._growth + self.unflushed_bytes()) + self.room.share
        if kept < self.room.lease:
            serial = max(self._serial + 1, time.time_ns())
            lowered = replace(self.room, lease=kept, serial=serial)
            # Kept before anybody else can get it: after a restart it must not count again.
            self._tree.set_setting(_SETTING, msgspec.msgpack.encode(lowered))
            self.room, self._serial = lowered, serial

    def take(self, room: Room, *, is_first: bool = False) -> bool:
        """Takes what the server says in an answer, unless a later one came before; `is_first`: none is on its way.

        False when it was passed over.
        """
        if room.has_lost:
            self.on_lost()
        is_late = room.rev < self.room.rev or (room.quota and room.serial < self._serial)
        if is_late and not is_first:
            return False
        if room == self.room:
            return True
        self._serial = room.serial
        is_more = not room.quota or room.lease > self.room.lease
        self.room = room
        with suppress(DiskFull):  # the next answer may be kept
            self._tree.set_setting(_SETTING, msgspec.msgpack.encode(room))
        if is_more:
            self.on_more()
        return True


def _growth(record: Record | None) -> int:
    """By how much a node is larger here than on the server."""
    if record is None:
        return 0
    agreed = record.agreed.content if record.agreed is not None else None
    is_content = record.local is not None and record.local.content is not None
    return (record.size if is_content else 0) - (agreed.size if agreed is not None else 0)
