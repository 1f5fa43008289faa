"""Upload: turns stagings into manifests whose chunks the server holds. Nothing is committed and nothing dropped here.

Resumable by nature: what the server has is not sent again, and what was sealed before is known by its plain hash.
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cache.chunks import Chunks
from cache.errors import CacheError
from cache.plain import Known
from cache.reader import Reader
from cache.staging import Staging, Stretch
from remote.protocol.cutting import SIZES, Buffer, recut
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ChunkId, PlainHash, SpaceId
from remote.protocol.manifests import build
from remote.protocol.nodes import EMPTY, INLINE_MAX, Entry, Manifest
from remote.protocol.sealing import Contexts, Sealed, seal
from remote.protocol.service import Service

SMALL_FILE_MAX: Final = SIZES.least
"""Files up to this size are one chunk (or none) and are prepared many at a time."""
_BATCH_BYTES: Final = 8 << 20
_HOLE: Final = (ChunkId(b""), b"")


@dataclass(frozen=True)
class Prepared:
    """A staging as of `generation`, with the manifest of that content; the server holds every chunk of it.

    `pieces` lie as they are in the staging's file, at these offsets; `plain` is all content when it is one chunk.
    """

    staging: Staging
    generation: int
    manifest: Manifest
    pieces: tuple[tuple[Entry, int], ...] = ()
    plain: bytes | None = None


@dataclass
class _Piece:
    offset: int
    hash: PlainHash
    data: Buffer
    position: int
    """Where its entry belongs in the list of entries."""


@dataclass
class _Cut:
    """What the cutting thread has found so far; `entries` holds None where a piece is still to be sealed."""

    entries: list[Entry | None] = field(default_factory=list)


class Upload:
    """Prepares stagings of one space."""

    def __init__(self, service: Service, space: SpaceId, secret: bytes, reader: Reader, chunks: Chunks) -> None:
        self._service = service
        self._space = space
        self._secret = secret
        self._reader = reader
        self._chunks = chunks

    async def small(self, stagings: Sequence[Staging]) -> list[Prepared]:
        """Prepares stagings of at most SMALL_FILE_MAX bytes together; bound their number, all are in memory at once."""
        contents = [(staging, staging.mark(), await self._whole(staging)) for staging in stagings]
        big = [content for _, _, content in contents if len(content) > INLINE_MAX]
        sealed = await trio.to_thread.run_sync(_seal_all, big, self._secret) if big else []
        if sealed:
            await self._service.send_chunks(self._space, {one.id: one.data for one in sealed})
        rest = iter(sealed)
        return [self._small(staging, generation, content, rest_of=rest) for staging, generation, content in contents]

    @staticmethod
    def _small(staging: Staging, generation: int, content: bytes, rest_of: Iterator[Sealed]) -> Prepared:
        if not content:
            return Prepared(staging, generation, EMPTY)
        if len(content) <= INLINE_MAX:
            return Prepared(staging, generation, Manifest(len(content), inline=content))
        one = next(rest_of)
        manifest = Manifest(len(content), entries=(Entry(one.id, one.key, one.length),))
        return Prepared(staging, generation, manifest, plain=content)

    async def _whole(self, staging: Staging) -> bytes:
        parts = [
            staging.read_dirty(stretch.offset, stretch.length)
            if stretch.is_dirty
            else await self._reader.read(staging.base, stretch.offset, stretch.length)
            for stretch in staging.plan_read(0, staging.size)
        ]
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    async def large(self, staging: Staging) -> Prepared:
        """Prepares one staging of any size with bounded memory, cutting only around what was edited."""
        try:
            return await self._large(staging)
        except BaseExceptionGroup as group:
            # Of what goes on side by side, who called is told the first thing that went wrong.
            known, rest = group.split((RemoteError, CacheError, OSError))
            if known is None or rest is not None:
                raise
            raise _first(known) from None

    async def _large(self, staging: Staging) -> Prepared:
        generation = staging.mark()
        base, size = staging.base, staging.size
        old = await self._reader.entries(base)
        stretches = staging.plan_read(0, size)
        holes = [(start, stop - start) for start, stop in staging.holes()]
        dirty = [(start, stop - start) for start, stop in staging.dirty]
        cut = _Cut()
        pieces: list[tuple[Entry, int]] = []
        send, receive = trio.open_memory_channel[list[_Piece]](1)
        fd = staging.open_file() if staging.path is not None else -1

        def read(offset: int, length: int) -> Buffer:
            return self._read_in_thread(stretches, fd, base, offset, length)

        def work() -> None:
            batch: list[_Piece] = []
            batched = 0
            for span, data in recut(old, size, dirty, holes, read):
                if span.kept is not None:
                    cut.entries.append(old[span.kept])
                elif data is None:
                    cut.entries.append(Entry(*_HOLE, span.length))
                else:
                    digest = PlainHash(hashlib.sha256(data).digest())
                    batch.append(_Piece(span.offset, digest, data, len(cut.entries)))
                    cut.entries.append(None)
                    batched += span.length
                    if batched >= _BATCH_BYTES:
                        trio.from_thread.run(send.send, batch)
                        batch, batched = [], 0
            if batch:
                trio.from_thread.run(send.send, batch)

        async def cut_all() -> None:
            async with send:
                await trio.to_thread.run_sync(work)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut_all)
                async for batch in receive:
                    await self._send(batch, cut, pieces)
        finally:
            if fd >= 0:
                os.close(fd)
        manifest = await self._manifest(size, cut)
        whole = [piece for piece in pieces if _is_inside(stretches, piece[1], piece[0].length)]
        return Prepared(staging, generation, manifest, tuple(whole))

    async def _manifest(self, size: int, cut: _Cut) -> Manifest:
        entries = [entry for entry in cut.entries if entry is not None]
        manifest, leaves = await trio.to_thread.run_sync(build, size, entries, lambda data: seal(data, self._secret))
        if leaves:
            await self._service.send_chunks(self._space, {leaf.id: leaf.data for leaf in leaves})
        return manifest

    async def _send(self, batch: list[_Piece], cut: _Cut, pieces: list[tuple[Entry, int]]) -> None:
        """Makes the server hold these pieces, sealing only those that it does not hold yet."""
        known = {piece.hash: self._chunks.known_plain(piece.hash) for piece in batch}
        sizes = {found.id: found.sealed_size for found in known.values() if found is not None}
        missing = await self._service.wanted(self._space, sizes) if sizes else set()
        todo = {piece.hash: piece for piece in batch if (found := known[piece.hash]) is None or found.id in missing}
        sealed = await trio.to_thread.run_sync(
            lambda: {digest: seal(piece.data, self._secret) for digest, piece in todo.items()}
        )
        if sealed:
            await self._service.send_chunks(self._space, {one.id: one.data for one in sealed.values()})
        for digest, one in sealed.items():
            self._chunks.note_plain(digest, one.id, one.key, len(one.data))
        for piece in batch:
            entry = self._entry(piece, sealed, known)
            cut.entries[piece.position] = entry
            pieces.append((entry, piece.offset))

    @staticmethod
    def _entry(piece: _Piece, sealed: dict[PlainHash, Sealed], known: dict[PlainHash, Known | None]) -> Entry:
        one = sealed.get(piece.hash)
        if one is not None:
            return Entry(one.id, one.key, len(piece.data))
        found = known[piece.hash]
        assert found is not None, "what is not sealed here was known"
        return Entry(found.id, found.key, len(piece.data))

    def _read_in_thread(
        self, stretches: Sequence[Stretch], fd: int, base: Manifest, offset: int, length: int
    ) -> Buffer:
        parts: list[Buffer] = []
        index = bisect_right(stretches, offset, key=lambda stretch: stretch.offset) - 1
        stop = offset + length
        while offset < stop:
            stretch = stretches[index]
            until = min(stop, stretch.offset + stretch.length)
            if stretch.is_dirty:
                parts.append(_pread(fd, until - offset, offset))
            else:
                parts.append(trio.from_thread.run(self._reader.read, base, offset, until - offset))
            offset = until
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _seal_all(contents: Sequence[bytes], secret: bytes) -> list[Sealed]:
    contexts = Contexts()
    return [seal(content, secret, contexts) for content in contents]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _pread(fd: int, length: int, offset: int) -> bytes:
    """All of it: a program that cuts the file meanwhile makes the generation grow, so this is thrown away then."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            return data + bytes(length - len(data))
        data += more
    return data


def _is_inside(stretches: Sequence[Stretch], offset: int, length: int) -> bool:
    """Whether all of it lies in one stretch of the staging's own file."""
    stretch = stretches[bisect_right(stretches, offset, key=lambda one: one.offset) - 1]
    return stretch.is_dirty and offset + length <= stretch.offset + stretch.length
