"""packaging/setup: what it installs, when it starts over, and what it tells who cannot go on."""

import importlib.machinery
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

SETUP = Path(__file__).resolve().parents[2] / "packaging/setup"


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, at work on another environment than ours, as root of a Debian with a fake apt-get."""
    loader = importlib.machinery.SourceFileLoader("satchel_setup", str(SETUP))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path / "venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / "venv/stamp")
    monkeypatch.setattr(module, "UNFINISHED", tmp_path / "venv/unfinished")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    (tmp_path / "bin").mkdir()
    (tmp_path / "venv").mkdir()
    return module


def fake_apt(folder: Path, *, first_install_works: bool) -> Path:
    """An apt-get that writes its arguments to the file returned, and makes the file DONE when it installs something."""
    calls = folder / "calls"
    needs_lists = "" if first_install_works else f"grep -q update {calls} || exit 100"
    script = f"""#!/bin/bash
echo "$@" | sed -E 's/-o [^ ]+ //g' >>{calls}
[[ " $* " == *" update "* ]] && exit 0
{needs_lists}
touch {folder}/DONE
"""
    (folder / "bin/apt-get").write_text(script)
    (folder / "bin/apt-get").chmod(0o755)
    return calls


def test_only_missing_packages_are_installed_and_lists_are_left_alone(setup: ModuleType, tmp_path: Path) -> None:
    calls = fake_apt(tmp_path, first_install_works=True)
    needs = (
        setup.Need("fuse3", "here", lambda _: True),
        setup.Need("attr", "not here", lambda _: (tmp_path / "DONE").exists()),
    )
    setup.install_packages(needs, "python3")
    assert calls.read_text().splitlines() == ["-qq install --yes --no-install-recommends attr"]


def test_package_lists_are_fetched_when_the_first_try_fails(setup: ModuleType, tmp_path: Path) -> None:
    calls = fake_apt(tmp_path, first_install_works=False)
    setup.install_packages([setup.Need("attr", "not here", lambda _: (tmp_path / "DONE").exists())], "python3")
    assert [line.split()[1] for line in calls.read_text().splitlines()] == ["install", "update", "install"]


def test_nothing_is_called_when_nothing_is_missing(setup: ModuleType, tmp_path: Path) -> None:
    calls = fake_apt(tmp_path, first_install_works=True)
    setup.install_packages([setup.Need("attr", "here", lambda _: True)], "python3")
    assert not calls.exists()


def test_without_root_and_sudo_the_command_to_run_is_named(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake_apt(tmp_path, first_install_works=True)
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    with pytest.raises(SystemExit):
        setup.install_packages([setup.Need("attr", "not here", lambda _: False)], "python3")
    assert "As root: apt-get install --yes --no-install-recommends attr" in capsys.readouterr().err


def test_other_systems_are_told_what_is_missing(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    with pytest.raises(SystemExit):
        setup.install_packages([setup.Need("attr", "getfattr", lambda _: False)], "python3")
    assert "no Debian where they could be installed by apt-get: attr (getfattr)" in capsys.readouterr().err


def test_interrupted_run_does_not_count(setup: ModuleType) -> None:
    setup.STAMP.write_text('{"key": "k"}')
    assert setup.read_stamp() == {"key": "k"}
    setup.UNFINISHED.touch()
    assert setup.read_stamp() == {}


def test_torn_stamp_does_not_count(setup: ModuleType) -> None:
    setup.STAMP.write_text('{"key": ')
    assert setup.read_stamp() == {}


def test_environment_that_was_moved_is_not_at_home(setup: ModuleType) -> None:
    (setup.VENV / "bin").mkdir()
    (setup.VENV / "bin/pip").write_text("#!/elsewhere/.venv/bin/python3\n")
    assert not setup.is_at_home()
    (setup.VENV / "bin/pip").write_text(f"#!{setup.VENV}/bin/python3\n")
    assert setup.is_at_home()


def test_missing_fuse_device_is_explained(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_device(*_: object) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(setup.os, "open", no_device)
    monkeypatch.setattr(setup, "runs", lambda *_: False)
    setup.check_fuse(is_fatal=False)
    with pytest.raises(SystemExit):
        setup.check_fuse(is_fatal=True)
    assert capsys.readouterr().err.count("--device /dev/fuse") == 2
