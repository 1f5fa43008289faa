"""Archive: a folder as a zip that is made while it is sent; nothing is compressed, nothing lies on a disk."""

import io
import time
import zipfile
from collections.abc import Iterable, Iterator

from remote.protocol.sealing import Buffer


class _Sink(io.RawIOBase):
    """Where zipfile writes, and what is to be sent next."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Buffer) -> int:  # type: ignore[override]
        self._written.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        written, self._written = b"".join(self._written), []
        return written


Member = tuple[str, int, int, Iterable[Buffer]]
"""Path (a folder's ends with a slash), mode, mtime in nanoseconds, and content."""


def zipped(members: Iterable[Member]) -> Iterator[bytes]:
    """The bytes of the archive, in pieces as they come; zip64, so that nothing is too large."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for path, mode, mtime_ns, content in members:
            # Zip counts years from 1980 to 2107.
            moment = time.gmtime(min(max(mtime_ns // 10**9, 315_532_800), 4_354_819_198))
            info = zipfile.ZipInfo(path, moment[:6])
            info.external_attr = mode << 16
            if path.endswith("/"):
                archive.writestr(info, b"")
                continue
            with archive.open(info, "w", force_zip64=True) as opened:
                for piece in content:
                    opened.write(piece)
                    yield sink.taken()
        yield sink.taken()
    yield sink.taken()
