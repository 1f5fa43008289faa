"""Pinned content stays here whatever the cache's limit, and is all here when the server goes away."""

import random
from typing import Any

import pytest

pytestmark = pytest.mark.mounted

MIB = 1 << 20


def test_what_is_pinned_is_here_offline_and_survives_a_full_cache(device: Any, server: Any) -> None:
    content = random.Random(7)
    desk = device("desk")
    (desk.path / "pinned").mkdir()
    for name in ("pinned/a", "pinned/b", "other/c", "other/d"):
        (desk.path / name).parent.mkdir(exist_ok=True)
        (desk.path / name).write_bytes(content.randbytes(12 * MIB))
    desk.wait()
    laptop = device("laptop", cache_size_bytes=64 * MIB)
    laptop.must("pin", laptop.path / "pinned")
    laptop.holds("pinned/a", 12 * MIB)
    laptop.holds("pinned/b", 12 * MIB)
    (desk.path / "pinned" / "later").write_bytes(b"l" * 100_000)
    desk.in_step(laptop)
    laptop.holds("pinned/later", 100_000)
    for name in ("other/c", "other/d") * 3:
        assert len((laptop.path / name).read_bytes()) == 12 * MIB
    server.stop()
    for name in ("pinned/a", "pinned/b", "pinned/later"):
        assert (laptop.path / name).read_bytes() == (desk.path / name).read_bytes()
    assert "pinned: 3 files, 24.1 MiB; all of it is here" in laptop.must("pin", "--list")
    assert "was not pinned itself" in laptop.must("unpin", laptop.path / "other")
    assert "only as long as there is room" in laptop.must("unpin", laptop.path / "pinned")
