"""Own: what only Satchel is asked: how soon others see a change, what the past costs, how fast it mounts."""

import os
import statistics
import time
from collections.abc import Iterator

from tests.bench.contestant import Contestant
from tests.bench.satchel import Satchel
from tests.bench.work import Figure, Scale, Step, timed

CHANGES = 60
NODES = 3_000


def _elsewhere(one: Contestant, _: Scale) -> Iterator[Figure]:
    assert isinstance(one, Satchel)
    laptop = one.another()
    here, there = one.path / "changing", laptop.path / "changing"
    times: list[float] = []
    for number in range(CHANGES):
        content = b"state %d" % number
        here.write_bytes(content)
        began = time.perf_counter()
        # Without a pause: ten milliseconds would count.
        while not (there.exists() and there.read_bytes() == content):
            assert time.perf_counter() - began < 10.0, "not seen within ten seconds"
        times.append((time.perf_counter() - began) * 1e3)
    yield Figure("change seen on another device, median", "ms", statistics.median(times))
    yield Figure(f"change seen on another device, longest of {CHANGES}", "ms", max(times))
    one.drop(laptop)


def _past(one: Contestant, _: Scale) -> Iterator[Figure]:
    versions = one.path / ".versions"
    listing = timed(lambda: os.listdir(versions))
    moments = sorted(os.listdir(versions))
    reading = timed((versions / moments[-2] / "changing").read_bytes)
    yield Figure(f"list the moments of a folder ({len(moments)})", "ms", listing * 1e3)
    yield Figure("read an old version, first time", "ms", reading * 1e3)


def _mount(one: Contestant, _: Scale) -> Iterator[Figure]:
    assert isinstance(one, Satchel)
    for number in range(NODES):
        os.close(os.open(one.path / f"file-{number}", os.O_WRONLY | os.O_CREAT, 0o644))
    one.drained()
    one.umount()
    yield Figure(f"satchel mount, {NODES:,} nodes known", "s", timed(one.mount))
    one.kill()
    yield Figure("satchel mount after kill -9", "s", timed(one.mount))


ELSEWHERE = (
    Step("own.elsewhere", _elsewhere, satchel_only=True),
    Step("own.past", _past, needs="own.elsewhere", satchel_only=True),
)
MOUNT = (Step("own.mount", _mount, satchel_only=True),)
