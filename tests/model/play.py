"""A play: devices and what people do with them, step by step, and what must be true at the end.

A step is a tuple of small numbers, so that hypothesis can make, shrink and repeat plays; what a number means is
decided by what the device has at that moment.
"""

import random
import re
import stat
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from cache.errors import CacheError
from fusefs.errors import VolumeError
from fusefs.handles import Handle
from fusefs.volume import RENAME_EXCHANGE, Caller, Setting
from fusefs.xattrs import ExtendedAttributes
from remote.protocol import deltas
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev
from remote.protocol.manifests import decode_leaf
from remote.protocol.nodes import Entry, Kind, Manifest, Name, NodeState
from remote.protocol.sealing import open_chunk, open_leaf
from tests.model.device import Device, Time, check_tree
from tests.model.server import IN_MEMORY, SPACE, Desk, Server, check_invariants, new_database, skew_ns

NAMES = (b"a", b"b.txt", b"c", b"d")
ME = Caller(1000, 1000, 0o22)
QUIET_SECONDS = 4_000
EXPECTED = (VolumeError, CacheError, RemoteError, trio.TooSlowError)


class Step(NamedTuple):
    """What is done next, by which device, and numbers to choose by."""

    verb: str
    device: int
    x: int
    y: int


@dataclass
class Removal:
    """A node that somebody removed: it must not come back, unless it was edited elsewhere meanwhile."""

    device: int
    at_ns: int
    is_excused: bool


async def quiet(*devices: Device, is_whole: bool = True) -> None:
    """Everybody comes online and does what is left to do; unless it `is_whole`, folders need not be listed."""
    for device in devices:
        device.wire.loss = 0
        device.wire.echo = 0
        device.wire.delay_seconds = 0.01
        device.wire.set_up(True)
    deadline = trio.current_time() + QUIET_SECONDS
    while not all(device.is_quiet(is_whole=is_whole) for device in devices):
        await trio.sleep(1)
        if trio.current_time() > deadline:
            raise AssertionError("\n".join(device.why_not_quiet() for device in devices))


