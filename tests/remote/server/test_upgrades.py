"""Data of older servers: brought to the present tables once, all or nothing."""

import sqlite3
from pathlib import Path

import pytest

from remote.server import instance as instances
from remote.server.database import accounts as account_rows
from remote.server.database import connection as connections
from remote.server.database.schema import FORMAT, UPGRADES
from remote.server.instance import InstanceTrouble

OLD_FORMATS = (3, 4)


def columns(database: Path) -> dict[str, set[tuple[object, ...]]]:
    """table or index -> its columns as SQLite tells of them: name, type, NOT NULL, default, place in the key."""
    opened = sqlite3.connect(database)
    try:
        names = [row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")]
        tables = {name: {row[1:] for row in opened.execute(f"PRAGMA table_info({name})")} for name in names}
        indices = {name: {row[2:] for row in opened.execute(f"PRAGMA index_info({name})")} for name in names}
    finally:
        opened.close()
    return {name: tables[name] | indices[name] for name in names}


@pytest.fixture(params=OLD_FORMATS)
def old_format(request: pytest.FixtureRequest) -> int:
    """A format that was, each in its turn."""
    return int(request.param)


@pytest.fixture
def old(old_format: int, tmp_path: Path, cheap_passwords: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An instance whose tables are those of an older format."""
    tables = Path(__file__).with_name(f"format_{old_format}.sql")
    statements = tuple(tables.read_text().split(";\n")[:-1])
    monkeypatch.setattr(connections, "TABLES", statements)
    monkeypatch.setattr(instances, "FORMAT", old_format)
    instances.make(tmp_path / "data", tmp_path / "key")
    monkeypatch.undo()
    return tmp_path / "data"


def test_upgraded_tables_are_those_of_a_new_instance(old: Path, old_format: int, tmp_path: Path) -> None:
    instances.make(tmp_path / "new", tmp_path / "key")
    assert columns(old / "satchel.db") != columns(tmp_path / "new" / "satchel.db")
    with instances.opened(old, tmp_path / "key") as opened:
        found = opened.database.read_now(lambda session: account_rows.setting(session, "format"))
    assert found == str(FORMAT).encode()
    assert columns(old / "satchel.db") == columns(tmp_path / "new" / "satchel.db")
    assert (old / f"satchel.db.format-{old_format}").exists()


def test_an_upgrade_that_fails_changes_nothing(
    old: Path, old_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = columns(old / "satchel.db")
    monkeypatch.setitem(UPGRADES, old_format, (*UPGRADES[old_format], "ALTER TABLE nowhere ADD COLUMN x"))
    with pytest.raises(InstanceTrouble, match="nothing was changed"), instances.opened(old, tmp_path / "key"):
        pass
    assert columns(old / "satchel.db") == before


def test_who_cannot_upgrade_says_who_can(old: Path, tmp_path: Path) -> None:
    with pytest.raises(InstanceTrouble, match="start the server once"):
        instances.set_quota(old, tmp_path / "key", "ann", 1)


def test_data_of_a_newer_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "FORMAT", FORMAT + 1)
    instances.make(tmp_path / "data", tmp_path / "key")
    monkeypatch.undo()
    with (
        pytest.raises(InstanceTrouble, match="the version that made it"),
        instances.opened(tmp_path / "data", tmp_path / "key"),
    ):
        pass
