"""A disk that takes no change to the tree for a while: what failed did not happen, and what comes after it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cache.errors import DiskFull
from cache.ignoring import FILE
from cache.layer import Puts
from cache.lives import Lives
from cache.store import Store
from cache.troubles import Troubles
from fusefs.volume import Setting
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Life
from tests.cache.test_tree import opened
from tests.model.device import Device
from tests.model.play import quiet
from tests.model.world import World, begin, end, in_world, make, make_folder, write


@contextmanager
def full(store: Store) -> Iterator[None]:
    journal = store._journal
    assert journal is not None
    append = journal.append

    def refuse(sequence: int, puts: Puts) -> int:
        raise DiskFull("This disk is full.")

    journal.append = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        journal.append = append  # type: ignore[method-assign]


def test_node_ids_are_not_given_twice(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        tree.lease(NodeId(5_000), 100_000)
        with full(tree.store), pytest.raises(DiskFull):
            tree.new_node()
        given = tree.new_node()
    with opened(tmp_path) as tree:
        assert tree.new_node() > given


def test_what_could_not_be_noted_as_being_sent_is_not(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with full(tree.store), pytest.raises(DiskFull):
            tree.set_sending({NodeId(5): None})
        assert not tree.sending
        tree.set_sending({NodeId(5): None})
        with full(tree.store), pytest.raises(DiskFull):
            tree.set_sending({})
        assert not tree.sending


def test_the_life_of_a_journal_that_could_not_be_kept_is_kept_the_next_time(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        lives = Lives(tree)
        with full(tree.store), pytest.raises(DiskFull):
            lives.heard((Life(Rev(3), 77),))
        lives.heard((Life(Rev(3), 77),))
        assert Lives(tree).at(Rev(4)) == 77


def test_a_file_whose_removal_failed_keeps_what_is_written_to_it_while_it_is_open() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"before")
        handle = await begin(world.one, node, b"written")
        with full(world.one.state), pytest.raises(DiskFull):
            await world.one.volume.unlink(ROOT, b"a")
        end(world.one, handle)
        await world.quiet()
        assert await world.two.content(node) == b"written"

    in_world(scene)


@pytest.mark.parametrize("is_open", [True, False])
def test_a_truncate_that_failed_is_done_when_there_is_room(is_open: bool) -> None:
    async def scene(world: World) -> None:
        one = world.one
        node = await make(one, b"a", b"before")
        await world.quiet()
        handle = one.volume.open(node, is_writing=True, is_truncating=False) if is_open else None
        one.fill(1.0)
        if handle is None:
            with pytest.raises(DiskFull):
                one.volume.set_attributes(node, Setting(size=3), None)
        else:
            one.volume.set_attributes(node, Setting(size=3), handle)
            with pytest.raises(DiskFull):
                one.volume.close(handle)
        one.fill(0)
        await trio.sleep(2)
        await world.quiet()
        assert await world.two.content(node) == b"bef"

    in_world(scene)


def test_content_that_was_let_go_of_meanwhile_is_gone_when_there_is_room() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a")
        handle = await begin(world.one, node, b"written")
        world.one.volume.flush(handle.file)
        await world.one.volume.unlink(ROOT, b"a")
        with full(world.one.state):
            end(world.one, handle)
        assert world.one.stagings.ids()
        world.one.files.flush_closed()
        assert not world.one.stagings.ids()

    in_world(scene)


def test_a_folder_that_could_not_be_listed_is_listed_when_there_is_room() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await make(world.one, b"a", b"content", folder)
        await quiet(world.one)
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        await fresh.volume.children(ROOT)
        with full(fresh.state), pytest.raises(DiskFull):
            await fresh.volume.children(folder)
        with trio.fail_after(5):
            assert [child.name for child in await fresh.volume.children(folder)] == [b"a"]
        await fresh.stop()

    in_world(scene)


def test_rules_that_could_not_be_kept_hold_from_then_on() -> None:
    async def scene(world: World) -> None:
        rules = await make(world.one, FILE, b"*.own\n")
        await world.quiet()
        node = await make(world.one, b"b.own", b"ignored")
        await quiet(world.one)
        assert world.one.tree.is_ignored(node)
        world.one.sync.hold("paused")
        await write(world.two, rules, b"*.other\n")
        await quiet(world.one, world.two)
        with full(world.one.state), pytest.raises(DiskFull):
            await world.one.push.ignoring.refresh()
        world.one.sync.hold("")
        await trio.sleep(1)
        await world.quiet()
        assert b"b.own" in world.names()

    in_world(scene)


def test_content_that_was_never_kept_is_gone_with_its_last_handle() -> None:
    async def scene(world: World) -> None:
        for data in (b"short", bytes(range(256)) * 1_000):
            node = await make(world.one, b"a")
            handle = await begin(world.one, node, data)
            await world.one.volume.unlink(ROOT, b"a")
            with full(world.one.state):
                end(world.one, handle)
            assert not world.one.stagings.total_bytes
            assert not list((world.one.folder / "staging").iterdir())

    in_world(scene)


def test_what_is_not_to_be_sent_as_it_is_is_not_after_a_restart_either() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"before")
        await world.quiet()
        one = world.one
        one.files.on_cut = lambda cut, edit: one.syncs.hold_back(cut, "The end of it is missing.", edit)
        handle = await begin(one, node, b"half of it")
        handle.file.is_cut = True
        with full(one.state), pytest.raises(DiskFull):
            one.volume.flush(handle.file)
        end(one, handle)
        await trio.sleep(10)
        await one.kill()
        await one.start(world.nursery)
        await trio.sleep(10)
        assert await world.two.content(node) == b"before"
        await write(one, node, b"all of it")
        await world.quiet()
        assert await world.two.content(node) == b"all of it"
        # Nor is anything said of it any more.
        assert not Troubles(one.tree).nodes

    in_world(scene)
