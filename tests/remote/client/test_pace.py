"""Pace: limits hold on the average, who is waited for goes first, and a gate holds up until it is opened."""

from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from remote.client.pace import LEAST, Gate, Lane

pytestmark = pytest.mark.anyio
RATE = 1 << 20


def limited(rate: int = RATE) -> Lane:
    lane = Lane()
    lane.set_limit(rate)
    return lane


@given(st.integers(0, 2**32), st.integers(LEAST, 100 << 20))
def test_whoever_waits_in_turn_never_gets_more_than_the_limit(seed: int, rate: int) -> None:
    lane = limited(rate)
    chosen = Random(seed)
    now = begun = 1_000.0
    count = 0
    for _ in range(200):
        size = chosen.randrange(1, lane.piece(1 << 20) + 1)
        now = max(now, lane.book(size, now, is_urgent=False))
        assert count <= rate * (now - begun + 0.2)
        count += size
        if chosen.random() < 0.05:
            now += chosen.random()
    assert lane.book(1, now, is_urgent=False) - now <= 0.1, "and no less"


def test_who_is_waited_for_goes_first_and_the_others_make_up_for_it() -> None:
    lane = limited()
    assert max(lane.book(RATE // 4, 0.0, is_urgent=False) for _ in range(8)) > 1.5
    assert lane.book(RATE // 4, 0.0, is_urgent=True) <= 0.0
    assert lane.book(RATE // 4, 0.0, is_urgent=True) <= 0.25
    assert lane.book(RATE // 4, 0.0, is_urgent=False) > 2.3


def test_without_a_limit_nobody_waits() -> None:
    lane = Lane()
    assert lane.piece(1 << 20) == 1 << 20
    assert lane.book(1 << 40, 5.0, is_urgent=False) == 5.0
    assert lane.seconds_for(65_536) == 1.0
    assert limited().seconds_for(RATE) >= 16.0


async def test_a_limit_that_is_lifted_ends_the_waiting() -> None:
    lane = limited(LEAST)
    lane.book(LEAST * 1_000, 0.0, is_urgent=True)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lane.waited(LEAST * 1_000, is_urgent=False))
            nursery.start_soon(lambda: trio.to_thread.run_sync(lambda: lane.wait(LEAST, is_urgent=False)))
            await trio.testing.wait_all_tasks_blocked()
            lane.set_limit(0)


async def test_a_gate_holds_up_until_it_is_opened() -> None:
    gate = Gate()
    passed: list[int] = []

    async def pass_it(number: int) -> None:
        await gate.passed()
        passed.append(number)

    await pass_it(0)
    gate.shut()
    gate.shut()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_it, 1)
        nursery.start_soon(pass_it, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert passed == [0]
        gate.open()
    assert sorted(passed) == [0, 1, 2]
