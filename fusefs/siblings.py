"""Siblings: notices a program that opens the small files of a folder one by one, and fetches the next ones for it."""

from typing import Final

from cache.reader import Reader
from cache.tree import Tree
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Entry, NodeState

SMALL: Final = 256 << 10
"""Bytes of a file that is worth fetching unasked."""
_AHEAD: Final = 512
_AHEAD_BYTES: Final = 4 << 20


class Siblings:
    """Watches opens of files that are not on this machine."""

    def __init__(self, tree: Tree, reader: Reader) -> None:
        self._tree = tree
        self._reader = reader
        self._folder = NodeId(0)
        self._until = b""
        """Files of that folder up to this name are fetched, or being fetched."""

    def opened(self, state: NodeState) -> None:
        """A file is opened; waits for nothing."""
        entry = self._cold_entry(state)
        if entry is None or not state.names:
            return
        folder, name = state.names[0].parent, state.names[0].name
        if folder != self._folder:
            # The first one may be all that is wanted of this folder.
            self._folder, self._until = folder, name
            return
        if name <= self._until and self._until:
            return
        self._reader.prefetch(self._next_ones(folder, name))

    def _next_ones(self, folder: NodeId, name: bytes) -> list[Entry]:
        entries: list[Entry] = []
        left = _AHEAD_BYTES
        for child in self._tree.children(folder, name, _AHEAD):
            record = self._tree.record(child.node)
            entry = (
                self._cold_entry(record.local) if record is not None and record.local and not record.staged else None
            )
            if entry is not None:
                entries.append(entry)
                left -= entry.length
            self._until = child.name
            if left <= 0:
                break
        return entries

    def _cold_entry(self, state: NodeState) -> Entry | None:
        """The one chunk of a small file when it is not here."""
        content = state.content
        if content is None or content.size > SMALL or len(content.entries) != 1 or content.depth:
            return None
        return content.entries[0] if self._reader.held_bytes(content) < content.size else None
