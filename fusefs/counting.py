"""Counting: what went over the wire, what the cache answered and how long the event loop kept others waiting, since
this device was set up, kept across restarts.
"""

from bisect import bisect_left
from time import perf_counter
from typing import Final

import msgspec
import trio

from cache.reader import Counters
from cache.tree import Tree
from fusefs.flow import Traffic

TURN_MS: Final = (1, 2, 5, 10, 20, 50, 100)
"""Upper bounds by which turns of the loop are counted; beyond the last, they are counted together."""
_SETTING: Final = "counts"


class Turns(trio.abc.Instrument):
    """Counts how long each turn of the event loop takes: what comes from a program meanwhile waits for its end."""

    def __init__(self) -> None:
        self.counts = [0] * (len(TURN_MS) + 1)
        self.longest_ms = 0.0
        self._began = float("inf")

    def after_io_wait(self, timeout: float) -> None:
        """A turn begins."""
        self._began = perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """A turn ends."""
        took_ms = (perf_counter() - self._began) * 1_000
        if took_ms < TURN_MS[0]:
            self.counts[0] += 1
            return
        self.counts[bisect_left(TURN_MS, took_ms)] += 1
        self.longest_ms = max(self.longest_ms, took_ms)


class Counts(msgspec.Struct, frozen=True):
    """Sums since the device was set up; `turns` by TURN_MS, with one more for all that were longer."""

    sent_bytes: int = 0
    received_bytes: int = 0
    requests: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    turns: tuple[int, ...] = (0,) * (len(TURN_MS) + 1)


class Counting:
    """Adds what this run counts to what was counted before."""

    def __init__(self, tree: Tree, traffic: Traffic, reads: Counters) -> None:
        self._tree = tree
        self._traffic = traffic
        self._reads = reads
        self.turns = Turns()
        value = tree.setting(_SETTING)
        self._before = msgspec.msgpack.decode(value, type=Counts) if value else Counts()
        self._kept = self._before

    def sums(self) -> Counts:
        """Everything up to now."""
        before = self._before
        return Counts(
            sent_bytes=before.sent_bytes + self._traffic.sent_bytes,
            received_bytes=before.received_bytes + self._traffic.received_bytes,
            requests=before.requests + self._traffic.requests,
            cache_hits=before.cache_hits + self._reads.hits,
            cache_misses=before.cache_misses + self._reads.misses,
            turns=tuple(one + more for one, more in zip(before.turns, self.turns.counts, strict=True)),
        )

    def told(self) -> dict[str, object]:
        """The sums by name, for people and programs; of turns by the milliseconds that they took at the most."""
        sums = self.sums()
        bounds = [*(str(bound) for bound in TURN_MS), "longer"]
        return {
            **msgspec.structs.asdict(sums),
            "turns": dict(zip(bounds, sums.turns, strict=True)),
            "longest_turn_ms": round(self.turns.longest_ms, 1),
        }

    def keep(self) -> None:
        """Keeps the sums in the tree's store, if anything but short turns was counted: the loop turns for this, too."""
        sums = self.sums()
        if msgspec.structs.replace(sums, turns=self._kept.turns) != self._kept or _late(sums) != _late(self._kept):
            self._tree.set_setting(_SETTING, msgspec.msgpack.encode(sums))
            self._kept = sums


def _late(counts: Counts) -> tuple[int, ...]:
    """Turns that took longer than the shortest do."""
    return counts.turns[1:]
