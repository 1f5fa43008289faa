"""Verbs about events and the guard against mass change; see `verbs` for the others."""

import math
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from fusefs import moments
from fusefs.control import Refused
from fusefs.drive import Drive
from fusefs.sending import Sending
from fusefs.sights import Fields, Sight
from remote.protocol.errors import RemoteError
from remote.protocol.events import ALLOWED, DONE, EVENTS_MAX, HELD, INFECTED, OPEN, Event
from remote.protocol.ids import ROOT, SpaceId
from remote.protocol.messages import Room

_SENT_SECONDS: Final = 240.0
"""How long what is to be taken back may take to be sent."""
_ASKED_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 5.0
"""How long `status` waits for the server, and how long its answer will do."""


class GuardVerbs:
    """Answers for one mounted drive."""

    def __init__(self, drive: Drive, sending: Sending) -> None:
        self._drive = drive
        self._sending = sending
        self.verbs: dict[str, Callable[[Fields], Awaitable[object]]] = {
            "events": self._events,
            "event-done": self._done,
            "guard": self._guard,
            "guard-allow": self._allow,
            "guard-refuse": self._refuse,
        }

    async def _events(self, fields: Fields) -> object:
        limit = min(max(1, int(fields.get("limit", 100))), EVENTS_MAX)
        sight = self._drive.sights.named(fields)
        found = await sight.acts.events(sight.space, 0, limit)
        path = self._drive.sights.prefix(sight)
        return {"events": [told(one, path) for one in found.events], "more": found.more}

    async def _done(self, fields: Fields) -> object:
        event = int(fields["event"])
        sight = self._drive.sights.named(fields)
        await sight.acts.answer_event(sight.space, event, DONE)
        return {"event": event}

    async def _guard(self, fields: Fields) -> object:
        """What the space does of itself, and sets what is said of it."""
        return await self._drive.sights.choices(fields, lambda sight, to: sight.acts.guard(sight.space, to))

    async def _allow(self, fields: Fields) -> object:
        return {"event": (await self._allowed(fields)).event}

    async def _refuse(self, fields: Fields) -> object:
        """What is held is sent, so that it is kept as versions, and then undone by the caller."""
        await self._sending.flush()
        event = await self._allowed(fields)
        where = f" --in {self._sending.shown(str(fields['path']))}" if fields.get("path") else ""
        later = (
            "It is allowed, to be on the server before it is taken back. Then: "
            f"satchel undo --event {event.event}{where}."
        )
        await self._sending.all_of(ROOT, _SENT_SECONDS, later)
        return {"event": event.event}

    async def _allowed(self, fields: Fields) -> Event:
        """The held event of this number, or the only one, which is now allowed."""
        number = int(fields.get("event") or 0)
        sight = self._drive.sights.named(fields)
        found = await sight.acts.events(sight.space, 0, EVENTS_MAX)
        held = [
            one
            for one in found.events
            if (one.state == HELD and number in (0, one.event)) or (one.kind == INFECTED and one.event == number)
        ]
        if not held:
            which = f"Event {number} waits for no yes" if number else "Nothing waits for a yes"
            raise Refused(f"{which}: satchel events lists what there was.")
        if len(held) > 1:
            numbers = ", ".join(str(one.event) for one in held)
            raise Refused(f"Several wait for a yes, of several devices: say which one ({numbers}).")
        await sight.acts.answer_event(sight.space, held[0].event, ALLOWED)
        self._drive.sync.retry_all()
        return held[0]


class Waiting:
    """The events that wait for a person, as `status` tells them."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._found: dict[SpaceId, list[Fields]] = {}
        self._asked_at: dict[SpaceId, float] = {}

    async def waiting(self) -> list[Fields]:
        """Those of all spaces, as of some seconds ago; none before the server has told of any."""
        drive = self._drive
        rooms = {drive.space: drive.room, **{one.known.space: one.lease.room for one in drive.grafts.all.values()}}
        found: list[Fields] = []
        for sight in drive.sights.all():
            found += await self._waiting(sight, rooms.get(sight.space, Room()).events)
        return found

    async def _waiting(self, sight: Sight, count: int) -> list[Fields]:
        space, now = sight.space, trio.current_time()
        if not count:
            self._found.pop(space, None)
        elif self._drive.sync.is_online and now > self._asked_at.get(space, -math.inf) + _AGAIN_SECONDS:
            self._asked_at[space] = now
            with suppress(RemoteError, trio.TooSlowError), trio.move_on_after(_ASKED_SECONDS):
                found = await sight.acts.events(space)
                path = self._drive.sights.prefix(sight)
                self._found[space] = [told(one, path) for one in found.events if one.state in OPEN]
        return self._found.get(space, [])


def told(event: Event, space: bytes) -> Fields:
    """An event, as JSON; `space`: what stands before paths of its space in the mount."""
    return {
        "event": event.event,
        "in": os.fsdecode(space.rstrip(b"/")),
        "kind": event.kind,
        "state": event.state,
        "user": event.user_name,
        "device": event.device_name,
        "began": moments.iso(event.began_ns),
        "ended": moments.iso(event.ended_ns),
        "from_rev": event.from_rev,
        "to_rev": event.to_rev,
        "removed": event.removed,
        "overwritten": event.overwritten,
        "examples": [os.fsdecode(space + path) for path in event.examples],
        "allowed_until": moments.iso(event.until_ns) if event.until_ns else "",
        "detail": event.detail,
        "taken": event.taken,
    }
