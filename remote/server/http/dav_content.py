"""Content as wsgidav reads and writes it: streams in threads."""

from collections.abc import Iterator

from wsgidav.dav_error import (
    HTTP_INSUFFICIENT_STORAGE,
    DAVError,
)

from remote.protocol.ids import SpaceId
from remote.protocol.nodes import Manifest
from remote.protocol.sealing import Buffer
from remote.server.content import Writer
from remote.server.instance import Instance


class Reading:
    """Content as a stream that can seek before it is read."""

    def __init__(self, instance: Instance, space: SpaceId, manifest: Manifest) -> None:
        self._instance, self._space, self._manifest = instance, space, manifest
        self._at = 0
        self._pieces: Iterator[Buffer] | None = None
        self._rest = memoryview(b"")

    def seek(self, offset: int) -> int:
        self._at, self._pieces, self._rest = offset, None, memoryview(b"")
        return offset

    def read(self, size: int = -1) -> bytes:
        if self._pieces is None:
            self._pieces = self._instance.contents.read(
                self._space, self._manifest, min(self._at, self._manifest.size), self._manifest.size
            )
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b"")).cast("B")
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def close(self) -> None:
        self._pieces = None


class Writing:
    """Content on its way in."""

    def __init__(self, writer: Writer, most: int) -> None:
        self._writer = writer
        self._most = most
        self.finish = writer.finish

    @property
    def size(self) -> int:
        return self._writer.size

    def write(self, piece: bytes) -> None:
        if self._writer.size + len(piece) > self._most:
            raise DAVError(HTTP_INSUFFICIENT_STORAGE, "The quota does not leave room for this.")
        self._writer.add(piece)

    def writelines(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def close(self) -> None:
        """What came is kept by `end_write`."""
