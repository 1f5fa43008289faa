"""Every statement carries its shard key, so that the same tables can be spread over many machines."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import remote.server.database
from remote.server.database.connection import Database, make_tables
from remote.server.database.schema import SHARD_KEYS, TABLES

EVERY_SHARD = "/* every shard */"
Faults = Callable[[str], list[str]]
DATABASE = Path(remote.server.database.__file__).parent
# The index of a space is a file of its own: its shard key is its name.
STATEMENTS = [
    path for path in DATABASE.glob("*.py") if path.stem not in {"__init__", "schema", "connection", "scratch", "index"}
]


def statements_in(module: Path) -> list[str]:
    """Every string in a module that is a statement; f-strings are none, and there must be no others."""
    tree = ast.parse(module.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if re.match(r"(SELECT|INSERT|UPDATE|DELETE)\s", text)]


def test_every_table_begins_its_primary_key_with_its_shard_key() -> None:
    for table in TABLES:
        made = re.match(r"CREATE TABLE (\w+)", table)
        if made is None:
            indexed = re.search(r"ON (\w+) \((\w+)", table)
            assert indexed is not None
            assert indexed[2] == SHARD_KEYS[indexed[1]], table
            continue
        key = re.search(r"PRIMARY KEY \((\w+)", table)
        assert key is not None
        assert key[1] == (SHARD_KEYS[made[1]] or "name"), table
        assert not re.search(r"AUTOINCREMENT|SERIAL|REFERENCES|FOREIGN|TRIGGER", table)


def test_statements_are_written_out_whole() -> None:
    """So that the fixture which collects what ran, and a reader, see them as they are."""
    for module in STATEMENTS:
        assert statements_in(module), module
        for node in ast.walk(ast.parse(module.read_text())):
            assert not isinstance(node, ast.JoinedStr), f"{module.name}: a statement may not be put together"


def test_only_connections_touch_sqlite() -> None:
    for module in DATABASE.glob("*.py"):
        if module.name != "connection.py":
            assert "sqlite3" not in module.read_text(), module


def test_every_written_statement_binds_its_shard_key(shard_key_faults: Faults) -> None:
    found = [statement for module in STATEMENTS for statement in statements_in(module)]
    assert len(found) > 40
    assert not [fault for statement in found for fault in shard_key_faults(statement)]


def test_a_statement_without_its_shard_key_is_found(shard_key_faults: Faults) -> None:
    assert shard_key_faults("SELECT state FROM node WHERE node_id = ?")
    assert shard_key_faults("SELECT 1 FROM name JOIN node ON node.node_id = name.node_id WHERE name.space_id = ?")
    assert shard_key_faults("INSERT INTO node (node_id, space_id) VALUES (?, ?)")
    assert not shard_key_faults("SELECT state FROM node WHERE space_id = ? AND node_id = ?")


def test_every_statement_finds_its_rows_by_an_index(tmp_path: Path) -> None:
    """In the large tables by more than the shard key: a space may have a million rows in each."""
    make_tables(tmp_path / "database", lambda session: None)
    large = {"node", "name", "journal", "version", "op_seen", "manifest", "moment", "chunk_reference"}
    database = Database(tmp_path / "database")
    try:
        for statement in {statement for module in STATEMENTS for statement in statements_in(module)}:
            if EVERY_SHARD in statement:
                continue
            for step in plan_of(database, statement):
                found = re.match(r"(SCAN|SEARCH) (\w+)(?:.*\((\w+)=\? AND )?", step)
                assert found is None or found[1] == "SEARCH" or found[2] == "found", (statement, step)
                assert found is None or found[2] not in {*large, "older"} or found[3], (statement, step)
    finally:
        database.close()


def plan_of(database: Database, statement: str) -> list[str]:
    values = [0] * statement.count("?")
    return database.read_now(
        lambda session: [row[3] for row in session.rows(f"EXPLAIN QUERY PLAN {statement}", *values)]
    )
