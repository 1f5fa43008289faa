"""Devices from afar: `satchel devices` lists, renames, signs out and wipes them; `satchel password`."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mounted.conftest import ended, eventually


def files_of(home: Path) -> list[str]:
    """What a device holds of the drive: everything but its settings, its log and locks, which are empty."""
    found = []
    for folder, _, names in os.walk(home):
        for path in (Path(folder, name) for name in names):
            # What is being removed may go meanwhile.
            with suppress(FileNotFoundError):
                if path.lstat().st_size and path.is_file():
                    found.append(path.relative_to(home).as_posix())
    return [name for name in found if not name.startswith("config/") and name != "state/daemon.log"]


def test_a_lost_device_is_wiped_although_programs_use_it(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "secret").write_text("not for thieves")
    desk.wait()
    laptop.sees("secret", "not for thieves")
    process = laptop.pid
    draft = os.open(laptop.path / "draft", os.O_WRONLY | os.O_CREAT)
    os.write(draft, b"not sent")
    assert "removes what it holds" in desk.must("devices", "wipe", "--yes", "laptop")
    assert ended(process)
    with suppress(OSError):
        os.close(draft)
    assert files_of(laptop.home) == []
    assert os.listdir(laptop.path) == []
    assert [entry["name"] for entry in json.loads(desk.must("devices", "--json"))] == ["desk"]
    again = laptop.cli("mount", laptop.path)
    assert (again.returncode, "not signed in" in again.stderr) == (4, True)


def test_a_device_that_was_away_is_wiped_when_it_comes_back(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (laptop.path / "letter").write_text("dear")
    laptop.in_step(desk)
    laptop.umount()
    desk.must("devices", "wipe", "--yes", "laptop")
    assert "to be wiped" in desk.must("devices")
    # It may hear of it before the command has seen that it is mounted.
    laptop.cli("mount", laptop.path)
    assert eventually(lambda: files_of(laptop.home) == [])
    desk.sees("letter", "dear")


def test_a_device_that_is_signed_out_keeps_what_it_has(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "shared").write_text("one")
    desk.wait()
    laptop.sees("shared", "one")
    desk.must("devices", "rename", "laptop", "old laptop")
    assert "old laptop" in desk.must("devices")
    desk.must("devices", "sign-out", "old laptop")
    laptop.sees("shared", "one")
    (laptop.path / "unsent").write_text("kept")
    assert "sign in again" in laptop.cli("devices").stderr.lower()
    laptop.umount()
    laptop.login().mount()
    laptop.wait()
    desk.sees("unsent", "kept")


def test_status_says_that_the_account_is_disabled_and_all_is_sent_when_it_is_not(device: Any, server: Any) -> None:
    desk = device("desk")
    server.command("user", "disable", server.user, "--data", str(server.data))
    (desk.path / "unsent").write_text("kept")
    # The poll of before is still open, and is not cut by what another process wrote.
    assert eventually(lambda: not desk.status()["online"])
    told = desk.cli("status").stdout
    assert "This account is disabled: ask who runs the server. Nothing is lost" in told
    assert "being sent" not in told
    server.command("user", "enable", server.user, "--data", str(server.data))
    desk.wait()
    assert desk.status()["online"]


def test_a_new_password_signs_others_out_when_asked_to(device: Any, server: Any) -> None:
    desk, laptop = device("desk"), device("laptop", mount=False)
    wrong = desk.cli("password", "--password-stdin", text="wrong\nnew words\n")
    assert (wrong.returncode, "not the present password" in wrong.stderr) == (1, True)
    told = desk.must("password", "--password-stdin", "--sign-out-others", text=f"{server.password}\nnew words\n")
    assert "sign in again" in told
    assert laptop.cli("devices").returncode == 4
    refused = laptop.cli("login", server.url, "--user", server.user, "--password-stdin", text=f"{server.password}\n")
    assert refused.returncode == 4
    (desk.path / "still").write_text("here")
    desk.wait()


def test_nothing_is_wiped_without_a_yes(device: Any) -> None:
    desk, laptop = device("desk", mount=False), device("laptop", mount=False)
    asked = desk.cli("devices", "wipe", "laptop", text="y\n")
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    assert "laptop" in laptop.must("devices")


def test_own_device_and_unknown_ones_are_refused(device: Any) -> None:
    desk = device("desk", mount=False)
    own, unknown = desk.cli("devices", "sign-out", "desk"), desk.cli("devices", "wipe", "--yes", "tablet")
    assert (own.returncode, "satchel logout" in own.stderr) == (1, True)
    desk.must("devices", "rename", "desk", "big desk")
    assert [entry["name"] for entry in json.loads(desk.must("devices", "--json"))] == ["big desk"]
    assert json.loads((desk.home / "state" / "account.json").read_text())["device_name"] == "big desk"
    assert (unknown.returncode, "satchel devices lists what there is" in unknown.stderr) == (1, True)


def test_of_two_devices_with_one_name_none_is_signed_out_by_it(device: Any) -> None:
    desk, laptop = device("desk", mount=False), device("laptop", mount=False)
    desk.must("devices", "rename", "laptop", "vm")
    desk.must("devices", "rename", "desk", "vm")
    listed = {entry["is_this"]: str(entry["device"]) for entry in json.loads(desk.must("devices", "--json"))}
    for words in (("sign-out", "vm"), ("wipe", "--yes", "vm"), ("rename", "vm", "other")):
        refused = desk.cli("devices", *words)
        assert refused.returncode == 1
        assert all(number in refused.stderr for number in listed.values())
    laptop.must("devices")
    desk.must("devices", "sign-out", listed[False])
    assert laptop.cli("devices").returncode == 4
