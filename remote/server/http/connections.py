"""One connection as uvicorn serves it, with bounds that uvicorn does not have: on the size and the time of a head."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import httptools
from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from remote.server.http.lending import Inlet, InThread, Outlet

HEAD_MAX = 64 << 10
"""Bytes of a request's line and headers; the parser alone would keep any number."""
CUT = "satchel.cut"
"""The extension of a request's scope by whose `abort` an application ends the connection in the middle of an answer."""
LEND = "satchel.lend"
"""The extension of a request's scope whose `socket` is a Lent, where threads may use the connection's socket."""
HEAD_SECONDS = 30.0
"""How long a head may take, from the connection's or its own first byte."""


class Lent:
    """The socket of a plain connection, for bodies that threads move past uvicorn, one request long."""

    def __init__(self, connection: "BoundedConnection", cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self.sent_bytes = 0
        self.received_bytes = 0

    async def pour(self, pieces: Iterator[Sequence[bytes]], in_thread: InThread) -> None:
        """Sends all pieces, read in threads, when the head of the answer was given to the loop; the body is then sent.

        A client that went away ends it early, with the connection.
        """
        try:
            with Outlet(self._connection.transport) as outlet:
                try:
                    await outlet.pour(pieces, in_thread)
                finally:
                    self.sent_bytes = outlet.sent_bytes
        except (ConnectionError, TimeoutError):
            # Nobody reads the rest.
            self._connection.transport.abort()
        self._cycle.expected_content_length = 0

    @contextmanager
    def inlet(self, size: int) -> Iterator[Inlet]:
        """Where a body of so many bytes comes from, of which the application has taken nothing; all of it is received.

        Else the connection ends with the answer, for the next request would begin in the middle of this one.
        """
        cycle, connection = self._cycle, self._connection
        connection.flow.pause_reading()
        early, cycle.body = bytes(cycle.body), bytearray()
        left = size
        try:
            with Inlet(connection.transport, early, size) as inlet:
                try:
                    yield inlet
                finally:
                    left = inlet.left
        finally:
            self.received_bytes = size - left
            cycle.keep_alive = cycle.keep_alive and not left
            connection.end_of_body(cycle)


def lent_of(scope: Scope) -> Lent | None:
    """The socket under a request; None with TLS, and where no connection is."""
    extensions: Any = scope.get("extensions") or {}
    lent: Lent | None = extensions.get(LEND, {}).get("socket")
    return lent


class BoundedConnection(HttpToolsProtocol):
    """Closes a connection whose request's head is too long or too slow, without a word: nobody honest sends one."""

    # uvicorn passes these by name and may add to them.
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = True
        self._head_bytes = 0
        self._heads = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, heads = self._is_in_head, self._heads
        if was_in_head:
            self._start_timer()
        super().data_received(data)
        # Where a head or a body ended in these bytes, what follows is the little of a pipelined next head.
        self._head_bytes = self._head_bytes + len(data) if was_in_head and self._heads == heads else 0
        if self._head_bytes > HEAD_MAX:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._heads += 1
        self._stop_timer()
        # Only when there is somebody to read it: a clock that ticks keeps an idle machine awake.
        self.server_state.default_headers = [(b"date", _date(int(time.time())))]
        super().on_headers_complete()
        # Before the application begins, which is a task that was only made.
        extensions = self.scope.setdefault("extensions", {})
        extensions[CUT] = {"abort": self.transport.abort}
        if self.transport.get_extra_info("sslcontext") is None and not self.pipeline and not self.expect_100_continue:
            extensions[LEND] = {"socket": Lent(self, self.cycle)}

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # What comes next is a head again; its time starts with its first byte.
        self._is_in_head = True

    def end_of_body(self, cycle: RequestResponseCycle) -> None:
        """The body was received past the parser, which has seen its beginning: the next one sees the next head."""
        self.parser = httptools.HttpRequestParser(self)
        cycle.more_body = False
        self._is_in_head = True

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """As HTTP writes it."""
    return formatdate(second, usegmt=True).encode()
