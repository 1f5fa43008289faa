"""Volume: what programs do to the tree; what they see of it is shown.py's, content handles.py's. No FUSE types.

Handlers that find everything in memory or in the tree never wait; only folders not listed yet, content not held yet
and syncs do.
"""

import stat
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from msgspec.structs import replace

from cache.edit import Edit
from cache.pull import Difference, Effects
from cache.records import LostEdit
from cache.syncs import Syncs
from cache.tree import Tree
from fusefs.attributes import (
    Caller,
    Owner,
    Setting,
    kind_of,
    without_privileges,
)
from fusefs.errors import (
    Exists,
    Invalid,
    IsFolder,
    Mounted,
    NameTooLong,
    NoEntry,
    NotEmpty,
    NotFolder,
    NotPermitted,
    OtherSpace,
    ReadOnly,
    TooManyNames,
)
from fusefs.handles import OpenFiles
from fusefs.opened import Handle, OpenFile
from fusefs.removed import Last
from fusefs.shown import Shown
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import (
    EMPTY,
    NAME_MAX,
    NAMES_MAX,
    SYMLINK_MAX,
    Kind,
    Name,
    NodeState,
)

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
_VIEWER: Final = "You may look at this shared folder, and change nothing in it."


class Volume(Shown):
    """One mounted space."""

    def __init__(
        self,
        tree: Tree,
        files: OpenFiles,
        sync: Syncs,
        *,
        owner: Owner | None,
        list_folder: Callable[[NodeId], Awaitable[None]],
        wake: Callable[[], None],
        show: Callable[[Effects], None],
        listing_seconds: float = 15.0,
    ) -> None:
        """`list_folder` asks the server for a folder's children; `wake` says that something is to be sent,
        `show` tells the kernel of changes that no program asked for through it.
        """
        super().__init__(tree, files, owner, list_folder, listing_seconds)
        self.sync = sync
        self.wake = wake
        self._show = show

    def check_writable(self, node: NodeId) -> None:
        """Raises ReadOnly for a node of a space in which this user may change nothing."""
        if self.tree.members is not None:
            record = self.tree.record(node)
            if record is not None and self.is_read_only(record.space):
                raise ReadOnly(_VIEWER)

    def check_writable_in(self, folder: NodeId) -> None:
        """The same for the entries of a folder."""
        if self.tree.members is not None and self.is_read_only(self.tree.space_below(folder)):
            raise ReadOnly(_VIEWER)

    def _check_one_space(self, folder: NodeId, other: NodeId, node: NodeId) -> None:
        """Raises OtherSpace for two folders whose entries belong to different spaces; Mounted for a shared folder.

        Who is told of another space copies, and removes: of what is in a shared folder that is for all its members.
        """
        if self.tree.members is not None and self.tree.space_below(folder) != self.tree.space_below(other):
            if self.sync.has_mounted(node):
                raise Mounted("This is a shared folder, or holds one, and no shared folder is in another.")
            raise OtherSpace("A shared folder is a space of its own: what goes into it, or out of it, is copied.")

    @staticmethod
    def _check_no_mount(state: NodeState) -> None:
        if state.mounts:
            raise Mounted("This folder is shared with you. To have it no more: satchel leave.")

    # Making and removing names

    async def make(
        self, folder: NodeId, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes = b""
    ) -> NodeId:
        """A new node of the type in `mode` under this name; raises Exists, NameTooLong, NotFolder, ReadOnly."""
        self.check_writable_in(folder)
        if not self.tree.has_range:
            with trio.fail_after(self._listing_seconds):
                await self.sync.ensure_range()
        await self._ensure_free(folder, name)
        if len(target) > SYMLINK_MAX:
            raise NameTooLong(f"A symlink's target has at most {SYMLINK_MAX} bytes.")
        kind = kind_of(mode)
        if kind is None:
            raise Invalid("There is no such type of file.")
        now_ns = time.time_ns()
        parent = self.record(folder).local
        assert parent is not None
        gid, bits = caller.gid, stat.S_IMODE(mode)
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            bits |= stat.S_ISGID if kind is Kind.FOLDER else 0
        node = self.tree.new_node()
        state = NodeState(
            kind=kind,
            names=(Name(folder, name),),
            mode=0o777 if kind is Kind.SYMLINK else bits,
            uid=caller.uid,
            gid=gid,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
            atime_ns=now_ns,
            birth_ns=now_ns,
            rdev=rdev if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0,
            target=target,
            content=EMPTY if kind is Kind.FILE else None,
        )
        with self.tree.edit() as edit:
            edit.set_local(node, state, now_ns)
            edit.touch(folder, now_ns)
        self.wake()
        return node

    async def link(self, node: NodeId, folder: NodeId, name: bytes) -> None:
        """One more name for a node; raises NotPermitted for folders, TooManyNames, OtherSpace, ReadOnly."""
        self.check_writable_in(folder)
        await self._ensure_free(folder, name)
        # No await from here to the edit: news may make a folder a shared one.
        state = self.record(node).local
        assert state is not None
        space = self.tree.space_below(state.names[0].parent) if state.names else self.record(node).space
        if space != self.tree.space_below(folder):
            raise OtherSpace("A file has all its names in one space.")
        if state.kind is Kind.FOLDER:
            raise NotPermitted("A folder has one name only.")
        if len(state.names) >= NAMES_MAX:
            raise TooManyNames(f"A node has at most {NAMES_MAX} names.")
        now_ns = time.time_ns()
        with self.tree.edit() as edit:
            edit.set_local(node, replace(state, names=(*state.names, Name(folder, name)), ctime_ns=now_ns), now_ns)
            edit.touch(folder, now_ns)
        self.wake()

    async def unlink(self, folder: NodeId, name: bytes) -> None:
        """Takes a name from a node that is no folder; with its last name the node goes, once nobody has it open."""
        self.check_writable_in(folder)
        node = await self.lookup(folder, name)
        state = self.record(node).local
        assert state is not None
        if state.kind is Kind.FOLDER:
            raise IsFolder("This is a folder: rmdir removes it.")
        now_ns = time.time_ns()
        with self.tree.edit() as edit:
            self.remove_name(edit, node, state, Name(folder, name), now_ns)
            edit.touch(folder, now_ns)
        self.after_removal()

    async def rmdir(self, folder: NodeId, name: bytes) -> None:
        """Removes an empty folder; raises NotFolder, NotEmpty."""
        self.check_writable_in(folder)
        await self._ensure_known(folder, name)
        # No await from here to the edit: news may give names to others.
        node = self._child(folder, name)
        state = self.record(node).local
        assert state is not None
        self._check_no_mount(state)
        self._check_empty(node)
        now_ns = time.time_ns()
        with self.tree.edit() as edit:
            self.remove_name(edit, node, state, Name(folder, name), now_ns)
            edit.touch(folder, now_ns)
        self.after_removal()

    async def rename(self, folder: NodeId, name: bytes, new_folder: NodeId, new_name: bytes, flags: int) -> None:
        """As renameat2(2), with RENAME_NOREPLACE and RENAME_EXCHANGE."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise Invalid("This kind of rename is not known.")
        check_name(new_name)
        self.check_writable_in(folder)
        self.check_writable_in(new_folder)
        await self.lookup(folder, name)
        await self.ensure_listed(new_folder)
        if not flags and self.tree.child(new_folder, new_name) is not None:
            await self._ensure_known(new_folder, new_name)
        # No await from here to the edit: news may give names to others, and make a folder a shared one.
        node, other = self._child(folder, name), self.tree.child(new_folder, new_name)
        self._check_one_space(folder, new_folder, node)
        source, target = Name(folder, name), Name(new_folder, new_name)
        if flags & RENAME_EXCHANGE:
            self._exchange(node, source, other, target)
            return
        if other is not None and flags & RENAME_NOREPLACE:
            raise Exists("The name is taken.")
        if other == node:
            return
        state = self.record(node).local
        assert state is not None
        if state.kind is Kind.FOLDER:
            self._check_no_cycle(node, new_folder)
        if other is not None:
            self._check_replaceable(state, other)
        now_ns = time.time_ns()
        with self.tree.edit() as edit:
            if other is not None:
                replaced = edit.get(other).local
                assert replaced is not None
                self.remove_name(edit, other, replaced, target, now_ns)
            edit.set_local(node, _renamed(state, source, target, now_ns), now_ns)
            edit.touch(folder, now_ns)
            if new_folder != folder:
                edit.touch(new_folder, now_ns)
        self.after_removal()

    def _exchange(self, node: NodeId, source: Name, other: NodeId | None, target: Name) -> None:
        if other is None:
            raise NoEntry("There is nothing to exchange with.")
        if other == node:
            return
        now_ns = time.time_ns()
        one, two = self.record(node).local, self.record(other).local
        assert one is not None
        assert two is not None
        if one.kind is Kind.FOLDER:
            self._check_no_cycle(node, target.parent)
        if two.kind is Kind.FOLDER:
            self._check_no_cycle(other, source.parent)
        with self.tree.edit() as edit:
            edit.set_local(node, _renamed(one, source, target, now_ns), now_ns)
            edit.set_local(other, _renamed(two, target, source, now_ns), now_ns)
            edit.touch(source.parent, now_ns)
            if target.parent != source.parent:
                edit.touch(target.parent, now_ns)
        self.wake()

    def _check_replaceable(self, state: NodeState, other: NodeId) -> None:
        replaced = self.record(other).local
        assert replaced is not None
        self._check_no_mount(replaced)
        if state.kind is Kind.FOLDER:
            self._check_empty(other)
        elif replaced.kind is Kind.FOLDER:
            raise IsFolder("A folder has this name.")

    async def _ensure_known(self, folder: NodeId, name: bytes) -> None:
        """Returns when it is known what is in the folder of this name, if it is one."""
        node: NodeId | None = await self.lookup(folder, name)
        while node is not None and self.record(node).is_unlisted_folder:
            await self.ensure_listed(node)
            node = self.tree.child(folder, name)

    def _child(self, folder: NodeId, name: bytes) -> NodeId:
        node = self.tree.child(folder, name)
        if node is None:
            raise NoEntry("There is no such name.")
        return node

    def _check_empty(self, node: NodeId) -> None:
        record = self.record(node)
        if record.local is None or record.local.kind is not Kind.FOLDER:
            raise NotFolder("This is no folder.")
        if not record.is_listed or self.tree.has_children(node):
            raise NotEmpty("The folder is not empty.")

    def _check_no_cycle(self, node: NodeId, folder: NodeId) -> None:
        while folder != ROOT:
            if folder == node:
                raise Invalid("A folder cannot be moved into itself.")
            above = self.parent(folder)
            if above == folder:
                # Hidden until news tells where it is: nobody can name it meanwhile.
                return
            folder = above

    def remove_name(self, edit: Edit, node: NodeId, state: NodeState, name: Name, now_ns: int) -> None:
        """Takes a name from a node within an edit; with its last name it goes, once nobody has it open."""
        names = tuple(own for own in state.names if own != name)
        if names:
            edit.set_local(node, replace(state, names=names, ctime_ns=now_ns), now_ns)
            return
        last = Last(replace(state, names=(), ctime_ns=now_ns), edit.get(node).size)
        if state.kind is Kind.FILE:
            self.files.prepare_to_orphan(node)
            edit.on_kept.append(lambda: self.files.orphan(node, last.state))
        edit.on_kept.append(lambda: self.removed.keep(node, last))
        edit.set_local(node, None, now_ns)

    def after_removal(self) -> None:
        """To be called after an edit that took names."""
        self.files.release_dropped()
        self.wake()

    async def _ensure_free(self, folder: NodeId, name: bytes) -> None:
        check_name(name)
        await self.ensure_listed(folder)
        if self.tree.child(folder, name) is not None:
            raise Exists("The name is taken.")

    # Attributes

    async def make_room(self, node: NodeId, size: int) -> None:
        """Returns when a file may become so large; raises OverQuota."""
        file = self.files.find(node)
        record = self.tree.record(node)
        known = self.files.size(file) if file is not None else record.size if record is not None else size
        await self.files.quota_of(node).make_room(size - known)

    def set_attributes(self, node: NodeId, setting: Setting, handle: Handle | None) -> None:
        """chmod, chown, truncate and utime in one; raises NoSuchNode, Invalid, TooLarge, DiskFull, ReadOnly."""
        self.check_writable(node)
        file = handle.file if handle is not None else self.files.find(node)
        if setting.size is not None:
            self._truncate(node, setting.size, file)
            file = self.files.find(node)
        if file is not None and (file.is_orphan or file.is_changed):
            self._set_on_open_file(file, setting)
            if file.is_orphan:
                return
            setting = Setting(mode=setting.mode, uid=setting.uid, gid=setting.gid, atime_ns=setting.atime_ns)
        state = self.state(node)
        changed = setting.applied_to(state)
        is_as_wanted = replace(changed, ctime_ns=state.ctime_ns) == state
        if changed == state or (is_as_wanted and not setting.is_written_back and not self.tree.is_dirty(node)):
            # To give something to whom it belongs already is not worth a commit, whatever the kernel shows.
            return
        self.set_state(node, changed, ctime_ns=setting.ctime_ns)

    def has_privileges(self, file: OpenFile) -> bool:
        """Whether a file runs as somebody else, which ends when it is written to."""
        mode = self.files.state(file).mode
        return without_privileges(mode) != mode

    def drop_privileges(self, node: NodeId) -> None:
        """Somebody else than root changed the content of a file: it runs as nobody else any more."""
        state = self.state(node)
        mode = without_privileges(state.mode)
        if mode != state.mode:
            self.set_state(node, replace(state, mode=mode))

    def set_state(self, node: NodeId, state: NodeState, *, ctime_ns: int | None = None) -> None:
        """Gives a node other attributes, of which its ctime tells; also one whose last name is gone."""
        now_ns = time.time_ns()
        state = replace(state, ctime_ns=now_ns if ctime_ns is None else ctime_ns)
        file = self.files.find(node)
        if file is not None and file.is_orphan:
            file.state = state
        elif (removed := self.removed.find(node)) is not None:
            self.removed.keep(node, Last(state, removed.size))
        else:
            with self.tree.edit() as edit:
                edit.set_local(node, state, now_ns)
            self.wake()

    @staticmethod
    def _set_on_open_file(file: OpenFile, setting: Setting) -> None:
        if file.is_orphan:
            file.state = replace(setting.applied_to(file.state), ctime_ns=setting.ctime_ns or time.time_ns())
            file.mtime_ns = setting.mtime_ns or file.mtime_ns
            return
        # Kept in memory until the flush that comes anyway: one edit for each written file, not two.
        file.mtime_ns = file.mtime_ns if setting.mtime_ns is None else setting.mtime_ns
        file.ctime_ns = file.ctime_ns if setting.ctime_ns is None else setting.ctime_ns

    def _truncate(self, node: NodeId, size: int, file: OpenFile | None) -> None:
        state = self.files.state(file) if file is not None else self.record(node).local
        if state is None or state.kind is not Kind.FILE:
            raise (
                IsFolder("Only files have a size that can be set.")
                if state and state.kind is Kind.FOLDER
                else Invalid("Only files have a size that can be set.")
            )
        if size == (self.files.size(file) if file is not None else self.record(node).size):
            # Nothing to do, and no time to move: where one does, the kernel says so beside the size.
            return
        handle = self.files.open(node, is_writing=True) if file is None else None
        target = handle.file if handle is not None else file
        assert target is not None
        try:
            self.files.truncate(target, size)
            if not target.writers or handle is not None:
                self.flush(target)
        finally:
            if handle is not None:
                self.files.close(handle)

    def is_as_sent(self, node: NodeId) -> bool:
        """Whether the server has all that was edited here of this node, also what a program wrote and did not close."""
        file = self.files.find(node)
        return not self.tree.is_dirty(node) and (file is None or not file.is_changed)

    def set_back(self, node: NodeId, state: NodeState, lost: tuple[bytes, int, int] | None = None) -> None:
        """Gives a node the content, permissions and attributes of an older state of it; its names stay.

        What was written to it and not sent is kept as an edit that lost, so that it becomes a version. `lost`: the key
        of such an edit of which this is the state, with its staging and size; it is no such edit any more.
        """
        self.check_writable(node)
        file = self.files.find(node)
        if file is not None:
            self.files.drop_content(file)
        record = self.record(node)
        assert record.local is not None
        now_ns = time.time_ns()
        kept = replace(
            state,
            names=record.local.names,
            ctime_ns=now_ns,
            birth_ns=record.local.birth_ns,
            mounts=record.local.mounts,
        )
        with self.tree.edit() as edit:
            if record.staged:
                edit.keep_lost(node, LostEdit(record.local, edit.edited_ns(node), record.staged))
            edit.put(node, replace(edit.get(node), staged=0, staged_size=0))
            if lost is not None:
                edit.drop_lost(lost[0])
            edit.set_local(node, kept, now_ns, staged=lost[1:] if lost is not None and lost[1] else None)
        self.files.release_dropped()
        self.changed_here(node, record.local, kept)

    def changed_here(
        self, node: NodeId, before: NodeState | None, after: NodeState | None, *, is_content: bool = True
    ) -> None:
        """Sends and shows an edit that did not come through the kernel; `is_content`: of a file's content, too."""
        self.wake()
        names = set(before.names if before is not None else ()) ^ set(after.names if after is not None else ())
        nodes = frozenset(() if before is None else (node,))
        is_content = is_content and before is not None and after is not None
        events = {node: Difference(before, after, is_content=is_content)}
        self._show(Effects(frozenset(names), nodes, nodes if is_content else frozenset(), events=events))

    # Open files

    def open(self, node: NodeId, *, is_writing: bool, is_truncating: bool) -> Handle:
        """Opens a file; raises NoSuchNode, IsFolder, ReadOnly."""
        if is_writing or is_truncating:
            self.check_writable(node)
        handle = self.files.open(node, is_writing=is_writing)
        try:
            if is_truncating and self.files.size(handle.file):
                self.files.truncate(handle.file, 0)
        except BaseException:
            # Nobody would end it: the file would be being written to for ever, and no news of it taken in.
            self.files.close(handle)
            raise
        return handle

    def flush(self, file: OpenFile) -> None:
        """What close(2) promises: what was written survives a killed daemon, and is on its way."""
        if self.files.flush(file):
            self.wake()

    def flush_all(self) -> None:
        """Flushes every open file."""
        for file in self.files.changed():
            self.flush(file)
        self.files.tell_all()

    async def fsync(self, file: OpenFile) -> None:
        """What fsync(2) promises: everything written so far survives a power cut of this machine."""
        await self.files.sync(file)
        self.flush(file)
        await self.sync_store()

    async def sync_store(self) -> None:
        """Returns when every change to the tree so far survives a power cut."""
        await trio.to_thread.run_sync(self.tree.store.sync)

    def close(self, handle: Handle) -> None:
        """Ends a handle."""
        was_changed = handle.file.is_changed
        self.files.close(handle)
        if was_changed or handle.is_writing:
            self.wake()
        if handle.has_written:
            # The kernel still has the old times, and no answer gives it others: it is to forget the file.
            self._show(Effects(frozenset(), frozenset({handle.file.node}), frozenset()))


def check_name(name: bytes) -> None:
    """Raises NameTooLong, Invalid for what cannot be the name of a file."""
    if len(name) > NAME_MAX:
        raise NameTooLong(f"A name has at most {NAME_MAX} bytes.")
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise Invalid("This is no name.")


def _renamed(state: NodeState, source: Name, target: Name, now_ns: int) -> NodeState:
    return replace(state, names=tuple(target if own == source else own for own in state.names), ctime_ns=now_ns)
