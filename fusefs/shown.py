"""Shown: what programs see of the tree: which names there are, what stat(2) and readlink(2) tell. Changes nothing.

What is in memory or in the tree is told at once; only a folder that is not listed yet is waited for.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from cache.errors import NoSuchNode
from cache.records import Child, Record
from cache.tree import Tree
from fusefs.attributes import Attributes, DiskRoom, Owner, blocks_of, file_mode
from fusefs.errors import Invalid, NameTooLong, NoEntry, NotFolder
from fusefs.handles import OpenFiles
from fusefs.removed import Removed
from remote.protocol.ids import ROOT, NodeId, SpaceId
from remote.protocol.nodes import NAME_MAX, Kind, NodeState

NAMES_AT_ONCE: Final = 4_000
"""Names of a folder that are looked up in one turn of the loop: 2 ms."""
_WRITING: Final = 0o222


class Shown:
    """The tree and its open files, as programs see them."""

    def __init__(
        self,
        tree: Tree,
        files: OpenFiles,
        owner: Owner | None,
        list_folder: Callable[[NodeId], Awaitable[None]],
        listing_seconds: float,
    ) -> None:
        """`list_folder` asks the server for a folder's children."""
        self.tree = tree
        self.files = files
        self._owner = owner
        self._list_folder = list_folder
        self._listing_seconds = listing_seconds
        self.is_read_only: Callable[[SpaceId], bool] = lambda _: False
        """Whether this user may change nothing in a space."""
        self.room: Callable[[], DiskRoom] = lambda: DiskRoom(0, 0)
        """What `df` is to show."""
        self.removed = Removed(tree)

    async def find(self, folder: NodeId, name: bytes) -> NodeId | None:
        """The node that a name leads to, if there is one; raises NotFolder, RemoteError when it cannot be listed."""
        node = self.tree.child(folder, name)
        if node is not None:
            return node
        if len(name) > NAME_MAX:
            raise NameTooLong(f"A name has at most {NAME_MAX} bytes.")
        await self.ensure_listed(folder)
        return self.tree.child(folder, name)

    async def lookup(self, folder: NodeId, name: bytes) -> NodeId:
        """The node that a name leads to; raises NoEntry, and what `find` raises."""
        node = await self.find(folder, name)
        if node is None:
            raise NoEntry("There is no such name.")
        return node

    async def children(self, folder: NodeId) -> list[Child]:
        """The names in a folder, all of them; others have their turn while many are looked up."""
        await self.ensure_listed(folder)
        found: list[Child] = []
        while len(page := self.tree.children(folder, found[-1].name if found else b"", NAMES_AT_ONCE)):
            found += page
            if len(page) < NAMES_AT_ONCE:
                break
            await trio.lowlevel.checkpoint()
        return found

    def parent(self, folder: NodeId) -> NodeId:
        """The folder that a folder is in; the root is in itself."""
        state = self.record(folder).local
        return folder if folder == ROOT or state is None or not state.names else state.names[0].parent

    async def ensure_listed(self, folder: NodeId) -> None:
        """Returns when all names in a folder are known here; raises NotFolder, RemoteError."""
        record = self.record(folder)
        if record.local is None or record.local.kind is not Kind.FOLDER:
            raise NotFolder("This is no folder.")
        if not record.is_listed:
            with trio.fail_after(self._listing_seconds):
                await self._list_folder(folder)

    def record(self, node: NodeId) -> Record:
        """The record of a node that exists here; raises NoSuchNode."""
        record = self.tree.record(node)
        if record is None or record.local is None:
            raise NoSuchNode(f"There is no node {node} here.")
        return record

    def state(self, node: NodeId) -> NodeState:
        """What a node is, or was when its last name went here; raises NoSuchNode."""
        file = self.files.find(node)
        if file is not None:
            return self.files.state(file)
        removed = self.removed.find(node)
        if removed is not None:
            return removed.state
        state = self.record(node).local
        assert state is not None
        return state

    def attributes(self, node: NodeId) -> Attributes:
        """What stat(2) shows; raises NoSuchNode."""
        file = self.files.find(node)
        if file is not None:
            state, size = self.files.state(file), self.files.size(file)
            mtime_ns = file.mtime_ns or state.mtime_ns
        elif (removed := self.removed.find(node)) is not None:
            state, size, mtime_ns = removed.state, removed.size, removed.state.mtime_ns
        else:
            record = self.record(node)
            assert record.local is not None
            state, size, mtime_ns = record.local, record.size, record.local.mtime_ns
        owner = self._owner
        return Attributes(
            node=node,
            mode=file_mode(state.kind, self._shown_mode(node, state)),
            links=self._folder_links(node) if state.kind is Kind.FOLDER else len(state.names),
            uid=owner.uid if owner else state.uid,
            gid=owner.gid if owner else state.gid,
            rdev=state.rdev,
            size=size,
            blocks=blocks_of(self.files.held_about(node) if size else 0, size) if state.kind is Kind.FILE else 0,
            atime_ns=state.atime_ns,
            mtime_ns=mtime_ns,
            ctime_ns=(file.ctime_ns if file is not None else 0) or state.ctime_ns,
            birth_ns=state.birth_ns,
        )

    def is_settled(self, node: NodeId) -> bool:
        """Whether `attributes` of a node that is no folder stay as they are while it has the same record.

        And while no program has it open, and the cache holds the same content: see `OpenFiles.held_as_of`.
        """
        record = self.tree.record(node)
        if record is None or record.staged or self.tree.members is not None or self.files.find(node) is not None:
            return False
        state = record.local
        return state is not None and state.kind is not Kind.FOLDER and not (state.content and state.content.depth)

    def _shown_mode(self, node: NodeId, state: NodeState) -> int:
        """Without the right to write where this user has none, so that access(2) says so."""
        if self.tree.members is None:
            return state.mode
        record = self.tree.record(node)
        is_fixed = record is not None and self.is_read_only(record.space_below)
        return state.mode & ~_WRITING if is_fixed else state.mode

    def _folder_links(self, node: NodeId) -> int:
        """Its name, its `.`, and the `..` of each folder in it; 1, which says nothing, while it is not listed."""
        if self.removed.find(node) is not None:
            return 0
        record = self.tree.record(node)
        return 2 + self.tree.subfolders(node) if record is not None and record.is_listed else 1

    def target(self, node: NodeId) -> bytes:
        """Where a symlink points."""
        state = self.state(node)
        if state.kind is not Kind.SYMLINK:
            raise Invalid("This is no symlink.")
        return state.target
