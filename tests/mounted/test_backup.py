"""Folders that are backed up: what changes there is in the drive, one way, whatever happens meanwhile."""

import errno
import fcntl
import hashlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusefs.control import Refused

pytestmark = pytest.mark.mounted

MIB = 1 << 20
COPY = "Backups/desk/papers"


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    return folder


def add(device: Any, folder: Path, **fields: Any) -> Any:
    """`satchel backup add`, without a process."""
    return device.ask("backup-add", folder=str(folder), **{"to": "", "name": "", "into": False, **fields})


def now(device: Any, folder: Path, *, yes: bool = False) -> Any:
    """`satchel backup now`."""
    return device.ask("backup-now", folder=str(folder), yes=yes, seconds=300)


def told(device: Any) -> Any:
    """How the one backup of a device stands."""
    (one,) = device.ask("backups")
    return one


def settled(device: Any, check: Callable[[Any], bool], seconds: float = 60.0) -> None:
    """Returns when the one backup of a device stands so."""
    pause, rounds = threading.Event(), int(seconds / 0.02)
    for _ in range(rounds):
        if check(told(device)):
            return
        pause.wait(0.02)
    pytest.fail(f"after {seconds} s: {told(device)}")


def tree(top: Path) -> dict[str, Any]:
    """All that a backup promises to keep of what is below a folder."""
    found: dict[str, Any] = {}
    for folder, names, files in os.walk(os.fsencode(top)):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            look = os.lstat(path)
            content: Any = None
            if stat.S_ISREG(look.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(look.st_mode):
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if key.startswith("user.")
            }
            key = os.fsdecode(path)[len(str(top)) + 1 :]
            found[key] = (look.st_mode, look.st_mtime_ns, xattrs, content)
    return found


def test_a_folder_is_kept_with_all_that_it_has_and_goes_on_after_a_restart(device: Any, papers: Path) -> None:
    desk, laptop = device("desk"), device("laptop")
    (papers / "sub/deep").mkdir(parents=True)
    (papers / "empty folder").mkdir(mode=0o700)
    (papers / "a").write_text("one")
    (papers / "a").chmod(0o4750)
    (papers / "large").write_bytes(os.urandom(MIB))
    (papers / "sub/nothing").touch()
    (papers / "sub/link").symlink_to("../nowhere")
    Path(os.fsdecode(os.fsencode(papers) + b"/sub/\xff\n")).write_text("no text has this name")
    os.setxattr(papers / "a", "user.who", b"ann")
    os.setxattr(papers / "sub", "user.what", b"folder")
    os.utime(papers / "a", ns=(1, 1_234_567_891))
    os.utime(papers / "sub/deep", ns=(1, 2_000_000_000_000_000_001))
    assert "is kept in Backups/desk/papers" in desk.must("backup", "add", papers)
    assert "up to date, 8 names" in desk.must("backup", "now", papers)
    assert tree(desk.path / COPY) == tree(papers)
    desk.in_step(laptop)
    assert tree(laptop.path / COPY) == tree(papers)
    assert desk.must("backup", "list") == f"{papers} -> {COPY}\n"
    desk.umount()
    (papers / "a").write_text("while nobody looked")
    (papers / "sub/deep").rmdir()
    desk.mount()
    now(desk, papers)
    assert tree(desk.path / COPY) == tree(papers)
    assert told(desk)["taken_files"] == 1, "what did not change is not read again"
    assert "Backup  " in desk.must("status")
    # What is stored stays when the backup ends.
    assert "not backed up any more" in desk.must("backup", "remove", papers)
    (papers / "a").write_text("nobody looks any more")
    assert desk.must("backup", "list") == "Nothing is backed up.\n"
    assert (desk.path / COPY / "a").read_text() == "while nobody looked"


