"""`satchel status` of a real mount: what is on its way, how far, and what its JSON promises."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.mounted.conftest import BIN, eventually

pytestmark = pytest.mark.mounted

PAGE = (Path(__file__).resolve().parents[2] / "docs/status.md").read_text()
MIB = 1 << 20


def documented(page: str) -> set[str]:
    """The names of fields in the first columns of a page's tables."""
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}


def fields(found: dict[str, Any]) -> set[str]:
    """Names of fields as the page has them: those of a struct with the struct's."""
    return {
        name
        for outer, value in found.items()
        for name in ([f"{outer}.{inner}" for inner in value] if isinstance(value, dict) else [outer])
    }


def test_what_is_documented_is_what_is_printed(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    (desk.path / "folder").mkdir()
    (desk.path / "folder/.x.swp").write_text("x")
    desk.wait()
    whole, rest = PAGE.split("`satchel status PATH --json`:")
    of_path, of_backup = rest.split("\n`satchel backup list --json`")
    assert fields(json.loads(desk.must("status", "--json"))) == documented(whole)
    assert fields(json.loads(desk.must("status", "--json", desk.path / "folder"))) == documented(of_path)
    papers = tmp_path / "papers"
    papers.mkdir()
    desk.must("backup", "add", papers)
    (one,) = json.loads(desk.must("backup", "list", "--json"))
    assert fields(one) == documented(of_backup)


def test_status_tells_how_far_uploads_are(device: Any) -> None:
    desk = device("desk")
    desk.must("limit", "--up", "400K")
    (desk.path / "large").write_bytes(Random(1).randbytes(48 * MIB))

    def is_moving() -> bool:
        pending = desk.status()["pending"]
        return bool(pending["sent_bytes"] and pending["seconds_left"])

    assert eventually(is_moving)
    status = json.loads(desk.cli("status", "--json").stdout)
    (file,) = [one for one in status["pending"]["files"] if one["path"] == "large"]
    assert file["bytes"] == 48 * MIB
    assert file["state"] == "sending"
    assert 0 < file["sent_bytes"] < 48 * MIB
    assert status["rates"]["up"] < MIB
    shown = re.compile(r"Up .* of it sent, .* a second, about [\d a-z]+ left.*large   48.0 MiB   \d+ % sent", re.DOTALL)
    assert eventually(lambda: bool(shown.search(desk.cli("status").stdout))), desk.cli("status").stdout
    with subprocess.Popen(
        [BIN / "satchel", "status", "--watch", "--json"], stdout=subprocess.PIPE, text=True, env=desk.environment
    ) as watcher:
        assert watcher.stdout is not None
        assert json.loads(watcher.stdout.readline())["pending"]["count"]
        desk.must("limit", "--off")
        assert any(not json.loads(line)["pending"]["count"] for line in watcher.stdout)
        watcher.terminate()


def test_status_of_a_path(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / ".satchelignore").write_text("*.o\n!\n")
    (desk.path / "folder").mkdir()
    (desk.path / "folder/letter").write_text("x" * 5_000)
    (desk.path / "folder/letter.o").write_text("x")
    desk.wait()
    assert "The server has it." in desk.must("status", desk.path / "folder/letter")
    assert "It is ignored, by *.o" in desk.must("status", desk.path / "folder/letter.o")
    assert "1 change ignored" in desk.must("status", desk.path / "folder")
    assert "Line 2 of .satchelignore" in desk.must("status")
    assert "1 ignored file (1 bytes): on this machine only" in desk.must("status")
    server.stop()
    (desk.path / "folder/letter").write_text("y")
    pending = desk.cli("status", desk.path / "folder")
    assert pending.returncode == 6
    assert "1 change to be sent" in pending.stdout
    assert desk.cli("status", desk.path / "folder/letter").returncode == 6
    server.start()
    desk.wait()


def test_a_server_that_falls_silent_has_nothing_of_what_is_written_then(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / "before").write_text("x")
    desk.wait()
    server.process.send_signal(signal.SIGSTOP)
    try:
        (desk.path / "inline").write_text("x" * 500)
        (desk.path / "chunk").write_bytes(Random(1).randbytes(50_000))
        assert eventually(lambda: desk.status()["silent_seconds"] > 0)
        found = desk.status()
        files = {one["path"]: one["sent_bytes"] for one in found["pending"]["files"]}
        assert (files["inline"], files["chunk"]) == (0, 0)
        assert found["pending"]["sent_bytes"] == 0
        printed = desk.cli("status").stdout
        assert "has not answered for" in printed or "offline" in printed
        assert "being sent" not in printed
    finally:
        server.process.send_signal(signal.SIGCONT)
    desk.wait()
    assert "All changes are on the server." in desk.must("status")


def test_names_are_printed_so_that_none_drives_the_terminal(device: Any) -> None:
    desk = device("desk")
    name = os.fsdecode(b"\x1b[2J\n\xff")
    shown = r"\x1b[2J\n\xff"
    desk.must("pause")
    (desk.path / name).write_text("text")
    for words in (
        ("pin", desk.path / name),
        ("pin", "--list"),
        ("status",),
        ("status", desk.path / name),
        ("wait", "--timeout", "0"),
        ("unpin", desk.path / name),
    ):
        answer = desk.cli(*words)
        said = answer.stdout + answer.stderr
        assert shown in said, (words, said)
        assert "\x1b" not in said, words
        assert "Traceback" not in said, words
    desk.must("resume")
    desk.wait()


def test_a_new_file_is_one_change(device: Any, server: Any) -> None:
    desk = device("desk")
    desk.wait()
    server.stop()
    (desk.path / "first").write_text("x")
    pending = desk.status()["pending"]
    assert (pending["count"], [one["path"] for one in pending["files"]]) == (1, ["first"])
    os.utime(desk.path, (1, 1))
    (desk.path / "first").unlink()
    # Something of the folder alone is a change, too.
    assert desk.status()["pending"]["count"] == 1
    server.start()
    desk.wait()
