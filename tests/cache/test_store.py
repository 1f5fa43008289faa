"""The store: what survives a kill, a torn journal and a full disk. Real files throughout."""

import logging
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cache import store as store_module
from cache.errors import DiskFull, StoreDamaged
from cache.journal import journal_files
from cache.store import Store
from tests.cache.kills import abandon


def opened(folder: Path, *, has_journal: bool = True) -> Store:
    return Store(folder / "tree.mdb", ("one", "two"), has_journal=has_journal)


def put(store: Store, key: bytes, value: bytes) -> None:
    with store.change() as change:
        change.put(0, key, value)


def put_many(store: Store, count: int) -> None:
    for number in range(count):
        put(store, b"%d" % number, b"x" * 500)


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """No file grows beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_changes_survive_a_kill(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, b"a", b"1")
    abandon(store)
    store = opened(tmp_path)
    assert store.get(0, b"a") == b"1"
    store.close()


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_changes_after_a_torn_record_survive_the_next_kill(tmp_path: Path, cut: int) -> None:
    store = opened(tmp_path)
    put(store, b"a", b"1")
    put(store, b"b", b"2" * 40)
    abandon(store)
    journal = journal_files(tmp_path / "tree.mdb")[0]
    os.truncate(journal, journal.stat().st_size - cut)
    with no_room_beyond(os.path.getsize(tmp_path / "tree.mdb")):
        store = opened(tmp_path)
        put(store, b"c", b"3")
        abandon(store)
    store = opened(tmp_path)
    assert [store.get(0, key) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]
    store.close()


@pytest.mark.parametrize("has_journal", [True, False])
def test_a_checkpoint_without_room_loses_nothing_and_is_made_up_for(
    tmp_path: Path, has_journal: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_AGAIN_SECONDS", 0.0)
    store = opened(tmp_path, has_journal=has_journal)
    put(store, b"kept", b"1" * 200_000)
    store.checkpoint()
    with no_room_beyond(os.path.getsize(tmp_path / "tree.mdb")), caplog.at_level(logging.WARNING):
        for number in range(100):
            put(store, b"%d" % number, b"x" * 500)
        store.checkpoint()
        with store.change() as change:
            change.delete(0, b"7")
        store.checkpoint()
        assert store.count(0) == 100
    assert len(caplog.records) == 1
    caplog.clear()
    store.checkpoint()
    assert store.pending == 0
    abandon(store)
    store = opened(tmp_path, has_journal=has_journal)
    assert store.count(0) == 100
    assert store.get(0, b"7") is None
    assert store.get(0, b"99") == b"x" * 500
    store.close()


def test_a_store_that_closes_without_room_comes_back_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path)
    with no_room_beyond(os.path.getsize(tmp_path / "tree.mdb")), caplog.at_level(logging.WARNING):
        for number in range(100):
            put(store, b"%d" % number, b"x" * 100)
        store.close()
    caplog.clear()
    store = opened(tmp_path)
    assert store.count(0) == 100
    store.close()


def test_a_file_cut_short_is_damage_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    store = opened(tmp_path, has_journal=False)
    for number in range(2_000):
        put(store, b"%d" % number, b"x" * 200)
    store.close()
    whole = (tmp_path / "tree.mdb").read_bytes()
    for length in range(4_096, len(whole), 20 * 4_096):
        (tmp_path / "tree.mdb").write_bytes(whole[:length])
        with pytest.raises(StoreDamaged, match="Move it away"):
            opened(tmp_path, has_journal=False)
    (tmp_path / "tree.mdb").unlink()
    opened(tmp_path, has_journal=False).close()


def test_another_format_is_refused_and_can_be_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(store_module, "FORMAT", b"satchel store 99")
        opened(tmp_path).close()
    with pytest.raises(StoreDamaged, match="another version"):
        opened(tmp_path)
    (tmp_path / "tree.mdb").rename(tmp_path / "away")
    opened(tmp_path).close()


def test_a_journal_of_a_file_that_was_moved_away_is_not_mixed_with_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path)
    put(store, b"a", b"1")
    store.checkpoint()
    put(store, b"b", b"2")
    abandon(store)
    (tmp_path / "tree.mdb").unlink()
    with caplog.at_level(logging.WARNING):
        store = opened(tmp_path)
    assert store.is_incomplete
    assert store.count(0) == 0
    put(store, b"c", b"3")
    abandon(store)
    store = opened(tmp_path)
    assert store.get(0, b"c") == b"3"
    store.close()


KEYS = st.tuples(st.sampled_from([b"a", b"b", b"bb"]), st.integers(0, 12)).map(lambda pair: pair[0] + bytes([pair[1]]))
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=8), min_size=1, max_size=6)
STEPS = st.lists(
    CHANGES | st.sampled_from(["begin", "step", "thread", "finish", "checkpoint", "fail", "kill", "close"]), max_size=60
)


class Played:
    """A store whose way into LMDB is taken step by step, and a dict of what must be in it."""

    def __init__(self, folder: Path, *, has_journal: bool) -> None:
        self.folder = folder
        self.has_journal = has_journal
        self.store = opened(folder, has_journal=has_journal)
        self.model: dict[bytes, bytes] = {}
        self.durable: dict[bytes, bytes] = {}

    def play(self, step: str | dict[bytes, bytes | None]) -> None:
        if isinstance(step, dict):
            self._change(step)
            return
        store, commit = self.store, self.store._commit
        if step == "begin" and commit is None and store.pending:
            if store._frozen is None:
                self.freezing = dict(self.model)
            store._begin_commit()
        elif commit is None:
            if step in ("checkpoint", "fail"):
                store.checkpoint()
                self.durable = dict(self.model)
            elif step in ("kill", "close"):
                self._open_again(step)
        elif step == "step":
            next(commit.steps, None)
        elif step == "fail" and not commit.is_running:
            commit.error = lmdb.DiskError("no room, for once")
            store._commit_now()
        elif step in ("thread", "finish", "checkpoint"):
            self._go_on(step)
        elif step in ("kill", "close"):
            self._open_again(step)

    def _change(self, puts: dict[bytes, bytes | None]) -> None:
        with self.store.change() as change:
            for key, value in puts.items():
                if value is None:
                    change.delete(0, key)
                    self.model.pop(key, None)
                else:
                    change.put(0, key, value)
                    self.model[key] = value
                assert change.get(0, key) == value

    def _go_on(self, step: str) -> None:
        store, commit = self.store, self.store._commit
        assert commit is not None
        if step == "checkpoint":
            store.checkpoint()
            self.durable = dict(self.model)
            return
        if not commit.is_running:
            for _ in commit.steps:
                pass
            commit.is_running = True
            thread = threading.Thread(target=store._make_durable, args=[commit])
            thread.start()
            if step == "finish":
                thread.join()
        if step == "finish" and store._commit_now():
            self.durable = self.freezing

    def _open_again(self, step: str) -> None:
        if step == "close":
            self.store.close()
        else:
            if self.store._commit is not None and self.store._commit.is_running:
                self.durable = self.freezing
            abandon(self.store)
            if not self.has_journal:
                self.model = dict(self.durable)
        self.store = opened(self.folder, has_journal=self.has_journal)
        self.durable = dict(self.model)

    def check(self) -> None:
        store, ordered = self.store, sorted(self.model.items())
        assert store.scan(0) == list(store.walk(0, page=2)) == ordered
        assert store.count(0) == len(ordered)
        assert store.last(0) == (ordered[-1] if ordered else None)
        for prefix in (b"a", b"b", b"bb"):
            below = [pair for pair in ordered if pair[0].startswith(prefix)]
            assert store.scan(0, prefix=prefix) == below
            assert (
                store.scan(0, prefix + b"\5", prefix=prefix, limit=3)
                == [pair for pair in below if pair[0] >= prefix + b"\5"][:3]
            )
        for key in (b"a\0", b"b\1", b"bb\2"):
            assert store.get(0, key) == self.model.get(key)
            assert store.has(0, key) == (key in self.model)
        assert store.scan(1) == []


@pytest.mark.parametrize("has_journal", [True, False])
@given(steps=STEPS)
def test_a_store_is_a_sorted_dict_whenever_it_is_taken_into_the_file(
    tmp_path_factory: pytest.TempPathFactory, has_journal: bool, steps: list[str | dict[bytes, bytes | None]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_AGAIN_SECONDS", 0.0)
        patch.setattr(store_module, "_PUTS_AT_ONCE", 3)
        patch.setattr(store_module.log, "warning", lambda *_: None)
        played = Played(tmp_path_factory.mktemp("store"), has_journal=has_journal)
        for step in steps:
            played.play(step)
            played.check()
        played.store.close()
        played.store = opened(played.folder, has_journal=has_journal)
        played.check()
        abandon(played.store)


def test_the_view_of_the_file_is_let_go_of_for_what_came_into_it_and_not_for_what_others_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = 1 << 20
    monkeypatch.setattr(store_module, "_mapped_pages", lambda: pages)
    store = opened(tmp_path)
    opens: list[object] = []
    monkeypatch.setattr(store, "_open_again", lambda: opens.append(store))
    for _ in range(3):
        store.unmap()
    assert not opens
    pages -= store_module._MAPPED_PAGES
    store.unmap()
    assert not opens
    pages += store_module._MAPPED_PAGES + 1
    store.unmap()
    assert len(opens) == 1
    monkeypatch.undo()
    store._open_again()
    assert store._pages_of_others < pages
    abandon(store)


@pytest.mark.parametrize("mapped_pages", [0, 1 << 40])
def test_changes_go_on_while_a_thread_commits_and_the_view_of_the_file_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_pages: int
) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT_PUTS", 50)
    monkeypatch.setattr(store_module, "_MAPPED_PAGES", mapped_pages)
    monkeypatch.setattr(store_module, "_mapped_pages", count().__next__)
    opens: list[object] = []
    open_engine = Store._open_engine

    def counted(store: Store) -> None:
        opens.append(store)
        open_engine(store)

    monkeypatch.setattr(Store, "_open_engine", counted)
    threads = set()
    make_durable = Store._make_durable

    def noted(store: Store, commit: Any) -> None:
        threads.add(threading.current_thread())
        make_durable(store, commit)

    monkeypatch.setattr(Store, "_make_durable", noted)
    store = opened(tmp_path)

    async def write(nursery: trio.Nursery) -> None:
        for number in range(3_000):
            put(store, b"%d" % (number % 700), b"%d" % number)
            await trio.lowlevel.checkpoint()
        while store.pending:
            store.hurry()
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.keep)
            nursery.start_soon(write, nursery)

    trio.run(both)
    assert threads
    assert (len(opens) > 1) == (mapped_pages == 0)
    abandon(store)
    for file in journal_files(tmp_path / "tree.mdb"):
        assert file.stat().st_size == 0
    store = opened(tmp_path)
    assert dict(store.scan(0)) == {
        b"%d" % number: b"%d" % (2_100 + number if number >= 200 else 2_800 + number) for number in range(700)
    }
    store.close()


WRITER = """
import os, sys, trio
from pathlib import Path
from cache import store
store.CHECKPOINT_PUTS = 20
kept = store.Store(Path(sys.argv[1]) / "tree.mdb", ("one", "two"), has_journal=True)
async def write():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keep)
        number = kept.count(0)
        while True:
            with kept.change() as change:
                change.put(0, number.to_bytes(8, "big"), b"x" * (number % 97))
                change.put(1, b"last", b"%d" % number)
            number += 1
            os.write(1, b"%d\\n" % number)
            await trio.lowlevel.checkpoint()
