"""Whose files are: by default the mounting user's, with `-o owners=real` whose they were made."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# ruff: noqa: S103 - permissive modes are what is tested
pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away and act as others"),
]

EACCES, EPERM = errno.EACCES, errno.EPERM
ANN, BOB, STAFF = 4711, 4712, 4800


class Shared(NamedTuple):
    """A drive that others may use."""

    path: Path

    def as_user(self, uid: int, gid: int, action: Callable[[], object], *, groups: tuple[int, ...] = ()) -> int:
        """What comes of it when this user does it at the top of the drive: 0, or the errno."""
        child = os.fork()
        if child == 0:
            code = 255
            try:
                os.chdir(self.path)  # the folder that it lies in is not for others
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                action()
                code = 0
            except OSError as error:
                code = error.errno or 255
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def shared(device: Any) -> Shared:
    """A drive that keeps owners, and in which everybody may write."""
    path = device("desk", mount=False).mount("-o", "owners=real,allow_other").path
    os.chmod(path, 0o777)
    return Shared(path)


def owner_of(path: Path) -> tuple[int, int]:
    """uid and gid, as shown."""
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_all_is_shown_as_the_mounting_user_s_and_owners_are_kept_beneath(device: Any) -> None:
    desk = device("desk")
    given = desk.path / "given"
    given.write_bytes(b"x")
    os.chmod(given, 0o640)
    os.chown(given, ANN, STAFF)
    os.symlink("given", desk.path / "link")
    os.chown(desk.path / "link", BOB, -1, follow_symlinks=False)
    assert owner_of(given) == owner_of(desk.path / "link") == (0, 0)
    assert given.stat().st_mode & 0o7777 == 0o640
    desk.wait()
    rev = desk.status()["rev"]
    os.chown(given, ANN, STAFF)
    desk.wait()
    assert desk.status()["rev"] == rev, "to give it to whom it belongs already changes nothing"
    desk.umount()
    desk.mount("-o", "owners=real")
    assert owner_of(given) == (ANN, STAFF)
    assert owner_of(desk.path / "link") == (BOB, 0)
    desk.umount()
    desk.mount("-o", f"uid={BOB},gid={STAFF}")
    assert owner_of(given) == owner_of(desk.path) == (BOB, STAFF)


def test_programs_that_copy_owners_do_not_fail(device: Any, tmp_path: Path) -> None:
    drive = device("desk").path
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    os.chown(source / "file", ANN, STAFF)
    archive = tmp_path / "archive.tar"
    for command in (
        ["cp", "-a", source, drive / "copy"],
        ["install", "-o", str(ANN), "-g", str(STAFF), source / "file", drive / "installed"],
        ["tar", "-C", source, "-cf", archive, "."],
        ["tar", "-C", drive, "--same-owner", "-xpf", archive],
        ["chown", "-R", f"{ANN}:{STAFF}", drive / "copy"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_real_owners_are_checked_by_the_kernel(shared: Shared) -> None:
    secret = Path("secret")

    def make() -> None:
        os.umask(0)
        os.close(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o640))

    def read() -> None:
        os.close(os.open(secret, os.O_RDONLY))

    def write() -> None:
        os.close(os.open(secret, os.O_WRONLY))

    assert shared.as_user(ANN, STAFF, make) == 0
    assert owner_of(shared.path / secret) == (ANN, STAFF)
    assert shared.as_user(ANN, STAFF, write) == 0
    assert shared.as_user(BOB, BOB, read) == EACCES
    assert shared.as_user(BOB, STAFF, read) == 0
    assert shared.as_user(BOB, BOB, read, groups=(STAFF,)) == 0
    assert shared.as_user(BOB, STAFF, write) == EACCES
    assert shared.as_user(BOB, STAFF, lambda: os.chmod(secret, 0o666)) == EPERM
    assert shared.as_user(BOB, STAFF, lambda: os.chown(secret, BOB, -1)) == EPERM
    assert shared.as_user(ANN, STAFF, lambda: os.chown(secret, ANN, BOB)) == EPERM, "a group that is not hers"
    assert shared.as_user(ANN, STAFF, lambda: os.chown(secret, -1, BOB), groups=(BOB,)) == 0
    assert owner_of(shared.path / secret) == (ANN, BOB)
    os.chmod(shared.path / secret, 0o060)
    assert shared.as_user(ANN, BOB, read) == EACCES, "the owner's bits count for the owner, though the group may"
    assert shared.as_user(BOB, STAFF, lambda: os.utime(secret, ns=(1, 1))) == EPERM
    assert shared.as_user(ANN, STAFF, lambda: os.utime(secret, ns=(1, 1))) == 0


def test_in_a_sticky_folder_only_owners_remove_and_rename(shared: Shared) -> None:
    os.chmod(shared.path, 0o1777)
    hers, his = Path("hers"), Path("his")

    def make() -> None:
        hers.write_bytes(b"x")

    assert shared.as_user(ANN, ANN, make) == 0
    assert shared.as_user(BOB, BOB, lambda: os.unlink(hers)) == EPERM
    assert shared.as_user(BOB, BOB, lambda: os.rename(hers, his)) == EPERM
    assert shared.as_user(BOB, BOB, lambda: his.write_bytes(b"y")) == 0
    assert shared.as_user(BOB, BOB, lambda: os.rename(his, hers)) == EPERM
    assert shared.as_user(ANN, ANN, lambda: os.rename(hers, "still hers")) == 0
    os.chmod(shared.path, 0o777)
    assert shared.as_user(BOB, BOB, lambda: os.unlink("still hers")) == 0
    os.chmod(shared.path, 0o755)
    assert shared.as_user(BOB, BOB, lambda: os.unlink(his)) == EACCES


def test_setuid_and_setgid_end_with_a_write_and_a_chown_of_others(shared: Shared) -> None:
    path, program = shared.path / "program", Path("program")
    path.write_bytes(b"x" * 100)

    def mode() -> int:
        return path.stat().st_mode & 0o7777

    def write() -> None:
        with open(program, "r+b") as file:
            file.write(b"y")

    def cut() -> None:
        os.truncate(program, 10)

    def empty() -> None:
        os.close(os.open(program, os.O_WRONLY | os.O_TRUNC))

    for act in (write, cut, empty):
        os.chmod(path, 0o6777)
        assert shared.as_user(BOB, BOB, act) == 0
        assert mode() == 0o777, act
    os.chown(path, ANN, STAFF)
    os.chmod(path, 0o6755)
    assert shared.as_user(ANN, STAFF, lambda: os.chown(program, ANN, STAFF)) == 0
    assert mode() == 0o755
    os.chmod(path, 0o6755)
    os.chown(path, BOB, BOB)
    assert mode() == 0o755, "root's chown too"
    os.chmod(path, 0o2644)
    os.chown(path, ANN, STAFF)
    assert mode() == 0o2644, "without group execution it is a lock, not a right"
    assert shared.as_user(ANN, BOB, lambda: os.chmod(program, 0o2755)) == 0
    assert mode() == 0o755, "whose group it is not cannot set it"


def test_what_is_made_in_a_setgid_folder_has_its_group(shared: Shared) -> None:
    team = shared.path / "team"
    team.mkdir()
    os.chown(team, 0, STAFF)
    os.chmod(team, 0o2777)

    def make() -> None:
        os.umask(0o022)
        Path("team/file").write_bytes(b"x")
        Path("team/folder").mkdir()
        os.symlink("x", "team/link")

    assert shared.as_user(ANN, ANN, make) == 0
    assert owner_of(team / "file") == owner_of(team / "folder") == owner_of(team / "link") == (ANN, STAFF)
    assert (team / "folder").stat().st_mode & 0o7777 == 0o2755
    assert (team / "file").stat().st_mode & 0o7777 == 0o644
