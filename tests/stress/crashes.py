"""Crashes: the daemon is killed, or the drive mounted anew, while programs write; what was promised must be there."""

import mmap
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.mounted.conftest import Device
from tests.stress.loads import SEND_SECONDS, Sizes
from tests.stress.options import OPTION_SETS
from tests.stress.result import Result
from tests.stress.stage import Stage

BLOCK: Final = 4_096
BLOCKS: Final = 256
WRITERS: Final = 3
BETWEEN_SECONDS: Final = (0.05, 1.5)
_FORK: Final = multiprocessing.get_context("fork")


class Writer:
    """Writes numbered blocks into a file at random places, and knows which of them were promised to survive.

    A block holds its place and the number of its writing, all through: one that is torn, or another's, shows itself.
    It runs as a process of its own: memory mapped from a drive that is gone ends by a signal who touches it.
    """

    def __init__(self, path: Path, seed: float) -> None:
        self.path = path
        self._source = random.Random(seed)
        self._number = _FORK.Value("Q", 0, lock=False)
        # By place: the number at the last fsync or close that succeeded (a later one may be found there), and the last.
        self._promised = _FORK.Array("Q", BLOCKS, lock=False)
        self._written = _FORK.Array("Q", BLOCKS, lock=False)
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def blocks(self) -> int:
        """How many were written."""
        return int(self._number.value)

    def start(self) -> None:
        """Begins, or goes on."""
        self._process = _FORK.Process(target=self._run, args=(self._source.random(),))
        self._process.start()

    def stop(self) -> None:
        """Ends it, if nothing else has."""
        assert self._process is not None
        self._process.kill()
        self._process.join()

    def _run(self, seed: float) -> None:
        self._source = random.Random(seed)
        while True:
            try:
                self._once()
            except OSError:
                return

    def _once(self) -> None:
        """Opens, writes for a while in one of the ways there are, and closes."""
        way = self._source.randrange(3)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if way == 2 else 0))
        try:
            for _ in range(self._source.randrange(1, 40)):
                place = self._source.randrange(BLOCKS)
                self._number.value += 1
                # Noted before it is written: it may be found from now on.
                self._written[place] = self._number.value
                self._write(fd, way, place)
                if self._source.random() < 0.1:
                    os.fsync(fd)
                    self._promised[:] = self._written[:]
        finally:
            os.close(fd)
        self._promised[:] = self._written[:]

    def _write(self, fd: int, way: int, place: int) -> None:
        offset, content = place * BLOCK, content_of(place, self._number.value)
        if way == 1 and os.fstat(fd).st_size >= offset + BLOCK:
            with mmap.mmap(fd, offset + BLOCK) as mapped:
                mapped[offset:] = content
                # A mapped page that the daemon cannot take any more is lost in silence; asked for, it is an error.
                mapped.flush()
            return
        with mmap.mmap(-1, BLOCK) as aligned:
            aligned[:] = content
            os.pwrite(fd, aligned, offset)

    def wrong(self) -> list[str]:
        """What is not as promised in the file as it is found; what is found is what counts from now on."""
        content = self.path.read_bytes() if self.path.exists() else b""
        problems = []
        for place in range(BLOCKS):
            block = content[place * BLOCK : (place + 1) * BLOCK]
            found = int.from_bytes(block[8:16], "big")
            if block != (content_of(place, found) if found else bytes(len(block))):
                problems.append(f"{self.path.name}: block {place} is none that was written")
            if not self._promised[place] <= found <= self._written[place]:
                numbers = f"{self._promised[place]} to {self._written[place]}"
                problems.append(f"{self.path.name}: block {place} is number {found}, promised was {numbers}")
            self._promised[place] = self._written[place] = found
        return problems


def content_of(place: int, number: int) -> bytes:
    """One block."""
    return (place.to_bytes(8, "big") + number.to_bytes(8, "big")) * (BLOCK // 16)


def kills(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """kill -9 at random moments while files are written in place, through write(2), mapped memory and O_DIRECT."""
    yield _cut("kill -9 under load", stage, options, sizes, lambda device: device.kill())


def remounts(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """A lazy unmount and a mount at random moments while files are written."""

    def take_away(device: Device) -> None:
        device.must("umount", "--lazy", device.path)

    yield _cut("remount under load", stage, options, sizes, take_away)


def _cut(name: str, stage: Stage, options: str, sizes: Sizes, end: Callable[[Device], None]) -> Result:
    device = stage.device(*OPTION_SETS[options])
    began, source = time.monotonic(), random.Random(sizes.seed)
    writers = [Writer(device.path / f"written-{number}", source.random()) for number in range(WRITERS)]
    problems: list[str] = []
    for cut in range(sizes.kills):
        for writer in writers:
            writer.start()
        try:
            time.sleep(source.uniform(*BETWEEN_SECONDS))
            end(device)
        finally:
            for writer in writers:
                writer.stop()
        device.mount(*device.options)
        problems += [f"after cut {cut}: {problem}" for writer in writers for problem in writer.wrong()]
    device.wait(timeout=SEND_SECONDS)
    other = stage.device()
    for writer in writers:
        if (other.path / writer.path.name).read_bytes() != writer.path.read_bytes():
            problems.append(f"{writer.path.name} differs on a second device")
    amount = f"{sizes.kills} times, {sum(writer.blocks for writer in writers):,} blocks written"
    outcome = f"{len(problems)} broken promises" if problems else "nothing promised was lost"
    took = time.monotonic() - began
    return Result(name, options, amount, took, "\n".join([outcome, *problems[:20]]), is_well=not problems)
