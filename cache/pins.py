"""Pins: what stays on this machine whatever the cache's limit: chosen nodes with all below them, also what comes.

Keeps the chunks that belong to pinned files, for eviction to ask, and fetches those that are missing. Only what was
edited or heard of is looked at again, however much is pinned. A pin goes on to what takes the name of a node that is
gone: most programs save a file as a new one, and give it the old one's name.
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
from cache.records import Table, name_key, node_key
from cache.tree import Tree
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ROOT, ChunkId, NodeId
from remote.protocol.nodes import Entry, Kind, Manifest, Name, NodeState

log = logging.getLogger(__name__)

_SETTLE_SECONDS: Final = 1.0
_SAVE_SECONDS: Final = 60.0
"""An editor that moves the old file aside before it writes the new one removes the old one within such a time."""
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
        # Each with the name that it was last seen under, and for a while with the one before that.
        self._pinned = {NodeId(int.from_bytes(key, "big")): _place(value) for key, value in tree.store.scan(Table.PINS)}
        self._before: dict[NodeId, tuple[Name, float]] = {}
        # Names of pinned nodes that are gone: whoever gets one is pinned instead.
        self._vacant: dict[Name, NodeId] = {}
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
        """The nodes that were pinned themselves, and are there."""
        return sorted(node for node in self._pinned if self._state(node) is not None)

    def pin(self, node: NodeId) -> None:
        """Keeps the node's content, and that of everything below it, on this machine from now on."""
        state = self._state(node)
        self._put(node, state.names[0] if state is not None and state.names else None)
        self._look_again(node)

    def unpin(self, node: NodeId) -> bool:
        """Lets the cache drop it again; whether it was pinned itself."""
        was_pinned = node in self._pinned
        with self._tree.store.change() as change:
            change.delete(Table.PINS, node_key(node))
        self._pinned.pop(node, None)
        self._look_again(node)
        return was_pinned

    def _put(self, node: NodeId, place: Name | None) -> None:
        with self._tree.store.change() as change:
            change.put(Table.PINS, node_key(node), name_key(place.parent, place.name) if place is not None else b"")
        self._pinned[node] = place

    def _state(self, node: NodeId) -> NodeState | None:
        record = self._tree.record(node)
        return record.local if record is not None else None

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
            missing.append(manifest.size - (self._reader.held.bytes_of(manifest) if position < _MEASURED else 0))
        return Kept(len(self._files), self._bytes, sum(map(bool, missing)), sum(missing))

    async def kept_below(self) -> dict[NodeId, Kept]:
        """The same for each node that was pinned itself."""
        sums = {pin: [0, 0, 0, 0] for pin in self._pinned}
        # Which pins each folder lies below.
        above: dict[NodeId, frozenset[NodeId]] = {}
        for position, (node, file) in enumerate(list(self._files.items())):
            is_missing = node in self._missing or node in self._unkept
            lacking = file.manifest.size - self._reader.held.bytes_of(file.manifest) if is_missing else 0
            for pin in self._pins_above(node, above) & sums.keys():
                for index, more in enumerate((1, file.manifest.size, lacking > 0, lacking)):
                    sums[pin][index] += more
            if position % _PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()
        return {pin: Kept(*sums[pin]) for pin in self.pinned() if pin in sums}

    def _pins_above(self, node: NodeId, above: dict[NodeId, frozenset[NodeId]]) -> frozenset[NodeId]:
        known = above.get(node)
        if known is not None:
            return known
        found = {node} & self._pinned.keys()
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
        self._follow(node, state)
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

    def _follow(self, node: NodeId, state: NodeState | None) -> None:
        """Keeps in mind where a pinned node is, and pins what has its name when it is gone."""
        if state is None:
            if node in self._pinned:
                self._succeed(node)
            return
        place = self._pinned.get(node)
        if node in self._pinned and state.names:
            self._fill_vacancy(node)
            if state.names[0] != place:
                if place is not None:
                    self._before[node] = place, trio.current_time()
                self._put(node, state.names[0])
        for name in state.names if self._vacant else ():
            if (gone := self._vacant.get(name)) is not None and gone != node:
                self._hand_on(gone, node)

    def _succeed(self, gone: NodeId) -> None:
        """Finds who has the name of a pinned node that is gone."""
        heir = self._tree.heir(gone)
        if heir != gone:
            self._hand_on(gone, heir)
            return
        place = self._pinned[gone]
        before, moved_at = self._before.pop(gone, (None, 0.0))
        if before is not None and trio.current_time() - moved_at > _SAVE_SECONDS:
            before = None
        for name in (place, before):
            holder = self._tree.child(self._tree.heir(name.parent), name.name) if name is not None else None
            if holder is not None:
                self._hand_on(gone, holder)
                return
        if place is not None:
            self._vacant[place] = gone

    def _hand_on(self, gone: NodeId, heir: NodeId) -> None:
        """What was pinned by a node that is gone is another from now on."""
        self.pin(heir)
        self.unpin(gone)
        self._fill_vacancy(gone)

    def _fill_vacancy(self, gone: NodeId) -> None:
        self._vacant = {name: node for name, node in self._vacant.items() if node != gone}

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
                level = [below for entry in level for below in await self._reader.leaves.leaf(entry)]
        return frozenset(found)

    def _keep(self, node: NodeId, file: _File) -> None:
        self._drop(node)
        self._files[node] = file
        self._bytes += file.manifest.size
        self._chunks.update(file.chunks)
        if self._reader.held.bytes_of(file.manifest) < file.manifest.size:
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
                if self._reader.held.bytes_of(file.manifest) < file.manifest.size:
                    # No room: to fetch it again and again would keep nothing either.
                    self._unkept.add(node)
            if self._tree.touched:
                # What was removed or moved meanwhile need not be fetched.
                await self._look_at_all()
        return True


def _place(value: bytes) -> Name | None:
    """The name in a row of the table; see cache/FORMAT.md."""
    return Name(NodeId(int.from_bytes(value[:8], "big")), value[8:]) if value else None
