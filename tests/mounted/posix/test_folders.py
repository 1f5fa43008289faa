"""Reading folders: positions stay good while entries come and go; everything that stays is seen once."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = ctypes.c_void_p
LIBC.opendir.argtypes = [ctypes.c_char_p]
LIBC.readdir.restype = ctypes.c_void_p
LIBC.readdir.argtypes = LIBC.closedir.argtypes = LIBC.telldir.argtypes = LIBC.rewinddir.argtypes = [ctypes.c_void_p]
LIBC.telldir.restype = ctypes.c_long
LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
NAME_AT = 19
"""Where d_name begins in glibc's struct dirent."""


class Folder:
    """An open folder, as C programs read it."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def next(self) -> str | None:
        """The next name but dots, None at the end."""
        while entry := LIBC.readdir(self._stream):
            name = os.fsdecode(ctypes.string_at(entry + NAME_AT))
            if name not in (".", ".."):
                return name
        return None

    def rest(self) -> list[str]:
        """All names from here on."""
        return list(iter(self.next, None))

    def position(self) -> int:
        """Where it is."""
        return int(LIBC.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Goes back there."""
        LIBC.seekdir(self._stream, position)

    def rewind(self) -> None:
        """Begins again."""
        LIBC.rewinddir(self._stream)


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """The folder, open."""
    stream = LIBC.opendir(os.fsencode(path))
    assert stream
    try:
        yield Folder(stream)
    finally:
        LIBC.closedir(stream)


@pytest.fixture
def folder(device: Any) -> Path:
    """A folder with names enough for many getdents calls."""
    path = Path(device("desk").path) / "folder"
    path.mkdir()
    for number in range(1_500):
        (path / f"{number:04d} {'x' * 100}").touch()
    return path


def test_positions_lead_back_to_where_they_were_taken(folder: Path) -> None:
    with opened(folder) as reading:
        names, positions = [], []
        while True:
            positions.append(reading.position())
            name = reading.next()
            if name is None:
                break
            names.append(name)
        assert sorted(names) == sorted(os.listdir(folder))
        for index in (1_400, 3, 700, 0, 1_499):
            reading.seek(positions[index])
            assert reading.rest() == names[index:]


def test_what_stays_is_seen_once_while_others_come_and_go(folder: Path) -> None:
    there = set(os.listdir(folder))
    with opened(folder) as reading:
        seen = [name for _ in range(100) if (name := reading.next())]
        gone = set(sorted(there - set(seen))[::3]) | set(seen[::2])
        for name in gone:
            os.unlink(folder / name)
        for number in range(200):
            (folder / f"new {number}").touch()
        seen += reading.rest()
    assert len(seen) == len(set(seen)), "nothing is shown twice"
    assert there - gone <= set(seen), "nothing that stayed is left out"


def test_a_rewound_folder_shows_what_is_there_now(folder: Path) -> None:
    with opened(folder) as reading:
        first = reading.next()
        assert first is not None
        reading.rest()
        os.unlink(folder / first)
        (folder / "new").touch()
        reading.rewind()
        names = reading.rest()
    assert sorted(names) == sorted(os.listdir(folder))
    assert "new" in names
    assert first not in names


def test_a_folder_can_be_emptied_while_it_is_read(folder: Path) -> None:
    with opened(folder) as reading:
        while name := reading.next():
            os.unlink(folder / name)
    assert os.listdir(folder) == []
    folder.rmdir()


def test_a_folder_that_is_listed_again_shows_what_changed_in_it(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    top = desk.path / "top"
    top.mkdir()
    for name in ("mode", "content", "moved", "gone", "open", "elsewhere"):
        (top / name).write_bytes(b"first")
    desk.wait()
    assert until((laptop.path / "top/elsewhere").exists)

    def listed() -> dict[str, os.stat_result]:
        found = {}
        with os.scandir(top) as entries:
            for entry in entries:
                # What is removed elsewhere may go just then.
                with suppress(FileNotFoundError):
                    found[entry.name] = os.lstat(entry.path)
        return found

    assert listed() == listed()
    (top / "mode").chmod(0o600)
    (top / "content").write_bytes(b"second, longer")
    (top / "moved").rename(top / "there")
    (top / "gone").unlink()
    (top / "new").symlink_to("mode")
    fd = os.open(top / "open", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b" and more")
        seen = listed()
        assert set(seen) == {"mode", "content", "there", "new", "open", "elsewhere"}
        assert seen["mode"].st_mode & 0o777 == 0o600
        assert (seen["content"].st_size, seen["open"].st_size) == (14, 14)
        assert listed() == seen
    finally:
        os.close(fd)
    assert listed()["open"].st_size == 14
    (laptop.path / "top/elsewhere").write_bytes(b"third, longest")
    (laptop.path / "top/mode").unlink()
    laptop.wait()
    assert until(lambda: "mode" not in (seen := listed()) and seen["elsewhere"].st_size == 14)
