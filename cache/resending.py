"""Resending: content that the server had and lost goes there again, as far as this machine still has it.

Sealing gives the same bytes for the same content, so what lies opened in the cache is sealed again, and counts when its
id is that of what is missing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import trio

from cache.chunks import Chunks
from cache.pull import Home
from remote.protocol.errors import ChunkDamaged, RemoteError
from remote.protocol.ids import ChunkId
from remote.protocol.manifests import decode_leaf
from remote.protocol.messages import CHUNKS_MAX
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sealing import Buffer, Sealed, seal
from remote.protocol.service import Service

_BYTES_AT_ONCE: Final = 8 << 20
"""Content that is sealed again and held in memory at once, about."""


class ContentLost(RemoteError):
    """The server lost content that this machine does not have, or not whole; another device may."""


class Resending:
    """Sends chunks of one space again."""

    def __init__(self, service: Service, home: Home, chunks: Chunks) -> None:
        self._service = service
        self._home = home
        self._chunks = chunks
        self._in_vain: frozenset[ChunkId] = frozenset()

    async def manifests(self, contents: Sequence[Manifest]) -> list[bool]:
        """Has the server have the chunks of these contents; of each, whether it has them all now."""
        ids = [set(self._needed(content)) for content in contents]
        missing = await self._missing(set().union(*ids))
        await self._send(missing)
        # Leaves that were not here hide what is below them: only the server could tell.
        left = await self._missing(missing)
        return [not (needed & left) for needed in ids]

    async def mend(self) -> int:
        """Sends what the server says it lost and this machine has; how many chunks."""
        lost: set[ChunkId] = set()
        after = ChunkId(b"")
        while True:
            answer = await self._service.lost(self._home.space, after)
            lost.update(answer.chunks)
            if not answer.more or not answer.chunks:
                break
            after = answer.chunks[-1]
        lost -= self._in_vain
        sent = await self._send(lost)
        # Asked for again and again: what is not here is looked for once, until this device starts again.
        self._in_vain |= lost - sent
        return len(sent)

    def _needed(self, content: Manifest) -> Iterator[ChunkId]:
        return self._below(content.entries, content.depth)

    def _below(self, entries: Iterable[Entry], depth: int) -> Iterator[ChunkId]:
        for entry in entries:
            if entry.is_hole:
                continue
            yield entry.id
            if entry.base is not None:
                yield entry.base.id
            if depth:
                leaf = self._chunks.read_leaf(entry.id)
                if leaf is not None:
                    try:
                        yield from self._below(decode_leaf(leaf), depth - 1)
                    except ChunkDamaged:
                        continue

    async def _missing(self, chunks: Iterable[ChunkId]) -> set[ChunkId]:
        """Those of these chunks that the server does not have."""
        found: set[ChunkId] = set()
        some = list(chunks)
        for at in range(0, len(some), CHUNKS_MAX):
            # Their size is told when they are sent.
            found |= await self._service.wanted(self._home.space, dict.fromkeys(some[at : at + CHUNKS_MAX], 1))
        return found

    async def _send(self, chunks: Iterable[ChunkId]) -> set[ChunkId]:
        """Those of these chunks that were here and are there now."""
        sent: set[ChunkId] = set()
        sealed: dict[ChunkId, bytes] = {}
        for chunk in chunks:
            content = await self._chunks.content(chunk)
            one = await trio.to_thread.run_sync(self._seal, content) if content else None
            if one is None or one.id != chunk:
                continue
            sealed[chunk] = one.data
            if sum(map(len, sealed.values())) >= _BYTES_AT_ONCE:
                await self._service.send_chunks(self._home.space, sealed)
                sent |= set(sealed)
                sealed = {}
        if sealed:
            await self._service.send_chunks(self._home.space, sealed)
        return sent | set(sealed)

    def _seal(self, content: Buffer) -> Sealed:
        return seal(bytes(content), self._home.secret)
