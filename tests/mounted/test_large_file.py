"""A large file: fetched where it is read, sent where it changed, and sent once however often it is copied."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import Noise, digest

pytestmark = pytest.mark.mounted

SIZE = int(os.environ.get("SATCHEL_TEST_LARGE_BYTES", "2147483648"))
SEND_SECONDS = 300.0
KIB, MIB = 1 << 10, 1 << 20


def test_a_large_file_moves_only_what_is_needed(device: Any, tmp_path: Path) -> None:
    desk, noise = device("desk"), Noise(seed=20_261_121)
    written = noise.write_to(desk.path / "large", SIZE)
    desk.wait(timeout=SEND_SECONDS)

    laptop = device("laptop")
    before = laptop.stats()["received_bytes"]
    part, offset = tmp_path / "part", SIZE * 3 // 5 // (64 * KIB)
    there = laptop.path / "large"
    subprocess.run(
        ["dd", f"if={there}", f"of={part}", "bs=64K", "count=1", f"skip={offset}", "status=none"], check=True
    )
    assert part.read_bytes() == noise.part(offset * 64 * KIB, 64 * KIB)
    assert laptop.stats()["received_bytes"] - before < 8 * MIB
    assert digest(there) == written

    here, middle = desk.path / "large", SIZE // 2 + 12_345
    before = desk.stats()["sent_bytes"]
    changed = os.urandom(4 * KIB)
    with here.open("r+b") as file:
        file.seek(middle)
        file.write(changed)
    desk.in_step(laptop, timeout=SEND_SECONDS)
    assert desk.stats()["sent_bytes"] - before < 32 * KIB
    before = laptop.stats()["received_bytes"]
    with there.open("rb") as file:
        file.seek(middle)
        assert file.read(4 * KIB) == changed
    assert laptop.stats()["received_bytes"] - before < 8 * MIB

    before = desk.stats()["sent_bytes"]
    subprocess.run(["cp", here, desk.path / "copy"], check=True)
    desk.in_step(laptop, timeout=SEND_SECONDS)
    # The chunk around the change was never sent whole.
    assert desk.stats()["sent_bytes"] - before < 2 * MIB
    before = laptop.stats()["received_bytes"]
    assert digest(laptop.path / "copy") == digest(here) != written
    # What the copy is made of was there already, but for the piece around the change.
    assert laptop.stats()["received_bytes"] - before < 8 * MIB
