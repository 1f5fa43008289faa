"""Prepared: what an upload hands to the commit."""

from typing import NamedTuple

from msgspec import Struct

from cache.blobs import Sums
from cache.staging import Staging
from remote.protocol.cutting import Buffer
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Entry, Manifest


class Own(NamedTuple):
    """A chunk that lies as it is in the staging's file, with its sums where its bytes were read for it."""

    entry: Entry
    offset: int
    sums: Sums | None


class Prepared(Struct, frozen=True):
    """A staging as of `generation`, with the manifest of that content; the server holds every chunk of it.

    `pieces` lie as they are in the staging's file; `plain` is all content when it is one chunk;
    `small` are leaves and deltas, worth keeping here.
    """

    staging: Staging
    generation: int
    manifest: Manifest
    pieces: tuple[Own, ...] = ()
    plain: bytes | None = None
    small: tuple[tuple[ChunkId, Buffer], ...] = ()
