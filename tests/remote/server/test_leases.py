"""Leases: what each device may fill of a quota without asking; together never more than it leaves."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from remote.protocol.errors import BadRequest, NotFound, QuotaExceeded
from remote.protocol.messages import Holding, PollAnswer, PollRequest, Room, RoomRequest
from remote.protocol.nodes import Manifest
from remote.server import leases, needs
from remote.server.accounts import set_home_quota
from remote.server.database import spaces as space_rows
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio

QUOTA = 1_200


async def room(asker: Any, wanted: int = 0, holding: Holding | None = None, space: int = 0, *, needed: int = 0) -> Room:
    found: Room = await asker.in_space("room", RoomRequest(holding, wanted, needed), Room, space)
    return found


async def poll(asker: Any, holding: Holding | None = None, rev: int = 1, serial: int = 0) -> PollAnswer:
    held = {} if holding is None else {asker.home: holding}
    found: PollAnswer = await asker.ask(
        "POST", "/v1/poll", PollRequest({asker.home: rev}, 60, held, serial), PollAnswer
    )  # type: ignore[arg-type]
    return found


async def set_quota(instance: Instance, asker: Any, quota: int) -> None:
    await instance.database.write(lambda session: space_rows.set_quota(session, asker.home, quota))


async def grown(asker: Any, build: Any, size: int) -> Room:
    """What the commit of a new file of this size says there is room for."""
    answer = await asker.commit(
        build.change(
            await asker.new_id(), build.file(b"%d" % await asker.new_id(), content=Manifest(size, b"x" * size))
        )
    )
    assert answer.rev, answer.reason
    assert answer.room is not None
    found: Room = answer.room
    return found


@pytest.fixture
async def desk(ann: Any, instance: Instance) -> Any:
    await set_quota(instance, ann, QUOTA)
    return ann


@pytest.fixture
async def laptop(sign_in: Any, desk: Any) -> Any:
    return await sign_in("ann")


async def test_without_a_quota_there_is_nothing_to_lease(ann: Any, build: Any) -> None:
    assert (await grown(ann, build, 10)).quota == 0
    answer = await ann.poll({ann.home: 0})
    assert answer.rooms[ann.home].quota == 0
    assert answer.rooms[ann.home].used == 10
    assert answer.rooms[ann.home].free > 1 << 20


async def test_each_gets_a_share_and_one_share_stays_free(desk: Any, laptop: Any) -> None:
    assert (await room(desk)).lease == 600
    first = await room(laptop)
    assert (first.lease, first.left, first.share) == (400, 600, 400)
    # The desk was promised its own, and keeps it until it says otherwise.
    assert (await room(desk)).lease == 600
    assert (await room(desk, holding=Holding(400, 1))).lease == 400
    assert (await room(laptop)).left == 800


async def test_all_that_nobody_holds_can_be_had(desk: Any, laptop: Any) -> None:
    await room(laptop)
    assert (await room(desk, wanted=5_000)).lease == 600
    assert (await room(laptop, wanted=5_000)).lease == 600


async def test_a_commit_may_not_take_what_others_hold(desk: Any, laptop: Any, build: Any) -> None:
    await room(laptop)
    refused = build.change(await desk.new_id(), build.file(b"a", content=Manifest(601, b"x" * 601)))
    with pytest.raises(
        QuotaExceeded, match="600 bytes are kept for what other devices write; this needs 601 bytes more"
    ):
        await desk.commit(refused)
    # The last of its own lease, although nothing else is left.
    assert (await grown(desk, build, 600)).left == 0
    assert (await grown(laptop, build, 600)).used == QUOTA


async def test_what_a_device_sends_comes_off_its_lease_and_what_it_frees_is_its_own(
    desk: Any, laptop: Any, build: Any
) -> None:
    await room(desk, wanted=1_000)
    assert (await room(laptop)).lease == 200
    node = await desk.new_file(b"a", content=Manifest(900, b"x" * 900))
    told = await room(desk)
    assert (told.lease, told.used, told.left) == (100, 900, 100)
    rev = (await desk.node(node)).rev
    answer = await desk.commit(build.change(node, None, rev))
    assert answer.room.lease == 1_000
    assert (await room(laptop)).lease == 200


async def test_an_older_word_does_not_undo_a_newer_one(desk: Any) -> None:
    await room(desk)
    assert (await room(desk, wanted=900, holding=Holding(600, 5))).lease == 900
    late = await room(desk, holding=Holding(0, 4))
    assert (late.lease, late.serial) == (900, 5)
    assert (await room(desk, holding=Holding(0, 6))).lease == 600


async def test_a_poll_tells_and_is_told(desk: Any, laptop: Any, instance: Instance) -> None:
    assert (await room(desk, wanted=QUOTA)).lease == QUOTA
    request = PollRequest({desk.home: 0}, 60, {desk.home: Holding(100, 1)})  # type: ignore[dict-item]
    answer = await desk.ask("POST", "/v1/poll", request, PollAnswer)
    assert answer.rooms[desk.home].lease == 600
    assert (await room(laptop)).left == 600


async def test_a_lease_ends_with_its_device_or_when_it_was_not_heard_for_long(
    desk: Any, laptop: Any, sign_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room(desk, wanted=QUOTA)
    assert (await room(laptop)).left == 0
    await desk.ask("POST", "/v1/logout", None, dict)
    assert (await room(laptop)).left == QUOTA
    monkeypatch.setattr(leases, "LEASE_NS", -1)
    await room(laptop, wanted=QUOTA)
    monkeypatch.undo()
    third = await sign_in("ann")
    assert (await room(third)).left == QUOTA
    # Back after all: it gets what is left of what it held.
    assert (await room(third, wanted=1_000)).lease == 1_000
    assert (await room(laptop, holding=Holding(QUOTA, 9))).lease == 200


async def test_a_smaller_quota_takes_leases_back(desk: Any, laptop: Any, instance: Instance) -> None:
    await room(desk)
    await room(laptop)
    await set_quota(instance, desk, 500)
    assert (await room(laptop)).lease == 0
    assert (await room(desk)).lease == 500


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody is given up."""
    monkeypatch.setattr(needs, "NEED_SECONDS", 600.0)


