"""A real tree: Debian source packages unpacked into the mount are the same on a device that never saw them."""

import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import debian
from tests.mounted.trees import differences, entries, until, walk

pytestmark = pytest.mark.mounted

PACKAGES = ("git", "dpkg")
LEAST_ENTRIES = 5_000
PAST_NS = 1_577_880_000_123_456_789
SEND_SECONDS = 180.0


@pytest.fixture
def tarballs(tmp_path: Path) -> list[Path]:
    """All tarballs of the source packages, in the order in which they are unpacked."""
    work = [tmp_path / f"apt-{name}" for name in PACKAGES]
    return [tarball for name, folder in zip(PACKAGES, work, strict=True) for tarball in _fetched(name, folder)]


def _fetched(name: str, work: Path) -> Sequence[Path]:
    work.mkdir()
    return debian.source_package(name, work)


def _unpack(tarballs: Sequence[Path], top: Path) -> None:
    """As a person would: each package into a folder of its own, and what Debian adds into the program's folder."""
    began_ns = time.time_ns()
    for tarball in tarballs:
        into = top
        if ".debian." in tarball.name:
            package = tarball.name.partition("_")[0]
            into = next(path for path in top.iterdir() if path.name.startswith(f"{package}-"))
        subprocess.run(["tar", "--extract", "--file", tarball, "--directory", into], check=True)
    for path in walk(top):
        # Folders that got entries after tar had set their times have the time of unpacking, which differs.
        if path.is_dir() and not path.is_symlink() and path.stat().st_mtime_ns >= began_ns:
            os.utime(path, ns=(PAST_NS, PAST_NS))


def _git(folder: Path, *args: str) -> str:
    command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@localhost", "-c", "gc.auto=0", *args]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, f"git {' '.join(args)}: {result.stderr}"
    return result.stdout


def test_a_source_tree_and_its_repository_are_the_same_on_a_second_device(
    device: Any, tarballs: list[Path], tmp_path: Path
) -> None:
    desk = device("desk")
    original, here = tmp_path / "original", desk.path / "tree"
    for top in (original, here):
        top.mkdir()
        _unpack(tarballs, top)
    wanted = entries(original)
    assert len(wanted) > LEAST_ENTRIES
    desk.wait("tree", timeout=SEND_SECONDS)

    laptop = device("laptop")
    there = laptop.path / "tree"
    # For diff, no FIFO equals another (dpkg's tests have some); they are among the entries below.
    subprocess.run(["diff", "--recursive", "--no-dereference", "--exclude=test-fifo*", original, there], check=True)
    assert differences(wanted, entries(there)) == []
    # Where it was made nothing changed by its being sent, nor after a new start.
    assert differences(wanted, entries(here)) == []
    desk.remount()
    assert differences(wanted, entries(here)) == []

    here, there = (next(top.glob("git-*")) for top in (here, there))
    _git(here, "init", "--quiet")
    _git(here, "add", "--all")
    _git(here, "commit", "--quiet", "--message", "everything")
    assert _git(here, "status", "--porcelain") == ""
    _git(here, "fsck", "--full", "--strict")
    desk.in_step(laptop, timeout=SEND_SECONDS)
    assert _git(there, "status", "--porcelain") == ""
    assert _git(there, "log", "--format=%s") == "everything\n"
    _git(there, "fsck", "--full", "--strict")


def test_times_of_folders_that_are_set_back_arrive(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    folder = desk.path / "folder"
    folder.mkdir()
    (folder / "a").write_text("a")
    desk.wait()
    os.utime(folder, ns=(PAST_NS, PAST_NS))
    desk.in_step(laptop)
    assert folder.stat().st_mtime_ns == PAST_NS
    assert (laptop.path / "folder").stat().st_mtime_ns == PAST_NS
    # A new entry moves them forward again, on both sides.
    (laptop.path / "folder" / "b").write_text("b")
    laptop.in_step(desk)
    moved = (laptop.path / "folder").stat().st_mtime_ns
    assert moved > PAST_NS
    assert folder.stat().st_mtime_ns == moved


def test_times_of_one_folder_moved_on_two_devices_end_the_same(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "folder").mkdir()
    desk.in_step(laptop)
    moves = random.Random(5)
    for number in range(60):
        one = moves.choice((desk, laptop))
        folder = one.path / "folder"
        match moves.randrange(3):
            case 0:
                os.utime(folder, ns=(PAST_NS + number, PAST_NS - number))
            case 1:
                (folder / f"{one.name}-{number}").touch()
            case 2:
                one.wait()
    desk.in_step(laptop)
    laptop.in_step(desk)
    here, there = (one.path / "folder" for one in (desk, laptop))

    def is_settled() -> bool:
        shown = [(found.st_mtime_ns, found.st_atime_ns) for found in (here.stat(), there.stat())]
        return shown[0] == shown[1] and not any(one.status()["pending"]["count"] for one in (desk, laptop))

    assert until(is_settled)
    assert sorted(os.listdir(here)) == sorted(os.listdir(there))
