"""Many spaces wait in one request, each hears its own news, and a list of spaces that is old is told of once."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from cache.lease import Lease
from cache.polls import Polls
from cache.records import STATE_TABLES
from cache.store import Store
from cache.tree import Tree
from remote.protocol.errors import Unreachable
from remote.protocol.ids import Rev, SpaceId
from remote.protocol.messages import Holding, PollAnswer, Room
from remote.protocol.service import NOTHING_HELD
from tests.model.device import Time
from tests.model.play import in_no_time

ONE, TWO = SpaceId(1), SpaceId(2)


class Server:
    """Answers polls when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[SpaceId, Rev], int]] = []
        self.held: list[dict[SpaceId, int]] = []
        self.leases: dict[SpaceId, Lease] = {}
        self.rooms: dict[SpaceId, Room] = {}
        """What is told with the next answer, which comes at once, though nothing moved."""
        self.heads: dict[SpaceId, Rev] = {ONE: Rev(5), TWO: Rev(7)}
        self.serial = 0
        self.is_away = False
        self.moved = trio.Event()

    def move(self) -> None:
        """Lets who waits look again."""
        self.moved.set()
        self.moved = trio.Event()

    async def poll(
        self,
        cursors: Mapping[SpaceId, Rev],
        wait_seconds: int,
        holding: Mapping[SpaceId, Holding] = NOTHING_HELD,
        serial: int = 0,
    ) -> PollAnswer:
        """As the server does."""
        self.asked.append((dict(cursors), serial))
        self.held.append({space: held.lease for space, held in holding.items()})
        with trio.move_on_after(wait_seconds):
            while True:
                if self.is_away:
                    raise Unreachable("the wire is out")
                heads = {space: self.heads[space] for space, rev in cursors.items() if self.heads[space] > rev}
                is_changed = bool(serial) and serial != self.serial
                if heads or is_changed:
                    return PollAnswer(heads, 1, is_changed)
                if self.rooms:
                    rooms, self.rooms = self.rooms, {}
                    return PollAnswer({space: cursors[space] for space in rooms}, 1, rooms=rooms)
                await self.moved.wait()
        return PollAnswer({}, 1)


def on_the_test_clock(scene: Callable[[Server, Polls, trio.Nursery], Awaitable[None]]) -> None:
    async def run(home: Path, _clock: Time) -> None:
        server: Any = Server()
        for space in (ONE, TWO):
            tree = Tree(Store(home / f"{space}.mdb", STATE_TABLES, has_journal=True))
            tree.make_root()
            server.leases[space] = Lease(tree)
        async with trio.open_nursery() as nursery:
            await scene(server, Polls(server), nursery)
            nursery.cancel_scope.cancel()

    in_no_time(run)


def test_two_spaces_wait_in_one_request_and_each_hears_its_own() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        heard: list[tuple[SpaceId, dict[SpaceId, Rev]]] = []

        async def wait(space: SpaceId) -> None:
            while True:
                answer = await polls.poll(space, server.heads[space], server.leases[space], 30)
                heard.append((space, answer.heads))

        nursery.start_soon(wait, ONE)
        nursery.start_soon(wait, TWO)
        await trio.sleep(1)
        assert server.asked[-1][0] == {ONE: Rev(5), TWO: Rev(7)}
        server.heads[TWO] = Rev(8)
        server.move()
        await trio.sleep(1)
        assert heard == [(TWO, {TWO: Rev(8)})]
        assert server.asked[-1][0] == {ONE: Rev(5), TWO: Rev(8)}
        server.heads[ONE] = Rev(6)
        server.move()
        await trio.sleep(1)
        assert heard[1:] == [(ONE, {ONE: Rev(6)})]

    on_the_test_clock(scene)


