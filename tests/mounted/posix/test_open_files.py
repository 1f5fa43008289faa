"""Open files: without a name, replaced, by several programs at once, mapped, locked, by each flag of open(2)."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.posix.calls import AT_FDCWD, AT_SYMLINK_FOLLOW, LIBC, checked, fails, in_child

pytestmark = pytest.mark.mounted


@pytest.fixture
def drive(device: Any) -> Path:
    """An empty mounted folder."""
    return Path(device("desk").path)


def test_a_file_without_a_name_is_a_file(device: Any) -> None:
    desk = device("desk")
    drive = desk.path
    back = drive / "back"
    (drive / "file").write_bytes(b"before" * 100_000)
    desk.wait()
    fd = os.open(drive / "file", os.O_RDWR)
    os.unlink(drive / "file")
    try:
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 6, 6 * 99_999) == b"before"
        assert os.pwrite(fd, b"after!", 0) == 6
        os.fsync(fd)
        os.ftruncate(fd, 3)
        os.ftruncate(fd, 10)
        assert os.pread(fd, 100, 0) == b"aft" + bytes(7)
        os.fchmod(fd, 0o612)
        os.utime(fd, ns=(5, 6))
        os.setxattr(fd, "user.a", b"1")
        assert os.getxattr(fd, "user.a") == b"1"
        found = os.fstat(fd)
        assert (stat.S_IMODE(found.st_mode), found.st_atime_ns, found.st_mtime_ns) == (0o612, 5, 6)
        with fails(errno.ENOENT):
            checked(LIBC.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(back), AT_SYMLINK_FOLLOW))
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        assert os.read(again, 3) == b"aft"
        os.close(again)
        (drive / "file").write_bytes(b"another")
        assert os.pread(fd, 3, 0) == b"aft"
        assert os.stat(drive / "file").st_ino != found.st_ino
        os.fchown(fd, os.getuid(), os.getgid())
    finally:
        os.close(fd)
    desk.wait()
    desk.remount()
    assert os.listdir(drive) == ["file"]
    assert (drive / "file").read_bytes() == b"another"


def test_a_file_that_is_replaced_lives_on_in_who_has_it_open(drive: Path) -> None:
    (drive / "old").write_bytes(b"old")
    (drive / "new").write_bytes(b"new")
    with open(drive / "old", "r+b", buffering=0) as file:
        os.rename(drive / "new", drive / "old")
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"OLD")
        file.seek(0)
        assert file.read() == b"OLD"
    assert (drive / "old").read_bytes() == b"new"


def test_a_folder_that_was_removed_is_there_for_who_is_in_it(drive: Path) -> None:
    (drive / "gone").mkdir()
    fd = os.open(drive / "gone", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(drive / "gone")
    try:
        with fails(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with fails(errno.ENOENT):
            os.mkdir("new", dir_fd=fd)
        assert os.fstat(fd).st_nlink == 0
        assert os.path.isdir(f"/proc/self/fd/{fd}")
        assert os.listdir(fd) == []
    finally:
        os.close(fd)


def test_what_was_removed_is_there_for_who_holds_a_descriptor(drive: Path) -> None:
    (drive / "file").write_bytes(b"content")
    os.symlink("target", drive / "link")
    os.mkfifo(drive / "pipe")
    fds = {name: os.open(drive / name, os.O_PATH | os.O_NOFOLLOW) for name in ("file", "link")}
    fds["pipe"] = os.open(drive / "pipe", os.O_RDWR)
    for name in fds:
        os.unlink(drive / name)
    found = {name: os.fstat(fd) for name, fd in fds.items()}
    assert {name: (state.st_nlink, state.st_size) for name, state in found.items()} == {
        "file": (0, 7),
        "link": (0, 6),
        "pipe": (0, 0),
    }
    assert os.readlink(b"", dir_fd=fds["link"]) == b"target"
    os.fchmod(fds["pipe"], 0o600)
    os.utime(fds["pipe"], ns=(1, 2))
    state = os.fstat(fds["pipe"])
    assert (state.st_mode, state.st_mtime_ns) == (stat.S_IFIFO | 0o600, 2)
    for fd in fds.values():
        os.close(fd)


def test_appends_of_two_programs_are_all_there(drive: Path) -> None:
    log = drive / "log"

    def append(letter: bytes) -> None:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in range(400):
            os.write(fd, b"%s%04d\n" % (letter, number))
        os.close(fd)

    other = os.fork()
    if other == 0:
        try:
            append(b"b")
        finally:
            os._exit(0)
    append(b"a")
    os.waitpid(other, 0)
    lines = log.read_bytes().splitlines()
    for letter in (b"a", b"b"):
        assert [line for line in lines if line.startswith(letter)] == [b"%s%04d" % (letter, n) for n in range(400)]
    assert len(lines) == 800


def test_an_append_goes_to_the_end_wherever_the_file_is_read(drive: Path) -> None:
    fd = os.open(drive / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"one")
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"two")
    os.ftruncate(fd, 10)
    os.write(fd, b"three")
    assert os.pread(fd, 100, 0) == b"onetwo" + bytes(4) + b"three"
    os.close(fd)


def test_one_of_many_makes_it(drive: Path) -> None:
    results = [in_child(lambda: os.open(drive / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)) for _ in range(20)]
    assert results == [0] + [errno.EEXIST] * 19
    os.symlink("nowhere", drive / "dangling")
    with fails(errno.EEXIST):
        os.open(drive / "dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_open_says_why_not(drive: Path) -> None:
    (drive / "file").touch()
    (drive / "folder").mkdir()
    os.symlink("file", drive / "link")
    os.mkfifo(drive / "pipe")
    for name, flags, number in (
        ("file", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        ("file/below", os.O_RDONLY, errno.ENOTDIR),
        ("folder", os.O_WRONLY, errno.EISDIR),
        ("folder", os.O_RDONLY | os.O_CREAT, errno.EISDIR),
        ("link", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
        ("nothing", os.O_RDONLY, errno.ENOENT),
        ("nothing/below", os.O_CREAT | os.O_WRONLY, errno.ENOENT),
        ("pipe", os.O_WRONLY | os.O_NONBLOCK, errno.ENXIO),
        (".", os.O_TMPFILE | os.O_RDWR, errno.EOPNOTSUPP),
    ):
        with fails(number):
            os.open(drive / name, flags, 0o600)


def test_a_descriptor_of_a_path_only_names_it(drive: Path) -> None:
    (drive / "file").write_bytes(b"x")
    os.symlink("file", drive / "link")
    fd = os.open(drive / "link", os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(fd).st_mode)
    assert os.readlink(b"", dir_fd=fd) == b"file"
    with fails(errno.EBADF):
        os.read(fd, 1)
    os.close(fd)


def test_direct_reads_and_writes_see_one_content(drive: Path) -> None:
    path = drive / "file"
    path.write_bytes(b"a" * 65_536)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 8_192)
    assert os.preadv(fd, [buffer], 4_096) == 8_192
    assert buffer[:] == b"a" * 8_192
    buffer[:] = b"b" * 8_192
    assert os.pwritev(fd, [buffer], 8_192) == 8_192
    assert path.read_bytes() == b"a" * 8_192 + b"b" * 8_192 + b"a" * 49_152
    with open(path, "r+b") as file:
        file.write(b"c" * 4_096)
    assert os.preadv(fd, [buffer], 0) == 8_192
    assert buffer[:] == b"c" * 4_096 + b"a" * 4_096
    assert os.pread(fd, 5, 4_094) == b"ccaaa", "no alignment is asked for"
    os.close(fd)


def test_mappings_are_shared_or_private(drive: Path) -> None:
    path = drive / "file"
    path.write_bytes(bytes(20_000))
    with open(path, "r+b") as file:
        private = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        private[5:8] = b"own"
        assert path.read_bytes()[5:8] == bytes(3)
        shared = mmap.mmap(file.fileno(), 0)

        def write_there() -> None:
            with open(path, "r+b") as other, mmap.mmap(other.fileno(), 0) as mapped:
                mapped[9_000:9_005] = b"there"

        assert in_child(write_there) == 0
        assert shared[9_000:9_005] == b"there", "both map the same pages"
        shared[100:104] = b"here"
        os.pwrite(file.fileno(), b"written", 200)
        assert shared[200:207] == b"written"
        assert os.pread(file.fileno(), 4, 100) == b"here"
        shared.flush()
        shared.close()
        private.close()
    assert path.read_bytes()[100:104] == b"here"


def test_a_mapping_past_the_end_of_a_cut_file_is_a_bus_error(drive: Path) -> None:
    path = drive / "file"
    path.write_bytes(b"x" * 100_000)
    program = (
        "import mmap, os, sys\n"
        "with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as mapped:\n"
        "    os.truncate(sys.argv[1], 10)\n"
        "    assert mapped[:11] == b'x' * 10 + bytes(1)\n"
        "    mapped[50_000]\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False, capture_output=True)
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert path.read_bytes() == b"x" * 10


def _locks(path: Path, lock: Callable[[int], None]) -> int:
    """What comes of it when another program takes a lock."""

    def take() -> None:
        fd = os.open(path, os.O_RDWR)
        lock(fd)

    return in_child(take)


def test_locks_of_both_kinds_keep_others_out(drive: Path) -> None:
    path = drive / "file"
    path.write_bytes(bytes(100))
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert _locks(path, lambda other: fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)) == errno.EAGAIN
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert _locks(path, lambda other: fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)) == 0
    fcntl.flock(fd, fcntl.LOCK_UN)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)
    assert _locks(path, lambda other: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 20, 0)) == 0
    assert _locks(path, lambda other: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29)) == errno.EAGAIN
    os.close(os.open(path, os.O_RDONLY))
    assert _locks(path, lambda other: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29)) == 0, (
        "closing any descriptor of the file ends a program's record locks"
    )
    os.close(fd)


def test_what_space_calls_answer(drive: Path) -> None:
    path = drive / "file"
    path.write_bytes(b"x" * 10_000)
    with open(path, "r+b") as file:
        fd = file.fileno()
        for mode in (0, 1, 2 | 1, 8, 16, 32):  # allocate, keep size, punch, collapse, zero, insert
            assert LIBC.fallocate(fd, mode, 0, 4_096) == -1
            assert ctypes.get_errno() == errno.EOPNOTSUPP
        os.posix_fallocate(fd, 5_000, 10_000)
        assert os.fstat(fd).st_size == 15_000
        assert os.pread(fd, 20_000, 0) == b"x" * 10_000 + bytes(5_000)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 15_000
        assert os.lseek(fd, 14_999, os.SEEK_DATA) == 14_999
        for whence in (os.SEEK_HOLE, os.SEEK_DATA):
            with fails(errno.ENXIO):
                os.lseek(fd, 15_000, whence)
        with fails(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)


def test_a_copy_within_the_drive_is_whole_however_it_is_asked_for(drive: Path) -> None:
    content = os.urandom(3_000_000)
    (drive / "file").write_bytes(content)
    for number, options in enumerate(([], ["--reflink=auto"], ["--sparse=always"], ["--sparse=never"])):
        copy = drive / f"copy {number}"
        subprocess.run(["cp", *options, drive / "file", copy], check=True)
        assert copy.read_bytes() == content
    refused = subprocess.run(["cp", "--reflink=always", drive / "file", drive / "x"], check=False, capture_output=True)
    assert b"Operation not supported" in refused.stderr
    with open(drive / "file", "rb") as source, open(drive / "sent", "wb") as target:
        while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
            pass
    assert (drive / "sent").read_bytes() == content
