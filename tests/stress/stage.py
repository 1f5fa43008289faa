"""Stage: a server and devices for one piece of work, all on this machine; nothing of them is left at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.satchel import free_port
from tests.mounted.conftest import PASSWORD, USER, Device, Server


@dataclass
class Stage:
    """One server with one account, the devices made so far, and a folder on the local disk."""

    home: Path
    server: Server
    local: Path
    devices: list[Device] = field(default_factory=list)

    def device(self, *options: str) -> Device:
        """A new device, signed in and mounted with these options."""
        name = f"device-{len(self.devices)}"
        made = Device(name, self.home / name, self.home / f"{name}-drive", self.server)
        self.devices.append(made)
        return made.login().mount(*options)


@contextmanager
def staged(home: Path) -> Iterator[Stage]:
    """A running server; at the end all is taken away, and what its parts complained of in their logs is raised."""
    home.mkdir(parents=True)
    server = Server(home / "server", free_port())
    server.command("init", "--data", str(server.data))
    server.command("user", "add", USER, "--password-stdin", "--data", str(server.data), text=PASSWORD + "\n")
    stage = Stage(home, server.start(), home / "local")
    stage.local.mkdir()
    wrong: list[str] = []
    try:
        yield stage
    finally:
        wrong += [problem for one in stage.devices for problem in one.check()]
        wrong += server.check()
        shutil.rmtree(home, ignore_errors=True)
    assert not wrong, "\n".join(wrong)
