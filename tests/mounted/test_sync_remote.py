"""`-o sync=remote`: what close(2) and fsync(2) promise then, and what they say when the server is away."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until

pytestmark = pytest.mark.mounted


_CLOSES = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(file, os.urandom(150_000))
try:
    os.close(file)
except OSError as error:
    print(error.errno)
"""


def state(path: Path) -> bytes:
    """Whether the server has it."""
    return os.getxattr(path, "user.satchel.state")


def test_what_was_closed_or_synced_is_on_the_server(device: Any) -> None:
    desk = device("desk", mount=False).mount("-o", "sync=remote")
    for number in range(10):
        path = desk.path / str(number)
        path.write_bytes(os.urandom(200_000 * number))
        assert state(path) == b"synced"
    (desk.path / "folder" / "inner").mkdir(parents=True)
    folder = os.open(desk.path / "folder", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    assert state(desk.path / "folder" / "inner") == b"synced"
    with open(desk.path / "open", "wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        assert state(desk.path / "open") == b"synced"
    os.unlink(desk.path / "open")
    assert not desk.status()["stuck"]


def test_without_the_server_close_fails_in_time_and_nothing_is_lost(device: Any, server: Any) -> None:
    desk = device("desk", mount=False, read_seconds=1).mount("-o", "sync=remote")
    (desk.path / "before").write_bytes(b"x")
    server.stop()
    began = time.monotonic()
    for number in range(20):
        fd = os.open(desk.path / str(number), os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"kept")
        with pytest.raises(OSError, match="timed out") as refused:
            os.close(fd)
        assert refused.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began < 20 * 15, "one waits for the server, the others are told at once"
    assert (desk.path / "before").read_bytes() == b"x", "who only reads does not wait"
    assert (desk.path / "19").read_bytes() == b"kept"
    server.start()
    assert until(lambda: state(desk.path / "19") == b"synced", 60), "it is sent when the server is back"
    (desk.path / "after").write_bytes(b"x")
    assert state(desk.path / "after") == b"synced"


def test_a_full_quota_is_said_by_close(device: Any, server: Any) -> None:
    desk = device("desk", mount=False).mount("-o", "sync=remote")
    server.command("user", "quota", server.user, "1000000", "--data", str(server.data))
    fd = os.open(desk.path / "large", os.O_CREAT | os.O_WRONLY)
    os.write(fd, os.urandom(3_000_000))
    with pytest.raises(OSError, match="quota") as refused:
        os.close(fd)
    assert refused.value.errno == errno.EDQUOT
    assert (desk.path / "large").stat().st_size == 3_000_000, "it is kept here"
    desk.expects("quota")


def test_close_says_that_another_edit_came_first(device: Any) -> None:
    desk, laptop = device("desk", mount=False).mount("-o", "sync=remote"), device("laptop")
    (laptop.path / "doc").write_text("old")
    desk.sees("doc", "old")
    desk.must("limit", "--up", "40k")
    with subprocess.Popen([sys.executable, "-c", _CLOSES, desk.path / "doc"], stdout=subprocess.PIPE, text=True) as one:
        assert until(lambda: desk.status()["pending"]["bytes"] >= 150_000)
        (laptop.path / "doc").write_text("of the laptop, later")
        laptop.wait()
        assert one.communicate(timeout=120)[0].strip() == str(errno.EBUSY)
    desk.wait()
    (conflict,) = desk.ask("conflicts", path="")["conflicts"]
    assert (conflict["is_sent"], conflict["lost"]["device"]) == (True, "desk")
    desk.sees("doc", "of the laptop, later")
    assert (desk.path / conflict["version"]).stat().st_size == 150_000
