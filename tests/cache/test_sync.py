"""Pull, Push and Sync between real devices and a server: the races that people never see, one by one."""

import os
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
from msgspec.structs import replace

from cache import planning
from cache import push as push_module
from cache.errors import DiskFull
from cache.layer import Puts
from cache.pull import Effects
from cache.push import LOST_AT_ONCE
from cache.records import LostEdit
from cache.resending import ContentLost
from cache.sync import BULK_SECONDS, DEBOUNCE_SECONDS
from fusefs.volume import RENAME_EXCHANGE
from remote.protocol.errors import NotAllowed, ServerFault
from remote.protocol.ids import NOW, ROOT, ChunkId, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import Change, Changes, Commit, CommitAnswer, FolderQuery, JournalCommit, Listing
from remote.protocol.nodes import Kind, Name
from tests.model.device import Device, check_tree
from tests.model.play import quiet
from tests.model.server import Desk
from tests.model.world import World, begin, end, in_world, make, make_folder, save, watch, write

MANY = int(os.environ.get("SATCHEL_MODEL_MANY", "4500"))


def test_what_is_written_while_the_new_file_is_on_its_way_is_sent_after_it() -> None:
    async def scene(world: World) -> None:
        world.one.wire.delay_seconds = 0.2
        file = await make(world.one, b"new")
        is_sent = trio.Event()
        world.one.wire.before_commit = lambda commit: is_sent.set()
        await is_sent.wait()
        # Within a second its times stay as they are.
        before = world.one.volume.attributes(file)
        await write(world.one, file, b"content")
        after = world.one.volume.attributes(file)
        assert (after.mtime_ns, after.ctime_ns) == (before.mtime_ns, before.ctime_ns)
        await world.quiet()
        for device in (world.one, world.two):
            assert await device.content(file) == b"content"

    in_world(scene)


def test_a_saved_file_is_never_without_name_or_content_elsewhere() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"doc", b"version 0")
        await world.quiet()
        seen: list[bytes] = []

        def look() -> None:
            found = [
                state.content
                for state in world.server.alive().values()
                if Name(ROOT, b"doc") in state.names and state.content is not None
            ]
            assert len(found) == 1
            seen.append(found[0].inline)

        watch(world.server, look)
        for number in range(1, 30):
            await save(world.one, b"doc", b"version %d" % number)
            await trio.sleep(0.007 * (number % 5))
        await world.quiet()
        assert seen[-1] == b"version 29"
        assert b"" not in seen

    in_world(scene)


def test_names_that_are_exchanged_are_never_missing_elsewhere() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"a", b"one")
        await make(world.one, b"b", b"two")
        await world.quiet()
        watch(world.server, lambda: None if {b"a", b"b"} <= world.names() else pytest.fail("a name is missing"))
        for _ in range(5):
            await world.one.volume.rename(ROOT, b"a", ROOT, b"b", RENAME_EXCHANGE)
            await trio.sleep(0.05)
        await world.quiet()

    in_world(scene)


def test_many_thousand_edits_made_offline_are_sent_in_few_commits() -> None:
    async def scene(world: World) -> None:
        world.one.wire.set_up(False)
        folder = await make_folder(world.one, b"many")
        for number in range(MANY):
            await make(world.one, b"%d" % number, folder=folder)
        before = world.server.head
        world.one.wire.set_up(True)
        world.one.sync.retry_now()
        await world.quiet()
        assert len(world.server.alive()) == MANY + 2
        assert world.server.head - before <= MANY / 1_000 + 5

    in_world(scene)


def test_hundreds_of_edits_that_lost_are_kept_with_few_commits_and_requests() -> None:
    count = 2 * LOST_AT_ONCE

    async def scene(world: World) -> None:
        nodes = [await make(world.one, b"%d" % number, b"first") for number in range(count)]
        await world.quiet()
        for device, word in ((world.one, b"older"), (world.two, b"newer")):
            device.wire.set_up(False)
            for number, node in enumerate(nodes):
                # Too much to go with the commit.
                await write(device, node, random.Random(number).randbytes(4_096) + word)
            await trio.sleep(1)
        world.two.wire.set_up(True)
        world.two.sync.retry_now()
        await trio.sleep(60)
        before = world.server.head
        world.one.wire.set_up(True)
        world.one.sync.retry_now()
        await world.quiet()
        assert world.conflicts() == count
        assert world.server.head - before <= count / LOST_AT_ONCE + 2

    in_world(scene)


def test_what_is_made_without_a_pause_is_gathered_into_few_commits() -> None:
    async def scene(world: World) -> None:
        before = world.server.head
        for number in range(200):
            await make(world.one, b"%d" % number, b"x")
            await trio.sleep(0.005)
        await world.quiet()
        assert world.server.head - before <= 1.0 / BULK_SECONDS + 2

    in_world(scene)


def test_content_of_a_known_file_is_sent_before_the_pause_is_over_and_committed_after_it() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"old" * 4_096)
        await world.quiet()
        chunks, head = world.server.chunk_count(), world.server.head
        await make(world.one, b"new", b"new" * 4_096)
        await trio.sleep(DEBOUNCE_SECONDS * 0.9)
        assert world.server.chunk_count() == chunks, "a new file may be gone before the pause is over"
        await world.quiet()
        assert (world.server.chunk_count(), world.server.head) == (chunks + 1, head + 1)
        handle = await begin(world.one, node, b"now" * 4_096)
        world.one.volume.flush(handle.file)
        await trio.sleep(DEBOUNCE_SECONDS * 0.9)
        assert (world.server.chunk_count(), world.server.head) == (chunks + 2, head + 1)
        world.one.volume.close(handle)
        await world.quiet()
        assert (world.server.chunk_count(), world.server.head) == (chunks + 2, head + 2)
        world.one.sync.hold("paused")
        await write(world.one, node, b"later" * 4_096)
        await trio.sleep(1)
        assert (world.server.chunk_count(), world.server.head) == (chunks + 2, head + 2)
        world.one.sync.hold("")
        await world.quiet()
        assert (world.server.chunk_count(), world.server.head) == (chunks + 3, head + 3)

    in_world(scene)


