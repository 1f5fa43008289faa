"""packaging/try: one command to a mounted folder, again after a stop, and again after everything was killed."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TRY = Path(__file__).resolve().parents[2] / "packaging/try"

pytestmark = pytest.mark.mounted


class Machine:
    """A person's home folder of its own, in which packaging/try is run."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SATCHEL_HOME", "XDG_"))}
        self.environment = kept | {"HOME": str(home)} | environment

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [TRY, *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, *arguments: str | Path) -> dict[str, str]:
        """What a successful start printed as JSON, which is all that it printed."""
        result = self.run(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        answer = json.loads(result.stdout)
        assert isinstance(answer, dict)
        return answer

    def processes(self) -> list[int]:
        """Everything that runs for this home folder."""
        mark = os.fsencode(f"HOME={self.home}")
        found = []
        for folder in Path("/proc").iterdir():
            try:
                is_ours = folder.name.isdecimal() and mark in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if is_ours:
                found.append(int(folder.name))
        return found

    def kill(self) -> None:
        """End everything as a crash would."""
        descriptors = [os.pidfd_open(process) for process in self.processes()]
        for descriptor in descriptors:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], 60)[0]
            os.close(descriptor)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    home = tmp_path / "person"
    home.mkdir()
    machine = Machine(home, SATCHEL_HOME=str(home / "kept"))
    yield machine
    machine.run("stop")


def is_mounted(folder: Path) -> bool:
    """Whether the kernel's list of mounts names it; asking the folder itself could wait for a dead daemon."""
    return any(line.split(" ")[4] == str(folder) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def test_files_come_back_after_a_stop_and_after_a_kill_of_everything(machine: Machine) -> None:
    folder = machine.home / "Drive"
    first = machine.start(folder)
    assert sorted(first) == ["mount", "password", "url", "user"]
    assert first["mount"] == str(folder)
    assert is_mounted(folder)
    (folder / "letter").write_text("dear reader")

    assert machine.start(folder) == first
    assert (folder / "letter").read_text() == "dear reader"

    machine.kill()
    assert machine.start(folder) == first
    assert (folder / "letter").read_text() == "dear reader"

    assert machine.run("stop", cwd=folder).returncode == 0, "it stands in its own way"
    assert not is_mounted(folder)
    assert machine.processes() == []
    assert machine.start() == first
    assert (folder / "letter").read_text() == "dear reader"

    other = machine.home / "Elsewhere"
    assert machine.start(other) == first | {"mount": str(other)}
    assert not is_mounted(folder)
    assert (other / "letter").read_text() == "dear reader"


def test_without_satchel_home_the_usual_folders_are_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        answer = machine.start()
        assert answer["mount"] == str(tmp_path / "Satchel")
        assert is_mounted(tmp_path / "Satchel")
        data = tmp_path / ".local/share/satchel/server"
        assert data.is_dir()
        shown = machine.run()
        assert all(value in shown.stdout for value in answer.values())
        assert "packaging/try stop" in shown.stdout
    finally:
        assert machine.run("stop").returncode == 0
    assert machine.processes() == []
    # Passwords and keys are nobody else's.
    private = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert not private


def test_stop_with_nothing_running_is_no_error(machine: Machine) -> None:
    result = machine.run("stop")
    assert result.returncode == 0
    assert "Nothing was running" in result.stderr


def test_folder_with_files_in_it_is_refused(machine: Machine) -> None:
    folder = machine.home / "Papers"
    folder.mkdir()
    (folder / "mine").write_text("here before")
    result = machine.run(folder)
    assert result.returncode == 1
    assert "is no empty folder" in result.stderr
    assert (folder / "mine").read_text() == "here before"
    assert machine.processes() == []
