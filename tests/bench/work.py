"""Work: what is measured. Each piece of work is done in the mount and on the local disk, and yields figures."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench.stage import MB, Stage, out_of_memory, sent, synced, timed
from tests.mounted import debian
from tests.mounted.conftest import Device
from tests.mounted.trees import Noise, until

SMALL_FILES = 2_000
SMALL_BYTES = 4_096
CHANGES = 60
GIT = ("git", "-c", "user.name=Ann", "-c", "user.email=ann@localhost", "-c", "gc.auto=0")


class Figure(NamedTuple):
    """One number of ours, and the same for the local disk where that means something."""

    name: str
    unit: str
    ours: float
    local: float | None = None


class Sizes(NamedTuple):
    """How large the work is."""

    large: int


Work = Callable[[Stage, Sizes], Iterator[Figure]]


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def _run(*command: str | Path, folder: Path | None = None) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)


def large_file(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    """One large file that cannot be compressed: written, sent, read elsewhere, edited, copied."""
    size, gib = sizes.large, f"{sizes.large / (1 << 30):g} GiB"
    source, here = stage.local / "source", stage.local / "large"
    Noise(1).write_to(source, size)
    _read(source)
    local_close = timed(lambda: _run("cp", "--reflink=never", source, here))
    local_sync = local_close + timed(lambda: synced(stage.local))
    desk = stage.device()
    large = desk.path / "large"
    close = timed(lambda: _run("cp", source, large))
    server = close + timed(lambda: sent(desk))
    yield Figure(f"write {gib} until close", "MB/s", size / MB / close, size / MB / local_close)
    yield Figure(f"write {gib} until on the server", "MB/s", size / MB / server, size / MB / local_sync)
    source.unlink()

    laptop = stage.device()
    there = laptop.path / "large"
    yield from _part(laptop, there, here, size)
    out_of_memory(here)
    local_cold = timed(lambda: _read(here))
    yield Figure(
        f"read {gib}, not on this machine", "MB/s", size / MB / timed(lambda: _read(there)), size / MB / local_cold
    )
    out_of_memory(here, there)
    local_warm = timed(lambda: _read(here))
    yield Figure(
        "read it again, from our cache", "MB/s", size / MB / timed(lambda: _read(there)), size / MB / local_warm
    )
    local_hot = timed(lambda: _read(here))
    yield Figure("read it again, from memory", "MB/s", size / MB / timed(lambda: _read(there)), size / MB / local_hot)
    stage.drop(laptop)
    yield from _edit(stage, desk, large, here, size)
    stage.drop(desk)


def _part(laptop: Device, there: Path, here: Path, size: int) -> Iterator[Figure]:
    offset = size * 3 // 5 // 65_536 * 65_536

    def read(path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            os.pread(file.fileno(), 65_536, offset)

    out_of_memory(here)
    before = laptop.stats()["received_bytes"]
    seconds = timed(lambda: read(there))
    yield Figure("64 KiB in the middle, not on this machine", "ms", seconds * 1e3, timed(lambda: read(here)) * 1e3)
    yield Figure("  received for it", "MB", (laptop.stats()["received_bytes"] - before) / MB)


def _edit(stage: Stage, desk: Device, large: Path, here: Path, size: int) -> Iterator[Figure]:
    def edit(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(os.urandom(4_096))

    before = desk.stats()["sent_bytes"]
    close = timed(lambda: edit(large))
    server = close + timed(lambda: sent(desk))
    local_close = timed(lambda: edit(here))
    local_sync = local_close + timed(lambda: synced(stage.local))
    yield Figure("4 KiB changed in it until close", "ms", close * 1e3, local_close * 1e3)
    yield Figure("4 KiB changed in it until on the server", "ms", server * 1e3, local_sync * 1e3)
    yield Figure("  sent for it", "MB", (desk.stats()["sent_bytes"] - before) / MB)
    before = desk.stats()["sent_bytes"]
    server = timed(lambda: (_run("cp", large, large.with_name("copy")), sent(desk)))
    local_sync = timed(lambda: (_run("cp", "--reflink=never", here, here.with_name("copy")), synced(stage.local)))
    yield Figure("cp of it until on the server", "s", server, local_sync)
    yield Figure("  sent for it", "MB", (desk.stats()["sent_bytes"] - before) / MB)
    for path in (here, here.with_name("copy")):
        path.unlink()


def small_files(stage: Stage, _: Sizes) -> Iterator[Figure]:
    """Many small files: made, sent, listed and read elsewhere, removed."""
    contents = [Noise(number).part(0, SMALL_BYTES) for number in range(SMALL_FILES)]

    def make(top: Path) -> None:
        for number, content in enumerate(contents):
            folder = top / f"folder-{number % 20:02d}"
            if number < 20:
                folder.mkdir(parents=True)
            (folder / f"file-{number:04d}").write_bytes(content)

    def rate(seconds: float) -> float:
        return SMALL_FILES / seconds

    here, name = stage.local / "many", f"{SMALL_FILES:,} x 4 KiB"
    local_close = timed(lambda: make(here))
    local_sync = local_close + timed(lambda: synced(stage.local))
    desk = stage.device()
    top = desk.path / "many"
    close = timed(lambda: make(top))
    server = close + timed(lambda: sent(desk))
    yield Figure(f"make {name} until close", "files/s", rate(close), rate(local_close))
    yield Figure(f"make {name} until on the server", "files/s", rate(server), rate(local_sync))

    laptop = stage.device()
    there = laptop.path / "many"
    until(there.exists, 10.0)
    for label, command in (("find -ls", ("find", ".", "-ls")), ("tar", ("tar", "--create", "--file=-", "."))):
        for state in ("not on this machine", "from our cache", "from memory"):
            if state != "from memory":
                # To look at what is not here yet would bring it.
                out_of_memory(here, *([] if state == "not on this machine" else [there]))
            ours = timed(lambda command=command: _piped(command, there))  # type: ignore[misc]
            local = timed(lambda command=command: _piped(command, here))  # type: ignore[misc]
            # The first find learns all names; nothing is left to fetch for the second.
            yield Figure(f"{label} of them, {state}", "files/s", rate(ours), rate(local))
    stage.drop(laptop)
    yield Figure(
        "rm -rf of them",
        "files/s",
        rate(timed(lambda: _run("rm", "-rf", top))),
        rate(timed(lambda: _run("rm", "-rf", here))),
    )
    sent(desk)
    stage.drop(desk)


def _piped(command: tuple[str, ...], folder: Path) -> None:
    # tar does not read content when it sees that it writes to /dev/null.
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while process.stdout.read(1 << 20):
            pass
    assert process.returncode == 0, command


def source_tree(stage: Stage, _: Sizes) -> Iterator[Figure]:
    """A source package of 4,600 files: unpacked, sent, read elsewhere, committed."""
    apt = stage.home / "apt"
    apt.mkdir()
    tarball = debian.source_package("git", apt)[0]
    here, desk = stage.local / "tree", stage.device()
    top = desk.path / "tree"
    for folder in (here, top):
        folder.mkdir()

    def unpack(folder: Path) -> None:
        _run("tar", "--extract", "--strip-components=1", "--file", tarball, "--directory", folder)

    local_close = timed(lambda: unpack(here))
    local_sync = local_close + timed(lambda: synced(stage.local))
    close = timed(lambda: unpack(top))
    server = close + timed(lambda: sent(desk))
    yield Figure("untar of git's source", "s", close, local_close)
    yield Figure("untar of git's source until on the server", "s", server, local_sync)
    laptop = stage.device()
    there = laptop.path / "tree"
    until(there.exists, 10.0)
    out_of_memory(here)
    yield Figure(
        "tar of it, not on this machine",
        "s",
        timed(lambda: _piped(("tar", "-cf", "-", "."), there)),
        timed(lambda: _piped(("tar", "-cf", "-", "."), here)),
    )
    stage.drop(laptop)
    for label, command in (
        ("git add", ("add", "--all")),
        ("git commit", ("commit", "--quiet", "--message", "all")),
        ("git status", ("status", "--porcelain")),
        ("git fsck", ("fsck", "--full")),
    ):
        if label == "git add":
            for folder in (here, top):
                _run(*GIT, "init", "--quiet", folder=folder)
        ours = timed(lambda command=command: _run(*GIT, *command, folder=top))  # type: ignore[misc]
        local = timed(lambda command=command: _run(*GIT, *command, folder=here))  # type: ignore[misc]
        yield Figure(f"{label} in it", "s", ours, local)
    sent(desk)
    stage.drop(desk)
    shutil.rmtree(here)


def changes_elsewhere(stage: Stage, _: Sizes) -> Iterator[Figure]:
    """How long after close() on one device another shows the change."""
    desk, laptop = stage.device(), stage.device()
    here, there = desk.path / "changing", laptop.path / "changing"
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
    stage.drop(laptop)
    yield from _past(desk, here)
    stage.drop(desk)


def _past(desk: Device, here: Path) -> Iterator[Figure]:
    versions = here.parent / ".versions"
    listing = timed(lambda: os.listdir(versions))
    moment = sorted(os.listdir(versions))[-2]
    reading = timed((versions / moment / here.name).read_bytes)
    yield Figure(f"list the moments of a folder ({len(os.listdir(versions))})", "ms", listing * 1e3)
    yield Figure("read an old version, first time", "ms", reading * 1e3, timed(here.read_bytes) * 1e3)


def starts(stage: Stage, _: Sizes) -> Iterator[Figure]:
    """How long the command to mount takes, after an unmount and after a kill, with a few thousand nodes known."""
    desk = stage.device()
    for number in range(3_000):
        (desk.path / f"file-{number}").touch()
    sent(desk)
    desk.umount()
    yield Figure("satchel mount, 3,000 nodes known", "s", timed(desk.mount))
    desk.kill()
    yield Figure("satchel mount after kill -9", "s", timed(desk.mount))
    stage.drop(desk)


ALL: tuple[Work, ...] = (large_file, small_files, source_tree, changes_elsewhere, starts)
