"""Logs: bounded, one line for each event, and nothing is written past them."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, os, sys
from pathlib import Path
from fusefs import logs
logs._BYTES = 1_000
logs.begin(Path(sys.argv[1]))
for number in range(100):
    logging.getLogger("test").info("event %d of\\n\\x1b[2J%s", number, "x" * 50)
    os.write(2, b"a library speaks\\n")
"""


def test_the_log_is_bounded_and_takes_along_what_libraries_write(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    result = subprocess.run([sys.executable, "-c", PROGRAM, log], capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon.log", "daemon.log.1"]
    assert all(path.stat().st_size < 2_000 for path in tmp_path.iterdir())
    lines = log.read_text().splitlines()
    assert lines[-1] == "a library speaks"
    assert lines[-2].endswith("INFO test: event 99 of\\n\\x1b[2J" + "x" * 50)
