"""Shelf: previews that were made, as files of a bounded folder; derived, so all of it may be removed at any time.

SPACE/ab/NAME-SIZE     sealed by the space's key; named by the content that it shows, as the space names it
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remote.protocol.ids import SpaceId

_KEPT_SHARE: Final = 0.9
"""When it is full, what was not used for longest goes until so much is left."""


@dataclass(frozen=True)
class Shown:
    """Which preview: of what content, at what size in pixels."""

    space: SpaceId
    content_id: bytes
    size: int


class Shelf:
    """The previews of an instance; blocks on the disk."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._used_bytes: int | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._folder

    def get(self, shown: Shown) -> bytes | None:
        """What was put there, sealed; None when nothing is."""
        path = self._path(shown)
        try:
            found = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        return found

    def has(self, shown: Shown) -> bool:
        """Whether there is one."""
        return self._path(shown).exists()

    def put(self, shown: Shown, sealed: bytes) -> None:
        """Keeps it, if need be in place of others that were not used for longer."""
        path = self._path(shown)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        # Whole or not at all after a kill; after a power cut it may be damaged, which opening it tells.
        with self._lock:
            self._used_bytes = self.used_bytes() + len(sealed)
            draft.write_bytes(sealed)
            draft.replace(path)
            if self.used_bytes() > self._limit_bytes:
                self._trim()

    def drop(self, shown: Shown) -> None:
        """Removes it."""
        self._path(shown).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """About how much all of them take."""
        if self._used_bytes is None:
            self._used_bytes = sum(size for _, _, size in self._files())
        return self._used_bytes

    def sweep(self, is_needed: Callable[[SpaceId, bytes], bool]) -> int:
        """Removes those of content that is gone, and what a kill left; returns how many."""
        removed = 0
        for path, _, _ in self._files():
            shown = _shown(path)
            if shown is None or not is_needed(shown.space, shown.content_id):
                # Who holds the lock writes no draft: it is one of a process that was killed.
                with self._lock:
                    path.unlink(missing_ok=True)
                removed += 1
        with self._lock:
            self._used_bytes = None
        return removed

    def _path(self, shown: Shown) -> Path:
        name = shown.content_id.hex()
        return self._folder / f"{shown.space:x}" / name[:2] / f"{name}-{shown.size}"

    def _files(self) -> Iterator[tuple[Path, float, int]]:
        """(path, when it was used last, bytes) of all files."""
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    yield path, found.st_mtime, found.st_size

    def _trim(self) -> None:
        files = sorted(self._files(), key=lambda file: file[1])
        used = sum(size for _, _, size in files)
        for path, _, size in files:
            if used <= self._limit_bytes * _KEPT_SHARE:
                break
            path.unlink(missing_ok=True)
            used -= size
        self._used_bytes = used


def _shown(path: Path) -> Shown | None:
    """Which preview lies there; None for what is none."""
    name, _, size = path.name.partition("-")
    try:
        return Shown(SpaceId(int(path.parent.parent.name, 16)), bytes.fromhex(name), int(size))
    except ValueError:
        return None
