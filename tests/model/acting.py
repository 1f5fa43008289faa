"""What people do less often on the devices of a play: acts on the past, rules of what is ignored, all begun anew.

Plays of small seeds have none of it: see SINCE in tests/model/plays.py.
"""

import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from cache.errors import CacheError
from cache.ignoring import FILE
from fusefs.errors import VolumeError
from fusefs.volume import Setting
from remote.protocol.errors import RemoteError
from remote.protocol.history import Done, PutBackRequest, RewindRequest, Trash, TrashRequest, UndoRequest
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev
from remote.protocol.nodes import Kind, NodeState
from remote.server.acts import Acts
from remote.server.database.accounts import Device as Asker
from tests.model.device import Device
from tests.model.doing import ME, Doing, Removal
from tests.model.server import SPACE

T = TypeVar("T")

_RULES = (b"", b"b.txt\n", b"/a\n", b"d/\n", b"c\n!/c\n")


class Acting(Doing):
    """More of what people do."""

    nursery: trio.Nursery
    """In which devices run."""

    # On one machine

    async def _truncate(self, device: Device, x: int, y: int) -> None:
        """truncate(2), by the path."""
        _, node = self._pick(device, x, [Kind.FILE])
        if self._is_held(device, node):
            return
        await self._excuse(device, node)
        record = device.tree.record(node)
        before = await device.content(node)
        if device.tree.record(node) is not record:
            raise VolumeError("news of it came meanwhile")
        size = y % (len(before) + 3)
        after = before[:size] + bytes(max(0, size - len(before)))
        self.ever.add(after)
        try:
            device.volume.set_attributes(node, Setting(size=size), None)
        finally:
            # Also when it fails for a full disk: then it is so when there is room.
            self._note(device, node)
        if size >= 4:
            self.written[after] = f"node {node} on device {device.number}"

    def _is_held(self, device: Device, node: NodeId) -> bool:
        return any(holder is device and handle.file.node == node for holder, handle, _ in self.held)

    async def _scribble(self, device: Device, x: int, y: int) -> None:
        """Writes in the middle of a file that is held open, whatever became of it elsewhere."""
        mine = [held for held in self.held if held[0] is device]
        if not mine:
            return
        held = mine[x % len(mine)]
        handle = held[1]
        await self._excuse(device, handle.file.node)
        before = bytes(await device.files.read(handle, 0, 1 << 40))
        self.count += 1
        data, offset = b"<%d/%d>" % (device.number, self.count), y * len(before) // 100
        after = before[:offset] + data + before[offset + len(data) :]
        self.ever.add(after)
        await device.files.write(handle.file, offset, data)
        self.held[self.held.index(held)] = (device, handle, after)
        if y % 2:
            device.volume.flush(handle.file)
        assert bytes(await device.files.read(handle, 0, 1 << 40)) == after, f"{handle.file.node}: what was written"

    async def _rules(self, device: Device, x: int, y: int) -> None:
        """Other names are ignored from now on, or are not any more."""
        node = device.tree.child(ROOT, FILE)
        if node is None:
            node = await device.volume.make(ROOT, FILE, 0o100644, ME)
            self._made(device, node)
        if device.local()[node].kind is not Kind.FILE:
            raise VolumeError("that is no file here")
        await self._excuse(device, node)
        self.count += 1
        await self._put(device, node, b"# %d/%d\n" % (device.number, self.count) + _RULES[x % len(_RULES)])
        self._note(device, node)

    async def _full(self, device: Device, x: int, y: int) -> None:
        """The disk takes nothing more, or only now and then; or there is room again."""
        device.fill((1.0, 0.3, 0.1)[x % 3] if y % 2 else 0)

    async def _walk(self, device: Device, x: int, y: int) -> None:
        """A program goes through a tree, as find does."""
        todo = [self._folder(device, x)]
        with trio.move_on_after(5):
            while todo:
                found = await device.volume.children(todo.pop())
                todo += [child.node for child in found if child.kind is Kind.FOLDER]

    async def _lose_cache(self, device: Device, x: int, y: int) -> None:
        """Somebody empties ~/.cache while nothing is mounted, after a crash."""
        await self._kill_with(device, lambda folder: shutil.rmtree(folder / "cache"))

    async def _kill_with(self, device: Device, harm: Callable[[Path], None]) -> None:
        """kill -9, and what is done to what it left on the disk before it starts again."""
        self.held = [held for held in self.held if held[0] is not device]
        self.reading = [reading for reading in self.reading if reading[0] is not device]
        await device.kill()
        harm(device.next_folder)
        await device.start(self.nursery)

    async def _reinstall(self, device: Device, x: int, y: int) -> None:
        """A machine that has sent all is set up anew."""
        if any(held[0] is device for held in self.held) or not device.is_quiet(is_whole=False):
            raise VolumeError("not all of it is sent")
        for node, _ in device.tree.ignored():
            with suppress(CacheError, VolumeError, RemoteError):
                await self._excuse(device, node)
            self.private.pop(node, None)
        for reading in [reading for reading in self.reading if reading[0] is device]:
            with suppress(CacheError, VolumeError, RemoteError):
                await self._read_on(*reading)
        device.fill(0)
        await device.stop()
        shutil.rmtree(device.next_folder)
        await device.start(self.nursery)

    # With the past

    async def _rewind(self, device: Device, x: int, y: int) -> None:
        """`satchel rewind`: a folder as it was."""
        folder = self._folder(device, x)
        to = Rev(1 + y * (self.server.head - 1) // 100)
        request = RewindRequest(os.urandom(16), folder, to)
        await self._act(device, lambda acts, asker: acts.rewind(asker, SPACE, request))

    async def _undo(self, device: Device, x: int, y: int) -> None:
        """`satchel undo`: what one commit did is taken back."""
        request = UndoRequest(os.urandom(16), Rev(max(1, self.server.head - x % 5)))
        await self._act(device, lambda acts, asker: acts.undo(asker, SPACE, request))

    async def _put_back(self, device: Device, x: int, y: int) -> None:
        """`satchel trash restore`: what was removed is there again."""
        trash: Trash = await device.wire.carry(
            lambda: self._asked(device, lambda acts, asker: acts.trash(asker, SPACE, TrashRequest()))
        )
        if not trash.removed:
            raise VolumeError("nothing is in the trash")
        request = PutBackRequest(os.urandom(16), (trash.removed[x % len(trash.removed)].node,))
        await self._act(device, lambda acts, asker: acts.put_back(asker, SPACE, request))

    async def _asked(self, device: Device, what: Callable[[Acts, Asker], Awaitable[T]]) -> T:
        return self.server.act(DeviceId(device.number), what)

    async def _act(self, device: Device, what: Callable[[Acts, Asker], Awaitable[Done]]) -> None:
        async def ask() -> None:
            done = self.server.act(DeviceId(device.number), what)
            if done.rev:
                self._acted(done.rev)

        await device.wire.carry(ask)

    def _acted(self, rev: Rev) -> None:
        """What this commit of the server's changed was edited, or removed, by a person."""
        alive = self.server.alive()
        for node, version in self.server.now.items():
            if version.rev != rev:
                continue
            if version.state is None or node in self.removals:
                self.removals[node] = Removal(0, self.clock.last_ns, is_excused=True)
            if version.state is not None:
                self._edited_there(node, version.state, alive)

    def _edited_there(self, node: NodeId, state: NodeState, alive: dict[NodeId, NodeState]) -> None:
        now = (0, self.clock.last_ns)
        self.private.pop(node, None)
        self.edits[node].append(now)
        for name in state.names:
            self.kinds[name].add(state.kind)
            self.called[node].add(name)
            self.named[name].append(now)
        todo = [name.parent for name in state.names]
        while todo:
            folder = todo.pop()
            self.edits[folder].append(now)
            if folder in alive and folder != ROOT:
                todo += [name.parent for name in alive[folder].names]