def test_changes_are_taken_as_they_come(device: Any, papers: Path) -> None:
    desk = device("desk")
    add(desk, papers)
    now(desk, papers)
    (papers / "new").write_text("1")
    desk.sees(f"{COPY}/new", "1")
    (papers / "new").write_text("22")
    desk.sees(f"{COPY}/new", "22")
    (papers / "one/two").mkdir(parents=True)
    (papers / "one/two/three").write_text("3")
    desk.sees(f"{COPY}/one/two/three", "3")
    with (papers / "log").open("w") as log:
        log.write("never closed")
        log.flush()
        desk.sees(f"{COPY}/log", "never closed")
    (papers / "one/two/three").chmod(0o600)
    settled(desk, lambda _: stat.S_IMODE((desk.path / COPY / "one/two/three").stat().st_mode) == 0o600)
    (papers / "new").unlink()
    desk.sees(f"{COPY}/new", None)
    shutil.rmtree(papers / "one/two")
    settled(desk, lambda _: not (desk.path / COPY / "one/two").exists())
    settled(desk, lambda one: one["state"] == "watching" and not one["waiting"])
    assert tree(desk.path / COPY) == tree(papers)
    # What is gone from the folder is in the history.
    desk.wait()
    moments = sorted(os.listdir(desk.path / COPY / ".versions"))
    older = [desk.path / COPY / ".versions" / moment / "new" for moment in moments]
    assert "22" in [path.read_text() for path in older if path.exists()]


def test_of_a_large_file_only_what_changed_is_sent(device: Any, papers: Path) -> None:
    desk = device("desk")
    content = bytearray(random.Random(1).randbytes(16 * MIB))
    (papers / "disk.img").write_bytes(content)
    add(desk, papers)
    now(desk, papers)
    before = desk.stats()["sent_bytes"]
    content[7 * MIB : 7 * MIB + 4_096] = random.Random(2).randbytes(4_096)
    content += b"and a little more"
    with (papers / "disk.img").open("r+b") as file:
        file.seek(7 * MIB)
        file.write(content[7 * MIB : 7 * MIB + 4_096])
        file.seek(16 * MIB)
        file.write(content[16 * MIB :])
    now(desk, papers)
    assert desk.stats()["sent_bytes"] - before < 64 << 10
    assert hashlib.sha256((desk.path / COPY / "disk.img").read_bytes()).digest() == hashlib.sha256(content).digest()
    # Touched, not changed: nothing of its content is sent, nor does it become a version with other content.
    before = desk.stats()["sent_bytes"]
    os.utime(papers / "disk.img")
    now(desk, papers)
    assert desk.stats()["sent_bytes"] - before < 32 << 10
    assert tree(desk.path / COPY) == tree(papers)


def test_what_moves_is_moved_and_sends_no_content(device: Any, papers: Path) -> None:
    desk = device("desk")
    (papers / "old/inner").mkdir(parents=True)
    (papers / "old/inner/film").write_bytes(os.urandom(3 * MIB))
    (papers / "letter").write_bytes(os.urandom(100_000))
    add(desk, papers)
    now(desk, papers)
    nodes = {name: os.lstat(desk.path / COPY / name).st_ino for name in ("old/inner", "old/inner/film", "letter")}
    before = desk.stats()["sent_bytes"]
    (papers / "old").rename(papers / "new")
    (papers / "letter").rename(papers / "new/inner/letter")
    now(desk, papers)
    desk.umount()
    (papers / "new/inner").rename(papers / "inner")
    desk.mount()
    now(desk, papers)
    assert tree(desk.path / COPY) == tree(papers)
    assert {
        "old/inner": os.lstat(desk.path / COPY / "inner").st_ino,
        "old/inner/film": os.lstat(desk.path / COPY / "inner/film").st_ino,
        "letter": os.lstat(desk.path / COPY / "inner/letter").st_ino,
    } == nodes
    assert desk.stats()["sent_bytes"] - before < 32 << 10


