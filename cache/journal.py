"""Journal: what a store was told since its file last took changes in; an append survives `kill -9` without a flush.

Two files in turn: when the store begins to take in what the one holds, the other takes what follows. See FORMAT.md.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from cache.errors import DiskFull
from cache.layer import Puts

_HEADER: Final = struct.Struct("<IIQ")  # length of the body, CRC-32 of the rest, sequence number
_SEQUENCE: Final = struct.Struct("<Q")
_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Puts)


def journal_files(path: Path) -> tuple[Path, Path]:
    """The files of the journal of the store at `path`."""
    return path.with_suffix(".wal0"), path.with_suffix(".wal1")


class Journal:
    """The journal of the store at `path`. Used from the store's thread, `sync` and `empty` also in another."""

    def __init__(self, path: Path) -> None:
        """Opens or makes its files; `replay` comes first."""
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fds: Final = [os.open(file, flags, 0o600) for file in journal_files(path)]
        self._ends = [0, 0]
        self._active = 0
        # Whether the other file holds something that is not durable elsewhere, as far as is known.
        self._is_turning = True

    def replay(self, sequence: int) -> Iterator[tuple[int, Puts, int]]:
        """Changes after the one with this number, with their numbers and sizes; ends where one is missing."""
        found = [list(_read(fd)) for fd in self._fds]
        for number in sorted(range(2), key=lambda number: found[number][0][0] if found[number] else 0):
            for record_sequence, puts, start, end in found[number]:
                if record_sequence > sequence + 1:
                    # It goes on from what another file held, which was moved away, cut or is an older copy.
                    return
                # A power cut may bring back an older journal than the file: what is in it is known already.
                self._ends[number] = end
                if record_sequence > sequence:
                    sequence = record_sequence
                    self._active = number
                    yield sequence, puts, end - start

    def cut(self) -> int:
        """Takes away what `replay` could not read, and says how many bytes that were."""
        unread = 0
        for fd, end in zip(self._fds, self._ends, strict=True):
            more = os.fstat(fd).st_size - end
            if more:
                # A record appended behind them would never be found again.
                os.ftruncate(fd, end)
                unread += more
        return unread

    def append(self, sequence: int, puts: Puts) -> int:
        """Takes a change, and returns its size in bytes; raises DiskFull, then it was not taken."""
        body = _encode(puts)
        record = _HEADER.pack(len(body), zlib.crc32(body, zlib.crc32(_SEQUENCE.pack(sequence))), sequence) + body
        fd = self._fds[self._active]
        try:
            written = os.write(fd, record)
        except OSError as error:
            raise DiskFull(
                f"{self._path} cannot grow ({error.strerror}): the change was not made. Make room on this disk."
            ) from error
        if written != len(record):
            # A torn record would end the replay before everything that follows it.
            os.ftruncate(fd, self._ends[self._active])
            raise DiskFull(f"The disk of {self._path} is full: the change was not made. Make room on this disk.")
        self._ends[self._active] += written
        return written

    def turn(self) -> None:
        """From now on the other file, which must be empty, takes changes; this one stays until `empty`."""
        self._is_turning = True
        self._active = 1 - self._active

    def empty(self) -> None:
        """What was appended before the last `turn` is durable elsewhere; blocks."""
        old = 1 - self._active
        os.ftruncate(self._fds[old], 0)
        self._ends[old] = 0
        self._is_turning = False

    def clear(self) -> None:
        """All that was replayed is durable elsewhere."""
        for number, fd in enumerate(self._fds):
            os.ftruncate(fd, 0)
            self._ends[number] = 0
        self._is_turning = False

    def sync(self) -> None:
        """Returns when every change that was appended before the call survives a power cut; blocks."""
        # The active one first: were there a turn in between, it would be the old one of that turn.
        os.fdatasync(self._fds[self._active])
        if self._is_turning:
            os.fdatasync(self._fds[1 - self._active])

    def close(self) -> None:
        """Lets go of the files."""
        for fd in self._fds:
            os.close(fd)


def _read(fd: int) -> Iterator[tuple[int, Puts, int, int]]:
    """Whole records in order, with where each starts and ends; stops at the first that is torn."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read()
    start = 0
    while start + _HEADER.size <= len(data):
        length, checksum, sequence = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + length
        if end > len(data) or zlib.crc32(memoryview(data)[start + 8 : end]) != checksum:
            return
        yield sequence, _decoder.decode(memoryview(data)[start + _HEADER.size : end]), start, end
        start = end
