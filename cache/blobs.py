"""Blobs: the files that hold content of chunks, by number; knows nothing of what is in them.

Functions that take a path or a descriptor may run in any thread; everything else belongs to the event loop's thread.
"""

import ctypes
import errno
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NewType

import xxhash

from cache.errors import DiskFull
from remote.protocol.sealing import FRAME, Buffer

log = logging.getLogger(__name__)

OPEN_MAX: Final = 256
"""Blob files kept open."""
_KEEP_SIZE_PUNCH_HOLE: Final = 0x01 | 0x02
_COPY: Final = 8 << 20
_NAME: Final = re.compile("[0-9a-f]{16}")

BlobId = NewType("BlobId", int)
Sums = Sequence[int]
"""The xxh3 sum of each frame of a chunk."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def read_flags(directory: Path) -> int:
    """The flags with which preadv(2) never waits for the disk: none where there is no disk, as on tmpfs."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields, _, source = line.partition(" - ")
            if fields.split()[2] == number and source.split()[0] in ("tmpfs", "ramfs"):
                return 0
    return os.RWF_NOWAIT


class Blobs:
    """The blob files below `directory`, a bounded number of them open."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fspath(directory)
        self._fds: OrderedDict[BlobId, int] = OrderedDict()

    def path(self, blob: BlobId) -> str:
        """Where the blob lies, or would lie."""
        return f"{self._directory}/{blob & 0xFF:02x}/{blob:016x}"

    def fd(self, blob: BlobId) -> int | None:
        """A descriptor to read from until the next call of any method, or None when there is no such file."""
        fd = self._fds.get(blob)
        if fd is not None:
            self._fds.move_to_end(blob)
            return fd
        try:
            fd = os.open(self.path(blob), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        self._fds[blob] = fd
        if len(self._fds) > OPEN_MAX:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def forget(self, blob: BlobId) -> None:
        """Closes the blob, so that unlinking it gives its room back."""
        fd = self._fds.pop(blob, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Closes all files."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def folders(self) -> Iterator[str]:
        """The folders in which blobs lie."""
        for number in range(256):
            yield f"{self._directory}/{number:02x}"


def blobs_in(folder: str) -> list[BlobId]:
    """Blobs in one folder; foreign files are passed over."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [BlobId(int(name, 16)) for name in names if _NAME.fullmatch(name)]


def sums_of(view: Buffer) -> list[int]:
    """The xxh3 sum of each frame."""
    view = memoryview(view)
    return [xxhash.xxh3_64_intdigest(view[at : at + FRAME]) for at in range(0, len(view), FRAME)]


def read_at(fd: int, offset: int, length: int) -> bytearray:
    """The bytes there, shorter only where the file ends."""
    data = bytearray(length)
    view = memoryview(data)
    done = 0
    while done < length:
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            return data[:done]
        done += count
    return data


def write_at(path: str, offset: int, data: Buffer) -> int:
    """Writes into the blob, made when it is not there, and returns its allocated bytes; raises DiskFull."""
    fd = _open_to_write(path)
    try:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
        return os.fstat(fd).st_blocks * 512
    except OSError as error:
        raise disk_full(path, error) from error
    finally:
        os.close(fd)


def read_checked(fd: int, offset: int, length: int, sums: Sequence[int]) -> tuple[bytearray, list[int]]:
    """The frames there as they are, and the numbers of those that do not sum to what they should."""
    try:
        data = read_at(fd, offset, length)
    except OSError as error:
        log.warning("Cached content cannot be read from the disk: %s.", error.strerror)
        return bytearray(), list(range(len(sums)))
    found = sums_of(data)
    if len(data) < length:
        found = found[:-1]
    return data, [frame for frame, good in enumerate(sums) if frame >= len(found) or found[frame] != good]


