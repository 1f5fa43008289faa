"""Sealing: the way there and back, what is refused, and that nothing opens that was not sealed."""

import hashlib
import random
import struct
import tracemalloc

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.protocol.errors import BadRequest, ChunkDamaged
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Base, Entry
from remote.protocol.sealing import (
    FRAME,
    FRAMES_MAX,
    HEADER_MAX,
    PLAIN_MAX,
    Sealed,
    frame_count,
    header_length,
    header_of,
    open_blob,
    open_chunk,
    open_frames,
    open_leaf,
    part_range,
    seal,
    seal_blob,
)

SECRET = bytes(range(32))


def entry_of(sealed: Sealed) -> Entry:
    return Entry(sealed.id, sealed.key, sealed.length)


def part_of(sealed: Sealed, first: int, frames: int) -> bytes:
    """What a server answers to ChunkPart(id, first, frames)."""
    header = header_of(sealed.data[:HEADER_MAX])
    offset, length = part_range(header, first, frames)
    return header + sealed.data[offset : offset + length]


def mixed(seed: int, length: int) -> bytes:
    """Content of which some frames shrink and others do not."""
    rnd = random.Random(seed)
    pieces = []
    while sum(map(len, pieces)) < length:
        size = rnd.randrange(1, 2 * FRAME)
        pieces.append(rnd.randbytes(size) if rnd.random() < 0.5 else rnd.randbytes(16) * (size // 16 + 1))
    return b"".join(pieces)[:length]


@pytest.mark.parametrize(
    "plain",
    [b"x", bytes(FRAME), bytes(FRAME + 1), random.Random(1).randbytes(3 * FRAME), b"ab" * 200_000, bytes(PLAIN_MAX)],
    ids=["one byte", "one frame", "one frame and a byte", "random", "text", "longest"],
)
def test_opening_gives_what_was_sealed(plain: bytes) -> None:
    sealed = seal(plain, SECRET)
    assert open_chunk(entry_of(sealed), sealed.data) == plain
    assert sealed.id == hashlib.sha256(sealed.data).digest()
    assert sealed.length == len(plain)
    assert len(sealed.data) <= len(plain) + header_length(frame_count(len(plain))) + 16 * frame_count(len(plain))


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 5 * FRAME), st.data())
def test_any_frames_open_alone(seed: int, length: int, data: st.DataObject) -> None:
    plain = mixed(seed, length)
    sealed = seal(plain, SECRET)
    assert open_chunk(entry_of(sealed), sealed.data) == plain
    first = data.draw(st.integers(0, frame_count(length) - 1))
    frames = data.draw(st.integers(1, frame_count(length) - first))
    opened = open_frames(entry_of(sealed), part_of(sealed, first, frames), first, frames)
    assert opened == plain[first * FRAME : (first + frames) * FRAME]


def test_sealing_is_deterministic_under_one_secret_only() -> None:
    plain = mixed(3, 3 * FRAME)
    assert seal(plain, SECRET) == seal(bytearray(plain), SECRET) == seal(memoryview(plain), SECRET)
    other = seal(plain, bytes(32))
    assert (other.id, other.key) != (seal(plain, SECRET).id, seal(plain, SECRET).key)


def test_the_format_is_frozen() -> None:
    """Random content is stored uncompressed, so that this vector holds with every version of zstd."""
    sealed = seal(hashlib.shake_256(b"satchel").digest(200_000), SECRET)
    assert sealed.data[:12].hex() == "01000002" + f"{FRAME + 16:08x}" + f"{200_000 - FRAME + 16:08x}"
    assert sealed.key.hex() == "de944a0ec2525d68033ac93c5265afb121f880e3f97523ddecf321d36a63e71a"
    assert sealed.id.hex() == "971301d3f7d4462b24bdc0bb7e24df39191edc4675a616ef9854be4588af02ae"


@settings(max_examples=150)
@given(st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    sealed = seal(mixed(4, FRAME + 5000), SECRET)
    damaged = bytearray(sealed.data)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ChunkDamaged, match=sealed.id.hex()):
        open_chunk(entry_of(sealed), damaged)
    # A part cannot be compared with the id: the frames' own seals have to notice, also for the table in the header.
    with pytest.raises(ChunkDamaged, match=sealed.id.hex()):
        open_frames(entry_of(sealed), damaged, 0, 2)


def test_truncated_extended_and_exchanged_parts_are_refused() -> None:
    sealed, other = seal(mixed(5, 3 * FRAME), SECRET), seal(mixed(6, 3 * FRAME), SECRET)
    entry = entry_of(sealed)
    part = part_of(sealed, 1, 1)
    for wrong in (b"", part[:3], part[:-1], part + b"x", part_of(sealed, 2, 1), part_of(other, 1, 1)):
        with pytest.raises(ChunkDamaged, match=entry.id.hex()):
            open_frames(entry, wrong, 1, 1)
    for length in (1, FRAME, 3 * FRAME - 1, 3 * FRAME + 1, PLAIN_MAX, PLAIN_MAX + 1, 2**60, 0):
        with pytest.raises(ChunkDamaged, match=entry.id.hex()):
            open_chunk(Entry(entry.id, entry.key, length), sealed.data)
    with pytest.raises(ChunkDamaged, match="key"):
        open_chunk(Entry(entry.id, b"short", entry.length), sealed.data)
    with pytest.raises(ChunkDamaged, match="key"):
        open_chunk(Entry(entry.id, bytes(32), entry.length), sealed.data)
    with pytest.raises(ChunkDamaged, match="delta"):
        open_chunk(Entry(entry.id, entry.key, entry.length, Base(entry.id, entry.key, 1)), sealed.data)


