"""Sharing as people ask for it on the command line: two users of one server, each with a mount."""

import errno
import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

from fusefs.moments import parse
from tests.mounted.conftest import eventually


def shared(device: Any) -> tuple[list[str], list[str]]:
    """Folders with the role, and invitations."""
    told = json.loads(device.must("shared", "--json"))
    folders = [f"{one['name']} {one['role']}" for one in told["folders"]]
    return folders, [f"{one['name']} {one['role']}" for one in told["invitations"]]


def test_a_folder_is_shared_accepted_left_and_ended(server: Any, device: Any) -> None:
    server.add_user("bob")
    desk, laptop = device("desk"), device("laptop", user="bob")
    (desk.path / "thesis").mkdir()
    (desk.path / "thesis" / "intro.txt").write_text("Call me Ishmael.")
    assert "not shared" in desk.must("share", desk.path / "thesis")
    (desk.path / "my thesis").mkdir()
    told = desk.must("share", desk.path / "my thesis")
    assert told.strip().endswith(f"satchel share '{desk.path}/my thesis' --with NAME"), "it can be copied as it is"
    assert "bob (viewer)" in desk.must("share", desk.path / "thesis", "--with", "bob:viewer")
    assert "has not accepted" in desk.must("share", desk.path / "thesis")
    assert "is in a shared folder" in desk.must("share", desk.path / "thesis" / "intro.txt")
    inside = desk.cli("share", desk.path / "thesis" / "intro.txt", "--with", "bob")
    assert (inside.returncode, "by itself" in inside.stderr) == (1, True)
    assert "invited by ann" in laptop.must("shared")
    laptop.must("accept", "thesis")
    assert eventually((laptop.path / "thesis").is_dir)
    assert shared(laptop) == (["thesis viewer"], [])
    assert shared(desk) == (["thesis owner"], [])

    desk.must("share", desk.path / "thesis", "--with", "bob:editor")
    assert shared(laptop) == (["thesis editor"], [])
    members = json.loads(desk.must("share", desk.path / "thesis", "--json"))
    assert [(one["who"], one["role"], one["standing"]) for one in members] == [
        ("ann", "owner", "member"),
        ("bob", "editor", "member"),
    ]
    refused = laptop.cli("share", laptop.path / "thesis", "--with", "ann")
    assert (refused.returncode, "you may not share" in refused.stderr) == (1, True)

    laptop.must("leave", laptop.path / "thesis")
    assert eventually(lambda: not (laptop.path / "thesis").exists())
    assert shared(laptop) == ([], ["thesis editor"])
    laptop.must("accept", json.loads(laptop.must("shared", "--json"))["invitations"][0]["name"])
    desk.must("share", desk.path / "thesis", "--transfer", "bob")
    assert (shared(desk), shared(laptop)) == ((["thesis manager"], []), (["thesis owner"], []))
    assert eventually((laptop.path / "thesis").is_dir)
    laptop.must("unshare", laptop.path / "thesis", "ann")
    assert eventually(lambda: not (desk.path / "thesis").exists())
    assert "would be" in laptop.cli("unshare", laptop.path / "thesis").stderr
    laptop.must("unshare", laptop.path / "thesis", "--yes")
    assert shared(laptop) == ([], [])
    laptop.sees("thesis/intro.txt", "Call me Ishmael.")


def test_a_folder_is_shared_while_not_all_in_it_is_sent(server: Any, device: Any) -> None:
    server.add_user("bob")
    desk, of_bob = device("desk"), device("laptop", user="bob")
    (desk.path / "thesis").mkdir()
    desk.wait()
    desk.must("pause")
    (desk.path / "thesis/late").write_text("late")
    desk.must("share", desk.path / "thesis", "--with", "bob")
    of_bob.must("accept", "thesis")
    desk.must("resume")
    of_bob.sees("thesis/late", "late")


def test_who_has_a_folder_himself_and_by_a_group_is_told_so(server: Any, device: Any) -> None:
    server.add_user("bob")
    server.add_user("carol")
    desk = device("desk")
    thesis = desk.path / "thesis"
    thesis.mkdir()
    desk.must("group", "add", "reviewers")
    for name in ("bob", "carol"):
        desk.must("group", "member", "reviewers", name)
    desk.must("share", thesis, "--with", "bob:editor", "--with", "reviewers:viewer")
    lines = {line.split()[0]: line.split("  ")[-1] for line in desk.must("share", thesis).splitlines()}
    assert (lines["bob"], lines["carol"]) == ("also by reviewers", "by reviewers")
    members = json.loads(desk.must("share", thesis, "--json"))
    assert [one["is_own"] for one in members if one["kind"] == "user"] == [True, True, False]


