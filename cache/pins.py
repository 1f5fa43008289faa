"""Pins: what stays on this machine whatever the cache's limit: chosen nodes with all below them, also what comes.

Keeps the set of chunks that belong to pinned nodes, for eviction to ask, and fetches those that are missing.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import trio

from cache.errors import CacheError
from cache.reader import Reader
from cache.tree import Table, Tree, node_key
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ChunkId, NodeId
from remote.protocol.nodes import Kind, Manifest

log = logging.getLogger(__name__)

_SETTLE_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 60.0
_STEP: Final = 4 << 20
_PAUSE_EVERY: Final = 200


class Pins:
    """The pinned nodes of one tree."""

    def __init__(self, tree: Tree, reader: Reader, list_folder: Callable[[NodeId], Awaitable[None]]) -> None:
        self._tree = tree
        self._reader = reader
        self._list_folder = list_folder
        self._chunks: frozenset[ChunkId] = frozenset()
        self._changed = trio.Event()
        self._changed.set()

    def pinned(self) -> list[NodeId]:
        """The nodes that were pinned themselves."""
        return [NodeId(int.from_bytes(key, "big")) for key, _ in self._tree.store.scan(Table.PINS)]

    def pin(self, node: NodeId) -> None:
        """Keeps the node's content, and that of everything below it, on this machine from now on."""
        with self._tree.store.change() as change:
            change.put(Table.PINS, node_key(node), b"")
        self.notice()

    def unpin(self, node: NodeId) -> bool:
        """Lets the cache drop it again; whether it was pinned itself."""
        was_pinned = self._tree.store.has(Table.PINS, node_key(node))
        with self._tree.store.change() as change:
            change.delete(Table.PINS, node_key(node))
        self.notice()
        return was_pinned

    def holds(self, chunk_id: ChunkId) -> bool:
        """Whether a chunk belongs to something pinned, as far as is known."""
        return chunk_id in self._chunks

    def notice(self) -> None:
        """The tree or the pins changed."""
        self._changed.set()

    async def run(self) -> None:
        """Follows changes and fetches what is missing, until cancelled; costs nothing while nothing is pinned."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            is_complete = await self._follow() if self.pinned() else True
            if not self.pinned():
                self._chunks = frozenset()
            # Changes come in bursts, and what could not be fetched is tried again.
            await trio.sleep(_SETTLE_SECONDS)
            if not is_complete:
                with trio.move_on_after(_AGAIN_SECONDS):
                    await self._changed.wait()
                self._changed.set()

    async def _follow(self) -> bool:
        chunks: set[ChunkId] = set()
        manifests: list[Manifest] = []
        is_complete = True
        try:
            async for manifest in self._manifests():
                entries = await self._reader.entries(manifest)
                chunks.update(entry.id for entry in (*manifest.entries, *entries) if not entry.is_hole)
                chunks.update(entry.base.id for entry in entries if entry.base is not None)
                manifests.append(manifest)
        except (CacheError, RemoteError) as error:
            log.info("pinned content is not all here yet: %s", error)
            is_complete = False
            # What was pinned stays pinned until all of it is known again.
            chunks |= self._chunks
        self._chunks = frozenset(chunks)
        return await self._fetch(manifests) and is_complete

    async def _fetch(self, manifests: list[Manifest]) -> bool:
        for manifest in manifests:
            if self._reader.held_bytes(manifest) >= manifest.size:
                continue
            try:
                for offset in range(0, manifest.size, _STEP):
                    await self._reader.read(manifest, offset, min(_STEP, manifest.size - offset))
            except (CacheError, RemoteError) as error:
                log.info("pinned content is not all here yet: %s", error)
                return False
        return True

    async def _manifests(self) -> AsyncGenerator[Manifest, None]:
        """The content of every file that is pinned or below a pinned folder."""
        todo = self.pinned()
        seen: set[NodeId] = set()
        while todo:
            node = todo.pop()
            record = self._tree.record(node)
            if node in seen or record is None or record.local is None:
                continue
            seen.add(node)
            if record.local.kind is Kind.FOLDER:
                if not record.is_listed:
                    await self._list_folder(node)
                todo.extend(child.node for child in self._tree.children(node))
            elif record.local.content is not None and not record.staged:
                yield record.local.content
            if len(seen) % _PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
