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
    UNDONE,
    Event,
    EventAnswer,
    Events,
    EventsRequest,
    Guard,
    GuardRequest,
)
from remote.protocol.ids import SpaceId
from remote.protocol.messages import Done
from remote.server.database import events as event_rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.events import EventRow
from remote.server.database.spaces import SpaceRow
from remote.server.guard import ALLOWED_NS, check_guard, guard_of, total
from remote.server.limits import INT63, check_limit
from remote.server.reading import Authors
from remote.server.rights import Right, member_space

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_WORDS: Final = {DONE: "seen to", UNDONE: "undone"}


class EventAnswers:
    """What an instance answers about events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def events(self, device: Device, space: SpaceId, request: EventsRequest) -> Events:
        """Events of the space, the newest first."""
        check_limit(request.limit, EVENTS_MAX)
        if not 0 <= request.before <= INT63:
            raise BadRequest("`before` is the number of an event, or 0.")

        def read(session: Session, row: SpaceRow) -> Events:
            found = event_rows.events(session, row.space, request.before or INT63, request.limit + 1)
            authors = Authors(session)
            told = tuple(_told(one, authors) for one in found[: request.limit])
            return Events(told, more=len(found) > request.limit)

        return await self._ask(device, space, Right.READ, read)

    async def answer(self, device: Device, space: SpaceId, request: EventAnswer) -> Done:
        """What a member says to an event; raises NotFound, InTheWay for one to which that cannot be said (any more)."""
        if request.says not in (ALLOWED, DONE):
            raise BadRequest(f"What is said to an event is {ALLOWED} or {DONE}, not {request.says[:40]!r}.")

        def write(session: Session, row: SpaceRow) -> Done:
            event = event_of(session, row, request.event)
            if request.says == DONE:
                close(session, row.space, event, DONE)
                return Done()
            if event.state != HELD:
                raise InTheWay(f"Event {event.event} waits for no yes: it is {_WORDS.get(event.state, event.state)}.")
            burst = event_rows.burst(session, row.space, event.user, event.device)
            removed, overwritten = total(burst) if burst is not None else (0, 0)
            until_ns = time.time_ns() + ALLOWED_NS
            allowed = replace(event, state=ALLOWED, until_ns=until_ns, removed=removed, overwritten=overwritten)
            event_rows.put_event(session, row.space, allowed)
            return Done()

        done = await self._ask(device, space, Right.WRITE, write, is_writing=True)
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


def _told(row: EventRow, authors: Authors) -> Event:
    examples = tuple(msgspec.msgpack.decode(row.examples, type=list[bytes])) if row.examples else ()
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
        examples,
        row.until_ns,
        row.node,
        row.detail,
    )
