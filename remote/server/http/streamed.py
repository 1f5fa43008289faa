"""Streamed: content on its way to somebody, which is cut when he may not have it any more."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from litestar.types import Scope

from remote.protocol.errors import Busy, RemoteError
from remote.protocol.sealing import Buffer
from remote.server.http.connections import CUT
from remote.server.http.problems import AnyRequest

log = logging.getLogger(__name__)

LOOKED_SECONDS, LOOKED_BYTES = 1.0, 16 << 20
"""So often it is looked whether he may."""


class Streams:
    """How many files are sent or brought at a time: each holds a few MiB."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def check(self) -> None:
        """Raises Busy when there are too many; to be asked before an answer begins, while that can still be told."""
        if self._count >= self._most:
            raise Busy("Too many files are being sent at once: try again in a moment.", 1.0)

    @contextmanager
    def one_more(self) -> Generator[None, None, None]:
        """One more, while the block lasts."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


async def streamed(
    request: AnyRequest, pieces: Iterator[Buffer], streams: Streams, check: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """Each piece when the one before it is on its way; a fault, or what `check` raises, ends the connection."""
    looked, sent = time.monotonic(), 0
    with streams.one_more():
        while (piece := await asyncio.to_thread(_next, pieces)) is not None:
            sent += len(piece)
            if time.monotonic() - looked > LOOKED_SECONDS or sent > LOOKED_BYTES:
                try:
                    await check()
                except RemoteError as error:
                    log.info("a download ends here: %s", error)
                    await _cut(request, error)
                    return
                looked, sent = time.monotonic(), 0
            yield bytes(piece)


def _next(pieces: Iterator[Buffer]) -> Buffer | None:
    try:
        return next(pieces, None)
    except RemoteError as error:
        log.error("a file could not be sent whole: %s", error)
        raise


async def _cut(request: AnyRequest, error: RemoteError) -> None:
    """Ends the connection at once, so that nobody takes what came for all of it."""
    abort = abort_of(request.scope)
    if abort is None:
        raise error
    abort()
    while (await request.receive())["type"] != "http.disconnect":
        pass


def abort_of(scope: Scope) -> Callable[[], None] | None:
    """What ends the connection of a request; None where there is none."""
    extension: Any = (scope.get("extensions") or {}).get(CUT)
    abort: Callable[[], None] | None = extension["abort"] if extension is not None else None
    return abort
