"""Pouring: parts of many chunks in the body of one answer, by a thread where the connection can be lent to it."""

from collections.abc import Iterator, Sequence

from litestar.types import ASGIApp, Receive, Scope, Send

from remote.protocol.messages import PROTOCOL_VERSION
from remote.protocol.parts import PARTS_TYPE
from remote.server.http.connections import lent_of
from remote.server.http.problems import PROTOCOL_HEADER
from remote.server.instance import Instance

_HEADERS = ((b"content-type", PARTS_TYPE.encode()), (PROTOCOL_HEADER.encode(), str(PROTOCOL_VERSION).encode()))


def pour_parts(instance: Instance, size: int, pieces: Iterator[Sequence[bytes]]) -> ASGIApp:
    """The answer whose body these pieces are, `size` bytes in all; they are read as it is sent."""
    in_thread = instance.answers.in_file_thread

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [*_HEADERS, (b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        lent = lent_of(scope)
        if lent is None:
            while piece := await in_thread(lambda: b"".join(next(pieces, ()))):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        else:
            await lent.pour(pieces, in_thread)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answer
