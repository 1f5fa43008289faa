"""Changes from elsewhere raise file events here, as if a program here had made them; nothing of it goes back."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import differences, entries, until
from tests.mounted.watching import Watch

pytestmark = pytest.mark.mounted


@pytest.fixture
def watched(device: Any) -> Iterator[tuple[Any, Any, Watch]]:
    """A device that changes things in a folder, one that sees them, and who watches the folder there."""
    desk, laptop = device("desk"), device("laptop")
    here = desk.path / "folder"
    (here / "inner").mkdir(parents=True)
    (here / "changed").write_bytes(b"at first" * 1_000)
    (here / "moved").write_bytes(b"moved")
    (here / "removed").write_bytes(b"removed")
    (here / "script").write_text("#!/bin/sh\n")
    (here / "old").mkdir()
    desk.in_step(laptop)
    there = laptop.path / "folder"
    os.listdir(there)
    with Watch(there, there / "inner") as watch:
        yield desk, laptop, watch


def test_a_new_file_is_heard_of_as_made_and_closed(watched: Any) -> None:
    desk, laptop, watch = watched
    (desk.path / "folder/new").write_bytes(b"x" * 100_000)
    watch.hears("CREATE new", "CLOSE_WRITE new")
    assert (laptop.path / "folder/new").read_bytes() == b"x" * 100_000
    # Once made, once closed.
    assert watch.told().count("CREATE new") == 1
    assert not [event for event in watch.events if event.name != "new"]


def test_each_kind_of_thing_is_heard_of_when_it_is_made(watched: Any) -> None:
    desk, laptop, watch = watched
    (desk.path / "folder/made").mkdir()
    watch.hears("CREATE made")
    assert all(event.is_folder for event in watch.events if event.name == "made")
    (desk.path / "folder/link").symlink_to("changed")
    watch.hears("CREATE link")
    os.mkfifo(desk.path / "folder/fifo")
    watch.hears("CREATE fifo")
    os.link(desk.path / "folder/changed", desk.path / "folder/second name")
    watch.hears("CREATE second name")
    there = laptop.path / "folder"
    assert (there / "made").is_dir()
    assert os.readlink(there / "link") == "changed"
    assert (there / "fifo").is_fifo()
    assert (there / "second name").stat().st_nlink == 2


def test_removals_are_heard_of(watched: Any) -> None:
    desk, laptop, watch = watched
    with Watch(laptop.path / "folder/removed") as of_the_file:
        (desk.path / "folder/removed").unlink()
        watch.hears("DELETE removed")
        of_the_file.hears("DELETE_SELF")
    (desk.path / "folder/old").rmdir()
    watch.hears("DELETE old")
    assert all(event.is_folder for event in watch.events if event.name == "old")
    assert sorted(os.listdir(laptop.path / "folder")) == ["changed", "inner", "moved", "script"]


def test_a_move_is_heard_of_as_one(watched: Any) -> None:
    desk, laptop, watch = watched
    here, there = desk.path / "folder", laptop.path / "folder"
    for source, target in (("moved", "other"), ("other", "inner/moved"), ("old", "inner/new")):
        watch.forget()
        (here / source).rename(here / target)
        watch.hears(f"MOVED_FROM {source}", f"MOVED_TO {Path(target).name}")
        one, two = [event for event in watch.events if event.what.startswith("MOVED")]
        assert one.cookie == two.cookie != 0
        assert (one.where, two.where) == ("folder", (there / target).parent.name)
        assert not (there / source).exists()
        assert (there / target).exists()
        assert one.is_folder == (there / target).is_dir()


def test_who_stands_in_a_folder_that_is_moved_goes_with_it(watched: Any) -> None:
    desk, laptop, watch = watched
    before = os.getcwd()
    os.chdir(laptop.path / "folder/old")
    try:
        (desk.path / "folder/old").rename(desk.path / "folder/new")
        watch.hears("MOVED_FROM old", "MOVED_TO new")
        assert os.getcwd() == str(laptop.path / "folder/new")
    finally:
        os.chdir(before)


def test_new_content_is_heard_of(watched: Any) -> None:
    desk, laptop, watch = watched
    here, there = desk.path / "folder", laptop.path / "folder"
    for content in (b"longer than it was " * 1_000, b"short", b""):
        watch.forget()
        (here / "changed").write_bytes(content)
        watch.hears("MODIFY changed", "ATTRIB changed", "CLOSE_WRITE changed")
        assert (there / "changed").read_bytes() == content
        assert (there / "changed").stat().st_mtime_ns == (here / "changed").stat().st_mtime_ns
        assert not [event for event in watch.events if event.what in ("CREATE", "DELETE")]


def test_a_program_can_be_run_while_its_change_is_told(watched: Any) -> None:
    desk, laptop, watch = watched
    here, there = desk.path / "folder/script", laptop.path / "folder/script"
    here.chmod(0o755)
    watch.hears("ATTRIB script")
    # Of one size: one that grows while it runs is truncated here, too, and who runs it just then is refused.
    here.write_text("#!/bin/sh\nexit 99\n")
    for number in range(12):
        watch.forget()
        here.write_text(f"#!/bin/sh\nexit {number:02}\n")
        result = -1
        # Again and again, so that some are just then.
        while result != number:
            result = subprocess.run([there], check=False, timeout=120).returncode
        watch.hears("ATTRIB script")
        assert "CLOSE_WRITE script" not in watch.told()


def test_a_file_saved_by_rename_is_heard_of_as_changed(watched: Any) -> None:
    desk, laptop, watch = watched
    here, there = desk.path / "folder", laptop.path / "folder"
    with open(there / "changed", "rb") as reader:
        reader.read(10)
        watch.forget()
        # What is sent under its first name would move over the other.
        with desk.in_one_go():
            (here / "temporary").write_bytes(b"saved")
            (here / "temporary").rename(here / "changed")
        watch.hears("CLOSE_WRITE changed")
        assert (there / "changed").read_bytes() == b"saved"


def test_attributes_are_heard_of(watched: Any) -> None:
    desk, laptop, watch = watched
    here, there = desk.path / "folder", laptop.path / "folder"
    (here / "changed").chmod(0o640)
    watch.hears("ATTRIB changed")
    os.setxattr(here / "moved", "user.colour", b"green")
    watch.hears("ATTRIB moved")
    os.utime(here / "removed", ns=(1, 1_234_567_890_123_456_789))
    watch.hears("ATTRIB removed")
    (here / "old").chmod(0o700)
    watch.hears("ATTRIB old")
    assert (there / "removed").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (there / "changed").stat().st_mode & 0o777 == 0o640


def test_nothing_of_it_goes_back(watched: Any) -> None:
    desk, laptop, watch = watched
    here = desk.path / "folder"
    desk.wait()
    laptop.wait()
    start = desk.status()["rev"]
    for number in range(5):
        (here / "made").mkdir()
        (here / "made/file").write_bytes(b"1" * 10_000)
        (here / "changed").write_bytes(b"%d" % number * 1_000)
        (here / "made/file").rename(here / "file")
        (here / "file").rename(here / "inner/file")
        (here / "inner/file").unlink()
        (here / "made").rmdir()
        (here / "script").chmod(0o700 + number)
        desk.in_step(laptop)
    (here / "last").touch()
    watch.hears("CREATE last", "CLOSE_WRITE last")
    desk.in_step(laptop)
    # The kernel sends times of its own late, when it closes or forgets files.
    os.sync()
    laptop.wait()
    status = laptop.status()
    assert status["pending"]["count"] == 0
    changes = history(desk)
    assert status["rev"] == desk.status()["rev"] > start
    assert {one["device"] for one in changes} == {"desk"}


def history(device: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in (device.path, device.path / "folder", device.path / "folder/inner"):
        for child in path.iterdir():
            found += device.ask("versions", path=str(child.relative_to(device.path)))
    return [one for one in found if one["device"]]


def test_what_satchel_restore_brings_back_is_heard_of(watched: Any) -> None:
    _, laptop, watch = watched
    rev = laptop.status()["rev"]
    (laptop.path / "folder/removed").unlink()
    (laptop.path / "folder/changed").write_bytes(b"other")
    laptop.wait()
    watch.forget()
    laptop.must("restore", laptop.path / "folder", "--at", str(rev))
    watch.hears("CREATE removed", "CLOSE_WRITE removed")
    watch.hears("CLOSE_WRITE changed")
    assert (laptop.path / "folder/changed").read_bytes() == b"at first" * 1_000


def test_a_burst_is_heard_of_whole_and_once(watched: Any) -> None:
    desk, laptop, watch = watched
    names = [f"file-{number}" for number in range(800)]
    for name in names:
        (desk.path / "folder" / name).write_bytes(name.encode())
    watch.hears(*(f"CREATE {name}" for name in sorted(names)[-1:]))
    desk.in_step(laptop)
    (desk.path / "folder/last").touch()
    watch.hears("CLOSE_WRITE last")
    assert sorted(one for one in watch.told() if one.startswith("CREATE")) == sorted(
        f"CREATE {name}" for name in (*names, "last")
    )
    assert "OVERFLOW" not in watch.told()


def test_programs_that_do_the_same_at_the_same_time_lose_nothing(watched: Any) -> None:
    desk, laptop, watch = watched
    for number in range(40):
        for device in (desk, laptop):
            own = device.path / "folder" / f"{device.name}-{number}"
            own.write_text(f"{device.name} {number}")
            own.rename(device.path / "folder/inner" / own.name)
            common = device.path / "folder/common"
            for act in (lambda: common.write_text("x"), common.unlink, common.mkdir, common.rmdir):  # noqa: B023
                # The other device may have been faster.
                with suppress(OSError):
                    act()
    watch.read()
    laptop.wait()
    desk.in_step(laptop)
    laptop.in_step(desk)
    (desk.path / "folder/last").touch()
    watch.hears("CLOSE_WRITE last")
    # What came of it on one side may be on its way to the other.
    assert until(lambda: differences(entries(desk.path), entries(laptop.path)) == [])
    names = {f"{device.name}-{number}" for device in (desk, laptop) for number in range(40)}
    assert set(os.listdir(laptop.path / "folder/inner")) == names


def test_a_read_only_mount_tells_nothing_and_shows_everything(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop", mount=False).mount("-o", "ro")
    os.listdir(laptop.path)
    with Watch(laptop.path) as watch:
        (desk.path / "new").write_bytes(b"new")
        laptop.sees("new", "new")
        with (laptop.path / "new").open("rb", buffering=0) as reader:
            assert reader.read() == b"new"
            (desk.path / "new").write_bytes(b"newer")
            # The kernel must not go on believing its own size of a file that is open.
            assert until(lambda: os.pread(reader.fileno(), 100, 0) == b"newer")
        laptop.sees("new", "newer")
        assert watch.told() == []


def test_a_daemon_that_is_killed_while_it_repeats_changes_ends_and_mounts_again(device: Any) -> None:
    """A thread that waits in the kernel for an answer of its own process cannot be killed: none of it may do that."""
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "folder").mkdir()
    desk.in_step(laptop)
    for number in range(4):
        with Watch(laptop.path / "folder") as watch:
            os.listdir(laptop.path / "folder")
            for one in range(150):
                (desk.path / f"folder/{number} {one}").write_bytes(b"x" * one)
            watch.hears(f"CREATE {number} 20")
            laptop.kill()
        laptop.mount()
    desk.in_step(laptop)
    assert not differences(entries(desk.path), entries(laptop.path))
