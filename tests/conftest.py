"""What holds for every test: errors in the log fail it, and a run leaves neither mounts nor processes behind.

Warnings fail by pytest's filter (pyproject.toml). Who makes the program log an error says so: @pytest.mark.logs_errors.
"""

import logging
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SESSION = "SATCHEL_TEST_SESSION"
"""Environment variable by which a process is known as started by this run, also after it made itself a daemon."""

EXIT_SECONDS = float(os.environ.get("SATCHEL_TEST_EXIT_SECONDS", "60"))
"""How long a process that was told to end may take at the end of the run."""

# A random test that fails prints how to repeat it; slow machines do not make it fail.
_patient = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("usual", _patient, max_examples=60)
settings.register_profile("thorough", _patient, max_examples=2_000)
settings.load_profile("usual")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on trio, as the client does; the server's folder overrides this."""
    return "trio"


class _Errors(logging.Handler):
    """Keeps every record of level ERROR or above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


@pytest.fixture(autouse=True)
def _log_is_clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test on an error in the log that it did not announce, and on an announced one that did not come."""
    patterns = [str(pattern) for mark in request.node.iter_markers("logs_errors") for pattern in mark.args]
    handler = _Errors()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    surprises = [text for text in handler.messages if not any(re.search(pattern, text) for pattern in patterns)]
    missing = [pattern for pattern in patterns if not any(re.search(pattern, text) for text in handler.messages)]
    assert not surprises, "logged as error, and not announced:\n" + "\n".join(surprises)
    assert not missing, f"announced by logs_errors, but not logged: {missing}"


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the run away from the person's own drive; fail it when mounts or processes of it are left, and end those."""
    folder = tmp_path_factory.getbasetemp()
    name = f"{os.getpid()}-{time.time_ns()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SESSION, name)
        patch.setenv("SATCHEL_HOME", str(folder / "nobody"))
        # What NetworkManager says of this machine's network is no part of any test.
        patch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={folder / 'no-bus'}")
        yield
    mounts = _mounts_below(folder)
    for mount in mounts:
        subprocess.run(["fusermount3", "-u", "-z", mount], check=False)
    # Processes of a mount end by its end; what was told to stop may still be writing its last lines.
    left = _not_ended(_processes_of(name))
    assert not mounts, f"mounts left behind by a test (now unmounted): {mounts}"
    assert not left, f"processes left behind by a test (now killed): {left}"


def _mounts_below(folder: Path) -> list[Path]:
    """Mount points under this folder, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])) for line in lines]
    return sorted((point for point in points if point.is_relative_to(folder)), reverse=True)


def _processes_of(session: str) -> list[int]:
    """Ids of all running processes that have this session in their environment."""
    mark = f"{SESSION}={session}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            is_ours = mark in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if is_ours:
            found.append(int(folder.name))
    return found


def _not_ended(processes: list[int]) -> list[str]:
    """Command lines of those that do not end by themselves in time; they are killed."""
    deadline = time.monotonic() + EXIT_SECONDS
    left = []
    for process in processes:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            descriptor = os.pidfd_open(process)
        except OSError:
            continue
        try:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                left.append(f"{process}: {command.strip()}")
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    return left
