"""Work: the words for what is measured. A step does one thing with one contestant and yields figures."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.contestant import Contestant
from tests.mounted.trees import Noise

MB: Final = 1_000_000
PIECE: Final = 1 << 20


class Figure(NamedTuple):
    """One number. Of units with "/s", and of IOPS, more is better; of all others less."""

    name: str
    unit: str
    value: float


@dataclass(frozen=True)
class Scale:
    """How large the work is; one scale for all contestants of a run."""

    large: int = 1 << 30
    small_files: int = 5_000
    random_seconds: float = 5.0

    @property
    def middle(self) -> int:
        """Bytes of the file that is edited and copied whole."""
        return self.large // 4

    @property
    def sparse(self) -> int:
        """Bytes of the file that is a hole but for its end."""
        return self.large * 10


Does = Callable[[Contestant, Scale], Iterator[Figure]]


@dataclass(frozen=True)
class Step:
    """`needs` names a step of the same group that must have been done on the same contestant."""

    name: str
    does: Does
    needs: str = ""
    satchel_only: bool = False


def gib(size: int) -> str:
    """A size as tables say it."""
    return f"{size / (1 << 30):.3g} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.3g} MiB"


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def noise(seed: int, size: int) -> memoryview:
    """So many bytes in memory that cannot be compressed and do not repeat, the same for the same seed."""
    source, held = Noise(seed), bytearray(size)
    for offset in range(0, size, PIECE):
        held[offset : offset + PIECE] = source.part(offset, min(PIECE, size - offset))
    return memoryview(held)


def write(path: Path, content: memoryview, first: bytes = b"") -> None:
    """Writes a file in pieces of 1 MiB, over what is there; cheap, for the two cores are the contestants'."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        if first:
            os.write(file, first)
        for offset in range(0, len(content), PIECE):
            os.write(file, content[offset : offset + PIECE])
    finally:
        os.close(file)


def read(path: Path) -> None:
    """Reads a file in pieces of 1 MiB, as cat does."""
    buffer = bytearray(PIECE)
    file = os.open(path, os.O_RDONLY)
    try:
        while os.readv(file, [buffer]):
            pass
    finally:
        os.close(file)


def run(*command: str | Path, folder: Path | None = None) -> None:
    """Runs a program; what it prints is thrown away."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)


def piped(*command: str, folder: Path) -> None:
    """Runs a program and reads what it prints: tar reads no content when it sees that it writes to /dev/null."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), PIECE):
            pass
    assert process.returncode == 0, command
