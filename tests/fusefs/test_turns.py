"""Requests of the kernel are answered many in a turn of the loop, and leave turns to others."""

import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from fusefs.turns import Door, Turns

MANY = 1_000_000


@pytest.fixture
def waiting() -> Iterator[int]:
    """A descriptor with something to read for ever."""
    out, into = os.pipe()
    os.write(into, b"request")
    yield out
    os.close(out)
    os.close(into)


class Waits(trio.abc.Instrument):
    """Counts how often the loop looked for what happened outside."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


def test_requests_that_are_there_are_taken_in_one_turn(waiting: int) -> None:
    async def take() -> int:
        turns, waits = Turns(), Waits()
        trio.lowlevel.add_instrument(waits)
        for _ in range(1_000):
            await turns.wait_readable(waiting)
        return waits.count

    # One each would be 1,000; a turn of a millisecond has room for hundreds, even while others take the processor.
    assert trio.run(take) < 900


def test_others_have_their_turn_while_requests_never_end(waiting: int) -> None:
    async def scene() -> int:
        turns, taken = Turns(), 0
        async with trio.open_nursery() as nursery:

            async def other() -> None:
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

            nursery.start_soon(other)
            while taken < MANY:
                await turns.wait_readable(waiting)
                taken += 1
        return taken

    assert trio.run(scene) < MANY


def test_who_waits_at_the_door_takes_over_when_the_holder_has_to_wait() -> None:
    async def scene() -> list[str]:
        door, came, seen = Door(), trio.Event(), []

        async def slow() -> None:
            for number in range(3):
                async with door:
                    seen.append(f"slow {number}")
            # Its answer has to wait for something.
            await came.wait()

        async def next_one() -> None:
            async with door:
                seen.append("next")
                came.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(next_one)
        return seen

    assert trio.run(scene) == ["slow 0", "slow 1", "slow 2", "next"]


def test_who_waits_at_the_door_can_be_cancelled_and_one_holds_it_at_a_time() -> None:
    async def scene() -> list[str]:
        door, seen = Door(), []

        async def pass_through(name: str) -> None:
            async with door:
                seen.append(f"{name} in")
                await trio.testing.wait_all_tasks_blocked(0.001)
                seen.append(f"{name} out")

        async with trio.open_nursery() as nursery, door:
            with trio.CancelScope() as scope:
                nursery.start_soon(pass_through, "one")
                nursery.start_soon(pass_through, "two")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                async with door:
                    seen.append("never")
        return seen

    seen = trio.run(scene)
    assert sorted(seen[:2], reverse=True) in (["one out", "one in"], ["two out", "two in"])
    assert len(seen) == 4
