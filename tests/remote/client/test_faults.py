"""What the client makes of a network and a server that do not behave."""

import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import trio

from remote.client import session
from remote.client.patience import Patience
from remote.client.service import connect, health, login
from remote.client.traffic import Traffic
from remote.protocol.errors import (
    BadRequest,
    Busy,
    ChunkMissing,
    CursorTooOld,
    NotFound,
    NotSignedIn,
    RemoteError,
    ServerFault,
    TooLarge,
    Unreachable,
)
from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.protocol.messages import CONTENT_TYPE, Change, Commit, NodeRange, PollAnswer, Problem, Spaces
from remote.protocol.nodes import Kind, NodeState

pytestmark = pytest.mark.anyio

# Any: conftest.Peer, which cannot be imported from here.
OpenPeer = Callable[[], AbstractAsyncContextManager[Any]]

SPACE = SpaceId(7)
EMPTY = Spaces((), 5)
QUICK = Patience(60.0, first_pause_seconds=0.001)
"""Pauses that a test need not wait for."""
SHORT = Patience(0.3, first_pause_seconds=0.001)
"""A deadline that a test can wait for."""


async def test_a_connection_cut_before_or_in_the_answer_is_tried_again(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:

        async def script(request: Any) -> bytes | None:
            if len(peer.requests) == 2:
                await request.stream.send_all(peer.message(EMPTY)[:-1])
            return peer.message(EMPTY) if len(peer.requests) == 3 else None

        peer.script = script
        assert await service.spaces() == EMPTY
        assert len(peer.requests) == 3


async def test_requests_carry_token_version_and_type(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url + "/below/", "secret", patience=QUICK) as service:
        peer.answer(peer.message(NodeRange(NodeId(1 << 32), 1 << 32)))
        await service.lease_range()
        request = peer.requests[0]
        assert (request.method, request.target) == ("POST", "/below/v1/ranges")
        assert request.headers["authorization"] == "bearer secret"
        assert request.headers["satchel-protocol"] == "1"
        assert request.headers["accept"] == CONTENT_TYPE


async def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with connect(url, "token", patience=QUICK) as service:
            with pytest.raises(Unreachable, match="cannot be reached"):
                await service.spaces()
        with pytest.raises(Unreachable):
            await health(url)


async def test_who_answered_in_plain_http_once_is_not_asked_for_https(open_peer: OpenPeer) -> None:
    async with open_peer() as peer:
        async with connect(peer.url, "token", patience=SHORT) as service:
            peer.answer(peer.message(EMPTY), None)
            assert await service.spaces() == EMPTY
            with pytest.raises(Unreachable) as cut:
                await service.spaces()
            assert "https" not in str(cut.value)
        async with connect(peer.url, "token", patience=SHORT) as service:
            with pytest.raises(Unreachable, match="Does it speak https"):
                await service.spaces()


async def test_silence_is_unreachable_at_the_deadline(open_peer: OpenPeer) -> None:
    async def silent(_request: Any) -> bytes | None:
        await trio.sleep_forever()

    async with open_peer() as peer, connect(peer.url, "token", patience=SHORT) as service:
        peer.script = silent
        started = trio.current_time()
        with pytest.raises(Unreachable):
            await service.spaces()
        assert trio.current_time() - started > 0.25


async def test_an_answer_that_only_trickles_is_unreachable_at_the_deadline(open_peer: OpenPeer) -> None:
    async def trickle(request: Any) -> bytes | None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await request.stream.send_all(b"1\r\nx\r\n")

    async with open_peer() as peer, connect(peer.url, "token", patience=SHORT) as service:
        peer.script = trickle
        with pytest.raises(Unreachable):
            await service.spaces()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", Unreachable),
        (b"\r\n\r\n", Unreachable),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>", Unreachable),
        (b"HTTP/1.1 302 Found\r\nlocation: http://login.wifi.example/\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", ServerFault),
        (b"HTTP/1.1 503 Later\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n", Busy),
        (b"HTTP/1.1 429 Slower\r\ncontent-length: 0\r\nretry-after: soon\r\n\r\n", Busy),
    ],
)
async def test_what_is_no_answer_of_a_server_is_never_read_as_one(
    open_peer: OpenPeer, answer: bytes, error: type[RemoteError]
) -> None:
    # Who says when to come again is not waited for beyond the deadline.
    has_to_wait = error is Busy and b"retry-after: 0" not in answer
    patience = Patience(0.5 if has_to_wait else 60.0, tries=2, first_pause_seconds=0.001)
    async with open_peer() as peer, connect(peer.url, "token", patience=patience) as service:

        async def script(request: Any) -> bytes | None:
            await request.stream.send_all(answer)
            return None

        peer.script = script
        with pytest.raises(error):
            await service.changes(SPACE, Rev(1))
        assert has_to_wait or len(peer.requests) == 2


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80", b"\x92\x01", b"\x91" * 5000, msgspec.msgpack.encode(NodeRange(NodeId(1), 2))]
)
async def test_an_answer_that_cannot_be_read_is_a_fault_of_the_server(open_peer: OpenPeer, body: bytes) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        peer.answer(peer.reply(200, body, content_type=CONTENT_TYPE))
        with pytest.raises(ServerFault):
            await service.spaces()


