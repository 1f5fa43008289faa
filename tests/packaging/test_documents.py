"""What the documents name exists, and what exists is named where a maintainer looks for it."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "fusefs/SEMANTICS.md",
    "cache/FORMAT.md",
    "remote/PROTOCOL.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md"))),
)
PATH = re.compile(r"`((?:\./)?(?:fusefs|cache|remote|tests|packaging|docs)/[\w./-]+)(?:::(\w+))?")


def section(page: str, heading: str) -> str:
    """The text below a heading of level two, up to the next."""
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_the_floor_plan_names_every_module() -> None:
    plan = section(ARCHITECTURE, "Floor plan")
    rooms = {room: part for room in ("fusefs", "cache", "remote") for part in [_room(plan, room)]}
    missing = [
        str(path.relative_to(ROOT))
        for room, part in rooms.items()
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "__init__.py" and path.name not in part
    ]
    assert missing == []
    names = {name for part in rooms.values() for name in re.findall(r"\b\w+\.py\b", part)}
    assert names <= {path.name for room in rooms for path in (ROOT / room).rglob("*.py")}


def _room(plan: str, room: str) -> str:
    """The part of the floor plan from one top folder to the next."""
    found = re.search(rf"^{room}/.*?(?=^\S)", plan, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_every_dependency_has_a_reason() -> None:
    table = section(ARCHITECTURE, "Dependencies")
    listed = {
        name.strip()
        for row in table.splitlines()
        if row.startswith("| ") and not row.startswith(("| library", "| ---"))
        for name in row.split("|")[1].split(",")
    }
    extras = PROJECT["project"]["optional-dependencies"].values()
    groups = PROJECT["dependency-groups"].values()
    declared = [*PROJECT["project"]["dependencies"], *(one for part in (*extras, *groups) for one in part)]
    assert listed == {re.split(r"[<>=!~ ;\[]", one, maxsplit=1)[0] for one in declared}


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_tests_that_a_page_names_exist(page: str) -> None:
    missing = []
    for name, test in PATH.findall((ROOT / page).read_text()):
        path = ROOT / name
        if not path.exists() or (test and test not in _tests(path)):
            missing.append(f"{name}::{test}" if test else name)
    assert missing == []


def _tests(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, functions)}


def test_each_safety_level_names_its_test() -> None:
    promises = section((ROOT / "fusefs/SEMANTICS.md").read_text(), "Safety")
    rows = [row for row in promises.splitlines() if row.startswith("| ") and not row.startswith(("| after", "| ---"))]
    assert len(rows) == 3
    assert all("::test_" in row for row in rows)
