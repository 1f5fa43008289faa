"""Standing: how much an instance holds, and whether all of it is in order as far as can be seen without reading it."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from remote.protocol.ids import SpaceId
from remote.protocol.sizes import shown_size
from remote.protocol.times import iso
from remote.server.database import chunks as chunk_rows
from remote.server.database import spaces as space_rows
from remote.server.database import upkeep as rows
from remote.server.database.connection import Session, faults
from remote.server.database.spaces import SpaceRow, space_row
from remote.server.instance import DATABASE, Beside
from remote.server.jobs.confined import Confined, NotConfined
from remote.server.objects.local import RESERVE
from remote.server.objects.store import id_of, name_of
from remote.server.retention import waits_until
from remote.server.upkeep.marking import AT_ONCE

_NAMED_MAX = 5


@dataclass
class Usage:
    """What the whole instance holds, in bytes where it says so; `lost`: chunks that the store lost."""

    spaces: list[SpaceRow]
    objects: int = 0
    object_bytes: int = 0
    packs: int = 0
    pack_bytes: int = 0
    chunks: int = 0
    chunk_bytes: int = 0
    lost: int = 0
    database_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True)
class Finding:
    """What one look found; `sentence` says what is wrong, or what was looked at."""

    is_good: bool
    sentence: str


def usage(instance: Beside) -> Usage:
    """What the instance holds."""
    found = Usage(list(_spaces(instance)))
    for stored in instance.objects.names():
        known = id_of(stored.name)
        if known is not None and known[1]:
            found.packs += 1
            found.pack_bytes += stored.size
        elif known is not None:
            found.objects += 1
            found.object_bytes += stored.size
    for chunks in _chunks(instance):
        found.chunks += len(chunks)
        found.chunk_bytes += sum(each.place.size for each in chunks)
    found.lost = sum(1 for _ in lost(instance))
    paths = [instance.data / f"{DATABASE}{end}" for end in ("", "-wal")]
    found.database_bytes = sum(path.stat().st_size for path in paths if path.exists())
    found.free_bytes = instance.objects.free_bytes()
    return found


def look(instance: Beside) -> Iterator[Finding]:
    """What is in order and what is not, one look after the other; the master key was the right one already."""
    yield Finding(True, f"The master key opens the instance {instance.name}.")
    damage = instance.database.read_now(faults)
    yield Finding(not damage, f"The database is damaged: {damage[0]}." if damage else "The database is whole.")
    yield from _look_at_journals(instance)
    yield _look_at_payers(instance)
    yield from _look_at_references(instance)
    yield from _look_at_objects(instance)
    count = sum(1 for _ in lost(instance))
    told = (
        f"{count} chunks are lost: satchel-server scrub names the files." if count else "No chunk is known to be lost."
    )
    yield Finding(not count, told)
    yield Finding(True, waits_told(instance) or "What retention does not keep goes.")
    yield _look_at_confinement()
    free = shutil.disk_usage(instance.data).free
    is_enough = free > 4 * RESERVE
    yield Finding(
        is_enough, f"The disk has {shown_size(free)} left{'' if is_enough else ': soon nothing can be sent'}."
    )


def waits_told(instance: Beside) -> str:
    """A sentence that says until when retention waits; empty when it does not, which is no fault either."""
    until_ns = instance.database.read_now(partial(waits_until, now_ns=time.time_ns()))
    why = "the clock has to go seven days without a leap first."
    return f"Nothing that retention does not keep goes before {iso(until_ns)}: {why}" if until_ns else ""


def _look_at_confinement() -> Finding:
    """Whether content that nobody vouches for can be read here: each way out that we know of is tried."""
    try:
        Confined().check()
    except NotConfined as error:
        return Finding(False, f"{error} So files are found by name only.")
    return Finding(True, "What reads documents for search can do nothing else.")


def lost(instance: Beside) -> Iterator[rows.LostChunk]:
    """Chunks that the store lost."""
    after = b""
    while found := instance.database.read_now(partial(rows.lost_after, chunk=after, limit=AT_ONCE)):
        yield from found
        after = found[-1].id


def _spaces(instance: Beside) -> Iterator[SpaceRow]:
    after = 0
    while found := instance.database.read_now(partial(rows.spaces_after, after=after, limit=AT_ONCE)):
        for space in found:
            row = instance.database.read_now(partial(space_row, space=space))
            if row is not None:
                yield row
        after = found[-1]


def _chunks(instance: Beside) -> Iterator[list[rows.StoredChunk]]:
    after = b""
    while found := instance.database.read_now(partial(rows.chunks_after, chunk=after, limit=AT_ONCE)):
        yield found
        after = found[-1].place.id


def _look_at_payers(instance: Beside) -> Finding:
    """Whether homes count what is in the shared spaces that they pay for."""
    wrong: list[str] = []
    for space in [row.space for row in _spaces(instance)]:
        wrong += instance.database.read_now(partial(_miscounted, space))
    told = f"{_some(wrong)} count other sums than are in the folders that they share."
    return Finding(not wrong, told if wrong else "What is shared counts for who owns it.")


def _miscounted(space: SpaceId, session: Session) -> list[str]:
    row = space_row(session, space)
    paid = [space_row(session, each) for each in space_rows.paid_by(session, space)]
    used = sum(each.used for each in paid if each is not None)
    return [row.name] if row is not None and row.shared_used != used else []


def _look_at_journals(instance: Beside) -> Iterator[Finding]:
    wrong: list[str] = []
    count = 0
    for space in [row.space for row in _spaces(instance)]:
        count += 1
        if not instance.database.read_now(partial(_is_gapless, space)):
            wrong.append(str(space))
    told = f"The journals of {_some(wrong)} have gaps." if wrong else f"{count} journals have no gaps."
    yield Finding(not wrong, told)


def _is_gapless(space: SpaceId, session: Session) -> bool:
    row = space_row(session, space)
    commits, first, last = rows.journal_gap(session, space)
    return row is None or (last == row.head and commits == (last - first + 1 if commits else 0))


def _look_at_references(instance: Beside) -> Iterator[Finding]:
    """Chunks that a space may read must be stored, or known to be lost."""
    wrong: list[str] = []
    known = {each.id for each in lost(instance)}
    for space in [row.space for row in _spaces(instance)]:
        after = b""
        while found := instance.database.read_now(
            partial(rows.references_after, space=space, chunk=after, limit=AT_ONCE)
        ):
            chunks = [chunk for chunk, _ in found]
            are_there = instance.database.read_now(partial(rows.are_stored, chunks=chunks))
            gone = [chunk for chunk, is_there in zip(chunks, are_there, strict=True) if not is_there]
            wrong += [chunk.hex() for chunk in gone if chunk not in known]
            after = chunks[-1]
    told = f"{_some(wrong)} should be stored and are not." if wrong else "All chunks that spaces refer to have a place."
    yield Finding(not wrong, told)


def _look_at_objects(instance: Beside) -> Iterator[Finding]:
    """Every object in which a chunk lies must be there, and long enough."""
    wrong: set[str] = set()
    seen: dict[bytes, int | None] = {}
    for chunks in _chunks(instance):
        for place, _ in chunks:
            name = name_of(place.object_id, is_pack=place.pack is not None)
            size = seen[place.pack] if place.pack in seen else instance.objects.size(name)
            if place.pack is not None:
                seen[place.pack] = size
            if (size is None or size < place.offset + place.size) and _is_still_there(instance, place):
                wrong.add(name)
    told = f"{_some(sorted(wrong))} are missing or too short: run satchel-server scrub." if wrong else ""
    yield Finding(not wrong, told or "All objects are there (satchel-server scrub reads them).")


def _is_still_there(instance: Beside, place: chunk_rows.Place) -> bool:
    """Whether the chunk is still noted to lie there: it may have been packed anew or collected since."""
    return instance.database.read_now(partial(chunk_rows.place, chunk=place.id)) == place


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
