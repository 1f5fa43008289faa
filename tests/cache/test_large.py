"""Large stagings: what the server gets reads back as what was written, and little of it is sent for a small edit."""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.blobs import sums_of
from cache.chunks import Chunks, open_store
from cache.errors import ContentDamaged
from cache.eviction import Budget
from cache.prepared import Prepared
from cache.reader import Reader
from cache.staging import Staging, Stagings
from cache.store import Store
from cache.upload import SMALL_FILE_MAX, Upload
from remote.protocol import deltas
from remote.protocol.cutting import SIZES
from remote.protocol.errors import NotFound
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.manifests import check
from remote.protocol.messages import ChunkPart
from remote.protocol.nodes import EMPTY, Manifest
from remote.protocol.sealing import header_of, part_range
from remote.protocol.service import Service, TakePart

SECRET = b"s" * 32
SPACE = SpaceId(1)
pytestmark = pytest.mark.anyio


class Server:
    """Holds chunks as a server does, and counts."""

    def __init__(self) -> None:
        self.objects: dict[ChunkId, bytes] = {}
        self.sent_bytes = 0
        self.got_bytes = 0
        self.on_send: Callable[[], None] = lambda: None

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        await trio.lowlevel.checkpoint()
        return {chunk for chunk in chunks if chunk not in self.objects}

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        await trio.lowlevel.checkpoint()
        self.on_send()
        new = {chunk: data for chunk, data in chunks.items() if chunk not in self.objects}
        self.objects.update(new)
        sent = sum(map(len, new.values()))
        self.sent_bytes += sent
        return sent

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        found = []
        for part in parts:
            if part.id not in self.objects:
                raise NotFound("There is no such chunk.")
            data = self.objects[part.id]
            if part.frames:
                header = header_of(data)
                start, length = part_range(header, part.first, part.frames)
                data = header + data[start : start + length]
            found.append(data)
        self.got_bytes += sum(map(len, found))
        return found

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        for part, data in zip(parts, await self.get_parts(space, parts), strict=True):
            await trio.to_thread.run_sync(take, part.id, part.first, part.frames, data)


class Device:
    """Everything between a staging and the server."""

    def __init__(self, home: Path, server: Server) -> None:
        home.mkdir(exist_ok=True)
        self.chunks = Chunks(open_store(home), home)
        budget = Budget(1 << 30, self.chunks, lambda: 0, lambda _: False, floor_bytes=0)
        self.reader = Reader(cast(Service, server), SPACE, self.chunks, budget)
        self.store = Store(home / "tree.mdb", ["staged", "staged_bytes"], has_journal=True)
        self.stagings = Stagings(self.store, home / "staging", 0, 1)
        self.upload = Upload(cast(Service, server), SPACE, SECRET, self.reader, self.chunks)

    async def replaced(self, old: Manifest, content: bytes) -> Manifest:
        """The manifest of new content that is put in the place of `old`, as a save by rename does."""
        staging = self.stagings.create(EMPTY)
        staging.write(0, content)
        return (await self.prepared(staging, old)).manifest

    async def saved(self, base: Manifest, edits: Sequence["Edit"]) -> Manifest:
        """The manifest after these edits of what `base` says."""
        staging = self.stagings.create(base)
        for edit in edits:
            edit.on(staging)
        return (await self.prepared(staging)).manifest

    async def prepared(self, staging: Staging, replaced: Manifest | None = None) -> Prepared:
        is_small = staging.size <= SMALL_FILE_MAX
        prepared = (
            (await self.upload.small([staging]))[0]
            if is_small
            else await self.upload.large(staging, replaced=lambda: replaced)
        )
        check(prepared.manifest)
        for chunk, plain in prepared.small:
            self.chunks.add_small(chunk, plain)
        return prepared

    async def sent_ahead(self, staging: Staging, most: int) -> None:
        """Has the front of what is being written sent, and lets go of it here, as `cache.ahead` does."""
        front = await self.upload.front(staging, most)
        if front is None:
            return
        check(front.manifest)
        for chunk, plain in front.small:
            self.chunks.add_small(chunk, plain)
        staging.rebase_front(front.manifest, front.stop)
        if staging.is_counted_on:
            with self.store.change() as change:
                staging.keep(change)
            self.store.sync()
        staging.free(front.last)

    async def whole(self, staging: Staging) -> bytes:
        """What a program reads of the staging."""
        return b"".join(
            [
                staging.read_dirty(stretch.offset, stretch.length)
                if stretch.is_dirty
                else bytes(await self.reader.read(staging.base, stretch.offset, stretch.length))
                for stretch in staging.plan_read(0, staging.size)
            ]
        )


