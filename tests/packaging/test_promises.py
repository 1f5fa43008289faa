"""What pyproject.toml, the lock files and the commands promise to somebody who has a fresh checkout."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
USES = ("build", "dev", "mount", "server")
BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
# One lock file, and the requirements that it must satisfy.
LOCKED = {
    "build": GROUPS["build"],
    "mount": BASE + EXTRAS["mount"],
    "server": BASE + EXTRAS["server"],
    "dev": BASE + EXTRAS["mount"] + EXTRAS["server"] + GROUPS["dev"],
}
# A folder, and the requirements that it may import from.
ALLOWED = {
    "cache": BASE,
    "fusefs": BASE + EXTRAS["mount"],
    "remote/protocol": BASE,
    "remote/client": BASE,
    "remote/server": BASE + EXTRAS["server"],
    "tests": LOCKED["dev"],
}


def normal(name: str) -> str:
    """A distribution's name without version, in the one spelling that compares."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~ ;\[]", name, maxsplit=1)[0]).lower()


def lock(use: str) -> str:
    return (ROOT / "packaging" / f"requirements-{use}.txt").read_text()


def imports(folder: Path) -> dict[str, Path]:
    """Top-level names that the Python files below a folder import, each with one file that does."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[node.module.split(".")[0]] = path
    return found


@pytest.mark.parametrize("use", USES)
def test_lock_names_no_host_and_no_path(use: str) -> None:
    entry = re.compile(r"[a-z0-9-]+==[\w.+]+( ; [\w '=!<>.]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    strange = [line for line in lock(use).splitlines() if not entry.fullmatch(line)]
    assert not strange


@pytest.mark.parametrize("use", USES)
def test_lock_holds_every_declared_dependency(use: str) -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock(use), re.MULTILINE))
    assert {normal(requirement) for requirement in LOCKED[use]} <= locked


def test_locks_agree_on_every_version() -> None:
    # A version may be for some Pythons only, and another one for the others.
    pins = {pin for use in USES for pin in re.findall(r"^([a-z0-9-]+)==(\S+)( ; .*)? \\$", lock(use), re.MULTILINE)}
    uses = [(name, python) for name, _, python in pins]
    assert len(uses) == len(set(uses)), sorted(pins)


@pytest.mark.parametrize("folder", ALLOWED)
def test_every_import_is_declared(folder: str) -> None:
    providers = packages_distributions()
    allowed = {normal(requirement) for requirement in ALLOWED[folder]}
    undeclared = {
        name: str(path.relative_to(ROOT))
        for name, path in imports(ROOT / folder).items()
        if name not in sys.stdlib_module_names
        and name not in ("fusefs", "cache", "remote", "tests")
        and not allowed & {normal(provider) for provider in providers.get(name, [])}
    }
    assert not undeclared


def sleeps(path: Path) -> list[str]:
    """Calls in this file that let real time pass; `sleep(0)` lets none."""
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    texts = [ast.unparse(call) for call in calls]
    # What runs in tests/model, or by its `in_no_time` or `in_world`, has a mock clock: trio's time is not real there.
    text = path.read_text()
    is_mocked = "model" in path.parts or "in_no_time" in text or "in_world" in text
    modules = "time|asyncio|anyio" if is_mocked else "time|asyncio|anyio|trio"
    return [text for text in texts if re.match(rf"({modules})\.sleep\((?!0\))", text)]


def test_no_test_sleeps_to_wait() -> None:
    # bench and stress are programs that wait for other people's programs, and test nothing.
    tests = [path for path in (ROOT / "tests").rglob("*.py") if not {"bench", "stress"} & set(path.parts)]
    found = {str(path.relative_to(ROOT)): sleeps(path) for path in tests}
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_ci_runs_exactly_the_command_that_people_run() -> None:
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "./packaging/test"]


@pytest.mark.parametrize("command", [".ci/run", "packaging/lock", "packaging/setup", "packaging/test", "packaging/try"])
def test_command_can_be_started(command: str) -> None:
    assert (ROOT / command).stat().st_mode & 0o111 == 0o111


def test_wheel_holds_every_file_of_the_three_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    packages = (ROOT / "fusefs", ROOT / "cache", ROOT / "remote")
    files = [path for package in packages for path in package.rglob("*") if path.is_file()]
    present = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert present
    assert present <= set(zipfile.ZipFile(wheel).namelist())


def test_setup_is_fast_when_nothing_changed() -> None:
    subprocess.run([ROOT / "packaging/setup", "--dev"], check=True, capture_output=True, timeout=600)
    again = subprocess.run([ROOT / "packaging/setup", "--dev"], check=True, capture_output=True, text=True, timeout=300)
    assert "Installing" not in again.stderr
    assert again.stdout == ""
