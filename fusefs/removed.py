"""Removed: what nodes were whose last name went here, for programs that stand in them or hold a descriptor of them.

Open files are not here: handles.py keeps those, with their content.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from cache.tree import Tree
from remote.protocol.ids import NodeId
from remote.protocol.nodes import NodeState

_KEPT: Final = 4_096
"""The last ones: the kernel forgets most as soon as their name is gone, and then so do we."""


class Last(NamedTuple):
    """What a node was when its last name went."""

    state: NodeState
    size: int


class Removed:
    """What they were, without names."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._last: OrderedDict[NodeId, Last] = OrderedDict()

    def find(self, node: NodeId) -> Last | None:
        """What a node was; None when it was not removed here, or is there again."""
        last = self._last.get(node)
        if last is None:
            return None
        record = self._tree.record(node)
        if record is not None and record.local is not None:
            del self._last[node]
            return None
        return last

    def keep(self, node: NodeId, last: Last) -> None:
        """Notes what a node is that has no name any more."""
        self._last[node] = last
        if len(self._last) > _KEPT:
            self._last.popitem(last=False)

    def forget(self, node: NodeId) -> None:
        """Nobody can ask for it any more."""
        self._last.pop(node, None)
