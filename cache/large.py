"""Large: what changed in a staging of any size becomes chunks and deltas that the server holds, in bounded memory."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import trio

from cache import patches
from cache.batches import Attempt, Batches, Piece
from cache.chunks import Chunks
from cache.errors import CacheError
from cache.extents import Extents
from cache.patches import Item, Patch
from cache.prepared import Own, Prepared
from cache.reader import Reader
from cache.staging import Staging, StagingId, Stretch
from remote.protocol import deltas
from remote.protocol.cutting import Buffer, Span, recut
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.manifests import Leaf, build, starts, unsettled
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.sealing import Sealed, seal
from remote.protocol.service import Service

_BATCH_BYTES: Final = 5 << 20
"""Content that is sealed and sent together: the server waits once for its disk."""
_SENDERS: Final = 3
"""Batches of a file that are at work at a time: most of them only wait for the server."""
_LEAVES_KEPT: Final = 64
_RENEWED_AT_ONCE: Final = 1_000
_HOLE: Final = (ChunkId(b""), b"")

Range = tuple[int, int]


@dataclass(frozen=True)
class _Earlier:
    """What the last attempt came to: the content as it was marked then, on top of `base`."""

    base: Manifest
    mark: int
    items: list[Item]


class Front(NamedTuple):
    """The content before `stop` as it was at `mark`, sent; `manifest` goes on as the old base does, or ends there.

    From `last` on is the chunk that the next cut begins with; `small` are leaves and deltas, worth keeping here.
    """

    manifest: Manifest
    stop: int
    last: int
    mark: int
    small: tuple[tuple[ChunkId, Buffer], ...]


class _Cut:
    """Where the front of an edited content may end: at a cut from which on the old items go on, or cover nothing."""

    def __init__(self, old: Sequence[Item], old_stop: int, dirty: Extents, wanted: int) -> None:
        """`old_stop`: where what is seen of the old content ends; `wanted`: the front does not end before it."""
        self._old = old
        self._offsets = starts(patches.lengths(old))
        self._old_stop = old_stop
        self._dirty = dirty
        self._wanted = wanted
        self.stop = 0
        self.last = 0

    def of(self, spans: Iterable[tuple[Span, Buffer | None]]) -> Iterator[tuple[Span, Buffer | None]]:
        """Those spans that the front is made of."""
        for span, data in spans:
            self.last, self.stop = span.offset, span.offset + span.length
            yield span, data
            if self.stop >= self._wanted and (self.stop >= self._old_stop or self._is_covered(*self._next())):
                return

    def tail(self) -> list[Item]:
        """What follows the front: nothing, or the old items, behind a hole up to where the next of them begins."""
        if self.stop >= self._old_stop:
            return []
        index, start = self._next()
        hole = [Entry(*_HOLE, start - self.stop)] if start > self.stop else []
        return [*hole, *self._old[index:]]

    def _next(self) -> tuple[int, int]:
        index = bisect_left(self._offsets, self.stop)
        return index, self._offsets[index]

    def _is_covered(self, _: int, start: int) -> bool:
        return self._dirty.covers(self.stop, start)


class Large:
    """Prepares large stagings of one space."""

    def __init__(self, service: Service, space: SpaceId, secret: bytes, reader: Reader, chunks: Chunks) -> None:
        self._service = service
        self._space = space
        self._secret = secret
        self._reader = reader
        self._batches = Batches(service, space, secret, reader, chunks)
        self._earlier: WeakKeyDictionary[Staging, _Earlier] = WeakKeyDictionary()
        self.done_bytes: dict[StagingId, int] = {}
        """Content that the server has of those that are being prepared."""

    async def prepare(self, staging: Staging, replaced: Callable[[], Manifest | None]) -> Prepared:
        """Makes the server hold all of it, cutting only around what was edited; see `Upload.large`."""
        with self._at_work(staging):
            return await self._prepare(staging, replaced)

    @contextmanager
    def _at_work(self, staging: Staging) -> Iterator[None]:
        """Counts what is done; of what goes wrong side by side, who called is told the first thing."""
        self.done_bytes[staging.id] = 0
        try:
            yield
        except BaseExceptionGroup as group:
            known, rest = group.split((RemoteError, CacheError, OSError))
            if known is None or rest is not None:
                raise
            raise _first(known) from None
        finally:
            del self.done_bytes[staging.id]

    def _counter(self, staging: Staging) -> Callable[[int], None]:
        def count(length: int) -> None:
            self.done_bytes[staging.id] += length

        return count

    async def _prepare(self, staging: Staging, replaced: Callable[[], Manifest | None]) -> Prepared:
        earlier = self._earlier.pop(staging, None)
        old: list[Item] | None = None
        dirty: Sequence[Range] = staging.dirty
        if (
            earlier is not None
            and (earlier.base, earlier.mark) == (staging.base, staging.marks)
            and staging.since is not None
        ):
            # The last attempt was overtaken by an edit: only what changed since is looked at again.
            old, dirty = earlier.items, staging.since
        generation = staging.mark()
        mark = staging.marks
        base, size = staging.base, staging.size
        fd = staging.open_file() if staging.path is not None else -1
        attempt = Attempt(staging, base, size, staging.plan_read(0, size), fd, self._counter(staging), replaced)
        holes = [(start, stop - start) for start, stop in staging.holes()]
        try:
            if old is None:
                old = [
                    Leaf(entry) if base.depth else entry for entry in await self._reader.leaves.entries(base, height=1)
                ]
            old = await self._opened(old, size, dirty)
            await self._bring(attempt, old, dirty, holes)
            manifest = await self._manifest(attempt)
        finally:
            if fd >= 0:
                os.close(fd)
        items = [item for item in attempt.items if item is not None]
        self._earlier[staging] = _Earlier(base, mark, items)
        return Prepared(
            staging, generation, manifest, tuple(_own_chunks(attempt, items)), small=tuple(attempt.small.items())
        )

    async def prepare_front(self, staging: Staging, most: int) -> Front | None:
        """Makes the server hold about the first `most` dirty bytes while programs write on; None when it is nothing.

        What is written meanwhile, also there, is told apart (`Staging.mark`): the front may be half of two states.
        """
        with self._at_work(staging):
            return await self._prepare_front(staging, most)

    async def _prepare_front(self, staging: Staging, most: int) -> Front | None:
        self._earlier.pop(staging, None)
        staging.mark()
        mark = staging.marks
        base, size, base_size, dirty = staging.base, staging.size, staging.base_size, staging.dirty
        if staging.path is None or not dirty:
            return None
        fd = staging.open_file()
        attempt = Attempt(staging, base, size, staging.plan_read(0, size), fd, self._counter(staging), lambda: None)
        holes = [(start, stop - start) for start, stop in staging.holes()]
        try:
            old: list[Item] = [
                Leaf(entry) if base.depth else entry for entry in await self._reader.leaves.entries(base, height=1)
            ]
            old = await self._opened(old, size, dirty)
            front = _Cut(old, base_size, Extents(dirty), _behind(dirty, most))
            await self._bring(attempt, old, dirty, holes, front)
            attempt.items += front.tail()
            attempt.size = sum(entry.length for entry in patches.lengths([one for one in attempt.items if one]))
            manifest = await self._manifest(attempt)
        finally:
            os.close(fd)
        return Front(manifest, front.stop, front.last, mark, tuple(attempt.small.items()))

    async def renew(self, base: Manifest) -> set[ChunkId]:
        """Tells the server that the chunks of this content are still needed, though no commit may name them yet.

        Returns those that it does not have (any more).
        """
        missing: set[ChunkId] = set()
        level: Sequence[Entry] = base.entries
        for depth in range(base.depth, -1, -1):
            ids = {entry.id: 1 for entry in level if not entry.is_hole}
            ids |= {entry.base.id: 1 for entry in level if entry.base}
            for at in range(0, len(ids), _RENEWED_AT_ONCE):
                batch = dict(islice(ids.items(), at, at + _RENEWED_AT_ONCE))
                missing |= await self._service.wanted(self._space, batch)
            if depth and not missing:
                level = [entry for leaf in level for entry in await self._reader.leaves.leaf(leaf)]
        return missing

    async def _opened(self, items: Sequence[Item], size: int, dirty: Sequence[Range]) -> list[Item]:
        """The items with the entries of those leaves that an edit touches; those that it covers whole are of no use."""
        entries = patches.lengths(items)
        offsets = starts(entries)
        # The byte behind a chunk decides on its end, so the leaf in front of an edit may be touched, too.
        touched = [(start - 1, stop + 1) for start, stop in dirty]
        if size != offsets[-1]:
            touched.append((min(size, offsets[-1]) - 1, offsets[-1] if size > offsets[-1] else size + 1))
        opened: list[Item] = []
        wanted: set[int] = set()
        for start, stop in touched:
            for index in range(max(0, bisect_right(offsets, start) - 1), len(items)):
                if offsets[index] >= stop:
                    break
                if not (start < offsets[index] and offsets[index + 1] < stop):
                    wanted.add(index)
        for index, item in enumerate(items):
            if isinstance(item, Leaf) and index in wanted:
                opened += await self._reader.leaves.leaf(item.entry)
            else:
                opened.append(item)
        return opened

    async def _patches(self, old: Sequence[Item], size: int, dirty: Sequence[Range]) -> dict[int, "_Delta"]:
        found: dict[int, _Delta] = {}
        for index, patch in patches.find(old, size, dirty):
            parts: tuple[deltas.Part, ...] = (deltas.Copy(0, patch.entry.length),)
            if patch.entry.base is not None:
                parts = await self._reader.leaves.delta(patch.entry)
            if patches.is_worth(patch.parts(parts, lambda _, length: bytes(length)), patch.size):
                found[index] = _Delta(patch, parts)
        return found

    async def _bring(
        self,
        attempt: Attempt,
        old: list[Item],
        dirty: Sequence[Range],
        holes: Sequence[Range],
        front: _Cut | None = None,
    ) -> None:
        """Fills `attempt.items`, of `front` only if given: cuts in a thread, and sends beside it."""
        found = await self._patches(old, attempt.size, dirty) if front is None else {}
        patched = [(index, delta.patch) for index, delta in found.items()]
        items, left = patches.apply(old, attempt.size, dirty, patched)
        ranges = [(start, stop - start) for start, stop in left]
        send, receive = trio.open_memory_channel[list[Piece]](0)

        def read(offset: int, length: int) -> Buffer:
            return self._read_in_thread(attempt, offset, length)

        def work() -> None:
            batch: list[Piece] = []
            batched = 0
            spans = recut(patches.lengths(items), attempt.size, ranges, holes, read)
            for span, data in spans if front is None else front.of(spans):
                position = len(attempt.items)
                delta = found.get(span.kept) if span.kept is not None else None
                if delta is not None:
                    plain = deltas.encode(delta.patch.base, delta.patch.parts(delta.parts, read))
                    batch.append(Piece(position, span.offset, span.length, plain, delta.patch.base))
                elif span.kept is not None:
                    attempt.items.append(items[span.kept])
                    continue
                elif data is None:
                    attempt.items.append(Entry(*_HOLE, span.length))
                    continue
                else:
                    batch.append(Piece(position, span.offset, span.length, data))
                attempt.items.append(None)
                batched += len(batch[-1].data)
                if batched >= _BATCH_BYTES:
                    trio.from_thread.run(send.send, batch)
                    batch, batched = [], 0
            if batch:
                trio.from_thread.run(send.send, batch)

        async def cut_all() -> None:
            async with send:
                await trio.to_thread.run_sync(work)

        async def send_all(batches: trio.MemoryReceiveChannel[list[Piece]]) -> None:
            async with batches:
                async for batch in batches:
                    await self._batches.send(batch, attempt)

        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(cut_all)
            for _ in range(_SENDERS):
                nursery.start_soon(send_all, receive.clone())

    async def _manifest(self, attempt: Attempt) -> Manifest:
        items = [item for item in attempt.items if item is not None]
        while (index := unsettled(items)) is not None:
            leaf = items[index]
            assert isinstance(leaf, Leaf)
            items[index : index + 1] = await self._reader.leaves.leaf(leaf.entry)

        def seal_leaf(data: bytes) -> Sealed:
            sealed = seal(data, self._secret)
            attempt.small[sealed.id] = data
            return sealed

        manifest, leaves = await trio.to_thread.run_sync(build, attempt.size, items, seal_leaf)
        attempt.items = list(items)
        attempt.unsent.update((leaf.id, leaf.data) for leaf in leaves)
        await self._batches.flush(attempt)
        while len(attempt.small) > _LEAVES_KEPT:
            attempt.small.popitem()
        return manifest

    def _read_in_thread(self, attempt: Attempt, offset: int, length: int) -> Buffer:
        stretches = attempt.stretches
        parts: list[Buffer] = []
        index = bisect_right(stretches, offset, key=lambda stretch: stretch.offset) - 1
        stop = offset + length
        while offset < stop:
            stretch = stretches[index]
            until = min(stop, stretch.offset + stretch.length)
            if stretch.is_dirty:
                parts.append(_pread(attempt.fd, until - offset, offset))
            else:
                parts.append(trio.from_thread.run(self._reader.read, attempt.base, offset, until - offset))
            offset = until
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True)
class _Delta:
    """A patch, and the parts that its chunk is told by now."""

    patch: Patch
    parts: tuple[deltas.Part, ...]


def _behind(dirty: Sequence[Range], most: int) -> int:
    """The offset before which there are so many dirty bytes, or all of them."""
    for start, stop in dirty:
        if stop - start >= most:
            return start + most
        most -= stop - start
    return dirty[-1][1]


def _own_chunks(attempt: Attempt, items: Sequence[Item]) -> list[Own]:
    """Chunks that lie in the staging's own file as they are."""
    lengths = (entry.length for entry in patches.lengths(items))
    return [
        Own(item, offset, attempt.sums.get(item.id))
        for item, offset in zip(items, accumulate(lengths, initial=0), strict=False)
        if isinstance(item, Entry)
        and not (item.is_hole or item.base)
        and _is_inside(attempt.stretches, offset, item.length)
    ]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _pread(fd: int, length: int, offset: int) -> bytes:
    """All of it: a program that cuts the file meanwhile makes the generation grow, so this is thrown away then."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            return data + bytes(length - len(data))
        data += more
    return data


def _is_inside(stretches: Sequence[Stretch], offset: int, length: int) -> bool:
    """Whether all of it lies in one stretch of the staging's own file."""
    stretch = stretches[bisect_right(stretches, offset, key=lambda one: one.offset) - 1]
    return stretch.is_dirty and offset + length <= stretch.offset + stretch.length
