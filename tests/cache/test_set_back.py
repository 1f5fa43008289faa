"""A server that is put back from an older copy: what it lost and devices have is sent again; nothing is overwritten."""

import hashlib
import itertools

import pytest
import trio

from cache.errors import ContentUnavailable
from cache.lives import Lives
from cache.records import LostEdit
from remote.protocol.ids import ROOT, Rev
from remote.protocol.messages import Life
from tests.model.device import Device
from tests.model.world import World, in_world, make, make_folder, write

LARGE = hashlib.shake_256(b"large").digest(3 << 20)


async def content(device: Device, name: bytes, folder: int = ROOT) -> bytes:
    node = device.tree.child(folder, name)  # type: ignore[arg-type]
    assert node is not None
    return await device.content(node)


def test_what_the_server_lost_is_sent_again() -> None:
    async def scene(world: World) -> None:
        old = await make(world.one, b"old", b"before")
        await make(world.one, b"removed", b"x")
        await world.quiet()
        world.server.back_up()
        folder = await make_folder(world.one, b"folder")
        await make(world.one, b"large", LARGE, folder)
        await make(world.two, b"small", b"by two" * 1_000)
        await write(world.one, old, b"after" * 1_000)
        await world.quiet()
        world.server.put_back()
        assert world.names() == {b"old", b"removed"}
        await world.quiet()
        assert world.names() == {b"old", b"removed", b"folder", b"large", b"small"}
        for device in (world.one, world.two):
            assert await content(device, b"old") == b"after" * 1_000
            assert await content(device, b"large", folder) == LARGE
            assert await content(device, b"small") == b"by two" * 1_000
        assert world.conflicts() == 0

    in_world(scene)


def test_it_is_noticed_also_when_the_server_went_on_beyond_what_the_device_knows() -> None:
    async def scene(world: World) -> None:
        file = await make(world.one, b"file", b"first" * 1_000)
        await world.quiet()
        world.server.back_up()
        await make(world.two, b"lost", b"only two has it" * 300)
        await write(world.two, file, b"of the lost life" * 300)
        await world.quiet()
        known = world.two.tree.cursor
        await world.one.stop()
        await world.two.stop()
        world.server.put_back()
        # One starts as a new device, and so knows nothing of the lost life.
        world.one = Device(world.home, world.server, 3)
        await world.one.start(world.nursery)
        for number in range(10):
            await make(world.one, b"%d" % number, b"new")
            await trio.sleep(1)
        assert world.server.head > known
        await write(world.one, file, b"of the new life" * 300)
        await trio.sleep(10)
        await world.two.start(world.nursery)
        await world.quiet()
        assert {b"lost", b"file", b"9"} <= world.names()
        assert await content(world.one, b"lost") == b"only two has it" * 300
        assert await content(world.two, b"file") == b"of the new life" * 300
        # Both edited it since they agreed: what lost is a version.
        assert world.conflicts() == 1

    in_world(scene)


def test_what_was_removed_since_is_so_here_also_when_the_journal_does_not_tell_any_more() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"kept", b"1")
        await make(world.one, b"removed", b"2")
        await world.quiet()
        world.server.back_up()
        await make(world.two, b"lost", b"only two has it" * 300)
        await world.quiet()
        await world.one.stop()
        await world.two.stop()
        world.server.put_back()
        world.one = Device(world.home, world.server, 3)
        await world.one.start(world.nursery)
        await trio.sleep(10)
        await world.one.volume.unlink(ROOT, b"removed")
        for number in range(5):
            await make(world.one, b"%d" % number, b"new")
            await trio.sleep(1)
        await trio.sleep(10)
        # Two was away for longer than the server keeps.
        world.server.floor = world.server.head
        await world.two.start(world.nursery)
        await world.quiet()
        for device in (world.one, world.two):
            names = {child.name for child in device.tree.children(ROOT)}
            assert names == {b"kept", b"lost", b"0", b"1", b"2", b"3", b"4"}

    in_world(scene)


def test_an_unsent_edit_on_top_of_what_was_lost_stays() -> None:
    async def scene(world: World) -> None:
        file = await make(world.one, b"file", b"one")
        await world.quiet()
        world.server.back_up()
        await write(world.one, file, b"two")
        await world.quiet()
        world.one.wire.is_up = False
        await write(world.one, file, b"three")
        world.server.put_back()
        world.one.wire.is_up = True
        await world.quiet()
        assert await content(world.two, b"file") == b"three"
        # Two sends what was lost, which one wrote over without the server hearing of it: it is a version.
        assert world.conflicts() == 1

    in_world(scene)


