"""The reference server: one space in memory, small and obviously right; what a real server answers must be the same.

Every commit is judged by the state after the whole batch, and all invariants of a space are checked after each.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio
from msgspec.structs import replace

from remote.protocol.errors import BadRequest, ChunkDamaged, ChunkMissing, CursorTooOld, NotFound, TooLarge
from remote.protocol.ids import NODE_RANGE_BITS, NOW, ROOT, ChunkId, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    CHANGES_MAX,
    CHILDREN_MAX,
    Change,
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    FolderListing,
    FolderQuery,
    History,
    JournalCommit,
    Listing,
    Moment,
    Moments,
    NodeRange,
    Nodes,
    PollAnswer,
    Space,
    Spaces,
    Version,
)
from remote.protocol.nodes import ROOT_NAME, Kind, Name, NodeState, NodeVersion
from remote.protocol.sealing import header_of, part_range
from remote.protocol.service import TakePart

SPACE = SpaceId(7)
SECRET = b"s" * 32


@dataclass
class Server:
    """One space. `clock` is the server's; `children_max`, `commits_max`: how much fits into one answer."""

    clock: Callable[[], int]
    children_max: int = CHILDREN_MAX
    commits_max: int = 1_000
    refuses: Callable[[Change], bool] = lambda change: False
    """Changes that this server calls a bad request, whatever they are."""
    floor: int = 0
    now: dict[NodeId, NodeVersion] = field(default_factory=dict)
    versions: dict[NodeId, list[Version]] = field(default_factory=lambda: defaultdict(list))
    journal: list[JournalCommit] = field(default_factory=list)
    answers: dict[bytes, Rev] = field(default_factory=dict)
    chunks: dict[ChunkId, bytes] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    ranges: int = 1
    moved: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        now = self.clock()
        root = NodeState(Kind.FOLDER, (ROOT_NAME,), 0o755, 0, 0, now, now, now, now)
        self.now[ROOT] = NodeVersion(ROOT, Rev(1), now, root)
        self.journal.append(JournalCommit(Rev(1), now, DeviceId(0), (self.now[ROOT],)))

    @property
    def head(self) -> Rev:
        """The last rev."""
        return Rev(len(self.journal))

    def alive(self) -> dict[NodeId, NodeState]:
        """Every node that exists."""
        return {node: version.state for node, version in self.now.items() if version.state is not None}

    def take(self, device: DeviceId, commit: Commit) -> CommitAnswer:
        """Takes or refuses a commit whole."""
        if commit.op_id in self.answers:
            return CommitAnswer(self.answers[commit.op_id], self.clock())
        if not 0 < len(commit.changes) <= CHANGES_MAX:
            raise TooLarge(f"{len(commit.changes)} changes")
        if len({(change.node, change.is_conflict) for change in commit.changes}) < len(commit.changes):
            raise BadRequest("a node stands twice in this commit")
        for change in commit.changes:
            if self.refuses(change):
                raise BadRequest(f"node {change.node} is poisoned")
        self._check_chunks(commit.changes)
        in_the_way = _judge(self.now, commit.changes)
        if in_the_way:
            self.refusals.append(next(iter(in_the_way.values())))
            winners = tuple(self.now[node] for node in in_the_way)
            return CommitAnswer(Rev(0), self.clock(), winners, self.refusals[-1])
        rev = Rev(self.head + 1)
        changed = tuple(version for change in commit.changes if (version := self._apply(rev, change)) is not None)
        self.answers[commit.op_id] = rev
        self.journal.append(JournalCommit(rev, self.clock(), device, changed))
        check_invariants(self.alive())
        moved, self.moved = self.moved, trio.Event()
        moved.set()
        return CommitAnswer(rev, self.clock())

    def _apply(self, rev: Rev, change: Change) -> NodeVersion | None:
        state = change.state
        if change.is_touch:
            present = self.now[change.node]
            assert state is not None
            if present.state is None:
                return None
            if change.base != present.rev and state.ctime_ns <= present.state.ctime_ns:
                return None
            state = replace(present.state, mtime_ns=state.mtime_ns, ctime_ns=state.ctime_ns, atime_ns=state.atime_ns)
        self.versions[change.node].append(
            Version(rev, self.clock(), change.edited_ns, "u", "d", state, is_conflict=change.is_conflict)
        )
        if change.is_conflict:
            return None
        version = self.now[change.node] = NodeVersion(change.node, rev, change.edited_ns, state)
        return version

    def _check_chunks(self, changes: Iterable[Change]) -> None:
        for change in changes:
            content = change.state.content if change.state is not None else None
            for entry in content.entries if content is not None else ():
                if not entry.is_hole and entry.id not in self.chunks:
                    raise ChunkMissing(f"chunk {entry.id.hex()} of node {change.node}")