def small_frame(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(plain)


def forged(key: bytes, frame: bytes, *, length: int) -> tuple[Entry, bytes]:
    """A chunk that somebody who knows its key made by hand, with one compressed frame."""
    header = struct.pack(">BBHI", 1, 0, 1, (len(frame) + 16) | 1 << 31)
    data = header + AESGCM(key).encrypt(bytes(12), frame, header)
    return Entry(ChunkId(hashlib.sha256(data).digest()), key, length), data


def test_a_decompression_bomb_is_not_unpacked() -> None:
    for says_size, level in ((True, 19), (False, 19), (False, 1)):
        bomb = zstandard.ZstdCompressor(level=level, write_content_size=says_size).compress(bytes(200 << 20))
        assert len(bomb) < FRAME
        tracemalloc.start()
        for length in (1, FRAME):
            with pytest.raises(ChunkDamaged, match="does not decompress to its length"):
                open_chunk(*forged(SECRET, bomb, length=length))
        with pytest.raises(ChunkDamaged, match="does not decompress to its length"):
            open_leaf(*forged(SECRET, bomb, length=5))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_frames_of_another_length_are_refused() -> None:
    for plain, length in ((b"short" * 100, 501), (b"long" * 200, 799)):
        with pytest.raises(ChunkDamaged):
            open_chunk(*forged(SECRET, small_frame(plain), length=length))
    two = small_frame(b"a" * 100) + small_frame(b"b" * 100)
    with pytest.raises(ChunkDamaged):
        open_chunk(*forged(SECRET, two, length=100))


def test_a_leaf_opens_whatever_length_of_content_is_below_it() -> None:
    sealed = seal(b"entries" * 100, SECRET)
    assert open_leaf(Entry(sealed.id, sealed.key, 10**12), sealed.data) == b"entries" * 100
    long = seal(bytes(FRAME + 1), SECRET)
    with pytest.raises(ChunkDamaged):
        open_leaf(Entry(long.id, long.key, 10**12), long.data)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_no_header_leads_outside_the_chunk(start: bytes) -> None:
    try:
        offset, length = part_range(start, 0, 1)
    except ChunkDamaged:
        return
    assert header_length(1) <= offset <= HEADER_MAX
    assert 0 < length <= FRAME + 16


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x01\x00\x00",
        b"\x02\x00\x00\x01\x00\x00\x00\x20",
        b"\x01\x01\x00\x01\x00\x00\x00\x20",
        b"\x01\x00\x00\x00\x00\x00\x00\x20",
        b"\x01\x00\x00\x02\x00\x00\x00\x20",
        b"\x01\x00\x00\x01\x00\x00\x00\x10",
        b"\x01\x00\x00\x01\x7f\xff\xff\xff",
        b"\x01\x00\x00\x01\xff\xff\xff\xff",
        struct.pack(">BBH", 1, 0, FRAMES_MAX + 1) + b"\x00\x00\x00\x20" * (FRAMES_MAX + 1),
    ],
)
def test_hostile_headers_are_refused(header: bytes) -> None:
    with pytest.raises(ChunkDamaged):
        part_range(header, 0, 1)
    with pytest.raises(ChunkDamaged):
        header_of(header)


@pytest.mark.parametrize(
    ("first", "frames"), [(-1, 1), (0, 0), (0, 4), (3, 1), (2, 2), (2**40, 1), (0, 2**40), (1, -1)]
)
def test_frames_that_the_chunk_does_not_have_are_refused(first: int, frames: int) -> None:
    sealed = seal(bytes(3 * FRAME), SECRET)
    with pytest.raises(BadRequest, match="3 frames"):
        part_range(sealed.data, first, frames)
    with pytest.raises(ValueError, match="not within"):
        open_frames(entry_of(sealed), sealed.data, first, frames)


def test_only_chunks_of_a_sane_size_are_sealed() -> None:
    for plain in (b"", bytes(PLAIN_MAX + 1)):
        with pytest.raises(ValueError, match="a chunk holds"):
            seal(plain, SECRET)


@given(st.binary(max_size=1000), st.data())
def test_blobs_open_only_unchanged_and_with_their_key(plain: bytes, data: st.DataObject) -> None:
    blob = seal_blob(SECRET, plain)
    assert open_blob(SECRET, blob) == plain == open_blob(SECRET, memoryview(blob))
    assert seal_blob(SECRET, plain) != blob
    damaged = bytearray(blob)
    damaged[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for key, wrong in ((SECRET, bytes(damaged)), (bytes(32), blob), (SECRET, blob[:-1]), (SECRET, b"")):
        with pytest.raises(ChunkDamaged):
            open_blob(key, wrong)
