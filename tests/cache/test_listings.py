"""Listings that are remembered: gone with the first change of what they tell of, and bounded."""

from collections.abc import Awaitable, Callable

import trio

from cache.listings import ENTRIES_MAX, Listings
from fusefs.attributes import Setting
from remote.protocol.ids import ROOT, NodeId
from tests.model.world import World, in_world, make, make_folder, write


def test_a_listing_goes_with_whatever_changes_in_its_folder() -> None:
    async def scene(world: World) -> None:
        one, two = world.one, world.two
        here, there = await make_folder(one, b"here"), await make_folder(one, b"there")
        node = await make(one, b"a", b"first", here)
        await make(one, b"b", b"", here)
        await world.quiet()
        kept = one.tree.listings

        async def forgets(*folders: NodeId, by: Callable[[], Awaitable[object]]) -> None:
            for folder in (here, there, ROOT):
                kept.keep(folder, [])
            await by()
            assert {folder for folder in (here, there) if kept.get(folder) is None} == set(folders)

        async def set_mode(mode: int = 0o600) -> None:
            one.volume.set_attributes(node, Setting(mode=mode), None)

        await forgets(here, by=set_mode)
        await forgets(here, by=lambda: write(one, node, b"second"))
        await forgets(here, by=lambda: make(one, b"c", b"", here))
        await forgets(here, by=lambda: one.volume.rename(here, b"c", here, b"d", 0))
        await forgets(here, by=lambda: one.volume.unlink(here, b"d"))
        await forgets(here, there, by=lambda: one.volume.link(node, there, b"also"))
        await forgets(here, there, by=lambda: set_mode(0o644))
        await forgets(here, there, by=lambda: one.volume.unlink(there, b"also"))
        await forgets(here, there, by=lambda: one.volume.rename(here, b"a", there, b"a", 0))
        await world.quiet()

        async def written_elsewhere() -> None:
            await write(two, node, b"third")
            await world.quiet()

        async def moved_elsewhere() -> None:
            await two.volume.rename(there, b"a", here, b"a", 0)
            await world.quiet()

        async def nothing() -> None:
            await trio.sleep(60)

        await forgets(there, by=written_elsewhere)
        await forgets(here, there, by=moved_elsewhere)
        await forgets(by=nothing)

    in_world(scene)


def test_the_oldest_listings_make_room() -> None:
    kept: Listings[int] = Listings()
    half = ENTRIES_MAX // 2
    first, second, third = [1] * half, [2] * half, [3]
    kept.keep(NodeId(1), first)
    kept.keep(NodeId(2), second)
    assert kept.is_kept(NodeId(1), first)
    kept.keep(NodeId(3), third)
    assert kept.get(NodeId(1)) is None
    assert kept.is_kept(NodeId(2), second)
    assert not kept.is_kept(NodeId(2), list(second)), "another list, of another time"
    kept.keep(NodeId(4), [4] * (ENTRIES_MAX + 1))
    assert kept.get(NodeId(4)) is None, "larger than all may be"
    assert kept.is_kept(NodeId(3), third)
