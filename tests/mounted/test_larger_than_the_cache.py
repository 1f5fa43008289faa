"""Files larger than the cache: written at the upload's pace, read, whole elsewhere; nothing acknowledged is lost."""

import errno
import filecmp
import io
import mmap
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import eventually

pytestmark = pytest.mark.mounted

MIB = 1 << 20
CACHE = 16 * MIB
SIZE = 64 * MIB
CONTENT = random.Random(7).randbytes(SIZE)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A file of four times the cache."""
    path = tmp_path / "film"
    path.write_bytes(CONTENT)
    return path


def same_elsewhere(device: Any, wanted: Path) -> bool:
    """Whether a device that has nothing yet, with as small a cache, reads just this in the file of its name."""
    laptop = device("laptop", cache_size_bytes=CACHE)
    return filecmp.cmp(wanted, laptop.path / wanted.name, shallow=False)


def pieces(start: int, stop: int) -> Iterator[bytes]:
    """The content from offset to offset, as a program writes it."""
    return (CONTENT[offset : offset + MIB] for offset in range(start, stop, MIB))


def synced_from(file: io.FileIO, offset: int) -> int:
    """Writes the rest of the content from there on; up to where the disk took it."""
    file.seek(offset)
    for piece in pieces(offset, SIZE):
        try:
            file.write(piece)
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            break
        offset += len(piece)
    return offset


@contextmanager
def written_until_killed(device: Any) -> Iterator[io.FileIO]:
    """The file, opened to be written anew; at the end the daemon is killed before it is closed."""
    # Nobody can say then that all is well with what is closed.
    with suppress(OSError), open(device.path / "film", "wb", buffering=0) as file:
        yield file
        device.kill()


def test_a_file_larger_than_the_cache_is_written_and_read(device: Any, film: Path) -> None:
    desk = device("desk", cache_size_bytes=CACHE)
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, desk.status()["cache"]["bytes"])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        subprocess.run(["cp", film, desk.path / "film"], check=True, timeout=600)
        assert filecmp.cmp(film, desk.path / "film", shallow=False)
    finally:
        done.set()
        watching.join()
    assert most <= CACHE
    desk.wait()
    assert same_elsewhere(device, film)


def test_what_was_synced_of_it_is_whole_after_a_kill(device: Any, film: Path) -> None:
    desk = device("desk", cache_size_bytes=CACHE)
    with written_until_killed(desk) as file:
        file.writelines(pieces(0, SIZE // 2))
        os.fsync(file.fileno())
        file.writelines(pieces(SIZE // 2, SIZE - 8 * MIB))
    desk.mount()
    with open(desk.path / "film", "r+b", buffering=0) as file:
        assert file.read(SIZE // 2) == CONTENT[: SIZE // 2]
        file.seek(SIZE // 2)
        file.writelines(pieces(SIZE // 2, SIZE))
    desk.wait()
    assert same_elsewhere(device, film)


def test_a_file_that_was_not_closed_is_as_it_was_after_a_kill(device: Any, film: Path) -> None:
    desk = device("desk", cache_size_bytes=CACHE)
    subprocess.run(["cp", film, desk.path / "film"], check=True, timeout=600)
    desk.wait()
    with written_until_killed(desk) as file:
        file.writelines(bytes(MIB - 1) + b"x" for _ in range(0, SIZE * 3 // 4, MIB))
    desk.mount()
    desk.wait()
    assert filecmp.cmp(film, desk.path / "film", shallow=False)


def test_offline_it_says_why_and_goes_on_when_the_server_is_back(device: Any, server: Any, film: Path) -> None:
    desk = device("desk", cache_size_bytes=CACHE)
    (desk.path / "kept").write_bytes(b"kept")
    desk.wait()
    with open(desk.path / "film", "wb", buffering=0) as file:
        file.writelines(pieces(0, SIZE // 2))
        os.fsync(file.fileno())
        server.stop()
        written = synced_from(file, SIZE // 2)
        assert written < SIZE
        assert "The cache is full" in desk.status()["full"]
        assert "Full    programs cannot write: The cache is full" in desk.cli("status").stdout
        server.start()
        assert eventually(lambda: desk.status()["online"])
        file.truncate(written)
        assert synced_from(file, written) == SIZE
    assert eventually(lambda: not desk.status()["full"])
    desk.wait()
    assert same_elsewhere(device, film)


def test_a_stored_file_is_written_over_here_and_there(device: Any, film: Path) -> None:
    desk = device("desk", cache_size_bytes=CACHE)
    subprocess.run(["cp", film, desk.path / "film"], check=True, timeout=600)
    desk.wait()
    places = random.Random(3)
    with open(film, "r+b", buffering=0) as one, open(desk.path / "film", "r+b", buffering=0) as two:
        for number in range(40):
            offset, data = places.randrange(SIZE), places.randbytes(MIB)
            for file in (one, two):
                file.seek(offset)
                file.write(data)
            if number % 8 == 0:
                one.seek(offset - MIB if offset > MIB else 0)
                two.seek(offset - MIB if offset > MIB else 0)
                assert one.read(3 * MIB) == two.read(3 * MIB)
        with mmap.mmap(one.fileno(), SIZE) as first, mmap.mmap(two.fileno(), SIZE) as second:
            for offset in range(0, SIZE, 3 * MIB):
                first[offset : offset + 4] = second[offset : offset + 4] = b"mmap"
    assert filecmp.cmp(film, desk.path / "film", shallow=False)
    desk.wait()
    assert same_elsewhere(device, film)
