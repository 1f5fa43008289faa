"""What there is for the home is for shared folders too: the past, conflicts, quotas, pins, backups."""

import errno
import json
import mmap
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import eventually
from tests.mounted.test_devices import files_of
from tests.mounted.test_quota import filled
from tests.mounted.test_sharing import ann, bob, random_file, share
from tests.mounted.test_upkeep import done

__all__ = ["ann", "bob"]
pytestmark = pytest.mark.mounted

MIB = 1 << 20


def told(device: Any, *words: str | Path) -> Any:
    """What a command says to programs."""
    return json.loads(device.must(*words, "--json"))


def rev_of(device: Any) -> int:
    """The rev of the home, when all is sent."""
    device.wait()
    return int(device.status()["rev"])


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_rewind_and_undo_over_the_moment_of_sharing_leave_the_shared_folder_alone(ann: Any, bob: Any) -> None:
    (ann.path / "own.txt").write_text("before")
    before = rev_of(ann)
    thesis = share(ann, bob)
    (thesis / "intro.txt").write_text("by bob")
    ann.sees("thesis/intro.txt", "by bob")
    (ann.path / "own.txt").write_text("after")
    rev_of(ann)

    ann.must("undo")
    assert (ann.path / "own.txt").read_text() == "before"
    (ann.path / "own.txt").write_text("after")
    rev_of(ann)
    said = ann.cli("rewind", ann.path, "--to", str(before))
    assert said.returncode == 0, said.stderr
    assert (ann.path / "own.txt").read_text() == "before"
    for one in (ann, bob):
        one.sees("thesis/intro.txt", "by bob")
        assert (one.path / "thesis" / "tables" / "figures.bin").stat().st_size == MIB
    (thesis / "later.txt").write_text("still shared")
    ann.sees("thesis/later.txt", "still shared")
    # A folder that was shared is not what it was before that, by whatever way.
    assert ann.cli("rewind", ann.path / "thesis", "--to", "1").returncode in (0, 1)
    assert ann.cli("restore", ann.path / "thesis", "--at", str(before)).returncode in (0, 1)
    rev_of(ann)
    (thesis / "last.txt").write_text("still shared")
    ann.sees("thesis/last.txt", "still shared")
    assert len(ann.status()["spaces"]) == 2
    assert eventually(lambda: ann.status()["stuck"] == [])


def test_conflicts_purge_and_retention_are_of_the_shared_folder(ann: Any, bob: Any, server: Any) -> None:
    thesis = share(ann, bob)
    path, other = ann.path / "thesis" / "intro.txt", thesis / "intro.txt"
    assert other.read_text() == "Call me Ishmael."
    server.stop()
    path.write_text("of ann")
    other.write_text("of bob, later")
    server.start()
    for one in (ann, bob, ann):
        one.wait()
    ann.sees("thesis/intro.txt", "of bob, later")
    for one in (ann, bob):
        (found,) = told(one, "conflicts")
        assert (found["path"], found["lost"]["device"]) == ("thesis/intro.txt", "ann")
        assert (one.path / found["version"]).read_text() == "of ann"
        assert one.status()["conflicts"] == 1
    ann.must("resolve", path, "--keep", "mine")
    bob.sees("thesis/intro.txt", "of ann")
    assert eventually(lambda: told(bob, "conflicts") == [])

    refused = bob.cli("purge", other, "--yes")
    assert refused.returncode == 1, refused
    versions = told(bob, "versions", other)
    assert len(versions) > 2
    ann.must("purge", path, "--yes")
    assert len(told(ann, "versions", path)) == 1
    assert path.read_text() == other.read_text() == "of ann"
    # What these do not reach is named.
    assert "shared folders below it stays (thesis)" in ann.must("purge", ann.path, "--yes")
    assert "shared folders stays (thesis)" in ann.must("trash", "purge", "--all", "--yes")
    assert "stays" not in ann.must("purge", path, "--yes")

    ann.must("retention", "--in", ann.path / "thesis", "--all-days", "7")
    assert told(bob, "retention", "--in", thesis)["all_days"] == 7
    assert told(ann, "retention")["all_days"] == 30
    assert bob.cli("retention", "--in", thesis, "--all-days", "8").returncode == 1


def test_the_owners_full_quota_refuses_a_members_write(ann: Any, bob: Any, server: Any) -> None:
    ann.wait()
    server.command("user", "quota", "ann", f"{4 * MIB}", "--data", str(server.data))
    thesis = share(ann, bob)
    assert eventually(lambda: len(bob.status()["spaces"]) == 2)
    assert eventually(lambda: bob.status()["spaces"][1]["free_bytes"] < 4 * MIB), bob.status()["spaces"]
    # Of the member's own nothing is used up.
    (bob.path / "own").write_bytes(bytes(8 * MIB))
    assert 0 < filled(thesis / "large", 20 * MIB) < 4 * MIB
    (thesis / "large").unlink()
    (thesis / "small").write_text("there is room for this")
    ann.sees("thesis/small", "there is room for this")
    bob.wait()
    assert eventually(lambda: bob.status()["stuck"] == [])


