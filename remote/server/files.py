"""Files: what somebody without a device does in a space by path: looks, makes, replaces, moves, copies, removes.

For those who come by WebDAV or bring files by a link. Each call is a commit (a large removal: several, from the
bottom), made as the user by no device; one that another commit came before is made anew on top of it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import msgspec

from remote.protocol.errors import Busy, NotAllowed, NotFound
from remote.protocol.ids import NOWHERE, ROOT, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import CHANGES_MAX, Change, Commit, CommitAnswer
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.server.accounts import Accounts
from remote.server.database import accounts as account_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.quotas import bounded
from remote.server.reading import asked_op_id
from remote.server.rights import Right, member_space
from remote.server.states import decode_state, open_manifest

TREE_MAX = 100_000
"""Files and folders that one request takes at once."""
_CHILDREN = 1_000
_TRIES = 10
CommitOf = Callable[[Device, SpaceId, Commit], Awaitable[CommitAnswer]]


@dataclass(frozen=True)
class Item:
    """A file or folder as it is now; `state` with its content."""

    node: NodeId
    rev: Rev
    name: bytes
    state: NodeState


class Files:
    """Files of spaces, for their members; every method raises NotFound and NotAllowed by the user's rights."""

    def __init__(self, database: Database, keyring: Keyring, accounts: Accounts, commit: CommitOf) -> None:
        self._database = database
        self._keyring = keyring
        self._accounts = accounts
        self._commit = commit
        self._ranges: dict[UserId, tuple[int, int]] = {}
        self._ranges_lock = asyncio.Lock()

    async def find(self, user: UserId, space: SpaceId, path: tuple[bytes, ...]) -> Item:
        """What has this path from the top; symlinks are not followed. Raises NotFound."""

        def read(session: Session) -> Item:
            key = self._keyring.key(member_space(session, space, user, Right.READ))
            return below(session, space, key, item_of(session, space, key, ROOT), path)

        return await self._database.read(read)

    async def children(self, user: UserId, space: SpaceId, folder: NodeId) -> list[Item]:
        """Files and folders in a folder by name, at most TREE_MAX of them."""

        def read(session: Session) -> list[Item]:
            key = self._keyring.key(member_space(session, space, user, Right.READ))
            found: list[Item] = []
            for item in children_of(session, space, key, folder):
                found.append(item)
                if len(found) > TREE_MAX:
                    raise NotAllowed(f"There are over {TREE_MAX:,} entries in this folder.")
            return found

        return await self._database.read(read)

    async def holds_shared(self, user: UserId, home: SpaceId, folder: NodeId) -> bool:
        """Whether a folder of a home is a shared one, or one is below it."""

        def read(session: Session) -> bool:
            member_space(session, home, user, Right.READ)
            found: NodeId = NOWHERE
            for space in account_rows.mounts(session, user):
                found, depth = account_rows.mount_node(session, user, space), 0
                while found and found != folder and depth < TREE_MAX:
                    row = trees.node_row(session, home, found)
                    found, depth = (row.parent if row is not None else NOWHERE), depth + 1
                if found:
                    return True
            return False

        return await self._database.read(read)

    async def left(self, user: UserId, space: SpaceId) -> int:
        """Bytes that may come before the quota is full."""
        return await self._database.read(
            lambda session: bounded(session, member_space(session, space, user, Right.WRITE)).left
        )

    async def make(self, user: UserId, space: SpaceId, parent: NodeId, name: bytes, state: NodeState) -> NodeId | None:
        """A new node with `state` under this name (`state.names` does not matter); None when the name is taken."""
        node = await self.fresh_node(user)
        named = msgspec.structs.replace(state, names=(Name(parent, name),))
        answer = await self._committed(user, space, [Change(node, Rev(0), time.time_ns(), named)])
        if answer.rev:
            return node
        if await self._database.read(lambda session: trees.holder(session, space, parent, name)) is None:
            raise NotAllowed(f"This cannot be made: {answer.reason}")
        return None

    async def change(self, user: UserId, space: SpaceId, node: NodeId, edit: Callable[[NodeState], NodeState]) -> None:
        """Gives a node the state that `edit` makes of its present one; raises NotAllowed for one that cannot be."""
        answer = CommitAnswer(Rev(0), 0)
        for _ in range(_TRIES):
            item = await self._now(user, space, node)
            change = Change(node, item.rev, time.time_ns(), edit(item.state))
            answer = await self._committed(user, space, [change])
            if answer.rev:
                return
        raise NotAllowed(f"This cannot be changed: {answer.reason}")

    async def remove(self, user: UserId, space: SpaceId, node: NodeId, name: Name) -> None:
        """Takes this name away from a node, and all that is below a folder with it; the last name ends a node.

        What has another name elsewhere stays there.
        """
        for _ in range(_TRIES):
            found = await self._below(user, space, node, name)
            answer = CommitAnswer(Rev(0), 0)
            for at in range(0, len(found), CHANGES_MAX):
                removals = [_without(item, names) for item, names in found[at : at + CHANGES_MAX]]
                answer = await self._committed(user, space, removals)
                if not answer.rev:
                    break
            if answer.rev:
                return
        raise Busy("This is being changed by others all the time: try again in a moment.", 1.0)

    async def fresh_node(self, user: UserId) -> NodeId:
        """An id that nobody else gets, of a range that this process leased for the user."""
        return await self.fresh_nodes(user, 1)

    async def fresh_nodes(self, user: UserId, count: int) -> NodeId:
        """The first of so many ids, one behind the other."""
        async with self._ranges_lock:
            first, left = self._ranges.get(user, (0, 0))
            if left < count:
                leased = await self._accounts.lease_range(_nobody(user))
                first, left = leased.first, leased.count
            self._ranges[user] = first + count, left - count
            return NodeId(first)

    async def _now(self, user: UserId, space: SpaceId, node: NodeId) -> Item:
        def read(session: Session) -> Item:
            key = self._keyring.key(member_space(session, space, user, Right.WRITE))
            return item_of(session, space, key, node)

        return await self._database.read(read)

    async def _below(self, user: UserId, space: SpaceId, node: NodeId, name: Name) -> list[tuple[Item, list[Name]]]:
        """The node and all below it, of every kind, each before its parents, with its names there.

        Raises NotFound when the node does not have the name.
        """

        def read(session: Session) -> list[tuple[Item, list[Name]]]:
            key = self._keyring.key(member_space(session, space, user, Right.WRITE))
            top = item_of(session, space, key, node)
            if name not in top.state.names:
                raise NotFound("That is not there any more: it was moved.")
            found = [(top, name)]
            for item, _ in found:
                if item.state.mounts:
                    # Before anything of it goes: a large removal is many commits.
                    raise NotAllowed(f"{shown_name(item.name)} is a shared folder: leave it, or stop sharing it.")
                if item.state.kind == Kind.FOLDER:
                    children = children_of(session, space, key, item.node, kinds=frozenset(Kind))
                    found += [(child, Name(item.node, child.name)) for child in children]
                if len(found) > TREE_MAX:
                    raise NotAllowed(f"There are over {TREE_MAX:,} files in this folder: use a device for that.")
            # From the bottom: what goes with one commit leaves no folder without its parent.
            together: dict[NodeId, tuple[Item, list[Name]]] = {}
            for item, each in reversed(found):
                together.setdefault(item.node, (item, []))[1].append(each)
            return list(together.values())

        return await self._database.read(read)

    async def _committed(self, user: UserId, space: SpaceId, changes: list[Change]) -> CommitAnswer:
        return await self._commit(_nobody(user), space, Commit(asked_op_id(), tuple(changes)))


