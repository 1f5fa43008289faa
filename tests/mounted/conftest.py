"""Real servers and real mounts: every part as its users run it, each device with a SATCHEL_HOME of its own.

    def test_it(server, device):                    # Any: these classes cannot be imported from here
        desk, laptop = device("desk"), device("laptop")      # signed in and mounted
        (desk.path / "a").write_text("x")
        desk.wait()
        laptop.sees("a", "x")

At the end of each test every mount is taken away, every process ended, and the test fails when one of them did not
end well, left a mount or a process, or wrote an error or a warning into its log (announce those: device.expects(...)).
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fusefs import control, mounts
from tests.ports import port_of_its_own

BIN = Path(sys.executable).parent
USER = "ann"
PASSWORD = "a long password"
START_SECONDS = 120.0
END_SECONDS = 60.0
COMMAND_SECONDS = 120.0
SOON_SECONDS = 60.0
"""How long something that other processes bring about may take: a slow machine is no fault of it."""
PATIENCE = float(os.environ.get("SATCHEL_TEST_PATIENCE", "20"))
"""By how much longer than is promised things may take; 1 on a machine that has nothing else to do."""
COMPLAINTS = re.compile(r" (ERROR|CRITICAL) |Traceback|[a-z]Warning: |Exception ignored|never awaited")


def eventually(check: Callable[[], bool], seconds: float = SOON_SECONDS) -> bool:
    """Whether something that other processes bring about comes true in time; looks often, and at least once."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not check():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


def ended(process: int, seconds: float = END_SECONDS) -> bool:
    """Whether a process ends in time."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def processes_with(text: bytes) -> dict[int, str]:
    """Command lines of running processes that have this in their environment, by id."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if text in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


