"""Cutting: coverage, equality with a full cut, and how little an edit re-reads."""

import hashlib
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remote.protocol import cutting
from remote.protocol.cutting import SIZES, WINDOW, Buffer, Sizes, Span, cut, recut
from remote.protocol.ids import ChunkId
from remote.protocol.nodes import Entry

SMALL = Sizes(least=64, middle=256, most=1024, normal=1)
KEY = bytes(32)

seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, length: int) -> bytearray:
    return bytearray(random.Random(seed).randbytes(length))


def entries_of(content: Buffer, sizes: Sizes = SMALL) -> list[Entry]:
    return [Entry(ChunkId(b"i" * 32), KEY, length) for length in cut(content, is_last=True, sizes=sizes)]


def reader(content: Buffer, asked: list[tuple[int, int]] | None = None) -> Callable[[int, int], Buffer]:
    def read(offset: int, length: int) -> Buffer:
        assert 0 < length <= WINDOW
        if asked is not None:
            asked.append((offset, length))
        return memoryview(content)[offset : offset + length]

    return read


def assert_covers(spans: list[tuple[Span, Buffer | None]], old: list[Entry], content: Buffer) -> None:
    position = 0
    for span, data in spans:
        assert span.offset == position
        assert span.length > 0
        position += span.length
        if data is not None:
            assert span.kept is None
            assert not span.is_hole
            assert bytes(data) == bytes(content[span.offset : position])
        elif span.kept is None:
            assert span.is_hole
        else:
            assert span.length == old[span.kept].length
            assert span.is_hole == old[span.kept].is_hole
    assert position == len(content)


def lengths_of(spans: list[tuple[Span, Buffer | None]]) -> list[int]:
    return [span.length for span, _ in spans]


def test_parameters_are_frozen() -> None:
    """Other cut points would share nothing with what is stored: a vector, not only the numbers."""
    assert Sizes(least=262_144, middle=917_504, most=1_441_792, normal=3) == SIZES
    content = hashlib.shake_256(b"satchel").digest(6 << 20)
    assert cut(content, is_last=True) == [1441792, 918532, 1374352, 1401508, 1057688, 97584]


def test_a_small_file_is_one_chunk() -> None:
    assert cut(b"", is_last=True) == []
    assert cut(b"x", is_last=True) == [1]
    assert cut(noise(1, SIZES.least), is_last=True) == [SIZES.least]


def test_any_buffer_is_cut_alike() -> None:
    content = noise(3, 3000)
    whole = cut(content, is_last=True, sizes=SMALL)
    assert cut(bytes(content), is_last=True, sizes=SMALL) == whole
    assert cut(memoryview(content), is_last=True, sizes=SMALL) == whole


@given(seeds, st.integers(0, 20_000), st.integers(0, 20_000))
def test_windows_give_the_cut_of_the_whole(seed: int, length: int, window: int) -> None:
    content = noise(seed, length)
    whole = cut(content, is_last=True, sizes=SMALL)
    window = max(window, SMALL.most)
    found: list[int] = []
    while (at := sum(found)) < length:
        piece = content[at : at + window]
        found += cut(piece, is_last=at + len(piece) == length, sizes=SMALL)
    assert found == whole


@given(seeds, st.integers(1, 8000))
def test_cut_points_depend_only_on_what_follows_the_one_before(seed: int, length: int) -> None:
    content = noise(seed, length)
    whole = cut(content, is_last=True, sizes=SMALL)
    for index, start in enumerate(itertools.accumulate(whole[:-1], initial=0)):
        assert cut(content[start:], is_last=True, sizes=SMALL) == whole[index:]


edits = st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 700)), max_size=4)


@settings(max_examples=300)
@given(seeds, st.integers(0, 12_000), st.integers(0, 12_000), edits, st.booleans())
def test_recut_equals_the_full_cut(
    seed: int, old_size: int, size: int, dirty: list[tuple[int, int]], grow: bool
) -> None:
    before = noise(seed, old_size)
    size = max(size, old_size) if grow else size
    after = noise(seed + 1, size)
    after[: min(size, old_size)] = before[: min(size, old_size)]
    for number, (offset, length) in enumerate(dirty):
        stop = min(size, offset + length)
        if offset < stop:
            after[offset:stop] = noise(seed + 2 + number, stop - offset)
    old = entries_of(before)
    spans = list(recut(old, size, dirty, [], reader(after), SMALL))
    assert_covers(spans, old, after)
    assert lengths_of(spans) == cut(after, is_last=True, sizes=SMALL)
    starts = list(itertools.accumulate((entry.length for entry in old), initial=0))
    for span, _ in spans:
        if span.kept is not None:
            assert span.offset == starts[span.kept]
            assert before[span.offset : span.offset + span.length] == after[span.offset : span.offset + span.length]


@settings(max_examples=200)
@given(seeds, st.integers(0, 3), st.integers(1, 6), st.integers(-70, 70))
def test_edits_at_chunk_borders_equal_the_full_cut(seed: int, chunk: int, length: int, shift: int) -> None:
    before = noise(seed, 6000)
    old = entries_of(before)
    border = sum(entry.length for entry in old[: chunk + 1])
    offset = max(0, border + shift)
    after = bytearray(before)
    stop = min(len(after), offset + length)
    after[offset:stop] = noise(seed + 1, max(0, stop - offset))
    spans = list(recut(old, len(after), [(offset, length)], [], reader(after), SMALL))
    assert_covers(spans, old, after)
    assert lengths_of(spans) == cut(after, is_last=True, sizes=SMALL)


