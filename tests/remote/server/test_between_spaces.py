"""Moves and copies from one space to another: nothing is uploaded, and a crash leaves both commits or none."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Done, FolderQuery, Listing, ListRequest
from remote.protocol.nodes import Kind, Name
from remote.protocol.sharing import LimitRequest, Shared, SharedSpaceRequest, ShareRequest, Wish
from remote.server import commits
from remote.server.database import spaces as space_rows
from remote.server.edits import By, Place
from remote.server.instance import Instance
from remote.server.upkeep.collecting import Collector
from tests.remote.server.test_api_files import Script

pytestmark = pytest.mark.anyio
LONG = random.Random(3).randbytes(3_000_000)


@dataclass
class Team:
    """Ann's folder `team` is shared with bob: ann's script, bob's, and the space."""

    ann: Script
    bob: Script
    asker: Any
    space: int
    mount: NodeId

    async def names(self, space: int = 0, folder: int = ROOT) -> list[bytes]:
        query = ListRequest((FolderQuery(NodeId(folder)),), Rev(0))
        return list((await self.asker.in_space("list", query, Listing, space or self.space)).folders[0].names)

    async def tree(self, who: Script, file: str, space: str) -> dict[str, bytes]:
        """What is below a folder, by name."""
        found: dict[str, bytes] = {}
        listed = await who.ask("GET", f"/files/{file}/children", params={"space": space})
        for one in listed["files"]:
            if one["kind"] == "folder":
                below = await self.tree(who, one["file"], one["space"])
                found |= {f"{one['name']}/{name}": content for name, content in below.items()}
            else:
                found[one["name"]] = await who.content(one["file"], params={"space": one["space"]})
        return found


async def shared(ann: Any, bob: Any, name: bytes, role: str = "editor") -> tuple[int, NodeId]:
    folder = await ann.new_folder(name)
    request = ShareRequest(ann.home, folder, (Wish("bob", role),))
    made = await ann.ask("POST", "/v1/shares/make", request, Shared)
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(made.space), Shared)
    return made.space, folder


@pytest.fixture
async def team(ann: Any, bob: Any) -> Team:
    space, folder = await shared(ann, bob, b"team")
    return Team(Script(ann), Script(bob), ann, space, folder)


@pytest.fixture
async def work(team: Team) -> str:
    """Ann's work/{long.bin, sub/small.txt}, at home."""
    made = await team.ann.ask("POST", "/folders", 201, json={"path": "work"})
    await team.ann.put("work/long.bin", LONG)
    await team.ann.ask("POST", "/folders", 201, json={"path": "work/sub"})
    await team.ann.put("work/sub/small.txt", b"small")
    return str(made["file"])


WORK = {"long.bin": LONG, "sub/small.txt": b"small"}


async def test_a_folder_moves_into_a_shared_one_and_its_history_stays(team: Team, work: str, ann: Any) -> None:
    before = (await ann.space()).head
    moved = await team.ann.ask("PATCH", f"/files/{work}", json={"path": "team/work"})
    assert (moved["path"], moved["space"]) == ("work", str(team.space))
    assert moved["file"] != work
    assert await team.tree(team.bob, moved["file"], moved["space"]) == WORK
    # Gone here by one commit, and in the trash.
    assert (await ann.space()).head == before + 1
    assert await ann.names() == [b"team"]
    removed = (await team.ann.ask("GET", f"/spaces/{ann.home}/trash"))["removed"]
    assert [one["path"] for one in removed] == ["work"]
    assert await ann.names(NodeId(int(work)), as_of=before) == [b"long.bin", b"sub"]


async def test_a_file_moves_home_out_of_a_shared_folder_for_whoever_may_write_there(team: Team, bob: Any) -> None:
    made = await team.bob.put("team/a", LONG)
    moved = await team.bob.ask("PATCH", f"/files/{made['file']}", json={"path": "mine", "space": "", "mode": "0600"})
    assert (moved["path"], moved["space"], moved["mode"]) == ("mine", str(bob.home), "0600")
    assert moved["created"] == made["created"]
    assert await team.bob.content(moved["file"]) == LONG
    assert await team.names() == []


