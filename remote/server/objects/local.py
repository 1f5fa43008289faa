"""Objects in a local directory: objects/ab/<chunk id>, packs/ab/<pack id>, what is half written in tmp/.

What was found damaged lies in damaged/, under the id it had.
A file gets its name only when it is whole and synced, so a name always leads to whole bytes; leftovers in tmp/ are
removed at the next start.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from remote.protocol.errors import BadRequest, ServerFault, TooLarge
from remote.protocol.ids import ChunkId, SpaceId, UserId
from remote.protocol.sealing import Buffer
from remote.server.keys import sync_folder
from remote.server.objects.signing import Grant, Signer
from remote.server.objects.store import GET_URL_SECONDS, PUT_URL_SECONDS, ObjectMissing, Stored

RESERVE = 64 << 20
"""Bytes of the disk that objects leave free, so that the database can go on."""


class LocalObjects:
    """A `Removable` in a directory; one process at a time may receive into it, others may do all else meanwhile."""

    may_send = True

    def __init__(self, directory: Path, signer: Signer, *, is_only: bool = True) -> None:
        """`is_only`: no other process receives, so what is half written is of one that was killed."""
        self._directory = directory
        self._signer = signer
        self._known_folders: set[Path] = set()
        self._folders_lock = threading.Lock()
        self._drafts = directory / "tmp"
        self._make_folders([self._drafts])
        for leftover in self._drafts.iterdir() if is_only else ():
            leftover.unlink()

    def write(self, name: str, data: bytes) -> None:
        """See Objects.write."""
        with self.incoming(len(data)) as incoming:
            incoming.add(data)
            self.keep([(incoming, name)])

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

    def size(self, name: str) -> int | None:
        """See Objects.size."""
        return _size(self._directory / name)

    def names(self) -> Iterator[Stored]:
        """See Removable.names."""
        for kind in ("objects", "packs"):
            for number in range(256):
                folder = f"{kind}/{number:02x}"
                try:
                    names = sorted(os.listdir(self._directory / folder))
                except FileNotFoundError:
                    continue
                for name in names:
                    try:
                        state = (self._directory / folder / name).stat()
                    except FileNotFoundError:
                        continue
                    yield Stored(f"{folder}/{name}", state.st_size, state.st_mtime_ns)

    def remove(self, name: str) -> None:
        """See Removable.remove."""
        (self._directory / name).unlink(missing_ok=True)

    def heal(self, name: str, data: bytes) -> None:
        """See Removable.heal."""
        path = self._directory / name
        self._make_folders([path.parent])
        with self.incoming(len(data)) as incoming:
            incoming.add(data)
            incoming.sync()
            incoming.replace(path)
        sync_folder(path.parent)

    def set_aside(self, name: str) -> None:
        """See Removable.set_aside."""
        damaged = self._directory / "damaged"
        self._make_folders([damaged])
        path = self._directory / name
        with suppress(FileNotFoundError):
            os.replace(path, damaged / path.name)
            sync_folder(damaged)
            sync_folder(path.parent)

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
        return Incoming(self._drafts / secrets.token_hex(16), size)

    def keep(self, drafts: Sequence[tuple["Incoming", str]]) -> None:
        """Keeps whole drafts under their names, all durable on return; an object of that name and size is left."""
        for draft, _ in drafts:
            draft.sync()
        folders = {(self._directory / name).parent for _, name in drafts}
        self._make_folders(folders)
        for draft, name in drafts:
            draft.name(self._directory / name)
        for folder in folders:
            sync_folder(folder)

    def _make_folders(self, folders: Iterable[Path]) -> None:
        with self._folders_lock:
            unknown = set(folders) - self._known_folders
            parents: set[Path] = set()
            for folder in unknown:
                missing = [folder]
                while not missing[-1].parent.is_dir():
                    missing.append(missing[-1].parent)
                for path in reversed(missing):
                    path.mkdir(mode=0o700, exist_ok=True)
                    parents.add(path.parent)
            for parent in parents:
                sync_folder(parent)
            self._known_folders |= unknown


class Incoming:
    """Bytes on their way into the store: `LocalObjects.keep` them, or leave and nothing stays."""

    def __init__(self, draft: Path, size: int) -> None:
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

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self._size - self._received

    def add(self, piece: Buffer) -> None:
        """Takes the next bytes; raises TooLarge when they are more than announced."""
        if len(piece) > self.left:
            raise TooLarge(f"The body is longer than the {self._size} bytes that were announced.")
        self._received += len(piece)
        self._hash.update(piece)
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]

    def check(self, chunk: ChunkId) -> None:
        """Raises BadRequest when these bytes are not all of the chunk with this id."""
        if self.left:
            raise BadRequest(f"The body ended after {self._received} bytes of {self._size}.")
        if self._hash.digest() != chunk:
            raise BadRequest(f"The body is not chunk {chunk.hex()}: its SHA-256 is {self._hash.hexdigest()}.")

    def start_writing(self) -> None:
        """Has the kernel write what came so far, so that a later sync waits less; waits for nothing."""
        # It also drops pages that are written already: there are none yet.
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Returns when the bytes survive a power cut."""
        os.fdatasync(self._file.fileno())

    def replace(self, path: Path) -> None:
        """Gives the synced bytes their name, whatever has it."""
        os.replace(self._draft, path)

    def name(self, path: Path) -> None:
        """Gives the synced bytes their name; what has it with the same size is left as it is."""
        try:
            os.link(self._draft, path)
        except FileExistsError:
            # A name says what the content is, so another size can only be damage: the whole bytes heal it.
            if _size(path) != self._size:
                os.replace(self._draft, path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
