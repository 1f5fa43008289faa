"""Chunks over a network that cuts, refuses and answers half: batches, signed URLs, resuming, fairness."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from remote.client import lines, transfer
from remote.client.patience import Patience
from remote.client.service import connect
from remote.client.traffic import Traffic
from remote.protocol.errors import BadRequest, NotFound, ServerFault, Unreachable
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.messages import (
    CHUNK_MAX,
    PUT_BODY_MAX,
    SMALL_CHUNK_MAX,
    ChunkPart,
    GetAnswer,
    GetRequest,
    Problem,
    PutAnswer,
    PutRequest,
    Spaces,
    UrlsAnswer,
    UrlsRequest,
    WantAnswer,
    WantRequest,
)
from remote.protocol.parts import HEAD_SIZE, PARTS_TYPE, Head
from remote.protocol.sealing import Buffer

pytestmark = pytest.mark.anyio

# Any: conftest.Peer and its requests, which cannot be imported from here.
OpenPeer = Callable[[], AbstractAsyncContextManager[Any]]

SPACE = SpaceId(7)
QUICK = Patience(60.0, first_pause_seconds=0.001)


def chunk_id(data: bytes) -> ChunkId:
    return ChunkId(hashlib.sha256(data).digest())


def made(*lengths: int) -> dict[ChunkId, bytes]:
    """Chunks of these lengths, all different."""
    contents = [number.to_bytes(4, "big") * (length // 4 + 1) for number, length in enumerate(lengths)]
    return {chunk_id(data[:length]): data[:length] for data, length in zip(contents, lengths, strict=True)}


class Store:
    """A peer's script: a small, correct server of chunks, whose parts a test replaces to make it fail."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        peer.script = self.answer
        self.held: dict[ChunkId, bytes] = {}
        self.expires_seconds = 300
        self.get_most = 3
        self.on_get: Callable[[Any, ChunkId], Any] | None = None
        self.on_put: Callable[[Any, ChunkId], Any] | None = None
        self.may_send = False

    def targets(self, what: str) -> list[Any]:
        return [request for request in self.peer.requests if what in request.target]

    async def answer(self, request: Any) -> bytes | None:
        kind = request.target.partition("?")[0].rsplit("/", 1)[1]
        if request.target.startswith("/v1/objects/"):
            chunk = ChunkId(bytes.fromhex(kind))
            special = self.on_get if request.method == "GET" else self.on_put
            found = await special(request, chunk) if special else NotImplemented
            return self.object(request, chunk) if found is NotImplemented else found
        answer: msgspec.Struct = getattr(self, kind)(request.body)
        return bytes(self.peer.message(answer, 404 if isinstance(answer, Problem) else 200))

    def object(self, request: Any, chunk: ChunkId) -> bytes:
        if request.method == "PUT":
            assert chunk_id(request.body) == chunk
            self.held[chunk] = request.body
            return bytes(self.peer.reply(201, b""))
        data = self.held[chunk]
        if "range" not in request.headers:
            return bytes(self.peer.reply(200, data))
        first = int(request.headers["range"].removeprefix("bytes=").rstrip("-"))
        where = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return bytes(self.peer.reply(206, data[first:], content_range=where))

    def want(self, body: bytes) -> WantAnswer:
        asked = msgspec.msgpack.decode(body, type=WantRequest).chunks
        missing = tuple(chunk for chunk, _ in asked if chunk not in self.held)
        urls = {chunk: self.url(chunk) for chunk, size in asked if size > SMALL_CHUNK_MAX and chunk in missing}
        return WantAnswer(missing, urls, self.may_send)

    def send(self, body: bytes) -> PutAnswer:
        found = self.whole(body)
        self.held.update(found)
        return PutAnswer(tuple(found))

    def whole(self, body: bytes) -> dict[ChunkId, bytes]:
        """The chunks of a body that came whole."""
        found: dict[ChunkId, bytes] = {}
        while len(body) >= HEAD_SIZE:
            head = Head.unpack(body[:HEAD_SIZE])
            data, body = body[HEAD_SIZE:][: head.length], body[HEAD_SIZE + head.length :]
            if len(data) == head.length:
                assert chunk_id(data) == head.id
                found[head.id] = data
        return found

    def put(self, body: bytes) -> PutAnswer:
        chunks = msgspec.msgpack.decode(body, type=PutRequest).chunks
        self.held.update((chunk_id(data), data) for data in chunks)
        return PutAnswer(tuple(chunk_id(data) for data in chunks))

    def get(self, body: bytes) -> GetAnswer | Problem:
        parts = msgspec.msgpack.decode(body, type=GetRequest).parts
        if any(part.id not in self.held for part in parts):
            return Problem("not-found", "There is no such chunk.")
        return GetAnswer(tuple(self.held[part.id][: 10 * part.frames or None] for part in parts[: self.get_most]))

    def urls(self, body: bytes) -> UrlsAnswer:
        asked = msgspec.msgpack.decode(body, type=UrlsRequest).chunks
        large = [chunk for chunk in asked if len(self.held.get(chunk, b"")) > SMALL_CHUNK_MAX]
        return UrlsAnswer({chunk: self.url(chunk) for chunk in large}, self.expires_seconds)

    def url(self, chunk: ChunkId) -> str:
        return f"/v1/objects/{chunk.hex()}?space=7&expires=1&signature=00"


