"""Syncs: keeps the home and the shared spaces in it in step, and tells of all together, or of that of a node."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import trio

from cache.grafts import Common, Graft, Grafts
from cache.lease import Lease
from cache.parts import Part
from cache.pull import Pull
from cache.push import Push
from cache.sync import Standing, Sync
from cache.tree import HOME
from cache.upload import Upload
from remote.protocol.ids import NodeId, SpaceId


class Syncs:
    """What Sync is for one space, for all spaces of a device."""

    def __init__(self, common: Common, lease: Lease, on_made: Callable[[Graft], None]) -> None:
        """`lease`: the home's; `on_made`: see Grafts."""
        self._tree = common.tree
        part = Part(common.tree)
        self.pull = Pull(common.service, common.home, part, common.clock, common.mount, lease)
        self.upload = Upload(common.service, common.home.space, common.home.secret, common.reader, common.chunks)
        self.push = Push(self.pull, part, common.stagings, common.chunks, self.upload, common.ignoring)
        self.home = Sync(part, self.pull, self.push, is_walking=common.is_walking, poll=common.polls.poll)
        self.grafts = self.pull.mounts = Grafts(common, on_made)

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
        if self._tree.space_below(folder) == HOME:
            await self.pull.list_folder(folder)
        else:
            await self.grafts.list_folder(folder)

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
        return node is None or self.home.is_below(graft.part.top, node)

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
        standing = self.home.standing()
        for graft in list(self.grafts.all.values()):
            one = graft.sync.standing()
            trouble = standing.trouble
            if standing.is_online and not trouble and one.trouble and not one.is_online:
                trouble = f"{graft.known.name}: {one.trouble}"
            standing = replace(
                standing,
                trouble=trouble,
                pending_nodes=standing.pending_nodes + one.pending_nodes,
                stuck=standing.stuck + one.stuck,
                unlisted_folders=standing.unlisted_folders + one.unlisted_folders,
                asked=standing.asked + one.asked,
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

    async def sent(self, node: NodeId | None) -> None:
        """See Sync; `node` None or a folder of the home: also of what is mounted below it."""
        for sync in self._concerned(node):
            await sync.sent(None if sync is not self.home and node is not None and sync is not self.of(node) else node)

    async def delivered(self, node: NodeId, away_seconds: float) -> None:
        """See Sync."""
        for sync in self._concerned(node):
            await sync.delivered(node, away_seconds)

    async def ask_for_room(self, wanted: int) -> None:
        """See Sync; for the home."""
        await self.home.ask_for_room(wanted)

    def hold_back(self, node: NodeId, sentence: str) -> None:
        """See Sync."""
        self.of(node).hold_back(node, sentence)

    def is_below(self, node: NodeId, top: NodeId) -> bool:
        """See Sync."""
        return self.home.is_below(node, top)

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
