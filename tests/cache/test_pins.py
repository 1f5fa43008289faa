"""Pins: followed edit by edit, they hold what a look at everything finds; content that comes is fetched.

Scenes run by `in_no_time`: trio's time is not real here.
"""

import random
from collections.abc import Sequence

import pytest
import trio
from msgspec.structs import replace

from cache.errors import NoSuchNode
from cache.pins import Kept, Pins
from fusefs.errors import VolumeError
from remote.protocol.ids import ROOT, ChunkId, NodeId, SpaceId
from remote.protocol.messages import FolderQuery, Listing
from remote.protocol.nodes import Kind
from tests.model.device import Device
from tests.model.play import quiet
from tests.model.world import World, in_world, make, make_folder, write

LARGE = 3_000


def chunks_below(device: Device, top: NodeId) -> dict[NodeId, set[ChunkId]]:
    """The chunks of each file at or below a node, by a walk."""
    record = device.tree.record(top)
    if record is None or record.local is None:
        return {}
    if record.local.kind is Kind.FOLDER:
        found: dict[NodeId, set[ChunkId]] = {}
        for child in device.tree.children(top):
            found |= chunks_below(device, child.node)
        return found
    content = record.local.content
    return {top: {entry.id for entry in content.entries}} if content is not None else {}


async def settled(world: World, pins: Pins) -> None:
    """Both devices are quiet, and the pins have looked and fetched."""
    await world.quiet()
    pins.notice()
    await trio.sleep(5)


def test_what_comes_into_a_pinned_folder_is_fetched_and_what_leaves_it_is_let_go() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"folder")
        inner = await make_folder(world.one, b"inner", folder)
        a = await make(world.one, b"a", random.randbytes(LARGE), inner)
        b = await make(world.one, b"b", random.randbytes(LARGE))
        await world.quiet()
        pins = world.two.pins
        pins.pin(folder)
        await settled(world, pins)
        assert pins.kept() == Kept(1, LARGE)
        assert world.two.files.held_bytes(a) == LARGE

        # From elsewhere and from here, made, moved and written.
        await world.one.volume.rename(ROOT, b"b", inner, b"b", 0)
        c = await make(world.one, b"c", random.randbytes(LARGE), folder)
        await make(world.two, b"d", random.randbytes(LARGE), folder)
        await settled(world, pins)
        assert pins.kept() == Kept(4, 4 * LARGE)
        assert [world.two.files.held_bytes(node) for node in (b, c)] == [LARGE, LARGE]
        await write(world.one, c, random.randbytes(2 * LARGE))
        await settled(world, pins)
        assert world.two.files.held_bytes(c) == 2 * LARGE

        await world.two.volume.rename(folder, b"inner", ROOT, b"inner", 0)
        await settled(world, pins)
        assert pins.kept() == Kept(2, 3 * LARGE)
        assert (await pins.kept_below())[folder] == Kept(2, 3 * LARGE)
        assert pins.unpin(folder)
        await settled(world, pins)
        assert pins.kept() == Kept()
        assert not any(pins.holds(chunk) for chunk in chunks_below(world.two, ROOT)[c])
        world.nursery.cancel_scope.cancel()

    in_world(scene)


def test_what_cannot_be_fetched_is_missing_until_the_server_is_back() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"folder")
        for name in (b"a", b"b"):
            await make(world.one, name, random.randbytes(LARGE), folder)
        await world.quiet()
        world.two.wire.set_up(False)
        pins = world.two.pins
        pins.pin(folder)
        await trio.sleep(5)
        assert pins.kept() == Kept(2, 2 * LARGE, 2, 2 * LARGE)
        world.two.wire.set_up(True)
        pins.retry()
        await trio.sleep(30)
        assert pins.kept() == Kept(2, 2 * LARGE)
        world.nursery.cancel_scope.cancel()

    in_world(scene)


def test_a_silent_server_keeps_the_cache_from_evicting_for_half_a_minute_at_the_most() -> None:
    async def scene(world: World) -> None:
        folders = [await make_folder(world.one, b"%d" % number) for number in range(5)]
        await world.quiet()
        tree = world.two.tree
        before = Pins(tree, world.two.reader, world.two.pull.list_folder)
        for folder in folders:
            before.pin(folder)
            with tree.edit() as edit:
                edit.put(folder, replace(edit.get(folder), is_listed=False))

        async def silent(_: NodeId) -> None:
            await trio.sleep_forever()

        pins = Pins(tree, world.two.reader, silent)
        world.nursery.start_soon(pins.run)
        foreign = ChunkId(bytes(32))
        assert pins.holds(foreign), "before it is known what is pinned, all may be"
        await trio.sleep(31)
        assert not pins.holds(foreign)
        world.nursery.cancel_scope.cancel()

    in_world(scene)


