"""Held: how much of content lies on this machine, so that it can be read without the server."""

from collections.abc import Iterable
from typing import Final

import trio

from cache.chunks import Chunks
from cache.errors import ContentDamaged
from cache.leaves import Leaves
from cache.pieces import Piece, pieces_of
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sealing import FRAME

_HELD_SECONDS: Final = 1.0
_HELD_SAMPLE: Final = 2_048
"""So many chunks, evenly spread, tell how much of long content is held, and for so long."""
_HELD_KEPT: Final = 64


class Held:
    """What is held of content of one space."""

    def __init__(self, chunks: Chunks, leaves: Leaves) -> None:
        self._chunks = chunks
        self._leaves = leaves
        # When it was counted, and what came of it.
        self._lately: dict[Manifest, tuple[float, int]] = {}

    def bytes_of(self, manifest: Manifest) -> int:
        """Bytes of the content that can be read without the server; what lies below a leaf that is not here cannot."""
        if manifest.inline:
            return manifest.size
        entries = self._leaves.chunk_entries(manifest)
        return self._held(entries) + sum(entry.length for entry in entries if entry.is_hole)

    def about(self, manifest: Manifest) -> int:
        """Bytes of the content that lie on this machine, without holes, for who asks often, as stat(2) does.

        Of long content it is an estimate, a second old at the most.
        """
        if manifest.inline:
            return manifest.size
        if not manifest.depth:
            return self._held(manifest.entries)
        now = trio.current_time()
        counted_at, held = self._lately.get(manifest, (-_HELD_SECONDS, 0))
        if now - counted_at >= _HELD_SECONDS:
            entries = self._leaves.chunk_entries(manifest)
            step = len(entries) // _HELD_SAMPLE + 1
            held = self._held(entries[::step]) * step
            if len(self._lately) >= _HELD_KEPT:
                self._lately.clear()
            self._lately[manifest] = (now, held)
        return held

    @property
    def as_of(self) -> int:
        """Grows whenever any content comes or goes."""
        return self._chunks.store.changes

    def _held(self, entries: Iterable[Entry]) -> int:
        held = 0
        for entry in entries:
            if entry.base is not None:
                held += self._held_of_delta(entry)
                continue
            frames = 0 if entry.is_hole else self._chunks.held(entry)
            if frames:
                held += min(entry.length, frames.bit_count() * FRAME)
        return held

    def _held_of_delta(self, entry: Entry) -> int:
        """Bytes of a delta's content that are here; none when it is not known what it is made of."""
        try:
            parts = self._leaves.delta_here(entry)
        except ContentDamaged:
            return 0
        return sum(
            self._chunks.held_bytes(piece.entry, piece.start, piece.stop) if isinstance(piece, Piece) else len(piece)
            for piece in pieces_of(entry, parts or (), 0, entry.length)
        )
