"""What fsync promises: after a power cut there is what was written, told apart by what was told to the disk only."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from cache.chunks import Chunks, open_store
from cache.eviction import Budget
from cache.records import STATE_TABLES, Table
from cache.recovery import recover
from cache.staging import StagingId, Stagings
from cache.store import Store
from cache.tree import Tree
from fusefs.attributes import Caller
from fusefs.handles import OpenFiles
from fusefs.volume import Volume
from remote.protocol.ids import ROOT, NodeId


class Disk:
    """Keeps each file of a folder as it was when it was last synced: what a power cut leaves at the least."""

    def __init__(self, folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._kept = kept
        kept.mkdir()
        fdatasync = os.fdatasync

        def sync(fd: int) -> None:
            fdatasync(fd)
            self.keep(Path(os.readlink(f"/proc/self/fd/{fd}")))

        monkeypatch.setattr(os, "fdatasync", sync)

    def keep(self, file: Path) -> None:
        """The file is on the disk as it is now."""
        target = self._kept / file.relative_to(self._folder)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


class Mount:
    """The parts that a write and an fsync go through, over a state folder, without any server."""

    def __init__(self, home: Path, cache: Path) -> None:
        self.store = Store(home / "tree.mdb", STATE_TABLES, has_journal=True)
        self.tree = Tree(self.store)
        self.stagings = Stagings(self.store, home / "staging", Table.STAGED, Table.STAGED_BYTES)
        self.cache = open_store(cache)
        self.chunks = Chunks(self.cache, cache)
        budget = Budget(1 << 30, self.chunks, lambda: self.stagings.total_bytes, lambda _: False, floor_bytes=0)
        nothing: Any = None  # nobody reads what is not here, and nobody synchronises
        self.files = OpenFiles(self.tree, self.stagings, nothing, budget)
        self.volume = Volume(
            self.tree,
            self.files,
            nothing,
            owner=None,
            list_folder=nothing,
            wake=lambda: None,
            show=lambda _: None,
        )

    def close(self) -> None:
        self.stagings.close()
        self.chunks.close()
        self.store.close()
        self.cache.close()


@pytest.mark.parametrize("size", [100, 300_000])
def test_what_was_synced_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    here, after_cut, first = tmp_path / "state", tmp_path / "disk", os.urandom(size)
    disk = Disk(here, after_cut, monkeypatch)
    mount = Mount(here, tmp_path / "cache")
    mount.tree.make_root()
    mount.tree.lease(NodeId(1 << 32), 1 << 32)
    with mount.tree.edit() as edit:
        edit.put(ROOT, replace(edit.get(ROOT), is_listed=True))
    mount.store.checkpoint()
    disk.keep(here / "tree.mdb")

    async def write() -> NodeId:
        node = await mount.volume.make(ROOT, b"file", 0o100644, Caller(0, 0, 0))
        handle = mount.volume.open(node, is_writing=True, is_truncating=False)
        await mount.files.write(handle.file, 0, first)
        await mount.volume.fsync(handle.file)
        # Not synced, so it may be gone.
        await mount.files.write(handle.file, size, b"more")
        mount.volume.close(handle)
        return node

    node = trio.run(write)
    mount.close()

    monkeypatch.setattr("cache.staged.this_boot", lambda: b"another")
    found = Mount(after_cut, tmp_path / "cache")
    assert recover(found.tree, found.stagings) == [], "nothing that was synced is in doubt"
    assert found.tree.child(ROOT, b"file") == node
    record = found.tree.record(node)
    assert record is not None
    staging = found.stagings.load(StagingId(record.staged))
    assert not staging.is_suspect
    assert staging.read_dirty(0, staging.size) == first
    found.close()