def warm_all(work: Iterable[tuple[str, int, int]]) -> None:
    """Asks the kernel to read (path, offset, length) into its page cache."""
    for path, offset, length in work:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def punch(path: str, stretches: Sequence[tuple[int, int]]) -> int:
    """Gives the room of (offset, length) stretches back and returns what is still allocated; raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for offset, length in stretches:
            if _libc.fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, offset, length) != 0:
                number = ctypes.get_errno()
                if number not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise OSError(number, os.strerror(number), path)
                return _fill_with_zeros_instead(fd, stretches)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def adopt(
    source: str, path: str, pieces: Sequence[tuple[int, int, Sequence[int] | None]]
) -> tuple[list[Sequence[int] | None], int]:
    """Makes the file `source` a blob of (offset, length, sums) pieces; returns their sums and the allocated bytes.

    Sums that are None are computed; None comes back for a piece that the file is too short for. What is no piece is
    given back to the disk.
    """
    ordered = sorted((offset, length) for offset, length, _ in pieces)
    move(source, path, ordered)
    try:
        return _sums_in(path, pieces), _punch_between(path, ordered)
    except OSError:
        unlink(path)
        raise


def _sums_in(path: str, pieces: Sequence[tuple[int, int, Sequence[int] | None]]) -> list[Sequence[int] | None]:
    found: list[Sequence[int] | None] = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        for offset, length, sums in pieces:
            is_there = offset + length <= size
            found.append((sums or sums_of(read_at(fd, offset, length))) if is_there else None)
    finally:
        os.close(fd)
    return found


def _punch_between(path: str, ordered: Sequence[tuple[int, int]]) -> int:
    gaps = []
    at = 0
    for offset, length in [*ordered, (os.path.getsize(path), 0)]:
        if offset - at >= FRAME // 32:
            gaps.append((at, offset - at))
        at = max(at, offset + length)
    return punch(path, gaps) if gaps else allocated(path)


def move(source: str, path: str, pieces: Sequence[tuple[int, int]]) -> None:
    """Makes the file `source` the blob, by renaming, or across file systems by copying (offset, length) pieces."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.rename(source, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, path, pieces)
        os.unlink(source)


def unlink(path: str) -> None:
    """Removes the blob; nothing when it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s cannot be removed from the cache: %s.", path, error.strerror)


def allocated(path: str) -> int:
    """The bytes that the blob takes on disk."""
    return os.stat(path, follow_symlinks=False).st_blocks * 512


def unlink_all(paths: Iterable[str]) -> None:
    """Removes blobs."""
    for path in paths:
        unlink(path)


def punch_all(work: Iterable[tuple[str, Sequence[tuple[int, int]]]]) -> list[int | None]:
    """`punch` for each; None for one that cannot be."""
    left: list[int | None] = []
    for path, stretches in work:
        try:
            left.append(punch(path, stretches))
        except OSError:
            left.append(None)
    return left


def allocated_all(paths: Iterable[str]) -> list[int]:
    """`allocated` for each; 0 for one that is not there."""
    found = []
    for path in paths:
        try:
            found.append(allocated(path))
        except OSError:
            found.append(0)
    return found


def disk_full(path: str, error: OSError) -> DiskFull:
    """What to tell when a write into the cache failed."""
    return DiskFull(f"The cache took no more ({error.strerror}: {path}). Make room on its disk.")


def _open_to_write(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:  # the first blob in this folder, or somebody wiped the cache
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o600)
    except OSError as error:
        raise disk_full(path, error) from error


def _copy(source: str, path: str, pieces: Sequence[tuple[int, int]]) -> None:
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = _open_to_write(path)
        try:
            for offset, length in pieces:
                for at in range(offset, offset + length, _COPY):
                    data = read_at(source_fd, at, min(_COPY, offset + length - at))
                    if os.pwrite(fd, data, at) < len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            unlink(path)
            raise disk_full(path, error) from error
        finally:
            os.close(fd)
    finally:
        os.close(source_fd)


def _fill_with_zeros_instead(fd: int, stretches: Sequence[tuple[int, int]]) -> int:
    """Where a file system cannot punch holes the room comes back with the whole blob; no old bytes stay readable."""
    zeros = bytes(FRAME)
    for offset, length in stretches:
        for at in range(offset, offset + length, FRAME):
            os.pwrite(fd, zeros[: min(FRAME, offset + length - at)], at)
    return os.fstat(fd).st_blocks * 512
