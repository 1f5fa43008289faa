"""Removing a user: all that is his goes, what others share with him stays theirs."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from remote.protocol.account import AppTokenMade, AppTokenRequest, LinkEntry, LinkRequest
from remote.protocol.errors import NotSignedIn
from remote.protocol.ids import ROOT, NodeId, SpaceId
from remote.protocol.messages import Done, LoginRequest
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sharing import GroupMemberRequest, GroupRequest, Members, SharedSpaceRequest, ShareRequest, Wish
from remote.server import instance as instances
from remote.server import removing
from remote.server.database import spaces as space_rows
from remote.server.instance import DATABASE, Instance, InstanceTrouble
from remote.server.jobs.chosen import Choice, chosen
from remote.server.jobs.following import Follower
from remote.server.jobs.running import catch_up
from remote.server.upkeep import standing
from remote.server.upkeep.collecting import Collector

pytestmark = pytest.mark.anyio
CONTENT = bytes(range(256)) * 4_000


async def brought(asker: Any, build: Any, name: bytes, parent: NodeId = ROOT) -> None:
    """A file whose content is a chunk of its own."""
    await asker.send(CONTENT)
    manifest = Manifest(len(CONTENT), entries=(Entry(build.chunk_id(CONTENT), bytes(32), len(CONTENT)),))
    await asker.new_file(name, parent, manifest)


async def shared(owner: Any, folder: NodeId, *whom: str) -> int:
    request = ShareRequest(SpaceId(owner.home), folder, tuple(Wish(name, "editor") for name in whom))
    return int((await owner.ask("POST", "/v1/shares/make", request, dict))["space"])


def remove(tmp_path: Path, name: str) -> None:
    instances.remove(tmp_path / "data", tmp_path / "key", name)


async def test_nothing_of_a_removed_user_is_left(
    ann: Any, bob: Any, build: Any, http: httpx.AsyncClient, tmp_path: Path, instance: Instance
) -> None:
    await brought(ann, build, b"thesis")
    link = await ann.ask("POST", "/v1/links/make", LinkRequest(ann.home, ROOT), LinkEntry)
    token = await ann.ask("POST", "/v1/tokens/make", AppTokenRequest("script", ("read",)), AppTokenMade)
    assert (await http.get(link.path)).status_code == 200
    remove(tmp_path, "ANN")
    for asker in (ann, ann.as_token(token.secret)):
        with pytest.raises(NotSignedIn):
            await asker.spaces()
    body = msgspec.msgpack.encode(LoginRequest("ann", build.password, "desk"))
    assert isinstance(build.error_of(await http.post("/v1/login", content=body)), NotSignedIn)
    assert (await http.get(link.path)).status_code == 410
    assert [line.user_name for line in instances.users(tmp_path / "data", tmp_path / "key")] == ["bob"]
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        for hours in (0, 24 * 8):
            now_ns = time.time_ns() + hours * 3_600 * 10**9
            Collector(beside.database, beside.objects, beside.keyring, now_ns=lambda now=now_ns: now).run(3_600.0)
        used = standing.usage(beside)
        assert (used.chunks, used.objects) == (0, 0)
        assert all(found.is_good for found in standing.look(beside)), list(standing.look(beside))
    # Whoever gets the name next gets nothing else of it.
    instances.add_account(tmp_path / "data", tmp_path / "key", "ann", build.password)
    again = await build.signed_in(http, "ann")
    assert again.login.user != ann.login.user
    assert await again.names() == []
    assert (await bob.spaces()).spaces


async def test_no_name_of_a_file_of_his_is_left(
    ann: Any, bob: Any, build: Any, instance: Instance, tmp_path: Path
) -> None:
    folder = await ann.new_folder(b"secretly shared")
    await brought(ann, build, b"secretly named", folder)
    space = await shared(ann, folder, "bob")
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(SpaceId(space)), dict)
    await bob.commit(build.change(await bob.new_id(), build.file(b"secretly brought")), space=space)
    await ann.ask("POST", "/v1/shares/end", SharedSpaceRequest(SpaceId(space)), dict)
    (job,) = chosen(instance, Choice(search="names", has_previews=False))
    follower = Follower(job, instance.database, instance.keyring, instance.contents, threading.Event())
    catch_up(follower, [ann.home, bob.home, SpaceId(space)])
    upload = {"path": "secretly coming", "size_bytes": 1}
    headers = {"authorization": ann.headers["authorization"]}
    assert (await ann.http.post("/api/v1/files", json=upload, headers=headers)).status_code == 201
    assert {table for _, table in told_in(tmp_path, b"secretly")} >= {"node", "version", "name", "upload", "space"}
    remove(tmp_path, "ann")
    # Who did what is kept for as long as whoever runs the server says; bob's past says what he was invited to.
    assert {space for space, table in told_in(tmp_path, b"secretly") if table != "audit"} == {bob.home}


def told_in(tmp_path: Path, word: bytes) -> set[tuple[int, str]]:
    """(space, table) of all rows in which the word stands, of the instance and of what search knows."""
    found: set[tuple[int, str]] = set()
    for path in [tmp_path / "data" / DATABASE, *(tmp_path / "data" / "search").glob("*.index")]:
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        is_index = path.suffix == ".index"
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in ["doc"] if is_index else tables:
            for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608  - names of ours
                cells = [cell.encode() if isinstance(cell, str) else cell for cell in row]
                if any(isinstance(cell, bytes) and word in cell for cell in cells):
                    found.add((int(path.stem) if is_index else dict(row).get("space_id", 0), table))
        connection.close()
    return found


async def test_a_removal_lets_others_write_and_one_that_is_cut_off_is_ended_by_the_next_collection(
    ann: Any, bob: Any, build: Any, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"secretly a", b"secretly b", b"secretly c"):
        await brought(ann, build, name)
    heads: list[int] = []

    def write_meanwhile() -> None:
        # It would wait for a transaction that is open.
        heads.append(instance.database.write_now(lambda session: space_rows.members(session, bob.home))[0][0])
        if len(heads) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(removing, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(instances, "let_others_write", write_meanwhile)
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path, "ann")
    # It is begun, so he is gone; more of it nobody has to do.
    with pytest.raises(NotSignedIn):
        await ann.spaces()
    with pytest.raises(InstanceTrouble, match="no user ann"):
        remove(tmp_path, "ann")
    assert {table for _, table in told_in(tmp_path, b"secretly")} >= {"node", "name"}
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        Collector(beside.database, beside.objects, beside.keyring).run()
    assert told_in(tmp_path, b"secretly") == set()
    assert await bob.names() == []
    await bob.new_file(b"hers")
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        removing.forget(beside.database, bob.home, lambda: None)
    assert await bob.names() == [b"hers"]


async def test_what_others_share_stays_theirs(ann: Any, bob: Any, build: Any, tmp_path: Path) -> None:
    folder = await bob.new_folder(b"thesis")
    space = await shared(bob, folder, "ann")
    await ann.ask("POST", "/v1/shares/accept", SharedSpaceRequest(SpaceId(space)), dict)
    await bob.ask("POST", "/v1/groups/make", GroupRequest("readers"), dict)
    await bob.ask("POST", "/v1/groups/add-member", GroupMemberRequest("readers", "ann"), Done)
    node = await ann.new_id()
    await ann.commit(build.change(node, build.file(b"by ann")), space=space)
    remove(tmp_path, "ann")
    members = await bob.ask("POST", "/v1/shares/members", SharedSpaceRequest(SpaceId(space)), Members)
    assert "ann" not in repr(members)
    versions = (await bob.in_space("history", {"node": node}, dict, space))["versions"]
    assert len(versions) == 1


async def test_who_owns_what_others_use_is_not_removed(ann: Any, bob: Any, tmp_path: Path) -> None:
    space = await shared(ann, await ann.new_folder(b"thesis"), "bob")
    with pytest.raises(InstanceTrouble, match="owns shared folders: thesis"):
        remove(tmp_path, "ann")
    await ann.ask("POST", "/v1/shares/end", SharedSpaceRequest(SpaceId(space)), dict)
    await ann.ask("POST", "/v1/groups/make", GroupRequest("readers"), dict)
    with pytest.raises(InstanceTrouble, match="owns the group readers"):
        remove(tmp_path, "ann")
    assert await ann.names()
    with pytest.raises(InstanceTrouble, match="no user carl"):
        remove(tmp_path, "carl")
