"""Session: messages there and back, under one token, with deadlines and retries; knows no particular request."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import trio

from remote.client.answers import message_of
from remote.client.lines import LineAnswer, Lines, Reply
from remote.client.patience import Patience, allow_for
from remote.client.traffic import Traffic
from remote.client.wire import (
    Answer,
    Wire,
    check_address,
    checked_base,
    is_loopback,
    is_proxied,
    resolved,
    system_trust,
)
from remote.protocol.errors import ServerFault, TooLarge, Unreachable
from remote.protocol.messages import CONTENT_TYPE, PROTOCOL_VERSION
from remote.protocol.parts import PARTS_TYPE

Message = TypeVar("Message")
Taken = TypeVar("Taken")

REQUEST_MAX = 16 << 20
ANSWER_MAX = 64 << 20
"""Bytes of any answer at the most."""
PAGE_MAX = 65_536
"""Bytes of an answer that is only looked at for what went wrong."""
CONNECTIONS = 12
"""For messages; 8 more for objects to send, 8 for objects to read, and one for the long poll."""
OBJECT_CONNECTIONS = 8

_encoder = msgspec.msgpack.Encoder()


class _Health(msgspec.Struct):
    protocol: int


class Session:
    """One server, one token."""

    def __init__(
        self,
        base: str,
        token: str,
        patience: Patience,
        *,
        messages: Wire,
        waiting: Wire,
        objects: Wire,
        lines: Lines,
        allow_insecure: bool,
    ) -> None:
        self.patience = patience
        self.traffic = lines.traffic
        self._objects = objects
        self._base = base
        self._messages = messages
        self._waiting = waiting
        self._lines = lines
        self._allow_insecure = allow_insecure
        self._asked = trio.Event()
        # One decoder for each kind of message: making one costs more than using it.
        self._decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}
        self._headers = {
            "satchel-protocol": str(PROTOCOL_VERSION),
            "content-type": CONTENT_TYPE,
            "accept": CONTENT_TYPE,
            **({"authorization": f"Bearer {token}"} if token else {}),
        }

    async def ask(
        self,
        kind: type[Message],
        method: str,
        path: str,
        request: msgspec.Struct | None = None,
        *,
        body_max: int = REQUEST_MAX,
    ) -> Message:
        """The server's answer to a request, decoded as `kind`; tried again as `patience` says.

        Raises TooLarge before sending more than `body_max` bytes: a server need not read so much to refuse it.
        """
        self._asked.set()
        body = None if request is None else _encoder.encode(request)
        if body is not None and len(body) > body_max:
            raise TooLarge(f"The request has {len(body)} bytes; at most {body_max} are allowed.")
        return await self.over(lambda scope: self._once(scope, self._messages, kind, method, path, body))

    async def over(self, attempt: Callable[[trio.CancelScope], Awaitable[Taken]]) -> Taken:
        """What `attempt` gives; tried again as `patience` says."""
        with self.traffic.asking():
            return await self.patience.over(attempt)

    async def keep_ready(self) -> None:
        """Has a connection ready for content whenever something is asked: who looks at names soon reads."""
        while not self.is_proxied:
            await self._asked.wait()
            self._asked = trio.Event()
            await self._lines.make_ready(self._base)

    async def ask_once(
        self, kind: type[Message], method: str, path: str, request: msgspec.Struct | None = None
    ) -> Message:
        """As `ask`, but sent a single time: for what must not happen twice."""
        body = None if request is None else _encoder.encode(request)
        patience = replace(self.patience, tries=1)
        return await patience.over(lambda scope: self._once(scope, self._messages, kind, method, path, body))

    async def wait(self, kind: type[Message], path: str, request: msgspec.Struct, wait_seconds: float) -> Message:
        """The answer to a request that the server may leave open for `wait_seconds`, on a connection of its own."""
        body = _encoder.encode(request)
        patience = replace(self.patience, tries=1, deadline_seconds=self.patience.deadline_seconds + wait_seconds)
        return await patience.over(lambda scope: self._once(scope, self._waiting, kind, "POST", path, body))

    async def check_health(self, path: str) -> None:
        """Returns when a server of our protocol version answers there; its health page is JSON, for other tools too."""

        async def once(_scope: trio.CancelScope) -> bytes:
            async with self._messages.exchange("GET", self._base + path, {}) as answer:
                if answer.status != 200:
                    raise Unreachable(f"There is no healthy Satchel server at {self._base} ({answer.status}).")
                return await answer.read(PAGE_MAX)

        content = await self.patience.over(once)
        try:
            health = msgspec.json.decode(content, type=_Health)
        except msgspec.DecodeError:
            raise Unreachable(f"What answers at {self._base} is no Satchel server.") from None
        if health.protocol != PROTOCOL_VERSION:
            raise ServerFault(f"The server speaks version {health.protocol} of the protocol, not {PROTOCOL_VERSION}.")

    async def read_parts(
        self, path: str, request: msgspec.Struct, take: Callable[[Reply], Taken], *, is_urgent: bool
    ) -> Taken:
        """What `take` makes, in a thread, of the answer to a request; sent a single time."""
        body = [_encoder.encode(request)]
        return await self._lines.post(self._base + path, self._headers, body, take, is_urgent=is_urgent)

    async def send_parts(self, path: str, body: Sequence[bytes], take: Callable[[Reply], Taken]) -> Taken:
        """What `take` makes, in a thread, of the answer to a body of parts, which is never copied; sent once."""
        headers = {**self._headers, "content-type": PARTS_TYPE}
        return await self._lines.post(self._base + path, headers, body, take, is_urgent=True)

    @property
    def is_proxied(self) -> bool:
        """Whether requests go through a proxy of this machine's settings, which only httpx knows how to use."""
        return is_proxied(self._base)

    def get_object(self, url: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Answer | LineAnswer]:
        """The answer to a GET of a signed URL; only httpx knows how to go through a proxy."""
        if is_proxied(url):
            return self._objects.exchange("GET", url, headers)
        return self._lines.exchange(url, headers)

    def put_object(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> AbstractAsyncContextManager[Answer | LineAnswer]:
        """The answer to a PUT to a signed URL."""
        if is_proxied(url):
            return self._objects.exchange("PUT", url, headers, body)
        return self._lines.exchange(url, headers, body)

    def object_url(self, url: str) -> str:
        """The absolute form of a signed URL that the server gave; raises BadRequest for an unusable or insecure one."""
        absolute = resolved(self._base, url)
        check_address(absolute, allow_insecure=self._allow_insecure)
        return absolute

    async def _once(
        self, scope: trio.CancelScope, wire: Wire, kind: type[Message], method: str, path: str, body: bytes | None
    ) -> Message:
        allow_for(scope, len(body or b""), self.traffic.up)
        async with wire.exchange(method, self._base + path, self._headers, body) as answer:
            allow_for(scope, min(ANSWER_MAX, answer.length or 0), self.traffic.down)
            content = await answer.read(ANSWER_MAX)
        return message_of(answer.status, answer.headers, content, self._decoder(kind))

    def _decoder(self, kind: type[Message]) -> msgspec.msgpack.Decoder[Message]:
        decoder: msgspec.msgpack.Decoder[Message] | None = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.msgpack.Decoder(kind)
        return decoder


@asynccontextmanager
async def open_session(
    url: str, token: str, patience: Patience, *, allow_insecure: bool, traffic: Traffic
) -> AsyncIterator[Session]:
    """A session with the server at this address; nothing is sent yet. Raises BadRequest for an unusable address."""
    base = checked_base(url, allow_insecure=allow_insecure)
    trust = await trio.to_thread.run_sync(system_trust)
    deadline = patience.deadline_seconds
    wire = functools.partial(Wire, traffic, trust=trust, connect_seconds=deadline, may_use_proxy=not is_loopback(base))
    async with AsyncExitStack() as stack:
        messages = await stack.enter_async_context(wire(connections=CONNECTIONS, stall_seconds=deadline))
        objects = await stack.enter_async_context(wire(connections=OBJECT_CONNECTIONS, stall_seconds=deadline))
        waiting = await stack.enter_async_context(wire(connections=1, stall_seconds=None))
        lines = await stack.enter_async_context(
            Lines(traffic, threads=OBJECT_CONNECTIONS, stall_seconds=deadline, trust=trust)
        )
        yield Session(
            base,
            token,
            patience,
            messages=messages,
            waiting=waiting,
            objects=objects,
            lines=lines,
            allow_insecure=allow_insecure,
        )
