"""Large: what changed in a staging of any size becomes chunks and deltas that the server holds, in bounded memory."""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import trio

from cache import patches
from cache.blobs import Sums, sums_of
from cache.chunks import Chunks
from cache.errors import CacheError
from cache.extents import Extents
from cache.patches import Item, Patch
from cache.plain import Known
from cache.prepared import Own, Prepared
from cache.reader import Reader
from cache.similar import tell
from cache.staging import Staging, StagingId, Stretch
from remote.protocol import deltas
from remote.protocol.cutting import Buffer, Span, recut
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ChunkId, PlainHash, SpaceId
from remote.protocol.manifests import Leaf, build, starts, unsettled
from remote.protocol.nodes import Base, Entry, Manifest
from remote.protocol.sealing import Sealed, plain_hash, seal
from remote.protocol.service import Service

_BATCH_BYTES: Final = 5 << 20
"""Content that is sealed and sent together: the server waits once for its disk."""
_SENDERS: Final = 3
"""Batches of a file that are at work at a time: most of them only wait for the server."""
_SEALERS: Final = 2
"""Batches that are hashed and sealed at a time: these take twice their size of memory."""
_UNSENT_MAX: Final = 256 << 10
_LEAVES_KEPT: Final = 64
_SUMS_KEPT: Final = 4_096
"""Chunks of one file whose sums are kept until it is the cache's; others are read once more for them."""
_RENEWED_AT_ONCE: Final = 1_000
_HOLE: Final = (ChunkId(b""), b"")
_NO_HASH: Final = PlainHash(b"")

Range = tuple[int, int]


@dataclass
class _Piece:
    """Content to be sealed, of a chunk or (with `base`) of a delta."""

    position: int
    """Where its entry belongs in the list of entries."""
    offset: int
    length: int
    data: Buffer
    base: Base | None = None
    hash: PlainHash = _NO_HASH


