"""Listing folders: all names are told, also when they are looked up in parts."""

import pytest

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
