"""What older versions count for, where a quota is set to count them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remote.protocol.errors import QuotaExceeded
from remote.protocol.history import Done as ActDone
from remote.protocol.history import Purged, PurgeRequest, UndoRequest
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Done
from remote.protocol.nodes import Manifest
from remote.protocol.sharing import Shared, SharedSpaceRequest, ShareRequest, TransferRequest, Wish
from remote.server import instance as instances

pytestmark = pytest.mark.anyio
Count = Callable[[str, int, bool | None], None]


@pytest.fixture
def count(tmp_path: Path) -> Count:
    def set_quota(name: str, quota: int, counts_past: bool | None) -> None:
        instances.set_quota(tmp_path / "data", tmp_path / "key", name, quota, counts_past=counts_past)

    return set_quota


def content(size: int, letter: bytes) -> Manifest:
    return Manifest(size, letter * size)


async def used(asker: Any) -> int:
    return int((await asker.space()).used)


async def test_older_versions_count_and_purging_makes_room(ann: Any, build: Any, count: Count) -> None:
    node = await ann.new_file(b"a", content=content(100, b"1"))
    rev = await ann.made(build.change(node, build.file(b"a", content=content(200, b"2")), (await ann.node(node)).rev))
    assert await used(ann) == 200
    count("ann", 1_000, True)
    assert await used(ann) == 300
    rev = await ann.made(build.change(node, build.file(b"a", content=content(300, b"3")), rev))
    assert await used(ann) == 600
    # Other permissions are no other content.
    rev = await ann.made(build.change(node, build.file(b"a", mode=0o600, content=content(300, b"3")), rev))
    assert await used(ann) == 600
    with pytest.raises(QuotaExceeded):
        await ann.commit(build.change(node, build.file(b"a", content=content(401, b"4")), rev))
    rev = await ann.made(build.change(node, None, rev))
    assert await used(ann) == 600
    # What is there again is no past any more.
    await ann.in_space("undo", UndoRequest(bytes(16)), ActDone)
    assert await used(ann) == 600
    await ann.in_space("purge", PurgeRequest((node,)), Purged)
    assert await used(ann) == 300
    count("ann", 1_000, False)
    assert await used(ann) == 300


async def test_counting_can_be_begun_and_ended_at_any_time(ann: Any, build: Any, count: Count) -> None:
    count("ann", 0, True)
    node, other = (
        await ann.new_file(b"a", content=content(10, b"1")),
        await ann.new_file(b"b", content=content(7, b"x")),
    )
    rev = await ann.made(build.change(node, build.file(b"a", content=content(20, b"2")), (await ann.node(node)).rev))
    # An edit that lost is kept as a version and was never the state.
    lost = build.change(node, build.file(b"a", content=content(5, b"l")), Rev(0), is_conflict=True)
    await ann.made(lost)
    await ann.made(build.change(node, build.file(b"a", content=content(30, b"3")), rev))
    await ann.made(build.change(other, None, (await ann.node(other)).rev))
    counted = await used(ann)
    assert counted == 30 + (10 + 20 + 5) + 7
    count("ann", 0, False)
    assert await used(ann) == 30
    count("ann", 0, True)
    assert await used(ann) == counted

    # What became current again while nothing was counted does not stay counted.
    count("ann", 0, False)
    now = (await ann.node(node)).rev
    await ann.made(build.change(node, build.file(b"a", content=content(10, b"1")), now))
    count("ann", 0, True)
    assert await used(ann) == 10 + (20 + 5 + 30) + 7


async def test_a_folder_that_is_shared_does_not_count_twice(ann: Any, bob: Any, build: Any, count: Count) -> None:
    count("ann", 10_000, True)
    folder = await ann.new_folder(b"thesis")
    node = await ann.new_file(b"a", folder, content(100, b"1"))
    await ann.made(build.change(node, build.file(b"a", folder, content(200, b"2")), (await ann.node(node)).rev))
    assert await used(ann) == 300
    wishes = (Wish("bob", "manager"),)
    shared = await ann.ask("POST", "/v1/shares/make", ShareRequest(ann.home, NodeId(folder), wishes), Shared)
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(shared.space), Shared)
    assert await used(ann) == 300
    edit = build.change(node, build.file(b"a", ROOT, content(50, b"3")), Rev(2))
    assert (await bob.commit(edit, space=shared.space)).rev
    assert await used(ann) == 350
    # Who does not count versions takes what is there now.
    await ann.ask("POST", "/v1/shares/transfer", TransferRequest(shared.space, "bob"), Done)
    assert (await used(ann), await used(bob)) == (100, 50)
