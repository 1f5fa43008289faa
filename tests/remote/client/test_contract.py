"""What every Service has to do. Run here with HttpService and a real server; who writes another Service adds its maker.

All tests share one space, so each works in a folder of its own.
"""

import functools
import os
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio

from remote.client.service import connect, health, login
from remote.client.traffic import Traffic
from remote.protocol.cutting import recut
from remote.protocol.errors import BadRequest, ChunkMissing, CursorTooOld, NotFound, NotSignedIn
from remote.protocol.ids import NOW, ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.manifests import build, decode_leaf
from remote.protocol.messages import Below, Change, ChunkPart, Commit, CommitAnswer, FolderQuery
from remote.protocol.nodes import EMPTY, Entry, Kind, Manifest, Name, NodeState, NodeVersion
from remote.protocol.sealing import FRAME, Sealed, frame_count, open_chunk, open_frames, open_leaf, seal
from remote.protocol.service import Service

pytestmark = pytest.mark.anyio


@dataclass
class Desk:
    """A signed-in device with a service, and a folder of its own in its home."""

    service: Service
    space: SpaceId
    secret: bytes
    folder: NodeId = ROOT
    ids: Iterable[int] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)

    def new_node(self) -> NodeId:
        return NodeId(next(iter(self.ids)))

    async def commit(self, *changes: Change, op_id: bytes | None = None) -> CommitAnswer:
        return await self.service.commit(self.space, Commit(op_id or os.urandom(16), changes))

    async def children(self, folder: NodeId, as_of: Rev = NOW) -> dict[bytes, NodeVersion]:
        listing = await self.service.list_folders(self.space, [FolderQuery(folder)], as_of)
        found = listing.folders[0]
        assert not found.more
        return dict(zip(found.names, found.children, strict=True))

    def seal(self, plain: bytes) -> Sealed:
        return seal(plain, self.secret)


def file_state(parent: NodeId, name: bytes, content: Manifest = EMPTY, mtime_ns: int = 1) -> NodeState:
    return NodeState(Kind.FILE, (Name(parent, name),), 0o644, 1000, 1000, mtime_ns, 2, 3, 4, content=content)


def folder_state(parent: NodeId, name: bytes) -> NodeState:
    return NodeState(Kind.FOLDER, (Name(parent, name),), 0o755, 1000, 1000, 1, 2, 3, 4)


def made(node: NodeId, state: NodeState) -> Change:
    return Change(node, Rev(0), 5, state)


def entry_of(sealed: Sealed) -> Entry:
    return Entry(sealed.id, sealed.key, sealed.length)


# Any: conftest.Server, which cannot be imported from here.
async def http_desk(server: Any, stack: AsyncExitStack, user: str) -> Desk:
    answer = await server.sign_in(user)
    traffic = Traffic()
    service = await stack.enter_async_context(connect(server.url, answer.token, traffic=traffic))
    spaces = (await service.spaces()).spaces
    home = next(space for space in spaces if space.space == answer.home)
    return Desk(service, answer.home, home.domain_secret, traffic=traffic)


MAKERS = {"http": http_desk}


