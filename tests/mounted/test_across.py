"""The past of a folder over the moments at which it is shared, and shared no more."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fusefs import moments
from tests.mounted.conftest import eventually
from tests.mounted.test_sharing import MIB, ann, bob, share

__all__ = ["ann", "bob"]
pytestmark = pytest.mark.mounted


def versions(device: Any, path: Path) -> list[dict[str, Any]]:
    return list(json.loads(device.must("versions", path, "--json")))


def saved_by_rename(path: Path, text: str) -> None:
    """As editors save: another file gets the name."""
    new = path.with_name("new~")
    new.write_text(text)
    new.rename(path)


def unshared(owner: Any, folder: Path) -> None:
    owner.must("unshare", folder, "--yes")
    assert eventually(lambda: len(owner.status()["spaces"]) == 1)


def test_what_was_removed_before_its_folder_was_shared_comes_back_into_it(ann: Any, bob: Any) -> None:
    own = ann.path / "thesis"
    (own / "old" / "deep").mkdir(parents=True)
    (own / "old" / "deep" / "notes").write_text("notes")
    (own / "gone").write_text("gone")
    (own / "tables" / "lost").write_text("lost")
    ann.wait()
    with ann.in_one_go():
        (own / "gone").unlink()
        (own / "tables" / "lost").unlink()
        shutil.rmtree(own / "old")
    ann.wait()
    thesis = share(ann, bob)
    own.rename(ann.path / "book")
    (ann.path / "book" / "gone").write_text("another")
    bob_sees = thesis / "gone"
    assert eventually(bob_sees.exists)
    said = ann.must("trash", "restore", "thesis/gone", "thesis/old", "thesis/tables/lost")
    assert "5 came back" in said
    assert "satchel undo --in" in said
    assert eventually((thesis / "old" / "deep" / "notes").exists)
    assert (thesis / "old" / "deep" / "notes").read_text() == "notes"
    assert (thesis / "tables" / "lost").read_text() == "lost"
    # What has the name now stays.
    (beside,) = [path for path in thesis.iterdir() if path.name.startswith("gone (")]
    assert (bob_sees.read_text(), beside.read_text()) == ("another", "gone")
    assert bob.cli("trash", "restore", thesis / "tables" / "never").returncode == 1


def test_versions_reach_over_sharing_and_its_end(ann: Any, bob: Any) -> None:
    own = ann.path / "thesis"
    ann.wait()
    (own / "intro.txt").write_text("second, at home")
    (own / "draft").write_text("draft, at home")
    ann.wait()
    thesis = share(ann, bob)
    assert (thesis / "draft").read_text() == "draft, at home"
    saved_by_rename(thesis / "draft", "draft, shared")
    (thesis / "intro.txt").write_text("third, by bob")
    ann.sees("thesis/intro.txt", "third, by bob")
    ann.sees("thesis/draft", "draft, shared")
    # Shared: what it was before is in the home of its owner, and in nobody else's.
    found = versions(ann, own / "intro.txt")
    assert [(one["kind"], one["size_bytes"]) for one in found] == [("file", size) for size in (13, 15, 15, 16)]
    assert [bool(one["space"]) for one in found] == [False, False, True, True]
    assert not any(one["space"] for one in versions(bob, thesis / "intro.txt"))
    before = versions(ann, own / "draft")[-1]
    assert (before["size_bytes"], bool(before["space"])) == (14, True)
    ann.must("restore", own / "draft", "--at", before["at"])
    bob.sees("thesis/draft", "draft, at home")
    ann.must("restore", own / "intro.txt", "--at", found[-1]["at"], "--copy")
    (copy,) = [path for path in own.iterdir() if path.name.startswith("intro (")]
    assert copy.read_text() == "Call me Ishmael."
    assert bob.cli("restore", thesis / "draft", "--at", before["at"]).returncode == 1
    ann.wait()

    unshared(ann, own)
    assert eventually(lambda: not thesis.exists())
    (own / "intro.txt").write_text("fourth, at home again")
    ann.wait()
    found = versions(ann, own / "intro.txt")
    assert [one["size_bytes"] for one in found] == [21, 13, 13, 15, 15, 16]
    assert [bool(one["space"]) for one in found] == [False, False, True, True, False, False]
    assert " shared1:" in ann.must("versions", own / "intro.txt")
    by_bob = next(one for one in found if one["user"] == "bob")
    # Nothing of it is on this machine: the server has it.
    ann.umount()
    ann.forget_cache()
    ann.mount()
    ann.must("restore", own / "intro.txt", "--at", by_bob["at"])
    assert (own / "intro.txt").read_text() == "third, by bob"
    ann.wait()
    ann.must("purge", own / "intro.txt", "--yes")
    assert [one["kind"] for one in versions(ann, own / "intro.txt") if one["kind"]] == ["file"]
    shared = [one for one in versions(ann, own) if one["space"]]
    assert len(shared) > 3
    (own / "draft").unlink()
    ann.wait()
    ann.must("restore", own, "--at", shared[0]["at"])
    assert (own / "draft").read_text() == "draft, at home"
    refused = ann.cli("restore", own / "intro.txt", "--at", "shared2:9")
    assert (refused.returncode, "has no version shared2:9" in refused.stderr) == (1, True)
    # Of a folder what lies elsewhere is not forgotten, and that is said.
    assert "while it was, stays: satchel purge FILE" in ann.must("purge", own, "--yes")


def test_what_is_copied_from_the_past_of_the_home_has_what_was_shared_in_it(ann: Any, bob: Any, tmp_path: Path) -> None:
    thesis = share(ann, bob)
    founded = ann.status()["rev"]
    (thesis / "intro.txt").write_text("by bob")
    bob.wait()
    ann.sees("thesis/intro.txt", "by bob")
    # The home is at the same rev: what the folder was is a matter of the time.
    newest = versions(ann, ann.path / "thesis" / "intro.txt")[0]
    then = moments.name(newest["time_ns"], milliseconds=True)
    (thesis / "intro.txt").write_text("later")
    (thesis / "tables" / "figures.bin").unlink()
    bob.wait()
    ann.sees("thesis/intro.txt", "later")
    past = ann.path / ".versions" / then
    subprocess.run(["cp", "-r", past, tmp_path / "copy"], check=True)
    assert (tmp_path / "copy" / "thesis" / "intro.txt").read_text() == "by bob"
    assert (tmp_path / "copy" / "thesis" / "tables" / "figures.bin").stat().st_size == MIB
    assert sorted(os.listdir(past / "thesis")) == ["intro.txt", "tables"]
    assert (bob.path / ".versions" / then / "thesis" / "intro.txt").read_text() == "by bob"
    # Its commit is when it was founded.
    assert (ann.path / ".versions" / f"rev-{founded}" / "thesis" / "intro.txt").read_text() == "Call me Ishmael."
    # Wherever it is now, and when sharing has ended: for who owns it; others are told.
    (ann.path / "thesis").rename(ann.path / "book")
    ann.wait()
    assert (past / "thesis" / "intro.txt").read_text() == "by bob"
    bobs = bob.path / ".versions" / then / "thesis"
    unshared(ann, ann.path / "book")
    assert eventually(lambda: not thesis.exists())
    for drive in (ann, bob):
        drive.umount()
        drive.mount()
    assert (past / "thesis" / "intro.txt").read_text() == "by bob"
    assert os.listdir(past / "thesis" / "tables") == ["figures.bin"]
    with pytest.raises(OSError, match="thesis") as refused:
        os.listdir(bobs)
    assert refused.value.errno in (errno.EACCES, errno.EIO)


def test_a_restore_of_what_is_above_it_leaves_a_shared_folder_alone(ann: Any, bob: Any) -> None:
    (ann.path / "own.txt").write_text("before")
    ann.wait()
    before = str(ann.status()["rev"])
    thesis = share(ann, bob)
    (thesis / "intro.txt").write_text("by bob")
    (thesis / "tables" / "figures.bin").unlink()
    ann.sees("thesis/intro.txt", "by bob")
    (ann.path / "own.txt").write_text("after")
    ann.wait()
    heads = [one["rev"] for one in bob.status()["spaces"]]
    said = ann.must("restore", ann.path, "--at", before)
    assert "being shared folders" in said
    assert "thesis" in said
    assert (ann.path / "own.txt").read_text() == "before"
    ann.wait()
    assert sorted(path.name for path in ann.path.iterdir()) == ["own.txt", "thesis"]
    assert (thesis / "intro.txt").read_text() == "by bob"
    # Also under another name it is not brought back a second time.
    (ann.path / "thesis").rename(ann.path / "book")
    ann.must("restore", ann.path, "--at", before)
    ann.wait()
    assert sorted(path.name for path in ann.path.iterdir()) == ["book", "own.txt"]
    assert [one["rev"] for one in bob.status()["spaces"]] == heads


def test_who_may_only_look_restores_nothing_there(ann: Any, bob: Any) -> None:
    (bob.path / "own.txt").write_text("before")
    thesis = share(ann, bob, "viewer")
    (ann.path / "thesis" / "intro.txt").write_text("second")
    bob.sees("thesis/intro.txt", "second")
    bob.wait()
    old = versions(bob, thesis / "intro.txt")[-1]
    for words in (("restore", thesis / "intro.txt", "--at", old["at"]), ("restore", thesis, "--at", old["at"])):
        refused = bob.cli(*words)
        assert (refused.returncode, "You may look" in refused.stderr) == (1, True), refused.stderr
    (ann.path / "thesis" / "intro.txt").unlink()
    bob.sees("thesis/intro.txt", None)
    refused = bob.cli("trash", "restore", thesis / "intro.txt")
    assert (refused.returncode, "viewer" in refused.stderr) == (1, True), refused.stderr
    assert os.listdir(thesis) == ["tables"]
    assert bob.status()["stuck"] == []
