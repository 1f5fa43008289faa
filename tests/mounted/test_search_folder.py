"""`.search/WORDS`: what the server finds, as links to the real files, in nobody's way who does not ask for it."""

import errno
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import eventually

pytestmark = pytest.mark.mounted

SECONDS = 120.0
"""The server's machine has other things to do."""


def shows(device: Any, words: str, wanted: list[str]) -> Path:
    """The folder of a search, as soon as these names are in it."""
    folder = Path(device.path, ".search", words)

    def is_there() -> bool:
        # Also the server's answer may take longer than is waited for it.
        with suppress(TimeoutError):
            return sorted(os.listdir(folder)) == sorted(wanted)
        return False

    assert eventually(is_there, SECONDS), os.listdir(folder)
    return folder


def refused(attempt: Callable[[], object]) -> int | None:
    """The errno of what must fail."""
    with pytest.raises(OSError, match=r".*") as error:
        attempt()
    return error.value.errno


def test_what_is_found_can_be_opened_and_written_to(device: Any) -> None:
    desk = device("desk")
    (desk.path / "work/inner").mkdir(parents=True)
    (desk.path / "work/inner/quarterly report.txt").write_text("of penguins")
    (desk.path / "notes.txt").write_text("what the quarterly report forgot")
    (desk.path / "other.txt").write_text("nothing")
    desk.wait()
    folder = shows(desk, "quarterly report", ["quarterly report.txt", "notes.txt"])
    # Relative, so that it leads there under any mount point.
    assert os.readlink(folder / "quarterly report.txt") == "../../work/inner/quarterly report.txt"
    assert (folder / "quarterly report.txt").read_text() == "of penguins"
    real = desk.path / "work/inner/quarterly report.txt"
    assert (folder / "quarterly report.txt").lstat().st_mtime_ns == real.stat().st_mtime_ns
    with (folder / "quarterly report.txt").open("a") as file:
        file.write(" and seals")
    assert real.read_text() == "of penguins and seals"
    # For commands, too, it is the file.
    desk.wait(".search/quarterly report/quarterly report.txt")
    assert desk.must("versions", folder / "quarterly report.txt") == desk.must("versions", real)
    # A link follows its file, whatever the server knows of that.
    real.rename(desk.path / "renamed.txt")
    assert (folder / "quarterly report.txt").read_text() == "of penguins and seals"
    (desk.path / "notes.txt").unlink()
    assert "notes.txt" not in os.listdir(folder)
    shows(desk, "type:text forgot name:other", [])
    shows(desk, "seals", ["renamed.txt"])


def test_files_of_one_name_are_told_apart_by_their_folders(device: Any) -> None:
    desk = device("desk")
    for name in ("north", "south", "south/deep/south"):
        (desk.path / name).mkdir(parents=True)
        (desk.path / name / "penguin.tar.gz").write_text(name)
    (desk.path / "penguin.tar.gz").write_text("top")
    odd = os.fsencode(desk.path) + b"/penguin \xff\n\"'*"
    Path(os.fsdecode(odd)).write_text("odd")
    desk.wait()
    names = [
        "penguin.tar.gz",
        "penguin.tar (north).gz",
        "penguin.tar (south).gz",
        "penguin.tar (south) (2).gz",
        os.fsdecode(b"penguin \xff\n\"'*"),
    ]
    folder = shows(desk, "penguin", names)
    assert (folder / "penguin.tar.gz").read_text() == "top"
    assert (folder / "penguin.tar (north).gz").read_text() == "north"
    both = {(folder / name).read_text() for name in ("penguin.tar (south).gz", "penguin.tar (south) (2).gz")}
    assert both == {"south", "south/deep/south"}
    assert Path(os.fsdecode(os.fsencode(folder) + b"/penguin \xff\n\"'*")).read_text() == "odd"
    # A folder is found as one.
    assert sorted(os.listdir(desk.path / ".search/north/north")) == ["penguin.tar.gz"]


def test_nobody_walks_into_it_and_file_managers_ask_nothing(device: Any) -> None:
    desk = device("desk")
    (desk.path / "file.txt").write_text("penguin")
    desk.wait()
    top = desk.path / ".search"
    shows(desk, "penguin", ["file.txt"])
    assert os.listdir(top) == ["penguin"]
    for command in (["ls", "-laR"], ["find", "."], ["du", "--all"], ["tar", "--create", "-vf", "/dev/null", "."]):
        told = subprocess.run(command, cwd=desk.path, check=True, capture_output=True, text=True).stdout
        assert "file" in told
        assert ".search" not in told
    for name in (".hidden", ".directory", ".Trash", ".Trash-0", ".search", ".git"):
        assert refused(lambda name=name: (top / name).stat()) == errno.ENOENT  # type: ignore[misc]
        assert refused(lambda name=name: (top / "penguin" / name).stat()) == errno.ENOENT  # type: ignore[misc]
    assert (desk.path / ".search/never listed").is_dir()
    assert os.listdir(top) == ["penguin"]
    # At the top only.
    (desk.path / "folder").mkdir()
    assert not (desk.path / "folder/.search").exists()


