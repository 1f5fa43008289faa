"""Points: what is promised of synchronisation, done on real mounts at the sizes it is promised for, in numbers.

What does not hold what is promised raises.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

from tests.bench.contestant import running
from tests.bench.growth import Filled
from tests.bench.processes import wait_until
from tests.bench.satchel import Satchel
from tests.bench.work import Figure, timed
from tests.mounted.watching import Watch

KIB, MIB = 1 << 10, 1 << 20
LISTING_SECONDS = 600.0
SEEN_SECONDS = 1.0
BOOT_SECONDS = 3.0
KINDS = ("make", "write", "chmod", "rename", "remove", "make a folder", "remove a folder")


def sent(home: Path, mib: int) -> Iterator[Figure]:
    """What goes over the wire for changes of a stored file of so many MiB, a quarter of that, and a tenth."""
    with running(Satchel, home, 0.0) as one:
        assert isinstance(one, Satchel)
        file = one.path / "file"
        yield Figure(f"{mib} MiB, the first time", "bytes", _sent_by(one, partial(_fill, file, mib)))
        folder = one.path / "folder"
        folder.mkdir()
        yield _within(64 * KIB * -(-mib // 256), f"cp of {mib} MiB", one, lambda: shutil.copyfile(file, folder / "b"))
        yield _within(64 * KIB, f"4 KiB in the middle of {mib} MiB", one, lambda: _overwrite(file, mib * MIB // 2))
        yield _within(
            64 * KIB * -(-mib // 256), "cp of it after that", one, lambda: shutil.copyfile(file, folder / "c")
        )
        yield _within(16 * KIB, f"mv of {mib} MiB", one, lambda: file.rename(folder / "moved"))
        yield _within(16 * KIB, "mv of the folder", one, lambda: folder.rename(one.path / "other"))
        for name, size, limit in (("quarter", mib // 4, 2 * MIB), ("tenth", mib // 10, 256 * KIB)):
            file = one.path / name
            _fill(file, size, seed=size)
            one.drained()
            content = file.read_bytes()
            if name == "quarter":
                what = f"a byte inserted at the front of {size} MiB"
                yield _within(limit, what, one, partial(file.write_bytes, b"x" + content))
                continue
            for how, save in (("in its place", Path.write_bytes), ("by rename", _by_rename)):
                content = _with_a_paragraph_changed(content)
                yield _within(limit, f"{size} MiB saved {how}, a paragraph changed", one, partial(save, file, content))


def _sent_by(one: Satchel, change: Callable[[], object]) -> int:
    assert one.device is not None
    before = one.device.stats()["sent_bytes"]
    change()
    one.drained()
    return int(one.device.stats()["sent_bytes"] - before)


def _within(limit_bytes: int, name: str, one: Satchel, change: Callable[[], object]) -> Figure:
    found = _sent_by(one, change)
    assert found < limit_bytes, f"{name}: {found} bytes were sent, {limit_bytes} are promised"
    return Figure(name, "bytes", found)


def _fill(file: Path, mib: int, seed: int = 0) -> None:
    chosen = Random(seed)
    with file.open("wb") as out:
        for _ in range(mib):
            out.write(chosen.randbytes(MIB))


def _overwrite(file: Path, offset: int) -> None:
    with file.open("r+b") as out:
        out.seek(offset)
        out.write(Random(offset).randbytes(4 * KIB))


def _by_rename(file: Path, content: bytes) -> None:
    fresh = file.with_name(".tenth.tmp")
    fresh.write_bytes(content)
    fresh.rename(file)


def _with_a_paragraph_changed(content: bytes) -> bytes:
    chosen = Random(len(content))
    middle = chosen.randrange(len(content))
    return content[:middle] + chosen.randbytes(700) + content[middle + 500 :]


def start(home: Path, files: int) -> Iterator[Figure]:
    """A cold start without the server, with so many files known: until programs can work, and what they can do."""
    with running(Filled, home, 0.0) as one:
        assert isinstance(one, Filled)
        one.filler.tree(files)
        one.renew()
        device = one.device
        assert device is not None
        wait_until(lambda: device.status()["rev"] > 1, "news", LISTING_SECONDS, 0.05)
        wait_until(lambda: device.status()["unlisted_folders"] == 0, "listing", LISTING_SECONDS, 0.05)
        one.umount()
        one.server.stop()
        one.forget_pages()
        seconds = timed(one.mount)
        assert seconds < BOOT_SECONDS, f"satchel mount took {seconds:.1f} s"
        yield Figure(f"satchel mount without the server, {files:,} files", "s", seconds)
        tree = one.path / "tree"
        yield Figure("then the first ls of a folder", "ms", 1e3 * timed(lambda: os.listdir(next(tree.iterdir()))))
        yield Figure("a new file is written and closed", "ms", 1e3 * timed(lambda: (tree / "new").write_bytes(b"new")))
        seconds = timed(lambda: [path.stat() for path in islice(tree.rglob("*"), 10_000)])
        yield Figure("find and stat of 10,000 entries", "s", seconds)
        one.server.start()
        began = time.monotonic()
        one.drained()
        yield Figure("the server is back: until all is sent", "s", time.monotonic() - began)


def events(home: Path, rounds: int) -> Iterator[Figure]:
    """From the end of a call on one device until inotify tells of it on another; of each kind so often."""
    with running(Satchel, home, 0.0) as one:
        assert isinstance(one, Satchel)
        other = one.another()
        (one.path / "folder").mkdir()
        one.drained()
        here, there = one.path / "folder", other.path / "folder"
        wait_until(there.is_dir, "the folder")
        os.listdir(there)
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        with Watch(there) as watch:
            for number in range(rounds):
                for kind, (change, wanted) in zip(KINDS, _changes(here, f"{number}"), strict=True):
                    watch.forget()
                    change()
                    began = time.monotonic()
                    watch.hears(*wanted)
                    times[kind].append(time.monotonic() - began)
                    # As a person works: none is gathered with the one before.
                    time.sleep(0.1)
    for kind, seconds in times.items():
        assert max(seconds) < SEEN_SECONDS, f"{kind}: heard of after {max(seconds):.2f} s"
        yield Figure(f"{kind}: p50", "ms", 1e3 * statistics.median(seconds))
        yield Figure(f"{kind}: the slowest of {rounds}", "ms", 1e3 * max(seconds))


def _changes(here: Path, name: str) -> tuple[tuple[Callable[[], object], tuple[str, ...]], ...]:
    """One change of each kind: what makes it, and what is heard of it."""
    file, moved, folder = here / name, here / f"moved-{name}", here / f"folder-{name}"
    return (
        (lambda: file.write_bytes(b"x" * 10_000), (f"CREATE {name}", f"CLOSE_WRITE {name}")),
        (lambda: file.write_bytes(b"other" * 1_000), (f"MODIFY {name}", f"CLOSE_WRITE {name}")),
        (lambda: file.chmod(0o600), (f"ATTRIB {name}",)),
        (lambda: file.rename(moved), (f"MOVED_FROM {name}", f"MOVED_TO moved-{name}")),
        (moved.unlink, (f"DELETE moved-{name}",)),
        (folder.mkdir, (f"CREATE folder-{name}",)),
        (folder.rmdir, (f"DELETE folder-{name}",)),
    )
