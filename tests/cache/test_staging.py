"""Staging against a bytearray, through truncation up and down, crashes, rebasing and filling."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache.errors import ContentDamaged, ContentUnavailable, DiskFull
from cache.journal import journal_files
from cache.staging import EXTENTS_MAX, OPEN_MAX, SMALL_MAX, Staging, StagingId, Stagings
from cache.store import Store
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import EMPTY, Entry, Manifest
from tests.cache.kills import abandon

RECORDS, CONTENTS = 0, 1


def manifest_of(data: bytes) -> Manifest:
    return Manifest(size=len(data), entries=(Entry(ChunkId(b"c" * 32), b"k" * 32, len(data)),)) if data else EMPTY


def open_stagings(home: Path) -> Stagings:
    store = Store(home / "tree.mdb", ["staged", "staged_bytes"], has_journal=True)
    return Stagings(store, home / "staging", RECORDS, CONTENTS)


def kill(stagings: Stagings) -> None:
    """What kill -9 does to them: descriptors close, nothing else happens."""
    stagings.close()
    abandon(stagings.store)


def content(staging: Staging, base: bytes) -> bytes:
    """The whole content as a reader puts it together."""
    found = b""
    for offset, length, is_dirty in staging.plan_read(0, staging.size + 10):
        assert offset == len(found)
        if is_dirty:
            found += staging.read_dirty(offset, length)
        else:
            assert offset + length <= staging.base_size <= len(base)
            found += base[offset : offset + length]
    return found


def flush(staging: Staging) -> None:
    with staging._home.store.change() as change:
        staging.flush(change)


@pytest.fixture
def stagings(tmp_path: Path) -> Iterator[Stagings]:
    found = open_stagings(tmp_path)
    yield found
    found.close()
    found.store.close()


offsets = st.one_of(st.integers(0, 300), st.integers(SMALL_MAX - 100, SMALL_MAX + 100), st.integers(0, 3 * SMALL_MAX))
pieces = st.tuples(st.integers(1, 255), st.one_of(st.integers(0, 64), st.integers(0, SMALL_MAX + 10)))


class StagingMachine(RuleBasedStateMachine):
    """One staging on a base; `flushed` is what a crash must at least leave."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="satchel-staging-"))
        self.stagings = open_stagings(self.home)

    @initialize(size=offsets, grain=st.integers(1, 255))
    def begin(self, size: int, grain: int) -> None:
        self.base = bytes([grain]) * size
        self.model = bytearray(self.base)
        self.staging = self.stagings.create(manifest_of(self.base))
        self.flushed: bytes | None = None
        self.overwritten = False
        self.marked: bytes | None = None

    @rule(offset=offsets, piece=pieces)
    def write(self, offset: int, piece: tuple[int, int]) -> None:
        data = bytes([piece[0]]) * piece[1]
        before = self.staging.generation
        self.staging.write(offset, data)
        if not data:
            return
        assert self.staging.generation > before
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data
        self.overwritten = True

    @rule(size=offsets)
    def truncate(self, size: int) -> None:
        is_cut = size < len(self.model)
        self.staging.truncate(size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))
        if is_cut and size > 0:
            self.overwritten = True

    @rule(size=offsets, grain=st.integers(1, 255))
    def empty_and_write_anew(self, size: int, grain: int) -> None:
        self.staging.truncate(0)
        self.staging.write(0, bytes([grain]) * size)
        self.model[:] = bytes([grain]) * size

    @rule(offset=offsets, length=offsets, is_dirty=st.booleans())
    def fill(self, offset: int, length: int, is_dirty: bool) -> None:
        before = self.staging.generation
        self.staging.fill(offset, self.base[offset : offset + length], is_dirty=is_dirty)
        assert self.staging.generation == before

    @rule()
    def flush(self) -> None:
        flush(self.staging)
        self.flushed = bytes(self.model)
        self.overwritten = False

    @rule()
    def mark(self) -> None:
        self.staging.mark()
        self.marked = bytes(self.model)

    @precondition(lambda self: self.marked is not None)
    @rule()
    def rebase(self) -> None:
        assert self.marked is not None
        self.staging.rebase(manifest_of(self.marked))
        self.base = self.marked
        self.marked = None
        self.flush()

    @precondition(lambda self: self.flushed is not None)
    @rule()
    def crash(self) -> None:
        kill(self.stagings)
        self.stagings = open_stagings(self.home)
        staging_id = self.staging.id
        assert self.stagings.ids() == [staging_id]
        self.staging = self.stagings.load(staging_id)
        found = content(self.staging, self.base)
        assert self.flushed is not None
        if not self.overwritten:
            assert found == self.flushed
        self.model = bytearray(found)
        self.marked = None
        flush(self.staging)
        self.flushed = found
        self.overwritten = False

    @invariant()
    def content_is_the_model(self) -> None:
        if not hasattr(self, "staging"):
            return
        assert self.staging.size == len(self.model)
        assert content(self.staging, self.base) == self.model
        for start, stop in self.staging.holes():
            assert not any(self.model[start:stop])
        covered = sum(stop - start for start, stop in self.staging.dirty)
        assert covered >= self.staging.size - self.staging.base_size
        assert self.stagings.total_bytes >= 0

    def teardown(self) -> None:
        kill(self.stagings)
        shutil.rmtree(self.home)


