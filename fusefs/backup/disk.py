"""Disk: the only module that touches a folder that is backed up. Everything here waits for a disk: call it in a thread.

No symlink is followed on any way, no other file system is entered, and no mount of ours is touched: who waits in one
waits for this process.
"""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

from fusefs import mounts
from fusefs.attributes import kind_of
from remote.protocol.nodes import XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_TOTAL_MAX, Kind

SMALL_MAX: Final = 256 << 10
"""Bytes of files that are read whole, many at a time."""
BLOCK_LEAST: Final = 16 << 10
_BLOCKS_MAX: Final = 16_384
"""A larger file has larger blocks, so that what is remembered of it stays within 256 KiB."""
DIGEST_SIZE: Final = 16
_INODES_MAX: Final = 10_000
_PIECE: Final = 512 << 10
_SYSTEM_LABELS: Final = ("security.selinux", "security.ima", "security.evm")
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Vanished(Exception):
    """The folder as a whole is not what it was: a sentence. Nothing is concluded from what lies there now."""


class Top(NamedTuple):
    """A folder that is backed up, as it must be found; `avoided`: paths of mounts that nobody may touch from here."""

    path: bytes
    inode: int
    avoided: frozenset[bytes] = frozenset()


class Look(NamedTuple):
    """What lstat(2) says of a name; times in ns."""

    name: bytes
    kind: Kind
    inode: int
    device: int
    size: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Extras(NamedTuple):
    """Extended attributes, and where a symlink points."""

    xattrs: dict[bytes, bytes]
    target: bytes = b""


class Read(NamedTuple):
    """A small file, read: as it was before, and its content; `is_restless`: it was changed meanwhile."""

    look: Look
    content: bytes
    extras: Extras
    is_restless: bool
    error: OSError | None = None


