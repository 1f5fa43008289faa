"""Fetch: frames of one chunk, or a leaf, on their way; and Arrival: what the thread that receives them does.

A thread opens each part as it comes, with every check, and writes it to its place in the cache; the event loop hears of
each once it can be handed out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cache.chunks import SMALL_MAX, Slot
from cache.errors import DiskFull
from remote.protocol.errors import ChunkDamaged
from remote.protocol.ids import ChunkId
from remote.protocol.manifests import decode_leaf
from remote.protocol.messages import Below, ChunkPart
from remote.protocol.nodes import Entry
from remote.protocol.parts import parts_below
from remote.protocol.sealing import FRAME, Buffer, Contexts, frame_count, open_frames, open_leaf

Key = tuple[ChunkId, int, int]

ALL_MIN: Final = 5
"""Frames from which on all of a chunk is asked for as that."""


@dataclass(eq=False)
class Fetch:
    """Frames of one chunk (or a leaf) on their way; `plain` or `error` is set when `done` is."""

    entry: Entry
    first: int
    count: int
    is_leaf: bool = False
    below: Below | None = None
    """For a leaf: what of the content below it comes along."""
    is_awaited: bool = False
    slot: Slot | None = None
    """Where a thread keeps it."""
    has_room: bool = False
    """Whether the cache has room for it."""
    is_written: bool = False
    """The thread is done with its slot."""
    is_unasked: bool = False
    """It comes with the leaf above it, and has no place in the cache yet."""
    is_settled: bool = False
    """It was handed out, and kept where there is room."""
    done: trio.Event = field(default_factory=trio.Event)
    plain: Buffer | None = None
    error: Exception | None = None

    @property
    def bits(self) -> int:
        """A bit for each frame."""
        return ((1 << self.count) - 1) << self.first

    @property
    def start(self) -> int:
        """Where its bytes begin in the content of the chunk."""
        return self.first * FRAME

    @property
    def stop(self) -> int:
        """Where they end."""
        return min(self.start + self.count * FRAME, self.entry.length)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the chunk."""
        return self.is_leaf or self.count == frame_count(self.entry.length)

    @property
    def is_small(self) -> bool:
        """Whether it is kept in the store, not in a blob."""
        return self.is_leaf or (self.is_whole and self.entry.length <= SMALL_MAX)

    @property
    def part(self) -> ChunkPart:
        """What to ask the server for."""
        return ChunkPart(self.entry.id, self.first, self._asked_frames, self.below)

    @property
    def key(self) -> Key:
        """What its part of an answer is known by."""
        return self.entry.id, self.first, self._asked_frames

    @property
    def _asked_frames(self) -> int:
        """0 for a long chunk of which all is wanted: then the server need not look into its header where they end."""
        is_all = self.is_whole and self.count >= ALL_MIN and not self.is_unasked
        return 0 if is_all else self.count

    async def wait(self) -> Buffer:
        """The bytes; raises ContentUnavailable, ContentDamaged."""
        if not self.done.is_set():
            await self.done.wait()
        if self.error is not None:
            # A new one for each who waits: an exception collects the tracebacks of all that raise it.
            raise type(self.error)(*self.error.args) from self.error
        assert self.plain is not None
        return self.plain

    def open(self, part: Buffer, contexts: Contexts) -> Buffer:
        """The content in sealed bytes from the server; raises ChunkDamaged."""
        if self.is_leaf:
            return open_leaf(self.entry, part)
        return open_frames(self.entry, part, self.first, self.count, contexts)


class Arrival:
    """Takes the parts of one answer, in the thread that receives them; `tell` and `found` are called on the loop."""

    def __init__(
        self, fetches: Sequence[Fetch], tell: Callable[[Fetch], None], found: Callable[[Sequence[Fetch]], None]
    ) -> None:
        """`tell`: a fetch has its bytes, and once more when they are written. `found`: fetches that come unasked."""
        self._token: Final = trio.lowlevel.current_trio_token()
        self._expected = {fetch.key: fetch for fetch in fetches}
        self._tell = tell
        self._found = found
        self._contexts = Contexts()
        self.unasked: list[Fetch] = []
        self.received_bytes = 0
        self.damaged: list[tuple[Fetch, ChunkDamaged]] = []

    def take(self, chunk: ChunkId, first: int, frames: int, data: Buffer) -> None:
        """See TakePart."""
        self.received_bytes += len(data)
        fetch = self._expected.pop((chunk, first, frames), None)
        if fetch is None:
            return
        try:
            plain = fetch.open(data, self._contexts)
            if fetch.below is not None:
                self._expect_below(plain, fetch.below)
        except ChunkDamaged as fault:
            self.damaged.append((fetch, fault))
            return
        fetch.plain = plain
        if fetch.slot is not None:
            if fetch.is_awaited:
                self._token.run_sync_soon(self._tell, fetch)
            try:
                fetch.slot.write(fetch.first, plain)
            except DiskFull:
                fetch.has_room = False
            fetch.is_written = True
        self._token.run_sync_soon(self._tell, fetch)

    def _expect_below(self, plain: Buffer, below: Below) -> None:
        fetches = []
        for entry, part in parts_below(decode_leaf(plain), below):
            fetch = Fetch(entry, part.first, part.frames, below.depth > 1, part.below, is_unasked=True)
            # Content that repeats has one chunk in many places.
            if self._expected.setdefault(fetch.key, fetch) is fetch:
                fetches.append(fetch)
        self.unasked += fetches
        # Before the leaf itself is told of: who waits for it must find them.
        self._token.run_sync_soon(self._found, fetches)