class Play:
    """Runs steps on devices of one server."""

    def __init__(
        self, home: Path, clock: Time, *, devices: int, seed: int = 0, skews: Sequence[float] = (), lazy: int = 0
    ) -> None:
        """`lazy`: so many of the devices list only the folders that somebody looks into."""
        self.clock = clock
        self.server = Server(children_max=7, commits_max=3)
        self.devices = [
            Device(
                home,
                self.server,
                number + 1,
                seed=seed,
                skew_seconds=skews[number] if skews else 0,
                is_walking=number >= lazy,
            )
            for number in range(devices)
        ]
        self.written: dict[bytes, str] = {}
        """Content that was flushed and must not be lost, with where it was."""
        self.removals: dict[NodeId, Removal] = {}
        self.edits: dict[NodeId, list[tuple[int, int]]] = defaultdict(list)
        self.kinds: dict[Name, set[Kind]] = defaultdict(set)
        self.made: set[NodeId] = {ROOT}
        self.called: dict[NodeId, set[Name]] = defaultdict(set)
        self.named: dict[Name, list[tuple[int, int]]] = defaultdict(list)
        self.held: list[tuple[Device, Handle, bytes]] = []
        self.settled: set[tuple[NodeId, Rev]] = set()
        """Conflicts that somebody settled, or tried to."""
        self.count = 0
        self.log: list[str] = []

    async def run(self, steps: Sequence[Step]) -> None:
        """All steps; then everybody comes online, gets quiet, and everything is checked."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for device in self.devices:
                await device.start(nursery)
            await trio.sleep(2)
            for step in steps:
                await self.take(step)
            await self.settle()
            await self.check()
            for device in self.devices:
                await device.stop()

    async def take(self, step: Step) -> None:
        """One step."""
        device = self.devices[step.device % len(self.devices)]
        job: Callable[[Device, int, int], Awaitable[object]] = getattr(self, f"_{step.verb}")
        token = skew_ns.set(device.skew)
        note = "ok"
        try:
            await job(device, step.x, step.y)
        except EXPECTED as error:
            note = f"{type(error).__name__}: {error}"
        finally:
            skew_ns.reset(token)
        self.log.append(f"{trio.current_time():9.3f} {step.device} {step.verb} {step.x} {step.y}: {note}")
        for each in self.devices:
            self._check_states(each)
        await trio.lowlevel.checkpoint()

    async def settle(self) -> None:
        """Everybody comes online and does what is left to do."""
        for device, handle, data in list(self.held):
            await self._let_go(device, handle, data)
        lazy = [device for device in self.devices if not device.is_walking]
        if lazy:
            await quiet(*self.devices, is_whole=False)
        for device in lazy:
            await device.stop()
            device.is_walking = True
            await device.start(self.nursery)
        await quiet(*self.devices)

    # What people do

    def _folders(self, device: Device) -> list[NodeId]:
        return sorted(node for node, state in device.local().items() if state.kind is Kind.FOLDER)

    def _entries(self, device: Device) -> list[tuple[Name, NodeId]]:
        return sorted((name, node) for node, state in device.local().items() for name in state.names if node != ROOT)

    def _pick(self, device: Device, x: int, kinds: Sequence[Kind] = tuple(Kind)) -> tuple[Name, NodeId]:
        local = device.local()
        found = [(name, node) for name, node in self._entries(device) if local[node].kind in kinds]
        if not found:
            raise VolumeError("there is nothing to choose from")
        return found[x % len(found)]

    def _folder(self, device: Device, x: int) -> NodeId:
        folders = self._folders(device)
        return folders[x % len(folders)]

    def _note(self, device: Device, node: NodeId) -> None:
        """This device edits the node."""
        self.edits[node].append((device.number, self.clock.last_ns))
        state = device.tree.record(node)
        for name in state.local.names if state is not None and state.local is not None else ():
            self.named[name].append((device.number, self.clock.last_ns))
        for folder in self._above(device, node):
            self.edits[folder].append((device.number, self.clock.last_ns))

    def _made(self, device: Device, node: NodeId) -> None:
        self.made.add(node)
        self._named(device, node)

    def _named(self, device: Device, node: NodeId) -> None:
        record = device.tree.record(node)
        if record is None or record.local is None:
            return
        for name in record.local.names:
            self.kinds[name].add(record.local.kind)
            self.called[node].add(name)
        self._note(device, node)

    async def _excuse(self, device: Device, node: NodeId) -> None:
        """The content of this node is replaced or removed here: if the server does not have it yet, it never will."""
        record = device.tree.record(node)
        if record is not None and record.local is not None and record.local.kind is Kind.FILE and record.is_dirty:
            self.written.pop(await device.content(node), None)

    def _gone(self, device: Device, node: NodeId, name: Name) -> None:
        """This device has removed the node, whose last name this was."""
        mine = device.tree.record(node)
        rev = mine.rev if mine is not None else 0
        now = self.server.now.get(node)
        is_excused = now is not None and now.rev > rev
        names = self._all_names(node) | {name}
        for other in self.devices:
            # Another file that was made there under the same name becomes an edit of this one.
            for same in (node, *(other.tree.child(name.parent, name.name) for name in names)):
                record = other.tree.record(same) if same is not None else None
                is_excused |= other is not device and record is not None and record.is_dirty
            is_excused |= any(held.file.node == node for holder, held, _ in self.held if holder is other)
            # Something was put or edited below it there.
            is_excused |= other is not device and any(node in self._above(other, one) for one, _ in other.tree.dirty())
        self.removals[node] = Removal(device.number, self.clock.last_ns, is_excused)

    def _above(self, device: Device, node: NodeId) -> set[NodeId]:
        """The folders that a node is in on a device."""
        found: set[NodeId] = set()
        todo = [node]
        while todo:
            record = device.tree.record(todo.pop())
            above = {name.parent for name in record.local.names} if record and record.local else set()
            todo += above - found
            found |= above
        return found

    def _all_names(self, node: NodeId) -> set[Name]:
        """Every name that it ever had, on the server or on a device."""
        versions = self.server.versions_of(node)
        there = {name for version in versions if version.state is not None for name in version.state.names}
        names = there | self.called[node]
        # One that gets the same name elsewhere may become another's ` (2)` before both become one.
        return names | {Name(name.parent, _stem(name.name)) for name in names}

    def _content(self, device: Device, x: int) -> bytes:
        self.count += 1
        size = (0, 10, 10, 3_000, 10, 70_000)[x % 6]
        return b"%d/%d;" % (device.number, self.count) + b"." * size

    async def _put(self, device: Device, node: NodeId, data: bytes, *, truncates: bool = True) -> None:
        handle = device.volume.open(node, is_writing=True, is_truncating=truncates)
        await device.files.write(handle.file, 0, data)
        device.volume.flush(handle.file)
        device.volume.close(handle)
        self.written[data] = f"node {node} on device {device.number}"

    async def _create(self, device: Device, x: int, y: int) -> None:
        folder, name = self._folder(device, x), NAMES[y % len(NAMES)]
        node = await device.volume.make(folder, name, stat.S_IFREG | 0o644, ME)
        self._made(device, node)
        await self._put(device, node, self._content(device, x + y))

    async def _mkdir(self, device: Device, x: int, y: int) -> None:
        node = await device.volume.make(self._folder(device, x), NAMES[y % len(NAMES)], stat.S_IFDIR | 0o755, ME)
        self._made(device, node)

    async def _symlink(self, device: Device, x: int, y: int) -> None:
        name = NAMES[y % len(NAMES)]
        target = NAMES[x % 2]
        node = await device.volume.make(self._folder(device, x), name, stat.S_IFLNK | 0o777, ME, target=target)
        self._made(device, node)

    async def _write(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        await self._excuse(device, node)
        await self._put(device, node, self._content(device, y))
        self._note(device, node)

    async def _append(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=False)
        try:
            # While it is open for writing, nothing from elsewhere changes its content.
            before = bytes(await device.files.read(handle, 0, 1 << 40))
            more = self._content(device, y)
            await device.files.write(handle.file, len(before), more)
            device.volume.flush(handle.file)
            assert await device.content(node) == before + more
            if not handle.file.is_orphan:
                self.written[before + more] = f"node {node} on device {device.number}"
        finally:
            device.volume.close(handle)
        self._note(device, node)

    async def _cut(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=False)
        try:
            before = bytes(await device.files.read(handle, 0, 1 << 40))
            size = y % (len(before) + 3)
            device.volume.set_attributes(node, Setting(size=size), handle)
            device.volume.flush(handle.file)
            after = before[:size] + bytes(max(0, size - len(before)))
            assert await device.content(node) == after
            if size >= 4:
                self.written[after] = f"node {node} on device {device.number}"
        finally:
            device.volume.close(handle)
        self._note(device, node)

    async def _hold(self, device: Device, x: int, y: int) -> None:
        """Opens a file, writes to it, and keeps it open."""
        _, node = self._pick(device, x, [Kind.FILE])
        if any(handle.file.node == node for holder, handle, _ in self.held if holder is device):
            return
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=True)
        data = self._content(device, y)
        self.held.append((device, handle, data))
        await device.files.write(handle.file, 0, data)
        if y % 3 == 0:
            device.volume.flush(handle.file)
        self._note(device, node)

    async def _release(self, device: Device, x: int, y: int) -> None:
        mine = [held for held in self.held if held[0] is device]
        if mine:
            await self._let_go(*mine[x % len(mine)])

    async def _let_go(self, device: Device, handle: Handle, data: bytes) -> None:
        self.held.remove((device, handle, data))
        is_orphan = handle.file.is_orphan
        node = handle.file.node
        device.volume.flush(handle.file)
        device.volume.close(handle)
        if not is_orphan:
            self.written[data] = f"node {node} on device {device.number}, held open"
            self._named(device, node)
            # It may have been written to again by another handle.
            if await device.content(node) != data:
                del self.written[data]

    async def _save(self, device: Device, x: int, y: int) -> None:
        """As an editor saves: a new file renamed over the old one."""
        name, node = self._pick(device, x, [Kind.FILE])
        temporary = await device.volume.make(name.parent, b".tmp%d" % device.number, stat.S_IFREG | 0o600, ME)
        self._made(device, temporary)
        data = self._content(device, y)
        await self._put(device, temporary, data)
        if y % 3 == 0:
            await trio.sleep(y % 7 / 10)
        # It may have become one with another that got its name elsewhere.
        temporary = device.tree.child(name.parent, b".tmp%d" % device.number) or temporary
        if device.tree.child(name.parent, name.name) != node:
            await self._excuse(device, temporary)
            await device.volume.unlink(name.parent, b".tmp%d" % device.number)
            self._after_removal(device, temporary, Name(name.parent, b".tmp%d" % device.number))
            return
        await self._excuse(device, node)
        await device.volume.rename(name.parent, b".tmp%d" % device.number, name.parent, name.name, 0)
        self._named(device, temporary)
        self._after_removal(device, node, name)

    def _after_removal(self, device: Device, node: NodeId, name: Name) -> None:
        record = device.tree.record(node)
        if record is None or record.local is None:
            self._gone(device, node, name)
        else:
            self._note(device, node)

    async def _rename(self, device: Device, x: int, y: int) -> None:
        name, node = self._pick(device, x)
        folder, new = self._folder(device, y), NAMES[(x + y) % len(NAMES)]
        other = device.tree.child(folder, new)
        if other == node:
            return
        content = None
        record = device.tree.record(other) if other is not None else None
        if record is not None and record.is_dirty and record.local is not None and other is not None:
            is_last = record.local.kind is Kind.FILE and len(record.local.names) == 1
            content = await device.content(other) if is_last else None
        await device.volume.rename(name.parent, name.name, folder, new, 0)
        if content is not None:
            self.written.pop(content, None)
        self._named(device, node)
        self._note(device, node)
        if other is not None:
            self._after_removal(device, other, Name(folder, new))

    async def _exchange(self, device: Device, x: int, y: int) -> None:
        one, node = self._pick(device, x)
        two, other = self._pick(device, y)
        await device.volume.rename(one.parent, one.name, two.parent, two.name, RENAME_EXCHANGE)
        for moved in (node, other):
            self._named(device, moved)
            self._note(device, moved)

    async def _link(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE, Kind.SYMLINK])
        await device.volume.link(node, self._folder(device, y), NAMES[(x + y) % len(NAMES)])
        self._named(device, node)
        self._note(device, node)

    async def _unlink(self, device: Device, x: int, y: int) -> None:
        name, node = self._pick(device, x, [Kind.FILE, Kind.SYMLINK])
        record = device.tree.record(node)
        if record is not None and record.local is not None and len(record.local.names) == 1:
            await self._excuse(device, node)
        await device.volume.unlink(name.parent, name.name)
        self._after_removal(device, node, name)

    async def _rmdir(self, device: Device, x: int, y: int) -> None:
        name, node = self._pick(device, x, [Kind.FOLDER])
        await device.volume.rmdir(name.parent, name.name)
        self._gone(device, node, name)

    async def _rmtree(self, device: Device, x: int, y: int) -> None:
        name, node = self._pick(device, x, [Kind.FOLDER])
        await self._remove_all(device, name, node)

    async def _remove_all(self, device: Device, name: Name, node: NodeId) -> None:
        for child in await device.volume.children(node):
            own = Name(node, child.name)
            if child.kind is Kind.FOLDER:
                await self._remove_all(device, own, child.node)
            else:
                record = device.tree.record(child.node)
                if record is not None and record.local is not None and len(record.local.names) == 1:
                    await self._excuse(device, child.node)
                await device.volume.unlink(node, child.name)
                self._after_removal(device, child.node, own)
        await device.volume.rmdir(name.parent, name.name)
        self._gone(device, node, name)

    async def _chmod(self, device: Device, x: int, y: int) -> None:
        node = self._pick(device, x)[1] if x % 9 else ROOT
        device.volume.set_attributes(node, Setting(mode=(0o600, 0o755, 0o444)[y % 3]), None)

    async def _utime(self, device: Device, x: int, y: int) -> None:
        node = self._pick(device, x)[1]
        device.volume.set_attributes(node, Setting(mtime_ns=1_000_000 + y, atime_ns=2_000_000 + y), None)

    async def _xattr(self, device: Device, x: int, y: int) -> None:
        node = self._pick(device, x)[1]
        if y % 4:
            ExtendedAttributes(device.volume).set(node, (b"user.p", b"user.q")[x % 2], b"%d" % y)
        else:
            ExtendedAttributes(device.volume).remove(node, (b"user.p", b"user.q")[x % 2])

    async def _resolve(self, device: Device, x: int, y: int) -> None:
        """Settles a conflict, as `satchel resolve` does."""
        found = [one for one in await device.conflicts.below(b"") if device.tree.record(one.node) is not None]
        if not found:
            raise VolumeError("there is nothing to choose from")
        one = found[x % len(found)]
        local = device.volume.record(one.node).local
        assert local is not None
        choice = ("mine", "theirs", "both", str(one.lost.rev))[y % 4]
        with trio.fail_after(5):
            await device.sync.sent(one.node)
        kept = await device.conflicts.keep(one.node, local.names[0], choice)
        for node in kept.nodes:
            if choice == "both":
                self._made(device, node)
            self._note(device, node)
        with trio.fail_after(5):
            for node in kept.nodes:
                await device.sync.sent(node)
        # Also when its answer is lost: then they may be settled.
        self.settled.update(kept.marks)
        await device.conflicts.settle(kept)

    async def _read(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        await device.content(node)

    # What the world does

    async def _wait(self, device: Device, x: int, y: int) -> None:
        await trio.sleep((0.001, 0.01, 0.05, 0.3, 2, 10)[x % 6])

    async def _offline(self, device: Device, x: int, y: int) -> None:
        device.wire.set_up(False)

    async def _online(self, device: Device, x: int, y: int) -> None:
        device.wire.set_up(True)
        device.sync.retry_now()

    async def _weather(self, device: Device, x: int, y: int) -> None:
        device.wire.loss = (0, 0.1, 0.5)[x % 3]
        device.wire.delay_seconds = (0, 0.05, 1.0)[y % 3]
        device.wire.echo = (0, 0, 0.3)[(x // 3) % 3]

    async def _forget(self, device: Device, x: int, y: int) -> None:
        """The server's journal begins anew: who was away too long must start over."""
        # Whoever then waits for an answer cannot know what became of its commit: moves may be made twice.
        if not any(device.tree.sending for device in self.devices):
            self.server.floor = self.server.head

    async def _crash(self, device: Device, x: int, y: int) -> None:
        """The server is killed and starts again."""
        self.server.crash()

    async def _kill(self, device: Device, x: int, y: int) -> None:
        self.held = [held for held in self.held if held[0] is not device]
        await device.kill()
        await device.start(self.nursery)

    async def _restart(self, device: Device, x: int, y: int) -> None:
        for held in [held for held in self.held if held[0] is device]:
            await self._let_go(*held)
        await device.stop()
        await device.start(self.nursery)

    async def _look(self, device: Device, x: int, y: int) -> None:
        """The indexes are right at any time, not only at the end."""
        check_tree(device)

    # What must be true

    async def check(self) -> None:
        """Everything that is promised for the end."""
        there = self.server.alive()
        check_invariants(there)
        for device in self.devices:
            check_tree(device)
            here = device.local()
            assert set(here) == set(there), (
                f"device {device.number} lacks {set(there) - set(here)} and has too many {set(here) - set(there)}"
            )
            for node, state in there.items():
                assert _as_seen(here[node]) == _as_seen(state), f"node {node} on device {device.number}"
                record = device.tree.record(node)
                assert record is not None
                assert record.rev == self.server.now[node].rev, f"node {node}: rev {record.rev}"
                if state.kind is Kind.FILE and state.content is not None:
                    assert await device.content(node) == self._bytes(state.content), f"content of node {node}"
            assert not device.stagings.total_bytes
            assert not device.stagings.ids(), f"stagings are left on device {device.number}"
            assert not list((device.folder / "staging").iterdir())
            assert not device.tree.sending
        kept = {
            self._bytes(version.state.content)
            for version in self.server.all_versions()
            if version.state is not None and version.state.content is not None
        }
        for data, where in self.written.items():
            assert data in kept, f"{data[:40]!r} ({len(data)} bytes, {where}) is lost"
        self._check_names(there)
        self._check_removals(there)
        self._check_gone()
        await self._check_conflicts()

    def _check_states(self, device: Device) -> None:
        """What is said to be synced is, at any time: the server took it so, and it is so now where we heard of all."""
        is_caught_up = device.tree.cursor == self.server.head
        attributes = ExtendedAttributes(device.volume)
        for node, record in device.records():
            state = record.local
            for name in state.names if state is not None else ():
                self.kinds[name].add(state.kind)
                self.called[node].add(name)
            if state is None or state.kind is not Kind.FILE or attributes.get(node, b"user.satchel.state") != b"synced":
                continue
            there = self.server.now.get(node)
            assert there is not None, f"node {node} is said to be synced, and the server never had it"
            if record.rev == there.rev or (is_caught_up and device.tree.news_of(node) is None):
                assert there.state is not None, f"node {node} is said to be synced, and is not there any more"
                assert state.content == there.state.content, f"node {node} is said to be synced"
                continue
            taken = [one.state for one in self.server.versions_of(node) if one.rev == record.rev and one.state]
            assert any(one.content == state.content for one in taken), f"node {node} is said to be synced"

    def _check_gone(self) -> None:
        """What nobody removed is there, or became one with another of its name; and no node was made by itself."""
        called = {node: {name.name for name in names} for node, names in self.called.items()}
        for node, version in self.server.now.items():
            assert node in self.made, f"nobody made node {node}: something was made again under another id"
            if version.state is None and node not in self.removals:
                mine = called.get(node, set())
                assert any(mine & called[other] for other in called if other != node), f"node {node} is gone"

    async def _check_conflicts(self) -> None:
        """What lost is listed as a conflict, of nodes that are there."""
        lost = {
            (node, one.rev) for node in self.server.alive() for one in self.server.versions_of(node) if one.is_conflict
        }
        listed = await Desk(self.server, DeviceId(1)).conflicts(SPACE)
        told = {(one.node, one.lost.rev) for one in listed.conflicts}
        assert told <= lost
        assert lost - told <= self.settled

    def _check_names(self, there: dict[NodeId, NodeState]) -> None:
        for state in there.values():
            for name in state.names:
                stem = _stem(name.name)
                # What somebody had put beside another has its name from that.
                if stem != name.name and b" (device " not in stem:
                    called = {own.name for own in self.called[name.parent]}
                    folders = [each for each, names in self.called.items() if called & {own.name for own in names}]
                    kinds = {kind for folder in (*folders, name.parent) for kind in self.kinds[Name(folder, stem)]}
                    assert kinds - {state.kind}, f"{name} is a conflict copy"

    def _check_removals(self, there: dict[NodeId, NodeState]) -> None:
        for node, removal in self.removals.items():
            is_needed = any(name.parent == node for state in there.values() for name in state.names)
            if node in there and not removal.is_excused and not is_needed:
                # What was made elsewhere under the same name became an edit of this node.
                edits = self.edits[node] + [one for name in self._all_names(node) for one in self.named[name]]
                assert any(device != removal.device and at > removal.at_ns for device, at in edits), (
                    f"node {node} {there[node]} came back, removed by device {removal.device}"
                )

    def _bytes(self, manifest: Manifest) -> bytes:
        if manifest.inline or not manifest.size:
            return manifest.inline
        level: Sequence[Entry] = manifest.entries
        for _ in range(manifest.depth):
            level = [one for entry in level for one in decode_leaf(open_leaf(entry, self.server.chunk(entry.id)))]
        return b"".join(map(self._plain_of, level))

    def _plain_of(self, entry: Entry) -> bytes:
        if entry.is_hole:
            return bytes(entry.length)
        data = self.server.chunk(entry.id)
        if entry.base is None:
            return open_chunk(entry, data)
        base = self._plain_of(Entry(entry.base.id, entry.base.key, entry.base.length))
        parts = deltas.decode(entry, open_leaf(entry, data))
        return b"".join(base[part.start : part.stop] if isinstance(part, deltas.Copy) else part for part in parts)


