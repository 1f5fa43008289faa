"""The trash: what programs remove, and what file managers throw away, comes back."""

import json
import os
import shutil
import subprocess
import time
from typing import Any

import pytest

from tests.mounted.trees import differences, entries

pytestmark = pytest.mark.mounted


def listed(device: Any) -> list[dict[str, Any]]:
    return list(json.loads(device.must("trash", "list", "--json")))


def test_what_was_removed_comes_back(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    folder = desk.path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/file").write_text("deep")
    (folder / "text").write_text("text")
    os.setxattr(folder / "text", "user.colour", b"green")
    (desk.path / "single").write_text("single")
    desk.in_step(laptop)
    wanted = entries(folder)
    assert desk.must("trash", "list") == "The trash is empty.\n"
    # Else the folder's times, which are compared, are those of when the first of it went.
    with desk.in_one_go():
        shutil.rmtree(folder)
    desk.wait()
    laptop.sees("single", "single")
    (laptop.path / "single").unlink()
    laptop.in_step(desk)
    found = listed(desk)
    assert [(one["path"], one["kind"], one["device"], one["count"]) for one in found] == [
        ("single", "file", "laptop", 1),
        ("folder", "folder", "desk", 4),
    ]
    assert "4 in all" in desk.must("trash", "list")
    said = desk.must("trash", "restore", folder, "single")
    assert "5 came back" in said
    assert differences(wanted, entries(folder)) == []
    assert os.getxattr(folder / "text", "user.colour") == b"green"
    laptop.sees("single", "single")
    assert listed(desk) == []
    refused = desk.cli("trash", "restore", "never")
    assert refused.returncode == 1
    assert "never" in refused.stderr


def test_file_managers_throw_away_into_the_drive(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "folder").mkdir()
    (desk.path / "folder/letter.txt").write_text("dear")
    subprocess.run(["gio", "trash", desk.path / "folder/letter.txt"], check=True, capture_output=True)
    assert not (desk.path / "folder/letter.txt").exists()
    desk.in_step(laptop)
    # A move like any other: nothing was removed, and the other device has it in the same trash.
    (found,) = listed(laptop)
    assert (found["path"], found["where"]) == ("folder/letter.txt", "folder")
    laptop.must("trash", "restore", laptop.path / "folder/letter.txt")
    desk.sees("folder/letter.txt", "dear")
    laptop.in_step(desk)
    assert not list(desk.path.glob(".Trash-*/info/*"))
    assert listed(desk) == []


def test_what_is_purged_is_gone_and_what_is_kept_can_be_said(device: Any) -> None:
    desk = device("desk")
    (desk.path / "secret.txt").write_text("secret")
    (desk.path / "file").write_text("first")
    desk.wait()
    first = desk.status()["rev"]
    (desk.path / "file").write_text("second")
    (desk.path / "secret.txt").unlink()
    desk.wait()
    past = desk.path / ".versions" / f"rev-{first}"
    assert (past / "secret.txt").read_text() == "secret"
    refused = desk.cli("trash", "purge", "secret.txt")
    assert refused.returncode == 2
    assert "1 version of 1 file, " in refused.stderr
    desk.must("trash", "purge", "secret.txt", "--yes")
    assert desk.must("trash", "list") == "The trash is empty.\n"
    # What names nothing is not all that there is.
    (desk.path / "all").symlink_to(".")
    (desk.path / "other").write_text("other")
    desk.wait()
    (desk.path / "other").unlink()
    assert desk.cli("trash", "purge", "--before", "", "--yes").returncode == 2
    assert [one["path"] for one in json.loads(desk.must("trash", "list", "--json"))] == ["other"]
    assert desk.cli("purge", "", "--yes").returncode == 2
    desk.must("purge", desk.path / "all", "--yes")
    assert len(json.loads(desk.must("versions", desk.path / "file", "--json"))) == 2
    desk.must("trash", "purge", "--all", "--yes")

    desk.must("purge", desk.path / "file", "--yes")
    assert (desk.path / "file").read_text() == "second"
    assert [one["kind"] for one in json.loads(desk.must("versions", desk.path / "file", "--json"))] == ["file"]
    desk.remount()
    assert sorted(os.listdir(past)) == []
    assert desk.cli("trash", "purge").returncode == 2

    assert desk.must("retention").startswith("Every version is kept for 30 days.")
    assert "Nothing goes before 20" in desk.must("retention"), "a new server does not rely on its clock yet"
    desk.must("retention", "--all-days", "7", "--hourly-days", "14", "--no-weekly")
    told = json.loads(desk.must("retention", "--json"))
    assert told.pop("not_before_ns") > time.time_ns()
    assert told == {"all_days": 7, "hourly_days": 14, "daily_days": 365, "for_ever": False}
