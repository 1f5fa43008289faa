"""Chunks: clean content by chunk id, in the cache directory, every byte checked before it is given out.

A chunk's content lies in the store (small) or in a blob file at an offset: a file of what came by one request, sparse
while only some frames are held, or one that was a staging file. Nothing here is precious: whatever is missing, cut,
changed or foreign counts as not held and is fetched again. A crash leaves at worst files that `sweep` removes.

Everything runs on the event loop's thread but `Slot.write`.
"""

import logging
import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
import xxhash

from cache import blobs
from cache.blobs import BlobId, Blobs
from cache.errors import StoreDamaged
from cache.order import Order
from cache.places import BLOB, CHUNK, PAGE, SMALL, SUM, Place, key_of, number_of, pack_sums, small_cost
from cache.plain import Known, PlainHashes
from cache.store import Change, Store
from remote.protocol.ids import ChunkId, PlainHash
from remote.protocol.nodes import Entry
from remote.protocol.sealing import FRAME, Buffer, frame_count

log = logging.getLogger(__name__)

TABLES: Final = ("chunks", "small", "blobs", "queue", "plain", "plain_queue", "facts")
"""Tables of the cache's store; their keys and values are in FORMAT.md."""
SMALL_MAX: Final = 64 << 10
"""Bytes of content up to which a fetched chunk lies in the store."""
SMALL_BYTES_PER_CHECKPOINT: Final = 4 << 20
BLOB_BYTES_PER_CHECKPOINT: Final = 256 << 20
THREADS: Final = 6

_CHUNKS, _SMALL, _BLOBS, _QUEUE, _PLAIN, _PLAIN_QUEUE, _FACTS = range(len(TABLES))

_USED: Final = b"used"

_T = TypeVar("_T")


@dataclass
class Draft:
    """A blob that threads write to."""

    blob: BlobId
    path: str
    users: int = 0
    allocated: int = 0


@dataclass
class Slot:
    """A place for content of one chunk that a thread may write to, between `reserve` and `settle`."""

    entry: Entry
    draft: Draft
    offset: int
    users: int = 0
    written: deque[tuple[int, list[int]]] = field(default_factory=deque)
    """Frames of which the index does not know yet: from number, sums."""

    def write(self, first: int, plain: Buffer) -> None:
        """Writes frames from number `first` on; raises DiskFull."""
        sums = blobs.sums_of(plain)
        allocated = blobs.write_at(self.draft.path, self.offset + first * FRAME, plain)
        # Another thread may be writing to the same blob: the later of both knows more.
        self.draft.allocated = max(self.draft.allocated, allocated)
        self.written.append((first, sums))


def open_store(directory: Path) -> Store:
    """The store of a cache directory; one that cannot be read is thrown away, for all of it can be fetched again."""
    path = directory / "chunks.mdb"
    try:
        return Store(path, TABLES, has_journal=False)
    except StoreDamaged as damage:
        log.warning("The index of the cache was thrown away, cached content is fetched again: %s", damage)
        path.unlink(missing_ok=True)
        return Store(path, TABLES, has_journal=False)


