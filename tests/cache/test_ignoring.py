"""What is ignored: it stays here, is never sent, and is sent as soon as it is not ignored any more.

Scenes are played by `in_no_time`, with a clock of their own.
"""

from contextlib import suppress
from random import Random

import pytest
import trio

from cache.errors import CacheError
from cache.ignoring import FILE, FILE_MAX, LINES_MAX, Rules
from fusefs.errors import VolumeError
from fusefs.xattrs import ExtendedAttributes
from remote.protocol.errors import Unreachable
from remote.protocol.ids import ROOT, DeviceId, NodeId
from remote.protocol.messages import Commit
from remote.protocol.nodes import Kind
from tests.cache.test_sync import World, in_world, make, make_folder, save, write
from tests.model.device import Device, check_tree
from tests.model.play import quiet
from tests.model.world import begin, end


async def settled(world: World) -> None:
    """Everything is sent that is to be; trees and indexes are right."""
    await quiet(world.one, world.two)
    for device in (world.one, world.two):
        check_tree(device)


def state_of(device: Device, node: NodeId) -> bytes | None:
    return ExtendedAttributes(device.volume).get(node, b"user.satchel.state")


def sent_names(world: World) -> set[bytes]:
    """Every name that the journal ever had."""
    return {
        name.name
        for version in world.server.all_versions()
        for name in (version.state.names if version.state is not None else ())
    }


async def content_of(device: Device, node: NodeId) -> bytes:
    handle = device.volume.open(node, is_writing=False, is_truncating=False)
    data = bytes(await device.files.read(handle, 0, 1 << 20))
    device.volume.close(handle)
    return data


@pytest.mark.parametrize(
    "path",
    [b".notes.txt.swp", b"a/.x.swp", b".~lock.letter.odt#", b"~$letter.docx", b".DS_Store", b"b/Thumbs.db", b".#notes"],
)
def test_usual_names_of_editors_and_desktops_are_ignored(path: bytes) -> None:
    assert Rules.of("").rule_for(path, is_folder=False)


@pytest.mark.parametrize("path", [b"disk.swp", b"letter.tmp", b"letter~", b".bashrc", b"#1", b"$x", b"\xff.bin"])
def test_names_that_a_person_may_have_given_are_not(path: bytes) -> None:
    assert not Rules.of("").rule_for(path, is_folder=False)


def test_a_line_that_says_nothing_is_no_fault() -> None:
    assert Rules.of("\n  \n# [bad\n\\#a\n\\[bad\n[]-a]\n/a/\n**\n").faults == ()


def test_rules_are_those_of_gitignore_and_faults_are_said() -> None:
    rules = Rules.of("build/\n!Thumbs.db\n!\n# a comment\n/top/*.o\n\\\n")
    assert rules.rule_for(b"x/build", is_folder=True) == "build/"
    assert rules.rule_for(b"x/build/y/z", is_folder=False) == "build/"
    assert not rules.rule_for(b"x/build", is_folder=False)
    assert not rules.rule_for(b"Thumbs.db", is_folder=False)
    assert rules.rule_for(b"top/a.o", is_folder=False)
    assert not rules.rule_for(b"x/top/a.o", is_folder=False)
    assert [fault.split()[1] for fault in rules.faults] == ["3", "6"]


@pytest.mark.parametrize(
    "bad", ["[z-a]", "[[:alpha:]]x", "[a--z]", "x" * 501, "\\", "[bad", "/", "foo[", "x[!", "a//b"]
)
def test_a_bad_line_is_said_and_those_beside_it_hold(bad: str) -> None:
    rules = Rules.of(f"*.o\n{bad}\nbuild/\n")
    assert rules.rule_for(b"a/x.o", is_folder=False) == "*.o"
    assert rules.rule_for(b"build", is_folder=True) == "build/"
    assert not rules.rule_for(b"other", is_folder=False)
    assert [fault.split()[:2] for fault in rules.faults] == [["Line", "2"]]


