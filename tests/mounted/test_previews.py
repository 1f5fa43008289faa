"""Previews as a person asks for them: of a file in the drive, without its content coming to the device."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.mounted


def test_a_preview_comes_without_the_picture(device: Any, tmp_path: Path) -> None:
    desk, laptop = device("desk"), device("laptop")
    noise = Image.frombytes("RGB", (1_500, 1_000), os.urandom(1_500 * 1_000 * 3))
    noise.save(desk.path / "noise.png")
    (desk.path / "text.txt").write_text("no picture")
    desk.in_step(laptop)
    before = laptop.stats()["received_bytes"]
    for size, pixels in (("normal", 128), ("large", 256), ("xx-large", 1_024)):
        laptop.must("preview", laptop.path / "noise.png", "--size", size, "-o", tmp_path / "made.png")
        with Image.open(tmp_path / "made.png") as made:
            assert made.size == (pixels, round(pixels * 2 / 3))
    assert laptop.stats()["received_bytes"] - before < 100_000
    refused = laptop.cli("preview", laptop.path / "text.txt", "-o", tmp_path / "none.png")
    assert refused.returncode == 1
    assert "There is no preview of such a file" in refused.stderr
    assert not (tmp_path / "none.png").exists()
