"""What people do on the devices of a play: each action is a step, chosen by two numbers.

What must not be lost and what must not come back is noted here, for the play to check in the end.
"""

import re
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from fusefs.errors import VolumeError
from fusefs.opened import Handle
from fusefs.volume import RENAME_EXCHANGE, Caller, Setting
from fusefs.xattrs import ExtendedAttributes
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Name
from tests.model.device import Device, Time
from tests.model.server import Server

NAMES = (b"a", b"b.txt", b"c", b"d")
ME = Caller(1000, 1000, 0o22)


@dataclass
class Removal:
    """A node that somebody removed: it must not come back, unless it was edited elsewhere meanwhile."""

    device: int
    at_ns: int
    is_excused: bool


class Doing:
    """Devices of one server, what people do on them, and what is to be remembered of it."""

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
        self.reading: list[tuple[Device, Handle]] = []
        self.ever: set[bytes] = {b""}
        """Content that a file had at any time, for those who read it meanwhile."""
        self.private: dict[NodeId, tuple[int, bytes]] = {}
        """By which device, and what, was written to a file with a name that is ignored, and that never had another."""
        self.settled: set[tuple[NodeId, Rev]] = set()
        """Conflicts that somebody settled, or tried to."""
        self.count = 0
        self.log: list[str] = []

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
        self.private.pop(node, None)
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
            is_excused |= other is not device and any(file.node == node for file in other.files.changed())
            # Something was put or edited below it there.
            is_excused |= other is not device and any(node in self._above(other, one) for one, _ in other.tree.dirty())
        # Or was sent from there, and this device did not hear of it.
        alive = self.server.alive()
        unheard = {one for one in alive if self.server.now[one].rev > device.tree.cursor}
        while unheard and not is_excused:
            unheard = {name.parent for one in unheard if one in alive for name in alive[one].names}
            is_excused = node in unheard
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
        return names | {Name(name.parent, stem(name.name)) for name in names}

    def _content(self, device: Device, x: int) -> bytes:
        self.count += 1
        size = (0, 10, 10, 3_000, 10, 70_000)[x % 6]
        return b"%d/%d;" % (device.number, self.count) + b"." * size

    async def _put(self, device: Device, node: NodeId, data: bytes, *, truncates: bool = True) -> None:
        self.ever.add(data)
        handle = device.volume.open(node, is_writing=True, is_truncating=truncates)
        try:
            await device.files.write(handle.file, 0, data)
            device.volume.flush(handle.file)
        finally:
            # What a full disk did not take yet is taken when there is room.
            self._note(device, node)
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

    async def _quarrel(self, device: Device, x: int, y: int) -> None:
        """Two devices write to one file before they hear of each other."""
        _, node = self._pick(device, x, [Kind.FILE])
        for each in self.devices:
            record = each.tree.record(node)
            if record is not None and record.local is not None and record.local.names:
                await self._excuse(each, node)
                await self._put(each, node, self._content(each, y))
                self._note(each, node)

    async def _append(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=False)
        try:
            # While it is open for writing, nothing from elsewhere changes its content.
            before = bytes(await device.files.read(handle, 0, 1 << 40))
            more = self._content(device, y)
            self.ever.add(before + more)
            await device.files.write(handle.file, len(before), more)
            device.volume.flush(handle.file)
            assert await device.content(node) == before + more, f"node {node}: what was appended"
            if not handle.file.is_orphan:
                self.written[before + more] = f"node {node} on device {device.number}"
        finally:
            self._note(device, node)
            device.volume.close(handle)

    async def _cut(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=False)
        try:
            before = bytes(await device.files.read(handle, 0, 1 << 40))
            size = y % (len(before) + 3)
            after = before[:size] + bytes(max(0, size - len(before)))
            self.ever.add(after)
            device.volume.set_attributes(node, Setting(size=size), handle)
            # Who holds it open has the same content.
            self.held = [(on, held, after if held.file is handle.file else data) for on, held, data in self.held]
            device.volume.flush(handle.file)
            assert await device.content(node) == after, f"node {node}: what was written is not read"
            if size >= 4:
                self.written[after] = f"node {node} on device {device.number}"
        finally:
            self._note(device, node)
            device.volume.close(handle)

    async def _hold(self, device: Device, x: int, y: int) -> None:
        """Opens a file, writes to it, and keeps it open."""
        _, node = self._pick(device, x, [Kind.FILE])
        if any(handle.file.node == node for holder, handle, _ in self.held if holder is device):
            return
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=True)
        data = self._content(device, y)
        self.held.append((device, handle, data))
        self.ever.add(data)
        try:
            await device.files.write(handle.file, 0, data)
            if y % 3 == 0:
                device.volume.flush(handle.file)
        finally:
            self._note(device, node)

    async def _release(self, device: Device, x: int, y: int) -> None:
        mine = [held for held in self.held if held[0] is device]
        if mine:
            await self._let_go(*mine[x % len(mine)])

    async def _let_go(self, device: Device, handle: Handle, data: bytes) -> None:
        self.held.remove((device, handle, data))
        is_orphan = handle.file.is_orphan
        node = handle.file.node
        try:
            device.volume.flush(handle.file)
        finally:
            self._note(device, node)
            device.volume.close(handle)
        if not is_orphan and len(data) >= 4:
            self._named(device, node)
            # It may have been written to again by another handle; what cannot be read now is on the server.
            if await device.content(node) == data:
                self.written[data] = f"node {node} on device {device.number}, held open"

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
        await self._move(device, name, node, Name(self._folder(device, y), NAMES[(x + y) % len(NAMES)]))

    async def _move(self, device: Device, name: Name, node: NodeId, to: Name) -> None:
        folder, new = to.parent, to.name
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
        name, node = self._pick(device, x, [Kind.FILE, Kind.SYMLINK, Kind.FIFO])
        await self._take_away(device, name, node)

    async def _take_away(self, device: Device, name: Name, node: NodeId) -> None:
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
                await self._take_away(device, own, child.node)
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
        listed = [(one, device.tree.record(one.node)) for one in await device.conflicts.below(b"")]
        # One whose news waits may have no name just now: nobody can say which is meant.
        found = [(one, record.local) for one, record in listed if record and record.local and record.local.names]
        if not found:
            raise VolumeError("there is nothing to choose from")
        one, local = found[x % len(found)]
        choice = ("mine", "theirs", "both", str(one.lost.rev))[y % 4]
        with trio.fail_after(5):
            await device.syncs.sent(one.node)
        before = {node for node, _ in device.records()}
        try:
            kept = await device.conflicts.keep(one.node, local.names[0], choice)
        finally:
            # Of several that lost, some may be beside it when the disk is full.
            for node, record in device.records():
                if choice == "both" and not record.rev and node not in before:
                    self._made(device, node)
        for node in kept.nodes:
            if choice == "both":
                self._made(device, node)
            self._note(device, node)
        with trio.fail_after(5):
            for node in kept.nodes:
                await device.syncs.sent(node)
        # Also when its answer is lost: then they may be settled.
        self.settled.update(kept.marks)
        await device.conflicts.settle(kept)

    async def _read(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x, [Kind.FILE])
        self._is_known(await device.content(node), node)

    async def _peek(self, device: Device, x: int, y: int) -> None:
        """Opens a file to read it later, whatever becomes of it meanwhile; or reads what was opened so."""
        mine = [reading for reading in self.reading if reading[0] is device]
        if mine and y % 2:
            await self._read_on(*mine[x % len(mine)])
            return
        _, node = self._pick(device, x, [Kind.FILE])
        self.reading.append((device, device.volume.open(node, is_writing=False, is_truncating=False)))

    async def _read_on(self, device: Device, handle: Handle) -> None:
        self.reading.remove((device, handle))
        try:
            self._is_known(bytes(await device.files.read(handle, 0, 1 << 40)), handle.file.node)
        finally:
            device.volume.close(handle)

    def _is_known(self, data: bytes, node: NodeId) -> None:
        """What is read is whole, from one moment."""
        assert data in self.ever, f"node {node} never held {data[:40]!r} ({len(data)} bytes)"

    async def _patch(self, device: Device, x: int, y: int) -> None:
        """Writes in the middle of a file, as databases do."""
        _, node = self._pick(device, x, [Kind.FILE])
        await self._excuse(device, node)
        handle = device.volume.open(node, is_writing=True, is_truncating=False)
        try:
            before = bytes(await device.files.read(handle, 0, 1 << 40))
            self.count += 1
            data, offset = b"<%d/%d>" % (device.number, self.count), y * len(before) // 100
            after = before[:offset] + data + before[offset + len(data) :]
            self.ever.add(after)
            await device.files.write(handle.file, offset, data)
            device.volume.flush(handle.file)
            assert await device.content(node) == after, f"node {node}: what was written is not read"
            if not handle.file.is_orphan:
                self.written[after] = f"node {node} on device {device.number}"
        finally:
            self._note(device, node)
            device.volume.close(handle)

    async def _copy(self, device: Device, x: int, y: int) -> None:
        """`cp`: the same content under another name."""
        _, node = self._pick(device, x, [Kind.FILE])
        data = await device.content(node)
        self.private = {one: kept for one, kept in self.private.items() if kept[1] != data}
        copy = await device.volume.make(self._folder(device, y), NAMES[(x + y) % len(NAMES)], stat.S_IFREG | 0o644, ME)
        self._made(device, copy)
        was_written = self.written.get(data)
        await self._put(device, copy, data)
        if was_written is None:
            # One that nobody promised to keep may go with the other file.
            del self.written[data]

    async def _special(self, device: Device, x: int, y: int) -> None:
        node = await device.volume.make(self._folder(device, x), NAMES[y % len(NAMES)], stat.S_IFIFO | 0o644, ME)
        self._made(device, node)

    async def _replace(self, device: Device, x: int, y: int) -> None:
        """A folder goes, and at once a file, a link or another folder has its name; or a file goes for a folder."""
        name, node = self._pick(device, x)
        if device.local()[node].kind is Kind.FOLDER:
            await self._remove_all(device, name, node)
            kind = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR)[y % 3]
        else:
            await self._take_away(device, name, node)
            kind = stat.S_IFDIR
        target = NAMES[0] if kind == stat.S_IFLNK else b""
        made = await device.volume.make(name.parent, name.name, kind | 0o755, ME, target=target)
        self._made(device, made)
        if kind == stat.S_IFREG:
            await self._put(device, made, self._content(device, y))

    async def _swap(self, device: Device, x: int, y: int) -> None:
        """What an editor keeps beside a file, and is not sent: made, written, removed, or it becomes a file.

        Or something that the server has gets such a name, which may be taken by then on another device.
        """
        folder, hidden = self._folder(device, x), b".a.swp"
        node = device.tree.child(folder, hidden)
        if node is None and y % 5 == 4:
            name, node = self._pick(device, y)
            await self._move(device, name, node, Name(folder, hidden))
        elif node is None:
            node = await device.volume.make(folder, hidden, stat.S_IFREG | 0o600, ME)
            self._made(device, node)
            data = self._content(device, y)
            await self._put(device, node, data)
            # Under a name that the server has, it is a save of what stays in step.
            if device.tree.slot_holder(Name(folder, hidden)) is None:
                self.private[node] = device.number, data
        elif y % 3 == 0:
            await self._take_away(device, Name(folder, hidden), node)
        else:
            await self._move(device, Name(folder, hidden), node, Name(folder, NAMES[y % len(NAMES)]))

    async def _restore(self, device: Device, x: int, y: int) -> None:
        """`satchel restore`: sets a path back to what it was, or brings it back."""
        rev = Rev(1 + y * (self.server.head - 1) // 100)
        path = NAMES[x % len(NAMES)] if x % 5 else b""
        before = {node: record.local for node, record in device.records()}
        try:
            with trio.fail_after(5):
                await device.restore.path(path, rev)
        finally:
            for node, record in device.records():
                # Not dirty any more when it is sent already.
                if record.local is not None and (record.is_dirty or record.local != before.get(node)):
                    self._made(device, node)

    async def _pin(self, device: Device, x: int, y: int) -> None:
        _, node = self._pick(device, x)
        if y % 3:
            device.pins.pin(node)
        else:
            device.pins.unpin(node)

    async def _evict(self, device: Device, x: int, y: int) -> None:
        """`satchel cache trim`: all that can be fetched again goes."""
        await device.budget.trim(0)

    async def _deliver(self, device: Device, x: int, y: int) -> None:
        """`satchel wait PATH`: when it returns, the server has what was there."""
        _, node = self._pick(device, x)
        record = device.tree.record(node)
        with trio.fail_after(5):
            await device.syncs.sent(node)
        now = device.tree.record(node)
        if record is None or now is None or record.local is None or device.tree.is_ignored(node):
            return
        assert not now.is_dirty or now.local != record.local, f"node {node} is said to be sent, and is dirty"
        assert self._has_come(node), f"node {node} is said to be sent"

    def _has_come(self, node: NodeId) -> bool:
        """Whether the server ever had it."""
        return node in self.server.now


def stem(name: bytes) -> bytes:
    """The name without the ` (2)` of one that was given twice."""
    return re.sub(rb" \(\d+\)", b"", name)
