"""Large: files of many chunks, written, read from everywhere, edited, inserted into, copied."""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache

from tests.bench.contestant import Contestant
from tests.bench.work import MB, Figure, Scale, Step, gib, noise, read, run, timed, write

SMALL_READ = 4_096
TIMES = 3

_noise = cache(noise)


def _write(one: Contestant, scale: Scale) -> Iterator[Figure]:
    content = _noise(1, scale.large)
    began = time.monotonic()
    write(one.path / "large", content)
    close = time.monotonic() - began
    server = one.drained() - began
    yield Figure(f"write {gib(scale.large)} until close", "MB/s", scale.large / MB / close)
    yield Figure(f"write {gib(scale.large)} until on the server", "MB/s", scale.large / MB / server)


def _read(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    large, megabytes = one.path / "large", scale.large / MB
    yield Figure(f"read {gib(scale.large)}, cold", "MB/s", megabytes / timed(lambda: read(large)))
    one.forget_pages(large)
    yield Figure(f"read {gib(scale.large)}, cached, no pages", "MB/s", megabytes / timed(lambda: read(large)))
    yield Figure(f"read {gib(scale.large)}, page cache", "MB/s", megabytes / timed(lambda: read(large)))


def _random(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    one.settle()
    offsets = [SMALL_READ * number for number in range(scale.large // SMALL_READ)]
    random.Random(1).shuffle(offsets)
    before = one.wire()
    file = os.open(one.path / "large", os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        began = time.perf_counter()
        first_end, end = began + scale.random_seconds / 5, began + scale.random_seconds
        done = in_first = 0
        first_seconds = 0.0
        for offset in offsets:
            os.pread(file, SMALL_READ, offset)
            done += 1
            now = time.perf_counter()
            if not first_seconds and now >= first_end:
                in_first, first_seconds = done, now - began
            if now >= end:
                break
        seconds = time.perf_counter() - began
    finally:
        os.close(file)
    yield Figure(
        f"4 KiB random reads of a cold {gib(scale.large)} file, {scale.random_seconds:g} s", "IOPS", done / seconds
    )
    if first_seconds and seconds > first_seconds:
        rate = (done - in_first) / (seconds - first_seconds)
        yield Figure(f"4 KiB random reads after the first {scale.random_seconds / 5:g} s", "IOPS", rate)
    if one.stores():
        fetched = one.wire().since(before).received_bytes
        yield Figure("4 KiB random reads: fetched per byte asked", "x", fetched / (done * SMALL_READ))


def _first(one: Contestant, scale: Scale) -> Iterator[Figure]:
    whole = f"of a cold {gib(scale.large)} file"
    yield from _part(one, "large", 0, 1, f"first byte {whole}")
    yield from _part(one, "large", scale.large * 3 // 5 // 65_536 * 65_536, 65_536, f"64 KiB in the middle {whole}")


def _part(one: Contestant, name: str, offset: int, length: int, label: str) -> Iterator[Figure]:
    """The median of a few cold mounts: each has one first time only."""
    times, fetched = [], []
    for _ in range(TIMES):
        one.cool()
        one.settle()
        before = one.wire()
        began = time.perf_counter()
        file = os.open(one.path / name, os.O_RDONLY)
        got = os.pread(file, length, offset)
        times.append((time.perf_counter() - began) * 1e3)
        os.close(file)
        assert len(got) == length, f"{len(got)} of {length} bytes at {offset} of {name}"
        one.settle()
        fetched.append(one.wire().since(before).received_bytes / MB)
    yield Figure(label, "ms", statistics.median(times))
    if one.stores():
        yield Figure(f"{label}: fetched", "MB", statistics.median(fetched))


def _end(one: Contestant, scale: Scale) -> Iterator[Figure]:
    path, tail = one.path / "sparse", _noise(2, 1 << 20)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.ftruncate(file, scale.sparse)
    os.pwrite(file, tail, scale.sparse - len(tail))
    os.close(file)
    one.drained()
    label = f"last MiB of a cold sparse {gib(scale.sparse)} file"
    yield from _part(one, "sparse", scale.sparse - len(tail), len(tail), label)


def _overwrite(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    one.settle()
    changed, before = os.urandom(4_096), one.wire()
    began = time.monotonic()
    file = os.open(one.path / "large", os.O_RDWR)
    os.pwrite(file, changed, scale.large // 2)
    os.close(file)
    close = time.monotonic() - began
    server = one.drained() - began
    label = f"4 KiB changed in a cold {gib(scale.large)} file"
    yield Figure(f"{label}, until close", "ms", close * 1e3)
    yield Figure(f"{label}, until on the server", "ms", server * 1e3)
    if one.stores():
        one.settle()
        wire = one.wire().since(before)
        yield Figure(f"{label}: sent", "KB", wire.sent_bytes / 1e3)
        yield Figure(f"{label}: fetched", "KB", wire.received_bytes / 1e3)


def _middle(one: Contestant, scale: Scale) -> Iterator[Figure]:
    content = _noise(3, scale.middle)
    began = time.monotonic()
    write(one.path / "middle", content)
    yield Figure(f"write {gib(scale.middle)} until on the server", "MB/s", scale.middle / MB / (one.drained() - began))


def _insert(one: Contestant, scale: Scale) -> Iterator[Figure]:
    one.cool()
    content, path = _noise(3, scale.middle), one.path / "middle"
    yield from _sent_for(
        one, scale, f"1 byte inserted at the front of {gib(scale.middle)}", lambda: write(path, content, b"x")
    )


def _copy(one: Contestant, scale: Scale) -> Iterator[Figure]:
    source, copy = one.path / "middle", one.path / "copy"
    read(source)
    yield from _sent_for(one, scale, f"cp of {gib(scale.middle)}, in the cache", lambda: run("cp", source, copy))


def _sent_for(one: Contestant, scale: Scale, label: str, work: Callable[[], None]) -> Iterator[Figure]:
    one.settle()
    before, began = one.wire(), time.monotonic()
    work()
    yield Figure(f"{label}, until close", "s", time.monotonic() - began)
    yield Figure(f"{label}, until on the server", "s", one.drained() - began)
    if one.stores():
        one.settle()
        sent = one.wire().since(before).sent_bytes
        yield Figure(f"{label}: sent per byte of it", "x", sent / scale.middle)


LARGE = (
    Step("large.write", _write),
    Step("large.read", _read, needs="large.write"),
    Step("large.random", _random, needs="large.write"),
    Step("large.first", _first, needs="large.write"),
    Step("large.overwrite", _overwrite, needs="large.write"),
)
SPARSE = (Step("sparse.end", _end),)
MIDDLE = (
    Step("middle.write", _middle),
    Step("middle.copy", _copy, needs="middle.write"),
    Step("middle.insert", _insert, needs="middle.write"),
)
