"""Content as wsgidav reads and writes it: streams in threads."""

import time
from collections.abc import Callable, Iterator

from wsgidav.dav_error import (
    HTTP_INSUFFICIENT_STORAGE,
    DAVError,
)

from remote.protocol.ids import SpaceId
from remote.protocol.nodes import Manifest
from remote.protocol.sealing import Buffer
from remote.server.content import Writer
from remote.server.http.streamed import LOOKED_BYTES, LOOKED_SECONDS
from remote.server.instance import Instance


class Reading:
    """Content as a stream that can seek before it is read; it ends when `may_read`, asked now and then, says no."""

    def __init__(self, instance: Instance, space: SpaceId, manifest: Manifest, may_read: Callable[[], bool]) -> None:
        self._instance, self._space, self._manifest = instance, space, manifest
        self._may_read = may_read
        self._looked, self._read_bytes = time.monotonic(), 0
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
            self._read_bytes += len(self._rest)
            if time.monotonic() - self._looked > LOOKED_SECONDS or self._read_bytes > LOOKED_BYTES:
                self._looked, self._read_bytes = time.monotonic(), 0
                if not self._may_read():
                    return b""
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
