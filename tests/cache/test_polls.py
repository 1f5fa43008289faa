"""Many spaces wait in one request, each hears its own news, and a list of spaces that is old is told of once."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from cache.polls import Polls
from remote.protocol.errors import Unreachable
from remote.protocol.ids import Rev, SpaceId
from remote.protocol.messages import Holding, PollAnswer
from remote.protocol.service import NOTHING_HELD
from tests.model.device import Time
from tests.model.play import in_no_time

ONE, TWO = SpaceId(1), SpaceId(2)


class Server:
    """Answers polls when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[SpaceId, Rev], int]] = []
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
        with trio.move_on_after(wait_seconds):
            while True:
                if self.is_away:
                    raise Unreachable("the wire is out")
                heads = {space: self.heads[space] for space, rev in cursors.items() if self.heads[space] > rev}
                is_changed = bool(serial) and serial != self.serial
                if heads or is_changed:
                    return PollAnswer(heads, 1, is_changed)
                await self.moved.wait()
        return PollAnswer({}, 1)


def on_the_test_clock(scene: Callable[[Server, Polls, trio.Nursery], Awaitable[None]]) -> None:
    async def run(_home: Path, _clock: Time) -> None:
        server: Any = Server()
        async with trio.open_nursery() as nursery:
            await scene(server, Polls(server), nursery)
            nursery.cancel_scope.cancel()

    in_no_time(run)


def test_two_spaces_wait_in_one_request_and_each_hears_its_own() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        heard: list[tuple[SpaceId, dict[SpaceId, Rev]]] = []

        async def wait(space: SpaceId) -> None:
            while True:
                answer = await polls.poll({space: server.heads[space]}, 30)
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
                await polls.poll({ONE: Rev(5)}, 30)

        async def follow() -> None:
            heard.append((await polls.poll({TWO: Rev(7)}, 30)).heads)

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
            await polls.poll({ONE: Rev(5)}, 30)
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
                await polls.poll({ONE: server.heads[ONE]}, 30)
        assert 3 <= len(server.asked) <= 12
        # News is heard all the same, and at once when the list is as it should be.
        polls.on_spaces_changed = lambda: None
        polls.serial = 3
        server.heads[ONE] = Rev(6)
        with trio.fail_after(20):
            assert (await polls.poll({ONE: Rev(5)}, 30)).heads == {ONE: 6}

    on_the_test_clock(scene)


def test_all_hear_that_the_server_is_away() -> None:
    async def scene(server: Server, polls: Polls, nursery: trio.Nursery) -> None:
        failed: list[SpaceId] = []

        async def wait(space: SpaceId) -> None:
            with pytest.raises(Unreachable):
                await polls.poll({space: server.heads[space]}, 30)
            failed.append(space)

        nursery.start_soon(wait, ONE)
        nursery.start_soon(wait, TWO)
        await trio.sleep(1)
        server.is_away = True
        server.move()
        await trio.sleep(1)
        assert sorted(failed) == [ONE, TWO]

    on_the_test_clock(scene)
