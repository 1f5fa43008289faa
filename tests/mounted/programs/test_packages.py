"""Package managers at work in the mount: pip, npm and dpkg. What they install comes from this machine only."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.programs.running import is_kept, mounted_cold, run

pytestmark = pytest.mark.mounted

MODULES = 200


def _wheel(folder: Path) -> Path:
    """A folder with the wheel of a package of many modules."""
    source = folder / "source"
    package = source / "kitchen"
    package.mkdir(parents=True)
    for number in range(MODULES):
        (package / f"part_{number}.py").write_text(f"NUMBER = {number}\n" * (1 + number % 50))
    (package / "__init__.py").write_text(
        "import importlib\n\n\ndef main():\n"
        f"    parts = (importlib.import_module(f'kitchen.part_{{number}}') for number in range({MODULES}))\n"
        "    print(sum(part.NUMBER for part in parts))\n"
    )
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "kitchen"\nversion = "1.0"\nscripts = { kitchen = "kitchen:main" }\n'
    )
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels", source)
    return folder / "wheels"


def test_pip_installs_into_an_environment_in_the_mount(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    wheels, environment = _wheel(tmp_path), desk.path / "environment"
    run(sys.executable, "-m", "venv", environment)
    pip = (environment / "bin/pip", "--disable-pip-version-check")
    run(*pip, "install", "--no-index", "--find-links", wheels, "kitchen")
    assert run(environment / "bin/kitchen") == f"{sum(range(MODULES))}\n"
    run(*pip, "install", "--no-index", "--find-links", wheels, "--force-reinstall", "kitchen")
    run(*pip, "check")
    mounted_cold(desk)
    assert run(environment / "bin/kitchen") == f"{sum(range(MODULES))}\n"
    run(*pip, "uninstall", "--yes", "kitchen")
    assert not (environment / "bin/kitchen").exists()


def _npm_package(folder: Path, name: str, needs: dict[str, str]) -> Path:
    source = folder / f"source-{name}"
    (source / "lib").mkdir(parents=True)
    said = {"name": name, "version": "1.0.0", "main": "index.js", "bin": {name: "cli.js"}, "dependencies": needs}
    (source / "package.json").write_text(json.dumps(said))
    for number in range(MODULES):
        (source / "lib" / f"part-{number}.js").write_text(f"module.exports = {number};\n")
    (source / "index.js").write_text(
        "let sum = 0;\n"
        f"for (let n = 0; n < {MODULES}; n++) sum += require(`./lib/part-${{n}}.js`);\n"
        "module.exports = sum;\n"
    )
    (source / "cli.js").write_text("#!/usr/bin/env node\nconsole.log(require('./index.js'));\n")
    (source / "cli.js").chmod(0o755)
    tarball = folder / f"{name}.tgz"
    with tarfile.open(tarball, "w:gz") as file:
        file.add(source, "package")
    return tarball


def test_npm_installs_into_a_project_in_the_mount(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    spoon = _npm_package(tmp_path, "spoon", {})
    drawer = _npm_package(tmp_path, "drawer", {"spoon": f"file:{spoon}"})
    project = desk.path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"name": "project", "version": "1.0.0"}')
    npm = ("npm", "--offline", "--no-audit", "--no-fund", "--no-update-notifier")
    # Its cache lies in the mount too: it writes files of many sizes, and renames them.
    variables = {"npm_config_cache": desk.path / "npm-cache", "HOME": tmp_path}
    run(*npm, "install", drawer, folder=project, variables=variables)
    assert run(project / "node_modules/.bin/spoon", folder=project) == f"{sum(range(MODULES))}\n"
    run(*npm, "ci", folder=project, variables=variables)
    run(*npm, "ls", "--all", folder=project, variables=variables)
    mounted_cold(desk)
    assert run(project / "node_modules/.bin/drawer", folder=project) == f"{sum(range(MODULES))}\n"
    run(*npm, "uninstall", "drawer", folder=project, variables=variables)
    assert not (project / "node_modules/drawer").exists()


def _deb(folder: Path, name: str, version: str, needs: str) -> Path:
    """A package of the kinds of entries that packages have."""
    top = folder / f"{name}-{version}"
    for path in ("DEBIAN", "etc", f"usr/share/doc/{name}", f"usr/lib/{name}", "usr/bin"):
        (top / path).mkdir(parents=True)
    (top / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Ann <ann@localhost>\n"
        f"Description: a test\n{f'Depends: {needs}' if needs else 'Section: misc'}\n"
    )
    (top / "DEBIAN/conffiles").write_text(f"/etc/{name}.conf\n")
    (top / f"etc/{name}.conf").write_text(f"version = {version}\n")
    (top / "usr/bin" / name).write_text(f"#!/bin/sh\necho {name} {version}\n")
    (top / "usr/bin" / name).chmod(0o755)
    for number in range(MODULES):
        (top / f"usr/lib/{name}/module-{number}").write_text(f"{name} {version} {number}\n" * number)
    os.symlink(f"../lib/{name}/module-1", top / f"usr/bin/{name}-link")
    os.link(top / f"usr/lib/{name}/module-2", top / f"usr/lib/{name}/module-2-again")
    (top / f"usr/share/doc/{name}/changelog").write_bytes(os.urandom(100_000))
    package = folder / f"{name}_{version}_all.deb"
    run("dpkg-deb", "--build", "--root-owner-group", top, package)
    return package


def test_dpkg_installs_upgrades_and_removes_below_a_root_in_the_mount(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    root = desk.path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    dpkg = ("dpkg", f"--root={root}", "--force-not-root", "--force-bad-path", "--log=/dev/null")
    first = [_deb(tmp_path, "cup", "1.0", ""), _deb(tmp_path, "plate", "1.0", "cup (>= 1.0)")]
    second = [_deb(tmp_path, "cup", "1.1", ""), _deb(tmp_path, "plate", "1.1", "cup (>= 1.1)")]
    run(*dpkg, "--install", *first)
    assert run(root / "usr/bin/plate") == "plate 1.0\n"
    assert (root / "usr/lib/cup/module-2").stat().st_nlink == 2
    run(*dpkg, "--force-confnew", "--install", *second)
    assert run(root / "usr/bin/plate") == "plate 1.1\n"
    assert run(*dpkg, "--verify", "cup", "plate") == ""
    mounted_cold(desk)
    assert run(*dpkg, "--verify", "cup", "plate") == ""
    assert (root / "etc/cup.conf").read_text() == "version = 1.1\n"
    refused = subprocess.run([*dpkg, "--remove", "cup"], capture_output=True, text=True, check=False)
    assert "dependency problems" in refused.stderr
    run(*dpkg, "--purge", "plate", "cup")
    assert list((root / "usr").rglob("*cup*")) == []
    run("dpkg-deb", "--extract", first[0], desk.path / "extracted")
    is_kept(desk, desk.path)