async def test_only_what_is_missing_is_sent_small_ones_together_and_large_ones_alone(open_peer: OpenPeer) -> None:
    chunks = made(*[100_000] * 100, *[SMALL_CHUNK_MAX + 1, 1_000_000, 1_400_000], 5, 6)
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        store = Store(peer)
        held = dict(list(chunks.items())[10:20])
        store.held.update(held)
        sent = await service.send_chunks(SPACE, chunks)
        assert store.held == chunks
        assert sent == sum(map(len, chunks.values())) - sum(map(len, held.values()))
        puts = [msgspec.msgpack.decode(request.body, type=PutRequest).chunks for request in store.targets("/put")]
        assert len(puts) == 3
        assert all(sum(map(len, put)) <= PUT_BODY_MAX for put in puts)
        small = [data for chunk, data in chunks.items() if len(data) <= SMALL_CHUNK_MAX and chunk not in held]
        assert sorted(itertools.chain(*puts)) == sorted(small)
        for put in puts:
            first = small.index(put[0])
            assert list(put) == small[first : first + len(put)], "neighbours belong in one request"
        assert len(store.targets("/objects/")) == 3
        assert await service.send_chunks(SPACE, chunks) == 0
        assert await service.wanted(SPACE, {chunk: len(data) for chunk, data in chunks.items()}) == set()


async def test_the_token_stays_with_the_server(open_peer: OpenPeer) -> None:
    """A signed URL may lead to an object store of somebody else."""
    chunks = made(300_000)
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        await service.send_chunks(SPACE, chunks)
        await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks])
        requests = store.targets("/objects/")
        assert len(requests) == 2
        assert not any("authorization" in request.headers for request in requests)


async def test_a_signed_url_in_the_clear_to_another_machine_is_not_used(open_peer: OpenPeer) -> None:
    chunks = made(300_000)
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.url = lambda chunk: f"http://store.example.org/{chunk.hex()}"  # type: ignore[method-assign]
        with pytest.raises(BadRequest, match="plain http"):
            await service.send_chunks(SPACE, chunks)
        store.url = lambda chunk: f"file:///{chunk.hex()}"  # type: ignore[method-assign]
        with pytest.raises(BadRequest, match="no address"):
            await service.send_chunks(SPACE, chunks)


@pytest.mark.parametrize("status", [409, 412])
async def test_an_object_that_is_there_already_is_as_good_as_sent(open_peer: OpenPeer, status: int) -> None:
    chunks = made(300_000)

    async def refuse(_request: Any, _chunk: ChunkId) -> bytes:
        return bytes(peer.reply(status, b""))

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.on_put = refuse
        assert await service.send_chunks(SPACE, chunks) == 300_000
        assert len(store.targets("/objects/")) == 1


async def test_an_upload_that_is_cut_is_sent_again(open_peer: OpenPeer) -> None:
    chunks = made(300_000, 400_000, 10, 20)
    traffic = Traffic()

    async def cut_once(request: Any, chunk: ChunkId) -> Any:
        return None if len([r for r in peer.requests if r.target == request.target]) == 1 else NotImplemented

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK, traffic=traffic) as service:
        store = Store(peer)
        store.on_put = cut_once
        await service.send_chunks(SPACE, chunks)
        assert store.held == chunks
        assert len(store.targets("/objects/")) == 4
        assert 1_400_000 < traffic.sent_bytes < 1_410_000