class Edit:
    """Bytes written at an offset, or (without bytes) a truncate to it."""

    def __init__(self, offset: int, data: bytes | None) -> None:
        self.offset = offset
        self.data = data

    def __repr__(self) -> str:
        return f"Edit({self.offset}, {'truncate' if self.data is None else len(self.data)})"

    def on(self, staging: Staging) -> None:
        if self.data is None:
            staging.truncate(self.offset)
        else:
            staging.write(self.offset, self.data)

    def of(self, content: bytes) -> bytes:
        if self.data is None:
            return content[: self.offset] + bytes(max(0, self.offset - len(content)))
        content += bytes(max(0, self.offset - len(content)))
        return content[: self.offset] + self.data + content[self.offset + len(self.data) :]


@asynccontextmanager
async def device(home: Path, server: Server) -> AsyncIterator[Device]:
    made = Device(home, server)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(made.reader.run)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        made.chunks.close()
        made.chunks.store.close()
        made.stagings.close()
        made.store.close()


def bytes_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 1_000_003 + size).randbytes(size)


async def read_elsewhere(home: Path, server: Server, manifest: Manifest) -> bytes:
    """The content as a device reads it that has nothing of it."""
    async with device(home, server) as other:
        return bytes(await other.reader.read(manifest, 0, manifest.size))


BIG = 3_000_000
sizes = st.one_of(st.integers(1, 5_000), st.integers(1, 200_000), st.integers(1, 2_000_000))
edits = st.builds(
    lambda offset, size, seed, is_cut: Edit(offset, None if is_cut else bytes_of(size, seed)),
    st.integers(0, BIG + 500_000),
    sizes,
    st.integers(1, 1_000),
    st.integers(0, 5).map(lambda one: one == 0),
)


async def test_what_was_sent_is_kept_without_another_look_at_it(tmp_path: Path) -> None:
    content, server = bytes_of(9_000_000), Server()
    async with device(tmp_path / "desk", server) as desk:
        staging = desk.stagings.create(EMPTY)
        staging.write(0, content)
        prepared = await desk.prepared(staging)
        for entry, offset, sums in prepared.pieces:
            assert sums is not None
            assert list(sums) == sums_of(content[offset : offset + entry.length])
        assert sum(entry.length for entry, _, _ in prepared.pieces) == len(content)
        assert staging.path is not None
        pieces = [(piece.entry, piece.offset) for piece in prepared.pieces]
        await desk.chunks.adopt(staging.path, pieces, [piece.sums for piece in prepared.pieces])
        assert bytes(await desk.reader.read(prepared.manifest, 0, len(content))) == content
        assert server.got_bytes == 0


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(edits, min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_edits_read_back_on_another_device(saves: list[list[Edit]]) -> None:
    async def play() -> None:
        server = Server()
        content = bytes_of(BIG)
        with TemporaryDirectory() as folder:
            home = Path(folder)
            async with device(home / "desk", server) as desk:
                manifest = await desk.saved(EMPTY, [Edit(0, content)])
                for number, save in enumerate(saves):
                    for edit in save:
                        content = edit.of(content)
                    manifest = await desk.saved(manifest, save)
                    assert await read_elsewhere(home / f"other{number}", server, manifest) == content
                    assert bytes(await desk.reader.read(manifest, 0, manifest.size)) == content
                    # A copy, of which much is known as deltas.
                    copy = await desk.saved(EMPTY, [Edit(0, content)])
                    assert await read_elsewhere(home / f"copy{number}", server, copy) == content

    trio.run(play)


async def test_a_copy_of_what_was_edited_sends_no_content(tmp_path: Path) -> None:
    server, content = Server(), bytes_of(BIG)
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, content)])
        await desk.reader.read(manifest, 0, manifest.size)
        for offset in (BIG // 2, BIG // 2 + 50_000, 1_000):
            more = bytes_of(4_096, offset)
            content = content[:offset] + more + content[offset + len(more) :]
            manifest = await desk.saved(manifest, [Edit(offset, more)])
            server.sent_bytes = 0
            copy = await desk.saved(EMPTY, [Edit(0, content)])
            assert any(entry.base for entry in copy.entries)
            assert server.sent_bytes < 1_000
            assert await read_elsewhere(tmp_path / f"other{offset}", server, copy) == content
        # What the server has lost goes there as chunks of their own.
        for lost in [entry.base.id for entry in copy.entries if entry.base] + [copy.entries[0].id]:
            del server.objects[lost]
        copy = await desk.saved(EMPTY, [Edit(0, content)])
        assert await read_elsewhere(tmp_path / "last", server, copy) == content


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(edits, min_size=1, max_size=3), min_size=1, max_size=4))
def test_an_upload_overtaken_by_edits_goes_on_from_what_it_had(saves: list[list[Edit]]) -> None:
    async def play() -> None:
        server = Server()
        content = bytes_of(BIG)
        with TemporaryDirectory() as folder:
            home = Path(folder)
            async with device(home / "desk", server) as desk:
                staging = desk.stagings.create(await desk.saved(EMPTY, [Edit(0, content)]))
                for save in saves:
                    for edit in save:
                        content = edit.of(content)
                        edit.on(staging)
                    manifest = (await desk.prepared(staging)).manifest
                assert await read_elsewhere(home / "other", server, manifest) == content

    trio.run(play)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(edits, max_size=3), st.lists(edits, max_size=2), st.integers(1, 5_000_000), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_what_is_sent_ahead_while_it_is_written_reads_back(
    rounds: list[tuple[list[Edit], list[Edit], int, bool]], is_new: bool
) -> None:
    """Each round: edits, edits while their front is sent, how much is sent, and whether it was flushed before."""

    async def play() -> None:
        server = Server()
        content = b"" if is_new else bytes_of(BIG)
        with TemporaryDirectory() as folder:
            home = Path(folder)
            async with device(home / "desk", server) as desk:
                staging = desk.stagings.create(await desk.saved(EMPTY, [Edit(0, content)]))

                def edit_with(one: Edit) -> None:
                    nonlocal content
                    content = one.of(content)
                    one.on(staging)

                for before, meanwhile, most, is_flushed in rounds:
                    for edit in before:
                        edit_with(edit)
                    if is_flushed:
                        with desk.store.change() as change:
                            staging.flush(change)
                    left = list(meanwhile)
                    server.on_send = lambda left=left: edit_with(left.pop()) if left else None  # type: ignore[misc]
                    await desk.sent_ahead(staging, most)
                    server.on_send = lambda: None
                    assert await desk.whole(staging) == content
                manifest = (await desk.prepared(staging)).manifest
                with desk.store.change() as change:
                    staging.flush(change)
                again = Stagings(desk.store, home / "desk" / "staging", 0, 1).load(staging.id)
                assert await desk.whole(again) == content, "as after a kill"
                again._close()
                assert await read_elsewhere(home / "other", server, manifest) == content

    trio.run(play)


