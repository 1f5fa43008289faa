"""Quota: whether what programs wrote fits what the server gave this space, also without the server.

The kernel takes writes on its own account, so who wrote is told by close(2) and fsync(2). What was written is kept here
all the same, and sent when there is room for it.
"""

import time
from typing import Final

from cache.staging import Stagings
from cache.tree import Record, Tree
from fusefs.errors import OverQuota
from remote.protocol.ids import NodeId

_LOOK_SECONDS: Final = 1.0
_MANY: Final = 1_000
"""With more dirty nodes than this their growth is added up once in so long."""


class Quota:
    """Bounds the sum of all sizes, holes included, as the server does when it takes a commit."""

    def __init__(self, tree: Tree, stagings: Stagings) -> None:
        self._tree = tree
        self._stagings = stagings
        self.left_bytes: int | None = None
        """What the server had left for this space when it was last asked; None: it has no quota."""
        self._growth = 0
        self._looked_at = -_LOOK_SECONDS

    def check(self, node: NodeId) -> None:
        """Raises OverQuota when a file that was flushed has grown by more than the server would take."""
        if self.left_bytes is None or self._stagings.total_bytes <= max(0, self.left_bytes):
            # Most of the time: what is not sent is less than what is left, whatever it was written over.
            return
        if _growth(self._tree.record(node)) > 0 and self._all_growth() > self.left_bytes:
            raise OverQuota(f"The quota of this drive is used up: {max(0, self.left_bytes)} bytes were left.")

    def _all_growth(self) -> int:
        now = time.monotonic()
        if self._tree.dirty_count() <= _MANY or now - self._looked_at > _LOOK_SECONDS:
            self._growth = sum(_growth(self._tree.record(node)) for node, _ in self._tree.dirty())
            self._looked_at = now
        return self._growth


def _growth(record: Record | None) -> int:
    """By how much a node is larger here than on the server."""
    if record is None:
        return 0
    agreed = record.agreed.content if record.agreed is not None else None
    is_content = record.local is not None and record.local.content is not None
    return (record.size if is_content else 0) - (agreed.size if agreed is not None else 0)
