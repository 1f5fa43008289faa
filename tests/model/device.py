"""A device without a kernel: everything that a mounted drive is made of, over a wire that delays and loses messages.

It can be killed at any moment: what is on its disk just then is all that the next start finds.
"""

import random
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from cache.chunks import TABLES as CACHE_TABLES
from cache.chunks import Chunks
from cache.errors import DiskFull
from cache.eviction import Budget
from cache.grafts import Common, Graft
from cache.ignoring import Ignoring
from cache.layer import Puts
from cache.lease import Lease
from cache.parts import Part
from cache.past import Past
from cache.pins import Pins
from cache.polls import Polls
from cache.pull import Clock, Effects, Home
from cache.push import Push
from cache.reader import Reader
from cache.records import STATE_TABLES, Table
from cache.staging import Stagings
from cache.store import Store
from cache.syncs import Syncs
from cache.tree import Tree
from fusefs import conflicts
from fusefs.face import Face
from fusefs.handles import OpenFiles
from fusefs.lookback import Lookback
from fusefs.restore import Restore
from fusefs.volume import Volume
from remote.protocol.errors import RemoteError, Unreachable
from remote.protocol.ids import NOW, NOWHERE, ROOT, ChunkId, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    Conflicts,
    FolderQuery,
    History,
    Holding,
    Listing,
    LostAnswer,
    Moment,
    Moments,
    NodeRange,
    Nodes,
    PollAnswer,
    Room,
    Spaces,
)
from remote.protocol.nodes import Kind, Name, NodeState
from remote.protocol.service import NOTHING_HELD, TakePart
from tests.model.server import SECRET, Desk, Server, skew_ns

T = TypeVar("T")


@dataclass
class Time:
    """One clock for all machines, but for their skew: goes on with trio's, and never tells the same time twice."""

    last_ns: int = 1_795_000_000_000_000_000
    begin_ns: int = 1_795_000_000_000_000_000

    def monotonic(self) -> float:
        """Trio's time, in seconds; the same in each run."""
        try:
            return trio.current_time()
        except RuntimeError:
            return 0.0

    def __call__(self) -> int:
        passed = int(self.monotonic() * 1e9)
        self.last_ns = max(self.last_ns + 1_000, self.begin_ns + passed % 10**17)
        return self.last_ns + skew_ns.get()()


@dataclass
class Wire:
    """What is between a device and the server."""

    rng: random.Random
    is_up: bool = True
    loss: float = 0.0
    """How likely a message is lost, each way."""
    delay_seconds: float = 0.0
    echo: float = 0.0
    """How likely, with each request, an older one arrives once more."""
    life: Callable[[], int] = lambda: 0
    """Of the server: what it was asked before it died gets no answer."""
    before_commit: Callable[[Commit], None] = lambda commit: None
    changed: trio.Event = field(default_factory=trio.Event)
    sent: list[Callable[[], Awaitable[object]]] = field(default_factory=list)

    def set_up(self, is_up: bool) -> None:
        """Plugs it in or out: requests on their way get no answer."""
        self.is_up = is_up
        self.changed.set()
        self.changed = trio.Event()

    def calm(self) -> None:
        """From now on all that is sent arrives, once and soon."""
        self.loss = self.echo = 0
        self.delay_seconds = 0.01
        self.set_up(True)

    async def carry(self, request: Callable[[], Awaitable[T]]) -> T:
        """Brings a request to the server and its answer back; raises Unreachable when either is lost."""
        life = self.life()
        await self._way()
        answer: list[T] = []
        errors: list[RemoteError] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                changed = self.changed
                await changed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                answer.append(await request())
            except RemoteError as error:
                errors.append(error)
            nursery.cancel_scope.cancel()
        if not answer and not errors:
            raise Unreachable("the wire was pulled")
        await self._way()
        if life != self.life():
            raise Unreachable("the server ended")
        if errors:
            raise errors[0]
        return answer[0]

    async def carry_again(self, request: Callable[[], Awaitable[T]]) -> T:
        """The same for a request that may arrive more than once, at any later time."""
        if self.echo:
            self.sent = [*self.sent[-20:], request]
            if self.rng.random() < self.echo and self.is_up:
                with suppress(RemoteError):
                    await self.rng.choice(self.sent)()
        return await self.carry(request)

    async def _way(self) -> None:
        if self.delay_seconds:
            await trio.sleep(self.rng.random() * self.delay_seconds)
        else:
            await trio.lowlevel.checkpoint()
        if not self.is_up:
            raise Unreachable("the wire is out")
        if self.loss and self.rng.random() < self.loss:
            await trio.sleep(self.rng.random())
            raise Unreachable("a message was lost")


