"""The JSON API of events and of the guard against mass change."""

from typing import Annotated, Any, Literal, cast

import msgspec
from litestar import get, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter

from remote.protocol import events as messages
from remote.protocol.events import ALLOWED, DONE, EventAnswer, EventsRequest, GuardRequest
from remote.protocol.ids import SpaceId
from remote.protocol.times import iso
from remote.server.http.api_common import SpaceNumber, device_of, text_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63_TOLD

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=1_000, description="At most so many.")]
EventNumber = Annotated[
    int, PathParameter(description="The event, as /events numbers it; undo takes one, too.", ge=1, le=INT63_TOLD)
]
Before = Annotated[
    int, QueryParameter(name="before", ge=0, le=INT63_TOLD, description="Older than this event; 0: from the newest.")
]


class Event(msgspec.Struct):
    """Something to know of: a mass change, by the commits `from_rev` to `to_rev` of one device.

    `state`: told, held (it waits for a yes), allowed, done or undone. `examples`: paths of some. While it
    is held, `taken` of its files went before, and `removed` and `overwritten` are at least so many.
    """

    event: int
    kind: str
    state: str
    user: str
    device: str
    began: str
    ended: str
    from_rev: int
    to_rev: int
    removed: int
    overwritten: int
    examples: list[str]
    allowed_until: str
    node: str
    detail: str
    taken: int


class Events(msgspec.Struct):
    """The newest first; `more`: ask again with `before` of the last one."""

    events: list[Event]
    more: bool


class Guard(msgspec.Struct):
    """What happens when one device removes or overwrites `count` files within the window: off, tell or ask.

    Files whose content is newer than `settled_seconds` do not count.
    """

    mode: Literal["off", "tell", "ask"] = "tell"
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500
    window_seconds: Annotated[int, msgspec.Meta(ge=2, le=604_800)] = 600
    settled_seconds: Annotated[int, msgspec.Meta(ge=0, le=604_800)] = 600


def guard_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """The routes."""
    events = instance.events

    @get("/spaces/{space:int}/events", summary="What happened that you are to know of, newest first")
    async def listed(request: AnyRequest, space: SpaceNumber, before: Before = 0, limit: Limit = 100) -> Events:
        device = await device_of(instance, request)
        found = await events.events(device, SpaceId(space), EventsRequest(before, limit))
        return Events([_told(one) for one in found.events], found.more)

    @post("/spaces/{space:int}/events/{event:int}/allow", status_code=204, summary="Say yes: what waits goes on")
    async def allow(request: AnyRequest, space: SpaceNumber, event: EventNumber) -> None:
        await events.answer(await device_of(instance, request), SpaceId(space), EventAnswer(event, ALLOWED))

    @post("/spaces/{space:int}/events/{event:int}/done", status_code=204, summary="Say that it was seen to")
    async def done(request: AnyRequest, space: SpaceNumber, event: EventNumber) -> None:
        await events.answer(await device_of(instance, request), SpaceId(space), EventAnswer(event, DONE))

    @get("/spaces/{space:int}/guard", summary="What happens when a device removes or overwrites much")
    async def guard(request: AnyRequest, space: SpaceNumber) -> Guard:
        return _guard(await events.guard(await device_of(instance, request), SpaceId(space), GuardRequest()))

    @put("/spaces/{space:int}/guard", summary="Set what happens when a device removes or overwrites much")
    async def set_guard(request: AnyRequest, space: SpaceNumber, data: JSONBody[Guard]) -> Guard:
        wanted = messages.Guard(data.mode, data.count, data.window_seconds, data.settled_seconds)
        device = await device_of(instance, request)
        return _guard(await events.guard(device, SpaceId(space), GuardRequest(wanted)))

    return [listed, allow, done, guard, set_guard]


def _guard(found: messages.Guard) -> Guard:
    return Guard(
        cast(Literal["off", "tell", "ask"], found.mode), found.count, found.window_seconds, found.settled_seconds
    )


def _told(one: messages.Event) -> Event:
    return Event(
        event=one.event,
        kind=one.kind,
        state=one.state,
        user=one.user_name,
        device=one.device_name,
        began=iso(one.began_ns),
        ended=iso(one.ended_ns),
        from_rev=one.from_rev,
        to_rev=one.to_rev,
        removed=one.removed,
        overwritten=one.overwritten,
        examples=[text_of(path) for path in one.examples],
        allowed_until=iso(one.until_ns) if one.until_ns else "",
        node=str(one.node) if one.node else "",
        detail=one.detail,
        taken=one.taken,
    )