@pytest.mark.parametrize(
    "line",
    [
        "*-*-*-*-*-*-*.bak",
        "*" * 400 + "x",
        "/".join(["*-*-*[!a]"] * 40) + "/x",
        "**/*-*-*/**/*-*-*x",
        "?*?*?*?*?*?*?*x",
    ],
)
def test_no_line_takes_time_that_grows_with_its_stars(line: str) -> None:
    # With backtracking these would not end in this life.
    rules = Rules.of(f"{line}\n")
    assert not rules.faults
    assert not rules.rule_for(b"/".join([b"-" * 250] * 16), is_folder=False)
    assert not rules.rule_for(b"/".join([b"-"] * 2_000), is_folder=False)


@pytest.mark.parametrize(
    ("line", "path", "is_so"),
    [
        ("*-*-*.bak", b"x/1-2-3-4.bak", True),
        ("*-*-*.bak", b"1-2.bak", False),
        ("*a*b", b"ab/aabab", True),
        ("*ab*ab", b"ab", False),
        ("*ab*ab", b"abxab/below", True),
        ("a*b*c/*d*e", b"axbxbxc/dde", True),
        ("a*b*c/*d*e", b"axb/c/de", False),
        ("x[!a]y", b"x/y", False),
        ("x[!a]*[b-d]*y", b"x1bbdy", True),
        ("*.o", b"new\nline/x.o", True),
        ("*.o", b"x.o\n", False),
        ("a*c*", b"a\nc\xff", True),
        ("*/", b"x/y", True),
        ("a/**/b/**/c", b"a/b/b/1/c", True),
        ("a/**/b/**/c", b"a/1/c/b", False),
        ("**/a/**/b*c*d", b"1/2/a/3/b4c5d", True),
        ("\\**\\[*x", b"*1[2x", True),
    ],
)
def test_stars_match_what_they_match_in_git(line: str, path: bytes, is_so: bool) -> None:
    assert bool(Rules.of(f"{line}\n").rule_for(path, is_folder=False)) is is_so


def test_a_bom_is_no_part_of_the_first_line_and_too_much_is_said() -> None:
    assert Rules.of("\ufeff*.o\n").rule_for(b"x.o", is_folder=False)
    many = Rules.of("*.o\n" * LINES_MAX + "*.c\n")
    assert many.rule_for(b"x.o", is_folder=False)
    assert not many.rule_for(b"x.c", is_folder=False)
    assert len(many.faults) == 1
    large = Rules.of("*.o\n" + "#" * FILE_MAX)
    assert not large.rule_for(b"x.o", is_folder=False)
    assert large.rule_for(b"Thumbs.db", is_folder=False)
    assert len(large.faults) == 1


def test_what_comes_and_goes_within_the_debounce_is_never_sent() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"kept", b"x" * 5_000)
        for number in range(20):
            await make(world.one, b"temporary%d" % number, b"y" * 5_000)
            await world.one.volume.unlink(ROOT, b"temporary%d" % number)
        await save(world.one, b"saved", b"z" * 5_000)
        await world.quiet()
        assert sent_names(world) == {b"", b"kept", b"saved"}

    in_world(scene)


def test_what_is_ignored_is_here_only_also_after_a_kill_and_counts() -> None:
    async def scene(world: World) -> None:
        node = await make(world.one, b".notes.swp", b"unsaved" * 20_000)
        folder = await make_folder(world.one, b"folder")
        other = await make(world.one, b"Thumbs.db", b"small", folder)
        await settled(world)
        for _ in range(2):
            assert state_of(world.one, node) == state_of(world.one, other) == b"ignored"
            assert await content_of(world.one, node) == (b"unsaved" * 20_000)[: 1 << 20]
            assert world.one.stagings.total_bytes >= 140_000
            await world.one.kill()
            await world.one.start(world.nursery)
            await settled(world)
        assert sent_names(world) == {b"", b"folder"}
        # It is edited and removed like any other.
        await write(world.one, node, b"new")
        await settled(world)
        assert await content_of(world.one, node) == b"new"
        await world.one.volume.unlink(ROOT, b".notes.swp")
        await world.one.volume.unlink(folder, b"Thumbs.db")
        await world.quiet()
        assert sent_names(world) == {b"", b"folder"}

    in_world(scene)


