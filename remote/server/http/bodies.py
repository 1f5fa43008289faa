"""Reading requests: bodies within their limit, messages of their type, the token, the protocol's version."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from litestar.connection import ASGIConnection

from remote.protocol.errors import BadRequest, NotFound, NotSignedIn, TooLarge
from remote.protocol.ids import SpaceId
from remote.protocol.messages import PROTOCOL_VERSION
from remote.server.http.problems import PROTOCOL_HEADER, AnyRequest
from remote.server.limits import INT63

Message = TypeVar("Message", bound=msgspec.Struct)

TOKEN_MAX = 256
STALL_SECONDS = 60
WRITE_SIZE = 1_536 << 10
"""Bytes that are hashed and written at once, in a thread: most chunks are shorter, and need no second turn of it."""


def announced_length(request: AnyRequest) -> int | None:
    """The Content-Length; None when the body comes without; raises BadRequest for one that is no number."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequest(f"Content-Length is {text[:40]!r}, which is no number of bytes.")
    return int(text)


async def body_pieces(request: AnyRequest, maximum: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises TooLarge before taking more than `maximum` bytes."""
    announced = announced_length(request)
    if announced is not None and announced > maximum:
        raise TooLarge(f"The body has {announced} bytes; at most {maximum} are allowed here.")
    received = 0
    has_more = True
    while has_more:
        piece, has_more = await _next_piece(request)
        received += len(piece)
        if received > maximum:
            raise TooLarge(f"The body has more than the {maximum} bytes that are allowed here.")
        yield piece


async def gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Pieces of a body, as many together as are worth a turn of a thread; of one that is cut, all that came of it."""
    together: list[bytes] = []
    size = 0
    cut: BadRequest | None = None
    try:
        async for piece in pieces:
            together.append(piece)
            size += len(piece)
            if size >= WRITE_SIZE:
                yield together
                together, size = [], 0
    except BadRequest as error:
        cut = error
    if size:
        yield together
    if cut is not None:
        raise cut


async def read_message(request: AnyRequest, decoder: msgspec.msgpack.Decoder[Message], maximum: int) -> Message:
    """The message in the body; raises BadRequest that says what is not as it should be."""
    body = b"".join([piece async for piece in body_pieces(request, maximum)])
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"The body is not the message that {request.url.path} takes: {error}") from None
    except RecursionError:
        raise BadRequest(f"The body is not the message that {request.url.path} takes: it is nested too deep.") from None


async def _next_piece(request: AnyRequest) -> tuple[bytes, bool]:
    """The next piece of a body, and whether more follow.

    The framework's own stream of pieces took 0.6 s of CPU for each GiB.
    """
    try:
        async with asyncio.timeout(STALL_SECONDS):
            event = await request.receive()
    except TimeoutError:
        raise BadRequest(f"Nothing of the body arrived for {STALL_SECONDS} seconds.") from None
    if event["type"] != "http.request":
        # The client went away; nobody will read this answer.
        raise BadRequest("The connection ended in the middle of the body.")
    return event["body"], event["more_body"]


def check_protocol(request: AnyRequest) -> None:
    """Raises BadRequest for a version that this server does not speak; without the header, version 1 is meant."""
    asked = request.headers.get(PROTOCOL_HEADER)
    if asked is not None and asked != str(PROTOCOL_VERSION):
        raise BadRequest(
            f"This server speaks version {PROTOCOL_VERSION} of the protocol, the request is version {asked[:20]!r}:"
            " the older of the two programs needs an update."
        )


def token_of(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The device's token; raises NotSignedIn."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token or len(token) > TOKEN_MAX:
        raise NotSignedIn("The request carries no token: sign in first.")
    return token.strip()


def space_of(request: AnyRequest) -> SpaceId:
    """The space in the path; raises NotFound for what can be none."""
    text = str(request.path_params["space"])
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not 1 <= int(text) <= INT63:
        raise NotFound(f"There is no space {text[:40]}.")
    return SpaceId(int(text))
