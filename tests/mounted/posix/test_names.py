"""Names: their limits, links, renames, and what folders count."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.mounted.posix.calls import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    fails,
    renameat2,
)

pytestmark = pytest.mark.mounted

Act: TypeAlias = Callable[[Path], object]
LONGEST = "x" * 255
TOO_LONG = "x" * 256


@pytest.fixture
def drive(device: Any) -> Path:
    """An empty mounted folder."""
    return Path(device("desk").path)


MAKES_A_NAME: Final[dict[str, Act]] = {
    "create": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
    "mkdir": os.mkdir,
    "symlink": lambda path: os.symlink("x", path),
    "mkfifo": os.mkfifo,
    "link": lambda path: os.link(path.with_name("file"), path),
    "rename": lambda path: os.rename(path.with_name("file"), path),
}
USES_A_NAME: Final[dict[str, Act]] = {
    "stat": os.stat,
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "rename away": lambda path: os.rename(path, path.with_name("new")),
    "chmod": lambda path: os.chmod(path, 0o600),
    "truncate": lambda path: os.truncate(path, 0),
    "below": lambda path: os.stat(path / "below"),
}


def test_a_name_has_255_bytes(drive: Path) -> None:
    for what, act in (MAKES_A_NAME | USES_A_NAME).items():
        folder = drive / what
        folder.mkdir()
        (folder / "file").touch()
        with fails(errno.ENAMETOOLONG):
            act(folder / TOO_LONG)
        if what in MAKES_A_NAME:
            act(folder / LONGEST)
            assert LONGEST in os.listdir(folder), what


def test_a_path_has_4095_bytes(drive: Path) -> None:
    deep = drive
    while len(str(deep)) + 256 < 4095:
        deep = deep / LONGEST
    os.makedirs(deep)
    last = deep / ("y" * (4095 - len(str(deep)) - 1))
    if len(last.name) > 255:
        pytest.fail("the path was not made long enough")
    last.write_bytes(b"x")
    assert last.read_bytes() == b"x"
    with fails(errno.ENAMETOOLONG):
        os.stat(str(last) + "y")


def test_a_symlink_s_target_has_4095_bytes_and_forty_may_be_followed(drive: Path) -> None:
    os.symlink("t" * 4095, drive / "long")
    assert os.readlink(drive / "long") == "t" * 4095
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, drive / "longer")
    (drive / "0").write_bytes(b"x")
    for number in range(1, 42):
        os.symlink(str(number - 1), drive / str(number))
    assert (drive / "40").read_bytes() == b"x"
    with fails(errno.ELOOP):
        (drive / "41").read_bytes()
    os.symlink("one", drive / "other")
    os.symlink("other", drive / "one")
    for act in (os.stat, os.listdir, lambda path: os.truncate(path, 0), lambda path: os.chmod(path, 0o600)):
        with fails(errno.ELOOP):
            act(drive / "one")
        with fails(errno.ELOOP):
            act(drive / "one" / "below")
    with fails(errno.ELOOP):
        os.open(drive / "40", os.O_RDONLY | os.O_NOFOLLOW)


def test_links_are_counted(drive: Path) -> None:
    (drive / "file").write_bytes(b"x")
    (drive / "a" / "b").mkdir(parents=True)
    for number in range(2, 30):
        os.link(drive / "file", drive / "a" / str(number))
        assert (drive / "file").stat().st_nlink == number
    os.rename(drive / "a" / "2", drive / "a" / "3")
    assert (drive / "file").stat().st_nlink == 29, "both are one file: nothing is done"
    (drive / "other").touch()
    os.rename(drive / "other", drive / "a" / "3")
    assert (drive / "file").stat().st_nlink == 28
    os.symlink("file", drive / "link")
    os.link(drive / "link", drive / "link too", follow_symlinks=False)
    assert ((drive / "link").lstat().st_nlink, (drive / "file").stat().st_nlink) == (2, 28)
    os.mkfifo(drive / "pipe")
    os.link(drive / "pipe", drive / "pipe too")
    assert (drive / "pipe too").stat().st_nlink == 2
    assert (drive / "a").stat().st_nlink == 3
    with fails(errno.EPERM):
        os.link(drive / "a", drive / "c")
    renameat2(drive / "file", drive / "a" / "b", RENAME_EXCHANGE)
    assert ((drive / "a").stat().st_nlink, drive.stat().st_nlink) == (2, 4)


def test_rename_noreplace_exchange_and_what_is_not_offered(drive: Path) -> None:
    (drive / "file").write_bytes(b"file")
    (drive / "folder" / "in").mkdir(parents=True)
    for target in ("file", "folder", "folder/in"):
        with fails(errno.EEXIST):
            renameat2(drive / "file", drive / target, RENAME_NOREPLACE)
    renameat2(drive / "file", drive / "moved", RENAME_NOREPLACE)
    with fails(errno.ENOENT):
        renameat2(drive / "file", drive / "moved", RENAME_NOREPLACE)
    with fails(errno.ENOENT):
        renameat2(drive / "moved", drive / "nothing", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        renameat2(drive / "folder", drive / "folder" / "in", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        renameat2(drive / "moved", drive / "x", RENAME_EXCHANGE | RENAME_NOREPLACE)
    with fails(errno.EINVAL):
        renameat2(drive / "moved", drive / "x", RENAME_WHITEOUT)
    renameat2(drive / "moved", drive / "folder" / "in", RENAME_EXCHANGE)
    assert (drive / "folder" / "in").read_bytes() == b"file"
    assert (drive / "moved").is_dir()


def test_a_large_folder_is_renamed_by_one_change(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "large" / "sub").mkdir(parents=True)
    for number in range(1_000):
        (desk.path / "large" / str(number)).touch()
        (desk.path / "large" / "sub" / str(number)).touch()
    desk.in_step(laptop)
    rev = desk.status()["rev"]
    requests = desk.stats()["requests"]
    os.rename(desk.path / "large", desk.path / "renamed")
    assert desk.status()["pending"]["count"] <= 2, "the folder, and its parent's times"
    desk.in_step(laptop)
    assert desk.status()["rev"] == rev + 1
    assert desk.stats()["requests"] - requests <= 10
    assert len(os.listdir(laptop.path / "renamed" / "sub")) == 1_000


def test_rename_checks_both_sides(drive: Path) -> None:
    (drive / "file").touch()
    (drive / "a" / "b").mkdir(parents=True)
    (drive / "full").mkdir()
    (drive / "full" / "x").touch()
    os.symlink("a", drive / "link")
    with fails(errno.ENOTDIR):
        os.rename(drive / "a", drive / "file")
    with fails(errno.EISDIR):
        os.rename(drive / "file", drive / "a")
    with fails(errno.ENOTEMPTY):
        os.rename(drive / "a", drive / "full")
    with fails(errno.EINVAL):
        os.rename(drive / "a", drive / "a" / "b" / "c")
    with fails(errno.ENOTDIR):
        os.rename(drive / "file", drive / "file" / "x")
    with fails(errno.ENOTDIR):
        os.rename(drive / "a", drive / "link")
    with fails(errno.ENOTEMPTY):
        os.rename(drive / "a" / "b", drive / "a")
    os.rename(drive / "link", drive / "file")
    assert os.readlink(drive / "file") == "a", "the symlink itself is renamed"
    for path in (f"{drive}/a/.", f"{drive}/a/b/.."):
        with fails(errno.EBUSY):
            os.rename(path, drive / "x")


def test_special_files_are_what_they_were_made(drive: Path) -> None:
    os.mkfifo(drive / "pipe", 0o610)
    reader = os.open(drive / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(drive / "pipe", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)
    os.close(writer)
    assert (drive / "pipe").stat().st_size == 0
    if os.geteuid() == 0:
        os.mknod(drive / "null", 0o020666, os.makedev(1, 3))
        os.mknod(drive / "disk", 0o060600, os.makedev(259, 65_537))
        assert (drive / "null").stat().st_rdev == os.makedev(1, 3)
        assert (drive / "disk").stat().st_rdev == os.makedev(259, 65_537)
        with fails(errno.EACCES):
            os.open(drive / "null", os.O_RDONLY)
