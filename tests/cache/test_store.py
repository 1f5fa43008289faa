"""The store: what survives a kill, a torn journal and a full disk. Real files throughout."""

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache import store as store_module
from cache.errors import StoreDamaged
from cache.store import Store


def opened(folder: Path, *, has_journal: bool = True) -> Store:
    return Store(folder / "tree.mdb", ("one", "two"), has_journal=has_journal)


def abandon(store: Store) -> None:
    """As kill -9 leaves it: nothing is written any more, the files are let go of."""
    store._txn.abort()
    store._env.close()
    if store._wal_fd >= 0:
        os.close(store._wal_fd)
    os.close(store._lock_fd)


def put(store: Store, key: bytes, value: bytes) -> None:
    with store.change() as change:
        change.put(0, key, value)


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
    journal = tmp_path / "tree.wal"
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
