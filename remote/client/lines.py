"""Lines: connections on which http.client moves large bodies in worker threads: whole objects, there (PUT) and back
(GET), and many parts of chunks in the answer to one POST.

Measured on loopback with four readers: httpx gives 400 MB/s and takes all of the event loop's time for it, these
threads give 1,100 MB/s and leave the loop to others. Connecting stays with trio: it can be cancelled there, and tries
IPv4 and IPv6 side by side.
"""

import http.client
import math
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import trio

from remote.client.traffic import Traffic
from remote.client.wire import CutShort
from remote.protocol.errors import ServerFault, Unreachable

Result = TypeVar("Result")
Taken = TypeVar("Taken")

PIECE = 262_144
"""Bytes moved at once: what a cut connection costs at the most beyond what is missing."""
URGENT_MAX = 65_536
"""A body up to this size is taken for one that somebody waits for, where there is a limit."""
_IDLE_SECONDS = 30.0
_HEARD_SECONDS = 1.0
"""While a body comes, bytes are waited for so long before those that came are counted: then it is known to come."""
_TIME = struct.Struct("@ll")
"""Seconds and microseconds, as the kernel takes them."""
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
            lane = self._line.traffic.down
            while room >= 0 and (piece := self._response.read(lane.piece(PIECE))):
                lane.wait(len(piece), is_urgent=False)
                self._line.traffic.count(received=len(piece))
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


class Reply:
    """An answer in the hands of the thread that reads it."""

    def __init__(self, line: "_Line", response: http.client.HTTPResponse, *, is_urgent: bool) -> None:
        self._line = line
        self._is_urgent = is_urgent
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}

    @property
    def left(self) -> int:
        """Bytes of the body that are still to be read; 0 when its length is not told."""
        return self._response.length or 0

    def room(self, size: int) -> memoryview:
        """A place for so many bytes, until the next call: the same memory again and again."""
        return self._line.room(size)

    def fill(self, view: memoryview) -> None:
        """Reads as many bytes as fit; raises CutShort."""
        at = 0
        lane = self._line.traffic.down
        try:
            while at < len(view):
                count = self._line.receive(self._response, view[at : at + lane.piece(len(view))])
                if not count:
                    raise ConnectionError(f"{len(view) - at} bytes are missing")
                self._line.traffic.count(received=count)
                at += count
                lane.wait(count, is_urgent=self._is_urgent)
        except _FAILURES as error:
            raise CutShort(b"", error) from error

    def finish(self, most: int) -> bytes:
        """The rest of the body, when it has at most so many bytes; else nothing, and the line is not used again."""
        if self.left > most:
            return b""
        rest = bytearray(self.left)
        self.fill(memoryview(rest))
        self._response.read()
        self._line.is_reusable = not self._response.will_close
        return bytes(rest)


class Lines:
    """Kept-alive connections, and for each direction at most `threads` threads that use them: a read never waits
    behind an upload. Close it with `async with`.
    """

    def __init__(self, traffic: Traffic, *, threads: int, stall_seconds: float, trust: ssl.SSLContext) -> None:
        self.traffic = traffic
        self._stall_seconds = stall_seconds
        self._trust = trust
        self._readers = trio.CapacityLimiter(threads)
        self._writers = trio.CapacityLimiter(threads)
        self._unlimited = trio.CapacityLimiter(math.inf)
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
        target = _Target(url)
        sent = {**target.headers, **headers, **length}
        async with self._line(target) as line:
            self.traffic.sent_head(method, target.path.encode(), _raw(sent))
            try:
                response = await self.in_thread(
                    line, lambda: line.begin(method, target.path, sent, [body or b""]), is_sending=body is not None
                )
            except _FAILURES as error:
                raise Unreachable(f"{target.netloc} did not answer ({error!r}).") from error
            answer = LineAnswer(line, self, response)
            self.traffic.received_head(_raw(answer.headers))
            yield answer

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: Sequence[bytes],
        take: Callable[[Reply], Taken],
        *,
        is_urgent: bool,
    ) -> Taken:
        """What `take` makes of the answer, in the thread that reads it; raises Unreachable when none comes.

        `is_urgent`: somebody waits for it, so it goes first where there is a limit.
        When this is cancelled, `take` has ended before it returns. Who calls bounds how often at once.
        """
        target = _Target(url)
        sent = {**target.headers, **headers, "content-length": str(sum(map(len, body)))}
        replies: list[Reply] = []

        def exchange() -> Taken:
            try:
                reply = Reply(line, line.begin("POST", target.path, sent, body), is_urgent=is_urgent)
            except _FAILURES as error:
                raise Unreachable(f"{target.netloc} did not answer ({error!r}).") from error
            replies.append(reply)
            return take(reply)

        async with self._line(target) as line:
            self.traffic.sent_head("POST", target.path.encode(), _raw(sent))
            try:
                return await self._to_its_end(line, exchange)
            finally:
                for reply in replies:
                    self.traffic.received_head(_raw(reply.headers))

    async def make_ready(self, url: str) -> None:
        """Connects to where the URL leads, unless an idle line does already: so the next request takes one round trip.

        Raises nothing: whoever asks for something is told what is wrong.
        """
        origin = _Target(url).origin
        with suppress(OSError):
            line = self._idle_line(origin) or await self._connected(origin)
            try:
                line.is_reusable = await self._to_its_end(line, line.make_ready)
            finally:
                self._put_by(origin, line)

    @asynccontextmanager
    async def _line(self, target: "_Target") -> AsyncIterator["_Line"]:
        try:
            line = self._idle_line(target.origin) or await self._connected(target.origin)
        except OSError as error:
            raise Unreachable(f"{target.netloc} cannot be reached ({error}).") from error
        try:
            yield line
        finally:
            self._put_by(target.origin, line)

    async def _to_its_end(self, line: "_Line", job: Callable[[], Taken]) -> Taken:
        """Runs a job that uses the line; cancelling cuts the line under it and waits for the job's end."""
        results: list[Taken] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                results.append(line.used_for(job))
            except Exception as error:  # noqa: BLE001 - raised below: out of a nursery it would come in a group
                failures.append(error)

        async def cut_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not results and not failures:
                    line.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_when_cancelled)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(run, limiter=self._unlimited)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return results[0]

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
        if scheme != "https":
            return _Line(plain, host, self.traffic, self._stall_seconds)
        try:
            # The handshake is done in a thread, as the first thing on the line.
            secured = self._trust.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            return _Line(secured, host, self.traffic, self._stall_seconds)
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


