"""A quota is said when programs write, also without the server; what was there stays whole."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

MB = 1_000_000


def refused(path: Path, content: bytes) -> None:
    with pytest.raises(OSError, match="quota") as caught:
        path.write_bytes(content)
    assert caught.value.errno == errno.EDQUOT


def test_without_the_server_writes_over_the_quota_are_refused(device: Any, server: Any) -> None:
    server.command("user", "quota", server.user, f"{10 * MB}", "--data", str(server.data))
    desk = device("desk", read_seconds=1)
    (desk.path / "old").write_bytes(b"o" * 6 * MB)
    desk.wait()
    assert until(lambda: desk.status()["spaces"][0]["used_bytes"] >= 6 * MB, 10.0)
    server.stop()
    (desk.path / "fits").write_bytes(b"f" * 3 * MB)
    refused(desk.path / "too large", b"t" * 3 * MB)
    # What does not grow fits always, and what is removed makes room.
    with (desk.path / "old").open("r+b") as file:
        file.write(b"n" * 2 * MB)
    (desk.path / "fits").unlink()
    (desk.path / "too large").unlink()
    (desk.path / "other").write_bytes(b"a" * 3 * MB)
    refused(desk.path / "too large", b"t" * 3 * MB)
    (desk.path / "too large").unlink()
    # Known again after a start without the server.
    desk.remount()
    refused(desk.path / "too large", b"t" * 3 * MB)
    (desk.path / "too large").unlink()
    server.start()
    desk.wait()
    assert (desk.path / "old").read_bytes() == b"n" * 2 * MB + b"o" * 4 * MB
    assert desk.status()["stuck"] == []


def test_with_the_server_the_end_of_the_quota_is_said_when_writing(device: Any, server: Any) -> None:
    server.command("user", "quota", server.user, f"{10 * MB}", "--data", str(server.data))
    desk = device("desk")
    (desk.path / "a").write_bytes(b"a" * 7 * MB)
    desk.wait()
    assert until(lambda: desk.status()["spaces"][0]["used_bytes"] >= 7 * MB, 10.0)
    refused(desk.path / "b", b"b" * 7 * MB)
    assert (desk.path / "b").read_bytes() == b"b" * 7 * MB, "it is kept here"
    # More was given meanwhile: it is sent.
    server.command("user", "quota", server.user, f"{30 * MB}", "--data", str(server.data))
    desk.wait()


def test_a_quota_that_is_set_while_mounted_is_known_soon_after_something_is_sent(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / "a").write_bytes(b"a" * 7 * MB)
    desk.wait()
    assert until(lambda: desk.status()["spaces"][0]["used_bytes"] >= 7 * MB, 10.0)
    server.command("user", "quota", server.user, f"{10 * MB}", "--data", str(server.data))
    (desk.path / "small").write_bytes(b"s" * 5_000)
    desk.wait()
    assert until(lambda: desk.status()["spaces"][0]["quota_bytes"] == 10 * MB, 10.0)
    refused(desk.path / "b", b"b" * 7 * MB)