async def test_large_chunks_go_in_streams_where_the_server_takes_them(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "GROUP_BYTES", 1_000_000)
    chunks = made(*[400_000 + number for number in range(5)], 900_000, 10, 20)
    traffic = Traffic()
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK, traffic=traffic) as service:
        store = Store(peer)
        store.may_send = True
        assert await service.send_chunks(SPACE, chunks) == sum(map(len, chunks.values()))
        assert store.held == chunks
        assert store.targets("/objects/") == []
        sent = store.targets("/send")
        assert len(sent) == 4
        for request in sent:
            assert request.headers["authorization"] == "bearer token"
            assert request.headers["content-type"] == PARTS_TYPE
        assert sum(map(len, chunks.values())) < traffic.sent_bytes < sum(map(len, chunks.values())) + 5_000


async def test_after_a_cut_a_stream_goes_on_with_what_the_server_misses(open_peer: OpenPeer) -> None:
    chunks = made(300_000, 400_000, 500_000)
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        store = Store(peer)
        store.may_send = True

        async def cut_once(request: Any) -> bytes | None:
            if request.target.endswith("/send") and len(store.targets("/send")) == 1:
                store.held.update(store.whole(request.body[:800_000]))
                return None
            return await store.answer(request)

        peer.script = cut_once
        await service.send_chunks(SPACE, chunks)
        assert store.held == chunks
        assert [len(request.body) // 100_000 for request in store.targets("/send")] == [12, 5]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Problem("bad-request", "No."), BadRequest),
        (Problem("not-found", "No."), NotFound),
        (PutAnswer(()), ServerFault),
    ],
)
async def test_a_stream_that_is_refused_says_why(open_peer: OpenPeer, answer: Any, error: Any) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        store = Store(peer)
        store.may_send = True
        store.send = lambda _body: answer  # type: ignore[method-assign]
        with pytest.raises(error):
            await service.send_chunks(SPACE, made(300_000))


@pytest.mark.parametrize("answer_with_problem", [True, False])
async def test_an_expired_upload_url_is_asked_for_once_more(open_peer: OpenPeer, answer_with_problem: bool) -> None:
    chunks = made(300_000)

    async def expired(request: Any, _chunk: ChunkId) -> Any:
        if "fresh" in request.target:
            return NotImplemented
        is_ours = answer_with_problem
        return peer.message(Problem("not-allowed", "Expired."), 403) if is_ours else peer.reply(403, b"<Error/>")

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.on_put = expired
        old_url = store.url
        store.url = lambda chunk: old_url(chunk) + ("&fresh" if store.targets("/objects/") else "")  # type: ignore[method-assign]
        await service.send_chunks(SPACE, chunks)
        assert store.held == chunks
        assert len(store.targets("/want")) == 2


async def test_few_bytes_are_sent_without_asking(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        assert await service.send_chunks(SPACE, made(4_000, 5_000)) == 9_000
        assert store.held == made(4_000, 5_000)
        assert len(peer.requests) == 1


async def test_a_server_that_stores_something_else_is_not_believed(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.put = lambda _body: PutAnswer((ChunkId(bytes(32)),))  # type: ignore[method-assign]
        with pytest.raises(ServerFault, match="other chunks"):
            await service.send_chunks(SPACE, made(10))
        store.want = lambda _body: WantAnswer((ChunkId(bytes(32)),), {})  # type: ignore[method-assign]
        with pytest.raises(ServerFault, match="not offered"):
            await service.send_chunks(SPACE, made(20_000))
        store.want = lambda _body: WantAnswer(tuple(made(300_000)), {})  # type: ignore[method-assign]
        with pytest.raises(ServerFault, match="where to"):
            await service.send_chunks(SPACE, made(300_000))


async def test_parts_come_in_order_however_they_travel(open_peer: OpenPeer) -> None:
    chunks = made(*[50 + number for number in range(40)], 300_000, 1_000_000)
    ids = list(chunks)
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        parts = [part for chunk in ids for part in (ChunkPart(chunk), ChunkPart(chunk, 0, 2))]
        got = await service.get_parts(SPACE, parts)
        assert got == [data for chunk in ids for data in (chunks[chunk], chunks[chunk][:20])]
        assert len(store.targets("/urls")) == 1
        assert len(store.targets("/objects/")) == 2
        await service.get_parts(SPACE, [ChunkPart(ids[-1])])
        assert len(store.targets("/urls")) == 1, "URLs are kept while they are valid"
        assert await service.get_parts(SPACE, []) == []


async def test_urls_that_expire_are_not_kept(open_peer: OpenPeer) -> None:
    chunks = made(300_000)
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        store.expires_seconds = 10
        for _ in range(2):
            await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks])
        assert len(store.targets("/urls")) == 2


