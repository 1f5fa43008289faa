"""Random edits on two devices while the server is put back from older copies: all ends in step, no content is gone."""

import os
import random
from contextlib import suppress

import pytest
import trio

from cache.errors import CacheError
from cache.resending import ContentLost
from fusefs.errors import VolumeError
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Kind
from tests.model.device import Device
from tests.model.world import World, in_world, make, make_folder, write

SEEDS = int(os.environ.get("SATCHEL_TEST_PLAYS", "12"))
FIRST_SEED = int(os.environ.get("SATCHEL_TEST_SEED", "0"))


class Play:
    """What a seed makes two devices do."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.count = 0
        self.has_copy = False

    def device(self) -> Device:
        return self.chance.choice((self.world.one, self.world.two))

    def some(self, device: Device, kind: Kind) -> NodeId | None:
        found = [node for node, state in device.local().items() if state.kind is kind and node != ROOT and state.names]
        return self.chance.choice(sorted(found)) if found else None

    def new(self) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def data(self) -> bytes:
        return self.new() * self.chance.choice((1, 1_000, 100_000))

    async def step(self) -> None:
        device = self.device()
        folder = self.some(device, Kind.FOLDER) if self.chance.random() < 0.5 else None
        file = self.some(device, Kind.FILE)
        match self.chance.choices(range(8), (4, 2, 4, 2, 2, 3, 2, 2))[0]:
            case 0:
                await make(device, self.new(), self.data(), folder or ROOT)
            case 1:
                await make_folder(device, self.new(), folder or ROOT)
            case 2 if file is not None:
                await write(device, file, self.data())
            case 3 if file is not None:
                name = device.local()[file].names[0]
                await device.volume.rename(name.parent, name.name, folder or ROOT, self.new(), 0)
            case 4 if file is not None:
                name = device.local()[file].names[0]
                await device.volume.unlink(name.parent, name.name)
            case 5:
                await trio.sleep(self.chance.choice((0.1, 3, 40)))
            case 6:
                device.wire.set_up(self.chance.random() < 0.6)
            case 7 if self.chance.random() < 0.5:
                self.world.server.back_up()
                self.has_copy = True
            case _:
                if self.has_copy and self.chance.random() < 0.3:
                    self.world.server.put_back()

    async def run(self) -> None:
        for _ in range(self.chance.randrange(10, 50)):
            # The other device may have been first, and content may be on the server only, which is not to be reached.
            with suppress(VolumeError, CacheError):
                await self.step()
        devices = (self.world.one, self.world.two)
        before = [await self.contents(device) for device in devices]
        for device in devices:
            device.wire.set_up(True)
        await self.give_up_what_nobody_has()
        await self.world.quiet()
        after = [await self.contents(device) for device in devices]
        assert after[0] == after[1]
        kept = {*after[0].values(), *await self.versions()}
        for shown in before:
            assert not set(shown.values()) - kept

    async def give_up_what_nobody_has(self) -> None:
        """Removes files of which the server lost the content that no device has any more."""
        await trio.sleep(1_000)
        for device in (self.world.one, self.world.two):
            for node, trouble in device.push.troubles.stuck(1_000):
                state = device.local().get(node)
                if isinstance(trouble.error, ContentLost) and state is not None:
                    await device.volume.unlink(state.names[0].parent, state.names[0].name)

    async def contents(self, device: Device) -> dict[NodeId, bytes]:
        """What its files hold, as far as it can be read here."""
        found: dict[NodeId, bytes] = {}
        for node, state in device.local().items():
            if state.kind is Kind.FILE and state.names:
                with suppress(CacheError):
                    found[node] = await device.content(node)
        return found

    async def versions(self) -> set[bytes]:
        """What all versions on the server hold."""
        states = [version.state for version in self.world.server.all_versions()]
        contents = [state.content for state in states if state is not None and state.content is not None]
        found: set[bytes] = set()
        for content in contents:
            with suppress(CacheError):
                found.add(bytes(await self.world.one.reader.read(content, 0, content.size)))
        return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_devices_and_a_server_that_is_put_back_end_in_step(seed: int) -> None:
    async def scene(world: World) -> None:
        await Play(world, FIRST_SEED + seed).run()

    in_world(scene)
