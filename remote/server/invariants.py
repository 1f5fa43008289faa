"""Whether a commit may be taken: pure decisions on the tree as it is and as it would be. Nothing is changed here.

A stale change, a taken name, a removed parent and the like are refused with winners (the nodes in the way); what
contradicts itself or could never be right is a BadRequest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from remote.protocol.errors import BadRequest, NotAllowed, TooLarge
from remote.protocol.ids import NO_SPACE, NODE_RANGE_BITS, ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Change
from remote.protocol.nodes import Kind, Name, NodeState

DEPTH_MAX = 4_096
"""Folders above a folder: no path of Linux is longer, and every commit walks them."""
WINNERS_MAX = 1_000
"""More nodes in the way than this are not all named."""


@dataclass(frozen=True)
class Present:
    """What counts of a node as it is now; `parent` is that of a folder, `mounts` as in NodeState.

    `has_moved`: it is not in this space any more, but in another one.
    """

    rev: Rev
    kind: int
    parent: NodeId
    is_removed: bool
    mounts: SpaceId = NO_SPACE
    has_moved: bool = False


class Tree(Protocol):
    """The space as it is now."""

    def present(self, node: NodeId) -> Present | None:
        """The node, also when removed; None when it never was."""
        ...

    def names(self, node: NodeId) -> tuple[Name, ...]:
        """Its names; none when it is removed or never was."""
        ...

    def holder(self, name: Name) -> NodeId | None:
        """The node that has the name."""
        ...

    def children(self, folder: NodeId, limit: int) -> Sequence[NodeId]:
        """The first children of a folder."""
        ...

    def holds_range(self, range_number: int) -> bool:
        """Whether the asking user holds this range of node ids; he does from now on, where nobody does."""
        ...

    def has_version(self, node: NodeId, rev: Rev) -> bool:
        """Whether this rev made a version of the node."""
        ...


@dataclass(frozen=True)
class Refusal:
    """The commit is not taken: the nodes in the way, and a sentence about the first of them."""

    winners: tuple[NodeId, ...]
    reason: str


@dataclass
class _InTheWay:
    nodes: dict[NodeId, str] = field(default_factory=dict)

    def add(self, node: NodeId, reason: str) -> None:
        if len(self.nodes) < WINNERS_MAX:
            self.nodes.setdefault(node, reason)


def judge(tree: Tree, changes: Sequence[Change], *, may_mount: bool = False) -> Refusal | None:
    """None when all invariants hold after all of these changes; raises BadRequest for what is no conflict but wrong.

    `may_mount`: the server itself shares a folder, or places or removes a shared one. Others get NotAllowed for that.
    """
    settled = settled_states(changes)
    in_the_way = _InTheWay()
    for change in changes:
        _check_base(tree, change, in_the_way)
        if not may_mount:
            _check_range_of(tree, change.node)
            _check_mount(tree, change)
    _check_names(tree, settled, in_the_way)
    _check_emptied(tree, settled, in_the_way)
    _check_ancestors(tree, settled, in_the_way)
    if not in_the_way.nodes:
        return None
    return Refusal(tuple(in_the_way.nodes), next(iter(in_the_way.nodes.values())))


def settled_states(changes: Sequence[Change]) -> dict[NodeId, NodeState | None]:
    """The state after the commit of every node whose state it settles (touches and lost conflicts do not)."""
    return {change.node: change.state for change in changes if not (change.is_touch or change.is_conflict)}


def parent_after(tree: Tree, settled: Mapping[NodeId, NodeState | None], folder: NodeId) -> NodeId | None:
    """The parent of a folder after the commit; None when there is no such folder then."""
    if folder in settled:
        state = settled[folder]
        return state.names[0].parent if state is not None and state.kind == Kind.FOLDER else None
    present = tree.present(folder)
    return None if present is None or present.is_removed or present.kind != Kind.FOLDER else present.parent


def _check_base(tree: Tree, change: Change, in_the_way: _InTheWay) -> None:
    """Compares one change with what it was made on top of."""
    node, present = change.node, tree.present(change.node)
    if present is None:
        _check_birth(tree, change)
        return
    if change.state is not None and change.state.kind != present.kind:
        was, says = Kind(present.kind).name.lower(), change.state.kind.name.lower()
        raise BadRequest(f"Node {node} is a {was} for ever; it cannot become a {says}.")
    if change.overrides and not tree.has_version(node, change.overrides):
        raise BadRequest(f"Node {node} has no version of rev {change.overrides} that could be overridden.")
    if change.is_touch or change.is_conflict:
        return
    if change.base != present.rev:
        in_the_way.add(node, f"Node {node} changed since rev {change.base}: it is at rev {present.rev}.")
    elif present.is_removed and change.state is None:
        raise BadRequest(f"Node {node} is removed already.")


def _check_range_of(tree: Tree, node: NodeId) -> None:
    if tree.present(node) is None and not tree.holds_range(node >> NODE_RANGE_BITS):
        raise BadRequest(f"The id of the new node {node} is not of a range that was leased to your devices.")


def _check_mount(tree: Tree, change: Change) -> None:
    """Refuses to make, change or remove what stands for a shared space, or to have back what moved into one."""
    node, present = change.node, tree.present(change.node)
    if change.is_touch or change.is_conflict or (present is not None and change.base != present.rev):
        return
    mounts = present.mounts if present is not None else 0
    if change.state is None:
        if mounts:
            raise NotAllowed(f"Node {node} is a shared folder, which cannot be removed: satchel leave takes it away.")
        return
    if change.state.mounts != mounts:
        raise NotAllowed(f"Node {node}: only the server makes a folder a shared one: satchel share.")
    if present is not None and present.is_removed and present.has_moved:
        raise NotAllowed(f"Node {node} is in another space now, or was a shared folder: it cannot come back here.")


def _check_birth(tree: Tree, change: Change) -> None:
    node = change.node
    if change.base or change.state is None or change.is_touch or change.is_conflict or change.overrides:
        raise BadRequest(f"There never was a node {node} in this space that could be changed.")


def _check_names(tree: Tree, settled: Mapping[NodeId, NodeState | None], in_the_way: _InTheWay) -> None:
    """Every name new with this commit leads from a living folder, and to one node only."""
    claims: dict[Name, NodeId] = {}
    for node, state in settled.items():
        if state is None or node == ROOT:
            continue
        had = tree.names(node)
        for name in state.names:
            if claims.setdefault(name, node) != node:
                raise BadRequest(f"This commit gives the name {name.name!r} in folder {name.parent} to two nodes.")
            if name in had:
                continue
            _check_parent(tree, settled, name, in_the_way)
            holder = tree.holder(name)
            if holder is not None and holder != node and holder not in settled:
                in_the_way.add(holder, f"Node {holder} has the name {name.name!r} in folder {name.parent}.")


def _check_parent(tree: Tree, settled: Mapping[NodeId, NodeState | None], name: Name, in_the_way: _InTheWay) -> None:
    parent = name.parent
    if parent in settled:
        state = settled[parent]
        if state is None:
            raise BadRequest(f"This commit removes folder {parent} and puts {name.name!r} into it.")
        if state.kind != Kind.FOLDER:
            raise BadRequest(f"{name.name!r} cannot be in node {parent}, which is no folder.")
        if state.mounts:
            in_the_way.add(parent, f"Folder {parent} is shared: what is in it is in a space of its own.")
        return
    present = tree.present(parent)
    if present is None:
        raise BadRequest(f"{name.name!r} cannot be in folder {parent}, which never was.")
    if present.kind != Kind.FOLDER:
        raise BadRequest(f"{name.name!r} cannot be in node {parent}, which is no folder.")
    if present.is_removed:
        in_the_way.add(parent, f"Folder {parent} was removed with rev {present.rev}.")
    elif present.mounts:
        in_the_way.add(parent, f"Folder {parent} is shared: what is in it is in a space of its own.")


def _check_emptied(tree: Tree, settled: Mapping[NodeId, NodeState | None], in_the_way: _InTheWay) -> None:
    """A removed folder keeps no children."""
    for folder, state in settled.items():
        present = tree.present(folder) if state is None else None
        if present is None or present.kind != Kind.FOLDER or present.is_removed:
            continue
        for child in tree.children(folder, len(settled) + WINNERS_MAX):
            if child not in settled:
                in_the_way.add(child, f"Folder {folder} is not empty: node {child} is in it.")
                continue
            kept = settled[child]
            if kept is not None and any(name.parent == folder for name in kept.names):
                raise BadRequest(f"This commit removes folder {folder} and leaves node {child} in it.")


def _check_ancestors(tree: Tree, settled: Mapping[NodeId, NodeState | None], in_the_way: _InTheWay) -> None:
    """Every folder that moved, or is new, still hangs from the root."""
    depths = {ROOT: 0}
    for folder, state in settled.items():
        if state is None or state.kind != Kind.FOLDER or folder == ROOT:
            continue
        present = tree.present(folder)
        if present is not None and not present.is_removed and present.parent == state.names[0].parent:
            continue
        _walk_up(tree, settled, folder, depths, in_the_way)


def _walk_up(
    tree: Tree,
    settled: Mapping[NodeId, NodeState | None],
    folder: NodeId,
    depths: dict[NodeId, int],
    in_the_way: _InTheWay,
) -> None:
    """Walks up to a folder whose depth is known, and notes the depths of those on the way."""
    way: dict[NodeId, None] = {}
    at = folder
    while at not in depths:
        if at in way:
            others = [other for other in way if other not in settled]
            if not others:
                raise BadRequest(f"This commit puts folder {folder} into itself.")
            for other in others:
                in_the_way.add(other, f"Folder {folder} would be inside itself, by folder {other}.")
            return
        way[at] = None
        parent = parent_after(tree, settled, at)
        if parent is None:
            return  # a removed parent is in the way already
        at = parent
    depths.update({passed: depth for depth, passed in enumerate(reversed(way), start=depths[at] + 1)})
    if depths[folder] > DEPTH_MAX:
        raise TooLarge(f"Folder {folder} would be {depths[folder]} levels deep; at most {DEPTH_MAX} are allowed.")