TestStagingMachine = StagingMachine.TestCase
TestStagingMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_base_bytes_do_not_come_back_after_truncating_down_and_up(stagings: Stagings) -> None:
    base = b"b" * 200_000
    staging = stagings.create(manifest_of(base))
    staging.truncate(100_000)
    staging.truncate(150_000)
    assert content(staging, base) == b"b" * 100_000 + bytes(50_000)
    assert staging.dirty == ((100_000, 150_000),)
    assert staging.holes() == [(100_000, 150_000)] or staging.holes() == [(102_400, 150_000)]


def test_small_edit_of_a_large_base_needs_no_base(stagings: Stagings) -> None:
    staging = stagings.create(Manifest(5 << 30))
    staging.write(3 << 30, b"x" * 4096)
    assert staging.plan_read((3 << 30) - 10, 4116) == [
        ((3 << 30) - 10, 10, False),
        (3 << 30, 4096, True),
        ((3 << 30) + 4096, 10, False),
    ]
    assert staging.dirty_bytes <= 64 << 10


def test_unflushed_staging_leaves_no_record_and_its_file_is_removed(tmp_path: Path) -> None:
    stagings = open_stagings(tmp_path)
    staging = stagings.create(EMPTY)
    staging.write(0, b"x" * 100_000)
    assert staging.path is not None
    assert staging.path.exists()
    kill(stagings)
    again = open_stagings(tmp_path)
    assert again.ids() == []
    assert again.total_bytes == 0
    assert list((tmp_path / "staging").iterdir()) == []
    with pytest.raises(KeyError):
        again.load(staging.id)
    again.store.close()


@pytest.mark.parametrize("first", [1_000, 100_000])
@pytest.mark.parametrize("second", [2_000, 200_000])
def test_file_emptied_and_written_anew_is_old_or_new_after_a_kill(tmp_path: Path, first: int, second: int) -> None:
    for is_flushed in (False, True):
        home = tmp_path / str(is_flushed)
        stagings = open_stagings(home)
        staging = stagings.create(EMPTY)
        staging.write(0, b"1" * first)
        flush(staging)
        staging.truncate(0)
        staging.write(0, b"2" * second)
        if is_flushed:
            flush(staging)
        kill(stagings)
        again = open_stagings(home)
        found = content(again.load(staging.id), b"")
        assert found == (b"2" * second if is_flushed else b"1" * first)
        again.close()
        again.store.close()


def test_superseded_file_goes_once_the_new_record_is_kept(stagings: Stagings) -> None:
    staging = stagings.create(EMPTY)
    staging.write(0, b"1" * 100_000)
    flush(staging)
    old = staging.path
    staging.truncate(0)
    assert old is not None
    assert old.exists()
    assert stagings.total_bytes >= 100_000, "still on disk, so still counted"
    flush(staging)
    assert stagings.total_bytes == 0
    assert not old.exists()


