"""Rewinding and undoing: one commit that makes a folder what it was, whatever was done to it since."""

import secrets
from typing import Any

import pytest

from remote.protocol.errors import BadRequest, InTheWay, NotFound
from remote.protocol.history import Differences, DiffRequest, Done, RewindRequest, UndoRequest
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Moments, MomentsRequest
from remote.protocol.nodes import Kind, Manifest, Name
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


def inline(text: bytes) -> Manifest:
    return Manifest(len(text), text)


async def rewind(ann: Any, folder: NodeId, to: int, **fields: Any) -> Done:
    request = RewindRequest(fields.pop("op_id", secrets.token_bytes(16)), folder, Rev(to), **fields)
    return await ann.in_space("rewind", request, Done)


async def undo(ann: Any, rev: int = 0, **fields: Any) -> Done:
    return await ann.in_space("undo", UndoRequest(secrets.token_bytes(16), Rev(rev), **fields), Done)


async def diff(ann: Any, folder: NodeId, since: int, to: int = 0, limit: int = 1_000) -> Differences:
    return await ann.in_space("diff", DiffRequest(folder, Rev(since), Rev(to), limit), Differences)


async def tree(ann: Any, top: NodeId = ROOT, as_of: int = 0, path: bytes = b"") -> dict[bytes, Any]:
    """Every path with its node and state, but for the times that a rewind may not set back."""
    found: dict[bytes, Any] = {}
    listed = (await ann.listing(top, as_of=as_of)).folders[0]
    for name, child in zip(listed.names, listed.children, strict=True):
        state = child.state
        found[path + name] = (child.node, state.kind, state.mode, state.mtime_ns, state.content, state.names)
        if state.kind is Kind.FOLDER:
            found |= await tree(ann, child.node, as_of, path + name + b"/")
    return found


async def head(ann: Any) -> int:
    return int((await ann.space()).head)


def whats(found: Differences) -> list[tuple[str, bytes]]:
    return [(one.what, one.path) for one in found.differences]


@pytest.fixture
async def made(ann: Any, build: Any) -> dict[str, NodeId]:
    """work/ with a.txt, deep/ with b.txt, and other/ beside it."""
    work = await ann.new_folder(b"work")
    deep = await ann.new_folder(b"deep", work)
    return {
        "work": work,
        "deep": deep,
        "other": await ann.new_folder(b"other"),
        "a": await ann.new_file(b"a.txt", work, inline(b"one")),
        "b": await ann.new_file(b"b.txt", deep, inline(b"bee")),
    }


