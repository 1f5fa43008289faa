"""News of names that change hands while edits are unsent: whose they are in the end, and that nothing comes back."""

import stat
import time

import pytest
import trio
from msgspec.structs import replace

from cache.errors import NoSuchNode
from fusefs.volume import Setting
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import Change, Changes, Commit, CommitAnswer
from remote.protocol.nodes import Kind, Name
from tests.model.device import Device, check_tree
from tests.model.play import quiet
from tests.model.server import skew_ns
from tests.model.world import ME, World, begin, end, in_world, make, make_folder, write


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are taken in one at a time."""
    monkeypatch.setattr("cache.pull._AT_ONCE", 1)


async def content(device: Device, name: bytes, folder: NodeId = ROOT) -> bytes:
    return await device.content(await device.volume.lookup(folder, name))


async def rename(device: Device, old: bytes, new: bytes) -> None:
    """And is quiet afterwards, so that it is a commit of its own."""
    await device.volume.rename(ROOT, old, ROOT, new, 0)
    await quiet(device)


def contents_kept(world: World) -> set[bytes]:
    """Every content that the server has, of any version."""
    states = [version.state for version in world.server.all_versions()]
    return {state.content.inline for state in states if state is not None and state.content is not None}


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.FOLDER])
def test_a_name_that_another_had_for_a_while_makes_them_not_one(kind: Kind) -> None:
    async def scene(world: World) -> None:
        async def make_one(device: Device, data: bytes) -> NodeId:
            if kind is Kind.FILE:
                return await make(device, b"a", data)
            folder = await make_folder(device, b"a")
            await make(device, b"f", data, folder)
            return folder

        world.two.wire.set_up(False)
        await trio.sleep(1)
        theirs = await make_one(world.one, b"theirs")
        await quiet(world.one)
        await rename(world.one, b"a", b"b")
        mine = await make_one(world.two, b"mine")
        await world.quiet()
        assert await world.one.volume.lookup(ROOT, b"a") == mine
        assert await world.one.volume.lookup(ROOT, b"b") == theirs
        assert not world.conflicts()
        for name, data in ((b"a", b"mine"), (b"b", b"theirs")):
            folder = ROOT if kind is Kind.FILE else await world.one.volume.lookup(ROOT, name)
            assert await content(world.one, name if kind is Kind.FILE else b"f", folder) == data

    in_world(scene)


def test_what_waits_for_the_end_of_the_journal_waits_also_when_the_server_goes_away_before_it() -> None:
    async def scene(world: World) -> None:
        world.server.commits_max = 1
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await make(world.one, b"a", b"theirs")
        await quiet(world.one)
        await rename(world.one, b"a", b"b")
        await make(world.two, b"a", b"mine")
        changes = world.two.pull.service.changes
        is_cut = False

        async def cut(space: SpaceId, since: Rev, life: int = 0) -> Changes:
            nonlocal is_cut
            if world.two.tree.news() and not is_cut:
                is_cut = True
                world.two.wire.set_up(False)
            return await changes(space, since, life)

        world.two.pull.service.changes = cut  # type: ignore[method-assign]
        world.two.wire.set_up(True)
        world.two.sync.retry_now()
        await trio.sleep(20)
        assert is_cut
        assert world.two.tree.news()
        await world.quiet()
        assert await content(world.one, b"a") == b"mine"
        assert await content(world.one, b"b") == b"theirs"
        assert not world.conflicts()

    in_world(scene)


def test_news_that_waits_and_went_to_a_folder_that_is_not_known_is_forgotten() -> None:
    async def scene(world: World) -> None:
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await make(world.one, b"d", b"theirs")
        await quiet(world.one)
        folder = await make_folder(world.one, b"c")
        await quiet(world.one)
        await world.one.volume.rename(ROOT, b"d", folder, b"b", 0)
        await quiet(world.one)
        await make(world.two, b"c", b"a file")
        await make(world.two, b"d", b"mine")
        await world.quiet()
        assert await content(world.one, b"d") == b"mine"
        assert await content(world.one, b"b", folder) == b"theirs"
        assert await content(world.one, b"c (2)") == b"a file"
        assert not world.conflicts()

    in_world(scene)


def test_an_unsent_edit_follows_its_file_when_the_journal_was_lost(one_by_one: None) -> None:
    async def scene(world: World) -> None:
        # Asked for first, and so told first.
        await make(world.one, b"b", b"another")
        edited = await make(world.one, b"a", b"first")
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await world.one.volume.rename(ROOT, b"a", ROOT, b"c", 0)
        await rename(world.one, b"b", b"a")
        await write(world.two, edited, b"edited")
        world.server.floor = world.server.head
        await world.quiet()
        assert await content(world.one, b"c") == b"edited"
        assert await content(world.one, b"a") == b"another"
        assert not world.conflicts()

    in_world(scene)


def test_a_file_with_two_names_removed_while_the_journal_was_lost_does_not_come_back(one_by_one: None) -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"new", b"new")
        node = await make(world.one, b"a", b"old")
        await world.one.volume.link(node, ROOT, b"b")
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await world.one.volume.unlink(ROOT, b"b")
        await rename(world.one, b"new", b"a")
        world.server.floor = world.server.head
        await world.quiet()
        assert world.names() == {b"a"}

    in_world(scene)


def test_a_file_of_which_one_name_was_taken_away_here_and_all_elsewhere_is_gone() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"old")
        await world.one.volume.link(node, ROOT, b"b")
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await world.two.volume.unlink(ROOT, b"b")
        for name in (b"a", b"b"):
            await world.one.volume.unlink(ROOT, name)
        await world.quiet()
        assert world.names() == set()

    in_world(scene)


def test_what_made_the_server_refuse_is_not_taken_in_after_the_journal_was_lost() -> None:
    async def scene(world: World) -> None:
        server = world.server
        await quiet(world.one)
        edited = await make(world.one, b"a", b"first")
        await world.quiet()
        new = world.one.tree.new_node()
        take = server.take

        def commit(*changes: Change) -> Rev:
            return take(DeviceId(1), Commit(bytes([len(server.now)]) * 16, changes)).rev

        def replace_first(_: Commit) -> None:
            """As a save elsewhere does, just before ours arrives."""
            world.two.wire.before_commit = lambda _: None
            old = server.now[edited]
            assert old.state is not None
            state = replace(old.state, birth_ns=1)
            assert commit(Change(edited, old.rev, old.edited_ns + 1, None), Change(new, Rev(0), 1, state))

        def taken(device: DeviceId, sent: Commit) -> object:
            """While ours is refused, what took the name is removed, and the journal ends."""
            answer = take(device, sent)
            if not answer.rev and new in server.alive():
                assert commit(Change(new, server.now[new].rev, 2, None))
                server.floor = server.head
            return answer

        world.two.wire.before_commit = replace_first
        server.take = taken  # type: ignore[assignment, method-assign]
        # Two hears of it by the refusal only.
        world.two.wire.delay_seconds = 0.5
        await write(world.two, edited, b"edited")
        await trio.sleep(30)
        assert server.refusals
        await world.quiet()
        assert new not in server.alive()
        assert await content(world.one, b"a") == b"edited"

    in_world(scene)


async def join_unsent(world: World) -> NodeId:
    """Two has a file that the server never had, with an edit that lost against it; nothing of that is sent."""
    folder = await make_folder(world.one, b"p")
    await world.quiet()
    world.two.wire.set_up(False)
    await trio.sleep(1)
    await rename(world.one, b"p", b"q")
    await make(world.two, b"f", b"older", await make_folder(world.two, b"q"))
    unsent = await make(world.two, b"f", b"newer", folder)
    world.two.sync.hold("for the test")
    world.two.wire.set_up(True)
    world.two.sync.retry_now()
    await trio.sleep(20)
    assert [node for _, node, _ in world.two.tree.lost()] == [unsent]
    return folder


@pytest.mark.parametrize("kills", [False, True])
def test_an_edit_that_lost_in_a_file_removed_before_it_was_sent_is_a_version_of_it(kills: bool) -> None:
    async def scene(world: World) -> None:
        folder = await join_unsent(world)
        if kills:
            # In which it says something else.
            await make(world.one, b"f (2)", b"in between", folder)
        await world.two.volume.unlink(folder, b"f")
        assert not world.two.tree.children(folder)
        if kills:
            await world.two.kill()
            await world.two.start(world.nursery)
        world.two.sync.hold("")
        await world.quiet()
        assert b"older" in contents_kept(world)
        assert b"f" not in world.names()

    in_world(scene)


def test_an_edit_that_lost_in_a_file_removed_with_its_folder_is_kept_too() -> None:
    async def scene(world: World) -> None:
        folder = await join_unsent(world)
        await world.two.volume.unlink(folder, b"f")
        await world.two.volume.rmdir(ROOT, b"q")
        world.two.sync.hold("")
        await world.quiet()
        assert b"older" in contents_kept(world)
        assert world.names() == set()

    in_world(scene)


def test_an_edit_that_lost_goes_with_its_file_into_another() -> None:
    async def scene(world: World) -> None:
        folder = await join_unsent(world)
        other = await make(world.one, b"f", b"elsewhere", folder)
        await quiet(world.one)
        await trio.sleep(20)
        assert {node for _, node, _ in world.two.tree.lost()} == {other}
        world.two.sync.hold("")
        await world.quiet()
        assert {b"older", b"newer", b"elsewhere"} <= contents_kept(world)
        assert world.conflicts() == 2

    in_world(scene)


def test_an_edit_of_a_clock_that_was_in_the_future_does_not_win_for_ever() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"first")
        await world.quiet()
        for device in (world.one, world.two):
            device.wire.set_up(False)
        await trio.sleep(1)
        # Ten years ahead, offline; then somebody sets it right.
        token = skew_ns.set(lambda: 10 * 365 * 86_400 * 10**9)
        await write(world.two, node, b"from the future")
        skew_ns.reset(token)
        await quiet(world.two)
        await trio.sleep(10)
        await write(world.one, node, b"after it")
        await world.quiet()
        assert await content(world.two, b"a") == b"after it"
        assert world.conflicts() == 1

    in_world(scene)


def test_a_device_whose_clock_stands_at_1970_takes_part() -> None:
    async def scene(world: World) -> None:
        outer = await make_folder(world.one, b"outer")
        inner = await make_folder(world.one, b"inner", outer)
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await world.one.volume.rmdir(outer, b"inner")
        await world.one.volume.rmdir(ROOT, b"outer")
        await quiet(world.one)
        await trio.sleep(200)
        await world.two.stop()
        # It begins after what was done elsewhere.
        world.two.skew = 100 * 10**9 - time.time_ns()
        await world.two.start(world.nursery)
        token = skew_ns.set(lambda: world.two.skew)
        await make(world.two, b"f", b"kept", inner)
        skew_ns.reset(token)
        await world.quiet()
        assert world.names() == {b"outer", b"inner", b"f"}

    in_world(scene)


def test_what_is_in_the_way_is_taken_in_also_where_its_folder_is_not_listed_any_more() -> None:
    async def scene(world: World) -> None:
        lazy = Device(world.home, world.server, 3, is_walking=False)
        gone = await make_folder(world.one, b"c")
        edited = await make(world.one, b"f", b"first", gone)
        await world.quiet()
        await lazy.start(world.nursery)
        await quiet(lazy, is_whole=False)
        for folder in (ROOT, gone):
            await lazy.volume.children(folder)
        lazy.wire.set_up(False)
        await trio.sleep(1)
        await world.one.volume.unlink(gone, b"f")
        await world.one.volume.rmdir(ROOT, b"c")
        await quiet(world.one)
        new = await make_folder(world.one, b"c")
        await write(lazy, edited, b"edited")
        await quiet(world.one)
        world.server.floor = world.server.head
        # Nothing is listed after it has started over.
        await quiet(world.one, lazy, is_whole=False)
        assert len(world.server.refusals) < 10
        assert await content(lazy, b"f", new) == b"edited"
        await lazy.stop()

    in_world(scene)


def test_what_is_in_the_way_is_taken_in_also_where_its_folder_was_never_known() -> None:
    async def scene(world: World) -> None:
        await world.two.stop()
        world.two.is_walking = False
        await world.two.start(world.nursery)
        inner = await make_folder(world.one, b"inner", await make_folder(world.one, b"outer"))
        node = await make(world.one, b"a", b"at first")
        await quiet(world.one, world.two, is_whole=False)
        await world.one.volume.rename(ROOT, b"a", inner, b"a", 0)
        await quiet(world.one, world.two, is_whole=False)
        assert world.two.tree.record(inner) is None
        world.two.wire.set_up(False)
        await write(world.two, node, b"edited")
        await world.one.volume.unlink(inner, b"a")
        await make_folder(world.one, b"a", inner)
        await quiet(world.one)
        await quiet(world.one, world.two, is_whole=False)
        assert world.names() == {b"outer", b"inner", b"a", b"a (2)"}
        assert await content(world.one, b"a (2)", inner) == b"edited"

    in_world(scene)


def test_what_is_refused_again_and_again_is_tried_every_five_minutes() -> None:
    async def scene(world: World) -> None:
        troubles = world.one.push.troubles
        for _ in range(2_000):
            troubles.note_refusal([NodeId(5)], "No.")
        assert troubles.nodes[NodeId(5)].again_at == trio.current_time() + 300
        troubles.end(NodeId(5))

    in_world(scene)


def test_an_edit_that_lost_is_not_written_over_by_who_has_the_file_open() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"first")
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await write(world.two, node, b"lost")
        reading = world.two.volume.open(node, is_writing=False, is_truncating=False)
        assert bytes(await world.two.files.read(reading, 0, 100)) == b"lost"
        await trio.sleep(1)
        await write(world.one, node, b"newer")
        await quiet(world.one)
        world.two.sync.hold("for the test")
        world.two.wire.set_up(True)
        world.two.sync.retry_now()
        await trio.sleep(20)
        assert bytes(await world.two.files.read(reading, 0, 100)) == b"newer"
        await write(world.two, node, b"newest")
        world.two.volume.close(reading)
        world.two.sync.hold("")
        await world.quiet()
        assert {b"lost", b"newer", b"newest"} <= contents_kept(world)

    in_world(scene)


def test_a_folder_whose_last_file_waits_to_leave_it_does_not_come_back() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await make(world.one, b"f", b"theirs", folder)
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await make(world.two, b"x", b"mine")
        await world.one.volume.rename(folder, b"f", ROOT, b"x", 0)
        await quiet(world.one)
        await world.one.volume.rmdir(ROOT, b"d")
        await quiet(world.one)
        await world.quiet()
        assert world.names() == {b"x"}

    in_world(scene)


@pytest.mark.parametrize("is_new", [False, True])
def test_a_folder_removed_here_does_not_come_back_for_what_came_and_went_elsewhere(is_new: bool) -> None:
    async def scene(world: World) -> None:
        above = await make_folder(world.one, b"e")
        folder = await make_folder(world.one, b"d", above)
        file = await make(world.one, b"f", b"first", folder)
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        if is_new:
            await make(world.one, b"g", b"theirs", folder)
        else:
            await write(world.one, file, b"theirs")
        await quiet(world.one)
        await world.one.volume.unlink(folder, b"g" if is_new else b"f")
        await quiet(world.one)
        await world.two.volume.unlink(folder, b"f")
        await world.two.volume.rmdir(above, b"d")
        await world.two.volume.rmdir(ROOT, b"e")
        await world.quiet()
        assert world.names() == set()
        assert not world.two.tree.news()

    in_world(scene)


@pytest.mark.parametrize("is_newer", [False, True])
@pytest.mark.parametrize("was_read", [False, True])
def test_who_reads_a_file_that_became_one_with_another_reads_on_in_what_it_was(is_newer: bool, was_read: bool) -> None:
    async def scene(world: World) -> None:
        data = bytes(range(1, 251)) * 300
        world.two.wire.set_up(False)
        await trio.sleep(1)
        if is_newer:
            await make(world.one, b"a", b"theirs")
            await quiet(world.one)
        node = await make(world.two, b"a", data)
        reading = world.two.volume.open(node, is_writing=False, is_truncating=False)
        if was_read:
            assert bytes(await world.two.files.read(reading, 0, 10)) == data[:10]
        if not is_newer:
            await trio.sleep(1)
            await make(world.one, b"a", b"theirs")
            await quiet(world.one)
        await quiet(world.one, world.two)
        assert await content(world.one, b"a") == (data if is_newer else b"theirs")
        assert world.two.files.size(reading.file) == len(data)
        assert bytes(await world.two.files.read(reading, 0, 1 << 20)) == data
        world.two.volume.close(reading)
        await world.quiet()

    in_world(scene)


def test_a_move_that_waits_is_not_forgotten_when_a_touch_of_ours_comes_after_it() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        service = world.two.pull.service
        changes, commit = service.changes, service.commit
        is_sent = trio.Event()

        async def late(space: SpaceId, since: Rev, life: int = 0) -> Changes:
            await is_sent.wait()
            return await changes(space, since, life)

        async def send(space: SpaceId, sent: Commit) -> CommitAnswer:
            answer = await commit(space, sent)
            is_sent.set()
            return answer

        service.changes, service.commit = late, send  # type: ignore[method-assign]
        # The request for news that is on its way ends with this.
        await make(world.one, b"x")
        await quiet(world.one)
        await rename(world.one, b"d", b"f")
        handle = await begin(world.two, await make(world.two, b"f"), b"mine")
        await make(world.two, b"g", b"", folder)
        await trio.sleep(20)
        assert is_sent.is_set()
        end(world.two, handle)
        await world.quiet()
        assert world.names() == {b"x", b"f", b"g", b"f (2)"}
        assert await world.one.volume.lookup(ROOT, b"f") == folder

    in_world(scene)


def test_a_file_goes_with_its_folder_into_one_that_comes_back_for_that_very_file() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        node = await make(world.one, b"f", b"both")
        await world.quiet()
        world.two.wire.set_up(False)
        await trio.sleep(1)
        await world.two.volume.rmdir(ROOT, b"d")
        mine = await make_folder(world.two, b"d")
        await world.two.volume.link(node, mine, b"mine")
        await world.one.volume.link(node, folder, b"theirs")
        await quiet(world.one)
        await world.quiet()
        assert world.names() == {b"d", b"f", b"mine", b"theirs"}
        assert await world.one.volume.lookup(folder, b"mine") == node

    in_world(scene)


@pytest.mark.parametrize("hears_first", [True, False])
def test_a_folder_moved_elsewhere_while_its_times_are_sent_has_its_new_name_alone(hears_first: bool) -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"a")
        await world.quiet()
        service = world.two.pull.service
        commit = service.commit

        async def overtaken(space: SpaceId, touch: Commit) -> CommitAnswer:
            service.commit = commit  # type: ignore[method-assign]
            assert folder in {change.node for change in touch.changes if change.is_touch}
            now = world.server.now[folder]
            assert now.state is not None
            moved = replace(now.state, names=(Name(ROOT, b"b.txt"),))
            change = Change(folder, now.rev, now.edited_ns + 1, moved)
            assert world.server.take(DeviceId(1), Commit(b"0" * 16, (change,))).rev
            if hears_first:
                await world.two.pull.catch_up()
            return await commit(space, touch)

        file = await make(world.two, b"b.txt")
        # Until this is closed, nothing from elsewhere takes its name.
        writing = await begin(world.two, file, b"mine")
        service.commit = overtaken  # type: ignore[method-assign]
        world.two.volume.set_attributes(folder, Setting(mtime_ns=1_000_000_007), None)
        with trio.fail_after(60):
            while service.commit is not commit or world.two.push.is_sending:  # noqa: ASYNC110 - on the test's clock
                await trio.sleep(0.1)
        check_tree(world.two)
        end(world.two, writing)
        await world.quiet()
        assert world.names() == {b"b.txt", b"b (2).txt"}
        assert await world.two.volume.lookup(ROOT, b"b.txt") == folder
        assert world.server.alive()[folder].mtime_ns == 1_000_000_007

    in_world(scene)


def test_a_folder_moved_elsewhere_keeps_its_new_name_when_our_touch_of_it_is_answered_after_the_journal_was_lost() -> (
    None
):
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"d")
        await world.quiet()
        service = world.two.pull.service
        changes, commit = service.changes, service.commit
        is_sent = trio.Event()

        async def late(space: SpaceId, since: Rev, life: int = 0) -> Changes:
            if not is_sent.is_set():
                # Who sent hears first.
                await is_sent.wait()
                await trio.sleep(5)
            return await changes(space, since, life)

        async def send(space: SpaceId, sent: Commit) -> CommitAnswer:
            answer = await commit(space, sent)
            if not is_sent.is_set():
                world.server.floor = world.server.head
                # The folder is touched once more before the answer comes.
                await make(world.two, b"h", b"", folder)
            is_sent.set()
            return answer

        service.changes, service.commit = late, send  # type: ignore[method-assign]
        # The request for news that is on its way ends with this.
        await make(world.one, b"x")
        await quiet(world.one)
        await rename(world.one, b"d", b"f")
        await make(world.two, b"g", b"", folder)
        await is_sent.wait()
        await world.quiet()
        assert world.names() == {b"x", b"f", b"g", b"h"}
        assert await world.two.volume.lookup(ROOT, b"f") == folder

    in_world(scene)


def test_who_gives_way_takes_no_name_that_comes_with_the_other_for_the_first_time() -> None:
    async def scene(world: World) -> None:
        world.two.wire.set_up(False)
        mine = await make(world.two, b"b.txt", b"mine")
        theirs = await world.one.volume.make(ROOT, b"b (2).txt", stat.S_IFLNK | 0o777, ME, target=b"x")
        await world.one.volume.link(theirs, ROOT, b"b.txt")
        await quiet(world.one)
        world.two.wire.set_up(True)
        await world.quiet()
        assert world.names() == {b"b.txt", b"b (2).txt", b"b (3).txt"}
        assert await world.one.volume.lookup(ROOT, b"b (3).txt") == mine

    in_world(scene)


def test_a_file_removed_elsewhere_that_is_open_for_reading_cannot_be_opened_for_writing() -> None:
    """What was written to it could be kept nowhere, and the file would stay among the open ones for ever."""

    async def scene(world: World) -> None:
        node = await make(world.one, b"a", b"at first")
        await world.quiet()
        assert await world.two.content(node) == b"at first"
        reading = world.two.volume.open(node, is_writing=False, is_truncating=False)
        await world.one.volume.unlink(ROOT, b"a")
        await quiet(world.one, world.two)
        with pytest.raises(NoSuchNode):
            world.two.volume.open(node, is_writing=True, is_truncating=True)
        assert bytes(await world.two.files.read(reading, 0, 100)) == b"at first"
        world.two.volume.close(reading)
        assert not world.two.files.has_unflushed
        await world.quiet()
        assert world.names() == set()

    in_world(scene)


def test_a_folder_removed_elsewhere_goes_with_one_that_it_was_moved_into_here_into_another_of_that_name() -> None:
    async def scene(world: World) -> None:
        moved = await make_folder(world.one, b"moved")
        await world.quiet()
        world.two.wire.set_up(False)
        await world.two.volume.rename(ROOT, b"moved", await make_folder(world.two, b"new"), b"moved", 0)
        # By one commit.
        await world.one.volume.rmdir(ROOT, b"moved")
        new = await make_folder(world.one, b"new")
        await quiet(world.one)
        await world.quiet()
        assert world.names() == {b"new", b"moved"}
        assert await world.one.volume.lookup(new, b"moved") == moved

    in_world(scene)


def test_a_folder_kept_alive_in_one_that_was_never_known_here_and_is_removed_comes_to_the_top() -> None:
    async def scene(world: World) -> None:
        await world.two.stop()
        world.two.is_walking = False
        await world.two.start(world.nursery)
        outer = await make_folder(world.one, b"outer")
        inner = await make_folder(world.one, b"inner", outer)
        folder = await make_folder(world.one, b"folder")
        await quiet(world.one, world.two, is_whole=False)
        await world.two.pull.list_folder(folder)
        world.two.wire.set_up(False)
        await make(world.two, b"unsent", b"unsent", folder)
        await world.one.volume.rename(ROOT, b"folder", inner, b"folder", 0)
        await quiet(world.one)
        await world.one.volume.rmdir(inner, b"folder")
        await quiet(world.one)
        await world.one.volume.rmdir(outer, b"inner")
        await quiet(world.one)
        assert world.two.tree.record(inner) is None
        world.two.wire.set_up(True)
        await quiet(world.one, world.two, is_whole=False)
        assert world.names() == {b"outer", b"folder", b"unsent"}
        assert await world.one.volume.lookup(ROOT, b"folder") == folder

    in_world(scene)
