"""How often, and how long, a request is tried again."""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from remote.client.pace import Lane
from remote.protocol.errors import Busy, RemoteError, ServerFault, Unreachable

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """Tries and pauses of one request: exponential backoff with full jitter, all within `deadline_seconds`."""

    deadline_seconds: float
    tries: int = 4
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0

    def pause_seconds(self, failed: int, error: RemoteError) -> float:
        """How long to wait after so many failed tries, the last of them with this error."""
        if isinstance(error, Busy):
            return error.retry_after_seconds
        longest = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** (failed - 1))
        return random.uniform(0.0, longest)  # noqa: S311 - only to spread requests

    async def over(self, attempt: Callable[[trio.CancelScope], Awaitable[Result]]) -> Result:
        """What `attempt` gives, after as many tries as that takes; raises the last error, or Unreachable when late.

        Only Unreachable, ServerFault and Busy are tried again. An attempt that knows how many bytes it moves may
        put off the deadline with `allow_for`.
        """
        last: RemoteError | None = None
        with trio.move_on_after(self.deadline_seconds) as scope:
            for failed in range(1, self.tries + 1):
                try:
                    return await attempt(scope)
                except (Unreachable, ServerFault, Busy) as error:
                    last = error
                pause = self.pause_seconds(failed, last)
                if failed == self.tries or trio.current_time() + pause >= scope.deadline:
                    raise last
                await trio.sleep(pause)
        why = f" The last try said: {last}" if last else ""
        raise Unreachable(f"There was no answer within {self.deadline_seconds:g} seconds.{why}")


def allow_for(scope: trio.CancelScope, length_bytes: int, lane: Lane) -> None:
    """Puts the deadline off by the longest time that moving so many bytes may take; slower counts as unreachable."""
    scope.deadline += lane.seconds_for(length_bytes)


async def together(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Runs all jobs at once; the first RemoteError ends the others and is raised as itself."""
    failed: list[RemoteError] = []

    async def run(job: Callable[[], Awaitable[None]], nursery: trio.Nursery) -> None:
        try:
            await job()
        except RemoteError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    if len(jobs) == 1:
        await jobs[0]()
        return
    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(run, job, nursery)
    if failed:
        raise failed[0]
