"""Satchel: this checkout as a contestant: its server behind the wire, and one device after the other."""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.bench.contestant import Contestant, discard
from tests.mounted.conftest import PASSWORD, USER, Device, Server
from tests.ports import port_of_its_own

WAIT_SECONDS = 1_800.0


@dataclass
class _Reached:
    """The server as a device reaches it: at the near end of the wire."""

    url: str
    user: str = USER
    password: str = PASSWORD


class Satchel(Contestant):
    """A server, and a device that is new after each `cool`: nothing of what the last one knew is left."""

    name = "satchel"

    def __init__(self, home: Path, delay_seconds: float) -> None:
        """See Contestant."""
        super().__init__(home, delay_seconds)
        self.server = Server(home / "server", 0)
        self._port = ExitStack()
        self.device: Device | None = None
        self._others: list[Device] = []
        self._made = 0
        self._daemon = 0
        self._requests_of_ended = 0
        self._requests_then = 0
        self._longest_turn = 0.0
        self._counted: Device | None = None
        self._reached: Server | None = None

    def start(self) -> None:
        """A server with one account, and a device."""
        self.init()
        self.serve()
        self.renew()

    def init(self) -> None:
        """Makes the server's data and an account."""
        # It is stopped and started again by some.
        self.server.port = self._port.enter_context(port_of_its_own())
        self.server.command("init", "--data", str(self.server.data))
        self.server.command(
            "user", "add", USER, "--password-stdin", "--data", str(self.server.data), text=PASSWORD + "\n"
        )

    def serve(self) -> None:
        """Starts the server."""
        self.server.start()
        # A device needs no more of a server than these three.
        self._reached = cast("Server", _Reached(f"http://127.0.0.1:{self.proxied(self.server.port)}"))

    def renew(self) -> None:
        """The device that is measured from now on: new, signed in, mounted."""
        self.device = self.another()
        self._others.remove(self.device)
        self.path = self.device.path
        self._begin(self.device)

    def _begin(self, device: Device) -> None:
        self._daemon = device.pid
        # A device goes on counting where it was when it was unmounted.
        self._requests_then = 0 if device is not self._counted else int(device.stats()["requests"])
        self._counted = device

    def mount(self) -> None:
        """Mounts the device that `umount` or `kill` left."""
        assert self.device is not None, "start comes first"
        self.device.mount()
        self._begin(self.device)

    def umount(self) -> None:
        """Unmounts the device; it keeps what it knows."""
        assert self.device is not None, "start comes first"
        self.ending()
        self._daemon = 0
        self.device.umount()

    def kill(self) -> None:
        """Ends the device's daemon as a crash would."""
        assert self.device is not None, "start comes first"
        self.ending()
        self._daemon = 0
        self.device.kill()

    def another(self, **settings: bool) -> Device:
        """One more device, mounted beside the measured one."""
        assert self._reached is not None, "the server does not run"
        home = self.home / f"device-{self._made}"
        self._made += 1
        device = Device(home.name, home, self.home / f"{home.name}-mount", self._reached)
        self._others.append(device)
        return device.configure(**settings).login().mount()

    def drop(self, device: Device) -> None:
        """Ends a device and frees what is large of it."""
        device.umount()
        if device in self._others:
            self._others.remove(device)
        discard(device.home / "cache")

    def mount_cold(self) -> None:
        """A new device; the old one is taken away."""
        assert self.device is not None, "start comes first"
        self.ending()
        self._daemon = 0
        old, self.device = self.device, None
        self.drop(old)
        self.forget_pages()
        self.renew()

    def drained(self) -> float:
        """Asks the daemon itself: a command's start would count."""
        assert self.device is not None, "start comes first"
        answer = self.device.ask("wait", timeout=WAIT_SECONDS, seconds=WAIT_SECONDS + 10)
        assert answer["sent"], answer
        return time.monotonic()

    def stop(self) -> list[str]:
        """Unmounts and stops; what the logs complain of."""
        devices = [*([self.device] if self.device else []), *self._others]
        wrong = [problem for one in devices for problem in one.check()] + self.server.check()
        self._port.close()
        return wrong

    def daemons(self) -> list[int]:
        """The measured device's daemon."""
        return [self._daemon] if self._daemon else []

    def requests(self) -> int:
        """By all devices that were measured."""
        return self._requests_of_ended + (
            self.device.stats()["requests"] - self._requests_then if self._daemon and self.device else 0
        )

    def longest_turn_ms(self) -> float:
        """Of all daemons that were measured."""
        if self._daemon and self.device:
            self._longest_turn = max(self._longest_turn, self.device.stats()["longest_turn_ms"])
        return self._longest_turn

    def ending(self) -> None:
        """See Contestant."""
        self.longest_turn_ms()
        super().ending()
        self._requests_of_ended = self.requests()

    def stores(self) -> list[int]:
        """The server."""
        return [self.server.process.pid] if self.server.process else []


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