def _stem(name: bytes) -> bytes:
    return re.sub(rb" \(\d+\)", b"", name)


def _as_seen(state: NodeState) -> tuple[Any, ...]:
    return (
        state.kind,
        sorted(state.names),
        oct(state.mode),
        state.uid,
        state.gid,
        state.mtime_ns,
        state.atime_ns,
        state.birth_ns,
        state.target,
        state.xattrs,
        state.content,
    )


async def _inline(job: Callable[..., Any], *args: object, **_: object) -> object:
    await trio.lowlevel.checkpoint()
    return job(*args)


def in_no_time(job: Callable[[Path, Time], Awaitable[None]], *, seed: int = 0) -> None:
    """Runs a job on a home for devices and their clock; nobody waits for real, and it runs the same way each time."""
    clock = Time()
    new_database()
    in_thread = trio.to_thread.run_sync

    async def run_sync(job: Callable[..., Any], *args: object, **options: Any) -> object:
        # Uploads of large files call back from their thread; everything else runs at once, so that plays repeat.
        is_talking = getattr(job, "__name__", "") == "work"
        return await (in_thread(job, *args, **options) if is_talking else _inline(job, *args))

    with (
        tempfile.TemporaryDirectory(prefix="satchel-model-", dir=IN_MEMORY) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(time, "time_ns", clock)
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        patch.setattr("cache.sync.random", random.Random(seed))
        patch.setattr("os.urandom", random.Random(seed).randbytes)
        # By which trio chooses who of those that can go on goes first.
        patch.setattr("trio._core._run._r", random.Random(seed))
        # What `secrets` draws from: never the same bytes, as these may be op ids on both sides.
        patch.setattr("random._urandom", random.Random(f"server {seed}").randbytes)
        trio.run(job, Path(home), clock, clock=trio.testing.MockClock(autojump_threshold=0))


def perform(
    steps: Sequence[Step], *, devices: int = 2, seed: int = 0, skews: Sequence[float] = (), lazy: int = 0
) -> None:
    """Runs a play from its beginning."""
    log: list[str] = []

    async def play(home: Path, clock: Time) -> None:
        this = Play(home, clock, devices=devices, seed=seed, skews=skews, lazy=lazy)
        this.log = log
        await this.run(steps)

    try:
        in_no_time(play, seed=seed)
    except BaseException:
        print("\n".join(log))
        raise
