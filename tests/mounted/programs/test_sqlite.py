"""SQLite in the mount, with a write-ahead log and with a rollback journal: what was committed is there, and whole."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import eventually
from tests.mounted.programs.running import mounted_cold

pytestmark = pytest.mark.mounted

MODES = ("wal", "delete", "truncate", "persist")
ROUNDS = 3
# Says each row that was committed; every row holds what its number says, and one transaction writes two.
WRITER = textwrap.dedent("""
    import sqlite3, sys
    path, mode = sys.argv[1:]
    base = sqlite3.connect(path, isolation_level=None, timeout=120)
    base.execute(f"PRAGMA journal_mode = {mode}")
    base.execute("PRAGMA synchronous = FULL")
    base.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, half INTEGER, content BLOB)")
    number = base.execute("SELECT coalesce(max(number), 0) FROM rows").fetchone()[0]
    while True:
        base.execute("BEGIN IMMEDIATE")
        for half in (1, 2):
            number += 1
            content = number.to_bytes(4, "big") * (1 + number % 2000)
            base.execute("INSERT INTO rows VALUES (?, ?, ?)", (number, half, content))
        base.execute("COMMIT")
        print(number, flush=True)
""")


def _start(path: Path, mode: str, said: Path) -> subprocess.Popen[bytes]:
    with said.open("wb") as output:
        return subprocess.Popen([sys.executable, "-c", WRITER, path, mode], stdout=output, stderr=subprocess.PIPE)


def _lines(said: Path) -> list[int]:
    return [int(line) for line in said.read_text().split("\n")[:-1]]


def _check(path: Path, committed: int) -> int:
    """Fails unless the database is whole and holds all that was committed; the last row's number."""
    with closing(sqlite3.connect(path, timeout=120)) as base:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = base.execute("SELECT number, half, content FROM rows ORDER BY number").fetchall()
    assert [number for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) % 2 == 0, "half a transaction"
    assert len(rows) >= committed
    assert all(content == number.to_bytes(4, "big") * (1 + number % 2000) for number, _, content in rows)
    return len(rows)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_committed_survives_a_killed_program_and_a_killed_daemon(
    device: Any, tmp_path: Path, mode: str
) -> None:
    desk = device("desk")
    path, said = desk.path / "base.sqlite", tmp_path / "said"
    rows = 0
    for who in ("program", "daemon") * ROUNDS:
        program = _start(path, mode, said)
        assert eventually(lambda: len(_lines(said)) >= 20, 240.0), program.poll()
        if who == "daemon":
            desk.kill()
        program.send_signal(signal.SIGKILL)
        program.communicate()
        if who == "daemon":
            desk.mount()
        committed = _lines(said)[-1]
        assert committed > rows
        rows = _check(path, committed)
    mounted_cold(desk)
    assert _check(path, rows) == rows


def test_two_programs_write_one_database(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    path = desk.path / "base.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA journal_mode = wal")
        base.execute("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER)")
        base.execute("INSERT INTO counters VALUES ('shared', 0)")
        base.commit()
    count = textwrap.dedent("""
        import sqlite3, sys
        base = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=120)
        for _ in range(100):
            base.execute("BEGIN IMMEDIATE")
            base.execute("UPDATE counters SET value = value + 1")
            base.execute("COMMIT")
    """)
    programs = [subprocess.Popen([sys.executable, "-c", count, path]) for _ in range(3)]
    assert [program.wait(120) for program in programs] == [0, 0, 0]
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("SELECT value FROM counters").fetchall() == [(300,)]
        assert base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0] == 0
    laptop = device("laptop")
    desk.in_step(laptop)
    with closing(sqlite3.connect(f"file:{laptop.path / 'base.sqlite'}?mode=ro", uri=True)) as base:
        assert base.execute("SELECT value FROM counters").fetchall() == [(300,)]
