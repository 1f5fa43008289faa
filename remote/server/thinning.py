"""Thinning: of many moments the last of each hour, day and so on, found without looking at the others. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

SECOND_NS = 1_000_000_000
BAND_MAX = 500
"""Moments of one step 0: a burst of commits leaves room for what is older."""

# A row of a table, which begins with rev and time: see database.connection.
Found = tuple[Any, ...]


def step_of(steps: Sequence[tuple[int, int]], age_ns: int) -> tuple[int, int] | None:
    """The age in seconds below which this one falls, and its step; None when it is older than all."""
    return next(((age, step) for age, step in steps if age_ns < age * SECOND_NS), None)


def thinned(
    newest: Callable[[int, int], Iterable[Found]],
    last_before: Callable[[int], int],
    steps: Sequence[tuple[int, int]],
    now_ns: int,
    limit: int,
) -> Iterator[Found]:
    """The last moment of each step, newest first.

    `newest(last, limit)`: the newest moments up to a rev, rows that begin with rev and time; `last_before(time)`: the
    last rev of the space before a time.
    """
    last = (1 << 63) - 1
    while limit > 0:
        first = next(iter(newest(last, 1)), None)
        if first is None:
            return
        band = step_of(steps, now_ns - first[1])
        if band is None:
            return
        age, step = band
        # Ages and slots are looked at by whole seconds, so that a folder shows the same moments from call to call.
        if step:
            found, begin_ns = [first], first[1] // (step * SECOND_NS) * step * SECOND_NS
        else:
            begin_ns = now_ns - age * SECOND_NS + 1
            found = [row for row in newest(last, min(limit, BAND_MAX)) if row[1] >= begin_ns]
        yield from found[:limit]
        limit -= len(found)
        last = last_before(begin_ns)