@pytest.mark.parametrize("family", [NotFound, CursorTooOld, ChunkMissing, NotSignedIn, BadRequest])
async def test_problems_are_raised_as_what_they_are_and_not_tried_again(
    open_peer: OpenPeer, family: type[RemoteError]
) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        peer.answer(peer.message(Problem(family.code, "It is so."), 400))
        with pytest.raises(family, match="It is so"):
            await service.commit(SPACE, Commit(bytes(16), ()))
        assert len(peer.requests) == 1


async def test_a_commit_that_is_too_large_is_not_even_sent(open_peer: OpenPeer) -> None:
    state = NodeState(Kind.SYMLINK, (), 0, 0, 0, 0, 0, 0, 0, target=bytes(10 << 20))
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        with pytest.raises(TooLarge, match="at most 16777216"):
            await service.commit(SPACE, Commit(bytes(16), (Change(NodeId(5), Rev(0), 1, state),) * 2))
        assert not peer.requests


async def test_a_problem_of_an_unknown_code_is_a_fault_of_the_server(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        peer.answer(peer.message(Problem("new-code", "Something new."), 400))
        with pytest.raises(ServerFault, match="Something new"):
            await service.spaces()
        peer.answer(peer.reply(400, b"\xff", content_type=CONTENT_TYPE))
        with pytest.raises(ServerFault, match="400"):
            await service.spaces()


async def test_busy_is_honoured(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        peer.answer(peer.message(Problem("busy", "Later.", 0.2), 429), peer.message(EMPTY))
        started = trio.current_time()
        assert await service.spaces() == EMPTY
        assert trio.current_time() - started >= 0.2
        peer.answer(peer.message(Problem("busy", "Much later.", 100.0), 429))
        with pytest.raises(Busy) as caught:
            await service.spaces()
        assert caught.value.retry_after_seconds == 100.0


async def test_answers_are_bounded(open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ANSWER_MAX", 100_000)
    patience = Patience(60.0, tries=1)

    async def endless(request: Any) -> bytes | None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await request.stream.send_all(b"8000\r\n" + bytes(0x8000) + b"\r\n")

    async with open_peer() as peer, connect(peer.url, "token", patience=patience) as service:
        peer.answer(f"HTTP/1.1 200 OK\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: 99999999\r\n\r\n".encode())
        with pytest.raises(ServerFault, match="99999999"):
            await service.spaces()
        peer.script = endless
        with pytest.raises(ServerFault, match="more than"):
            await service.spaces()
        peer.answer(peer.message(EMPTY))
        assert await service.spaces() == EMPTY


async def test_a_cancelled_request_leaves_the_service_usable(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK) as service:
        arrived = trio.Event()

        async def silent(_request: Any) -> bytes | None:
            arrived.set()
            await trio.sleep_forever()

        peer.script = silent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.spaces)
            await arrived.wait()
            nursery.cancel_scope.cancel()
        peer.answer(peer.message(EMPTY))
        assert await service.spaces() == EMPTY


async def test_a_long_poll_outlasts_the_deadline_and_blocks_nothing(open_peer: OpenPeer) -> None:
    async with open_peer() as peer, connect(peer.url, "token", patience=SHORT) as service:
        moved = trio.Event()

        async def script(request: Any) -> bytes | None:
            waited_for = moved if request.target == "/v1/poll" else trio.Event()
            await waited_for.wait()
            return peer.message(PollAnswer({SPACE: Rev(9)}, 1))

        peer.script = script
        answers: list[PollAnswer] = []

        async def poll() -> None:
            answers.append(await service.poll({SPACE: Rev(8)}, 60))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            for _ in range(3):
                with pytest.raises(Unreachable):
                    await service.spaces()
            moved.set()
        assert answers[0].heads == {SPACE: Rev(9)}


async def test_a_poll_that_nobody_answers_ends(open_peer: OpenPeer) -> None:
    async def silent(_request: Any) -> bytes | None:
        await trio.sleep_forever()

    async with open_peer() as peer, connect(peer.url, "token", patience=SHORT) as service:
        peer.script = silent
        with pytest.raises(Unreachable):
            await service.poll({SPACE: Rev(8)}, 0)


async def test_traffic_counts_what_went_over_the_wire_retries_included(open_peer: OpenPeer) -> None:
    traffic = Traffic()
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK, traffic=traffic) as service:
        answer = peer.message(EMPTY)
        peer.answer(None, answer)
        body = len(msgspec.msgpack.encode(Commit(bytes(16), ())))
        with pytest.raises(ServerFault):
            await service.commit(SPACE, Commit(bytes(16), ()))
        assert traffic.requests == len(peer.requests) == 4
        assert traffic.sent_bytes >= 4 * (body + 100)
        assert traffic.sent_bytes <= 4 * (body + 600)
        assert 3 * (len(answer) - 20) <= traffic.received_bytes <= 3 * (len(answer) + 20)


@pytest.mark.parametrize(
    "url",
    [
        "http://drive.example.org",
        "http://192.0.2.7:8750",
        "http://[2001:db8::1]",
        "http://localhost.example.org",
        "HTTP://nas/",
    ],
)
async def test_plain_http_to_another_machine_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(BadRequest, match="plain http"):
        await login(url, "anna", "secret", "desk")
    with pytest.raises(BadRequest, match="plain http"):
        async with connect(url, "token"):
            pass
    async with connect(url, "token", allow_insecure=True):
        pass


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1", "https://drive.example.org"]
)
async def test_loopback_and_https_are_fine(url: str) -> None:
    async with connect(url, "token"):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        "drive.example.org",
        "ftp://x",
        "http://",
        "https://anna:secret@drive",
        "https://x/?a=b",
        "https://x:99999",
        "https://x:0",
        "http://[::1",
        "file:///etc/passwd",
    ],
)
async def test_addresses_that_cannot_be_used_are_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        async with connect(url, "token", allow_insecure=True):
            pass


