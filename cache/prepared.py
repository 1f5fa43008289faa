"""Prepared: what an upload hands to the commit."""

from dataclasses import dataclass

from cache.staging import Staging
from remote.protocol.cutting import Buffer
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Entry, Manifest


@dataclass(frozen=True)
class Prepared:
    """A staging as of `generation`, with the manifest of that content; the server holds every chunk of it.

    `pieces` lie as they are in the staging's file, at these offsets; `plain` is all content when it is one chunk;
    `small` are leaves and deltas, worth keeping here.
    """

    staging: Staging
    generation: int
    manifest: Manifest
    pieces: tuple[tuple[Entry, int], ...] = ()
    plain: bytes | None = None
    small: tuple[tuple[ChunkId, Buffer], ...] = ()
