"""Restore: brings a path back as it was, as ordinary edits of this device that move no content."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio
from msgspec.structs import replace

from cache.errors import NoSuchNode
from cache.merge import free_name, labelled
from fusefs.errors import Invalid, NoEntry, NotSent
from fusefs.lookback import Lookback
from fusefs.volume import Volume, check_name
from remote.protocol.ids import NO_SPACE, ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Name, NodeState

Way = Sequence[tuple[bytes, NodeState]]
"""Names of folders, each in the one before, and what they were."""
_STEPS: Final = 200
TRIES: Final = 5
"""How often what programs write meanwhile is sent first."""
_SENT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Restored:
    """How many files and folders were brought back or set back."""

    nodes: int
    rev: Rev
    path: bytes
    """What is so again; the copy, when one was asked for."""
    left: tuple[bytes, ...] = ()
    """Names of shared folders, which were let be."""


class StaysHere(NotSent):
    """What has the name now is ignored: it is on this machine only, and stays as it is."""


class Restore:
    """Restores within one volume."""

    def __init__(self, volume: Volume, lookback: Lookback, top: NodeId = ROOT) -> None:
        """`top`: the folder that mounts the space; paths are relative to it."""
        self._top = top
        self._volume = volume
        self._lookback = lookback

    async def path(self, path: bytes, rev: Rev, *, is_copy: bool = False) -> Restored:
        """Makes the path what it was as of `rev`; what came into a folder since then stays. Raises NoEntry.

        `is_copy`: what is there now is left alone, and the older state is put beside it, under a name with its time.
        """
        parts = [part for part in path.split(b"/") if part]
        node = folder = self._top
        state = await self._lookback.state_at(node, rev)
        for number, part in enumerate(parts):
            child = next(
                (version for name, version in await self._lookback.children_at(node, rev) if name == part), None
            )
            if child is None or child.state is None:
                raise NoEntry(f"{os.fsdecode(path)} did not exist at rev {rev}. satchel versions shows when it did.")
            node, state = child.node, child.state
            if number < len(parts) - 1:
                folder = await self._folder(folder, part, state)
        if state is None:
            raise NoEntry(f"Nothing existed at rev {rev}.")
        if not parts:
            if is_copy:
                raise Invalid("The whole drive has nothing beside it: copy it out of .versions.")
            return await self._into(folder, node, rev, path)
        name = await self._name_beside(folder, parts[-1], rev) if is_copy else parts[-1]
        left: list[bytes] = []
        count = await self._put(folder, name, node, state, rev, left)
        return Restored(count, rev, b"/".join([*parts[:-1], name]), tuple(left))

    async def node(self, node: NodeId, rev: Rev, at: Name, *, way: Way = (), is_copy: bool = False) -> Restored:
        """Makes what has this name what a node of this past was as of `rev`; the path of what is so is told below it.

        `way`: folders below `at.parent` that lead there, made when they are gone. Raises NoEntry, ReadOnly.
        """
        state = await self._lookback.state_at(node, rev)
        if state is None:
            raise NoEntry(f"{os.fsdecode(at.name)} did not exist at that time. satchel versions shows when it did.")
        self._volume.check_writable_in(at.parent)
        folder = at.parent
        for part, was in way:
            folder = await self._folder(folder, part, was)
        name = await self._name_beside(folder, at.name, rev) if is_copy else at.name
        path = b"/".join([*(part for part, _ in way), name])
        live = await self._volume.find(folder, name)
        if live is not None and self._mounts(live) and state.kind is Kind.FOLDER:
            return await self._into(live, node, rev, path)
        left: list[bytes] = []
        return Restored(await self._put(folder, name, node, state, rev, left), rev, path, tuple(left))

    async def _into(self, live: NodeId, node: NodeId, rev: Rev, path: bytes) -> Restored:
        """What was in a folder, in a live one."""
        left: list[bytes] = []
        return Restored(await self._content(live, node, rev, left), rev, path, tuple(left))

    async def _name_beside(self, folder: NodeId, name: bytes, rev: Rev) -> bytes:
        """A free name that says which version it is."""
        await self._volume.children(folder)

        def is_taken(candidate: bytes) -> bool:
            return self._volume.tree.child(folder, candidate) is not None

        wanted = labelled(name, b" (rev %d)" % rev)
        return free_name(wanted, is_taken) if is_taken(wanted) else wanted

    async def _folder(self, parent: NodeId, name: bytes, state: NodeState) -> NodeId:
        """The live folder of this name, made when it is gone."""
        try:
            return await self._volume.lookup(parent, name)
        except NoEntry:
            return self.make(parent, name, state)

    async def _put(
        self, parent: NodeId, name: bytes, node: NodeId, state: NodeState, rev: Rev, left: list[bytes]
    ) -> int:
        live = await self._as_sent(parent, name)
        # No await from here to the edit: what programs make of it meanwhile would be lost.
        if live is None:
            live = self.make(parent, name, state)
        else:
            live = await self._set_back(parent, name, live, state)
        if state.kind is Kind.FOLDER:
            return 1 + await self._content(live, node, rev, left)
        return 1

    async def _as_sent(self, parent: NodeId, name: bytes) -> NodeId | None:
        """The node of this name, if there is one, when the server has what it is now; raises NotSent."""
        for _ in range(TRIES):
            live = await self._volume.find(parent, name)
            if live is None or self._is_folder(live) or self._volume.is_as_sent(live):
                return live
            if self._volume.tree.is_ignored(live):
                raise StaysHere(
                    f"{os.fsdecode(name)} is ignored, so the server has nothing of what it is now: move it away first."
                )
            await self.sent(live, name)
        raise not_sent(name)

    def _is_folder(self, node: NodeId) -> bool:
        state = self._volume.record(node).local
        return state is not None and state.kind is Kind.FOLDER

    async def sent(self, node: NodeId, name: bytes) -> None:
        """Returns when the server has the node as it was a moment ago; raises NotSent when that takes long."""
        self._volume.flush_all()
        with trio.move_on_after(_SENT_SECONDS) as scope:
            await self._volume.sync.sent(node)
        if scope.cancelled_caught:
            raise not_sent(name)

    def _mounts(self, node: NodeId) -> bool:
        """Whether this is a shared folder now."""
        record = self._volume.tree.record(node)
        return record is not None and record.local is not None and bool(record.local.mounts)

    async def _content(self, live: NodeId, node: NodeId, rev: Rev, left: list[bytes]) -> int:
        """Brings back what was in a folder, into the live one; `left` gets the names of what is let be.

        Shared folders are: what is in them is for all their members, and has a past of its own.
        """
        count = 0
        for position, (name, child) in enumerate(await self._lookback.children_at(node, rev)):
            there = await self._volume.find(live, name)
            if self._mounts(child.node) or (there is not None and self._mounts(there)):
                left.append(name)
            elif child.state is not None:
                with suppress(StaysHere):
                    count += await self._put(live, name, child.node, child.state, rev, left)
            if position % _STEPS == 0:
                await trio.lowlevel.checkpoint()
        return count

    async def _set_back(self, parent: NodeId, name: bytes, live: NodeId, state: NodeState) -> NodeId:
        record = self._volume.tree.record(live)
        if record is None or record.local is None:
            raise NoSuchNode(f"There is no node {live} here.")
        if record.local.kind is not state.kind:
            if record.local.kind is Kind.FOLDER:
                raise NoEntry(f"{os.fsdecode(name)} is a folder now and was none then: move it away first.")
            # It is known, so that this does not wait.
            await self._volume.unlink(parent, name)
            return self.make(parent, name, state)
        if self._volume.files.find(live) is not None or not _is_same(record.local, state):
            self._volume.set_back(live, state)
        return live

    def make(self, parent: NodeId, name: bytes, state: NodeState) -> NodeId:
        """A new node of this name with an older state, of which no content is moved; raises NameTooLong, Invalid."""
        check_name(name)
        self._volume.check_writable_in(parent)
        node = self._volume.tree.new_node()
        now_ns = time.time_ns()
        made = replace(state, names=(Name(parent, name),), ctime_ns=now_ns, mounts=NO_SPACE)
        with self._volume.tree.edit() as edit:
            edit.set_local(node, made, now_ns)
            edit.touch(parent, now_ns)
        self._volume.changed_here(node, None, made)
        return node


def not_sent(name: bytes) -> NotSent:
    """The error that names a file whose content would be lost."""
    return NotSent(
        f"What {os.fsdecode(name)} is now is not on the server yet, and would be lost. satchel status says why; try "
        "again when that is sent."
    )


def _is_same(live: NodeState, then: NodeState) -> bool:
    """Whether setting back would change nothing that anybody sees: such an edit would only be one more version."""
    return (
        replace(live, names=then.names, ctime_ns=then.ctime_ns, atime_ns=then.atime_ns, birth_ns=then.birth_ns) == then
    )
