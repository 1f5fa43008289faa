"""Trash: what was removed is listed once, and comes back as it was, where it was."""

import secrets
from typing import Any

import pytest

from remote.protocol.errors import InTheWay, NotFound
from remote.protocol.history import Done, PutBackRequest, Removed, Trash, TrashRequest
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import EMPTY, Kind, Manifest, Name
from remote.protocol.sharing import Shared, ShareRequest, Wish
from remote.server import trash as trash_module

pytestmark = pytest.mark.anyio


async def trash(ann: Any, before: int = 0, limit: int = 100) -> Trash:
    return await ann.in_space("trash", TrashRequest(Rev(before), limit), Trash)


async def listed(ann: Any) -> list[Removed]:
    return list((await trash(ann)).removed)


async def put_back(ann: Any, *nodes: NodeId) -> Done:
    return await ann.in_space("trash/restore", PutBackRequest(secrets.token_bytes(16), nodes), Done)


async def remove(ann: Any, build: Any, *nodes: NodeId) -> int:
    revs = [(await ann.node(node)).rev for node in nodes]
    return int(await ann.made(*(build.change(node, None, rev) for node, rev in zip(nodes, revs, strict=True))))


async def test_a_removed_folder_stands_for_what_was_in_it(ann: Any, build: Any) -> None:
    top = await ann.new_folder(b"work")
    deep = await ann.new_folder(b"deep", top)
    early = await ann.new_file(b"early", top)
    files = [await ann.new_file(b"file-%d" % n, deep, Manifest(3, b"abc")) for n in range(3)]
    before = (await ann.listing(deep)).folders[0]
    assert await listed(ann) == []
    # As rm -r does it: what is in it first, in commits of its own.
    for node in (*files, early, deep):
        await remove(ann, build, node)
    rev = await remove(ann, build, top)
    (one,) = await listed(ann)
    assert (one.node, one.rev, one.kind, one.path, one.nodes, one.size) == (top, rev, "folder", b"work", 6, 9)
    assert (one.user_name, one.device_name, one.time_ns > 0) == ("ann", "desk1", True)

    done = await put_back(ann, top)
    assert done.did.added == 6
    assert [path.path for path in done.did.differences][:2] == [b"work", b"work/deep"]
    after = (await ann.listing(deep)).folders[0]
    assert after.names == before.names
    assert [child.state.content for child in after.children] == [child.state.content for child in before.children]
    assert await listed(ann) == []
    with pytest.raises(NotFound, match="not removed"):
        await put_back(ann, top)


async def test_what_lost_its_folder_brings_that_back_and_nothing_else(ann: Any, build: Any) -> None:
    top = await ann.new_folder(b"work")
    deep = await ann.new_folder(b"deep", top)
    node, other = await ann.new_file(b"a", deep), await ann.new_file(b"b", deep)
    await remove(ann, build, node, other, deep, top)
    await put_back(ann, node)
    assert (await ann.names(), await ann.names(top), await ann.names(deep)) == ([b"work"], [b"deep"], [b"a"])
    assert (await ann.node(other)).state is None


async def test_what_was_replaced_is_no_trash_and_a_taken_name_is_avoided(ann: Any, build: Any) -> None:
    old = await ann.new_file(b"report.odt")
    new = await ann.new_id()
    # As an editor saves: a new file under the old name.
    await ann.made(build.change(old, None, (await ann.node(old)).rev), build.change(new, build.file(b"report.odt")))
    assert await listed(ann) == []
    await put_back(ann, old)
    assert await ann.names() == [b"report (restored).odt", b"report.odt"]
    again = await ann.new_file(b"other")
    await remove(ann, build, again, old)
    await ann.made(
        build.change(await ann.new_id(), build.file(b"other")),
        build.change(await ann.new_id(), build.file(b"other (restored)")),
    )
    await put_back(ann, again)
    assert b"other (restored 2)" in await ann.names()


async def test_a_long_list_comes_in_pages(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [await ann.new_file(b"%d" % number) for number in range(9)]
    for node in nodes[:5]:
        await remove(ann, build, node)
    await remove(ann, build, *nodes[5:])
    for looked in (5_000, 3):
        monkeypatch.setattr(trash_module, "LOOKED_MAX", looked)
        seen: list[NodeId] = []
        before = 0
        for _ in range(10):
            answer = await trash(ann, before, limit=2)
            seen += [one.node for one in answer.removed]
            before = answer.next
            if not before:
                break
        assert sorted(seen) == sorted(nodes)
        assert seen[4:] == nodes[4::-1]


async def test_hard_links_come_back_where_there_are_folders(ann: Any, build: Any) -> None:
    one, two = await ann.new_folder(b"one"), await ann.new_folder(b"two")
    node = await ann.new_id()
    names = (Name(one, b"a"), Name(two, b"b"))
    await ann.made(build.change(node, build.state(Kind.FILE, names, content=EMPTY)))
    await remove(ann, build, node)
    await remove(ann, build, two)
    await put_back(ann, node)
    assert (await ann.names(one), await ann.names(ROOT)) == ([b"a"], [b"one"])


async def test_what_was_in_a_folder_that_is_shared_now_is_refused_with_what_to_do(
    ann: Any, bob: Any, build: Any
) -> None:
    top = await ann.new_folder(b"work")
    deep = await ann.new_folder(b"deep", top)
    gone = [await ann.new_file(b"gone", parent) for parent in (top, deep)]
    for node in gone:
        await remove(ann, build, node)
    await ann.ask("POST", "/v1/shares/make", ShareRequest(ann.home, top, (Wish("bob", "editor"),)), Shared)
    assert {one.node for one in await listed(ann)} == set(gone)
    head = (await ann.space()).head
    for node in gone:
        with pytest.raises(InTheWay, match=r"gone was in a folder that is shared now.*satchel trash restore"):
            await put_back(ann, node)
    assert (await ann.space()).head == head
