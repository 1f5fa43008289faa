"""What a person is told when something cannot be done: soon, why, what to do, and by which exit code."""

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fusefs.control import Exit
from tests.mounted.conftest import COMMAND_SECONDS, eventually
from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

SOON_SECONDS = 45.0
"""Well below the minute that is waited for what is being sent."""


@contextmanager
def waiting(desk: Any) -> Iterator[list[subprocess.CompletedProcess[str]]]:
    """`satchel wait` beside what goes on; what came of it is there at the end."""
    found: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: found.append(desk.cli("wait")))
    thread.start()
    yield found
    thread.join(COMMAND_SECONDS + 30.0)
    assert found, "satchel wait did not end"


def test_who_waits_hears_that_the_device_was_signed_out(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    laptop.must("pause")
    (laptop.path / "unsent").write_text("kept")
    with waiting(laptop) as found:
        desk.must("devices", "sign-out", "laptop")
        laptop.must("resume")
    # Also who begins to wait later, and what waits before it asks the server.
    for one in (*found, laptop.cli("wait"), laptop.cli("undo")):
        assert one.returncode == Exit.SIGN_IN
        assert "sign in again" in one.stderr
        assert "What is not sent stays on this machine; what to do: satchel doctor" in one.stderr


def test_who_asks_how_it_stands_hears_that_it_is_not_signed_in(device: Any, server: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.must("devices", "sign-out", "laptop")
    assert eventually(lambda: not laptop.status()["signed_in"])
    assert laptop.cli("status").returncode == Exit.SIGN_IN
    server.command("user", "disable", server.user, "--data", str(server.data))
    assert eventually(lambda: not desk.status()["signed_in"])
    for command in ("status", "doctor", "devices", "events"):
        found = desk.cli(command)
        assert found.returncode == (Exit.FAILURE if command == "doctor" else Exit.SIGN_IN)
        assert "ask who runs the server" in found.stdout + found.stderr
        # Neither helps.
        assert "satchel login" not in found.stdout + found.stderr
        assert "satchel doctor" not in found.stdout + found.stderr
    server.command("user", "enable", server.user, "--data", str(server.data))
    assert eventually(lambda: desk.status()["signed_in"])
    assert desk.cli("status").returncode == Exit.OK


def test_who_waits_hears_that_the_account_is_disabled(device: Any, server: Any) -> None:
    desk = device("desk")
    desk.must("pause")
    (desk.path / "unsent").write_text("kept")
    server.command("user", "disable", server.user, "--data", str(server.data))
    with waiting(desk) as found:
        desk.must("resume")
    assert (found[0].returncode, "This account is disabled" in found[0].stderr) == (Exit.SIGN_IN, True)
    server.command("user", "enable", server.user, "--data", str(server.data))
    desk.wait()


def test_who_waits_hears_that_the_device_is_wiped(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    laptop.must("pause")
    (laptop.path / "unsent").write_text("gone")
    with waiting(laptop) as found:
        assert eventually(lambda: laptop.status()["pending"]["count"] == 1)
        desk.must("devices", "wipe", "--yes", "laptop")
    assert (found[0].returncode, "to remove what it holds" in found[0].stderr) == (Exit.SIGN_IN, True)


@pytest.mark.parametrize("is_pending", [True, False])
def test_without_the_server_what_needs_it_says_so_soon(device: Any, server: Any, is_pending: bool) -> None:
    desk = device("desk")
    file = desk.path / "file"
    file.write_text("first")
    desk.wait()
    first = str(desk.status()["rev"])
    file.write_text("second")
    desk.wait()
    server.stop()
    made: tuple[tuple[Any, ...], ...] = ()
    if is_pending:
        file.write_text("third")
        (desk.path / "new").mkdir()
        made = (("share", desk.path / "new", "--with", "bob"), ("link", "make", desk.path / "new"))
    for args in (
        *made,
        ("versions", file),
        ("diff", file, "--from", first),
        ("restore", file, "--at", first),
        ("rewind", desk.path, "--to", first),
        ("undo",),
        ("undo", "--dry-run"),
        ("trash", "list"),
        ("trash", "restore", "gone"),
        ("trash", "purge", "gone", "--yes"),
        ("purge", file, "--yes"),
        ("events",),
        ("guard",),
        ("retention",),
        ("search", "file"),
        ("devices",),
        ("shared",),
    ):
        began = time.monotonic()
        refused = desk.cli(*args)
        assert (args, refused.returncode) == (args, Exit.UNREACHABLE), refused.stderr
        assert "Try again later." in refused.stderr
        assert time.monotonic() - began < SOON_SECONDS, args
    assert file.read_text() == ("third" if is_pending else "second")


def test_what_is_paused_is_said_at_once(device: Any) -> None:
    desk = device("desk")
    (desk.path / "file").write_text("first")
    desk.wait()
    desk.must("pause")
    (desk.path / "file").write_text("second")
    refused = desk.cli("undo")
    assert (refused.returncode, "satchel resume" in refused.stderr) == (Exit.PENDING, True)


def test_the_trash_is_listed_though_something_cannot_be_sent(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / "gone").write_text("gone")
    desk.wait()
    (desk.path / "gone").unlink()
    desk.wait()
    desk.must("pause")
    (desk.path / "late").write_text("late")
    assert [one["path"] for one in json.loads(desk.must("trash", "list", "--json"))] == ["gone"]
    unknown = desk.cli("trash", "restore", "late")
    assert (unknown.returncode, "satchel resume" in unknown.stderr) == (Exit.FAILURE, True)
    desk.must("trash", "restore", "gone")
    assert (desk.path / "gone").read_text() == "gone"


def test_what_is_not_there_is_exit_code_1_and_what_is_no_command_2(device: Any, server: Any) -> None:
    server.add_user("bob")
    desk = device("desk")
    (desk.path / "folder").mkdir()
    (desk.path / "file").write_text("x")
    desk.wait()
    folder, missing = desk.path / "folder", desk.path / "missing"
    desk.must("share", folder, "--with", "bob")
    is_not_there: tuple[tuple[Any, ...], ...] = (
        ("status", missing),
        ("wait", missing),
        ("wait", desk.home),
        ("versions", missing),
        ("restore", missing),
        ("restore", missing, "--at", "1"),
        ("diff", missing, "--from", "1"),
        ("rewind", missing, "--to", "1"),
        ("undo", "999"),
        ("undo", "--event", "9"),
        ("undo", "--in", desk.path / "file"),
        ("events", "--in", missing),
        ("events", "done", "9"),
        ("guard", "allow"),
        ("guard", "refuse", "9"),
        ("guard", "--in", desk.path / "file"),
        ("retention", "--in", missing),
        ("trash", "restore", "missing"),
        ("trash", "purge", "missing", "--yes"),
        ("purge", missing, "--yes"),
        ("resolve", missing, "--keep", "mine"),
        ("conflicts", missing),
        ("pin", missing),
        ("unpin", missing),
        ("preview", missing, "-o", desk.home / "x.png"),
        ("link", "make", missing),
        ("link", "revoke", "nothing"),
        ("devices", "sign-out", "nothing"),
        ("devices", "wipe", "nothing", "--yes"),
        ("devices", "rename", "nothing", "x"),
        ("devices", "sign-out", "desk"),
        ("token", "revoke", "nothing"),
        ("share", missing, "--with", "bob"),
        ("share", folder, "--with", "nobody"),
        ("share", folder, "--transfer", "nobody"),
        ("share", desk.path / "file", "--transfer", "bob"),
        ("unshare", folder, "nobody"),
        ("unshare", desk.path / "file", "--yes"),
        ("accept", "nothing"),
        ("decline", "nothing"),
        ("leave", desk.path / "file"),
        ("group", "member", "nothing", "bob"),
        ("group", "remove", "nothing"),
        ("backup", "add", desk.home / "missing"),
        ("backup", "now", desk.home / "missing"),
        ("backup", "remove", desk.home / "missing"),
    )
    is_no_command: tuple[tuple[Any, ...], ...] = (
        ("status", ""),
        ("versions", ""),
        ("restore", desk.path / "file", "--at", "soon"),
        ("rewind", desk.path, "--to", ""),
        ("resolve", desk.path / "file", "--keep", "none"),
        ("undo", "0"),
        ("share", folder, "--with", "bob:king"),
        ("share", folder, "--limit", "much"),
        ("link", "make", desk.path / "file", "--expires", "soon"),
        ("token", "add", "x", "--scope", "all"),
        ("audit", "--since", "soon"),
        ("limit", "--up", "fast"),
        ("cache", "limit", "small"),
        ("guard", "--mode", "maybe"),
        ("search", "before:yesterday"),
        ("search", "size:>foo"),
    )
    wrong = []
    for code, commands in ((Exit.FAILURE, is_not_there), (Exit.USAGE, is_no_command)):
        for args in commands:
            found = desk.cli(*args)
            if found.returncode != code or not found.stderr.strip() or "Traceback" in found.stderr:
                wrong.append((args, found.returncode, found.stdout, found.stderr))
    assert wrong == []


def test_who_waits_for_no_time_hears_whether_all_is_sent(device: Any) -> None:
    desk = device("desk")
    (desk.path / "file").write_text("x")
    desk.wait()
    desk.must("wait", "--timeout", "0")
    desk.must("wait", desk.path / "file", "--timeout", "0")
    desk.must("pause")
    (desk.path / "other").write_text("x")
    late = desk.cli("wait", "--timeout", "0")
    desk.must("wait", desk.path / "file", "--timeout", "0")
    assert (late.returncode, "other" in late.stderr, "satchel resume" in late.stderr) == (Exit.PENDING, True, True)


def test_a_sentence_names_what_it_is_about(device: Any) -> None:
    desk = device("desk")
    (desk.path / "file").write_text("first")
    desk.wait()
    began = desk.status()["rev"]
    (desk.path / "file").write_text("second")
    desk.wait()
    for args, sentence in (
        (("status", desk.path / "file/below"), "There is no file/below in"),
        (("versions", desk.path / "gone"), "There is no gone, and"),
        (("diff", desk.path, "--from", "999"), "There is no rev 999 yet"),
        (("rewind", desk.path / "file", "--to", "1"), "file did not exist at rev 1"),
        (("resolve", desk.path / "file", "--keep", "mine"), "file has no conflict"),
        (("trash", "restore", "gone"), "is called gone"),
    ):
        refused = desk.cli(*args)
        assert (args, refused.returncode, sentence in refused.stderr) == (args, Exit.FAILURE, True), refused.stderr
    assert "1 changed" in desk.must("rewind", desk.path / "file", "--to", str(began))
    assert (desk.path / "file").read_text() == "first"


def test_what_was_done_in_a_shared_folder_is_taken_back_by_what_is_printed(server: Any, device: Any) -> None:
    server.add_user("bob")
    desk = device("desk")
    folder = desk.path / "our work"
    folder.mkdir()
    desk.must("share", folder, "--with", "bob")
    (folder / "plan").write_text("first")
    desk.wait()
    began = json.loads(desk.must("versions", folder / "plan", "--json"))[0]["rev"]
    (folder / "plan").write_text("second")
    desk.wait()
    (desk.path / "own").write_text("stays")
    desk.wait()
    told = desk.must("rewind", folder, "--to", str(began))
    assert (folder / "plan").read_text() == "first"
    words = shlex.split(told.partition("To take that back: satchel ")[2])
    assert words == ["undo", "--in", str(folder)]
    desk.must(*words)
    assert (folder / "plan").read_text() == "second"
    assert (desk.path / "own").read_text() == "stays"


def test_who_may_only_read_is_told_so(server: Any, device: Any) -> None:
    server.add_user("bob")
    ann, bob = device("ann"), device("bob", user="bob")
    (ann.path / "team").mkdir()
    (ann.path / "team/plan").write_text("first")
    ann.wait()
    (ann.path / "team/plan").write_text("second")
    ann.wait()
    ann.must("share", ann.path / "team", "--with", "bob:viewer")
    bob.must("accept", "team")
    bob.sees("team/plan", "second")
    team = bob.path / "team"
    for args in (
        ("restore", team / "plan", "--at", "1"),
        ("rewind", team, "--to", "1"),
        ("undo", "1", "--in", team),
        ("share", team, "--with", "ann"),
        ("guard", "--mode", "off", "--in", team),
        ("retention", "--all-days", "1", "--in", team),
        ("purge", team / "plan", "--yes"),
        ("unshare", team, "--yes"),
    ):
        refused = bob.cli(*args)
        assert (args, refused.returncode, len(refused.stderr.splitlines())) == (args, Exit.FAILURE, 1), refused
    with pytest.raises(OSError, match="Read-only"):
        (team / "new").write_text("x")
    assert until(lambda: bob.status()["pending"]["count"] == 0)
    for args in (("trash", "list"), ("events",), ("status",), ("conflicts",)):
        bob.must(*args)
