"""After a power cut, content that never reached the disk does not replace good content."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from cache.records import STATE_TABLES, Record, Table
from cache.recovery import agree_on_sizes, recover
from cache.staging import StagingId, Stagings
from cache.store import Store
from cache.tree import Tree
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Manifest, Name, NodeState

GOOD = Manifest(4, inline=b"good")
WRITTEN = b"x" * 200_000


class Machine:
    """The state of one device, before and after it went down."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home / "tree.mdb", STATE_TABLES, has_journal=True)
        self.tree = Tree(self.store)
        self.stagings = Stagings(self.store, home / "staging", Table.STAGED, Table.STAGED_BYTES)

    def write(self, number: int, *, rev: int, is_synced: bool) -> NodeId:
        """A file (known to the server when rev > 0) that was overwritten and closed."""
        node = NodeId(number)
        state = NodeState(Kind.FILE, (Name(ROOT, b"%d" % number),), 0o644, 0, 0, 1, 1, 1, 1, content=GOOD)
        staging = self.stagings.create(GOOD)
        staging.write(0, WRITTEN)
        if is_synced:
            trio.run(staging.sync)
        with self.tree.edit() as edit:
            edit.put(node, Record(Rev(rev), state, is_dirty=True, synced=state if rev else None))
            edit.put(node, replace(edit.get(node), staged=staging.id, staged_size=staging.size))
            edit.mark_dirty(node, 5)
            staging.flush(edit.change)
        return node

    def close(self) -> None:
        self.stagings.close()
        self.store.close()


def test_only_what_never_reached_the_disk_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Machine(tmp_path)
    assert recover(before.tree, before.stagings) == []
    safe = before.write(10, rev=1, is_synced=True)
    suspect = before.write(11, rev=1, is_synced=False)
    new = before.write(12, rev=0, is_synced=False)
    before.close()

    killed = Machine(tmp_path)
    assert recover(killed.tree, killed.stagings) == [], "only the process went down"
    killed.close()

    monkeypatch.setattr("cache.staged.this_boot", lambda: b"another")
    after = Machine(tmp_path)
    assert recover(after.tree, after.stagings) == [suspect]
    record = after.tree.record(suspect)
    assert record is not None
    assert record.local is not None
    assert (record.staged, record.local.content) == (0, GOOD)
    assert [node for _, node, _ in after.tree.lost()] == [suspect]
    for kept in (safe, new):
        other = after.tree.record(kept)
        assert other is not None
        assert other.staged
        assert other.size == len(WRITTEN)
    assert recover(after.tree, after.stagings) == [], "once for each start"
    after.close()


def test_a_file_cut_when_the_daemon_was_killed_has_the_size_of_what_is_left(tmp_path: Path) -> None:
    """The cut is kept at once, for a file cannot be cut and whole; the record of the node follows with the flush."""
    before = Machine(tmp_path)
    node = before.write(10, rev=1, is_synced=False)
    other = before.write(11, rev=1, is_synced=False)
    record = before.tree.record(node)
    assert record is not None
    before.stagings.load(StagingId(record.staged)).truncate(70_000)
    before.close()

    after = Machine(tmp_path)
    agree_on_sizes(after.tree, after.stagings)
    sizes = [record.size for one in (node, other) if (record := after.tree.record(one)) is not None]
    assert sizes == [70_000, len(WRITTEN)]
    after.close()