def test_a_server_put_back_has_its_shares_and_hears_what_it_lost(
    ann: Any, bob: Any, server: Any, tmp_path: Path
) -> None:
    thesis = share(ann, bob)
    (thesis / "before.txt").write_text("before")
    ann.sees("thesis/before.txt", "before")
    done(server, "backup", tmp_path / "backup")
    (thesis / "after.txt").write_text("after")
    ann.sees("thesis/after.txt", "after")
    (ann.path / "thesis" / "before.txt").write_text("changed after")
    bob.sees("thesis/before.txt", "changed after")
    for one in (ann, bob):
        one.wait()
        one.expects("was put back from an older copy")
    server.stop()
    os.rename(server.data, tmp_path / "broken")
    done(server, "restore", tmp_path / "backup")
    server.start()
    for one in (ann, bob, ann):
        one.wait()
    for one in (ann, bob):
        one.sees("thesis/after.txt", "after")
        one.sees("thesis/before.txt", "changed after")
    # Who sent again what another device made was refused, and hears first that this did so.
    assert eventually(lambda: ann.status()["stuck"] == bob.status()["stuck"] == [])
    assert "WRONG" not in done(server, "doctor")


def test_a_server_put_back_to_before_a_folder_was_shared_loses_no_file(
    ann: Any, bob: Any, server: Any, tmp_path: Path
) -> None:
    ann.wait()
    done(server, "backup", tmp_path / "backup")
    thesis = share(ann, bob)
    (thesis / "after.txt").write_text("by bob")
    ann.sees("thesis/after.txt", "by bob")
    (ann.path / "thesis" / "intro.txt").write_text("changed after")
    bob.sees("thesis/intro.txt", "changed after")
    for one in (ann, bob):
        one.wait()
        one.expects("was put back from an older copy", "is not here any more", "were not sent are kept")
    server.stop()
    os.rename(server.data, tmp_path / "broken")
    done(server, "restore", tmp_path / "backup")
    server.start()
    assert eventually(lambda: len(ann.status()["spaces"]) == 1), ann.status()["spaces"]
    assert eventually(lambda: list(bob.path.iterdir()) == [])
    ann.sees("thesis/intro.txt", "changed after")
    ann.sees("thesis/after.txt", "by bob")
    ann.wait()
    laptop_names = names(ann.path / "thesis")
    assert laptop_names == ["after.txt", "intro.txt", "tables"]
    assert eventually(lambda: ann.status()["stuck"] == [])
    # It can be shared anew.
    ann.must("share", ann.path / "thesis", "--with", "bob")
    bob.must("accept", "thesis")
    bob.sees("thesis/after.txt", "by bob")


def test_gc_keeps_what_a_folder_needs_that_is_shared_no_more(ann: Any, bob: Any, server: Any, device: Any) -> None:
    thesis = share(ann, bob)
    by_bob = random_file(thesis / "by bob.bin", 2 * MIB)
    bob.wait()
    assert eventually((ann.path / "thesis" / "by bob.bin").exists)
    figures = (ann.path / "thesis" / "tables" / "figures.bin").read_bytes()
    ann.must("unshare", ann.path / "thesis", "--yes")
    assert eventually(lambda: len(ann.status()["spaces"]) == 1)
    ann.wait()
    for _ in range(3):
        done(server, "gc", "--grace", "0s")
    other = device("other")
    other.sees("thesis/by bob.bin", by_bob)
    other.sees("thesis/tables/figures.bin", figures)
    assert "WRONG" not in done(server, "doctor")
    scrubbed = json.loads(done(server, "scrub", "--json"))
    assert scrubbed["found_lost"] == 0, scrubbed


def test_a_device_that_is_wiped_keeps_nothing_of_shared_folders(ann: Any, bob: Any, device: Any) -> None:
    thesis = share(ann, bob)
    lost = device("lost", user="bob")
    assert eventually((lost.path / "thesis").is_dir)
    lost.sees("thesis/intro.txt", "Call me Ishmael.")
    assert len((lost.path / "thesis" / "tables" / "figures.bin").read_bytes()) == MIB
    bob.must("devices", "wipe", "--yes", "lost")
    assert eventually(lambda: files_of(lost.home) == []), files_of(lost.home)
    assert os.listdir(lost.path) == []
    (thesis / "intro.txt").write_text("others go on")
    ann.sees("thesis/intro.txt", "others go on")


