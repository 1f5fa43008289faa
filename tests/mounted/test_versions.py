"""`.versions`: every older state of a folder by name, read-only, and in nobody's way who does not ask for it."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import differences, entries

pytestmark = pytest.mark.mounted


def now(device: Any) -> int:
    """A time at which the server has everything so far and nothing that follows, in ns."""
    device.wait()
    return time.time_ns()


def name(time_ns: int) -> str:
    """A time as a folder of `.versions` is named, exact to the ns."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H.%M.%S}.{fraction:09d}Z"


@pytest.fixture
def desk(device: Any) -> Any:
    """A device with a folder of a few things, all of it on the server."""
    made = device("desk")
    folder = made.path / "folder"
    (folder / "inner/deep").mkdir(parents=True)
    (folder / "text").write_text("first")
    (folder / "large").write_bytes(os.urandom(3_000_000))
    (folder / "inner/deep/file").write_text("deep")
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    (folder / "link").symlink_to("inner/deep/file")
    os.setxattr(folder / "text", "user.colour", b"green")
    made.wait()
    return made


def test_before_an_overwrite_a_delete_and_a_rename(desk: Any, tmp_path: Path) -> None:
    folder = desk.path / "folder"
    subprocess.run(["cp", "-a", folder, tmp_path / "first"], check=True)
    first = now(desk)
    (folder / "text").write_text("second, longer")
    second = now(desk)
    (folder / "text").unlink()
    shutil.rmtree(folder / "inner")
    third = now(desk)
    (folder / "large").rename(folder / "huge")
    fourth = now(desk)
    folder.rename(desk.path / "renamed")
    fifth = now(desk)

    past = desk.path / "renamed/.versions"
    assert (past / name(first) / "text").read_text() == "first"
    assert os.getxattr(past / name(first) / "text", "user.colour") == b"green"
    assert (past / name(second) / "text").read_text() == "second, longer"
    assert sorted(os.listdir(past / name(second))) == ["inner", "large", "link", "script", "text"]
    assert sorted(os.listdir(past / name(third))) == ["large", "link", "script"]
    assert sorted(os.listdir(past / name(fourth))) == ["huge", "link", "script"]
    assert sorted(os.listdir(past / name(fifth))) == ["huge", "link", "script"]
    # The whole folder as it was, deleted names included, with modes, times and symlinks.
    subprocess.run(["diff", "--recursive", "--no-dereference", tmp_path / "first", past / name(first)], check=True)
    assert differences(entries(tmp_path / "first"), entries(past / name(first))) == []
    # From above, under the names of then.
    above = desk.path / ".versions"
    assert (above / name(first) / "folder/text").read_text() == "first"
    assert os.listdir(above / name(fourth)) == ["folder"]
    assert os.listdir(above / name(fifth)) == ["renamed"]


def test_the_moments_are_listed_and_each_leads_to_its_state(desk: Any) -> None:
    folder, past = desk.path / "folder", desk.path / "folder/.versions"
    for number in range(5):
        (folder / "inner/deep/file").write_text(f"state {number}")
        desk.wait()
    listed = sorted(os.listdir(past))
    states = [(past / label / "inner/deep/file") for label in listed]
    contents = [path.read_text() for path in states if path.exists()]
    assert [one for one in contents if one.startswith("state")] == [f"state {number}" for number in range(5)]
    assert (past / listed[-1] / "inner/deep/file").read_text() == "state 4"
    # A change elsewhere is no moment of this folder.
    (desk.path / "elsewhere").touch()
    desk.wait()
    assert sorted(os.listdir(past)) == listed


def test_any_iso_form_of_a_time_will_do(desk: Any) -> None:
    folder = desk.path / "folder"
    before = now(desk)
    (folder / "text").write_text("second")
    desk.wait()
    seconds, fraction = divmod(before, 1_000_000_000)
    here, east = datetime.fromtimestamp(seconds, UTC), timezone(timedelta(hours=5, minutes=30))
    forms = [
        f"{here:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z",
        f"{here:%Y-%m-%dT%H:%M:%S},{fraction:09d}Z",
        f"{here:%Y-%m-%dT%H:%M:%S}.{fraction:09d}+00:00",
        f"{here:%Y-%m-%d %H:%M:%S}.{fraction:09d}",
        f"{here:%Y%m%dT%H%M%S}.{fraction:09d}Z",
        f"{here.astimezone(east):%Y-%m-%dT%H:%M:%S}.{fraction:09d}+05:30",
        f"{here.astimezone(east):%Y%m%dT%H%M%S}.{fraction:09d}+0530",
        name(before),
    ]
    for form in forms:
        assert (folder / ".versions" / form / "text").read_text() == "first", form
    # A date alone means the end of that day, also today's.
    today = datetime.now(UTC)
    for form in (f"{today:%Y-%m-%d}", f"{today:%Y%m%d}", f"{today.astimezone(east):%Y-%m-%d}+05:30"):
        assert (folder / ".versions" / form / "text").read_text() == "second", form
    later = here + timedelta(days=1)
    for form in (f"{later:%Y-%m-%d}", f"{later:%Y-%m-%dT%H:%M}", f"{later:%Y-%m-%dT%H.%M.%SZ}", f"{later:%Y%m%d}"):
        assert (folder / ".versions" / form / "text").read_text() == "second", form
    for form in ("yesterday", "2026-13-01", "2026-11-21T25:00:00Z", "1", f"{here.year - 30}-01-01"):
        assert not (folder / ".versions" / form).exists(), form


