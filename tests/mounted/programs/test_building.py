"""A C project is configured, built and tested in the mount."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import debian
from tests.mounted.programs.running import is_kept, run

pytestmark = pytest.mark.mounted


def test_zlib_is_configured_built_tested_and_installed(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    work = tmp_path / "apt"
    work.mkdir()
    tarball = debian.source_package("zlib", work)[0]
    run("tar", "--extract", "--file", tarball, "--directory", desk.path)
    source = next(desk.path.glob("zlib-*"))
    run("./configure", f"--prefix={desk.path / 'installed'}", folder=source)
    run("make", "-j2", "all", folder=source)
    said = run("make", "test", folder=source)
    assert "zlib test OK" in said
    assert "zlib shared test OK" in said
    before = {path: path.stat().st_mtime_ns for path in source.glob("*.o")}
    assert len(before) > 10
    run("make", "-j2", "all", folder=source)
    assert {path: path.stat().st_mtime_ns for path in source.glob("*.o")} == before, "make built again what was new"
    os.utime(source / "inflate.c")
    run("make", "-j2", "all", folder=source)
    assert (source / "inflate.o").stat().st_mtime_ns > before[source / "inflate.o"]
    run("make", "install", folder=source)
    is_kept(desk, desk.path)
    run("make", "test", folder=source)
    run("make", "distclean", folder=source)
    assert list(source.glob("*.o")) == []
