"""Manifests: trees that read back, share their leaves, and refuse what cannot be."""

import functools
import random
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.protocol.errors import BadRequest, ChunkDamaged
from remote.protocol.ids import ChunkId
from remote.protocol.manifests import Leaf, build, check, decode_leaf, encode_leaf, overlapping, starts, unsettled
from remote.protocol.nodes import EMPTY, ENTRIES_MAX, INLINE_MAX, Base, Entry, Manifest
from remote.protocol.sealing import Sealed, open_leaf, seal

SECRET = bytes(32)
seal_leaf = functools.partial(seal, domain_secret=SECRET)


def chunks(seed: int, count: int) -> list[Entry]:
    rnd = random.Random(seed)
    return [Entry(ChunkId(rnd.randbytes(32)), rnd.randbytes(32), rnd.randrange(1, 1 << 20)) for _ in range(count)]


def hole(length: int) -> Entry:
    return Entry(ChunkId(b""), b"", length)


def size_of(entries: Iterable[Entry]) -> int:
    return sum(entry.length for entry in entries)


def flattened(manifest: Manifest, leaves: Iterable[Sealed]) -> list[Entry]:
    """All entries of depth 0, read through the leaves."""
    stored = {leaf.id: leaf for leaf in leaves}
    level = list(manifest.entries)
    for _ in range(manifest.depth):
        below = []
        for entry in level:
            entries = decode_leaf(open_leaf(entry, stored[entry.id].data))
            assert size_of(entries) == entry.length
            below += entries
        level = below
    return level


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3000))
def test_a_built_manifest_reads_back_and_passes_its_check(seed: int, count: int) -> None:
    entries = chunks(seed, count)
    manifest, leaves = build(size_of(entries), entries, seal_leaf)
    check(manifest)
    assert len(manifest.entries) <= ENTRIES_MAX
    assert (manifest.depth == 0) == (count <= ENTRIES_MAX)
    assert flattened(manifest, leaves) == entries
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(manifest), type=Manifest) == manifest


def test_a_hundred_thousand_chunks_are_three_levels() -> None:
    entries = chunks(1, 100_000)
    manifest, leaves = build(size_of(entries), entries, seal_leaf)
    assert manifest.depth == 3
    assert flattened(manifest, leaves) == entries
    largest = max(len(leaf.data) for leaf in leaves)
    assert largest <= 5_000
    assert 20 <= 100_000 / len(leaves) <= 30


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 1999), st.integers(0, 3), st.integers(0, 3))
def test_an_edit_rewrites_only_leaves_around_it(seed: int, position: int, removed: int, inserted: int) -> None:
    before = chunks(seed, 2000)
    after = [*before[:position], *chunks(seed + 1, inserted), *before[position + removed :]]
    _, old_leaves = build(size_of(before), before, seal_leaf)
    _, leaves = build(size_of(after), after, seal_leaf)
    written = {leaf.id for leaf in leaves} - {leaf.id for leaf in old_leaves}
    assert len(written) <= 12
    assert sum(len(leaf.data) for leaf in leaves if leaf.id in written) <= 40_000


def test_one_changed_chunk_rewrites_about_one_leaf() -> None:
    before = chunks(2, 20_000)
    _, old_leaves = build(size_of(before), before, seal_leaf)
    known = {leaf.id for leaf in old_leaves}
    costs = []
    for position in range(500, 20_000, 1500):
        after = [*before[:position], *chunks(position, 1), *before[position + 1 :]]
        _, leaves = build(size_of(after), after, seal_leaf)
        costs.append(sum(len(leaf.data) for leaf in leaves if leaf.id not in known))
    assert sum(costs) / len(costs) <= 9_000


def test_adjacent_holes_become_one() -> None:
    first, second = chunks(3, 2)
    entries = [hole(5), hole(6), first, hole(7), second, hole(8), hole(9), hole(10)]
    manifest, leaves = build(size_of(entries), entries, seal_leaf)
    assert manifest.entries == (hole(11), first, hole(7), second, hole(27))
    assert not leaves
    check(manifest)


def test_a_leaf_of_one_hole_is_still_a_leaf() -> None:
    entries = [*chunks(4, 256), hole(1 << 40)]
    manifest, leaves = build(size_of(entries), entries, seal_leaf)
    check(manifest)
    assert flattened(manifest, leaves) == entries


def test_a_wrong_size_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="the content has 7"):
        build(7, chunks(5, 1), seal_leaf)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(0, 600), st.integers(0, 600))
def test_overlapping_finds_exactly_the_entries_in_the_range(lengths: list[int], start: int, stop: int) -> None:
    entries = [hole(length) for length in lengths]
    offsets = starts(entries)
    expected = [
        (offset, entry)
        for offset, entry in zip(offsets, entries, strict=False)
        if start < stop and offset < stop and offset + entry.length > start
    ]
    assert list(overlapping(entries, start, stop)) == expected
    assert list(overlapping(entries, start, stop, offsets)) == expected


GOOD = chunks(6, 1)[0]
BASE = Base(GOOD.id, GOOD.key, 100)


