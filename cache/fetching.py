"""Fetching: each missing frame is fetched once, however many readers wait for it, and outlives those that give up.

Runs in a nursery of its own (`run`). Content is checked and opened in threads, handed to who waits, and then kept in
the cache if there is room; without room it is still handed out.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio

from cache.chunks import Chunks, whole
from cache.errors import CacheError, ContentDamaged, ContentRefused, ContentUnavailable, DiskFull
from cache.eviction import Budget
from cache.fetch import Arrival, Fetch
from cache.pieces import GROUP_BYTES
from cache.places import room_for
from remote.protocol.errors import ChunkDamaged, Infected, NotFound, RemoteError
from remote.protocol.ids import SpaceId
from remote.protocol.messages import Below, ChunkPart
from remote.protocol.nodes import Entry
from remote.protocol.sealing import FRAME, Buffer, Contexts, frame_count
from remote.protocol.service import Service

log = logging.getLogger(__name__)

OBJECT_MIN: Final = 256 << 10
"""Bytes of content above which a chunk has an object of its own on the server, worth a request for its URL."""
AHEAD_AT_ONCE: Final = 8
"""Groups of chunks fetched ahead side by side; what a program waits for never queues behind them."""
THREADS: Final = 4
UNSTORED_MAX: Final = 8
"""Fetched pieces kept in memory when the cache had no room: a reader asks for a chunk many times in small steps."""
AHEAD_SECONDS: Final = 4
_TELLING_MIN: Final = 64 << 10
"""Sealed bytes from which on the time of an answer says something about the line."""


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
        self._ahead_queue = trio.Lock()
        self._fetched_bytes = 0
        self._arrivals: set[Arrival] = set()
        self._bytes_per_second = 0.0

    @property
    def fetched_bytes(self) -> int:
        """Sealed bytes that came from the server so far."""
        return self._fetched_bytes + sum(arrival.received_bytes for arrival in self._arrivals)

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
        for fetch in self._flying.get(entry.id, ()):
            if fetch.bits & missing:
                fetch.is_awaited = True
                found.append(fetch)
            flying_bits |= fetch.bits
        missing &= ~flying_bits
        if missing:
            if is_whole or entry.length <= OBJECT_MIN:
                missing = whole(entry) & ~held & ~flying_bits
            new = [Fetch(entry, at, count, is_awaited=True) for at, count in _runs(missing)]
            self._begin(new)
            found += new
        return found

    def arrived(self, entry: Entry, start: int, stop: int) -> Buffer | None:
        """Bytes [start, stop) of a chunk that was fetched but is not in the cache yet."""
        for fetch in self._flying.get(entry.id, ()):
            if fetch.plain is not None and fetch.start <= start and stop <= fetch.stop:
                return memoryview(fetch.plain)[start - fetch.start : stop - fetch.start]
        return None

    def want_leaf(self, entry: Entry, below: Below | None = None) -> Fetch:
        """The fetch of a leaf, and with it of what is needed `below` it."""
        for fetch in self._flying.get(b"leaf" + entry.id, ()):
            fetch.is_awaited = True
            return fetch
        fetch = Fetch(entry, 0, 1, is_leaf=True, below=below, is_awaited=True)
        self._begin([fetch])
        return fetch

    def want_ahead(self, entries: Iterable[Entry], is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Begins to `fetch_ahead`; waits for nothing."""
        self.start_task(partial(self.fetch_ahead, list(entries), is_wanted))

    async def fetch_ahead(
        self, entries: Iterable[Entry], is_wanted: Callable[[], bool] = lambda: True
    ) -> Sequence[Fetch]:
        """Fetches what of these chunks is neither held nor on its way, in one request, behind what programs wait for.

        `is_wanted` is asked when its turn has come. Returns what came, or could not be had.
        """
        new: list[Fetch] = []
        entries = list(entries)
        async with self._turn_ahead(sum(entry.length for entry in entries)):
            if is_wanted():
                for entry in dict.fromkeys(entries):
                    missing = 0 if entry.is_hole else whole(entry) & ~self._chunks.held(entry)
                    for fetch in self._flying.get(entry.id, ()):
                        missing &= ~fetch.bits
                    new += [Fetch(entry, at, count) for at, count in _runs(missing)]
            if new:
                self._note(new)
                await self._bring(new)
        return new

    # Inside

    @asynccontextmanager
    async def _turn_ahead(self, size: int) -> AsyncIterator[None]:
        """Begins when little enough is fetched ahead; a long group counts as several."""
        taken = 0
        try:
            # One by one: two that want several each would wait for each other.
            async with self._ahead_queue:
                while taken < min(AHEAD_AT_ONCE, -(-size // GROUP_BYTES)):
                    await self._ahead_limit.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._ahead_limit.release()

    def _begin(self, fetches: Sequence[Fetch]) -> None:
        if self._nursery is None:
            for fetch in fetches:
                fetch.error = ContentUnavailable("Satchel is stopping: nothing more is fetched.")
                fetch.done.set()
            return
        self._note(fetches)
        self._nursery.start_soon(self._bring, fetches)

    async def _bring(self, fetches: Sequence[Fetch]) -> None:
        """Fetches in one request, hands out, keeps; never raises, and leaves no fetch unsettled."""
        try:
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
        arrival = Arrival(fetches, self._tell, self._note)
        begun = trio.current_time()
        try:
            with ExitStack() as stack:
                await self._make_room(fetches, stack)
                self._arrivals.add(arrival)
                try:
                    await self._service.read_parts(self._space, [fetch.part for fetch in fetches], arrival.take)
                finally:
                    self._arrivals.remove(arrival)
                    self._count(arrival.received_bytes, trio.current_time() - begun)
                    for fetch in fetches:
                        if fetch.plain is not None:
                            self._tell(fetch)
        except NotFound as fault:
            if len(fetches) > 1:
                # One unknown chunk fails the whole request: the others are asked for again alone, if wanted.
                awaited = [fetch for fetch in fetches if fetch.is_awaited]
                for fetch in fetches:
                    if not fetch.is_awaited:
                        self._land(fetch)
                for fetch in awaited:
                    if fetch.plain is None:
                        await self._receive([fetch])
                return
            if isinstance(fault, Infected):
                log.info("Chunk %s: %s", fetches[0].entry.id.hex(), fault)
                _fail(fetches, ContentRefused(str(fault)))
                return
            log.warning("Chunk %s: the server does not have it.", fetches[0].entry.id.hex())
            _fail(fetches, ContentDamaged(f"The server has lost a part of this file: {fault}"))
        except RemoteError as fault:
            _fail(fetches, ContentUnavailable(f"A part of this file is only on the server: {fault}"))
        finally:
            self._finish(arrival)
        for fetch, _ in arrival.damaged:
            if not fetch.done.is_set():
                await self._bring_again(fetch)

    async def _make_room(self, fetches: Sequence[Fetch], stack: ExitStack) -> None:
        """Gives each a place in the cache until the stack ends, or none when there is no room for all of them."""
        need = sum(room_for(fetch.stop - fetch.start if not fetch.is_leaf else FRAME) for fetch in fetches)
        try:
            await self._budget.make_room(need)
        except DiskFull as full:
            log.info("Fetched content is not kept: %s", full)
            return
        # No await before: what was made room for is ours.
        stack.enter_context(self._budget.reserved(need))
        large = [fetch for fetch in fetches if not fetch.is_small]
        slots = stack.enter_context(self._chunks.reserve([fetch.entry for fetch in large]))
        for fetch, slot in zip(large, slots, strict=True):
            fetch.slot = slot
        for fetch in fetches:
            fetch.has_room = True

    def _finish(self, arrival: Arrival) -> None:
        """Nothing comes any more: what was to come along but did not is fetched by itself."""
        for fetch in arrival.unasked:
            if fetch.plain is not None:
                self._tell(fetch)
        for fetch, fault in arrival.damaged:
            log.warning("Chunk %s: received bytes are not right (%s).", fetch.entry.id.hex(), fault)
        late = []
        for fetch in arrival.unasked:
            if fetch.plain is None and fetch.is_awaited:
                fetch.is_unasked = False
                late.append(fetch)
            elif fetch.plain is None:
                self._land(fetch)
        if late:
            self.start_task(partial(self._bring, late))

    def _note(self, fetches: Sequence[Fetch]) -> None:
        """These are on their way."""
        for fetch in fetches:
            self._flying.setdefault(_key(fetch), []).append(fetch)

    def _tell(self, fetch: Fetch) -> None:
        """Hands out what was opened, and makes held what was written; may be called again."""
        fetch.done.set()
        if fetch.is_settled or (fetch.slot is not None and not fetch.is_written):
            return
        fetch.is_settled = True
        if fetch.is_unasked:
            self.start_task(partial(self._keep, fetch))
        elif not fetch.has_room:
            self._hold(fetch)
        else:
            if fetch.slot is not None:
                self._chunks.settle(fetch.slot)
            else:
                assert fetch.plain is not None
                self._chunks.add_small(fetch.entry.id, fetch.plain)
            self._land(fetch)
            if not fetch.is_awaited:
                # It lies in the cache, and the rest of its answer may be long in coming.
                fetch.plain = None

    async def _keep(self, fetch: Fetch) -> None:
        """Puts content into the cache that readers have already."""
        assert fetch.plain is not None
        need = room_for(len(fetch.plain))
        try:
            await self._budget.make_room(need)
            # No await before: what was made room for is ours.
            with self._budget.reserved(need):
                if fetch.is_small:
                    self._chunks.add_small(fetch.entry.id, fetch.plain)
                else:
                    await self._chunks.add_frames(fetch.entry, fetch.first, fetch.plain)
            self._land(fetch)
        except DiskFull as full:
            log.info("Fetched content is not kept: %s", full)
            self._hold(fetch)

    def _hold(self, fetch: Fetch) -> None:
        """Keeps content in memory for a while that the cache has no room for."""
        self._unstored[fetch] = None
        while len(self._unstored) > UNSTORED_MAX:
            self._land(self._unstored.popitem(last=False)[0])

    def _count(self, length: int, seconds: float) -> None:
        self._fetched_bytes += length
        if length >= _TELLING_MIN:
            rate = length / max(seconds, 0.001)
            self._bytes_per_second = (self._bytes_per_second + rate) / 2 if self._bytes_per_second else rate

    async def _bring_again(self, fetch: Fetch) -> None:
        """Asks once more for what came damaged: all of the chunk, by another way where there is one."""
        again = Fetch(fetch.entry, 0, 1 if fetch.is_leaf else frame_count(fetch.entry.length), fetch.is_leaf)
        is_object = not fetch.is_leaf and fetch.entry.length > OBJECT_MIN
        part = ChunkPart(fetch.entry.id) if is_object else again.part
        try:
            (data,) = await self._service.get_parts(self._space, [part])
            self._fetched_bytes += len(data)
            plain = await trio.to_thread.run_sync(again.open, data, Contexts(), limiter=self._threads)
        except ChunkDamaged as fault:
            log.warning("Chunk %s: received bytes are not right again (%s).", fetch.entry.id.hex(), fault)
            _fail(
                [fetch], ContentDamaged("A part of this file is damaged on the server. An older version may be good.")
            )
        except RemoteError as fault:
            _fail([fetch], ContentUnavailable(f"A part of this file came damaged, and could not be had again: {fault}"))
        else:
            fetch.plain = plain if fetch.is_leaf else memoryview(plain)[fetch.start : fetch.stop]
            fetch.is_settled = True
            fetch.done.set()
            await self._keep(fetch)

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


def _fail(fetches: Sequence[Fetch], error: CacheError) -> None:
    for fetch in fetches:
        if not fetch.done.is_set():
            fetch.error = error
            fetch.done.set()