async def test_kept_urls_are_bounded(open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "URLS_KEPT", 2)
    chunks = made(300_000, 300_000, 300_000)
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        for chunk in [*chunks, *reversed(chunks)]:
            await service.get_parts(SPACE, [ChunkPart(chunk)])
        assert len(store.targets("/urls")) == 4


@pytest.mark.parametrize("knows_ranges", [True, False])
async def test_a_cut_download_goes_on_where_it_was_cut(open_peer: OpenPeer, knows_ranges: bool) -> None:
    chunks = made(1_000_000)
    data = next(iter(chunks.values()))
    traffic = Traffic()

    async def cut(request: Any, _chunk: ChunkId) -> Any:
        if "range" not in request.headers:
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + data[:600_000])
            return None
        return NotImplemented if knows_ranges else peer.reply(200, data)

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK, traffic=traffic) as service:
        store = Store(peer)
        store.held.update(chunks)
        store.on_get = cut
        assert await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks]) == [data]
        assert [request.headers.get("range") for request in store.targets("/objects/")] == [None, "bytes=600000-"]
        expected = 1_000_000 if knows_ranges else 1_600_000
        assert expected < traffic.received_bytes < expected + 2_000


async def test_a_download_that_is_cut_again_and_again_is_unreachable(open_peer: OpenPeer) -> None:
    chunks = made(1_000_000)

    async def cut(request: Any, _chunk: ChunkId) -> Any:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx")
        return None

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        store.on_get = cut
        with pytest.raises(Unreachable):
            await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks])


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_refused_download_url_is_replaced_by_asking_the_server(open_peer: OpenPeer, status: int) -> None:
    chunks = made(300_000, 400_000)

    async def refuse(_request: Any, _chunk: ChunkId) -> bytes:
        return bytes(peer.reply(status, b""))

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        store.on_get = refuse
        assert await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks]) == list(chunks.values())
        assert len(store.targets("/get")) == 2


async def test_an_object_longer_than_any_chunk_is_refused(open_peer: OpenPeer) -> None:
    chunks = made(300_000)

    async def too_long(_request: Any, _chunk: ChunkId) -> bytes:
        return f"HTTP/1.1 200 OK\r\ncontent-length: {CHUNK_MAX + 1}\r\n\r\n".encode()

    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        store.on_get = too_long
        with pytest.raises(ServerFault, match=str(CHUNK_MAX + 1)):
            await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks])


async def test_unknown_chunks_are_not_found(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(made(10))
        for parts in ([ChunkPart(ChunkId(bytes(32)))], [ChunkPart(ChunkId(bytes(32)), 0, 1)]):
            with pytest.raises(NotFound):
                await service.get_parts(SPACE, [*map(ChunkPart, made(10)), *parts])


@pytest.mark.parametrize("parts", [(), (b"1", b"2", b"3")])
async def test_an_answer_of_too_few_or_too_many_parts_is_a_fault(open_peer: OpenPeer, parts: tuple[bytes, ...]) -> None:
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.get = lambda _body: GetAnswer(parts)  # type: ignore[method-assign]
        with pytest.raises(ServerFault, match="parts"):
            await service.get_parts(SPACE, [ChunkPart(ChunkId(bytes(32)), 0, 1)] * 2)


async def test_a_reader_does_not_wait_behind_uploads(open_peer: OpenPeer) -> None:
    large, small = made(*[300_000 + number for number in range(30)]), made(*[10_000] * 1500)
    wanted = {chunk_id(data): data for data in (b"read me" * 100_000, b"and me")}
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        may_upload = trio.Event()
        store = Store(peer)
        store.held.update(wanted)
        answer = store.answer

        async def hold(request: Any) -> bytes | None:
            if request.method == "PUT" or request.target.endswith("/put"):
                await may_upload.wait()
            return await answer(request)

        peer.script = hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.send_chunks, SPACE, large)
            nursery.start_soon(service.send_chunks, SPACE, small)
            while len([r for r in peer.requests if r.method == "PUT" or r.target.endswith("/put")]) < 6:
                await trio.testing.wait_all_tasks_blocked(0.01)
            got = await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in wanted])
            assert got == list(wanted.values())
            assert not store.held.keys() & large.keys()
            may_upload.set()
        assert store.held == {**wanted, **large, **small}


