"""Lease: how much may be written here, by what the server said last."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.lease import Lease
from cache.records import STATE_TABLES
from cache.store import Store
from cache.tree import Tree
from remote.protocol.ids import Rev
from remote.protocol.messages import Holding, Room


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    store = Store(tmp_path / "tree.mdb", STATE_TABLES, has_journal=True)
    tree = Tree(store)
    tree.make_root()
    yield tree
    store.close()


def room(rev: int, lease: int, *, share: int = 100, serial: int = 0) -> Room:
    return Room(Rev(rev), quota=1_000, used=0, free=10_000, left=1_000, lease=lease, share=share, serial=serial)


def test_before_the_server_said_anything_all_may_be_written(tree: Tree) -> None:
    lease = Lease(tree)
    assert not lease.has_quota
    assert lease.held() is None
    lease.lower()
    assert lease.room.free > 1 << 30


def test_an_answer_that_was_overtaken_does_not_count(tree: Tree) -> None:
    lease = Lease(tree)
    lease.take(room(5, 500))
    lease.take(room(4, 900))
    assert lease.room.lease == 500
    lease.take(room(6, 300))
    assert lease.room.lease == 300


def test_what_is_let_go_does_not_come_back_with_an_answer_from_before_or_a_restart(tree: Tree) -> None:
    lease = Lease(tree)
    lease.take(room(5, 500))
    lease.unflushed_bytes = lambda: 50
    lease.lower()
    held = lease.held()
    assert held is not None
    # What is needed, and a share.
    assert held.lease == 150
    assert held.serial > 0
    lease.take(room(6, 500))
    assert lease.room.lease == 150
    # Once is enough.
    lease.lower()
    assert lease.held() == held
    assert Lease(tree).held() == held
    lease.take(room(6, 400, serial=held.serial))
    assert lease.held() == Holding(400, held.serial)


def test_without_a_share_no_more_is_kept_than_is_needed_and_an_answer_from_before_is_passed_over(tree: Tree) -> None:
    lease = Lease(tree)
    assert lease.take(room(5, 500, share=0))
    lease.unflushed_bytes = lambda: 50
    lease.lower()
    assert lease.room.lease == 50
    assert not lease.take(room(5, 500))
    assert lease.take(room(5, 80, serial=lease.room.serial))
    assert lease.room.lease == 80


def test_the_first_answer_of_a_connection_counts_whatever_it_says(tree: Tree) -> None:
    lease = Lease(tree)
    lease.take(room(5, 500, serial=7))
    # A server that was put back from a copy.
    lease.take(room(2, 200, serial=3), is_first=True)
    assert lease.held() == Holding(200, 3)


def test_more_room_is_told(tree: Tree) -> None:
    lease = Lease(tree)
    told: list[int] = []
    lease.on_more = lambda: told.append(lease.room.lease)
    for rev, size in ((1, 100), (2, 50), (3, 200)):
        lease.take(room(rev, size))
    lease.take(Room(Rev(4)))
    assert told == [100, 200, 0]
