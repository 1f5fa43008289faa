"""Trees of files for tests and measurements: made by a seed, read whole, and compared entry by entry."""

import hashlib
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PIECE_BYTES = 4 << 20


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether the condition comes true in time; looks every 10 ms, and at least once."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.01)
    return True


@dataclass(frozen=True)
class Entry:
    """What tar keeps of a file, folder or symlink: all that must be the same on another device."""

    mode: int
    size: int
    mtime_ns: int
    target: str
    digest: str


def entry(path: Path, *, with_content: bool = True) -> Entry:
    """One entry as lstat, readlink and read show it."""
    found = path.lstat()
    is_file, is_link = stat.S_ISREG(found.st_mode), stat.S_ISLNK(found.st_mode)
    return Entry(
        mode=found.st_mode,
        size=found.st_size if is_file or is_link else 0,
        mtime_ns=found.st_mtime_ns,
        target=os.readlink(path) if is_link else "",
        digest=digest(path) if is_file and with_content else "",
    )


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    # Like cat and cp: a whole read of a large file with a small buffer would measure the buffer.
    hashed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()


def walk(top: Path, *, without: str = "") -> Iterator[Path]:
    """The top and everything below it, in one order; `without` names folders not to go into."""
    yield top
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name != without)
        for name in sorted([*folders, *files]):
            yield Path(folder, name)


def entries(top: Path, *, with_content: bool = True, without: str = "") -> dict[str, Entry]:
    """Every entry at and below the top, by its path relative to it."""
    return {str(path.relative_to(top)): entry(path, with_content=with_content) for path in walk(top, without=without)}


def differences(one: dict[str, Entry], other: dict[str, Entry]) -> list[str]:
    """What differs, a line for each entry; empty when the trees are the same."""
    return [
        f"{path}: {one.get(path)} != {other.get(path)}"
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path)
    ]


class Noise:
    """Endless bytes that cannot be compressed, the same for the same seed; any part of them can be had at once."""

    def __init__(self, seed: int) -> None:
        self._key = hashlib.sha256(b"noise %d" % seed).digest()

    def part(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` (a multiple of 16) on."""
        counter = (offset // 16).to_bytes(16, "big")
        stream = Cipher(algorithms.AES(self._key), modes.CTR(counter)).encryptor()
        return stream.update(bytes(length))

    def write_to(self, path: Path, size: int) -> str:
        """Writes the first `size` bytes to a file; their SHA-256."""
        hashed = hashlib.sha256()
        with path.open("wb") as file:
            for offset in range(0, size, PIECE_BYTES):
                piece = self.part(offset, min(PIECE_BYTES, size - offset))
                hashed.update(piece)
                file.write(piece)
        return hashed.hexdigest()


def many_files(top: Path, count: int, seed: int, largest: int = 4 << 20) -> int:
    """Makes so many files of mixed sizes, from empty to the largest, in a few folders; all their bytes."""
    source = random.Random(seed)
    total = 0
    for number in range(count):
        folder = top / f"folder-{number % 17:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        # Most files of people are small, a few are large: sizes grow by powers of two, a fiftieth are of any size.
        size = source.choice((0, 1, 100, 3_000, 16_000, 70_000, source.randrange(300_000)))
        if number % 50 == 49:
            size = source.randrange(1 << 20, largest)
        (folder / f"file-{number:04d}").write_bytes(source.randbytes(size))
        total += size
    (top / "folder-00/largest").write_bytes(source.randbytes(largest))
    return total + largest
