"""Kernel: the only module that speaks FUSE. Translates requests for Volume and what is virtual, and decides nothing."""

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from cache.errors import NoSuchNode
from cache.listings import Listings
from fusefs.attributes import Attributes, Caller, Setting
from fusefs.errnos import errno_of
from fusefs.errors import IsFolder, Overtaken, ReadOnly
from fusefs.opened import Handle
from fusefs.repeater import Repeater
from fusefs.searches import SEARCH_NAME, Searches
from fusefs.shown import NAMES_AT_ONCE
from fusefs.turns import Turns
from fusefs.versions import PastHandle, Versions
from fusefs.virtual import SEARCHES, Virtual, is_virtual
from fusefs.volume import Volume
from fusefs.xattrs import ExtendedAttributes
from remote.protocol.cutting import Buffer
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import VERSIONS_NAME, Name

log = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 3_600.0
"""How long the kernel may believe what it was told: changes from elsewhere are announced one by one."""
_BLOCK: Final = 4_096
_TIME_MAX_NS: Final = (1 << 63) - 1
_TASKS: Final = 64
_ABSENT_MAX: Final = 100_000
_DOTS: Final = frozenset((b".", b".."))


@dataclass
class _OpenFolder:
    """One opendir(): names as of its last rewind, so that offsets stay good while entries come and go."""

    inode: int
    entries: "list[Listed]"


Listed = tuple[bytes, int, EntryAttributes | None]
"""An entry of a folder: its name, its node and, if they stay as they are while the listing does, its attributes."""


P = ParamSpec("P")
R = TypeVar("R")