def test_nothing_can_be_made_or_removed_in_it(device: Any) -> None:
    desk = device("desk")
    (desk.path / "file.txt").write_text("penguin")
    (desk.path / "folder").mkdir()
    desk.wait()
    folder = shows(desk, "penguin", ["file.txt"])
    attempts: list[Callable[[], object]] = [
        lambda: os.open(folder / "new", os.O_WRONLY | os.O_CREAT),
        (folder / "new").mkdir,
        lambda: (folder / "new").symlink_to("file"),
        (folder / "file.txt").unlink,
        lambda: (folder / "file.txt").rename(folder / "new"),
        lambda: (desk.path / "file.txt").rename(folder / "new"),
        lambda: (desk.path / "folder").rename(desk.path / ".search"),
        lambda: os.utime(folder),
        lambda: folder.chmod(0o700),
        folder.rmdir,
        (desk.path / ".search").rmdir,
        lambda: (desk.path / ".search").rename(desk.path / "new"),
    ]
    for number, attempt in enumerate(attempts):
        assert refused(attempt) == errno.EROFS, f"attempt {number}"
    assert refused((desk.path / ".search").mkdir) == errno.EEXIST
    assert (desk.path / "file.txt").read_text() == "penguin"
    assert desk.status()["pending"]["count"] == 0


def test_each_finds_what_he_may_read_and_shared_folders_too(server: Any, device: Any) -> None:
    server.add_user("bob")
    ann, bob = device("ann"), device("bob", user="bob")
    (ann.path / "ours/inner").mkdir(parents=True)
    (ann.path / "ours/inner/shared penguin.txt").write_text("ours")
    (ann.path / "my penguin.txt").write_text("mine")
    (bob.path / "his penguin.txt").write_text("his")
    ann.wait()
    bob.wait()
    ann.must("share", ann.path / "ours", "--with", "bob:editor")
    bob.must("accept", "ours")
    shows(ann, "penguin", ["shared penguin.txt", "my penguin.txt"])
    folder = shows(bob, "penguin", ["shared penguin.txt", "his penguin.txt"])
    assert eventually((folder / "shared penguin.txt").exists, SECONDS)
    (bob.path / "ours").rename(bob.path / "from ann")
    assert os.readlink(folder / "shared penguin.txt") == "../../from ann/inner/shared penguin.txt"
    (folder / "shared penguin.txt").write_text("by bob")
    bob.wait()
    ann.sees("ours/inner/shared penguin.txt", "by bob")


def test_without_the_server_and_with_senseless_words_it_says_so(device: Any, server: Any) -> None:
    desk = device("desk", read_seconds=5)
    (desk.path / "file.txt").write_text("penguin")
    desk.wait()
    folder = shows(desk, "penguin", ["file.txt"])
    assert refused(lambda: os.listdir(desk.path / ".search/size:huge")) == errno.EINVAL
    assert refused(lambda: os.listdir(desk.path / ".search/penguin in:nowhere")) == errno.EINVAL
    assert refused(lambda: os.listdir(os.fsencode(desk.path) + b"/.search/\xff")) == errno.ENOENT
    server.stop()
    assert refused(lambda: os.listdir(desk.path / ".search/seal")) == errno.ETIMEDOUT
    # What was found before is there still, for programs that have it open by that name.
    assert (folder / "file.txt").read_text() == "penguin"
    server.options = ("--search", "off")
    server.start()
    assert eventually(lambda: refused(lambda: os.listdir(desk.path / ".search/seal")) == errno.EACCES)


def test_something_of_ones_own_under_that_name_comes_first(device: Any, server: Any) -> None:
    server.options = ("--webdav",)
    server.restart()
    desk, laptop = device("desk"), device("laptop")
    assert os.listdir(desk.path / ".search") == []
    body = b"my own"
    subprocess.run(
        ["curl", "--silent", "--fail", "--user", f"ann:{server.password}", "-T", "-", f"{server.url}/dav/.search"],
        stdout=subprocess.DEVNULL,
        input=body,
        check=True,
    )
    for one in (desk, laptop):
        assert eventually((one.path / ".search").is_file)
        assert (one.path / ".search").read_bytes() == body
    (desk.path / ".search").rename(desk.path / "renamed")
    assert eventually((desk.path / ".search").is_dir)
    desk.in_step(laptop)
    assert eventually((laptop.path / ".search").is_dir)
    assert (laptop.path / "renamed").read_bytes() == body
