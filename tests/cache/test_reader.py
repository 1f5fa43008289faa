"""Reader over real sealed bytes: right bytes or an error, and no more fetched than needed."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from cache import filling
from cache.chunks import Chunks, open_store, whole
from cache.cursor import AHEAD_MIN, Cursor
from cache.errors import ContentDamaged, ContentUnavailable
from cache.eviction import Budget
from cache.filling import FILL_SHARE, MISSES_MIN
from cache.pieces import Piece
from cache.reader import SILENT_SECONDS, TAIL, Reader
from remote.protocol.cutting import cut
from remote.protocol.errors import NotFound, Unreachable
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.manifests import build
from remote.protocol.messages import ChunkPart
from remote.protocol.nodes import EMPTY, Entry, Manifest
from remote.protocol.sealing import FRAME, Sealed, header_of, part_range, seal
from remote.protocol.service import Service, TakePart

SECRET = b"s" * 32
SPACE = SpaceId(1)
HOLE = Entry(ChunkId(b""), b"", 3_000_000)
pytestmark = pytest.mark.anyio


class Server:
    """Answers get_parts as a server does, counts, and does harm when told to."""

    def __init__(self) -> None:
        self.objects: dict[ChunkId, bytes] = {}
        self.requests: list[list[ChunkPart]] = []
        self.sent_bytes = 0
        self.harm: Callable[[ChunkPart, bytes], bytes] = lambda part, data: data
        self.before: Callable[[Sequence[ChunkPart]], Awaitable[None]] | None = None

    def store(self, plain: bytes) -> Sealed:
        sealed = seal(plain, SECRET)
        self.objects[sealed.id] = sealed.data
        return sealed

    def manifest(self, content: bytes, hole_at: int = -1) -> Manifest:
        """Content cut and stored, with a hole of HOLE.length zeros in front of chunk number `hole_at`."""
        entries = []
        at = 0
        for number, length in enumerate(cut(content, is_last=True)):
            if number == hole_at:
                entries.append(HOLE)
            sealed = self.store(content[at : at + length])
            entries.append(Entry(sealed.id, sealed.key, length))
            at += length
        return build(sum(entry.length for entry in entries), entries, self.store)[0]

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        assert space == SPACE
        self.requests.append(list(parts))
        await trio.lowlevel.checkpoint()
        if self.before is not None:
            await self.before(parts)
        found = []
        for part in parts:
            if part.id not in self.objects:
                raise NotFound("There is no such chunk.")
            data = self.objects[part.id]
            if part.frames:
                header = header_of(data)
                start, length = part_range(header, part.first, part.frames)
                data = header + data[start : start + length]
            found.append(self.harm(part, data))
        self.sent_bytes += sum(len(data) for data in found)
        return found

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        for part, data in zip(parts, await self.get_parts(space, parts), strict=True):
            await trio.to_thread.run_sync(take, part.id, part.first, part.frames, data)


@pytest.fixture
def server() -> Server:
    return Server()


def bytes_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 1_000_003 + size).randbytes(size)


@asynccontextmanager
async def reading(
    home: Path, server: Server, limit: int = 1 << 30, read_seconds: float = 15.0
) -> AsyncIterator[tuple[Reader, Chunks]]:
    chunks = Chunks(open_store(home), home)
    budget = Budget(limit, chunks, lambda: 0, lambda _: False, floor_bytes=0)
    reader = Reader(cast(Service, server), SPACE, chunks, budget, read_seconds=read_seconds)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(reader.run)
            yield reader, chunks
            nursery.cancel_scope.cancel()
    finally:
        chunks.close()
        chunks.store.close()


async def settled(reader: Reader) -> None:
    """Returns when nothing is on its way any more."""
    fetches = reader._fetches
    while fetches._flying or (fetches._nursery is not None and fetches._nursery.child_tasks):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("size", [0, 1, 2_048, 5_000, 131_072, 300_000, 5_000_000])
async def test_any_range_is_the_content(tmp_path: Path, server: Server, size: int) -> None:
    content = bytes_of(size)
    inline = Manifest(size, inline=content)
    stored = server.manifest(content)
    choose = random.Random(size)
    async with reading(tmp_path, server) as (reader, _):
        for manifest in [stored] if size > 2_048 else [inline, stored]:
            for _ in range(15):
                start = choose.randint(0, size)
                length = choose.randint(0, size - start + 10)
                assert await reader.read(manifest, start, length) == content[start : start + length]
            assert await reader.read(manifest, 0, size + 5) == content
            await settled(reader)
            assert reader.try_read(manifest, 0, size) == content, "by now it is in memory"


async def test_holes_are_zeros_and_cost_nothing(tmp_path: Path, server: Server) -> None:
    content = bytes_of(4_000_000)
    manifest = server.manifest(content, hole_at=1)
    first = manifest.entries[0].length
    whole_content = content[:first] + bytes(HOLE.length) + content[first:]
    async with reading(tmp_path, server) as (reader, _):
        assert reader.try_read(manifest, first + 10, 1_000_000) == bytes(1_000_000)
        assert server.requests == []
        assert (
            await reader.read(manifest, first - 10, HOLE.length + 20) == whole_content[first - 10 :][: HOLE.length + 20]
        )
        assert await reader.read(manifest, 0, manifest.size) == whole_content


async def test_tree_manifests_are_walked_and_their_leaves_kept(tmp_path: Path, server: Server) -> None:
    parts = [bytes_of(3_000 + number, number) for number in range(2_000)]
    entries = [Entry(one.id, one.key, one.length) for one in map(server.store, parts)]
    entries.insert(700, HOLE)
    manifest = build(sum(entry.length for entry in entries), entries, server.store)[0]
    assert manifest.depth == 2
    content = b"".join(parts[:700]) + bytes(HOLE.length) + b"".join(parts[700:])
    async with reading(tmp_path, server) as (reader, _):
        assert reader.try_read(manifest, 5_000_000, 100) is None
        for start in (0, 5_000_000, manifest.size - 10_000):
            assert await reader.read(manifest, start, 9_000) == content[start : start + 9_000]
        assert await reader.leaves.entries(manifest) == entries
        assert await reader.read(manifest, 0, manifest.size) == content
        count = len(server.requests)
        reader.leaves._leaves.clear()
        assert reader.try_read(manifest, 0, manifest.size) == content, "leaves are cached like chunks"
        assert len(server.requests) == count
    async with reading(tmp_path, server) as (again, _):
        assert again.try_read(manifest, 5_000_000, 100) == content[5_000_000:5_000_100]


async def test_the_leaves_of_the_next_step_ahead_come_with_this_one(tmp_path: Path, server: Server) -> None:
    parts = [bytes_of(30_000 + number, number) for number in range(600)]
    entries = [Entry(one.id, one.key, one.length) for one in map(server.store, parts)]
    manifest = build(sum(entry.length for entry in entries), entries, server.store)[0]
    assert manifest.depth == 1
    content, cursor = b"".join(parts), Cursor()
    async with reading(tmp_path, server) as (reader, chunks):
        at = 0
        while cursor.window < 4 * AHEAD_MIN:
            assert await reader.read(manifest, at, FRAME, cursor) == content[at : at + FRAME], f"wrong bytes at {at}"
            await settled(reader)
            at += FRAME
        step = cursor.window - FRAME
        found = reader.leaves.find(manifest, cursor.ahead, cursor.ahead + step)
        assert found is not None, "the next step would wait for a leaf"
        last = found[-1]
        assert isinstance(last, Piece)
        assert not chunks.held(last.entry), "its content comes when it is its turn"
        requests = len(server.requests)
        assert reader.leaves.find(manifest, 0, cursor.ahead) is not None
        assert len(server.requests) == requests


async def test_what_was_fetched_ahead_lies_in_the_cache_not_in_memory(tmp_path: Path, server: Server) -> None:
    content = bytes_of(3_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, _):
        came = await reader._fetches.fetch_ahead(manifest.entries)
        assert [fetch.entry for fetch in came] == list(manifest.entries)
        assert all(fetch.plain is None for fetch in came), "a long answer would hold all of it to its end"
        assert await reader.read(manifest, 0, manifest.size) == content, "not the content"
        assert len(server.requests) == 1


async def test_a_small_read_of_a_cold_chunk_fetches_its_frames_only(tmp_path: Path, server: Server) -> None:
    content = bytes_of(3_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, chunks):
        start = manifest.entries[0].length + 3 * FRAME + 1_000
        assert await reader.read(manifest, start, 65_536, Cursor()) == content[start : start + 65_536]
        assert server.sent_bytes < FRAME + 1_000
        await settled(reader)
        assert chunks.held(manifest.entries[1]) == 0b1000
        await settled(reader)
        assert reader.fetched_bytes == server.sent_bytes
        assert await reader.read(manifest, start, 65_536) == content[start : start + 65_536]
        assert len(server.requests) == 1
        assert (reader.counters.hits, reader.counters.misses) == (1, 1)


async def test_a_read_near_the_end_brings_the_rest_of_the_file(tmp_path: Path, server: Server) -> None:
    content = bytes_of(6_000_000)
    manifest = server.manifest(content)
    start = len(content) - TAIL
    async with reading(tmp_path, server) as (reader, _):
        cursor = Cursor()
        assert await reader.read(manifest, start, 4_096, cursor) == content[start : start + 4_096]
        requests = len(server.requests)
        assert sum(map(len, server.requests)) == requests <= 2, "one for each chunk, all at once"
        assert server.sent_bytes < TAIL + 3 * FRAME
        await settled(reader)
        for at in range(start, len(content), 131_072):
            assert reader.try_read(manifest, at, 131_072, cursor) == content[at : at + 131_072]


async def test_the_last_bytes_or_the_first_bring_one_frame(tmp_path: Path, server: Server) -> None:
    long, short = bytes_of(6_000_000), bytes_of(800_000)
    manifests = server.manifest(long), server.manifest(short)
    async with reading(tmp_path, server) as (reader, _):
        assert await reader.read(manifests[0], len(long) - 128, 128, Cursor()) == long[-128:]
        assert await reader.read(manifests[1], 0, 4_096, Cursor()) == short[:4_096]
        await settled(reader)
        assert [[part.frames for part in request] for request in server.requests] == [[1], [1]]


async def test_front_to_back_is_fetched_ahead_in_growing_steps(tmp_path: Path, server: Server) -> None:
    content = bytes_of(40_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, chunks):
        cursor = Cursor()
        at = 0
        waits = 0
        while at < len(content):
            data = reader.try_read(manifest, at, 131_072, cursor)
            if data is None:
                waits += 1
                data = await reader.read(manifest, at, 131_072, cursor)
            assert data == content[at : at + 131_072]
            at += 131_072
            await settled(reader)
        assert waits <= 6
        assert server.sent_bytes < len(content) * 1.01, "nothing came twice"
        assert max(len(request) for request in server.requests) >= 3
        frames = [part.frames for request in server.requests for part in request]
        assert frames.count(0) > len(frames) // 2, "long chunks are asked for whole"
        assert all(chunks.held(entry) == whole(entry) for entry in manifest.entries)


async def test_reading_ahead_does_not_wait_for_the_reader_nor_the_reader_for_it(tmp_path: Path, server: Server) -> None:
    content = bytes_of(12_000_000)
    manifest = server.manifest(content)
    gate = trio.Event()

    async def hold_back_ahead(parts: Sequence[ChunkPart]) -> None:
        if len(parts) > 2:  # a group fetched ahead, as no program asks for
            await gate.wait()

    server.before = hold_back_ahead
    async with reading(tmp_path, server) as (reader, _):
        cursor = Cursor()
        for at in range(0, 400_000, 100_000):
            assert await reader.read(manifest, at, 100_000, cursor) == content[at : at + 100_000]
        other = 11_000_000
        assert await reader.read(manifest, other, 1_000, Cursor()) == content[other : other + 1_000]
        gate.set()
        await settled(reader)


async def test_a_seek_calls_off_what_was_not_begun(tmp_path: Path, server: Server) -> None:
    content = bytes_of(80_000_000)
    manifest = server.manifest(content)
    gate = trio.Event()

    async def hold_back_ahead(parts: Sequence[ChunkPart]) -> None:
        if len(parts) > 2:  # a group fetched ahead, as no program asks for
            await gate.wait()

    server.before = hold_back_ahead
    async with reading(tmp_path, server) as (reader, _):
        cursor = Cursor()
        cursor.window = 64 << 20
        for at in range(0, 400_000, 100_000):
            await reader.read(manifest, at, 100_000, cursor)
        await reader.read(manifest, 70_000_000, 1_000, cursor)
        gate.set()
        await settled(reader)
        assert server.sent_bytes < 45_000_000


async def test_many_readers_of_the_same_frames_wait_for_one_fetch(tmp_path: Path, server: Server) -> None:
    content = bytes_of(1_000_000)
    manifest = server.manifest(content)
    gate = trio.Event()
    server.before = lambda parts: gate.wait()
    found = []
    async with reading(tmp_path, server) as (reader, _), trio.open_nursery() as nursery:

        async def one() -> None:
            found.append(await reader.read(manifest, 10, 50_000))

        for _ in range(20):
            nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert found == [content[10:50_010]] * 20
    assert len(server.requests) == 1


async def test_a_cancelled_reader_does_not_end_the_fetch_of_the_others(tmp_path: Path, server: Server) -> None:
    content = bytes_of(1_000_000)
    manifest = server.manifest(content)
    gate = trio.Event()
    server.before = lambda parts: gate.wait()
    found = []
    async with reading(tmp_path, server) as (reader, _):
        async with trio.open_nursery() as nursery:

            async def first(scope: trio.CancelScope) -> None:
                with scope:
                    await reader.read(manifest, 10, 50_000)

            async def second() -> None:
                found.append(await reader.read(manifest, 10, 50_000))

            scope = trio.CancelScope()
            nursery.start_soon(first, scope)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert scope.cancelled_caught
    assert found == [content[10:50_010]]
    assert len(server.requests) == 1


async def test_unreachable_content_is_an_error_not_zeros(tmp_path: Path, server: Server) -> None:
    content = bytes_of(3_000_000)
    manifest = server.manifest(content)

    async def away(parts: Sequence[ChunkPart]) -> None:
        raise Unreachable("The server cannot be reached.")

    async with reading(tmp_path, server) as (reader, _):
        assert await reader.read(manifest, 0, 1_000) == content[:1_000]
        await settled(reader)
        server.before = away
        assert await reader.read(manifest, 500, 500) == content[500:1_000], "what is held stays readable"
        with pytest.raises(ContentUnavailable, match="cannot be reached"):
            await reader.read(manifest, 0, 2_000_000)
        assert reader.try_read(manifest, 0, 2_000_000) is None
        server.before = None
        assert await reader.read(manifest, 0, 3_000_000) == content


def test_a_silent_server_is_waited_for_no_longer_than_said(tmp_path: Path, server: Server) -> None:
    manifest = server.manifest(bytes_of(1_000_000))
    clock = trio.testing.MockClock()

    async def main() -> None:
        gate = trio.Event()
        server.before = lambda parts: gate.wait()
        async with reading(tmp_path, server, read_seconds=15.0) as (reader, _), trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(ContentUnavailable, match="within 15 s"):
                    await reader.read(manifest, 0, 1_000)
                # The kernel's second request for the same read of a program.
                failed = trio.current_time()
                with pytest.raises(ContentUnavailable, match="a moment ago"):
                    await reader.read(manifest, 0, 500)
                assert trio.current_time() == failed
                # The next reads wait for a moment only: of many programs, each would wait for all before it.
                with pytest.raises(ContentUnavailable, match="within 2 s"):
                    await reader.read(manifest, 0, 1_000)
                assert trio.current_time() - failed == pytest.approx(SILENT_SECONDS, abs=0.2)
                clock.jump(15.0 - SILENT_SECONDS)
                # Then one waits like the first, for the server may be there again.
                failed = trio.current_time()
                with pytest.raises(ContentUnavailable):
                    await reader.read(manifest, 0, 1_000)
                assert trio.current_time() - failed >= 15.0

            nursery.start_soon(read)
            for seconds in (15.1, SILENT_SECONDS + 0.1, 15.1):
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(seconds)


def test_a_server_that_answers_again_is_waited_for_as_before(tmp_path: Path, server: Server) -> None:
    manifests = [server.manifest(bytes_of(1_000_000, seed=seed)) for seed in range(3)]
    clock = trio.testing.MockClock()

    async def main() -> None:
        silence, asked, slowness = trio.Event(), trio.Event(), trio.Event()
        server.before = lambda parts: silence.wait()

        async def slow(parts: object) -> None:
            asked.set()
            await slowness.wait()

        async with reading(tmp_path, server, read_seconds=15.0) as (reader, _), trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(ContentUnavailable):
                    await reader.read(manifests[0], 0, 1_000)
                silence.set()
                await reader.read(manifests[1], 0, 1_000)
                server.before = slow
                await reader.read(manifests[2], 0, 1_000)

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(15.1)
            await asked.wait()
            clock.jump(10.0)
            slowness.set()

    trio.run(main, clock=clock)


@pytest.mark.parametrize("size", [3_000, 1_000_000])
async def test_bytes_damaged_on_the_way_are_fetched_again(tmp_path: Path, server: Server, size: int) -> None:
    content = bytes_of(size)
    manifest = server.manifest(content)
    harmed: Counter[ChunkId] = Counter()

    def flip_once(part: ChunkPart, data: bytes) -> bytes:
        harmed[part.id] += 1
        return data if harmed[part.id] > 1 else data[:-1] + bytes([data[-1] ^ 1])

    server.harm = flip_once
    async with reading(tmp_path, server) as (reader, _):
        assert await reader.read(manifest, 100, 2_000) == content[100:2_100]
        await settled(reader)
        assert await reader.read(manifest, 0, size) == content


@pytest.mark.parametrize("size", [3_000, 1_000_000])
async def test_content_damaged_on_the_server_is_an_error(tmp_path: Path, server: Server, size: int) -> None:
    manifest = server.manifest(bytes_of(size))
    server.harm = lambda part, data: data[:-1] + bytes([data[-1] ^ 1])
    async with reading(tmp_path, server) as (reader, chunks):
        with pytest.raises(ContentDamaged):
            await reader.read(manifest, 0, size)
        await settled(reader)
        assert chunks.used_bytes == 0


async def test_content_that_the_server_lost_is_an_error(tmp_path: Path, server: Server) -> None:
    manifest = server.manifest(bytes_of(500_000))
    server.objects.clear()
    async with reading(tmp_path, server) as (reader, _):
        with pytest.raises(ContentDamaged, match="lost"):
            await reader.read(manifest, 0, 100)


async def test_a_frame_damaged_in_the_cache_is_fetched_again(tmp_path: Path, server: Server) -> None:
    content = bytes_of(500_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, _):
        assert await reader.read(manifest, 0, 500_000) == content
        await settled(reader)
        (path,) = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        with path.open("r+b") as file:
            file.seek(200_000)
            file.write(b"flipped")
        before = server.sent_bytes
        assert await reader.read(manifest, 0, 500_000) == content
        assert 0 < server.sent_bytes - before < FRAME + 1_000


async def test_without_room_content_is_still_read(tmp_path: Path, server: Server) -> None:
    content = bytes_of(3_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server, limit=1_000) as (reader, chunks):
        cursor = Cursor()
        for at in range(0, len(content), 100_000):
            assert await reader.read(manifest, at, 100_000, cursor) == content[at : at + 100_000]
        await settled_but_unstored(reader)
        assert chunks.used_bytes <= 1_000
        assert server.sent_bytes < 2 * len(content)


async def settled_but_unstored(reader: Reader) -> None:
    while sum(map(len, reader._fetches._flying.values())) > len(reader._fetches._unstored):
        await trio.lowlevel.checkpoint()


async def test_a_cache_smaller_than_the_file_serves_all_of_it_within_its_limit(tmp_path: Path, server: Server) -> None:
    content = bytes_of(12_000_000)
    manifest = server.manifest(content)
    limit = 3_000_000
    async with reading(tmp_path, server, limit=limit) as (reader, chunks):
        cursor = Cursor()
        for at in range(0, len(content), 131_072):
            assert await reader.read(manifest, at, 131_072, cursor) == content[at : at + 131_072]
            assert chunks.used_bytes <= limit


async def test_a_manifest_that_lies_gives_an_error_not_short_data(tmp_path: Path, server: Server) -> None:
    content = bytes_of(100_000)
    good = server.manifest(content).entries[0]
    lies = [
        Manifest(200_000, entries=(good,)),
        Manifest(200_000, inline=b"short"),
        Manifest(100_000, entries=(Entry(good.id, good.key, 1 << 60),)),
        Manifest(100_000, entries=(Entry(good.id, good.key, 99_999), Entry(good.id, good.key, 1))),
        Manifest(100_000, depth=1, entries=(good,)),
    ]
    async with reading(tmp_path, server) as (reader, _):
        for manifest in lies:
            with pytest.raises(ContentDamaged):
                await reader.read(manifest, 0, manifest.size)


@pytest.mark.logs_errors("Fetching 1 parts failed")
async def test_a_fault_in_fetching_fails_the_read_and_nothing_else(tmp_path: Path, server: Server) -> None:
    content = bytes_of(500_000)
    manifest = server.manifest(content)

    async def fault(parts: Sequence[ChunkPart]) -> None:
        raise ZeroDivisionError

    async with reading(tmp_path, server) as (reader, _):
        server.before = fault
        with pytest.raises(ContentUnavailable, match="ZeroDivisionError"):
            await reader.read(manifest, 0, 100)
        server.before = None
        assert await reader.read(manifest, 0, 100) == content[:100]


async def test_siblings_come_in_one_request(tmp_path: Path, server: Server) -> None:
    contents = [bytes_of(5_000 + number, number) for number in range(100)]
    manifests = [server.manifest(content) for content in contents]
    large = server.manifest(bytes_of(1_000_000))
    async with reading(tmp_path, server) as (reader, _):
        reader.prefetch(entry for manifest in [large, *manifests] for entry in manifest.entries)
        await settled(reader)
        assert len(server.requests) == 1
        for manifest, content in zip(manifests, contents, strict=True):
            assert reader.try_read(manifest, 0, len(content)) == content


async def test_who_waits_for_a_chunk_that_is_fetched_ahead_for_two_places_gets_it(
    tmp_path: Path, server: Server
) -> None:
    content = bytes_of(5_000)
    manifest = server.manifest(content)
    gate = trio.Event()
    server.before = lambda parts: gate.wait()
    async with reading(tmp_path, server) as (reader, _), trio.open_nursery() as nursery:
        reader.prefetch([*manifest.entries, *manifest.entries])
        await trio.testing.wait_all_tasks_blocked()

        async def read() -> None:
            assert await reader.read(manifest, 0, 10_000) == content

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert [len(parts) for parts in server.requests] == [1]


async def test_one_lost_sibling_does_not_keep_the_others_away(tmp_path: Path, server: Server) -> None:
    contents = [bytes_of(5_000 + number, number) for number in range(10)]
    manifests = [server.manifest(content) for content in contents]
    del server.objects[manifests[3].entries[0].id]
    gate = trio.Event()
    server.before = lambda parts: gate.wait()
    async with reading(tmp_path, server) as (reader, _):
        reader.prefetch(entry for manifest in manifests for entry in manifest.entries)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def read_good() -> None:
                assert await reader.read(manifests[7], 0, 10_000) == contents[7]

            nursery.start_soon(read_good)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        with pytest.raises(ContentDamaged):
            await reader.read(manifests[3], 0, 10)


async def test_when_it_has_ended_held_content_is_still_read(tmp_path: Path, server: Server) -> None:
    content = bytes_of(3_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, chunks):
        assert await reader.read(manifest, 0, 1_000) == content[:1_000]
        await settled(reader)
        ended = Reader(cast(Service, server), SPACE, chunks, Budget(1 << 30, chunks, lambda: 0, lambda _: False))
        assert await ended.read(manifest, 0, 1_000) == content[:1_000]
        with pytest.raises(ContentUnavailable, match="stopping"):
            await ended.read(manifest, 2_000_000, 1_000)
        assert await ended.read(EMPTY, 0, 10) == b""


def far_apart(content: bytes) -> list[int]:
    """Where each frame begins, in an order that looks like no reading from front to back."""
    count = len(content) // FRAME
    assert count % 41
    return [number * 41 % count * FRAME for number in range(count)]


async def filled(chunks: Chunks, manifest: Manifest) -> None:
    with trio.fail_after(60):
        while any(chunks.held(entry) != whole(entry) for entry in manifest.entries):
            await trio.lowlevel.checkpoint()


async def test_a_file_that_is_read_here_and_there_is_soon_fetched_whole(tmp_path: Path, server: Server) -> None:
    content = bytes_of(12_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, chunks):
        cursor = Cursor()
        for at in far_apart(content)[:MISSES_MIN]:
            assert not cursor.misses.is_filling
            assert await reader.read(manifest, at + 1_000, 4_096, cursor) == content[at + 1_000 : at + 5_096]
        await filled(chunks, manifest)
        await settled(reader)
        assert len(server.requests) < MISSES_MIN + 8
        assert server.sent_bytes < len(content) * 1.01, "nothing came twice"
        assert reader.try_read(manifest, 0, len(content)) == content


async def test_reads_while_a_file_is_filled_give_the_right_bytes(tmp_path: Path, server: Server) -> None:
    content = bytes_of(12_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server) as (reader, chunks):
        cursor = Cursor()
        for at in far_apart(content):
            assert await reader.read(manifest, at + 1_000, 4_096, cursor) == content[at + 1_000 : at + 5_096]
        await filled(chunks, manifest)
        await settled(reader)
        assert not cursor.misses.is_filling
        assert reader.try_read(manifest, 0, len(content)) == content


async def test_filling_ends_when_the_program_reads_no_more(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes_of(40_000_000)
    manifest = server.manifest(content)
    places = far_apart(content)
    async with reading(tmp_path, server) as (reader, chunks):
        cursor = Cursor()
        for at in places[: MISSES_MIN - 1]:
            await reader.read(manifest, at, 4_096, cursor)
        await settled(reader)
        monkeypatch.setattr(filling, "PAUSE_SECONDS", 0.0)
        cursor.misses.count = MISSES_MIN
        await reader.read(manifest, places[MISSES_MIN], 4_096, cursor)
        while cursor.misses.is_filling:
            await trio.lowlevel.checkpoint()
        await settled(reader)
        assert server.sent_bytes < 10_000_000
        assert any(not chunks.held(entry) for entry in manifest.entries)


async def test_a_file_that_is_too_large_for_the_cache_is_read_by_frames(tmp_path: Path, server: Server) -> None:
    content = bytes_of(12_000_000)
    manifest = server.manifest(content)
    async with reading(tmp_path, server, limit=FILL_SHARE * len(content) - 1) as (reader, _):
        cursor = Cursor()
        for at in far_apart(content)[: 2 * MISSES_MIN]:
            await reader.read(manifest, at + 1_000, 4_096, cursor)
        assert not cursor.misses.is_filling
        await settled(reader)
        assert server.sent_bytes < len(content) / 2
