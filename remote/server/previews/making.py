"""Making: previews of what files hold, by a confined process; and the job that makes the usual ones ahead."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from remote.protocol.ids import SpaceId
from remote.protocol.nodes import Kind, NodeState
from remote.server.database.connection import Database
from remote.server.jobs.confined import CONTENT_MAX, Confined, NotConfined, Refused
from remote.server.jobs.following import Batch, Changed, Cursors, Job, NotNow, TableCursors, Trouble
from remote.server.jobs.giving import Giver, Read
from remote.server.jobs.tasks.small import LENGTH
from remote.server.keys import SpaceKey
from remote.server.previews.shelf import Shelf, Shown
from remote.server.states import encode_manifest

log = logging.getLogger(__name__)

SIZES: Final = {"normal": 128, "large": 256, "x-large": 512, "xx-large": 1_024}
"""Names and pixels of the freedesktop.org thumbnail specification."""
USUAL: Final = (128, 256)
"""What file managers ask for; others are made when somebody does."""
VIDEO: Final = "video"
_HOW: Final = {
    **dict.fromkeys((b"bmp", b"gif", b"ico", b"jpe", b"jpeg", b"jpg", b"png", b"tif", b"tiff", b"webp"), "image"),
    **dict.fromkeys((b"pbm", b"pgm", b"pnm", b"ppm"), "image"),
    b"pdf": "pdf",
    # Not ts: most of these are programs.
    **dict.fromkeys((b"3g2", b"3gp", b"asf", b"avi", b"flv", b"m2ts", b"m4v", b"mkv", b"mov", b"mp4"), VIDEO),
    **dict.fromkeys((b"mpeg", b"mpg", b"mts", b"ogv", b"vob", b"webm", b"wmv"), VIDEO),
}
NONE: Final = b"-"
"""Stands for a preview that cannot be made."""


def how_of(name: bytes, state: NodeState) -> str | None:
    """How a preview of a file of this name is made; None when there is none of such files."""
    if state.kind is not Kind.FILE or state.content is None or not state.content.size:
        return None
    how = _HOW.get(name.rpartition(b".")[2].lower())
    # Of a video only what is needed is read, of all others everything.
    return how if how == VIDEO or state.content.size <= CONTENT_MAX else None


@dataclass(frozen=True)
class Readable:
    """A content, and how bytes of it are read."""

    size: int
    read: Read


class Maker:
    """Makes previews, and keeps them; blocks while it does."""

    def __init__(self, shelf: Shelf, confined: Confined) -> None:
        self._shelf = shelf
        self._confined = confined

    def make(
        self,
        key: SpaceKey,
        space: SpaceId,
        content_id: bytes,
        how: str,
        content: Readable,
        sizes: Sequence[int],
    ) -> list[bytes]:
        """PNGs of these sizes, which are kept now; raises Refused when there is none, NotConfined, Stopped."""
        try:
            made = _split(self._told(how, content, ",".join(map(str, sizes))), len(sizes))
        except Refused:
            for size in sizes:
                self._shelf.put(Shown(space, content_id, size), key.seal(NONE))
            raise
        for size, png in zip(sizes, made, strict=True):
            self._shelf.put(Shown(space, content_id, size), key.seal(png))
        return made

    def _told(self, how: str, content: Readable, sizes: str) -> bytes:
        if how != VIDEO:
            return self._confined.run("picture", content.read(0, content.size), how, sizes)
        giver = Giver(content.size, content.read)
        try:
            return self._confined.run_asking("video", giver, str(content.size), sizes)
        finally:
            giver.close()

    def close(self) -> None:
        """Ends what is being made."""
        self._confined.close()


class Previews(Job):
    """The job: previews of the usual sizes of all pictures and documents as they are now."""

    name = "previews"

    def __init__(self, database: Database, shelf: Shelf) -> None:
        self._kept = TableCursors(database, self.name)
        self.cursors: Cursors = self._kept
        self._shelf = shelf
        self._maker = Maker(shelf, Confined())

    def take(self, batch: Batch) -> Sequence[Trouble]:
        """Makes what is missing."""
        troubles: list[Trouble] = []
        for one in batch:
            try:
                self._take(batch, one)
            except Refused as error:
                troubles.append(Trouble(one.node, str(error)))
            except NotConfined as error:
                raise NotNow(str(error)) from error
        return troubles

    def _take(self, batch: Batch, one: Changed) -> None:
        state = one.state
        if state is None or not one.is_now or state.content is None or not state.names:
            return
        how = how_of(state.names[0].name, state)
        if how is None:
            return
        content_id = batch.key.content_id(encode_manifest(state.content))
        missing = [size for size in USUAL if not self._shelf.has(Shown(batch.space, content_id, size))]
        if missing:
            content = Readable(state.content.size, partial(batch.content, state))
            self._maker.make(batch.key, batch.space, content_id, how, content, missing)

    def start_over(self, space: SpaceId) -> None:
        """What was made stays: it is named by what it shows."""
        self._kept.end(space)

    def close(self) -> None:
        """Ends what is being made."""
        self._maker.close()


def _split(told: bytes, count: int) -> list[bytes]:
    """The pictures in an output, which may be anything; raises Refused."""
    found: list[bytes] = []
    at = 0
    while len(found) < count:
        if len(told) - at < LENGTH.size:
            raise Refused("What reads it gave no picture.")
        (length,) = LENGTH.unpack_from(told, at)
        at += LENGTH.size
        png = told[at : at + length]
        if len(png) != length or not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise Refused("What reads it gave no picture.")
        found.append(png)
        at += length
    return found
