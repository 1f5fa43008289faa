"""A server that comes back after an absence: many devices return one after the other, soon, and with few requests."""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from remote.protocol.ids import ROOT
from tests.model.device import Device, Time
from tests.model.play import in_no_time, quiet
from tests.model.server import Server
from tests.model.world import make

DEVICES = 24
AWAY_SECONDS = 120


class Counted:
    """Devices of one server, and when each of them asked it for something."""

    def __init__(self, home: Path) -> None:
        self.server = Server()
        self.devices = [Device(home, self.server, number + 1, seed=number) for number in range(DEVICES)]
        self.asked: list[tuple[float, int]] = []
        for number, device in enumerate(self.devices):
            self._count(device, number)

    def _count(self, device: Device, number: int) -> None:
        carry = device.wire.carry

        async def counted(request: Callable[[], Awaitable[Any]]) -> Any:
            self.asked.append((trio.current_time(), number))
            return await carry(request)

        device.wire.carry = counted  # type: ignore[method-assign, assignment]

    def set_up(self, is_up: bool) -> None:
        for device in self.devices:
            device.wire.set_up(is_up)

    def since(self, begun: float) -> list[tuple[float, int]]:
        return [(at - begun, number) for at, number in self.asked if at >= begun]


async def away(counted: Counted, nursery: trio.Nursery) -> float:
    """All devices lose the server at one moment and work on; when it is there again."""
    for device in counted.devices:
        await device.start(nursery)
    await quiet(*counted.devices)
    counted.set_up(False)
    gone = trio.current_time()
    for number, device in enumerate(counted.devices):
        await make(device, b"made offline %d" % number, b"x" * 5_000)
    while trio.current_time() < gone + AWAY_SECONDS:
        await trio.sleep(0.1)
        is_said = trio.current_time() < gone + 1 or not any(device.sync.is_online for device in counted.devices)
        assert is_said, "a server that is away is said to be there"
    counted.set_up(True)
    return trio.current_time()


def in_play(scene: Callable[[Counted, trio.Nursery], Awaitable[None]]) -> None:
    async def run(home: Path, clock: Time) -> None:
        async with trio.open_nursery() as nursery:
            counted = Counted(home)
            await scene(counted, nursery)
            for device in counted.devices:
                await device.stop()

    in_no_time(run)


def test_devices_come_back_one_after_the_other_and_are_in_step_within_seconds() -> None:
    async def scene(counted: Counted, nursery: trio.Nursery) -> None:
        begun = await away(counted, nursery)
        while not all(device.is_quiet() for device in counted.devices):
            await trio.sleep(0.1)
            assert trio.current_time() < begun + 12, "it takes too long"
        names = {name.name for node, state in counted.server.alive().items() if node != ROOT for name in state.names}
        assert names == {b"made offline %d" % number for number in range(DEVICES)}
        first: dict[int, float] = {}
        for at, number in counted.since(begun):
            first.setdefault(number, at)
        assert len(first) == DEVICES
        in_second = Counter(int(at) for at in first.values())
        # Without jitter all of them come in one second.
        assert max(in_second.values()) <= DEVICES // 3, in_second
        in_first_second = sum(at < 1 for at, _ in counted.since(begun))
        assert in_first_second < DEVICES * 4, in_first_second
        # Each sends a file, hears of those of the others as they come, and asks for nothing twice.
        assert len(counted.since(begun)) < DEVICES * 30, len(counted.since(begun))

    in_play(scene)


def test_a_server_that_is_away_is_asked_seldom() -> None:
    async def scene(counted: Counted, nursery: trio.Nursery) -> None:
        begun = await away(counted, nursery)
        late = [at for at, _ in counted.since(begun - AWAY_SECONDS / 2) if at < AWAY_SECONDS / 2]
        # Both sides of each device try every four to eight seconds.
        assert 0 < len(late) <= DEVICES * 2 * (AWAY_SECONDS / 2) / 4
        per_second = Counter(int(at) for at in late)
        assert max(per_second.values()) < DEVICES

    in_play(scene)