def test_a_lone_edit_of_a_closed_file_does_not_wait_for_the_pause_and_what_follows_does() -> None:
    async def scene(world: World) -> None:
        one, other = [await make(world.one, name, b"old" * 4_096) for name in (b"one", b"other")]
        await world.quiet()
        head = world.server.head
        await write(world.one, one, b"lone" * 4_096)
        await trio.sleep(DEBOUNCE_SECONDS * 0.9)
        assert world.server.head == head + 1
        # Who saves again and again makes no more versions for that.
        await write(world.one, one, b"again" * 4_096)
        await trio.sleep(DEBOUNCE_SECONDS * 0.9)
        assert world.server.head == head + 1
        await world.quiet()
        assert world.server.head == head + 2
        # Beside what is new, which may be gone in a moment, nothing is alone.
        await write(world.one, other, b"now" * 4_096)
        await make(world.one, b"new")
        await trio.sleep(DEBOUNCE_SECONDS * 0.9)
        assert world.server.head == head + 2
        await world.quiet()
        assert world.server.head == head + 3

    in_world(scene)


def test_what_is_tried_again_now_is_not_blocked() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"file", b"old")
        await world.quiet()
        world.one.sync.hold("paused")
        await write(world.one, node, b"edited")
        troubles = world.one.push.troubles
        troubles.note(node, NotAllowed("a test"))
        assert (troubles.blocked(), len(troubles.stuck(10))) == (1, 1)
        # Who says yes to what waits for that is not to be told that it waits, only because its turn is to come.
        troubles.retry_all()
        assert (troubles.blocked(), len(troubles.stuck(10))) == (0, 1)
        world.one.sync.hold("")
        await world.quiet()
        assert not troubles.stuck(10)

    in_world(scene)


def test_content_of_more_files_is_sent_while_a_commit_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World) -> None:
        commit = Desk.commit

        async def slow(desk: Desk, space: SpaceId, sent: Commit) -> CommitAnswer:
            with trio.fail_after(5):
                while world.server.chunk_count() < 3:  # noqa: ASYNC110 - on the test's clock
                    await trio.sleep(0.01)
            return await commit(desk, space, sent)

        monkeypatch.setattr(planning, "SMALL_FILES", 1)
        monkeypatch.setattr(Desk, "commit", slow)
        for number in range(3):
            await make(world.one, b"%d" % number, b"%d" % number * 4_096)
        await world.quiet()
        assert world.names() == {b"0", b"1", b"2"}

    in_world(scene)


def test_the_journal_is_not_asked_for_commits_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World) -> None:
        asked: list[int] = []
        changes = Desk.changes

        async def counted(desk: Desk, space: SpaceId, since: Rev, life: int = 0) -> Changes:
            asked.append(desk.device)
            return await changes(desk, space, since, life)

        monkeypatch.setattr(Desk, "changes", counted)
        for number in range(5):
            await make(world.one, b"%d" % number, b"x")
            await trio.sleep(1)
        assert world.one.is_quiet()
        assert asked.count(1) == 0
        assert asked.count(2) >= 5

    in_world(scene)


def test_a_chain_of_renames_longer_than_a_commit_is_sent_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World) -> None:
        nodes = [await make(world.one, b"log.%d" % number, b"%d" % number) for number in range(60)]
        await world.quiet()
        monkeypatch.setattr(planning, "CHANGES_MAX", 20)
        monkeypatch.setattr(push_module, "COMMIT_CHANGES", 20)
        world.one.push._limit = 20
        world.one.wire.set_up(False)
        for number in reversed(range(60)):
            await world.one.volume.rename(ROOT, b"log.%d" % number, ROOT, b"log.%d" % (number + 1), 0)
        await make(world.one, b"log.0", b"new")
        watch(world.server, lambda: None)
        await world.quiet()
        for number, node in enumerate(nodes):
            state = world.server.alive()[node]
            assert state.names == (Name(ROOT, b"log.%d" % (number + 1)),)

    in_world(scene)


def test_a_change_that_the_server_calls_wrong_holds_up_no_other() -> None:
    async def scene(world: World) -> None:
        world.server.refuses = lambda change: (
            change.state is not None and any(name.name.startswith(b"bad") for name in change.state.names)
        )
        world.one.wire.set_up(False)
        for number in range(40):
            await make(world.one, b"bad" if number == 17 else b"%d" % number, b"content")
        await save(world.one, b"bad2", b"content")
        bad = await world.one.volume.lookup(ROOT, b"bad")
        world.one.wire.set_up(True)
        await trio.sleep(30)
        assert len(world.names()) == 39
        assert b"poisoned" in world.one.sync.trouble_of(bad).encode()
        for name in (b"bad", b"bad2"):
            await world.one.volume.rename(ROOT, name, ROOT, name[1:], 0)
        await world.quiet()
        assert len(world.names()) == 41

    in_world(scene)


@pytest.mark.parametrize("seconds", [0.1, 40])
def test_a_full_disk_stops_neither_loop_for_ever(seconds: float) -> None:
    async def scene(world: World) -> None:
        journal = world.two.state._journal
        assert journal is not None
        append = journal.append

        def full(sequence: int, puts: Puts) -> int:
            raise DiskFull("This disk is full.")

        journal.append = full  # type: ignore[method-assign]
        await make(world.one, b"a", b"content")
        await trio.sleep(seconds)
        assert world.two.tree.child(ROOT, b"a") is None
        assert "full" in world.two.sync.standing().trouble
        journal.append = append  # type: ignore[method-assign]
        await make(world.two, b"b", b"content")
        await world.quiet()

    in_world(scene)