class Chunks:
    """What the cache directory holds, by chunk id."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store: Final = store
        self.directory: Final = directory
        self._blobs = Blobs(directory / "blobs")
        self._read_flags = blobs.read_flags(directory)
        self._limiter = trio.CapacityLimiter(THREADS)
        # Chunks that a thread reads or writes just now: not to be dropped.
        self._holds: Counter[ChunkId] = Counter()
        self._slots: dict[ChunkId, Slot] = {}
        self._drafts: dict[BlobId, Draft] = {}
        # Nobody is likely to read these: they are dropped first.
        self._spare: OrderedDict[ChunkId, int] = OrderedDict()
        self._spare_bytes = 0
        self.spare_limit_bytes = 0
        """The most that spare chunks take, about."""
        self.is_pinned: Callable[[ChunkId], bool] = lambda _: False
        """Whether a chunk is to stay, spare or not."""
        used = store.get(_FACTS, _USED)
        self._used = int.from_bytes(used, "little") if used is not None else 0
        self.order: Final = Order(store, _QUEUE)
        last_blob = store.last(_BLOBS)
        self._next_blob = max(number_of(last_blob[0]) + 1 if last_blob else 1, time.time_ns())
        self._first_new_blob = self._next_blob
        self._plain = PlainHashes(store, _PLAIN, _PLAIN_QUEUE)
        self._unsaved_small = 0
        self._unsaved_blob = 0

    @property
    def used_bytes(self) -> int:
        """Bytes that held content takes on disk: what is allocated to blobs, and pages of the store for small ones."""
        return self._used

    def close(self) -> None:
        """Lets go of all files; the store is closed by who opened it."""
        self._blobs.close()

    # Reading

    def held(self, entry: Entry) -> int:
        """A bit for each frame that is held, frame 0 the lowest; `whole(entry)` when all are."""
        if entry.length <= SMALL_MAX and self.store.has(_SMALL, entry.id):
            return 1
        value = self.store.get(_CHUNKS, entry.id)
        if value is None:
            return 0
        _, _, _, length, frames = CHUNK.unpack_from(value)
        return int(frames) if length == entry.length else 0

    def held_bytes(self, entry: Entry, start: int, stop: int) -> int:
        """How many of the bytes [start, stop) of the chunk's content are held."""
        frames = self.held(entry)
        return sum(
            min(stop, (number + 1) * FRAME) - max(start, number * FRAME)
            for number in range(start // FRAME, -(-stop // FRAME))
            if frames >> number & 1
        )

    def read(self, entry: Entry, start: int, stop: int) -> Buffer | None:
        """Bytes [start, stop) of the chunk's content if they can be had without waiting for a disk."""
        if entry.length <= SMALL_MAX:
            small = self._read_small(entry.id)
            if small is not None:
                return small[start:stop] if len(small) == entry.length else None
        value = self.store.get(_CHUNKS, entry.id)
        if value is None:
            return None
        position, blob, offset, length, frames = CHUNK.unpack_from(value)
        first, end = start // FRAME, -(-stop // FRAME)
        needed = (1 << end) - (1 << first)
        if length != entry.length or frames & needed != needed:
            return None
        fd = self._blobs.fd(blob)
        if fd is None:
            self._lose(entry.id, "its file is gone")
            return None
        begin = first * FRAME
        data = bytearray(min(end * FRAME, length) - begin)
        try:
            count = os.preadv(fd, [data], offset + begin, self._read_flags)
        except OSError:  # not in the page cache, or a file system that cannot tell
            return None
        if count < len(data):
            return None
        view = memoryview(data)
        for frame in range(first, end):
            at = frame * FRAME - begin
            found = xxhash.xxh3_64_intdigest(view[at : at + FRAME])
            if found != SUM.unpack_from(value, CHUNK.size + 8 * frame)[0]:
                self._damage(entry.id, [frame], is_zero=not any(view[at : at + FRAME]))
                return None
        self.order.visit(position)
        return data if stop - start == len(data) else view[start - begin : stop - begin]

    async def read_slow(self, entry: Entry, start: int, stop: int) -> Buffer | None:
        """Bytes [start, stop) of the chunk's content, read in a thread; None when they are not held."""
        if entry.length <= SMALL_MAX and self.store.has(_SMALL, entry.id):
            return self.read(entry, start, stop)
        place = self._place(entry.id)
        first, end = start // FRAME, -(-stop // FRAME)
        needed = (1 << end) - (1 << first)
        if place is None or place.length != entry.length or place.frames & needed != needed:
            return None
        shared_fd = self._blobs.fd(place.blob)
        if shared_fd is None:
            self._lose(entry.id, "its file is gone")
            return None
        # Shares the file's position and so the kernel's read-ahead, but outlives the one that is kept open.
        fd = os.dup(shared_fd)
        try:
            with self.holding([entry.id]):
                sums = [place.sum_of(frame) for frame in range(first, end)]
                begin = first * FRAME
                length = min(end * FRAME, place.length) - begin
                data, bad = await self._in_thread(partial(blobs.read_checked, fd, place.offset + begin, length, sums))
        finally:
            os.close(fd)
        if bad:
            now = self._place(entry.id)
            if now is not None and now.blob == place.blob:
                self._damage(entry.id, [first + frame for frame in bad], is_zero=not any(data))
            return None
        self.order.visit(place.position)
        return data if stop - start == len(data) else memoryview(data)[start - begin : stop - begin]

    async def content(self, chunk_id: ChunkId) -> Buffer | None:
        """The whole content of a chunk, read in a thread; None when not all of it is held."""
        small = self._read_small(chunk_id)
        if small is not None:
            return small
        place = self._place(chunk_id)
        if place is None:
            return None
        return await self.read_slow(Entry(chunk_id, b"", place.length), 0, place.length)

    async def warm(self, entries: Iterable[Entry]) -> None:
        """Has the content of those that are held read from the disk, so that `read` finds it in memory soon."""
        places = [place for entry in entries if entry.id and (place := self._place(entry.id)) is not None]
        work = [(self._blobs.path(place.blob), place.offset, place.length) for place in places if place.frames]
        if work:
            await self._in_thread(partial(blobs.warm_all, work))

    def read_leaf(self, chunk_id: ChunkId) -> bytes | None:
        """The content kept by `add_leaf`."""
        return self._read_small(chunk_id)

    # Taking in

    async def add(self, entry: Entry, plain: Buffer) -> None:
        """Keeps the whole content of a chunk, checked by the caller; raises DiskFull."""
        if len(plain) != entry.length:
            raise ValueError(f"chunk {entry.id.hex()} has {entry.length} bytes, not {len(plain)}")
        if entry.length <= SMALL_MAX:
            self.add_small(entry.id, plain)
        elif self.held(entry) != whole(entry):
            await self.add_frames(entry, 0, plain)

    async def add_frames(self, entry: Entry, first: int, plain: Buffer) -> None:
        """Keeps frames from number `first` on, the last one as long as the chunk has it; raises DiskFull."""
        with self.reserve([entry]) as (slot,):
            await self._in_thread(partial(slot.write, first, plain))

    def add_small(self, chunk_id: ChunkId, plain: Buffer) -> None:
        """Keeps content of a small chunk in the store."""
        if self.store.has(_SMALL, chunk_id):
            return
        value = SMALL.pack(self.order.next, xxhash.xxh3_64_intdigest(plain)) + plain
        with self.store.change() as change:
            change.put(_SMALL, chunk_id, value)
            self.order.add(change, chunk_id)
            self._account(change, small_cost(len(value)))
        self._unsaved_small += len(value)
        self._keep_pace()

    add_leaf = add_small
    """Keeps the content of a leaf of a manifest, whose length no entry tells."""

    @contextmanager
    def reserve(self, entries: Sequence[Entry]) -> Iterator[list[Slot]]:
        """A slot for frames of each of these chunks; what was written when the block ends, however it does, is held.

        Chunks that have no place yet get one in a new blob, one behind the other.
        """
        slots: list[Slot] = []
        new, end = self._new_blob(), 0
        for entry in entries:
            slot = self._slots.get(entry.id)
            if slot is None:
                place = self._place(entry.id)
                if place is not None and place.length != entry.length:
                    self._lose(entry.id, "its row was wrong")
                    place = None
                slot = Slot(entry, self._draft(place.blob if place else new), place.offset if place else end)
                end += 0 if place else -(-entry.length // PAGE) * PAGE
                self._slots[entry.id] = slot
            slot.users += 1
            slot.draft.users += 1
            slots.append(slot)
        try:
            with self.holding([entry.id for entry in entries]):
                yield slots
        finally:
            for slot in slots:
                self._release(slot)

    def _draft(self, blob: BlobId) -> Draft:
        draft = self._drafts.get(blob)
        if draft is None:
            draft = self._drafts[blob] = Draft(blob, self._blobs.path(blob))
        return draft

    def _release(self, slot: Slot) -> None:
        slot.users -= 1
        if slot.users == 0:
            del self._slots[slot.entry.id]
        self.settle(slot)
        draft = slot.draft
        draft.users -= 1
        if draft.users == 0:
            del self._drafts[draft.blob]
            if not self.store.has(_BLOBS, key_of(draft.blob)):
                # Nothing came, or it was kept elsewhere meanwhile.
                self._blobs.forget(draft.blob)
                blobs.unlink(draft.path)

    def settle(self, slot: Slot) -> None:
        """Makes held what was written into a slot so far."""
        entry, draft = slot.entry, slot.draft
        place = self._place(entry.id)
        if not slot.written or (place is not None and place.blob != draft.blob):
            return
        with self.store.change() as change:
            row = change.get(_BLOBS, key_of(draft.blob))
            allocated, count = BLOB.unpack(row) if row is not None else (0, 0)
            if place is None:
                sums = bytes(8 * frame_count(entry.length))
                place = Place(self.order.next, draft.blob, slot.offset, entry.length, 0, sums)
                self.order.add(change, entry.id)
                count += 1
            while slot.written:
                # A thread may be adding to it.
                place = place.with_frames(*slot.written.popleft())
            change.put(_CHUNKS, entry.id, place.pack())
            change.put(_BLOBS, key_of(draft.blob), BLOB.pack(draft.allocated, count))
            self._account(change, draft.allocated - allocated)
        self._unsaved_blob += draft.allocated - allocated
        self._keep_pace()

    async def adopt(
        self, path: Path, pieces: Sequence[tuple[Entry, int]], sums: Sequence[blobs.Sums | None] | None = None
    ) -> None:
        """Takes the file at `path` for the cache's own, with chunks whole at these offsets; raises DiskFull, OSError.

        `sums`: `blobs.sums_of` of each piece, where the caller had the bytes in hand. A chunk held already stays where
        it is. When this fails, the file may still be at `path` or be gone.
        """
        blob = self._new_blob()
        target = self._blobs.path(blob)
        taken = {}
        for number, (entry, offset) in enumerate(pieces):
            if entry.id and self.held(entry) != whole(entry) and entry.id not in taken:
                taken[entry.id] = (entry, offset, sums[number] if sums is not None else None)
        if not taken:
            await self._in_thread(partial(path.unlink, missing_ok=True))
            return
        todo = [(offset, entry.length, known) for entry, offset, known in taken.values()]
        found, allocated = await self._in_thread(partial(blobs.adopt, str(path), target, todo))
        kept = 0
        empty: list[BlobId] = []
        with self.store.change() as change:
            for (entry, offset, _), frame_sums in zip(taken.values(), found, strict=True):
                if frame_sums is None or entry.id in self._holds or self.held(entry) == whole(entry):
                    continue
                self._remove(change, entry.id, empty, {})
                place = Place(self.order.next, blob, offset, entry.length, whole(entry), pack_sums(frame_sums))
                change.put(_CHUNKS, entry.id, place.pack())
                self.order.add(change, entry.id)
                kept += 1
            change.put(_BLOBS, key_of(blob), BLOB.pack(allocated, kept))
            self._account(change, allocated)
        await self._remove_empty(empty if kept else [*empty, blob])
        self._unsaved_blob += allocated
        self._keep_pace()

    # Letting go

    @contextmanager
    def holding(self, ids: Iterable[ChunkId]) -> Iterator[None]:
        """Keeps these chunks from being dropped while the block runs."""
        held = list(ids)
        self._holds.update(held)
        try:
            yield
        finally:
            for chunk_id in held:
                self._holds[chunk_id] -= 1
                if not self._holds[chunk_id]:
                    del self._holds[chunk_id]

    def is_being_used(self, chunk_id: ChunkId) -> bool:
        """Whether something reads or writes the chunk just now."""
        return chunk_id in self._holds

    async def drop(self, ids: Iterable[ChunkId]) -> int:
        """Lets go of these chunks, but those being used, and returns how many bytes that gave back."""
        before = self._used
        empty: list[BlobId] = []
        holes: dict[BlobId, list[tuple[int, int]]] = {}
        with self.store.change() as change:
            for chunk_id in ids:
                if chunk_id not in self._holds:
                    self._remove(change, chunk_id, empty, holes)
        # Rows first, then files: a crash between leaves what sweep removes.
        freed = before - self._used
        freed += await self._remove_empty(empty)
        if holes:
            freed += await self._punch(holes)
        return freed

    async def note_spare(self, ids: Iterable[ChunkId]) -> None:
        """These are dropped first, and at once as far as they are more than spare chunks may take."""
        for chunk_id in ids:
            if chunk_id not in self._spare:
                self._spare[chunk_id] = self.weight(chunk_id)
                self._spare_bytes += self._spare[chunk_id]
        over: list[ChunkId] = []
        while self._spare_bytes > self.spare_limit_bytes and (first := self.take_spare(1)):
            over += first
        if over:
            await self.drop(over)

    def take_spare(self, count: int) -> list[ChunkId]:
        """Up to so many spare chunks that were not read meanwhile, the oldest first; they are noted no more."""
        found: list[ChunkId] = []
        while self._spare and len(found) < count:
            chunk_id, weight = self._spare.popitem(last=False)
            self._spare_bytes -= weight
            position = self._position(chunk_id)
            is_wanted = position is None or self.order.is_visited(position) or chunk_id in self._holds
            if not is_wanted and not self.is_pinned(chunk_id):
                found.append(chunk_id)
        return found

    def _position(self, chunk_id: ChunkId) -> int | None:
        """Where the chunk stands in the queue; None when nothing of it is held."""
        place = self._place(chunk_id)
        if place is not None:
            return place.position
        small = self.store.get(_SMALL, chunk_id)
        return int(SMALL.unpack_from(small)[0]) if small is not None else None

    def weight(self, chunk_id: ChunkId) -> int:
        """About how many bytes dropping the chunk gives back."""
        place = self._place(chunk_id)
        if place is not None:
            return place.frames.bit_count() * FRAME
        value = self.store.get(_SMALL, chunk_id)
        return small_cost(len(value)) if value is not None else 0

    async def sweep(self) -> int:
        """Removes files that no row names, as a crash leaves them, and returns how many; run once after the start.

        Also finds out how much of what the rows count is really there.
        """
        after = 0
        empty: list[BlobId] = []
        while rows := self.store.scan(_BLOBS, key_of(after), limit=500):
            known = [BlobId(number_of(key)) for key, _ in rows]
            after = known[-1] + 1
            found = await self._in_thread(partial(blobs.allocated_all, [self._blobs.path(blob) for blob in known]))
            with self.store.change() as change:
                for blob, (key, value), allocated in zip(known, rows, found, strict=True):
                    if blob >= self._first_new_blob or change.get(_BLOBS, key) != value:
                        continue
                    before, count = BLOB.unpack(value)
                    if count == 0:
                        empty.append(blob)
                    elif before != allocated:
                        change.put(_BLOBS, key, BLOB.pack(allocated, count))
                        self._account(change, allocated - before)
        await self._remove_empty(empty)
        return len(empty) + await self._sweep_files()

    async def _sweep_files(self) -> int:
        count = 0
        for folder in self._blobs.folders():
            found = await self._in_thread(partial(blobs.blobs_in, folder))
            orphans = [
                blob for blob in found if blob < self._first_new_blob and not self.store.has(_BLOBS, key_of(blob))
            ]
            if orphans:
                await self._in_thread(partial(blobs.unlink_all, [self._blobs.path(blob) for blob in orphans]))
                count += len(orphans)
        return count

    # Plain hashes

    def known_plain(self, plain_hash: PlainHash) -> Known | None:
        """The chunk that this content was sealed to, as far as remembered."""
        return self._plain.find(plain_hash)

    def note_plain(self, plain_hash: PlainHash, known: Known) -> None:
        """Remembers what content was sealed to; the oldest are forgotten."""
        self._plain.note(plain_hash, known)

    # Inside

    async def _in_thread(self, job: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(job, limiter=self._limiter)

    def _place(self, chunk_id: ChunkId) -> Place | None:
        value = self.store.get(_CHUNKS, chunk_id)
        return Place.unpack(value) if value is not None else None

    def _read_small(self, chunk_id: ChunkId) -> bytes | None:
        value = self.store.get(_SMALL, chunk_id)
        if value is None:
            return None
        position, expected = SMALL.unpack_from(value)
        plain = value[SMALL.size :]
        if xxhash.xxh3_64_intdigest(plain) != expected:
            self._lose(chunk_id, "its bytes in the store were changed")
            return None
        self.order.visit(position)
        return plain

    def _account(self, change: Change, more: int) -> None:
        self._used += more
        change.put(_FACTS, _USED, max(0, self._used).to_bytes(8, "little"))

    def _new_blob(self) -> BlobId:
        self._next_blob += 1
        return BlobId(self._next_blob - 1)

    def _remove(
        self,
        change: Change,
        chunk_id: ChunkId,
        empty: list[BlobId],
        holes: dict[BlobId, list[tuple[int, int]]],
    ) -> None:
        """Takes the rows of a chunk away, and notes what becomes of its blob."""
        small = change.get(_SMALL, chunk_id)
        if small is not None:
            change.delete(_SMALL, chunk_id)
            self.order.remove(change, SMALL.unpack_from(small)[0])
            self._account(change, -small_cost(len(small)))
        place = self._place(chunk_id) if change.get(_CHUNKS, chunk_id) is not None else None
        if place is None:
            return
        change.delete(_CHUNKS, chunk_id)
        self.order.remove(change, place.position)
        row = change.get(_BLOBS, key_of(place.blob))
        if row is None:
            return
        allocated, count = BLOB.unpack(row)
        change.put(_BLOBS, key_of(place.blob), BLOB.pack(allocated, max(0, count - 1)))
        if count <= 1:
            empty.append(place.blob)
            holes.pop(place.blob, None)
        else:
            holes.setdefault(place.blob, []).append((place.offset, place.length))

    async def _remove_empty(self, empty: Sequence[BlobId]) -> int:
        """Unlinks blobs without chunks and returns what that gave back."""
        if not empty:
            return 0
        for blob in empty:
            self._blobs.forget(blob)
        with trio.CancelScope(shield=True):
            await self._in_thread(partial(blobs.unlink_all, [self._blobs.path(blob) for blob in empty]))
        freed = 0
        with self.store.change() as change:
            for blob in empty:
                row = change.get(_BLOBS, key_of(blob))
                if row is not None:
                    freed += BLOB.unpack(row)[0]
                    change.delete(_BLOBS, key_of(blob))
            self._account(change, -freed)
        return freed

    async def _punch(self, holes: dict[BlobId, list[tuple[int, int]]]) -> int:
        """Gives the room of dropped chunks back in blobs that hold others too."""
        paths = [self._blobs.path(blob) for blob in holes]
        with trio.CancelScope(shield=True):
            left = await self._in_thread(partial(blobs.punch_all, list(zip(paths, holes.values(), strict=True))))
        freed = 0
        with self.store.change() as change:
            for blob, allocated in zip(holes, left, strict=True):
                row = change.get(_BLOBS, key_of(blob))
                if row is not None and allocated is not None:
                    before, count = BLOB.unpack(row)
                    change.put(_BLOBS, key_of(blob), BLOB.pack(allocated, count))
                    freed += before - allocated
            self._account(change, -freed)
        return freed

    def _damage(self, chunk_id: ChunkId, bad: Sequence[int], *, is_zero: bool) -> None:
        """Makes frames whose bytes are not what was written count as not held."""
        place = self._place(chunk_id)
        if place is None:
            return
        # Zeros are what an eviction leaves whose rows a kill brought back: nothing is wrong with the disk.
        level = logging.INFO if is_zero else logging.WARNING
        log.log(level, "Chunk %s: cached bytes are not what was written; they are fetched again.", chunk_id.hex())
        with self.store.change() as change:
            change.put(_CHUNKS, chunk_id, place.without_frames(bad).pack())

    def _lose(self, chunk_id: ChunkId, why: str) -> None:
        """Takes the rows of a chunk away whose bytes are gone."""
        log.info("Chunk %s is not in the cache any more (%s).", chunk_id.hex(), why)
        place = self._place(chunk_id)
        if place is not None and chunk_id in self._holds:
            # Its row must stay where it is for those, and says that nothing is held.
            with self.store.change() as change:
                change.put(_CHUNKS, chunk_id, place._replace(frames=0).pack())
            return
        empty: list[BlobId] = []
        with self.store.change() as change:
            self._remove(change, chunk_id, empty, {})
            for blob in empty:
                row = change.get(_BLOBS, key_of(blob))
                if row is not None:
                    self._blobs.forget(blob)
                    blobs.unlink(self._blobs.path(blob))
                    change.delete(_BLOBS, key_of(blob))
                    self._account(change, -BLOB.unpack(row)[0])

    def _keep_pace(self) -> None:
        """Bounds what a kill makes the cache forget, and the memory that the store's open transaction takes."""
        if self._unsaved_small >= SMALL_BYTES_PER_CHECKPOINT or self._unsaved_blob >= BLOB_BYTES_PER_CHECKPOINT:
            self._unsaved_small = self._unsaved_blob = 0
            self.store.hurry()


def whole(entry: Entry) -> int:
    """The bits of all frames of a chunk."""
    return (1 << frame_count(entry.length)) - 1