trio.run(write)
"""


def test_a_kill_at_any_moment_of_a_checkpoint_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    moments = random.Random(7)
    number = 0
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        wanted = number + moments.randrange(1, 400)
        with writer.stdout:
            for line in writer.stdout:
                if int(line) >= wanted:
                    writer.kill()
            answered = int(line)
        writer.wait()
        store = opened(tmp_path)
        number = store.count(0)
        # The one that was made when the signal came may be there, although nobody heard of it.
        assert number - answered in (0, 1)
        assert [int.from_bytes(key, "big") for key, _ in store.scan(0)] == list(range(number))
        assert store.get(1, b"last") == b"%d" % (number - 1)
        abandon(store)


def test_records_behind_a_lost_end_of_the_older_journal_are_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path)
    for number in range(4):
        put(store, b"%d" % number, b"x")
    store._begin_commit()
    put(store, b"late", b"x")
    abandon(store)
    older = journal_files(tmp_path / "tree.mdb")[0]
    os.truncate(older, older.stat().st_size - 1)
    with caplog.at_level(logging.WARNING):
        store = opened(tmp_path)
    assert store.is_incomplete
    assert [key for key, _ in store.scan(0)] == [b"0", b"1", b"2"]
    store.close()


def test_a_disk_that_takes_nothing_for_long_bounds_what_is_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT_PUTS", 10)
    store = opened(tmp_path, has_journal=False)
    put(store, b"kept", b"1" * 200_000)
    store.checkpoint()
    with no_room_beyond(os.path.getsize(tmp_path / "tree.mdb")), caplog.at_level(logging.WARNING):
        with pytest.raises(DiskFull):
            put_many(store, 100)
        assert store.pending <= 10 * (store_module._PATIENCE + 1) + 10
    monkeypatch.setattr(store_module, "_AGAIN_SECONDS", 0.0)
    store._not_before = 0.0
    put(store, b"again", b"1")
    store.close()
    store = opened(tmp_path, has_journal=False)
    assert store.has(0, b"0")
    assert store.has(0, b"again")
    store.close()


def test_sync_flushes_what_is_on_its_way_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    put(store, b"a", b"1")
    commit = store._begin_commit()
    put(store, b"b", b"2")
    flushed = set()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: flushed.add(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
        store.sync()
    assert flushed == {file.name for file in journal_files(tmp_path / "tree.mdb") if file.stat().st_size}
    assert len(flushed) == 2
    assert commit is store._commit
    store.close()