@pytest.mark.usefixtures("patient")
async def test_who_needs_more_gets_what_others_that_wait_for_news_do_not_need(
    desk: Any, laptop: Any, build: Any, instance: Instance
) -> None:
    await room(desk)
    assert (await room(laptop)).lease == 400
    waiting = asyncio.create_task(poll(laptop))
    await build.until(lambda: instance.hub.waiting == 1)
    needing = asyncio.create_task(room(desk, wanted=1_500, needed=1_100))
    told = await waiting
    # Nothing is new but that: no share, so what is beyond the need is to be let go of.
    assert told.heads == {laptop.home: 1}
    assert (told.rooms[laptop.home].share, told.rooms[laptop.home].lease) == (0, 400)
    assert not needing.done()
    waiting = asyncio.create_task(poll(laptop, Holding(50, 1)))
    assert (await needing).lease == 1_150
    # It is told once, and gets no share that it would have to give back at once.
    assert not waiting.done()
    assert (await room(laptop)).lease == 50
    # Asked anew it would say the same: nobody waits for that.
    assert (await room(desk, wanted=1_200, needed=1_200)).lease == 1_150
    assert not waiting.done()
    # It got more since, and is asked for it.
    assert (await room(desk, holding=Holding(100, 1))).lease == 100
    assert (await room(laptop, wanted=900)).lease == 900
    needing = asyncio.create_task(room(desk, needed=300))
    assert (await waiting).rooms[laptop.home].lease == 900
    waiting = asyncio.create_task(poll(laptop, Holding(600, 2)))
    assert (await needing).lease == 300
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


@pytest.mark.usefixtures("patient")
async def test_who_was_not_waiting_for_news_is_told_by_its_next_poll(desk: Any, laptop: Any, build: Any) -> None:
    await room(desk)
    await room(laptop)
    needing = asyncio.create_task(room(desk, wanted=1_200, needed=1_200))
    while (await room(laptop)).share:
        # It is not asked yet.
        pass
    # What it holds it says before it is told.
    told = await poll(laptop, Holding(400, 1))
    assert told.rooms[laptop.home].share == 0
    waiting = asyncio.create_task(poll(laptop, Holding(0, 2)))
    assert (await needing).lease == 1_200
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


@pytest.mark.usefixtures("patient")
async def test_a_commit_waits_for_what_others_do_not_need_also_one_without_a_device(
    desk: Any, laptop: Any, build: Any, instance: Instance
) -> None:
    await room(laptop, wanted=1_000)
    waiting = asyncio.create_task(poll(laptop))
    await build.until(lambda: instance.hub.waiting == 1)
    writing = asyncio.create_task(grown(desk, build, 700))
    assert (await waiting).rooms[laptop.home].share == 0
    letting = asyncio.create_task(poll(laptop, Holding(0, 1), rev=1))
    assert (await writing).used == 700
    await letting
    await room(laptop, wanted=500)
    waiting = asyncio.create_task(poll(laptop, rev=2))
    await build.until(lambda: instance.hub.waiting == 1)
    put = desk.http.put("/api/v1/files", params={"path": "/a"}, content=b"x" * 400, headers=desk.headers)
    putting = asyncio.create_task(put)
    assert (await waiting).rooms[laptop.home].share == 0
    letting = asyncio.create_task(poll(laptop, Holding(100, 2), rev=2))
    assert (await putting).status_code == 201, (await putting).content
    await letting


@pytest.mark.usefixtures("patient")
async def test_nobody_is_asked_for_what_all_together_do_not_have(desk: Any, laptop: Any, build: Any) -> None:
    await room(desk)
    assert (await room(laptop)).lease == 400
    assert (await room(desk, wanted=1_300, needed=1_201)).lease == 800
    assert (await room(laptop)).share


async def test_who_is_away_keeps_what_it_holds(desk: Any, laptop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "NEED_SECONDS", 0.01)
    await room(desk)
    await room(laptop)
    assert (await room(desk, wanted=1_200, needed=1_000)).lease == 800
    assert (await room(laptop)).lease == 400
    monkeypatch.setattr(needs, "_SCARCE_SECONDS", 0.0)
    assert (await room(desk, wanted=1_200, needed=1_000)).lease == 800
    assert (await room(desk)).share, "shares are given again when nobody has needed more for some time"


async def test_a_quota_that_is_set_is_told_to_who_waits(desk: Any, laptop: Any, build: Any, instance: Instance) -> None:
    serial = (await laptop.spaces()).serial
    waiting = asyncio.create_task(poll(laptop, serial=serial))
    await build.until(lambda: instance.hub.waiting == 1)
    await instance.database.write(lambda session: set_home_quota(session, None, "ann", 700))  # type: ignore[arg-type]
    instance.hub.wake()
    told = await waiting
    assert told.spaces_changed
    assert told.rooms[laptop.home].quota == 700


async def test_what_no_device_sends_is_refused(desk: Any, bob: Any) -> None:
    for request in (RoomRequest(wanted=-1), RoomRequest(Holding(-1, 0)), RoomRequest(Holding(0, -1))):
        with pytest.raises(BadRequest):
            await desk.in_space("room", request, Room)
    with pytest.raises(NotFound):
        await room(bob, space=desk.home)
