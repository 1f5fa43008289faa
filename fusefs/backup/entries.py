"""Entries: what was last taken of each name in a folder that is backed up, kept beside the tree, in the same changes.

Folders have numbers of their own here, so that neither a rename on this disk nor one in the drive makes rows move.
"""

import time
from typing import Final, NamedTuple, NewType

import msgspec

from cache.records import Table
from cache.store import Change, Store
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind

FolderId = NewType("FolderId", int)
_DEPTH_MAX: Final = 4_096


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One name as it was when it was taken; times in ns. While the disk says the same of it, it is not read again."""

    kind: Kind
    node: NodeId
    """What it is in the drive."""
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    """0: it was so young that a later change may show the same times, so it is looked at again."""
    folder: FolderId = FolderId(0)
    """Of a folder: its number here."""
    digest: bytes = b""
    """Of a file's content."""
    manifest: bytes = b""
    """Of a large file: a digest of the manifest under which the server has this content; empty: not known."""
    staging: int = 0
    """The staging that the content was put into."""


class Place(NamedTuple):
    """A name in a folder."""

    folder: FolderId
    name: bytes


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a folder is."""

    parent: FolderId
    name: bytes


_encode = msgspec.msgpack.Encoder().encode
_entries = msgspec.msgpack.Decoder(Entry)
_rows = msgspec.msgpack.Decoder(_Row)


def _key(folder: FolderId, name: bytes = b"") -> bytes:
    return folder.to_bytes(8, "big") + name


def _inode_key(top: FolderId, inode: int) -> bytes:
    return top.to_bytes(8, "big") + inode.to_bytes(8, "big")


class Entries:
    """Those of all backups of one drive; a backup is known by the number of its top folder."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = 0

    def new_folder(self) -> FolderId:
        """A number never given before."""
        self._last = max(self._last + 1, time.time_ns())
        return FolderId(self._last)

    def get(self, place: Place) -> Entry | None:
        """What was taken of a name."""
        value = self._store.get(Table.BACKED, _key(*place))
        return _entries.decode(value) if value is not None else None

    def page(self, folder: FolderId, after: bytes = b"", limit: int = 500) -> list[tuple[bytes, Entry]]:
        """Names of a folder with what was taken of them, in bytewise order, from the one after `after` on."""
        prefix = _key(folder)
        found = self._store.scan(Table.BACKED, prefix + after + b"\0", prefix=prefix, limit=limit)
        return [(key[8:], _entries.decode(value)) for key, value in found]

    def names(self, folder: FolderId, after: bytes = b"", limit: int = 500) -> list[bytes]:
        """Likewise, the names only."""
        prefix = _key(folder)
        return [
            key[8:] for key, _ in self._store.scan(Table.BACKED, prefix + after + b"\0", prefix=prefix, limit=limit)
        ]

    def path(self, top: FolderId, folder: FolderId) -> list[bytes] | None:
        """The names that lead from the top of a backup to a folder; None when it is not there any more."""
        parts: list[bytes] = []
        while folder != top:
            value = self._store.get(Table.BACKED, _key(folder))
            if value is None or len(parts) > _DEPTH_MAX:
                return None
            row = _rows.decode(value)
            parts.append(row.name)
            folder = row.parent
        return parts[::-1]

    def place_of(self, folder: FolderId) -> Place | None:
        """Where a folder is; None for a top, and for one that is not there any more."""
        value = self._store.get(Table.BACKED, _key(folder))
        if value is None:
            return None
        row = _rows.decode(value)
        return Place(row.parent, row.name)

    def find(self, top: FolderId, inode: int) -> Place | None:
        """The name under which this inode was taken last."""
        value = self._store.get(Table.BACKED_INODES, _inode_key(top, inode))
        return Place(FolderId(int.from_bytes(value[:8], "big")), value[8:]) if value is not None else None

    def put(self, change: Change, top: FolderId, place: Place, entry: Entry) -> None:
        """Notes what was taken of a name."""
        before = change.get(Table.BACKED, _key(*place))
        if before is not None and (old := _entries.decode(before)).inode != entry.inode:
            self._forget_inode(change, top, place, old)
        change.put(Table.BACKED, _key(*place), _encode(entry))
        change.put(Table.BACKED_INODES, _inode_key(top, entry.inode), _key(*place))
        if entry.folder:
            change.put(Table.BACKED, _key(entry.folder), _encode(_Row(place.folder, place.name)))

    def drop(self, change: Change, top: FolderId, place: Place, entry: Entry, *, is_moved: bool = False) -> None:
        """Forgets a name, and with `blocks_of` what goes with it; what is in a folder is to be forgotten first."""
        change.delete(Table.BACKED, _key(*place))
        change.delete(Table.BACKED_BLOCKS, _key(*place))
        self._forget_inode(change, top, place, entry)
        if entry.folder and not is_moved:
            change.delete(Table.BACKED, _key(entry.folder))

    def _forget_inode(self, change: Change, top: FolderId, place: Place, entry: Entry) -> None:
        if change.get(Table.BACKED_INODES, _inode_key(top, entry.inode)) == _key(*place):
            change.delete(Table.BACKED_INODES, _inode_key(top, entry.inode))

    def blocks(self, place: Place) -> bytes:
        """Digests of the blocks of a large file, one behind the other; empty when they are not known."""
        return self._store.get(Table.BACKED_BLOCKS, _key(*place)) or b""

    def put_blocks(self, change: Change, place: Place, blocks: bytes) -> None:
        """Keeps them."""
        if blocks:
            change.put(Table.BACKED_BLOCKS, _key(*place), blocks)
        elif change.get(Table.BACKED_BLOCKS, _key(*place)) is not None:
            change.delete(Table.BACKED_BLOCKS, _key(*place))
