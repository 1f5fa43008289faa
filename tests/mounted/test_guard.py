"""The guard against mass change, as a person meets it: told, undone with one command, or asked first."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusefs.control import Exit
from tests.mounted.trees import differences, entries, until

pytestmark = pytest.mark.mounted

FOLDERS, FILES = 20, 50


def fill(folder: Path, folders: int = FOLDERS) -> None:
    for number in range(folders):
        inner = folder / f"folder {number}"
        inner.mkdir(parents=True)
        for file in range(FILES):
            (inner / f"file {file}.txt").write_text(f"{number} {file}\n" * 20)
        os.setxattr(inner / "file 0.txt", "user.note", b"kept")
        (inner / "file 1.txt").chmod(0o600)


def told(device: Any) -> list[dict[str, Any]]:
    return list(json.loads(device.must("events", "--json")))


def test_a_thousand_files_that_were_removed_come_back_with_one_command(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.must("guard", "--settled-seconds", "0")
    fill(desk.path / "work")
    (desk.path / "other").write_text("other")
    desk.in_step(laptop)
    before = entries(desk.path)

    shutil.rmtree(desk.path / "work")
    desk.in_step(laptop)
    assert not (laptop.path / "work").exists()
    (event,) = told(laptop)
    assert (event["state"], event["device"], event["removed"]) == ("told", "desk", FOLDERS * FILES)
    said = laptop.cli("status").stdout
    assert "Event 1" in said
    assert "1,000 removed by desk" in said
    (laptop.path / "other").write_text("later")
    laptop.wait()

    planned = json.loads(laptop.must("undo", "--event", "1", "--dry-run", "--json"))
    assert planned["added"] == FOLDERS * FILES + FOLDERS + 1
    assert "Event 1 is undone" in laptop.must("undo", "--event", "1")
    laptop.in_step(desk)
    for one in (desk, laptop):
        wrong = differences(before, entries(one.path))
        assert [line for line in wrong if "other" not in line] == []
        assert (one.path / "other").read_text() == "later"
        assert os.getxattr(one.path / "work/folder 3/file 0.txt", "user.note") == b"kept"
    assert told(desk)[0]["state"] == "undone"
    assert until(lambda: laptop.status()["events"] == [])


def test_what_would_remove_much_waits_for_a_yes(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.must("guard", "--mode", "ask", "--count", "100", "--settled-seconds", "0")
    fill(desk.path / "work", 6)
    desk.in_step(laptop)
    before = entries(desk.path / "work")

    # In one go, however slow the machine is: of what is sent bit by bit, fewer than are asked about would go before.
    desk.must("pause")
    shutil.rmtree(desk.path / "work")
    desk.must("resume")
    (desk.path / "meanwhile").write_text("goes on")
    laptop.sees("meanwhile", "goes on")
    assert until(lambda: desk.status()["asked"]["count"] >= 100)
    result = desk.cli("status")
    assert result.returncode == Exit.PENDING
    assert "wait for your yes" in result.stdout.splitlines()[0]
    assert "a second" not in result.stdout.split("Up ")[1].splitlines()[0]
    assert "satchel guard allow" in desk.cli("wait", "--timeout", "1").stderr
    assert differences(before, entries(laptop.path / "work")) == []
    # It waits also after a restart.
    desk.remount()
    assert not (desk.path / "work").exists()
    assert until(lambda: desk.status()["asked"]["count"] >= 100)
    (event,) = told(desk)
    assert (event["state"], event["device"]) == ("held", "desk")

    assert "Event 1 goes on" in desk.must("guard", "allow")
    desk.in_step(laptop)
    assert not (laptop.path / "work").exists()
    assert desk.status()["asked"]["count"] == 0
    assert desk.cli("guard", "allow").returncode == Exit.FAILURE


def test_what_waits_for_a_yes_can_be_had_back(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.must("guard", "--mode", "ask", "--count", "50", "--settled-seconds", "0")
    fill(desk.path / "work", 3)
    desk.in_step(laptop)
    before = entries(desk.path / "work")

    # As ransomware does it.
    for path in sorted((desk.path / "work").rglob("*.txt")):
        path.write_bytes(os.urandom(500))
        path.rename(f"{path}.locked")
    assert until(lambda: desk.status()["asked"]["count"] >= 50)
    # Fewer than are asked about may have gone before; of the others nobody hears.
    assert len(list((laptop.path / "work").rglob("*.locked"))) < 50

    assert "Event 1 is undone" in desk.must("guard", "refuse")
    laptop.in_step(desk)
    desk.in_step(laptop)
    for one in (desk, laptop):
        # Times of folders went on while their files waited.
        wrong = [line for line in differences(before, entries(one.path / "work")) if ".txt" in line]
        assert wrong == []
        assert len(list((one.path / "work").rglob("*"))) == 3 * FILES + 3


def test_in_a_shared_folder_all_members_are_told(server: Any, device: Any) -> None:
    ann = device("ann")
    fill(ann.path / "team", 2)
    ann.wait()
    server.add_user("bob")
    bob = device("bob", user="bob")
    ann.must("share", ann.path / "team", "--with", "bob")
    bob.must("accept", "team")
    assert until((bob.path / "team").is_dir)
    ann.must("guard", "--settled-seconds", "0", "--count", "80", "--in", ann.path / "team")
    (ann.path / "own").mkdir()
    for command in (("guard", "--mode", "off"), ("retention", "--all-days", "1")):
        refused = ann.cli(*command, "--in", ann.path / "own")
        assert (refused.returncode, "own is in no shared folder" in refused.stderr) == (Exit.FAILURE, True)
    refused = bob.cli("guard", "--mode", "off", "--in", bob.path / "team")
    assert (refused.returncode, "set its guard" in refused.stderr) == (1, True)
    before = entries(ann.path / "team")

    for number in range(2):
        shutil.rmtree(bob.path / f"team/folder {number}")
    bob.wait()
    assert until(lambda: bool(ann.status()["events"]))
    (event,) = ann.status()["events"]
    assert (event["in"], event["user"], event["removed"]) == ("team", "bob", 2 * FILES)
    assert event["examples"][0].startswith("team/folder ")
    assert f"satchel undo --event 1 --in {ann.path / 'team'}" in ann.cli("status").stdout
    assert json.loads(ann.must("events", "--json")) == []
    ann.must("undo", "--event", "1", "--in", ann.path / "team")
    wanted = {path for path in before if path.endswith(".txt")}
    for one in (ann, bob):
        assert until(lambda one=one: wanted <= set(entries(one.path / "team")))  # type: ignore[misc]
        wrong = [line for line in differences(before, entries(one.path / "team")) if ".txt" in line]
        assert wrong == []
