"""Pieces: the stretches of chunks that content is made of; pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from cache.errors import ContentDamaged
from remote.protocol import deltas
from remote.protocol.messages import Below
from remote.protocol.nodes import Entry
from remote.protocol.sealing import PLAIN_MAX, Buffer

GROUP_BYTES: Final = 4 << 20
"""Content fetched ahead in one request."""


class Piece(NamedTuple):
    """Bytes [start, stop) of the content of one chunk, or of a hole."""

    entry: Entry
    start: int
    stop: int


def delta_chunk(entry: Entry) -> Entry:
    """A delta as a chunk of its own: fetched and kept as leaves are."""
    return Entry(entry.id, entry.key, entry.length)


def base_of(entry: Entry) -> Entry:
    """The chunk that a delta is made of."""
    assert entry.base is not None
    return Entry(entry.base.id, entry.base.key, entry.base.length)


def pieces_of(entry: Entry, parts: Sequence[deltas.Part], start: int, stop: int) -> Iterator[Piece | Buffer]:
    """The pieces of [start, stop) of a delta's content."""
    base = base_of(entry)
    for part in deltas.cut_out(parts, start, stop):
        yield Piece(base, part.start, part.stop) if isinstance(part, deltas.Copy) else part


def complete(inline: bytes, start: int, stop: int) -> bytes:
    if len(inline) != stop - start:
        raise ContentDamaged("The content of this file is shorter than its size.")
    return inline


def covering(pieces: list[Piece | Buffer], start: int, stop: int) -> list[Piece | Buffer]:
    """The pieces, after what a faulty or hostile device may have put into a manifest was ruled out."""
    covered = 0
    for piece in pieces:
        if not isinstance(piece, Piece):
            covered += len(piece)
            continue
        covered += piece.stop - piece.start
        if piece.entry.length > PLAIN_MAX and not piece.entry.is_hole:
            raise ContentDamaged("The list of the parts of this file names one that is larger than any can be.")
    if covered != stop - start:
        raise ContentDamaged("The list of the parts of this file does not add up to its size.")
    return pieces


def needed_below(at: int, entry: Entry, depth: int, start: int, stop: int, most: int) -> Below:
    """What to have sent along with the leaf at offset `at`: what of [start, stop) is below it, up to `most` bytes."""
    first = max(0, start - at)
    return Below(entry.key, depth, first, min(entry.length, stop - at, first + most))


def in_groups(entries: Iterable[Entry], most: int = GROUP_BYTES) -> Iterable[list[Entry]]:
    """Entries by about so many bytes of content."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and size + entry.length > most:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.length
    if group:
        yield group
