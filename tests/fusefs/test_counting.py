"""Counting: how long turns of the event loop took, and that it is told and kept."""

from pathlib import Path

import pytest
import trio

from cache.reader import Counters
from cache.records import STATE_TABLES
from cache.store import Store
from cache.tree import Tree
from fusefs import counting
from fusefs.cli.standing import _shown
from fusefs.counting import TURN_MS, Counting
from remote.client.traffic import Traffic


def test_turns_of_the_loop_are_counted_by_their_length_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "tree.mdb", STATE_TABLES, has_journal=True)
    counted = Counting(Tree(store), Traffic(), Counters())
    now = 0.0
    monkeypatch.setattr(counting, "perf_counter", lambda: now)

    async def turn(seconds: float) -> None:
        nonlocal now
        await trio.lowlevel.checkpoint()
        now += seconds

    async def some() -> None:
        trio.lowlevel.add_instrument(counted.turns)
        for seconds in (0.0005, 0.0015, 0.0015, 0.004, 0.2):
            await turn(seconds)

    trio.run(some)
    told = counted.told()
    turns = told["turns"]
    assert isinstance(turns, dict)
    assert list(turns) == [*map(str, TURN_MS), "longer"]
    assert {bound: count for bound, count in turns.items() if count and bound != "1"} == {"2": 2, "5": 1, "longer": 1}
    assert told["longest_turn_ms"] == 200.0
    assert _shown("turns", {"1": 7, "2": 2, "longer": 1}) == "10: 7 up to 1 ms, 2 up to 2 ms, 1 longer"
    counted.keep()
    again = Counting(Tree(store), Traffic(), Counters())
    assert again.sums().turns[1:] == counted.sums().turns[1:]
    store.close()
