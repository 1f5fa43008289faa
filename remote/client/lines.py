"""Lines: connections on which whole objects are moved, there (PUT) and back (GET), by http.client in worker threads.

Measured on loopback with four readers: httpx gives 400 MB/s and takes all of the event loop's time for it, these
threads give 1,100 MB/s and leave the loop to others. Connecting stays with trio: it can be cancelled there, and tries
IPv4 and IPv6 side by side.
"""

import http.client
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import trio

from remote.client.traffic import Traffic
from remote.client.wire import CutShort
from remote.protocol.errors import ServerFault, Unreachable

Result = TypeVar("Result")

PIECE = 262_144
"""Bytes moved at once: what a cut connection costs at the most beyond what is missing."""
_IDLE_SECONDS = 30.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FAILURES = (OSError, http.client.HTTPException, ValueError)


class LineAnswer:
    """Status and headers of an answer whose body is still to be read; the same face as `wire.Answer`."""

    def __init__(self, line: "_Line", lines: "Lines", response: http.client.HTTPResponse) -> None:
        self._line = line
        self._lines = lines
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
        self.length: int | None = response.length

    async def read(self, most: int) -> bytes:
        """The body; raises CutShort with what came of it, ServerFault when it is longer than `most` bytes."""
        if (self.length or 0) > most:
            raise ServerFault(f"The answer has {self.length} bytes, where at most {most} were expected.")
        if self.length == 0:
            return self._read(most)
        return await self._lines.in_thread(self._line, lambda: self._read(most))

    def _read(self, most: int) -> bytes:
        pieces: list[bytes] = []
        room = most
        try:
            while room >= 0 and (piece := self._response.read(PIECE)):
                self._line.received_bytes += len(piece)
                room -= len(piece)
                pieces.append(piece)
            if room >= 0 and self._response.length:
                raise ConnectionError(f"{self._response.length} bytes are missing")
        except _FAILURES as error:
            raise CutShort(b"".join(pieces), error) from error
        if room < 0:
            raise ServerFault(f"The answer has more than the {most} bytes that were expected.")
        self._line.is_reusable = not self._response.will_close
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Lines:
    """Kept-alive connections, and for each direction at most `threads` threads that use them: a read never waits
    behind an upload. Close it with `async with`.
    """

    def __init__(self, traffic: Traffic, *, threads: int, stall_seconds: float, trust: ssl.SSLContext) -> None:
        self._traffic = traffic
        self._stall_seconds = stall_seconds
        self._trust = trust
        self._readers = trio.CapacityLimiter(threads)
        self._writers = trio.CapacityLimiter(threads)
        self._idle: dict[tuple[str, str, int], list[_Line]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lines in self._idle.values():
            for line in lines:
                line.end()
        self._idle.clear()

    @asynccontextmanager
    async def exchange(
        self, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[LineAnswer]:
        """The answer to a GET, or to a PUT of `body`; raises Unreachable when none comes.

        Redirects are not followed, proxies not used.
        """
        method = "GET" if body is None else "PUT"
        length = {} if body is None else {"content-length": str(len(body))}
        parts = urlsplit(url)
        origin = (parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        sent = {
            "host": parts.netloc,
            "accept": "*/*",
            "accept-encoding": "identity",
            "user-agent": "satchel",
            **headers,
            **length,
        }
        try:
            line = self._idle_line(origin) or await self._connected(origin)
        except OSError as error:
            raise Unreachable(f"{parts.netloc} cannot be reached ({error}).") from error
        try:
            self._traffic.sent_head(method, target.encode(), _raw(sent))
            try:
                response = await self.in_thread(
                    line, lambda: line.begin(method, target, sent, body or b""), is_sending=body is not None
                )
            except _FAILURES as error:
                raise Unreachable(f"{parts.netloc} did not answer ({error!r}).") from error
            answer = LineAnswer(line, self, response)
            self._traffic.received_head(_raw(answer.headers))
            yield answer
        finally:
            self._traffic.sent_bytes += line.sent_bytes
            line.sent_bytes = 0
            self._traffic.received_bytes += line.received_bytes
            line.received_bytes = 0
            self._put_by(origin, line)

    async def in_thread(self, line: "_Line", job: Callable[[], Result], *, is_sending: bool = False) -> Result:
        """Runs a job that uses the line; cancelling ends it at once, by cutting the line under it."""
        limiter = self._writers if is_sending else self._readers
        try:
            return await trio.to_thread.run_sync(lambda: line.used_for(job), abandon_on_cancel=True, limiter=limiter)
        except trio.Cancelled:
            line.end()
            raise

    def _idle_line(self, origin: tuple[str, str, int]) -> "_Line | None":
        lines = self._idle.get(origin, [])
        while lines:
            line = lines.pop()
            if line.idle_since + _IDLE_SECONDS > trio.current_time() and not line.is_closed_by_peer():
                return line
            line.end()
        return None

    async def _connected(self, origin: tuple[str, str, int]) -> "_Line":
        scheme, host, port = origin
        stream = await trio.open_tcp_stream(host, port)
        plain = socket.socket(fileno=stream.socket.detach())
        plain.settimeout(self._stall_seconds)
        if scheme != "https":
            return _Line(plain, host)
        try:
            # The handshake is done in a thread, as the first thing on the line.
            return _Line(self._trust.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False), host)
        except BaseException:
            plain.close()
            raise

    def _put_by(self, origin: tuple[str, str, int], line: "_Line") -> None:
        if not line.is_reusable:
            line.end()
            return
        line.is_reusable = False
        line.idle_since = trio.current_time()
        self._idle.setdefault(origin, []).append(line)


class _Line:
    """One connection, used by one thread at a time, that any thread may end."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self._socket = sock
        self._connection = http.client.HTTPConnection(host)
        self._connection.sock = sock
        # http.client would connect again by itself, past trio and without TLS.
        self._connection.auto_open = 0
        self._handshake = sock.do_handshake if isinstance(sock, ssl.SSLSocket) else None
        self._lock = threading.Lock()
        self._is_used = False
        self._is_ended = False
        self.is_reusable = False
        self.idle_since = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | memoryview
    ) -> http.client.HTTPResponse:
        """Sends a request; the answer with its body still unread."""
        if self._handshake is not None:
            self._handshake()
            self._handshake = None
        self._connection.request(method, target, headers=dict(headers))
        body = memoryview(body)
        for offset in range(0, len(body), PIECE):
            piece = body[offset : offset + PIECE]
            self._socket.sendall(piece)
            self.sent_bytes += len(piece)
        return self._connection.getresponse()

    def used_for(self, job: Callable[[], Result]) -> Result:
        """What the job gives; when the line is ended meanwhile, the job fails soon, and then the line is closed."""
        with self._lock:
            if self._is_ended:
                raise ConnectionError("the connection was ended")
            self._is_used = True
        try:
            return job()
        finally:
            self._release()

    def end(self) -> None:
        """Closes the line, or cuts it under the thread that uses it, which then closes it."""
        with self._lock:
            self._is_ended = True
            if not self._is_used:
                self._close()
                return
        with suppress(OSError):
            # The plain socket's own method: that of ssl would pull its state away from under the reading thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def is_closed_by_peer(self) -> bool:
        """Whether something arrived while nothing was asked: the end, as a rule."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _release(self) -> None:
        with self._lock:
            self._is_used = False
            if self._is_ended:
                self._close()

    def _close(self) -> None:
        self._connection.close()
        self._socket.close()


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
