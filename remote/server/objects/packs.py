"""Packs: many small chunks one after another, and behind them a list of what they are.

    chunk | chunk | ... | footer (msgpack: [[id, size], ...]) | length of the footer, 4 bytes big-endian | b"SatchelP"

The footer repeats what the database knows, so that chunks can be found again without it.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence

import msgspec

from remote.protocol.ids import ChunkId
from remote.protocol.messages import PACK_MAX
from remote.server.database.chunks import Place

_MAGIC = b"SatchelP"
_ENTRY_MAX = 2 + 34 + 5
_TAIL = 5 + 4 + len(_MAGIC)

Chunk = tuple[ChunkId, bytes]


def plan_packs(chunks: Iterable[Chunk]) -> list[list[Chunk]]:
    """The chunks in order, cut into packs of at most PACK_MAX bytes."""
    packs: list[list[Chunk]] = []
    room = 0
    for chunk in chunks:
        needed = len(chunk[1]) + _ENTRY_MAX
        if needed > room:
            packs.append([])
            room = PACK_MAX - _TAIL
        packs[-1].append(chunk)
        room -= needed
    return packs


def build_pack(chunks: Sequence[Chunk]) -> tuple[bytes, bytes, list[Place]]:
    """The pack's id (its SHA-256), its bytes, and where each chunk lies in it."""
    footer = msgspec.msgpack.encode([(chunk, len(data)) for chunk, data in chunks])
    body = b"".join((*(data for _, data in chunks), footer, struct.pack(">I", len(footer)), _MAGIC))
    pack = hashlib.sha256(body).digest()
    places: list[Place] = []
    offset = 0
    for chunk, data in chunks:
        places.append(Place(chunk, len(data), pack, offset))
        offset += len(data)
    return pack, body, places


def read_footer(body: bytes) -> list[tuple[ChunkId, int]]:
    """The ids and sizes of a pack's chunks in order, from its bytes; raises ValueError when it is no pack."""
    if body[-len(_MAGIC) :] != _MAGIC:
        raise ValueError("these bytes are no pack")
    (length,) = struct.unpack(">I", body[-len(_MAGIC) - 4 : -len(_MAGIC)])
    end = len(body) - len(_MAGIC) - 4
    try:
        return msgspec.msgpack.decode(body[end - length : end], type=list[tuple[ChunkId, int]])
    except msgspec.MsgspecError as error:
        raise ValueError("this pack has no footer") from error