def test_a_full_disk_when_an_answer_comes_makes_no_second_version() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"content")
        journal = world.one.state._journal
        assert journal is not None
        append = journal.append
        tries = iter(range(3))

        def full(sequence: int, puts: Puts) -> int:
            if world.server.alive().get(node) is not None and next(tries, None) is not None:
                raise DiskFull("This disk is full.")
            return append(sequence, puts)

        journal.append = full  # type: ignore[method-assign]
        await world.quiet()
        assert next(tries, None) is None
        assert len(world.server.versions_of(node)) == 1
        assert not world.conflicts()

    in_world(scene)


@pytest.mark.logs_errors("synchronisation failed")
def test_a_fault_of_ours_is_logged_and_tried_again() -> None:
    async def scene(world: World) -> None:
        apply = world.two.pull._apply
        faults = iter(range(2))

        async def faulty(commit: JournalCommit) -> None:
            if next(faults, None) is not None:
                raise RuntimeError("a fault")
            await apply(commit)

        world.two.pull._apply = faulty  # type: ignore[method-assign]
        await make(world.one, b"a", b"content")
        await world.quiet()

    in_world(scene)


def test_a_large_commit_is_shown_in_parts_but_for_what_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.pull._AT_ONCE", 10)

    async def scene(world: World) -> None:
        old, other = await make(world.one, b"a", b"1"), await make(world.one, b"b", b"2")
        await world.quiet()
        await world.one.stop()
        await world.one.start(world.nursery)
        sizes: list[int] = []
        show = world.two.pull.mount.show

        def noted(effects: Effects) -> None:
            sizes.append(len(effects.names))
            # What a commit moves is never seen in two places, nor in none.
            assert {world.two.tree.child(ROOT, name) for name in (b"a", b"b")} == {old, other}
            show(effects)

        world.two.pull.mount.show = noted  # type: ignore[method-assign]
        folder = await make_folder(world.one, b"folder")
        for number in range(95):
            await make(world.one, b"%d" % number, b"", ROOT if number % 2 else folder)
        await world.one.volume.rename(ROOT, b"a", ROOT, b"b", RENAME_EXCHANGE)
        await world.quiet()
        assert max(sizes) <= 12
        assert len(sizes) > 5

    in_world(scene)


def pull_the_plug_after_the_next_commit(world: World) -> trio.Event:
    """The server takes the next commit of device one, whose answer is lost with the line."""
    done = trio.Event()

    def look() -> None:
        world.one.wire.set_up(False)
        done.set()

    watch(world.server, look)
    return done


@pytest.mark.parametrize("kills", [True, False])
def test_a_commit_whose_answer_was_lost_is_not_made_twice(kills: bool) -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"first")
        await world.quiet()
        lost = pull_the_plug_after_the_next_commit(world)
        await write(world.one, node, b"second")
        await make(world.one, b"b", b"new")
        await lost.wait()
        del world.server.take  # type: ignore[method-assign]
        if kills:
            await world.one.kill()
            await world.one.start(world.nursery)
        await trio.sleep(100)
        await world.quiet()
        assert world.names() == {b"a", b"b"}
        assert not world.conflicts()
        if not kills:
            assert len(world.server.versions_of(node)) == 2

    in_world(scene)


@pytest.mark.parametrize("kills", [True, False])
def test_what_is_removed_while_its_first_commit_is_on_its_way_does_not_stay(kills: bool) -> None:
    async def scene(world: World) -> None:
        lost = pull_the_plug_after_the_next_commit(world)
        await make(world.one, b"a", b"content")
        await lost.wait()
        del world.server.take  # type: ignore[method-assign]
        await world.one.volume.unlink(ROOT, b"a")
        if kills:
            await world.one.kill()
            await world.one.start(world.nursery)
        await world.quiet()
        assert not world.names()

    in_world(scene)


def test_what_is_written_while_its_content_is_on_its_way_is_sent_too() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a")
        await world.quiet()
        world.one.wire.delay_seconds = 0.2
        for number in range(20):
            await write(world.one, node, b"content %d" % number)
            await trio.sleep(0.05)
        await trio.sleep(5)
        handle = world.one.volume.open(node, is_writing=True, is_truncating=False)
        await world.one.files.write(handle.file, 0, b"CON")
        await trio.sleep(3)
        assert world.server.alive()[node].content.inline == b"content 19"  # type: ignore[union-attr]
        end(world.one, handle)
        await world.quiet()
        assert await world.two.content(node) == b"CONtent 19"
        assert not world.conflicts()

    in_world(scene)


def test_news_of_a_file_that_is_being_written_waits_until_it_is_closed() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"first")
        await world.quiet()
        handle = await begin(world.two, node, b"of two")
        await write(world.one, node, b"of one")
        await trio.sleep(5)
        assert await world.two.content(node) == b"of two"
        end(world.two, handle)
        await world.quiet()
        assert await world.one.content(node) == b"of two"
        # The edit that lost is marked by what overrides it.
        assert len(world.server.versions_of(node)) == 3

    in_world(scene)


