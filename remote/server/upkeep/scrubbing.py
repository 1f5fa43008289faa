"""Scrubbing: reads what is stored and compares it with its names; what is damaged is repaired or noted as lost.

The name of an object is the SHA-256 of its bytes, and so is the id of each chunk in a pack. Damage is repaired from a
replica that has the object whole. Otherwise its chunks are noted as lost: `want` asks for them again, so whoever has
one and is to send it, sends it; devices are told that something is lost, and look whether they have it.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from remote.protocol.ids import ChunkId
from remote.server.database import chunks as chunk_rows
from remote.server.database import upkeep as rows
from remote.server.database.accounts import put_setting, setting
from remote.server.database.chunks import Place
from remote.server.database.connection import Database, Session
from remote.server.objects.packs import Chunk, build_pack, plan_packs
from remote.server.objects.store import ObjectMissing, Objects, Removable, id_of, name_of, object_name, pack_name
from remote.server.upkeep.marking import AT_ONCE

CURSOR = "scrubbed_until"
SCRUB_LOCK = "scrub.lock"
"""Who holds it scrubs."""
_NOTED_EVERY = 64 << 20
"""Bytes after which it is noted how far scrubbing came."""


@dataclass
class Scrubbed:
    """What was read and found. `is_whole`: the end of the store was reached."""

    objects: int = 0
    object_bytes: int = 0
    repaired: int = 0
    lost: list[ChunkId] = field(default_factory=list)
    is_whole: bool = False


class Scrubber:
    """Scrubs one instance, while it is used. `pace` is told of bytes that were read, and waits as long as it likes."""

    def __init__(
        self,
        database: Database,
        objects: Removable,
        *,
        replica: Objects | None = None,
        pace: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._replica = replica
        self._pace = pace

    def run(self, bytes_max: int | None = None) -> Scrubbed:
        """Goes on where the last run ended, for about so many bytes or to the end of the store."""
        scrubbed = Scrubbed()
        start = self._database.read_now(partial(setting, name=CURSOR)) or b""
        damaged_packs: dict[bytes, str] = {}
        noted = 0
        start_again = start
        for stored in self._objects.names():
            if stored.name.encode() <= start:
                continue
            if bytes_max is not None and scrubbed.object_bytes >= bytes_max:
                break
            self._look_at(stored.name, stored.size, damaged_packs, scrubbed)
            if scrubbed.object_bytes - noted >= _NOTED_EVERY:
                noted = scrubbed.object_bytes
                # Packs that were found damaged are judged first: after a kill they would be passed over.
                self._judge_packs(damaged_packs, scrubbed)
                self._database.write_now(partial(put_setting, name=CURSOR, value=stored.name.encode()))
            start_again = stored.name.encode()
        else:
            scrubbed.is_whole = True
            start_again = b""
            self._find_missing(damaged_packs, scrubbed)
        self._judge_packs(damaged_packs, scrubbed)
        self._database.write_now(partial(put_setting, name=CURSOR, value=start_again))
        return scrubbed

    def _look_at(self, name: str, size: int, damaged_packs: dict[bytes, str], scrubbed: Scrubbed) -> None:
        known = id_of(name)
        if known is None:
            return
        object_id, is_pack = known
        scrubbed.objects += 1
        scrubbed.object_bytes += size
        self._pace(size)
        fault = self._fault(name, object_id)
        if fault is None or self._repair(name, object_id, scrubbed):
            return
        if is_pack:
            damaged_packs[object_id] = fault
        else:
            self._judge_object(ChunkId(object_id), scrubbed)

    def _fault(self, name: str, object_id: bytes) -> str | None:
        """What is wrong with an object; None when it is whole, or gone."""
        size = self._objects.size(name)
        if size is None:
            return None
        try:
            data = self._objects.read(name, 0, size)
        except ObjectMissing:
            return None
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None if hashlib.sha256(data).digest() == object_id else "is damaged"

    def _repair(self, name: str, object_id: bytes, scrubbed: Scrubbed) -> bool:
        """Whether the replica had the object whole."""
        if self._replica is None:
            return False
        try:
            data = self._replica.read(name, 0, self._replica.size(name) or 0)
        except (ObjectMissing, OSError):
            return False
        if hashlib.sha256(data).digest() != object_id:
            return False
        self._objects.heal(name, data)
        scrubbed.repaired += 1
        return True

    def _judge_object(self, chunk: ChunkId, scrubbed: Scrubbed) -> None:
        if self._database.write_now(partial(self._lose_object, chunk)):
            scrubbed.lost.append(chunk)

    def _lose_object(self, chunk: ChunkId, session: Session) -> bool:
        """Whether the chunk is lost: looked at once more within the transaction, for it may have come again."""
        name = object_name(chunk)
        place = chunk_rows.place(session, chunk)
        fault = "is missing" if self._objects.size(name) is None else self._fault(name, chunk)
        if fault is None or place is None or place.pack is not None:
            return False
        # First out of the way: who sends the chunk again would find a file of its name and size.
        self._objects.set_aside(name)
        return rows.lose_chunk(session, place, time.time_ns(), f"its object {fault}")

    # Packs

    def _find_missing(self, damaged_packs: dict[bytes, str], scrubbed: Scrubbed) -> None:
        """Looks for chunks whose objects are not there at all."""
        for places in self._places():
            packs = {place.pack for place in places if place.pack is not None} - set(damaged_packs)
            for pack in packs:
                name = pack_name(pack)
                if self._objects.size(name) is None and not self._repair(name, pack, scrubbed):
                    damaged_packs[pack] = "is missing"
            for place in places:
                name = object_name(place.id)
                is_missing = place.pack is None and self._objects.size(name) is None
                if is_missing and not self._repair(name, place.id, scrubbed):
                    self._judge_object(place.id, scrubbed)

    def _judge_packs(self, damaged_packs: dict[bytes, str], scrubbed: Scrubbed) -> None:
        """Saves what is whole in damaged packs, and notes the rest as lost."""
        if not damaged_packs:
            return
        found: dict[bytes, list[Place]] = {}
        for places in self._places():
            for place in places:
                if place.pack in damaged_packs:
                    found.setdefault(place.pack, []).append(place)
        for pack, fault in damaged_packs.items():
            places = found.get(pack, [])
            whole = [(place, data) for place in places if (data := self._whole(place)) is not None]
            self._save(whole)
            lost = self._database.write_now(partial(self._lose_pack, pack, places, fault))
            scrubbed.lost += [place.id for place in lost]
        damaged_packs.clear()

    def _places(self) -> Iterator[list[Place]]:
        after = b""
        while found := self._database.read_now(partial(rows.chunks_after, chunk=after, limit=AT_ONCE)):
            yield [each.place for each in found]
            after = found[-1].place.id

    def _whole(self, place: Place) -> bytes | None:
        try:
            data = self._objects.read(name_of(place.object_id, is_pack=True), place.offset, place.size)
        except (ObjectMissing, OSError):
            return None
        return data if hashlib.sha256(data).digest() == place.id else None

    def _save(self, whole: Sequence[tuple[Place, bytes]]) -> None:
        chunks: list[Chunk] = [(place.id, data) for place, data in whole]
        old = {place.id: place for place, _ in whole}
        for some in plan_packs(chunks):
            pack, body, places = build_pack(some)
            self._objects.heal(pack_name(pack), body)
            self._database.write_now(partial(_move, old, places))

    def _lose_pack(self, pack: bytes, places: Sequence[Place], fault: str, session: Session) -> list[Place]:
        name = pack_name(pack)
        if self._objects.size(name) is not None and self._fault(name, pack) is None:
            return []
        self._objects.set_aside(name)
        return [place for place in places if rows.lose_chunk(session, place, time.time_ns(), f"its pack {fault}")]


def _move(old: dict[ChunkId, Place], places: Sequence[Place], session: Session) -> None:
    chunk_rows.spare(session, [place.object_id for place in places])
    for place in places:
        rows.move_chunk(session, old[place.id], place)
