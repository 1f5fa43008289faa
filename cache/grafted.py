"""Grafted: the requests of one shared space, for a tree in which its root is the folder that mounts it.

What is sent of that folder is said of the space's ROOT, and what is told of ROOT is the folder's: nobody else needs to
know. The root's own mode and times are dropped, as the folder has its own, in the home of each member.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from remote.protocol.events import Events, Guard
from remote.protocol.history import Difference, Differences, Done, Purged, Retention, RetentionTold, Trash
from remote.protocol.ids import NOW, NOWHERE, ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    Conflict,
    Conflicts,
    FolderListing,
    FolderQuery,
    History,
    Holding,
    JournalCommit,
    Listing,
    LostAnswer,
    Moment,
    Moments,
    NodeRange,
    Nodes,
    PollAnswer,
    Room,
    Spaces,
    Version,
)
from remote.protocol.nodes import Name, NodeState, NodeVersion
from remote.protocol.service import NOTHING_HELD, Acts, Service, TakePart


class Border:
    """Between the names of nodes in a shared space and those in the tree where the folder `top` mounts it."""

    def __init__(self, top: NodeId) -> None:
        self.top = top

    def out(self, node: NodeId) -> NodeId:
        """What the space calls this node."""
        return ROOT if node == self.top else node

    def into(self, node: NodeId) -> NodeId:
        """What the tree calls this node."""
        return self.top if node == ROOT else node

    def state_out(self, state: NodeState | None) -> NodeState | None:
        """A state as the space has it."""
        return self._moved(state, self.top, ROOT)

    def state_into(self, state: NodeState | None) -> NodeState | None:
        """A state as the tree has it."""
        return self._moved(state, ROOT, self.top)

    @staticmethod
    def _moved(state: NodeState | None, old: NodeId, new: NodeId) -> NodeState | None:
        if state is None or all(name.parent != old for name in state.names):
            return state
        names = tuple(Name(new, name.name) if name.parent == old else name for name in state.names)
        return replace(state, names=names)

    def version_into(self, version: NodeVersion) -> NodeVersion:
        """What is told of a node, as the tree has it."""
        state = self.state_into(version.state)
        if state is version.state and version.node != ROOT:
            return version
        return replace(version, node=self.into(version.node), state=state)

    def versions_into(self, versions: Iterable[NodeVersion]) -> tuple[NodeVersion, ...]:
        """The same of many; what is told of the root itself is dropped."""
        return tuple(self.version_into(version) for version in versions if version.node != ROOT)

    def told_into(self, version: Version) -> Version:
        """A version from a history."""
        return replace(version, state=self.state_into(version.state))

    def differences_into(self, found: Differences) -> Differences:
        """What differs, with the nodes that the tree has."""
        moved: list[Difference] = [replace(one, node=self.into(one.node)) for one in found.differences]
        return replace(found, differences=tuple(moved))


class Grafted:
    """A Service for one shared space; of its other requests it asks the server as they are."""

    def __init__(self, service: Service, top: NodeId) -> None:
        self._service = service
        self.border = Border(top)

    async def spaces(self) -> Spaces:
        """See Service."""
        return await self._service.spaces()

    async def lease_range(self) -> NodeRange:
        """See Service."""
        return await self._service.lease_range()

    async def list_folders(self, space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
        """See Service."""
        border = self.border
        asked = [replace(one, folder=border.out(one.folder)) for one in folders]
        answer = await self._service.list_folders(space, asked, as_of)
        found: list[FolderListing] = [
            replace(
                one,
                folder=border.into(one.folder),
                children=tuple(border.version_into(child) for child in one.children),
            )
            for one in answer.folders
        ]
        return replace(answer, folders=tuple(found))

    async def nodes(self, space: SpaceId, nodes: Sequence[NodeId], as_of: Rev = NOW) -> Nodes:
        """See Service; of the folder that mounts the space, what the space's root is."""
        border = self.border
        answer = await self._service.nodes(space, [border.out(node) for node in nodes], as_of)
        found = tuple(border.version_into(one) if one is not None else None for one in answer.nodes)
        return replace(answer, nodes=found)

    async def changes(self, space: SpaceId, since: Rev, life: int = 0) -> Changes:
        """See Service."""
        answer = await self._service.changes(space, since, life)
        commits: list[JournalCommit] = [
            replace(one, changes=self.border.versions_into(one.changes)) for one in answer.commits
        ]
        return replace(answer, commits=tuple(commits))

    async def poll(
        self,
        cursors: Mapping[SpaceId, Rev],
        wait_seconds: int,
        holding: Mapping[SpaceId, Holding] = NOTHING_HELD,
        serial: int = 0,
    ) -> PollAnswer:
        """See Service."""
        return await self._service.poll(cursors, wait_seconds, holding, serial)

    async def room(self, space: SpaceId, holding: Holding | None, wanted: int, needed: int = 0) -> Room:
        """See Service."""
        return await self._service.room(space, holding, wanted, needed)

    async def commit(self, space: SpaceId, commit: Commit) -> CommitAnswer:
        """See Service."""
        border = self.border
        changes = tuple(replace(one, state=border.state_out(one.state)) for one in commit.changes)
        answer = await self._service.commit(space, replace(commit, changes=changes))
        return replace(answer, winners=border.versions_into(answer.winners))

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        """See Service."""
        return await self._service.send_chunks(space, chunks)

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        """See Service."""
        return await self._service.wanted(space, chunks)

    async def lost(self, space: SpaceId, after: ChunkId) -> LostAnswer:
        """See Service."""
        return await self._service.lost(space, after)

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        """See Service."""
        return await self._service.get_parts(space, parts)

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        """See Service."""
        await self._service.read_parts(space, parts, take)

    async def moments(
        self, space: SpaceId, folder: NodeId, limit: int, steps: Sequence[tuple[int, int]] = ()
    ) -> Moments:
        """See Service."""
        return await self._service.moments(space, self.border.out(folder), limit, steps)

    async def as_of(self, space: SpaceId, time_ns: int) -> Moment:
        """See Service."""
        return await self._service.as_of(space, time_ns)

    async def history(self, space: SpaceId, node: NodeId, before: Rev = NOW, limit: int = 1_000) -> History:
        """See Service."""
        answer = await self._service.history(space, self.border.out(node), before, limit)
        return replace(answer, versions=tuple(map(self.border.told_into, answer.versions)))

    async def conflicts(self, space: SpaceId, after_node: NodeId = NOWHERE, after_rev: Rev = NOW) -> Conflicts:
        """See Service."""
        answer = await self._service.conflicts(space, after_node, after_rev)
        told_into = self.border.told_into
        found: list[Conflict] = [
            replace(one, lost=told_into(one.lost), current=told_into(one.current)) for one in answer.conflicts
        ]
        return replace(answer, conflicts=tuple(found))

    async def settle(self, space: SpaceId, conflicts: Sequence[tuple[NodeId, Rev]]) -> None:
        """See Service."""
        await self._service.settle(space, conflicts)


