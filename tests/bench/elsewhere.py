"""Elsewhere: how long after close(2) on one device a program on another one finds the change."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.contestant import running
from tests.bench.satchel import Satchel
from tests.bench.work import Figure, noise

LOOK_SECONDS = 0.0005
SEEN_SECONDS = 30.0
BYTES = 16_384
PAUSE_SECONDS = 0.12
"""Between changes, as a person makes them: none is gathered with the one before."""
Step = tuple[Callable[[], object], Callable[[], bool]]
KINDS = ("made", "written anew", "renamed", "removed")


def elsewhere(home: Path, changes: int, latency_ms: float) -> Iterator[Figure]:
    """Changes one by one, of each kind in turn, on one device; looked for on another by a program that asks the mount.

    Each file is seen when its name, and the content of 16 KiB that came by itself, can be read.
    """
    with running(Satchel, home, latency_ms / 1e3) as one:
        assert isinstance(one, Satchel)
        other = one.another()
        (one.path / "folder").mkdir()
        one.drained()
        _await((other.path / "folder").is_dir)
        here, there = one.path / "folder", other.path / "folder"
        os.listdir(there)
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for turn in range(-(-changes // len(KINDS))):
            steps = _steps(here, there, turn)
            for kind, (change, is_seen) in zip(KINDS, steps, strict=True):
                time.sleep(PAUSE_SECONDS)
                change()
                began = time.monotonic()
                _await(is_seen)
                times[kind].append(time.monotonic() - began)
    distance = f", {latency_ms:.0f} ms each way" if latency_ms else ""
    yield from _percentiles(f"{changes} changes{distance}", [each for kind in KINDS for each in times[kind]])
    for kind in KINDS:
        yield from _percentiles(f"{kind}{distance}", times[kind])


def _steps(here: Path, there: Path, turn: int) -> tuple[Step, ...]:
    """One change of each kind: what makes it, and whether it is seen."""
    file, moved = f"file-{turn}", f"moved-{turn}"
    # Of another size, so that whoever waits for it asks the kernel only, not the daemon that is at work.
    first, second = (bytes(noise(2 * turn + part, BYTES + part)) for part in range(2))
    return (
        (lambda: (here / file).write_bytes(first), lambda: _has(there / file, first)),
        (lambda: (here / file).write_bytes(second), lambda: _has(there / file, second)),
        (lambda: (here / file).rename(here / moved), lambda: _has(there / moved, second)),
        ((here / moved).unlink, lambda: not (there / moved).exists()),
    )


def _percentiles(name: str, seconds: list[float]) -> Iterator[Figure]:
    if len(seconds) > 1:
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        yield Figure(f"{name}: p50", "ms", cuts[49] * 1e3)
        yield Figure(f"{name}: p99", "ms", cuts[98] * 1e3)


def _has(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _await(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not seen on the other device within {SEEN_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
