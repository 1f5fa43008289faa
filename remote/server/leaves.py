"""The chunks that manifests name, down through the leaves of long ones; whether a space may read those of a commit."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from remote.protocol import manifests, sealing
from remote.protocol.errors import BadRequest, ChunkMissing, TooLarge
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.nodes import Entry, Manifest
from remote.server.database import chunks as chunk_rows
from remote.server.database.connection import Session

LEAVES_MAX = 100_000
"""Leaves that one commit may bring that were not seen before: 10 TB of new content."""
CHUNKS_MAX = 1_000_000
"""Chunks that content may name which goes into another space at once: about 1 TB."""
REMEMBERED_MAX = 200_000
NAMED_MAX = 5
"""Missing chunks that an error names."""

_Seen = tuple[SpaceId, Entry, int]


class ReadChunk(Protocol):
    """How a stored chunk is read."""

    def __call__(self, session: Session, chunk: ChunkId) -> bytes:
        """The sealed bytes."""
        ...


class Leaves:
    """Checks manifests, and remembers the leaves that it has seen: they are immutable.

    What the space may read of them is true for one round of upkeep only: with the next all is looked up again.
    """

    def __init__(self, read_chunk: ReadChunk) -> None:
        self._read_chunk = read_chunk
        self._seen: OrderedDict[_Seen, None] = OrderedDict()
        self._round = 0
        self._lock = threading.Lock()

    def check(self, session: Session, space: SpaceId, found: Sequence[Manifest]) -> set[ChunkId]:
        """Those of the chunks that are in doubt, to be named again by the commit.

        Raises ChunkMissing for chunks that the space may not read, BadRequest for leaves that are none.
        """
        looking = _Look(session, space, chunk_rows.upkeep_round(session))
        self._begin(looking.round)
        looking.at([entry for manifest in found for entry in manifest.entries])
        room = LEAVES_MAX
        for manifest in found:
            if manifest.depth:
                for entry in manifest.entries:
                    room = self._check_leaf(looking, entry, manifest.depth, room)
        return looking.doubted

    def _check_leaf(self, looking: "_Look", entry: Entry, depth: int, room: int) -> int:
        """How many more leaves may be opened after this one and all below it."""
        if entry.is_hole or self._has_seen((looking.space, entry, depth), looking.round):
            return room
        if not room:
            raise TooLarge(f"This commit brings more than {LEAVES_MAX} leaves that are new: send it in parts.")
        entries = manifests.decode_leaf(sealing.open_leaf(entry, self._read_chunk(looking.session, entry.id)))
        _check_leaf_entries(entry, entries, depth)
        had = len(looking.doubted)
        looking.at(entries)
        room -= 1
        if depth > 1:
            for child in entries:
                room = self._check_leaf(looking, child, depth - 1, room)
        if len(looking.doubted) == had:
            # Of one with chunks in doubt, the next commit must hear again, should this one be refused.
            self._remember((looking.space, entry, depth), looking.round)
        return room

    def _begin(self, round_: int) -> None:
        with self._lock:
            if self._round < round_:
                self._seen.clear()
                self._round = round_

    def _has_seen(self, leaf: _Seen, round_: int) -> bool:
        with self._lock:
            if self._round != round_ or leaf not in self._seen:
                return False
            self._seen.move_to_end(leaf)
            return True

    def _remember(self, leaf: _Seen, round_: int) -> None:
        with self._lock:
            if self._round != round_:
                return
            self._seen[leaf] = None
            if len(self._seen) > REMEMBERED_MAX:
                self._seen.popitem(last=False)


class _Look:
    """One look at which chunks a space may read; notes those that are in doubt."""

    def __init__(self, session: Session, space: SpaceId, round_: int) -> None:
        self.session = session
        self.space = space
        self.round = round_
        self.doubted: set[ChunkId] = set()

    def at(self, entries: Sequence[Entry]) -> None:
        """Looks at the chunks and bases of these entries; raises ChunkMissing."""
        named = {entry.id: None for entry in entries if not entry.is_hole}
        named.update({entry.base.id: None for entry in entries if entry.base is not None})
        missing: list[ChunkId] = []
        for chunk in named:
            doubted_ns = chunk_rows.reference(self.session, self.space, chunk)
            if doubted_ns is None:
                missing.append(chunk)
            elif doubted_ns:
                self.doubted.add(chunk)
        if missing:
            names = ", ".join(chunk.hex() for chunk in missing[:NAMED_MAX])
            raise ChunkMissing(f"{len(missing)} chunks were not sent to this space: {names}{_more(missing)}.")


def _check_leaf_entries(leaf: Entry, entries: Sequence[Entry], depth: int) -> None:
    covered = sum(entry.length for entry in entries)
    if covered != leaf.length:
        raise BadRequest(f"Leaf {leaf.id.hex()} covers {covered} bytes but stands for {leaf.length}.")
    for entry in entries:
        if depth > 1 and (entry.is_hole or entry.base is not None):
            raise BadRequest(f"Leaf {leaf.id.hex()} stands above leaves: it may hold neither holes nor deltas.")
        if depth == 1 and not entry.is_hole and entry.length > sealing.PLAIN_MAX:
            raise BadRequest(f"Leaf {leaf.id.hex()} has a chunk of {entry.length} bytes; {sealing.PLAIN_MAX} is most.")


def _more(missing: Sequence[ChunkId]) -> str:
    return " and more" if len(missing) > NAMED_MAX else ""


def named_by(session: Session, manifest: Manifest, read_chunk: ReadChunk) -> Iterator[ChunkId]:
    """All chunks that content is made of: its own, bases of deltas, leaves and what these name."""
    yield from named(manifest.entries)
    if manifest.depth:
        yield from named_in_leaves(session, manifest, read_chunk)


def named_in_leaves(session: Session, manifest: Manifest, read_chunk: ReadChunk) -> Iterator[ChunkId]:
    """What the leaves of a long manifest name, and the leaves below them."""
    waiting: list[tuple[Entry, int]] = [(entry, manifest.depth) for entry in manifest.entries]
    while waiting:
        leaf, depth = waiting.pop()
        if leaf.is_hole:
            continue
        entries = manifests.decode_leaf(sealing.open_leaf(leaf, read_chunk(session, leaf.id)))
        yield from named(entries)
        if depth > 1:
            waiting += [(entry, depth - 1) for entry in entries]


def named(entries: Iterable[Entry]) -> Iterator[ChunkId]:
    """The chunks of these entries, and the bases of those that are deltas."""
    for entry in entries:
        if not entry.is_hole:
            yield entry.id
        if entry.base is not None:
            yield entry.base.id
