"""Own: what only Satchel is asked: how soon others see a change, what the past costs, how fast it mounts."""

import os
import statistics
import time
from collections.abc import Iterator

from tests.bench.contestant import Contestant
from tests.bench.processes import cpu_seconds
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


def _rewind(one: Contestant, scale: Scale) -> Iterator[Figure]:
    """A tree of which every file was written over, moved or removed, made what it was; and that undone."""
    assert isinstance(one, Satchel)
    assert one.device is not None
    count, device = 2 * scale.small_files, one.device
    top = one.path / "tree"
    names = [top / f"folder-{number % 100}" / f"file-{number}" for number in range(count)]
    for folder in {name.parent for name in names}:
        folder.mkdir(parents=True)
    for number, name in enumerate(names):
        name.write_bytes(b"first %d" % number)
    one.drained()
    then = str(device.status()["rev"])
    for number, name in enumerate(names):
        if number % 4 == 0:
            name.unlink()
        elif number % 4 == 1:
            name.rename(name.with_suffix(".moved"))
        else:
            name.write_bytes(b"second %d" % number)
    one.drained()
    server, daemon = one.stores()[0], one.daemons()[0]
    sent, cpu = device.stats()["sent_bytes"], (cpu_seconds(server), cpu_seconds(daemon))
    yield Figure(
        f"rewind {count:,} files, all of them changed", "s", timed(lambda: device.must("rewind", top, "--to", then))
    )
    yield Figure("the same: CPU of the server", "s", cpu_seconds(server) - cpu[0])
    yield Figure("the same: CPU of the daemon", "s", cpu_seconds(daemon) - cpu[1])
    yield Figure("the same: sent", "KB", (device.stats()["sent_bytes"] - sent) / 1e3)
    assert all(name.read_bytes() == b"first %d" % number for number, name in enumerate(names[:200]))
    yield Figure("undo of it", "s", timed(lambda: device.must("undo")))
    assert names[2].read_bytes() == b"second 2"


ELSEWHERE = (
    Step("own.elsewhere", _elsewhere, satchel_only=True),
    Step("own.past", _past, needs="own.elsewhere", satchel_only=True),
)
REWIND = (Step("own.rewind", _rewind, satchel_only=True),)
MOUNT = (Step("own.mount", _mount, satchel_only=True),)
