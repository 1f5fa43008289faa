"""Marking: what becomes of a file version in which a virus was found: it is refused, an event, and told to devices.

Refused are its chunks, within its space. Those that the version before it has, too, are not: that one may be the cure.
Content that lies in the manifest itself becomes a chunk, and the file gets a commit that changes nothing else, so that
every device hears of it in that form, and drops the bytes that came with the state.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from remote.protocol.events import INFECTED, TOLD
from remote.protocol.ids import NOWHERE, ChunkId, Rev, SpaceId
from remote.protocol.messages import Change
from remote.protocol.nodes import Entry, Manifest
from remote.server import commits
from remote.server.acts import SERVER
from remote.server.commits import Draft
from remote.server.database import events as event_rows
from remote.server.database import past as past_rows
from remote.server.database import refused as refused_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.events import EventRow
from remote.server.jobs.following import Changed
from remote.server.keys import SpaceKey
from remote.server.past import Past
from remote.server.states import encode_manifest, open_manifest


@dataclass(frozen=True)
class Infection:
    """What was found where; `entry`: the chunk that content of a manifest has become."""

    space: SpaceId
    found: Changed
    virus: str
    entry: Entry | None


@dataclass(frozen=True)
class Marked:
    """What is refused from now on, the event that tells of it, and whether there is a commit for devices to hear of."""

    chunks: tuple[ChunkId, ...]
    event: EventRow
    is_committed: bool


def mark(session: Session, key: SpaceKey, infection: Infection) -> Marked | None:
    """Marks it; None when that was done before, or somebody said that it is fine. One transaction."""
    space, found = infection.space, infection.found
    row = space_rows.space_row(session, space)
    state = found.state
    if row is None or state is None or state.content is None:
        return None
    chunks = _chunks(session, key, infection, state.content)
    if any(refused_rows.is_known(session, space, chunk) for chunk in chunks):
        return None
    event = _event(session, key, infection)
    event_rows.put_event(session, space, event)
    refused_rows.refuse(session, space, chunks, infection.virus, event.event)
    is_committed = False
    if infection.entry is not None:
        content_id = key.content_id(encode_manifest(state.content))
        outside = Manifest(state.content.size, b"", 0, (infection.entry,))
        refused_rows.replace_manifest(session, space, content_id, key.seal(encode_manifest(outside)))
        is_committed = _tell_devices(session, key, infection, event, content_id)
    return Marked(chunks, event, is_committed)


def _chunks(session: Session, key: SpaceKey, infection: Infection, content: Manifest) -> tuple[ChunkId, ...]:
    """The chunks to refuse; of long content its leaves, without which nobody knows the others."""
    if infection.entry is not None:
        return (infection.entry.id,)
    own = {entry.id for entry in content.entries if not entry.is_hole}
    before = past_rows.then(session, infection.space, infection.found.node, Rev(infection.found.rev - 1))
    sealed = (
        past_rows.manifest(session, infection.space, before.content_id)
        if before is not None and before.content_id is not None
        else None
    )
    shared = {entry.id for entry in open_manifest(key, sealed).entries} if sealed is not None else set()
    # All of it was there before: then that is infected, too.
    return tuple(sorted(own - shared or own))


def _event(session: Session, key: SpaceKey, infection: Infection) -> EventRow:
    space, found = infection.space, infection.found
    author = past_rows.commit_row(session, space, found.rev)
    _, user, device = author if author is not None else (0, 0, 0)
    state = found.state
    path = b""
    if state is not None and state.names and state.names[0].parent != NOWHERE:
        path = Past(session, space, key, found.rev).path(state.names[0])
    now_ns = time.time_ns()
    return EventRow(
        event=event_rows.next_event(session, space),
        kind=INFECTED,
        state=TOLD,
        user=user,
        device=device,
        began_ns=now_ns,
        ended_ns=now_ns,
        from_rev=found.rev,
        to_rev=found.rev,
        removed=0,
        overwritten=0,
        node=found.node,
        detail=infection.virus,
        examples=msgspec.msgpack.encode([path]),
    )


def _tell_devices(session: Session, key: SpaceKey, infection: Infection, event: EventRow, content_id: bytes) -> bool:
    """Commits the file as it is, when it has that content still; whether it did."""
    space, node = infection.space, infection.found.node
    row = space_rows.space_row(session, space)
    present = trees.node_row(session, space, node)
    if row is None or present is None or present.state is None or present.content_id != content_id:
        return False
    state = Past(session, space, key, Rev(0)).node(node)
    if state is None:
        return False
    change = Change(node, present.rev, present.edited_ns, state.state)
    draft = Draft(change, present.state, content_id, None, present.size)
    by = Device(event.user, SERVER, "", b"")
    op_id = secrets.token_bytes(16)
    answer = commits.take(session, row, by, op_id, [draft], key=key, now_ns=time.time_ns())
    return bool(answer.rev)


Tell = Callable[[SpaceId, Marked], None]
