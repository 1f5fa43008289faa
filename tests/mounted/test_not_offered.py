"""What SEMANTICS.md says of calls that a drive like this does not offer, and of its limits."""

import ctypes
import errno
import fcntl
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mounted

CONTENT = bytes(range(256)) * 64
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@pytest.fixture
def path(device: Any) -> Path:
    """A file in a mounted drive."""
    found: Path = device("desk").path / "file"
    found.write_bytes(CONTENT)
    return found


def test_calls_that_are_not_offered(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    other = os.open(path.with_name("other"), os.O_RDWR | os.O_CREAT)
    try:
        assert LIBC.fallocate(fd, 0, 0, 1 << 20) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == len(CONTENT)
        with pytest.raises(OSError) as refused:
            fcntl.ioctl(fd, 0x5401)
        assert refused.value.errno == errno.ENOTTY
        with suppress(OSError):  # kernels differ in whether they copy by themselves
            assert os.copy_file_range(fd, other, 1_000, 0, 0) == 1_000
        os.posix_fallocate(other, 0, 100_000)
        assert os.fstat(other).st_size == 100_000
    finally:
        os.close(fd)
        os.close(other)
    with pytest.raises(OSError) as refused:
        os.getxattr(path, "system.posix_acl_access")
    assert refused.value.errno == errno.EOPNOTSUPP


def test_limits_are_said_by_their_errno(path: Path) -> None:
    for size in ((1 << 44) + 1, (1 << 63) - 1):
        with pytest.raises(OSError) as refused:
            os.truncate(path, size)
        assert refused.value.errno == errno.EFBIG
    fd = os.open(path, os.O_RDWR)
    # The kernel takes it into its memory, and is told when it writes back.
    assert os.pwrite(fd, b"x", 1 << 50) == 1
    with pytest.raises(OSError) as refused:
        os.fsync(fd)
    assert refused.value.errno == errno.EFBIG
    os.ftruncate(fd, len(CONTENT))
    os.close(fd)
    assert path.read_bytes() == CONTENT
    for number in range(2, 1_001):
        os.link(path, path.with_name(f"link {number}"))
    with pytest.raises(OSError) as refused:
        os.link(path, path.with_name("one more"))
    assert refused.value.errno == errno.EMLINK
    os.setxattr(path, "user.one", bytes(60_000))
    os.setxattr(path, "user.two", bytes(60_000))
    with pytest.raises(OSError) as refused:
        os.setxattr(path, "user.three", bytes(60_000))
    assert refused.value.errno == errno.ENOSPC


def test_a_file_size_limit_is_that_of_the_program_not_of_who_mounted(device: Any) -> None:
    desk = device("desk", mount=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        desk.mount()
        fd = os.open(desk.path / "file", os.O_WRONLY | os.O_CREAT)
        assert os.pwrite(fd, bytes(10), 99_995) == 5
        for refused_call in (lambda: os.pwrite(fd, b"x", 100_000), lambda: os.ftruncate(fd, 100_001)):
            with pytest.raises(OSError) as refused:
                refused_call()
            assert refused.value.errno == errno.EFBIG
        os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (desk.path / "file").stat().st_size == 100_000
    content = os.urandom(5_000_000)
    (desk.path / "large").write_bytes(content)
    desk.umount()
    desk.mount()
    assert (desk.path / "large").read_bytes() == content


def test_reading_does_not_change_atime(path: Path) -> None:
    os.utime(path, ns=(1_000_000_000, 2_000_000_000))
    assert path.read_bytes() == CONTENT
    assert path.stat().st_atime_ns == 1_000_000_000
