"""Growth: what things cost in drives of more and more files, and in trees of unusual shape."""

import os
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.contestant import discard, new_home, running
from tests.bench.fill import FILES_IN_FOLDER, Filler, folder_of, name_of
from tests.bench.processes import peak_bytes, resident_bytes, running_seconds, wait_until
from tests.bench.rounds import say
from tests.bench.satchel import Satchel
from tests.bench.work import MB, Figure, piped, timed
from tests.mounted.conftest import BIN, PASSWORD, USER

SIZES = (1_000, 10_000, 100_000, 1_000_000)
OPERATIONS = 400
FOLDERS_READ = 40
LISTING_SECONDS = 1_200.0
IDLE_SECONDS, IDLE_SHARE = 0.5, 0.2
"""A daemon that uses less than this share of a core for so long is idle (our own questions cost a little)."""
WIDE, DEEP, SPARSE = 100_000, 1_000, 50 * 10**9
PER_OPERATION = "us per operation"
CPU_PER_OPERATION = "us of CPU per operation"
Growth = dict[str, dict[int, Figure]]


def growth(sizes: tuple[int, ...], work: Path, delay_seconds: float) -> Growth:
    """Figures by name and number of files."""
    found: Growth = {}
    for size in sizes:
        home = new_home(work, f"growth-{size}")
        with running(Filled, home, delay_seconds) as one:
            assert isinstance(one, Filled)
            say(f"{size:,} files: filled in {timed(lambda size=size: one.filler.tree(size)):.0f} s")  # type: ignore[misc]
            for figure in _of_tree(one, size):
                say(f"  {size:>9,}  {figure.name}: {figure.value:,.4g} {figure.unit}")
                found.setdefault(figure.name, {})[size] = figure
        discard(home)
    return found


def shapes(work: Path, delay_seconds: float) -> Iterator[Figure]:
    """A wide folder, a deep one, and a long file that is nearly all hole."""
    home = new_home(work, "shapes")
    with running(Filled, home, delay_seconds) as one:
        assert isinstance(one, Filled)
        for piece in (_wide, _deep, _sparse):
            for figure in piece(one):
                say(f"  {figure.name}: {figure.value:,.4g} {figure.unit}")
                yield figure


class Filled(Satchel):
    """Nothing is mounted until `renew`: first the server is filled."""

    filler: Filler

    def start(self) -> None:
        """A server with one account."""
        self.init()
        self.serve()
        self.filler = Filler(self.server.url, USER, PASSWORD)

    def mount_cold(self) -> None:
        """Also the first mount."""
        if self.device is None:
            self.forget_pages()
            self.renew()
        else:
            super().mount_cold()


def _of_tree(one: Filled, size: int) -> Iterator[Figure]:
    yield from _first_sight(one, size)
    yield from _known(one, size)
    one.cool()
    tree = one.path / "tree"
    yield Figure("find over all, new device", "files/s", size / timed(lambda: piped("find", ".", folder=tree)))
    yield Figure("find -ls over all, again", "files/s", size / timed(lambda: piped("find", ".", "-ls", folder=tree)))
    one.forget_pages()
    seconds = timed(lambda: piped("find", ".", "-ls", folder=tree))
    yield Figure("find -ls over all, from our cache", "files/s", size / seconds)
    yield Figure("daemon RSS after find", "MB", resident_bytes(one.daemons()[0]) / MB)


