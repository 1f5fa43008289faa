"""Exerciser: random work on one file through the kernel, compared with an array of bytes after every step.

The same seed and options do the same again. What programs mix in life is mixed here: write(2) and mapped memory,
O_DIRECT, holes, truncate, renames, closing, dropping of pages, sending, and mounting anew with nothing in the cache.
"""

import mmap
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.mounted.conftest import Device
from tests.mounted.trees import until

SIZE_MAX: Final = 3 << 20
"""Above the size of one chunk, so that files are cut, and small enough for thousands of steps a minute."""
LENGTH_MAX: Final = 200_000
_BLOCK: Final = 4_096
_KEPT: Final = 40
_HEARD_SECONDS: Final = 60.0
_ZEROS = bytes(LENGTH_MAX)


class Mismatch(AssertionError):
    """The file is not what was written to it; the text says how to see it again."""


class Exerciser:
    """One file on a device, what it must hold, and the random order of what is done with it."""

    def __init__(self, device: Device, seed: int, *, remounts: bool = True, other: Device | None = None) -> None:
        """`other` is a second device that reads along; with `remounts` the device is mounted anew now and then."""
        self.seed = seed
        self.steps = 0
        self._device = device
        self._other = other
        self._random = random.Random(seed)
        self._names = 0
        self._path = device.path / f"exercised-{seed}"
        self._model = bytearray()
        self._done: deque[str] = deque(maxlen=_KEPT)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        weights: list[tuple[Callable[[], str], float]] = [
            (self._write, 12),
            (self._write_mapped, 8),
            (self._write_direct, 4),
            (self._write_zeros, 3),
            (self._append, 3),
            (self._read, 8),
            (self._read_mapped, 8),
            (self._read_direct, 4),
            (self._truncate, 5),
            (self._sync, 2),
            (self._reopen, 4),
            (self._reopen_emptied, 0.3),
            (self._rename, 2),
            (self._replace, 0.5),
            (self._drop_pages, 3),
            (self._send, 0.4),
            (self._remount_cold, 0.2 if remounts else 0),
            (self._look_elsewhere, 0.3 if other is not None else 0),
        ]
        self._moves = [move for move, _ in weights]
        self._weights = [weight for _, weight in weights]

    def run(self, steps: int) -> None:
        """Does so many steps, and looks at all of the file at the end; raises Mismatch."""
        try:
            for move in self._random.choices(self._moves, self._weights, k=steps):
                self._note(move())
                self.steps += 1
            self._note(self._reopen())
            self._check(0, len(self._model), os.pread(self._fd, len(self._model) + 1, 0))
        except OSError as error:
            raise Mismatch(self._told(f"failed: {error}")) from error
        finally:
            os.close(self._fd)

    # Writing

    def _write(self) -> str:
        offset, length = self._stretch(SIZE_MAX)
        self._put(offset, self._random.randbytes(length))
        return f"write {offset} +{length}"

    def _append(self) -> str:
        offset, length = len(self._model), self._length()
        if offset + length > SIZE_MAX:
            return "append: full"
        self._put(offset, self._random.randbytes(length))
        return f"append {offset} +{length}"

    def _write_zeros(self) -> str:
        offset, length = self._stretch(SIZE_MAX)
        self._put(offset, _ZEROS[:length])
        return f"zeros {offset} +{length}"

    def _put(self, offset: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        self._expect(offset, data)

    def _write_mapped(self) -> str:
        if not self._model:
            return "mapped write: empty"
        offset, length = self._inside()
        data = self._random.randbytes(length)
        is_synced = self._random.random() < 0.3
        with self._mapped() as mapped:
            mapped[offset : offset + length] = data
            if is_synced:
                mapped.flush()
        self._expect(offset, data)
        return f"mapped write {offset} +{length}{' synced' if is_synced else ''}"

    def _write_direct(self) -> str:
        offset, length = (position // _BLOCK * _BLOCK for position in self._stretch(SIZE_MAX))
        if not length:
            return "direct write: nothing"
        data = self._random.randbytes(length)
        with mmap.mmap(-1, length) as aligned:
            aligned[:] = data
            self._directly(lambda fd: os.pwrite(fd, aligned, offset))
        self._expect(offset, data)
        return f"direct write {offset} +{length}"

    def _truncate(self) -> str:
        kind = self._random.randrange(4)
        size = (0, len(self._model) // 2, self._random.randrange(SIZE_MAX), len(self._model) + self._length())[kind]
        size = min(size, SIZE_MAX)
        if self._random.random() < 0.5:
            os.ftruncate(self._fd, size)
        else:
            os.truncate(self._path, size)
        if size < len(self._model):
            del self._model[size:]
        else:
            self._model.extend(bytes(size - len(self._model)))
        return f"truncate {size}"

    def _expect(self, offset: int, data: bytes) -> None:
        if offset > len(self._model):
            self._model.extend(bytes(offset - len(self._model)))
        self._model[offset : offset + len(data)] = data

    # Reading

    def _read(self) -> str:
        offset, length = self._stretch(len(self._model) + _BLOCK)
        self._check(offset, length, os.pread(self._fd, length, offset))
        return f"read {offset} +{length}"

    def _read_mapped(self) -> str:
        if not self._model:
            return "mapped read: empty"
        offset, length = self._inside()
        with self._mapped() as mapped:
            self._check(offset, length, mapped[offset : offset + length])
        return f"mapped read {offset} +{length}"

    def _read_direct(self) -> str:
        offset, length = (position // _BLOCK * _BLOCK for position in self._stretch(len(self._model) + _BLOCK))
        if not length:
            return "direct read: nothing"
        with mmap.mmap(-1, length) as aligned:
            count = self._directly(lambda fd: os.preadv(fd, [aligned], offset))
            self._check(offset, length, aligned[:count])
        return f"direct read {offset} +{length}"

    def _check(self, offset: int, length: int, found: bytes) -> None:
        wanted = bytes(self._model[offset : offset + length])
        if found == wanted:
            return
        both = zip(found, wanted, strict=False)
        at = next((at for at, (one, other) in enumerate(both) if one != other), min(len(found), len(wanted)))
        raise Mismatch(
            self._told(
                f"read {len(found)} bytes from {offset} instead of {len(wanted)}; they differ from {offset + at} on: "
                f"{found[at : at + 16].hex()} instead of {wanted[at : at + 16].hex()}"
            )
        )

    # Around it

    def _sync(self) -> str:
        os.fsync(self._fd)
        return "fsync"

    def _reopen(self) -> str:
        os.close(self._fd)
        size = self._path.stat().st_size
        if size != len(self._model):
            raise Mismatch(self._told(f"is {size} bytes long after close, not {len(self._model)}"))
        self._fd = os.open(self._path, os.O_RDWR)
        return "reopen"

    def _reopen_emptied(self) -> str:
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR | os.O_TRUNC)
        self._model.clear()
        return "reopen emptied"

    def _rename(self) -> str:
        self._path = self._path.rename(self._new_path())
        return f"rename to {self._path.name}"

    def _replace(self) -> str:
        """As editors save: a new file takes the name, while the old one is still open."""
        new = self._new_path()
        with new.open("wb", buffering=0) as file:
            data = self._random.randbytes(self._length())
            file.write(data)
            os.fsync(file.fileno())
        new.rename(self._path)
        self._check(0, SIZE_MAX, os.pread(self._fd, SIZE_MAX, 0))
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)
        self._model[:] = data
        return f"replace by {len(data)} bytes"

    def _drop_pages(self) -> str:
        os.fdatasync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return "drop pages"

    def _send(self) -> str:
        self._device.wait()
        return "send"

    def _remount_cold(self) -> str:
        os.close(self._fd)
        self._device.wait()
        self._device.umount()
        self._device.forget_cache()
        self._device.mount(*self._device.options)
        self._fd = os.open(self._path, os.O_RDWR)
        self._check(0, SIZE_MAX, os.pread(self._fd, SIZE_MAX, 0))
        return "remount cold"

    def _look_elsewhere(self) -> str:
        assert self._other is not None
        # What memory holds of a file that is open goes to the daemon by close or fsync only.
        os.fsync(self._fd)
        self._device.in_step(self._other)
        there = self._other.path / self._path.name
        wanted = bytes(self._model)
        if not until(lambda: there.exists() and there.read_bytes() == wanted, _HEARD_SECONDS):
            self._check(0, SIZE_MAX, there.read_bytes())
        return "look elsewhere"

    # Inside

    def _note(self, text: str) -> None:
        self._done.append(f"{self.steps}: {text}")

    def _told(self, text: str) -> str:
        steps = "\n  ".join(self._done)
        return f"seed {self.seed}, step {self.steps}, {self._path.name}: {text}\nlast steps:\n  {steps}"

    def _new_path(self) -> Path:
        self._names += 1
        return self._device.path / f"exercised-{self.seed}-{self._names}"

    def _length(self) -> int:
        # Short ones as often as long ones: both kinds of edges matter.
        return self._random.randint(1, self._random.choice((10, _BLOCK, 20_000, LENGTH_MAX)))

    def _stretch(self, end: int) -> tuple[int, int]:
        """Somewhere, and mostly near what is there: holes are made, but not by every write."""
        most = min(end, len(self._model) + 50_000) if self._random.random() < 0.9 else end
        offset = self._random.randrange(max(1, most))
        return offset, max(1, min(self._length(), SIZE_MAX - offset))

    def _inside(self) -> tuple[int, int]:
        offset = self._random.randrange(len(self._model))
        return offset, min(self._length(), len(self._model) - offset)

    def _mapped(self) -> mmap.mmap:
        return mmap.mmap(self._fd, len(self._model))

    def _directly(self, work: Callable[[int], int]) -> int:
        fd = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        try:
            return work(fd)
        finally:
            os.close(fd)
