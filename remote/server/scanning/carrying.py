"""Carrying: what is refused in a space stays so in another one that its content goes to."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from remote.protocol.ids import ChunkId, NodeId, SpaceId
from remote.server.database import events as event_rows
from remote.server.database import refused as refused_rows
from remote.server.database.connection import Session


@dataclass(frozen=True)
class Carried:
    """Chunks that are given to nobody of the space from now on."""

    space: SpaceId
    chunks: tuple[ChunkId, ...]
    virus: str


def carry(
    session: Session,
    source: SpaceId,
    target: SpaceId,
    chunks: Iterable[ChunkId],
    copies: Mapping[NodeId, NodeId] | None = None,
) -> list[Carried]:
    """Refuses those of the chunks in `target` that are refused in `source`, with events that tell of it there, too.

    `copies`: the ids that nodes of the source have in the target; None: the same. What somebody allowed in `source` is
    looked at anew in `target`: others read it there.
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
            # What was found in a file that did not come along is in another one that has a chunk of it, too.
            node = told.node if copies is None else copies.get(told.node, next(iter(copies.values())))
            event_rows.put_event(session, target, replace(told, event=event, node=node))
        refused_rows.refuse(session, target, which, virus, event)
        carried.append(Carried(target, tuple(which), virus))
    return carried
