"""Copying: what is taken from a disk becomes nodes of the drive, as edits of this device, each with its entry.

Content goes into stagings, as that of any program does, so limits, pauses, deltas and versions are as for all uploads.
Nothing goes through the mount. A name of the drive is changed whole or not at all, also when the process is killed.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from cache.records import LostEdit, Record
from cache.staging import Staging, Stagings
from fusefs.backup import disk
from fusefs.backup.disk import Extras, Look
from fusefs.backup.entries import Entries, Entry, FolderId, Place
from fusefs.errors import Exists, Invalid, VolumeError
from fusefs.volume import Volume, check_name
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import EMPTY, Kind, Manifest, Name, NodeState

_encode = msgspec.msgpack.Encoder().encode


class InTheWay(VolumeError):
    """Something that is not of the backup has this name in the drive, and is of another kind."""


class Spot(NamedTuple):
    """A name of a backup, here and in the drive."""

    place: Place
    folder: NodeId
    """The folder of the drive that it is in."""

    @property
    def name(self) -> Name:
        """In the drive."""
        return Name(self.folder, self.place.name)


def print_of(manifest: Manifest) -> bytes:
    """By which a manifest is known again."""
    return hashlib.blake2b(_encode(manifest), digest_size=disk.DIGEST_SIZE).digest()


class Copying:
    """Edits for one backup, whose top folder has this number in the entries."""

    def __init__(self, top: FolderId, volume: Volume, stagings: Stagings, entries: Entries) -> None:
        self._top = top
        self._volume = volume
        self._tree = volume.tree
        self._stagings = stagings
        self._entries = entries

    def is_in_place(self, spot: Spot, entry: Entry) -> bool:
        """Whether the drive has what was taken of a name where it belongs."""
        return self._tree.child(spot.folder, spot.place.name) == entry.node

    def put_folder(self, spot: Spot, look: Look, extras: Extras, entry: Entry | None) -> FolderId:
        """Makes a folder as it is on the disk, but for what is in it; raises InTheWay."""
        folder = entry.folder if entry is not None and entry.folder else self._entries.new_folder()
        self._put(spot, look, extras, Entry(Kind.FOLDER, ROOT, look.inode, 0, look.mtime_ns, look.ctime_ns, folder))
        return folder

    def put_symlink(self, spot: Spot, look: Look, extras: Extras) -> None:
        """Makes a symlink as it is on the disk; raises InTheWay."""
        self._put(spot, look, extras, Entry(Kind.SYMLINK, ROOT, look.inode, 0, look.mtime_ns, look.ctime_ns))

    def put_top(self, node: NodeId, look: Look, extras: Extras) -> None:
        """Gives the folder that the backup is kept in the attributes of the one on the disk."""
        record = self._volume.record(node)
        assert record.local is not None
        after = _dressed(record.local, look, extras)
        if after != record.local:
            now_ns = time.time_ns()
            with self._tree.edit() as edit:
                edit.set_local(node, replace(after, ctime_ns=now_ns), now_ns)
            self._volume.changed_here(node, record.local, after, is_content=False)

    def put_file(
        self, spot: Spot, look: Look, extras: Extras, entry: Entry, staging: Staging | None, blocks: bytes = b""
    ) -> None:
        """Makes a file as it is on the disk, with the content of a staging; None: it has its content already.

        A staging with a file was synced by the caller. `entry` is what is noted, but for the node. Raises InTheWay.
        """
        self._put(spot, look, extras, entry, staging, blocks=blocks)

    def empty(self, spot: Spot, look: Look, extras: Extras, entry: Entry) -> None:
        """Makes an empty file."""
        self._put(spot, look, extras, entry, is_empty=True)

    def _put(
        self,
        spot: Spot,
        look: Look,
        extras: Extras,
        entry: Entry,
        staging: Staging | None = None,
        *,
        blocks: bytes = b"",
        is_empty: bool = False,
    ) -> None:
        check_name(spot.place.name)
        is_content = staging is not None or is_empty
        now_ns = time.time_ns()
        node = self._tree.child(spot.folder, spot.place.name)
        before = self._known(node, look.kind)
        old = self._entries.get(spot.place)
        if node is not None and is_content and (file := self._volume.files.find(node)) is not None:
            # What a program wrote to the copy and did not close is an edit as any other.
            self._volume.files.drop_content(file)
            before = self._known(node, look.kind)
        if node is None:
            node = self._tree.new_node()
        with self._tree.edit() as edit:
            if before is None:
                state = _made(spot.name, look, now_ns)
                edit.set_local(node, _dressed(state, look, extras), now_ns)
            elif is_content and before.staged and (old is None or before.staged != old.staging):
                assert before.local is not None
                edit.keep_lost(node, LostEdit(before.local, edit.edited_ns(node), before.staged))
            local = edit.get(node).local
            assert local is not None
            after = _dressed(local, look, extras)
            if is_empty:
                edit.set_local(node, replace(after, content=EMPTY, ctime_ns=now_ns), now_ns, staged=(0, 0))
            elif staging is not None:
                staging.flush(edit.change)
                edit.set_local(node, replace(after, ctime_ns=now_ns), now_ns, staged=(staging.id, staging.size))
            elif after != local:
                edit.set_local(node, replace(after, ctime_ns=now_ns), now_ns)
            kept = replace(entry, node=node)
            self._entries.put(edit.change, self._top, spot.place, kept)
            if is_content:
                self._entries.put_blocks(edit.change, spot.place, blocks)
        self._volume.after_removal()
        was = before.local if before is not None else None
        if was is None or is_content or after != was:
            self._volume.changed_here(node, was, after, is_content=is_content)

    def _known(self, node: NodeId | None, kind: Kind) -> Record | None:
        """What the drive has under the name, when it can become what the disk has; raises InTheWay."""
        if node is None:
            return None
        record = self._volume.record(node)
        assert record.local is not None
        if record.local.kind is not kind:
            what = "folder" if record.local.kind is Kind.FOLDER else "file"
            raise InTheWay(f"In the drive, a {what} that is not of this backup has this name. Move it away there.")
        return record

    def note(self, place: Place, entry: Entry) -> None:
        """Notes what was taken of a name, of which the drive has all."""
        with self._tree.edit() as edit:
            self._entries.put(edit.change, self._top, place, entry)

    def forget(self, names: Sequence[tuple[Place, Entry]]) -> None:
        """What was taken of these names is not known any more."""
        with self._tree.edit() as edit:
            for place, entry in names:
                self._entries.drop(edit.change, self._top, place, entry)

    def move(self, old: Spot, entry: Entry, new: Spot) -> bool:
        """Gives what was taken of a name another one, here and in the drive; False when it cannot be moved."""
        check_name(new.place.name)
        record = self._tree.record(entry.node)
        is_free = self._tree.child(new.folder, new.place.name) is None
        if record is None or record.local is None or not is_free or not self.is_in_place(old, entry):
            return False
        if record.local.kind is Kind.FOLDER and self._is_below(new.folder, entry.node):
            return False
        now_ns = time.time_ns()
        names = tuple(new.name if name == old.name else name for name in record.local.names)
        after = replace(record.local, names=names, ctime_ns=now_ns)
        blocks = self._entries.blocks(old.place)
        with self._tree.edit() as edit:
            edit.set_local(entry.node, after, now_ns)
            self._entries.drop(edit.change, self._top, old.place, entry, is_moved=True)
            self._entries.put(edit.change, self._top, new.place, entry)
            self._entries.put_blocks(edit.change, new.place, blocks)
        self._volume.changed_here(entry.node, record.local, after, is_content=False)
        return True

    def _is_below(self, folder: NodeId, top: NodeId) -> bool:
        for _ in range(4_096):
            if folder == top:
                return True
            if folder == ROOT:
                return False
            above = self._volume.parent(folder)
            if above == folder:
                return True
            folder = above
        return True

    def remove(self, spot: Spot, entry: Entry) -> None:
        """Takes a name out of the drive, and its entry; of a folder, what is in it is to be removed first.

        A folder in which there is something that is not of the backup stays.
        """
        node = entry.node
        record = self._tree.record(node)
        is_ours = record is not None and record.local is not None and self.is_in_place(spot, entry)
        if is_ours and entry.kind is Kind.FOLDER:
            assert record is not None
            is_ours = record.is_listed and not self._tree.has_children(node)
        if is_ours and self._is_edited(node, entry):
            self._keep_edit(node)
            record = self._tree.record(node)
        now_ns = time.time_ns()
        with self._tree.edit() as edit:
            if is_ours:
                assert record is not None
                assert record.local is not None
                self._volume.remove_name(edit, node, record.local, spot.name, now_ns)
            self._entries.drop(edit.change, self._top, spot.place, entry)
        if is_ours:
            assert record is not None
            left = self._tree.record(node)
            self._volume.after_removal()
            after = left.local if left is not None else None
            self._volume.changed_here(node, record.local, after, is_content=False)

    def _is_edited(self, node: NodeId, entry: Entry) -> bool:
        """Whether a program wrote to a copy that goes with its last name what no server has yet."""
        file = self._volume.files.find(node)
        if file is not None:
            self._volume.files.drop_content(file)
        record = self._tree.record(node)
        if record is None or record.local is None or len(record.local.names) != 1:
            return False
        return bool(record.staged) and record.staged != entry.staging

    def _keep_edit(self, node: NodeId) -> None:
        """What is written and not sent becomes a version, as when the folder wins over it; a step of its own.

        Else who has the file open would take what is kept, and let go of it at the end.
        """
        with self._tree.edit() as edit:
            record = edit.get(node)
            assert record.local is not None
            edit.keep_lost(node, LostEdit(record.local, edit.edited_ns(node), record.staged))
            edit.put(node, replace(record, staged=0, staged_size=0))

    def old_content(self, spot: Spot, entry: Entry | None) -> tuple[Manifest, bool] | None:
        """What new content is put on top of, and whether that is what was taken last; None: it is not sent yet."""
        node = self._tree.child(spot.folder, spot.place.name)
        record = self._tree.record(node) if node is not None else None
        if record is None or record.local is None or record.local.content is None:
            return EMPTY, False
        content = record.local.content
        if record.staged:
            return None
        is_known = entry is not None and bool(entry.manifest) and entry.manifest == print_of(content)
        return content, is_known

    def note_sent(self, place: Place, staging: Staging) -> None:
        """The server has what a staging held: from now on, its content is known by its manifest."""
        entry = self._entries.get(place)
        if entry is None or entry.staging != staging.id:
            return
        record = self._tree.record(entry.node)
        if record is not None and record.local is not None and record.local.content is not None and not record.staged:
            self.note(place, replace(entry, manifest=print_of(record.local.content), staging=0))

    def adopt(self, spot: Spot, look: Look, extras: Extras) -> bool:
        """Takes a file that the drive has already for the one on the disk, when size and time are the same."""
        node = self._tree.child(spot.folder, spot.place.name)
        record = self._tree.record(node) if node is not None else None
        if record is None or record.local is None or record.local.kind is not Kind.FILE:
            return False
        if (record.size, record.local.mtime_ns) != (look.size, look.mtime_ns):
            return False
        self._put(spot, look, extras, Entry(Kind.FILE, ROOT, look.inode, look.size, look.mtime_ns, look.ctime_ns))
        return True

    def make_path(self, path: bytes) -> NodeId:
        """The folder of the drive at a path whose folders are listed, made where it is missing; raises Exists."""
        node = ROOT
        for part in path.split(b"/"):
            check_name(part)
            child = self._tree.child(node, part)
            if child is None:
                child = self._make_folder(node, part)
            elif (state := self._volume.record(child).local) is None or state.kind is not Kind.FOLDER:
                raise Exists("A file has the name of the folder that the backup is to be kept in.")
            node = child
        if node == ROOT:
            raise Invalid("The top of the drive cannot be a backup.")
        return node

    def _make_folder(self, parent: NodeId, name: bytes) -> NodeId:
        above = self._volume.record(parent).local
        assert above is not None
        node = self._tree.new_node()
        now_ns = time.time_ns()
        state = NodeState(
            Kind.FOLDER, (Name(parent, name),), 0o755, above.uid, above.gid, now_ns, now_ns, now_ns, now_ns
        )
        with self._tree.edit() as edit:
            edit.set_local(node, state, now_ns)
            edit.touch(parent, now_ns)
        self._volume.changed_here(node, None, state)
        return node


def _made(name: Name, look: Look, now_ns: int) -> NodeState:
    return NodeState(
        kind=look.kind,
        names=(name,),
        mode=look.mode,
        uid=look.uid,
        gid=look.gid,
        mtime_ns=look.mtime_ns,
        ctime_ns=now_ns,
        atime_ns=look.atime_ns,
        birth_ns=now_ns,
        content=EMPTY if look.kind is Kind.FILE else None,
    )


def _dressed(state: NodeState, look: Look, extras: Extras) -> NodeState:
    """The state with all that can be set of what is on the disk; the time of the last read does not count."""
    return replace(
        state,
        mode=look.mode,
        uid=look.uid,
        gid=look.gid,
        mtime_ns=look.mtime_ns,
        xattrs=extras.xattrs,
        target=extras.target,
    )


def matches(entry: Entry, look: Look) -> bool:
    """Whether the disk says of a name what it said when it was taken."""
    return (entry.kind, entry.inode, entry.size, entry.mtime_ns, entry.ctime_ns) == (
        look.kind,
        look.inode,
        look.size,
        look.mtime_ns,
        look.ctime_ns,
    )
