"""Steps: which ordinary calls would have made of what a folder showed before what it shows now. Pure.

A watching program is told by such calls. What no single call can tell truly (two names exchanged, a name given to
another kind of thing) is told by what is nearest: a wrong event is worse than a missing one.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from cache.pull import Difference
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Kind, Name, NodeState

_DEEPEST = 4_096


class Act(enum.Enum):
    """What is done to a name."""

    MAKE = "make"
    REMOVE = "remove"
    MOVE = "move"
    CHANGE = "change"
    """Its content is another."""
    TOUCH = "touch"
    """Only its attributes are others."""


class Step(NamedTuple):
    """One call: what it does to which node under which name; a move's `target` is the name it goes to.

    `state` is the node's last one: after the step, or before it is removed.
    """

    act: Act
    node: NodeId
    state: NodeState
    name: Name
    target: Name | None = None


@dataclass
class Told:
    """What is to be told: differences, and where the folders are that one goes through to get there."""

    differences: dict[NodeId, Difference] = field(default_factory=dict)
    places: dict[NodeId, Name] = field(default_factory=dict)

    def add(self, node: NodeId, later: Difference) -> None:
        """Puts what happened next to a node to what is to be told of it already."""
        known = self.differences.get(node)
        if known is not None:
            later = Difference(known.before, later.after, known.is_content or later.is_content)
        if later.before is None and later.after is None:
            del self.differences[node]
        else:
            self.differences[node] = later

    def merge(self, later: "Told", limit: int) -> None:
        """Takes in what happened next; nodes beyond the limit are left out."""
        for node, difference in later.differences.items():
            if node in self.differences or len(self.differences) < limit:
                self.add(node, difference)
        self.places |= later.places

    def path(self, folder: NodeId) -> list[bytes] | None:
        """The names that lead from the top to a folder; None when that is not known."""
        parts: list[bytes] = []
        while folder != ROOT:
            place = self.places.get(folder)
            if place is None or len(parts) > _DEEPEST:
                return None
            parts.append(place.name)
            folder = place.parent
        return parts[::-1]


def steps_of(told: Told) -> list[Step]:
    """The calls, in an order in which they can be made."""
    went: dict[Name, NodeId] = {}
    came: set[Name] = set()
    for node, (before, after, _) in told.differences.items():
        old, new = before.names if before is not None else (), after.names if after is not None else ()
        went.update((name, node) for name in old if name not in new)
        came.update(name for name in new if name not in old)
    steps: list[Step] = []
    for node, difference in told.differences.items():
        steps += _steps_of_node(node, difference, _Moves(told.differences, went, came))
    return sorted(steps, key=lambda step: _order(step, told))


class _Moves(NamedTuple):
    differences: Mapping[NodeId, Difference]
    went: Mapping[Name, NodeId]
    came: set[Name]

    def replaced(self, name: Name, kind: Kind) -> NodeState | None:
        """The state of the node of this kind that had a name before and is gone altogether."""
        difference = self.differences.get(self.went.get(name, ROOT))
        if difference is None or difference.after is not None or difference.before is None:
            return None
        return difference.before if difference.before.kind is kind else None


def _steps_of_node(node: NodeId, difference: Difference, moves: _Moves) -> list[Step]:
    before, after, is_content = difference
    if after is None:
        assert before is not None
        # Taken over by another: that one's coming is what there is to see.
        return [Step(Act.REMOVE, node, before, name) for name in before.names if name not in moves.came]
    old = before.names if before is not None else ()
    lost = [name for name in old if name not in after.names and name not in moves.came]
    gained = [name for name in after.names if name not in old]
    steps: list[Step] = []
    for name in gained:
        is_free = name not in moves.went or moves.replaced(name, after.kind) is not None
        if lost and is_free:
            steps.append(Step(Act.MOVE, node, after, lost.pop(), name))
        elif after.kind is Kind.FILE and moves.replaced(name, Kind.FILE) is not None:
            steps.append(Step(Act.CHANGE, node, after, name))
        else:
            steps.append(Step(Act.MAKE, node, after, name))
    steps += [Step(Act.REMOVE, node, after, name) for name in lost]
    if before is not None and after.names:
        if is_content and after.kind is Kind.FILE:
            steps.append(Step(Act.CHANGE, node, after, after.names[0]))
        elif _is_touched(before, after):
            steps.append(Step(Act.TOUCH, node, after, after.names[0]))
    return steps


def _is_touched(before: NodeState, after: NodeState) -> bool:
    """Whether somebody set attributes; a folder's times move with what is in it, and every ctime by itself."""
    same = replace(before, names=after.names, ctime_ns=after.ctime_ns, content=after.content)
    if after.kind is Kind.FOLDER:
        same = replace(same, mtime_ns=after.mtime_ns)
    return same != after


def _order(step: Step, told: Told) -> tuple[int, int]:
    """Folders come first, the upper before the lower; they go last, the lower before the upper."""
    is_folder = step.state.kind is Kind.FOLDER
    if step.act in (Act.MAKE, Act.MOVE) and is_folder:
        return 0, _depth((step.target or step.name).parent, told)
    if step.act is Act.MOVE:
        return 1, 0
    if step.act is Act.REMOVE:
        return (3, -_depth(step.name.parent, told)) if is_folder else (2, 0)
    return (4 if step.act is Act.MAKE else 5), 0


def _depth(folder: NodeId, told: Told) -> int:
    path = told.path(folder)
    return len(path) if path is not None else 0
