"""Extents against a set of positions."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cache.extents import Extents

positions = st.integers(0, 40)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "cut"]), positions, positions), max_size=30)


@given(steps, positions, positions)
def test_extents_hold_what_a_set_holds(todo: list[tuple[str, int, int]], first: int, second: int) -> None:
    extents = Extents()
    model: set[int] = set()
    for step, one, other in todo:
        start, stop = min(one, other), max(one, other)
        if step == "add":
            extents.add(start, stop)
            model |= set(range(start, stop))
        elif step == "remove":
            extents.remove(start, stop)
            model -= set(range(start, stop))
        else:
            extents.cut(start)
            model = {position for position in model if position < start}
        pairs = list(extents)
        assert {position for pair in pairs for position in range(*pair)} == model
        assert all(pair[0] < pair[1] for pair in pairs)
        assert all(left[1] < right[0] for left, right in itertools.pairwise(pairs)), "stretches touch"
        assert extents.total() == len(model)
    start, stop = min(first, second), max(first, second)
    assert extents.covers(start, stop) == (set(range(start, stop)) <= model)
    pieces = list(extents.split(start, stop))
    assert [position for piece in pieces for position in range(piece[0], piece[1])] == list(range(start, stop))
    assert all((position in model) == piece[2] for piece in pieces for position in range(piece[0], piece[1]))
    assert all(left[2] != right[2] for left, right in itertools.pairwise(pieces))


def test_narrowest_gaps_come_in_order_of_position() -> None:
    extents = Extents([(0, 1), (10, 11), (12, 13), (15, 16)])
    assert extents.narrowest_gaps(2) == [(11, 12), (13, 15)]
