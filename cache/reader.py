"""Reader: clean content of files at any offset, from memory, this disk, or the server: only what is asked for.

A small read of a cold chunk fetches the frames that it needs. A program that reads from front to back (see Cursor) gets
whole chunks, fetched ahead in growing steps; for one that reads in many places the file is filled (see filling.py).
What cannot be had raises: no read is short, or made of zeros, for that.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

import trio

from cache.chunks import Chunks
from cache.cursor import AHEAD_MIN, Cursor
from cache.errors import CacheError, ContentUnavailable
from cache.eviction import Budget
from cache.fetch import Fetch
from cache.fetching import Fetches
from cache.filling import FILL_SHARE, Misses, fill
from cache.held import Held
from cache.leaves import Leaves
from cache.pieces import (
    GROUP_BYTES,
    Piece,
    base_of,
    in_groups,
)
from remote.protocol.ids import SpaceId
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sealing import FRAME, Buffer
from remote.protocol.service import Service

READ_SECONDS: Final = 15.0
PREFETCH_COUNT: Final = 256
PREFETCH_MAX: Final = 256 << 10
"""Bytes of content up to which a chunk is worth fetching because its siblings are read."""
AGAIN_SECONDS: Final = 0.5
"""For one read of a program the kernel reads ahead first, and when that fails once more: that must not wait again."""
_LATE_KEPT: Final = 64
SILENT_SECONDS: Final = 2.0
"""What a read waits for a server that another waited for in vain: the kernel lets twelve of them wait at a time, and
whoever reads or writes anything else stands in that row."""
TAIL: Final = 1 << 20
"""Bytes at the end of a file that are fetched from where a program begins to read in them."""
_TRIES: Final = 4
_GROUPS_OF_A_STEP: Final = 4


@dataclass
class Counters:
    """Reads that needed nothing from the server, and those that did."""

    hits: int = 0
    misses: int = 0


class Reader:
    """Reads content of one space; `run` must be running for anything that is not on this machine."""

    def __init__(
        self,
        service: Service,
        space: SpaceId,
        chunks: Chunks,
        budget: Budget,
        *,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """`read_seconds`: the longest that a read waits for the server."""
        self._chunks = chunks
        self._budget = budget
        self._fetches = Fetches(service, space, chunks, budget)
        self._read_seconds = read_seconds
        self.slack_seconds = 0.0
        """How much longer a read waits for the server while what comes in is limited."""
        self.leaves: Final = Leaves(chunks, self._fetches)
        self.held: Final = Held(chunks, self.leaves)
        self._late: OrderedDict[bytes, float] = OrderedDict()
        # Until when the server is taken for silent, if no more than so much has come from it.
        self._silent_until, self._silent_as_of = -math.inf, 0
        self.counters: Final = Counters()

    @property
    def fetched_bytes(self) -> int:
        """Sealed bytes that came from the server."""
        return self._fetches.fetched_bytes

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Owns all fetching, until it is cancelled."""
        await self._fetches.run(task_status=task_status)

    def try_read(self, manifest: Manifest, offset: int, length: int, cursor: Cursor | None = None) -> Buffer | None:
        """What `read` would answer, if that needs no waiting, else None."""
        stop = min(offset + length, manifest.size)
        if offset >= stop:
            return b""
        if cursor is not None:
            self._note(manifest, offset, stop, cursor)
        pieces = self.leaves.find(manifest, offset, stop)
        if pieces is None:
            return None
        found = []
        for piece in pieces:
            data = self._try_piece(piece)
            if data is None:
                return None
            found.append(data)
        self.counters.hits += 1
        return found[0] if len(found) == 1 else b"".join(found)

    async def read(self, manifest: Manifest, offset: int, length: int, cursor: Cursor | None = None) -> Buffer:
        """The content from `offset` on, `length` bytes or up to its end; raises ContentUnavailable, ContentDamaged."""
        stop = min(offset + length, manifest.size)
        if offset >= stop:
            return b""
        if cursor is not None:
            self._note(manifest, offset, stop, cursor)
        first = manifest.entries[0].id if manifest.entries else b""
        is_again = trio.current_time() - self._late.pop(first, -math.inf) < AGAIN_SECONDS
        patience_seconds = self._read_seconds + self.slack_seconds
        if is_silent := self._is_silent():
            patience_seconds = min(patience_seconds, SILENT_SECONDS)
        fetched_before = self.fetched_bytes
        with trio.move_on_after(0 if is_again else patience_seconds):
            # Over a slow line all of a chunk could take longer than a read may wait.
            is_whole = cursor is not None and cursor.is_sequential and self._fetches.ahead_bytes >= AHEAD_MIN
            return await self._read(manifest, offset, stop, cursor, is_whole=is_whole)
        if not is_again:
            self._late[first] = trio.current_time()
            if not is_silent and fetched_before == self.fetched_bytes:
                self._silent_until, self._silent_as_of = trio.current_time() + patience_seconds, fetched_before
            while len(self._late) > _LATE_KEPT:
                self._late.popitem(last=False)
        waited = "a moment ago" if is_again else f"within {patience_seconds:.3g} s"
        raise ContentUnavailable(f"A part of this file is only on the server, which did not answer {waited}.")

    def _is_silent(self) -> bool:
        """Whether a read waited in vain lately, and nothing has come from the server since."""
        return trio.current_time() < self._silent_until and self._silent_as_of == self.fetched_bytes

    def prefetch(self, entries: Iterable[Entry]) -> None:
        """Begins to fetch small chunks that are likely to be read next, many in one request; waits for nothing.

        Large ones, and those after the first PREFETCH_COUNT, are left out.
        """
        small = (entry for entry in entries if entry.length <= PREFETCH_MAX and entry.base is None)
        for group in in_groups(islice(small, PREFETCH_COUNT)):
            self._fetches.want_ahead(group)

    # Reading

    def _try_piece(self, piece: Piece | Buffer) -> Buffer | None:
        if not isinstance(piece, Piece):
            return piece
        if piece.entry.is_hole:
            return bytes(piece.stop - piece.start)
        return self._fetches.arrived(*piece) or self._chunks.read(*piece)

    async def _read(
        self, manifest: Manifest, start: int, stop: int, cursor: Cursor | None, *, is_whole: bool
    ) -> Buffer:
        end = self._end_of_fetch(manifest, start, stop) if cursor is not None and not is_whole else stop
        pieces = self.leaves.find(manifest, start, end)
        is_miss = pieces is None
        if pieces is None:
            pieces = await self.leaves.find_slowly(manifest, start, end)
        # All fetches begin before the first is waited for.
        begun = [
            bool(self._fetches.want(*piece, is_whole=is_whole))
            for piece in pieces
            if isinstance(piece, Piece) and not piece.entry.is_hole
        ]
        if end > stop:
            pieces = self.leaves.find(manifest, start, stop) or await self.leaves.find_slowly(manifest, start, stop)
        if is_miss or any(begun):
            self.counters.misses += 1
            if cursor is not None and not cursor.is_sequential:
                self._note_miss(manifest, cursor.misses)
        else:
            self.counters.hits += 1
        found = []
        for piece in pieces:
            data = self._try_piece(piece)
            if data is None:
                assert isinstance(piece, Piece)
                data = await self._read_piece(piece, is_whole=is_whole)
            found.append(data)
        return found[0] if len(found) == 1 else b"".join(found)

    def _end_of_fetch(self, manifest: Manifest, start: int, stop: int) -> int:
        """How far to fetch for a read of [start, stop): who goes near the end of a file mostly reads on to it.

        Not where a file begins, for there programs look what it is.
        """
        is_near = start >= TAIL and manifest.size <= start + TAIL
        return manifest.size if is_near and self._fetches.ahead_bytes >= AHEAD_MIN else stop

    async def _read_piece(self, piece: Piece, *, is_whole: bool) -> Buffer:
        entry, start, stop = piece
        for _ in range(_TRIES):
            fetches = self._fetches.want(entry, start, stop, is_whole=is_whole)
            if not fetches:
                data = self._chunks.read(entry, start, stop) or await self._chunks.read_slow(entry, start, stop)
            else:
                for fetch in fetches:
                    await fetch.wait()
                data = await self._assemble(piece, fetches)
            if data is not None:
                return data
        raise ContentUnavailable("The cache let go of a part of this file again before it could be read.")

    async def _assemble(self, piece: Piece, fetches: Sequence[Fetch]) -> Buffer | None:
        """The bytes of a piece out of what was fetched and what is held; None when that is no longer held."""
        entry, at, stop = piece
        parts: list[Buffer] = []
        while at < stop:
            fetch = next((fetch for fetch in fetches if fetch.start <= at < fetch.stop), None)
            if fetch is not None:
                end = min(stop, fetch.stop)
                assert fetch.plain is not None
                parts.append(memoryview(fetch.plain)[at - fetch.start : end - fetch.start])
            else:
                end = min([stop, *(fetch.start for fetch in fetches if fetch.start > at)])
                data = self._chunks.read(entry, at, end) or await self._chunks.read_slow(entry, at, end)
                if data is None:
                    return None
                parts.append(data)
            at = end
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Ahead

    def _note(self, manifest: Manifest, start: int, stop: int, cursor: Cursor) -> None:
        cursor.note(start, stop)
        cursor.misses.note_read()
        ahead_bytes = self._fetches.ahead_bytes
        step = cursor.next_step(manifest.size, ahead_bytes if ahead_bytes >= AHEAD_MIN else 0)
        if step is not None:
            self._fetches.start_task(partial(self._read_ahead, manifest, *step, cursor))

    async def _read_ahead(self, manifest: Manifest, start: int, stop: int, cursor: Cursor) -> None:
        try:
            # Of a copy or a new version most is here, below leaves that are not: little must come along with those.
            pieces = self.leaves.find(manifest, start, stop) or await self.leaves.find_slowly(
                manifest, start, stop, FRAME
            )
        except CacheError:
            return  # whoever reads there is told
        entries = [piece.entry for piece in pieces if isinstance(piece, Piece)]
        ahead = cursor.ahead

        def is_wanted() -> bool:
            # After a seek `ahead` is somewhere else.
            return cursor.ahead >= ahead and cursor.high <= stop

        # Each request has its price on both sides; in long steps there are enough of them at a time all the same.
        for group in in_groups(entries, max(GROUP_BYTES, (stop - start) // _GROUPS_OF_A_STEP)):
            self._fetches.want_ahead(group, is_wanted)
        if stop < manifest.size:
            # The leaves of the next step, or it would begin with a round trip in which nothing else comes.
            next_stop = min(manifest.size, stop + cursor.window)
            self._fetches.start_task(partial(self._find_ahead, manifest, stop, next_stop))
        await self._chunks.warm(entries)

    async def _find_ahead(self, manifest: Manifest, start: int, stop: int) -> None:
        with suppress(CacheError):  # whoever reads there is told
            if self.leaves.find(manifest, start, stop) is None:
                await self.leaves.find_slowly(manifest, start, stop, FRAME)

    def _note_miss(self, manifest: Manifest, misses: Misses) -> None:
        """A read in no order needed the server: with the last of many, the whole file begins to be fetched."""
        misses.count += 1
        if (
            misses.is_enough(manifest)
            and manifest.size <= self._budget.limit_bytes // FILL_SHARE
            and self._fetches.ahead_bytes >= GROUP_BYTES
        ):
            misses.is_filling = True
            misses.tries += 1
            self._fetches.start_task(partial(self._fill, manifest, misses))

    async def _fill(self, manifest: Manifest, misses: Misses) -> None:
        try:
            entries = await self.leaves.entries(manifest)
            chunks = dict.fromkeys(base_of(entry) if entry.base else entry for entry in entries if not entry.is_hole)
            await fill(self._fetches, in_groups(chunks), sum(entry.length for entry in chunks), misses)
        except CacheError:
            pass  # whoever reads there is told
        finally:
            misses.count = 0
            misses.is_filling = False