@dataclass
class _Attempt:
    """What one staging comes to: `items` holds None where a piece is still to be sealed."""

    staging: Staging
    base: Manifest
    size: int
    stretches: list[Stretch]
    fd: int
    replaced: Callable[[], Manifest | None]
    """The content of the file in whose place this one was put, if there is such."""
    items: list[Item | None] = field(default_factory=list)
    unsent: dict[ChunkId, bytes] = field(default_factory=dict)
    """Small sealed chunks, to be sent together."""
    unsent_length: int = 0
    """Bytes of content of batches that are done but for some of `unsent`."""
    small: dict[ChunkId, Buffer] = field(default_factory=dict)
    """Content of leaves and deltas, to be kept here."""
    sums: dict[ChunkId, Sums] = field(default_factory=dict)
    """Of chunks that were read here: to keep them, nobody needs to read them again."""


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
        self._chunks = chunks
        self._sealers = trio.CapacityLimiter(_SEALERS)
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
        attempt = _Attempt(staging, base, size, staging.plan_read(0, size), fd, replaced)
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
        attempt = _Attempt(staging, base, size, staging.plan_read(0, size), fd, lambda: None)
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
        attempt: _Attempt,
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
        send, receive = trio.open_memory_channel[list[_Piece]](0)

        def read(offset: int, length: int) -> Buffer:
            return self._read_in_thread(attempt, offset, length)

        def work() -> None:
            batch: list[_Piece] = []
            batched = 0
            spans = recut(patches.lengths(items), attempt.size, ranges, holes, read)
            for span, data in spans if front is None else front.of(spans):
                position = len(attempt.items)
                delta = found.get(span.kept) if span.kept is not None else None
                if delta is not None:
                    plain = deltas.encode(delta.patch.base, delta.patch.parts(delta.parts, read))
                    batch.append(_Piece(position, span.offset, span.length, plain, delta.patch.base))
                elif span.kept is not None:
                    attempt.items.append(items[span.kept])
                    continue
                elif data is None:
                    attempt.items.append(Entry(*_HOLE, span.length))
                    continue
                else:
                    batch.append(_Piece(position, span.offset, span.length, data))
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

        async def send_all(batches: trio.MemoryReceiveChannel[list[_Piece]]) -> None:
            async with batches:
                async for batch in batches:
                    await self._send(batch, attempt)

        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(cut_all)
            for _ in range(_SENDERS):
                nursery.start_soon(send_all, receive.clone())

    async def _manifest(self, attempt: _Attempt) -> Manifest:
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
        await self._flush(attempt)
        while len(attempt.small) > _LEAVES_KEPT:
            attempt.small.popitem()
        return manifest

    async def _send(self, batch: list[_Piece], attempt: _Attempt) -> None:
        """Makes the server hold these pieces, sealing only those that it does not hold yet."""
        whole = [piece for piece in batch if piece.base is None]
        length = sum(piece.length for piece in batch)
        async with self._sealers:
            sums = await trio.to_thread.run_sync(_look_at, whole)
            known = {piece.hash: self._chunks.known_plain(piece.hash) for piece in whole}
            missing = await self._missing([found for found in known.values() if found is not None])
            todo = {piece.hash: piece for piece in whole if known[piece.hash] in missing}
            told = await self._told(todo, attempt)
            todo = {digest: piece for digest, piece in todo.items() if digest not in told}
            sealed = await trio.to_thread.run_sync(_seal_all, list(todo.values()), self._secret)
            for piece in batch:
                if piece.base is not None:
                    await self._add_delta(piece, piece.base, attempt)
            # What was read of the file is not needed any more: sending may take long.
            batch.clear()
            for piece in whole:
                piece.data = b""
        if sealed:
            await self._service.send_chunks(self._space, {one.id: one.data for one in sealed.values()})
        for digest, one in sealed.items():
            self._chunks.note_plain(digest, Known(one.id, one.key, len(one.data)))
        for piece, piece_sums in zip(whole, sums, strict=True):
            entry = told.get(piece.hash) or _entry(piece, sealed, known)
            attempt.items[piece.position] = entry
            if len(attempt.sums) < _SUMS_KEPT:
                attempt.sums[entry.id] = piece_sums
        attempt.unsent_length += length
        if not attempt.unsent or sum(map(len, attempt.unsent.values())) > _UNSENT_MAX:
            await self._flush(attempt)

    async def _missing(self, known: Sequence[Known]) -> set[Known | None]:
        """Those of these chunks and deltas that the server does not have (any more), and None."""
        sizes = {one.id: one.sealed_size for one in known}
        # How large a base is when sealed is not known; nobody asks for it who has its delta.
        sizes |= {one.base.id: one.base.length for one in known if one.base is not None}
        gone = await self._service.wanted(self._space, sizes) if sizes else set()
        lost = {one for one in known if one.id in gone or (one.base is not None and one.base.id in gone)}
        return {None, *lost}

    async def _told(self, pieces: dict[PlainHash, _Piece], attempt: _Attempt) -> dict[PlainHash, Entry]:
        """Entries of those chunks that are hardly other than one of the old content, or not at all."""
        old = attempt.base if attempt.base.size else attempt.replaced()
        found: dict[PlainHash, Entry] = {}
        if old is None:
            return found
        for digest, piece in pieces.items():
            one = await tell(self._reader, old, attempt.size, piece.offset, piece.data)
            if one is not None:
                found[digest] = one.same or self._delta(one.delta, piece.length, one.base, attempt)
            if one is not None and one.same is None:
                self._note_delta(digest, found[digest])
        return found

    async def _add_delta(self, piece: _Piece, base: Base, attempt: _Attempt) -> None:
        """Puts a delta in its place; what it makes is known from then on, so that a copy of it is not sent."""
        entry = attempt.items[piece.position] = self._delta(piece.data, piece.length, base, attempt)
        whole = Manifest(base.length, entries=(Entry(base.id, base.key, base.length),))
        content = self._reader.try_read(whole, 0, base.length)
        if content is not None:
            self._note_delta(await trio.to_thread.run_sync(_hash_of, entry, piece.data, content), entry)

    def _delta(self, data: Buffer, length: int, base: Base, attempt: _Attempt) -> Entry:
        one = seal(data, self._secret)
        attempt.unsent[one.id] = one.data
        attempt.small[one.id] = data
        return Entry(one.id, one.key, length, base)

    def _note_delta(self, digest: PlainHash, entry: Entry) -> None:
        self._chunks.note_plain(digest, Known(entry.id, entry.key, entry.length, entry.base))

    async def _flush(self, attempt: _Attempt) -> None:
        unsent, attempt.unsent = attempt.unsent, {}
        length, attempt.unsent_length = attempt.unsent_length, 0
        if unsent:
            await self._service.send_chunks(self._space, unsent)
        self.done_bytes[attempt.staging.id] += length

    def _read_in_thread(self, attempt: _Attempt, offset: int, length: int) -> Buffer:
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


def _look_at(pieces: Sequence[_Piece]) -> list[Sums]:
    """Gives the pieces their hashes, and returns the sums by which the cache knows their bytes."""
    sums: list[Sums] = []
    for piece in pieces:
        piece.hash = plain_hash(piece.data)
        sums.append(array("Q", sums_of(piece.data)))
    return sums


def _seal_all(pieces: Sequence[_Piece], secret: bytes) -> dict[PlainHash, Sealed]:
    """The pieces, sealed; each lets go of what was read of the file at once: memory is for what is to be sent."""
    sealed: dict[PlainHash, Sealed] = {}
    for piece in pieces:
        sealed[piece.hash] = seal(piece.data, secret, known_hash=piece.hash)
        piece.data = b""
    return sealed


def _entry(piece: _Piece, sealed: dict[PlainHash, Sealed], known: dict[PlainHash, Known | None]) -> Entry:
    one = sealed.get(piece.hash)
    if one is not None:
        return Entry(one.id, one.key, piece.length)
    found = known[piece.hash]
    assert found is not None, "what is not sealed here was known"
    return Entry(found.id, found.key, piece.length, found.base)


def _hash_of(entry: Entry, delta: Buffer, base: Buffer) -> PlainHash:
    """The plain hash of what the delta makes of its base: of what is sent, whatever was written since."""
    parts = deltas.decode(entry, bytes(delta))
    return plain_hash(
        b"".join(part if isinstance(part, bytes) else bytes(base[part.start : part.stop]) for part in parts)
    )


def _own_chunks(attempt: _Attempt, items: Sequence[Item]) -> list[Own]:
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