@pytest.mark.parametrize(
    "manifest",
    [
        EMPTY,
        Manifest(size=3, inline=b"abc"),
        Manifest(size=INLINE_MAX, inline=bytes(INLINE_MAX)),
        Manifest(size=10, entries=(hole(10),)),
        Manifest(size=GOOD.length, entries=(GOOD,)),
        Manifest(size=7, entries=(Entry(GOOD.id, GOOD.key, 7, BASE),)),
        Manifest(size=1 << 40, depth=4, entries=(Entry(GOOD.id, GOOD.key, 1 << 40),)),
    ],
)
def test_good_manifests_pass(manifest: Manifest) -> None:
    check(manifest)


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        (Manifest(size=-1), "size of -1"),
        (Manifest(size=2**63), "size of"),
        (Manifest(size=1), "covers 0 bytes but says 1"),
        (Manifest(size=2, inline=b"abc"), "covers 3 bytes but says 2"),
        (Manifest(size=INLINE_MAX + 1, inline=bytes(INLINE_MAX + 1)), "inline"),
        (Manifest(size=GOOD.length + 1, inline=b"a", entries=(GOOD,)), "both"),
        (Manifest(size=1, inline=b"a", depth=1), "both"),
        (Manifest(size=0, depth=1), "no entries"),
        (Manifest(size=0, depth=-1), "depth of -1"),
        (Manifest(size=5, depth=5, entries=(Entry(GOOD.id, GOOD.key, 5),)), "depth of 5"),
        (Manifest(size=65, entries=(hole(1),) * 65), "65 entries"),
        (Manifest(size=0, entries=(hole(0),)), "of 0 bytes"),
        (Manifest(size=0, entries=(hole(-5), hole(5))), "of -5 bytes"),
        (Manifest(size=5, entries=(Entry(ChunkId(b""), GOOD.key, 5),)), "hole with a key"),
        (Manifest(size=5, entries=(Entry(ChunkId(b""), b"", 5, BASE),)), "hole with a key or a base"),
        (Manifest(size=5, entries=(Entry(ChunkId(b"short"), GOOD.key, 5),)), "id of 5"),
        (Manifest(size=5, entries=(Entry(GOOD.id, b"", 5),)), "key of 0"),
        (Manifest(size=5 << 20, entries=(Entry(GOOD.id, GOOD.key, 5 << 20),)), "one chunk"),
        (Manifest(size=5, entries=(Entry(GOOD.id, GOOD.key, 5, Base(GOOD.id, b"", 5)),)), "base key of 0"),
        (Manifest(size=5, entries=(Entry(GOOD.id, GOOD.key, 5, Base(GOOD.id, GOOD.key, 0)),)), "base of 0"),
        (Manifest(size=5, depth=1, entries=(hole(5),)), "above the leaves"),
        (Manifest(size=5, depth=1, entries=(Entry(GOOD.id, GOOD.key, 5, BASE),)), "above the leaves"),
    ],
)
def test_bad_manifests_are_refused_with_the_reason(manifest: Manifest, fault: str) -> None:
    with pytest.raises(BadRequest, match=fault):
        check(manifest)


@given(st.lists(st.integers(0, 2**32), max_size=5))
def test_leaves_read_back(seeds: list[int]) -> None:
    entries = tuple(entry for seed in seeds for entry in (*chunks(seed, 1), hole(seed + 1)))
    if entries:
        assert decode_leaf(encode_leaf(entries)) == entries


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        encode_leaf([]),
        encode_leaf([GOOD])[:-1],
        encode_leaf([GOOD]) + b"\x00",
        encode_leaf([hole(0)]),
        encode_leaf([Entry(GOOD.id, b"x", 5)]),
        encode_leaf([Entry(ChunkId(b"x"), GOOD.key, 5)]),
        msgspec.msgpack.encode([["text", "text", 5]]),
        msgspec.msgpack.encode([[GOOD.id, GOOD.key, 5.0]]),
        msgspec.msgpack.encode([[GOOD.id, GOOD.key]]),
        msgspec.msgpack.encode({"id": GOOD.id}),
    ],
)
def test_nonsense_is_no_leaf(data: bytes) -> None:
    with pytest.raises(ChunkDamaged, match="leaf"):
        decode_leaf(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_leaf(data: bytes) -> None:
    with pytest.raises(ChunkDamaged, match="leaf"):
        decode_leaf(data)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(200, 1999), st.integers(0, 3), st.integers(0, 3))
def test_leaves_that_stay_need_not_be_opened(seed: int, at: int, removed: int, inserted: int) -> None:
    before = chunks(seed, 2000)
    manifest, old_leaves = build(size_of(before), before, seal_leaf)
    stored = {leaf.id: leaf for leaf in old_leaves}
    leaves = list(manifest.entries)
    for _ in range(manifest.depth - 1):
        leaves = [one for entry in leaves for one in decode_leaf(open_leaf(entry, stored[entry.id].data))]
    # The leaves with what is removed are told by their entries, the others stay.
    items: list[Entry | Leaf] = []
    position = 0
    new = chunks(seed + 1, inserted)
    for entry in leaves:
        below = decode_leaf(open_leaf(entry, stored[entry.id].data))
        stop = position + len(below)
        if stop <= at or position > at + removed:
            items.append(Leaf(entry))
        else:
            for number, one in enumerate(below, position):
                if number == at:
                    items += new
                if not at <= number < at + removed:
                    items.append(one)
        position = stop
    while (index := unsettled(items)) is not None:
        leaf = items[index]
        assert isinstance(leaf, Leaf)
        items[index : index + 1] = decode_leaf(open_leaf(leaf.entry, stored[leaf.entry.id].data))
    edited, new_leaves = build(size_of(before) - size_of(before[at : at + removed]) + size_of(new), items, seal_leaf)
    check(edited)
    after = [*before[:at], *new, *before[at + removed :]]
    assert flattened(edited, [*old_leaves, *new_leaves]) == after
    assert sum(len(leaf.data) for leaf in new_leaves) <= 60_000
