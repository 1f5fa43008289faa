"""Planning: what of the dirty nodes can be sent now, in what order, and what must be sent together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio
from msgspec.structs import replace

from cache import merge
from cache.ignoring import Ignoring
from cache.preparing import SMALL_BYTES, SMALL_FILES, Preparing
from cache.pull import Mount, effects_of
from cache.records import Record
from cache.tree import Tree
from cache.troubles import Troubles
from cache.upload import SMALL_FILE_MAX
from remote.protocol.ids import NodeId
from remote.protocol.messages import CHANGES_MAX
from remote.protocol.nodes import Kind

_WINDOW: Final = 1_000
"""Dirty nodes planned for at a time, so that no request of a program waits long for the planner."""


@dataclass
class Plan:
    """Groups that can be committed, and small (many together) and large files whose content must be sent first."""

    ready: list[list[NodeId]] = field(default_factory=list)
    small: list[list[NodeId]] = field(default_factory=list)
    large: list[NodeId] = field(default_factory=list)
    is_cut: bool = False
    """Whether there are more files for whose content there was no room."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.ready or self.small or self.large)

    @property
    def count(self) -> int:
        """About how many nodes can be sent."""
        return len(self.ready) + sum(map(len, self.small)) + len(self.large)


class Planner:
    """Looks at the dirty nodes of one space, window by window."""

    def __init__(self, tree: Tree, mount: Mount, troubles: Troubles, preparing: Preparing, ignoring: Ignoring) -> None:
        self._ignoring = ignoring
        self._tree = tree
        self._mount = mount
        self._troubles = troubles
        self._preparing = preparing
        self._after = NodeId(0)
        # What was found out within one plan, during which nothing changes.
        self._needed: dict[NodeId, list[NodeId]] = {}
        self.planned_at = 0.0

    async def plan(self) -> Plan:
        """What can be done for the next dirty nodes for which something can be done; no await after it is made."""
        self.planned_at = trio.current_time()
        self._troubles.forget_settled()
        self._preparing.forget_settled()
        is_round = self._after == 0
        while True:
            dirty = self._tree.dirty(_WINDOW, self._after)
            if self._tree.may_ignore:
                await self._ignoring.look_below_moved([node for node, _ in dirty])
                dirty = self._tree.dirty(_WINDOW, self._after)
            plan = self._sort(self._groups(dirty))
            if not plan.is_empty:
                return plan
            if len(dirty) == _WINDOW:
                self._after = dirty[-1][0]
            elif is_round:
                self._after = NodeId(0)
                return plan
            else:
                is_round, self._after = True, NodeId(0)
            await trio.lowlevel.checkpoint()

    def _groups(self, dirty: list[tuple[NodeId, int]]) -> list[list[NodeId]]:
        dirty.sort(key=lambda pair: pair[1])
        for node, _ in dirty:
            self._drop_spared(node)
        # Half of a burst is on its way. Who needs one of these brings it in again (`merge.units`), and waits for it.
        waiting = [node for node, _ in dirty if not self._is_passing(node)]
        nodes = [node for node in waiting if not (self._drop_if_void(node) or self._put_by_if_ignored(node))]
        if self._ignoring.is_unsettled:
            self._ignoring.is_unsettled = False
            nodes = [node for node in nodes if not self._put_by_if_ignored(node)]
        self._needed.clear()
        groups: list[list[NodeId]] = []
        for group in merge.units(nodes, self._needs):
            if len(group) <= CHANGES_MAX:
                groups.append(group)
                continue
            # More than a commit may hold: then names are missing for a moment on the way, in an order that works.
            groups += self._in_order(group)
        return groups

    def _is_passing(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        return record is not None and self._preparing.is_passing(node, record)

    def _in_order(self, group: Sequence[NodeId]) -> list[list[NodeId]]:
        members = set(group)
        return merge.units(group, lambda node: [other for other in self._needs_first(node) if other in members])

    def _drop_if_void(self, node: NodeId) -> bool:
        """Made and removed here before the server heard of it, or changed and changed back: nothing to tell.

        One of which edits lost stays until these are sent (see Push): then its removal is to be told.
        """
        record = self._tree.record(node)
        if record is None or not record.is_dirty:
            with self._tree.edit() as edit:
                edit.mark_clean(node)
            return True
        if record.local is None and self._tree.is_unknown_elsewhere(node, record):
            if record.rev or not self._tree.has_lost(node):
                with self._tree.edit() as edit:
                    edit.drop(node)
            return True
        if record.local is not None and record.local == record.synced and not record.staged:
            with self._tree.edit() as edit:
                edit.put(node, replace(record, is_dirty=False, synced=None))
                edit.mark_clean(node)
            return True
        return False

    def _drop_spared(self, folder: NodeId) -> None:
        """A folder that lives on for what is in it goes when all of that went before it was sent, and one above it."""
        while (record := self._tree.record(folder)) is not None and record.is_spared:
            if self._tree.has_children(folder) or not self._tree.is_unknown_elsewhere(folder, record):
                return
            with self._tree.edit() as edit:
                edit.drop(folder)
                effects = effects_of(edit, is_event=True)
            self._mount.show(effects)
            if record.local is None or not record.local.names:
                return
            folder = record.local.names[0].parent

    def _put_by_if_ignored(self, node: NodeId) -> bool:
        if not self._ignoring.holds(node, self._tree.record(node)):
            return False
        with self._tree.edit() as edit:
            edit.ignore(node)
        self._preparing.forget(node)
        return True

    def _needs(self, node: NodeId) -> list[NodeId]:
        """Dirty nodes whose change must be committed before this one's, or with it (when they need each other)."""
        found = self._needed.get(node)
        if found is None:
            record = self._tree.record(node)
            found = self._needed[node] = self._needs_first(node) + self._heirs(node, record) if record else []
        return found

    def _heirs(self, node: NodeId, record: Record) -> list[NodeId]:
        """Whoever has a name of ours now goes with us: elsewhere the name always leads to one of us."""
        agreed_names = record.synced.names if record.synced is not None else ()
        here_names = record.local.names if record.local is not None else ()
        if not agreed_names or agreed_names == here_names:
            return []
        heirs = [self._tree.child(name.parent, name.name) for name in agreed_names if name not in here_names]
        # One that is ignored stays here: its name is given up without it.
        return [heir for heir in self._dirty_others(node, heirs) if not self._tree.is_ignored(heir)]

    def _needs_first(self, node: NodeId) -> list[NodeId]:
        """Dirty nodes without whose change, before or with this one's, the server would refuse it."""
        tree = self._tree
        record = tree.record(node)
        if record is None:
            return []
        here, agreed = record.local, record.synced
        found: list[NodeId | None] = []
        agreed_names = agreed.names if agreed is not None else ()
        for name in here.names if here is not None else ():
            parent = tree.record(name.parent)
            if parent is not None and parent.is_dirty and parent.synced is None:
                found.append(name.parent)
            if name not in agreed_names:
                found.append(tree.slot_holder(name))
                if here is not None and here.kind is Kind.FOLDER:
                    found.extend(self._moved_above(name.parent))
        if here is None and agreed is not None and agreed.kind is Kind.FOLDER:
            found.extend(tree.slot_holders(node))
        return self._dirty_others(node, found)

    def _dirty_others(self, node: NodeId, found: Sequence[NodeId | None]) -> list[NodeId]:
        return [other for other in found if other is not None and other != node and self._tree.is_dirty(other)]

    def _moved_above(self, folder: NodeId) -> list[NodeId]:
        """Folders above that were moved here: they go first, or the server could see a cycle in between."""
        moved: list[NodeId] = []
        for _ in range(4_096):
            record = self._tree.record(folder)
            if record is None or record.local is None or not record.local.names or record.local.names[0].parent == 0:
                break
            if record.is_dirty and (record.synced is None or record.synced.names != record.local.names):
                moved.append(folder)
            folder = record.local.names[0].parent
        return moved

    def _sort(self, groups: Sequence[list[NodeId]]) -> Plan:
        plan = Plan()
        blocked: set[NodeId] = set()
        is_any_waiting = bool(self._tree.news_count())
        small = _Batches(self._preparing.small_room)
        large_room = self._preparing.large_room
        for group in groups:
            if any(self._waits(node, is_any_waiting) for node in group) or any(
                other in blocked for node in group for other in self._needs(node)
            ):
                blocked.update(group)
                continue
            missing = [
                (node, record)
                for node in group
                if (record := self._tree.record(node)) is not None and self._preparing.is_missing(node, record)
            ]
            if not missing:
                plan.ready.append(group)
                continue
            blocked.update(group)
            for node, record in missing:
                if self._preparing.is_running(node):
                    continue
                if record.staged_size <= SMALL_FILE_MAX:
                    small.add(node, record.staged_size)
                elif large_room[self._preparing.is_huge(record)] > 0:
                    large_room[self._preparing.is_huge(record)] -= 1
                    plan.large.append(node)
                else:
                    plan.is_cut = True
        plan.ready = self._without_spared(plan.ready)
        plan.small = small.batches
        plan.is_cut = plan.is_cut or small.is_full
        return plan

    def _without_spared(self, groups: list[list[NodeId]]) -> list[list[NodeId]]:
        """Without folders that live on only for what is not to be sent yet: it may go before, and they with it."""
        spared = {node for group in groups for node in group if self._is_spared(node)}
        if not spared:
            return groups
        needed: set[NodeId] = set()
        kept: list[list[NodeId]] = []
        for group in reversed(groups):
            if not spared.issuperset(group) or needed.intersection(group):
                kept.append(group)
                needed.update(other for node in group for other in self._needs(node))
        return kept[::-1]

    def _is_spared(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        return record is not None and record.is_spared

    def _waits(self, node: NodeId, is_any_waiting: bool) -> bool:
        """Whether the node cannot be sent now; `is_any_waiting`: there is news that could not be merged yet.

        One without a name is hidden until news comes of it.
        """
        record = self._tree.record(node)
        is_hidden = record is not None and record.local is not None and not record.local.names
        return (
            is_hidden
            or self._troubles.holds_back(node, self.planned_at)
            or self._mount.is_held(node)
            or (is_any_waiting and self._tree.news_of(node) is not None)
        )


class _Batches:
    """Small files in batches as Preparing takes them, at most `room` of them."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._bytes_left = 0
        self.batches: list[list[NodeId]] = []
        self.is_full = False

    def add(self, node: NodeId, size: int) -> None:
        """Puts the node into a batch, if there is room."""
        if self._bytes_left <= 0 or len(self.batches[-1]) >= SMALL_FILES:
            if len(self.batches) >= self._room:
                self.is_full = True
                return
            self.batches.append([])
            self._bytes_left = SMALL_BYTES
        self.batches[-1].append(node)
        self._bytes_left -= size