def test_a_listing_that_was_overtaken_by_the_journal_brings_nothing_back() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        for name in (b"goes", b"moves", b"stays"):
            await make(world.one, name, name, folder)
        await world.quiet()
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        await fresh.volume.children(ROOT)
        service = fresh.pull.service
        ask = service.list_folders
        asked = trio.Event()

        async def slow(space: object, folders: object, as_of: object = NOW) -> Listing:
            answer = await ask(space, folders)  # type: ignore[arg-type]
            asked.set()
            await trio.sleep(5)
            return answer

        service.list_folders = slow  # type: ignore[assignment, method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fresh.volume.children, folder)
            await asked.wait()
            await world.one.volume.unlink(folder, b"goes")
            await world.one.volume.rename(folder, b"moves", ROOT, b"moved", 0)
            await make(world.one, b"comes", b"comes", folder)
            await world.quiet()
        assert [child.name for child in await fresh.volume.children(folder)] == [b"comes", b"stays"]
        assert [child.name for child in await fresh.volume.children(ROOT)] == [b"d", b"moved"]
        check_tree(fresh)
        await fresh.stop()

    in_world(scene)


def test_a_listing_that_is_ahead_of_the_journal_makes_no_conflict() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"a", b"first")
        await world.quiet()
        changes = world.two.pull.service.changes
        gate = trio.Event()

        async def slow(*args: object) -> object:
            await gate.wait()
            return await changes(*args)  # type: ignore[arg-type]

        world.two.pull.service.changes = slow  # type: ignore[assignment, method-assign]
        await world.one.volume.rename(ROOT, b"a", ROOT, b"b", 0)
        await make(world.one, b"a", b"second")
        await trio.sleep(1)
        with world.two.tree.edit() as edit:
            record = edit.get(ROOT)
            edit.put(ROOT, type(record)(record.rev, record.local))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.two.pull.list_folder, ROOT)
            await trio.sleep(1)
            gate.set()
        await world.quiet()
        assert world.names() == {b"a", b"b"}

    in_world(scene)


def test_a_folder_removed_elsewhere_lives_with_the_file_edited_in_it_here() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        inner = await make_folder(world.one, b"e", folder)
        node = await make(world.one, b"f", b"first", inner)
        await make(world.one, b"g", b"gone", inner)
        await world.quiet()
        world.two.wire.set_up(False)
        await write(world.two, node, b"second")
        for parent, name in ((inner, b"f"), (inner, b"g")):
            await world.one.volume.unlink(parent, name)
        for parent, name in ((folder, b"e"), (ROOT, b"d")):
            await world.one.volume.rmdir(parent, name)
        await quiet(world.one)
        await world.quiet()
        assert world.names() == {b"d", b"e", b"f"}
        assert await world.one.content(node) == b"second"

    in_world(scene)


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_folder_removed_elsewhere_goes_when_what_was_edited_in_it_went_before_it_was_sent(is_moved: bool) -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        inner = await make_folder(world.one, b"e", folder)
        await world.quiet()
        world.two.sync.hold("paused")
        await make(world.two, b"f", b"unsent", inner)
        await world.one.volume.rmdir(folder, b"e")
        await world.one.volume.rmdir(ROOT, b"d")
        await quiet(world.one)
        await trio.sleep(1)
        assert set(world.two.local()) >= {folder, inner}
        if is_moved:
            await world.two.volume.rename(inner, b"f", ROOT, b"f", 0)
        else:
            await world.two.volume.unlink(inner, b"f")
        shown = len(world.two.shown)
        world.two.sync.hold("")
        await world.quiet()
        assert world.names() == ({b"f"} if is_moved else set())
        # The kernel, and programs that watch, are told.
        assert {folder, inner} <= {node for effects in world.two.shown[shown:] for node in effects.events}
        assert all(version.state is None for version in world.server.versions_of(folder)[1:])

    in_world(scene)


def test_a_folder_removed_elsewhere_stays_when_it_was_renamed_here_or_something_is_in_it() -> None:
    async def scene(world: World) -> None:
        folders = [await make_folder(world.one, name) for name in (b"renamed before", b"after", b"made in")]
        await world.quiet()
        world.two.sync.hold("paused")
        await world.two.volume.rename(ROOT, b"renamed before", ROOT, b"1", 0)
        for folder in folders:
            await make(world.two, b"f", b"unsent", folder)
        for name in (b"renamed before", b"after", b"made in"):
            await world.one.volume.rmdir(ROOT, name)
        await quiet(world.one)
        await trio.sleep(1)
        await world.two.volume.rename(ROOT, b"after", ROOT, b"2", 0)
        await make_folder(world.two, b"empty", folders[2])
        for folder in folders:
            await world.two.volume.unlink(folder, b"f")
        world.two.sync.hold("")
        await world.quiet()
        assert world.names() == {b"1", b"2", b"made in", b"empty"}

    in_world(scene)


def test_a_folder_removed_elsewhere_does_not_come_back_before_what_it_lives_for_is_sent() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        world.two.wire.set_up(False)
        node = await make(world.two, b"f", b"not to be sent as it is", folder)
        with world.two.tree.edit() as edit:
            world.two.syncs.hold_back(node, "half of it", edit)
        await world.one.volume.rmdir(ROOT, b"d")
        await quiet(world.one)
        world.two.wire.set_up(True)
        await trio.sleep(60)
        assert world.names() == set()
        assert world.two.tree.child(ROOT, b"d") == folder
        await world.two.volume.unlink(folder, b"f")
        await world.quiet()
        assert world.names() == set()

    in_world(scene)


def test_a_folder_removed_here_lives_with_what_was_put_into_it_elsewhere() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await make(world.one, b"f", b"first", folder)
        await world.quiet()
        world.two.wire.set_up(False)
        await world.two.volume.unlink(folder, b"f")
        await world.two.volume.rmdir(ROOT, b"d")
        await make(world.one, b"new", b"new", folder)
        await world.quiet()
        assert world.names() == {b"d", b"new"}

    in_world(scene)


