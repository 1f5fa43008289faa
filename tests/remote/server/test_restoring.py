"""What a path was, brought back on the server: in place and beside, without what came since being touched."""

from typing import Any

import pytest

from remote.protocol.ids import ROOT
from remote.protocol.nodes import Kind, Manifest, Name
from tests.remote.server.test_api import Script

pytestmark = pytest.mark.anyio


async def restored(script: Script, status: int = 200, **body: Any) -> Any:
    return await script.ask("POST", "/restore", body, status)


async def test_a_folder_comes_back_and_what_came_since_stays(ann: Any, build: Any) -> None:
    script = Script(ann)
    work = await ann.new_folder(b"work")
    kept = await ann.new_file(b"kept", work, Manifest(3, b"old"))
    gone = await ann.new_file(b"gone", work, Manifest(4, b"gone"))
    deep = await ann.new_folder(b"deep", work)
    await ann.new_file(b"deeper", deep, Manifest(6, b"deeper"))
    then = (await ann.space()).head
    at = await ann.made(build.change(kept, build.file(b"kept", work, Manifest(3, b"new")), then - 3))
    await ann.made(build.change(gone, None, then - 2))
    await ann.new_file(b"fresh", work)
    planned = await restored(script, path="work", to=str(then), dry_run=True)
    assert (planned["rev"], planned["did"]["changed"], planned["did"]["added"]) == (0, 1, 1)
    assert (await ann.space()).head == at + 2
    done = await restored(script, path="work", to=str(then))
    assert (done["rev"], done["of"]) == (at + 3, then)
    assert await ann.names(work) == [b"deep", b"fresh", b"gone", b"kept"]
    assert (await ann.node(kept)).state.content == Manifest(3, b"old")
    # It is the same node, with its history.
    assert (await ann.node(gone)).state.content == Manifest(4, b"gone")
    # A second time there is nothing to do.
    assert (await restored(script, path="work", to=str(then)))["rev"] == 0


async def test_a_removed_tree_comes_back_where_it_was(ann: Any, build: Any) -> None:
    script = Script(ann)
    top = await ann.new_folder(b"top")
    work = await ann.new_folder(b"work", top)
    node = await ann.new_file(b"a", work, Manifest(1, b"a"))
    then = (await ann.space()).head
    await ann.made(
        build.change(node, None, then), build.change(work, None, then - 1), build.change(top, None, then - 2)
    )
    assert await ann.names() == []
    await restored(script, path="top/work/a", to=str(then))
    assert (await ann.names(), await ann.names(top), await ann.names(work)) == ([b"top"], [b"work"], [b"a"])
    assert (await ann.node(node)).state.content == Manifest(1, b"a")


async def test_beside_leaves_what_is_there_alone(ann: Any, build: Any) -> None:
    script = Script(ann)
    work = await ann.new_folder(b"work")
    node = await ann.new_file(b"a.txt", work, Manifest(3, b"old"))
    other = await ann.new_id()
    both = (Name(work, b"one"), Name(work, b"two"))
    await ann.made(build.change(other, build.state(Kind.FILE, both, content=Manifest(4, b"link"))))
    then = (await ann.space()).head
    await ann.made(build.change(node, build.file(b"a.txt", work, Manifest(3, b"new")), then - 1))
    await restored(script, path="work/a.txt", to=str(then), beside=True)
    assert b"a (rev %d).txt" % then in await ann.names(work)
    assert (await ann.node(node)).state.content == Manifest(3, b"new")
    done = await restored(script, path="work", to=str(then), beside=True)
    (copy,) = [one for one in done["did"]["differences"] if one["path"] == f"work (rev {then})"]
    listed = (await ann.listing(int(copy["node"]))).folders[0]
    assert list(listed.names) == [b"a.txt", b"one", b"two"]
    # Links among what is copied are links again.
    assert listed.children[1].node == listed.children[2].node != other


async def test_what_moved_away_comes_back_as_a_copy(ann: Any, build: Any) -> None:
    script = Script(ann)
    work = await ann.new_folder(b"work")
    node = await ann.new_file(b"a", work, Manifest(1, b"a"))
    then = (await ann.space()).head
    await ann.made(build.change(node, build.file(b"moved", ROOT, Manifest(1, b"a")), then))
    await restored(script, path="work", to=str(then))
    assert await ann.names() == [b"moved", b"work"]
    (back,) = (await ann.listing(work)).folders[0].children
    assert back.node != node
    assert back.state.content == Manifest(1, b"a")


async def test_what_cannot_be_restored_is_said(ann: Any, bob: Any, build: Any) -> None:
    script = Script(ann)
    node = await ann.new_file(b"a")
    then = (await ann.space()).head
    await ann.made(build.change(node, None, then))
    folder = await ann.new_folder(b"a")
    for body, status in (
        ({"path": "nowhere", "to": str(then)}, 404),
        ({"path": "a", "to": "9999"}, 404),
        ({"path": "a", "to": str(then)}, 409),
        ({"path": "/", "to": str(then), "beside": True}, 400),
        ({"path": "a", "to": str(then), "besides": True}, 400),
    ):
        await restored(script, status, **body)
    assert (await ann.node(folder)).state.kind == Kind.FOLDER
    answer = await ann.http.post(
        script.space + "/restore",
        headers={"authorization": f"Bearer {bob.login.token}"},
        json={"path": "a", "to": str(then), "beside": True},
    )
    assert answer.status_code == 404


@pytest.mark.parametrize("keep", ["current", "lost"])
async def test_a_conflict_is_settled_either_way(ann: Any, build: Any, keep: str) -> None:
    script = Script(ann)
    node = await ann.new_file(b"a", ROOT, Manifest(3, b"won"))
    lost = build.change(node, build.file(b"a", ROOT, Manifest(4, b"lost")), is_conflict=True)
    await ann.made(lost)
    (found,) = (await script.ask("GET", "/conflicts"))["conflicts"]
    assert (found["file"], found["lost"]["size_bytes"], found["current"]["size_bytes"]) == (str(node), 4, 3)
    settle = {"file": found["file"], "rev": found["lost"]["rev"], "keep": keep}
    await script.ask("POST", "/conflicts/settle", settle)
    expected = Manifest(3, b"won") if keep == "current" else Manifest(4, b"lost")
    assert (await ann.node(node)).state.content == expected
    assert (await script.ask("GET", "/conflicts"))["conflicts"] == []
    await script.ask("POST", "/conflicts/settle", {**settle, "keep": "lost"}, 404)
