"""Limits of speed, pause and resume, and what goes first, with the real daemon and server."""

import json
import os
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from fusefs import control
from fusefs.control import Refused
from fusefs.settings import Places
from tests.mounted.conftest import eventually
from tests.mounted.slow_line import SlowLine

pytestmark = pytest.mark.mounted

KIB, MIB = 1 << 10, 1 << 20


def test_limits_hold_at_once_and_after_a_restart(device: Any) -> None:
    desk = device("desk")
    assert "no limits" in desk.must("limit")
    assert "This drive sends at most 2.0 MiB" in desk.must("limit", "--up", "2M")
    desk.remount()
    told = desk.must("limit", "--down", "300K/s")
    assert "sends at most 2.0 MiB" in told
    assert "receives at most 300.0 KiB" in told
    assert desk.status()["limits"] == {"up": 2 * MIB, "down": 300 * KIB}
    began = time.monotonic()
    (desk.path / "large").write_bytes(Random(1).randbytes(4 * MIB))
    desk.wait()
    # Never faster than the limit: slower is no fault of it.
    assert time.monotonic() - began > 1.5
    assert "no limits" in desk.must("limit", "--off")
    assert desk.status()["limits"] == {"up": 0, "down": 0}


def test_a_limit_on_what_comes_in_holds_and_makes_reads_slow_not_failing(device: Any) -> None:
    desk = device("desk")
    content = Random(2).randbytes(2 * MIB)
    (desk.path / "large").write_bytes(content)
    laptop = device("laptop", read_seconds=3)
    desk.in_step(laptop)
    laptop.must("limit", "--down", "200K")
    began = time.monotonic()
    assert (laptop.path / "large").read_bytes() == content
    # A chunk takes longer than `read_seconds`.
    assert time.monotonic() - began > 5


@pytest.mark.parametrize("args", [["--up", "1K"], ["--up", "fast"], ["--down", "-1"]])
def test_limits_that_make_no_sense_are_refused(device: Any, args: list[str]) -> None:
    assert device("desk").cli("limit", *args).returncode == 2


@pytest.fixture
def slow_line(server: Any, device: Any) -> Iterator[SlowLine]:
    """A way to the server that takes 1 MiB a second; it ends before the devices do."""
    line = SlowLine(server.port, MIB)
    yield line
    line.stop()


def test_small_files_do_not_wait_for_large_ones(device: Any, server: Any, slow_line: SlowLine) -> None:
    desk = device("desk", mount=False)
    account = desk.home / "state" / "account.json"
    account.write_text(account.read_text().replace(str(server.port), str(slow_line.port)))
    desk.mount()
    for number in range(3):
        (desk.path / f"large{number}").write_bytes(Random(number).randbytes(48 * MIB))
    assert eventually(lambda: any(one["state"] == "sending" for one in desk.status()["pending"]["files"]))
    for number in range(3):
        (desk.path / f"small{number}").write_bytes(b"small" * 1_000)
        desk.wait(f"small{number}")
    # One of half a megabyte is cut and sent as large ones are.
    (desk.path / "medium").write_bytes(Random(9).randbytes(600 * KIB))
    desk.wait("medium")
    for number in range(3):
        assert os.getxattr(desk.path / f"large{number}", "user.satchel.state") == b"pending"
    slow_line.rate = 1 << 40
    desk.wait()


def test_while_paused_nothing_is_sent_and_reads_work(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    content = Random(3).randbytes(3 * MIB)
    (laptop.path / "theirs").write_bytes(content)
    laptop.in_step(desk)
    rev = desk.status()["rev"]
    assert "satchel resume" in desk.must("pause")
    desk.remount()
    (desk.path / "mine").write_bytes(Random(4).randbytes(3 * MIB))
    (desk.path / "note").write_text("a note")
    assert (desk.path / "theirs").read_bytes() == content
    waited = desk.cli("wait", "--timeout", "0.5")
    assert waited.returncode == 6
    assert waited.stderr.rstrip().endswith("It is safe on this device. Sending is paused. Go on with: satchel resume")
    status = desk.cli("status").stdout
    assert "satchel resume" in status
    # What others do shows all the same.
    (laptop.path / "news").write_text("news")
    laptop.wait()
    desk.sees("news", "news")
    assert {one["device"] for one in desk.ask("versions", path="") if one["rev"] > rev} <= {"laptop", ""}
    assert not (laptop.path / "note").exists()
    assert "goes on" in desk.must("resume")
    desk.wait()
    laptop.sees("note", "a note")


def test_a_pause_ends_by_itself(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    assert "until" in desk.must("pause", "--for", "2h")
    (desk.path / "note").write_text("a note")
    assert json.loads(desk.cli("status", "--json").stdout)["paused"]["is_paused"]
    # A shorter one takes its place.
    desk.must("pause", "--for", "0.3s")
    desk.wait()
    laptop.sees("note", "a note")
    assert not desk.status()["paused"]["is_paused"]
    assert desk.cli("pause", "--for", "soon").returncode == 2


def test_more_than_there_can_be_is_refused_and_sets_nothing(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = device("desk")
    for words in (
        ("pause", "--for", "300000d"),
        ("pause", "--for", "9" * 400 + "h"),
        ("limit", "--up", "99999999999999T"),
        ("limit", "--down", "2000T"),
        ("wait", "--timeout", "1e300"),
    ):
        answer = desk.cli(*words)
        assert answer.returncode == 2, answer
    # And what comes past our command.
    monkeypatch.setenv("SATCHEL_HOME", str(desk.home))
    address = Places.of_environment().socket
    for verb, fields in (
        ("pause", {"duration": 1e30}),
        ("pause", {"duration": float("nan")}),
        ("limit", {"up": 10**30}),
    ):
        with pytest.raises(Refused, match=r"at most|The most"):
            control.ask(address, verb, **fields)
    assert desk.status()["limits"] == {"up": 0, "down": 0}
    assert not desk.status()["paused"]["is_paused"]


def test_a_pause_stops_what_is_on_its_way_up(device: Any) -> None:
    desk = device("desk")
    # So slow that most of it is left, however long the commands take.
    desk.must("limit", "--up", "200K")
    (desk.path / "large").write_bytes(Random(5).randbytes(32 * MIB))
    assert eventually(lambda: any(one["state"] == "sending" for one in desk.status()["pending"]["files"]))
    before = desk.stats()["sent_bytes"]
    desk.must("pause")
    desk.must("limit", "--off")
    assert desk.cli("wait", "--timeout", "1").returncode == 6
    assert desk.stats()["sent_bytes"] - before < 16 * MIB
    desk.must("resume")
    desk.wait()


def test_close_with_sync_remote_says_that_sending_is_paused(device: Any) -> None:
    desk = device("desk", sync="remote")
    desk.must("pause")
    with pytest.raises(TimeoutError):
        (desk.path / "note").write_text("kept here")
    desk.must("resume")
    desk.wait()
    (desk.path / "note").write_text("sent")
    assert os.getxattr(desk.path / "note", "user.satchel.state") == b"synced"
