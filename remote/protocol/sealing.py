"""Sealing: compress, encrypt and name chunks, and the way back with every byte checked. No I/O.

A sealed chunk is a header (version, number of frames, a table with the sealed length of each frame and whether it is
compressed) and the frames: 128 KiB of content each, compressed on its own where that helps, closed by AES-256-GCM on
its own. So one frame can be fetched, checked and opened without the rest. See PROTOCOL.md.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from itertools import accumulate

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from remote.protocol.errors import BadRequest, ChunkDamaged
from remote.protocol.ids import ChunkId, PlainHash
from remote.protocol.nodes import Entry

Buffer = bytes | bytearray | memoryview

FRAME = 131_072
"""Bytes of content in each frame but the last one."""
FRAMES_MAX = 32
PLAIN_MAX = FRAMES_MAX * FRAME
"""Bytes of content in one chunk at the most, 4 MiB."""
LEAF_PLAIN_MAX = FRAME
"""Bytes of an encoded leaf of a manifest at the most."""

_VERSION = 1
_TAG = 16
_HEAD = struct.Struct(">BBH")
"""Version, a zero, number of frames."""
_COMPRESSED = 1 << 31
"""Set in the table before the sealed length of a compressed frame."""
_SAMPLE = 16_384
_KEY_INFO = b"satchel chunk key 1"
_BLOB_VERSION = b"\x01"
_NONCE = 12
_COMPRESSION = zstandard.ZstdCompressionParameters(
    compression_level=3,
    window_log=17,
    chain_log=15,
    hash_log=16,
    search_log=2,
    min_match=5,
    target_length=0,
    strategy=zstandard.STRATEGY_DFAST,
    write_content_size=False,
    write_checksum=False,
    write_dict_id=False,
    threads=0,
)


class Contexts:
    """What zstd works with, for one thread at a time: who seals or opens many small chunks makes it once for all.

    Made anew for each chunk of 4 KiB, it takes 43 of 61 us to seal it, and 14 of 22 us to open it.
    """

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(compression_params=_COMPRESSION).compress
        self.decompress = zstandard.ZstdDecompressor(max_window_size=FRAME).decompress


class Sealed(Struct, frozen=True, gc=False):
    """A chunk ready to send; `length` counts the content, `data` are the sealed bytes that `id` is the SHA-256 of."""

    id: ChunkId
    key: bytes
    length: int
    data: bytes


def frame_count(length: int) -> int:
    """The number of frames of a chunk with `length` bytes of content."""
    return -(-length // FRAME)


def header_length(frames: int) -> int:
    """The bytes in front of the first frame of a chunk with so many frames."""
    return _HEAD.size + 4 * frames


HEADER_MAX = header_length(FRAMES_MAX)


def plain_hash(plain: Buffer) -> PlainHash:
    """The hash by which content is known that is sealed later; what `seal` hashes too, when nothing shrinks."""
    content = memoryview(plain).cast("B")
    digest = hashlib.sha256(_stored_header(len(content)))
    digest.update(content)
    return PlainHash(digest.digest())


def seal(
    plain: Buffer, domain_secret: bytes, contexts: Contexts | None = None, known_hash: PlainHash | None = None
) -> Sealed:
    """The sealed form of 1 .. PLAIN_MAX bytes: equal content gives equal bytes under the same secret.

    `known_hash`: what `plain_hash` gives for this content, when it was asked before.

    The parameters of zstd are pinned, but another version of zstd may still give other bytes: that costs sharing with
    what is stored already, never correctness. Callable from any thread; gives way to others while it computes.
    """
    content = memoryview(plain).cast("B")
    if not 0 < len(content) <= PLAIN_MAX:
        raise ValueError(f"a chunk holds 1 to {PLAIN_MAX} bytes, not {len(content)}")
    frames = _compressed_frames(content, contexts or Contexts())
    table = [(len(frame) + _TAG) | (_COMPRESSED if is_compressed else 0) for frame, is_compressed in frames]
    header = _header(table)
    # The key is unique to the payload (table and compressed frames), so the frame number can be the nonce.
    if known_hash is not None and not any(is_compressed for _, is_compressed in frames):
        payload_hash: bytes = known_hash
    else:
        payload = hashlib.sha256(header)
        for frame, _ in frames:
            payload.update(frame)
        payload_hash = payload.digest()
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_KEY_INFO + payload_hash).derive(domain_secret)
    cipher = AESGCM(key)
    closed = (cipher.encrypt(_nonce(number), frame, header) for number, (frame, _) in enumerate(frames))
    data = b"".join((header, *closed))
    return Sealed(ChunkId(hashlib.sha256(data).digest()), key, len(content), data)


def open_chunk(entry: Entry, data: Buffer, contexts: Contexts | None = None) -> bytearray:
    """The content of a whole sealed chunk, after its id, every frame and its length were checked."""
    if entry.base is not None:
        raise _damaged(entry, "is a delta, which has no content of its own")
    _check_id(entry, data)
    lengths = _plain_lengths(entry)
    return _open(entry, data, 0, len(lengths), lengths, contexts or Contexts())


def open_leaf(entry: Entry, data: Buffer) -> bytearray:
    """What a chunk of one frame holds, whatever its length: a leaf of a manifest (encoded entries), or a delta."""
    _check_id(entry, data)
    return _open(entry, data, 0, 1, None, Contexts())


def open_frames(entry: Entry, part: Buffer, first: int, frames: int, contexts: Contexts | None = None) -> bytearray:
    """The content of these frames, from the header and the frames as `ChunkPart(id, first, frames)` brings them.

    The id is not looked at: only who has the key could close other frames, and the server checks it when a chunk comes.
    """
    lengths = _plain_lengths(entry)
    if not (first >= 0 and 0 < frames <= len(lengths) - first):
        raise ValueError(f"frames {first} to {first + frames - 1} are not within a chunk of {len(lengths)}")
    return _open(entry, part, first, frames, lengths, contexts or Contexts())


def header_of(start: Buffer) -> bytes:
    """The header at the start of sealed bytes (HEADER_MAX of them suffice), checked; raises ChunkDamaged."""
    count = len(_table(start))
    return bytes(memoryview(start)[: header_length(count)])


def part_range(header: Buffer, first: int, frames: int) -> tuple[int, int]:
    """Offset and length of these frames within the sealed bytes; `header` may have bytes behind it.

    Raises ChunkDamaged for a header that no `seal` made, BadRequest for frames that the chunk does not have.
    """
    table = _table(header)
    if not (first >= 0 and 0 < frames <= len(table) - first):
        raise BadRequest(f"The chunk has {len(table)} frames; {frames} from number {first} on are not among them.")
    lengths = [word & ~_COMPRESSED for word in table]
    return header_length(len(table)) + sum(lengths[:first]), sum(lengths[first : first + frames])


def seal_blob(key: bytes, data: Buffer) -> bytes:
    """`data` encrypted under a 32-byte key with a random nonce, for a record at rest."""
    nonce = os.urandom(_NONCE)
    return b"".join((_BLOB_VERSION, nonce, AESGCM(key).encrypt(nonce, data, _BLOB_VERSION)))


def open_blob(key: bytes, blob: Buffer) -> bytes:
    """What `seal_blob` was given; raises ChunkDamaged for any other bytes or key."""
    view = memoryview(blob)
    if len(view) < 1 + _NONCE + _TAG or view[:1] != _BLOB_VERSION:
        raise ChunkDamaged("A stored record is not in a form that this version can open.")
    try:
        return AESGCM(key).decrypt(view[1 : 1 + _NONCE], view[1 + _NONCE :], _BLOB_VERSION)
    except InvalidTag:
        raise ChunkDamaged("A stored record was changed, or is closed under another key.") from None


def _compressed_frames(content: memoryview, contexts: Contexts) -> list[tuple[Buffer, bool]]:
    """Each frame with whether it is compressed; after one that did not shrink, a sample of the next decides."""
    compress = contexts.compress
    frames: list[tuple[Buffer, bool]] = []
    is_shrinking = True
    for offset in range(0, len(content), FRAME):
        frame = content[offset : offset + FRAME]
        if not is_shrinking:
            sample = frame[:_SAMPLE]
            is_shrinking = _is_shorter(compress(sample), sample)
        compressed = compress(frame) if is_shrinking else None
        is_shrinking = compressed is not None and _is_shorter(compressed, frame)
        frames.append((frame, False) if compressed is None or not is_shrinking else (compressed, True))
    return frames


def _header(table: Sequence[int]) -> bytes:
    return _HEAD.pack(_VERSION, 0, len(table)) + struct.pack(f">{len(table)}I", *table)


def _stored_header(length: int) -> bytes:
    """The header of a chunk in which nothing is compressed."""
    return _header([min(FRAME, length - offset) + _TAG for offset in range(0, length, FRAME)])


def _is_shorter(compressed: Buffer, plain: Buffer) -> bool:
    """Whether compressing saved a 32nd part at least; less is not worth the time that opening takes."""
    return len(compressed) <= len(plain) - (len(plain) >> 5) - 1


def _plain_lengths(entry: Entry) -> list[int]:
    count = frame_count(entry.length)
    if not 0 < count <= FRAMES_MAX:
        raise _damaged(entry, f"cannot hold {entry.length} bytes")
    return [FRAME] * (count - 1) + [entry.length - (count - 1) * FRAME]


def _check_id(entry: Entry, data: Buffer) -> None:
    if hashlib.sha256(data).digest() != entry.id:
        raise _damaged(entry, "does not match its id")


def _open(
    entry: Entry, part: Buffer, first: int, frames: int, lengths: list[int] | None, contexts: Contexts
) -> bytearray:
    """Opens frames that follow each other behind the header; without `lengths`, one frame of any length."""
    view = memoryview(part).cast("B")
    try:
        table = _table(view)
    except ChunkDamaged as fault:
        raise _damaged(entry, f"has a bad header ({fault})") from None
    if len(table) != (1 if lengths is None else len(lengths)):
        raise _damaged(entry, "has another number of frames than its length asks for")
    header = view[: header_length(len(table))]
    words = table[first : first + frames]
    offsets = list(accumulate((word & ~_COMPRESSED for word in words), initial=len(header)))
    if offsets[-1] != len(view):
        raise _damaged(entry, f"has {len(view)} bytes where its header says {offsets[-1]}")
    if len(entry.key) != 32:
        raise _damaged(entry, f"has a key of {len(entry.key)} bytes")
    cipher = AESGCM(entry.key)
    expected = [LEAF_PLAIN_MAX] if lengths is None else lengths[first : first + frames]
    # Frames are opened where they belong: to join a MiB of them afterwards costs more than to check one.
    content = bytearray(sum(expected))
    at = 0
    for number, (word, room) in enumerate(zip(words, expected, strict=True)):
        sealed = view[offsets[number] : offsets[number + 1]]
        length = len(sealed) - _TAG
        try:
            if not word & _COMPRESSED and length <= room:
                cipher.decrypt_into(_nonce(first + number), sealed, header, memoryview(content)[at : at + length])
            else:
                frame = cipher.decrypt(_nonce(first + number), sealed, header)
                if word & _COMPRESSED:
                    frame = _decompressed(entry, contexts, frame, room)
                length = len(frame)
                content[at : at + min(length, room)] = frame[:room]
        except InvalidTag:
            raise _damaged(entry, f"was changed or has another key (frame {first + number})") from None
        if length > room or (lengths is not None and length < room):
            raise _damaged(entry, f"has {length} bytes of content in frame {first + number}, not {room}")
        at += length
    del content[at:]
    return content


def _decompressed(entry: Entry, contexts: Contexts, frame: bytes, expected: int) -> bytes:
    try:
        # A size that a frame itself declares would be believed, whatever bound is given: we never write one.
        if zstandard.frame_content_size(frame) == -1:
            return contexts.decompress(frame, max_output_size=expected, allow_extra_data=False)
    except zstandard.ZstdError:
        pass
    raise _damaged(entry, "has a frame that does not decompress to its length")


def _table(header: Buffer) -> tuple[int, ...]:
    """The table of a header; every length in it is one that a frame of FRAME bytes can have."""
    view = memoryview(header).cast("B")
    if len(view) < _HEAD.size:
        raise ChunkDamaged("The sealed bytes are shorter than any header.")
    version, zero, count = _HEAD.unpack_from(view)
    if version != _VERSION or zero != 0:
        raise ChunkDamaged(f"The sealed bytes are of format {version}.{zero}; this version reads {_VERSION}.0.")
    if not 0 < count <= FRAMES_MAX or len(view) < header_length(count):
        raise ChunkDamaged(f"The sealed bytes are too few for a header of {count} frames, or these are too many.")
    table: tuple[int, ...] = struct.unpack_from(f">{count}I", view, _HEAD.size)
    for number, word in enumerate(table):
        if not _TAG < word & ~_COMPRESSED <= FRAME + _TAG:
            raise ChunkDamaged(f"The header gives frame {number} a length of {word & ~_COMPRESSED} bytes.")
    return table


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE, "big")


def _damaged(entry: Entry, what: str) -> ChunkDamaged:
    return ChunkDamaged(f"Chunk {entry.id.hex()} {what}.")