@settings(max_examples=300)
@given(
    seeds,
    st.lists(st.tuples(st.booleans(), st.integers(1, 900)), max_size=8),
    st.integers(0, 8000),
    st.lists(st.tuples(st.integers(0, 8000), st.integers(1, 900), st.booleans()), max_size=4),
)
@example(939, [(False, 200)], 197, [])
def test_holes_are_hard_borders(
    seed: int, layout: list[tuple[bool, int]], size: int, writes: list[tuple[int, int, bool]]
) -> None:
    """Twice over: content with holes is cut, then edited (with data or new holes), cut again, and cut from nothing."""
    before = bytearray()
    holes = []
    for number, (is_hole, length) in enumerate(layout):
        if is_hole:
            holes.append((len(before), length))
        before += bytes(length) if is_hole else noise(seed + number, length)
    first = list(recut([], len(before), [], holes, reader(before), SMALL))
    assert_covers(first, [], before)
    old = [
        Entry(ChunkId(b""), b"", s.length) if s.is_hole else Entry(ChunkId(b"i" * 32), KEY, s.length) for s, _ in first
    ]
    assert all(entry.length >= SMALL.least for entry in old if entry.is_hole)

    after = (before + bytes(size))[:size]
    dirty, new_holes = [], [(len(before), max(0, size - len(before)))]
    for number, (offset, length, is_hole) in enumerate(writes):
        stop = min(size, offset + length)
        if offset >= stop:
            continue
        after[offset:stop] = bytes(stop - offset) if is_hole else noise(seed + 100 + number, stop - offset)
        dirty.append((offset, length))
        if is_hole:
            new_holes.append((offset, stop - offset))
        else:
            new_holes = list(minus(new_holes, offset, stop))
    spans = list(recut(old, size, dirty, new_holes, reader(after), SMALL))
    assert_covers(spans, old, after)
    starts = list(itertools.accumulate((entry.length for entry in old), initial=0))
    for span, _ in spans:
        if span.is_hole:
            assert span.length >= SMALL.least
            assert not any(after[span.offset : span.offset + span.length])
        if span.kept is not None:
            assert span.offset == starts[span.kept]
            assert before[span.offset : span.offset + span.length] == after[span.offset : span.offset + span.length]
    known = [(span.offset, span.length) for span, _ in spans if span.is_hole]
    afresh = list(recut([], size, [], known, reader(after), SMALL))
    assert lengths_of(afresh) == lengths_of(spans)


def minus(ranges: list[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    left = []
    for offset, length in ranges:
        left += [
            (offset, min(offset + length, start) - offset),
            (max(offset, stop), offset + length - max(offset, stop)),
        ]
    return [(offset, length) for offset, length in left if length > 0]


def test_one_small_edit_reads_one_chunk_only() -> None:
    before = noise(5, 12 << 20)
    old = entries_of(before, SIZES)
    after = bytearray(before)
    after[5 << 20 : (5 << 20) + 4096] = noise(6, 4096)
    asked: list[tuple[int, int]] = []
    spans = list(recut(old, len(after), [(5 << 20, 4096)], [], reader(after, asked)))
    assert_covers(spans, old, after)
    assert len([span for span, _ in spans if span.kept is None]) == 1
    assert sum(length for _, length in asked) <= SIZES.most


@given(seeds, st.integers(0, 100_000), st.integers(1, 500))
@settings(max_examples=100)
def test_an_edit_reads_little_around_it(seed: int, offset: int, length: int) -> None:
    before = noise(seed, 100_000)
    after = bytearray(before)
    stop = min(len(after), offset + length)
    after[offset:stop] = noise(seed + 1, max(0, stop - offset))
    asked: list[tuple[int, int]] = []
    spans = list(recut(entries_of(before), len(after), [(offset, length)], [], reader(after, asked), SMALL))
    assert lengths_of(spans) == cut(after, is_last=True, sizes=SMALL)
    assert sum(length for _, length in asked) <= 20 * SMALL.most


def test_untouched_content_is_not_read() -> None:
    before = noise(7, 9000)
    old = entries_of(before)
    asked: list[tuple[int, int]] = []
    spans = list(recut(old, len(before), [], [], reader(before, asked), SMALL))
    assert [span.kept for span, _ in spans] == list(range(len(old)))
    assert not asked


def test_a_hole_of_a_hundred_gigabytes_is_not_read() -> None:
    size = 100 << 30
    content = noise(8, 4096)
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> Buffer:
        asked.append((offset, length))
        return content[:length]

    old = [Entry(ChunkId(b""), b"", size)]
    spans = [span for span, _ in recut(old, size, [(50 << 30, 4096)], [], read)]
    assert [(span.length, span.is_hole) for span in spans] == [
        (50 << 30, True),
        (4096, False),
        (size - (50 << 30) - 4096, True),
    ]
    assert asked == [(50 << 30, 4096)]


def test_content_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="content ends at 10"):
        list(recut([], 100, [], [], lambda _offset, _length: b"x" * 10, SMALL))


def test_windows_of_a_large_file_are_bounded() -> None:
    size = 40 << 20
    content = noise(9, size)
    asked: list[tuple[int, int]] = []
    spans = list(recut([], size, [], [], reader(content, asked)))
    assert lengths_of(spans) == cut(content, is_last=True)
    assert max(length for _, length in asked) <= WINDOW
    assert sum(length for _, length in asked) < size * 1.25
    assert cutting.SIZES.most < WINDOW