@dataclass
class Server:
    """A server on a port that stays the same through stops and starts; `home` holds its data and its master key."""

    home: Path
    port: int
    user: str = USER
    password: str = PASSWORD
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    options: tuple[str, ...] = ()
    """Further arguments of `satchel-server run`, from its next start on."""
    _reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.home / "data"

    def command(self, *args: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Runs satchel-server; must succeed."""
        command = [BIN / "satchel-server", *args]
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=True,
            timeout=COMMAND_SECONDS,
            env=self._environment(),
        )

    def add_user(self, name: str) -> None:
        """Makes an account, with the same password as the first one has."""
        self.command("user", "add", name, "--password-stdin", "--data", str(self.data), text=self.password + "\n")

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SATCHEL_HOME": str(self.home), "PYTHONWARNINGS": "default"}

    def start(self) -> "Server":
        """Returns when it answers."""
        assert self.process is None, "it runs already"
        ready = threading.Event()
        self.process = subprocess.Popen(
            [BIN / "satchel-server", "run", "--data", self.data, "--listen", f"127.0.0.1:{self.port}", *self.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
        )
        self._reader = threading.Thread(target=self._read, args=(self.process, ready), daemon=True)
        self._reader.start()
        assert ready.wait(START_SECONDS), f"the server did not start: {self.log}"
        assert self.process.poll() is None, f"the server ended: {self.log}"
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.log.append(line.rstrip("\n"))
                if self.url in line:
                    ready.set()
        ready.set()

    def stop(self) -> None:
        """Ends it as a person would."""
        assert self._end(signal.SIGTERM) == 0, f"the server did not end well: {self.log}"

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stops and starts it."""
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        assert process is not None, "it does not run"
        process.send_signal(number)
        code = process.wait(END_SECONDS)
        assert self._reader is not None
        self._reader.join(END_SECONDS)
        return code

    def expects(self, *patterns: str) -> None:
        """These complaints in its log are what the test is about."""
        self.expected += patterns

    def check(self) -> list[str]:
        """Ends it; what was wrong with it."""
        wrong = []
        if self.process is not None:
            code = self._end(signal.SIGTERM)
            wrong = [f"the server ended with {code}"] if code else []
        return wrong + [f"the server's log: {line}" for line in complaints(self.log, self.expected)]


@dataclass
class Device:
    """One signed-in installation; mounted at `path` between `mount` and `umount` or `kill`."""

    name: str
    home: Path
    path: Path
    server: Server
    user: str = USER
    expected: list[str] = field(default_factory=list)
    options: tuple[str, ...] = ()
    """Arguments of the last mount."""

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see."""
        return {**os.environ, "SATCHEL_HOME": str(self.home), "PYTHONWARNINGS": "default"}

    def cli(
        self, *args: str | Path, text: str = "", timeout: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Runs `satchel` as this device, whatever comes of it."""
        command = [BIN / "satchel", *args]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=timeout, env=self.environment
        )

    def must(self, *args: str | Path, text: str = "", timeout: float = COMMAND_SECONDS) -> str:
        """What `satchel` prints; it must succeed."""
        result = self.cli(*args, text=text, timeout=timeout)
        assert result.returncode == 0, f"satchel {' '.join(map(str, args))}: {result.returncode}\n{result.stderr}"
        return result.stdout

    # What the daemon answers is JSON: each test knows what it asks for.
    def ask(self, verb: str, **fields: object) -> Any:
        """Asks the daemon without a process in between."""
        return control.ask(self.home / "run" / "control", verb, **fields)  # type: ignore[arg-type]

    def configure(self, **settings: str | int | float | bool) -> "Device":
        """Writes config.toml, for the next mount."""
        file = self.home / "config" / "config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        return self

    def login(self) -> "Device":
        """Signs in at the server."""
        self.must(
            "login",
            self.server.url,
            "--user",
            self.user,
            "--password-stdin",
            "--device-name",
            self.name,
            text=self.server.password + "\n",
        )
        return self

    def mount(self, *args: str) -> "Device":
        """Mounts; returns when usable."""
        self.options = args
        self.must("mount", self.path, *args)
        return self

    def umount(self) -> None:
        """Unmounts; returns when the daemon has ended."""
        self.must("umount", self.path)

    def remount(self) -> None:
        """Unmounts and mounts as before."""
        self.umount()
        self.mount(*self.options)

    def kill(self) -> None:
        """Kills the daemon; the dead mount point stays, as after a crash."""
        process = self.pid
        os.kill(process, signal.SIGKILL)
        assert ended(process), "a killed daemon does not end"

    def forget_cache(self) -> None:
        """Throws away, while unmounted, what can be fetched again."""
        shutil.rmtree(self.home / "cache")

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return int(self.ask("ping")["pid"])

    @property
    def is_mounted(self) -> bool:
        """Whether something, alive or dead, is mounted there."""
        return mounts.mount_at(str(self.path)) is not None

    def stats(self) -> dict[str, Any]:
        """What `satchel stats --json` prints."""
        return dict(self.ask("stats"))

    def status(self) -> dict[str, Any]:
        """What `satchel status --json` prints."""
        return dict(self.ask("status"))

    def wait(self, path: str | Path = "", timeout: float = 300.0) -> None:
        """Returns when the server has everything, or all at and below a path (relative to the mount)."""
        args = [self.path / path] if path else []
        self.must("wait", *args, "--timeout", str(timeout), timeout=timeout + COMMAND_SECONDS)

    @contextmanager
    def in_one_go(self) -> Iterator[None]:
        """What is done in the block is sent together, however slow this machine is."""
        self.ask("pause")
        try:
            yield
        finally:
            self.ask("resume")

    def in_step(self, other: "Device", timeout: float = SOON_SECONDS) -> None:
        """Sends everything, and returns when the other device has heard of all of it."""
        self.wait()
        rev = self.status()["rev"]
        assert eventually(lambda: other.status()["rev"] >= rev, timeout), f"{other.name} is not at rev {rev}"

    def sees(self, name: str, content: str | bytes | None, seconds: float = SOON_SECONDS) -> None:
        """Returns when the file has this content (None: is not there); fails after `seconds`."""
        path = self.path / name
        wanted = content.encode() if isinstance(content, str) else content

        def now() -> bytes | OSError | None:
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                # The server did not answer in time, say: it is looked again.
                return error

        assert eventually(lambda: now() == wanted, seconds), f"{path} is {now()!r} after {seconds} s, not {content!r}"

    def holds(self, name: str, size: int, seconds: float = 2 * SOON_SECONDS) -> None:
        """Returns when so many bytes of the file are on this device; fails after `seconds`."""

        def now() -> int:
            return int(os.getxattr(self.path / name, "user.satchel.cached_bytes"))

        assert eventually(lambda: now() == size, seconds), f"{now()} of {size} bytes of {name} are here"

    @property
    def log(self) -> list[str]:
        """Lines of the daemon's log."""
        file = self.home / "state" / "daemon.log"
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    def expects(self, *patterns: str) -> None:
        """These complaints in its log are what the test is about."""
        self.expected += patterns

    def check(self) -> list[str]:
        """Takes the mount away; what was wrong."""
        wrong = []
        try:
            process = self.pid
        except control.Refused:
            if self.is_mounted:
                subprocess.run(["umount", "--lazy", self.path], check=True)
        else:
            result = self.cli("umount", self.path)
            if result.returncode:
                wrong.append(f"{self.name} could not be unmounted: {result.stderr}")
                os.kill(process, signal.SIGKILL)
                ended(process)
                subprocess.run(["umount", "--lazy", self.path], check=False)
        return wrong + [f"{self.name}'s log: {line}" for line in complaints(self.log, self.expected)]