def test_a_folder_that_went_and_came_back_elsewhere_while_its_times_were_sent_takes_no_name_of_another() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        now = world.server.now[folder]
        assert now.state is not None
        world.two.wire.delay_seconds = 5
        await make(world.two, b"f", b"", folder)
        with trio.fail_after(60):
            while not world.two.push.is_sending:  # noqa: ASYNC110 - on the test's clock
                await trio.sleep(0.01)
        # Its commit, which touches the folder, is on its way: this is not in it.
        await make_folder(world.two, b"e")
        moved = replace(now.state, names=(Name(ROOT, b"e"),))
        removal = world.server.take(DeviceId(1), Commit(b"1" * 16, (Change(folder, now.rev, 1, None),)))
        assert removal.rev
        assert world.server.take(DeviceId(1), Commit(b"2" * 16, (Change(folder, removal.rev, 2, moved),))).rev
        await world.quiet()
        assert world.names() == {b"d", b"e", b"f"}

    in_world(scene)


def test_folders_moved_into_each_other_on_two_devices_end_without_a_cycle() -> None:
    async def scene(world: World) -> None:
        one = await make_folder(world.one, b"a")
        two = await make_folder(world.one, b"b")
        await world.quiet()
        world.two.wire.set_up(False)
        await world.one.volume.rename(ROOT, b"a", two, b"a", 0)
        await world.two.volume.rename(ROOT, b"b", one, b"b", 0)
        await quiet(world.one)
        await world.quiet()
        assert world.server.alive()[one].names == (Name(two, b"a"),)
        assert world.server.alive()[two].names == (Name(ROOT, b"b"),)

    in_world(scene)


def test_the_same_new_folder_twice_becomes_one() -> None:
    async def scene(world: World) -> None:
        for device in (world.one, world.two):
            device.wire.set_up(False)
            folder = await make_folder(device, b"d")
            inner = await make_folder(device, b"e", folder)
            await make(device, b"same", b"same", inner)
            await make(device, b"file", b"of %d" % device.number, inner)
            await make(device, b"own %d" % device.number, b"own", inner)
        await world.quiet()
        assert sorted(name.name for state in world.server.alive().values() for name in state.names) == [
            *[b"", b"d", b"e", b"file", b"own 1", b"own 2", b"same"]
        ]

    in_world(scene)


def test_a_folder_renamed_to_a_name_that_another_got_elsewhere_goes_into_it_with_all_that_is_in_it() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"old")
        await make(world.one, b"f", b"older", folder)
        await make(world.one, b"g", b"g", await make_folder(world.one, b"in", folder))
        await world.quiet()
        world.two.wire.set_up(False)
        await world.two.volume.rename(ROOT, b"old", ROOT, b"new", 0)
        other = await make_folder(world.one, b"new")
        file = await make(world.one, b"f", b"newer", other)
        await make(world.one, b"h", b"h", await make_folder(world.one, b"in", other))
        await quiet(world.one)
        await world.quiet()
        names = sorted(name.name for state in world.server.alive().values() for name in state.names)
        assert names == [b"", b"f", b"g", b"h", b"in", b"new"]
        assert await world.two.content(file) == b"newer"
        assert world.conflicts() == 1

    in_world(scene)


def test_a_folder_not_listed_here_is_listed_before_it_becomes_one_with_another() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"old")
        await make(world.one, b"f", b"f", await make_folder(world.one, b"in", folder))
        await world.quiet()
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        await fresh.volume.children(ROOT)
        await trio.sleep(1)
        fresh.wire.set_up(False)
        await fresh.volume.rename(ROOT, b"old", ROOT, b"new", 0)
        other = await make_folder(world.one, b"new")
        await make(world.one, b"h", b"h", await make_folder(world.one, b"in", other))
        await quiet(world.one)
        fresh.wire.set_up(True)
        await trio.sleep(60)
        await world.quiet()
        names = sorted(name.name for state in world.server.alive().values() for name in state.names)
        assert names == [b"", b"f", b"h", b"in", b"new"]
        await fresh.stop()

    in_world(scene)


def test_a_file_replaced_elsewhere_while_it_is_open_here_gets_no_second_name() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"old")
        await world.quiet()
        handle = await begin(world.two, node, b"written while open")
        await save(world.one, b"a", b"saved elsewhere")
        await quiet(world.one)
        await trio.sleep(5)
        assert [child.name for child in world.two.tree.children(ROOT)] == [b"a"]
        assert await world.two.content(await world.two.volume.lookup(ROOT, b"a")) == b"written while open"
        end(world.two, handle)
        await world.quiet()
        assert world.names() == {b"a"}
        assert await world.one.content(await world.one.volume.lookup(ROOT, b"a")) == b"written while open"
        assert world.conflicts() == 1

    in_world(scene)


@pytest.mark.parametrize("is_open", [True, False])
def test_files_of_folders_that_become_one_do_so_too(is_open: bool) -> None:
    async def scene(world: World) -> None:
        for device in (world.one, world.two):
            device.wire.set_up(False)
        node = await make(world.one, b"f", b"of one", await make_folder(world.one, b"d"))
        await make(world.two, b"f", b"of two", await make_folder(world.two, b"d"))
        handle = await begin(world.one, node, b"written by one") if is_open else None
        world.two.wire.set_up(True)
        await quiet(world.two)
        world.one.wire.set_up(True)
        world.one.sync.retry_now()
        await trio.sleep(5)
        if handle is not None:
            assert [child.name for child in world.one.tree.children(ROOT)] == [b"d"]
            end(world.one, handle)
        await world.quiet()
        assert world.names() == {b"d", b"f"}
        contents = [one.state.content.inline for one in world.server.all_versions() if one.state and one.state.content]
        assert {b"of two", b"written by one" if is_open else b"of one"} <= set(contents)

    in_world(scene)


