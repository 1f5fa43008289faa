"""Collecting: takes away chunks that nothing needs any more, while the server runs and others upload and commit.

1. Of each space, what it needs is marked (see `marking`). A reference to a chunk that is not needed is *doubted*, with
   the time. In a run that begins at least the grace later, one that is still doubted and still not needed is removed.
2. Whoever needs a chunk takes it out of doubt: a `want` that says it is there, whoever sends it, the commit that names
   it. So what `want` said yes to can be named for as long as the grace. Each batch of doubts begins a new *round*: a
   commit that looked its chunks up in an older one does so again.
3. A chunk that no space refers to any more loses its place, then its object is *doomed*, then it is removed. Objects
   are removed inside of transactions, and who notes a place looks within its own that the object is there.

Every step is one transaction, so a kill leaves nothing that the next run does not carry on with.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from remote.protocol.ids import ChunkId, Rev, SpaceId
from remote.server.database import chunks as chunk_rows
from remote.server.database import upkeep as rows
from remote.server.database.connection import Database, Session
from remote.server.database.scratch import Scratch, scratch
from remote.server.keyring import Keyring
from remote.server.objects.packs import read_footer
from remote.server.objects.store import ObjectMissing, Removable, id_of, name_of
from remote.server.removing import forget
from remote.server.upkeep.marking import AT_ONCE, Incomplete, Marker

GRACE_SECONDS = 7 * 24 * 3_600.0
"""How long a reference is doubted before it is removed: an upload that was cut goes on within this time. A device that
writes a file larger than its cache has no other copy of what it sent (`cache/ahead.py`), and may be away for days."""
STRAY_SECONDS = 3_600.0
"""Objects younger than this may be of an upload that is not noted yet: looking at them would be in vain."""
_WRITTEN_AT_ONCE = 500
"""Rows written in one transaction: others wait for it."""
_REMOVED_AT_ONCE = 100


@dataclass
class Collected:
    """What a run did, or (a dry one) would have done; bytes are those of sealed chunks and of objects."""

    spaces: int = 0
    needed: int = 0
    doubted: int = 0
    dropped: int = 0
    manifests: int = 0
    chunks: int = 0
    chunk_bytes: int = 0
    objects: int = 0
    object_bytes: int = 0
    left_alone: list[str] = field(default_factory=list)
    """Why spaces were left as they are: what they need is not known."""


class Collector:
    """Collects in one instance; one at a time. `pause` is called between transactions, and may raise to end the run."""

    def __init__(
        self,
        database: Database,
        objects: Removable,
        keyring: Keyring,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._keyring = keyring
        self._now_ns = now_ns
        self._pause = pause

    def run(self, grace_seconds: float = GRACE_SECONDS, *, is_dry: bool = False) -> Collected:
        """Collects once through the instance."""
        collected = Collected()
        # Doubts older than this had their grace before anything was marked.
        before_ns = self._now_ns() - int(grace_seconds * 1e9)
        with scratch() as sets:
            after = 0
            while found := self._database.read_now(partial(rows.spaces_after, after=after, limit=AT_ONCE)):
                for space in found:
                    self._collect_space(sets, space, before_ns, collected, is_dry=is_dry)
                after = found[-1]
            self._collect_chunks(sets, collected, is_dry=is_dry)
        if not is_dry:
            self._find_strays()
            self._remove_doomed(collected)
        return collected

    def remove_doomed(self) -> Collected:
        """Removes objects in which nothing lies any more."""
        collected = Collected()
        self._remove_doomed(collected)
        return collected

    # References

    def _collect_space(
        self, sets: Scratch, space: SpaceId, before_ns: int, collected: Collected, *, is_dry: bool
    ) -> None:
        if not is_dry:
            # Of a user who was removed, if that was cut off.
            forget(self._database, space, self._pause)
        marker = Marker(self._database, self._objects, self._keyring, sets, self._pause)
        try:
            head, unnamed = marker.mark(space)
        except Incomplete as error:
            collected.left_alone.append(str(error))
            return
        collected.spaces += 1
        collected.manifests += len(unnamed)
        for at in range(0, 0 if is_dry else len(unnamed), _WRITTEN_AT_ONCE):
            self._remove_manifests(space, head, unnamed[at : at + _WRITTEN_AT_ONCE])
        after = b""
        while True:
            found = self._database.read_now(
                partial(rows.references_after, space=space, chunk=after, limit=_WRITTEN_AT_ONCE)
            )
            self._pause()
            self._judge(sets, space, found, before_ns, collected, is_dry=is_dry)
            if len(found) < _WRITTEN_AT_ONCE:
                return
            after = found[-1][0]

    def _remove_manifests(self, space: SpaceId, head: Rev, unnamed: Sequence[bytes]) -> None:
        def remove(session: Session) -> None:
            named = rows.contents_since(session, space, head)
            rows.remove_manifests(session, space, [each for each in unnamed if each not in named])

        self._database.write_now(remove)
        self._pause()

    def _judge(
        self,
        sets: Scratch,
        space: SpaceId,
        found: Sequence[tuple[ChunkId, int]],
        before_ns: int,
        collected: Collected,
        *,
        is_dry: bool,
    ) -> None:
        needless: list[ChunkId] = []
        overdue: list[tuple[ChunkId, int]] = []
        needed: list[ChunkId] = []
        for chunk, doubted_ns in found:
            if sets.is_reached(chunk):
                collected.needed += 1
                if doubted_ns:
                    needed.append(chunk)
            elif not doubted_ns:
                needless.append(chunk)
            elif doubted_ns <= before_ns:
                overdue.append((chunk, doubted_ns))
        collected.doubted += len(needless)
        if is_dry:
            collected.dropped += len(overdue)
            for chunk, _ in overdue:
                sets.drop(space, chunk)
            return
        if needless or overdue or needed:
            collected.dropped += self._database.write_now(
                lambda session: _write(session, space, needless, overdue, needed, self._now_ns())
            )
            self._pause()

    # Chunks

    def _collect_chunks(self, sets: Scratch, collected: Collected, *, is_dry: bool) -> None:
        """Takes the places of chunks that no space refers to."""
        for chunk in list(sets.dropped_chunks()) if is_dry else ():
            sets.add_candidate(chunk, 0)
        after = b""
        while True:
            found = self._database.read_now(partial(rows.chunks_after, chunk=after, limit=AT_ONCE))
            self._pause()
            for place, is_doubted in found:
                if is_doubted:
                    sets.add_candidate(place.id, place.size)
            if len(found) < AT_ONCE:
                break
            after = found[-1].place.id
        for lost in self._database.read_now(partial(rows.lost_after, chunk=b"", limit=AT_ONCE)):
            sets.add_candidate(lost.id, 0)
        if not sets.has_candidates():
            return
        self._spare_referred(sets, is_dry=is_dry)
        after = b""
        while chunks := sets.candidates(after, _WRITTEN_AT_ONCE):
            after = chunks[-1]
            if is_dry:
                places = self._database.read_now(partial(_places, chunks=chunks))
                dropped = [place for place in places if place is not None]
            else:
                dropped = self._database.write_now(partial(_drop, chunks=chunks))
            self._pause()
            collected.chunks += len(dropped)
            collected.chunk_bytes += sum(place.size for place in dropped)

    def _spare_referred(self, sets: Scratch, *, is_dry: bool) -> None:
        """Leaves those candidates that no space refers to.

        A reference that is added meanwhile takes the chunk out of doubt, which is looked at when it is dropped.
        """
        space_after = 0
        while found := self._database.read_now(partial(rows.spaces_after, after=space_after, limit=AT_ONCE)):
            for space in found:
                after = b""
                while True:
                    chunks = self._database.read_now(
                        partial(rows.references_after, space=space, chunk=after, limit=AT_ONCE)
                    )
                    self._pause()
                    needed = [chunk for chunk, _ in chunks if not sets.is_dropped(space, chunk)]
                    needed = [chunk for chunk in needed if sets.take_candidate(chunk)]
                    if needed and not is_dry:
                        self._database.write_now(partial(rows.trust_chunks, chunks=needed))
                    if len(chunks) < AT_ONCE:
                        break
                    after = chunks[-1][0]
            space_after = found[-1]

    # Objects

    def _find_strays(self) -> None:
        """Dooms objects that no chunk is noted to lie in: what is left of uploads that were cut, and empty packs."""
        before_ns = self._now_ns() - int(STRAY_SECONDS * 1e9)
        some: list[tuple[bytes, bool]] = []
        for stored in self._objects.names():
            known = id_of(stored.name)
            if known is not None and stored.modified_ns <= before_ns:
                some.append(known)
            if len(some) >= _WRITTEN_AT_ONCE:
                self._doom_strays(some)
                some = []
        self._doom_strays(some)

    def _doom_strays(self, some: Sequence[tuple[bytes, bool]]) -> None:
        empty = self._database.read_now(
            lambda session: [(each, is_pack) for each, is_pack in some if self.is_empty(session, each, is_pack)]
        )
        self._pause()
        if empty:
            self._database.write_now(lambda session: self._doom_empty(session, empty))
            self._pause()

    def _doom_empty(self, session: Session, objects: Sequence[tuple[bytes, bool]]) -> None:
        for each, is_pack in objects:
            if self.is_empty(session, each, is_pack):
                rows.doom(session, each, is_pack=is_pack)

    def is_empty(self, session: Session, object_id: bytes, is_pack: bool) -> bool:
        """Whether no chunk is noted to lie in the object; False for a pack that cannot be read."""
        if not is_pack:
            place = chunk_rows.place(session, ChunkId(object_id))
            return place is None or place.pack is not None
        name = name_of(object_id, is_pack=True)
        try:
            body = self._objects.read(name, 0, self._objects.size(name) or 0)
            chunks = [chunk for chunk, _ in read_footer(body)]
        except (ObjectMissing, ValueError):
            return False
        places = (chunk_rows.place(session, chunk) for chunk in chunks)
        return all(place is None or place.pack != object_id for place in places)

    def _remove_doomed(self, collected: Collected) -> None:
        while self._database.write_now(partial(self._remove_some, collected)):
            self._pause()

    def _remove_some(self, collected: Collected, session: Session) -> int:
        """Within this transaction nobody notes a place; should it come to nothing, they are removed once more."""
        found = rows.doomed(session, _REMOVED_AT_ONCE)
        for doomed in found:
            name = name_of(doomed.id, is_pack=doomed.is_pack)
            size = self._objects.size(name)
            if size is not None:
                self._objects.remove(name)
                collected.objects += 1
                collected.object_bytes += size
        chunk_rows.spare(session, [doomed.id for doomed in found])
        return len(found)


def _write(
    session: Session,
    space: SpaceId,
    needless: Sequence[ChunkId],
    overdue: Sequence[tuple[ChunkId, int]],
    needed: Sequence[ChunkId],
    now_ns: int,
) -> int:
    """How many references were removed."""
    if needless or overdue:
        chunk_rows.next_round(session)
    rows.doubt(session, space, needless, now_ns)
    chunk_rows.add_references(session, space, needed)
    return sum(rows.drop_reference(session, space, chunk, doubted_ns) for chunk, doubted_ns in overdue)


def _places(session: Session, chunks: Sequence[ChunkId]) -> list[chunk_rows.Place | None]:
    return [chunk_rows.place(session, chunk) for chunk in chunks]


def _drop(session: Session, chunks: Sequence[ChunkId]) -> list[chunk_rows.Place]:
    """The places of those of these chunks that are stored no more."""
    dropped: list[chunk_rows.Place] = []
    for chunk in chunks:
        place = chunk_rows.place(session, chunk)
        if place is None:
            rows.forget_lost(session, chunk)
        elif rows.drop_chunk(session, place):
            dropped.append(place)
    return dropped
