"""History: what a path was before: the versions of its node, and of the nodes that had its name before that."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fusefs.errors import NoEntry, NotFolder
from fusefs.lookback import Lookback
from fusefs.volume import Volume
from remote.protocol.ids import NOW, ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Moment, Version
from remote.protocol.nodes import Kind, Name
from remote.protocol.service import Service

VERSIONS_MAX: Final = 1_000
_NODES_MAX: Final = 50
_MOMENTS_MAX: Final = 1_000
_MOMENTS_TRIED: Final = 300
_MOMENTS_BEFORE: Final = 50
_RESTORED_NS: Final = 1_000_000_000
"""A node that was born this long before its first version was brought back: only then a gap is searched."""


@dataclass(frozen=True)
class Old:
    """One version of a path, which is a version of `node`; `name` is what it was called then, empty for a removal."""

    name: bytes
    version: Version
    node: NodeId


class History:
    """The history of one space."""

    def __init__(
        self, volume: Volume, lookback: Lookback, service: Service, space: SpaceId, top: NodeId = ROOT
    ) -> None:
        """`top`: the folder that mounts the space; paths are relative to it."""
        self._top = top
        self._volume = volume
        self._lookback = lookback
        self._service = service
        self._space = space

    async def find(self, path: bytes) -> NodeId:
        """The node that has this path, or had it last; raises NoEntry, RemoteError."""
        return (await self._find([part for part in path.split(b"/") if part]))[1]

    async def path_at(self, node: NodeId, rev: Rev) -> bytes | None:
        """The first path of a node as of a rev; None when it did not exist. Raises RemoteError."""
        parts: list[bytes] = []
        while node != self._top:
            state = await self._lookback.state_at(node, rev)
            if state is None or not state.names:
                return None
            parts.append(state.names[0].name)
            node = state.names[0].parent
        return b"/".join(reversed(parts))

    async def of_path(self, path: bytes) -> list[Old]:
        """Versions of what has this path, or had it last, newest first; raises NoEntry, RemoteError."""
        parts = [part for part in path.split(b"/") if part]
        folder, node = await self._find(parts)
        found = await self.of_node(node)
        if folder is None or (found and _kind(found) is Kind.FOLDER):
            return found
        return await self.with_older(found, Name(folder, parts[-1]))

    async def with_older(self, found: Sequence[Old], name: Name) -> list[Old]:
        """These versions of one node, and those of the nodes that had this name before it; raises RemoteError."""
        found = list(found)
        seen = {old.node for old in found}
        # Programs that save by renaming a new file over the old one make a new node each time.
        while len(seen) < _NODES_MAX and len(found) < VERSIONS_MAX:
            older = await self._holder_before(name, found)
            if older is None or older in seen:
                break
            seen.add(older)
            found += await self.of_node(older)
        # A file that another replaced was not removed, for who looks at the name.
        held = {old.version.rev for old in found if old.version.state}
        found = [old for old in found if old.version.state or old.version.rev not in held]
        found.sort(key=lambda old: old.version.rev, reverse=True)
        return found[:VERSIONS_MAX]

    async def moments(self, path: bytes) -> Sequence[Moment]:
        """When a folder or anything below it changed, newest first."""
        return await self.moments_of(await self.find(path))

    async def moments_of(self, node: NodeId) -> Sequence[Moment]:
        """The same of a folder by its id."""
        return (await self._service.moments(self._space, node, VERSIONS_MAX)).moments

    async def of_node(self, node: NodeId) -> list[Old]:
        """The versions of one node alone, newest first; raises RemoteError."""
        answer = await self._service.history(self._space, node, NOW, VERSIONS_MAX)
        return [
            Old(version.state.names[0].name if version.state and version.state.names else b"", version, node)
            for version in answer.versions
        ]

    async def _holder_before(self, name: Name, found: Sequence[Old]) -> NodeId | None:
        """Who had the name before the oldest of these versions that has it."""
        held = [old.version for old in found if old.version.state and name in old.version.state.names]
        oldest = min(held, key=lambda version: version.rev, default=None)
        if oldest is None or oldest.state is None or oldest.rev <= 1:
            return None
        holder = await self.holder_at(name, Rev(oldest.rev - 1))
        if holder is not None or oldest.edited_ns - oldest.state.birth_ns < _RESTORED_NS:
            return holder
        # It was brought back: between that and its removal nobody had the name.
        answer = await self._service.moments(self._space, name.parent, _MOMENTS_MAX)
        for moment in [one for one in answer.moments if one.rev < oldest.rev - 1][:_MOMENTS_BEFORE]:
            holder = await self.holder_at(name, moment.rev)
            if holder is not None:
                return holder
        return None

    async def holder_at(self, name: Name, rev: Rev) -> NodeId | None:
        """Who had the name as of a rev, if somebody had."""
        try:
            children = await self._lookback.children_at(name.parent, rev)
        except (NoEntry, NotFolder):
            return None
        return next((version.node for child, version in children if child == name.name), None)

    async def _find(self, parts: Sequence[bytes]) -> tuple[NodeId | None, NodeId]:
        """The folder and the node that a path leads to now, or led to last."""
        folder: NodeId | None = None
        node = self._top
        for position, part in enumerate(parts):
            try:
                child = await self._volume.lookup(node, part)
            except NoEntry:
                return await self._find_removed(node, parts[position:])
            folder, node = node, child
        return folder, node

    async def _find_removed(self, top: NodeId, parts: Sequence[bytes]) -> tuple[NodeId, NodeId]:
        """Looks below a folder that is there still, from the newest of its moments backwards."""
        answer = await self._service.moments(self._space, top, _MOMENTS_MAX)
        for moment in answer.moments[:_MOMENTS_TRIED]:
            folder, node = top, top
            for part in parts:
                try:
                    children = await self._lookback.children_at(node, moment.rev)
                except (NoEntry, NotFolder):
                    break
                child = next((version.node for name, version in children if name == part), None)
                if child is None:
                    break
                folder, node = node, child
            else:
                return folder, node
        path = os.fsdecode(b"/".join(parts))
        raise NoEntry(f"There is no {path}, and none is found among the latest changes of its folder.")


def _kind(found: Sequence[Old]) -> Kind | None:
    return next((old.version.state.kind for old in found if old.version.state), None)
