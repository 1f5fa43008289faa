"""Packing: packs of which half is chunks that nobody needs any more, and many small ones, are written anew together.

A chunk's place is changed when it is durable in its new pack; then the old pack is doomed. Who reads by an old place
finds the pack gone, and looks the place up again.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from remote.protocol.ids import ChunkId
from remote.protocol.messages import PACK_MAX
from remote.server.database import chunks as chunk_rows
from remote.server.database import upkeep as rows
from remote.server.database.chunks import Place
from remote.server.database.connection import Database, Session
from remote.server.database.scratch import Scratch, scratch
from remote.server.objects.packs import Chunk, build_pack, plan_packs, read_footer
from remote.server.objects.store import ObjectMissing, Removable, Stored, id_of, pack_name
from remote.server.upkeep.collecting import STRAY_SECONDS, Collector
from remote.server.upkeep.marking import AT_ONCE

LIVE_LEAST = 0.5
"""Packs of which less is needed are written anew."""
SMALL_PACK = PACK_MAX // 8
SMALL_PACKS_LEAST = 16
"""So many small packs are worth it to be made one."""


@dataclass
class Packed:
    """What packing did; `unreadable`: packs that are damaged or no packs at all, which were left."""

    packs: int = 0
    became: int = 0
    freed_bytes: int = 0
    unreadable: list[str] = field(default_factory=list)


class Packer:
    """Packs anew in one instance; one at a time, and not while the collector runs. `pause` as for the collector."""

    def __init__(
        self,
        database: Database,
        objects: Removable,
        collector: Collector,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._collector = collector
        self._now_ns = now_ns
        self._pause = pause

    def run(self, *, is_dry: bool = False) -> Packed:
        """Goes through all packs once."""
        packed = Packed()
        with scratch() as sets:
            self._count(sets)
            wasteful, small = self._choose(sets)
        if len(small) >= SMALL_PACKS_LEAST:
            # Those written at about the same time are of one folder as a rule, and are read together.
            wasteful = sorted({*wasteful, *small}, key=lambda stored: stored.modified_ns)
        if is_dry:
            packed.packs = len(wasteful)
            return packed
        group: list[tuple[Stored, list[tuple[Place, bytes]]]] = []
        room = PACK_MAX
        for stored in wasteful:
            chunks = self._live_chunks(stored, packed)
            if chunks is None:
                continue
            size = sum(len(data) for _, data in chunks)
            if group and size > room:
                self._write_anew(group, packed)
                group, room = [], PACK_MAX
            group.append((stored, chunks))
            room -= size
        if group:
            self._write_anew(group, packed)
        self._collector.remove_doomed()
        return packed

    def _count(self, sets: Scratch) -> None:
        after = b""
        while True:
            found = self._database.read_now(partial(rows.chunks_after, chunk=after, limit=AT_ONCE))
            self._pause()
            for place, _ in found:
                if place.pack is not None:
                    sets.count_in_pack(place.pack, place.size)
            if len(found) < AT_ONCE:
                return
            after = found[-1].place.id

    def _choose(self, sets: Scratch) -> tuple[list[Stored], list[Stored]]:
        """Packs that hold too little, and those that are small."""
        wasteful: list[Stored] = []
        small: list[Stored] = []
        before_ns = self._now_ns() - int(STRAY_SECONDS * 1e9)
        for stored in self._objects.names():
            known = id_of(stored.name)
            if known is None or not known[1] or stored.modified_ns > before_ns:
                continue
            live = sets.live_in_pack(known[0])
            if not live:
                # The collector's.
                continue
            if live < stored.size * LIVE_LEAST:
                wasteful.append(stored)
            elif stored.size <= SMALL_PACK:
                small.append(stored)
        return wasteful, small

    def _live_chunks(self, stored: Stored, packed: Packed) -> list[tuple[Place, bytes]] | None:
        """The chunks that lie there, checked; None when something is wrong with one: scrubbing finds out what."""
        known = id_of(stored.name)
        assert known is not None
        try:
            body = self._objects.read(stored.name, 0, stored.size)
            chunks = [chunk for chunk, _ in read_footer(body)]
        except (ObjectMissing, ValueError):
            packed.unreadable.append(stored.name)
            return None
        places = self._database.read_now(
            lambda session: [chunk_rows.place(session, chunk) for chunk in dict.fromkeys(chunks)]
        )
        self._pause()
        live = [place for place in places if place is not None and place.pack == known[0]]
        found = [(place, body[place.offset :][: place.size]) for place in live]
        if any(hashlib.sha256(data).digest() != place.id for place, data in found):
            packed.unreadable.append(stored.name)
            return None
        return found

    def _write_anew(self, group: Sequence[tuple[Stored, Sequence[tuple[Place, bytes]]]], packed: Packed) -> None:
        chunks: list[Chunk] = [(place.id, data) for _, found in group for place, data in found]
        old = {place.id: place for _, found in group for place, _ in found}
        before = {stored.name for stored, _ in group}
        for some in plan_packs(chunks):
            pack, body, places = build_pack(some)
            if pack_name(pack) in before:
                # Alone it would become what it is.
                before.discard(pack_name(pack))
                continue
            self._objects.write(pack_name(pack), body)
            self._pause()
            if self._database.write_now(partial(self._move, old, pack, places)):
                packed.became += 1
                packed.freed_bytes -= len(body)
            self._pause()
        left = [stored for stored, _ in group if stored.name in before]
        packed.packs += len(left)
        packed.freed_bytes += sum(stored.size for stored in left)
        ids = [known[0] for stored in left if (known := id_of(stored.name)) is not None]
        self._database.write_now(partial(self._doom, ids))
        self._pause()

    def _move(self, old: Mapping[ChunkId, Place], pack: bytes, places: Sequence[Place], session: Session) -> bool:
        """Whether the chunks lie in the new pack now: it may be gone again, had it been there, and doomed, before."""
        if self._objects.size(pack_name(pack)) is None:
            return False
        chunk_rows.spare(session, [pack])
        for place in places:
            rows.move_chunk(session, old[place.id], place)
        return True

    def _doom(self, packs: Sequence[bytes], session: Session) -> None:
        for pack in packs:
            if self._collector.is_empty(session, pack, is_pack=True):
                rows.doom(session, pack, is_pack=True)