@dataclass
class Remote:
    """remote.protocol.service.Service over a wire."""

    desk: Desk
    wire: Wire

    async def spaces(self) -> Spaces:
        return await self.wire.carry(self.desk.spaces)

    async def lease_range(self) -> NodeRange:
        return await self.wire.carry(self.desk.lease_range)

    async def list_folders(self, space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
        return await self.wire.carry(lambda: self.desk.list_folders(space, folders, as_of))

    async def nodes(self, space: SpaceId, nodes: Sequence[NodeId], as_of: Rev = NOW) -> Nodes:
        return await self.wire.carry(lambda: self.desk.nodes(space, nodes, as_of))

    async def changes(self, space: SpaceId, since: Rev, life: int = 0) -> Changes:
        return await self.wire.carry(lambda: self.desk.changes(space, since, life))

    async def lost(self, space: SpaceId, after: ChunkId) -> LostAnswer:
        return await self.wire.carry(lambda: self.desk.lost(space, after))

    async def poll(
        self,
        cursors: Mapping[SpaceId, Rev],
        wait_seconds: int,
        holding: Mapping[SpaceId, Holding] = NOTHING_HELD,
        serial: int = 0,
    ) -> PollAnswer:
        return await self.wire.carry(lambda: self.desk.poll(cursors, wait_seconds, holding, serial))

    async def room(self, space: SpaceId, holding: Holding | None, wanted: int, needed: int = 0) -> Room:
        return await self.wire.carry(lambda: self.desk.room(space, holding, wanted, needed))

    async def commit(self, space: SpaceId, commit: Commit) -> CommitAnswer:
        self.wire.before_commit(commit)
        return await self.wire.carry_again(lambda: self.desk.commit(space, commit))

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        return await self.wire.carry_again(lambda: self.desk.send_chunks(space, chunks))

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        return await self.wire.carry(lambda: self.desk.wanted(space, chunks))

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        return await self.wire.carry(lambda: self.desk.get_parts(space, parts))

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        await self.wire.carry(lambda: self.desk.read_parts(space, parts, take))

    async def moments(
        self, space: SpaceId, folder: NodeId, limit: int, steps: Sequence[tuple[int, int]] = ()
    ) -> Moments:
        return await self.wire.carry(lambda: self.desk.moments(space, folder, limit, steps))

    async def as_of(self, space: SpaceId, time_ns: int) -> Moment:
        return await self.wire.carry(lambda: self.desk.as_of(space, time_ns))

    async def history(self, space: SpaceId, node: NodeId, before: Rev = NOW, limit: int = 1_000) -> History:
        return await self.wire.carry(lambda: self.desk.history(space, node, before, limit))

    async def conflicts(self, space: SpaceId, after_node: NodeId = NOWHERE, after_rev: Rev = NOW) -> Conflicts:
        return await self.wire.carry(lambda: self.desk.conflicts(space, after_node, after_rev))

    async def settle(self, space: SpaceId, conflicts: Sequence[tuple[NodeId, Rev]]) -> None:
        await self.wire.carry(lambda: self.desk.settle(space, conflicts))


class Device:
    """One device; `start` in a nursery, then work on `volume`."""

    def __init__(
        self,
        home: Path,
        server: Server,
        number: int,
        *,
        seed: int = 0,
        skew_seconds: float = 0,
        is_walking: bool = True,
    ) -> None:
        self.home = home
        self.server = server
        self.number = number
        self.skew = int(skew_seconds * 1e9)
        self.is_walking = is_walking
        self.space = server.home_of(DeviceId(number))
        self.wire = Wire(random.Random(seed * 100 + number), life=lambda: server.lives)
        self.lives = 0
        self.is_running = False
        self.shown: list[Effects] = []
        self._chance = random.Random(seed * 100 + number)
        self._fullness = 0.0
        self._filled = trio.Event()

    def fill(self, fullness: float) -> None:
        """How likely this disk takes no change to the tree from now on, until the next start."""
        self._fullness = fullness
        self._filled.set()

    def _bound(self, store: Store) -> None:
        journal = store._journal
        assert journal is not None
        append = journal.append
        self._fullness = 0.0

        def take(sequence: int, puts: Puts) -> int:
            if self._fullness and self._chance.random() < self._fullness:
                raise DiskFull("This disk is full.")
            return append(sequence, puts)

        journal.append = take  # type: ignore[method-assign]

    async def _flush_closed(self) -> None:
        """What could not be flushed when it was closed is, when there is room."""
        while True:
            await self._filled.wait()
            with suppress(DiskFull):
                if self.files.flush_closed():
                    self.volume.wake()
                if not self._fullness:
                    self._filled = trio.Event()
                    continue
            await trio.sleep(1)

    async def start(self, nursery: trio.Nursery) -> None:
        """Opens what is on the disk and runs."""
        self.lives += 1
        self.folder = self.home / f"{self.number}.{self.lives}"
        desk = Desk(self.server, DeviceId(self.number))
        remote = Remote(desk, self.wire)
        self.state = Store(self.folder / "tree.mdb", STATE_TABLES, has_journal=True)
        self._bound(self.state)
        self.cache = Store(self.folder / "cache" / "chunks.mdb", CACHE_TABLES, has_journal=False)
        self.tree = Tree(self.state)
        self.tree.make_root()
        self.stagings = Stagings(self.state, self.folder / "staging", Table.STAGED, Table.STAGED_BYTES)
        self.chunks = Chunks(self.cache, self.folder / "cache")
        budget = Budget(1 << 30, self.chunks, lambda: self.stagings.total_bytes, self._is_pinned, floor_bytes=0)
        self.budget = budget
        self.reader = Reader(remote, self.space, self.chunks, budget)
        lease = Lease(Part(self.tree))
        self.files = OpenFiles(self.tree, self.stagings, self.reader, budget, lease)
        self.face = Face(self.files, self._show, budget.notice)
        common = Common(
            service=remote,
            home=Home(self.space, DeviceId(self.number), SECRET),
            tree=self.tree,
            clock=Clock(),
            mount=self.face,
            stagings=self.stagings,
            chunks=self.chunks,
            reader=self.reader,
            ignoring=Ignoring(self.tree, self.stagings, self.reader),
            polls=Polls(remote),
            is_walking=self.is_walking,
        )
        self.syncs = Syncs(common, lease, self._join)
        self.sync, self.pull, self.push = self.syncs.home, self.syncs.pull, self.syncs.push
        self.grafts = self.syncs.grafts
        self.grafts.revoke = self.files.revoke
        self.pins = Pins(self.tree, self.reader, self.syncs.list_folder)
        self.volume = Volume(
            self.tree,
            self.files,
            self.syncs,
            owner=None,
            list_folder=self.syncs.list_folder,
            wake=self.syncs.wake,
            show=self._show,
        )
        self.volume.is_read_only = self.grafts.is_read_only
        lookback = Lookback(remote, self.space, Past(self.folder / "past", 0), self.syncs.pull.lives.at)
        self.restore = Restore(self.volume, lookback)
        number = DeviceId(self.number)
        self.conflicts = conflicts.Conflicts(
            self.volume, self.stagings, lookback, self.restore, remote, space=self.space, device=number
        )
        self.files.sweep()
        self._ended = trio.Event()
        self.is_running = True
        await nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        token = skew_ns.set(lambda: self.skew)
        try:
            async with AsyncExitStack() as stack:
                nursery = await stack.enter_async_context(trio.open_nursery())
                self._scope = nursery.cancel_scope
                await nursery.start(self.reader.run)
                nursery.start_soon(self.syncs.run)
                nursery.start_soon(self.pins.run)
                nursery.start_soon(self._flush_closed)
                task_status.started()
        finally:
            skew_ns.reset(token)
            self._ended.set()

    def _is_pinned(self, chunk: ChunkId) -> bool:
        return self.pins.holds(chunk)

    def _join(self, graft: Graft) -> None:
        self.files.add_quota(graft.known.space, graft.lease)

    def _show(self, effects: Effects) -> None:
        """What the drive does, but for the kernel."""
        self.shown.append(effects)
        if self.tree.may_ignore:
            self.push.ignoring.note_shown(effects.names, self.syncs.wake)
        self.pins.notice()

    @property
    def next_folder(self) -> Path:
        """Where the next start finds what is on the disk."""
        return self.home / f"{self.number}.{self.lives + 1}"

    async def kill(self) -> None:
        """Ends it as kill -9 does: the next start finds what is on the disk at this moment."""
        shutil.copytree(self.folder, self.next_folder)
        await self._end()
        self.stagings.close()
        self.chunks.close()
        for store in (self.state, self.cache):
            store.close()
        shutil.rmtree(self.folder)

    async def stop(self) -> None:
        """Ends it as an unmount does."""
        self.volume.flush_all()
        await self._end()
        self.stagings.close()
        self.chunks.close()
        for store in (self.state, self.cache):
            store.close()
        self.folder.rename(self.next_folder)

    async def _end(self) -> None:
        self._scope.cancel()
        await self._ended.wait()
        self.is_running = False

    def is_quiet(self, *, is_whole: bool = True) -> bool:
        """Whether nothing is left to do; unless it `is_whole`, folders need not be listed."""
        return (
            self._is_caught_up()
            and self.tree.is_all_sent()
            and not self.tree.news()
            # What a full disk kept noted is taken back when the server is heard.
            and not self.tree.sending
            and not any(push.is_sending or push.troubles.nodes for push in self._pushes())
            and (not is_whole or self._is_listed())
        )

    def _is_caught_up(self) -> bool:
        cursors = {space: graft.part.cursor for space, graft in self.grafts.all.items()}
        return {**cursors, self.space: self.tree.cursor} == self.server.spaces_of(DeviceId(self.number))

    def _pushes(self) -> list[Push]:
        return [self.push, *(graft.push for graft in self.grafts.all.values())]

    def _is_listed(self) -> bool:
        folders = [record for _, record in self.records() if record.local and record.local.kind is Kind.FOLDER]
        return not self.tree.unlisted(1) and all(record.is_listed for record in folders)

    def records(self):
        """Every record."""
        return [(node, record) for node in self.tree.nodes() if (record := self.tree.record(node)) is not None]

    def local(self) -> dict[NodeId, NodeState]:
        """What the mount shows."""
        return {node: record.local for node, record in self.records() if record.local is not None}

    async def content(self, node: NodeId) -> bytes:
        """What a program reads from a file."""
        handle = self.volume.open(node, is_writing=False, is_truncating=False)
        try:
            return bytes(await self.files.read(handle, 0, 1 << 40))
        finally:
            self.volume.close(handle)

    def why_not_quiet(self) -> str:
        """What is left to do."""
        there = self.server.spaces_of(DeviceId(self.number))
        lines = [f"device {self.number}: cursor {self.tree.cursor} of {there}, standing {self.sync.standing()}"]
        lines += [f"  dirty {node} {self.tree.record(node)}" for node, _ in self.tree.dirty()[:20]]
        lines += [f"  news {version}" for version in self.tree.news()[:20]]
        lines += [f"  lost {lost}" for lost in self.tree.lost()[:20]]
        lines += [f"  space {space}: {graft.sync.standing()}" for space, graft in self.grafts.all.items()]
        lines += [f"  trouble {node} {trouble}" for node, trouble in self.push.troubles.nodes.items()]
        return "\n".join(lines)


def check_indexes(tree: Tree) -> None:
    """The indexes say what the records say."""
    names: dict[bytes, bytes] = {}
    slots: set[bytes] = set()
    # What waits is not sent: another may have its slot.
    waiting = {version.node for version in tree.news()}
    dirty: set[NodeId] = set()
    for node in tree.nodes():
        record = tree.record(node)
        assert record is not None
        for name in record.local.names if record.local is not None and node != ROOT else ():
            key = _key(name)
            assert key not in names, f"{name} is held by {node} and {names[key].hex()}"
            assert record.local is not None
            names[key] = node.to_bytes(8, "big") + bytes([record.local.kind])
        for name in record.synced.names if record.is_dirty and record.synced is not None else ():
            if node not in waiting:
                slots.add(_key(name))
        if record.is_dirty:
            dirty.add(node)
        else:
            assert record.synced is None, f"{node} is clean and has {record.synced}"
            assert record.local is not None, f"{node} is clean and removed"
            assert not record.staged, f"{node} is clean and staged"
    store = tree.store
    assert dict(store.scan(Table.NAMES)) == names
    assert {node for node, _ in (*tree.dirty(), *tree.ignored())} == dirty
    found = {key for key, value in store.scan(Table.SLOTS) if int.from_bytes(value, "big") not in waiting}
    assert found == slots
    records = [(node, tree.record(node)) for node in tree.nodes()]
    assert tree.unlisted() == [node for node, record in records if record is not None and record.is_unlisted_folder]


def check_tree(device: Device) -> None:
    """The indexes are right, every parent that is known is a living folder, and there is no cycle."""
    check_indexes(device.tree)
    local = device.local()
    for node, state in local.items():
        if node == ROOT:
            continue
        for name in state.names:
            parent = device.tree.record(name.parent)
            if parent is not None:
                assert parent.local is not None, f"node {node} is in {name.parent}, which is removed here"
        at, steps = node, 0
        # A file whose news waits may have lost its name to another already.
        while at in local and at != ROOT and local[at].names:
            at, steps = local[at].names[0].parent, steps + 1
            assert steps <= len(local), f"node {node} is inside itself"


def _key(name: Name) -> bytes:
    return name.parent.to_bytes(8, "big") + name.name
