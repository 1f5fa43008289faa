"""Leaves: which pieces of chunks content is made of; its leaves and deltas, from memory, this disk, or the server."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from cache.chunks import Chunks
from cache.errors import ContentDamaged
from cache.fetching import Fetches
from cache.pieces import Piece, complete, covering, delta_chunk, needed_below, pieces_of
from remote.protocol import deltas
from remote.protocol.errors import ChunkDamaged
from remote.protocol.manifests import decode_leaf, overlapping, starts
from remote.protocol.messages import BELOW_MAX
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sealing import Buffer

LEAVES_KEPT: Final = 512
DELTAS_KEPT: Final = 64


class _Leaf(NamedTuple):
    entries: tuple[Entry, ...]
    starts: list[int]


class Leaves:
    """What lies between the manifests of one space and their chunks."""

    def __init__(self, chunks: Chunks, fetches: Fetches) -> None:
        self._chunks = chunks
        self._fetches = fetches
        self._leaves: OrderedDict[bytes, _Leaf] = OrderedDict()
        self._deltas: OrderedDict[Entry, tuple[deltas.Part, ...]] = OrderedDict()

    async def entries(self, manifest: Manifest, height: int = 0) -> list[Entry]:
        """All entries of the content in order, leaves fetched as needed; none for inline content.

        With `height` those that stand for the leaves so far above; for content without such leaves, all entries.
        """
        level = list(manifest.entries)
        for _ in range(manifest.depth - height):
            below: list[Entry] = []
            for entry in level:
                below += await self.leaf(entry)
            level = below
        return level

    async def leaf(self, entry: Entry) -> tuple[Entry, ...]:
        """The entries of one leaf."""
        leaf = self._leaf(entry) or await self._fetch_leaf(entry)
        return leaf.entries

    async def delta(self, entry: Entry) -> tuple[deltas.Part, ...]:
        """The parts of an entry with a base."""
        parts = self.delta_here(entry)
        return (
            parts
            if parts is not None
            else self._take_delta(entry, await self._fetches.want_leaf(delta_chunk(entry)).wait())
        )

    def entry_at(self, manifest: Manifest, offset: int) -> tuple[int, Entry] | None:
        """The entry of the content at this offset, with its start; None without one, or when its leaf is not here."""
        if not 0 <= offset < manifest.size:
            return None
        start, entries = 0, manifest.entries
        for depth in range(manifest.depth, -1, -1):
            found = next(overlapping(entries, offset - start, offset - start + 1), None)
            if found is None or found[1].is_hole:
                return None
            start += found[0]
            if not depth:
                return start, found[1]
            entries = tuple(self._below(found[1]))
        return None

    def chunk_entries(self, manifest: Manifest) -> Sequence[Entry]:
        """The entries of all chunks, but those below leaves that are not here."""
        level: Sequence[Entry] = manifest.entries
        for _ in range(manifest.depth):
            level = [entry for above in level for entry in self._below(above)]
        return level

    def _below(self, above: Entry) -> Sequence[Entry]:
        """The entries of a leaf that is here."""
        try:
            leaf = None if above.is_hole else self._leaf(above)
        except ContentDamaged:
            return ()
        return leaf.entries if leaf is not None else ()

    def find(self, manifest: Manifest, start: int, stop: int) -> list[Piece | Buffer] | None:
        """The pieces of [start, stop), inline bytes as they are; None when a leaf must be fetched first."""
        if manifest.inline:
            return [complete(manifest.inline[start:stop], start, stop)]
        pieces: list[Piece | Buffer] = []
        if not self._collect(manifest.entries, None, manifest.depth, start, stop, pieces):
            return None
        return covering(pieces, start, stop)

    def _collect(
        self,
        entries: Sequence[Entry],
        offsets: Sequence[int] | None,
        depth: int,
        start: int,
        stop: int,
        pieces: list[Piece | Buffer],
    ) -> bool:
        for at, entry in overlapping(entries, start, stop, offsets):
            inner_start, inner_stop = max(0, start - at), min(entry.length, stop - at)
            if entry.base is not None:
                parts = self.delta_here(entry)
                if parts is None:
                    return False
                pieces += pieces_of(entry, parts, inner_start, inner_stop)
                continue
            if depth == 0 or entry.is_hole:
                pieces.append(Piece(entry, inner_start, inner_stop))
                continue
            leaf = self._leaf(entry)
            if leaf is None or not self._collect(leaf.entries, leaf.starts, depth - 1, inner_start, inner_stop, pieces):
                return False
        return True

    async def find_slowly(
        self, manifest: Manifest, start: int, stop: int, most_below: int = BELOW_MAX
    ) -> list[Piece | Buffer]:
        """The pieces of [start, stop), with the leaves on the way fetched, those of one level side by side.

        `most_below`: bytes of the content below a leaf that come along with it.
        """
        level: list[tuple[int, Entry]] = list(overlapping(manifest.entries, start, stop))
        for depth in range(manifest.depth, 0, -1):
            fetches = [
                (entry, self._fetches.want_leaf(entry, needed_below(at, entry, depth, start, stop, most_below)))
                for at, entry in level
                if not entry.is_hole and self._leaf(entry) is None
            ]
            leaves = {entry.id: self._take_leaf(entry, await fetch.wait()) for entry, fetch in fetches}
            below: list[tuple[int, Entry]] = []
            for at, entry in level:
                if entry.is_hole:
                    below.append((at, entry))
                    continue
                leaf = leaves.get(entry.id) or self._leaf(entry) or await self._fetch_leaf(entry)
                below += [
                    (at + inner, one) for inner, one in overlapping(leaf.entries, start - at, stop - at, leaf.starts)
                ]
            level = below
        for _, entry in level:
            if entry.base is not None and self.delta_here(entry) is None:
                self._fetches.want_leaf(delta_chunk(entry))
        pieces: list[Piece | Buffer] = []
        for at, entry in level:
            inner_start, inner_stop = max(0, start - at), min(entry.length, stop - at)
            if entry.base is None:
                pieces.append(Piece(entry, inner_start, inner_stop))
            else:
                pieces += pieces_of(entry, await self.delta(entry), inner_start, inner_stop)
        return covering(pieces, start, stop)

    def _leaf(self, entry: Entry) -> _Leaf | None:
        leaf = self._leaves.get(entry.id)
        if leaf is not None:
            self._leaves.move_to_end(entry.id)
            return leaf
        data = self._chunks.read_leaf(entry.id)
        return self._take_leaf(entry, data) if data is not None else None

    def _take_leaf(self, entry: Entry, data: Buffer) -> _Leaf:
        try:
            entries = decode_leaf(data)
        except ChunkDamaged as fault:
            raise ContentDamaged(f"The list of the parts of this file is damaged: {fault}") from fault
        leaf = _Leaf(entries, starts(entries))
        if leaf.starts[-1] != entry.length:
            raise ContentDamaged("The list of the parts of this file does not add up to its size.")
        self._leaves[entry.id] = leaf
        if len(self._leaves) > LEAVES_KEPT:
            self._leaves.popitem(last=False)
        return leaf

    async def _fetch_leaf(self, entry: Entry) -> _Leaf:
        return self._take_leaf(entry, await self._fetches.want_leaf(entry).wait())

    def delta_here(self, entry: Entry) -> tuple[deltas.Part, ...] | None:
        """The same, if they are on this machine."""
        parts = self._deltas.get(entry)
        if parts is not None:
            self._deltas.move_to_end(entry)
            return parts
        data = self._chunks.read_leaf(entry.id)
        return self._take_delta(entry, data) if data is not None else None

    def _take_delta(self, entry: Entry, data: Buffer) -> tuple[deltas.Part, ...]:
        try:
            parts = deltas.decode(entry, data)
        except ChunkDamaged as fault:
            raise ContentDamaged(f"A part of this file is damaged: {fault}") from fault
        self._deltas[entry] = parts
        if len(self._deltas) > DELTAS_KEPT:
            self._deltas.popitem(last=False)
        return parts
