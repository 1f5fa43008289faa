"""Thinning finds the last moment of each step, whatever there is, and looks at few."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from remote.server.thinning import SECOND_NS, step_of, thinned

NOW = 1_790_000_000 * SECOND_NS
STEPS = ((60, 0), (3_600, 60), (86_400, 3_600))


class Journal:
    """Moments by rev, and how many were looked at."""

    def __init__(self, ages: list[float]) -> None:
        times = sorted(NOW - round(age * SECOND_NS) for age in ages)
        self.rows = [(rev, time_ns) for rev, time_ns in enumerate(times, start=1)]
        self.looked = 0

    def newest(self, last: int, limit: int) -> Iterator[tuple[int, int]]:
        for row in [row for row in reversed(self.rows) if row[0] <= last][:limit]:
            self.looked += 1
            yield row

    def last_before(self, time_ns: int) -> int:
        return max((rev for rev, at in self.rows if at < time_ns), default=0)

    def thinned(self, limit: int = 1_000) -> list[tuple[int, int]]:
        return [(row[0], row[1]) for row in thinned(self.newest, self.last_before, STEPS, NOW, limit)]


@given(st.lists(st.floats(0, 100_000), max_size=80))
def test_the_last_of_each_step_is_found_newest_first(ages: list[float]) -> None:
    journal = Journal(ages)
    wanted, slots = [], set()
    for rev, time_ns in reversed(journal.rows):
        band = step_of(STEPS, NOW - time_ns)
        if band is None:
            continue
        slot = (band[1], time_ns // (band[1] * SECOND_NS)) if band[1] else (0, rev)
        if slot not in slots:
            slots.add(slot)
            wanted.append((rev, time_ns))
    found = journal.thinned()
    assert found == sorted(found, reverse=True)
    # A slot that reaches over the border of two bands is told once.
    assert set(found) <= set(wanted)
    assert len(wanted) - len(found) <= len(STEPS)


def test_a_long_history_is_not_read_whole() -> None:
    journal = Journal([number * 0.5 for number in range(100_000)])
    found = journal.thinned()
    assert 120 + 58 + 12 <= len(found) <= 120 + 60 + 15
    assert journal.looked < 3 * len(found)


def test_a_burst_leaves_room_for_what_is_older() -> None:
    journal = Journal([*(number / 1_000 for number in range(5_000)), 40_000])
    found = journal.thinned()
    assert len(found) == 501
    assert found[-1][0] == 1
    assert len(journal.thinned(limit=7)) == 7
