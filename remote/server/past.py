"""The past of one space while a request looks at it: nodes as of a rev, each looked up once, and where they were."""

from dataclasses import dataclass
from typing import Final

from remote.protocol.ids import NOW, ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind, Name, NodeState
from remote.server.database import past as past_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.keys import SpaceKey
from remote.server.states import decode_state, open_manifest

DEPTH_MAX: Final = 5_000


@dataclass(frozen=True)
class Then:
    """A node that existed as of some rev: its state without its content, the id of that, and its bytes."""

    rev: Rev
    state: NodeState
    content_id: bytes | None
    size: int


class Past:
    """What nodes were as of one rev (`NOW`: the present)."""

    def __init__(self, session: Session, space: SpaceId, key: SpaceKey, rev: Rev) -> None:
        self.rev = rev
        self.forgotten: set[NodeId] = set()
        """Those among the nodes looked up that existed, but what they were is purged."""
        self._session = session
        self._space = space
        self._key = key
        self._nodes: dict[NodeId, Then | None] = {}
        self._is_below: dict[tuple[NodeId, NodeId], bool] = {}

    def node(self, node: NodeId) -> Then | None:
        """The node, None when it did not exist."""
        if node not in self._nodes:
            self._nodes[node] = self._find(node)
        return self._nodes[node]

    def _find(self, node: NodeId) -> Then | None:
        if self.rev == NOW:
            row = trees.node_row(self._session, self._space, node)
            if row is None or row.state is None:
                return None
            return Then(row.rev, decode_state(row.state), row.content_id, row.size)
        found = past_rows.then(self._session, self._space, node, self.rev)
        if found is not None and found.is_forgotten:
            self.forgotten.add(node)
        if found is None or found.state is None:
            return None
        return Then(found.rev, decode_state(found.state), found.content_id, self._size(node, found.content_id))

    def _size(self, node: NodeId, content_id: bytes | None) -> int:
        if content_id is None:
            return 0
        row = trees.node_row(self._session, self._space, node)
        if row is not None and row.content_id == content_id:
            return row.size
        return self.content_size(content_id)

    def content_size(self, content_id: bytes) -> int:
        """Bytes of a stored content."""
        sealed = past_rows.manifest(self._session, self._space, content_id)
        return open_manifest(self._key, sealed).size if sealed is not None else 0

    def names_below(self, node: NodeId, top: NodeId) -> tuple[Name, ...]:
        """Those names of a node that are below a folder; of the folder itself its own."""
        found = self.node(node)
        if found is None:
            return ()
        return tuple(name for name in found.state.names if node == top or self.is_below(name.parent, top))

    def is_below(self, folder: NodeId, top: NodeId) -> bool:
        """Whether a folder is `top` or below it."""
        if top == ROOT:
            return True
        passed: list[NodeId] = []
        at, found = folder, False
        while len(passed) < DEPTH_MAX:
            if at == top or self._is_below.get((at, top)):
                found = True
                break
            if (at, top) in self._is_below:
                break
            passed.append(at)
            there = self.node(at)
            if at == ROOT or there is None or there.state.kind is not Kind.FOLDER:
                break
            at = there.state.names[0].parent
        for one in passed:
            self._is_below[one, top] = found
        return found

    def above(self, folder: NodeId, top: NodeId) -> list[NodeId]:
        """The folders from one up to `top`, both included; those up to the root when it is not below."""
        way: list[NodeId] = []
        at = folder
        while len(way) < DEPTH_MAX:
            way.append(at)
            there = self.node(at)
            if at in (top, ROOT) or there is None:
                break
            at = there.state.names[0].parent
        return way

    def path(self, name: Name, top: NodeId = ROOT) -> bytes:
        """The path of a name below `top`, as far as it can be told."""
        parts = [name.name]
        for folder in self.above(name.parent, top):
            there = self.node(folder)
            if folder in (top, ROOT) or there is None:
                break
            parts.append(there.state.names[0].name)
        return b"/".join(reversed(parts))
