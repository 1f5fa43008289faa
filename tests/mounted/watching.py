"""Real inotify, as file managers, editors and build watchers use it."""

import ctypes
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_HEAD = struct.Struct("iIII")
_NAMES = {
    0x2: "MODIFY",
    0x4: "ATTRIB",
    0x8: "CLOSE_WRITE",
    0x40: "MOVED_FROM",
    0x80: "MOVED_TO",
    0x100: "CREATE",
    0x200: "DELETE",
    0x400: "DELETE_SELF",
    0x800: "MOVE_SELF",
    0x4000: "OVERFLOW",
    0x8000: "IGNORED",
}
_FOLDER = 0x4000_0000


class Event(NamedTuple):
    """What the kernel told: in which watched folder (or file), what, of which name; a move's two have one cookie."""

    where: str
    what: str
    name: str
    is_folder: bool
    cookie: int


class Watch:
    """Watches some folders or files until closed."""

    def __init__(self, *paths: Path) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0
        self._paths: dict[int, str] = {}
        mask = 0
        for bit in _NAMES:
            mask |= bit if bit < 0x4000 else 0
        for path in paths:
            number = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
            assert number >= 0, os.strerror(ctypes.get_errno())
            self._paths[number] = path.name
        self.events: list[Event] = []

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, seconds: float = 0.0) -> list[Event]:
        """All events until now; waits so long for the next one."""
        if select.select([self._fd], [], [], seconds)[0]:
            data = os.read(self._fd, 1 << 20)
            while data:
                number, mask, cookie, length = _HEAD.unpack_from(data)
                name = data[_HEAD.size : _HEAD.size + length].rstrip(b"\0")
                data = data[_HEAD.size + length :]
                what = _NAMES.get(mask & 0xFFFF)
                if what is not None:
                    where = self._paths.get(number, "")
                    self.events.append(Event(where, what, os.fsdecode(name), bool(mask & _FOLDER), cookie))
        return self.events

    def told(self) -> list[str]:
        """The events until now, as `MODIFY a`."""
        return [f"{event.what} {event.name}".strip() for event in self.read()]

    def hears(self, *wanted: str, seconds: float = 60.0) -> list[Event]:
        """Returns when these came in this order, others between them or not; fails after so long."""
        deadline = time.monotonic() + seconds

        def is_there() -> bool:
            told = iter(self.told())
            return all(any(one == event for event in told) for one in wanted)

        self._until(is_there, deadline)
        assert is_there(), f"heard {self.told()}, not {wanted}"
        return self.events

    def _until(self, is_there: Callable[[], bool], deadline: float) -> None:
        while not is_there() and time.monotonic() < deadline:
            self.read(max(0.0, min(0.1, deadline - time.monotonic())))

    def forget(self) -> None:
        """What came until now is of no interest."""
        self.read()
        self.events.clear()
