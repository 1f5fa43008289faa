"""Planning while content is on its way: nothing is sent ahead of what it needs, and a removal waits for nothing."""

import os

import trio

from remote.protocol.ids import ROOT, NodeId
from tests.model.device import Device
from tests.model.world import World, in_world, make, write


def on_its_way(device: Device, node: NodeId) -> None:
    """As if the content of a small file were being sent."""
    preparing = device.sync._push._preparing
    preparing._running.add(node)
    preparing._passing.add(node)


async def planned(device: Device) -> set[NodeId]:
    plan = await device.sync._push._planner.plan()
    return {node for group in (*plan.ready, *plan.small, plan.large) for node in group}


def test_what_needs_a_file_whose_content_is_on_its_way_waits_for_it() -> None:
    async def scene(world: World) -> None:
        one = world.one
        node = await make(one, b"name", os.urandom(5_000))
        await world.quiet()
        one.wire.set_up(False)
        await trio.sleep(1)
        await write(one, node, os.urandom(6_000))
        await one.volume.rename(ROOT, b"name", ROOT, b"other", 0)
        heir = await make(one, b"name")
        alone = await make(one, b"alone")
        assert {node, alone} <= await planned(one)
        on_its_way(one, node)
        found = await planned(one)
        assert alone in found
        assert not {node, heir} & found, "the name is the other's until its change is sent"

    in_world(scene)


def test_a_removal_does_not_wait_for_content_that_is_on_its_way() -> None:
    async def scene(world: World) -> None:
        one = world.one
        node = await make(one, b"name", os.urandom(5_000))
        await world.quiet()
        one.wire.set_up(False)
        await trio.sleep(1)
        await write(one, node, os.urandom(6_000))
        on_its_way(one, node)
        assert node not in await planned(one)
        await one.volume.unlink(ROOT, b"name")
        assert node in await planned(one)

    in_world(scene)