def test_superseded_file_goes_with_its_staging_though_nobody_asks_how_much_there_is(stagings: Stagings) -> None:
    staging = stagings.create(EMPTY)
    staging.write(0, b"1" * 100_000)
    flush(staging)
    staging.truncate(0)
    staging.write(0, b"2" * 100_000)
    flush(staging)
    with stagings.store.change() as change:
        staging.discard(change)
    staging.remove()
    assert not list(stagings.directory.iterdir())


def test_total_is_what_lies_on_disk_and_in_the_store(tmp_path: Path) -> None:
    stagings = open_stagings(tmp_path)
    kept = [stagings.create(EMPTY) for _ in range(4)]
    for number, staging in enumerate(kept):
        staging.write(0, bytes(number + 1) * 40_000)
        flush(staging)
    with stagings.store.change() as change:
        kept[3].discard(change)
    kept[3].remove()
    on_disk = sum(path.stat().st_blocks * 512 for path in (tmp_path / "staging").iterdir())
    assert stagings.total_bytes == 40_000 + on_disk
    total = stagings.total_bytes
    kill(stagings)
    again = open_stagings(tmp_path)
    assert again.total_bytes == total
    again.load(kept[0].id)
    again.load(kept[1].id)
    assert again.total_bytes == total
    again.close()
    again.store.close()


def test_what_is_written_into_a_hole_is_counted(stagings: Stagings) -> None:
    staging = stagings.create(EMPTY)
    staging.truncate(64 << 20)
    staging.write(32 << 20, bytes(range(256)) * 4096)
    assert staging.dirty_bytes >= 1 << 20
    assert stagings.total_bytes == staging.dirty_bytes


def test_load_gives_the_same_staging_to_all(stagings: Stagings) -> None:
    staging = stagings.create(EMPTY)
    staging.write(0, b"abc")
    flush(staging)
    assert stagings.load(staging.id) is staging
    staging_id = staging.id
    del staging
    again = stagings.load(staging_id)
    assert again.read_dirty(0, 3) == b"abc"


def test_staging_nobody_refers_to_lives_until_it_is_flushed(stagings: Stagings) -> None:
    staging = stagings.create(EMPTY)
    staging_id = staging.id
    staging.write(0, b"abc")
    del staging
    assert stagings.load(staging_id).read_dirty(0, 3) == b"abc"


def test_more_stagings_than_open_files(stagings: Stagings) -> None:
    many = [stagings.create(EMPTY) for _ in range(OPEN_MAX + 20)]
    for number, staging in enumerate(many):
        staging.write(SMALL_MAX + number, b"x")
    assert sum(staging._fd >= 0 for staging in many) <= OPEN_MAX
    for number, staging in enumerate(many):
        assert staging.read_dirty(SMALL_MAX + number, 1) == b"x"