def _first_sight(one: Filled, size: int) -> Iterator[Figure]:
    """A new device: until it can be used, and until it knows all names by itself."""
    one.forget_pages()
    began = time.monotonic()
    one.renew()
    device = one.device
    assert device is not None
    mounted = time.monotonic()
    yield Figure("sign in and mount, new device", "s", mounted - began)
    folder = one.path / "tree" / folder_of(size * 2 // 3)
    seconds = timed(lambda: os.listdir(folder))
    yield Figure("first ls of a folder, right after", "ms", seconds * 1e3)
    with _answers(one.path) as answers:
        wait_until(lambda: device.status()["unlisted_folders"] == 0, "listing", LISTING_SECONDS, step=0.05)
    yield Figure("background listing", "s", time.monotonic() - mounted)
    yield Figure("longest answer meanwhile", "ms", max(answers) * 1e3)
    daemon = one.daemons()[0]
    yield Figure("longest turn of the daemon's loop", "ms", one.longest_turn_ms())
    yield Figure("daemon CPU for it", "s", one.used().daemon_cpu_seconds)
    yield Figure("daemon RSS after it", "MB", resident_bytes(daemon) / MB)
    yield Figure("daemon peak RSS", "MB", peak_bytes(daemon) / MB)


@contextmanager
def _answers(mount: Path) -> Iterator[list[float]]:
    """Seconds that the daemon takes for a question that the kernel never answers itself, asked all the while."""
    times: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            times.append(timed(lambda: os.statvfs(mount)))
            over.wait(0.01)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield times
    finally:
        over.set()
        asker.join()


def _idle_since(one: Filled) -> float:
    """Returns when the daemon does next to nothing any more; the time (monotonic) since when."""
    while True:
        began, before = time.monotonic(), one.used().daemon_cpu_seconds
        time.sleep(IDLE_SECONDS)
        if one.used().daemon_cpu_seconds - before < IDLE_SECONDS * IDLE_SHARE:
            return began


def _known(one: Filled, size: int) -> Iterator[Figure]:
    """A device that knows all names: mounting again, commands, and single operations."""
    one.umount()
    one.forget_pages()
    yield Figure("satchel mount, all known", "s", timed(one.mount))
    mounted = time.monotonic()
    with _answers(one.path) as answers:
        idle_since = _idle_since(one)
    yield Figure("busy after that mount", "s", idle_since - mounted)
    yield Figure("longest answer meanwhile, all known", "ms", max(answers) * 1e3)
    device = one.device
    assert device is not None
    yield Figure("the daemon's answer to status", "ms", _median(device.status) * 1e3)
    status = [str(BIN / "satchel"), "status"]
    # Its exit code says whether there are changes to send, which does not matter here.
    seconds = timed(lambda: subprocess.run(status, env=device.environment, stdout=subprocess.DEVNULL, check=False))
    yield Figure("satchel status", "ms", seconds * 1e3)
    yield from _operations(one, size)
    yield Figure("daemon RSS after operations", "MB", resident_bytes(one.daemons()[0]) / MB)


def _operations(one: Filled, size: int) -> Iterator[Figure]:
    tree, chance = one.path / "tree", random.Random(size)
    some = [chance.randrange(size) for _ in range(OPERATIONS)]
    folders = sorted({str(tree / folder_of(number)) for number in some})
    for folder in folders:
        # So that what is counted is one name, not a path.
        os.stat(folder)
    paths = [f"{tree / folder_of(number)}/{name_of(number)}" for number in some]
    yield from _each(one, "lookup", [partial(os.stat, path) for path in paths])
    yield from _each(one, "open, read, close", [partial(_read, path) for path in paths])
    few = folders[:FOLDERS_READ]
    yield from _each(one, "readdir, an entry", [partial(os.listdir, folder) for folder in few], FILES_IN_FOLDER)
    made = [f"{chance.choice(folders)}/new-{number}" for number in range(OPERATIONS)]
    yield from _each(one, "create", [partial(_create, path) for path in made])
    yield from _each(one, "setattr", [partial(os.chmod, path, 0o600) for path in made])
    moved = [f"{chance.choice(folders)}/moved-{number}" for number in range(OPERATIONS)]
    yield from _each(one, "rename", [partial(os.rename, *pair) for pair in zip(made, moved, strict=True)])
    yield from _each(one, "unlink", [partial(os.unlink, path) for path in moved])
    began = time.monotonic()
    yield Figure("then until on the server", "s", one.drained() - began)


def _each(one: Filled, name: str, operations: Sequence[Callable[[], object]], items: int = 1) -> Iterator[Figure]:
    """What one costs, in time and in the daemon's CPU: means, for a median would hide what comes once in a while."""
    daemon, count = one.daemons()[0], len(operations) * items
    before = running_seconds(daemon)
    seconds = timed(lambda: [operation() for operation in operations])
    yield Figure(name, PER_OPERATION, seconds * 1e6 / count)
    yield Figure(f"{name}: daemon", CPU_PER_OPERATION, (running_seconds(daemon) - before) * 1e6 / count)


def _median(work: Callable[[], object]) -> float:
    return statistics.median(timed(work) for _ in range(5))


def _read(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    os.read(file, 4_096)
    os.close(file)


def _create(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(file, b"new")
    os.close(file)


def _wide(one: Filled) -> Iterator[Figure]:
    one.filler.wide(WIDE)
    one.cool()
    wide = one.path / "wide"
    name = f"{WIDE:,} entries in one folder"
    yield Figure(f"{name}: first ls", "s", timed(lambda: os.listdir(wide)))
    yield Figure(f"{name}: ls again", "s", timed(lambda: os.listdir(wide)))
    yield Figure(f"{name}: find -ls", "s", timed(lambda: piped("find", ".", "-ls", folder=wide)))
    made = [f"{wide}/new-{number}" for number in range(OPERATIONS)]
    yield from _each(one, f"{name}: create", [partial(_create, path) for path in made])
    yield from _each(one, f"{name}: unlink", [partial(os.unlink, path) for path in made])
    one.drained()


def _deep(one: Filled) -> Iterator[Figure]:
    one.filler.deep(DEEP)
    one.cool()
    deepest = one.path / "deep" / "/".join(["d"] * (DEEP - 1))
    name = f"{DEEP:,} nested folders"
    yield Figure(f"{name}: stat of the deepest, new device", "s", timed(lambda: os.stat(deepest)))
    one.forget_pages()
    yield Figure(f"{name}: stat of the deepest, from our cache", "s", timed(lambda: os.stat(deepest)))
    yield Figure(f"{name}: create in it", "ms", timed(lambda: _create(f"{deepest}/new")) * 1e3)
    one.drained()


def _sparse(one: Filled) -> Iterator[Figure]:
    tail = os.urandom(1 << 20)
    file = os.open(one.path / "sparse", os.O_WRONLY | os.O_CREAT, 0o644)
    os.ftruncate(file, SPARSE)
    os.pwrite(file, tail, SPARSE - len(tail))
    os.close(file)
    one.drained()
    one.cool()
    one.settle()
    began = time.perf_counter()
    file = os.open(one.path / "sparse", os.O_RDONLY)
    got = os.pread(file, len(tail), SPARSE - len(tail))
    seconds = time.perf_counter() - began
    os.close(file)
    assert got == tail, "the end of the sparse file is not what was written"
    yield Figure(f"last MiB of a cold sparse {SPARSE / 1e9:.0f} GB file", "ms", seconds * 1e3)
