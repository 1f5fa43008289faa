"""Changes made on one device show on another within a second of close(), and what did not change stays there.

That long on a machine that has nothing else to do: SATCHEL_TEST_PATIENCE=1 holds them to it.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import PATIENCE
from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

SECONDS = 1.0 * PATIENCE


@pytest.fixture
def pair(device: Any) -> tuple[Any, Any]:
    """Two devices in step, with a folder of a few files."""
    desk, laptop = device("desk"), device("laptop")
    folder = desk.path / "folder"
    folder.mkdir()
    for name in ("changed", "removed", "renamed", "untouched"):
        (folder / name).write_bytes(name.encode() * 20_000)
    desk.in_step(laptop)
    assert {one.name for one in (laptop.path / "folder").iterdir()} == {one.name for one in folder.iterdir()}
    return desk, laptop


def in_time(condition: Callable[[], bool], since: float) -> None:
    """Fails unless the condition comes true within SECONDS of `since`."""
    assert until(condition, SECONDS - (time.monotonic() - since)), f"not seen within {SECONDS} s"


def content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def test_each_kind_of_change_shows_within_a_second(pair: Any) -> None:
    desk, laptop = pair
    here, there = desk.path / "folder", laptop.path / "folder"
    read = {path.name: path.read_bytes() for path in there.iterdir()}
    assert len(read) == 4
    assert content(there / "new") is None

    (here / "new").write_bytes(b"made")
    since = time.monotonic()
    in_time(lambda: content(there / "new") == b"made", since)

    (here / "changed").write_bytes(b"other")
    since = time.monotonic()
    in_time(lambda: content(there / "changed") == b"other", since)

    with (here / "changed").open("ab") as file:
        file.write(b" and more" * 30_000)
    since = time.monotonic()
    in_time(lambda: content(there / "changed") == b"other" + b" and more" * 30_000, since)

    (here / "removed").unlink()
    since = time.monotonic()
    in_time(lambda: not (there / "removed").exists() and "removed" not in os.listdir(there), since)

    (here / "renamed").rename(here / "moved")
    since = time.monotonic()
    in_time(lambda: content(there / "moved") == read["renamed"] and not (there / "renamed").exists(), since)

    (here / "moved").chmod(0o640)
    since = time.monotonic()
    in_time(lambda: stat.S_IMODE((there / "moved").stat().st_mode) == 0o640, since)

    os.utime(here / "moved", ns=(1, 1_234_567_890_123_456_789))
    since = time.monotonic()
    in_time(lambda: (there / "moved").stat().st_mtime_ns == 1_234_567_890_123_456_789, since)

    (here / "link").symlink_to("moved")
    since = time.monotonic()
    in_time(lambda: content(there / "link") == read["renamed"], since)

    os.setxattr(here / "moved", "user.colour", b"green")
    since = time.monotonic()
    in_time(lambda: os.listxattr(there / "moved") == ["user.colour"], since)
    assert os.getxattr(there / "moved", "user.colour") == b"green"

    here.rename(desk.path / "other folder")
    since = time.monotonic()
    in_time(lambda: content(laptop.path / "other folder/new") == b"made" and not there.exists(), since)


def test_a_name_that_was_missing_shows_when_it_is_made(pair: Any) -> None:
    desk, laptop = pair
    there = laptop.path / "folder"
    # The kernel remembers that these are not there, and must be told each time.
    for name in ("file", "folder", "link"):
        assert not os.path.lexists(there / name)
    (desk.path / "folder/file").touch()
    (desk.path / "folder/folder").mkdir()
    (desk.path / "folder/link").symlink_to("nowhere")
    since = time.monotonic()
    in_time(lambda: all(os.path.lexists(there / name) for name in ("file", "folder", "link")), since)
    (desk.path / "folder/file").unlink()
    since = time.monotonic()
    in_time(lambda: not (there / "file").exists(), since)
    (desk.path / "folder/file").write_bytes(b"again")
    since = time.monotonic()
    in_time(lambda: content(there / "file") == b"again", since)


def test_who_stands_in_a_folder_stays_in_it(pair: Any) -> None:
    desk, laptop = pair
    (desk.path / "folder/inner").mkdir()
    since = time.monotonic()
    in_time((laptop.path / "folder/inner").is_dir, since)
    with inside(laptop.path / "folder/inner"):
        (desk.path / "folder/inner/a").write_bytes(b"a")
        (desk.path / "folder/inner").chmod(0o700)
        since = time.monotonic()
        in_time(lambda: content(Path("a")) == b"a" and stat.S_IMODE(Path().stat().st_mode) == 0o700, since)
        assert Path.cwd() == laptop.path / "folder/inner"


def test_who_stands_in_a_folder_of_a_new_device_stays_in_it(device: Any) -> None:
    desk = device("desk")
    for number in range(40):
        (desk.path / f"folder-{number}/inner").mkdir(parents=True)
        (desk.path / f"folder-{number}/inner/file").write_text("x")
    desk.wait()
    laptop = device("laptop")
    # While all of it is being listed in the background.
    for number in range(40):
        with inside(laptop.path / f"folder-{number}/inner"):
            os.listdir()
            assert Path.cwd() == laptop.path / f"folder-{number}/inner"
    with inside(laptop.path / "folder-0/inner"):
        assert until(lambda: laptop.status()["unlisted_folders"] == 0)
        assert Path.cwd() == laptop.path / "folder-0/inner"


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_what_did_not_change_is_not_read_again(pair: Any) -> None:
    desk, laptop = pair
    untouched = laptop.path / "folder/untouched"
    known = untouched.read_bytes()
    before = laptop.stats()
    assert untouched.read_bytes() == known
    # Not even the daemon was asked: the kernel had it.
    assert reads(laptop) == (before["cache_hits"], before["cache_misses"])

    (desk.path / "folder/changed").write_bytes(b"other")
    (desk.path / "folder/new").write_bytes(b"made")
    (desk.path / "folder/removed").unlink()
    since = time.monotonic()
    in_time(lambda: content(laptop.path / "folder/new") == b"made", since)
    in_time(lambda: content(laptop.path / "folder/changed") == b"other", since)
    after = laptop.stats()
    # What came is news about three nodes, not content again.
    assert after["received_bytes"] - before["received_bytes"] < 20_000
    counted = reads(laptop)
    assert untouched.read_bytes() == known
    assert reads(laptop) == counted


def reads(device: Any) -> tuple[int, int]:
    stats = device.stats()
    return stats["cache_hits"], stats["cache_misses"]


@pytest.mark.parametrize("size", [10, 5_000_000, 0])
def test_a_file_open_for_reading_shows_the_new_content(pair: Any, size: int) -> None:
    desk, laptop = pair
    here, there = desk.path / "folder/changed", laptop.path / "folder/changed"
    new = os.urandom(size)
    with there.open("rb", buffering=0) as reader:
        assert reader.read() == b"changed" * 20_000
        here.write_bytes(new)
        since = time.monotonic()
        in_time(lambda: os.fstat(reader.fileno()).st_size == size, since)
        assert os.pread(reader.fileno(), size + 1, 0) == new
        with here.open("r+b") as file:
            file.truncate(size // 2)
            file.seek(0, os.SEEK_END)
            file.write(b"end")
        since = time.monotonic()
        wanted = new[: size // 2] + b"end"
        in_time(lambda: os.pread(reader.fileno(), len(wanted) + 1, 0) == wanted, since)
        assert os.fstat(reader.fileno()).st_size == len(wanted)


def test_many_changes_in_a_row_end_as_the_last(pair: Any) -> None:
    desk, laptop = pair
    for number in range(50):
        (desk.path / "folder/changed").write_text(f"state {number}")
        (desk.path / f"folder/file-{number}").write_text(f"{number}")
    since = time.monotonic()
    there = laptop.path / "folder"
    in_time(lambda: content(there / "changed") == b"state 49" and content(there / "file-49") == b"49", since)
    assert [content(there / f"file-{number}") for number in range(50)] == [b"%d" % number for number in range(50)]


def test_a_new_file_is_seen_elsewhere_when_it_is_closed_not_before(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    with open(desk.path / "film", "wb") as file:
        file.write(b"first half ")
        (desk.path / "later").write_bytes(b"made after it")
        laptop.sees("later", b"made after it")
        assert not (laptop.path / "film").exists(), "half a file is no file"
        file.write(b"second half")
    laptop.sees("film", b"first half second half")
    with open(desk.path / "lock", "wb"):
        desk.wait()
        laptop.sees("lock", b"")


def test_wait_takes_what_the_kernel_holds_back_of_open_files(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "log").write_bytes(b"")
    with open(desk.path / "log", "wb", buffering=0) as file:
        file.writelines(b"line %03d\n" % number for number in range(200))
        desk.wait("log")
        laptop.sees("log", b"".join(b"line %03d\n" % number for number in range(200)))
