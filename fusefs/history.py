"""History: what a path was before: the versions of its node, and of the nodes that had its name before that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fusefs.errors import NoEntry, NotFolder
from fusefs.versions import Versions
from fusefs.volume import Volume
from remote.protocol.ids import NOW, ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Moment, Version
from remote.protocol.nodes import Kind, Name
from remote.protocol.service import Service

VERSIONS_MAX: Final = 1_000
_NODES_MAX: Final = 50
_MOMENTS_MAX: Final = 1_000
_MOMENTS_TRIED: Final = 300


@dataclass(frozen=True)
class Old:
    """One version of a path; `name` is what it was called then, empty for a removal."""

    name: bytes
    version: Version


class History:
    """The history of one space."""

    def __init__(self, volume: Volume, versions: Versions, service: Service, space: SpaceId) -> None:
        self._volume = volume
        self._versions = versions
        self._service = service
        self._space = space

    async def of_path(self, path: bytes) -> list[Old]:
        """Versions of what has this path, or had it last, newest first; raises NoEntry, RemoteError."""
        parts = [part for part in path.split(b"/") if part]
        folder, node = await self._find(parts)
        found = await self._of_node(node)
        if folder is None or (found and _kind(found) is Kind.FOLDER):
            return found
        name = Name(folder, parts[-1])
        seen = {node}
        # Programs that save by renaming a new file over the old one make a new node each time.
        while len(seen) < _NODES_MAX and len(found) < VERSIONS_MAX:
            older = await self._holder_before(name, found)
            if older is None or older in seen:
                break
            seen.add(older)
            found += await self._of_node(older)
        found.sort(key=lambda old: old.version.rev, reverse=True)
        return found[:VERSIONS_MAX]

    async def moments(self, path: bytes) -> Sequence[Moment]:
        """When a folder or anything below it changed, newest first."""
        _, node = await self._find([part for part in path.split(b"/") if part])
        return (await self._service.moments(self._space, node, VERSIONS_MAX)).moments

    async def _of_node(self, node: NodeId) -> list[Old]:
        answer = await self._service.history(self._space, node, NOW, VERSIONS_MAX)
        return [
            Old(version.state.names[0].name if version.state and version.state.names else b"", version)
            for version in answer.versions
        ]

    async def _holder_before(self, name: Name, found: Sequence[Old]) -> NodeId | None:
        """Who had the name just before the oldest of these versions that has it."""
        revs = [old.version.rev for old in found if old.version.state and name in old.version.state.names]
        before = Rev(min(revs, default=Rev(0)) - 1)
        if before <= 0:
            return None
        try:
            children = await self._versions.children_at(name.parent, before)
        except (NoEntry, NotFolder):
            return None
        return next((version.node for child, version in children if child == name.name), None)

    async def _find(self, parts: Sequence[bytes]) -> tuple[NodeId | None, NodeId]:
        """The folder and the node that a path leads to now, or led to last."""
        folder: NodeId | None = None
        node = ROOT
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
                    children = await self._versions.children_at(node, moment.rev)
                except (NoEntry, NotFolder):
                    break
                child = next((version.node for name, version in children if name == part), None)
                if child is None:
                    break
                folder, node = node, child
            else:
                return folder, node
        raise NoEntry("There is no such path, and none is found among the latest changes of its folder.")


def _kind(found: Sequence[Old]) -> Kind | None:
    return next((old.version.state.kind for old in found if old.version.state), None)
