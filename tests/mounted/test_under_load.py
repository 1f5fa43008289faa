"""Syncing while files come and go, and mounts in other namespaces. Long runs: tests/stress/run."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

LIBC = ctypes.CDLL(None, use_errno=True)


def test_a_mount_in_a_namespace_of_its_own_is_nobody_else_s_and_ends_with_it(device: Any) -> None:
    desk = device("desk", mount=False)
    script = 'satchel mount "$0" && echo inside >"$0/file" && cat "$0/file" && satchel wait && satchel umount "$0"'
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, desk.path]
    environment = {**desk.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "inside" in done.stdout
    assert not desk.is_mounted
    desk.mount()
    assert (desk.path / "file").read_text() == "inside\n"
    # A copy of the mount in another namespace, which would keep it alive, does not keep the daemon.
    process = desk.pid
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        desk.umount()
        assert until(lambda: not Path(f"/proc/{process}").exists())
        other.communicate()


def test_syncfs_does_not_fail_because_files_were_removed_meanwhile(device: Any) -> None:
    desk = device("desk")
    is_over = threading.Event()
    failures: set[int] = set()

    def sync() -> None:
        top = os.open(desk.path, os.O_RDONLY)
        while not is_over.is_set():
            if LIBC.syncfs(top):
                failures.add(ctypes.get_errno())
        os.close(top)

    syncing = threading.Thread(target=sync)
    syncing.start()
    for number in range(150):
        path = desk.path / f"file-{number % 5}"
        path.write_bytes(b"x" * (number * 331 % 50_000))
        os.utime(path)
        path.unlink()
    is_over.set()
    syncing.join()
    assert failures == set()


SAVING = """
import os, sys
number = 0
while True:
    name = f"{sys.argv[1]}/{number}"
    with open(name, "wb") as file:
        file.write(b"%d " % number * 100)
    os.rename(name, name + " closed")
    if number % 2:
        os.unlink(name + " closed")
    print(number, flush=True)
    number += 1
"""


def test_programs_killed_in_the_middle_of_a_call_lose_nothing_that_was_closed(device: Any) -> None:
    desk = device("desk")
    top = os.open(desk.path, os.O_RDONLY)
    closed: dict[Path, bytes] = {}
    for turn in range(20):
        folder = desk.path / str(turn)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", SAVING, folder], stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            for _ in range(5 + turn):
                program.stdout.readline()
            program.kill()
            numbers = range(5 + turn)
        closed |= {folder / f"{number} closed": b"%d " % number * 100 for number in numbers if number % 2 == 0}
        # The kernel may report here that it took back a request of the killed program's: SEMANTICS.md.
        assert LIBC.syncfs(top) == 0 or ctypes.get_errno() in (errno.EINTR, errno.EIO)
        assert LIBC.syncfs(top) == 0
    os.close(top)
    found = {path: _read(path) for path in closed}
    assert found == closed
    desk.umount()
    desk.mount()
    assert {path: path.read_bytes() for path in closed} == closed


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    content = os.read(fd, 10_000)
    with suppress(OSError):  # the same report, once
        os.close(fd)
    return content
