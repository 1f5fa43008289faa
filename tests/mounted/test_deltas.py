"""A stored file with bytes changed inside its chunks, kept as deltas: read, evicted, pinned, older, after a kill."""

import hashlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from remote.protocol.cutting import SIZES

pytestmark = pytest.mark.mounted

MIB = 1 << 20
SIZE = 24 * MIB
EDITS = 6


def edit(path: Path, content: bytearray, seed: int) -> None:
    """Changes a few bytes in each of EDITS places, in the file and in what it should hold."""
    chosen = Random(seed)
    with path.open("r+b") as file:
        for number in range(EDITS):
            offset = number * SIZE // EDITS + chosen.randrange(MIB)
            data = chosen.randbytes(4_096)
            file.seek(offset)
            file.write(data)
            content[offset : offset + len(data)] = data


def stored(device: Any, seed: int) -> bytearray:
    """What a file `large` that the server has now holds."""
    content = bytearray(Random(seed).randbytes(SIZE))
    (device.path / "large").write_bytes(content)
    device.wait()
    return content


def edited(device: Any, content: bytearray, seed: int) -> None:
    """Edits `large`; that deltas were sent, and no chunk, is seen by the bytes."""
    before = device.stats()["sent_bytes"]
    edit(device.path / "large", content, seed)
    device.wait()
    assert device.stats()["sent_bytes"] - before < SIZES.least


def digest(content: bytes | bytearray) -> str:
    """For comparing without printing megabytes."""
    return hashlib.sha256(content).hexdigest()


def test_deltas_are_read_through_a_cache_that_is_too_small(device: Any) -> None:
    desk = device("desk")
    content = stored(desk, 1)
    edited(desk, content, 2)
    edited(desk, content, 3)
    laptop = device("laptop", cache_size_bytes=16 * MIB)
    desk.in_step(laptop)
    for _ in range(3):
        assert digest((laptop.path / "large").read_bytes()) == digest(content)
    assert int(os.getxattr(laptop.path / "large", "user.satchel.cached_bytes")) < SIZE, "nothing had to go"
    # An edit over a delta whose base has to be fetched again.
    edited(laptop, content, 4)
    laptop.in_step(desk)
    assert digest((desk.path / "large").read_bytes()) == digest(content)


def test_pinned_deltas_are_here_without_the_server(device: Any, server: Any) -> None:
    desk = device("desk")
    content = stored(desk, 5)
    laptop = device("laptop", cache_size_bytes=64 * MIB)
    laptop.must("pin", laptop.path / "large")
    laptop.holds("large", SIZE)
    edited(desk, content, 6)
    desk.in_step(laptop)
    laptop.holds("large", SIZE)
    # Other content passes through and pushes out what it may.
    (desk.path / "other").write_bytes(Random(7).randbytes(2 * SIZE))
    desk.in_step(laptop)
    assert len((laptop.path / "other").read_bytes()) == 2 * SIZE
    server.stop()
    assert digest((laptop.path / "large").read_bytes()) == digest(content)


def test_each_older_state_is_whole_under_versions(device: Any) -> None:
    desk = device("desk")
    content = stored(desk, 8)
    states: dict[int, str] = {}
    for seed in (9, 10, 11):
        states[time.time_ns()] = digest(content)
        edited(desk, content, seed)
    (desk.path / "large").unlink()
    desk.wait()
    for moment, state in states.items():
        seconds, fraction = divmod(moment, 1_000_000_000)
        name = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H.%M.%S}.{fraction:09d}Z"
        assert digest((desk.path / ".versions" / name / "large").read_bytes()) == state


@pytest.mark.parametrize("is_offline", [False, True], ids=["while it is sent", "before it is sent"])
def test_an_edit_that_was_closed_survives_kill_9(device: Any, server: Any, *, is_offline: bool) -> None:
    desk, laptop = device("desk"), device("laptop")
    content = stored(desk, 12)
    edited(desk, content, 13)
    if is_offline:
        server.stop()
    edit(desk.path / "large", content, 14)
    desk.kill()
    if is_offline:
        server.start()
    desk.mount()
    assert digest((desk.path / "large").read_bytes()) == digest(content)
    # Over the same chunks once more: what the killed daemon knew of its deltas is still true.
    edit(desk.path / "large", content, 15)
    desk.in_step(laptop)
    assert digest((laptop.path / "large").read_bytes()) == digest(content)
    assert digest((desk.path / "large").read_bytes()) == digest(content)
