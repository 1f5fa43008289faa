"""Backups without a kernel or server in between: the drive's tree is the folder after whatever happened to it."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cache.chunks import Chunks, open_store
from cache.eviction import Budget
from cache.ignoring import Ignoring
from cache.records import STATE_TABLES, Table
from cache.staging import Staging, StagingId, Stagings
from cache.store import Store
from cache.tree import Tree
from fusefs.backup.backup import Backup, Chosen
from fusefs.backup.backups import Backups
from fusefs.backup.copying import Copying
from fusefs.backup.disk import Vanished
from fusefs.backup.entries import Entries, FolderId
from fusefs.backup.hints import Hints
from fusefs.backup.mirror import Mirror
from fusefs.backup.taking import Ground
from fusefs.backup.watching import Watching
from fusefs.handles import OpenFiles
from fusefs.settings import Places
from fusefs.volume import Volume
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Manifest, Name

TARGET = b"Backups/here"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class World:
    """A drive without a server, over real stores, and the backup of one real folder."""

    def __init__(self, home: Path, clock: trio.testing.MockClock) -> None:
        self.home, self.clock = home, clock
        self.folder = home / "folder"
        self.folder.mkdir()
        self.chosen = Chosen(FolderId(1), os.fsencode(self.folder), self.folder.stat().st_ino, "here", TARGET, ROOT)
        self.open()

    def open(self) -> None:
        """As a daemon that starts."""
        self.store = Store(self.home / "state" / "tree.mdb", STATE_TABLES, has_journal=True)
        self.tree = Tree(self.store)
        self.tree.make_root()
        if not self.tree.has_range:
            self.tree.lease(NodeId(1 << 32), 1 << 32)
        self.stagings = Stagings(self.store, self.home / "state" / "staging", Table.STAGED, Table.STAGED_BYTES)
        self.cache = open_store(self.home / "cache")
        self.chunks = Chunks(self.cache, self.home / "cache")
        budget = Budget(1 << 30, self.chunks, lambda: self.stagings.total_bytes, lambda _: False, floor_bytes=0)
        nothing: Any = None  # nobody reads what is not here, nobody is told, and there is no server
        files = OpenFiles(self.tree, self.stagings, nothing, budget)
        self.volume = Volume(
            self.tree, files, nothing, owner=None, list_folder=nothing, wake=lambda: None, show=lambda _: None
        )
        with self.tree.edit() as edit:
            edit.put(ROOT, replace(edit.get(ROOT), is_listed=True))
        self.entries = Entries(self.store)
        self.watching = Watching(self.missed)
        self.ground = Ground(
            self.volume, self.stagings, budget, self.entries, self.watching, lambda _path, _is_folder: ""
        )
        self.mirror = Mirror(Backup(self.chosen, lambda: None), self.ground)

    def missed(self) -> None:
        self.mirror.overlook()

    def close(self) -> None:
        """As a daemon that was killed: nothing is said to anybody."""
        self.watching.close()
        self.stagings.close()
        self.chunks.close()
        self.store.close()
        self.cache.close()

    async def round(self, *, is_everything: bool) -> None:
        """One look at everything, or at what the kernel told of; and at what is to be looked at again."""
        deadline = time.monotonic() + 120
        # What is very young is looked at again, as its times could stand still.
        while time.monotonic() < deadline:
            for _ in range(10):
                self.watching.take()
            self.clock.jump(100)
            try:
                await self.mirror._round(is_everything=is_everything)
            except Vanished:
                # All of it went: somebody says that this is meant.
                self.mirror.ask(is_confirmed=True)
                is_everything = True
                continue
            is_everything = False
            if not len(self.mirror.hints):
                return
            # Some of it waits for what was taken before.
            self.send()
        pytest.fail("it does not come to rest")

    def send(self) -> None:
        """The server takes all that is staged; it keeps whole contents as manifests."""
        for node, _ in self.tree.dirty():
            record = self.tree.record(node)
            if record is None or not record.staged or record.local is None:
                continue
            staging = self.stagings.load(StagingId(record.staged))
            content = self.content(staging)
            state = replace(record.local, content=Manifest(len(content), inline=content))
            with self.tree.edit() as edit:
                edit.put(node, replace(record, rev=Rev(record.rev + 1), local=state, staged=0, staged_size=0))
                staging.discard(edit.change)
            self.tree.released.discard(staging.id)
            if (found := self.ground.unsent.pop(staging.id, None)) is not None:
                Copying(found[0], self.volume, self.stagings, self.entries).note_sent(found[1], staging)
            staging.remove()

    def forget(self, path: bytes) -> None:
        """Somebody removes the copy of a file."""
        node = self.chosen.node
        for part in path.split(b"/"):
            parent, name = node, part
            child = self.tree.child(node, part)
            if child is None:
                return
            node = child
        state = self.volume.record(node).local
        if state is not None and state.kind is not Kind.FOLDER:
            with self.tree.edit() as edit:
                self.volume.remove_name(edit, node, state, Name(parent, name), 1)
            self.volume.after_removal()

    # What there is

    @staticmethod
    def content(staging: Staging) -> bytes:
        return b"".join(
            staging.read_dirty(part.offset, part.length)
            if part.is_dirty
            else staging.base.inline[part.offset : part.offset + part.length]
            for part in staging.plan_read(0, staging.size)
        )

    def on_disk(self) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        top = os.fsencode(self.folder)
        for folder, names, files in os.walk(top):
            for name in (*names, *files):
                path = os.path.join(folder, name)
                look = os.lstat(path)
                content = b""
                if stat.S_ISREG(look.st_mode):
                    content = Path(os.fsdecode(path)).read_bytes()
                elif stat.S_ISLNK(look.st_mode):
                    content = os.readlink(path)
                found[path[len(top) + 1 :]] = (stat.S_IFMT(look.st_mode), look.st_mode, look.st_mtime_ns, content)
        return found

    def in_drive(self) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        types = {Kind.FILE: stat.S_IFREG, Kind.FOLDER: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
        todo = [(self.chosen.node, b"")]
        while todo:
            folder, path = todo.pop()
            for child in self.tree.children(folder):
                record = self.volume.record(child.node)
                assert record.local is not None
                content = record.local.target
                if record.local.kind is Kind.FILE:
                    assert record.local.content is not None
                    content = record.local.content.inline
                    if record.staged:
                        content = self.content(self.stagings.load(StagingId(record.staged)))
                kind = types[record.local.kind]
                found[path + child.name] = (kind, kind | record.local.mode, record.local.mtime_ns, content)
                if record.local.kind is Kind.FOLDER:
                    todo.append((child.node, path + child.name + b"/"))
        return found


def run(job: Callable[[World], Awaitable[None]]) -> None:
    """Runs a job in a new world."""
    clock = trio.testing.MockClock()

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="satchel-backup-", dir=MEMORY) as home:
            world = World(Path(home), clock)
            try:
                await job(world)
            finally:
                world.close()

    trio.run(main, clock=clock)


NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
SIZES = st.sampled_from([0, 1, 3_000, 70_000, 300_000])
EDITS = st.one_of(
    st.tuples(st.just("write"), PATHS, SIZES),
    st.tuples(st.just("append"), PATHS, SIZES),
    st.tuples(st.just("patch"), PATHS, SIZES),
    st.tuples(st.just("mkdir"), PATHS, st.just(0)),
    st.tuples(st.just("remove"), PATHS, st.just(0)),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("save"), PATHS, SIZES),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("swap"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o700, 0o755, 0o4711])),
    st.tuples(st.just("touch"), PATHS, st.sampled_from([0, 10**18])),
    st.tuples(st.just("forget"), PATHS, st.just(0)),
)
ROUNDS = st.sampled_from(["hints", "hints and send", "everything", "send and restart"])


def name_it(top: bytes, what: str, path: bytes, other: bytes) -> None:
    """Gives names."""
    if what == "symlink":
        os.symlink(other, path)
        return
    other = os.path.join(top, other)
    if what == "rename":
        os.rename(path, other)
    elif what == "link":
        os.link(path, other)
    elif what == "swap":
        os.rename(path, top + b"/other")
        os.rename(other, path)
        os.rename(top + b"/other", other)


def edit(world: World, what: str, name: bytes, value: Any, seed: int) -> None:
    """Does one thing to the folder, as far as it can be done."""
    top = os.fsencode(world.folder)
    path = os.path.join(top, name)
    content = (b"%d " % seed) * (value // 3 + 1) if isinstance(value, int) and value < 10**6 else b""
    try:
        if what == "write":
            Path(os.fsdecode(path)).write_bytes(content[:value])
        elif what == "append":
            with open(path, "ab") as file:
                file.write(content[:value])
        elif what == "patch":
            with open(path, "r+b") as file:
                file.seek(value // 2)
                file.write(b"patch %d" % seed)
        elif what == "save":
            Path(os.fsdecode(path + b".new")).write_bytes(content[:value])
            os.rename(path + b".new", path)
        elif what == "mkdir":
            os.mkdir(path)
        elif what == "remove":
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        elif isinstance(value, bytes):
            name_it(top, what, path, value)
        elif what == "chmod":
            os.chmod(path, value)
        elif what == "touch":
            os.utime(path, ns=(value, value), follow_symlinks=False)
        elif what == "forget":
            world.forget(name)
    except OSError:
        return


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(EDITS, min_size=1, max_size=8), ROUNDS), min_size=1, max_size=6))
def test_the_drive_is_the_folder_after_any_edits(steps: list[tuple[list[tuple[str, bytes, Any]], str]]) -> None:
    async def job(world: World) -> None:
        await world.round(is_everything=True)
        seed, has_links = 0, False
        for edits, how in steps:
            for what, name, value in edits:
                seed += 1
                edit(world, what, name, value, seed)
            if "restart" in how:
                world.close()
                world.open()
            # What is removed in the drive comes back when all is looked through.
            is_forgotten = any(what == "forget" for what, _, _ in edits)
            # What is written by one name of a file is told of that name only.
            has_links = has_links or any(what == "link" for what, _, _ in edits)
            await world.round(is_everything="hints" not in how or is_forgotten or has_links)
            if "send" in how:
                world.send()
            assert world.in_drive() == world.on_disk()
        # Nothing is noted that is not there: not of names, nor of folders.
        assert world.store.count(Table.BACKED) == sum(
            2 if entry[0] == stat.S_IFDIR else 1 for entry in world.on_disk().values()
        )
        assert world.store.count(Table.BACKED_BLOCKS) <= len(world.on_disk())
        before = world.mirror.taking.taken_files
        await world.round(is_everything=True)
        assert world.mirror.taking.taken_files == before, "what did not change is not read again"

    run(job)


def few_watches() -> None:
    """What happens where this user may watch three folders only; for a process of its own."""
    Path("/proc/sys/user/max_inotify_watches").write_text("3")

    async def job(world: World) -> None:
        for number in range(5):
            (world.folder / f"{number}").mkdir()
        await world.mirror._round_logged()
        unwatched = world.mirror.hints.unwatched
        assert "max_user_watches" in unwatched, unwatched
        for number in range(5):
            (world.folder / f"{number}/file").write_text("x")
        # Not all of it is heard of, so everything is looked through after five minutes, not an hour.
        world.clock.jump(301)
        await world.mirror._round_logged()
        assert world.in_drive() == world.on_disk()
        # As soon as the limit is higher all are watched.
        Path("/proc/sys/user/max_inotify_watches").write_text("100")
        world.clock.jump(301)
        await world.mirror._round_logged()
        assert not world.mirror.hints.unwatched
        assert world.watching.count == 6

    run(job)


def test_where_no_more_folders_can_be_watched_all_is_looked_through_more_often() -> None:
    # The kernel counts watches for each user namespace: this one is nobody else's.
    code = f"import runpy; runpy.run_path({__file__!r})['few_watches']()"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_more_hints_than_are_kept_are_a_look_at_everything() -> None:
    async def job() -> None:
        hints = Hints()
        for number in range(10_000):
            hints.note(FolderId(1), b"%d" % number, is_written=False)
        assert len(hints) == 1
        for number in range(5_000):
            hints.note(FolderId(number), b"x", is_written=False)
        assert hints.is_too_much
        assert hints.next_due == 0

    trio.run(job, clock=trio.testing.MockClock())


def test_an_edit_that_waits_to_be_sent_is_kept_when_the_folder_wins() -> None:
    async def job(world: World) -> None:
        (world.folder / "file").write_text("first")
        await world.round(is_everything=True)
        world.send()
        node = world.tree.child(world.chosen.node, b"file")
        assert node is not None
        handle = world.volume.open(node, is_writing=True, is_truncating=True)
        await world.volume.files.write(handle.file, 0, b"by a program in the drive")
        (world.folder / "file").write_text("second")
        await world.round(is_everything=True)
        ((_, kept, lost),) = world.tree.lost()
        assert kept == node
        assert world.content(world.stagings.load(StagingId(lost.staged))) == b"by a program in the drive"
        assert world.in_drive()[b"file"][3] == b"second"
        world.volume.close(handle)
        assert world.in_drive()[b"file"][3] == b"second"

    run(job)


@pytest.mark.parametrize("is_closed", [True, False])
def test_an_edit_that_waits_to_be_sent_is_kept_when_the_file_goes(is_closed: bool) -> None:
    async def job(world: World) -> None:
        (world.folder / "stays").write_text("stays")
        (world.folder / "file").write_text("first")
        await world.round(is_everything=True)
        world.send()
        node = world.tree.child(world.chosen.node, b"file")
        assert node is not None
        handle = world.volume.open(node, is_writing=True, is_truncating=True)
        await world.volume.files.write(handle.file, 0, b"by a program in the drive")
        if is_closed:
            world.volume.files.flush(handle.file)
            world.volume.close(handle)
        (world.folder / "file").unlink()
        await world.round(is_everything=True)
        assert b"file" not in world.in_drive()
        ((_, kept, lost),) = world.tree.lost()
        assert kept == node
        assert world.content(world.stagings.load(StagingId(lost.staged))) == b"by a program in the drive"
        if not is_closed:
            world.volume.close(handle)
            ((_, _, lost),) = world.tree.lost()
            assert world.content(world.stagings.load(StagingId(lost.staged))) == b"by a program in the drive"

    run(job)


def test_a_backup_that_ends_leaves_what_is_stored_and_notes_nothing_more() -> None:
    async def job(world: World) -> None:
        for number in range(3):
            (world.folder / f"{number}/inner").mkdir(parents=True)
            for inner in range(300):
                (world.folder / f"{number}/inner/{inner}").touch()
        nothing: Any = None
        places = Places(world.home / "config", world.home / "state", world.home / "cache", world.home / "run")
        rules = Ignoring(world.tree, world.stagings, nothing)
        backups = Backups(world.volume, world.stagings, world.ground.budget, rules, places, "desk")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backups.run)
            await trio.testing.wait_all_tasks_blocked()
            told = await backups.add(str(world.folder), "", "", is_into=False)
            assert told["target"] == "Backups/desk/folder"
            (mirror,) = backups._mirrors.values()
            while not mirror.checked_ns:
                await mirror.moved.wait()
            world.chosen.node = mirror.backup.node
            assert world.in_drive() == world.on_disk()
            await backups.remove("folder")
            with trio.fail_after(120):
                while backups._chosen:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert world.in_drive() == world.on_disk()
        tables = (Table.BACKED, Table.BACKED_BLOCKS, Table.BACKED_INODES)
        assert [world.store.count(table) for table in tables] == [0, 0, 0]
        assert msgspec.msgpack.decode(world.tree.setting("backups") or b"") == []

    run(job)


def test_what_was_noted_of_a_large_folder_goes_with_it() -> None:
    async def job(world: World) -> None:
        (world.folder / "stays").touch()
        (world.folder / "large/inner").mkdir(parents=True)
        for number in range(1_200):
            (world.folder / f"large/inner/{number}").touch()
        await world.round(is_everything=True)
        assert world.in_drive() == world.on_disk()
        shutil.rmtree(world.folder / "large")
        await world.round(is_everything=True)
        assert world.in_drive() == world.on_disk()
        assert world.store.count(Table.BACKED) == world.store.count(Table.BACKED_INODES) == 1
        assert world.watching.count == 1

    run(job)
