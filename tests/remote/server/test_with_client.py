"""The project's own client against the real process: the two understand each other."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from remote.client.service import HttpService, connect, health, login
from remote.protocol import manifests, sealing
from remote.protocol.errors import ChunkMissing, CursorTooOld, NotFound, NotSignedIn
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import SMALL_CHUNK_MAX, ChunkPart, Commit, FolderQuery, LoginAnswer
from remote.protocol.nodes import Entry, Manifest
from remote.server import instance as instances


@pytest.fixture
def url(tmp_path: Path, cheap_passwords: None, build: Any) -> Iterator[str]:
    data, key_file = tmp_path / "data", tmp_path / "key"
    instances.make(data, key_file)
    for name in ("ann", "bob"):
        instances.add_account(data, key_file, name, build.password)
    words = ["run", "--data", str(data), "--master-key", str(key_file), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-c", "from remote.server.main import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


def test_a_day_of_the_client(url: str, build: Any) -> None:
    trio.run(day, url, build)


async def day(url: str, build: Any) -> None:
    await health(url)
    with pytest.raises(NotSignedIn):
        await login(url, "ann", "wrong", "desk")
    ann = await login(url, "ann", build.password, "desk")
    bob = await login(url, "bob", build.password, "desk")
    async with connect(url, ann.token) as service, connect(url, bob.token) as stranger:
        node, manifest, parts = await write(service, ann, build)
        await read(service, ann, node, manifest, parts)
        await wait(service, ann, build, node)
        with pytest.raises(NotFound):
            await stranger.get_parts(bob.home, [ChunkPart(next(iter(parts)))])
        with pytest.raises(NotFound):
            await stranger.changes(ann.home, Rev(0))


async def write(service: HttpService, ann: LoginAnswer, build: Any) -> tuple[NodeId, Manifest, dict[Any, bytes]]:
    """A file of many small and two large chunks, committed after its chunks were asked for."""
    (space,) = (await service.spaces()).spaces
    assert (space.space, space.head) == (ann.home, 1)
    plain = [*(os.urandom(600 + at) for at in range(300)), os.urandom(300_000), bytes(2_000_000) + os.urandom(900_000)]
    sealed = [sealing.seal(piece, space.domain_secret) for piece in plain]
    entries = [Entry(each.id, each.key, each.length) for each in sealed]
    size = sum(entry.length for entry in entries)
    manifest, leaves = manifests.build(size, entries, lambda data: sealing.seal(data, space.domain_secret))
    chunks = {each.id: each.data for each in (*sealed, *leaves)}
    node = (await service.lease_range()).first
    commit = Commit(os.urandom(16), (build.change(node, build.file(b"big", content=manifest)),))
    with pytest.raises(ChunkMissing):
        await service.commit(ann.home, commit)
    assert await service.wanted(ann.home, {chunk: len(data) for chunk, data in chunks.items()}) == set(chunks)
    sent = await service.send_chunks(ann.home, chunks)
    assert sent >= sum(len(data) for data in chunks.values())
    assert await service.send_chunks(ann.home, chunks) < 1_000_000
    assert await service.wanted(ann.home, {chunk: len(data) for chunk, data in chunks.items()}) == set()
    assert (await service.commit(ann.home, commit)).rev == 0, "what was refused is not taken when it comes once more"
    commit = Commit(os.urandom(16), commit.changes)
    answer = await service.commit(ann.home, commit)
    assert (answer.rev, answer.winners) == (2, ())
    assert (await service.commit(ann.home, commit)).rev == 2
    return node, manifest, chunks


async def read(
    service: HttpService, ann: LoginAnswer, node: NodeId, manifest: Manifest, chunks: dict[Any, bytes]
) -> None:
    listing = await service.list_folders(ann.home, [FolderQuery(ROOT)])
    assert listing.folders[0].names == (b"big",)
    state = listing.folders[0].children[0].state
    assert state is not None
    assert state.content == manifest
    whole = await service.get_parts(ann.home, [ChunkPart(chunk) for chunk in chunks])
    assert [hashlib.sha256(data).digest() for data in whole] == list(chunks)
    large = next(chunk for chunk, data in chunks.items() if len(data) > SMALL_CHUNK_MAX)
    (part,) = await service.get_parts(ann.home, [ChunkPart(large, 1, 1)])
    header = sealing.header_of(chunks[large])
    offset, length = sealing.part_range(header, 1, 1)
    assert part == header + chunks[large][offset : offset + length]
    nodes = await service.nodes(ann.home, [node, ROOT], Rev(2))
    assert [found and found.node for found in nodes.nodes] == [node, ROOT]


async def wait(service: HttpService, ann: LoginAnswer, build: Any, node: NodeId) -> None:
    """A poll that is open while somebody commits, and what the journal says then."""
    heads: list[Any] = []

    async with trio.open_nursery() as nursery:

        async def poll() -> None:
            heads.append((await service.poll({ann.home: Rev(2)}, 60)).heads)

        nursery.start_soon(poll)
        answer = await service.commit(ann.home, Commit(os.urandom(16), (build.change(node, None, 2),)))
    assert heads == [{ann.home: answer.rev}]
    changes = await service.changes(ann.home, Rev(0))
    assert [commit.rev for commit in changes.commits] == [1, 2, 3]
    with pytest.raises(CursorTooOld):
        await service.changes(ann.home, Rev(99))
    assert [moment.rev for moment in (await service.moments(ann.home, ROOT, 10)).moments] == [3, 2, 1]
    assert (await service.as_of(ann.home, changes.commits[1].time_ns)).rev == 2
    assert [version.rev for version in (await service.history(ann.home, node)).versions] == [3, 2]
