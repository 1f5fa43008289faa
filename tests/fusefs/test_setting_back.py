"""Setting a file back (satchel restore, satchel resolve): what programs write to it meanwhile is never lost."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace

from cache.chunks import Chunks, open_store
from cache.errors import DiskFull
from cache.eviction import Budget
from cache.records import STATE_TABLES, Record, Table
from cache.staging import StagingId, Stagings
from cache.store import Store
from cache.syncs import Syncs
from cache.tree import Tree
from fusefs.conflicts import Conflicts, beside
from fusefs.errors import NameTooLong, NotSent
from fusefs.handles import OpenFiles
from fusefs.lookback import Lookback
from fusefs.restore import TRIES, Restore
from fusefs.volume import Volume
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import Conflict, NodeVersion, Version
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.protocol.service import Service

FILE = NodeId(10)
NAME = Name(ROOT, b"file")
HERE, OTHER = DeviceId(1), DeviceId(2)


def content(data: bytes) -> Manifest:
    return Manifest(len(data), inline=data)


def state(data: bytes, name: Name = NAME) -> NodeState:
    return NodeState(Kind.FILE, (name,), 0o644, 0, 0, 1, 1, 1, 1, content=content(data))


def version(rev: int, device: DeviceId, data: bytes) -> Version:
    names = {HERE: "desk", OTHER: "laptop"}
    return Version(Rev(rev), rev, rev, "ann", names[device], state(data), False, device=device)


class World:
    """A drive without a server: what the server says is written down here, and what it is asked for can be waited for.

    The tree, the stagings and the open files are the real ones.
    """

    def __init__(self, home: Path) -> None:
        self.store = Store(home / "state" / "tree.mdb", STATE_TABLES, has_journal=True)
        self.tree = Tree(self.store)
        self.tree.make_root()
        self.tree.lease(NodeId(1 << 32), 1 << 32)
        self.stagings = Stagings(self.store, home / "state" / "staging", Table.STAGED, Table.STAGED_BYTES)
        self.cache = open_store(home / "cache")
        self.chunks = Chunks(self.cache, home / "cache")
        budget = Budget(1 << 30, self.chunks, lambda: self.stagings.total_bytes, lambda _: False, floor_bytes=0)
        nothing: Any = None  # nobody reads what is not here, and nobody is told
        self.files = OpenFiles(self.tree, self.stagings, nothing, budget)
        self.volume = Volume(
            self.tree,
            self.files,
            cast(Syncs, self),
            owner=None,
            list_folder=nothing,
            wake=lambda: None,
            show=lambda _: None,
        )
        self.restore = Restore(self.volume, cast(Lookback, self))
        told = cast(Any, self)
        self.settling = Conflicts(
            self.volume, self.stagings, told, self.restore, cast(Service, told), space=SpaceId(1), device=HERE
        )
        self.meanwhile: list[Callable[[], Awaitable[None]]] = []
        """What programs do while the server is asked, one for each time."""
        self.versions_sent: list[bytes] = []
        self.found = [Conflict(FILE, version(3, HERE, b"lost"), version(4, OTHER, b"current"))]
        self.settled: list[tuple[NodeId, Rev]] = []
        with self.tree.edit() as edit:
            edit.put(ROOT, replace(edit.get(ROOT), is_listed=True))
            edit.put(FILE, Record(Rev(4), state(b"current")))

    def close(self) -> None:
        self.stagings.close()
        self.chunks.close()
        self.store.close()
        self.cache.close()

    async def write(self, data: bytes, node: NodeId = FILE) -> None:
        """As a program does it: open, write, close."""
        handle = self.volume.open(node, is_writing=True, is_truncating=True)
        await self.files.write(handle.file, 0, data)
        self.volume.flush(handle.file)
        self.volume.close(handle)

    def read(self, node: NodeId = FILE) -> bytes:
        record = self.volume.record(node)
        assert record.local is not None
        if record.staged:
            return self.read_staging(record.staged)
        assert record.local.content is not None
        return record.local.content.inline

    def read_staging(self, number: int) -> bytes:
        staging = self.stagings.load(StagingId(number))
        return bytes(staging.read_dirty(0, staging.size))

    async def _asked(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.meanwhile:
            await self.meanwhile.pop(0)()

    # What Syncs, Versions and Service are asked for

    async def sent(self, node: NodeId) -> None:
        await self._asked()
        data, record = self.read(node), self.tree.record(node)
        assert record is not None
        assert record.local is not None
        self.versions_sent.append(data)
        with self.tree.edit() as edit:
            edit.put(node, Record(Rev(record.rev + 1), replace(record.local, content=content(data))))
            edit.mark_clean(node)
        self.files.release_dropped()

    async def conflicts(self) -> list[Conflict]:
        await self._asked()
        return list(self.found)

    async def settle(self, _: SpaceId, marks: list[tuple[NodeId, Rev]]) -> None:
        self.settled += marks

    async def state_at(self, _: NodeId, __: Rev) -> NodeState | None:
        await self._asked()
        return None

    async def children_at(self, _: NodeId, __: Rev) -> list[tuple[bytes, NodeVersion]]:
        await self._asked()
        return [(NAME.name, NodeVersion(FILE, Rev(1), 1, state(b"then")))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_what_is_closed_while_resolve_asks_is_a_version_before_it_is_replaced(world: World) -> None:
    async def edit() -> None:
        await world.write(b"precious")

    world.meanwhile.append(edit)
    trio.run(world.settling.keep, FILE, NAME, "mine")
    assert world.versions_sent == [b"precious"]
    assert (world.read(), world.tree.lost()) == (b"lost", [])


def test_what_is_closed_while_restore_asks_is_a_version_before_it_is_replaced(world: World) -> None:
    async def edit() -> None:
        await world.write(b"precious")

    world.meanwhile += [edit, edit]
    trio.run(world.restore.path, b"file", Rev(1))
    assert world.versions_sent == [b"precious"]
    assert (world.read(), world.tree.lost()) == (b"then", [])


@pytest.mark.parametrize("verb", ["resolve", "restore"])
def test_a_file_that_is_written_to_all_the_time_is_left_and_named(world: World, verb: str) -> None:
    async def write_after_it_was_sent() -> None:
        sent = world.sent

        async def sent_and_written(node: NodeId) -> None:
            await sent(node)
            await world.write(b"%d" % len(world.versions_sent))

        world.volume.sync.sent = sent_and_written  # type: ignore[method-assign,assignment]
        await world.write(b"0")
        if verb == "resolve":
            await world.settling.keep(FILE, NAME, "mine")
        else:
            await world.restore.path(b"file", Rev(1))

    with pytest.raises(NotSent, match="What file is now"):
        trio.run(write_after_it_was_sent)
    assert world.versions_sent == [b"%d" % number for number in range(TRIES)]
    assert world.read() == b"%d" % TRIES


@pytest.mark.parametrize("is_closed", [True, False])
def test_what_was_never_sent_is_kept_as_an_edit_that_lost(world: World, is_closed: bool) -> None:
    async def write() -> None:
        handle = world.volume.open(FILE, is_writing=True, is_truncating=True)
        await world.files.write(handle.file, 0, b"precious")
        if is_closed:
            world.volume.close(handle)
        world.volume.set_back(FILE, state(b"then"))
        if not is_closed:
            world.volume.close(handle)

    trio.run(write)
    assert world.read() == b"then"
    ((_, node, lost),) = world.tree.lost()
    assert (node, world.read_staging(lost.staged)) == (FILE, b"precious")


def test_a_conflict_that_comes_after_the_choice_is_not_settled_with_it(world: World) -> None:
    async def resolve() -> None:
        kept = await world.settling.keep(FILE, NAME, "theirs")
        world.found.append(Conflict(FILE, version(5, HERE, b"lost too"), version(6, OTHER, b"newer")))
        await world.settling.settle(kept)

    trio.run(resolve)
    assert world.settled == [(FILE, Rev(3))]


@pytest.mark.parametrize("name", ["f." + "x" * 250, "ü" * 127, "ü" * 100 + "." + "ü" * 26, "名" * 85, "a.txt"])
@pytest.mark.parametrize("device", ["desk", "ü" * 100])
def test_a_name_beside_is_one_that_a_file_can_have(name: str, device: str) -> None:
    found = beside(name.encode(), replace(version(3, HERE, b""), device_name=device))
    assert len(found) <= 255
    assert found.decode().startswith(name[0])


def test_restore_makes_no_name_that_a_program_could_not(world: World) -> None:
    with pytest.raises(NameTooLong):
        world.restore.make(ROOT, b"x" * 256, state(b""))


def test_what_is_put_beside_twice_is_there_once(world: World) -> None:
    async def resolve() -> None:
        first = await world.settling.keep(FILE, NAME, "both")
        assert (await world.settling.keep(FILE, NAME, "both")).nodes == first.nodes
        assert [world.read(node) for node in first.nodes] == [b"lost"]
        assert len(world.tree.children(ROOT)) == 2
        await world.write(b"now another", first.nodes[0])
        (again,) = (await world.settling.keep(FILE, NAME, "both")).nodes
        assert world.read(again) == b"lost"
        assert len(world.tree.children(ROOT)) == 3

    trio.run(resolve)


def test_a_file_that_cannot_be_truncated_for_lack_of_room_is_not_open_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        await world.write(b"something")

        def refuse(*_: object) -> None:
            raise DiskFull("No room.")

        monkeypatch.setattr(world.files, "truncate", refuse)
        with pytest.raises(DiskFull):
            world.volume.open(FILE, is_writing=True, is_truncating=True)
        assert not world.files.is_written(FILE)

    trio.run(scene)
