"""Versions: `.versions` in every folder: the folder as it was at any time, read-only, served from manifests.

What is known about the past never changes, so answers are kept on disk.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from cache.cursor import Cursor
from cache.reader import Reader
from fusefs import moments
from fusefs.attributes import Attributes, Owner, blocks_of, file_mode
from fusefs.errors import Invalid, IsFolder, NoEntry
from fusefs.lookback import Lookback
from fusefs.virtual import PAST, Inodes
from remote.protocol.cutting import Buffer
from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.protocol.messages import Version
from remote.protocol.nodes import EMPTY, NAME_MAX, Kind, NodeState
from remote.protocol.sharing import FOUNDED

CONFLICTS_NAME: Final = b"conflicts"
"""In `.versions`, not listed: the versions that lost against what is in the folder now, until that is settled."""
_REV_NAME: Final = re.compile(rb"rev-([1-9]\d{0,17})")
"""Also a rev leads to its state."""
_FOR_EVER_SECONDS: Final = 3_600.0
_SETTLED_NS: Final = 5_000_000_000
"""A moment younger than this may still get commits, by clocks that differ."""


@dataclass(frozen=True)
class MomentsFolder:
    """The folder `.versions` of a live folder."""

    folder: NodeId
    space: Lookback


@dataclass(frozen=True)
class PastNode:
    """A node as of a rev."""

    node: NodeId
    rev: Rev
    space: Lookback
    life: int
    """The run of the server that gave this rev."""
    time_ns: int = 0
    """The time that was asked for, at which shared folders below are shown; 0: a rev was."""


@dataclass(frozen=True)
class PastMount:
    """A folder that was a shared one, as its space was at that time; that is found out when somebody looks into it."""

    node: NodeId
    mounts: SpaceId
    within: PastNode


@dataclass(frozen=True)
class ConflictsFolder:
    """The folder `.versions/conflicts` of a live folder."""

    folder: NodeId
    space: Lookback


@dataclass(frozen=True)
class LostNode:
    """A version of a node that lost against another edit; it may never have been the node's state."""

    node: NodeId
    rev: Rev
    space: Lookback


_What = MomentsFolder | PastNode | PastMount | ConflictsFolder | LostNode


def _past(node: NodeId, rev: Rev, space: Lookback, time_ns: int = 0) -> PastNode:
    return PastNode(node, rev, space, space.life_at(rev), time_ns)


@dataclass(frozen=True)
class _About:
    """What an inode shows; `state` None: a folder of moments or conflicts."""

    state: NodeState | None
    seconds: float


def lost_name(name: bytes, lost: Version) -> bytes:
    """What a version that lost is called in `.versions/conflicts`."""
    prefix = b"%d~" % lost.rev
    return prefix + name[: NAME_MAX - len(prefix)]


@dataclass
class PastHandle:
    """One open() of a file of the past."""

    state: NodeState
    cursor: Cursor = field(default_factory=Cursor)