async def spoil(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    """Everything that can be done to a tree."""
    base = {name: (await ann.node(node)).rev for name, node in made.items()}
    await ann.made(build.change(made["a"], build.file(b"a.txt", made["work"], inline(b"two, longer")), base["a"]))
    moved = await ann.made(build.change(made["b"], build.file(b"moved.txt", made["work"], inline(b"bee")), base["b"]))
    await ann.made(build.change(made["b"], None, moved))
    await ann.made(build.change(made["deep"], None, base["deep"]))
    await ann.new_file(b"deep", made["work"], inline(b"a file where a folder was"))
    new = await ann.new_folder(b"new", made["work"])
    await ann.new_file(b"in it", new, inline(b"n"))
    await ann.made(build.change(made["work"], build.folder(b"renamed", mode=0o700), (await ann.node(made["work"])).rev))


async def test_the_whole_space_is_as_it_was_in_one_commit(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    then = await head(ann)
    before, used = await tree(ann), (await ann.space()).used
    await spoil(ann, build, made)
    spoilt = await tree(ann)
    planned = await rewind(ann, ROOT, then, is_dry_run=True)
    assert (await tree(ann), planned.rev) == (spoilt, 0)
    done = await rewind(ann, ROOT, then)
    assert done.rev == await head(ann)
    assert done.did == planned.did
    assert sorted(whats(done.did)) == [
        ("added", b"work/deep"),
        ("added", b"work/deep/b.txt"),
        ("changed", b"work/a.txt"),
        ("moved", b"work"),
        ("removed", b"renamed/deep"),
        ("removed", b"renamed/new"),
        ("removed", b"renamed/new/in it"),
    ]
    assert (done.did.added, done.did.removed, done.did.changed, done.did.moved) == (2, 3, 1, 1)
    assert await tree(ann) == before
    assert (await ann.space()).used == used
    # The journal tells devices of it in one step, as of no device.
    (commit,) = (await ann.changes(done.rev - 1)).commits
    assert (commit.device, len(commit.changes)) == (0, 7)
    # And it is undone, and that again.
    undone = await undo(ann)
    assert (undone.of, undone.kept) == (done.rev, 0)
    assert await tree(ann) == spoilt
    assert (await undo(ann)).of == undone.rev
    assert await tree(ann) == before
    assert (await rewind(ann, ROOT, then)).rev == 0


async def test_a_folder_is_rewound_and_nothing_outside_of_it(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    outside = await ann.new_file(b"outside.txt", made["other"], inline(b"o"))
    moved_in = await ann.new_folder(b"guest", made["other"])
    then = await head(ann)
    before = await tree(ann, made["work"])
    rev = {node: (await ann.node(node)).rev for node in (*made.values(), outside, moved_in)}
    # What moved out comes back; what moved in goes back out, with what is made in it since.
    await ann.made(build.change(made["a"], build.file(b"a.txt", made["other"], inline(b"edited")), rev[made["a"]]))
    await ann.made(build.change(outside, build.file(b"in.txt", made["work"], inline(b"new")), rev[outside]))
    await ann.made(build.change(moved_in, build.folder(b"guest", made["work"]), rev[moved_in]))
    await ann.new_file(b"of the guest", moved_in)
    elsewhere = await ann.new_file(b"elsewhere")
    done = await rewind(ann, made["work"], then)
    assert done.rev
    assert await tree(ann, made["work"]) == before
    there = await tree(ann, made["other"])
    assert sorted(there) == [b"guest", b"guest/of the guest", b"outside.txt"]
    # With its newer content.
    assert there[b"outside.txt"][4] == inline(b"new")
    assert (await ann.node(elsewhere)).state is not None


async def test_what_is_in_a_folder_that_moved_out_has_its_name_once(
    ann: Any, build: Any, made: dict[str, NodeId]
) -> None:
    then, before = await head(ann), await tree(ann, made["work"])
    await ann.made(build.change(made["deep"], build.folder(b"deep", made["other"]), (await ann.node(made["deep"])).rev))
    edited = build.file(b"b.txt", made["deep"], inline(b"edited"))
    await ann.made(build.change(made["b"], edited, (await ann.node(made["b"])).rev))
    await rewind(ann, made["work"], then)
    assert await tree(ann, made["work"]) == before
    assert (await ann.node(made["b"])).state.names == (Name(made["deep"], b"b.txt"),)


async def test_hard_links_lose_only_names_that_are_rewound(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    then = await head(ann)
    names = (Name(made["work"], b"a.txt"), Name(made["work"], b"late"), Name(made["other"], b"kept"))
    state = build.state(Kind.FILE, names, content=inline(b"two"))
    await ann.made(build.change(made["a"], state, (await ann.node(made["a"])).rev))
    await rewind(ann, made["work"], then)
    found = (await ann.node(made["a"])).state
    assert sorted(found.names) == sorted((names[0], names[2]))
    assert found.content == inline(b"one")


async def test_what_changed_again_is_left_by_undo(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    revs = {name: (await ann.node(node)).rev for name, node in made.items()}
    rev = await ann.made(
        build.change(made["a"], build.file(b"a.txt", made["work"], inline(b"two")), revs["a"]),
        build.change(made["b"], build.file(b"b.txt", made["deep"], inline(b"two")), revs["b"]),
    )
    await ann.made(build.change(made["b"], build.file(b"b.txt", made["deep"], inline(b"three")), rev))
    done = await undo(ann, rev)
    assert (done.of, done.kept, whats(done.did)) == (rev, 1, [("changed", b"work/a.txt")])
    assert (await ann.node(made["b"])).state.content == inline(b"three")


async def test_what_the_server_did_for_a_device_is_said_to_be_of_that(
    ann: Any, sign_in: Any, build: Any, instance: Instance, made: dict[str, NodeId]
) -> None:
    laptop = await sign_in("ann")
    sql = "UPDATE device SET device_name = 'laptop' WHERE user_id = ? AND device_id = ?"
    instance.database.write_now(lambda session: session.run(sql, laptop.login.user, laptop.login.device))
    base = (await ann.node(made["a"])).rev
    rev = await ann.made(build.change(made["a"], build.file(b"a.txt", made["work"], inline(b"two")), base))
    for asking in (laptop, ann):
        rev = (await undo(asking, rev)).rev
    found = (await ann.history(made["a"])).versions[:3]
    assert [one.device_name for one in found] == ["desk1", "laptop", "desk1"]
    assert {one.user_name for one in found} == {"ann"}
    moments = (await ann.in_space("moments", MomentsRequest(made["work"], 3), Moments)).moments
    assert [one.device_name for one in moments] == ["desk1", "laptop", "desk1"]
    # The journal still says that it is no device's own.
    assert found[0].device == 0
    # Who made it without any device has none.
    sql = "UPDATE journal SET op_id = ? WHERE space_id = ? AND rev = ?"
    instance.database.write_now(lambda session: session.run(sql, secrets.token_bytes(16), ann.home, rev))
    assert (await ann.history(made["a"])).versions[0].device_name == ""


async def test_undo_without_a_rev_is_of_this_device_only(
    ann: Any, sign_in: Any, build: Any, instance: Instance, made: dict[str, NodeId]
) -> None:
    laptop = await sign_in("ann")
    own = await head(ann)
    theirs = await laptop.new_file(b"of the laptop")
    # What came by a link or by WebDAV has no device, and the same user.
    await laptop.new_file(b"of a stranger")
    sql = "UPDATE journal SET device_id = 0 WHERE space_id = ? AND rev = ?"
    instance.database.write_now(lambda session: session.run(sql, ann.home, own + 2))
    assert (await undo(ann, is_dry_run=True)).of == own
    assert (await undo(laptop)).of == own + 1
    assert (await ann.node(theirs)).state is None
    # What it asked for is its own; nobody else's.
    assert (await undo(laptop, is_dry_run=True)).of == own + 3
    assert (await undo(ann, is_dry_run=True)).of == own


async def test_what_is_in_the_way_is_named(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    node = await ann.new_folder(b"fresh")
    rev = await head(ann)
    await ann.new_file(b"in it", node)
    with pytest.raises(InTheWay, match="not empty"):
        await undo(ann, rev)
    assert (await ann.node(node)).state is not None


async def test_asked_again_it_is_done_once(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    then = await head(ann)
    await spoil(ann, build, made)
    op_id = secrets.token_bytes(16)
    first = await rewind(ann, ROOT, then, op_id=op_id)
    again = await rewind(ann, ROOT, then, op_id=op_id)
    assert (again.rev, again.did.added) == (first.rev, first.did.added)
    assert await head(ann) == first.rev


async def test_differences_of_a_folder(ann: Any, build: Any, made: dict[str, NodeId]) -> None:
    then = await head(ann)
    await spoil(ann, build, made)
    now = await head(ann)
    found = await diff(ann, made["work"], then)
    assert whats(found) == [
        ("attributes", b"."),
        ("changed", b"a.txt"),
        ("added", b"deep"),
        ("removed", b"deep"),
        ("removed", b"deep/b.txt"),
        ("added", b"new"),
        ("added", b"new/in it"),
    ]
    changed = next(one for one in found.differences if one.what == "changed")
    assert (changed.was_size, changed.size, changed.kind) == (3, 11, "file")
    assert len((await diff(ann, made["work"], then, now, 1)).differences) == 1
    assert whats(await diff(ann, made["other"], then)) == []
    with pytest.raises(BadRequest, match="backwards"):
        await diff(ann, ROOT, now, then)
    with pytest.raises(NotFound):
        await diff(ann, ROOT, now + 1)


async def test_what_is_kept_in_a_folder_by_a_program_is_passed_over(ann: Any, build: Any) -> None:
    papers = await ann.new_folder(b"papers", await ann.new_folder(b"Backups"))
    own, copy = await ann.new_id(), await ann.new_id()
    last = await ann.made(
        build.change(own, build.file(b"own", content=inline(b"person"))),
        build.change(copy, build.file(b"a", papers, inline(b"1"))),
    )
    await ann.made(build.change(copy, build.file(b"a", papers, inline(b"22")), last))
    found = await undo(ann, is_dry_run=True)
    assert (found.of, whats(found.did)) == (last + 1, [("changed", b"Backups/papers/a")])
    found = await undo(ann, passing=(papers,))
    assert (found.of, whats(found.did)) == (last, [("removed", b"own")])
    # What was taken back is an act of a person, wherever that is.
    assert (await undo(ann, is_dry_run=True, passing=(papers,))).of == found.rev
    assert whats((await undo(ann, last + 1, passing=(papers,))).did) == [("changed", b"Backups/papers/a")]


async def test_what_a_person_moves_out_of_such_a_folder_is_not_passed_over(ann: Any, build: Any) -> None:
    papers = await ann.new_folder(b"papers")
    copy = await ann.new_file(b"a", papers, inline(b"1"))
    moved = await ann.made(build.change(copy, build.file(b"a", content=inline(b"1")), await head(ann)))
    assert (await undo(ann, is_dry_run=True, passing=(papers,))).of == moved
    with pytest.raises(NotFound, match="nothing yet"):
        await undo(ann, is_dry_run=True, passing=(ROOT,))


async def test_what_cannot_be(ann: Any, bob: Any, build: Any, made: dict[str, NodeId]) -> None:
    for rev in (0, 10_000):
        with pytest.raises(NotFound):
            await rewind(ann, ROOT, rev)
    with pytest.raises(NotFound, match="did not exist"):
        await rewind(ann, made["work"], 1)
    with pytest.raises(NotFound):
        await undo(ann, 10_000)
    with pytest.raises(NotFound, match="nothing yet"):
        await undo(bob)
    with pytest.raises(BadRequest, match="op_id"):
        await rewind(ann, ROOT, 1, op_id=b"short")
    for request, what in ((RewindRequest(b"x" * 16, ROOT, Rev(1)), "rewind"), (UndoRequest(b"x" * 16), "undo")):
        with pytest.raises(NotFound, match="no member"):
            await bob.in_space(what, request, Done, ann.home)
