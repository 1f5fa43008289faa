"""Shared folders in the mounts of two users of one server."""

import errno
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import PATIENCE, eventually

pytestmark = pytest.mark.mounted

MIB = 1 << 20
REVOKED_SECONDS = 5.0 * PATIENCE


def random_file(path: Path, size: int) -> bytes:
    """Fills a file with what no other has."""
    data = os.urandom(size)
    path.write_bytes(data)
    return data


@pytest.fixture
def ann(device: Any) -> Any:
    """A device of the owner, with thesis/{intro.txt, tables/figures.bin}."""
    one = device("ann")
    (one.path / "thesis" / "tables").mkdir(parents=True)
    (one.path / "thesis" / "intro.txt").write_text("Call me Ishmael.")
    random_file(one.path / "thesis" / "tables" / "figures.bin", MIB)
    return one


@pytest.fixture
def bob(server: Any, device: Any) -> Any:
    """A device of another user."""
    server.add_user("bob")
    return device("bob", user="bob")


def share(owner: Any, guest: Any, role: str = "editor") -> Path:
    """Shares thesis with the guest, who accepts; where the guest has it."""
    owner.must("share", owner.path / "thesis", "--with", f"{guest.user}:{role}")
    guest.must("accept", "thesis")
    path: Path = guest.path / "thesis"
    assert eventually(path.is_dir), "an accepted folder does not come"
    return path


