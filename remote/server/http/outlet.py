"""Outlet: the body of a long answer, sent by a thread on the connection's own socket.

Through the event loop each MiB of a body takes a turn of a thread, one of the loop and a copy; a thread that reads the
store and sends has none of that. Only plain connections can be lent: with TLS, the loop's transport holds its state.
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


InThread = Callable[[Callable[[], bool]], Awaitable[bool]]


class Outlet:
    """A second descriptor of a connection's socket; leave it when the body is sent, or given up."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)
        self._left: list[memoryview] = []
        self._turn: asyncio.Future[bool] | None = None
        self.sent_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._turn is not None and not self._turn.done():
            # Who waited for the thread was cancelled; the thread still sends.
            self._turn.add_done_callback(lambda _: self._socket.close())
        else:
            self._socket.close()

    async def pour(self, pieces: Iterator[Sequence[bytes]], in_thread: InThread) -> None:
        """Sends all pieces, read in threads as they are needed; raises ConnectionError when the client went away."""
        await self._until_sent()
        is_done = False
        while not is_done:
            self._turn = asyncio.ensure_future(in_thread(lambda: self._send(pieces)))
            is_done = await asyncio.shield(self._turn)
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
                left_ms = int((until - time.monotonic()) * 1e3)
                if left_ms <= 0 or not self._poll.poll(left_ms):
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
        while self._transport.get_write_buffer_size():
            if self._transport.is_closing():
                raise ConnectionResetError("the connection was closed")
            await asyncio.sleep(0)

    async def _writable(self) -> None:
        loop, is_writable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._socket.fileno(), is_writable.set)
        try:
            await is_writable.wait()
        finally:
            loop.remove_writer(self._socket.fileno())
