"""Tree: records and their indexes against plain dictionaries, whatever edits do, and what a kill leaves of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cache.errors import NoIdsLeft
from cache.records import STATE_TABLES, LostEdit, Record, Table
from cache.store import Store
from cache.tree import Tree
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import EMPTY, Kind, Name, NodeState, NodeVersion
from tests.cache.kills import abandon
from tests.model.device import check_indexes

FOLDERS = [ROOT, NodeId(2), NodeId(3)]
NAMES = [b"a", b"b", b"c", b"\xff"]


@contextmanager
def opened(home: Path) -> Iterator[Tree]:
    store = Store(home / "tree.mdb", STATE_TABLES, has_journal=True)
    try:
        tree = Tree(store)
        tree.make_root()
        yield tree
    finally:
        store.close()


def kill(tree: Tree) -> None:
    """What kill -9 does to it."""
    abandon(tree.store)


def file(*names: tuple[NodeId, bytes], mode: int = 0o644) -> NodeState:
    return NodeState(Kind.FILE, tuple(Name(*name) for name in names), mode, 1, 1, 2, 3, 4, 5, content=EMPTY)


numbers = st.integers(0, 99)
edits = st.lists(st.tuples(st.sampled_from(["make", "remove", "rename", "chmod", "sent", "news"]), numbers, numbers))


@given(st.lists(st.tuples(edits, st.booleans()), max_size=6))
def test_indexes_say_what_records_say_after_any_edits_and_kills(rounds: list[tuple[list[tuple], bool]]) -> None:
    with TemporaryDirectory() as home:
        store = Store(Path(home) / "tree.mdb", STATE_TABLES, has_journal=True)
        tree = Tree(store)
        tree.make_root()
        rev = 0
        for steps, is_killed in rounds:
            # All steps of a round are one edit.
            with tree.edit() as edit:
                for verb, x, y in steps:
                    rev += 1
                    node, name = NodeId(10 + x % 6), Name(FOLDERS[x % 3], NAMES[y % 4])
                    record = edit.record(node)
                    holder = edit.holder(name)
                    state = record.local if record is not None else None
                    if verb == "make" and record is None and holder is None:
                        edit.set_local(node, file((name.parent, name.name)), rev)
                    elif verb == "remove" and state is not None:
                        edit.set_local(node, None, rev)
                    elif verb == "rename" and state is not None and holder != node:
                        if holder is not None:
                            left = tuple(kept for kept in edit.get(holder).local.names if kept != name)  # type: ignore[union-attr]
                            edit.set_local(holder, replace(edit.get(holder).local, names=left) if left else None, rev)
                        edit.set_local(node, replace(state, names=(*state.names[1:], name)), rev)
                    elif verb == "chmod" and state is not None:
                        edit.set_local(node, replace(state, mode=y), rev)
                    elif verb == "sent" and record is not None and state is not None:
                        if any(edit.slot_holder(one) not in (None, node) for one in state.names):
                            # The server would refuse it: there the name is still the other's.
                            continue
                        edit.put(node, Record(Rev(rev), state))
                        edit.mark_clean(node)
                    elif verb == "sent" and record is not None:
                        edit.drop(node)
                    elif verb == "news" and record is None and holder is None and edit.slot_holder(name) is None:
                        edit.put(node, Record(Rev(rev), file((name.parent, name.name))))
                for folder in FOLDERS:
                    found = {child.name: child.node for child in edit.children(folder)}
                    assert edit.has_children(folder) == bool(found)
            if is_killed:
                kill(tree)
                store = Store(Path(home) / "tree.mdb", STATE_TABLES, has_journal=True)
                tree = Tree(store)
            check_indexes(tree)
        store.close()


def test_an_edit_that_fails_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            edit.set_local(NodeId(5), file((ROOT, b"a")), 1)
        with pytest.raises(RuntimeError), tree.edit() as edit:  # noqa: PT012 - the edit must be left by it
            edit.set_local(NodeId(5), file((ROOT, b"b")), 2)
            edit.set_local(NodeId(6), file((ROOT, b"a")), 2)
            raise RuntimeError
        assert tree.child(ROOT, b"a") == 5
        assert tree.record(NodeId(6)) is None
        check_indexes(tree)


def test_children_come_in_order_from_any_name_on(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        names = [b"a", b"a\x01", b"ab", b"b", b"\xff", b"\xff\xff"]
        with tree.edit() as edit:
            for number, name in enumerate(reversed(names)):
                edit.set_local(NodeId(10 + number), file((ROOT, name)), 1)
        assert [child.name for child in tree.children(ROOT)] == names
        for at, name in enumerate(names):
            assert [child.name for child in tree.children(ROOT, name)] == names[at + 1 :]
        assert [child.name for child in tree.children(ROOT, b"a", 2)] == names[1:3]


def test_names_freed_within_an_edit_can_be_taken_in_any_order(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            edit.put(NodeId(5), Record(Rev(1), file((ROOT, b"a"))))
            edit.put(NodeId(6), Record(Rev(1), file((ROOT, b"b"))))
        with tree.edit() as edit:
            edit.unindex(NodeId(5), [Name(ROOT, b"a")])
            edit.unindex(NodeId(6), [Name(ROOT, b"b")])
            edit.put(NodeId(6), Record(Rev(2), file((ROOT, b"a"))))
            edit.put(NodeId(5), Record(Rev(2), file((ROOT, b"b"))))
        assert (tree.child(ROOT, b"a"), tree.child(ROOT, b"b")) == (6, 5)
        # Freed and kept: it is indexed again.
        with tree.edit() as edit:
            edit.unindex(NodeId(5), [Name(ROOT, b"b")])
            edit.put(NodeId(5), Record(Rev(3), file((ROOT, b"b"))))
        assert tree.child(ROOT, b"b") == 5
        check_indexes(tree)


def test_who_has_a_name_now_keeps_its_slot_whatever_becomes_of_one_that_had_it_and_whose_news_waits(
    tmp_path: Path,
) -> None:
    before, now, name = NodeId(10), NodeId(11), Name(ROOT, b"d")
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            # The server gave `d` to `now`; that `before` is called `e` by now could not be taken in yet.
            edit.put(before, Record(Rev(3), replace(file((ROOT, b"d")), names=())))
            edit.keep_news(NodeVersion(before, Rev(5), 9, file((ROOT, b"e"))))
            edit.put(now, Record(Rev(5), file((ROOT, b"d"))))
            edit.set_local(now, file((ROOT, b"b")), 9)
        with tree.edit() as edit:
            edit.put(before, Record(Rev(3), file(mode=1), is_dirty=True, synced=file((ROOT, b"d"))))
            edit.mark_dirty(before, 9)
        assert tree.slot_holder(name) == now
        with tree.edit() as edit:
            edit.forget_news(before)
            edit.put(before, Record(Rev(5), file((ROOT, b"e"))))
            edit.mark_clean(before)
        assert tree.slot_holder(name) == now
        check_indexes(tree)


def test_what_nobody_else_saw_leaves_nothing_behind(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            edit.set_local(NodeId(5), file((ROOT, b"a")), 1)
        with tree.edit() as edit:
            edit.set_local(NodeId(5), None, 2)
        assert tree.record(NodeId(5)) is None
        assert tree.is_all_sent()


def test_what_may_be_on_the_server_is_removed_there_too(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            edit.set_local(NodeId(5), file((ROOT, b"a")), 1)
        tree.set_sending({NodeId(5): None})
        with tree.edit() as edit:
            edit.set_local(NodeId(5), None, 2)
        assert tree.record(NodeId(5)) == Record(Rev(0), None, is_dirty=True)
    with opened(tmp_path) as tree:
        assert tree.sending == {5: None}


def test_two_edits_that_lost_at_the_same_time_are_both_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            edit.keep_lost(NodeId(5), LostEdit(file((ROOT, b"a")), 7, 1))
            edit.keep_lost(NodeId(5), LostEdit(file((ROOT, b"b")), 7, 2))
            # By a clock that was set while the edit waited, it may have been made before 1970.
            edit.keep_lost(NodeId(5), LostEdit(file((ROOT, b"c")), -7, 3))
        assert [lost.staged for _, _, lost in tree.lost()] == [3, 1, 2]


def test_a_staging_that_moves_to_another_node_is_not_released(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with tree.edit() as edit:
            edit.put(NodeId(5), Record(Rev(0), file((ROOT, b"a")), is_dirty=True, staged=9))
            edit.mark_dirty(NodeId(5), 1)
        with tree.edit() as edit:
            edit.drop(NodeId(5))
            edit.put(NodeId(6), Record(Rev(1), file((ROOT, b"a")), is_dirty=True, staged=9))
            edit.mark_dirty(NodeId(6), 1)
        assert not tree.released
        with tree.edit() as edit:
            edit.drop(NodeId(6))
        assert tree.released == {9}


def test_node_ids_are_never_given_twice(tmp_path: Path) -> None:
    with opened(tmp_path) as tree:
        with pytest.raises(NoIdsLeft):
            tree.new_node()
        tree.lease(NodeId(1 << 32), 3 * 4_096)
        given = [tree.new_node() for _ in range(4_097)]
    with opened(tmp_path) as tree:
        # What was set aside before is not given any more: another start may have given it.
        given += [tree.new_node() for _ in range(4_096)]
        assert len(set(given)) == len(given)
        assert not tree.has_range
        with pytest.raises(NoIdsLeft):
            tree.new_node()


def test_cursor_news_and_settings_survive(tmp_path: Path) -> None:
    version = NodeVersion(NodeId(5), Rev(3), 9, file((ROOT, b"a")))
    with opened(tmp_path) as tree, tree.edit() as edit:
        edit.keep_news(version)
        tree.set_cursor(Rev(3), edit)
    with opened(tmp_path) as tree:
        assert tree.cursor == 3
        assert tree.news() == [version]
        assert tree.news_of(NodeId(5)) == version
        with tree.edit() as edit:
            edit.forget_news(NodeId(5))
        assert not tree.store.count(Table.NEWS)