def _look(name: bytes, found: os.stat_result) -> Look:
    kind = kind_of(found.st_mode)
    assert kind is not None
    return Look(
        name,
        kind,
        found.st_ino,
        found.st_dev,
        found.st_size if kind is Kind.FILE else 0,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def satchel_mounts(folder: bytes) -> frozenset[bytes]:
    """Mounts of Satchel at or below a folder; raises Vanished when one is over it."""
    points = {os.fsencode(mount.point) for mount in mounts.ours()}
    for point in points:
        if folder == point or folder.startswith(point + b"/"):
            raise Vanished(f"A drive is mounted over {os.fsdecode(folder)}: unmount it there.")
    return frozenset(point for point in points if point.startswith(folder + b"/"))


def inode_of(folder: bytes) -> int:
    """The number by which a folder is known again; raises Vanished, OSError."""
    fd = _open_path(folder)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def find(folder: bytes, inode: int) -> Top:
    """The folder, as long as it is the one that it was; raises Vanished."""
    top = Top(folder, inode, satchel_mounts(folder))
    os.close(_open_top(top))
    return top


def _open_path(folder: bytes) -> int:
    fd = os.open(b"/", _FOLDER)
    for part in folder.split(b"/")[1:]:
        if not part:
            continue
        try:
            inner = os.open(part, _FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _open_top(top: Top) -> int:
    shown = os.fsdecode(top.path)
    try:
        fd = _open_path(top.path)
    except OSError as error:
        raise Vanished(f"{shown} is not there ({error.strerror}). Is its disk mounted?") from None
    if top.inode and os.fstat(fd).st_ino != top.inode:
        os.close(fd)
        raise Vanished(f"{shown} is another folder than it was. Is its disk mounted?")
    return fd


@contextmanager
def _opened(top: Top, parts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """A descriptor of a folder below the top, and the device that the top is on; raises Vanished, OSError."""
    fd = _open_top(top)
    try:
        device = os.fstat(fd).st_dev
        path = top.path
        for part in parts:
            path += b"/" + part
            if path in top.avoided:
                raise OSError(errno.EXDEV, "a drive is mounted there")
            inner = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
        if os.fstat(fd).st_dev != device:
            raise OSError(errno.EXDEV, "another file system is mounted there")
        yield fd, device
    finally:
        os.close(fd)


class Listing:
    """All names of one folder, by the page: memory does not grow with the folder."""

    def __init__(self, top: Top, parts: Sequence[bytes], watch: Callable[[int], None]) -> None:
        """`watch` gets a descriptor of the folder before it is listed. Raises Vanished, OSError."""
        self._lock = threading.Lock()
        self._is_closed = False
        self._avoided = top.avoided
        self._path = b"/".join([top.path, *parts])
        with _opened(top, parts) as (fd, self.device):
            watch(fd)
            self._fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            self.look = _look(b"", os.fstat(self._fd))
            self._found = os.scandir(self._fd)
        except BaseException:
            os.close(self._fd)
            raise

    def page(self, count: int) -> list[Look]:
        """The next ones, in no order; none at the end; raises OSError."""
        looks: list[Look] = []
        with self._lock:
            for found in self._found:
                name = os.fsencode(found.name)
                if self._path + b"/" + name in self._avoided:
                    continue
                try:
                    looks.append(_look(name, found.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
                if len(looks) == count:
                    break
            if self._is_closed:
                self._close()
        return looks

    def close(self) -> None:
        """Lets go of the folder; when nobody waits any more for a thread that lists it, that thread does."""
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            self._close()
            self._lock.release()

    def _close(self) -> None:
        self._found.close()
        os.close(self._fd)


def look_at(
    top: Top, parts: Sequence[bytes], names: Sequence[bytes], watch: Callable[[int], None] | None = None
) -> tuple[Look, list[tuple[bytes, Look | None]]]:
    """The folder itself, and these names in it, None for one that is not there; raises Vanished, OSError.

    Of a name under which a drive is mounted nothing is said.
    """
    found: list[tuple[bytes, Look | None]] = []
    with _opened(top, parts) as (fd, _):
        if watch is not None:
            watch(fd)
        for name in names:
            if b"/".join([top.path, *parts, name]) in top.avoided:
                continue
            try:
                found.append((name, _look(name, os.stat(name, dir_fd=fd, follow_symlinks=False))))
            except FileNotFoundError:
                found.append((name, None))
        return _look(b"", os.fstat(fd)), found


def has_any(top: Top, names: Sequence[bytes]) -> bool:
    """Whether one of these names at least is in the top folder; raises Vanished, OSError."""
    return any(look is not None for _, look in look_at(top, (), names)[1])


def inodes_in(top: Top) -> set[int]:
    """The inodes of the first names in the top folder; raises Vanished, OSError."""
    with _opened(top, ()) as (fd, _):
        inner = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        with os.scandir(inner) as found:
            return {one.inode() for one in islice(found, _INODES_MAX)}
    finally:
        os.close(inner)


def text_of(top: Top, name: bytes, most: int) -> bytes:
    """The first bytes of a file in the top folder, none when it cannot be read; raises Vanished."""
    try:
        with _opened(top, ()) as (fd, _):
            inner = os.open(name, _READ, dir_fd=fd)
        with open(inner, "rb") as file:
            return file.read(most)
    except OSError:
        return b""


def extras_of(top: Top, parts: Sequence[bytes], look: Look) -> Extras:
    """Of a folder or symlink (`look.name` empty: of the folder at `parts`); raises Vanished, OSError."""
    with _opened(top, parts) as (fd, _):
        if look.kind is Kind.SYMLINK:
            path = os.path.join(b"/proc/self/fd", b"%d" % fd, look.name)
            return Extras(_xattrs(path, follow=False), os.readlink(look.name, dir_fd=fd))
        inner = os.open(look.name or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            return Extras(_xattrs(inner))
        finally:
            os.close(inner)


def _xattrs(file: int | bytes, *, follow: bool = True) -> dict[bytes, bytes]:
    """Those that a drive keeps; what is too large, or belongs to this machine's system only, is left out."""
    found: dict[bytes, bytes] = {}
    total = 0
    try:
        names = os.listxattr(file, follow_symlinks=follow)
    except OSError:
        return found
    for name in names:
        if not name.startswith(("user.", "trusted.", "security.")) or name.startswith("user.satchel."):
            continue
        key = os.fsencode(name)
        if name in _SYSTEM_LABELS or len(key) > XATTR_NAME_MAX:
            continue
        try:
            value = os.getxattr(file, name, follow_symlinks=follow)
        except OSError:
            continue
        total += len(key) + len(value)
        if len(value) <= XATTR_SIZE_MAX and total <= XATTR_TOTAL_MAX:
            found[key] = value
    return found


def read_small(top: Top, parts: Sequence[bytes], looks: Sequence[Look]) -> list[Read]:
    """Files of at most SMALL_MAX bytes; one that cannot be read has its error; raises Vanished, OSError."""
    found: list[Read] = []
    with _opened(top, parts) as (fd, _):
        for look in looks:
            try:
                found.append(_read_one(fd, look))
            except OSError as error:
                found.append(Read(look, b"", Extras({}), False, error))
    return found


def _read_one(folder: int, look: Look) -> Read:
    fd = os.open(look.name, _READ, dir_fd=folder)
    try:
        before = _look(look.name, os.fstat(fd))
        if before.kind is not Kind.FILE:
            raise OSError(errno.ESTALE, "it is no file any more")
        content = b""
        while len(content) <= SMALL_MAX and (more := os.read(fd, SMALL_MAX + 1 - len(content))):
            content += more
        extras = Extras(_xattrs(fd))
        after = _look(look.name, os.fstat(fd))
        is_restless = not is_same_content(before, after) or len(content) != after.size
        return Read(before, content, extras, is_restless)
    finally:
        os.close(fd)


def is_same_content(before: Look, after: Look) -> bool:
    """Whether nothing wrote to a file between two looks at it, as far as its times tell."""
    return (before.inode, before.size, before.mtime_ns, before.ctime_ns) == (
        after.inode,
        after.size,
        after.mtime_ns,
        after.ctime_ns,
    )


def block_size(size: int) -> int:
    """Bytes of one block of a file of this size."""
    block = BLOCK_LEAST
    while block * _BLOCKS_MAX < size:
        block *= 2
    return block


def digest_of(blocks: bytes, size: int) -> bytes:
    """The digest of a file by those of its blocks."""
    return hashlib.blake2b(size.to_bytes(8, "big") + blocks, digest_size=DIGEST_SIZE).digest()


def blocks_of(content: bytes, block: int) -> bytes:
    """Digests of the blocks of this content."""
    view = memoryview(content)
    return b"".join(
        hashlib.blake2b(view[at : at + block], digest_size=DIGEST_SIZE).digest() for at in range(0, len(content), block)
    )


class Reader:
    """A large file, read from front to back."""

    def __init__(self, top: Top, parts: Sequence[bytes], name: bytes) -> None:
        """Opens it; raises Vanished, OSError."""
        with _opened(top, parts) as (folder, _):
            self._fd = os.open(name, _READ, dir_fd=folder)
        try:
            self.look = _look(name, os.fstat(self._fd))
            if self.look.kind is not Kind.FILE:
                raise OSError(errno.ESTALE, "it is no file any more")
            self.extras = Extras(_xattrs(self._fd))
        except BaseException:
            os.close(self._fd)
            raise
        self._lock = threading.Lock()
        self._is_closed = False
        self.block = block_size(self.look.size)
        self._piece = max(_PIECE, self.block)

    def piece(self, offset: int) -> tuple[bytes, bytes]:
        """Content from `offset` on, and the digests of its blocks; shorter than a piece at the end; raises OSError."""
        parts: list[bytes] = []
        left = min(self._piece, self.look.size - offset)
        with self._lock:
            while left > 0 and (part := os.pread(self._fd, left, offset)):
                parts.append(part)
                offset += len(part)
                left -= len(part)
            if self._is_closed:
                os.close(self._fd)
        content = b"".join(parts)
        return content, blocks_of(content, self.block)

    def is_restless(self) -> bool:
        """Whether it was changed since it was opened."""
        return not is_same_content(self.look, _look(self.look.name, os.fstat(self._fd)))

    def close(self) -> None:
        """Lets go of it; when nobody waits any more for a thread that reads it, that thread does."""
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            os.close(self._fd)
            self._lock.release()
