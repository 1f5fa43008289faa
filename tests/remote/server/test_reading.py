"""Listings, states, the journal, moments and versions: now and as of every rev."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from remote.protocol.errors import BadRequest, CursorTooOld, NotFound, NotSignedIn, TooLarge
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import FOLDERS_MAX, FolderQuery, PollRequest
from remote.protocol.nodes import Kind, Manifest, Name, NodeState, NodeVersion
from remote.server import reading
from remote.server.http.app import make_app
from remote.server.instance import Instance
from remote.server.keys import SpaceKey
from remote.server.states import encode_manifest, encode_state, version

pytestmark = pytest.mark.anyio


async def test_children_come_in_bytewise_order(ann: Any, build: Any) -> None:
    names = [b"b", b"B", b"a\xff", b"a", b"\x01", "ä".encode(), b"aa"]
    for name in names:
        await ann.new_file(name)
    assert await ann.names() == sorted(names)


async def test_many_folders_in_one_answer(ann: Any, build: Any) -> None:
    where = [await ann.new_folder(b"%d" % number) for number in range(3)]
    for parent in where:
        await ann.new_file(b"in", parent)
    unknown = await ann.new_id()
    leaf = await ann.new_file(b"leaf")
    listing = await ann.listing(*where, unknown, leaf)
    assert listing.rev == (await ann.space()).head
    assert [found.folder for found in listing.folders] == [*where, unknown, leaf]
    assert [found.gone for found in listing.folders] == [False, False, False, True, True]


async def test_a_long_folder_comes_in_pages(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHILDREN_MAX", 4)
    other = await ann.new_folder(b"zz")
    for number in range(8):
        await ann.new_file(b"%d" % number)
    head = (await ann.space()).head
    for as_of in (0, head):
        seen: list[bytes] = []
        after, more = b"", True
        while more:
            listing = await ann.listing(FolderQuery(ROOT, after), other, as_of=as_of)
            found = listing.folders[0]
            seen += found.names
            after, more = found.names[-1], found.more
            assert len(listing.folders) == (1 if len(found.names) == 4 else 2)
        assert seen == [*(b"%d" % number for number in range(8)), b"zz"]


async def test_an_answer_ends_at_its_size(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ANSWER_BYTES_MAX", 3_000)
    monkeypatch.setattr(reading._Room, "__init__", room_of(3_000))
    for number in range(4):
        await ann.new_file(b"%d" % number, content=Manifest(2000, b"x" * 2000))
    found = (await ann.listing(ROOT)).folders[0]
    assert (found.names, found.more) == ((b"0", b"1"), True)
    changes = await ann.changes(1)
    assert [commit.rev for commit in changes.commits] == [2, 3]
    assert changes.head == 5


async def test_folders_below_come_along_whole_and_the_nearest_first(ann: Any) -> None:
    top = await ann.new_folder(b"top")
    near, other = await ann.new_folder(b"near", top), await ann.new_folder(b"other", top)
    deep = await ann.new_folder(b"deep", near)
    await ann.new_file(b"a", deep)
    await ann.new_file(b"b", deep)
    await ann.new_file(b"c", other)

    async def listed(below: int) -> list[tuple[NodeId, tuple[bytes, ...], bool]]:
        answer = await ann.listing(FolderQuery(top, below=below))
        return [(one.folder, one.names, one.more) for one in answer.folders]

    first = [(top, (b"near", b"other"), False), (near, (b"deep",), False), (other, (b"c",), False)]
    assert await listed(100) == [*first, (deep, (b"a", b"b"), False)]
    assert await listed(4) == [*first, (deep, (b"a", b"b"), False)]
    assert await listed(3) == first
    assert await listed(0) == first[:1]
    with pytest.raises(BadRequest, match="below"):
        await ann.listing(FolderQuery(top, below=1_000_000))


def room_of(size_bytes: int) -> Any:
    def init(self: Any, count: int) -> None:
        self.count, self.size_bytes = count, size_bytes

    return init


async def test_the_past_stays_as_it_was(ann: Any, build: Any) -> None:
    where = await ann.new_folder(b"d")
    node = await ann.new_file(b"a", where, Manifest(3, b"old"))
    made = (await ann.node(node)).rev
    before = await ann.listing(where, as_of=made)
    edited = await ann.made(build.change(node, build.file(b"a", where, Manifest(3, b"new")), made))
    renamed = await ann.made(build.change(node, build.file(b"b", ROOT, Manifest(3, b"new")), edited))
    removed = await ann.made(build.change(node, None, renamed))
    folder_gone = await ann.made(build.change(where, None, (await ann.node(where)).rev))

    assert await ann.listing(where, as_of=made) == before
    assert before.rev == made
    assert before.folders[0].children[0].state.content == Manifest(3, b"old")
    then = (await ann.listing(where, as_of=edited)).folders[0].children[0]
    assert (then.rev, then.state.content) == (edited, Manifest(3, b"new"))
    assert await ann.names(where, as_of=renamed) == []
    assert await ann.names(ROOT, as_of=renamed) == [b"b", b"d"]
    assert await ann.names(ROOT, as_of=removed) == [b"d"]
    assert await ann.names(ROOT, as_of=folder_gone) == []
    assert (await ann.listing(where, as_of=folder_gone)).folders[0].gone
    assert (await ann.listing(where, as_of=1)).folders[0].gone
    assert not (await ann.listing(where, as_of=removed)).folders[0].gone

    states = [(await ann.nodes(node, as_of=rev)).nodes[0] for rev in (1, made, removed)]
    assert states[0] is None
    assert states[1].state.content == Manifest(3, b"old")
    assert (states[2].rev, states[2].state) == (removed, None)


async def test_a_name_used_again_shows_each_node_in_its_time(ann: Any, build: Any) -> None:
    revs = []
    for _ in range(5):
        node = await ann.new_file(b"a")
        revs.append((node, (await ann.node(node)).rev))
        await ann.made(build.change(node, None, revs[-1][1]))
    for node, rev in revs:
        assert [child.node for child in (await ann.listing(ROOT, as_of=rev)).folders[0].children] == [node]
        assert await ann.names(as_of=rev + 1) == []


async def test_revs_that_are_not_there(ann: Any, build: Any) -> None:
    head = (await ann.space()).head
    with pytest.raises(NotFound):
        await ann.listing(ROOT, as_of=head + 1)
    with pytest.raises(NotFound):
        await ann.nodes(ROOT, as_of=head + 1)
    for rev in (-1, 1 << 63):
        with pytest.raises(BadRequest):
            await ann.listing(ROOT, as_of=rev)


async def test_nodes_come_in_order_with_none_for_what_never_was(ann: Any, build: Any) -> None:
    node, unknown = await ann.new_file(b"a"), await ann.new_id()
    answer = await ann.nodes(unknown, node, ROOT, node)
    assert [found and found.node for found in answer.nodes] == [None, node, ROOT, node]
    assert answer.rev == (await ann.space()).head


async def test_list_limits(ann: Any) -> None:
    with pytest.raises(TooLarge):
        await ann.listing(*[ROOT] * (FOLDERS_MAX + 1))
    with pytest.raises(TooLarge):
        await ann.listing(FolderQuery(ROOT, b"x" * 256))
    for node in (0, -1, 1 << 63):
        with pytest.raises(BadRequest):
            await ann.listing(NodeId(node))
        with pytest.raises(BadRequest):
            await ann.nodes(NodeId(node))
    with pytest.raises(TooLarge):
        await ann.nodes(*[ROOT] * (reading.NODES_MAX + 1))


async def test_the_journal_after_a_cursor(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    removed = await ann.made(build.change(node, None, 2))
    changes = await ann.changes(0)
    assert changes.head == removed
    assert [commit.rev for commit in changes.commits] == [1, 2, 3]
    assert [change.node for commit in changes.commits for change in commit.changes] == [ROOT, node, node]
    assert changes.commits[2].changes[0].state is None
    assert [commit.device for commit in changes.commits] == [0, ann.login.device, ann.login.device]
    assert (await ann.changes(removed)).commits == ()


async def test_cursors_that_the_journal_cannot_go_on_from(ann: Any, build: Any) -> None:
    head = (await ann.space()).head
    with pytest.raises(CursorTooOld):
        await ann.changes(head + 1)
    response = await ann.raw("GET", f"/v1/spaces/{ann.home}/changes?since={head + 1}")
    assert response.status_code == 410
    for since in ("", "x", "-1", "1.5", str(1 << 63), "9" * 5000):
        response = await ann.raw("GET", f"/v1/spaces/{ann.home}/changes?since={since}")
        assert response.status_code == 400, since
    assert (await ann.raw("GET", f"/v1/spaces/{ann.home}/changes")).status_code == 400


async def test_below_the_floor_is_too_old(ann: Any, instance: Instance) -> None:
    await ann.new_file(b"a")
    await instance.database.write(
        lambda session: session.run("UPDATE space SET floor = 2 WHERE space_id = ?", ann.home)
    )
    with pytest.raises(CursorTooOld):
        await ann.changes(1)
    await ann.changes(2)
    with pytest.raises(NotFound):
        await ann.listing(ROOT, as_of=1)


async def test_moments_are_those_of_everything_below(ann: Any, build: Any) -> None:
    outer = await ann.new_folder(b"outer")
    inner = await ann.new_folder(b"inner", outer)
    other = await ann.new_folder(b"other")
    node = await ann.new_file(b"a", inner)
    moved = await ann.made(build.change(node, build.file(b"a", other), 5))
    assert await ann.moments(ROOT) == [6, 5, 4, 3, 2, 1]
    assert await ann.moments(outer) == [6, 5, 3, 2]
    assert await ann.moments(inner) == [6, 5, 3]
    assert await ann.moments(other) == [moved, 4]
    assert await ann.moments(ROOT, limit=2) == [6, 5]


async def test_moving_a_folder_is_a_moment_of_both_sides(ann: Any, build: Any) -> None:
    one, two = await ann.new_folder(b"one"), await ann.new_folder(b"two")
    moving = await ann.new_folder(b"moving", one)
    leaf = await ann.new_file(b"leaf", moving)
    moved = await ann.made(
        build.change(moving, build.folder(b"moving", two), 4), build.change(leaf, build.file(b"leaf2", moving), 5)
    )
    for folder in (ROOT, one, two, moving):
        assert (await ann.moments(folder))[0] == moved
    removed = await ann.made(build.change(leaf, None, moved))
    assert (await ann.moments(one))[0] == moved
    assert (await ann.moments(two))[0] == removed


async def test_moments_limits(ann: Any, build: Any) -> None:
    leaf = await ann.new_file(b"leaf")
    with pytest.raises(NotFound):
        await ann.moments(leaf)
    with pytest.raises(NotFound):
        await ann.moments(await ann.new_id())
    for limit in (0, -1, 10_001):
        with pytest.raises(BadRequest):
            await ann.moments(ROOT, limit)


async def test_a_time_says_a_rev(ann: Any, build: Any) -> None:
    await ann.new_file(b"a")
    commits = (await ann.changes(0)).commits
    for commit in commits:
        assert (await ann.as_of(commit.time_ns)).rev == commit.rev
        assert (await ann.as_of(commit.time_ns - 1)).rev == commit.rev - 1
    last = await ann.as_of(time.time_ns() + 10**12)
    assert (last.rev, last.time_ns) == (commits[-1].rev, commits[-1].time_ns)
    assert (await ann.as_of(0)).rev == 0
    with pytest.raises(BadRequest):
        await ann.as_of(1 << 63)


async def test_versions_say_who_made_them(sign_in: Any, build: Any) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    node = await first.new_file(b"a")
    await second.made(build.change(node, build.file(b"b"), 2))
    versions = (await first.history(node)).versions
    assert [version.rev for version in versions] == [3, 2]
    assert {version.user_name for version in versions} == {"ann"}
    assert {version.device_name for version in versions} == {"desk1"}
    root = (await first.history(ROOT)).versions
    assert [(version.user_name, version.device_name) for version in root] == [("ann", "")]


async def test_history_comes_in_pages(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    for mode in range(9):
        await ann.made(build.change(node, build.file(b"a", mode=mode), 2 + mode))
    await ann.made(build.change(node, None, 11))
    seen: list[int] = []
    before = 0
    while versions := (await ann.history(node, before, limit=4)).versions:
        assert len(versions) <= 4
        seen += [version.rev for version in versions]
        before = versions[-1].rev
    assert seen == list(range(12, 1, -1))
    assert (await ann.history(node)).versions[0].state is None


async def test_history_limits(ann: Any) -> None:
    with pytest.raises(NotFound):
        await ann.history(await ann.new_id())
    for limit in (0, 1001):
        with pytest.raises(BadRequest):
            await ann.history(ROOT, limit=limit)
    with pytest.raises(BadRequest):
        await ann.history(ROOT, before=-1)


async def test_a_poll_answers_at_once_when_there_is_news(ann: Any) -> None:
    answer = await ann.poll({ann.home: 0})
    assert answer.heads == {ann.home: 1}
    assert not answer.spaces_changed


async def test_a_poll_wakes_with_the_commit(ann: Any, build: Any, instance: Instance) -> None:
    async def commit_when_waiting() -> None:
        await build.until(lambda: bool(instance.hub._by_space))
        await ann.new_file(b"a")

    answer, _ = await asyncio.gather(ann.poll({ann.home: 1}), commit_when_waiting())
    assert answer.heads == {ann.home: 2}
    assert not instance.hub._by_space
    assert not instance.hub._by_token


async def test_other_spaces_do_not_wake_a_poll(ann: Any, bob: Any, build: Any, instance: Instance) -> None:
    poll = asyncio.create_task(ann.poll({ann.home: 1}))
    await build.until(lambda: bool(instance.hub._by_space))
    await bob.new_file(b"a")
    assert not poll.done()
    await ann.new_file(b"a")
    assert (await poll).heads == {ann.home: 2}


async def test_a_poll_ends_with_its_token(sign_in: Any, build: Any, instance: Instance) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    polls = [asyncio.create_task(asker.poll({asker.home: 1})) for asker in (first, second)]
    await build.until(lambda: len(instance.hub._by_token) == 2)
    await first.raw("POST", "/v1/logout")
    with pytest.raises(NotSignedIn):
        await polls[0]
    assert not polls[1].done()
    await second.new_file(b"a")
    assert (await polls[1]).heads


async def test_polls_end_when_the_server_stops(ann: Any, build: Any, instance: Instance) -> None:
    poll = asyncio.create_task(ann.poll({ann.home: 1}))
    await build.until(lambda: bool(instance.hub._by_space))
    instance.hub.close()
    assert (await poll).heads == {}
    assert (await ann.poll({ann.home: 1})).heads == {}


async def test_a_poll_without_news_ends_after_its_wait(ann: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.monotonic()
    answer = await ann.poll({ann.home: 1}, wait_seconds=-5)
    assert answer.heads == {}
    assert 0.9 < time.monotonic() - before < 60


async def test_a_poll_for_somebody_elses_space_says_that_spaces_changed(ann: Any, bob: Any) -> None:
    answer = await bob.poll({ann.home: 0, bob.home: 1})
    assert (answer.heads, answer.spaces_changed) == ({}, True)
    with pytest.raises(TooLarge):
        await bob.poll(dict.fromkeys(range(1, 1002), 0))
    with pytest.raises(BadRequest):
        await bob.poll({bob.home: -1})
    for space in (0, -5, 1 << 63, (1 << 64) - 1):
        with pytest.raises(BadRequest):
            await bob.poll({space: 0})
    assert (await bob.poll({4711: 0})).spaces_changed


async def test_nodes_that_fill_an_answer_are_too_many(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading._Room, "__init__", room_of(3_000))
    nodes = [await ann.new_file(b"%d" % number, content=Manifest(2000, b"x" * 2000)) for number in range(3)]
    assert len((await ann.nodes(*nodes[:2])).nodes) == 2
    with pytest.raises(TooLarge, match="first 2 nodes"):
        await ann.nodes(*nodes)


async def test_a_client_that_leaves_is_forgotten(ann: Any, build: Any, instance: Instance) -> None:
    """By the hub as well, not only by the connection."""
    app = make_app(instance)
    body = msgspec.msgpack.encode(PollRequest({ann.home: Rev(1)}, 300))
    events = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        event = next(events, None)
        if event is not None:
            return event
        await build.until(lambda: bool(instance.hub._by_space))
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        pass

    headers = [(b"authorization", ann.headers["authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/poll", "raw_path": b"/v1/poll", "headers": headers}
    rest = {"query_string": b"", "root_path": "", "scheme": "http", "server": None, "client": None, "state": {}}
    await app({**scope, **rest, "http_version": "1.1", "asgi": {"version": "3.0"}}, receive, send)  # type: ignore[arg-type]
    assert not instance.hub._by_space


def test_a_state_is_put_together_whatever_its_fields_were_when_it_was_stored() -> None:
    key = SpaceKey(bytes(32))
    manifest = Manifest(3, inline=b"abc")
    bare = NodeState(Kind.FILE, (Name(ROOT, b"a"),), 0o644, 0, 0, 1, 2, 3, 4)
    whole = msgspec.structs.replace(bare, content=manifest)
    stored = encode_state(whole)
    # As of versions that knew no shared folders; and no extended attributes and no place for content.
    before_sharing, older = b"\x9d" + stored[1:-1], b"\x9b" + stored[1:-3]
    for state in (stored, before_sharing, older):
        answer = version(key, NodeId(7), Rev(2), 5, state, key.seal(encode_manifest(manifest)))
        found = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=NodeVersion)
        assert found == NodeVersion(NodeId(7), Rev(2), 5, whole)
