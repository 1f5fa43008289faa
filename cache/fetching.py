"""Fetching: each missing frame is fetched once, however many readers wait for it, and outlives those that give up.

Runs in a nursery of its own (`run`). Content is checked and opened in threads, handed to who waits, and then kept in
the cache if there is room; without room it is still handed out.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from cache.chunks import SMALL_MAX, Chunks, Slot, whole
from cache.errors import CacheError, ContentDamaged, ContentUnavailable, DiskFull
from cache.eviction import Budget
from cache.places import room_for
from remote.protocol.errors import ChunkDamaged, NotFound, RemoteError
from remote.protocol.ids import SpaceId
from remote.protocol.messages import ChunkPart
from remote.protocol.nodes import Entry
from remote.protocol.sealing import FRAME, Buffer, Contexts, frame_count, open_chunk, open_frames, open_leaf
from remote.protocol.service import Service

log = logging.getLogger(__name__)

OBJECT_MIN: Final = 256 << 10
"""Bytes of content above which a chunk has an object of its own on the server, worth a request for its URL."""
AHEAD_AT_ONCE: Final = 4
"""Groups of chunks fetched ahead side by side; what a program waits for never queues behind them."""
THREADS: Final = 4
UNSTORED_MAX: Final = 8
"""Fetched pieces kept in memory when the cache had no room: a reader asks for a chunk many times in small steps."""
AHEAD_SECONDS: Final = 4
_TELLING_MIN: Final = 64 << 10
"""Sealed bytes from which on the time of an answer says something about the line."""
_INLINE_MAX: Final = 16 << 10
"""Sealed bytes that are opened without a thread."""


@dataclass(eq=False)
class Fetch:
    """Frames of one chunk (or a leaf) on their way; `plain` or `error` is set when `done` is."""

    entry: Entry
    first: int
    count: int
    is_leaf: bool = False
    is_ahead: bool = False
    is_begun: bool = False
    is_awaited: bool = False
    is_superseded: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    plain: Buffer | None = None
    error: Exception | None = None
    wanted: Callable[[], bool] | None = None
    """For one fetched ahead: whether it is still worth beginning."""

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
    def part(self) -> ChunkPart:
        """What to ask the server for: by frames costs one round trip, a whole object goes around the server."""
        if self.is_whole and self.is_ahead and self.entry.length > OBJECT_MIN:
            return ChunkPart(self.entry.id)
        return ChunkPart(self.entry.id, self.first, self.count)

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
        if self.is_whole:
            return open_chunk(self.entry, part, contexts)
        return open_frames(self.entry, part, self.first, self.count)


class Fetches:
    """Everything of one space that is on its way."""

    def __init__(self, service: Service, space: SpaceId, chunks: Chunks, budget: Budget) -> None:
        self._service = service
        self._space = space
        self._chunks = chunks
        self._budget = budget
        self._nursery: trio.Nursery | None = None
        self._flying: dict[bytes, list[Fetch]] = {}
        self._unstored: OrderedDict[Fetch, None] = OrderedDict()
        # Of its own: uploads hold threads while they wait for what is fetched here.
        self._threads = trio.CapacityLimiter(THREADS)
        self._ahead_limit = trio.Semaphore(AHEAD_AT_ONCE)
        self.fetched_bytes = 0
        self._bytes_per_second = 0.0

    @property
    def ahead_bytes(self) -> float:
        """How much may be fetched ahead: what the line brings in a few seconds, so that a seek need not wait for it."""
        return self._bytes_per_second * AHEAD_SECONDS if self._bytes_per_second else float("inf")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetches until it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def start_task(self, job: Callable[[], Awaitable[object]]) -> None:
        """Runs an async job beside the readers; it must not raise. Nothing when fetching has ended."""
        if self._nursery is not None:
            self._nursery.start_soon(job)

    def want(self, entry: Entry, start: int, stop: int, *, is_whole: bool = False) -> list[Fetch]:
        """Fetches, going on or begun now, that bring those frames of [start, stop) that are not held.

        With `is_whole` all other missing frames of the chunk come too, unasked for.
        """
        first, end = start // FRAME, -(-stop // FRAME)
        held = self._chunks.held(entry)
        missing = ((1 << end) - (1 << first)) & ~held
        found = []
        flying_bits = 0
        for fetch in list(self._flying.get(entry.id, ())):
            if not fetch.is_begun:
                # Still behind others, where a program must not wait.
                fetch.is_superseded = True
                self._land(fetch)
                continue
            if fetch.bits & missing:
                fetch.is_awaited = True
                found.append(fetch)
            flying_bits |= fetch.bits
        missing &= ~flying_bits
        if missing:
            if is_whole or entry.length <= OBJECT_MIN:
                missing = whole(entry) & ~held & ~flying_bits
            new = [Fetch(entry, at, count, is_begun=True, is_awaited=True) for at, count in _runs(missing)]
            self._begin(new)
            found += new
        return found

    def arrived(self, entry: Entry, start: int, stop: int) -> Buffer | None:
        """Bytes [start, stop) of a chunk that was fetched but is not in the cache yet."""
        for fetch in self._flying.get(entry.id, ()):
            if fetch.plain is not None and fetch.start <= start and stop <= fetch.stop:
                return memoryview(fetch.plain)[start - fetch.start : stop - fetch.start]
        return None

    def want_leaf(self, entry: Entry) -> Fetch:
        """The fetch of a leaf."""
        for fetch in self._flying.get(b"leaf" + entry.id, ()):
            return fetch
        fetch = Fetch(entry, 0, 1, is_leaf=True, is_begun=True, is_awaited=True)
        self._begin([fetch])
        return fetch

    def want_ahead(self, entries: Iterable[Entry], wanted: Callable[[], bool] | None = None) -> None:
        """Fetches all of these chunks that is not held, in one request, behind whatever programs wait for."""
        new: list[Fetch] = []
        for entry in entries:
            if not entry.is_hole and entry.id not in self._flying:
                missing = whole(entry) & ~self._chunks.held(entry)
                new += [Fetch(entry, at, count, is_ahead=True, wanted=wanted) for at, count in _runs(missing)]
        if new:
            self._begin(new)

    # Inside

    def _begin(self, fetches: Sequence[Fetch]) -> None:
        if self._nursery is None:
            for fetch in fetches:
                fetch.error = ContentUnavailable("Satchel is stopping: nothing more is fetched.")
                fetch.done.set()
            return
        for fetch in fetches:
            self._flying.setdefault(_key(fetch), []).append(fetch)
        self._nursery.start_soon(self._bring, fetches)

    async def _bring(self, fetches: Sequence[Fetch]) -> None:
        """Fetches in one request, hands out, keeps; never raises, and leaves no fetch unsettled."""
        try:
            if fetches[0].is_ahead:
                async with self._ahead_limit:
                    todo = [
                        fetch
                        for fetch in fetches
                        if not fetch.is_superseded and (fetch.wanted is None or fetch.wanted())
                    ]
                    for fetch in todo:
                        fetch.is_begun = True
                    if todo:
                        await self._receive(todo)
            else:
                await self._receive(fetches)
        except Exception as error:
            # The outermost frame of this task: whatever this was, the mount goes on without these bytes.
            log.exception("Fetching %d parts failed.", len(fetches))
            _fail(fetches, ContentUnavailable(f"A part of this file could not be taken in: {error!r}"))
        finally:
            for fetch in fetches:
                if not fetch.done.is_set():
                    fetch.error = fetch.error or ContentUnavailable("The fetch of this content was called off.")
                    fetch.done.set()
                if fetch not in self._unstored:
                    self._land(fetch)

    async def _receive(self, fetches: Sequence[Fetch]) -> None:
        begun = trio.current_time()
        try:
            parts = await self._service.get_parts(self._space, [fetch.part for fetch in fetches])
        except NotFound as fault:
            if len(fetches) > 1:
                # One unknown chunk fails the whole request: the others are asked for again alone, if wanted.
                for fetch in fetches:
                    if fetch.is_awaited:
                        await self._receive([fetch])
                return
            log.warning("Chunk %s: the server does not have it.", fetches[0].entry.id.hex())
            _fail(fetches, ContentDamaged(f"The server has lost a part of this file: {fault}"))
            return
        except RemoteError as fault:
            _fail(fetches, ContentUnavailable(f"A part of this file is only on the server: {fault}"))
            return
        self._count(sum(len(part) for part in parts), trio.current_time() - begun)
        await self._open(list(zip(fetches, parts, strict=True)))
        for fetch in fetches:
            if fetch.plain is not None:
                fetch.done.set()
            elif fetch.error is None:
                await self._bring_again(fetch)
        await self._keep([fetch for fetch in fetches if fetch.plain is not None])

    def _count(self, length: int, seconds: float) -> None:
        self.fetched_bytes += length
        if length >= _TELLING_MIN:
            rate = length / max(seconds, 0.001)
            self._bytes_per_second = (self._bytes_per_second + rate) / 2 if self._bytes_per_second else rate

    async def _open(self, received: Sequence[tuple[Fetch, bytes]]) -> None:
        """Sets `plain` of each whose bytes are good."""
        job = partial(_open_all, received)
        if sum(len(part) for _, part in received) <= _INLINE_MAX:
            damaged = job()
        else:
            damaged = await trio.to_thread.run_sync(job, limiter=self._threads)
        for fetch, fault in damaged:
            log.warning("Chunk %s: received bytes are not right (%s).", fetch.entry.id.hex(), fault)

    async def _bring_again(self, fetch: Fetch) -> None:
        """Asks once more for what came damaged: all of the chunk, by another way where there is one."""
        again = Fetch(fetch.entry, 0, 1 if fetch.is_leaf else frame_count(fetch.entry.length), is_leaf=fetch.is_leaf)
        again.is_ahead = not fetch.is_ahead
        try:
            parts = await self._service.get_parts(self._space, [again.part])
        except RemoteError as fault:
            _fail([fetch], ContentUnavailable(f"A part of this file came damaged, and could not be had again: {fault}"))
            return
        self.fetched_bytes += sum(len(part) for part in parts)
        await self._open([(again, parts[0])])
        if again.plain is None:
            _fail(
                [fetch], ContentDamaged("A part of this file is damaged on the server. An older version may be good.")
            )
            return
        plain = again.plain
        fetch.plain = plain if fetch.is_leaf else memoryview(plain)[fetch.start : fetch.stop]
        fetch.done.set()

    async def _keep(self, fetches: Sequence[Fetch]) -> None:
        """Puts content into the cache; readers have it already."""
        left = list(fetches)
        try:
            while left:
                need = room_for(len(left[0].plain or b""))
                await self._budget.make_room(need)
                # No await before: what was made room for is ours.
                with self._budget.reserved(need):
                    await self._keep_one(left[0])
                self._land(left.pop(0))
        except DiskFull as full:
            log.info("Fetched content is not kept: %s", full)
            self._unstored.update(dict.fromkeys(left))
            while len(self._unstored) > UNSTORED_MAX:
                self._land(self._unstored.popitem(last=False)[0])

    async def _keep_one(self, fetch: Fetch) -> None:
        plain = fetch.plain
        assert plain is not None
        if fetch.is_leaf or (fetch.is_whole and fetch.entry.length <= SMALL_MAX):
            self._chunks.add_small(fetch.entry.id, plain)
            await trio.lowlevel.checkpoint()
            return
        with self._chunks.reserve(fetch.entry) as slot:
            await trio.to_thread.run_sync(_write, slot, fetch.first, plain, limiter=self._threads)

    def _land(self, fetch: Fetch) -> None:
        """It is no longer on its way."""
        key = _key(fetch)
        flying = self._flying.get(key, [])
        if fetch in flying:
            flying.remove(fetch)
        if not flying:
            self._flying.pop(key, None)


def _key(fetch: Fetch) -> bytes:
    return b"leaf" + fetch.entry.id if fetch.is_leaf else fetch.entry.id


def _runs(bits: int) -> list[tuple[int, int]]:
    """Runs of set bits as (first, count)."""
    runs = []
    at = 0
    while bits:
        skipped = (bits & -bits).bit_length() - 1
        bits >>= skipped
        count = (~bits & (bits + 1)).bit_length() - 1
        runs.append((at + skipped, count))
        bits >>= count
        at += skipped + count
    return runs


def _open_all(received: Sequence[tuple[Fetch, bytes]]) -> list[tuple[Fetch, ChunkDamaged]]:
    damaged = []
    contexts = Contexts()
    for fetch, part in received:
        try:
            fetch.plain = fetch.open(part, contexts)
        except ChunkDamaged as fault:
            damaged.append((fetch, fault))
    return damaged


def _write(slot: Slot, first: int, plain: Buffer) -> None:
    slot.write(first, plain)


def _fail(fetches: Sequence[Fetch], error: CacheError) -> None:
    for fetch in fetches:
        if not fetch.done.is_set():
            fetch.error = error
            fetch.done.set()