async def test_copies_go_between_two_shared_folders(team: Team, ann: Any, bob: Any) -> None:
    other, _ = await shared(ann, bob, b"other", "viewer")
    await team.ann.put("other/a", LONG)
    (source,) = (await team.bob.ask("GET", "/files/1/children", params={"space": str(other)}))["files"]
    # A viewer may read, so he may have a copy.
    target = {"path": "a", "space": str(team.space)}
    copied = await team.bob.ask("POST", f"/files/{source['file']}/copy", 201, json=target)
    assert (copied["space"], copied["path"]) == (str(team.space), "a")
    assert await team.ann.content(copied["file"]) == LONG
    # And nothing else.
    await team.bob.ask("PATCH", f"/files/{source['file']}", 403, json={**target, "path": "b"})
    await team.bob.ask("POST", f"/files/{copied['file']}/copy", 403, json={"path": "b", "space": str(other)})
    assert (await team.names(), await team.names(other)) == ([b"a"], [b"a"])


async def test_a_copy_of_a_folder_has_what_is_in_shared_ones_below_it(team: Team, work: str, ann: Any) -> None:
    await team.ann.ask("PATCH", f"/files/{team.mount}", json={"path": "work/team"})
    await team.ann.put("work/team/inside", LONG[::-1])
    copied = await team.ann.ask("POST", f"/files/{work}/copy", 201, json={"path": "copy"})
    assert await team.tree(team.ann, copied["file"], copied["space"]) == {**WORK, "team/inside": LONG[::-1]}
    ours = await team.ann.ask("GET", "/files", params={"path": "copy/team"})
    assert (ours["space"], ours["shared_space"]) == (str(ann.home), "")
    # The shared one itself, and all of a space, are copied as ordinary folders, too.
    for file, space in ((str(team.mount), ""), ("1", str(team.space))):
        asked = {"params": {"space": space}, "json": {"path": f"of {file}", "space": ""}}
        copied = await team.ann.ask("POST", f"/files/{file}/copy", 201, **asked)
        assert await team.tree(team.ann, copied["file"], copied["space"]) == {"inside": LONG[::-1]}
    # But never into itself, and what is shared moves nowhere.
    into = {"path": "work/team/again"}
    assert (await team.ann.ask("POST", f"/files/{work}/copy", 403, json=into))["code"] == "not-allowed"
    assert "which stays" in (await team.ann.ask("PATCH", f"/files/{work}", 403, json=into))["message"]
    assert await team.names() == [b"inside"]


async def test_links_among_what_moves_are_kept_and_a_name_elsewhere_stays(team: Team, ann: Any, build: Any) -> None:
    folder = await ann.new_folder(b"links")
    node, link = await ann.new_id(), await ann.new_id()
    names = (Name(folder, b"one"), Name(folder, b"two"), Name(ROOT, b"outside"))
    await ann.made(
        build.change(node, replace(build.file(b"x"), names=names)),
        build.change(link, build.state(Kind.SYMLINK, (Name(folder, b"link"),), target=b"one")),
    )
    moved = await team.ann.ask("PATCH", f"/files/{folder}", json={"path": "team/links"})
    query = ListRequest((FolderQuery(NodeId(int(moved["file"]))),), Rev(0))
    found = (await ann.in_space("list", query, Listing, team.space)).folders[0]
    assert list(found.names) == [b"link", b"one", b"two"]
    assert found.children[1].node == found.children[2].node
    assert found.children[0].state.target == b"one"
    assert await ann.names() == [b"outside", b"team"]
    assert (await ann.node(node)).state.names == (Name(ROOT, b"outside"),)


async def test_what_is_there_is_replaced_only_when_asked(team: Team, ann: Any) -> None:
    mine, ours = await team.ann.put("a", b"mine"), await team.ann.put("team/a", b"ours")
    where = f"/files/{mine['file']}"
    assert (await team.ann.ask("PATCH", where, 409, json={"path": "team/a"}))["code"] == "in-the-way"
    stale = {"if-match": ours["etag"]}
    await team.ann.ask("PATCH", where, 412, json={"path": "team/a", "replaces": True}, headers=stale)
    assert await ann.names() == [b"a", b"team"]
    moved = await team.ann.ask("PATCH", where, json={"path": "team/a", "replaces": True})
    # A version of what was there.
    assert moved["file"] == ours["file"]
    assert await team.bob.content(ours["file"]) == b"mine"
    assert await team.bob.content(ours["file"], params={"rev": ours["rev"]}) == b"ours"
    assert await ann.names() == [b"team"]


