"""Conflicts: edits that lost against others and that nobody has settled yet, and settling them."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from cache.merge import cut, free_name, labelled
from cache.records import LostEdit
from cache.staging import StagingId, Stagings
from fusefs import moments
from fusefs.errors import Invalid, NoEntry
from fusefs.lookback import Lookback
from fusefs.restore import TRIES, Restore, not_sent
from fusefs.versions import CONFLICTS_NAME, lost_name
from fusefs.volume import Volume
from remote.protocol.ids import NOW, ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import Conflict, Version
from remote.protocol.nodes import VERSIONS_NAME, Name, NodeState
from remote.protocol.service import Service

_HISTORY_MAX: Final = 1_000


@dataclass(frozen=True)
class Open:
    """A conflict that is not settled: what is at `path` now won against `lost`."""

    path: bytes
    node: NodeId
    lost: Version
    current: Version

    @property
    def version_path(self) -> bytes:
        """Where what lost can be read."""
        folder, _, name = self.path.rpartition(b"/")
        top = folder + b"/" if folder else b""
        return top + b"%s/%s/%s" % (VERSIONS_NAME, CONFLICTS_NAME, lost_name(name, self.lost))


@dataclass(frozen=True)
class Unsent:
    """An edit of this device that lost against what is at `path` now, of `size` bytes; the server has yet to get it."""

    path: bytes
    node: NodeId
    lost: LostEdit
    size: int


@dataclass(frozen=True)
class Kept:
    """What was made of a choice: the nodes that are the chosen content now, and the marks among which it was."""

    nodes: list[NodeId]
    marks: list[tuple[NodeId, Rev]]


class Conflicts:
    """The conflicts of one space, as this device sees them."""

    def __init__(
        self,
        volume: Volume,
        stagings: Stagings,
        lookback: Lookback,
        restore: Restore,
        service: Service,
        *,
        space: SpaceId,
        device: DeviceId,
    ) -> None:
        self._volume = volume
        self._stagings = stagings
        self._restore = restore
        self._lookback = lookback
        self._service = service
        self._space = space
        self._device = device

    async def below(self, path: bytes) -> list[Open]:
        """Those of this path and of all below it, by path and the oldest first; raises RemoteError."""
        found: list[Open] = []
        paths: dict[NodeId, bytes] = {}
        for one in await self._lookback.conflicts():
            if one.node not in paths:
                paths[one.node] = await self._path(one)
            at = paths[one.node]
            if is_below(at, path):
                found.append(Open(at, one.node, one.lost, one.current))
        return sorted(found, key=lambda one: (one.path, one.lost.rev))

    def unsent(self, path: bytes = b"") -> list[Unsent]:
        """Edits that lost here and are conflicts once the server has them: of this path and of all below it."""
        found: list[Unsent] = []
        for _, node, lost in self._volume.tree.lost():
            at = self._volume.tree.path_of(node, lost.state)
            if is_below(at, path):
                content = lost.state.content
                size = self._stagings.kept_size(StagingId(lost.staged)) if lost.staged else content and content.size
                found.append(Unsent(at, node, lost, size or 0))
        return sorted(found, key=lambda one: (one.path, one.lost.edited_ns))

    def take_back(self, node: NodeId, name: bytes) -> bool:
        """Makes the newest edit that lost and is not sent yet what the node is again; whether there was one.

        That needs no server, which has what won as a version. Raises Invalid while a program has the file open for
        writing, NotSent when what is there now is not sent either.
        """
        found = [(lost, key) for key, one, lost in self._volume.tree.lost() if one == node]
        if not found:
            return False
        file = self._volume.files.find(node)
        if file is not None and file.writers:
            raise Invalid("A program has it open for writing: close it there first.")
        if not self._volume.is_as_sent(node):
            raise not_sent(name)
        lost, key = max(found, key=lambda pair: pair[0].edited_ns)
        size = self._stagings.kept_size(StagingId(lost.staged)) if lost.staged else 0
        self._volume.set_back(node, lost.state, (key, lost.staged, size or 0))
        return True

    async def _path(self, one: Conflict) -> bytes:
        """The path of its node, in folders not listed here as the server has it."""
        parts: list[bytes] = []
        node, state = one.node, one.current.state
        while node != ROOT:
            record = self._volume.tree.record(node)
            if record is not None:
                state = record.local or record.agreed
            elif node != one.node:
                answer = await self._service.nodes(self._space, [node])
                version = answer.nodes[0]
                state = version.state if version is not None else None
            if state is None or not state.names:
                break
            parts.append(state.names[0].name)
            node = state.names[0].parent
        return b"/".join(reversed(parts))

    async def keep(self, node: NodeId, name: Name, choice: str) -> Kept:
        """Makes the chosen content the node's, as an edit of this device.

        `choice`: mine, theirs, both, or the rev of a version. Raises NoEntry without a conflict, Invalid for a choice
        that does not say which, NotSent when programs write to it all the time. The mark stays until `settle`, when the
        server has what was changed.
        """
        for _ in range(TRIES):
            conflicts = [one for one in await self._lookback.conflicts() if one.node == node]
            if not conflicts:
                what = os.fsdecode(name.name)
                raise NoEntry(
                    f"{what} has no conflict that is not settled: satchel conflicts lists those that there are."
                )
            current = conflicts[0].current
            lost = [one.lost for one in conflicts]
            marks = [(node, one.rev) for one in lost]
            is_both = choice == "both"
            chosen = current if is_both else await self._chosen(node, choice, current, lost)
            # No await from here to the edit: what programs make of it meanwhile would be lost.
            file = self._volume.files.find(node)
            if file is not None and file.writers:
                raise Invalid("A program has it open for writing: close it there first.")
            if is_both:
                return Kept([self._put_beside(name, version) for version in lost], marks)
            if self._volume.is_as_sent(node):
                return Kept([node] if self._make_current(node, chosen) else [], marks)
            await self._restore.sent(node, name.name)
        raise not_sent(name.name)

    async def settle(self, kept: Kept) -> None:
        """Takes the marks off, for all devices: those among which was chosen, and none that came since."""
        await self._service.settle(self._space, kept.marks)

    async def _chosen(self, node: NodeId, choice: str, current: Version, lost: Sequence[Version]) -> Version:
        if choice in ("mine", "theirs"):
            is_mine = choice == "mine"
            found = [one for one in (current, *lost) if (one.device == self._device) is is_mine]
            if not found:
                where = "this device" if is_mine else "another device"
                raise Invalid(f"None of these edits was made on {where}: give the rev of the one to keep.")
            return max(found, key=lambda one: one.edited_ns)
        if not choice.isdecimal():
            raise Invalid(f"{choice!r} is none of mine, theirs, both, and no rev as satchel versions lists them.")
        rev = int(choice)
        history = await self._service.history(self._space, node, NOW, _HISTORY_MAX)
        for one in (*lost, current, *history.versions):
            if one.rev == rev and one.state is not None:
                return one
        raise Invalid(f"It has no version of rev {rev}: satchel versions lists those that there are.")

    def _make_current(self, node: NodeId, chosen: Version) -> bool:
        """Whether that changed anything."""
        record = self._volume.record(node)
        state = chosen.state
        assert record.local is not None
        assert state is not None
        is_same = not record.staged and (record.local.content, record.local.target) == (state.content, state.target)
        if is_same and self._volume.files.find(node) is None:
            return False
        kept = replace(record.local, content=state.content, target=state.target, mtime_ns=state.mtime_ns)
        self._volume.set_back(node, kept)
        return True

    def _put_beside(self, name: Name, lost: Version) -> NodeId:
        """The node that holds what lost; when this was asked for before, the one that was made then."""
        state = lost.state
        assert state is not None
        tree = self._volume.tree

        def is_other(candidate: bytes) -> bool:
            node = tree.child(name.parent, candidate)
            return node is not None and not self._holds(node, state)

        free = beside(name.name, lost)
        if is_other(free):
            free = free_name(free, is_other)
        there = tree.child(name.parent, free)
        if there is not None:
            return there
        return self._restore.make(name.parent, free, replace(state, birth_ns=time.time_ns()))

    def _holds(self, node: NodeId, state: NodeState) -> bool:
        """Whether the node is just this content."""
        record, file = self._volume.record(node), self._volume.files.find(node)
        live = record.local
        assert live is not None
        is_written = bool(record.staged) or (file is not None and file.is_changed)
        return not is_written and (live.kind, live.content, live.target) == (state.kind, state.content, state.target)


def is_below(path: bytes, top: bytes) -> bool:
    """Whether a path is `top` or below it; an empty `top` is the mount's."""
    return not top or path == top or path.startswith(top + b"/")


def beside(name: bytes, lost: Version) -> bytes:
    """The name under which an edit that lost is put beside the file: before the extension, by whom and when."""
    label = f"{lost.device_name} {moments.name(lost.edited_ns)}".replace("/", "-").strip()
    return labelled(name, b" (%s)" % cut(label.encode(), 100))