def test_what_was_removed_after_the_copy_was_made_is_there_again() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"file", b"content" * 1_000)
        await world.quiet()
        world.server.back_up()
        await world.one.volume.unlink(ROOT, b"file")
        await world.quiet()
        world.server.put_back()
        await world.quiet()
        assert await content(world.one, b"file") == b"content" * 1_000

    in_world(scene)


def test_content_that_only_another_device_has_comes_from_there() -> None:
    async def scene(world: World) -> None:
        world.server.back_up()
        await make(world.one, b"file", LARGE)
        # Two knows of the file, but never read it.
        await world.quiet()
        world.one.wire.is_up = False
        world.server.put_back()
        await trio.sleep(30)
        (trouble,) = world.two.push.troubles.nodes.values()
        assert "Another device may have it" in trouble.sentence
        world.one.wire.is_up = True
        await world.quiet()
        assert await content(world.two, b"file") == LARGE

    in_world(scene)


def test_of_a_file_of_which_a_chunk_is_lost_all_else_is_read_and_who_has_it_heals_it() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"file", LARGE)
        await world.quiet()
        state = world.server.alive()[node]
        assert state.content is not None
        lost = state.content.entries[1]
        starts = [0, *itertools.accumulate(entry.length for entry in state.content.entries)]
        world.server.run("DELETE FROM chunk WHERE chunk_id = ?", lost.id)
        world.server.run(
            "INSERT INTO lost_chunk (chunk_id, size, found_ns, reason) VALUES (?, 1, 1, 'a test')", lost.id
        )
        handle = world.two.volume.open(node, is_writing=False, is_truncating=False)
        with pytest.raises(ContentUnavailable):
            await world.two.files.read(handle, starts[1], 10)
        for at in (0, starts[1] - 10, starts[2]):
            assert bytes(await world.two.files.read(handle, at, 10)) == LARGE[at : at + 10]
        assert [one.lost for one in (await world.one.pull.service.spaces()).spaces] == [1]
        assert await world.two.push.resending.mend() == 0
        assert await world.one.push.resending.mend() == 1
        assert [one.lost for one in (await world.one.pull.service.spaces()).spaces] == [0]
        assert bytes(await world.two.files.read(handle, 0, len(LARGE))) == LARGE
        world.two.volume.close(handle)

    in_world(scene)


def test_an_edit_that_lost_of_which_nobody_has_the_content_ends_with_its_file() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"file", LARGE)
        await world.quiet()
        await world.one.budget.trim(0)
        world.server.forget_chunks()
        with world.one.tree.edit() as edit:
            edit.keep_lost(node, LostEdit(world.server.alive()[node], 1))
        world.one.sync.wake()
        await trio.sleep(30)
        (stuck,) = world.one.sync.standing().stuck
        assert stuck.path == b"file"
        await world.one.volume.unlink(ROOT, b"file")
        await world.quiet()
        assert not world.one.sync.standing().stuck

    in_world(scene)


def test_a_restart_of_the_server_is_no_reason_to_begin_again() -> None:
    async def scene(world: World) -> None:
        for number in range(3):
            await make(world.one, b"%d" % number, b"x")
            await world.quiet()
            world.server.crash()
        await make(world.two, b"last", b"x")
        await world.quiet()
        assert world.one.pull._starts == world.two.pull._starts == 1

    in_world(scene)


def test_how_far_journals_are_the_same() -> None:
    async def scene(world: World) -> None:
        tree = world.one.tree
        lives = Lives(tree)
        lives.heard([Life(Rev(0), 11), Life(Rev(10), 12), Life(Rev(20), 13)])
        assert (lives.at(Rev(10)), lives.at(Rev(11)), lives.at(Rev(25))) == (11, 12, 13)
        first = [Life(Rev(0), 11), Life(Rev(10), 12)]
        # Put back from a copy of rev 15; from one of rev 25; from one that this device is behind of.
        assert lives.common(Rev(25), [*first, Life(Rev(15), 14)], Rev(40)) == 15
        assert lives.common(Rev(30), [*first, Life(Rev(20), 13)], Rev(25)) == 25
        assert lives.common(Rev(12), [*first, Life(Rev(15), 14)], Rev(40)) == 12
        assert lives.common(Rev(25), [Life(Rev(0), 99)], Rev(40)) is None
        lives.gave(Rev(26), 14)
        assert (Lives(tree).at(Rev(25)), Lives(tree).at(Rev(26))) == (13, 14)

    in_world(scene)
