"""Contestant: what is measured, behind one small interface; each kind starts, mounts and drains in its own way."""

import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import Meter
from tests.bench.proxy import NOTHING, Counts, Proxy

QUIET_SECONDS = 0.3
QUIET_WITHIN_SECONDS = 10.0
DISCARDED_BYTES = 1 << 20


class Missing(Exception):
    """This contestant cannot be had on this machine; the sentence says why."""


@dataclass(frozen=True)
class Used:
    """What a contestant used so far, or during something."""

    daemon_cpu_seconds: float
    store_cpu_seconds: float
    wire: Counts
    requests: int = 0
    """To the server, where the contestant counts them."""

    def and_(self, more: "Used") -> "Used":
        """Both together."""
        return Used(
            self.daemon_cpu_seconds + more.daemon_cpu_seconds,
            self.store_cpu_seconds + more.store_cpu_seconds,
            self.wire.and_(more.wire),
            self.requests + more.requests,
        )

    def since(self, before: "Used") -> "Used":
        """What was added."""
        return Used(
            self.daemon_cpu_seconds - before.daemon_cpu_seconds,
            self.store_cpu_seconds - before.store_cpu_seconds,
            self.wire.since(before.wire),
            self.requests - before.requests,
        )


class Contestant(ABC):
    """One file system at work: `path` is its top while it is mounted. Made, started, used and stopped once."""

    name: str

    def __init__(self, home: Path, delay_seconds: float) -> None:
        """`home` is a new folder (`new_home`) that it may fill; whoever made it takes it away. Nothing runs yet."""
        self.home = home
        self.path = home / "mount"
        self._delay_seconds = delay_seconds
        self.cooling = Used(0.0, 0.0, NOTHING)
        self._proxies: list[Proxy] = []
        self._daemons_used = Meter()
        self._stores_used = Meter()

    @abstractmethod
    def start(self) -> None:
        """Starts the store and mounts, for the first time; raises Missing when it cannot be had."""

    @abstractmethod
    def mount_cold(self) -> None:
        """Mounts anew with nothing on this side of the wire: no cache, pages, names; the store's disk is cold, too."""

    @abstractmethod
    def drained(self) -> float:
        """Returns when all that was written is on the server; the time (monotonic) since when it is."""

    @abstractmethod
    def stop(self) -> list[str]:
        """Ends everything that runs; complaints about it, none as a rule."""

    def cool(self) -> None:
        """As `mount_cold`; what that uses is kept apart in `cooling`."""
        before = self.used()
        self.mount_cold()
        self.cooling = self.cooling.and_(self.used().since(before))

    def daemons(self) -> list[int]:
        """Processes that serve the mount now."""
        return []

    def stores(self) -> list[int]:
        """Processes at the far end now."""
        return []

    def wire(self) -> Counts:
        """What went over the wire so far."""
        counts = [proxy.counts() for proxy in self._proxies]
        if not counts:
            return NOTHING
        sent, received, connections, last = zip(*counts, strict=True)
        return Counts(sum(sent), sum(received), sum(connections), max(last))

    def used(self) -> Used:
        """What all its processes used so far, and what went over the wire."""
        return Used(
            self._daemons_used.cpu_seconds(self.daemons()),
            self._stores_used.cpu_seconds(self.stores()),
            self.wire(),
            self.requests(),
        )

    def requests(self) -> int:
        """How many requests it made so far, 0 when it does not say."""
        return 0

    def ending(self) -> None:
        """Keeps what the daemons used: they are about to end."""
        self._daemons_used.ending(self.daemons())

    def peak_bytes(self) -> int:
        """The most memory that its daemon had at once, so far."""
        return self._daemons_used.peak_bytes(self.daemons())

    def longest_turn_ms(self) -> float:
        """How long at the most a request had to wait for the daemon's loop, so far; 0 when it does not say."""
        return 0.0

    def proxied(self, target: int) -> int:
        """A port that leads to this port over the wire that is measured."""
        proxy = Proxy(self.home / f"wire-{len(self._proxies)}", target, self._delay_seconds)
        self._proxies.append(proxy)
        return proxy.port

    def cut_wire(self) -> None:
        """Ends the proxies."""
        for proxy in self._proxies:
            proxy.stop()

    def settle(self) -> None:
        """Returns when nothing goes over the wire for a moment, or does not stop to."""
        deadline = time.monotonic() + QUIET_WITHIN_SECONDS
        while time.monotonic() < deadline:
            silent = time.monotonic() - self.wire().last_seconds
            if silent > QUIET_SECONDS + 2 * self._delay_seconds:
                return
            time.sleep(0.02)

    def forget_pages(self, *files: Path) -> None:
        """Makes the kernel forget names and pages of these files of the mount, and of all that lies in `home`."""
        subprocess.run(["sync", "--file-system", self.home], check=True)
        for path in (*files, *_files(self.home)):
            _forget(path)
        # Only root may drop names; for others the pages are all that goes.
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("2\n")


def _files(top: Path) -> Iterator[Path]:
    """Files below a folder on the disk, not those of mounts below it."""
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not os.path.ismount(f"{folder}/{name}")]
        yield from (Path(folder, name) for name in files)


def discard(top: Path) -> None:
    """Frees the disk that large files below a folder take; the small ones stay for `new_home`'s owner to remove.

    For minutes after a removal, ext4 searches long for each new inode (it passes over those just freed): removing many
    files between two measurements makes the second one slow, 3,000 files/s instead of 35,000.
    """
    for path in _files(top):
        if path.lstat().st_size >= DISCARDED_BYTES:
            path.unlink()


def new_home(work: Path, label: str) -> Path:
    """A new folder in a part of the disk of its own, where the file system can do that: see `discard`."""
    # "Top of a hierarchy": ext4 spreads what is made directly in it over the disk, by a hash of its name. So the name
    # must be another one each time.
    subprocess.run(["chattr", "+T", work], check=False, stderr=subprocess.DEVNULL)
    return Path(tempfile.mkdtemp(prefix=f"{label}-", dir=work))


def _forget(path: Path) -> None:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return
    finally:
        os.close(opened)


class Local(Contestant):
    """The control: a folder on the same disk; "on the server" is sync."""

    name = "local"

    def start(self) -> None:
        """Makes the folder."""
        self.path = self.home / "files"
        self.path.mkdir()

    def mount_cold(self) -> None:
        """Nothing but the kernel remembers."""
        self.forget_pages()

    def drained(self) -> float:
        """The file system's own sync."""
        subprocess.run(["sync", "--file-system", self.path], check=True)
        return time.monotonic()

    def stop(self) -> list[str]:
        """Nothing runs."""
        return []


@contextmanager
def running(kind: type[Contestant], home: Path, delay_seconds: float) -> Iterator[Contestant]:
    """A started contestant; at the end nothing of it runs."""
    one = kind(home, delay_seconds)
    try:
        one.start()
        yield one
    finally:
        for complaint in one.stop():
            print(f"{one.name}: {complaint}")
        one.cut_wire()
