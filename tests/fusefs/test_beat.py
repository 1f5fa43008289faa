"""Beat: once in a while as long as anything goes on, and not at all while nothing does."""

from collections.abc import Awaitable, Callable

import trio

from fusefs.beat import Beat


class Leaping(trio.abc.Clock):
    """Goes to the next deadline in one turn of the loop, as real time does; the test clock takes two."""

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        """It has begun."""

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if deadline == float("inf"):
            # Something else is waited for.
            return 1.0
        self._now = max(self._now, deadline)
        return 0.0


def beats_in_no_time(play: Callable[[], Awaitable[object]], *, may_rest: bool = True) -> list[float]:
    """When it beat during a play, in seconds after its start."""
    beats: list[float] = []

    async def run() -> None:
        beat = Beat()
        trio.lowlevel.add_instrument(beat)

        async def follow() -> None:
            while True:
                await beat.next(may_rest=may_rest)
                beats.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await play()
            nursery.cancel_scope.cancel()

    trio.run(run, clock=Leaping())
    return beats


async def nothing() -> None:
    await trio.sleep(3_600)


async def one_thing() -> None:
    await trio.sleep(1_000.25)
    # What comes of it takes a moment.
    await trio.sleep(0.1)
    await trio.sleep(3_600)


async def many_things() -> None:
    for _ in range(100):
        await trio.sleep(0.1)


def test_nobody_is_woken_while_nothing_goes_on() -> None:
    # Of the start, and of the play's end.
    assert [at for at in beats_in_no_time(nothing) if 2 < at < 3_600] == []


def test_what_ends_the_rest_is_followed_by_a_beat_after_it() -> None:
    beats = [at for at in beats_in_no_time(one_thing) if 2 < at < 3_000]
    assert beats[0] == 1_000.25
    assert 1_000.35 < beats[-1] < 1_003
    assert len(beats) <= 3


def test_it_beats_once_a_second_while_things_go_on() -> None:
    assert 9 <= len(beats_in_no_time(many_things)) <= 11


def test_it_does_not_rest_when_it_must_not() -> None:
    assert len(beats_in_no_time(nothing, may_rest=False)) > 3_500