def complaints(lines: list[str], expected: list[str]) -> list[str]:
    """Lines that tell of something wrong and were not expected, each with what follows it: a traceback's cause."""

    def is_wrong(line: str) -> bool:
        return bool(COMPLAINTS.search(line)) and not any(re.search(one, line) for one in expected)

    found = [number for number, line in enumerate(lines) if is_wrong(line)]
    return ["\n".join(lines[start:end]) for start, end in pairwise([*found, len(lines)])]


@pytest.fixture(scope="session")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's home with one account, to be copied: making one takes a second."""
    home = tmp_path_factory.mktemp("instance")
    server = Server(home, 0)
    server.command("init", "--data", str(server.data))
    server.command("user", "add", USER, "--password-stdin", "--data", str(server.data), text=PASSWORD + "\n")
    return home


@pytest.fixture
def _port() -> Iterator[int]:
    """The server's port, which is nobody else's while it is stopped, either."""
    with port_of_its_own() as port:
        yield port


@pytest.fixture
def _world(tmp_path: Path, _instance: Path, _port: int) -> Iterator[tuple[Server, dict[str, Device]]]:
    """The server and the devices of one test; at the end nothing of them is left."""
    home = tmp_path / "server"
    shutil.copytree(_instance, home)
    server = Server(home, _port).start()
    devices: dict[str, Device] = {}
    yield server, devices
    wrong = [problem for one in devices.values() for problem in one.check()]
    wrong += server.check()
    left = processes_with(f"SATCHEL_HOME={tmp_path}/".encode())
    for process, command in left.items():
        if not ended(process):
            wrong.append(f"left running: {command}")
            os.kill(process, signal.SIGKILL)
    for mount in mounts.mounts():
        if mount.point.startswith(f"{tmp_path}/"):
            wrong.append(f"left mounted: {mount.point}")
            subprocess.run(["umount", "--lazy", mount.point], check=False)
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def server(_world: tuple[Server, dict[str, Device]]) -> Server:
    """A running server with one account (`user`, `password`)."""
    return _world[0]


@pytest.fixture
def device(_world: tuple[Server, dict[str, Device]], tmp_path: Path) -> Callable[..., Device]:
    """`device(name)`: a device of that account, signed in and mounted; with `mount=False` signed in only.

    `user`: of another account, which `server.add_user` made. Keyword arguments beyond that are settings for its
    config.toml.
    """
    server, devices = _world

    def make(name: str, *, mount: bool = True, user: str = USER, **settings: str | int | float | bool) -> Device:
        assert name not in devices, f"there is a device {name} already"
        one = devices[name] = Device(name, tmp_path / name, tmp_path / f"{name}-drive", server, user)
        if settings:
            one.configure(**settings)
        one.login()
        return one.mount() if mount else one

    return make
