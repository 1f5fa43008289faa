"""Random plays with shared folders: two devices of the owner, two of a guest, a wire that fails; some are killed.

At the end all show what the server has, each node in its space, and no content that was written is lost.
SATCHEL_SHARING_SEEDS chooses how many are played.
"""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from cache.errors import CacheError
from fusefs.errors import VolumeError
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ROOT, DeviceId, NodeId, SpaceId
from remote.protocol.nodes import Kind, Name, NodeState
from remote.protocol.sharing import PermitRequest, RevokeRequest, SharedSpaceRequest, ShareRequest, Wish
from tests.model.device import Device, Time, check_tree
from tests.model.play import in_no_time, quiet
from tests.model.server import GUEST, GUESTS, SPACE, Server
from tests.model.world import make, make_folder, write

SEEDS = int(os.environ.get("SATCHEL_SHARING_SEEDS", "8"))
FIRST = int(os.environ.get("SATCHEL_SHARING_FIRST", "0"))
STEPS = 60
NAMES = (b"a", b"b", b"c", b"d")
OWNER = DeviceId(1)
ROLES = ("viewer", "editor", "editor", "manager")


class SharingPlay:
    """One play."""

    def __init__(self, home: Path, seed: int, nursery: trio.Nursery) -> None:
        self.rng = random.Random(seed)
        self.server = Server()
        self.devices = [Device(home, self.server, number, seed=seed) for number in (1, 2, GUESTS, GUESTS + 1)]
        self.nursery = nursery
        self.written: dict[bytes, tuple[int, NodeId]] = {}
        self.spaces: list[SpaceId] = []
        self.count = 0
        self.log: list[str] = []

    async def run(self) -> None:
        """All of it."""
        for device in self.devices:
            await device.start(self.nursery)
        await quiet(*self.devices)
        await self.begin()
        steps = [self.make, self.make, self.make_folder, self.write, self.write, self.move, self.remove, self.plug]
        steps += [self.wait, self.wait, self.kill, self.share, self.share, self.accept, self.govern]
        for _ in range(STEPS):
            step = self.rng.choice(steps)
            device = self.rng.choice(self.devices)
            self.log.append(f"{step.__name__} {device.number}")
            try:
                await step(device)
            except (VolumeError, CacheError, RemoteError, trio.TooSlowError) as error:
                self.log[-1] += f": {error}"
        for space in self.spaces:
            # What a viewer has not sent stays with him: all may write again.
            with suppress(RemoteError):
                request = PermitRequest(space, "guest", "editor")
                self.server.share(OWNER, lambda sharing, asker, request=request: sharing.permit(asker, request))
        await quiet(*self.devices)
        self.check()
        for device in self.devices:
            await device.stop()

    async def begin(self) -> None:
        """Some folders and files at each, two of the folders shared."""
        for device in (self.devices[0], self.devices[2]):
            for name in NAMES[:3]:
                folder = await make_folder(device, name)
                inner = await make_folder(device, b"d", folder)
                for above in (folder, inner):
                    node = await make(device, b"a", b"", above)
                    await write(device, node, self._content(device, node))
        await quiet(*self.devices)
        for name in NAMES[: self.rng.choice((0, 1, 2))]:
            folder = self.devices[0].tree.child(ROOT, name)
            assert folder is not None
            request = ShareRequest(SPACE, folder, (Wish("guest", "editor"),))
            shared = self.server.share(OWNER, lambda sharing, asker, request=request: sharing.make(asker, request))
            self.spaces.append(shared.space)
            one = SharedSpaceRequest(shared.space)
            self.server.share(DeviceId(GUESTS), lambda sharing, asker, one=one: sharing.accept(asker, one))

    # What people do

    def _pick(self, device: Device, kind: Kind) -> NodeId:
        found = sorted(node for node, state in device.local().items() if state.kind is kind and state.names)
        if not found:
            raise VolumeError("nothing to choose from")
        return self.rng.choice(found)

    def _content(self, device: Device, node: NodeId) -> bytes:
        self.count += 1
        data = b"content %d" % self.count
        self._forget(device, node)
        self.written[data] = (device.number, node)
        return data

    def _forget(self, device: Device, node: NodeId) -> None:
        """What this device wrote to the node before may be on no server yet, and is not wanted any more."""
        for data, where in list(self.written.items()):
            if where == (device.number, node):
                del self.written[data]

    async def make(self, device: Device) -> None:
        """A new file with content."""
        node = await make(device, self.rng.choice(NAMES), b"", self._pick(device, Kind.FOLDER))
        await write(device, node, self._content(device, node))

    async def make_folder(self, device: Device) -> None:
        """A new folder."""
        await make_folder(device, self.rng.choice(NAMES), self._pick(device, Kind.FOLDER))

    async def write(self, device: Device) -> None:
        """Other content."""
        node = self._pick(device, Kind.FILE)
        device.volume.check_writable(node)
        await write(device, node, self._content(device, node))

    async def move(self, device: Device) -> None:
        """Another name, maybe in another folder; what had it goes."""
        node = self._pick(device, self.rng.choice((Kind.FILE, Kind.FOLDER)))
        if node == ROOT:
            return
        name = device.local()[node].names[0]
        target = Name(self._pick(device, Kind.FOLDER), self.rng.choice(NAMES))
        replaced = device.tree.child(target.parent, target.name)
        await device.volume.rename(name.parent, name.name, target.parent, target.name, 0)
        if replaced is not None and replaced != node:
            self._forget(device, replaced)

    async def remove(self, device: Device) -> None:
        """A file or an empty folder goes."""
        node = self._pick(device, self.rng.choice((Kind.FILE, Kind.FOLDER)))
        if node == ROOT:
            return
        state = device.local()[node]
        remove = device.volume.rmdir if state.kind is Kind.FOLDER else device.volume.unlink
        await remove(state.names[0].parent, state.names[0].name)
        self._forget(device, node)

    async def plug(self, device: Device) -> None:
        """The wire is cut, mended, or bad."""
        device.wire.loss = self.rng.choice((0.0, 0.0, 0.2))
        device.wire.delay_seconds = self.rng.choice((0.0, 0.05, 0.5))
        device.wire.set_up(self.rng.random() < 0.6)

    async def wait(self, device: Device) -> None:
        """Time goes by."""
        await trio.sleep(self.rng.choice((0.01, 0.1, 1, 10)))

    async def kill(self, device: Device) -> None:
        """kill -9, and the next start."""
        await device.kill()
        await device.start(self.nursery)

    async def share(self, device: Device) -> None:
        """The owner shares a folder, or a file."""
        folder = self._pick(self.devices[0], self.rng.choice((Kind.FOLDER, Kind.FOLDER, Kind.FILE)))
        request = ShareRequest(SPACE, folder, (Wish("guest", self.rng.choice(ROLES)),))
        shared = self.server.share(OWNER, lambda sharing, asker: sharing.make(asker, request))
        if shared.space not in self.spaces:
            self.spaces.append(shared.space)

    async def accept(self, device: Device) -> None:
        """The guest accepts one."""
        if self.spaces:
            request = SharedSpaceRequest(self.rng.choice(self.spaces))
            self.server.share(DeviceId(GUESTS), lambda sharing, asker: sharing.accept(asker, request))

    async def govern(self, device: Device) -> None:
        """Roles change, the guest goes or is removed, or the folder is shared no more."""
        if not self.spaces:
            return
        space = self.rng.choice(self.spaces)
        one, role = SharedSpaceRequest(space), self.rng.choice(ROLES)
        acts: list[tuple[DeviceId, Callable[..., object]]] = [
            (OWNER, lambda sharing, asker: sharing.permit(asker, PermitRequest(space, "guest", role))),
            (OWNER, lambda sharing, asker: sharing.revoke(asker, RevokeRequest(space, "guest"))),
            (OWNER, lambda sharing, asker: sharing.end(asker, one)),
            (DeviceId(GUESTS), lambda sharing, asker: sharing.leave(asker, one)),
        ]
        who, what = self.rng.choice(acts)
        self.server.share(who, what)  # type: ignore[arg-type]  # each gives another answer

    # What must be so in the end

    def check(self) -> None:
        """Everything that is promised."""
        kept: set[bytes] = set()
        for space, asker in ((SPACE, OWNER), (GUEST, DeviceId(GUESTS)), *((space, OWNER) for space in self.spaces)):
            kept |= self.server.contents_in(space, asker)
        for device in self.devices:
            check_tree(device)
            asker = DeviceId(device.number)
            assert not device.tree.news(), "news waits"
            assert set(self.server.spaces_of(asker)) == {device.space, *device.grafts.all}
            here: dict[SpaceId, dict[NodeId, NodeState]] = {}
            for node, record in device.records():
                assert record.local is not None
                assert not record.is_dirty or self._is_stuck(device, record.space), f"{node} is dirty: {record}"
                here.setdefault(record.space or device.space, {})[node] = record.local
            for space, states in here.items():
                assert set(states) == self._there(device, space).keys(), f"device {device.number}, space {space}"
                for node, state in self._there(device, space).items():
                    assert _seen(states[node]) == _seen(state), f"node {node} on device {device.number}"
        lost = {data: where for data, where in self.written.items() if data not in kept}
        assert not lost, f"{lost} is lost"

    def _is_stuck(self, device: Device, space: SpaceId) -> bool:
        return device.grafts.is_read_only(space)

    def _there(self, device: Device, space: SpaceId) -> dict[NodeId, NodeState]:
        alive = self.server.alive_in(space, DeviceId(device.number))
        graft = device.grafts.all.get(space)
        if graft is None:
            return alive
        into = graft.service.border.state_into
        return {node: state for node, one in alive.items() if node != ROOT and (state := into(one)) is not None}


def _seen(state: NodeState) -> NodeState:
    return replace(state, atime_ns=0, mtime_ns=0, ctime_ns=0)


@pytest.mark.parametrize("seed", [*range(FIRST, FIRST + SEEDS), 48, 1010, 1085])
def test_with_shared_folders_all_agree_and_nothing_is_lost(seed: int) -> None:
    async def run(home: Path, _: Time) -> None:
        async with trio.open_nursery() as nursery:
            play = SharingPlay(home, seed, nursery)
            try:
                await play.run()
            except BaseException:
                print("\n".join(play.log))
                raise

    in_no_time(run, seed=seed)