class GraftedActs:
    """The Acts of one shared space."""

    def __init__(self, acts: Acts, top: NodeId) -> None:
        self._acts = acts
        self._border = Border(top)

    async def diff(self, space: SpaceId, folder: NodeId, since: Rev, to: Rev, limit: int) -> Differences:
        """See Acts."""
        found = await self._acts.diff(space, self._border.out(folder), since, to, limit)
        return self._border.differences_into(found)

    async def rewind(self, space: SpaceId, folder: NodeId, to: Rev, *, is_dry_run: bool, limit: int) -> Done:
        """See Acts."""
        done = await self._acts.rewind(space, self._border.out(folder), to, is_dry_run=is_dry_run, limit=limit)
        return self._into(done)

    async def undo(
        self,
        space: SpaceId,
        rev: Rev = NOW,
        *,
        is_dry_run: bool,
        limit: int,
        event: int = 0,
        keeps_new: bool = False,
        passing: Sequence[NodeId] = (),
    ) -> Done:
        """See Acts."""
        done = await self._acts.undo(
            space,
            rev,
            is_dry_run=is_dry_run,
            limit=limit,
            event=event,
            keeps_new=keeps_new,
            passing=list(map(self._border.out, passing)),
        )
        return self._into(done)

    async def events(self, space: SpaceId, before: int = 0, limit: int = 100) -> Events:
        """See Acts."""
        return await self._acts.events(space, before, limit)

    async def answer_event(self, space: SpaceId, event: int, says: str) -> None:
        """See Acts."""
        await self._acts.answer_event(space, event, says)

    async def guard(self, space: SpaceId, guard: Guard | None = None) -> Guard:
        """See Acts."""
        return await self._acts.guard(space, guard)

    async def trash(self, space: SpaceId, before: Rev = NOW, limit: int = 100) -> Trash:
        """See Acts; paths are those in the space."""
        return await self._acts.trash(space, before, limit)

    async def put_back(self, space: SpaceId, nodes: Sequence[NodeId], *, limit: int) -> Done:
        """See Acts."""
        return self._into(await self._acts.put_back(space, nodes, limit=limit))

    async def purge(
        self, space: SpaceId, nodes: Sequence[NodeId] = (), before: Rev = NOW, *, is_dry_run: bool
    ) -> Purged:
        """See Acts."""
        return await self._acts.purge(space, list(map(self._border.out, nodes)), before, is_dry_run=is_dry_run)

    async def retention(self, space: SpaceId, retention: Retention | None = None) -> RetentionTold:
        """See Acts."""
        return await self._acts.retention(space, retention)

    def _into(self, done: Done) -> Done:
        return replace(done, did=self._border.differences_into(done.did))