def test_thin_joins_stretches_from_the_base_and_keeps_later_writes(stagings: Stagings) -> None:
    count = EXTENTS_MAX + 100
    base = bytes(range(1, 251)) * (count * 100 // 250)
    staging = stagings.create(manifest_of(base))
    model = bytearray(base)
    for number in range(count):
        staging.write(number * 64, b"\0")
        model[number * 64] = 0
    assert staging.is_crowded
    calls = 0

    async def read_base(offset: int, length: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 5:  # the program goes on meanwhile
            staging.write(offset, b"new")
            model[offset : offset + 3] = b"new"
        return base[offset : offset + length]

    trio.run(staging.thin, read_base)
    assert len(staging.dirty) <= EXTENTS_MAX // 2
    assert not staging.is_crowded
    assert content(staging, base) == model


def test_without_its_base_a_crowded_staging_takes_writes_up_to_a_limit(
    stagings: Stagings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.staging.EXTENTS_MAX", 100)
    monkeypatch.setattr("cache.staging.EXTENTS_LIMIT", 500)
    staging = stagings.create(manifest_of(b"b" * 200_000))
    tries = 0

    async def away(offset: int, length: int) -> bytes:
        nonlocal tries
        tries += 1
        raise ContentUnavailable("The server is away.")

    for number in range(500):
        staging.write(number * 100, b"x")
        if staging.is_crowded:
            trio.run(staging.thin, away)
    assert tries < 5, "it is not asked for with every write"
    with pytest.raises(ContentUnavailable, match="too many separate places"):
        staging.write(150_000, b"x")
    staging.write(100, b"y")

    async def back(offset: int, length: int) -> bytes:
        return b"b" * length

    staging._extents_max = 100
    trio.run(staging.thin, back)
    assert len(staging.dirty) <= 50
    staging.write(150_000, b"x")


def test_record_of_another_version_is_left_alone_with_its_file(tmp_path: Path) -> None:
    stagings = open_stagings(tmp_path)
    staging = stagings.create(EMPTY)
    staging.write(0, b"1" * 100_000)
    flush(staging)
    path = staging.path
    with stagings.store.change() as change:
        change.put(RECORDS, staging.id.to_bytes(8, "big"), b"from the future")
    kill(stagings)
    again = open_stagings(tmp_path)
    with pytest.raises(ContentDamaged, match="cannot be read"):
        again.load(staging.id)
    assert path is not None
    assert path.stat().st_size == 100_000
    again.store.close()


def test_lost_or_cut_file_is_reported_not_read_as_zeros(tmp_path: Path) -> None:
    stagings = open_stagings(tmp_path)
    staging = stagings.create(EMPTY)
    staging.write(0, b"1" * 100_000)
    flush(staging)
    path = staging.path
    kill(stagings)
    assert path is not None
    os.truncate(path, 50_000)
    again = open_stagings(tmp_path)
    with pytest.raises(ContentDamaged, match="shorter"):
        again.load(staging.id)
    again.close()
    again.store.close()
    path.unlink()
    again = open_stagings(tmp_path)
    with pytest.raises(ContentDamaged, match="gone"):
        again.load(staging.id)
    again.store.close()


def test_content_not_synced_before_the_machine_went_down_is_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: dict[str, StagingId] = {}
    stagings = open_stagings(tmp_path)
    for name in ("synced", "unsynced"):
        staging = stagings.create(EMPTY)
        staging.write(0, b"1" * 100_000)
        if name == "synced":
            trio.run(staging.sync)
        flush(staging)
        ids[name] = staging.id
    kill(stagings)
    again = open_stagings(tmp_path)
    assert not again.load(ids["unsynced"]).is_suspect, "only the process was killed"
    kill(again)
    monkeypatch.setattr("cache.staged.this_boot", lambda: b"another")
    after = open_stagings(tmp_path)
    assert not after.load(ids["synced"]).is_suspect
    assert after.load(ids["unsynced"]).is_suspect
    after.close()
    after.store.close()


def test_full_disk_is_said_and_what_was_there_stays(stagings: Stagings, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = stagings.create(EMPTY)
    staging.write(0, b"1" * 100_000)
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 1_000:
            real(fd, memoryview(data)[:1_000], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="No space left"):
        staging.write(100_000, b"2" * 50_000)
    monkeypatch.undo()
    assert staging.size == 100_000
    staging.truncate(150_000)
    assert content(staging, b"") == b"1" * 100_000 + bytes(50_000)


def test_spill_on_a_full_disk_keeps_small_content(stagings: Stagings, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = stagings.create(EMPTY)
    staging.write(0, b"1" * 1_000)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        staging.write(1_000, b"2" * 100_000)
    monkeypatch.undo()
    assert staging.path is None
    assert content(staging, b"") == b"1" * 1_000


def test_content_whose_record_is_lost_with_the_database_is_put_aside(tmp_path: Path) -> None:
    home = open_stagings(tmp_path)
    staging = home.create(EMPTY)
    staging.write(0, b"x" * (SMALL_MAX + 1))
    flush(staging)
    kill(home)
    (tmp_path / "tree.mdb").unlink()
    for file in journal_files(tmp_path / "tree.mdb"):
        file.unlink()
    home = open_stagings(tmp_path)
    (kept,) = (tmp_path / "rescued").iterdir()
    assert kept.read_bytes() == b"x" * (SMALL_MAX + 1)
    assert home.total_bytes == 0
    kill(home)
