"""Marking: what becomes of a file version in which a virus was found: it is refused, an event, and told to devices.

Refused are its chunks, within its space. Those that the version before it has, too, are not: that one may be the cure;
nor are those of what the file was later and is now, unless something was found in that.
Content that lies in the manifest itself becomes a chunk, and the file gets a commit that changes nothing else, so that
every device hears of it in that form, and drops the bytes that came with the state.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from remote.protocol.events import INFECTED, TOLD
from remote.protocol.ids import NOWHERE, ChunkId, Rev, SpaceId, UserId
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

_LATER_MAX: Final = 100
"""Later versions of a file that are looked at for what they share with one in which something was found."""
_TOLD_MAX: Final = 1_000
"""Files of one content, of which devices are told."""


@dataclass(frozen=True)
class Infection:
    """What was found where; `entry`: the chunk that content of a manifest has become."""

    space: SpaceId
    found: Changed
    virus: str
    entry: Entry | None


@dataclass(frozen=True)
class Marked:
    """What is refused from now on, the event that tells of it, and whether there is a commit for devices to hear of.

    `is_told`: the event is an older one, of another version of the same file.
    """

    chunks: tuple[ChunkId, ...]
    event: EventRow | None
    is_committed: bool
    is_told: bool


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
    # Of many old versions of a file one event is enough, which also allows them all.
    told = None if found.is_now else event_rows.told_of(session, space, found.node, INFECTED, infection.virus)
    event = told or _event(session, key, infection)
    if told is None:
        event_rows.put_event(session, space, event)
    refused_rows.refuse(session, space, chunks, infection.virus, event.event)
    is_committed = False
    if infection.entry is not None:
        outside = Manifest(state.content.size, b"", 0, (infection.entry,))
        is_committed = _restate(session, key, space, found, outside)
    return Marked(chunks, event, is_committed, is_told=told is not None)


def was_found(session: Session, key: SpaceKey, space: SpaceId, found: Changed) -> bool:
    """Whether this content is, under whatever name, what a virus was found in and nobody said is fine."""
    assert found.state is not None
    assert found.state.content is not None
    own = {entry.id for entry in found.state.content.entries if not entry.is_hole}
    refused = (refused_rows.refused(session, space, chunk) for chunk in own)
    for number in {event for event, _ in filter(None, refused)}:
        event = event_rows.event(session, space, number)
        then = past_rows.then(session, space, event.node, event.from_rev) if event is not None else None
        if then is not None and own == _entries_of(session, key, space, then.content_id):
            return True
    return False


def free(session: Session, key: SpaceKey, space: SpaceId, found: Changed, freed: Manifest) -> Marked | None:
    """Has clean content consist of chunks that are not refused; None when its space is gone. One transaction."""
    if space_rows.space_row(session, space) is None:
        return None
    return Marked((), None, _restate(session, key, space, found, freed), is_told=True)


def _chunks(session: Session, key: SpaceKey, infection: Infection, content: Manifest) -> tuple[ChunkId, ...]:
    """The chunks to refuse; of long content its leaves, without which nobody knows the others."""
    if infection.entry is not None:
        return (infection.entry.id,)
    own = {entry.id for entry in content.entries if not entry.is_hole}
    space, node = infection.space, infection.found.node
    before = past_rows.then(session, space, node, Rev(infection.found.rev - 1))
    present = trees.node_row(session, space, node)
    clean: set[ChunkId] = set()
    for content_id in {
        present.content_id if present is not None else None,
        *past_rows.contents_after(session, space, node, infection.found.rev, _LATER_MAX),
    }:
        later = _entries_of(session, key, space, content_id)
        if own != later and not any(refused_rows.is_known(session, space, chunk) for chunk in later):
            clean |= later
    left = own - _entries_of(session, key, space, before.content_id if before is not None else None)
    # Where nothing is left, all of it is there, too: then that is infected as well.
    return tuple(sorted(left - clean or left or own))


def _entries_of(session: Session, key: SpaceKey, space: SpaceId, content_id: bytes | None) -> set[ChunkId]:
    sealed = past_rows.manifest(session, space, content_id) if content_id is not None else None
    return {entry.id for entry in open_manifest(key, sealed).entries} if sealed is not None else set()


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


def _restate(session: Session, key: SpaceKey, space: SpaceId, found: Changed, manifest: Manifest) -> bool:
    """Stores the content of a version in another form, and has every device hear of it; whether that is a commit."""
    assert found.state is not None
    assert found.state.content is not None
    content_id = key.content_id(encode_manifest(found.state.content))
    refused_rows.replace_manifest(session, space, content_id, key.seal(encode_manifest(manifest)))
    row = space_rows.space_row(session, space)
    assert row is not None
    past = Past(session, space, key, Rev(0))
    drafts: list[Draft] = []
    for node in refused_rows.nodes_with(session, space, content_id, _TOLD_MAX):
        present, there = trees.node_row(session, space, node), past.node(node)
        if present is not None and there is not None and present.state is not None:
            change = Change(node, present.rev, present.edited_ns, there.state)
            drafts.append(Draft(change, present.state, content_id, None, present.size))
    if not drafts:
        return False
    author = past_rows.commit_row(session, space, found.rev)
    by = Device(author[1] if author is not None else UserId(0), SERVER, "", b"")
    op_id = secrets.token_bytes(16)
    return bool(commits.take(session, row, by, op_id, drafts, key=key, now_ns=time.time_ns()).rev)


Tell = Callable[[SpaceId, Marked], None]