def test_both_see_what_the_other_does(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    assert (thesis / "tables" / "figures.bin").read_bytes() == (ann.path / "thesis/tables/figures.bin").read_bytes()
    (thesis / "notes.txt").write_text("by bob")
    ann.sees("thesis/notes.txt", "by bob")
    (ann.path / "thesis" / "notes.txt").write_text("by ann")
    bob.sees("thesis/notes.txt", "by ann")
    (thesis / "tables").rename(thesis / "charts")
    assert eventually((ann.path / "thesis" / "charts").is_dir)
    (ann.path / "thesis" / "intro.txt").unlink()
    bob.sees("thesis/intro.txt", None)


def test_a_shared_folder_is_not_moved_into_another_by_copying_and_removing(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    (ann.path / "other").mkdir()
    ann.must("share", ann.path / "other", "--with", "bob")
    bob.must("accept", "other")
    assert eventually((bob.path / "other").is_dir)
    (bob.path / "holds it").mkdir()
    thesis.rename(bob.path / "holds it" / "thesis")
    for source in ("holds it/thesis", "holds it"):
        moved = subprocess.run(
            ["mv", bob.path / source, bob.path / "other"], capture_output=True, text=True, check=False
        )
        assert (moved.returncode, "busy" in moved.stderr) == (1, True)
    assert os.listdir(ann.path / "other") == []
    assert sorted(os.listdir(ann.path / "thesis")) == ["intro.txt", "tables"]
    # What holds no shared folder is copied.
    (bob.path / "plain").mkdir()
    subprocess.run(["mv", bob.path / "plain", bob.path / "other"], check=True)
    assert eventually((ann.path / "other" / "plain").is_dir)


def test_each_moves_and_renames_the_folder_for_himself(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    (bob.path / "work").mkdir()
    thesis.rename(bob.path / "work" / "of ann")
    bob.wait()
    (ann.path / "thesis" / "intro.txt").write_text("changed")
    bob.sees("work/of ann/intro.txt", "changed")
    assert (ann.path / "thesis").is_dir()
    with pytest.raises(OSError) as refused:
        (bob.path / "work" / "of ann").rmdir()
    assert refused.value.errno == errno.EBUSY
    bob.remount()
    bob.sees("work/of ann/intro.txt", "changed")


def test_a_viewer_gets_erofs_at_once(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob, "viewer")
    assert (thesis / "intro.txt").read_text() == "Call me Ishmael."
    changes: list[Any] = [
        (thesis / "new").touch,
        (thesis / "new").mkdir,
        lambda: (thesis / "intro.txt").open("a"),
        (thesis / "intro.txt").unlink,
        lambda: (thesis / "intro.txt").rename(thesis / "other"),
        lambda: (thesis / "intro.txt").chmod(0o600),
        lambda: os.truncate(thesis / "intro.txt", 0),
        lambda: os.setxattr(thesis / "intro.txt", "user.a", b"b"),
        lambda: os.utime(thesis / "intro.txt"),
        lambda: (thesis / "link").symlink_to("intro.txt"),
    ]
    for number, change in enumerate(changes):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS, f"change {number}: {refused.value}"
    assert not (thesis / "intro.txt").stat().st_mode & 0o222

    ann.must("share", ann.path / "thesis", "--with", "bob:editor")
    assert eventually(lambda: bool((thesis / "intro.txt").stat().st_mode & 0o200), REVOKED_SECONDS)
    (thesis / "intro.txt").write_text("may I")
    ann.sees("thesis/intro.txt", "may I")


def test_what_is_moved_over_the_border_is_not_uploaded(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    data = random_file(ann.path / "own.bin", 8 * MIB)
    ann.wait()
    before = ann.stats()["sent_bytes"]
    with pytest.raises(OSError) as refused:
        (ann.path / "own.bin").rename(ann.path / "thesis" / "own.bin")
    assert refused.value.errno == errno.EXDEV
    subprocess.run(["mv", ann.path / "own.bin", ann.path / "thesis" / "own.bin"], check=True)
    subprocess.run(["mv", ann.path / "thesis" / "tables", ann.path / "tables"], check=True)
    ann.wait()
    sent = ann.stats()["sent_bytes"] - before
    assert sent < 200_000, f"{sent} bytes were sent for 9 MiB that the server has"
    assert eventually(lambda: (thesis / "own.bin").exists() and (thesis / "own.bin").read_bytes() == data)
    assert not (ann.path / "own.bin").exists()
    assert eventually(lambda: not (thesis / "tables").exists())
    assert (ann.path / "tables" / "figures.bin").stat().st_size == MIB


def test_who_is_removed_loses_sight_within_seconds_and_keeps_what_was_not_sent(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    assert len((thesis / "tables" / "figures.bin").read_bytes()) == MIB
    held = bob.status()["cache"]["bytes"]
    assert held >= MIB
    bob.must("pause")
    (thesis / "tables" / "mine.txt").write_text("never sent")
    (thesis / "intro.txt").write_text("edited, never sent")
    with (thesis / "tables" / "figures.bin").open("rb", buffering=0) as file:
        ann.must("unshare", ann.path / "thesis", "bob")
        begun = time.monotonic()
        assert eventually(lambda: not thesis.exists(), REVOKED_SECONDS)
        assert eventually(lambda: bob.status()["cache"]["bytes"] <= held - MIB // 2, REVOKED_SECONDS)
        assert time.monotonic() - begun < REVOKED_SECONDS

        def is_refused() -> bool:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                file.seek(0)
                file.read(100)
            except OSError as error:
                return error.errno in (errno.ESTALE, errno.EIO)
            return False

        assert eventually(is_refused, REVOKED_SECONDS)
    kept = bob.path / "thesis (unsent)"
    assert (kept / "tables" / "mine.txt").read_text() == "never sent"
    assert (kept / "intro.txt").read_text() == "edited, never sent"
    bob.must("resume")
    bob.wait()
    assert (ann.path / "thesis" / "intro.txt").read_text() == "Call me Ishmael."
    bob.remount()
    assert sorted(entry.name for entry in bob.path.iterdir()) == ["thesis (unsent)"]


def test_sharing_disturbs_no_program_and_loses_no_unsent_edit(ann: Any, bob: Any, device: Any) -> None:
    ann.wait()
    other = device("ann's other")
    other.sees("thesis/intro.txt", "Call me Ishmael.")
    other.must("pause")
    (other.path / "thesis" / "unsent.txt").write_text("made before it was shared")
    here = ann.path / "thesis" / "log"
    missing: list[str] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            if not (ann.path / "thesis" / "intro.txt").exists():
                missing.append("it was gone")

    watcher = threading.Thread(target=look)
    watcher.start()
    with here.open("w") as log:
        log.write("before\n")
        log.flush()
        share(ann, bob)
        log.write("after\n")
    is_over.set()
    watcher.join()
    assert not missing
    bob.sees("thesis/log", "before\nafter\n")
    other.must("resume")
    bob.sees("thesis/unsent.txt", "made before it was shared")
    ann.sees("thesis/unsent.txt", "made before it was shared")


def test_a_start_without_the_server_has_the_shared_folder(ann: Any, bob: Any, server: Any) -> None:
    thesis = share(ann, bob)
    assert (thesis / "intro.txt").read_text() == "Call me Ishmael."
    bob.wait()
    bob.kill()
    server.stop()
    bob.mount()
    assert (thesis / "intro.txt").read_text() == "Call me Ishmael."
    (thesis / "offline.txt").write_text("made offline")
    server.start()
    ann.sees("thesis/offline.txt", "made offline")


def test_killed_while_files_are_moved_over_the_border_nothing_is_lost(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    source = bob.path / "mine"
    source.mkdir()
    data = {f"{number:03}": random_file(source / f"{number:03}", 10_000) for number in range(150)}
    bob.wait()
    moving = subprocess.Popen(["mv", source, thesis / "mine"], stderr=subprocess.DEVNULL)
    assert eventually(lambda: (thesis / "mine").is_dir() and len(list((thesis / "mine").iterdir())) > 50)
    bob.kill()
    moving.wait()
    bob.mount()
    for name, content in data.items():
        found = [folder / name for folder in (source, thesis / "mine") if (folder / name).exists()]
        assert any(path.read_bytes() == content for path in found), f"{name} is lost"
    if source.exists():
        shutil.copytree(source, thesis / "mine", dirs_exist_ok=True)
        shutil.rmtree(source)
    bob.wait()
    there = ann.path / "thesis" / "mine"
    assert eventually(lambda: there.is_dir() and len(list(there.iterdir())) == len(data))
    assert {name: (there / name).read_bytes() for name in data} == data


def test_the_past_of_a_shared_folder_is_its_own(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    (thesis / "intro.txt").write_text("by bob")
    bob.wait()
    ann.sees("thesis/intro.txt", "by bob")
    first = ann.path / "thesis" / ".versions" / "rev-2"
    assert (first / "intro.txt").read_text() == "Call me Ishmael."
    assert (first / "tables" / "figures.bin").stat().st_size == MIB
    assert len(list((thesis / ".versions").iterdir())) >= 2
    assert (thesis / "tables" / ".versions" / "rev-2" / "figures.bin").stat().st_size == MIB
    told = ann.must("versions", ann.path / "thesis" / "intro.txt")
    assert "bob" in told

    ann.must("restore", ann.path / "thesis" / "intro.txt", "--at", "2")
    bob.sees("thesis/intro.txt", "Call me Ishmael.")
    assert "intro.txt" in bob.must("diff", thesis, "--from", "2", "--to", "3")
    (thesis / "tables" / "figures.bin").unlink()
    bob.wait()
    assert "thesis/tables/figures.bin" in ann.must("trash", "list")
    ann.must("trash", "restore", ann.path / "thesis" / "tables" / "figures.bin")
    assert eventually((thesis / "tables" / "figures.bin").exists)
    bob.must("rewind", thesis, "--to", "3")
    ann.sees("thesis/intro.txt", "by bob")
    bob.must("undo", "--in", thesis)
    ann.sees("thesis/intro.txt", "Call me Ishmael.")


def test_what_commands_say_of_a_shared_folder(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    spaces = bob.status()["spaces"]
    assert [(one["name"], one["path"], one["role"], one["owner"]) for one in spaces] == [
        ("bob", "", "owner", "bob"),
        ("thesis", "thesis", "editor", "ann"),
    ]
    assert "editor, of ann, at thesis" in bob.must("status")
    bob.must("pause")
    (thesis / "unsent").write_text("1")
    told = bob.ask("status-of", path="thesis/unsent")
    assert told["state"] == "pending"
    assert bob.status()["pending"]["count"] == 1
    bob.must("resume")
    bob.wait("thesis")
    bob.wait("thesis/unsent")
    ann.sees("thesis/unsent", "1")
    address = bob.must("link", "make", thesis / "intro.txt").strip()
    got = subprocess.run(["curl", "-fsSL", f"{address}?download"], capture_output=True, text=True, check=False)
    assert "Call me Ishmael." in got.stdout, got
    bob.must("pin", thesis)
    assert eventually(lambda: bob.status()["kept"]["missing_files"] == 0 and bob.status()["kept"]["files"] == 3)


def test_a_file_larger_than_the_cache_goes_into_a_shared_folder(ann: Any, server: Any, device: Any) -> None:
    server.add_user("bob")
    bob = device("bob", user="bob", cache_size_bytes=16 * MIB)
    thesis = share(ann, bob)
    data = os.urandom(40 * MIB)
    (thesis / "film").write_bytes(data)
    bob.wait()
    film = ann.path / "thesis" / "film"
    assert eventually(lambda: film.exists() and film.stat().st_size == len(data))
    assert film.read_bytes() == data


def test_a_folder_that_is_shared_no_more_is_whole_and_ordinary(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    own = ann.path / "thesis"
    (thesis / "by bob.txt").write_text("by bob")
    ann.sees("thesis/by bob.txt", "by bob")
    data = (own / "tables" / "figures.bin").read_bytes()
    with (own / "intro.txt").open() as file:
        ann.must("unshare", own, "--yes")
        assert eventually(lambda: len(ann.status()["spaces"]) == 1)
        assert file.read() == "Call me Ishmael."
    assert eventually(lambda: not thesis.exists())
    assert sorted(entry.name for entry in own.iterdir()) == ["by bob.txt", "intro.txt", "tables"]
    assert (own / "tables" / "figures.bin").read_bytes() == data
    (own / "tables" / "new.txt").write_text("new")
    (own / "tables").rename(ann.path / "charts")
    ann.wait()
    ann.remount()
    assert sorted(entry.name for entry in (ann.path / "charts").iterdir()) == ["figures.bin", "new.txt"]
    assert list(bob.path.iterdir()) == []