def test_a_pinned_shared_folder_is_here_without_the_server(ann: Any, bob: Any, server: Any) -> None:
    thesis = share(ann, bob)
    bob.must("pin", thesis / "tables")
    bob.holds("thesis/tables/figures.bin", MIB)
    random_file(ann.path / "thesis" / "tables" / "more.bin", MIB)
    ann.wait()
    assert eventually((thesis / "tables" / "more.bin").exists)
    bob.holds("thesis/tables/more.bin", MIB)
    bob.must("cache", "trim")
    bob.remount()
    server.stop()
    for name in ("figures.bin", "more.bin"):
        assert (thesis / "tables" / name).read_bytes() == (ann.path / "thesis" / "tables" / name).read_bytes()
    server.start()
    ann.must("unshare", ann.path / "thesis", "bob")
    assert eventually(lambda: not thesis.exists())
    assert eventually(lambda: bob.status()["kept"]["files"] == 0), bob.status()["kept"]


def test_a_backup_into_a_shared_folder_is_seen_by_its_members(ann: Any, bob: Any, tmp_path: Path) -> None:
    thesis = share(ann, bob)
    papers = tmp_path / "papers"
    (papers / "sub").mkdir(parents=True)
    (papers / "sub" / "a").write_text("one")
    bob.must("backup", "add", papers, "--to", "thesis/of bob")
    bob.must("backup", "now", papers)
    bob.wait()
    ann.sees("thesis/of bob/sub/a", "one")
    (papers / "sub" / "a").write_text("two")
    ann.sees("thesis/of bob/sub/a", "two")
    # It goes on in his own drive.
    ann.must("unshare", ann.path / "thesis", "bob")
    assert eventually(lambda: len(bob.status()["spaces"]) == 1)
    (papers / "sub" / "a").write_text("three")
    bob.must("backup", "now", papers)
    assert (thesis / "of bob" / "sub" / "a").read_text() == "three", bob.ask("backups")
    assert len(bob.status()["spaces"]) == 1
    assert (ann.path / "thesis" / "of bob" / "sub" / "a").read_text() == "two"


def test_a_viewer_maps_a_file_to_read_it_alone(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob, "viewer")
    figures = (ann.path / "thesis" / "tables" / "figures.bin").read_bytes()
    with (thesis / "tables" / "figures.bin").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert bytes(mapped[:100_000]) == figures[:100_000]
            assert mapped[-1:] == figures[-1:]
        # A private one is his own memory.
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            mapped[:4] = b"mine"
        with pytest.raises(PermissionError):
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert (thesis / "tables" / "figures.bin").read_bytes() == figures


def test_what_an_editor_wrote_by_a_mapping_is_kept_when_he_becomes_a_viewer(ann: Any, bob: Any) -> None:
    thesis = share(ann, bob)
    bob.must("pause")
    with (thesis / "tables" / "figures.bin").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        old = mapped[4:8]
        mapped[:4] = b"mine"
        mapped.flush()
        os.fsync(file.fileno())
        ann.must("share", ann.path / "thesis", "--with", "bob:viewer")
        assert eventually(lambda: not (thesis / "intro.txt").stat().st_mode & 0o222)
        mapped[4:8] = b"more"
        with pytest.raises(OSError) as refused:
            mapped.flush()
        assert refused.value.errno == errno.EROFS
    bob.must("resume")
    assert bob.status()["pending"]["count"] >= 1
    assert "You may look at this shared folder" in bob.cli("status").stdout
    ann.must("share", ann.path / "thesis", "--with", "bob:editor")
    bob.wait()
    there = ann.path / "thesis" / "tables" / "figures.bin"
    assert eventually(lambda: there.read_bytes()[:4] == b"mine")
    assert there.read_bytes()[4:8] == old
    assert (thesis / "tables" / "figures.bin").read_bytes()[4:8] == old


def test_killed_while_its_folder_becomes_a_shared_one_a_device_goes_on(ann: Any, bob: Any) -> None:
    for number in range(600):
        (ann.path / "thesis" / f"{number:03}").write_text(str(number))
    ann.wait()
    (ann.path / "thesis" / "000").write_text("not sent")
    ann.must("share", ann.path / "thesis", "--with", "bob")
    os.kill(ann.pid, signal.SIGKILL)
    bob.must("accept", "thesis")
    ann.kill() if not ann.is_mounted else None
    ann.mount()
    bob.sees("thesis/000", "not sent")
    assert eventually(lambda: len(names(bob.path / "thesis")) == 602)
    assert len(names(ann.path / "thesis")) == 602
    assert eventually(lambda: ann.status()["stuck"] == [])
