"""Two devices and a server that are in step, for a test to bring them out of step; and what people do, in one call."""

import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from fusefs.opened import Handle
from fusefs.volume import Caller
from remote.protocol.ids import ROOT, NodeId
from tests.model.device import Device, Time, check_tree
from tests.model.play import in_no_time, quiet
from tests.model.server import Server

ME = Caller(1000, 1000, 0o22)


class World:
    """A server and two devices that are online and quiet."""

    def __init__(self, home: Path, clock: Time, nursery: trio.Nursery) -> None:
        self.home = home
        self.server = Server()
        self.one = Device(home, self.server, 1)
        self.two = Device(home, self.server, 2)
        self.nursery = nursery

    async def quiet(self) -> None:
        """Both do what is left to do, and show the same as the server."""
        await quiet(self.one, self.two)
        for device in (self.one, self.two):
            check_tree(device)
            assert device.local() == self.server.alive()
            assert not device.stagings.ids()

    def names(self) -> set[bytes]:
        """Names on the server."""
        return {name.name for node, state in self.server.alive().items() if node != ROOT for name in state.names}

    def conflicts(self) -> int:
        """Versions that lost."""
        return sum(version.is_conflict for version in self.server.all_versions())


def in_world(scene: Callable[[World], Awaitable[None]]) -> None:
    async def run(home: Path, clock: Time) -> None:
        async with trio.open_nursery() as nursery:
            world = World(home, clock, nursery)
            await world.one.start(nursery)
            await world.two.start(nursery)
            await world.quiet()
            await scene(world)
            await world.one.stop()
            await world.two.stop()

    in_no_time(run)


async def make(device: Device, name: bytes, data: bytes = b"", folder: NodeId = ROOT) -> NodeId:
    node = await device.volume.make(folder, name, stat.S_IFREG | 0o644, ME)
    if data:
        await write(device, node, data)
    return node


async def make_folder(device: Device, name: bytes, folder: NodeId = ROOT) -> NodeId:
    return await device.volume.make(folder, name, stat.S_IFDIR | 0o755, ME)


async def begin(device: Device, node: NodeId, data: bytes) -> Handle:
    """Opens the file and writes all of it; it stays open."""
    handle = device.volume.open(node, is_writing=True, is_truncating=True)
    await device.files.write(handle.file, 0, data)
    return handle


def end(device: Device, handle: Handle) -> None:
    device.volume.flush(handle.file)
    device.volume.close(handle)


async def write(device: Device, node: NodeId, data: bytes) -> None:
    end(device, await begin(device, node, data))


async def save(device: Device, name: bytes, data: bytes) -> None:
    """As an editor does."""
    await make(device, name + b"~", data)
    await device.volume.rename(ROOT, name + b"~", ROOT, name, 0)


def watch(server: Server, look: Callable[[], None]) -> None:
    """Calls `look` after each commit."""
    take = server.take

    def taken(*args: object) -> object:
        answer = take(*args)  # type: ignore[arg-type]
        look()
        return answer

    server.take = taken  # type: ignore[assignment, method-assign]