def test_a_save_that_renames_an_ignored_name_is_sent() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"letter", b"old")
        fresh = await make(world.one, b".goutputstream-X", b"new")
        await settled(world)
        assert state_of(world.one, fresh) == b"ignored"
        await world.one.volume.rename(ROOT, b".goutputstream-X", ROOT, b"letter", 0)
        await world.quiet()
        assert state_of(world.one, fresh) == b"synced"
        assert sent_names(world) == {b"", b"letter"}

    in_world(scene)


def test_rules_of_another_device_hold_here_and_what_is_synced_stays() -> None:
    async def scene(world: World) -> None:
        before = await make(world.one, b"before.log", b"1")
        await settled(world)
        rules = await make(world.two, FILE, b"*.log\n")
        await settled(world)
        after = await make(world.one, b"after.log", b"2")
        await write(world.one, before, b"edited")
        await settled(world)
        assert state_of(world.one, before) == b"synced"
        assert state_of(world.one, after) == b"ignored"
        assert b"after.log" not in sent_names(world)
        await write(world.two, rules, b"")
        await world.quiet()
        assert state_of(world.one, after) == b"synced"

    in_world(scene)


def test_what_stays_in_step_stays_so_when_it_is_saved_by_rename() -> None:
    async def scene(world: World) -> None:
        await make(world.one, b"notes.log", b"old")
        await settled(world)
        await make(world.one, FILE, b"*.log\n")
        await settled(world)
        await save(world.one, b"notes.log", b"new")
        await world.quiet()
        assert b"notes.log" in world.names()

    in_world(scene)


def test_a_folder_that_is_renamed_takes_what_is_in_it_along() -> None:
    async def scene(world: World) -> None:
        await make(world.one, FILE, b"build/\n")
        await settled(world)
        folder = await make_folder(world.one, b"build")
        inner = await make_folder(world.one, b"inner", folder)
        for number in range(5):
            await make(world.one, b"%d.o" % number, b"x", inner)
        await make(world.one, b".x.swp", b"x", inner)
        await settled(world)
        assert sent_names(world) == {b"", FILE}
        await world.one.volume.rename(ROOT, b"build", ROOT, b"results", 0)
        await settled(world)
        assert sent_names(world) == {b"", FILE, b"results", b"inner", *(b"%d.o" % number for number in range(5))}
        # The server has it now, so back under an ignored name it stays synced.
        await world.one.volume.rename(ROOT, b"results", ROOT, b"build", 0)
        await settled(world)
        assert b"build" in world.names()

    in_world(scene)


def test_what_was_not_sent_yet_stays_here_when_its_folder_gets_an_ignored_name() -> None:
    async def scene(world: World) -> None:
        await make(world.one, FILE, b"build/\n")
        await settled(world)
        world.one.sync.hold("nothing is sent in this scene yet")
        folder = await make_folder(world.one, b"results")
        node = await make(world.one, b"object", b"x", folder)
        # As planning does, round after round.
        assert not any(world.one.push.ignoring.holds(one, world.one.tree.record(one)) for one in (node, folder))
        await world.one.volume.rename(ROOT, b"results", ROOT, b"build", 0)
        world.one.sync.hold("")
        await settled(world)
        assert sent_names(world) == {b"", FILE}
        assert state_of(world.one, node) == state_of(world.one, folder) == b"ignored"

    in_world(scene)


def test_a_synced_file_in_an_ignored_folder_brings_the_folder_along() -> None:
    async def scene(world: World) -> None:
        await make(world.one, FILE, b"build/\n")
        await make(world.one, b"letter", b"x")
        await settled(world)
        folder = await make_folder(world.one, b"build")
        other = await make(world.one, b"object", b"x", folder)
        await settled(world)
        await world.one.volume.rename(ROOT, b"letter", folder, b"letter", 0)
        await settled(world)
        assert world.names() == {FILE, b"build", b"letter"}
        assert state_of(world.one, other) == b"ignored"
        assert state_of(world.one, folder) == b"synced"

    in_world(scene)


