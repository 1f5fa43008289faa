"""Stage: a server and devices of a measurement, all on this machine, and what is asked of them."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.mounted.conftest import PASSWORD, USER, Device, Server

WAIT_SECONDS = 600.0
MB = 1_000_000


@dataclass
class Stage:
    """One server, the devices made so far, and a folder on the local disk for the same work without us."""

    home: Path
    server: Server
    local: Path
    devices: list[Device] = field(default_factory=list)

    def device(self) -> Device:
        """A new device with nothing in its cache, signed in and mounted."""
        name = f"device-{len(self.devices)}"
        made = Device(name, self.home / name, self.home / f"{name}-drive", self.server)
        self.devices.append(made)
        return made.login().mount()

    def drop(self, device: Device) -> None:
        """Ends a device and frees its disk."""
        device.umount()
        self.devices.remove(device)
        shutil.rmtree(device.home)


@contextmanager
def staged(work: Path) -> Iterator[Stage]:
    """A running server with one account; at the end everything is taken away."""
    work.mkdir()
    server = Server(work / "server", _free_port())
    server.command("init", "--data", str(server.data))
    server.command("user", "add", USER, "--password-stdin", "--data", str(server.data), text=PASSWORD + "\n")
    stage = Stage(work, server.start(), work / "local")
    stage.local.mkdir()
    try:
        yield stage
    finally:
        wrong = [problem for one in stage.devices for problem in one.check()]
        wrong += server.check()
        for problem in wrong:
            print(problem)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sent(device: Device) -> None:
    """Returns when the server has everything; asks the daemon itself, a command's start would count."""
    answer = device.ask("wait", timeout=WAIT_SECONDS, seconds=WAIT_SECONDS + 10)
    assert answer["sent"], answer


def synced(folder: Path) -> None:
    """Returns when the local disk has everything: what `sent` is compared with."""
    subprocess.run(["sync", "--file-system", folder], check=True)


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def out_of_memory(*tops: Path) -> None:
    """Makes the kernel forget these files' pages, and, where it lets us, all names."""
    for top in tops:
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