@pytest.mark.parametrize("fails", [1, 2])
async def test_a_crash_between_the_two_commits_leaves_neither(
    fails: int, team: Team, work: str, ann: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[SpaceId] = []
    take = commits.take

    def cut(session: Any, row: Any, *rest: Any, **more: Any) -> Any:
        taken.append(row.space)
        answer = take(session, row, *rest, **more)
        if len(taken) == fails:
            raise RuntimeError("the machine stops here")
        return answer

    monkeypatch.setattr("remote.server.edits.commits.take", cut)
    with pytest.raises(RuntimeError):
        await instance.edits.move(*await _moving(team, work, ann, instance))
    monkeypatch.undo()
    assert taken == [ann.home, team.space][:fails]
    assert await team.names() == []
    assert await team.tree(team.ann, work, str(ann.home)) == WORK
    # The same again, now to its end.
    await instance.edits.move(*await _moving(team, work, ann, instance))
    assert (await ann.names(), await team.names()) == ([b"team"], [b"work"])


async def _moving(team: Team, work: str, ann: Any, instance: Instance) -> tuple[Any, ...]:
    user = (await instance.accounts.device(ann.login.token)).user
    return By(user), ann.home, NodeId(int(work)), Place(Name(ROOT, b"work"), SpaceId(team.space))


async def test_nobody_needs_room_twice_in_one_quota(team: Team, work: str, ann: Any, instance: Instance) -> None:
    used = 2 * len(LONG)
    instance.database.write_now(lambda session: space_rows.set_quota(session, ann.home, used))
    await team.ann.ask("POST", f"/files/{work}/copy", 507, json={"path": "team/work"})
    moved = await team.ann.ask("PATCH", f"/files/{work}", json={"path": "team/work"})
    # A folder that is bounded takes no more than that, and then nothing is gone here.
    await ann.ask("POST", "/v1/shares/limit", LimitRequest(SpaceId(team.space), 10), Done)
    home = {"path": "work", "space": ""}
    back = await team.ann.ask("PATCH", f"/files/{moved['file']}", json=home)
    await team.ann.ask("PATCH", f"/files/{back['file']}", 507, json={"path": "team/work"})
    assert await team.tree(team.ann, back["file"], back["space"]) == WORK
    assert await team.names() == []


async def test_the_guard_of_both_spaces_is_asked(team: Team, ann: Any, instance: Instance) -> None:
    async def watched(space: int) -> None:
        found = await team.ann.ask("GET", f"/spaces/{space}/guard")
        asks = {**found, "mode": "ask", "count": 5, "settled_seconds": 0}
        await team.ann.ask("PUT", f"/spaces/{space}/guard", json=asks)

    async def held(space: int) -> None:
        (event,) = (await team.ann.ask("GET", f"/spaces/{space}/events"))["events"]
        assert event["state"] == "held"
        assert (await team.ann.raw("POST", f"/spaces/{space}/events/{event['event']}/allow")).status_code == 204

    many, theirs = (
        await ann.new_folder(b"many"),
        await team.ann.ask("POST", "/folders", 201, json={"path": "team/many"}),
    )
    for number in range(8):
        await ann.new_file(b"%d" % number, many)
        await team.ann.put(f"team/many/{number}", b"theirs")
    await watched(ann.home)
    await watched(team.space)
    move = {"path": "team/many", "replaces": True}
    # What goes here is asked about first, then what would be replaced there.
    for space in (ann.home, team.space):
        await team.ann.ask("PATCH", f"/files/{many}", 403, json=move)
        assert len(await ann.names(many)) == 8
        assert len(await team.names(folder=int(theirs["file"]))) == 8
        await held(space)
    moved = await team.ann.ask("PATCH", f"/files/{many}", json=move)
    assert len(await team.tree(team.bob, moved["file"], moved["space"])) == 8
    assert await ann.names() == [b"team"]


async def test_what_moved_is_needed_where_it_is_now(team: Team, work: str, ann: Any, instance: Instance) -> None:
    moved = await team.ann.ask("PATCH", f"/files/{work}", json={"path": "team/work"})
    assert (await team.ann.ask("POST", f"/spaces/{ann.home}/trash/purge", json={}))["versions"]
    for _ in range(2):
        Collector(instance.database, instance.objects, instance.keyring).run(grace_seconds=0)
    assert await team.tree(team.bob, moved["file"], moved["space"]) == WORK
