"""Retries and deadlines, on trio's test clock."""

import pytest
import trio
import trio.testing

from remote.client.pace import Lane
from remote.client.patience import Patience, allow_for, together
from remote.protocol.errors import BadRequest, Busy, NotFound, RemoteError, ServerFault, Unreachable

pytestmark = pytest.mark.anyio


def run(patience: Patience, errors: list[RemoteError | None]) -> tuple[object, int, float]:
    """The outcome ("done", or the error) of attempts that fail like this, how many there were, and the seconds."""

    async def main() -> tuple[object, int, float]:
        tries = 0

        async def attempt(_scope: trio.CancelScope) -> str:
            nonlocal tries
            tries += 1
            error = errors[min(tries, len(errors)) - 1]
            if error is not None:
                raise error
            return "done"

        try:
            outcome: object = await patience.over(attempt)
        except RemoteError as error:
            outcome = error
        return outcome, tries, trio.current_time() - started

    clock = trio.testing.MockClock(autojump_threshold=0)
    started = clock.current_time()
    return trio.run(main, clock=clock)


def test_what_may_pass_is_tried_again() -> None:
    for error in (Unreachable("away"), ServerFault("broken"), Busy("later", 0.5)):
        outcome, tries, _ = run(Patience(20), [error, error, None])
        assert (outcome, tries) == ("done", 3)


def test_what_will_not_pass_is_not_tried_again() -> None:
    for error in (BadRequest("no"), NotFound("none")):
        assert run(Patience(20), [error])[:2] == (error, 1)


def test_tries_are_bounded_and_the_last_error_is_raised() -> None:
    error = ServerFault("broken")
    assert run(Patience(20, tries=4), [error])[:2] == (error, 4)
    assert run(Patience(20, tries=1), [error])[:2] == (error, 1)


def test_busy_is_waited_for_as_long_as_it_says_but_not_beyond_the_deadline() -> None:
    outcome, tries, seconds = run(Patience(20), [Busy("later", 7.0), None])
    assert (outcome, tries) == ("done", 2)
    assert 7.0 <= seconds < 7.1
    busy = Busy("much later", 50.0)
    outcome, tries, seconds = run(Patience(20), [busy, None])
    assert (outcome, tries) == (busy, 1)
    assert seconds < 0.1


def test_pauses_grow_up_to_a_bound_and_are_spread() -> None:
    patience = Patience(1e9, first_pause_seconds=0.1, longest_pause_seconds=5.0)
    for failed, longest in ((1, 0.1), (2, 0.2), (5, 1.6), (7, 5.0), (40, 5.0)):
        pauses = [patience.pause_seconds(failed, Unreachable("away")) for _ in range(200)]
        assert max(pauses) <= longest
        assert min(pauses) < longest / 4
        assert max(pauses) > longest * 3 / 4


def test_no_answer_is_unreachable_at_the_deadline() -> None:
    async def main() -> float:
        started = trio.current_time()

        async def attempt(_scope: trio.CancelScope) -> None:
            await trio.sleep_forever()

        with pytest.raises(Unreachable, match="20 seconds"):
            await Patience(20).over(attempt)
        return trio.current_time() - started

    assert 20.0 <= trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) < 20.1


def test_large_bodies_get_the_time_that_they_take() -> None:
    async def main() -> float:
        started = trio.current_time()

        async def attempt(scope: trio.CancelScope) -> None:
            allow_for(scope, 65_536 * 30, Lane())
            await trio.sleep_forever()

        with pytest.raises(Unreachable):
            await Patience(20).over(attempt)
        return trio.current_time() - started

    assert 50.0 <= trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) < 50.1


async def test_the_first_error_of_many_jobs_ends_the_others_and_is_raised_as_itself() -> None:
    async def wait() -> None:
        await trio.sleep_forever()

    async def fail() -> None:
        raise NotFound("none")

    for jobs in ([wait, fail, wait], [fail]):
        with pytest.raises(NotFound, match="none"):
            await together(jobs)
    await together([])
