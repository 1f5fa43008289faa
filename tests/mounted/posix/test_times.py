"""Times: which operation sets which, to the nanosecond, and how far they reach."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.mounted.posix.calls import RENAME_EXCHANGE, UTIME_NOW, UTIME_OMIT, renameat2, tick, utimensat

pytestmark = pytest.mark.mounted

Act: TypeAlias = Callable[[Path], object]
YEAR_NS = 31_557_600 * 10**9


@pytest.fixture
def drive(device: Any) -> Path:
    """An empty mounted folder."""
    return Path(device("desk").path)


def test_any_time_is_kept_to_the_nanosecond(device: Any) -> None:
    desk = device("desk")
    moments = {
        "1970": 1,
        "1969": -1,
        "1939": -30 * YEAR_NS - 1,
        "2038": 2**31 * 10**9 + 5,
        "2106": 2**32 * 10**9 + 6,
        "2219": 250 * YEAR_NS + 7,
    }
    for name, moment_ns in moments.items():
        (desk.path / f"file {name}").touch()
        (desk.path / f"folder {name}").mkdir()
        for kind in ("file", "folder"):
            os.utime(desk.path / f"{kind} {name}", ns=(moment_ns, moment_ns + 1))
    for _ in range(2):
        for name, moment_ns in moments.items():
            for kind in ("file", "folder"):
                found = (desk.path / f"{kind} {name}").stat()
                assert (found.st_atime_ns, found.st_mtime_ns) == (moment_ns, moment_ns + 1), (kind, name)
        desk.wait()
        desk.remount()


def test_now_and_leave_as_it_is(drive: Path) -> None:
    path = drive / "file"
    path.touch()
    utimensat(path, (5, 6), (7, 8))
    utimensat(path, (0, UTIME_OMIT), (9, 10))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (5 * 10**9 + 6, 9 * 10**9 + 10)
    before = path.stat().st_ctime_ns
    tick()
    utimensat(path, (0, UTIME_OMIT), (0, UTIME_OMIT))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (5 * 10**9 + 6, 9 * 10**9 + 10)
    utimensat(path, (0, UTIME_NOW), (0, UTIME_OMIT))
    found = path.stat()
    assert abs(found.st_atime - time.time()) < 60
    assert found.st_mtime_ns == 9 * 10**9 + 10
    assert found.st_ctime_ns > before
    os.symlink("file", drive / "link")
    utimensat(drive / "link", (1, 2), (3, 4))
    assert (drive / "link").lstat().st_mtime_ns == 3 * 10**9 + 4
    assert path.stat().st_mtime_ns == 9 * 10**9 + 10, "a symlink has times of its own"


def _made(drive: Path, name: str) -> Path:
    """A folder with a few things in it, and old times."""
    folder = drive / name
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    (folder / "empty").mkdir()
    (folder / "other").write_bytes(b"y")
    os.utime(folder, ns=(1, 1))
    return folder


MOVES_A_FOLDER_S_TIMES: Final[dict[str, Act]] = {
    "create": lambda folder: (folder / "new").touch(),
    "mkdir": lambda folder: (folder / "new").mkdir(),
    "symlink": lambda folder: os.symlink("x", folder / "new"),
    "mknod": lambda folder: os.mkfifo(folder / "new"),
    "link": lambda folder: os.link(folder / "file", folder / "new"),
    "unlink": lambda folder: os.unlink(folder / "file"),
    "rmdir": lambda folder: os.rmdir(folder / "empty"),
    "rename": lambda folder: os.rename(folder / "file", folder / "new"),
    "replace": lambda folder: os.rename(folder / "file", folder / "other"),
    "move out": lambda folder: os.rename(folder / "file", folder.parent / "gone"),
    "move in": lambda folder: os.rename(folder.parent / "gone", folder / "new"),
}


def test_a_folder_s_times_move_with_its_names(drive: Path) -> None:
    for what, act in MOVES_A_FOLDER_S_TIMES.items():
        folder = _made(drive, what)
        before = folder.stat()
        tick()
        act(folder)
        after = folder.stat()
        assert after.st_mtime_ns > before.st_ctime_ns, what
        assert after.st_ctime_ns > before.st_ctime_ns, what
        assert after.st_atime_ns == 1, what


def _refused(act: Callable[..., object], path: Path) -> None:
    with pytest.raises(OSError):
        act(path)


LEAVES_A_FOLDER_S_TIMES: Final[dict[str, Act]] = {
    "write": lambda folder: (folder / "file").write_bytes(b"more"),
    "chmod": lambda folder: os.chmod(folder / "file", 0o600),
    "list": os.listdir,
    "read": lambda folder: (folder / "file").read_bytes(),
    "failed mkdir": lambda folder: _refused(os.mkdir, folder / "empty"),
    "failed unlink": lambda folder: _refused(os.unlink, folder / "nothing"),
}


def test_a_folder_s_times_stay_with_anything_else(drive: Path) -> None:
    for what, act in LEAVES_A_FOLDER_S_TIMES.items():
        folder = _made(drive, what)
        before = folder.stat()
        tick()
        act(folder)
        after = folder.stat()
        assert (after.st_mtime_ns, after.st_ctime_ns) == (1, before.st_ctime_ns), what


CHANGES_CONTENT: Final[dict[str, Act]] = {
    "write": lambda path: path.write_bytes(b"more"),
    "cut": lambda path: os.truncate(path, 1),
    "extend": lambda path: os.truncate(path, 100),
}
CHANGES_ELSE: Final[dict[str, Act]] = {
    "chmod": lambda path: os.chmod(path, 0o600),
    "chown": lambda path: os.chown(path, os.getuid(), os.getgid()),
    "link": lambda path: os.link(path, path.with_name(f"{path.name} too")),
    "rename": lambda path: renameat2(path, path.with_name("other"), RENAME_EXCHANGE),
    "setxattr": lambda path: os.setxattr(path, "user.a", b"1"),
}


def test_a_file_s_times_tell_what_was_done(drive: Path) -> None:
    (drive / "other").touch()
    for what, act in (CHANGES_CONTENT | CHANGES_ELSE).items():
        path = drive / what
        path.write_bytes(b"content")
        os.utime(path, ns=(1, 1))
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            tick()
            act(path)
            after = os.fstat(file.fileno())
        assert after.st_ctime_ns > before.st_ctime_ns, what
        assert (after.st_mtime_ns > before.st_ctime_ns) == (what in CHANGES_CONTENT), what
        assert after.st_atime_ns == 1, what


def test_a_write_within_the_tick_of_the_last_keeps_its_time(device: Any) -> None:
    """The kernel's clock for times is coarse: a second write at the same tick moves no time, and none is told to us."""
    desk = device("desk")
    paths = [desk.path / f"log {number}" for number in range(100)]
    for path in paths:
        for line in ("checking for gcc\n", "checking for ranlib\n"):
            with path.open("a") as log:
                log.write(line)
    shown = {path: path.stat().st_mtime_ns for path in paths}
    desk.wait()
    desk.remount()
    assert {path: path.stat().st_mtime_ns for path in paths} == shown


def test_times_are_after_a_cold_mount_as_they_were_shown(device: Any) -> None:
    """Of open files the kernel shows times of its own: git and backups take another ctime for a change."""
    desk = device("desk")
    (desk.path / "other").touch()
    for what, act in (CHANGES_CONTENT | CHANGES_ELSE).items():
        path = desk.path / what
        path.write_bytes(b"content")
        tick()
        act(path)
    shown = _times(desk.path)
    desk.wait()
    desk.remount()
    assert _times(desk.path) == shown


def test_a_file_cut_to_the_size_that_it_has_keeps_its_times(device: Any) -> None:
    desk = device("desk")
    (desk.path / "file").write_bytes(b"content")
    tick()
    os.truncate(desk.path / "file", 7)
    shown = _times(desk.path)
    desk.wait()
    desk.remount()
    assert _times(desk.path) == shown


def _times(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((name, (folder / name).lstat()) for name in os.listdir(folder))
    return {name: (state.st_mtime_ns, state.st_ctime_ns) for name, state in found}
