"""Eviction: the limit holds at every moment, what is needed stays, and writers wait for uploads."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from cache import eviction
from cache.chunks import Chunks, open_store, whole
from cache.errors import DiskFull
from cache.eviction import Budget
from cache.order import Order
from cache.places import room_for
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Entry

PIECE = 200_000


def make(number: int, size: int = PIECE) -> tuple[Entry, bytes]:
    plain = random.Random(number).randbytes(size)
    digest = xxhash.xxh3_128_digest(plain)
    return Entry(ChunkId(digest + digest), b"k" * 32, size), plain


class World:
    """Chunks under a budget, with a dial for dirty bytes and a set of pins."""

    def __init__(self, home: Path, limit: int) -> None:
        self.chunks = Chunks(open_store(home), home)
        self.dirty = 0
        self.pins: set[ChunkId] = set()
        self.budget = Budget(limit, self.chunks, lambda: self.dirty, self.pins.__contains__, floor_bytes=0)

    async def add(self, number: int, size: int = PIECE) -> Entry:
        entry, plain = make(number, size)
        need = room_for(size)
        await self.budget.make_room(need)
        with self.budget.reserved(need):
            await self.chunks.add(entry, plain)
        assert self.chunks.used_bytes + self.dirty <= self.budget.limit_bytes
        return entry

    def held(self, number: int, size: int = PIECE) -> bool:
        entry = make(number, size)[0]
        return self.chunks.held(entry) == whole(entry)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path, 1_500_000)
    yield found
    found.chunks.close()
    found.chunks.store.close()


def test_what_is_read_through_once_displaces_nothing_that_was_read_again(world: World) -> None:
    async def main() -> None:
        for number in range(7):
            await world.add(number)
        assert all(world.held(number) for number in range(7))
        world.chunks.read(make(0)[0], 0, 10)
        await world.add(7)
        assert world.held(0)
        assert not world.held(1)
        for number in range(8, 40):
            await world.add(number)
        assert world.held(0)
        assert world.held(39)
        # What is fetched again and again is wanted more.
        for number in [*range(40, 50)] * 4:
            if not world.held(number):
                await world.add(number)
        assert not world.held(0), "spared once, not for ever"

    trio.run(main)


def test_what_is_pinned_or_being_used_stays(world: World) -> None:
    async def main() -> None:
        for number in range(6):
            await world.add(number)
        world.pins.add(make(0)[0].id)
        with world.chunks.holding([make(1)[0].id]):
            for number in range(6, 20):
                await world.add(number)
            assert world.held(0)
            assert world.held(1)
        await world.budget.make_room(1_200_000)
        assert world.held(0)
        assert not world.held(1)

    trio.run(main)


def test_when_all_is_pinned_or_dirty_it_says_so_and_drops_nothing(world: World) -> None:
    async def main() -> None:
        for number in range(3):
            world.pins.add((await world.add(number)).id)
        world.dirty = 800_000
        with pytest.raises(DiskFull, match="pinned, in use or not yet uploaded"):
            await world.budget.make_room(PIECE)
        assert all(world.held(number) for number in range(3))
        with pytest.raises(DiskFull, match="more than the whole cache"):
            await world.budget.make_room(2_000_000)
        world.dirty = 0
        await world.budget.make_room(PIECE)

    trio.run(main)


def test_dirty_bytes_count_and_push_clean_ones_out(world: World) -> None:
    async def main() -> None:
        for number in range(7):
            await world.add(number)
        assert not world.budget.has_room(100_000)
        world.dirty = 0
        await world.budget.make_room(1_000_000)
        assert world.budget.has_room(1_000_000)
        world.dirty = 1_000_000
        await world.add(99)
        assert world.budget.used_bytes <= 1_500_000

    trio.run(main)


def test_promised_room_is_not_promised_twice(world: World) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(world.add, number)
        assert world.chunks.used_bytes <= 1_500_000
        assert world.chunks.used_bytes > 1_000_000

    trio.run(main)


def test_a_writer_waits_until_an_upload_makes_room(world: World) -> None:
    world.dirty = 1_490_000
    order = []

    async def write() -> None:
        await world.budget.wait_for_room(100_000, 60)
        order.append("written")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            world.dirty = 500_000
            order.append("uploaded")
            world.budget.notice()

    trio.run(main)
    assert order == ["uploaded", "written"]


def test_a_writer_waits_no_longer_than_said(world: World) -> None:
    world.dirty = 1_490_000
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        begun = trio.current_time()
        with pytest.raises(DiskFull):
            await world.budget.wait_for_room(100_000, 60)
        assert 60 <= trio.current_time() - begun <= 61
        with pytest.raises(DiskFull):
            await world.budget.wait_for_room(2_000_000, 60)
        assert trio.current_time() - begun <= 61, "what never fits is not waited for"

    trio.run(main, clock=clock)


def test_a_full_disk_pushes_clean_chunks_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1_000_000

    async def main() -> None:
        nonlocal free
        for number in range(4):
            await world.add(number)
        before = world.chunks.used_bytes
        monkeypatch.setattr(eviction, "_disk", lambda _: (10_000_000, free + before - world.chunks.used_bytes))
        budget = Budget(1_500_000, world.chunks, lambda: 0, lambda _: False, floor_bytes=900_000)
        assert budget.has_room(100_000)
        assert not budget.has_room(300_000)
        await budget.make_room(300_000)
        assert budget.has_room(300_000)
        assert not world.held(0)
        assert world.held(3)
        free = 0
        with pytest.raises(DiskFull, match="disk is nearly full"):
            await budget.make_room(100_000)

    trio.run(main)


def test_a_large_cache_is_not_searched_in_vain_again_and_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = trio.testing.MockClock()
    looks = 0
    real = Order.after

    def slow(self: Order, position: int, limit: int) -> list[tuple[int, ChunkId]]:
        nonlocal looks
        looks += 1
        clock.jump(0.1)
        return real(self, position, limit)

    async def main() -> None:
        for number in range(3):
            world.pins.add((await world.add(number)).id)
        world.dirty = 800_000
        monkeypatch.setattr(Order, "after", slow)
        for _ in range(10):
            with pytest.raises(DiskFull):
                await world.budget.make_room(PIECE)
        assert looks == 4
        world.pins.clear()
        world.budget.notice()
        await world.budget.make_room(PIECE)

    trio.run(main, clock=clock)


def test_the_limit_holds_over_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, 1_500_000)

    async def fill(first: int) -> None:
        for number in range(first, first + 10):
            await world.add(number)
            await world.add(1_000 + number, 5_000)

    trio.run(fill, 0)
    world.chunks.close()
    world.chunks.store.close()
    world = World(tmp_path, 1_500_000)
    assert world.chunks.used_bytes > 1_000_000
    trio.run(fill, 10)
    on_disk = sum(path.stat().st_blocks * 512 for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    assert on_disk <= world.chunks.used_bytes <= 1_500_000
    world.chunks.close()
    world.chunks.store.close()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "adopt", "read", "pin", "unpin", "dirty"]), st.integers(0, 25), st.integers(1, 90)
        ),
        max_size=40,
    )
)
def test_used_never_passes_the_limit_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    home = tmp_path_factory.mktemp("eviction")
    world = World(home, 1_200_000)

    async def main() -> None:
        for step, number, grain in steps:
            size = grain * 7_001
            try:
                if step == "add":
                    await world.add(number * 100 + grain, size)
                elif step == "adopt":
                    entry, plain = make(number * 100 + grain, size)
                    staging = home / "staging"
                    await world.budget.make_room(room_for(size))
                    staging.write_bytes(plain)
                    await world.chunks.adopt(staging, [(entry, 0)])
                elif step == "dirty":
                    world.dirty = 0
                    if world.budget.has_room(number * 30_000):
                        world.dirty = number * 30_000
            except DiskFull:
                continue
            rows = world.chunks.order.after(0, 100)
            if rows and step in {"read", "pin"}:
                chosen = rows[number % len(rows)][1]
                world.pins.add(chosen) if step == "pin" else world.chunks.read(Entry(chosen, b"", 1), 0, 1)
            elif step == "unpin":
                world.pins.clear()
                world.budget.notice()
            assert world.chunks.used_bytes + world.dirty <= 1_200_000
        on_disk = sum(path.stat().st_blocks * 512 for path in (home / "blobs").rglob("*") if path.is_file())
        small = sum(
            world.chunks.weight(chunk_id) for _, chunk_id in world.chunks.order.after(0, 1_000) if is_small(chunk_id)
        )
        assert world.chunks.used_bytes == on_disk + small

    def is_small(chunk_id: ChunkId) -> bool:
        return world.chunks.store.has(1, chunk_id)

    try:
        trio.run(main)
    finally:
        world.chunks.close()
        world.chunks.store.close()


def test_spare_chunks_go_first_and_never_take_more_than_their_share(world: World) -> None:
    async def main() -> None:
        for number in range(5):
            await world.add(number)
        spare = [(await world.add(number, 30_000)).id for number in range(10, 12)]
        await world.chunks.note_spare(spare)
        assert world.held(10, 30_000), "within their share, they stay"
        assert world.held(11, 30_000)
        pinned = (await world.add(12, 30_000)).id
        world.pins.add(pinned)
        await world.chunks.note_spare([pinned, (await world.add(13, 30_000)).id])
        # 75,000 bytes are their share: the oldest went.
        assert not world.held(10, 30_000)
        await world.add(5)
        await world.add(6)
        await world.add(14, 40_000)
        assert [world.held(number, 30_000) for number in (11, 12, 13)] == [False, True, False]
        assert all(world.held(number) for number in range(7)), "no other had to go for them"

    trio.run(main)
