"""Objects in a local directory: objects/ab/cd/<chunk id>, packs/ab/<pack id>, and what is half written in tmp/.

A file gets its name only when it is whole and synced, so a name always leads to whole bytes; leftovers in tmp/ are
removed at the next start.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from remote.protocol.errors import BadRequest, ServerFault, TooLarge
from remote.protocol.ids import ChunkId, SpaceId, UserId
from remote.server.keys import sync_folder
from remote.server.objects.signing import Grant, Signer
from remote.server.objects.store import GET_URL_SECONDS, PUT_URL_SECONDS, ObjectMissing, object_name

RESERVE = 64 << 20
"""Bytes of the disk that objects leave free, so that the database can go on."""


class LocalObjects:
    """An `Objects` in a directory; only one process may open it at a time."""

    def __init__(self, directory: Path, signer: Signer) -> None:
        self._directory = directory
        self._signer = signer
        self._known_folders: set[Path] = set()
        self._folders_lock = threading.Lock()
        self._drafts = directory / "tmp"
        self._make_folder(self._drafts)
        for leftover in self._drafts.iterdir():
            leftover.unlink()

    def write(self, name: str, data: bytes) -> None:
        """See Objects.write."""
        with self.incoming(len(data)) as incoming:
            incoming.add([data])
            incoming.keep(name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """See Objects.read."""
        try:
            descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ObjectMissing(f"{name} is not in the store") from None
        try:
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise ObjectMissing(f"{name} is shorter than {offset + length} bytes")
        return data

    def free_bytes(self) -> int:
        """See Objects.free_bytes."""
        state = os.statvfs(self._directory)
        return max(0, state.f_bavail * state.f_frsize - RESERVE)

    def put_url(self, user: UserId, space: SpaceId, chunk: ChunkId, size: int) -> str:
        """See Objects.put_url."""
        return self._signer.url(Grant("PUT", user, space, chunk, size), PUT_URL_SECONDS)

    def get_url(self, user: UserId, space: SpaceId, chunk: ChunkId) -> str:
        """See Objects.get_url."""
        return self._signer.url(Grant("GET", user, space, chunk), GET_URL_SECONDS)

    def incoming(self, size: int) -> "Incoming":
        """A place for `size` bytes that arrive piece by piece; raises ServerFault when the disk is full."""
        if self.free_bytes() < size:
            raise ServerFault("The server's disk is full: nothing more can be sent until there is room on it.")
        return Incoming(self, self._drafts / secrets.token_hex(16), size)

    def name_draft(self, draft: Path, size: int, name: str) -> None:
        """Gives a synced draft its name, durably; an object of that name and size is left as it is."""
        path = self._directory / name
        self._make_folder(path.parent)
        try:
            os.link(draft, path)
        except FileExistsError:
            # A name says what the content is, so another size can only be damage: the whole bytes heal it.
            if path.stat().st_size != size:
                os.replace(draft, path)
        sync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        with self._folders_lock:
            if folder in self._known_folders:
                return
            missing = [folder]
            while not missing[-1].parent.is_dir():
                missing.append(missing[-1].parent)
            for path in reversed(missing):
                path.mkdir(mode=0o700, exist_ok=True)
                sync_folder(path.parent)
            self._known_folders.add(folder)


class Incoming:
    """Bytes on their way into the store: `keep` them under a name, or leave and nothing stays."""

    def __init__(self, objects: LocalObjects, draft: Path, size: int) -> None:
        self._objects = objects
        self._draft = draft
        self._size = size
        self._received = 0
        self._hash = hashlib.sha256()
        self._file = open(draft, "xb", buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def add(self, pieces: Sequence[bytes]) -> None:
        """Takes the next bytes; raises TooLarge when they are more than announced."""
        self._received += sum(map(len, pieces))
        if self._received > self._size:
            raise TooLarge(f"The body is longer than the {self._size} bytes that were announced.")
        for piece in pieces:
            self._hash.update(piece)
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]

    def keep_chunk(self, chunk: ChunkId) -> None:
        """Keeps the bytes as the chunk with this id; raises BadRequest when they are not that chunk."""
        if self._received != self._size:
            raise BadRequest(f"The body ended after {self._received} bytes of {self._size}.")
        if self._hash.digest() != chunk:
            raise BadRequest(f"The body is not chunk {chunk.hex()}: its SHA-256 is {self._hash.hexdigest()}.")
        self.keep(object_name(chunk))

    def keep(self, name: str) -> None:
        """Keeps the bytes under a name, durably."""
        os.fsync(self._file.fileno())
        self._objects.name_draft(self._draft, self._size, name)