async def test_a_reader_of_one_chunk_does_not_wait_behind_readers_of_many(open_peer: OpenPeer) -> None:
    many, one = made(*[10_000] * 3_000), ChunkPart(chunk_id(b"me"), 0, 1)
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        may_go_on = trio.Event()
        store = Store(peer)
        store.held.update({**many, one.id: b"me"})
        answer = store.answer
        store.get_most = 2_000

        async def hold(request: Any) -> bytes | None:
            if len(request.body) > 1_000:
                await may_go_on.wait()
            return await answer(request)

        peer.script = hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.get_parts, SPACE, [ChunkPart(chunk, 0, 1) for chunk in many])
            while len(store.targets("/get")) < transfer.BATCHES_READ_AT_ONCE:
                await trio.testing.wait_all_tasks_blocked(0.001)
            assert await service.get_parts(SPACE, [one]) == [b"me"]
            may_go_on.set()


async def test_at_most_so_many_objects_travel_at_once(open_peer: OpenPeer) -> None:
    chunks = made(*[300_000 + number for number in range(30)])
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        at_once, most = 0, 0
        answer = store.answer
        wanted, are_there = transfer.OBJECTS_SENT_AT_ONCE, trio.Event()

        async def count(request: Any) -> bytes | None:
            nonlocal at_once, most
            if "/objects/" in request.target:
                at_once += 1
                most = max(most, at_once)
                if at_once == wanted:
                    are_there.set()
                # None is answered before as many came as may; then it is waited for one more.
                await are_there.wait()
                await trio.testing.wait_all_tasks_blocked(0.001)
                at_once -= 1
            return await answer(request)

        peer.script = count
        with trio.fail_after(60):
            await service.send_chunks(SPACE, chunks)
        assert most == wanted
        wanted, are_there, most = transfer.OBJECTS_READ_AT_ONCE, trio.Event(), 0
        with trio.fail_after(60):
            await service.get_parts(SPACE, [ChunkPart(chunk) for chunk in chunks])
        assert most == wanted


async def test_a_cancelled_download_leaves_the_service_usable(open_peer: OpenPeer) -> None:
    chunks = made(*[300_000 + number for number in range(20)])
    async with open_peer() as peer, connect(peer.url, "secret", patience=QUICK) as service:
        store = Store(peer)
        store.held.update(chunks)
        arrived = trio.Event()

        async def stall(request: Any, _chunk: ChunkId) -> Any:
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\nx")
            arrived.set()
            await trio.sleep_forever()

        store.on_get = stall
        parts = [ChunkPart(chunk) for chunk in chunks]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.get_parts, SPACE, parts)
            await arrived.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            threads = service._session._lines._readers
            while threads.borrowed_tokens:
                await trio.testing.wait_all_tasks_blocked(0.001)
        store.on_get = None
        assert await service.get_parts(SPACE, parts) == list(chunks.values())


def items(parts: Sequence[ChunkPart], held: dict[ChunkId, bytes]) -> bytes:
    """The body of an answer to `chunks/read`."""
    heads = [Head(part.id, part.first, part.frames, len(held[part.id])) for part in parts]
    return b"".join(head.pack() + held[head.id] for head in heads)