def test_a_folder_removed_elsewhere_stays_here_for_what_is_ignored_in_it() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"project")
        inner = await make_folder(world.one, b"inner", folder)
        await make(world.one, b"main.c", b"x", inner)
        await settled(world)
        kept = await make(world.one, b".main.c.swp", b"unsaved", inner)
        await settled(world)
        await world.two.volume.unlink(inner, b"main.c")
        await world.two.volume.rmdir(folder, b"inner")
        await world.two.volume.rmdir(ROOT, b"project")
        await settled(world)
        assert world.names() == set()
        assert await content_of(world.one, kept) == b"unsaved"
        assert state_of(world.one, folder) == state_of(world.one, kept) == b"ignored"
        assert world.two.tree.child(ROOT, b"project") is None
        # Something else in it, and it is everybody's again.
        await make(world.one, b"util.c", b"y", inner)
        await settled(world)
        assert world.names() == {b"project", b"inner", b"util.c"}
        assert state_of(world.one, folder) == b"synced"
        assert state_of(world.one, kept) == b"ignored"
        assert b".main.c.swp" not in sent_names(world)

    in_world(scene)


def test_a_folder_removed_elsewhere_goes_with_what_is_ignored_in_it() -> None:
    async def scene(world: World) -> None:
        folder = await make_folder(world.one, b"project")
        inner = await make_folder(world.one, b"inner", folder)
        await make(world.one, b".main.c.swp", b"unsaved", inner)
        await settled(world)
        await world.two.volume.rmdir(folder, b"inner")
        await world.two.volume.rmdir(ROOT, b"project")
        await settled(world)
        assert world.one.tree.child(ROOT, b"project") == folder
        # The editor is closed.
        await world.one.volume.unlink(inner, b".main.c.swp")
        await settled(world)
        assert world.names() == set()
        assert world.one.tree.child(ROOT, b"project") is None

    in_world(scene)


def test_what_is_ignored_gives_its_name_up_to_what_comes_from_elsewhere_and_is_still_ignored() -> None:
    async def scene(world: World) -> None:
        await make(world.one, FILE, b"*.txt\nbuild\n")
        folder = await make_folder(world.one, b"folder")
        await settled(world)
        mine = await make(world.one, b"list.txt", b"mine")
        below = await make(world.one, b"list.txt", b"below", folder)
        build = await make_folder(world.one, b"build")
        await make(world.one, b"object", b"x", build)
        await settled(world)
        held = await begin(world.one, below, b"open")
        # The server has these two before they have such names.
        theirs = await make(world.two, b"theirs", b"theirs, which are newer")
        file = await make(world.two, b"file", b"a file")
        await settled(world)
        await world.two.volume.rename(ROOT, b"theirs", ROOT, b"list.txt", 0)
        await world.two.volume.link(theirs, folder, b"list.txt")
        await world.two.volume.rename(ROOT, b"file", ROOT, b"build", 0)
        await settled(world)
        tree = world.one.tree
        assert tree.child(ROOT, b"list.txt") == tree.child(folder, b"list.txt") == theirs
        assert tree.child(ROOT, b"build") == file
        for parent, name, node in (
            (ROOT, b"list (ignored here).txt", mine),
            (folder, b"list (ignored here).txt", below),
            (ROOT, b"build (ignored here)", build),
        ):
            assert tree.child(parent, name) == node
            assert state_of(world.one, node) == b"ignored"
        assert await content_of(world.one, mine) == b"mine"
        end(world.one, held)
        # Once more, under the name that it has now.
        other = await make(world.two, b"other", b"other")
        await settled(world)
        await world.two.volume.rename(ROOT, b"other", ROOT, b"list (ignored here).txt", 0)
        await settled(world)
        assert tree.child(ROOT, b"list (ignored here).txt") == other
        assert tree.child(ROOT, b"list (ignored here) (ignored here).txt") == mine
        assert await content_of(world.one, below) == b"open"
        assert sent_names(world) == {
            b"",
            FILE,
            b"folder",
            b"list.txt",
            b"build",
            b"theirs",
            b"file",
            b"other",
            b"list (ignored here).txt",
        }
        assert world.conflicts() == 0

    in_world(scene)


