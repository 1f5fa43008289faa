"""Outlet: a thread sends the body, the loop waits for slow clients, and nobody holds a thread."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import sha256

import pytest

from remote.server.http.outlet import TURN_BYTES, Outlet

MIB = 1 << 20


class _Accepting(asyncio.Protocol):
    """One connection of a server, as uvicorn would have it."""

    def __init__(self) -> None:
        self.accepted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.accepted.set_result(transport)


def _run(test: Callable[[asyncio.Transport, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        protocol = _Accepting()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        async with server:
            client = socket.create_connection(server.sockets[0].getsockname())
            with client:
                transport = await protocol.accepted
                async with asyncio.timeout(30):
                    await test(transport, client)
                transport.abort()

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


def test_a_client_that_goes_away_ends_it() -> None:
    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        with Outlet(transport) as outlet:
            pouring = asyncio.create_task(outlet.pour(_pieces(40), asyncio.to_thread))
            await asyncio.to_thread(_read, client, MIB)
            client.close()
            with pytest.raises(ConnectionError):
                await pouring

    _run(test)


def test_a_fault_of_the_store_in_the_middle_is_told() -> None:
    def broken() -> Iterator[Sequence[bytes]]:
        yield [b"first"]
        raise LookupError("the store lost it")

    async def test(transport: asyncio.Transport, client: socket.socket) -> None:
        with Outlet(transport) as outlet, pytest.raises(LookupError):
            await outlet.pour(broken(), asyncio.to_thread)

    _run(test)