def file_state(manifest: Manifest, mode: int = 0o644, mtime_ns: int = 0) -> NodeState:
    """A new file with this content; it has no name yet. `mtime_ns` 0: now."""
    now_ns = time.time_ns()
    return NodeState(Kind.FILE, (), mode, 0, 0, mtime_ns or now_ns, now_ns, now_ns, now_ns, content=manifest)


def folder_state() -> NodeState:
    """A new folder; it has no name yet."""
    now_ns = time.time_ns()
    return NodeState(Kind.FOLDER, (), 0o755, 0, 0, now_ns, now_ns, now_ns, now_ns)


def _without(item: Item, gone: list[Name]) -> Change:
    """The change that takes these names away."""
    now_ns = time.time_ns()
    left = tuple(name for name in item.state.names if name not in gone)
    state = msgspec.structs.replace(item.state, names=left, ctime_ns=now_ns) if left else None
    return Change(item.node, item.rev, now_ns, state)


def item_of(session: Session, space: SpaceId, key: SpaceKey, node: NodeId) -> Item:
    """A node as it is now; raises NotFound when it is removed."""
    stored = trees.stored_now(session, space, node)
    if stored is None or stored.state is None:
        raise NotFound("That is not on the server: it was removed, or was not sent yet.")
    state = _state(key, stored.state, stored.manifest)
    name = b"" if node == ROOT or not state.names else state.names[0].name
    return Item(node, stored.rev, name, state)


def below(session: Session, space: SpaceId, key: SpaceKey, top: Item, path: tuple[bytes, ...]) -> Item:
    """What has this path below a folder; symlinks are not followed. Raises NotFound."""
    item = top
    for name in path:
        node = trees.holder(session, space, item.node, name) if item.state.kind == Kind.FOLDER else None
        if node is None:
            raise NotFound("There is no such file in this folder.")
        found = item_of(session, space, key, node)
        item = Item(node, found.rev, name, found.state)
    return item


def children_of(
    session: Session,
    space: SpaceId,
    key: SpaceKey,
    folder: NodeId,
    kinds: frozenset[Kind] = frozenset({Kind.FILE, Kind.FOLDER}),
) -> Iterator[Item]:
    """Nodes of these kinds in a folder, by name."""
    after = b""
    while True:
        found = list(trees.children_now(session, space, folder, after, _CHILDREN))
        for name, node, rev, _, state_bytes, manifest in found:
            state = _state(key, state_bytes, manifest)
            if state.kind in kinds:
                yield Item(NodeId(node), Rev(rev), name, state)
        if len(found) < _CHILDREN:
            return
        after = found[-1][0]


def shown_name(name: bytes) -> str:
    """A name for people and for archives: what is no UTF-8 or drives a terminal is replaced."""
    text = name.decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _nobody(user: UserId) -> Device:
    """The user without a device."""
    return Device(user, DeviceId(0), "", b"")


def _state(key: SpaceKey, state: bytes, manifest: bytes | None) -> NodeState:
    found = decode_state(state)
    return found if manifest is None else msgspec.structs.replace(found, content=open_manifest(key, manifest))
