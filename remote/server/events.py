"""Events: what the members of a space are told of, what they say to it, and how its guard is set."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from remote.protocol.errors import BadRequest, InTheWay, NotFound
from remote.protocol.events import (
    ALLOWED,
    DONE,
    EVENTS_MAX,
    HELD,
    INFECTED,
    MASS_CHANGE,
    UNDONE,
    Event,
    EventAnswer,
    Events,
    EventsRequest,
    Guard,
    GuardRequest,
)
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.messages import Done
from remote.server.audit import note
from remote.server.chunks import Chunks
from remote.server.database import events as event_rows
from remote.server.database import refused as refused_rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.events import EventRow
from remote.server.database.spaces import SpaceRow
from remote.server.guard import ALLOWED_NS, check_guard, guard_of, taken_before
from remote.server.limits import INT63, check_limit
from remote.server.mail import Mail
from remote.server.reading import Authors
from remote.server.rights import Right, member_space

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_WORDS: Final = {DONE: "seen to", UNDONE: "undone"}


class EventAnswers:
    """What an instance answers about events."""

    def __init__(self, database: Database, chunks: Chunks, mail: Mail) -> None:
        self._database = database
        self._chunks = chunks
        self._mail = mail

    async def announce(self, space: SpaceId, event: EventRow) -> None:
        """Tells of an event that begins: in the log, and by mail to whose device it was."""
        log_event(space, event)
        self._tell(
            event,
            (await self._database.read(lambda session: _told(session, space, event, Authors(session)))).device_name,
        )

    def announce_now(self, space: SpaceId, event: EventRow) -> None:
        """The same, from a thread."""
        log_event(space, event)
        self._tell(
            event, self._database.read_now(lambda session: _told(session, space, event, Authors(session))).device_name
        )

    def _tell(self, event: EventRow, device_name: str) -> None:
        if event.kind == INFECTED:
            path = b"".join(_examples(event)).decode(errors="backslashreplace")
            self._mail.tell(event.user, "infected", path=path, name=event.detail)
            return
        how = " and ".join(
            what for what, count in (("removed", event.removed), ("overwrote", event.overwritten)) if count
        )
        count = event.removed + event.overwritten
        self._mail.tell(event.user, MASS_CHANGE, device=device_name or "A program", count=count, how=how)

    async def events(self, device: Device, space: SpaceId, request: EventsRequest) -> Events:
        """Events of the space, the newest first."""
        check_limit(request.limit, EVENTS_MAX)
        if not 0 <= request.before <= INT63:
            raise BadRequest("`before` is the number of an event, or 0.")

        def read(session: Session, row: SpaceRow) -> Events:
            found = event_rows.events(session, row.space, request.before or INT63, request.limit + 1)
            authors = Authors(session)
            told = tuple(_told(session, row.space, one, authors) for one in found[: request.limit])
            return Events(told, more=len(found) > request.limit)

        return await self._ask(device, space, Right.READ, read)

    async def answer(self, device: Device, space: SpaceId, request: EventAnswer) -> Done:
        """What a member says to an event; raises NotFound, InTheWay for one to which that cannot be said (any more)."""
        if request.says not in (ALLOWED, DONE):
            raise BadRequest(f"What is said to an event is {ALLOWED} or {DONE}, not {request.says[:40]!r}.")

        freed: list[ChunkId] = []

        def write(session: Session, row: SpaceRow) -> Done:
            event = event_of(session, row, request.event)
            note(session, device.user, f"event {request.says}", f"event {event.event}, {event.kind}, in {row.name}")
            if request.says == ALLOWED and event.kind == INFECTED:
                # Whoever may bring a file may not say of it that it is fine.
                member_space(session, space, device.user, Right.GUARD)
                freed[:] = refused_rows.allow(session, row.space, event.event)
                event_rows.put_event(session, row.space, replace(event, state=ALLOWED))
                return Done()
            if request.says == DONE:
                # What became of it says more than that somebody has seen it.
                if event.state != UNDONE and (event.state, event.kind) != (ALLOWED, INFECTED):
                    close(session, row.space, event, DONE)
                return Done()
            if event.state != HELD:
                raise InTheWay(f"Event {event.event} waits for no yes: it is {_WORDS.get(event.state, event.state)}.")
            removed, overwritten = taken_before(session, row.space, event)
            until_ns = time.time_ns() + ALLOWED_NS
            allowed = replace(event, state=ALLOWED, until_ns=until_ns, removed=removed, overwritten=overwritten)
            event_rows.put_event(session, row.space, allowed)
            return Done()

        done = await self._ask(device, space, Right.WRITE, write, is_writing=True)
        self._chunks.allow(space, freed)
        log.info("space %d: event %d is %s, says user %d", space, request.event, request.says, device.user)
        return done

    async def guard(self, device: Device, space: SpaceId, request: GuardRequest) -> Guard:
        """The guard of the space; set first, when that is asked."""
        wanted = request.guard
        if wanted is None:
            return await self._ask(device, space, Right.READ, lambda session, row: guard_of(session, row.space))
        check_guard(wanted)

        def write(session: Session, row: SpaceRow) -> Guard:
            numbers = (wanted.count, wanted.window_seconds, wanted.settled_seconds)
            event_rows.set_guard(session, row.space, wanted.mode, *numbers)
            note(session, device.user, "guard set", f"{wanted.mode} in {row.name}")
            return wanted

        return await self._ask(device, space, Right.GUARD, write, is_writing=True)

    async def _ask(
        self,
        device: Device,
        space: SpaceId,
        right: Right,
        job: Callable[[Session, SpaceRow], Result],
        *,
        is_writing: bool = False,
    ) -> Result:
        def ask(session: Session) -> Result:
            return job(session, member_space(session, space, device.user, right))

        return await (self._database.write if is_writing else self._database.read)(ask)


def event_of(session: Session, row: SpaceRow, number: int) -> EventRow:
    """An event; raises NotFound."""
    found = event_rows.event(session, row.space, number) if 0 < number <= INT63 else None
    if found is None:
        raise NotFound(f"{row.name} has no event {number}.")
    return found


def close(session: Session, space: SpaceId, event: EventRow, state: str) -> None:
    """The event is over, and what its device did counts no more; what comes next is counted anew."""
    event_rows.put_event(session, space, replace(event, state=state))
    burst = event_rows.burst(session, space, event.user, event.device)
    if burst is not None and burst.event == event.event:
        event_rows.drop_burst(session, space, event.user, event.device)


def log_event(space: SpaceId, event: EventRow) -> None:
    """A line for whoever runs the server; it names nobody's files."""
    log.warning(
        "space %d: event %d: %s by device %d of user %d: %d removed, %d overwritten, %s",
        space,
        event.event,
        event.kind,
        event.device,
        event.user,
        event.removed,
        event.overwritten,
        event.state,
    )


def _told(session: Session, space: SpaceId, row: EventRow, authors: Authors) -> Event:
    return Event(
        row.event,
        row.kind,
        row.state,
        *authors.names(row.user, row.device),
        row.began_ns,
        row.ended_ns,
        row.from_rev,
        row.to_rev,
        row.removed,
        row.overwritten,
        _examples(row),
        row.until_ns,
        row.node,
        row.detail,
        sum(taken_before(session, space, row)) if row.state == HELD else 0,
    )


def _examples(row: EventRow) -> tuple[bytes, ...]:
    return tuple(msgspec.msgpack.decode(row.examples, type=list[bytes])) if row.examples else ()
