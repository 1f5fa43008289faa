"""kill -9 of a daemon of which a thread waits in the kernel for itself: it ends, and so does its mount."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fusefs import mounts
from tests.mounted.conftest import END_SECONDS, ended, eventually

pytestmark = pytest.mark.mounted

KILLS = int(os.environ.get("SATCHEL_TEST_KILLS", "2"))
SEED = int(os.environ.get("SATCHEL_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

_HOLD_FOLDER = "import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDONLY))"
_WRITE = "import os, sys; open(sys.argv[1], 'wb').write(os.urandom(3_000_000))"


@contextmanager
def daemon_that_waits_for_itself(device: Any) -> Iterator[tuple[Any, int]]:
    """A device, and the process of its daemon, of which a thread waits for a folder that a program holds.

    With sync=remote, fsync(2) of a folder waits for the server, and the kernel holds the folder meanwhile; to make it
    forget a name in there, as a change from elsewhere must, it waits for the folder.
    """
    laptop, desk = device("laptop"), device("desk", mount=False).mount("-o", "sync=remote")
    (laptop.path / "d").mkdir()
    (laptop.path / "d" / "known").write_text("old")
    desk.sees("d/known", "old")
    desk.must("limit", "--up", "40k")
    programs = [subprocess.Popen([sys.executable, "-c", _WRITE, desk.path / "d" / "large"], stderr=subprocess.DEVNULL)]
    try:
        assert eventually(lambda: desk.status()["pending"]["bytes"] > 0)
        programs.append(
            subprocess.Popen([sys.executable, "-c", _HOLD_FOLDER, desk.path / "d"], stderr=subprocess.DEVNULL)
        )
        assert eventually(lambda: _waits_in(programs[1].pid, "fsync", "request_wait_answer"))
        (laptop.path / "d" / "known").write_text("new")
        process = desk.pid
        assert eventually(lambda: _waits_in(process, "fuse_reverse_inval_entry"))
        yield desk, process
        for program in programs:
            program.wait(60)
    finally:
        for program in programs:
            program.kill()
            program.wait(60)


def _waits_in(process: int, *functions: str) -> bool:
    """Whether a thread of the process waits there in the kernel, in all of these."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        # Threads come and go.
        with suppress(OSError):
            stack = (thread / "stack").read_text()
            if all(function in stack for function in functions):
                return True
    return False


def _hands_of(process: int) -> int:
    """The process that makes the daemon's calls in its mount."""
    children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return next(child for child in children if b"fusefs.hands" in Path(f"/proc/{child}/cmdline").read_bytes())


@pytest.fixture
def _may_see_where_processes_wait() -> None:
    try:
        Path("/proc/self/stack").read_text()
    except OSError:
        pytest.skip("only root can see where a process waits in the kernel, where that is to be seen at all")


@pytest.mark.usefixtures("_may_see_where_processes_wait")
def test_a_killed_daemon_ends_although_it_waits_for_itself(device: Any) -> None:
    with daemon_that_waits_for_itself(device) as (desk, process):
        os.kill(process, signal.SIGKILL)
        assert ended(process)
    desk.mount("-o", "sync=remote")
    desk.sees("d/known", "new")


@pytest.mark.usefixtures("_may_see_where_processes_wait")
def test_a_mount_whose_daemon_hangs_dead_is_taken_away(device: Any) -> None:
    with daemon_that_waits_for_itself(device) as (desk, process):
        os.kill(_hands_of(process), signal.SIGKILL)
        os.kill(process, signal.SIGKILL)
        assert not ended(process, 1.0), "nobody ends what it waits for"
        began = time.monotonic()
        desk.umount()
        assert time.monotonic() - began < END_SECONDS
        assert ended(process)
    assert not desk.is_mounted
    desk.mount()
    desk.sees("d/known", "new")


def test_a_connection_is_ended_by_the_kernel_s_own_file(
    device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = tmp_path / "connections"
    connections.mkdir()
    desk = device("desk")
    subprocess.run(["mount", "-t", "fusectl", "none", connections], check=True)
    try:
        monkeypatch.setattr(mounts, "CONNECTIONS", connections)
        process, mount = desk.pid, mounts.mount_at(str(desk.path))
        assert mount is not None
        assert (connections / str(mount.number)).is_dir()
        assert mounts.has_daemon(mount.point)
        assert mounts.abort(mount)
        assert ended(process)
    finally:
        subprocess.run(["umount", connections], check=True)
    assert mounts.pulse(str(desk.path)) is mounts.Pulse.DEAD
    desk.mount()


_WORK = """
import itertools, mmap, os, random, sys

def folders(number):
    path = f"{os.getpid()}-{number % 50}"
    os.mkdir(path)
    os.rmdir(path)

def files(number):
    path = f"{os.getpid()}.{number % 50}"
    with open(path, "w") as file:
        file.write("y" * 5_000)
    if number % 3 == 0:
        os.unlink(path)

def maps(number):
    with open(str(random.randrange(8)), "r+b") as file, mmap.mmap(file.fileno(), 1 << 20) as there:
        there[random.randrange(1 << 20)] = number % 256

def lists(number):
    for entry in os.scandir("."):
        entry.stat()

os.chdir(sys.argv[1])
for number in itertools.count():
    try:
        globals()[sys.argv[2]](number)
    except FileNotFoundError:
        pass
"""


def test_kills_while_many_work_in_one_folder_leave_nothing_hanging(device: Any) -> None:
    """SATCHEL_TEST_KILLS and SATCHEL_TEST_SEED choose how often and when."""
    print(f"SATCHEL_TEST_SEED={SEED} SATCHEL_TEST_KILLS={KILLS}")
    moments = random.Random(SEED)
    desk, laptop = device("desk"), device("laptop")
    (laptop.path / "d").mkdir()
    for number in range(8):
        (laptop.path / "d" / str(number)).write_bytes(os.urandom(1 << 20))
    laptop.in_step(desk)
    for _ in range(KILLS):
        works = ("folders", "folders", "files", "files", "maps", "maps", "lists")
        programs = [
            subprocess.Popen([sys.executable, "-c", _WORK, desk.path / "d", work], stderr=subprocess.DEVNULL)
            for work in works
        ]
        until = time.monotonic() + moments.uniform(0.5, 1.2)
        while time.monotonic() < until:
            with (laptop.path / "d" / str(moments.randrange(8))).open("r+b") as file:
                file.seek(moments.randrange(1 << 20))
                file.write(b"x" * 3_000)
            new = laptop.path / "d" / f"new{moments.randrange(100)}"
            new.unlink() if new.exists() else new.touch()
        desk.kill()
        for program in programs:
            program.kill()
            assert ended(program.pid)
            program.wait()
        desk.mount()
    laptop.in_step(desk)
