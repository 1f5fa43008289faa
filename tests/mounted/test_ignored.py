"""Ignored names through a real mount: programs see no difference, people are told, nobody else ever hears of them."""

import os
import re
import shutil
from typing import Any

import pytest
import trio

from fusefs.settings import load_account
from remote.client.service import connect
from remote.protocol.ids import Rev, SpaceId

pytestmark = pytest.mark.mounted


def state(path: Any) -> bytes:
    return os.getxattr(path, "user.satchel.state")


def journal_names(device: Any) -> set[bytes]:
    """Every name that the server's journal of the space has."""
    account = load_account(device.home / "state" / "account.json")
    assert account is not None

    async def ask() -> set[bytes]:
        names: set[bytes] = set()
        since = Rev(0)
        async with connect(account.url, account.token) as service:
            while (answer := await service.changes(SpaceId(account.space), since)).commits:
                since = answer.commits[-1].rev
                states = [version.state for commit in answer.commits for version in commit.changes]
                names |= {name.name for state in states if state is not None for name in state.names}
        return names

    return trio.run(ask)


def test_ignored_files_work_here_and_are_told_of(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / ".satchelignore").write_text("build/\n*.o\n!keep.o\n")
    desk.wait()
    (desk.path / "build").mkdir()
    (desk.path / "build/large").write_bytes(os.urandom(3_000_000))
    (desk.path / "keep.o").write_text("sent")
    swap = desk.path / ".letter.swp"
    with swap.open("w") as file:
        file.write("unsaved")
        file.flush()
        os.fsync(file.fileno())
        desk.wait()
        assert state(swap) == b"ignored"
        file.write(" changes")
    assert swap.read_text() == "unsaved changes"
    desk.wait()
    assert state(desk.path / "build") == state(desk.path / "build/large") == b"ignored"
    assert os.getxattr(desk.path / "build/large", "user.satchel.pending_bytes") == b"0"
    waited = desk.cli("wait", swap)
    assert waited.returncode == 6
    assert ".*.sw[a-p]" in waited.stderr
    assert desk.cli("status").returncode == 0
    desk.remount()
    desk.in_step(laptop)
    assert sorted(os.listdir(laptop.path)) == [".satchelignore", "keep.o"]
    assert len((desk.path / "build/large").read_bytes()) == 3_000_000
    assert journal_names(desk) == {b"", b".satchelignore", b"keep.o"}
    # Under another name it is as any other file; so is all that is in a folder.
    swap.rename(desk.path / "letter")
    (desk.path / "build").rename(desk.path / "results")
    desk.wait()
    laptop.sees("letter", "unsaved changes")
    laptop.sees("results/large", (desk.path / "results/large").read_bytes())
    assert state(desk.path / "results/large") == b"synced"


def test_rules_from_elsewhere_and_a_folder_moved_elsewhere(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "a").mkdir()
    (laptop.path / ".satchelignore").write_text("/a/*.log\n")
    desk.wait()
    laptop.in_step(desk)
    (desk.path / "a/x.log").write_text("here only")
    (desk.path / "a/y").write_text("everywhere")
    desk.wait()
    assert state(desk.path / "a/x.log") == b"ignored"
    laptop.sees("a/y", "everywhere")
    # The rule is not for a folder of another name.
    (laptop.path / "a").rename(laptop.path / "b")
    laptop.sees("b/x.log", "here only")


def test_a_folder_is_restored_around_what_is_ignored_in_it(device: Any) -> None:
    desk = device("desk")
    folder = desk.path / "a"
    folder.mkdir()
    for name in ("x.log", "y"):
        (folder / name).write_text("before")
    desk.wait()
    rev = str(desk.status()["rev"])
    (desk.path / ".satchelignore").write_text("*.log\n")
    (folder / "x.log").unlink()
    desk.wait()
    (folder / "x.log").write_text("here only")
    (folder / "y").write_text("after")
    desk.wait()
    assert state(folder / "x.log") == b"ignored"
    desk.must("restore", folder, "--at", rev)
    assert (folder / "y").read_text() == "before"
    assert ((folder / "x.log").read_text(), state(folder / "x.log")) == ("here only", b"ignored")
    refused = desk.cli("restore", folder / "x.log", "--at", rev)
    assert "x.log is ignored, so the server has nothing of what it is now: move it away first." in refused.stderr


def test_who_asks_for_versions_of_what_the_server_never_had_is_told_why(device: Any) -> None:
    desk = device("desk")
    (desk.path / ".satchelignore").write_text("build/\n*.o\n")
    (desk.path / "docs" / "build").mkdir(parents=True)
    (desk.path / "docs" / "after.o").write_text("here only")
    (desk.path / "docs" / "build" / "large").write_text("here only")
    desk.wait()
    for path, rule in (("docs/after.o", "*.o"), ("docs/build/large", "build/"), ("docs/build/gone", "build/")):
        for words in (("versions",), ("purge", "--yes")):
            refused = desk.cli(*words, desk.path / path)
            assert refused.returncode == 1
            if words == ("versions",) or not path.endswith("gone"):
                said = f"The server has no version of {path} as it is now: it is ignored (by {rule}) and stays here."
                assert said in refused.stderr
            assert re.search(r"\d{6}", refused.stderr) is None, "a number that means nothing to a person"
    desk.must("pause")
    (desk.path / "docs" / "new").write_text("not sent")
    told = desk.cli("versions", desk.path / "docs" / "new")
    assert (told.returncode, "no version of docs/new as it is now" in told.stderr) == (1, True)
    desk.must("resume")


def test_a_folder_that_goes_elsewhere_keeps_what_is_ignored_in_it(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "project").mkdir()
    (desk.path / "project/main.c").write_text("x")
    (desk.path / "project/.main.c.swp").write_text("unsaved")
    desk.in_step(laptop)
    shutil.rmtree(laptop.path / "project")
    laptop.in_step(desk)
    desk.sees("project/main.c", None)
    assert (desk.path / "project/.main.c.swp").read_text() == "unsaved"
    desk.in_step(laptop)
    assert not (laptop.path / "project").exists()
    assert desk.cli("status").returncode == 0
    shutil.rmtree(desk.path / "project")
    desk.wait()


def test_what_vanishes_before_it_is_sent_is_never_in_the_journal(device: Any) -> None:
    desk = device("desk")
    letter = desk.path / "letter"
    letter.write_text("old")
    desk.wait()
    # Whatever the debounce is: nothing is sent meanwhile.
    desk.must("pause")
    (desk.path / "4913").touch()
    (desk.path / "4913").unlink()
    for number in range(3):
        fresh = desk.path / f"letter.{number}.tmp"
        fresh.write_text(f"new {number}" * 1_000)
        fresh.rename(letter)
    (desk.path / ".lock").symlink_to("nowhere")
    (desk.path / ".lock").unlink()
    desk.must("resume")
    desk.wait()
    assert journal_names(desk) == {b"", b"letter"}
    assert letter.read_text() == "new 2" * 1_000
