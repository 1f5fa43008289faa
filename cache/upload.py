"""Upload: turns stagings into manifests whose chunks the server holds. Nothing is committed and nothing dropped here.

Resumable by nature: what the server has is not sent again, and what was sealed before is known by its plain hash.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

from cache.chunks import Chunks
from cache.large import Front, Large
from cache.prepared import Prepared
from cache.reader import Reader
from cache.staging import Staging, StagingId
from remote.protocol.cutting import SIZES
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.nodes import EMPTY, INLINE_MAX, Entry, Manifest
from remote.protocol.sealing import Contexts, Sealed, seal
from remote.protocol.service import Service

SMALL_FILE_MAX: Final = SIZES.least
"""Files up to this size are one chunk (or none) and are prepared many at a time."""
_TINY: Final = 16 << 10
"""Bytes up to which small files are sealed by the event loop itself, when all of a batch are so small."""
_SEALED_AT_ONCE: Final = 16
"""Tiny files that are sealed before programs have their turn: 0.4 ms for 4 KiB each."""
_READ_AT_ONCE: Final = 64
"""Small files that are read before programs have their turn."""


class Upload:
    """Prepares stagings of one space."""

    def __init__(self, service: Service, space: SpaceId, secret: bytes, reader: Reader, chunks: Chunks) -> None:
        self._service = service
        self._space = space
        self._secret = secret
        self._reader = reader
        self._large = Large(service, space, secret, reader, chunks)

    async def small(self, stagings: Sequence[Staging]) -> list[Prepared]:
        """Prepares stagings of at most SMALL_FILE_MAX bytes together; bound their number, all are in memory at once."""
        contents: list[tuple[Staging, int, bytes]] = []
        for number, staging in enumerate(stagings):
            if number % _READ_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            contents.append((staging, staging.mark(), await self._whole(staging)))
        big = [content for _, _, content in contents if len(content) > INLINE_MAX]
        sealed = await self._seal_all(big)
        if sealed:
            await self._service.send_chunks(self._space, {one.id: one.data for one in sealed})
        rest = iter(sealed)
        return [self._small(staging, generation, content, rest_of=rest) for staging, generation, content in contents]

    async def _seal_all(self, contents: Sequence[bytes]) -> list[Sealed]:
        """Tiny ones by the event loop itself: a thread would take and give back the GIL five times for each."""
        if any(len(content) > _TINY for content in contents):
            return await trio.to_thread.run_sync(_sealed, contents, self._secret)
        found: list[Sealed] = []
        for at in range(0, len(contents), _SEALED_AT_ONCE):
            found += _sealed(contents[at : at + _SEALED_AT_ONCE], self._secret)
            await trio.lowlevel.checkpoint()
        return found

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

    def done_bytes(self, staging: StagingId) -> int:
        """How many bytes of a large staging that is being prepared are there."""
        return self._large.done_bytes.get(staging, 0)

    async def large(self, staging: Staging, replaced: Callable[[], Manifest | None] = lambda: None) -> Prepared:
        """Prepares one staging of any size with bounded memory, cutting only around what was edited.

        `replaced` is asked for old content that a new file was put in the place of: it may be much the same.
        """
        return await self._large.prepare(staging, replaced)

    async def front(self, staging: Staging, most: int) -> Front | None:
        """Sends about the first `most` dirty bytes of a staging that is being written; see `Large.prepare_front`."""
        return await self._large.prepare_front(staging, most)

    async def renew(self, base: Manifest) -> set[ChunkId]:
        """See `Large.renew`."""
        return await self._large.renew(base)


def _sealed(contents: Sequence[bytes], secret: bytes) -> list[Sealed]:
    contexts = Contexts()
    return [seal(content, secret, contexts) for content in contents]