class Versions:
    """The past of a home, and of the shared spaces in it."""

    def __init__(
        self,
        space_below: Callable[[NodeId], Lookback],
        space_mounted: Callable[[SpaceId, NodeId, int], Lookback],
        reader: Reader,
        owner: Owner | None,
    ) -> None:
        """`space_below`: the space that what is in a live folder belongs to; `space_mounted`: see Across.mounted."""
        self._space_below = space_below
        self._space_mounted = space_mounted
        self._reader = reader
        self._owner = owner
        self.inodes: Inodes[_What, _About] = Inodes(PAST)

    # Inodes

    def of_folder(self, folder: NodeId) -> int:
        """The inode of the folder's `.versions`."""
        return self._inode(MomentsFolder(folder, self._space_below(folder)), None, 1.0)

    def _inode(self, what: _What, state: NodeState | None, seconds: float) -> int:
        return self.inodes.number(what, _About(state, seconds))

    def _state(self, inode: int) -> NodeState:
        state = self.inodes.find(inode).about.state
        if state is None:
            raise IsFolder("This is a folder of moments.")
        return state

    # Names

    async def lookup(self, inode: int, name: bytes) -> int:
        """The inode that a name leads to; raises NoEntry."""
        what = self.inodes.find(inode).what
        if isinstance(what, ConflictsFolder):
            for lost_name, lost in await self._lost_in(what):
                if lost_name == name:
                    return lost
            raise NoEntry("There is no such conflict, or it is settled.")
        if isinstance(what, MomentsFolder):
            if name == CONFLICTS_NAME:
                return self._inode(ConflictsFolder(what.folder, what.space), None, 1.0)
            if rev_name := _REV_NAME.fullmatch(name):
                return await self._as_of(what, Rev(int(rev_name[1])), 0, _FOR_EVER_SECONDS)
            try:
                time_ns = moments.parse(os.fsdecode(name))
            except Invalid:
                raise NoEntry("This is no time.") from None
            return await self._at(what, time_ns)
        folder, seconds = await self._folder(what)
        for child_name, child in await folder.space.children_at(folder.node, folder.rev):
            if child_name == name and child.state is not None:
                return self._child(folder, child.node, child.state, seconds)
        raise NoEntry("There was no such name at that time.")

    async def _at(self, what: MomentsFolder, time_ns: int) -> int:
        is_settled = time_ns < time.time_ns() - _SETTLED_NS
        seconds = _FOR_EVER_SECONDS if is_settled else 0.0
        return await self._as_of(what, await what.space.rev_at(time_ns), time_ns, seconds)

    async def _as_of(self, what: MomentsFolder, rev: Rev, time_ns: int, seconds: float) -> int:
        state = await what.space.state_at(what.folder, rev)
        if state is None:
            raise NoEntry("The folder did not exist at that time.")
        return self._inode(_past(what.folder, rev, what.space, time_ns), state, seconds)

    def _child(self, within: PastNode, node: NodeId, state: NodeState, seconds: float) -> int:
        if state.mounts:
            return self._inode(PastMount(node, state.mounts, within), state, _FOR_EVER_SECONDS)
        return self._inode(_past(node, within.rev, within.space, within.time_ns), state, seconds)

    async def _folder(self, what: PastNode | PastMount | LostNode) -> tuple[PastNode, float]:
        """Where the names are that somebody looks for, and for how many seconds they may be believed."""
        if isinstance(what, PastMount):
            # A time that is not over may still lead to a later rev.
            return await self._entered(what), 1.0
        return what if isinstance(what, PastNode) else _past(what.node, what.rev, what.space), _FOR_EVER_SECONDS

    async def _entered(self, mount: PastMount) -> PastNode:
        """The top of a shared space at the time at which somebody looks at the folder above; raises RemoteError."""
        within = mount.within
        time_ns = within.time_ns or await within.space.time_of(within.rev)
        there = self._space_mounted(mount.mounts, mount.node, within.life)
        try:
            rev = max(await there.rev_at(time_ns), FOUNDED)
        except NoEntry:
            # The home's commit may be a moment older than those of the space that it made.
            rev = FOUNDED
        return _past(mount.node, rev, there, time_ns)

    async def children(self, inode: int) -> list[tuple[bytes, int]]:
        """The names in a folder of the past, or the moments, with their inodes."""
        what = self.inodes.find(inode).what
        if isinstance(what, ConflictsFolder):
            return await self._lost_in(what)
        if not isinstance(what, MomentsFolder):
            folder, seconds = await self._folder(what)
            found = await folder.space.children_at(folder.node, folder.rev)
            return [
                (name, self._child(folder, child.node, child.state, seconds))
                for name, child in found
                # What it was may be purged.
                if child.state is not None
            ]
        answer = await what.space.moments(what.folder, moments.STEPS)
        labelled = moments.shown(answer.moments)
        newest = await what.space.state_at(what.folder, labelled[0][1].rev) if labelled else None
        if newest is None:
            return []
        return [
            (
                os.fsencode(label),
                # Asking for the folder's attributes at each moment would be a request each; its times are known.
                self._inode(
                    _past(what.folder, moment.rev, what.space, moments.parse(label)),
                    replace(newest, mtime_ns=moment.time_ns),
                    1.0,
                ),
            )
            for label, moment in labelled
        ]

    async def _lost_in(self, what: ConflictsFolder) -> list[tuple[bytes, int]]:
        """The versions that lost against what is in a live folder, by name, with their inodes."""
        return [
            (
                lost_name(name.name, one.lost),
                self._inode(LostNode(one.node, one.lost.rev, what.space), one.lost.state, 1.0),
            )
            for one in await what.space.conflicts()
            for name in (one.current.state.names if one.current.state is not None else ())
            if name.parent == what.folder
        ]

    # Looking

    def attributes(self, inode: int) -> tuple[Attributes, float]:
        """What stat(2) shows, and for how many seconds the kernel may believe it."""
        found = self.inodes.find(inode).about
        state = found.state
        if state is None:
            now_ns = time.time_ns()
            uid, gid = (self._owner.uid, self._owner.gid) if self._owner else (0, 0)
            mode = file_mode(Kind.FOLDER, 0o555)
            return Attributes(NodeId(inode), mode, 1, uid, gid, 0, 0, 0, now_ns, now_ns, now_ns, now_ns), found.seconds
        content = state.content or EMPTY
        shown = Attributes(
            node=NodeId(inode),
            mode=file_mode(state.kind, state.mode),
            links=1,
            uid=self._owner.uid if self._owner else state.uid,
            gid=self._owner.gid if self._owner else state.gid,
            rdev=state.rdev,
            size=len(state.target) if state.kind is Kind.SYMLINK else content.size,
            blocks=blocks_of(self._reader.held.about(content), content.size) if state.kind is Kind.FILE else 0,
            atime_ns=state.atime_ns,
            mtime_ns=state.mtime_ns,
            ctime_ns=state.ctime_ns,
            birth_ns=state.birth_ns,
        )
        return shown, found.seconds

    def target(self, inode: int) -> bytes:
        """Where a symlink pointed."""
        return self._state(inode).target

    def xattr(self, inode: int, name: bytes) -> bytes | None:
        """The value of an extended attribute; None when there is no such attribute."""
        state = self.inodes.find(inode).about.state
        return state.xattrs.get(name) if state is not None else None

    def xattrs(self, inode: int) -> list[bytes]:
        """Names of the extended attributes."""
        state = self.inodes.find(inode).about.state
        return sorted(state.xattrs) if state is not None else []

    def open(self, inode: int) -> PastHandle:
        """Opens a file of the past for reading."""
        return PastHandle(self._state(inode))

    async def read(self, handle: PastHandle, offset: int, length: int) -> Buffer:
        """Content, shorter only at the end; raises ContentUnavailable, ContentDamaged."""
        manifest = handle.state.content or EMPTY
        length = min(length, manifest.size - offset)
        if length <= 0:
            return b""
        data = self._reader.try_read(manifest, offset, length, handle.cursor)
        return data if data is not None else await self._reader.read(manifest, offset, length, handle.cursor)
