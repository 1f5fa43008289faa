"""The guards of tests/conftest.py: what a test may not leave behind or hide."""

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def has_ended(process: int) -> bool:
    """Whether this process ends within a short while; one that nobody has waited for yet counts as ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 60)[0])
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
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


COMPLAINTS = {
    "import logging\ndef test_log(): logging.getLogger('a.b').error('disk gone')": "disk gone",
    "import warnings\ndef test_warning(): warnings.warn('old way')": "old way",
    "def test_file(): open(__file__)": "unclosed file",
    "import pytest\n@pytest.mark.logs_errors('no such')\ndef test_announced(): pass": "announced by logs_errors",
    "import pytest\n@pytest.mark.xfail\ndef test_success(): pass": "XPASS(strict)",
}
"""A test that must not pass, and what the report says of it."""


def test_nothing_passes_that_hides_something(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, "\n".join(COMPLAINTS))
    assert result.returncode == 1
    assert [complaint for complaint in COMPLAINTS.values() if complaint not in result.stdout] == []


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
