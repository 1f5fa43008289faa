"""Conflicts: two devices edit one file. The newer edit has the name, the other can be listed, read and chosen."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mounted

# Any: conftest.Server and conftest.Device, which cannot be imported from here.


def conflicts(device: Any, *path: Path) -> list[dict[str, Any]]:
    return list(json.loads(device.must("conflicts", *path, "--json")))


@pytest.fixture
def desk_and_laptop(device: Any, server: Any) -> tuple[Any, Any]:
    """Both edited `folder/report.txt` while the server was away, the laptop later."""
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "folder").mkdir()
    (desk.path / "folder/report.txt").write_text("first")
    desk.in_step(laptop)
    laptop.sees("folder/report.txt", "first")
    server.stop()
    (desk.path / "folder/report.txt").write_text("of the desk")
    (laptop.path / "folder/report.txt").write_text("of the laptop, later")
    server.start()
    for one in (desk, laptop, desk):
        one.wait()
    for one in (desk, laptop):
        one.sees("folder/report.txt", "of the laptop, later")
    return desk, laptop


def test_both_devices_list_what_lost_and_read_it(desk_and_laptop: tuple[Any, Any]) -> None:
    for one in desk_and_laptop:
        (found,) = conflicts(one)
        assert found["path"] == "folder/report.txt"
        assert (found["lost"]["device"], found["lost"]["size_bytes"]) == ("desk", len("of the desk"))
        assert (found["current"]["device"], found["current"]["size_bytes"]) == ("laptop", len("of the laptop, later"))
        assert (one.path / found["version"]).read_text() == "of the desk"
        assert os.listdir(one.path / "folder/.versions/conflicts") == [Path(found["version"]).name]
        assert os.listdir(one.path / "folder") == ["report.txt"]
        told = one.must("conflicts", one.path / "folder")
        assert str(one.path / "folder/report.txt") in told
        assert str(one.path / found["version"]) in told
        assert not os.listdir(one.path / ".versions/conflicts")
        assert one.status()["conflicts"] == 1
        assert "1 edit lost against others" in one.must("status")
        # One time for one rev, whoever tells it.
        times = {
            version["rev"]: version["time"]
            for version in json.loads(one.must("versions", one.path / found["path"], "--json"))
        }
        assert f"rev {found['lost']['rev']}" in told
        assert times[found["lost"]["rev"]] in told
    # What begins alike is another name.
    desk, _ = desk_and_laptop
    assert "There is no fol in" in desk.cli("conflicts", desk.path / "fol").stderr
    (desk.path / "fol").mkdir()
    assert "no conflicts" in desk.must("conflicts", desk.path / "fol")


@pytest.mark.parametrize(
    ("keep", "content"), [("mine", "of the desk"), ("theirs", "of the laptop, later"), ("REV", "first")]
)
def test_what_one_device_chooses_is_settled_for_all(desk_and_laptop: tuple[Any, Any], keep: str, content: str) -> None:
    desk, laptop = desk_and_laptop
    path = desk.path / "folder/report.txt"
    if keep == "REV":
        keep = str(
            min(one["rev"] for one in json.loads(desk.must("versions", path, "--json")) if one["size_bytes"] == 5)
        )
    desk.must("resolve", path, "--keep", keep)
    assert path.read_text() == content
    laptop.sees("folder/report.txt", content)
    for one in (desk, laptop):
        assert conflicts(one) == []
        assert os.listdir(one.path / "folder") == ["report.txt"]
    kept = {one["size_bytes"] for one in json.loads(desk.must("versions", path, "--json"))}
    assert kept >= {len("first"), len("of the desk"), len("of the laptop, later")}
    refused = desk.cli("resolve", path, "--keep", "mine")
    assert refused.returncode == 1
    assert "no conflict" in refused.stderr


def test_both_can_be_kept_side_by_side(desk_and_laptop: tuple[Any, Any]) -> None:
    desk, laptop = desk_and_laptop
    told = laptop.must("resolve", laptop.path / "folder/report.txt", "--keep", "both")
    (beside,) = [name for name in os.listdir(laptop.path / "folder") if name != "report.txt"]
    assert beside in told
    assert beside.startswith("report (desk 20")
    assert beside.endswith("Z).txt")
    desk.sees(f"folder/{beside}", "of the desk")
    desk.sees("folder/report.txt", "of the laptop, later")
    assert conflicts(desk) == []


def test_an_edit_that_lost_is_named_until_it_is_sent(device: Any, server: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    path = desk.path / "e.txt"
    path.write_text("first")
    desk.in_step(laptop)
    laptop.sees("e.txt", "first")
    desk.must("pause")
    path.write_text("of the desk")
    (laptop.path / "e.txt").write_text("of the laptop, later")
    desk.sees("e.txt", "of the laptop, later")
    (file,) = desk.status()["pending"]["files"]
    assert file == {"path": "e.txt", "bytes": len("of the desk"), "sent_bytes": 0, "state": "lost"}
    assert "e.txt   11 bytes   an older edit of yours" in desk.cli("status").stdout
    told = desk.cli("status", path)
    assert (told.returncode, os.getxattr(path, "user.satchel.state")) == (6, b"pending")
    assert "1 older edit of yours" in told.stdout
    assert "1 change to be sent" in desk.cli("status", desk.path).stdout
    for what in ([], [path]):
        waited = desk.cli("wait", *what, "--timeout", "0.1")
        assert (waited.returncode, "does not have: e.txt (an older edit)." in waited.stderr) == (6, True)
    (found,) = conflicts(desk, path)
    assert (found["path"], found["is_sent"], found["current"], found["lost"]["rev"]) == ("e.txt", False, None, 0)
    assert (found["lost"]["device"], found["lost"]["size_bytes"]) == ("desk", len("of the desk"))
    assert "not sent yet" in desk.must("conflicts")
    assert conflicts(laptop) == []
    refused = desk.cli("resolve", path, "--keep", "theirs")
    assert (refused.returncode, "must be sent first" in refused.stderr) == (6, True)
    server.stop()
    away = desk.cli("conflicts", "--json")
    assert (away.returncode, json.loads(away.stdout)) == (5, [found])
    assert "the server's list cannot be had" in away.stderr
    server.start()
    desk.must("resume")
    desk.wait()
    for one in (desk, laptop):
        (sent,) = conflicts(one)
        assert (sent["is_sent"], sent["lost"]["edited_ns"]) == (True, found["lost"]["edited_ns"])
    assert "The server has it." in desk.must("status", path)
    desk.must("resolve", path, "--keep", "mine")
    laptop.sees("e.txt", "of the desk")


def test_an_edit_that_lost_and_is_not_sent_is_had_back_without_the_server(device: Any, server: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    path, mine = desk.path / "e.txt", "of the desk" * 20_000
    path.write_text("first")
    desk.in_step(laptop)
    desk.must("pause")
    path.write_text(mine)
    (laptop.path / "e.txt").write_text("of the laptop, later")
    desk.sees("e.txt", "of the laptop, later")
    laptop.wait()
    server.stop()
    assert "is the chosen version now" in desk.must("resolve", path, "--keep", "mine")
    assert path.read_text() == mine
    desk.remount()
    assert path.read_text() == mine
    server.start()
    desk.must("resume")
    desk.wait()
    laptop.sees("e.txt", mine)
    assert conflicts(desk) == []
    found = json.loads(desk.must("versions", path, "--json"))[:2]
    assert [one["device"] for one in found] == ["desk", "laptop"]


def test_a_choice_that_says_nothing_is_refused(desk_and_laptop: tuple[Any, Any]) -> None:
    desk, _ = desk_and_laptop
    path = desk.path / "folder/report.txt"
    for keep, code, why in [("newest", 2, "one of mine, theirs, both"), ("4711", 1, "no version of rev 4711")]:
        refused = desk.cli("resolve", path, "--keep", keep)
        assert refused.returncode == code
        assert why in refused.stderr
    with path.open("a"):
        refused = desk.cli("resolve", path, "--keep", "mine")
        assert "open for writing" in refused.stderr
    assert len(conflicts(desk)) == 1


def test_a_file_open_for_writing_is_not_overwritten_from_elsewhere(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "log").write_text("first")
    desk.in_step(laptop)
    laptop.sees("log", "first")
    with (desk.path / "log").open("r+") as file:
        file.write("being written")
        file.flush()
        (laptop.path / "log").write_text("of the laptop")
        laptop.in_step(desk)
        assert (desk.path / "log").read_text() == "being written"
        file.seek(0, os.SEEK_END)
        file.write(", and closed")
    desk.wait()
    laptop.sees("log", "being written, and closed")
    for one in (desk, laptop):
        (found,) = conflicts(one)
        assert (found["lost"]["device"], found["path"]) == ("laptop", "log")
        assert (one.path / found["version"]).read_text() == "of the laptop"
        assert (one.path / "log").read_text() == "being written, and closed"
