"""Listing folders: all names are told, also when they are looked up in parts; whoever goes on finds them listed."""

from collections.abc import Sequence

import pytest

from remote.protocol.ids import ROOT, SpaceId
from remote.protocol.messages import FolderQuery, Listing
from tests.model.device import Device, Remote
from tests.model.play import quiet
from tests.model.world import World, in_world, make, make_folder


def test_names_that_are_looked_up_in_parts_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusefs.volume._NAMES_AT_ONCE", 3)

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