@pytest.mark.parametrize("seed", range(8))
def test_followed_edit_by_edit_they_hold_what_a_walk_finds(seed: int) -> None:
    async def scene(world: World) -> None:
        rng = random.Random(seed)
        pins = world.two.pins
        folders, files, pinned = [ROOT], [], set()
        for number in range(60):
            device = rng.choice((world.one, world.two))
            name = b"%d" % number
            try:
                match rng.randrange(7):
                    case 0:
                        folders.append(await make_folder(device, name, rng.choice(folders)))
                    case 1 | 2:
                        files.append(await make(device, name, rng.randbytes(LARGE), rng.choice(folders)))
                    case 3 if len(folders) > 1:
                        await move(device, rng.choice(folders[1:]), rng.choice(folders), name)
                    case 4 if files:
                        await move(device, rng.choice(files), rng.choice(folders), name)
                    case 5 if files:
                        await write(device, rng.choice(files), rng.randbytes(LARGE))
                    case 6:
                        node = rng.choice((*folders[1:], *files) or folders)
                        if world.two.tree.record(node) is not None:
                            (pins.unpin if node in pinned else pins.pin)(node)
                            pinned ^= {node}
            except (VolumeError, NoSuchNode):
                continue
            if rng.random() < 0.3:
                await world.quiet()
        await settled(world, pins)
        wanted: dict[NodeId, set[ChunkId]] = {}
        for node in pinned:
            wanted |= chunks_below(world.two, node)
        everything = {chunk for chunks in chunks_below(world.two, ROOT).values() for chunk in chunks}
        kept = set().union(*wanted.values())
        assert {chunk for chunk in everything if pins.holds(chunk)} == kept
        assert pins.kept().files == len(wanted)
        assert pins.kept().missing_bytes == 0
        world.nursery.cancel_scope.cancel()

    in_world(scene)


async def move(device: Device, node: NodeId, folder: NodeId, name: bytes) -> None:
    record = device.tree.record(node)
    if record is not None and record.local is not None:
        own = record.local.names[0]
        await device.volume.rename(own.parent, own.name, folder, name, 0)


def test_a_pinned_folder_that_cannot_be_listed_is_tried_again_once_a_minute() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"folder")
        await world.quiet()
        third = Device(world.home, world.server, 3, is_walking=False)
        await third.start(world.nursery)
        await quiet(third, is_whole=False)
        assert await third.volume.lookup(ROOT, b"folder") == folder
        third.wire.set_up(False)
        await trio.sleep(1)
        asked = 0
        list_folders = third.pull.service.list_folders

        async def counted(space: SpaceId, folders: Sequence[FolderQuery]) -> Listing:
            nonlocal asked
            asked += 1
            assert asked < 50
            return await list_folders(space, folders)

        third.pull.service.list_folders = counted  # type: ignore[assignment, method-assign]
        third.pins.pin(folder)
        await trio.sleep(300)
        assert 2 <= asked <= 10
        await make(world.one, b"a", random.randbytes(LARGE), folder)
        await quiet(world.one, third, is_whole=False)
        await trio.sleep(100)
        assert third.pins.kept() == Kept(1, LARGE)
        await third.stop()

    in_world(scene)


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_pinned_file_that_is_saved_as_a_new_one_stays_pinned(*, is_elsewhere: bool) -> None:
    async def scene(world: World) -> None:
        saver, pins = world.one if is_elsewhere else world.two, world.two.pins
        first = await make(world.two, b"a", random.randbytes(LARGE))
        await world.quiet()
        pins.pin(first)
        await settled(world, pins)
        second = await make(saver, b"a.new", random.randbytes(2 * LARGE))
        await saver.volume.rename(ROOT, b"a.new", ROOT, b"a", 0)
        await settled(world, pins)
        assert pins.pinned() == [second]
        assert pins.kept() == Kept(1, 2 * LARGE)
        # As vim does it.
        await saver.volume.rename(ROOT, b"a", ROOT, b"a~", 0)
        pins.notice()
        await trio.sleep(3)
        third = await make(saver, b"a", random.randbytes(3 * LARGE))
        await saver.volume.unlink(ROOT, b"a~")
        await settled(world, pins)
        assert pins.pinned() == [third]
        # And as who removes it first.
        await saver.volume.unlink(ROOT, b"a")
        await settled(world, pins)
        assert pins.pinned() == []
        assert pins.kept() == Kept()
        fourth = await make(saver, b"a", random.randbytes(LARGE))
        await settled(world, pins)
        assert pins.pinned() == [fourth]
        assert world.two.files.held_bytes(fourth) == LARGE
        after_a_restart = Pins(world.two.tree, world.two.reader, world.two.pull.list_folder)
        assert after_a_restart.pinned() == [fourth]
        await saver.volume.rename(ROOT, b"a", ROOT, b"b", 0)
        await settled(world, pins)
        await make(saver, b"a", random.randbytes(LARGE))
        await settled(world, pins)
        assert pins.pinned() == [fourth], "what was moved takes its pin along"
        world.nursery.cancel_scope.cancel()

    in_world(scene)


def test_what_was_pinned_without_the_server_stays_pinned_when_it_becomes_one_with_another() -> None:
    async def scene(world: World) -> None:
        world.two.wire.set_up(False)
        file = await make(world.two, b"a", random.randbytes(LARGE))
        folder = await make_folder(world.two, b"folder")
        await make(world.two, b"b", random.randbytes(LARGE), folder)
        theirs = [await make(world.one, b"a", random.randbytes(LARGE)), await make_folder(world.one, b"folder")]
        await make(world.one, b"c", random.randbytes(LARGE), theirs[1])
        await quiet(world.one)
        pins = world.two.pins
        for node in (file, folder):
            pins.pin(node)
        world.two.wire.set_up(True)
        pins.retry()
        await settled(world, pins)
        await trio.sleep(100)
        assert pins.pinned() == sorted(theirs)
        assert pins.kept() == Kept(3, 3 * LARGE)
        world.nursery.cancel_scope.cancel()

    in_world(scene)
