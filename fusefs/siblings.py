"""Siblings: notices a program that opens small files one after the other, and fetches the next ones for it."""

import time
from collections.abc import Iterator
from typing import Final

from cache.reader import PREFETCH_COUNT, Reader
from cache.records import Child
from cache.tree import Tree
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Entry, Kind, Name, NodeState

SMALL: Final = 256 << 10
"""Bytes of a file that is worth fetching unasked."""
_AHEAD_BYTES: Final = 4 << 20
_LOOKED_AT: Final = 512
"""Names looked at for one step."""
_PAGE: Final = 64
_WALK_SECONDS: Final = 0.5
"""Who opens files of two folders within this time is taken to go through the tree."""
_USELESS_MAX: Final = 3


class Siblings:
    """Watches opens of files that are not on this machine.

    The second one in a folder brings the rest of the folder, by steps; two in different folders shortly after each
    other bring what follows in the tree, in the order in which find(1) and tar(1) go through it.
    """

    def __init__(self, tree: Tree, reader: Reader) -> None:
        self._tree = tree
        self._reader = reader
        self._folder = NodeId(0)
        self._opened_at = 0.0
        self._top = ROOT
        self._end = Name(ROOT, b"")
        """Up to there all that follows is fetched, or being fetched."""
        self._step: set[NodeId] = set()
        self._step_before: set[NodeId] = set()
        self._middle = NodeId(0)
        self._useless = 0
        """Steps in a row of which nothing was opened."""

    def opened(self, node: NodeId, state: NodeState) -> None:
        """A file is opened; waits for nothing."""
        if node in self._step or node in self._step_before:
            self._useless = 0
            if node == self._middle:
                # The next step is on its way while the second half of this one is read.
                self._fetch_on()
            return
        if self._cold_entry(state) is None or not state.names:
            return
        folder, name = state.names[0].parent, state.names[0].name
        now = time.monotonic()
        is_walking = now - self._opened_at < _WALK_SECONDS
        is_same = folder == self._folder
        self._folder, self._opened_at = folder, now
        if not is_walking:
            self._useless = 0
        # The first one may be all that is wanted of this folder, and who opens here and there wants nothing unasked.
        if is_same or (is_walking and self._useless < _USELESS_MAX):
            self._useless += 1
            self._top = folder if is_same else ROOT
            self._end = Name(folder, name)
            self._step = set()
            self._fetch_on()

    def _fetch_on(self) -> None:
        self._step_before, self._step = self._step, set()
        entries: list[Entry] = []
        nodes: list[NodeId] = []
        left = _AHEAD_BYTES
        for number, (name, child) in enumerate(self._following(self._end), 1):
            self._end = name
            record = self._tree.record(child.node) if child.kind is Kind.FILE else None
            if record is not None and record.local is not None and not record.staged:
                entry = self._cold_entry(record.local)
                if entry is not None:
                    entries.append(entry)
                    nodes.append(child.node)
                    left -= entry.length
            if left <= 0 or len(entries) == PREFETCH_COUNT or number == _LOOKED_AT:
                break
        self._step.update(nodes)
        self._middle = nodes[len(nodes) // 2] if nodes else NodeId(0)
        self._reader.prefetch(entries)

    def _following(self, name: Name) -> Iterator[tuple[Name, Child]]:
        """What comes after a name: in its folder, and, when that is not all there is to go through, below and after."""
        folder, after = name.parent, name.name
        while True:
            page = self._tree.children(folder, after, _PAGE)
            for child in page:
                after = child.name
                yield Name(folder, after), child
                if child.kind is Kind.FOLDER and self._top == ROOT:
                    folder, after = child.node, b""
                    break
            else:
                if len(page) == _PAGE:
                    continue
                record = self._tree.record(folder)
                if folder == self._top or record is None or record.local is None or not record.local.names:
                    return
                folder, after = record.local.names[0].parent, record.local.names[0].name

    def _cold_entry(self, state: NodeState) -> Entry | None:
        """The one chunk of a small file when it is not here."""
        content = state.content
        if content is None or content.size > SMALL or len(content.entries) != 1 or content.depth:
            return None
        return content.entries[0] if self._reader.held.bytes_of(content) < content.size else None