def test_groups_and_declining(server: Any, device: Any) -> None:
    server.add_user("bob")
    desk, laptop = device("desk"), device("laptop", user="bob", mount=False)
    (desk.path / "report.txt").write_text("All is well.")
    desk.must("group", "add", "team")
    assert [desk.cli("group", "add", taken).returncode for taken in ("team", "bob")] == [1, 1]
    desk.must("group", "member", "team", "bob")
    assert "bob" in desk.must("group", "list")
    said = desk.must("share", desk.path / "report.txt", "--with", "team:manager")
    assert "new folder" in said
    asks = shlex.split(said.splitlines()[-1].partition("yet: satchel ")[2])
    assert asks == ["share", f"{desk.path}/report.txt (shared)"]
    assert eventually(lambda: "team" in desk.cli(*asks).stdout)
    assert shared(laptop) == ([], ["report.txt (shared) manager"])
    laptop.must("decline", "report.txt (shared)")
    assert "declined" in laptop.must("shared")
    desk.must("group", "member", "team", "bob", "--remove")
    assert shared(laptop) == ([], [])
    desk.must("group", "remove", "team")
    assert "no groups" in desk.must("group", "list")
    unknown = desk.cli("share", desk.path / "report.txt (shared)", "--with", "nobody")
    wrong = desk.cli("share", desk.path / "report.txt (shared)", "--with", "bob:king")
    assert [each.returncode for each in (unknown, wrong)] == [1, 2]
    assert "satchel group add" in unknown.stderr


def test_the_past_before_a_folder_was_shared_is_said_to_be_elsewhere(server: Any, device: Any) -> None:
    server.add_user("bob")
    desk, laptop = device("desk"), device("laptop", user="bob")
    (desk.path / "thesis").mkdir()
    (desk.path / "thesis/intro").write_text("before")
    (desk.path / "thesis/gone").write_text("gone")
    desk.wait()
    before = json.loads(desk.must("versions", desk.path / "thesis/intro", "--json"))[0]["time"]
    (desk.path / "thesis/gone").unlink()
    desk.wait()
    # Times are told in seconds: what comes now is to be of a later one.
    assert eventually(lambda: time.time_ns() // 10**9 * 10**9 > parse(before))
    (desk.path / "thesis/intro").write_text("while shared")
    desk.must("share", desk.path / "thesis", "--with", "bob")
    laptop.must("accept", "thesis")
    laptop.sees("thesis/intro", "while shared")
    assert eventually(lambda: len(desk.status()["spaces"]) == 2)

    for verb, option, path in (
        ("restore", "--at", "thesis/intro"),
        ("rewind", "--to", "thesis"),
        ("diff", "--from", "thesis/intro"),
    ):
        refused = desk.cli(verb, desk.path / path, option, before)
        assert refused.returncode == 1
        assert "thesis was not shared until 20" in refused.stderr
        there = shlex.split(refused.stderr.rpartition(" from ")[2])[0]
        assert (Path(there) / "intro").read_text() == "before"
    refused = laptop.cli("rewind", laptop.path / "thesis", "--to", before)
    assert "with the drive of who shared it" in refused.stderr
    assert "thesis/gone" in desk.must("trash", "list")
    desk.must("trash", "purge", desk.path / "thesis/gone", "--yes")
    assert desk.must("trash", "list") == "The trash is empty.\n"


def test_a_bounded_folder_takes_no_more(server: Any, device: Any) -> None:
    server.add_user("bob")
    desk, laptop = device("desk"), device("laptop", user="bob")
    (desk.path / "thesis").mkdir()
    (desk.path / "thesis" / "intro.txt").write_text("Call me Ishmael.")
    desk.must("share", desk.path / "thesis", "--with", "bob")
    laptop.must("accept", "thesis")
    assert eventually((laptop.path / "thesis").is_dir)
    assert "1.0 MiB" in desk.must("share", desk.path / "thesis", "--limit", "1M")
    assert desk.cli("share", desk.path / "thesis", "--limit", "much").returncode == 2
    assert laptop.cli("share", laptop.path / "thesis", "--limit", "0").returncode == 1

    def is_refused() -> bool:
        try:
            (laptop.path / "thesis" / "large").write_bytes(os.urandom(3 << 20))
        except OSError as error:
            return error.errno == errno.EDQUOT
        return False

    assert eventually(is_refused)
    (laptop.path / "thesis" / "small").write_bytes(b"fits")
    desk.sees("thesis/small", b"fits")
    desk.must("share", desk.path / "thesis", "--limit", "0")
