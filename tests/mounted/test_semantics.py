"""What programs may expect of the mount, system call by system call, as fusefs/SEMANTICS.md promises."""

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mounted


@contextlib.contextmanager
def fails(number: int) -> Iterator[None]:
    """The block fails with this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, (
        f"{errno.errorcode[caught.value.errno or 0]} instead of {errno.errorcode[number]}"
    )


@pytest.fixture
def drive(device: Any) -> Path:
    """An empty mounted folder."""
    return Path(device("desk").path)


def test_names_come_and_go(drive: Path) -> None:
    folder = drive / "folder"
    folder.mkdir(mode=0o750)
    with fails(errno.EEXIST):
        folder.mkdir()
    (folder / "file").write_bytes(b"1")
    with fails(errno.ENOTEMPTY):
        folder.rmdir()
    with fails(errno.EISDIR):
        os.unlink(folder)
    with fails(errno.ENOTDIR):
        os.rmdir(folder / "file")
    with fails(errno.ENOENT):
        os.unlink(folder / "nothing")
    with fails(errno.ENAMETOOLONG):
        (folder / ("x" * 256)).touch()
    (folder / ("x" * 255)).touch()
    os.unlink(folder / ("x" * 255))
    os.unlink(folder / "file")
    folder.rmdir()
    assert os.listdir(drive) == []


@pytest.mark.parametrize("name", [b"new\nline", b" space ", b"-dash", b"\xff\xfe", "grün 🌱".encode(), b"a\\b"])
def test_any_bytes_are_a_name(drive: Path, name: bytes) -> None:
    path = os.fsencode(drive) + b"/" + name
    with open(path, "wb") as file:
        file.write(name)
    assert os.listdir(os.fsencode(drive)) == [name]
    with open(path, "rb") as file:
        assert file.read() == name


def test_rename_replaces_as_posix_says(drive: Path) -> None:
    (drive / "a").write_bytes(b"a")
    (drive / "b").write_bytes(b"b")
    inode = (drive / "a").stat().st_ino
    with open(drive / "b", "rb") as old:
        os.rename(drive / "a", drive / "b")
        assert old.read() == b"b", "who has the replaced file open still sees it"
    assert (drive / "b").read_bytes() == b"a"
    assert (drive / "b").stat().st_ino == inode
    assert not (drive / "a").exists()
    (drive / "full").mkdir()
    (drive / "full" / "x").touch()
    (drive / "empty").mkdir()
    with fails(errno.ENOTEMPTY):
        os.rename(drive / "empty", drive / "full")
    with fails(errno.EISDIR):
        os.rename(drive / "b", drive / "empty")
    with fails(errno.ENOTDIR):
        os.rename(drive / "empty", drive / "b")
    with fails(errno.EINVAL):
        os.rename(drive / "full", drive / "full" / "inside")
    os.rename(drive / "full", drive / "empty")
    assert os.listdir(drive / "empty") == ["x"]


def test_rename_noreplace_and_exchange(drive: Path) -> None:
    (drive / "a").write_bytes(b"a")
    (drive / "b").mkdir()
    (drive / "b" / "in").write_bytes(b"in")
    refused = subprocess.run(["mv", "--no-clobber", drive / "a", drive / "b" / "in"], check=False)
    assert refused.returncode in (0, 1)
    assert (drive / "b" / "in").read_bytes() == b"in"
    _exchange(drive / "a", drive / "b")
    assert (drive / "b").read_bytes() == b"a"
    assert (drive / "a" / "in").read_bytes() == b"in"


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, exchange = -100, 2
    result = libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange)
    assert result == 0, os.strerror(ctypes.get_errno())


def test_hard_links_are_one_file(drive: Path) -> None:
    (drive / "a").write_bytes(b"one")
    (drive / "folder").mkdir()
    os.link(drive / "a", drive / "folder" / "b")
    with open(drive / "folder" / "b", "ab") as file:
        file.write(b" and two")
    assert (drive / "a").read_bytes() == b"one and two"
    assert (drive / "a").stat().st_nlink == 2
    assert (drive / "a").stat().st_ino == (drive / "folder" / "b").stat().st_ino
    with fails(errno.EPERM):
        os.link(drive / "folder", drive / "c")
    os.unlink(drive / "a")
    assert (drive / "folder" / "b").stat().st_nlink == 1
    assert (drive / "folder" / "b").read_bytes() == b"one and two"


def test_an_unlinked_file_lives_until_it_is_closed(drive: Path) -> None:
    with open(drive / "a", "w+b") as file:
        file.write(b"before")
        file.flush()
        os.unlink(drive / "a")
        assert os.listdir(drive) == []
        file.write(b" and after")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink, stat.S_IMODE(found.st_mode)) == (16, 0, 0o600)
        file.seek(0)
        assert file.read() == b"before and after"
    (drive / "a").touch()
    assert (drive / "a").stat().st_size == 0


def test_truncate_down_and_up_shows_zeros(drive: Path) -> None:
    path = drive / "a"
    path.write_bytes(b"x" * 200_000)
    os.truncate(path, 70_000)
    os.truncate(path, 150_000)
    assert path.read_bytes() == b"x" * 70_000 + bytes(80_000)
    with open(path, "r+b") as file:
        file.truncate(3)
        file.seek(10)
        file.write(b"end")
    assert path.read_bytes() == b"xxx" + bytes(7) + b"end"


def test_a_sparse_file_reads_as_zeros_and_costs_little(drive: Path) -> None:
    path = drive / "sparse"
    with open(path, "wb") as file:
        file.truncate(5 << 30)
        file.seek((5 << 30) - 4)
        file.write(b"tail")
    assert path.stat().st_size == 5 << 30
    with open(path, "rb") as file:
        assert file.read(4096) == bytes(4096)
        file.seek(-8, os.SEEK_END)
        assert file.read() == bytes(4) + b"tail"


def test_appends_of_two_writers_are_all_there(drive: Path) -> None:
    one = os.open(drive / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    two = os.open(drive / "log", os.O_WRONLY | os.O_APPEND)
    for number in range(50):
        os.write(one, b"one %02d\n" % number)
        os.write(two, b"two %02d\n" % number)
    os.close(one)
    os.close(two)
    lines = (drive / "log").read_bytes().splitlines()
    assert lines == [b"%s %02d" % (who, number) for number in range(50) for who in (b"one", b"two")]


def test_exclusive_create(drive: Path) -> None:
    os.close(os.open(drive / "a", os.O_CREAT | os.O_EXCL))
    with fails(errno.EEXIST):
        os.open(drive / "a", os.O_CREAT | os.O_EXCL)


def test_shared_mapping_reaches_the_file(drive: Path) -> None:
    path = drive / "mapped"
    path.write_bytes(bytes(100_000))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[50_000:50_005] = b"hello"
        mapped.flush()
    assert path.read_bytes()[50_000:50_005] == b"hello"


def test_modes_times_and_owners_are_kept(device: Any) -> None:
    desk = device("desk")
    path = desk.path / "a"
    path.write_bytes(b"x")
    os.chmod(path, 0o4751)  # noqa: S103 - the bits are what is tested
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_500_000_000_987_654_321))
    desk.wait()
    desk.remount()
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o4751
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000_123_456_789, 1_500_000_000_987_654_321)
    with open(path, "ab") as file:
        file.write(b"y")
    assert path.stat().st_mtime_ns > 1_700_000_000_000_000_000


def test_folder_times_move_with_their_entries(drive: Path) -> None:
    os.utime(drive, ns=(1, 1))
    (drive / "a").touch()
    assert drive.stat().st_mtime_ns > 1
    os.utime(drive, ns=(1, 1))
    (drive / "a").write_bytes(b"x")
    assert drive.stat().st_mtime_ns == 1, "content is not an entry"
    os.unlink(drive / "a")
    assert drive.stat().st_mtime_ns > 1


def test_symlinks_and_special_files(drive: Path) -> None:
    os.symlink("somewhere/else", drive / "link")
    assert os.readlink(drive / "link") == "somewhere/else"
    assert (drive / "link").lstat().st_size == len("somewhere/else")
    os.mkfifo(drive / "pipe", 0o640)
    assert stat.S_ISFIFO((drive / "pipe").stat().st_mode)
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(drive):
        listening.bind("socket")
    assert stat.S_ISSOCK((drive / "socket").stat().st_mode)
    with fails(errno.ELOOP):
        os.symlink("loop", drive / "loop")
        (drive / "loop").read_bytes()


def test_extended_attributes(drive: Path) -> None:
    path = drive / "a"
    path.touch()
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.two", bytes(60_000))
    assert sorted(os.listxattr(path)) == ["user.one", "user.two"], "ours are not listed"
    assert os.getxattr(path, "user.two") == bytes(60_000)
    os.removexattr(path, "user.two")
    with fails(errno.ENODATA):
        os.getxattr(path, "user.two")
    with fails(errno.EPERM):
        os.setxattr(path, "user.satchel.state", b"synced")
    with fails(errno.EEXIST):
        os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(path, "user.three", b"2", os.XATTR_REPLACE)


def test_state_is_told_by_xattrs(device: Any, server: Any) -> None:
    desk = device("desk")
    path = desk.path / "a"
    path.write_bytes(bytes(range(256)) * 1_000)
    desk.wait()
    assert os.getxattr(path, "user.satchel.state") == b"synced"
    assert os.getxattr(path, "user.satchel.pending_bytes") == b"0"
    assert os.getxattr(path, "user.satchel.cached_bytes") == b"256000"
    server.stop()
    path.write_bytes(b"offline")
    assert os.getxattr(path, "user.satchel.state") == b"pending"
    assert os.getxattr(path, "user.satchel.pending_bytes") == b"7"
    server.start()
    desk.wait()
    assert os.getxattr(path, "user.satchel.state") == b"synced"
    assert os.getxattr(path, "user.satchel.error") == b""


def test_statfs_and_sync(drive: Path) -> None:
    found = os.statvfs(drive)
    assert found.f_namemax == 255
    assert 0 < found.f_bavail <= found.f_blocks
    with open(drive / "a", "wb") as file:
        file.write(b"x" * 300_000)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(drive, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    os.sync()


def test_a_large_folder_is_listed_whole(drive: Path) -> None:
    names = {f"{number:05d}" for number in range(3_000)}
    for name in names:
        (drive / name).touch()
    assert set(os.listdir(drive)) == names
    with os.scandir(drive) as entries:
        first = next(entries)
        os.unlink(first.path)
        rest = {entry.name for entry in entries}
    assert rest == names - {first.name}, "entries are neither lost nor shown twice while others go"


def test_file_locks_hold_on_this_machine(drive: Path) -> None:
    (drive / "lock").touch()
    held = subprocess.run(
        ["flock", "--nonblock", drive / "lock", "flock", "--nonblock", drive / "lock", "true"], check=False
    )
    assert held.returncode == 1


def test_a_folder_counts_its_subfolders(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    for name in ("a/x", "a/y", "b"):
        (desk.path / name).mkdir(parents=True)
    assert (desk.path / "a").stat().st_nlink == 4
    os.rename(desk.path / "a" / "x", desk.path / "b" / "x")
    (desk.path / "a" / "y").rmdir()
    assert ((desk.path / "a").stat().st_nlink, (desk.path / "b").stat().st_nlink) == (2, 3)
    desk.in_step(laptop)
    assert os.listdir(laptop.path / "b") == ["x"]
    assert (laptop.path / "b").stat().st_nlink == 3


def test_dots_lead_where_they_say(drive: Path) -> None:
    (drive / "a" / "b").mkdir(parents=True)
    listed = subprocess.run(
        ["ls", "-fi", "--", drive / "a" / "b"], capture_output=True, check=True, text=True
    ).stdout.split()
    inodes = dict(zip(listed[1::2], listed[::2], strict=True))
    assert inodes == {".": str((drive / "a" / "b").stat().st_ino), "..": str((drive / "a").stat().st_ino)}
