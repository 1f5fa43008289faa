"""Leases: what each device may fill of a quota without asking; together never more than it leaves."""

from typing import Any

import pytest

from remote.protocol.errors import BadRequest, NotFound, QuotaExceeded
from remote.protocol.messages import Holding, PollAnswer, PollRequest, Room, RoomRequest
from remote.protocol.nodes import Manifest
from remote.server import leases
from remote.server.database import spaces as space_rows
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio

QUOTA = 1_200


async def room(asker: Any, wanted: int = 0, holding: Holding | None = None, space: int = 0) -> Room:
    found: Room = await asker.in_space("room", RoomRequest(holding, wanted), Room, space)
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


async def test_what_no_device_sends_is_refused(desk: Any, bob: Any) -> None:
    for request in (RoomRequest(wanted=-1), RoomRequest(Holding(-1, 0)), RoomRequest(Holding(0, -1))):
        with pytest.raises(BadRequest):
            await desk.in_space("room", request, Room)
    with pytest.raises(NotFound):
        await room(bob, space=desk.home)
