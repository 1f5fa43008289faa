"""Upkeep of the index beside a server, whether it runs or not: how far it is, what could not be read, made anew."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from remote.protocol.ids import NOW, ROOT, NodeId, Rev, SpaceId
from remote.server.chunks import Chunks
from remote.server.content import Contents
from remote.server.database import index as rows
from remote.server.database import jobs as job_rows
from remote.server.database.connection import DerivedDamaged, Session
from remote.server.database.jobs import WALKED
from remote.server.database.retention import every_space
from remote.server.database.spaces import SpaceRow, space_row
from remote.server.instance import Beside
from remote.server.jobs.following import Follower
from remote.server.jobs.running import catch_up
from remote.server.past import Past
from remote.server.search.index import Index
from remote.server.search.indexing import Indexer

_TROUBLES_MAX: Final = 1_000


@dataclass(frozen=True)
class Unread:
    """A file that is found by its name only, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True)
class Standing:
    """The index of one space; `behind`: commits that it does not know, `unread`: the first files that cannot be read.

    `is_walked`: whether all that was there when it was begun is in it.
    """

    space: SpaceId
    name: str
    files: int
    to_be_read: int
    behind: int
    is_walked: bool
    size_bytes: int
    unread: tuple[Unread, ...]


def standing(instance: Beside) -> Iterator[Standing]:
    """How far the index of each space is."""
    index = Index(instance.data)
    for space in instance.database.read_now(every_space):
        row = instance.database.read_now(partial(space_row, space=space))
        if row is not None:
            yield _standing(instance, index, row)


def rebuild(instance: Beside, *, reads_content: bool) -> Iterator[Standing]:
    """Empties the index and makes it again; tells of each space when that is done. Raises NotNow."""
    index = Index(instance.data)
    job = Indexer(index, reads_content=reads_content)
    contents = Contents(Chunks(instance.database, instance.objects), b"")
    follower = Follower(job, instance.database, instance.keyring, contents, threading.Event())
    spaces = instance.database.read_now(every_space)
    for space in {*spaces, *index.spaces()}:
        try:
            index.clear(space)
        except DerivedDamaged:
            index.remove(space)
    for space in spaces:
        catch_up(follower, [space])
        row = instance.database.read_now(partial(space_row, space=space))
        if row is not None:
            yield _standing(instance, index, row)


def _standing(instance: Beside, index: Index, row: SpaceRow) -> Standing:
    files = to_be_read = 0
    cursor = None
    try:
        with index.reading(row.space) as session:
            if session is not None:
                files, to_be_read = rows.counts(session)
                cursor = rows.cursor(session)
    except DerivedDamaged:
        # As if there were none: the server makes it anew when the next change comes, `rebuild` at once.
        cursor = None
    key = instance.keyring.key(row)

    def troubles(session: Session) -> tuple[Unread, ...]:
        past = Past(session, row.space, key, NOW)
        found = job_rows.troubles_after(session, row.space, Indexer.name, NodeId(0), _TROUBLES_MAX)
        there = ((one, names) for one in found if (names := past.names_below(one.node, ROOT)))
        return tuple(Unread(past.path(names[0]), one.reason) for one, names in there)

    return Standing(
        row.space,
        row.name,
        files,
        to_be_read,
        row.head - (cursor.rev if cursor is not None else Rev(0)),
        cursor is not None and cursor.walked == WALKED,
        index.size_bytes(row.space),
        instance.database.read_now(troubles),
    )