def test_a_file_whose_name_goes_to_one_that_is_being_written_is_kept_as_a_version() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"d", b"old")
        await world.quiet()
        handle = await begin(world.two, node, b"being written")
        world.two.wire.set_up(False)
        await world.one.volume.link(node, ROOT, b"b")
        await trio.sleep(1)
        await make(world.two, b"b", b"made here")
        world.two.wire.set_up(True)
        world.two.sync.retry_now()
        await trio.sleep(1)
        end(world.two, handle)
        await world.quiet()
        contents = [
            version.state.content.inline
            for version in world.server.versions_of(node)
            if version.state is not None and version.state.content is not None
        ]
        assert b"made here" in contents
        assert contents[-1] == b"being written"

    in_world(scene)


def test_different_kinds_under_one_new_name_both_stay() -> None:
    async def scene(world: World) -> None:
        world.two.wire.set_up(False)
        await make(world.one, b"x", b"a file")
        await make_folder(world.two, b"x")
        # The file is there first.
        await trio.sleep(1)
        await world.quiet()
        kinds = {state.names[0].name: state.kind for state in world.server.alive().values()}
        assert kinds == {b"": Kind.FOLDER, b"x": Kind.FILE, b"x (2)": Kind.FOLDER}

    in_world(scene)


def test_a_journal_that_no_longer_reaches_back_is_made_up_for() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        for number in range(10):
            await make(world.one, b"%d" % number, b"%d" % number, folder)
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await world.one.volume.unlink(folder, b"1")
        await world.one.volume.rename(folder, b"2", ROOT, b"2", 0)
        await world.one.volume.rename(folder, b"3", folder, b"2", 0)
        await make(world.one, b"new", b"new", folder)
        await write(world.two, await world.two.volume.lookup(folder, b"4"), b"edited")
        await quiet(world.one)
        world.server.floor = world.server.head
        await world.quiet()
        assert b"new" in world.names()
        assert await world.one.content(await world.one.volume.lookup(folder, b"4")) == b"edited"

    in_world(scene)


def test_a_new_device_asks_for_no_history() -> None:
    async def scene(world: World) -> None:
        for number in range(5):
            await make(world.one, b"%d" % number)
            await trio.sleep(1)
        world.server.floor = world.server.head
        fresh = Device(world.home, world.server, 3)
        await fresh.start(world.nursery)
        await quiet(fresh)
        assert fresh.local() == world.server.alive()
        await fresh.stop()

    in_world(scene)


def test_folders_count_as_not_listed_until_they_are_here() -> None:
    async def scene(world: World) -> None:
        folder = ROOT
        for name in (b"d", b"e", b"f"):
            folder = await make_folder(world.one, name, folder)
            await make(world.one, b"file", b"content", folder)
        await world.quiet()
        fresh = Device(world.home, world.server, 3)
        await fresh.start(world.nursery)
        while fresh.sync.standing().unlisted_folders:  # noqa: ASYNC110 - nobody else needs to hear of it
            await trio.sleep(0.001)
        assert fresh.local() == world.server.alive()
        await fresh.stop()

    in_world(scene)


def test_a_large_upload_that_is_interrupted_goes_on_when_the_server_is_back() -> None:
    async def scene(world: World) -> None:
        data = bytes(range(256)) * 12_000
        node = await make(world.one, b"large")
        await world.quiet()
        sent: list[int] = []
        is_cut = trio.Event()
        send = world.one.pull.service.send_chunks

        async def cut(space: object, chunks: dict[object, bytes]) -> int:
            sent.append(len(chunks))
            if len(sent) == 1:
                world.one.wire.set_up(False)
                is_cut.set()
            return await send(space, chunks)  # type: ignore[arg-type]

        world.one.pull.service.send_chunks = cut  # type: ignore[assignment, method-assign]
        await write(world.one, node, data)
        await is_cut.wait()
        await trio.sleep(10)
        await world.quiet()
        assert await world.two.content(node) == data
        handle = world.two.volume.open(node, is_writing=True, is_truncating=False)
        await world.two.files.write(handle.file, 1_000_000, b"edited")
        end(world.two, handle)
        await world.quiet()
        assert await world.one.content(node) == data[:1_000_000] + b"edited" + data[1_000_006:]

    in_world(scene)


def test_the_server_lacking_chunks_gets_them_again() -> None:
    async def scene(world: World) -> None:
        def forget(commit: Commit) -> None:
            world.one.wire.before_commit = lambda commit: None
            world.server.forget_chunks()

        world.one.wire.before_commit = forget
        node = await make(world.one, b"a", b"x" * 5_000)
        await world.quiet()
        assert await world.two.content(node) == b"x" * 5_000

    in_world(scene)


def test_of_edits_that_lost_only_those_are_in_trouble_of_which_the_server_lost_the_content() -> None:
    async def scene(world: World) -> None:
        one = world.one
        nodes = [await make(one, name, random.Random(name).randbytes(100_000)) for name in (b"a", b"b")]
        await world.quiet()
        gone, there = [record.local for node in nodes if (record := one.tree.record(node)) is not None]
        assert gone is not None
        assert gone.content is not None
        assert there is not None
        nowhere = replace(gone.content.entries[0], id=ChunkId(bytes(32)))
        gone = replace(gone, content=replace(gone.content, entries=(nowhere,)))
        with one.tree.edit() as edit:
            for node, state in zip(nodes, (gone, there), strict=True):
                edit.keep_lost(node, LostEdit(state, state.ctime_ns))
        one.syncs.wake()
        await trio.sleep(0.9)
        # The other is a version at once, and nobody who waits for it is told that it is lost.
        assert [node for node in nodes if one.tree.has_lost(node)] == nodes[:1]
        one.push.troubles.raise_first(nodes[1:])
        with pytest.raises(ContentLost):
            one.push.troubles.raise_first(nodes[:1])

    in_world(scene)


