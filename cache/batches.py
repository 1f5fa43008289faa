"""Batches: pieces of a large file become chunks and deltas that the server holds, only what it lacks being sealed."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cache.blobs import Sums, sums_of
from cache.chunks import Chunks
from cache.patches import Item
from cache.plain import Known
from cache.reader import Reader
from cache.similar import tell
from cache.staging import Staging, Stretch
from remote.protocol import deltas
from remote.protocol.cutting import Buffer
from remote.protocol.ids import ChunkId, PlainHash, SpaceId
from remote.protocol.nodes import Base, Entry, Manifest
from remote.protocol.sealing import Sealed, plain_hash, seal
from remote.protocol.service import Service

_SEALERS: Final = 2
"""Batches that are hashed and sealed at a time: these take twice their size of memory."""
_UNSENT_MAX: Final = 256 << 10
_SUMS_KEPT: Final = 4_096
"""Chunks of one file whose sums are kept until it is the cache's; others are read once more for them."""
_NO_HASH: Final = PlainHash(b"")


@dataclass
class Piece:
    """Content to be sealed, of a chunk or (with `base`) of a delta."""

    position: int
    """Where its entry belongs in the list of entries."""
    offset: int
    length: int
    data: Buffer
    base: Base | None = None
    hash: PlainHash = _NO_HASH


@dataclass
class Attempt:
    """What one staging comes to: `items` holds None where a piece is still to be sealed."""

    staging: Staging
    base: Manifest
    size: int
    stretches: list[Stretch]
    fd: int
    sent: Callable[[int], None]
    """Told of so many bytes of content that the server has."""
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


class Batches:
    """Sends batches of one space, a few at a time."""

    def __init__(self, service: Service, space: SpaceId, secret: bytes, reader: Reader, chunks: Chunks) -> None:
        self._service = service
        self._space = space
        self._secret = secret
        self._reader = reader
        self._chunks = chunks
        self._sealers = trio.CapacityLimiter(_SEALERS)

    async def send(self, batch: list[Piece], attempt: Attempt) -> None:
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
            await self.flush(attempt)

    async def _missing(self, known: Sequence[Known]) -> set[Known | None]:
        """Those of these chunks and deltas that the server does not have (any more), and None."""
        sizes = {one.id: one.sealed_size for one in known}
        # How large a base is when sealed is not known; nobody asks for it who has its delta.
        sizes |= {one.base.id: one.base.length for one in known if one.base is not None}
        gone = await self._service.wanted(self._space, sizes) if sizes else set()
        lost = {one for one in known if one.id in gone or (one.base is not None and one.base.id in gone)}
        return {None, *lost}

    async def _told(self, pieces: dict[PlainHash, Piece], attempt: Attempt) -> dict[PlainHash, Entry]:
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

    async def _add_delta(self, piece: Piece, base: Base, attempt: Attempt) -> None:
        """Puts a delta in its place; what it makes is known from then on, so that a copy of it is not sent."""
        entry = attempt.items[piece.position] = self._delta(piece.data, piece.length, base, attempt)
        whole = Manifest(base.length, entries=(Entry(base.id, base.key, base.length),))
        content = self._reader.try_read(whole, 0, base.length)
        if content is not None:
            self._note_delta(await trio.to_thread.run_sync(_hash_of, entry, piece.data, content), entry)

    def _delta(self, data: Buffer, length: int, base: Base, attempt: Attempt) -> Entry:
        one = seal(data, self._secret)
        attempt.unsent[one.id] = one.data
        attempt.small[one.id] = data
        return Entry(one.id, one.key, length, base)

    def _note_delta(self, digest: PlainHash, entry: Entry) -> None:
        self._chunks.note_plain(digest, Known(entry.id, entry.key, entry.length, entry.base))

    async def flush(self, attempt: Attempt) -> None:
        """Sends what is small and was put by, and counts what the server has with that."""
        unsent, attempt.unsent = attempt.unsent, {}
        length, attempt.unsent_length = attempt.unsent_length, 0
        if unsent:
            await self._service.send_chunks(self._space, unsent)
        attempt.sent(length)


def _look_at(pieces: Sequence[Piece]) -> list[Sums]:
    """Gives the pieces their hashes, and returns the sums by which the cache knows their bytes."""
    sums: list[Sums] = []
    for piece in pieces:
        piece.hash = plain_hash(piece.data)
        sums.append(array("Q", sums_of(piece.data)))
    return sums


def _seal_all(pieces: Sequence[Piece], secret: bytes) -> dict[PlainHash, Sealed]:
    """The pieces, sealed; each lets go of what was read of the file at once: memory is for what is to be sent."""
    sealed: dict[PlainHash, Sealed] = {}
    for piece in pieces:
        sealed[piece.hash] = seal(piece.data, secret, known_hash=piece.hash)
        piece.data = b""
    return sealed


def _entry(piece: Piece, sealed: dict[PlainHash, Sealed], known: dict[PlainHash, Known | None]) -> Entry:
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