NAMES = (b"a", b"b", b".a.swp", b"x.log", b"build", b"Thumbs.db")
RULES = (b"", b"*.log\n", b"build/\n", b"/a/*.log\nbuild/\n", b"a/\n!Thumbs.db\n")


async def _act(world: World, chosen: Random) -> None:
    """Something that a program may do, on one of the devices; what cannot be done then is left."""
    device = chosen.choice((world.one, world.two))
    tree, volume = device.tree, device.volume
    folders = [ROOT] + [child.node for child in tree.children(ROOT) if child.kind is Kind.FOLDER]
    folder, other = chosen.choice(folders), chosen.choice(folders)
    name = chosen.choice(NAMES)
    content = b"%d" % chosen.getrandbits(40)
    match chosen.randrange(7):
        case 0 | 1:
            await make(device, name, content, folder)
        case 2:
            await make_folder(device, name, folder)
        case 3:
            found = chosen.choice(tree.children(folder))
            if found.kind is Kind.FILE:
                await write(device, found.node, content)
        case 4:
            found = chosen.choice(tree.children(folder))
            await volume.rename(folder, found.name, other, name, 0)
        case 5:
            found = chosen.choice(tree.children(folder))
            await (volume.rmdir if found.kind is Kind.FOLDER else volume.unlink)(folder, found.name)
        case 6:
            rules = tree.child(ROOT, FILE)
            if rules is None:
                await make(device, FILE, chosen.choice(RULES))
            else:
                await write(device, rules, chosen.choice(RULES))


@pytest.mark.parametrize("seed", [*range(20), 172, 297, 713])
def test_whatever_is_done_what_is_not_ignored_is_the_same_everywhere(seed: int) -> None:
    async def scene(world: World) -> None:
        chosen = Random(seed)
        for _ in range(60):
            with suppress(VolumeError, CacheError, IndexError):
                await _act(world, chosen)
            if chosen.random() < 0.2:
                await settled(world)
            if chosen.random() < 0.05:
                await world.one.kill()
                await world.one.start(world.nursery)
        await settled(world)
        alive = world.server.alive()
        for device in (world.one, world.two):
            here = device.local()
            assert {node: here.get(node) for node in alive} == alive
            for node in here.keys() - alive.keys():
                assert state_of(device, node) == b"ignored", device.tree.path_of(node)
                assert device.tree.is_ignored(node)
            for node, _ in device.tree.ignored():
                assert device.push.ignoring.holds(node, device.tree.record(node)), device.tree.path_of(node)
            # What is kept here only is all there.
            for node, state in here.items():
                if state.kind is Kind.FILE:
                    content = await content_of(device, node)
                    assert content.isdigit() or content in RULES

    in_world(scene)


def test_what_gets_an_ignored_name_before_a_late_commit_of_it_is_heard_of_is_not_ignored() -> None:
    async def scene(world: World) -> None:
        late: list[Commit] = []

        def hold(commit: Commit) -> None:
            if any(change.node != ROOT for change in commit.changes):
                late.append(commit)
                world.one.wire.set_up(False)
                raise Unreachable("it is on its way for long")

        world.one.wire.before_commit = hold
        node = await make(world.one, b"a", b"content")
        while not late:  # noqa: ASYNC110 - on the test's clock
            await trio.sleep(0.1)
        await world.one.kill()
        await world.one.start(world.nursery)
        await world.one.volume.rename(ROOT, b"a", ROOT, b".a.swp", 0)
        world.one.wire.set_up(True)
        world.one.sync.retry_now()
        while not world.one.tree.is_ignored(node):  # noqa: ASYNC110
            await trio.sleep(0.1)
        world.one.wire.before_commit = lambda commit: None
        assert world.server.take(DeviceId(1), late[0]).rev
        await settled(world)
        assert not world.one.tree.is_ignored(node)
        assert world.names() == {b".a.swp"}

    in_world(scene)
