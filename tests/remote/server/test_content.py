"""Content on the server: what devices or the server itself stored comes back, any part of it."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remote.protocol import deltas, manifests, sealing
from remote.protocol.nodes import Base, Entry, Manifest
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


def stored(instance: Instance, space: int, content: bytes, piece: int) -> Manifest:
    writer = instance.contents.writer(space)  # type: ignore[arg-type]
    for at in range(0, len(content), piece):
        writer.add(content[at : at + piece])
    return writer.finish()


def read(instance: Instance, space: int, manifest: Manifest, start: int, stop: int) -> bytes:
    return b"".join(bytes(piece) for piece in instance.contents.read(space, manifest, start, stop))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000, 9_000_000])
async def test_what_was_written_comes_back(ann: Any, instance: Instance, size: int) -> None:
    content = random.Random(size).randbytes(size)
    manifest = stored(instance, ann.home, content, 65_536)
    assert manifest.size == size
    assert read(instance, ann.home, manifest, 0, size) == content
    for start, stop in [(0, min(10, size)), (size // 2, size), (size // 3, size // 2), (max(0, size - 1), size)]:
        assert read(instance, ann.home, manifest, start, stop) == content[start:stop]


async def test_holes_deltas_and_leaves_come_back(ann: Any, instance: Instance) -> None:
    space, secret = ann.home, (await ann.space()).domain_secret
    plain = random.Random(1).randbytes(400_000)
    chunk = sealing.seal(plain, secret)
    base = Base(chunk.id, chunk.key, chunk.length)
    parts = (deltas.Copy(0, 1000), b"new", deltas.Copy(2000, 400_000))
    told = sealing.seal(deltas.encode(base, parts), secret)
    changed = plain[:1000] + b"new" + plain[2000:]
    items = [
        Entry(chunk.id, chunk.key, chunk.length),
        Entry(b"", b"", 3_000_000),  # type: ignore[arg-type]
        Entry(told.id, told.key, len(changed), base),
    ]
    # So many that they take leaves.
    entries = items * 40
    whole = (plain + bytes(3_000_000) + changed) * 40
    manifest, leaves = manifests.build(len(whole), entries, lambda data: sealing.seal(data, secret))
    assert manifest.depth
    instance.contents._chunks.keep(space, [chunk, told, *leaves])
    chosen = random.Random(2)
    for _ in range(12):
        start = chosen.randrange(len(whole))
        stop = min(len(whole), start + chosen.randrange(5_000_000))
        assert read(instance, space, manifest, start, stop) == whole[start:stop]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=5_000), piece=st.integers(1, 6_000))
async def test_any_pieces_give_the_same(ann: Any, instance: Instance, content: bytes, piece: int) -> None:
    manifest = stored(instance, ann.home, content, piece)
    assert manifest == stored(instance, ann.home, content, 1 << 20)
    assert read(instance, ann.home, manifest, 0, len(content)) == content
