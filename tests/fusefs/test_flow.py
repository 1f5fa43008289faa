"""Flow: a pause ends when it was to end, whatever becomes of the clock."""

import time

import pytest
import trio

from fusefs.flow import Flow
from remote.client.traffic import Traffic
from tests.model.world import World, in_world

HOUR = 3_600
YEAR_NS = 365 * 24 * HOUR * 10**9


def test_a_pause_is_no_longer_than_was_said_when_the_clock_is_set_back() -> None:
    async def scene(world: World) -> None:
        two = world.two
        flow = Flow(two.tree, Traffic(), two.syncs, two.reader, heeds_metered=False)
        world.nursery.start_soon(flow.run)
        flow.pause(HOUR)
        await trio.sleep(HOUR / 2)
        right = time.time_ns
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: right() - YEAR_NS)
            await trio.sleep(60)
            assert flow.told()["paused"]["is_paused"]  # type: ignore[index]
            await trio.sleep(HOUR + 60)
            assert not flow.told()["paused"]["is_paused"]  # type: ignore[index]
        world.nursery.cancel_scope.cancel()

    in_world(scene)
