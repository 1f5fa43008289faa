"""`satchel cache`: what this machine keeps, told, trimmed and bounded; and a small disk under it."""

import errno
import os
import random
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

MIB = 1 << 20
LEFT_BYTES = 128 << 10
SMALL_BYTES = 400_000


def test_the_cache_is_told_trimmed_and_bounded(device: Any, server: Any) -> None:
    desk = device("desk", cache_size_bytes=64 * MIB, read_seconds=30)
    for name in ("pinned", "other", "third"):
        (desk.path / name).write_bytes(os.urandom(8 * MIB))
    desk.wait()
    desk.must("pin", desk.path / "pinned")
    found = desk.ask("cache")
    assert found["used_bytes"] >= 24 * MIB
    assert found["unsent_bytes"] == 0
    assert until(lambda: desk.ask("cache")["pinned_bytes"] == 8 * MIB)
    assert "are used" in desk.must("cache")

    # Above what is used: nothing goes.
    assert "0 bytes were dropped" in desk.must("cache", "trim", "--to", "60M")
    assert "What is left is pinned" in desk.must("cache", "trim")
    assert 8 * MIB <= desk.ask("cache")["used_bytes"] < 9 * MIB
    desk.holds("pinned", 8 * MIB)
    desk.holds("other", 0)

    desk.must("cache", "limit", "20M")
    assert tomllib.loads((desk.home / "config/config.toml").read_text()) == {
        "cache_size_bytes": 20 * MIB,
        "read_seconds": 30,
    }
    for name in ("other", "third", "other", "third"):
        assert len((desk.path / name).read_bytes()) == 8 * MIB
        assert desk.ask("cache")["used_bytes"] <= 20 * MIB
    assert desk.cli("cache", "limit", "1M").returncode == 2

    # What the server does not have is never dropped.
    server.stop()
    (desk.path / "offline").write_bytes(b"o" * 4 * MIB)
    assert "not on the server yet" in desk.must("cache", "trim")
    assert desk.ask("cache")["unsent_bytes"] == 4 * MIB
    desk.remount()
    assert desk.ask("cache")["limit_bytes"] < 20 * MIB
    assert (desk.path / "offline").read_bytes() == b"o" * 4 * MIB
    server.start()
    desk.wait()


def test_a_limit_for_an_unmounted_drive_is_kept_for_the_next_mount(device: Any) -> None:
    desk = device("desk", mount=False)
    assert "from the next mount on" in desk.must("cache", "limit", "100M")
    desk.mount()
    assert 90 * MIB < desk.ask("cache")["limit_bytes"] <= 100 * MIB


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 48 MiB, where a device's home can lie."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_on_a_disk_that_is_full_nothing_that_was_closed_is_lost(tmp_path: Path, device: Any, server: Any) -> None:
    with small_disk(tmp_path / "desk"):
        desk = device("desk", read_seconds=1)
        desk.expects("Logging error", "Traceback", "No space left")
        server.stop()
        # Somebody else fills the disk meanwhile.
        others = desk.home / "others"
        others.write_bytes(bytes(16 * MIB))
        closed = fill(desk.path)
        assert 10 < closed < 48
        # All of it, not only what Satchel leaves to others.
        with suppress(OSError):
            others.write_bytes(bytes(48 * MIB))
        with pytest.raises(OSError, match="No space left"):
            (desk.path / "more").write_bytes(bytes(MIB))
        desk.kill()
        others.unlink()
        desk.mount()
        for number in range(closed):
            assert (desk.path / f"{number}").read_bytes() == bytes([number]) * MIB
        server.start()
        # Room again, as it is sent.
        for number in range(64, 128):
            (desk.path / f"{number}").write_bytes(bytes([number]) * MIB)
        desk.wait()
        assert {f"{number}" for number in (*range(closed), *range(64, 128))} <= set(os.listdir(desk.path))
        desk.umount()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_what_fills_the_disk_is_sent_without_anybody_making_room(tmp_path: Path, device: Any, server: Any) -> None:
    with small_disk(tmp_path / "desk"):
        desk = device("desk")
        desk.expects("Logging error", "Traceback", "No space left")
        server.stop()
        written: dict[str, bytes] = {}
        with suppress(OSError):
            for number in range(200):
                content = random.Random(number).randbytes(SMALL_BYTES)
                (desk.path / f"{number}").write_bytes(content)
                written[f"{number}"] = content
        desk.kill()
        desk.mount()
        disk = os.statvfs(desk.home)
        with (desk.home / "others").open("wb") as others:
            # Less is left than all of the answers take.
            os.posix_fallocate(others.fileno(), 0, disk.f_bavail * disk.f_frsize - LEFT_BYTES)
        server.start()
        desk.wait(timeout=300)
        for name, content in written.items():
            assert (desk.path / name).read_bytes() == content, f"{name} is not whole"
        desk.umount()


def fill(folder: Path) -> int:
    """How many files of a MiB could be written and closed before there was no room."""
    for number in range(64):
        try:
            (folder / f"{number}").write_bytes(bytes([number]) * MIB)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return number
    raise AssertionError("there is room for more than the disk has")