def _judge(now: Mapping[NodeId, NodeVersion], changes: Sequence[Change]) -> dict[NodeId, str]:
    """The nodes in the way, each with a reason; raises BadRequest for what contradicts itself."""
    in_the_way: dict[NodeId, str] = {}
    for change in changes:
        _judge_base(now.get(change.node), change, in_the_way)
    settled = {change.node: change.state for change in changes if not (change.is_touch or change.is_conflict)}
    before = {node: version.state for node, version in now.items() if version.state is not None}
    after = {node: settled.get(node, state) for node, state in (before | settled).items()}
    alive = {node: state for node, state in after.items() if state is not None}
    _judge_names(now, before, settled, alive, in_the_way)
    for folder, state in settled.items():
        if state is not None and state.kind is Kind.FOLDER:
            _judge_way_up(folder, settled, alive, in_the_way)
    return in_the_way


def _judge_base(present: NodeVersion | None, change: Change, in_the_way: dict[NodeId, str]) -> None:
    if present is None:
        if change.base or change.state is None or change.is_touch or change.is_conflict or change.overrides:
            raise BadRequest(f"there never was a node {change.node}")
    elif not (change.is_touch or change.is_conflict):
        if change.base != present.rev:
            in_the_way[change.node] = f"node {change.node} is at rev {present.rev}, not {change.base}"
        elif present.state is None and change.state is None:
            raise BadRequest(f"node {change.node} is removed already")
    if change.state is not None and not change.state.names:
        raise BadRequest(f"node {change.node} has no names")


def _judge_names(
    now: Mapping[NodeId, NodeVersion],
    before: Mapping[NodeId, NodeState],
    settled: Mapping[NodeId, NodeState | None],
    alive: Mapping[NodeId, NodeState],
    in_the_way: dict[NodeId, str],
) -> None:
    holders: dict[Name, list[NodeId]] = defaultdict(list)
    for node, state in alive.items():
        for name in state.names:
            holders[name].append(node)
    for name, nodes in holders.items():
        changed = [node for node in nodes if node in settled]
        if len(changed) > 1:
            raise BadRequest(f"{name} is given to {changed}")
        if len(nodes) > 1:
            in_the_way.update({node: f"node {node} has the name {name}" for node in nodes if node not in settled})
        if name.parent in alive or name == ROOT_NAME:
            continue
        had = [node for node in nodes if node in before and name in before[node].names]
        if name.parent in settled and had and had[0] not in settled:
            in_the_way[had[0]] = f"folder {name.parent} is not empty"
        elif name.parent in settled or name.parent not in now:
            raise BadRequest(f"nodes {nodes} are in {name.parent}, which this commit removes or never was")
        else:
            in_the_way[name.parent] = f"folder {name.parent} was removed"


def _judge_way_up(
    folder: NodeId,
    settled: Mapping[NodeId, NodeState | None],
    alive: Mapping[NodeId, NodeState],
    in_the_way: dict[NodeId, str],
) -> None:
    way: list[NodeId] = []
    at = folder
    while at != ROOT and at in alive:
        if at in way:
            others = [other for other in way if other not in settled]
            if not others:
                raise BadRequest(f"folder {folder} is put into itself")
            in_the_way.update({other: f"folder {other} would be inside itself" for other in others})
            return
        way.append(at)
        at = alive[at].names[0].parent


def check_invariants(alive: Mapping[NodeId, NodeState]) -> None:
    """Names are unique, parents are living folders, and every folder hangs from the root."""
    names: dict[Name, NodeId] = {}
    for node, state in alive.items():
        assert state.names, f"node {node} has no name"
        assert state.kind is not Kind.FOLDER or len(state.names) == 1, f"folder {node} has several names"
        for name in state.names:
            assert names.setdefault(name, node) == node, f"{name} leads to {node} and {names[name]}"
            if node != ROOT:
                assert name.parent in alive, f"node {node} is an orphan: there is no {name.parent}"
                assert alive[name.parent].kind is Kind.FOLDER, f"node {node} is in {name.parent}, which is no folder"
    for node, state in alive.items():
        at, steps = node, 0
        while at != ROOT and state.kind is Kind.FOLDER:
            at, steps = alive[at].names[0].parent, steps + 1
            assert steps <= len(alive), f"folder {node} is inside itself"


