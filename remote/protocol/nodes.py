"""What a node is: its complete state, and the manifest that says which chunks its content is made of.

None of these can be in a circle, so the collector of circles need not look at them (`gc=False`): there are many.
"""

import enum

import msgspec

from remote.protocol.ids import NO_SPACE, ChunkId, NodeId, Rev, SpaceId

NAME_MAX = 255
VERSIONS_NAME = b".versions"
"""No node has this name: devices show a folder's history there."""
SYMLINK_MAX = 4095
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65_536
XATTR_TOTAL_MAX = 131_072
NAMES_MAX = 1_000
"""Names of one node (hard links)."""
FILE_SIZE_MAX = 1 << 44
"""Bytes of one file, holes included: 16 TiB."""
INLINE_MAX = 2_048
"""Content up to this many bytes travels inside the change."""
ENTRIES_MAX = 64
"""A manifest with more entries than this becomes a tree."""


class Kind(enum.IntEnum):
    """What a node is; special files carry no content."""

    FILE = 1
    FOLDER = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


class Name(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """One (parent, name) pair that leads to a node; the name is 1-255 bytes without `/` and NUL, not `.` or `..`."""

    parent: NodeId
    name: bytes


class Base(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The chunk that a delta uses bytes of; it is no delta itself."""

    id: ChunkId
    key: bytes
    length: int


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`length` bytes of content: a chunk, a hole (zeros never stored) when `id` is empty, or a delta on a `base`.

    In a manifest of depth n > 0 the chunk holds the encoded entries of depth n - 1 (a leaf), and `length` is the
    number of bytes of file content below it.
    """

    id: ChunkId
    key: bytes
    length: int
    base: Base | None = None

    @property
    def is_hole(self) -> bool:
        """Whether this stretch is zeros that no chunk holds."""
        return not self.id


class Manifest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The content of one file version: `inline` bytes, or entries that cover `size` bytes in order without gaps."""

    size: int
    inline: bytes = b""
    depth: int = 0
    entries: tuple[Entry, ...] = ()


EMPTY = Manifest(size=0)


class NodeState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The complete state of one node; a node without names does not exist (see `Change.state`).

    Times are nanoseconds since the epoch. `mode` holds the twelve permission bits only. Only files have a manifest,
    only symlinks a target, only devices an `rdev`. The root folder's one name is (0, b"").

    `mounts`: a folder of a home that stands for a shared space, whose root is seen there; in its own space nothing is
    ever in it. Only the server sets it, changes it, or removes such a folder. 0: an ordinary node.
    """

    kind: Kind
    names: tuple[Name, ...]
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    birth_ns: int
    rdev: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = {}
    content: Manifest | None = None
    mounts: SpaceId = NO_SPACE


class NodeVersion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node as of the commit `rev` that last changed it; `state` is None when that commit removed it."""

    node: NodeId
    rev: Rev
    edited_ns: int
    state: NodeState | None


ROOT_NAME = Name(NodeId(0), b"")