def _answers(handler: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A handler that never waits, with errors of ours turned into the errno that the kernel wants."""

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(*args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise _refusal(handler.__name__, error) from error

    return answer


def _waits(handler: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same for a handler that may have to wait."""

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise _refusal(handler.__name__, error) from error

    return answer


def _refusal(request: str, error: Exception) -> FUSEError:
    """The errno of an error of ours; anything else is a fault, which is logged and becomes EIO."""
    number = errno_of(error)
    if number is None:
        log.error("%s failed", request, exc_info=error)
        number = errno.EIO
    elif number == errno.EIO:
        log.warning("%s: %s", request, error)
    return FUSEError(number)


class Operations(pyfuse3.Operations):
    """The requests of one mount."""

    enable_writeback_cache = True
    supports_dot_lookup = False

    def __init__(self, volume: Volume, versions: Versions, searches: Searches) -> None:
        super().__init__()
        self._volume = volume
        self._versions = versions
        self._searches = searches
        self._xattrs = ExtendedAttributes(volume)
        self._handles: dict[int, Handle | PastHandle | _OpenFolder] = {}
        self._next_handle = 1
        self.is_own: Callable[[int], bool] = lambda _: False
        """Whether a request repeats a change from elsewhere (see Announcer): it is answered, and changes nothing."""
        self._repeater: Repeater | None = None
        self._repeating_pid = -1
        self.asked_for: set[int] = set()
        """Folders that programs asked for and the kernel has not forgotten: nobody can watch others."""
        # All folders that the kernel knows, and how often it was told of each.
        self._known: dict[int, int] = {}
        self.absent: set[Name] = set()
        """Names of which the kernel may remember that they lead nowhere."""
        # What was listed lately: to make it is most of what a listing costs.
        self._listings: Listings[Listed] = volume.tree.listings
        self._listed_as_of = 0

    def repeat(self, repeater: Repeater) -> None:
        """Who repeats changes from elsewhere answers the requests that come of it."""
        self._repeater, self._repeating_pid = repeater, repeater.pid

    def _repeated_by(self, ctx: RequestContext) -> Repeater | None:
        """Who answers a request that repeats a change; None for the request of a program."""
        return self._repeater if ctx.pid == self._repeating_pid else None

    # Names

    @_waits
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if (repeater := self._repeated_by(ctx)) is not None:
            attributes, is_true = repeater.lookup(Name(NodeId(parent_inode), name))
            return self._repeated(attributes, is_true=is_true)
        if is_virtual(parent_inode):
            return self._shown(await self._virtual(parent_inode).lookup(parent_inode, name), counts=True)
        if name == VERSIONS_NAME:
            return self._shown(self._versions.of_folder(NodeId(parent_inode)), counts=True)
        if name == SEARCH_NAME and await self._is_searches(parent_inode, name):
            return self._shown(self._searches.top(), counts=True)
        node = await self._volume.find(NodeId(parent_inode), name)
        if node is None:
            return self._no_entry(Name(NodeId(parent_inode), name))
        return self._asked(self._entry(node))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            if is_virtual(inode):
                self._virtual(inode).inodes.forget(inode, count)
                continue
            self._volume.removed.forget(NodeId(inode))
            if inode in self._known:
                self._known[inode] -= count
                if self._known[inode] <= 0:
                    del self._known[inode]
                    self.asked_for.discard(inode)

    def _asked(self, entry: EntryAttributes) -> EntryAttributes:
        """An entry that a program asked for: the kernel knows it until it forgets it."""
        if stat.S_ISDIR(entry.st_mode):
            inode = entry.st_ino
            self._known[inode] = self._known.get(inode, 0) + 1
            self.asked_for.add(inode)
        return entry

    def _repeated(self, attributes: Attributes, *, is_true: bool = True) -> EntryAttributes:
        """An entry that only the repeater asked for: when a program does, the kernel is to ask again."""
        inode, seconds = attributes.node, TIMEOUT_SECONDS if is_true else 0.0
        if stat.S_ISDIR(attributes.mode):
            self._known[inode] = self._known.get(inode, 0) + 1
            if inode not in self.asked_for:
                seconds = 0.0
        return _translated(attributes, seconds)

    @_waits
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return await self._make(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx)

    @_waits
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return await self._make(parent_inode, name, mode, ctx, rdev=rdev)

    @_waits
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return await self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=target)

    @_waits
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        entry = await self._make(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        handle = self._volume.open(NodeId(entry.st_ino), is_writing=True, is_truncating=False)
        return self._opened(handle, flags), entry

    async def _make(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext, *, rdev: int = 0, target: bytes = b""
    ) -> EntryAttributes:
        _check_writable(parent)
        if (repeater := self._repeated_by(ctx)) is not None:
            return self._repeated(repeater.made(Name(NodeId(parent), name), mode))
        caller = Caller(ctx.uid, ctx.gid, ctx.umask)
        bits = mode if stat.S_ISLNK(mode) else mode & ~ctx.umask
        node = await self._volume.make(NodeId(parent), name, bits, caller, rdev=rdev, target=target)
        self.absent.discard(Name(NodeId(parent), name))
        return self._asked(self._entry(node))

    @_waits
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        _check_writable(inode, new_parent_inode)
        await self._volume.link(NodeId(inode), NodeId(new_parent_inode), new_name)
        return self._entry(NodeId(inode))

    @_waits
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        _check_writable(parent_inode)
        if (repeater := self._repeated_by(ctx)) is not None:
            repeater.removed(Name(NodeId(parent_inode), name))
            return
        await self._volume.unlink(NodeId(parent_inode), name)

    @_waits
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        _check_writable(parent_inode)
        if name == VERSIONS_NAME:
            raise ReadOnly("The past cannot be removed.")
        if await self._is_searches(parent_inode, name):
            raise ReadOnly("Searches are not kept, and cannot be removed.")
        if (repeater := self._repeated_by(ctx)) is not None:
            repeater.removed(Name(NodeId(parent_inode), name))
            return
        await self._volume.rmdir(NodeId(parent_inode), name)

    @_waits
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        _check_writable(parent_inode_old, parent_inode_new)
        if VERSIONS_NAME in (name_old, name_new):
            raise ReadOnly("The past cannot be moved.")
        if await self._is_searches(parent_inode_old, name_old) or await self._is_searches(parent_inode_new, name_new):
            raise ReadOnly("Searches cannot be moved, and nothing can have their name.")
        if (repeater := self._repeated_by(ctx)) is not None:
            source, target = Name(NodeId(parent_inode_old), name_old), Name(NodeId(parent_inode_new), name_new)
            repeater.moved(source, target)
            return
        await self._volume.rename(NodeId(parent_inode_old), name_old, NodeId(parent_inode_new), name_new, flags)

    @_answers
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._virtual(inode).target(inode) if is_virtual(inode) else self._volume.target(NodeId(inode))

    # Attributes

    @_answers
    def getattr(self, inode: int, ctx: RequestContext | None = None) -> EntryAttributes:
        if ctx is not None and (repeater := self._repeated_by(ctx)) is not None:
            return _translated(repeater.attributes(NodeId(inode)), 0.0)
        return self._shown(inode) if is_virtual(inode) else self._entry(NodeId(inode))

    @_waits
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        _check_writable(inode)
        if self.is_own(ctx.pid):
            return self._set_in_truth(NodeId(inode), attr, fields)
        setting = Setting(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=_bounded(attr.st_atime_ns) if fields.update_atime else None,
            mtime_ns=_bounded(attr.st_mtime_ns) if fields.update_mtime else None,
            ctime_ns=_bounded(attr.st_ctime_ns) if fields.update_ctime else None,
        )
        handle = self._handles.get(fh) if fh is not None else None
        if setting.size is not None:
            await self._volume.make_room(NodeId(inode), setting.size)
        try:
            self._volume.set_attributes(NodeId(inode), setting, handle if isinstance(handle, Handle) else None)
            return self._entry(NodeId(inode))
        except NoSuchNode:
            if setting != Setting(mtime_ns=setting.mtime_ns, ctime_ns=setting.ctime_ns):
                raise
            # The kernel writes back the time of a file that was removed meanwhile, and does not look at the answer.
            # Were it refused, the next syncfs(2) of anybody would fail.
            return _gone(inode)

    def _set_in_truth(self, node: NodeId, attr: EntryAttributes, fields: SetattrFields) -> EntryAttributes:
        """Answers what repeats a change: the kernel takes for true what it asked for, so it must be what is there."""
        try:
            entry = self._entry(node)
        except NoSuchNode:
            # The time of what was removed: it belongs to the removal.
            return _gone(node)
        is_said = fields.update_atime and fields.update_mtime
        if (fields.update_size and attr.st_size != entry.st_size) or (
            is_said and attr.st_mtime_ns != entry.st_mtime_ns
        ):
            raise Overtaken("It was changed again meanwhile.")
        if (fields.update_size or is_said) and self._volume.files.is_written(node):
            # The kernel holds bytes of it that we do not have yet, and would drop them with our size.
            raise Overtaken("A program writes to it.")
        return entry

    @_answers
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        value = self._virtual(inode).xattr(inode, name) if is_virtual(inode) else self._xattrs.get(NodeId(inode), name)
        if value is None:
            # The usual answer: the kernel asks for a capability before each write.
            raise FUSEError(errno.ENODATA)
        return value

    @_answers
    def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        if is_virtual(inode):
            return self._virtual(inode).xattrs(inode)
        return self._xattrs.names(NodeId(inode), is_root=ctx.uid == 0)

    @_answers
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        _check_writable(inode)
        self._xattrs.set(NodeId(inode), name, value)

    @_answers
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        _check_writable(inode)
        self._xattrs.remove(NodeId(inode), name)

    @_answers
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        total, free = self._volume.room()
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = _BLOCK
        answer.f_blocks = total // _BLOCK
        answer.f_bfree = answer.f_bavail = free // _BLOCK
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 40
        answer.f_namemax = 255
        return answer

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        # With default_permissions the kernel checks; it asks here only where that option is off.
        return True

    # Folders

    @_answers
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._keep(_OpenFolder(inode, []))

    @_waits
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        folder = self._handles[fh]
        assert isinstance(folder, _OpenFolder)
        if self._listed_as_of != self._volume.files.held_as_of:
            self._listings.clear()
            self._listed_as_of = self._volume.files.held_as_of
        if start_id == 0:
            folder.entries = await self._entries(folder.inode)
        if is_virtual(folder.inode):
            self._tell_virtual(folder, start_id, token)
        else:
            self._tell(folder, start_id, token)

    def _tell(self, folder: _OpenFolder, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        entries, find = folder.entries, self._volume.files.find
        is_kept = self._listings.is_kept(NodeId(folder.inode), entries)
        for position in range(start_id, len(entries)):
            name, inode, entry = entries[position]
            if entry is None or not is_kept or find(NodeId(inode)) is not None:
                try:
                    entry = self._entry(NodeId(inode))
                except NoSuchNode:
                    continue
                if is_kept and self._volume.is_settled(NodeId(inode)):
                    entries[position] = (name, inode, entry)
            if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                return
            if name not in _DOTS:
                self._asked(entry)

    def _tell_virtual(self, folder: _OpenFolder, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for position in range(start_id, len(folder.entries)):
            name, inode, _ = folder.entries[position]
            try:
                entry = self._shown(inode) if is_virtual(inode) else self._entry(NodeId(inode))
            except NoSuchNode:
                continue
            if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                return
            if name in _DOTS:
                continue
            if is_virtual(inode):
                self._virtual(inode).inodes.count(inode)
            else:
                self._asked(entry)

    async def _entries(self, inode: int) -> list[Listed]:
        if is_virtual(inode):
            children = await self._virtual(inode).children(inode)
            return [(b".", inode, None), (b"..", inode, None), *((*child, None) for child in children)]
        node, kept = NodeId(inode), self._listings.get(NodeId(inode))
        if kept is not None:
            return kept
        changes = self._volume.tree.store.changes
        names = await self._volume.children(node)
        entries: list[Listed] = [(b".", node, None), (b"..", self._volume.parent(node), None)]
        entries += [(child.name, child.node, None) for child in names]
        # No await from the last look at names to here. Of many names, the first may have changed since.
        if len(names) < NAMES_AT_ONCE or changes == self._volume.tree.store.changes:
            self._listings.keep(node, entries)
        return entries

    async def releasedir(self, fh: int) -> None:
        folder = self._handles.pop(fh)
        if isinstance(folder, _OpenFolder) and is_virtual(folder.inode):
            unseen = (inode for name, inode, _ in folder.entries if name not in _DOTS)
            self._virtual(folder.inode).inodes.drop_unseen(unseen)

    @_waits
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._volume.sync_store()

    # Content

    @_answers
    def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        is_writing = flags & os.O_ACCMODE != os.O_RDONLY
        if is_virtual(inode):
            if is_writing or flags & os.O_TRUNC:
                raise ReadOnly("The past cannot be written to.")
            return FileInfo(fh=self._keep(self._versions.open(inode)), keep_cache=True)
        if self._repeated_by(ctx) is not None:
            if self._volume.files.is_written(NodeId(inode)):
                raise Overtaken("A program writes to it.")
            # What it writes is nothing, so news of the file need not wait for it.
            handle = self._volume.files.open(NodeId(inode), is_writing=False, is_reading=False)
            return FileInfo(fh=self._keep(handle), keep_cache=True)
        is_truncating = bool(flags & os.O_TRUNC)
        handle = self._volume.open(NodeId(inode), is_writing=is_writing or is_truncating, is_truncating=is_truncating)
        if is_truncating and ctx.uid != 0:
            # Where it truncates by this and not by setattr, the kernel leaves it to us.
            self._volume.drop_privileges(NodeId(inode))
        return self._opened(handle, flags)

    def _opened(self, handle: Handle, flags: int) -> FileInfo:
        """Where the quota may end, past the kernel's page cache: only then write(2) can say so.

        Not what is also opened to be read: it may be mapped, which needs the page cache.
        """
        is_near = self._volume.files.quota_of(handle.file.node).is_near
        # Of writes past it the kernel takes no setuid and setgid away.
        has_privileges = is_near and self._volume.has_privileges(handle.file)
        handle.is_past_cache = flags & os.O_ACCMODE == os.O_WRONLY and is_near and not has_privileges
        handle.is_direct = handle.is_past_cache or bool(flags & os.O_DIRECT)
        return FileInfo(fh=self._keep(handle), keep_cache=True, direct_io=handle.is_past_cache)

    @_waits
    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]  # any buffer is taken
        handle = self._handles[fh]
        if isinstance(handle, PastHandle):
            return await self._versions.read(handle, off, size)
        if isinstance(handle, _OpenFolder):
            raise IsFolder("A folder has no content.")
        return await self._volume.files.read(handle, off, size)

    @_waits
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        handle = self._written(fh)
        self._volume.check_writable(handle.file.node)
        written = await self._volume.files.write(handle.file, off, buf, is_direct=handle.is_direct)
        if handle.is_past_cache:
            self._volume.files.note_time(handle.file)
            handle.has_written = True
        return written

    @_waits
    async def flush(self, fh: int) -> None:
        handle = self._handles[fh]
        if isinstance(handle, Handle):
            self._volume.flush(handle.file)
            if handle.is_writing:
                await self._volume.files.quota_of(handle.file.node).settle(handle.file.node)

    @_waits
    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._handles[fh]
        if isinstance(handle, Handle):
            await self._volume.fsync(handle.file)
            if handle.is_writing:
                await self._volume.files.quota_of(handle.file.node).settle(handle.file.node)

    @_answers
    def release(self, fh: int) -> None:
        handle = self._handles.pop(fh)
        if isinstance(handle, Handle):
            self._volume.close(handle)

    # Inside

    def _written(self, fh: int) -> Handle:
        handle = self._handles[fh]
        if not isinstance(handle, Handle):
            raise ReadOnly("The past cannot be written to.")
        return handle

    def _keep(self, handle: Handle | PastHandle | _OpenFolder) -> int:
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        return number

    def _no_entry(self, name: Name) -> EntryAttributes:
        """Inode 0: the kernel remembers that there is no such name, until it is told or, beyond a limit, for long."""
        if len(self.absent) < _ABSENT_MAX:
            self.absent.add(name)
        entry = EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(0)
        entry.entry_timeout = TIMEOUT_SECONDS if name in self.absent else 1.0
        return entry

    def _entry(self, node: NodeId) -> EntryAttributes:
        return _translated(self._volume.attributes(node), TIMEOUT_SECONDS)

    def _virtual(self, inode: int) -> Virtual:
        return self._searches if inode >= SEARCHES else self._versions

    async def _is_searches(self, parent: int, name: bytes) -> bool:
        """Whether a name leads to `.search`: at the top, where nobody has something of his own under it."""
        return name == SEARCH_NAME and parent == ROOT and await self._volume.find(ROOT, name) is None

    def _shown(self, inode: int, *, counts: bool = False) -> EntryAttributes:
        virtual = self._virtual(inode)
        attributes, seconds = virtual.attributes(inode)
        if counts:
            virtual.inodes.count(inode)
        return _translated(attributes, seconds)


class Delivering(Operations):
    """Those of a mount with sync=remote: close(2) of a written file, and fsync(2), wait for the server."""

    def __init__(
        self, volume: Volume, versions: Versions, searches: Searches, deliver: Callable[[NodeId], Awaitable[None]]
    ) -> None:
        """`deliver` returns when the server has a node, or raises what is in the way."""
        super().__init__(volume, versions, searches)
        self._deliver = deliver

    @_waits
    async def flush(self, fh: int) -> None:
        await super().flush(fh)
        handle = self._handles[fh]
        if isinstance(handle, Handle) and handle.is_writing and not handle.file.is_orphan:
            await self._deliver(handle.file.node)

    @_waits
    async def fsync(self, fh: int, datasync: bool) -> None:
        await super().fsync(fh, datasync)
        handle = self._handles[fh]
        if isinstance(handle, Handle) and not handle.file.is_orphan:
            await self._deliver(handle.file.node)

    @_waits
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await super().fsyncdir(fh, datasync)
        folder = self._handles[fh]
        if isinstance(folder, _OpenFolder) and not is_virtual(folder.inode):
            await self._deliver(NodeId(folder.inode))


def _check_writable(*inodes: int) -> None:
    if is_virtual(max(inodes)):
        raise ReadOnly("The past, and what was found, cannot be written to here.")


def _gone(inode: int) -> EntryAttributes:
    """A file that nobody can see any more."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode)
    entry.st_mode = stat.S_IFREG
    entry.st_nlink = 0
    entry.attr_timeout = entry.entry_timeout = 0
    return entry


def _bounded(time_ns: int) -> int:
    """The nearest time that can be kept: the years 1677 to 2262."""
    return max(-_TIME_MAX_NS, min(time_ns, _TIME_MAX_NS))


def _translated(attributes: Attributes, seconds: float) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = attributes.node
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = seconds
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.links
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = attributes.size
    entry.st_blksize = _BLOCK
    entry.st_blocks = attributes.blocks
    entry.st_atime_ns = attributes.atime_ns
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    return entry


def drop_name(folder: NodeId, name: bytes) -> None:
    """Makes the kernel ask anew where a name leads; may block for as long as requests on the folder go on."""
    pyfuse3.invalidate_entry(folder, name)


def drop_node(node: NodeId, keeps_content: bool) -> None:
    """Makes the kernel ask anew for a node's attributes and, unless kept, its content; may block on dirty pages."""
    pyfuse3.invalidate_inode(node, keeps_content)


def mount(operations: Operations, mountpoint: str, source: str, options: frozenset[str]) -> None:
    """Mounts; after this the folder exists, and requests wait for `serve`. Raises RuntimeError."""
    pyfuse3.init(operations, mountpoint, {*pyfuse3.default_options, f"fsname={source}", "subtype=satchel", *options})


async def serve() -> None:
    """Answers requests until the folder is unmounted."""
    # As pyfuse3.asyncio does it: whatever is under this name is how pyfuse3 waits.
    pyfuse3.trio = Turns()  # type: ignore[attr-defined]
    await pyfuse3.main(max_tasks=_TASKS)


def stop() -> None:
    """Makes `serve` return."""
    pyfuse3.terminate()


def unmount(*, is_mounted: bool = True) -> None:
    """Takes the folder away, also while programs are in it; when it is away already, only lets go of the rest."""
    pyfuse3.close(unmount=is_mounted)