def test_who_looks_down_a_deep_tree_waits_for_a_few_answers() -> None:
    async def scene(world: World) -> None:
        folders = [ROOT]
        for _ in range(60):
            folders.append(await make_folder(world.one, b"d", folders[-1]))
        await make(world.one, b"f", b"at the bottom", folders[-1])
        await world.quiet()
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        ask, asked = fresh.pull.service.list_folders, []

        async def counted(space: SpaceId, queries: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
            asked.append(len(queries))
            return await ask(space, queries, as_of)

        fresh.pull.service.list_folders = counted  # type: ignore[method-assign]
        for folder, below in pairwise(folders):
            assert [child.node for child in await fresh.volume.children(folder)] == [below]
        assert [child.name for child in await fresh.volume.children(folders[-1])] == [b"f"]
        assert len(asked) <= 4
        # What came unasked is kept in step like everything that was listed.
        await make(world.one, b"g", b"later", folders[30])
        await world.quiet()
        await fresh.volume.sync.caught_up()
        assert [child.name for child in await fresh.volume.children(folders[30])] == [b"d", b"g"]
        await fresh.stop()

    in_world(scene)


def test_a_folder_that_went_and_came_back_while_it_was_listed_is_listed_again() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        await fresh.volume.children(ROOT)
        service = fresh.pull.service
        ask = service.list_folders
        asked = trio.Event()

        async def slow(space: object, folders: object, as_of: object = NOW) -> Listing:
            asked.set()
            await trio.sleep(5)
            return await ask(space, folders)  # type: ignore[arg-type]

        service.list_folders = slow  # type: ignore[assignment, method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fresh.volume.children, folder)
            await asked.wait()
            world.two.wire.set_up(False)
            await make(world.two, b"f", b"kept", folder)
            await world.one.volume.rmdir(ROOT, b"d")
            await quiet(world.one)
            await world.quiet()
        assert [child.name for child in await fresh.volume.children(folder)] == [b"f"]
        await fresh.stop()

    in_world(scene)


def test_a_listing_that_began_before_the_journal_was_lost_is_asked_for_again() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        await fresh.volume.children(ROOT)
        service = fresh.pull.service
        ask = service.list_folders

        async def overtaken(space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
            service.list_folders = ask  # type: ignore[method-assign]
            answer = await ask(space, folders)
            fresh.wire.set_up(False)
            await make(world.one, b"f", b"made meanwhile", folder)
            await quiet(world.one)
            world.server.floor = world.server.head
            fresh.wire.set_up(True)
            await fresh.pull.catch_up()
            return answer

        service.list_folders = overtaken  # type: ignore[method-assign]
        assert [child.name for child in await fresh.volume.children(folder)] == [b"f"]
        await fresh.stop()

    in_world(scene)


def test_a_file_removed_while_its_folder_is_listed_once_more_does_not_come_back() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        node = await make(world.one, b"f", b"f", folder)
        await world.quiet()
        fresh = Device(world.home, world.server, 3, is_walking=False)
        await fresh.start(world.nursery)
        await fresh.volume.children(ROOT)
        assert [child.name for child in await fresh.volume.children(folder)] == [b"f"]
        fresh.wire.set_up(False)
        await make(world.one, b"g")
        await quiet(world.one)
        world.server.floor = world.server.head
        fresh.wire.set_up(True)
        await fresh.pull.catch_up()
        service = fresh.pull.service
        ask = service.list_folders

        async def overtaken(space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
            service.list_folders = ask  # type: ignore[method-assign]
            answer = await ask(space, folders)
            await fresh.volume.unlink(folder, b"f")
            await fresh.syncs.sent(node)
            return answer

        service.list_folders = overtaken  # type: ignore[method-assign]
        assert await fresh.volume.children(folder) == []
        assert fresh.tree.record(node) is None
        await fresh.stop()

    in_world(scene)


def test_a_file_that_gives_way_takes_no_name_back_that_another_has_by_now() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"d", b"of many names")
        await world.one.volume.link(node, ROOT, b"a")
        await world.quiet()
        for device in (world.one, world.two):
            device.wire.set_up(False)
        await world.one.volume.unlink(ROOT, b"a")
        folders = [await make_folder(world.one, name) for name in (b"a", b"c")]
        await trio.sleep(1)
        await world.two.volume.rename(ROOT, b"d", ROOT, b"c", 0)
        world.one.wire.set_up(True)
        await quiet(world.one)
        await world.quiet()
        assert [await world.two.volume.lookup(ROOT, name) for name in (b"a", b"c")] == folders
        assert world.names() == {b"a", b"c", b"c (2)"}

    in_world(scene)


def test_a_folder_that_comes_back_for_a_file_takes_its_name_from_that_very_file() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"a")
        node = await make(world.one, b"f", b"f")
        await world.quiet()
        for device in (world.one, world.two):
            device.wire.set_up(False)
        await world.one.volume.link(node, folder, b"f")
        await world.two.volume.rmdir(ROOT, b"a")
        await world.two.volume.link(node, ROOT, b"a")
        world.one.wire.set_up(True)
        await quiet(world.one)
        await world.quiet()
        assert await world.two.volume.lookup(ROOT, b"a") == folder
        assert await world.two.volume.lookup(folder, b"f") == node

    in_world(scene)


def test_a_file_that_is_in_both_of_two_folders_that_become_one_has_one_name_there() -> None:
    async def scene(world: World) -> None:
        for name in (b"a", b"c"):
            await make_folder(world.one, name)
        kept = await world.one.volume.lookup(ROOT, b"c")
        node = await make(world.one, b"f", b"f", kept)
        await world.quiet()
        for device in (world.one, world.two):
            device.wire.set_up(False)
        await world.two.volume.link(node, kept, b"both")
        await world.two.volume.link(node, await world.two.volume.lookup(ROOT, b"a"), b"both")
        await world.one.volume.rename(ROOT, b"c", ROOT, b"a", 0)
        world.one.wire.set_up(True)
        await quiet(world.one)
        await world.quiet()
        assert {child.name for child in await world.one.volume.children(kept)} == {b"f", b"both"}

    in_world(scene)


def test_folders_in_each_other_removed_while_the_journal_was_lost_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World) -> None:
        outer = await make_folder(world.one, b"outer")
        await make(world.one, b"f", b"f", await make_folder(world.one, b"inner", outer))
        await world.quiet()
        world.two.wire.set_up(False)
        for folder, name in ((outer, b"inner"), (ROOT, b"outer")):
            node = await world.one.volume.lookup(folder, name)
            for child in await world.one.volume.children(node):
                await world.one.volume.unlink(node, child.name)
            await world.one.volume.rmdir(folder, name)
        await quiet(world.one)
        world.server.floor = world.server.head
        await world.quiet()
        assert world.names() == set()

    monkeypatch.setattr("cache.pull._AT_ONCE", 1)
    in_world(scene)