async def test_the_first_read_after_a_question_finds_a_connection_ready(open_peer: OpenPeer) -> None:
    chunks = made(50_000)
    parts = [ChunkPart(chunk, 0, 1) for chunk in chunks]
    async with (
        open_peer() as peer,
        connect(peer.url, "token", patience=QUICK) as service,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(service.keep_ready)
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.connections, "nobody asked for anything"
        peer.answer(peer.message(Spaces((), 5)))
        await service.spaces()
        with trio.fail_after(60):
            while peer.connections < 2 or not any(service._session._lines._idle.values()):
                await trio.lowlevel.checkpoint()
        before = peer.connections
        peer.answer(peer.reply(200, items(parts, chunks), content_type=PARTS_TYPE))
        await service.read_parts(SPACE, parts, lambda _chunk, _first, _frames, _data: None)
        assert peer.connections == before == 2
        nursery.cancel_scope.cancel()


async def test_what_came_of_a_part_is_counted_before_the_rest_of_it_comes(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_HEARD_SECONDS", 0.05)
    chunks = made(400_000)
    parts = [ChunkPart(chunk, 0, 4) for chunk in chunks]
    traffic = Traffic()
    half = 200_000

    async def script(request: Any) -> bytes | None:
        answer = peer.reply(200, items(parts, chunks), content_type=PARTS_TYPE)
        await request.stream.send_all(answer[:half])
        with trio.fail_after(60):
            # Were it not, a slow line would look like one that is cut.
            while traffic.received_bytes < half // 2:
                await trio.lowlevel.checkpoint()
        return bytes(answer[half:])

    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK, traffic=traffic) as service:
        peer.script = script
        taken: list[bytes] = []
        await service.read_parts(SPACE, parts, lambda _chunk, _first, _frames, data: taken.append(bytes(data)))
    assert hashlib.sha256(taken[0]).digest() == parts[0].id


async def test_a_server_that_stops_in_the_middle_of_a_part_is_given_up(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_HEARD_SECONDS", 0.01)
    chunks = made(400_000)
    parts = [ChunkPart(chunk, 0, 4) for chunk in chunks]

    async def script(request: Any) -> bytes | None:
        await request.stream.send_all(peer.reply(200, items(parts, chunks), content_type=PARTS_TYPE)[:200_000])
        await trio.sleep_forever()
        return None

    brief = replace(QUICK, deadline_seconds=0.2, tries=1)
    async with open_peer() as peer, connect(peer.url, "token", patience=brief) as service:
        peer.script = script
        with trio.fail_after(60), pytest.raises(Unreachable):
            await service.read_parts(SPACE, parts, lambda *_: None)


async def test_a_cut_answer_goes_on_with_the_parts_that_are_missing(open_peer: OpenPeer) -> None:
    chunks = made(*[50_000] * 6)
    parts = [ChunkPart(chunk, 0, 1) for chunk in chunks]
    asked = []

    async def script(request: Any) -> bytes | None:
        wanted = msgspec.msgpack.decode(request.body, type=GetRequest).parts
        asked.append(len(wanted))
        answer = peer.reply(200, items(wanted, chunks), content_type=PARTS_TYPE)
        if len(asked) == 3:
            return bytes(answer)
        await request.stream.send_all(answer[: len(answer) * 2 // 5])
        return None

    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        peer.script = script
        taken: list[tuple[bytes, bytes]] = []
        await service.read_parts(SPACE, parts, lambda chunk, _first, _frames, data: taken.append((chunk, bytes(data))))
    assert asked == [6, 4, 3]
    assert taken == list(chunks.items()), "each whole, once, in order"


@pytest.mark.parametrize("harm", ["a page", "too long", "left out", "a problem"])
async def test_an_answer_that_is_none_is_an_error(open_peer: OpenPeer, harm: str) -> None:
    chunks = made(100)
    (chunk,) = chunks
    parts = [ChunkPart(chunk, 0, 1)]
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        answers = {
            "a page": peer.reply(200, b"<html>Please sign in", content_type="text/html"),
            "too long": peer.reply(200, Head(chunk, 0, 1, 1 << 31).pack() + b"x", content_type=PARTS_TYPE),
            "left out": peer.reply(200, b"", content_type=PARTS_TYPE),
            "a problem": peer.message(Problem("not-found", "There is no such chunk."), 404),
        }
        peer.answer(answers[harm])
        expected = {"a page": Unreachable, "a problem": NotFound}.get(harm, ServerFault)
        with pytest.raises(expected):
            await service.read_parts(SPACE, parts, lambda *_: None)


async def test_after_a_cancelled_read_nothing_is_taken_any_more(open_peer: OpenPeer) -> None:
    chunks = made(100, 200)
    parts = [ChunkPart(chunk, 0, 1) for chunk in chunks]
    taken: list[bytes] = []
    first_taken = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def take(chunk: ChunkId, _first: int, _frames: int, _data: Buffer) -> None:
        taken.append(chunk)
        token.run_sync_soon(first_taken.set)

    async def script(request: Any) -> bytes | None:
        answer = peer.reply(200, items(parts, chunks), content_type=PARTS_TYPE)
        await request.stream.send_all(answer[:-10])
        await trio.sleep_forever()
        return None

    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        peer.script = script
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.read_parts, SPACE, parts, take)
            await first_taken.wait()
            nursery.cancel_scope.cancel()
        assert taken == [parts[0].id]
