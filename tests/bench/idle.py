"""Idle: what a mounted drive and its server use of the machine while nobody does anything."""

import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.contestant import running
from tests.bench.processes import family, resident_bytes, running_seconds, wait_until
from tests.bench.satchel import Satchel
from tests.bench.work import MB, Figure

FILES = 1_000
SETTLE_SECONDS = 15.0
"""Threads that wait for more work end after ten."""


def idle(home: Path, seconds: float) -> Iterator[Figure]:
    """CPU, wake-ups and memory of the daemon (with its helpers) and of the server, over so many seconds."""
    with running(Satchel, home, 0.0) as one:
        assert isinstance(one, Satchel)
        device = one.device
        assert device is not None
        for number in range(FILES):
            (one.path / f"file-{number}").write_bytes(b"%d" % number)
        one.drained()
        wait_until(lambda: device.status()["unlisted_folders"] == 0, "listing")
        time.sleep(SETTLE_SECONDS)
        parts = {"daemon": one.daemons(), "server": one.stores()}
        before = {name: _used(tops) for name, tops in parts.items()}
        requests = device.stats()["requests"]
        began = time.monotonic()
        time.sleep(seconds)
        lasted = time.monotonic() - began
        after = {name: _used(tops) for name, tops in parts.items()}
        for name, tops in parts.items():
            cpu, wakeups = (now - then for now, then in zip(after[name], before[name], strict=True))
            yield Figure(f"{name}: CPU over {seconds:.0f} s, of a core", "%", 100 * cpu / lasted)
            yield Figure(f"{name}: wake-ups", "in a second", wakeups / lasted)
            resident = sum(resident_bytes(process) for top in tops for process in family(top))
            yield Figure(f"{name}: RSS, all its processes", "MB", resident / MB)
        # One of them is of the question itself.
        yield Figure("requests", "in a minute", (device.stats()["requests"] - requests) * 60 / lasted)


def _used(tops: list[int]) -> tuple[float, int]:
    """Seconds of CPU, and how often a thread waited and went on, of these processes and those below them."""
    processes = [process for top in tops for process in family(top)]
    return sum(map(running_seconds, processes)), sum(map(wakeups, processes))


def wakeups(process: int) -> int:
    """How often threads of a process that live now began to wait, by the kernel's count."""
    found = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except OSError:
            continue
        found += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return found
