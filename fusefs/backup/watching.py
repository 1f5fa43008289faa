"""Watching: what changes in folders of this machine, by the kernel's inotify; the only module that speaks to it.

Each folder is watched by a descriptor, so no symlink is followed and no name need be text. What was missed (the
kernel's queue ran over) is told as such.
"""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import inotify_simple
import trio

from fusefs.backup.entries import FolderId

_MASK: Final = (
    inotify_simple.flags.MODIFY
    | inotify_simple.flags.ATTRIB
    | inotify_simple.flags.CLOSE_WRITE
    | inotify_simple.flags.MOVED_FROM
    | inotify_simple.flags.MOVED_TO
    | inotify_simple.flags.CREATE
    | inotify_simple.flags.DELETE
    | inotify_simple.flags.ONLYDIR
    | inotify_simple.flags.EXCL_UNLINK
)
_READ_BYTES: Final = 32 << 10
_LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_watches")


class Listener(Protocol):
    """Who hears of changes in a folder."""

    unwatched: str
    """Set to a sentence when a folder could not be watched: why."""

    def note(self, folder: FolderId, name: bytes, *, is_written: bool) -> None:
        """A name in it (empty: the folder itself) may be another; `is_written`: it is being written to just now."""


class Watching:
    """One queue of the kernel for all backups of a drive."""

    def __init__(self, missed: Callable[[], None]) -> None:
        """`missed`: nobody knows what else changed."""
        self._missed = missed
        self._folders: dict[int, tuple[FolderId, Listener]] = {}
        self._watches: dict[FolderId, int] = {}
        # A thread adds watches: what they tell is not looked at before it is known of which folder.
        self._lock = threading.Lock()
        self._inotify: inotify_simple.INotify | None = None
        self._trouble = ""
        try:
            self._inotify = inotify_simple.INotify(nonblocking=True)
        except OSError as error:
            self._trouble = (
                f"This system watches no more for this user ({error.strerror}; fs.inotify.max_user_instances)."
            )

    def watch(self, folder: FolderId, listener: Listener, fd: int) -> None:
        """Watches the folder that this descriptor is of, from now on; may be called in a thread."""
        if self._inotify is None:
            listener.unwatched = self._trouble
            return
        with self._lock:
            try:
                number = self._inotify.add_watch(f"/proc/self/fd/{fd}", _MASK)
            except OSError as error:
                listener.unwatched = _sentence(error)
                return
            old = self._folders.get(number)
            if old is not None and old[0] != folder:
                self._watches.pop(old[0], None)
            self._folders[number] = folder, listener
            self._watches[folder] = number

    def forget(self, folder: FolderId) -> None:
        """Watches a folder no more."""
        number = self._watches.pop(folder, None)
        if number is None or self._inotify is None:
            return
        self._folders.pop(number, None)
        try:
            self._inotify.rm_watch(number)
        except OSError:
            return  # it went with its folder

    @property
    def count(self) -> int:
        """How many folders are watched."""
        return len(self._watches)

    async def run(self) -> None:
        """Tells what changes, until cancelled."""
        if self._inotify is None:
            await trio.sleep_forever()
        while True:
            await trio.lowlevel.wait_readable(self._inotify.fileno())
            self.take()
            await trio.lowlevel.checkpoint()

    def take(self) -> None:
        """Tells some of what the kernel has waiting."""
        assert self._inotify is not None
        with self._lock:
            try:
                data = os.read(self._inotify.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
        flags = inotify_simple.flags
        for number, mask, _, name in inotify_simple.parse_events(data):
            if mask & flags.Q_OVERFLOW:
                self._missed()
                continue
            found = self._folders.get(number)
            if found is None:
                continue
            folder, listener = found
            if mask & flags.IGNORED:
                del self._folders[number]
                if self._watches.get(folder) == number:
                    del self._watches[folder]
                continue
            listener.note(folder, os.fsencode(name), is_written=bool(mask & flags.MODIFY))

    def close(self) -> None:
        """Lets go of the kernel's queue."""
        if self._inotify is not None:
            self._inotify.close()


def _sentence(error: OSError) -> str:
    if error.errno != errno.ENOSPC:
        return f"Not all folders can be watched ({error.strerror})."
    try:
        most = f" = {int(_LIMIT.read_text())}"
    except (OSError, ValueError):
        most = ""
    return (
        f"This system watches no more folders for this user (fs.inotify.max_user_watches{most}). Raise that with "
        "sysctl, as root, and mount again."
    )