def test_a_name_that_changed_hands_while_the_journal_was_lost_leads_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World) -> None:
        await make_folder(world.one, b"x")
        await make_folder(world.one, b"d")
        await world.quiet()
        world.two.wire.set_up(False)
        await world.one.volume.rmdir(ROOT, b"d")
        await world.one.volume.rename(ROOT, b"x", ROOT, b"d", 0)
        await quiet(world.one)
        world.server.floor = world.server.head
        await world.quiet()
        assert world.names() == {b"d"}

    # The news of who has the name now comes before that of who had it.
    monkeypatch.setattr("cache.pull._AT_ONCE", 1)
    in_world(scene)


@pytest.mark.parametrize("is_touched", [False, True])
@pytest.mark.parametrize("timing", range(30))
def test_what_is_removed_while_its_first_commit_is_answered_and_the_journal_is_lost_does_not_stay(
    timing: int, is_touched: bool
) -> None:
    """Whether the answer comes first, or the loss of the journal is heard of; also of a folder touched elsewhere."""

    async def scene(world: World) -> None:
        def touch(node: NodeId) -> None:
            now = world.server.now[node]
            assert now.state is not None
            state = replace(now.state, mtime_ns=1, ctime_ns=now.state.ctime_ns + 1)
            change = Change(node, now.rev, now.edited_ns, state, is_touch=True)
            assert world.server.take(DeviceId(2), Commit(node.to_bytes(16, "big"), (change,))).rev

        def overtake(commit: Commit) -> None:
            world.one.wire.before_commit = lambda commit: None
            touch(ROOT)

        world.one.wire.rng = random.Random(timing)
        world.one.wire.delay_seconds = 5
        world.one.wire.before_commit = overtake
        node = await make_folder(world.one, b"d")
        with trio.fail_after(60):
            while node not in world.server.alive():  # noqa: ASYNC110 - on the test's clock
                await trio.sleep(0.01)
        if is_touched:
            touch(node)
        world.server.floor = world.server.head
        await world.one.volume.rmdir(ROOT, b"d")
        await world.quiet()
        assert world.names() == set()

    in_world(scene)


def test_a_folder_removed_here_lives_with_what_came_into_it_while_the_journal_was_lost() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await make(world.one, b"f", b"kept", folder)
        await quiet(world.one)
        await world.two.volume.rmdir(ROOT, b"d")
        world.server.floor = world.server.head
        await world.quiet()
        assert world.names() == {b"d", b"f"}

    in_world(scene)


def test_a_read_that_waits_while_the_server_takes_the_content_gives_no_zeros() -> None:
    async def scene(world: World) -> None:
        data = bytes(range(1, 251)) * 400
        node = await make(world.one, b"a", data)
        await world.quiet()
        handle = world.two.volume.open(node, is_writing=True, is_truncating=False)
        await world.two.files.write(handle.file, 50_000, b"edited")
        reading = world.two.volume.open(node, is_writing=False, is_truncating=False)
        read = world.two.reader.read
        writers = [handle]

        async def slow(*args: object) -> object:
            found = await read(*args)  # type: ignore[arg-type]
            if writers:
                end(world.two, writers.pop())
                await quiet(world.two)
            return found

        world.two.reader.read = slow  # type: ignore[assignment, method-assign]
        found = bytes(await world.two.files.read(reading, 0, 1 << 20))
        assert found == data[:50_000] + b"edited" + data[50_006:]
        world.two.volume.close(reading)

    in_world(scene)


def test_a_commit_at_which_the_server_fails_again_and_again_holds_up_no_other() -> None:
    async def scene(world: World) -> None:
        take = world.server.take

        def failing(device: object, commit: Commit) -> object:
            if any(change.state and change.state.names[0].name == b"bad" for change in commit.changes):
                raise ServerFault("The server failed.")
            return take(device, commit)  # type: ignore[arg-type]

        world.server.take = failing  # type: ignore[assignment, method-assign]
        for name in (b"a", b"bad", b"b"):
            await make(world.one, name, name)
        await trio.sleep(600)
        assert world.names() == {b"a", b"b"}
        world.server.take = take  # type: ignore[method-assign]
        await world.quiet()
        assert world.names() == {b"a", b"b", b"bad"}

    in_world(scene)
