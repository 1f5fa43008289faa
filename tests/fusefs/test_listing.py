"""Listing folders: all names are told, also when they are looked up in parts; whoever goes on finds them listed."""

from collections.abc import Sequence

import pytest
import trio

from remote.protocol.ids import ROOT, NodeId, SpaceId
from remote.protocol.messages import FolderQuery, Listing
from remote.protocol.nodes import Kind
from tests.model.device import Device, Remote
from tests.model.play import quiet
from tests.model.world import World, in_world, make, make_folder


def test_names_that_are_looked_up_in_parts_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusefs.shown.NAMES_AT_ONCE", 3)

    async def scene(world: World) -> None:
        for count in (0, 1, 3, 7):
            folder = await make_folder(world.one, b"folder-%d" % count)
            names = [b"name-%d" % number for number in range(count)]
            for name in names:
                await make(world.one, name, b"", folder)
            assert [child.name for child in await world.one.volume.children(folder)] == names

    in_world(scene)


def test_what_is_listed_ahead_comes_by_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    list_folders = Remote.list_folders

    async def noted(self: Remote, space: SpaceId, folders: Sequence[FolderQuery]) -> Listing:
        asked.append(len(folders))
        return await list_folders(self, space, folders)

    async def scene(world: World) -> None:
        for number in range(40):
            folder = await make_folder(world.one, b"folder-%d" % number)
            await make(world.one, b"file", b"content", folder)
        await world.quiet()
        three = Device(world.home, world.server, 3, is_walking=False)
        await three.start(world.nursery)
        await quiet(three, is_whole=False)
        monkeypatch.setattr(Remote, "list_folders", noted)
        assert len(await three.volume.children(ROOT)) == 40
        await quiet(three)
        assert asked == [1, 16, 24], "the one that is waited for, those that are next, all others"
        await three.stop()

    in_world(scene)


def test_no_folder_is_asked_for_twice_while_a_program_goes_through_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[NodeId] = []
    list_folders = Remote.list_folders

    async def noted(self: Remote, space: SpaceId, folders: Sequence[FolderQuery]) -> Listing:
        asked.extend(query.folder for query in folders)
        await trio.sleep(0.3)
        listing = await list_folders(self, space, folders)
        asked.extend(one.folder for one in listing.folders if one.folder not in {query.folder for query in folders})
        return listing

    async def scene(world: World) -> None:
        top = await make_folder(world.one, b"top")
        for number in range(40):
            folder = await make_folder(world.one, b"folder-%d" % number, top)
            for name in range(30):
                await make(world.one, b"file-%d" % name, b"", folder)
        await world.quiet()
        monkeypatch.setattr(Remote, "list_folders", noted)
        three = Device(world.home, world.server, 3, is_walking=True)
        await three.start(world.nursery)
        await trio.sleep(0.1)
        waiting = [ROOT]
        while waiting:
            node = waiting.pop()
            waiting += [child.node for child in await three.volume.children(node) if child.kind is Kind.FOLDER]
        await quiet(three)
        assert len(asked) == len(set(asked)) == 42, "by the walk in the background, or ahead of the program, or by it"
        await three.stop()

    in_world(scene)