@dataclass
class Desk:
    """The server as one signed-in device sees it: remote.protocol.service.Service."""

    server: Server
    device: DeviceId

    async def spaces(self) -> Spaces:
        server = self.server
        space = Space(SPACE, "home", "owner", server.head, Rev(server.floor), 0, 0, SECRET)
        return Spaces((space,), server.clock())

    async def lease_range(self) -> NodeRange:
        self.server.ranges += 1
        return NodeRange(NodeId(self.server.ranges << NODE_RANGE_BITS), 1 << NODE_RANGE_BITS)

    async def list_folders(self, space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
        server = self.server
        alive = server.alive()
        listings: list[FolderListing] = []
        room = server.children_max
        for query in folders:
            if room <= 0:
                break
            if query.folder not in alive or alive[query.folder].kind is not Kind.FOLDER:
                listings.append(FolderListing(query.folder, (), (), gone=True))
                continue
            found = sorted(
                (name.name, node)
                for node, state in alive.items()
                for name in state.names
                if node != ROOT and name.parent == query.folder and name.name > query.after
            )
            taken, more = found[:room], len(found) > room
            room -= len(taken)
            listings.append(
                FolderListing(
                    query.folder,
                    tuple(name for name, _ in taken),
                    tuple(server.now[node] for _, node in taken),
                    more=more,
                )
            )
        return Listing(server.head, tuple(listings))

    async def nodes(self, space: SpaceId, nodes: Sequence[NodeId], as_of: Rev = NOW) -> Nodes:
        return Nodes(self.server.head, tuple(self.server.now.get(node) for node in nodes))

    async def changes(self, space: SpaceId, since: Rev) -> Changes:
        server = self.server
        if not server.floor <= since <= server.head:
            raise CursorTooOld(f"the journal begins after rev {server.floor}")
        commits = server.journal[since : since + server.commits_max]
        return Changes(server.head, server.clock(), tuple(commits))

    async def poll(self, cursors: Mapping[SpaceId, Rev], wait_seconds: int) -> PollAnswer:
        server = self.server
        with trio.move_on_after(wait_seconds):
            while server.head <= cursors[SPACE]:
                moved = server.moved
                await moved.wait()
        heads = {SPACE: server.head} if server.head > cursors[SPACE] else {}
        return PollAnswer(heads, server.clock())

    async def commit(self, space: SpaceId, commit: Commit) -> CommitAnswer:
        return self.server.take(self.device, commit)

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        for chunk_id, data in chunks.items():
            if hashlib.sha256(data).digest() != chunk_id:
                raise ChunkDamaged(f"chunk {chunk_id.hex()} is not what its id says")
            self.server.chunks[chunk_id] = bytes(data)
        return sum(len(data) for data in chunks.values())

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        return {chunk for chunk in chunks if chunk not in self.server.chunks}

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        found: list[bytes] = []
        for part in parts:
            data = self.server.chunks.get(part.id)
            if data is None:
                raise NotFound(f"there is no chunk {part.id.hex()}")
            if part.frames:
                header = header_of(data)
                offset, length = part_range(header, part.first, part.frames)
                data = header + data[offset : offset + length]
            found.append(data)
        return found

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        for part, data in zip(parts, await self.get_parts(space, parts), strict=True):
            take(part.id, part.first, part.frames, data)

    async def moments(self, space: SpaceId, folder: NodeId, limit: int) -> Moments:
        alive = self.server.alive()
        found: list[Moment] = []
        for commit in reversed(self.server.journal):
            if len(found) < limit and any(_is_below(alive, version, folder) for version in commit.changes):
                found.append(Moment(commit.rev, commit.time_ns))
        return Moments(tuple(found))

    async def as_of(self, space: SpaceId, time_ns: int) -> Moment:
        for commit in reversed(self.server.journal):
            if commit.time_ns <= time_ns:
                return Moment(commit.rev, commit.time_ns)
        return Moment(Rev(0), 0)

    async def history(self, space: SpaceId, node: NodeId, before: Rev = NOW, limit: int = 1_000) -> History:
        found = [version for version in self.server.versions[node] if before == NOW or version.rev < before]
        return History(tuple(reversed(found[-limit:])))


def _is_below(alive: Mapping[NodeId, NodeState], version: NodeVersion, folder: NodeId) -> bool:
    at: NodeId | None = version.node
    state = version.state
    while at is not None:
        if at == folder:
            return True
        at = state.names[0].parent if state is not None and at != ROOT else None
        state = alive.get(at) if at is not None else None
    return False
