"""The guards of tests/conftest.py: what a test may not leave behind or hide."""

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def has_ended(process: int) -> bool:
    """Whether this process ends within a short while; one that nobody has waited for yet counts as ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 5)[0])
    finally:
        os.close(descriptor)


def run_pytest(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run this test in a folder of its own, under this project's guards and settings."""
    shutil.copy(ROOT / "tests/conftest.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "test_it.py").write_text(test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(folder / "base"),
        "test_it.py",
    ]
    environment = os.environ | {"SATCHEL_TEST_EXIT_SECONDS": "0.1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        ("import logging\ndef test(): logging.getLogger('a.b').error('disk gone')", "disk gone"),
        ("import warnings\ndef test(): warnings.warn('old way')", "old way"),
        ("def test(): open(__file__)", "unclosed file"),
        ("import pytest\n@pytest.mark.logs_errors('gone')\ndef test(): pass", "announced by logs_errors"),
        ("import pytest\n@pytest.mark.xfail\ndef test(): pass", "XPASS"),
    ],
    ids=["error in the log", "warning", "open file", "announced error that did not come", "unexpected success"],
)
def test_run_fails_on(tmp_path: Path, test: str, complaint: str) -> None:
    result = run_pytest(tmp_path, test)
    assert result.returncode == 1
    assert complaint in result.stdout


def test_announced_error_passes(tmp_path: Path) -> None:
    test = "import logging, pytest\n@pytest.mark.logs_errors('disk g.ne')\ndef test(): logging.error('disk gone')"
    result = run_pytest(tmp_path, test)
    assert result.returncode == 0, result.stdout


def test_process_that_was_made_a_daemon_is_found_and_ended(tmp_path: Path) -> None:
    test = f"""
import subprocess
def test():
    daemon = "sleep 1000 <&- >&- 2>&- & echo $! >{tmp_path}/pid"
    subprocess.run(["setsid", "sh", "-c", daemon], check=True)
"""
    result = run_pytest(tmp_path, test)
    assert result.returncode == 1
    assert "processes left behind" in result.stdout
    process = int((tmp_path / "pid").read_text())
    assert has_ended(process)
