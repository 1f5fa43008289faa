"""Lending: a thread sends the body, or receives it, the loop waits for slow clients, and nobody holds a thread."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from remote.server.http.connections import Lent
from remote.server.http.lending import TURN_BYTES, Inlet, Outlet

MIB = 1 << 20


class _Accepting(asyncio.Protocol):
    """One connection of a server, as uvicorn would have it."""

    def __init__(self) -> None:
        self.accepted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.accepted.set_result(transport)


def _run(test: Callable[[asyncio.Transport, socket.socket], Awaitable[object]]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        protocol = _Accepting()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        async with server:
            client = socket.create_connection(server.sockets[0].getsockname())
            with client:
                transport = await protocol.accepted
                async with asyncio.timeout(120):
                    try:
                        await test(transport, client)
                    finally:
                        transport.abort()
                        await asyncio.sleep(0)

    asyncio.run(run())


def _pieces(count: int) -> Iterator[Sequence[bytes]]:
    for number in range(count):
        yield [bytes([number]) * 40, b"", bytes([number + 1]) * (MIB + number)]


def _read(client: socket.socket, size: int) -> str:
    """The digest of so many bytes."""
    digest = sha256()
    while size:
        piece = client.recv(min(size, MIB))
        assert piece, f"{size} bytes are missing"
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def test_all_pieces_come_behind_the_head_in_their_order_and_the_connection_goes_on() -> None:
    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        expected = b"head" + b"".join(one for piece in _pieces(20) for one in piece) + b"next"
        reading = asyncio.create_task(asyncio.to_thread(_read, client, len(expected)))
        transport.write(b"head")
        with Outlet(transport) as outlet:
            await outlet.pour(_pieces(20), asyncio.to_thread)
        transport.write(b"next")
        assert await reading == sha256(expected).hexdigest()
        assert outlet.sent_bytes == len(expected) - len(b"headnext")

    _run(test)


def test_a_client_that_does_not_read_holds_no_thread() -> None:
    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        turns: list[bool] = []
        is_back = asyncio.Event()

        async def in_thread(job: Callable[[], bool]) -> bool:
            turns.append(await asyncio.to_thread(job))
            is_back.set()
            return turns[-1]

        with Outlet(transport) as outlet:
            pouring = asyncio.create_task(outlet.pour(_pieces(40), in_thread))
            await is_back.wait()
            assert turns == [False]
            assert 0 < outlet.sent_bytes < TURN_BYTES, "it was the client that did not take more"
            size = sum(len(one) for piece in _pieces(40) for one in piece)
            await asyncio.to_thread(_read, client, size)
            await pouring
        assert turns[-1]
        assert outlet.sent_bytes == size

    _run(test)


def test_a_head_behind_what_the_client_leaves_unread_is_waited_for_in_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        unread = bytes(32 * MIB)
        expected = unread + b"".join(one for piece in _pieces(3) for one in piece)
        transport.write(unread)
        monkeypatch.setattr(asyncio, "sleep", noted)
        with Outlet(transport) as outlet:
            pouring = asyncio.create_task(outlet.pour(_pieces(3), asyncio.to_thread))
            while len(pauses) < 5:
                await sleep(0)
            assert not outlet.sent_bytes
            assert pauses[4] > pauses[1] > pauses[0] == 0
            assert await asyncio.to_thread(_read, client, len(expected)) == sha256(expected).hexdigest()
            await pouring
        monkeypatch.undo()

    _run(test)


def test_a_client_that_goes_away_ends_it() -> None:
    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        with Outlet(transport) as outlet:
            pouring = asyncio.create_task(outlet.pour(_pieces(40), asyncio.to_thread))
            await asyncio.to_thread(_read, client, MIB)
            client.close()
            with pytest.raises(ConnectionError):
                await pouring

    _run(test)


def test_a_client_that_was_gone_before_it_began_is_no_fault() -> None:
    async def test(transport: asyncio.Transport, _client: socket.socket) -> None:
        connection: Any = SimpleNamespace(transport=transport)
        cycle: Any = SimpleNamespace(expected_content_length=MIB)
        transport.abort()
        lent = Lent(connection, cycle)
        await lent.pour(_pieces(1), asyncio.to_thread)
        assert (lent.sent_bytes, cycle.expected_content_length) == (0, 0)

    _run(test)


def test_all_of_a_body_is_taken_also_behind_what_is_refused() -> None:
    body = os.urandom(20 * MIB)

    async def test(transport: asyncio.Transport, client: socket.socket, take: Callable[[memoryview], None]) -> int:
        transport.pause_reading()
        sending = asyncio.create_task(asyncio.to_thread(client.sendall, body[10:] + b"next"))
        with Inlet(transport, body[:10], len(body)) as inlet:
            try:
                await inlet.take(take, asyncio.to_thread, 30)
            finally:
                await sending
                assert inlet.left == 0
                with socket.fromfd(
                    transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
                ) as rest:
                    rest.settimeout(60)
                    assert rest.recv(10) == b"next", "what follows the body is left"
        return inlet.left

    digest, refused = sha256(), []

    def refuse(piece: memoryview) -> None:
        refused.append(len(piece))
        raise LookupError("not that")

    _run(lambda transport, client: test(transport, client, digest.update))
    assert digest.digest() == sha256(body).digest()
    with pytest.raises(LookupError):
        _run(lambda transport, client: test(transport, client, refuse))
    assert len(refused) == 1


def test_a_body_that_is_cut_or_does_not_come_is_told() -> None:
    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        transport.pause_reading()
        taken = bytearray()
        with Inlet(transport, b"", 5 * MIB) as inlet:
            await asyncio.to_thread(client.sendall, bytes(2 * MIB))
            # The rest comes as room is made for it, which may take longer.
            while len(taken) < 2 * MIB:
                with pytest.raises(TimeoutError):
                    await inlet.take(taken.extend, asyncio.to_thread, 0.01)
            assert len(taken) == 2 * MIB
            client.close()
            with pytest.raises(ConnectionError):
                await inlet.take(taken.extend, asyncio.to_thread, 30)
            assert inlet.left == 3 * MIB

    _run(test)


def test_a_fault_of_the_store_in_the_middle_is_told() -> None:
    def broken() -> Iterator[Sequence[bytes]]:
        yield [b"first"]
        raise LookupError("the store lost it")

    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        with Outlet(transport) as outlet, pytest.raises(LookupError):
            await outlet.pour(broken(), asyncio.to_thread)

    _run(test)
