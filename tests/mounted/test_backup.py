"""Folders that are backed up: what changes there is in the drive, one way."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mounted


def test_first(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    folder = tmp_path / "papers"
    (folder / "sub/deep").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "sub/b").write_bytes(os.urandom(1_000_000))
    (folder / "sub/deep/c").write_text("")
    (folder / "link").symlink_to("a")
    (folder / "a").chmod(0o640)
    print(desk.must("backup", "add", folder))
    print(desk.must("backup", "now", folder))
    copy = desk.path / "Backups/desk/papers"
    assert (copy / "a").read_text() == "one"
    assert (copy / "sub/b").read_bytes() == (folder / "sub/b").read_bytes()
    assert stat.S_IMODE((copy / "a").stat().st_mode) == 0o640
    assert os.readlink(copy / "link") == "a"
    (folder / "a").write_text("two")
    desk.sees("Backups/desk/papers/a", "two")
    print(desk.must("status"))
    print(desk.must("backup", "status"))
