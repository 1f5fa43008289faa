"""The one module that speaks httpx: single HTTP exchanges, counted and bounded, failing only as Unreachable or
ServerFault. What an answer means, deadlines and retries are the session's.
"""

import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from remote.client.traffic import Traffic
from remote.protocol.errors import BadRequest, ServerFault, Unreachable

PIECE = 65_536
"""Bytes of a body that are handed on and counted at once."""
_IDLE_SECONDS = 30.0


class CutShort(Unreachable):
    """The connection was cut in the middle of an answer; `partial` is what came of it."""

    def __init__(self, partial: bytes, reason: Exception) -> None:
        super().__init__(f"The connection was cut in the middle of an answer ({_reason(reason)}).")
        self.partial = partial


class Answer:
    """Status and headers of an answer whose body is still to be read."""

    def __init__(self, response: httpx.Response, traffic: Traffic) -> None:
        self._response = response
        self._traffic = traffic
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def length(self) -> int | None:
        """The length of the body, as far as the peer says."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    async def read(self, most: int) -> bytes:
        """The body; raises CutShort with what came of it, ServerFault when it is longer than `most` bytes."""
        if (self.length or 0) > most:
            raise ServerFault(f"The answer has {self.length} bytes, where at most {most} were expected.")
        pieces: list[bytes] = []
        room = most
        try:
            async for piece in self._response.aiter_raw():
                self._traffic.count(received=len(piece))
                await self._traffic.down.waited(len(piece), is_urgent=True)
                room -= len(piece)
                if room >= 0:
                    pieces.append(piece)
                else:
                    # Leaving the loop would leave httpx's generators unfinished; closed, they end by themselves.
                    await self._response.aclose()
        except (httpx.TransportError, httpx.StreamError) as error:
            if room >= 0:
                raise CutShort(b"".join(pieces), error) from error
        if room < 0:
            raise ServerFault(f"The answer has more than the {most} bytes that were expected.")
        return b"".join(pieces)


class Wire:
    """A pool of at most `connections` kept-alive connections; without an answer or any progress for
    `stall_seconds` (None: for ever), an exchange fails. Close it with `async with`.
    """

    def __init__(
        self,
        traffic: Traffic,
        *,
        connections: int,
        connect_seconds: float,
        stall_seconds: float | None,
        trust: ssl.SSLContext,
        may_use_proxy: bool,
    ) -> None:
        self._traffic = traffic
        # Hosts that speak what they are spoken to in.
        self._answered: set[str] = set()
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_IDLE_SECONDS
        )
        self._client = httpx.AsyncClient(
            verify=trust,
            limits=limits,
            timeout=httpx.Timeout(stall_seconds, connect=connect_seconds, pool=None),
            trust_env=may_use_proxy,
            headers={"accept": "*/*", "accept-encoding": "identity", "user-agent": "satchel"},
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | memoryview | None = None
    ) -> AsyncIterator[Answer]:
        """The answer to one request; raises Unreachable when none comes. Redirects are not followed."""
        stream = None if body is None else _CountedBody(body, self._traffic)
        sized = dict(headers) if body is None else {**headers, "content-length": str(len(body))}
        try:
            request = self._client.build_request(method, url, headers=sized)
            if stream is not None:
                request = httpx.Request(method, request.url, headers=request.headers, stream=stream)
        except httpx.InvalidURL as error:
            raise ServerFault(f"An address cannot be used: {error}") from error
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            untrusted = _untrusted(error)
            if untrusted is not None:
                raise Unreachable(
                    f"This machine does not trust the certificate of {_host(url)} ({untrusted.verify_message}). If it "
                    "is the right one, put the certificate of its authority into /usr/local/share/ca-certificates and "
                    "run update-ca-certificates as root, or name it in SSL_CERT_FILE."
                ) from error
            raise Unreachable(f"{_host(url)} cannot be reached ({_reason(error)}).") from error
        except httpx.TransportError as error:
            self._traffic.sent_head(method, request.url.raw_path, request.headers.raw)
            is_cut = isinstance(error, httpx.RemoteProtocolError) and request.url.scheme == "http"
            hint = " Does it speak https?" if is_cut and _host(url) not in self._answered else ""
            raise Unreachable(f"{_host(url)} did not answer ({_reason(error)}).{hint}") from error
        self._answered.add(_host(url))
        self._traffic.sent_head(method, request.url.raw_path, request.headers.raw)
        self._traffic.received_head(response.headers.raw)
        try:
            yield Answer(response, self._traffic)
        finally:
            await response.aclose()


class _CountedBody(httpx.AsyncByteStream):
    """A body counted as it goes out; no async generator, for trio complains of one that a cancelled request leaves."""

    def __init__(self, body: bytes | memoryview, traffic: Traffic) -> None:
        self._rest = memoryview(body)
        self._traffic = traffic
        self._on_its_way = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        # Asked for the next piece, so the last one has gone out.
        self._traffic.count(sent=self._on_its_way)
        size = self._traffic.up.piece(PIECE)
        piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        await self._traffic.up.waited(len(piece), is_urgent=True)
        self._on_its_way = len(piece)
        if not piece:
            raise StopAsyncIteration
        return piece


def system_trust() -> ssl.SSLContext:
    """The certificates that this machine trusts (or those of SSL_CERT_FILE, SSL_CERT_DIR)."""
    return ssl.create_default_context()


def checked_base(url: str, *, allow_insecure: bool) -> str:
    """The server's address with a slash behind; raises BadRequest for one that cannot be used, or not safely."""
    check_address(url, allow_insecure=allow_insecure)
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadRequest("The address of the server must not hold a name, password, query or fragment.")
    return url.rstrip("/") + "/"


def check_address(url: str, *, allow_insecure: bool) -> None:
    """Raises BadRequest for what is no http or https address, and for plain http elsewhere unless that is allowed."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise BadRequest(
            f"{url!r} is no address of a server: it has to begin with https:// (or http:// on this machine), such as "
            "https://drive.example.org."
        )
    if urlsplit(url).scheme == "http" and not allow_insecure and not is_loopback(url):
        raise BadRequest(
            f"{_host(url)} would be reached by plain http: anybody on the way could read files and use this sign-in. "
            "Use https, or allow insecure connections if you know the network."
        )


def is_loopback(url: str) -> bool:
    """Whether this address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_proxied(url: str) -> bool:
    """Whether the environment names a proxy for this address."""
    parts = urlsplit(url)
    proxies = getproxies()
    is_named = parts.scheme in proxies or "all" in proxies
    return is_named and not is_loopback(url) and not proxy_bypass(parts.netloc)


def resolved(base: str, url: str) -> str:
    """A URL as the server gave it: absolute, or relative to the server's address (`/v1/…` counts from there, too)."""
    return url if urlsplit(url).scheme else urljoin(base, url.lstrip("/"))


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _untrusted(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The refusal of a certificate in a chain of causes."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _reason(error: BaseException) -> str:
    """The first words in a chain of causes: the outer errors often have none."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause) if cause is not None else type(error).__name__
