"""Processes: what daemons and stores used of this machine, also those that have ended."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
END_SECONDS = 30.0


def family(top: int) -> list[int]:
    """A process and all below it that run now."""
    found = [top]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def cpu_seconds(process: int) -> float:
    """User and system time so far, with that of children that were waited for."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICK


def running_seconds(process: int) -> float:
    """User and system time of the threads that live now, finer than `cpu_seconds`."""
    total_ns = 0
    for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            total_ns += int(task.read_text().split()[0])
        except OSError:
            continue
    return total_ns / 1e9


def peak_bytes(process: int) -> int:
    """The most memory that was resident at once."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def resident_bytes(process: int) -> int:
    """The memory that is resident now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Adds up what a changing set of processes used; `ending` is told before a process ends."""

    def __init__(self) -> None:
        self._ended_seconds = 0.0
        self._peak = 0

    def ending(self, tops: list[int]) -> None:
        """Keeps what these have used, as they are about to end."""
        self._ended_seconds += self._running_seconds(tops)
        self.peak_bytes(tops)

    def cpu_seconds(self, tops: list[int]) -> float:
        """All so far: of those that ended, and of these."""
        return self._ended_seconds + self._running_seconds(tops)

    def peak_bytes(self, tops: list[int]) -> int:
        """The most memory of one top process and those below it, so far."""
        self._peak = max([self._peak, *(sum(peak_bytes(one) for one in family(top)) for top in tops)])
        return self._peak

    def _running_seconds(self, tops: list[int]) -> float:
        return sum(cpu_seconds(one) for top in tops for one in family(top))


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 60.0, step: float = 0.01) -> None:
    """Returns when it is so; raises TimeoutError that names `what`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(step)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that we started, by force when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for one in reversed(family(process.pid)):
                try:
                    os.kill(one, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()