def test_nobody_walks_into_it(desk: Any) -> None:
    folder = desk.path / "folder"
    assert (folder / ".versions").is_dir()
    for command in (
        ["ls", "-laR"],
        ["find", "."],
        ["du", "--all"],
        ["tar", "--create", "--verbose", "--file=/dev/null", "."],
        ["cp", "-av", ".", desk.path / "copy"],
    ):
        told = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        assert "file" in told
        assert ".versions" not in told
    assert all(".versions" not in names for _, names, _ in os.walk(desk.path))

    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*args: str) -> str:
        command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@localhost", *args]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=environment).stdout

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    assert git("status", "--porcelain", "--ignored", "--untracked-files=all") == ""
    assert ".versions" not in git("ls-files")

    subprocess.run(["rm", "-rf", folder], check=True)
    assert not folder.exists()
    assert sorted(os.listdir(desk.path)) == ["copy"]
    desk.wait()


def test_writing_to_the_past_is_refused(desk: Any) -> None:
    folder = desk.path / "folder"
    moment = folder / ".versions" / name(now(desk))
    text, live = moment / "text", folder / "text"
    attempts: list[Callable[[], object]] = [
        lambda: os.open(text, os.O_WRONLY),
        lambda: os.open(text, os.O_RDWR),
        lambda: os.open(text, os.O_WRONLY | os.O_APPEND),
        lambda: os.open(text, os.O_RDONLY | os.O_TRUNC),
        lambda: os.open(moment / "new", os.O_WRONLY | os.O_CREAT),
        lambda: os.mknod(moment / "new"),
        (moment / "new").mkdir,
        lambda: (moment / "new").symlink_to("text"),
        lambda: os.link(text, moment / "new"),
        text.unlink,
        (moment / "inner/deep/file").unlink,
        (moment / "inner").rmdir,
        lambda: text.rename(moment / "new"),
        lambda: text.rename(folder / "new"),
        lambda: live.rename(moment / "new"),
        lambda: text.chmod(0o600),
        lambda: moment.chmod(0o700),
        lambda: os.chown(text, os.getuid(), os.getgid()),
        lambda: os.utime(text),
        lambda: os.truncate(text, 0),
        lambda: os.setxattr(text, "user.colour", b"green"),
        lambda: os.removexattr(text, "user.colour"),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(OSError, match=r".*") as refused:
            attempt()
        # Links and renames across the border are refused by the kernel as between two file systems, or by us.
        assert refused.value.errno == errno.EROFS, f"attempt {number}: {refused.value}"
    before = entries(folder)
    for attempt in ((folder / ".versions").rmdir, lambda: (folder / ".versions").rename(folder / "new")):
        with pytest.raises(OSError, match=r".*") as refused:
            attempt()
        assert refused.value.errno == errno.EROFS
    with pytest.raises(FileExistsError):
        (folder / ".versions").mkdir()
    assert entries(folder) == before
    assert desk.status()["pending"]["count"] == 0


def test_an_overwritten_file_and_a_deleted_one_are_restored(desk: Any) -> None:
    folder = desk.path / "folder"
    wanted, first = entries(folder), now(desk)
    (folder / "text").write_text("spoilt")
    (folder / "text").chmod(0o600)
    (folder / "large").unlink()
    (folder / "script").unlink()
    second = now(desk)
    for path in ("text", "large", "script"):
        desk.must("restore", folder / path, "--at", name(first))
    # The folder's own time is that of the restore: entries were made in it.
    found = entries(folder)
    assert differences(without_top(wanted), without_top(found)) == []
    # Undone again: what was before the restore is a version too.
    assert (folder / ".versions" / name(second) / "text").read_text() == "spoilt"
    desk.must("restore", folder / "text", "--at", name(second))
    assert (folder / "text").read_text() == "spoilt"


def without_top(found: dict[str, Any]) -> dict[str, Any]:
    return {path: entry for path, entry in found.items() if path != "."}


def test_a_whole_folder_is_restored_here_and_elsewhere(desk: Any, device: Any) -> None:
    folder, laptop = desk.path / "folder", device("laptop")
    wanted, first = entries(folder), now(desk)
    (folder / "text").write_text("spoilt")
    (folder / "script").chmod(0o644)
    (folder / "link").unlink()
    (folder / "link").symlink_to("text")
    shutil.rmtree(folder / "inner")
    (folder / "new").write_text("came since and stays")
    desk.wait()
    sent = desk.stats()["sent_bytes"]
    desk.must("restore", folder, "--at", name(first))
    assert (folder / "new").read_text() == "came since and stays"
    (folder / "new").unlink()
    assert differences(contents(wanted), contents(entries(folder))) == []
    desk.in_step(laptop)
    assert differences(entries(folder), entries(laptop.path / "folder")) == []
    # Content that the server has is not sent again.
    assert desk.stats()["sent_bytes"] - sent < 100_000

    shutil.rmtree(folder)
    desk.wait()
    desk.must("restore", folder, "--at", name(first))
    assert differences(contents(wanted), contents(entries(folder))) == []


def contents(found: dict[str, Any]) -> dict[str, Any]:
    """Entries without the times of folders, which move when entries are made in them."""
    is_folder = 0o040000
    return {
        path: (entry.mode, entry.size, entry.target, entry.digest, 0 if entry.mode & is_folder else entry.mtime_ns)
        for path, entry in found.items()
    }
