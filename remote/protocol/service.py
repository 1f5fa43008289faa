"""Service: the small interface of what a server answers; the cache is given one and knows nothing of HTTP."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from remote.protocol.events import Events, Guard
from remote.protocol.history import Differences, Done, Purged, Retention, RetentionTold, Trash
from remote.protocol.ids import NOW, NOWHERE, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    Conflicts,
    FolderQuery,
    History,
    Holding,
    Listing,
    LostAnswer,
    Moment,
    Moments,
    NodeRange,
    Nodes,
    PollAnswer,
    Room,
    Spaces,
)
from remote.protocol.sealing import Buffer

NOTHING_HELD: Mapping[SpaceId, Holding] = MappingProxyType({})

TakePart = Callable[[ChunkId, int, int, Buffer], None]
"""Chunk, first frame, number of frames (0: all of the chunk), and the bytes as ChunkPart describes them."""


class Service(Protocol):
    """What a server answers to one signed-in device.

    Every method may raise any `RemoteError`; `Unreachable` within the deadline that the Service was made with, never
    later. Each is safe to cancel and safe to call again: a repeated request does nothing twice.
    """

    async def spaces(self) -> Spaces:
        """The spaces of the device's user."""
        ...

    async def lease_range(self) -> NodeRange:
        """A fresh range of node ids for this device."""
        ...

    async def list_folders(self, space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
        """Children of these folders; see `Listing` for what may be left out."""
        ...

    async def nodes(self, space: SpaceId, nodes: Sequence[NodeId], as_of: Rev = NOW) -> Nodes:
        """The states of these nodes, in order."""
        ...

    async def changes(self, space: SpaceId, since: Rev, life: int = 0) -> Changes:
        """Commits after `since`; raises CursorTooOld below the floor, and when `since` was not given in that life."""
        ...

    async def poll(
        self,
        cursors: Mapping[SpaceId, Rev],
        wait_seconds: int,
        holding: Mapping[SpaceId, Holding] = NOTHING_HELD,
        serial: int = 0,
    ) -> PollAnswer:
        """Waits for a space to move beyond its cursor; `holding`: what the device keeps of its leases meanwhile.

        `serial`: of the list of spaces that the device knows, 0 when it does not look at it.
        """
        ...

    async def room(self, space: SpaceId, holding: Holding | None, wanted: int, needed: int = 0) -> Room:
        """What the space has room for, with a lease of what is wanted, as far as that goes.

        With less than what is `needed` it takes some seconds more: other devices are asked for what they hold.
        """
        ...

    async def commit(self, space: SpaceId, commit: Commit) -> CommitAnswer:
        """Takes the commit or refuses it whole; raises ChunkMissing, QuotaExceeded."""
        ...

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        """Stores these sealed chunks, sending only what the server asks for; returns the bytes that were sent."""
        ...

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        """Which of these chunks (id -> sealed size in bytes) the server does not hold for this space."""
        ...

    async def lost(self, space: SpaceId, after: ChunkId) -> LostAnswer:
        """Chunks of the space that the server lost, by id, behind this one."""
        ...

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        """The bytes of all these parts, in order, as many requests as that takes; raises NotFound for an unknown chunk.

        Bytes are as received: the caller checks them (sealing.open_chunk, sealing.open_frames).
        """
        ...

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        """Gives the bytes of all these parts, and those below them, to `take`, as they come; raises NotFound.

        `take` is called from any thread, one call after the other; the bytes are unchecked, and good until it returns.
        After a cut, parts may be given once more. What is below a leaf may be left out. When this returns or raises,
        `take` is not called any more.
        """
        ...

    async def moments(
        self, space: SpaceId, folder: NodeId, limit: int, steps: Sequence[tuple[int, int]] = ()
    ) -> Moments:
        """The newest moments at which the folder or anything below it changed; see MomentsRequest for `steps`."""
        ...

    async def as_of(self, space: SpaceId, time_ns: int) -> Moment:
        """The last commit at or before this time (server clock); rev 0 when there was none."""
        ...

    async def history(self, space: SpaceId, node: NodeId, before: Rev = NOW, limit: int = 1_000) -> History:
        """The versions of one node, newest first."""
        ...

    async def conflicts(self, space: SpaceId, after_node: NodeId = NOWHERE, after_rev: Rev = NOW) -> Conflicts:
        """Conflicts that nobody has settled, by node and rev, behind this one."""
        ...

    async def settle(self, space: SpaceId, conflicts: Sequence[tuple[NodeId, Rev]]) -> None:
        """These conflicts (node, rev of what lost) are settled for all devices."""
        ...


class Acts(Protocol):
    """What a server does with the past of a space for who asks; the errors are those of a Service, and InTheWay."""

    async def diff(self, space: SpaceId, folder: NodeId, since: Rev, to: Rev, limit: int) -> Differences:
        """What differs in a folder between two revs (`to` NOW: the present)."""
        ...

    async def rewind(self, space: SpaceId, folder: NodeId, to: Rev, *, is_dry_run: bool, limit: int) -> Done:
        """Makes a folder what it was, by one commit."""
        ...

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
        """Takes back what one commit did; NOW: the last one of this device, or that it asked for. Or a mass change.

        `passing`: see UndoRequest.
        """
        ...

    async def events(self, space: SpaceId, before: int = 0, limit: int = 100) -> Events:
        """What the members of a space are told of, the newest first."""
        ...

    async def answer_event(self, space: SpaceId, event: int, says: str) -> None:
        """Says something to an event: see EventAnswer; raises NotFound, InTheWay."""
        ...

    async def guard(self, space: SpaceId, guard: Guard | None = None) -> Guard:
        """The guard of a space; given one, that is set. Raises NotAllowed."""
        ...

    async def trash(self, space: SpaceId, before: Rev = NOW, limit: int = 100) -> Trash:
        """What was removed and can be brought back, newest first; see `Trash.next` for more."""
        ...

    async def put_back(self, space: SpaceId, nodes: Sequence[NodeId], *, limit: int) -> Done:
        """Brings removed things back; raises NotFound for what is not removed, or forgotten."""
        ...

    async def purge(
        self, space: SpaceId, nodes: Sequence[NodeId] = (), before: Rev = NOW, *, is_dry_run: bool
    ) -> Purged:
        """Forgets for good what nodes were, or (none given) what was removed before a rev; raises NotAllowed."""
        ...

    async def retention(self, space: SpaceId, retention: Retention | None = None) -> RetentionTold:
        """What the space keeps of its past; given one, that is set. Raises NotAllowed."""
        ...
