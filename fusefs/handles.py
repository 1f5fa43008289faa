"""Handles: open files. Content flows between programs, stagings and the cache here; names and attributes do not.

A file that is open keeps working whatever happens to its names. What was written becomes part of the tree at `flush`.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec.structs import replace

from cache.edit import Edit
from cache.errors import ContentDamaged, DiskFull, NoSuchNode
from cache.eviction import Budget
from cache.lease import Lease
from cache.reader import Reader
from cache.records import HOME, Record
from cache.staging import Staging, StagingId, Stagings
from cache.tree import Tree
from fusefs.errors import Invalid, OverQuota, TooLarge
from fusefs.opened import Handle, OpenFile
from fusefs.quota import Quota
from fusefs.room import Room
from fusefs.siblings import Siblings
from remote.protocol.cutting import Buffer
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.nodes import EMPTY, FILE_SIZE_MAX, Manifest, NodeState

log = logging.getLogger(__name__)

SIZE_MAX: Final = FILE_SIZE_MAX
_OPEN_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 5.0
"""A file that was written to for so long without a flush is flushed at the next pause of so long."""
_TICK_NS: Final = 10**9
"""No tick of the kernel's clock for times of files is longer, and no bytes come to us so long after it, but rarely."""


class OpenFiles:
    """Every open file of the mount."""

    def __init__(
        self, tree: Tree, stagings: Stagings, reader: Reader, budget: Budget, lease: Lease | None = None
    ) -> None:
        """`lease`: the home's."""
        self._tree = tree
        self._stagings = stagings
        self._reader = reader
        self._siblings = Siblings(tree, reader)
        self._files: dict[NodeId, OpenFile] = {}
        self.fetched: set[NodeId] = set()
        """Files of which more may be held than the kernel was told (st_blocks): they were read, and closed since."""
        self.quota = Quota(lease or Lease(tree))
        self.quota.lease.unflushed_bytes = self._unflushed_growth
        self.quotas: dict[SpaceId, Quota] = {}
        """Of shared spaces; they count for their owners."""
        self.on_cut: Callable[[NodeId, Edit], None] = lambda _node, _edit: None
        """Told of a file that was flushed although its last write was refused: it is not to be seen elsewhere."""
        self.room = Room(tree, stagings, budget)
        # Orphans whose node came back from elsewhere, and was opened anew.
        self._left_behind: list[OpenFile] = []
        # Open files that went with news, with content that may be sent as another's.
        self._strays: list[OpenFile] = []

    def quota_of(self, node: NodeId) -> Quota:
        """What bounds the size of a file."""
        if not self.quotas:
            return self.quota
        record = self._tree.record(node)
        return self.quotas.get(record.space, self.quota) if record is not None else self.quota

    def add_quota(self, space: SpaceId, lease: Lease) -> Quota:
        """What bounds the files of a shared space."""
        quota = self.quotas[space] = Quota(lease)
        lease.unflushed_bytes = partial(self._unflushed_growth, space)
        return quota

    def find(self, node: NodeId) -> OpenFile | None:
        """The file, when a program has it open."""
        return self._files.get(node)

    def is_written(self, node: NodeId) -> bool:
        """Whether a program has the file open for writing, or what it wrote is not flushed."""
        file = self._files.get(node)
        return file is not None and (file.writers > 0 or file.is_changed)

    def is_writing_to(self, node: NodeId, staging: Staging) -> bool:
        """Whether programs that have the file open write to this staging."""
        file = self._files.get(node)
        return file is not None and file.staging is staging and not file.is_orphan

    def is_unfinished(self, node: NodeId) -> bool:
        """Whether what a program is writing would be seen half elsewhere: not flushed, or made and not closed yet."""
        file = self._files.get(node)
        if file is None or file.is_changed:
            return file is not None
        record = self._record(file)
        return file.writers > 0 and not file.is_told and record is not None and record.rev == 0 and not record.staged

    def tell_all(self) -> None:
        """Lets files be seen elsewhere that were made and are still open."""
        for file in self._files.values():
            file.is_told = True

    def flush_long_open(self) -> bool:
        """Flushes files that a program keeps open, when it pauses: a log is to be safe too. Whether there was any."""
        now = time.monotonic()
        paused = [
            file
            for file in self.changed()
            if file.handles and now - file.changed_at >= _OPEN_SECONDS and now - file.written_at >= _PAUSE_SECONDS
        ]
        for file in paused:
            self.flush(file)
        return bool(paused)

    def written(self) -> list[NodeId]:
        """Files that a program has open for writing: the kernel may hold back bytes of them."""
        return [node for node, file in self._files.items() if file.writers and not file.is_orphan]

    def changed(self) -> list[OpenFile]:
        """Files with something that is not flushed."""
        return [file for file in self._files.values() if file.is_changed and not file.is_orphan]

    @property
    def has_unflushed(self) -> bool:
        """Whether anything was written that only memory has."""
        return any(file.is_changed or not file.handles for file in self._files.values())

    def open(self, node: NodeId, *, is_writing: bool, is_reading: bool = True) -> Handle:
        """Opens a file; raises NoSuchNode. `is_reading`: its content, and what is beside it, may be wanted next."""
        file = self._files.get(node)
        record = self._tree.record(node)
        if file is not None and file.is_orphan and record is not None and record.local is not None:
            # What is written to the orphan goes with its last handle: this must not.
            self._left_behind.append(file)
            file = None
        is_gone = record is None or record.local is None
        if file is not None and is_gone and is_writing and not file.is_orphan:
            raise NoSuchNode(f"File {node} was removed elsewhere: who has it open can read it only.")
        if file is None:
            if record is None or record.local is None:
                raise NoSuchNode(f"There is no file {node} here.")
            file = self._files[node] = OpenFile(node, record.local)
            if is_reading and not is_writing and not record.staged:
                self._siblings.opened(node, record.local)
            elif record.staged:
                # Now: should the file become one with another, its record does not tell any more.
                with suppress(ContentDamaged):
                    self._attach(file)
        file.handles += 1
        file.writers += is_writing
        return Handle(file, is_writing)

    def close(self, handle: Handle) -> None:
        """Ends a handle; what is not flushed is flushed, and an orphan's content is let go with its last handle.

        Raises DiskFull: then what was written is kept in memory, and `flush_closed` tries again.
        """
        file = handle.file
        file.handles -= 1
        file.writers -= handle.is_writing
        if handle.cursor.high:
            self.fetched.add(file.node)
        if file.is_changed:
            self.flush(file)
        if file.handles == 0:
            self._forget(file)

    def flush_closed(self) -> bool:
        """Flushes what could not be flushed when it was closed; raises DiskFull. Whether there was anything."""
        if self._tree.released:
            self.release_dropped()
        closed = [file for file in self._files.values() if file.handles == 0]
        for file in closed:
            self.flush(file)
            self._forget(file)
        return bool(closed)

    def _forget(self, file: OpenFile) -> None:
        if self._files.get(file.node) is file:
            del self._files[file.node]
        else:
            self._left_behind.remove(file)
        if file in self._strays:
            self._strays.remove(file)
        staging, file.staging = file.staging, None
        if staging is not None and file.is_orphan and not self._is_to_be_sent(staging):
            self.discard(staging)

    def _is_to_be_sent(self, staging: Staging) -> bool:
        """Whether an edit that lost is to be kept as a version of it yet: who sends that lets go of it."""
        return bool(self._tree.lost_count()) and any(lost.staged == staging.id for _, _, lost in self._tree.lost())

    def discard(self, staging: Staging) -> None:
        """Lets go of content that no name leads to any more; when the disk is full, with what is let go of next."""
        if not self._stagings.is_kept(staging.id):
            staging.remove()
            return
        try:
            with self._tree.store.change() as change:
                staging.discard(change)
        except DiskFull:
            self._tree.released.add(staging.id)
        else:
            staging.remove()

    def release_dropped(self) -> None:
        """Lets go of stagings that the tree no longer refers to, but for what an open file still needs of them."""
        released, self._tree.released = self._tree.released, set()
        for file in (*self._files.values(), *self._left_behind):
            if file.staging is None or file.staging.id not in released:
                continue
            if file.is_orphan or file.is_changed:
                released.discard(file.staging.id)
                self._tree.released.add(file.staging.id)
            else:
                file.staging = None
        self._discard_all(released)

    def follow(self, nodes: Iterable[NodeId]) -> None:
        """What these nodes held lost against news: who has them open reads the news, and writes to it.

        What was staged is still to be sent as a version: to write on in it would change that.
        """
        for node in nodes:
            file, record = self._files.get(node), self._tree.record(node)
            if file is None or file.staging is None or file.is_changed or file.is_orphan or record is None:
                continue
            if record.staged != file.staging.id:
                file.staging = None

    def note_strays(self, nodes: Iterable[NodeId]) -> None:
        """Notes those that are open but gone from the tree: what was written to them may be sent as another's."""
        for node in nodes:
            file = self._files.get(node)
            if file is None or file.staging is None or file in self._strays:
                continue
            record = self._tree.record(node)
            if record is None or record.local is None:
                self._strays.append(file)

    def sweep(self) -> None:
        """Lets go of what a killed daemon left: stagings of files that had no name any more but were open."""
        self._discard_all(set(self._stagings.ids()) - self._tree.stagings())

    def _discard_all(self, ids: Iterable[int]) -> None:
        for staging_id in ids:
            try:
                staging = self._stagings.load(StagingId(staging_id))
            except (KeyError, ContentDamaged):
                continue
            self.discard(staging)

    def prepare_to_orphan(self, node: NodeId) -> None:
        """To be called before the last name of a file goes: the tree tells then no more what was written to it."""
        file = self._files.get(node)
        if file is not None:
            self._attach(file)

    def orphan(self, node: NodeId, state: NodeState) -> None:
        """The last name of a file is gone: while it is open, it lives on in its handles only."""
        file = self._files.get(node)
        if file is not None:
            file.state = replace(state, names=())
            file.is_orphan = True

    def revoke(self, nodes: Iterable[NodeId]) -> None:
        """From now on whoever has these open is refused; what was written until now is in the tree.

        Raises DiskFull when it cannot be: then nobody is refused, and it is to be tried again.
        """
        files = [self._files[node] for node in nodes if node in self._files]
        for file in files:
            self.flush(file)
        for file in files:
            record = self._record(file)
            if record is not None and file.staging is not None and record.staged == file.staging.id:
                # The tree's from now on; what has no name any more goes with its last handle.
                file.staging = None
            file.is_revoked = file.is_orphan = True
            file.is_changed = False
            file.state = replace(file.state, names=(), content=EMPTY)

    # Content

    def size(self, file: OpenFile) -> int:
        """Bytes of content as a program with the file open sees it."""
        if file.staging is not None:
            return file.staging.size
        record = self._record(file)
        return record.size if record is not None and record.local is not None else (file.state.content or EMPTY).size

    def state(self, file: OpenFile) -> NodeState:
        """The node's state: the tree's, or the last one of an orphan."""
        record = self._record(file)
        if record is not None and record.local is not None:
            file.state = record.local
        return file.state

    def held_bytes(self, node: NodeId) -> int:
        """Bytes of a file's content that can be read without the server."""
        return self._held(node, self._reader.held.bytes_of)

    def held_about(self, node: NodeId) -> int:
        """Bytes of a file's content that lie on this machine, sent or not, about (see Held.about)."""
        return self._held(node, self._reader.held.about)

    @property
    def held_as_of(self) -> int:
        """Grows whenever any content comes into the cache or goes."""
        return self._reader.held.as_of

    def _held(self, node: NodeId, held_of: Callable[[Manifest], int]) -> int:
        file = self._files.get(node)
        staging = file.staging if file is not None else None
        if staging is not None:
            return min(staging.size, staging.dirty_bytes + held_of(staging.base))
        record = self._tree.record(node)
        state = record.local if record is not None else file.state if file is not None else None
        if state is None or state.content is None:
            return 0
        held = held_of(state.content)
        if record is None or not record.staged:
            return held
        return min(record.staged_size, held + self._stagings.taken_bytes(StagingId(record.staged), record.staged_size))

    def _record(self, file: OpenFile) -> Record | None:
        return None if file.is_orphan else self._tree.record(file.node)

    def _attach(self, file: OpenFile) -> Staging | None:
        """The staging of a file that was written to, if there is one."""
        if file.staging is None:
            record = self._record(file)
            if record is not None and record.staged:
                try:
                    file.staging = self._stagings.load(StagingId(record.staged))
                except KeyError:
                    raise ContentDamaged(f"What was written to node {file.node} is gone from this machine.") from None
        return file.staging

    def _manifest(self, file: OpenFile) -> Manifest:
        record = self._record(file)
        state = record.local if record is not None and record.local is not None else file.state
        return state.content or EMPTY

    async def read(self, handle: Handle, offset: int, length: int) -> Buffer:
        """Content from `offset` on, shorter only at the end; raises ContentUnavailable, ContentDamaged."""
        file = handle.file
        _check_not_revoked(file)
        staging = self._attach(file)
        if staging is None:
            manifest = self._manifest(file)
            length = min(length, manifest.size - offset)
            if length <= 0:
                return b""
            data = self._reader.try_read(manifest, offset, length, handle.cursor)
            return data if data is not None else await self._reader.read(manifest, offset, length, handle.cursor)
        plan, freed = staging.plan_read(offset, length), staging.freed
        if len(plan) == 1 and plan[0].is_dirty:
            return staging.read_dirty(plan[0].offset, plan[0].length)
        parts: list[Buffer] = []
        for stretch in plan:
            if stretch.is_dirty:
                parts.append(staging.read_dirty(stretch.offset, stretch.length))
            else:
                parts.append(await self._reader.read(staging.base, stretch.offset, stretch.length, handle.cursor))
        if file.staging is not staging or staging.freed != freed:
            # While its base was fetched the server took it all, or some of it: there is nothing to read in it.
            return await self.read(handle, offset, length)
        return b"".join(parts)

    async def write(self, file: OpenFile, offset: int, data: bytes, *, is_direct: bool = False) -> int:
        """Takes bytes; raises DiskFull, TooLarge, and OverQuota when the program waits for this write (`is_direct`)."""
        _check_not_revoked(file)
        if offset + len(data) > SIZE_MAX:
            raise TooLarge(f"A file has at most {SIZE_MAX} bytes.")
        await self.room.make(file, len(data))
        if is_direct:
            await self._check_quota(file, offset + len(data))
        staging = self._stage(file)
        size_before = staging.size
        staging.write(offset, data)
        self.quota_of(file.node).grew(staging.size - size_before)
        file.is_cut = False
        self._note_change(file)
        self.room.note(file)
        if staging.is_crowded:
            await self._thin(staging)
        return len(data)

    async def _check_quota(self, file: OpenFile, size: int) -> None:
        try:
            await self.quota_of(file.node).make_room(size - self.size(file))
        except OverQuota:
            file.is_cut = True
            raise

    def note_time(self, file: OpenFile) -> None:
        """A file was written to now, and nobody else will say so."""
        file.mtime_ns = file.ctime_ns = time.time_ns()

    def _unflushed_growth(self, space: SpaceId = HOME) -> int:
        total = 0
        for file in self.changed():
            record = self._record(file)
            if record is not None and record.space != space:
                continue
            total += self.size(file) - (record.size if record is not None else 0)
        return total

    async def _thin(self, staging: Staging) -> None:
        async def read_base(offset: int, length: int) -> bytes:
            return bytes(await self._reader.read(staging.base, offset, length))

        await staging.thin(read_base)

    def truncate(self, file: OpenFile, size: int) -> None:
        """Makes the content `size` bytes long; raises Invalid, TooLarge, DiskFull."""
        _check_not_revoked(file)
        if size < 0:
            raise Invalid("A size cannot be negative.")
        if size > SIZE_MAX:
            raise TooLarge(f"A file has at most {SIZE_MAX} bytes.")
        size_before = self.size(file)
        if size != size_before:
            self._stage(file).truncate(size)
            self.quota_of(file.node).grew(size - size_before)
        file.is_cut = False
        self._note_change(file)

    def _stage(self, file: OpenFile) -> Staging:
        staging = self._attach(file)
        if staging is None:
            staging = file.staging = self._stagings.create(self._manifest(file))
        return staging

    def _note_change(self, file: OpenFile) -> None:
        file.written_at = time.monotonic()
        if not file.is_changed:
            file.is_changed = True
            file.changed_at = file.written_at
        # The kernel tells its own time of a write after the bytes, unless its coarse clock stood still since the last
        # one. So a young time stays; an old one must not, in case what the kernel tells is lost with a killed program.
        known_ns = file.mtime_ns or self.state(file).mtime_ns
        now_ns = time.time_ns()
        if not 0 <= now_ns - known_ns < _TICK_NS:
            file.mtime_ns = now_ns

    def flush(self, file: OpenFile) -> bool:
        """Puts what was written into the tree: from now on it survives a killed daemon. Whether there was anything."""
        file.is_told = True
        if not file.is_changed or file.is_orphan:
            file.is_changed = False
            return False
        staging = file.staging
        with self._tree.edit() as edit:
            record = edit.record(file.node)
            if record is None or record.local is None:
                file.is_changed = False
                return False
            now_ns = time.time_ns()
            known = record.local
            # As with the mtime: what the kernel told before the bytes came stays, when it is young.
            ctime_ns = known.ctime_ns if 0 <= now_ns - known.ctime_ns < _TICK_NS else now_ns
            mtime_ns, ctime_ns = file.mtime_ns or known.mtime_ns, file.ctime_ns or ctime_ns
            state = replace(known, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
            if staging is not None:
                staging.flush(edit.change)
            staged = (staging.id, staging.size) if staging is not None else None
            edit.set_local(file.node, state, now_ns, staged=staged)
            if file.is_cut:
                self.on_cut(file.node, edit)
        file.is_changed = False
        file.mtime_ns = file.ctime_ns = 0
        return True

    async def sync(self, file: OpenFile) -> None:
        """Returns when the content's bytes are on this disk; the caller then flushes the store."""
        staging = self._attach(file)
        if staging is None:
            return
        await staging.sync()
        if not file.is_orphan:
            with self._tree.store.change() as change:
                staging.flush(change)

    def drop_content(self, file: OpenFile) -> None:
        """Programs that have the file open see the tree's content from now on; what they wrote was flushed before."""
        self.flush(file)
        file.staging = None

    def let_go(self, node: NodeId, staging: Staging, content: Manifest) -> None:
        """The server has this content: the next write begins a new staging over it."""
        self.room.sent()
        for stray in [stray for stray in self._strays if stray.staging is staging]:
            self._strays.remove(stray)
            stray.staging, stray.state = None, replace(stray.state, content=content)
        file = self._files.get(node)
        if file is not None and file.staging is staging:
            file.staging = None


def _check_not_revoked(file: OpenFile) -> None:
    if file.is_revoked:
        raise NoSuchNode("The shared folder that this file was in is not shared any more, or not with you.")
