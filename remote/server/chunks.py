"""Chunks: what must be sent, where it is kept, and who may read it.

A space may read a chunk when a member proved to have it: by sending its bytes, or by being a member of another space
that may read it. Who reads may do so by any of his spaces: `others` are those beside the one that he names. Nothing
here ever tells whether somebody else's space holds a chunk.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from remote.protocol import sealing
from remote.protocol.errors import (
    BadRequest,
    Busy,
    ChunkDamaged,
    ChunkMissing,
    Infected,
    NotFound,
    ServerFault,
    TooLarge,
)
from remote.protocol.ids import ChunkId, SpaceId, UserId
from remote.protocol.manifests import DEPTH_MAX, decode_leaf
from remote.protocol.messages import (
    BELOW_MAX,
    CHUNKS_MAX,
    GET_ANSWER_MAX,
    SMALL_CHUNK_MAX,
    Below,
    ChunkPart,
    GetAnswer,
    GetRequest,
    PutAnswer,
    PutRequest,
    UrlsAnswer,
    UrlsRequest,
    WantAnswer,
    WantRequest,
)
from remote.protocol.nodes import Entry
from remote.protocol.parts import Head, parts_below
from remote.protocol.sealing import Sealed
from remote.server.database import chunks as chunk_rows
from remote.server.database import refused as refused_rows
from remote.server.database.chunks import Place
from remote.server.database.connection import Database, Session
from remote.server.limits import check_chunk_ids, check_chunk_size, check_count
from remote.server.objects.packs import build_pack, plan_packs
from remote.server.objects.store import GET_URL_SECONDS, ObjectMissing, Objects, object_name, pack_name

_SPREAD_MAX = 4
"""A pack is read in one piece when that is at most so many times what is wanted of it."""
_TRIES = 5
"""How often chunks are stored anew that were collected before they could be noted."""
READ_AT_ONCE = 1 << 20
"""Bytes of stored chunks that are read, and held in memory, at once."""
_LITTLE = 16 << 10
"""Bytes of a stored chunk that cost no more to read than its header."""


class Stretch(NamedTuple):
    """Some of an answer: `head` as it is, then bytes of a stored chunk."""

    head: bytes
    place: Place
    start: int
    length: int

    @property
    def size(self) -> int:
        """All bytes of it."""
        return len(self.head) + self.length


class Chunks:
    """The chunk store of an instance. Methods block on the disk: call them from a thread."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects
        # In memory, as it is asked for each chunk that is read: chunk -> space -> what was found in it.
        self._refused: dict[ChunkId, dict[SpaceId, str]] = {}
        for space, chunk, virus in database.read_now(lambda session: list(refused_rows.every_refused(session))):
            self._refused.setdefault(ChunkId(chunk), {})[SpaceId(space)] = virus

    def refuse(self, space: SpaceId, chunks: Iterable[ChunkId], virus: str) -> None:
        """Gives these to nobody of the space from now on; that is noted already."""
        for chunk in chunks:
            # Readers look in other threads: what they find is never changed.
            self._refused[chunk] = {**self._refused.get(chunk, {}), space: virus}

    def allow(self, space: SpaceId, chunks: Iterable[ChunkId]) -> None:
        """Gives these out again."""
        for chunk in chunks:
            left = {other: virus for other, virus in self._refused.get(chunk, {}).items() if other != space}
            if left:
                self._refused[chunk] = left
            else:
                self._refused.pop(chunk, None)

    def check(self, space: SpaceId, chunks: Iterable[ChunkId]) -> None:
        """Raises Infected when one of these is given to nobody of the space."""
        for chunk in chunks:
            if space in (found := self._refused.get(chunk, {})):
                raise _infected(found[space])

    def is_refused(self, space: SpaceId, chunk: ChunkId) -> bool:
        """Whether it is given to nobody of the space."""
        return space in self._refused.get(chunk, {})

    def want(self, user: UserId, space: SpaceId, others: Sequence[SpaceId], request: WantRequest) -> WantAnswer:
        """Which chunks must be sent; those that a space in `others` may read may be read in this one from now on.

        What need not be sent now can be named in a commit for as long as the collector's grace: see `upkeep`.
        """
        check_chunk_ids([chunk for chunk, _ in request.chunks])
        sizes: dict[ChunkId, int] = {}
        for at, (chunk, size) in enumerate(request.chunks):
            check_chunk_size(f"chunks[{at}]", size)
            if sizes.setdefault(chunk, size) != size:
                raise BadRequest(f"chunks[{at}]: chunk {chunk.hex()} is given with two sizes.")
        missing, to_be_noted = self._database.read_now(lambda session: _split(session, space, others, list(sizes)))
        if to_be_noted:
            # Looked up once more where nothing can be removed meanwhile.
            missing += self._database.write_now(lambda session: _note(session, space, others, to_be_noted))
        urls = {
            chunk: self._objects.put_url(user, space, chunk, sizes[chunk])
            for chunk in missing
            if sizes[chunk] > SMALL_CHUNK_MAX
        }
        return WantAnswer(tuple(missing), urls, self._objects.may_send)

    def put(self, space: SpaceId, request: PutRequest) -> PutAnswer:
        """Stores small chunks, each once, and lets the space read them; all durable on return."""
        check_count("chunks", len(request.chunks), CHUNKS_MAX)
        for at, data in enumerate(request.chunks):
            check_chunk_size(f"chunks[{at}]", len(data))
            if len(data) > SMALL_CHUNK_MAX:
                raise TooLarge(
                    f"chunks[{at}] has {len(data)} bytes; over {SMALL_CHUNK_MAX} it goes to the URL that want gives."
                )
        ids = [ChunkId(hashlib.sha256(data).digest()) for data in request.chunks]
        self._keep(space, dict(zip(ids, request.chunks, strict=True)))
        return PutAnswer(tuple(ids))

    def keep(self, space: SpaceId, sealed: Sequence[Sealed]) -> None:
        """Stores chunks that were sealed here, of any size, and lets the space read them; all durable on return."""
        if sealed:
            self._keep(space, {each.id: each.data for each in sealed})

    def _keep(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> None:
        for _ in range(_TRIES):
            places = self._store(chunks)
            if self._database.write_now(partial(self._add, space, places, chunks)):
                return
        raise Busy("What was sent could not be kept: send it again.", 1.0)

    def _store(self, chunks: Mapping[ChunkId, bytes]) -> list[Place]:
        """Where those of these chunks lie now that were not stored; all durable."""
        fresh = self._database.read_now(
            lambda session: [chunk for chunk in chunks if chunk_rows.place(session, chunk) is None]
        )
        places: list[Place] = []
        # The bytes first, then what refers to them, then the answer.
        for chunk in fresh:
            if len(chunks[chunk]) > SMALL_CHUNK_MAX:
                self._objects.write(object_name(chunk), chunks[chunk])
                places.append(Place(chunk, len(chunks[chunk]), None))
        small = ((chunk, chunks[chunk]) for chunk in fresh if len(chunks[chunk]) <= SMALL_CHUNK_MAX)
        for group in plan_packs(small):
            pack, body, found = build_pack(group)
            self._objects.write(pack_name(pack), body)
            places += found
        return places

    def received(self, space: SpaceId, places: Sequence[Place]) -> None:
        """Notes chunks that came whole and lie durably in objects of their own; raises Busy when one is gone again."""
        chunks = [place.id for place in places]
        if not self._database.write_now(partial(self._add, space, places, chunks)):
            raise Busy("What was sent could not be kept: send it again.", 1.0)

    def _add(self, space: SpaceId, places: Sequence[Place], chunks: Iterable[ChunkId], session: Session) -> bool:
        """Whether all of these chunks are stored and may be read now; otherwise nothing was noted.

        Objects are removed within transactions only, so what is there now stays.
        """
        chunks = list(chunks)
        names = {_object_of(place) for place in places}
        if any(self._objects.size(name) is None for name in names):
            return False
        new = {place.id for place in places}
        if any(chunk_rows.place(session, chunk) is None for chunk in chunks if chunk not in new):
            return False
        chunk_rows.add_places(session, places)
        chunk_rows.add_references(session, space, chunks)
        return True

    def has(self, space: SpaceId, chunk: ChunkId) -> bool:
        """Whether members of the space may read the chunk, and it is stored."""
        return self._database.read_now(lambda session: _is_there(session, space, chunk))

    def place(self, space: SpaceId, chunk: ChunkId, others: Sequence[SpaceId] = ()) -> Place:
        """Where a chunk of this space, or of one of the others, lies; raises NotFound."""
        return self._database.read_now(lambda session: self._readable(session, (space, *others), [chunk]))[0]

    def get(self, space: SpaceId, request: GetRequest, others: Sequence[SpaceId] = ()) -> GetAnswer:
        """The bytes of the first parts, as many as fit, at least one."""
        check_parts(request.parts)
        ids = [part.id for part in request.parts]
        places = self._database.read_now(lambda session: self._readable(session, (space, *others), ids))
        packs = _Packs(self.read, places)
        found: list[bytes] = []
        room = GET_ANSWER_MAX
        for part, place in zip(request.parts, places, strict=True):
            # A part is no longer than its chunk, so most parts that cannot fit need not be read to know it.
            if found and not part.frames and place.size > room:
                break
            data = self._part(place, part, packs)
            if found and len(data) > room:
                break
            found.append(data)
            room -= len(data)
        return GetAnswer(tuple(found))

    def plan(self, space: SpaceId, request: GetRequest, others: Sequence[SpaceId] = ()) -> list[list[Stretch]]:
        """What an answer to `chunks/read` is made of, in pieces of about READ_AT_ONCE bytes."""
        check_parts(request.parts)
        ids = [part.id for part in request.parts]
        spaces = (space, *others)
        places = self._database.read_now(lambda session: self._readable(session, spaces, ids))
        packs = _Packs(self.read, places)
        found: list[Stretch] = []
        room = GET_ANSWER_MAX
        for part, place in zip(request.parts, places, strict=True):
            if place.pack is not None and part.below is None and place.size <= room:
                data = self._part(place, part, packs)
                found.append(Stretch(Head(place.id, part.first, part.frames, len(data)).pack() + data, place, 0, 0))
                room -= len(data)
            else:
                self._plan_part(spaces, place, part, found)
        pieces: list[list[Stretch]] = []
        room = 0
        for stretch in found:
            if stretch.size > room:
                pieces.append([])
                room = READ_AT_ONCE
            pieces[-1].append(stretch)
            room -= stretch.size
        return pieces

    def piece(self, stretches: Sequence[Stretch]) -> list[bytes]:
        """The bytes of these stretches, one behind the other."""
        parts: list[bytes] = []
        for stretch in stretches:
            parts.append(stretch.head)
            if stretch.length:
                parts.append(self.read(stretch.place, stretch.start, stretch.length))
        return parts

    def _plan_part(self, spaces: Sequence[SpaceId], place: Place, part: ChunkPart, found: list[Stretch]) -> None:
        head = Head(place.id, part.first, part.frames, place.size)
        if part.below is not None:
            data = self.read(place, 0, place.size)
            found.append(Stretch(head.pack() + data, place, 0, 0))
            self._plan_below(spaces, place, data, part.below, found)
        elif not part.frames:
            found.append(Stretch(head.pack(), place, 0, place.size))
        else:
            known = self.read(place, 0, min(place.size, _LITTLE))
            header = sealing.header_of(known)
            start, length = _part_within(place, header, part)
            head = head._replace(length=len(header) + length)
            if start + length <= len(known):
                found.append(Stretch(b"".join((head.pack(), header, known[start : start + length])), place, 0, 0))
            else:
                found.append(Stretch(head.pack() + header, place, start, length))

    def _plan_below(
        self, spaces: Sequence[SpaceId], leaf: Place, data: bytes, below: Below, found: list[Stretch]
    ) -> None:
        # The length of content below a leaf is not needed to open it.
        entries = decode_leaf(sealing.open_leaf(Entry(leaf.id, below.key, 0), data))
        for _, part in parts_below(entries, below):
            if len(found) >= CHUNKS_MAX:
                return
            self._plan_part(spaces, self.place(spaces[0], part.id, spaces[1:]), part, found)

    def urls(self, user: UserId, space: SpaceId, request: UrlsRequest, others: Sequence[SpaceId] = ()) -> UrlsAnswer:
        """Signed GET URLs of those chunks that are objects of their own."""
        check_chunk_ids(request.chunks)
        places = self._database.read_now(lambda session: self._readable(session, (space, *others), request.chunks))
        urls = {place.id: self._objects.get_url(user, space, place.id) for place in places if place.pack is None}
        return UrlsAnswer(urls, GET_URL_SECONDS)

    def read(self, place: Place, start: int, length: int) -> bytes:
        """Bytes of a stored chunk; raises ServerFault when the store lost it."""
        try:
            return self._objects.read(_object_of(place), place.offset + start, length)
        except ObjectMissing as error:
            moved = self._database.read_now(lambda session: chunk_rows.place(session, place.id))
            if moved is not None and moved != place:
                # It was put into another pack since its place was looked up.
                return self._read_at(moved, start, length)
            raise _lost(place, error) from error

    def read_refused(self, chunk: ChunkId) -> bytes:
        """The sealed bytes of a chunk that is given to nobody, for a look at what is made of it."""
        return self._database.read_now(lambda session: self.read_whole(session, chunk))

    def _read_at(self, place: Place, start: int, length: int) -> bytes:
        try:
            return self._objects.read(_object_of(place), place.offset + start, length)
        except ObjectMissing as error:
            raise _lost(place, error) from error

    def read_whole(self, session: Session, chunk: ChunkId) -> bytes:
        """The sealed bytes of a chunk that the caller knows to be readable."""
        place = chunk_rows.place(session, chunk)
        if place is None:
            raise ChunkMissing(f"The server lost chunk {chunk.hex()}: send it again.")
        return self._read_at(place, 0, place.size)

    def _readable(self, session: Session, spaces: Sequence[SpaceId], chunks: Iterable[ChunkId]) -> list[Place]:
        places: list[Place] = []
        for chunk in chunks:
            readers = [space for space in spaces if chunk_rows.may_read(session, space, chunk)]
            if not readers:
                raise NotFound(f"There is no chunk {chunk.hex()} in this space.")
            found = self._refused.get(chunk)
            if found is not None and all(space in found for space in readers):
                raise _infected(found[readers[0]])
            place = chunk_rows.place(session, chunk)
            if place is None:
                raise ChunkDamaged(f"The server lost chunk {chunk.hex()}; any device that has it can send it again.")
            places.append(place)
        return places

    def _part(self, place: Place, part: ChunkPart, packs: "_Packs") -> bytes:
        if place.pack is not None:
            chunk = packs.chunk(place)
            if not part.frames:
                return chunk
            header = sealing.header_of(chunk)
            start, length = _part_within(place, header, part)
            # All frames of it, as a rule.
            return chunk if start == len(header) and start + length == len(chunk) else header + chunk[start:][:length]
        if not part.frames:
            return self.read(place, 0, place.size)
        header = sealing.header_of(self.read(place, 0, min(place.size, sealing.HEADER_MAX)))
        start, length = _part_within(place, header, part)
        return header + self.read(place, start, length)


class _Packs:
    """Chunks that lie in packs, for one answer: those that lie together are read at once."""

    def __init__(self, read: Callable[[Place, int, int], bytes], places: Iterable[Place]) -> None:
        self._read = read
        self._wanted: dict[bytes, list[Place]] = {}
        for place in places:
            if place.pack is not None:
                self._wanted.setdefault(place.pack, []).append(place)
        self._pack = b""
        self._first = 0
        self._bytes = b""

    def chunk(self, place: Place) -> bytes:
        """The sealed bytes of a chunk in a pack."""
        assert place.pack is not None
        if place.pack != self._pack:
            wanted = self._wanted[place.pack]
            first = min(other.offset for other in wanted)
            stop = max(other.offset + other.size for other in wanted)
            if stop - first > _SPREAD_MAX * sum(other.size for other in wanted):
                return self._read(place, 0, place.size)
            self._bytes = self._read(place, first - place.offset, stop - first)
            self._pack, self._first = place.pack, first
        start = place.offset - self._first
        return self._bytes[start : start + place.size]


def check_parts(parts: Sequence[ChunkPart]) -> None:
    """Raises BadRequest for a list of parts that cannot be."""
    check_count("parts", len(parts), CHUNKS_MAX)
    check_chunk_ids([part.id for part in parts])
    for at, part in enumerate(parts):
        if not 0 <= part.first <= sealing.FRAMES_MAX or not 0 <= part.frames <= sealing.FRAMES_MAX:
            raise BadRequest(f"parts[{at}]: {part.frames} frames from number {part.first} on are in no chunk.")
        if part.first and not part.frames:
            raise BadRequest(f"parts[{at}]: {part.frames} frames from number {part.first} on make no part.")
        below = part.below
        if below is not None and not (
            1 <= below.depth <= DEPTH_MAX and 0 <= below.start < below.stop <= below.start + BELOW_MAX
        ):
            raise BadRequest(f"parts[{at}]: bytes {below.start} to {below.stop} in depth {below.depth} are too many.")


def _part_within(place: Place, header: bytes, part: ChunkPart) -> tuple[int, int]:
    start, length = sealing.part_range(header, part.first, part.frames)
    if start + length > place.size:
        raise BadRequest(f"Chunk {place.id.hex()} ends before the frames that its header tells of.")
    return start, length


def _object_of(place: Place) -> str:
    return object_name(place.id) if place.pack is None else pack_name(place.pack)


def _lost(place: Place, error: ObjectMissing) -> ServerFault:
    return ServerFault(f"Chunk {place.id.hex()} should be in the store, but {error}.")


def _is_there(session: Session, space: SpaceId, chunk: ChunkId) -> bool:
    return chunk_rows.may_read(session, space, chunk) and chunk_rows.place(session, chunk) is not None


def _split(
    session: Session, space: SpaceId, others: Sequence[SpaceId], chunks: Iterable[ChunkId]
) -> tuple[list[ChunkId], list[ChunkId]]:
    """Chunks that must be sent, and those that are there but must be noted: in doubt, or only another space's."""
    missing: list[ChunkId] = []
    to_be_noted: list[ChunkId] = []
    for chunk in chunks:
        doubted_ns = chunk_rows.reference(session, space, chunk)
        is_readable = doubted_ns is not None or any(chunk_rows.may_read(session, other, chunk) for other in others)
        if not is_readable or chunk_rows.place(session, chunk) is None:
            missing.append(chunk)
        elif doubted_ns != 0:
            to_be_noted.append(chunk)
    return missing, to_be_noted


def _note(session: Session, space: SpaceId, others: Sequence[SpaceId], chunks: Iterable[ChunkId]) -> list[ChunkId]:
    """Lets the space read those of these chunks that are there; returns the others."""
    missing, there = _split(session, space, others, chunks)
    chunk_rows.add_references(session, space, there)
    return missing


def _infected(virus: str) -> Infected:
    return Infected(
        f"{virus} was found in this file, so its content is given to nobody. Older versions are there: satchel"
        " versions. If it is none, a manager may say so: satchel guard allow."
    )