async def test_a_login_is_sent_once(open_peer: OpenPeer) -> None:
    async with open_peer() as peer:
        peer.answer(None)
        with pytest.raises(Unreachable):
            await login(peer.url, "anna", "secret", "desk")
        assert len(peer.requests) == 1
        assert "authorization" not in peer.requests[0].headers
        peer.answer(peer.message(Problem("not-signed-in", "Name and password do not match."), 401))
        with pytest.raises(NotSignedIn):
            await login(peer.url, "anna", "wrong", "desk")


async def test_health_tells_a_server_from_something_else(open_peer: OpenPeer) -> None:
    async with open_peer() as peer:
        peer.answer(peer.reply(200, b'{"status":"ok","protocol":1}'))
        await health(peer.url)
        peer.answer(peer.reply(200, b'{"status":"ok","protocol":2}'))
        with pytest.raises(ServerFault, match="version 2"):
            await health(peer.url)
        for wrong in (peer.reply(200, b"<html>"), peer.reply(404, b""), None):
            peer.answer(wrong)
            with pytest.raises(Unreachable):
                await health(peer.url)


async def test_silence_is_known_until_something_is_heard(open_peer: OpenPeer) -> None:
    traffic = Traffic()
    async with (
        open_peer() as peer,
        connect(peer.url, "token", patience=QUICK, traffic=traffic) as service,
        connect(peer.url, "token", patience=SHORT, traffic=traffic) as impatient,
    ):
        peer.answer(peer.message(EMPTY))
        await service.spaces()
        assert traffic.silent_seconds == 0
        silent: list[float] = []

        async def script(_request: Any) -> bytes | None:
            silent.append(traffic.silent_seconds)
            await trio.sleep_forever()
            return None

        peer.script = script
        while not silent:
            with pytest.raises(Unreachable):
                await impatient.spaces()
        assert silent[0] > 0, "while it is waited for"
        assert traffic.silent_seconds > silent[0], "and after it was given up"
        peer.answer(peer.message(EMPTY))
        await service.spaces()
        assert traffic.silent_seconds == 0


async def test_who_asks_no_more_says_nothing_of_the_server(open_peer: OpenPeer) -> None:
    traffic = Traffic()
    async with open_peer() as peer, connect(peer.url, "token", patience=QUICK, traffic=traffic) as service:
        with trio.CancelScope() as scope:

            async def script(_request: Any) -> bytes | None:
                scope.cancel()
                await trio.sleep_forever()
                return None

            peer.script = script
            await service.spaces()
        assert scope.cancelled_caught
        assert traffic.silent_seconds == 0
