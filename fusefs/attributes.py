"""Attributes: what programs see and set of a node, apart from its names and content. Frozen data, pure."""

import stat
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind, NodeState

BLOCK: Final = 512
_TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_KINDS: Final = {file_type: kind for kind, file_type in _TYPES.items()}


def kind_of(mode: int) -> Kind | None:
    """The kind of node that an st_mode asks for, a file when it names no type; None for a type that there is not."""
    return _KINDS.get(stat.S_IFMT(mode) or stat.S_IFREG)


def without_privileges(mode: int) -> int:
    """Permission bits after somebody else than root changed the content: setuid goes, and setgid of programs."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def file_mode(kind: Kind, bits: int) -> int:
    """st_mode: the type and the permission bits."""
    return _TYPES[kind] | bits


class Attributes(Struct, frozen=True, gc=False):
    """What stat(2) shows of a node; times in nanoseconds, size in bytes, blocks of BLOCK bytes."""

    node: NodeId
    mode: int
    links: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    birth_ns: int


def blocks_of(held_bytes: int, size: int) -> int:
    """st_blocks of a file of which this machine holds so much: what `du` adds up.

    At least 1: tar and others take a file with none for one hole and do not read it, and of a file that is being
    written the kernel goes on to tell what it was told when it was empty.
    """
    return max(1, -(-min(held_bytes, size) // BLOCK))


class Setting(Struct, frozen=True, gc=False):
    """What a program sets of a node's attributes; None leaves a thing as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    """What the kernel shows as the time of this change: of files it keeps times itself."""

    @property
    def is_written_back(self) -> bool:
        """Whether the kernel tells of times that it set itself: of a write, a rename, a link."""
        return self.mode is None and self.uid is None and self.gid is None and self.atime_ns is None

    def applied_to(self, state: NodeState) -> NodeState:
        """The state with this set; `size` is not the state's."""
        return replace(
            state,
            mode=state.mode if self.mode is None else stat.S_IMODE(self.mode),
            uid=state.uid if self.uid is None else self.uid,
            gid=state.gid if self.gid is None else self.gid,
            atime_ns=state.atime_ns if self.atime_ns is None else self.atime_ns,
            mtime_ns=state.mtime_ns if self.mtime_ns is None else self.mtime_ns,
            ctime_ns=state.ctime_ns if self.ctime_ns is None else self.ctime_ns,
        )


class Caller(NamedTuple):
    """Who asks."""

    uid: int
    gid: int
    umask: int


@dataclass(frozen=True)
class Owner:
    """Whom everything belongs to as the mount shows it, whoever it was given to."""

    uid: int
    gid: int


class DiskRoom(NamedTuple):
    """Room on the server in bytes, as `df` shows it."""

    total: int
    free: int