def test_a_file_that_is_written_while_it_is_read_is_taken_when_it_rests(device: Any, papers: Path) -> None:
    desk = device("desk")
    add(desk, papers)
    end = threading.Event()

    def write() -> None:
        with (papers / "growing").open("wb", buffering=0) as file:
            while not end.is_set():
                file.write(os.urandom(64 << 10))
                end.wait(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        settled(desk, lambda _: (papers / "growing").stat().st_size > 8 * MIB)
        now(desk, papers)
    finally:
        end.set()
        writer.join()
    settled(desk, lambda one: one["state"] == "watching" and not one["waiting"])
    assert tree(desk.path / COPY) == tree(papers)


def test_what_cannot_be_read_is_named_and_taken_later(device: Any, papers: Path) -> None:
    desk = device("desk")
    (papers / "good").write_text("good")
    (papers / "leased").write_text("leased")
    os.mkfifo(papers / "pipe")
    with socket.socket(socket.AF_UNIX) as listening, (papers / "leased").open("w") as file:
        listening.bind(str(papers / "socket"))
        file.write("leased")
        file.flush()
        # As long as we have the lease, nobody else can open it.
        previous = signal.signal(signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        add(desk, papers)
        one = now(desk, papers)
        assert [(problem["path"], problem["sentence"]) for problem in one["problems"]] == [
            ("leased", os.strerror(errno.EWOULDBLOCK))
        ]
        assert desk.cli("backup", "now", papers).returncode == 1
        assert "leased" in desk.must("status")
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, previous)
    one = now(desk, papers)
    assert one["problems"] == []
    assert {skipped["path"]: skipped["sentence"] for skipped in one["skipped"]} == {
        "pipe": "it is a named pipe",
        "socket": "it is a socket",
    }
    assert sorted(os.listdir(desk.path / COPY)) == ["good", "leased"]


def test_ignored_names_are_not_taken(device: Any, papers: Path) -> None:
    desk = device("desk")
    (desk.path / ".satchelignore").write_text("*.o\n")
    desk.wait()
    (papers / ".satchelignore").write_text("/build/\n")
    (papers / "build").mkdir()
    for name in ("build/x", "a.o", "a.c", ".a.c.swp"):
        (papers / name).touch()
    add(desk, papers)
    now(desk, papers)
    assert sorted(os.listdir(desk.path / COPY)) == [".satchelignore", "a.c"]
    (papers / ".satchelignore").write_text("")
    settled(desk, lambda _: (desk.path / COPY / "build/x").exists())


def test_a_folder_that_was_moved_away_is_not_told_to_be_up_to_date(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    folder = tmp_path / "above" / "papers"
    folder.mkdir(parents=True)
    (folder / "thesis").write_text("years")
    add(desk, folder)
    now(desk, folder)
    for moved in (folder, folder.parent):
        moved.rename(tmp_path / "away")
        found = desk.cli("backup", "status")
        assert found.returncode == 1, found.stdout
        assert "paused" in found.stdout
        assert "is not there" in found.stdout
        assert "paused" in desk.must("status")
        assert (desk.path / COPY / "thesis").read_text() == "years"
        (tmp_path / "away").rename(moved)
        settled(desk, lambda one: one["state"] == "watching")


def test_a_folder_that_vanished_takes_nothing_away(device: Any, papers: Path, tmp_path: Path) -> None:
    desk = device("desk")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", papers], check=True)
    try:
        (papers / "thesis").write_text("years")
        (papers / "sub").mkdir()
        (papers / "sub/more").touch()
        add(desk, papers)
        now(desk, papers)
        subprocess.run(["umount", papers], check=True)
        with pytest.raises(Refused, match="another folder than it was"):
            now(desk, papers)
        assert told(desk)["state"] == "paused"
        assert (desk.path / COPY / "thesis").read_text() == "years"
        papers.rename(tmp_path / "away")
        with pytest.raises(Refused, match="is not there"):
            now(desk, papers, yes=True)
        (tmp_path / "away").rename(papers)
        assert "paused" in desk.must("status")
        # What is there now counts when somebody says so.
        (papers / "other").touch()
        now(desk, papers, yes=True)
        assert os.listdir(desk.path / COPY) == ["other"]
        # Emptied: it goes on by itself when something of it is back.
        desk.umount()
        (papers / "other").rename(tmp_path / "other")
        desk.mount()
        settled(desk, lambda one: one["state"] == "paused")
        assert "has nothing of what it had" in told(desk)["reason"]
        (tmp_path / "other").rename(papers / "other")
        settled(desk, lambda one: one["state"] == "watching")
        assert tree(desk.path / COPY) == tree(papers)
    finally:
        subprocess.run(["umount", papers], check=False, capture_output=True)


def test_the_folder_wins_over_an_edit_of_its_copy_which_stays_a_version(device: Any, papers: Path) -> None:
    desk, laptop = device("desk"), device("laptop")
    for name in ("a", "b", "gone"):
        (papers / name).write_text(f"first {name}")
    add(desk, papers)
    now(desk, papers)
    desk.in_step(laptop)
    (laptop.path / COPY / "a").write_text("edited elsewhere")
    (laptop.path / COPY / "foreign").write_text("put there")
    (laptop.path / COPY / "gone").unlink()
    (desk.path / COPY / "b").write_text("edited in the drive")
    laptop.in_step(desk)
    # Until the folder changes, the edit is what is there; what was removed comes back.
    now(desk, papers)
    desk.sees(f"{COPY}/a", "edited elsewhere")
    desk.sees(f"{COPY}/gone", "first gone")
    for name in ("a", "b"):
        (papers / name).write_text(f"second {name}")
    now(desk, papers)
    assert (desk.path / COPY / "a").read_text() == "second a"
    assert (desk.path / COPY / "b").read_text() == "second b"
    assert (desk.path / COPY / "foreign").read_text() == "put there"
    for name, edit in (("a", "edited elsewhere"), ("b", "edited in the drive")):
        moments = sorted(os.listdir(desk.path / COPY / ".versions"))
        texts = {
            path.read_text() for moment in moments if (path := desk.path / COPY / ".versions" / moment / name).exists()
        }
        assert edit in texts
    # A folder that goes leaves what others put into it.
    (papers / "a").unlink()
    now(desk, papers)
    assert sorted(os.listdir(desk.path / COPY)) == ["b", "foreign", "gone"]


def test_what_cannot_be_a_backup_is_refused(device: Any, papers: Path, tmp_path: Path) -> None:
    desk = device("desk")
    (papers / "sub").mkdir()
    (papers / "file").touch()
    refused = {
        str(desk.path): "lies in a drive",
        str(tmp_path): "holds the drive",
        "/": "as a whole",
        str(desk.home / "cache"): "overlap",
        str(desk.home): "overlap",
        str(papers / "file"): "no folder",
        str(papers / "none"): "cannot be opened",
    }
    for folder, why in refused.items():
        with pytest.raises(Refused, match=why):
            add(desk, Path(folder))
    (desk.path / "taken").mkdir()
    (desk.path / "taken/file").write_text("of somebody")
    for to, why in {
        "taken": "has something in it",
        "taken/file": "through a file",
        "../x": "no path",
        "x.crdownload": "ignored",
    }.items():
        with pytest.raises(Refused, match=why):
            add(desk, papers, to=to)
    link = tmp_path / "link"
    link.symlink_to(papers)
    desk.must("backup", "add", link, "--to", desk.path / "taken", "--into")
    for folder in (papers, papers / "sub"):
        with pytest.raises(Refused, match="backed up already, in taken") as refusal:
            add(desk, folder, to="elsewhere")
        # Each folder is named once.
        assert str(refusal.value).count(str(papers)) == (1 if folder == papers else 2)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Refused, match="overlaps"):
        add(desk, other, to="taken/deeper")
    now(desk, papers)
    assert (desk.path / "taken/file").read_bytes() == b""
    assert desk.cli("backup", "remove", other).returncode == 1


def test_a_backup_that_is_added_again_reads_nothing_that_is_stored(device: Any, papers: Path) -> None:
    desk = device("desk")
    (papers / "sub").mkdir()
    (papers / "sub/file").write_bytes(os.urandom(MIB))
    add(desk, papers)
    now(desk, papers)
    desk.ask("backup-remove", folder=str(papers))
    add(desk, papers, into=True)
    assert now(desk, papers)["taken_files"] == 0
    assert tree(desk.path / COPY) == tree(papers)


def test_a_mount_of_a_drive_in_the_folder_is_never_entered(device: Any, papers: Path) -> None:
    desk, laptop = device("desk"), device("laptop")
    (papers / "file").touch()
    (papers / "drive").mkdir()
    (papers / "way").symlink_to(desk.path)
    add(desk, papers)
    now(desk, papers)
    laptop.umount()
    laptop.path = papers / "drive"
    laptop.mount()
    try:
        one = now(desk, papers)
        assert one["skipped"] == [{"path": "drive", "sentence": "a drive is mounted there"}]
        assert sorted(os.listdir(desk.path / COPY)) == ["drive", "file", "way"]
        assert os.listdir(desk.path / COPY / "drive") == []
        desk.ask("backup-remove", folder=str(papers))
        with pytest.raises(Refused, match="holds the drive"):
            add(desk, papers)
    finally:
        laptop.umount()


def test_events_that_the_kernel_could_not_keep_are_made_up_for(device: Any, papers: Path) -> None:
    desk = device("desk")
    add(desk, papers)
    now(desk, papers)
    process = desk.pid
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    os.kill(process, signal.SIGSTOP)
    try:
        for number in range(queued // 4 + 1):
            name = papers / f"{number % 50}"
            name.touch()
            name.unlink()
        (papers / "folder").mkdir()
        (papers / "folder/missed").write_text("but found")
    finally:
        os.kill(process, signal.SIGCONT)
    desk.sees(f"{COPY}/folder/missed", "but found")
    (papers / "folder/missed").write_text("and watched")
    desk.sees(f"{COPY}/folder/missed", "and watched")


def test_a_kill_in_the_middle_leaves_nothing_wrong(device: Any, papers: Path) -> None:
    desk = device("desk")
    chosen = random.Random(5)
    for number in range(120):
        path = papers / f"{number % 7}/{number % 5}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chosen.randbytes(chosen.choice([0, 10, 5_000, 100_000, 300_000])))
    add(desk, papers)
    for number in range(2):
        settled(desk, lambda one, n=number: one["taken_files"] > 20 * n or one["state"] == "watching")  # type: ignore[misc]
        desk.kill()
        shutil.rmtree(papers / f"{number}")
        (papers / "5").rename(papers / f"5-{number}")
        (papers / f"5-{number}").rename(papers / "5")
        (papers / f"6/1/{13 if number else 41}").write_bytes(chosen.randbytes(300_000))
        desk.mount()
    now(desk, papers)
    assert tree(desk.path / COPY) == tree(papers)
    desk.remount()
    assert now(desk, papers)["taken_files"] == 0


def test_pause_and_the_server_away_hold_it_back_and_lose_nothing(device: Any, server: Any, papers: Path) -> None:
    desk = device("desk")
    (papers / "file").write_text("1")
    desk.ask("pause")
    add(desk, papers)
    with pytest.raises(Refused, match="paused"):
        now(desk, papers)
    desk.ask("resume")
    now(desk, papers)
    server.stop()
    (papers / "file").write_text("2")
    desk.sees(f"{COPY}/file", "2")
    with pytest.raises(Refused, match=r"All of it is taken, but not on the server yet. .*reach") as away:
        now(desk, papers)
    assert away.value.code == 6
    server.start()
    desk.wait()
    assert now(desk, papers)["state"] == "watching"


def test_undo_takes_back_what_a_person_did_not_what_a_backup_did(device: Any, papers: Path) -> None:
    desk = device("desk")
    (desk.path / "own").write_text("first")
    desk.wait()
    (desk.path / "own").write_text("second")
    desk.wait()
    (papers / "file").write_text("1")
    add(desk, papers)
    now(desk, papers)
    (papers / "file").write_text("22")
    now(desk, papers)
    assert "own" in desk.must("undo", "--dry-run")
    desk.must("undo")
    assert (desk.path / "own").read_text() == "first"
    assert (desk.path / COPY / "file").read_text() == "22"


def test_who_waits_for_a_backup_is_told_that_the_quota_has_no_room(device: Any, server: Any, papers: Path) -> None:
    server.command("user", "quota", server.user, "1M", "--data", str(server.data))
    desk = device("desk")
    (papers / "large").write_bytes(random.randbytes(2 * MIB))
    add(desk, papers)
    with pytest.raises(Refused, match=r"All of it is taken, but not on the server yet. .*large: .*quota") as full:
        now(desk, papers)
    assert full.value.code == 6


def test_what_changed_while_older_content_was_on_its_way_is_sent_too(device: Any, papers: Path) -> None:
    desk, laptop = device("desk"), device("laptop")
    (papers / "large").write_bytes(b"first" * 100_000)
    desk.ask("pause")
    add(desk, papers)
    settled(desk, lambda one: one["taken_files"] == 1)
    (papers / "large").write_bytes(b"second" * 100_000)
    with pytest.raises(Refused, match="paused"):
        now(desk, papers)
    desk.ask("resume")
    now(desk, papers)
    desk.in_step(laptop)
    found = (laptop.path / COPY / "large").read_bytes()
    # Compared by pytest, so many bytes would take it minutes.
    assert (len(found), found[:6]) == (600_000, b"second")


def test_content_of_backups_does_not_fill_the_cache(device: Any, papers: Path) -> None:
    desk = device("desk", cache_size_bytes=64 * MIB)
    (desk.path / "mine").write_bytes(os.urandom(10 * MIB))
    desk.wait()
    mine = desk.ask("cache")["used_bytes"]
    for number in range(6):
        (papers / f"{number}").write_bytes(os.urandom(10 * MIB))
    add(desk, papers)
    one = now(desk, papers)
    assert one["taken_bytes"] >= 60 * MIB
    # It is dropped soon after it was sent, but for a twentieth.
    most = mine + 64 * MIB // 20 + 2 * MIB
    settled(desk, lambda _: bool(desk.ask("cache")["used_bytes"] < most))
    assert int(os.getxattr(desk.path / "mine", "user.satchel.cached_bytes")) == 10 * MIB
    assert tree(desk.path / COPY) == tree(papers)
