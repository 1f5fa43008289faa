"""Chunks: what is given out is what was put in, whatever happens to the directory below."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import xxhash

from cache import blobs, chunks
from cache.blobs import BlobId
from cache.chunks import Chunks, open_store, whole
from cache.errors import DiskFull
from cache.plain import Known
from remote.protocol.ids import ChunkId, PlainHash
from remote.protocol.nodes import Base, Entry
from remote.protocol.sealing import FRAME
from tests.cache.kills import abandon

SIZES = [1, 4_096, chunks.SMALL_MAX, chunks.SMALL_MAX + 1, FRAME, FRAME + 1, 1_000_000, 32 * FRAME]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 100_003 + size).randbytes(size)


def entry_of(plain: bytes) -> Entry:
    number = xxhash.xxh3_128_digest(plain)
    return Entry(ChunkId(number + number), b"k" * 32, len(plain))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def held(home: Path) -> Iterator[Chunks]:
    found = Chunks(open_store(home), home)
    yield found
    found.close()
    found.store.close()


def kill(found: Chunks) -> None:
    """What kill -9 leaves: everything since the last checkpoint is forgotten."""
    found.close()
    abandon(found.store)


def files(home: Path) -> list[Path]:
    return [path for path in (home / "blobs").rglob("*") if path.is_file()] if (home / "blobs").exists() else []


def on_disk(home: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in files(home))


def read(found: Chunks, entry: Entry, start: int, stop: int) -> bytes | None:
    """Both ways of reading, which must agree when both answer."""
    fast = found.read(entry, start, stop)
    slow = trio.run(found.read_slow, entry, start, stop)
    if fast is not None:
        assert slow is not None
        assert bytes(fast) == bytes(slow)
    return bytes(slow) if slow is not None else None


@pytest.mark.parametrize("size", SIZES)
def test_what_was_added_is_read_back_at_any_range(home: Path, size: int) -> None:
    found = Chunks(open_store(home), home)
    plain = content(size)
    entry = entry_of(plain)
    assert found.held(entry) == 0
    assert read(found, entry, 0, size) is None
    trio.run(found.add, entry, plain)
    assert found.held(entry) == whole(entry)
    choose = random.Random(size)
    for _ in range(20):
        start = choose.randrange(size)
        stop = choose.randint(start + 1, size)
        assert read(found, entry, start, stop) == plain[start:stop]
    fast = found.read(entry, 0, size)
    assert fast is not None
    assert bytes(fast) == plain, "fresh bytes are in the page cache"
    found.close()
    found.store.close()
    again = Chunks(open_store(home), home)
    assert read(again, entry, 0, size) == plain
    again.close()
    again.store.close()


def test_frames_are_held_one_by_one(held: Chunks) -> None:
    plain = content(5 * FRAME + 77)
    entry = entry_of(plain)
    trio.run(held.add_frames, entry, 3, plain[3 * FRAME : 4 * FRAME])
    assert held.held(entry) == 0b001000
    assert held.used_bytes == on_disk(held.directory) <= FRAME + 8_192
    assert read(held, entry, 3 * FRAME + 5, 3 * FRAME + 10) == plain[3 * FRAME + 5 : 3 * FRAME + 10]
    assert read(held, entry, 3 * FRAME - 1, 3 * FRAME + 10) is None
    trio.run(held.add_frames, entry, 5, plain[5 * FRAME :])
    trio.run(held.add_frames, entry, 0, plain[: 3 * FRAME])
    assert held.held(entry) == 0b101111
    trio.run(held.add_frames, entry, 4, plain[4 * FRAME : 5 * FRAME])
    assert held.held(entry) == whole(entry)
    assert read(held, entry, 0, len(plain)) == plain
    assert len(files(held.directory)) == 1
    assert held.used_bytes == on_disk(held.directory)


def test_chunks_of_one_request_share_a_file_and_are_dropped_one_by_one(held: Chunks, home: Path) -> None:
    plains = [content(size, seed=7) for size in (1_000_001, 300_000, 700_000)]
    entries = [entry_of(plain) for plain in plains]
    with held.reserve(entries) as slots:
        assert not files(home)
        for slot, plain in zip(slots[:2], plains, strict=False):
            slot.write(0, plain)
        held.settle(slots[0])
        assert held.read(entries[0], 0, len(plains[0])) == plains[0]
        assert not held.held(entries[1])
    assert len(files(home)) == 1
    assert held.used_bytes == on_disk(home)
    for entry, plain in zip(entries[:2], plains, strict=False):
        assert held.read(entry, 0, len(plain)) == plain
    assert not held.held(entries[2]), "it never came"
    trio.run(held.add, entries[2], plains[2])
    assert len(files(home)) == 2

    assert trio.run(held.drop, [entries[0].id]) > 900_000
    assert held.used_bytes == on_disk(home)
    assert held.read(entries[1], 0, len(plains[1])) == plains[1]
    trio.run(held.drop, [entry.id for entry in entries])
    assert held.used_bytes == 0
    assert not files(home)


def test_a_request_that_brings_nothing_leaves_no_file(held: Chunks, home: Path) -> None:
    entry = entry_of(content(1_000_000))
    with pytest.raises(ConnectionError), held.reserve([entry]):
        raise ConnectionError
    assert not files(home)
    assert not held.held(entry)
    assert not held.is_being_used(entry.id)


def test_two_tasks_adding_the_same_chunk_make_one_file(held: Chunks) -> None:
    plain = content(4 * FRAME)
    entry = entry_of(plain)

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.add, entry, plain)
            nursery.start_soon(held.add_frames, entry, 1, plain[FRAME : 3 * FRAME])
            nursery.start_soon(held.add, entry, plain)

    trio.run(both)
    assert len(files(held.directory)) == 1
    assert read(held, entry, 0, len(plain)) == plain
    assert held.used_bytes == on_disk(held.directory)


@pytest.mark.parametrize("way", ["read", "read_slow"])
def test_a_flipped_byte_on_disk_never_reaches_a_program(
    held: Chunks, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = content(4 * FRAME)
    entry = entry_of(plain)
    trio.run(held.add, entry, plain)
    (path,) = files(held.directory)
    with path.open("r+b") as file:
        file.seek(2 * FRAME + 17)
        byte = file.read(1)
        file.seek(2 * FRAME + 17)
        file.write(bytes([byte[0] ^ 1]))
    start, stop = 2 * FRAME + 100, 2 * FRAME + 200
    found = held.read(entry, start, stop) if way == "read" else trio.run(held.read_slow, entry, start, stop)
    assert found is None
    assert held.held(entry) == 0b1011
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert read(held, entry, 0, 2 * FRAME) == plain[: 2 * FRAME], "the other frames are still good"
    trio.run(held.add_frames, entry, 2, plain[2 * FRAME : 3 * FRAME])
    assert read(held, entry, 0, len(plain)) == plain


def test_a_flipped_byte_in_the_store_never_reaches_a_program(held: Chunks) -> None:
    plain = content(1_000)
    entry = entry_of(plain)
    held.add_small(entry.id, plain)
    value = held.store.get(chunks._SMALL, entry.id)
    assert value is not None
    with held.store.change() as change:
        change.put(chunks._SMALL, entry.id, value[:-1] + bytes([value[-1] ^ 1]))
    assert read(held, entry, 0, 1_000) is None
    assert held.held(entry) == 0
    assert held.used_bytes == 0


@pytest.mark.parametrize("harm", ["wiped", "short", "gone", "unreadable"])
def test_a_harmed_directory_is_read_as_not_held_and_filled_again(held: Chunks, harm: str) -> None:
    plain = content(4 * FRAME)
    entry = entry_of(plain)
    trio.run(held.add, entry, plain)
    held._blobs.close()
    (path,) = files(held.directory)
    if harm == "wiped":
        shutil.rmtree(held.directory / "blobs")
    elif harm == "short":
        os.truncate(path, FRAME + 10)
    elif harm == "gone":
        path.unlink()
    else:
        path.unlink()
        path.mkdir()
    assert read(held, entry, FRAME, 4 * FRAME) is None
    assert held.held(entry) != whole(entry)
    if harm != "unreadable":
        trio.run(held.add, entry, plain)
        assert read(held, entry, 0, len(plain)) == plain
        assert held.used_bytes == on_disk(held.directory)


def test_a_directory_wiped_between_frames_gives_no_zeros(held: Chunks) -> None:
    plain = content(4 * FRAME)
    entry = entry_of(plain)
    trio.run(held.add_frames, entry, 0, plain[:FRAME])
    held._blobs.close()
    shutil.rmtree(held.directory / "blobs")
    trio.run(held.add_frames, entry, 2, plain[2 * FRAME : 3 * FRAME])
    assert read(held, entry, 2 * FRAME, 3 * FRAME) == plain[2 * FRAME : 3 * FRAME]
    assert read(held, entry, 0, FRAME) is None


def test_a_file_lost_while_it_is_read_is_fetched_again(held: Chunks) -> None:
    plain = content(4 * FRAME)
    entry = entry_of(plain)
    trio.run(held.add, entry, plain)
    held._blobs.close()
    shutil.rmtree(held.directory / "blobs")
    with held.holding([entry.id]):
        assert held.read(entry, 0, 10) is None
        assert held.held(entry) == 0
        trio.run(held.add, entry, plain)
        assert read(held, entry, 0, len(plain)) == plain
    assert held.used_bytes == on_disk(held.directory)


def test_warming_passes_over_what_is_not_there(held: Chunks) -> None:
    plains = [content(300_000, 1), content(300_000, 2), content(300_000, 3), content(10)]
    for plain in plains[1:]:
        trio.run(held.add, entry_of(plain), plain)
    Path(held._blobs.path(BlobId(held._next_blob - 1))).unlink()
    trio.run(held.warm, [entry_of(plain) for plain in plains] + [Entry(ChunkId(b""), b"", 5_000)])
    assert held.read(entry_of(plains[1]), 0, 300_000) == plains[1]


def test_an_adopted_file_serves_its_chunks_where_they_lie(held: Chunks, tmp_path: Path) -> None:
    parts = [content(300_000, 1), content(700_001, 2), content(50_000, 3)]
    entries = [entry_of(part) for part in parts]
    staging = tmp_path / "staging"
    gap = 1 << 20
    staging.write_bytes(parts[0] + bytes(gap) + parts[1] + parts[2])
    starts = [0, 300_000 + gap, 1_000_001 + gap]
    inode = staging.stat().st_ino
    sums = [blobs.sums_of(part) for part in parts]
    trio.run(held.adopt, staging, list(zip(entries, starts, strict=True)), sums)
    assert not staging.exists()
    (path,) = files(held.directory)
    assert path.stat().st_ino == inode, "renamed, not copied"
    for entry, part in zip(entries, parts, strict=True):
        assert held.held(entry) == whole(entry)
        assert read(held, entry, 0, entry.length) == part
    assert held.used_bytes == on_disk(held.directory) < 1_050_001 + 20_000, "what is no chunk was given back"
    freed = trio.run(held.drop, [entries[1].id])
    assert freed >= 690_000
    assert held.used_bytes == on_disk(held.directory)
    assert read(held, entries[1], 0, 10) is None
    assert read(held, entries[0], 0, 300_000) == parts[0]
    assert read(held, entries[2], 0, 50_000) == parts[2]
    trio.run(held.drop, [entries[0].id, entries[2].id])
    assert files(held.directory) == []
    assert held.used_bytes == 0


def test_adopting_computes_sums_and_skips_what_is_held(held: Chunks, tmp_path: Path) -> None:
    first, second = content(200_000, 1), content(200_000, 2)
    trio.run(held.add, entry_of(first), first)
    trio.run(held.add_frames, entry_of(second), 0, second[:FRAME])
    staging = tmp_path / "staging"
    staging.write_bytes(first + second + first)
    pieces = [(entry_of(first), 0), (entry_of(second), 200_000), (entry_of(first), 400_000)]
    trio.run(held.adopt, staging, pieces)
    assert read(held, entry_of(first), 0, 200_000) == first
    assert read(held, entry_of(second), 0, 200_000) == second, "held in part before, whole now"
    assert len(files(held.directory)) == 2
    assert held.used_bytes == on_disk(held.directory) <= 2 * 200_000 + 20_000
    staging.write_bytes(first)
    trio.run(held.adopt, staging, [(entry_of(first), 0)])
    assert not staging.exists()
    assert len(files(held.directory)) == 2


def test_adopting_across_file_systems_copies(held: Chunks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = content(300_000)
    staging = tmp_path / "staging"
    staging.write_bytes(bytes(1_000) + plain)

    def other_device(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", other_device)
    trio.run(held.adopt, staging, [(entry_of(plain), 1_000)])
    assert not staging.exists()
    assert read(held, entry_of(plain), 0, len(plain)) == plain
    assert held.used_bytes == on_disk(held.directory)


def test_a_file_too_short_for_its_pieces_is_not_held(held: Chunks, tmp_path: Path) -> None:
    plain = content(300_000)
    staging = tmp_path / "staging"
    staging.write_bytes(plain[:-1])
    trio.run(held.adopt, staging, [(entry_of(plain), 0)])
    assert held.held(entry_of(plain)) == 0
    assert files(held.directory) == []
    assert held.used_bytes == 0


def test_dropping_gives_room_back_but_not_what_is_used(held: Chunks) -> None:
    plains = [content(size, 5) for size in (1_000, 60_000, 200_000, 900_000)]
    entries = [entry_of(plain) for plain in plains]
    for entry, plain in zip(entries, plains, strict=True):
        trio.run(held.add, entry, plain)
    used = held.used_bytes
    with held.holding([entries[2].id]):
        freed = trio.run(held.drop, [entry.id for entry in entries])
    assert held.held(entries[2]) == whole(entries[2])
    assert held.used_bytes == used - freed == on_disk(held.directory)
    trio.run(held.drop, [entries[2].id, entries[2].id])
    assert held.used_bytes == 0
    assert held.order.after(0, 10) == []


def test_what_a_kill_leaves_is_swept(home: Path) -> None:
    found = Chunks(open_store(home), home)
    kept = content(300_000, 1)
    trio.run(found.add, entry_of(kept), kept)
    found.store.checkpoint()
    forgotten = content(300_000, 2)
    trio.run(found.add, entry_of(forgotten), forgotten)
    foreign = home / "blobs" / "00" / "README"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"not ours")
    kill(found)
    again = Chunks(open_store(home), home)
    fresh = content(300_000, 3)
    trio.run(again.add, entry_of(fresh), fresh)
    assert trio.run(again.sweep) == 1
    assert foreign.exists()
    foreign.unlink()
    assert read(again, entry_of(kept), 0, len(kept)) == kept
    assert read(again, entry_of(forgotten), 0, len(forgotten)) is None
    assert read(again, entry_of(fresh), 0, len(fresh)) == fresh
    assert again.used_bytes == on_disk(home)
    again.close()
    again.store.close()


def test_rows_that_a_kill_brought_back_are_settled(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = Chunks(open_store(home), home)
    parts = [content(300_000, number) for number in range(3)]
    for part in parts:
        trio.run(found.add, entry_of(part), part)
    both = home / "both"
    both.write_bytes(content(200_000, 8) + content(200_000, 9))
    pair = [(entry_of(content(200_000, 8)), 0), (entry_of(content(200_000, 9)), 200_000)]
    trio.run(found.adopt, both, pair)
    found.store.checkpoint()
    trio.run(found.drop, [entry_of(parts[0]).id, pair[0][0].id])
    kill(found)
    again = Chunks(open_store(home), home)
    assert again.held(entry_of(parts[0])), "the row is back, the file is not"
    trio.run(again.sweep)
    assert again.used_bytes == on_disk(home)
    assert read(again, entry_of(parts[0]), 0, 10) is None
    assert read(again, pair[0][0], 0, 150_000) is None
    assert read(again, pair[1][0], 0, 200_000) == content(200_000, 9)
    assert [record.levelname for record in caplog.records if record.levelno >= 30] == []
    again.close()
    again.store.close()


def test_an_unreadable_index_is_thrown_away(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    home.mkdir()
    (home / "chunks.mdb").write_bytes(b"this is no database" * 1_000)
    found = Chunks(open_store(home), home)
    plain = content(300_000)
    trio.run(found.add, entry_of(plain), plain)
    assert read(found, entry_of(plain), 0, 300_000) == plain
    assert "thrown away" in caplog.text
    found.close()
    found.store.close()


def test_a_full_disk_is_said_and_leaves_nothing(held: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = content(300_000)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="No space left"):
        trio.run(held.add, entry_of(plain), plain)
    monkeypatch.undo()
    assert held.held(entry_of(plain)) == 0
    assert files(held.directory) == []
    assert held.used_bytes == 0


def test_leaves_are_kept_by_id_alone(held: Chunks) -> None:
    leaf = content(100_000)
    chunk_id = ChunkId(b"l" * 32)
    assert held.read_leaf(chunk_id) is None
    held.add_leaf(chunk_id, leaf)
    assert held.read_leaf(chunk_id) == leaf
    assert held.used_bytes >= len(leaf)
    trio.run(held.drop, [chunk_id])
    assert held.read_leaf(chunk_id) is None
    assert held.used_bytes == 0


def test_plain_hashes_are_remembered_and_bounded(held: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.plain.COUNT_MAX", 50)

    def known(number: int, *, is_delta: bool) -> Known:
        base = Base(ChunkId(bytes([number]) * 32), b"b" * 32, 1_000 + number) if is_delta else None
        return Known(ChunkId(bytes([255 - number]) * 32), b"k" * 32, number, base)

    def plain(number: int) -> PlainHash:
        return PlainHash(number.to_bytes(32, "big"))

    for number in range(200):
        for _ in range(2):
            held.note_plain(plain(number), known(number, is_delta=number % 3 == 0))
    assert held.known_plain(plain(199)) == known(199, is_delta=False)
    assert held.known_plain(plain(198)) == known(198, is_delta=True)
    # A chunk with all of the content is known rather than a delta.
    held.note_plain(plain(198), known(198, is_delta=False))
    assert held.known_plain(plain(198)) == known(198, is_delta=False)
    assert held.known_plain(plain(3)) is None
    assert 30 <= held.store.count(chunks._PLAIN) <= 51


def test_reading_more_blobs_than_open_files(held: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "OPEN_MAX", 4)
    plains = [content(70_000, number) for number in range(12)]
    for plain in plains:
        trio.run(held.add, entry_of(plain), plain)
    for _ in range(2):
        for plain in plains:
            assert read(held, entry_of(plain), 0, 70_000) == plain
    assert len(held._blobs._fds) <= 4