def test_who_led_the_others_and_is_gone_is_followed_by_another() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        heard: list[dict[SpaceId, Rev]] = []
        scope = trio.CancelScope()

        async def lead() -> None:
            with scope:
                await polls.poll(ONE, Rev(5), server.leases[ONE], 30)

        async def follow() -> None:
            heard.append((await polls.poll(TWO, Rev(7), server.leases[TWO], 30)).heads)

        nursery.start_soon(lead)
        await trio.sleep(1)
        nursery.start_soon(follow)
        await trio.sleep(1)
        scope.cancel()
        await trio.sleep(1)
        server.heads[TWO] = Rev(9)
        server.move()
        await trio.sleep(1)
        assert heard == [{TWO: Rev(9)}]

    on_the_test_clock(scene)


def test_a_list_of_spaces_that_is_old_is_told_of_once() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        told: list[int] = []
        polls.on_spaces_changed = lambda: told.append(polls.serial)
        polls.serial, server.serial = 3, 4
        for _ in range(3):
            await polls.poll(ONE, Rev(5), server.leases[ONE], 30)
        assert told == [0]
        assert [serial for _, serial in server.asked] == [3, 0, 0]

    on_the_test_clock(scene)


def test_a_list_that_stays_old_is_told_of_now_and_then() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        server.serial = 3

        def take_an_old_list() -> None:
            polls.serial = 2

        polls.on_spaces_changed = take_an_old_list
        take_an_old_list()
        with trio.move_on_after(60):
            while True:
                await polls.poll(ONE, server.heads[ONE], server.leases[ONE], 30)
        assert 3 <= len(server.asked) <= 12
        # News is heard all the same, and at once when the list is as it should be.
        polls.on_spaces_changed = lambda: None
        polls.serial = 3
        server.heads[ONE] = Rev(6)
        with trio.fail_after(20):
            assert (await polls.poll(ONE, Rev(5), server.leases[ONE], 30)).heads == {ONE: 6}

    on_the_test_clock(scene)


def test_what_others_need_of_a_quota_is_let_go_of_at_once_by_all_spaces() -> None:
    def room(lease: int, share: int, serial: int = 0) -> Room:
        return Room(Rev(5), quota=1_000, left=1_000, lease=lease, share=share, serial=serial)

    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        heard: list[SpaceId] = []

        async def wait(space: SpaceId) -> None:
            await polls.poll(space, server.heads[space], server.leases[space], 30)
            heard.append(space)

        server.leases[ONE].take(room(300, 300))
        server.leases[TWO].take(room(200, 200))
        nursery.start_soon(wait, ONE)
        nursery.start_soon(wait, TWO)
        await trio.sleep(1)
        assert server.held[-1] == {ONE: 300, TWO: 200}
        server.leases[TWO].unflushed_bytes = lambda: 50
        server.rooms = {ONE: room(300, 0), TWO: room(200, 0)}
        server.move()
        await trio.sleep(1)
        # Nobody has to look for news because of it.
        assert (server.held[-1], heard) == ({ONE: 0, TWO: 50}, [])
        # Also by a space that is busy with news when it is told, and comes back while others wait.
        server.heads[TWO] = Rev(8)
        server.move()
        await trio.sleep(1)
        assert heard == [TWO]
        server.leases[TWO].take(room(200, 0, serial=server.leases[TWO].room.serial))
        nursery.start_soon(wait, TWO)
        await trio.sleep(1)
        assert server.held[-1] == {ONE: 0, TWO: 50}

    on_the_test_clock(scene)


def test_all_hear_that_the_server_is_away() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        failed: list[SpaceId] = []

        async def wait(space: SpaceId) -> None:
            with pytest.raises(Unreachable):
                await polls.poll(space, server.heads[space], server.leases[space], 30)
            failed.append(space)

        nursery.start_soon(wait, ONE)
        nursery.start_soon(wait, TWO)
        await trio.sleep(1)
        server.is_away = True
        server.move()
        await trio.sleep(1)
        assert sorted(failed) == [ONE, TWO]

    on_the_test_clock(scene)
