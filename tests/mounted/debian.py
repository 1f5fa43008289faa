"""Debian source packages for tests: fetched with apt from where this machine gets its packages, then kept."""

import os
import re
import shutil
import subprocess
from pathlib import Path

LISTS = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
FETCH_SECONDS = 300


def kept() -> Path:
    """The folder where fetched packages stay, so that later runs need no network."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "satchel-tests" / "sources"


def source_package(name: str, work: Path) -> list[Path]:
    """The tarballs of a source package, in the order in which they are unpacked; `work` is an empty folder."""
    folder = kept() / name
    if not folder.is_dir():
        _fetch(name, folder, work)
    return sorted(folder.glob("*.tar.*"), key=lambda path: ".orig." not in path.name)


def _fetch(name: str, folder: Path, work: Path) -> None:
    """Fetches the package without touching what apt knows; the folder appears whole or not at all."""
    for part in ("parts", "lists/partial", "cache/archives/partial", "found"):
        (work / part).mkdir(parents=True)
    _write_sources(work / "parts")
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(work / "parts"),
        "Dir::State::lists": str(work / "lists"),
        "Dir::Cache": str(work / "cache"),
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # apt, when root, would become a user who may not write here.
        "APT::Sandbox::User": "root",
    }
    command = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _run([*command, "update"], work)
    _run([*command, "source", "--download-only", name], work / "found")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not by rename: the two may lie on different disks.
    shutil.move(work / "found", folder)


def _write_sources(parts: Path) -> None:
    """The machine's own entries for binary packages, as entries for source packages, in both forms that apt reads."""
    files = [file for place in LISTS for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    for number, file in enumerate(files):
        text = file.read_text() if file.is_file() else ""
        if file.suffix == ".list":
            lines = [line.replace("deb", "deb-src", 1) for line in text.splitlines() if re.match(r"deb\s", line)]
            (parts / f"{number}.list").write_text("".join(f"{line}\n" for line in lines))
        elif file.suffix == ".sources":
            as_source = re.sub(r"(?mi)^Types:.*$", "Types: deb-src", text)
            (parts / f"{number}.sources").write_text(as_source)


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if result.returncode:
        raise RuntimeError(f"The tests need a Debian source package, which apt-get could not fetch: {result.stderr}")