async def test_what_is_sent_ahead_leaves_the_disk_and_is_sent_once(tmp_path: Path) -> None:
    server, content = Server(), bytes_of(40_000_000)
    async with device(tmp_path / "desk", server) as desk:
        staging = desk.stagings.create(EMPTY)
        for offset in range(0, len(content), 4_000_000):
            staging.write(offset, content[offset : offset + 4_000_000])
            await desk.sent_ahead(staging, 4_000_000)
            assert staging.dirty_bytes <= 4_000_000 + 2 * SIZES.most
        manifest = (await desk.prepared(staging)).manifest
        assert server.sent_bytes < len(content) + 12 * SIZES.most
        assert server.got_bytes < 12 * 10_000, "leaves at the most"
    assert await read_elsewhere(tmp_path / "other", server, manifest) == content


async def test_what_was_sent_ahead_is_asked_for_to_the_last_chunk(tmp_path: Path) -> None:
    server, content = Server(), bytes_of(70 << 20)
    async with device(tmp_path / "desk", server) as desk:
        staging = desk.stagings.create(EMPTY)
        staging.write(0, content)
        await desk.sent_ahead(staging, len(content))
        (staging_id,) = desk.stagings.all_ids()
        base = desk.stagings.base_of(staging_id)
        assert base is not None
        assert base.depth == 1
        assert await desk.upload.renew(base) == set()
        lost = max(server.objects, key=lambda one: len(server.objects[one]))
        del server.objects[lost]
        assert await desk.upload.renew(base) == {lost}


async def test_the_front_of_a_long_file_is_sent_ahead_and_its_rest_stays_as_it_is(tmp_path: Path) -> None:
    server, content = Server(), bytes_of(100 << 20)
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, content)])
    assert manifest.depth == 1
    async with device(tmp_path / "laptop", server) as laptop:
        server.sent_bytes = 0
        staging = laptop.stagings.create(manifest)
        for number in range(3):
            edit = Edit(number * 8_000_000, bytes_of(8_000_000, number + 1))
            content = edit.of(content)
            edit.on(staging)
            await laptop.sent_ahead(staging, 4_000_000)
            assert staging.base.size == len(content)
        assert await laptop.whole(staging) == content
        manifest = (await laptop.prepared(staging)).manifest
        assert server.sent_bytes < 24_000_000 + 10 * SIZES.most
    assert await read_elsewhere(tmp_path / "other", server, manifest) == content