class _Target:
    """Where a URL leads: the origin to connect to, what to ask there, and the headers that each request has."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.netloc = parts.netloc
        self.origin = (parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
        self.path = parts.path + (f"?{parts.query}" if parts.query else "")
        self.headers = {
            "host": parts.netloc,
            "accept": "*/*",
            "accept-encoding": "identity",
            "user-agent": "satchel",
        }


class _Line:
    """One connection, used by one thread at a time, that any thread may end."""

    def __init__(self, sock: socket.socket, host: str, traffic: Traffic, stall_seconds: float) -> None:
        self._socket = sock
        self._stall_seconds = stall_seconds
        self._is_plain = not isinstance(sock, ssl.SSLSocket)
        if self._is_plain:
            # Waits are the kernel's: Python's own take a poll(2) for each piece, and the GIL is asked for after each.
            sock.setblocking(True)
            self._wait_at_most(socket.SO_SNDTIMEO, stall_seconds)
            self._wait_at_most(socket.SO_RCVTIMEO, stall_seconds)
        else:
            sock.settimeout(stall_seconds)
        self.traffic = traffic
        self._connection = http.client.HTTPConnection(host)
        self._connection.sock = sock
        # http.client would connect again by itself, past trio and without TLS.
        self._connection.auto_open = 0
        self._handshake = sock.do_handshake if isinstance(sock, ssl.SSLSocket) else None
        self._lock = threading.Lock()
        self._memory = bytearray()
        self._is_used = False
        self._is_ended = False
        self._is_in_body = False
        self.is_reusable = False
        self.idle_since = 0.0

    def make_ready(self) -> bool:
        """Ends the handshake, if there is one; always true."""
        if self._handshake is not None:
            self._handshake()
            self._handshake = None
        return True

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: Sequence[bytes]
    ) -> http.client.HTTPResponse:
        """Sends a request; the answer with its body still unread."""
        self.make_ready()
        if self._is_in_body:
            self._is_in_body = False
            self._wait_at_most(socket.SO_RCVTIMEO, self._stall_seconds)
        self._connection.request(method, target, headers=dict(headers))
        lane = self.traffic.up
        is_urgent = sum(map(len, body)) <= URGENT_MAX
        # What came whole before a cut is kept; one object is no more than that.
        may_be_cut = method == "POST" and not is_urgent
        for part in body:
            view = memoryview(part)
            offset = 0
            while piece := view[offset : offset + lane.piece(PIECE)]:
                lane.wait(len(piece), is_urgent=is_urgent)
                if may_be_cut and self.traffic.uploads.is_shut:
                    raise ConnectionError("sending was paused")
                self._socket.sendall(piece)
                self.traffic.count(sent=len(piece))
                offset += len(piece)
        return self._connection.getresponse()

    def receive(self, response: http.client.HTTPResponse, view: memoryview) -> int:
        """Reads bytes of a body, all that fit unless they take long; 0 when it was cut, raises OSError."""
        if self._is_plain and not self._is_in_body:
            self._is_in_body = True
            self._wait_at_most(socket.SO_RCVTIMEO, _HEARD_SECONDS)
        view = view[: response.length]
        began = time.monotonic()
        # Not by http.client, which takes it for the end when nothing came in time; None is what typeshed does not know.
        read: Callable[[memoryview], int | None] = response.fp.readinto1
        while (count := read(view)) is None:
            if time.monotonic() - began > self._stall_seconds:
                raise TimeoutError(f"nothing came for {self._stall_seconds:g} s")
        if self._is_plain and 0 < count < len(view):
            # What came with the head is taken, so the rest may be had in one call.
            with suppress(BlockingIOError):
                count += self._socket.recv_into(view[count:], 0, socket.MSG_WAITALL)
        if response.length is not None:
            response.length -= count
        return count

    def _wait_at_most(self, which: int, seconds: float) -> None:
        whole = int(seconds)
        self._socket.setsockopt(socket.SOL_SOCKET, which, _TIME.pack(whole, int((seconds - whole) * 1e6)))

    def room(self, size: int) -> memoryview:
        """Memory for so many bytes, the same each time."""
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]

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
