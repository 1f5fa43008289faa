"""Carrying: what is refused in a space stays so where its content goes with a folder that is shared, or is no more."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from remote.protocol.ids import ChunkId, SpaceId
from remote.server.database import events as event_rows
from remote.server.database import refused as refused_rows
from remote.server.database.connection import Session


@dataclass(frozen=True)
class Carried:
    """Chunks that are given to nobody of the space from now on."""

    space: SpaceId
    chunks: tuple[ChunkId, ...]
    virus: str


def carry(session: Session, source: SpaceId, target: SpaceId, chunks: Iterable[ChunkId]) -> list[Carried]:
    """Refuses those of the chunks in `target` that are refused in `source`, with events that tell of it there, too.

    What somebody allowed in `source` is looked at anew in `target`: others read it there.
    """
    if not refused_rows.has_any(session, source):
        return []
    found: dict[tuple[int, str], list[ChunkId]] = defaultdict(list)
    for chunk in chunks:
        refused = refused_rows.refused(session, source, chunk)
        if refused is not None and not refused_rows.is_known(session, target, chunk):
            found[refused].append(chunk)
    carried: list[Carried] = []
    for (number, virus), which in found.items():
        told = event_rows.event(session, source, number)
        event = event_rows.next_event(session, target)
        if told is not None:
            event_rows.put_event(session, target, replace(told, event=event))
        refused_rows.refuse(session, target, which, virus, event)
        carried.append(Carried(target, tuple(which), virus))
    return carried
