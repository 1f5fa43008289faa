"""Syncs: keeps the home and the shared spaces in it in step, and tells of all together, or of that of a node."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import trio

from cache.edit import Edit
from cache.grafts import Common, Graft, Grafts
from cache.lease import Lease
from cache.parts import Part
from cache.pull import Pull
from cache.push import Push
from cache.records import HOME
from cache.sync import Standing, Stuck, Sync
from cache.upload import Upload
from remote.protocol.ids import ROOT, NodeId, SpaceId
from remote.protocol.nodes import Kind

_LOOKED_AT_ONCE: Final = 200


class Syncs:
    """What Sync is for one space, for all spaces of a device."""

    def __init__(self, common: Common, lease: Lease, on_made: Callable[[Graft], None]) -> None:
        """`lease`: the home's; `on_made`: see Grafts."""
        self._tree = common.tree
        part = Part(common.tree)
        self.pull = Pull(common.service, common.home, part, common.clock, common.mount, lease)
        self.upload = Upload(common.service, common.home.space, common.home.secret, common.reader, common.chunks)
        self.push = Push(self.pull, part, common.stagings, common.chunks, self.upload, common.ignoring)
        self._moved = trio.Event()
        polls = common.polls
        self.home = Sync(part, self.pull, self.push, polls, is_walking=common.is_walking, on_moved=self._tell)
        self.grafts = self.pull.mounts = Grafts(common, on_made)
        self.grafts.on_moved = self._tell
        self.grafts.list_home = self.pull.list_folder

    async def run(self) -> None:
        """Keeps all in step until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.home.run)
            nursery.start_soon(self.grafts.run)

    async def mend(self) -> None:
        """Sends again what the server says it lost, of all spaces; raises RemoteError."""
        for push in (self.push, *(graft.push for graft in list(self.grafts.all.values()))):
            await push.resending.mend()

    def wake(self) -> None:
        """Something was edited here; whoever edits calls this."""
        self.push.wake()
        self.grafts.wake()

    async def list_folder(self, folder: NodeId) -> None:
        """Returns when all children of a folder are known; raises RemoteError, NoSuchNode."""
        while True:
            space = self._tree.space_below(folder)
            await (self.pull if space == HOME else self.grafts).list_folder(folder)
            if self._tree.space_below(folder) == space:
                return

    def of(self, node: NodeId) -> Sync:
        """That of the space which a node belongs to."""
        graft = self.grafts.of(node)
        return graft.sync if graft is not None else self.home

    def _concerned(self, node: NodeId | None) -> Iterable[Sync]:
        """Those of the spaces that a node is of, or that are mounted below it; of all for None."""
        if not self.grafts.all:
            return [self.home]
        below = [graft.sync for graft in self.grafts.all.values() if self._is_concerned(graft, node)]
        is_home = node is None or self._space(node) == HOME
        return [self.home, *below] if is_home else [self.of(node), *below] if node is not None else below

    def _is_concerned(self, graft: Graft, node: NodeId | None) -> bool:
        return node is None or self.is_below(graft.part.top, node)

    def _space(self, node: NodeId) -> SpaceId:
        record = self._tree.record(node)
        return record.space if record is not None else HOME

    @property
    def is_online(self) -> bool:
        """See Sync; of the home."""
        return self.home.is_online

    @property
    def may_send(self) -> bool:
        """See Sync; of the home."""
        return self.home.may_send

    @property
    def wiped(self) -> trio.Event:
        """See Sync."""
        return self.home.wiped

    async def ensure_range(self) -> None:
        """See Sync."""
        await self.home.ensure_range()

    async def caught_up(self) -> None:
        """See Sync; of the home."""
        await self.home.caught_up()

    def standing(self) -> Standing:
        """See Sync; of all spaces together. The cursor is the home's."""
        # Counted in the whole tree: one of the spaces may not be kept in step yet.
        pending = self._tree.dirty_count() + self._tree.lost_count()
        standing = replace(self.home.standing(), pending_nodes=pending)
        for graft in list(self.grafts.all.values()):
            one = graft.sync.standing()
            trouble = standing.trouble
            if standing.is_online and not trouble and one.trouble and not one.is_online:
                trouble = f"{graft.known.name}: {one.trouble}"
            stuck, blocked = one.stuck, one.blocked
            if one.pending_nodes and one.held not in ("", standing.held):
                # Of this space alone: it is not being sent, though all else is.
                stuck += (Stuck(self._tree.path_of(graft.part.top), one.held, math.inf),)
                blocked = one.pending_nodes
            standing = replace(
                standing,
                trouble=trouble,
                stuck=standing.stuck + stuck,
                unlisted_folders=standing.unlisted_folders + one.unlisted_folders,
                asked=standing.asked + one.asked,
                no_room=standing.no_room + one.no_room,
                blocked=standing.blocked + blocked,
            )
        return standing

    def hold(self, reason: str) -> None:
        """See Sync."""
        self.home.hold(reason)
        self.grafts.hold(reason)

    def moving(self) -> dict[NodeId, int]:
        """See Sync."""
        found = self.home.moving()
        for graft in self.grafts.all.values():
            found |= graft.sync.moving()
        return found

    def rule_for(self, node: NodeId) -> str:
        """See Sync."""
        return self.home.rule_for(node)

    def trouble_of(self, node: NodeId) -> str:
        """See Sync."""
        return self.of(node).trouble_of(node)

    # Whether the server has it: asked of the whole tree, as what is waited for may change its space meanwhile

    async def sent(self, node: NodeId | None) -> None:
        """Returns when the server has all that was edited here: of everything, or of a node and what is below it.

        Raises NotSignedIn when the server refuses this device from now on: then it would never be sent.
        """
        since = trio.current_time()
        for sync in self._concerned(node):
            sync.wake()
        with self._tree.following():
            while True:
                moved = self._moved
                if await self._is_sent(self._tree.heir(node) if node is not None else None):
                    return
                self.home.check_sign_in(since)
                await moved.wait()

    async def _is_sent(self, node: NodeId | None) -> bool:
        if self._tree.is_all_sent():
            return True
        return node is not None and not await self._unsent(node, is_any=True)

    async def _unsent(self, node: NodeId, *, is_any: bool = False) -> set[NodeId]:
        """What is to be sent of a node and what is below it; with `is_any` some of it will do."""
        found = {lost for _, lost, _ in self._tree.lost() if self.is_below(lost, node)}
        after = NodeId(0)
        while not (found and is_any) and (dirty := self._tree.dirty(_LOOKED_AT_ONCE, after)):
            found.update(one for one, _ in dirty if self.is_below(one, node))
            after = dirty[-1][0]
            await trio.lowlevel.checkpoint()
        return found

    async def delivered(self, node: NodeId, away_seconds: float) -> None:
        """Returns when the server has this node and all that was edited below it until now, also edits that lost.

        Raises what is in the way, OpenHere for a file that is being written to and was changed elsewhere, and
        Unreachable when the server is away for so long. Who asks after that is told at once, until it is back: a
        thousand files are not to wait a thousand times.
        """
        with self._tree.following():
            await self._deliver(node, away_seconds)

    async def _deliver(self, node: NodeId, away_seconds: float) -> None:
        waiting = {node}
        record = self._tree.record(node)
        if record is not None and record.local is not None and record.local.kind is Kind.FOLDER:
            waiting |= await self._unsent(node)
        syncs = list(self._concerned(node))
        is_given_up = any(sync.is_given_up for sync in syncs)
        for sync in syncs:
            sync.wake()
            if not is_given_up:
                sync.retry_now()
        limit = trio.current_time() + (0.0 if is_given_up else away_seconds)
        while waiting := {one for one in map(self._tree.heir, waiting) if self._is_awaited(one)}:
            by_sync: dict[Sync, set[NodeId]] = {}
            for one in waiting:
                by_sync.setdefault(self.of(one), set()).add(one)
            for sync, nodes in by_sync.items():
                sync.check(nodes)
            away = [sync for sync in by_sync if not sync.is_online]
            if not away:
                limit = trio.current_time() + away_seconds
            elif trio.current_time() >= limit:
                away[0].give_up()
            for sync in by_sync:
                sync.is_given_up = sync.is_given_up and not sync.is_online
            moved = self._moved
            with trio.move_on_at(limit):
                await moved.wait()

    def _is_awaited(self, node: NodeId) -> bool:
        return self._tree.is_pending(node) or self._tree.will_send_lost(node)

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def ask_for_room(self, wanted: int, needed: int) -> None:
        """See Sync; for the home."""
        await self.home.ask_for_room(wanted, needed)

    def hold_back(self, node: NodeId, sentence: str, edit: Edit) -> None:
        """See Sync."""
        self.of(node).hold_back(node, sentence, edit)

    def is_below(self, node: NodeId, top: NodeId) -> bool:
        """Whether the node is `top` or under it, here or in the agreed view."""
        seen: set[NodeId] = set()
        todo = [node]
        while todo:
            node = todo.pop()
            if node == top:
                return True
            if node in seen or node == ROOT:
                continue
            seen.add(node)
            record = self._tree.record(node)
            for state in (record.local, record.agreed) if record is not None else ():
                if state is not None:
                    todo.extend(name.parent for name in state.names)
        return False

    def has_mounted(self, node: NodeId) -> bool:
        """Whether a shared space is mounted by this node, or below it."""
        return any(self.is_below(graft.part.top, node) for graft in self.grafts.all.values())

    def retry_all(self) -> None:
        """See Sync."""
        self.home.retry_all()
        for graft in self.grafts.all.values():
            graft.sync.retry_all()

    def retry_now(self) -> None:
        """See Sync."""
        self.home.retry_now()
        for graft in self.grafts.all.values():
            graft.sync.retry_now()
