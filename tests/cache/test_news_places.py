"""News of files that were removed elsewhere while they were open here, and whose place is gone when they are closed."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from remote.protocol.ids import ROOT, NodeId, SpaceId
from remote.protocol.messages import Commit, CommitAnswer
from remote.protocol.nodes import Name
from tests.model.device import Device
from tests.model.play import quiet
from tests.model.world import World, begin, end, in_world, make, make_folder

Act = Callable[[], Awaitable[None]]


async def content(device: Device, folder: bytes) -> bytes:
    return await device.content(await device.volume.lookup(await device.volume.lookup(ROOT, folder), b"f"))


async def closed_at_an_end(world: World, node: NodeId, *, remove: Act, then: Act) -> None:
    """Device one does `remove` while two has the file open and edited, and `then` while two does not run."""
    handle = await begin(world.two, node, b"edited")
    world.two.volume.flush(handle.file)
    await remove()
    await quiet(world.one)
    await trio.sleep(20)
    assert world.two.tree.news_of(node)
    end(world.two, handle)
    await world.two.stop()
    await then()
    await quiet(world.one)
    await world.two.start(world.nursery)
    await world.quiet()


@pytest.mark.parametrize("is_moved", [False, True])
def test_it_goes_into_a_file_that_got_its_new_name_elsewhere(is_moved: bool) -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        node = await make(world.one, b"f", b"first", folder)
        new = await make_folder(world.one, b"e") if is_moved else folder
        await world.quiet()

        async def remove() -> None:
            nonlocal new
            world.two.wire.set_up(False)
            await trio.sleep(1)
            if is_moved:
                await world.two.volume.rename(folder, b"f", new, b"f", 0)
            else:
                # So that the folder becomes one with a new one.
                await make(world.two, b"g", b"", folder)
            await world.one.volume.unlink(folder, b"f")
            await world.one.volume.rmdir(ROOT, b"d")
            if not is_moved:
                new = await make_folder(world.one, b"d")
            await quiet(world.one)
            world.two.wire.set_up(True)
            world.two.sync.retry_now()

        async def then() -> None:
            await make(world.one, b"f", b"theirs", new)

        await closed_at_an_end(world, node, remove=remove, then=then)
        assert await content(world.one, b"e" if is_moved else b"d") == b"theirs"
        assert world.conflicts() == 1

    in_world(scene)


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("comes", [False, True])
def test_its_folder_lives_on_when_another_file_had_its_name_there(comes: bool, is_nested: bool) -> None:
    """The news comes while a commit is on its way, so that what waits is not looked at in between."""

    async def scene(world: World) -> None:
        top = await make_folder(world.one, b"t") if is_nested else ROOT
        folder = await make_folder(world.one, b"d", top)
        node = await make(world.one, b"f", b"first", folder)
        await world.quiet()
        handle = await begin(world.two, node, b"edited")
        world.two.volume.flush(handle.file)
        await world.one.volume.unlink(folder, b"f")
        await quiet(world.one)
        await trio.sleep(20)
        may_go_on = trio.Event()
        commit = world.two.pull.service.commit

        async def late(space: SpaceId, sent: Commit) -> CommitAnswer:
            await may_go_on.wait()
            return await commit(space, sent)

        world.two.pull.service.commit = late  # type: ignore[method-assign]
        await make_folder(world.two, b"x")
        await trio.sleep(20)
        assert world.two.push.is_sending
        end(world.two, handle)
        await make(world.one, b"f", b"theirs", folder)
        await quiet(world.one)
        await trio.sleep(20)
        await world.one.volume.unlink(folder, b"f")
        await world.one.volume.rmdir(top, b"d")
        if is_nested:
            await world.one.volume.rmdir(ROOT, b"t")
        if comes:
            top = await make_folder(world.one, b"t") if is_nested else ROOT
            await make_folder(world.one, b"d", top)
        await quiet(world.one)
        await trio.sleep(20)
        may_go_on.set()
        await world.quiet()
        assert world.names() == {b"d", b"f", b"x", *([b"t"] if is_nested else [])}
        for device in (world.one, world.two):
            top = await device.volume.lookup(ROOT, b"t") if is_nested else ROOT
            folder = await device.volume.lookup(top, b"d")
            assert await device.content(await device.volume.lookup(folder, b"f")) == b"edited"

    in_world(scene)


def test_a_file_linked_into_two_folders_of_which_one_has_the_name_of_the_other_here_is_in_both() -> None:
    """The folder that was removed here comes back for the file, and becomes one with the folder that has its name."""

    async def scene(world: World) -> None:
        one, other = await make_folder(world.one, b"d"), await make_folder(world.one, b"e")
        await world.quiet()
        for device in (world.one, world.two):
            device.wire.set_up(False)
        await trio.sleep(1)
        await world.two.volume.rmdir(ROOT, b"e")
        await world.two.volume.rename(ROOT, b"d", ROOT, b"e", 0)
        node = await make(world.one, b"f", b"linked", one)
        await world.one.volume.link(node, other, b"f")
        await quiet(world.one)
        await world.quiet()
        assert set(world.server.alive()[node].names) == {Name(one, b"f"), Name(other, b"f")}

    in_world(scene)
