"""docs/API.md: its commands are run, in order, by a real shell with real curl, and what it shows is what comes."""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote.server import instance as instances
from tests.remote.server.test_process import DEADLINE_SECONDS, Home

PAGE = Path(__file__).parents[3] / "docs" / "API.md"
ANYTHING = "…"
END = "--- that was it ---"


def steps() -> Iterator[tuple[str, list[str]]]:
    """Each command of the page with the lines that it shows below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        command, shown = "", list[str]()
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            else:
                shown.append(line)
        yield command, shown


def is_as_shown(said: str, shown: list[str]) -> bool:
    pattern = "\n".join(".*?".join(map(re.escape, line.split(ANYTHING))) for line in shown)
    return re.fullmatch(pattern, said.rstrip("\n")) is not None


class Shell:
    """One bash for the whole page, so that its variables and functions last."""

    def __init__(self, directory: Path, server: str) -> None:
        self.is_idle = True
        kept = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8", "NO_PROXY": "127.0.0.1"}
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env={**kept, "SERVER": server},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """What the command says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho; echo '{END}'\n".encode())
        self.process.stdin.flush()
        said, self.is_idle = b"", False
        deadline = time.monotonic() + DEADLINE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not said.endswith(f"\n{END}\n".encode()):
                assert selector.select(max(0.0, deadline - time.monotonic())), (command, said)
                piece = os.read(self.process.stdout.fileno(), 65_536)
                assert piece, (command, said)
                said += piece
        self.is_idle = True
        # Headers end their lines with both.
        return said.decode().replace("\r\n", "\n").removesuffix(f"\n{END}\n")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if not self.is_idle:
            # In the middle of a command that failed the test.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path, cheap_passwords: None) -> Iterator[Shell]:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    for name in ("ann", "bob"):
        instances.add_account(data, key_file, name, "correct horse")
    with home.serving() as (process, url):
        (tmp_path / "work").mkdir()
        shell = Shell(tmp_path / "work", url)
        yield shell
        shell.close()
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_the_page_shows_is_what_comes(shell: Shell) -> None:
    told = list(steps())
    assert len(told) > 40
    for command, shown in told:
        said = shell.run(command)
        assert is_as_shown(said, shown), f"$ {command}\n{said}\n--- but the page shows ---\n" + "\n".join(shown)
