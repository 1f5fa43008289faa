"""Lending: long bodies that a thread sends, or receives, on the connection's own socket.

Through the event loop each quarter of a MiB of a body takes a turn of the loop, one of a thread, and copies; a thread
that has socket and store has none of that. Only plain connections can be lent: with TLS, the loop holds its state. A
client that is slow gives the thread back, and the loop waits for it.
"""

import asyncio
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

TURN_BYTES: Final = 8 << 20
TURN_SECONDS: Final = 0.05
"""After so much, or so long a wait for the client, the thread is given to others."""
TAKEN_AT_ONCE: Final = 1_536 << 10
"""Bytes of a body that are received before they are looked at: most chunks are shorter."""
_LOOK_SECONDS: Final = 0.05
_WORTH_WAKING: Final = 256 << 10
"""Bytes that a thread waits for, while it waits at all."""

InThread = Callable[[Callable[[], bool]], Awaitable[bool]]


class _Borrowed:
    """A second descriptor of a connection's socket; leave it when the body is moved, or given up."""

    def __init__(self, transport: asyncio.Transport, event: int) -> None:
        self._transport = transport
        if transport.is_closing():
            # The number of its descriptor may be another file's by now.
            raise ConnectionResetError("the connection was closed")
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, event)
        self._turn: asyncio.Future[bool] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._turn is not None and not self._turn.done():
            # Who waited for the thread was cancelled; the thread is still at work.
            self._turn.add_done_callback(lambda _: self._socket.close())
        else:
            self._socket.close()

    async def _in_turn(self, job: Callable[[], bool], in_thread: InThread) -> bool:
        self._turn = asyncio.ensure_future(in_thread(job))
        return await asyncio.shield(self._turn)

    def _is_ready(self, until: float) -> bool:
        """Waits, in a thread, until the client moved; whether it did in time."""
        left_ms = int((until - time.monotonic()) * 1e3)
        return left_ms > 0 and bool(self._poll.poll(left_ms))


class Outlet(_Borrowed):
    """Sends the body of an answer."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport, select.POLLOUT)
        self._left: list[memoryview] = []
        self.sent_bytes = 0

    async def pour(self, pieces: Iterator[Sequence[bytes]], in_thread: InThread) -> None:
        """Sends all pieces, read in threads as they are needed; raises ConnectionError when the client went away."""
        await self._until_sent()
        while not await self._in_turn(lambda: self._send(pieces), in_thread):
            if self._left:
                await self._writable()

    def _send(self, pieces: Iterator[Sequence[bytes]]) -> bool:
        """Sends for a while; whether that was all."""
        enough, until = self.sent_bytes + TURN_BYTES, time.monotonic() + TURN_SECONDS
        while self.sent_bytes < enough:
            if not self._left:
                self._left = [memoryview(one) for one in next(pieces, ()) if one]
                if not self._left:
                    return True
            try:
                sent = self._socket.sendmsg(self._left)
            except BlockingIOError:
                if not self._is_ready(until):
                    return False
                continue
            self.sent_bytes += sent
            while self._left and sent >= len(self._left[0]):
                sent -= len(self._left.pop(0))
            if sent:
                self._left[0] = self._left[0][sent:]
        return False

    async def _until_sent(self) -> None:
        """Returns when the head of the answer, which the loop sends, is on its way."""
        pause = 0.0
        while self._transport.get_write_buffer_size():
            if self._transport.is_closing():
                raise ConnectionResetError("the connection was closed")
            # Mostly in the loop's next turn; but a client may leave unread what it was sent before.
            await asyncio.sleep(pause)
            pause = min(_LOOK_SECONDS, pause + 0.001)

    async def _writable(self) -> None:
        loop, is_writable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._socket.fileno(), is_writable.set)
        try:
            await is_writable.wait()
        finally:
            loop.remove_writer(self._socket.fileno())


class Inlet(_Borrowed):
    """Receives what is left of the body of a request; nobody else may read the socket meanwhile."""

    def __init__(self, transport: asyncio.Transport, early: bytes, size: int) -> None:
        """`early`: what came of it with the head; `size`: how many bytes there are with that."""
        super().__init__(transport, select.POLLIN)
        self._early = early
        self.left = size - len(early)
        self._memory = memoryview(bytearray(min(TAKEN_AT_ONCE, size)))

    async def take(self, take: Callable[[memoryview], None], in_thread: InThread, stall_seconds: float) -> None:
        """Gives all of the body to `take`, in threads, also when that raises something, which is raised at the end.

        Raises ConnectionError when the client went away, TimeoutError when it fell silent.
        """
        taking = _Taking(take)
        await self._in_turn(lambda: taking.take(memoryview(self._early)), in_thread)
        while self.left:
            if not await self._in_turn(lambda: self._receive(taking), in_thread):
                async with asyncio.timeout(stall_seconds):
                    await self._readable()
        taking.check()

    def _receive(self, taking: "_Taking") -> bool:
        """Receives for a while; whether there is more to be had at once, or nothing left."""
        enough, until = self.left - TURN_BYTES, time.monotonic() + TURN_SECONDS
        filled, is_there = 0, True
        try:
            while self.left > max(0, enough) and is_there:
                try:
                    count = self._socket.recv_into(self._memory[filled : filled + self.left])
                except BlockingIOError:
                    self._wake_at(min(self.left, _WORTH_WAKING))
                    is_there = self._is_ready(until)
                    self._wake_at(1)
                    continue
                if not count:
                    raise ConnectionResetError("the connection ended in the middle of the body")
                filled += count
                self.left -= count
                if filled == len(self._memory):
                    taking.take(self._memory)
                    filled = 0
        finally:
            taking.take(self._memory[:filled])
        return is_there

    def _wake_at(self, count: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    async def _readable(self) -> None:
        loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket.fileno(), is_readable.set)
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(self._socket.fileno())


class _Taking:
    """Gives pieces away until one is refused: what follows is received all the same, so that the answer can be read."""

    def __init__(self, take: Callable[[memoryview], None]) -> None:
        self._take = take
        self._error: Exception | None = None

    def take(self, piece: memoryview) -> bool:
        """Gives a piece away, unless one was refused; always true."""
        if self._error is None and piece:
            try:
                self._take(piece)
            except Exception as error:  # noqa: BLE001 - raised by `check`
                self._error = error
        return True

    def check(self) -> None:
        """Raises what was raised."""
        if self._error is not None:
            raise self._error