@pytest.fixture(params=MAKERS)
async def desk(server: Any, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        desk = await MAKERS[request.param](server, stack, "anna")
        leased = await desk.service.lease_range()
        desk.ids = iter(range(leased.first, leased.first + leased.count))
        desk.folder = desk.new_node()
        answer = await desk.commit(made(desk.folder, folder_state(ROOT, os.urandom(8).hex().encode())))
        assert answer.rev
        yield desk


@pytest.fixture(params=MAKERS)
async def stranger(server: Any, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield await MAKERS[request.param](server, stack, "ben")


async def test_a_device_sees_its_home(desk: Desk) -> None:
    first = await desk.service.spaces()
    (home,) = [space for space in first.spaces if space.space == desk.space]
    assert home.role == "owner"
    assert len(home.domain_secret) == 32
    assert home.head >= 1
    assert home.free > 0
    assert first.now_ns <= (await desk.service.spaces()).now_ns


async def test_leased_ranges_never_overlap(desk: Desk) -> None:
    first, second = await desk.service.lease_range(), await desk.service.lease_range()
    assert first.first + first.count <= second.first or second.first + second.count <= first.first
    assert first.first > ROOT
    assert second.first + second.count <= 1 << 63


async def test_a_commit_is_seen_in_listings_states_and_journal(desk: Desk) -> None:
    file, below = desk.new_node(), desk.new_node()
    since = (await desk.service.spaces()).spaces[0].head
    state = file_state(below, "ä \udcff".encode(errors="surrogateescape"), Manifest(3, b"abc"))
    answer = await desk.commit(made(file, state), made(below, folder_state(desk.folder, b"below")))
    assert answer.rev == since + 1
    assert answer.now_ns > 0
    assert (await desk.children(desk.folder)).keys() == {b"below"}
    assert await desk.children(below) == {state.names[0].name: NodeVersion(file, answer.rev, 5, state)}
    nodes = await desk.service.nodes(desk.space, [file, NodeId(2**62), below])
    assert [node and node.node for node in nodes.nodes] == [file, None, below]
    changes = await desk.service.changes(desk.space, since)
    (commit,) = changes.commits
    assert (changes.head, commit.rev) == (answer.rev, answer.rev)
    assert {change.node: change.state for change in commit.changes}[file] == state
    assert (await desk.service.changes(desk.space, answer.rev)).commits == ()


async def test_a_replayed_commit_gets_the_old_answer_and_does_nothing_twice(desk: Desk) -> None:
    change, op_id = made(desk.new_node(), file_state(desk.folder, b"once")), os.urandom(16)
    first = await desk.commit(change, op_id=op_id)
    again = await desk.commit(change, op_id=op_id)
    assert again.rev == first.rev
    assert (await desk.service.changes(desk.space, first.rev)).commits == ()


async def test_a_refused_commit_names_the_winner_and_changes_nothing(desk: Desk) -> None:
    file, other = desk.new_node(), desk.new_node()
    first = await desk.commit(made(file, file_state(desk.folder, b"taken")))
    refused = await desk.commit(
        made(other, file_state(desk.folder, b"taken")), made(desk.new_node(), file_state(desk.folder, b"with it"))
    )
    assert refused.rev == 0
    assert refused.reason
    assert [winner.node for winner in refused.winners] == [file]
    assert (await desk.children(desk.folder)).keys() == {b"taken"}
    second = await desk.commit(Change(file, first.rev, 6, file_state(desk.folder, b"taken", mtime_ns=9)))
    stale = await desk.commit(Change(file, first.rev, 7, None))
    assert second.rev > first.rev
    assert stale.rev == 0
    assert [(winner.node, winner.rev) for winner in stale.winners] == [(file, second.rev)]


async def test_the_past_stays_as_it_was(desk: Desk) -> None:
    file = desk.new_node()
    first = await desk.commit(made(file, file_state(desk.folder, b"old name", Manifest(3, b"abc"))))
    second = await desk.commit(Change(file, first.rev, 6, file_state(desk.folder, b"new name", Manifest(1, b"x"))))
    third = await desk.commit(Change(file, second.rev, 7, None))
    assert await desk.children(desk.folder) == {}
    old = await desk.children(desk.folder, first.rev)
    assert old.keys() == {b"old name"}
    state = old[b"old name"].state
    assert state is not None
    assert state.content == Manifest(3, b"abc")
    assert (await desk.children(desk.folder, second.rev)).keys() == {b"new name"}
    nodes = await desk.service.nodes(desk.space, [file], second.rev)
    assert nodes.rev == second.rev
    assert nodes.nodes[0] is not None

    history = await desk.service.history(desk.space, file)
    assert [(version.rev, version.state is None) for version in history.versions] == [
        (third.rev, True),
        (second.rev, False),
        (first.rev, False),
    ]
    assert {(version.user_name, version.device_name) for version in history.versions} == {("anna", "desk")}
    older = await desk.service.history(desk.space, file, before=second.rev, limit=1)
    assert [version.rev for version in older.versions] == [first.rev]

    moments = (await desk.service.moments(desk.space, desk.folder, 2)).moments
    assert [moment.rev for moment in moments] == [third.rev, second.rev]
    moment = await desk.service.as_of(desk.space, moments[1].time_ns)
    assert moment.rev >= second.rev
    assert (await desk.service.as_of(desk.space, 1)).rev == 0
    with pytest.raises(NotFound):
        await desk.children(desk.folder, Rev(third.rev + 1_000))
    with pytest.raises(NotFound):
        await desk.service.history(desk.space, NodeId(2**62))


async def test_conflicts_are_there_until_they_are_settled(desk: Desk) -> None:
    file = desk.new_node()
    await desk.commit(made(file, file_state(desk.folder, b"name", Manifest(3, b"won"))))
    lost = Change(file, Rev(0), 5, file_state(desk.folder, b"name", Manifest(4, b"lost")), is_conflict=True)
    answer = await desk.commit(lost)

    async def own() -> list[tuple[NodeId, Rev]]:
        answer = await desk.service.conflicts(desk.space)
        assert not answer.more
        return [(one.node, one.lost.rev) for one in answer.conflicts if one.node == file]

    assert await own() == [(file, answer.rev)]
    await desk.service.settle(desk.space, [(file, answer.rev)] * 2_001)
    assert await own() == []


async def test_a_cursor_of_another_life_is_too_old(desk: Desk) -> None:
    with pytest.raises(CursorTooOld):
        await desk.service.changes(desk.space, Rev(1 << 40))


async def test_long_folders_are_listed_in_pages(desk: Desk) -> None:
    names = [f"{number:05}".encode() for number in range(1_500)]
    await desk.commit(*[made(desk.new_node(), file_state(desk.folder, name)) for name in names])
    found: list[bytes] = []
    while True:
        query = FolderQuery(desk.folder, found[-1] if found else b"00899")
        page = (await desk.service.list_folders(desk.space, [query, FolderQuery(NodeId(2**62))])).folders
        found += page[0].names
        if not page[0].more:
            assert page[1].gone
            break
    assert found == names[900:]


async def test_chunks_go_there_and_back(desk: Desk) -> None:
    noise = random.Random(os.urandom(8))
    plains = [noise.randbytes(length) for length in (1, 3_000, FRAME, 200_000, 300_000, 1_400_000)]
    sealed = [desk.seal(plain) for plain in plains]
    sizes = {chunk.id: len(chunk.data) for chunk in sealed}
    assert await desk.service.wanted(desk.space, sizes) == set(sizes)
    before = desk.traffic.sent_bytes
    sent = await desk.service.send_chunks(desk.space, {chunk.id: chunk.data for chunk in sealed})
    assert sent == sum(sizes.values())
    assert sent < desk.traffic.sent_bytes - before < sent + 10_000
    assert await desk.service.wanted(desk.space, sizes) == set()
    assert await desk.service.send_chunks(desk.space, {chunk.id: chunk.data for chunk in sealed}) == 0
    got = await desk.service.get_parts(desk.space, [ChunkPart(chunk.id) for chunk in sealed])
    assert [open_chunk(entry_of(chunk), data) for chunk, data in zip(sealed, got, strict=True)] == plains
    for chunk, plain in zip(sealed, plains, strict=True):
        last = frame_count(chunk.length) - 1
        whole, part = await desk.service.get_parts(
            desk.space, [ChunkPart(chunk.id, 0, last + 1), ChunkPart(chunk.id, last, 1)]
        )
        assert whole == chunk.data, "all frames are the whole chunk"
        assert open_frames(entry_of(chunk), part, last, 1) == plain[last * FRAME :]


async def test_parts_and_what_is_below_a_leaf_are_read_in_one_request(desk: Desk) -> None:
    plains = [os.urandom(300_000 + number) for number in range(70)]
    sealed = [desk.seal(plain) for plain in plains]
    size = sum(map(len, plains))
    manifest, leaves = build(size, [entry_of(chunk) for chunk in sealed], desk.seal)
    await desk.service.send_chunks(desk.space, {chunk.id: chunk.data for chunk in (*sealed, *leaves)})
    found: dict[tuple[bytes, int, int], bytes] = {}
    before = desk.traffic.requests, desk.traffic.received_bytes
    leaf = manifest.entries[0]
    await desk.service.read_parts(
        desk.space,
        [ChunkPart(leaf.id, 0, 1, Below(leaf.key, 1, 0, 10)), ChunkPart(sealed[69].id, 0, 3)],
        lambda chunk, first, frames, data: found.update({(chunk, first, frames): bytes(data)}),
    )
    assert desk.traffic.requests == before[0] + 1
    assert list(found) == [(leaf.id, 0, 1), (sealed[0].id, 0, 1), (sealed[69].id, 0, 3)]
    assert sum(map(len, found.values())) < desk.traffic.received_bytes - before[1] < 600_000
    assert found[sealed[69].id, 0, 3] == sealed[69].data
    assert open_frames(entry_of(sealed[0]), found[sealed[0].id, 0, 1], 0, 1) == plains[0][:FRAME]
    with pytest.raises(NotFound):
        await desk.service.read_parts(desk.space, [ChunkPart(desk.seal(b"absent").id, 0, 1)], lambda *_: None)


async def test_one_frame_of_a_large_chunk_costs_about_a_frame(desk: Desk) -> None:
    chunk = desk.seal(os.urandom(1_300_000))
    await desk.service.send_chunks(desk.space, {chunk.id: chunk.data})
    before = desk.traffic.received_bytes
    await desk.service.get_parts(desk.space, [ChunkPart(chunk.id, 5, 1)])
    assert desk.traffic.received_bytes - before < FRAME + 2_000


async def test_many_small_chunks_take_few_requests(desk: Desk) -> None:
    sealed = [desk.seal(os.urandom(4_000)) for _ in range(2_500)]
    before = desk.traffic.requests
    await desk.service.send_chunks(desk.space, {chunk.id: chunk.data for chunk in sealed})
    assert desk.traffic.requests - before <= 6
    before = desk.traffic.requests
    got = await desk.service.get_parts(desk.space, [ChunkPart(chunk.id) for chunk in sealed])
    assert got == [chunk.data for chunk in sealed]
    assert desk.traffic.requests - before <= 8


async def test_unknown_chunks_are_not_found_and_cannot_be_committed(desk: Desk) -> None:
    absent = desk.seal(os.urandom(5_000))
    for part in (ChunkPart(absent.id), ChunkPart(absent.id, 0, 1)):
        with pytest.raises(NotFound):
            await desk.service.get_parts(desk.space, [part])
    content = Manifest(5_000, entries=(entry_of(absent),))
    change = made(desk.new_node(), file_state(desk.folder, b"file", content))
    with pytest.raises(ChunkMissing):
        await desk.commit(change)
    await desk.service.send_chunks(desk.space, {absent.id: absent.data})
    assert (await desk.commit(change)).rev


async def test_frames_that_a_chunk_does_not_have_are_a_bad_request(desk: Desk) -> None:
    chunk = desk.seal(b"one frame")
    await desk.service.send_chunks(desk.space, {chunk.id: chunk.data})
    with pytest.raises(BadRequest):
        await desk.service.get_parts(desk.space, [ChunkPart(chunk.id, 0, 2)])


async def test_a_large_file_of_a_hundred_chunks_reads_back_on_another_device(desk: Desk, server: Any) -> None:
    content = random.Random(os.urandom(8)).randbytes(1 << 20) * 40 + os.urandom(30 << 20)
    chunks: dict[ChunkId, bytes] = {}
    entries: list[Entry] = []
    for _, data in recut(
        [], len(content), [], [], lambda offset, length: memoryview(content)[offset : offset + length]
    ):
        assert data is not None
        sealed = desk.seal(bytes(data))
        chunks[sealed.id] = sealed.data
        entries.append(entry_of(sealed))
    manifest, leaves = build(len(content), entries, functools.partial(seal, domain_secret=desk.secret))
    assert manifest.depth == 1
    chunks.update((leaf.id, leaf.data) for leaf in leaves)
    await desk.service.send_chunks(desk.space, chunks)
    file = desk.new_node()
    assert (await desk.commit(made(file, file_state(desk.folder, b"large", manifest)))).rev

    async with AsyncExitStack() as stack:
        other = await http_desk(server, stack, "anna")
        (found,) = (await other.service.nodes(other.space, [file])).nodes
        assert found is not None
        assert found.state is not None
        assert found.state.content == manifest
        parts = await other.service.get_parts(other.space, [ChunkPart(entry.id) for entry in manifest.entries])
        leafs = [open_leaf(entry, data) for entry, data in zip(manifest.entries, parts, strict=True)]
        read = [entry for leaf in leafs for entry in decode_leaf(leaf)]
        parts = await other.service.get_parts(other.space, [ChunkPart(entry.id) for entry in read])
        assert b"".join(open_chunk(entry, data) for entry, data in zip(read, parts, strict=True)) == content


async def test_a_poll_hears_of_a_commit_at_once(desk: Desk) -> None:
    head = (await desk.service.spaces()).spaces[0].head
    heard: list[dict[SpaceId, Rev]] = []

    async def listen() -> None:
        heard.append((await desk.service.poll({desk.space: head}, 60)).heads)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            answer = await desk.commit(made(desk.new_node(), file_state(desk.folder, b"news")))
        assert heard == [{desk.space: answer.rev}]
        assert (await desk.service.poll({desk.space: Rev(0)}, 60)).heads == {desk.space: answer.rev}


async def test_a_poll_without_news_ends_empty(desk: Desk) -> None:
    head = (await desk.service.spaces()).spaces[0].head
    answer = await desk.service.poll({desk.space: head}, 1)
    assert (answer.heads, answer.spaces_changed) == ({}, False)
    assert answer.now_ns > 0


async def test_strangers_learn_nothing(desk: Desk, stranger: Desk) -> None:
    chunk = desk.seal(os.urandom(10_000))
    await desk.service.send_chunks(desk.space, {chunk.id: chunk.data})
    for part in (ChunkPart(chunk.id), ChunkPart(chunk.id, 0, 1)):
        with pytest.raises(NotFound):
            await stranger.service.get_parts(desk.space, [part])
        with pytest.raises(NotFound):
            await stranger.service.get_parts(stranger.space, [part])
    sizes = {chunk.id: len(chunk.data)}
    assert await stranger.service.wanted(stranger.space, sizes) == {chunk.id}, "have would tell that somebody has it"
    assert desk.space not in {space.space for space in (await stranger.service.spaces()).spaces}
    with pytest.raises(NotFound):
        await stranger.service.list_folders(desk.space, [FolderQuery(ROOT)])
    with pytest.raises(NotFound):
        await stranger.service.changes(desk.space, Rev(0))
    with pytest.raises(NotFound):
        await stranger.service.commit(desk.space, Commit(os.urandom(16), (Change(desk.folder, Rev(1), 5, None),)))
    assert (await stranger.service.poll({desk.space: Rev(0)}, 1)).heads == {}


async def test_a_token_that_is_none_is_not_signed_in(server: Any) -> None:
    async with connect(server.url, "no such token") as service:
        with pytest.raises(NotSignedIn):
            await service.spaces()
    with pytest.raises(NotSignedIn):
        await login(server.url, "anna", "wrong", "desk")
    await health(server.url)


async def test_messages_are_the_same_after_the_wire(desk: Desk) -> None:
    """All fields of a state, at their extremes."""
    node = desk.new_node()
    state = msgspec.structs.replace(
        file_state(desk.folder, b"\xff" * 255, mtime_ns=-(2**63)),
        names=(Name(desk.folder, b"\xff" * 255), Name(desk.folder, b"\n")),
        mode=0o7777,
        uid=2**32 - 1,
        atime_ns=2**63 - 1,
        xattrs={b"user.\xff": b"\x00" * 60_000, b"user.empty": b""},
        content=Manifest(1 << 43, entries=(Entry(ChunkId(b""), b"", 1 << 43),)),
    )
    answer = await desk.commit(made(node, state))
    assert answer.rev, answer.reason
    assert (await desk.service.nodes(desk.space, [node])).nodes[0] == NodeVersion(node, answer.rev, 5, state)
