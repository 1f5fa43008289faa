"""Backup: which folder is kept where in the drive, as it lies in the settings of the state store."""

import os
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from cache.ignoring import FILE, FILE_MAX, Rules
from fusefs.backup import disk
from fusefs.backup.disk import Top
from fusefs.backup.entries import FolderId
from fusefs.volume import Volume
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Kind


class Chosen(msgspec.Struct, array_like=True):
    """One backup as it is kept."""

    id: FolderId
    folder: bytes
    """On this machine."""
    inode: int
    """By which that folder is known again."""
    name: str
    target: bytes
    """In the drive, from its top."""
    node: NodeId
    """What is there, wherever somebody moves it."""
    is_removed: bool = False
    """Nothing is taken any more; what was noted of it is being forgotten."""


class Backup:
    """One backup and its rules."""

    def __init__(self, chosen: Chosen, keep: Callable[[], None]) -> None:
        """`keep` puts it into the settings."""
        self._chosen = chosen
        self.keep = keep
        self._rules = Rules.of("")
        self._text = b""

    @property
    def id(self) -> FolderId:
        """The number of its top folder in the entries."""
        return self._chosen.id

    @property
    def folder(self) -> bytes:
        """On this machine."""
        return self._chosen.folder

    @property
    def name(self) -> str:
        """What it is called."""
        return self._chosen.name

    @property
    def target(self) -> bytes:
        """Where it was to be kept in the drive."""
        return self._chosen.target

    @property
    def inode(self) -> int:
        """By which the folder is known again; set it and call `keep`."""
        return self._chosen.inode

    @inode.setter
    def inode(self, inode: int) -> None:
        self._chosen.inode = inode

    @property
    def node(self) -> NodeId:
        """What it is in the drive; set it and call `keep`."""
        return self._chosen.node

    @node.setter
    def node(self, node: NodeId) -> None:
        self._chosen.node = node

    @property
    def is_removed(self) -> bool:
        """Whether it is only to be forgotten; set it and call `keep`."""
        return self._chosen.is_removed

    @is_removed.setter
    def is_removed(self, is_removed: bool) -> None:
        self._chosen.is_removed = is_removed

    @property
    def faults(self) -> tuple[str, ...]:
        """Sentences about lines of its own .satchelignore that mean nothing."""
        return self._rules.faults

    def rule_for(self, path: bytes, is_folder: bool) -> str:
        """The rule of the folder's own .satchelignore, or the usual one, that ignores a path in it; empty for none."""
        return self._rules.rule_for(path, is_folder=is_folder)

    async def load_rules(self, in_thread: Callable[[Callable[[], bytes]], Awaitable[bytes]], top: Top) -> None:
        """Reads them anew; raises Vanished."""
        text = await in_thread(partial(disk.text_of, top, FILE, FILE_MAX + 1))
        if text != self._text:
            self._text, self._rules = text, Rules.of(os.fsdecode(text))

    async def list_path(self, volume: Volume) -> None:
        """Returns when the folders of the drive above the target, as far as there are such, are listed."""
        node = ROOT
        for part in self.target.split(b"/"):
            await volume.ensure_listed(node)
            child = volume.tree.child(node, part)
            state = volume.record(child).local if child is not None else None
            if child is None or state is None or state.kind is not Kind.FOLDER:
                return
            node = child
        await volume.ensure_listed(node)
