"""Pins: what stays on this machine whatever the cache's limit: chosen nodes with all below them, also what comes.

Keeps the chunks that belong to pinned files, for eviction to ask, and fetches those that are missing. Only what was
edited or heard of is looked at again, however much is pinned.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from cache.errors import CacheError
from cache.reader import Reader
from cache.tree import Table, Tree, node_key
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ROOT, ChunkId, NodeId
from remote.protocol.nodes import Entry, Kind, Manifest

log = logging.getLogger(__name__)

_SETTLE_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 60.0
_SERVER_SECONDS: Final = 30.0
_STEP: Final = 4 << 20
_PAUSE_EVERY: Final = 200
_NAMES_AT_ONCE: Final = 1_000
_ASKED_AT_ONCE: Final = 64
_MEASURED: Final = 200
"""Of so many missing files it is looked how much of each is here; of others that nothing is."""


@dataclass(frozen=True)
class Kept:
    """How much is pinned, and how much of that is not here yet."""

    files: int = 0
    size_bytes: int = 0
    missing_files: int = 0
    missing_bytes: int = 0


@dataclass(frozen=True)
class _File:
    manifest: Manifest
    chunks: frozenset[ChunkId]


class Pins:
    """The pinned nodes of one tree."""

    def __init__(self, tree: Tree, reader: Reader, list_folder: Callable[[NodeId], Awaitable[None]]) -> None:
        self._tree = tree
        self._reader = reader
        self._list_folder = list_folder
        self._pinned = {NodeId(int.from_bytes(key, "big")) for key, _ in tree.store.scan(Table.PINS)}
        # What is known of what is pinned: folders whose entries were looked at, and files.
        self._folders: set[NodeId] = set()
        self._files: dict[NodeId, _File] = {}
        self._bytes = 0
        self._chunks: Counter[ChunkId] = Counter()
        # To be looked at (an ordered set), to be fetched, and what was read whole and could not be kept.
        self._todo: dict[NodeId, None] = dict.fromkeys(self._pinned)
        self._missing: dict[NodeId, None] = {}
        self._unkept: set[NodeId] = set()
        self._is_starting = bool(self._pinned)
        self._is_away = False
        self._changed = trio.Event()
        self._watch()

    def pinned(self) -> list[NodeId]:
        """The nodes that were pinned themselves."""
        return sorted(self._pinned)

    def pin(self, node: NodeId) -> None:
        """Keeps the node's content, and that of everything below it, on this machine from now on."""
        with self._tree.store.change() as change:
            change.put(Table.PINS, node_key(node), b"")
        self._pinned.add(node)
        self._look_again(node)

    def unpin(self, node: NodeId) -> bool:
        """Lets the cache drop it again; whether it was pinned itself."""
        was_pinned = node in self._pinned
        with self._tree.store.change() as change:
            change.delete(Table.PINS, node_key(node))
        self._pinned.discard(node)
        self._look_again(node)
        return was_pinned

    def _look_again(self, node: NodeId) -> None:
        self._todo[node] = None
        self._missing |= dict.fromkeys(self._unkept)
        self._unkept.clear()
        self._watch()

    def _watch(self) -> None:
        """Has the tree note what is edited, while something is pinned."""
        if self._pinned and self._tree.touched is None:
            self._tree.touched = set()
        self._changed.set()

    def holds(self, chunk_id: ChunkId) -> bool:
        """Whether a chunk belongs to something pinned; at the start, before that is known, all may."""
        return self._is_starting or chunk_id in self._chunks

    def notice(self) -> None:
        """The tree may have changed."""
        if self._tree.touched:
            self._changed.set()

    def retry(self) -> None:
        """The server is back."""
        if self._pinned:
            self._changed.set()

    def kept(self) -> Kept:
        """How much is pinned and known, and how much of it is missing."""
        missing: list[int] = []
        for position, node in enumerate((*self._missing, *self._unkept)):
            manifest = self._files[node].manifest
            missing.append(manifest.size - (self._reader.held_bytes(manifest) if position < _MEASURED else 0))
        return Kept(len(self._files), self._bytes, sum(map(bool, missing)), sum(missing))

    async def kept_below(self) -> dict[NodeId, Kept]:
        """The same for each node that was pinned itself."""
        sums = {pin: [0, 0, 0, 0] for pin in self._pinned}
        # Which pins each folder lies below.
        above: dict[NodeId, frozenset[NodeId]] = {}
        for position, (node, file) in enumerate(list(self._files.items())):
            is_missing = node in self._missing or node in self._unkept
            lacking = file.manifest.size - self._reader.held_bytes(file.manifest) if is_missing else 0
            for pin in self._pins_above(node, above):
                for index, more in enumerate((1, file.manifest.size, lacking > 0, lacking)):
                    sums[pin][index] += more
            if position % _PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
        return {pin: Kept(*counted) for pin, counted in sums.items() if pin in self._pinned}

    def _pins_above(self, node: NodeId, above: dict[NodeId, frozenset[NodeId]]) -> frozenset[NodeId]:
        known = above.get(node)
        if known is not None:
            return known
        found = {node} & self._pinned
        record = self._tree.record(node)
        above[node] = frozenset(found)
        if node != ROOT and record is not None and record.local is not None:
            for name in record.local.names:
                found |= self._pins_above(name.parent, above)
        above[node] = frozenset(found)
        return above[node]

    async def run(self) -> None:
        """Follows changes and fetches what is missing, until cancelled; costs nothing while nothing is pinned."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._look_at_all()
            self._is_starting = False
            is_complete = await self._fetch() and not self._todo
            if not self._pinned:
                self._tree.touched = None
            # Changes come in bursts, and what could not be fetched is tried again.
            await trio.sleep(_SETTLE_SECONDS)
            if not is_complete:
                with trio.move_on_after(_AGAIN_SECONDS):
                    await self._changed.wait()
                self._changed.set()

    async def _look_at_all(self) -> None:
        """Looks at what was edited; what cannot be looked at now stays to be done."""
        later: dict[NodeId, None] = {}
        self._is_away = False
        count = 0
        while self._todo or self._tree.touched:
            if self._tree.touched:
                # Listing a folder in vain touches it: what failed in this round is for the next.
                self._todo |= dict.fromkeys(node for node in self._tree.touched if node not in later)
                self._tree.touched.clear()
                continue
            node = next(iter(self._todo))
            del self._todo[node]
            try:
                await self._look_at(node)
            except (CacheError, RemoteError, trio.TooSlowError) as error:
                if not self._is_away:
                    log.info("pinned content is not all here yet: %s", str(error) or "the server is silent")
                self._is_away = True
                later[node] = None
            count += 1
            if count % _PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
        self._todo = later

    async def _look_at(self, node: NodeId) -> None:
        record = self._tree.record(node)
        state = record.local if record is not None else None
        if record is None or state is None or not self._is_pinned(node):
            self._drop(node)
            if node in self._folders:
                self._folders.discard(node)
                await self._look_into(node)
        elif state.kind is Kind.FOLDER:
            if node not in self._folders:
                if not record.is_listed:
                    with self._patience():
                        await self._list_folder(node)
                self._folders.add(node)
                await self._look_into(node)
        elif state.content is not None:
            # Also while it is being edited: what was not written over is read from it.
            known = self._files.get(node)
            if known is None or known.manifest != state.content:
                with self._patience():
                    chunks = await self._chunks_of(state.content)
                self._keep(node, _File(state.content, chunks))

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Bounds how long the server is waited for; once in vain, it is not waited for again in this round.

        Until everything was looked at nothing can be evicted.
        """
        with trio.fail_after(0 if self._is_away else _SERVER_SECONDS):
            yield

    def _is_pinned(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        names = record.local.names if record is not None and record.local is not None else ()
        # A folder above that is not known to be pinned yet has its entries looked at when it is.
        return node in self._pinned or any(name.parent in self._folders for name in names)

    async def _look_into(self, folder: NodeId) -> None:
        after = b""
        while children := self._tree.children(folder, after, _NAMES_AT_ONCE):
            self._todo |= dict.fromkeys(child.node for child in children)
            after = children[-1].name
            await trio.lowlevel.checkpoint()

    async def _chunks_of(self, manifest: Manifest) -> frozenset[ChunkId]:
        """All chunks that reading the content needs: leaves and bases, too."""
        found: set[ChunkId] = set()
        level: list[Entry] = list(manifest.entries)
        for depth in range(manifest.depth, -1, -1):
            found.update(entry.id for entry in level if not entry.is_hole)
            found.update(entry.base.id for entry in level if entry.base is not None)
            if depth:
                level = [below for entry in level for below in await self._reader.leaf(entry)]
        return frozenset(found)

    def _keep(self, node: NodeId, file: _File) -> None:
        self._drop(node)
        self._files[node] = file
        self._bytes += file.manifest.size
        self._chunks.update(file.chunks)
        if self._reader.held_bytes(file.manifest) < file.manifest.size:
            self._missing[node] = None

    def _drop(self, node: NodeId) -> None:
        file = self._files.pop(node, None)
        if file is None:
            return
        self._bytes -= file.manifest.size
        self._missing.pop(node, None)
        self._unkept.discard(node)
        for chunk_id in file.chunks:
            self._chunks[chunk_id] -= 1
            if not self._chunks[chunk_id]:
                del self._chunks[chunk_id]

    async def _fetch(self) -> bool:
        """Fetches what is missing; whether nothing is left that could be fetched later."""
        asked = 0
        while self._missing:
            node = next(iter(self._missing))
            file = self._files[node]
            if not asked:
                # Small files come many in one request; what is read below then waits for that.
                asked = _ASKED_AT_ONCE
                ahead = [self._files[one].manifest for one in islice(self._missing, asked)]
                self._reader.prefetch(entry for one in ahead if not one.depth for entry in one.entries)
            asked -= 1
            try:
                for offset in range(0, file.manifest.size, _STEP):
                    await self._reader.read(file.manifest, offset, min(_STEP, file.manifest.size - offset))
                    if self._files.get(node) is not file:
                        break
            except (CacheError, RemoteError) as error:
                log.info("pinned content is not all here yet: %s", error)
                return False
            if self._files.get(node) is file:
                self._missing.pop(node, None)
                if self._reader.held_bytes(file.manifest) < file.manifest.size:
                    # No room: to fetch it again and again would keep nothing either.
                    self._unkept.add(node)
            if self._tree.touched:
                # What was removed or moved meanwhile need not be fetched.
                await self._look_at_all()
        return True
