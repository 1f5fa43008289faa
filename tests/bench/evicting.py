"""Evicting: how often the cache has what is read, by our eviction and by others, on loads that are hard on caches.

    .venv/bin/python -m tests.bench.evicting

Ours is the real one (cache/eviction.py over cache/chunks.py, chunks of 4 KiB); the others keep as many chunks.
docs/performance.md keeps the table. Nothing of it depends on time: the same on each machine.
"""

import random
import tempfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trio

from cache.chunks import Chunks, open_store
from cache.eviction import Budget
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Entry

CHUNK = 4_096
HELD = 1_000
"""Chunks that fit."""
Load = Sequence[int]


def loads() -> Iterator[tuple[str, Load]]:
    """Which chunk is read when, by name of the load."""
    rng = random.Random(1)
    for share in (1.1, 1.5, 3.0):
        yield f"a scan of {share:g} times the cache, 10 times", list(range(int(HELD * share))) * 10
    hot = _zipf(rng, 3_000, 40_000)
    yield "a working set of 3 times the cache, some of it often", hot
    yield "the same, and a file of twice the cache read through now and then", _mixed(hot, 2 * HELD)
    builds = [*range(HELD // 2), *range(HELD // 2)] * 8
    yield "half of the cache again and again, and backups of all of it between", _mixed(builds, 4 * HELD)
    yield (
        "working sets that change",
        [number + base * 1_500 for base in range(8) for number in _zipf(rng, 1_500, 5_000)],
    )


def _zipf(rng: random.Random, count: int, reads: int) -> list[int]:
    order = rng.sample(range(count), count)
    return rng.choices(order, [1 / (rank + 1) for rank in range(count)], k=reads)


def _mixed(hot: Load, scan: int) -> list[int]:
    """The load in four parts, and behind each one a scan of chunks that nobody reads otherwise."""
    quarter = len(hot) // 4
    found: list[int] = []
    for part in range(4):
        found += hot[part * quarter : (part + 1) * quarter]
        found += range(1_000_000 + part * scan, 1_000_000 + (part + 1) * scan)
    return found


def ours(load: Load) -> int:
    """Hits of our own cache."""
    return trio.run(_ours, load)


async def _ours(load: Load) -> int:
    plain = bytes(CHUNK)
    hits = 0
    with tempfile.TemporaryDirectory() as home:
        chunks = Chunks(open_store(Path(home)), Path(home))
        budget = Budget(1 << 40, chunks, lambda: 0, lambda _: False, floor_bytes=0)
        first = _entry(-1)
        await chunks.add(first, plain)
        weight = chunks.used_bytes
        budget.limit_bytes = weight * HELD
        for number in load:
            entry = _entry(number)
            if chunks.read(entry, 0, 1) is not None:
                hits += 1
                continue
            await budget.make_room(weight)
            with budget.reserved(weight):
                await chunks.add(entry, plain)
            # A program reads a chunk part by part.
            chunks.read(entry, 0, 1)
        chunks.close()
        chunks.store.close()
    return hits


def _entry(number: int) -> Entry:
    return Entry(ChunkId((number + 1).to_bytes(32, "big")), bytes(32), CHUNK)


def lru(load: Load) -> int:
    """Hits when the one that was not read for longest goes."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for number in load:
        if number in held:
            hits += 1
            held.move_to_end(number)
            continue
        if len(held) == HELD:
            held.popitem(last=False)
        held[number] = None
    return hits


def clock(load: Load) -> int:
    """Hits when the oldest goes that was not read since it was last looked at; others go to the end of the queue."""
    queue: deque[int] = deque()
    is_read: dict[int, bool] = {}
    hits = 0
    for number in load:
        if number in is_read:
            hits += 1
            is_read[number] = True
            continue
        while len(queue) == HELD:
            oldest = queue.popleft()
            if is_read[oldest]:
                is_read[oldest] = False
                queue.append(oldest)
            else:
                del is_read[oldest]
        queue.append(number)
        is_read[number] = False
    return hits


def best(load: Load) -> int:
    """Hits when the one goes that is read again last: no eviction can have more."""
    following: list[float] = [float("inf")] * len(load)
    seen: dict[int, int] = {}
    for at in range(len(load) - 1, -1, -1):
        following[at] = seen.get(load[at], float("inf"))
        seen[load[at]] = at
    held: dict[int, float] = {}
    hits = 0
    for at, number in enumerate(load):
        if number in held:
            hits += 1
        elif len(held) == HELD:
            last = max(held, key=held.__getitem__)
            if held[last] > following[at]:
                del held[last]
            else:
                continue
        held[number] = following[at]
    return hits


POLICIES: dict[str, Callable[[Load], int]] = {"ours": ours, "LRU": lru, "CLOCK": clock, "best possible": best}


def main() -> None:
    """Prints the table."""
    print(f"| hits, of 100 reads; {HELD:,} chunks fit | " + " | ".join(POLICIES) + " |")
    print("| --- |" + " ---: |" * len(POLICIES))
    for name, load in loads():
        found = [f"{100 * policy(load) / len(load):.1f}" for policy in POLICIES.values()]
        print(f"| {name} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