async def test_4_kib_in_a_cold_file_costs_its_bytes_and_fetches_a_leaf(tmp_path: Path) -> None:
    server = Server()
    content = bytes_of(100 << 20)
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, content)])
    assert manifest.depth == 1
    async with device(tmp_path / "laptop", server) as laptop:
        for offset in (0, 50_000_000, (100 << 20) - 4_096):
            server.sent_bytes = server.got_bytes = 0
            edit = Edit(offset, bytes_of(4_096, offset))
            manifest, content = await laptop.saved(manifest, [edit]), edit.of(content)
            assert server.sent_bytes < 11_000
            assert server.got_bytes < 6_000, "a leaf, no content"
    assert await read_elsewhere(tmp_path / "other", server, manifest) == content


async def test_what_grows_at_its_end_sends_what_is_new(tmp_path: Path) -> None:
    server = Server()
    content = bytes_of(3_000_000)
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, content)])
    async with device(tmp_path / "laptop", server) as laptop:
        for number in range(20):
            server.sent_bytes = server.got_bytes = 0
            edit = Edit(len(content), bytes_of(300, number + 1))
            manifest, content = await laptop.saved(manifest, [edit]), edit.of(content)
            assert server.sent_bytes < 300 * (number + 2)
            assert server.got_bytes == 0
    assert await read_elsewhere(tmp_path / "other", server, manifest) == content


@pytest.mark.parametrize("is_renamed", [False, True], ids=["in its place", "by rename"])
async def test_a_save_that_writes_all_anew_sends_what_differs(tmp_path: Path, *, is_renamed: bool) -> None:
    server = Server()
    content = bytes_of(72 << 20)
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, content)])
    assert manifest.depth == 1
    async with device(tmp_path / "laptop", server) as laptop:
        await laptop.reader.read(manifest, 0, manifest.size)
        # Longer, shorter, over what is a delta by then, and at the front.
        for offset, gone, more in ((50_000_000, 300, 500), (70_000_000, 500, 0), (50_000_100, 40, 40), (0, 0, 1)):
            content = content[:offset] + bytes_of(more, offset) + content[offset + gone :]
            server.sent_bytes = 0
            if is_renamed:
                manifest = await laptop.replaced(manifest, content)
            else:
                manifest = await laptop.saved(manifest, [Edit(0, None), Edit(0, content)])
            assert server.sent_bytes < 16_000
    assert await read_elsewhere(tmp_path / "other", server, manifest) == content


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(edits, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_saves_by_rename_read_back_on_another_device(saves: list[list[Edit]]) -> None:
    async def play() -> None:
        server = Server()
        content = bytes_of(BIG)
        with TemporaryDirectory() as folder:
            home = Path(folder)
            async with device(home / "desk", server) as desk:
                manifest = await desk.saved(EMPTY, [Edit(0, content)])
                for save in saves:
                    for edit in save:
                        content = edit.of(content)
                    # Some bytes come in, so that all behind them moves.
                    content = content[: len(content) // 3] + b"more" + content[len(content) // 3 :]
                    manifest = await desk.replaced(manifest, content)
                    assert bytes(await desk.reader.read(manifest, 0, manifest.size)) == content
                assert await read_elsewhere(home / "other", server, manifest) == content

    trio.run(play)


async def test_a_chunk_changed_again_and_again_is_written_whole_at_last(tmp_path: Path) -> None:
    server = Server()
    content = bytes_of(3_000_000)
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, content)])
        first = manifest.entries[0]
        kinds = []
        for number in range(40):
            edit = Edit(number * 8_192, bytes_of(4_096, number + 1))
            manifest, content = await desk.saved(manifest, [edit]), edit.of(content)
            base = manifest.entries[0].base
            kinds.append(base is not None)
            assert base is None or base.id == first.id or len(kinds) > deltas.LITERAL_MAX // 4_096
        assert kinds.count(False) == 40 // (deltas.LITERAL_MAX // 4_096 + 1), (
            "a delta holds so much, then comes a chunk"
        )
    assert max(len(data) for data in server.objects.values()) < SIZES.most + 1_000
    assert await read_elsewhere(tmp_path / "other", server, manifest) == content


async def test_a_base_that_the_server_lost_is_an_error(tmp_path: Path) -> None:
    server = Server()
    async with device(tmp_path / "desk", server) as desk:
        manifest = await desk.saved(EMPTY, [Edit(0, bytes_of(3_000_000))])
        manifest = await desk.saved(manifest, [Edit(5_000, b"new")])
    base = manifest.entries[0].base
    assert base is not None
    async with device(tmp_path / "laptop", server) as laptop:
        assert await laptop.reader.read(manifest, 5_000, 3) == b"new", "its own bytes need no base"
        del server.objects[base.id]
        with pytest.raises(ContentDamaged, match="lost"):
            await laptop.reader.read(manifest, 4_999, 3)
