"""`.search` without a mount: when the server is asked, and that a name keeps leading to the same file."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cache.records import STATE_TABLES
from cache.store import Store
from cache.tree import Tree
from fusefs.errors import NoEntry
from fusefs.searches import REMEMBERED_MAX, Searches
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.nodes import Kind
from remote.protocol.search import Found, SearchAnswer, SearchRequest


class Finding:
    """A server's search, with what it finds and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.paths: dict[int, bytes] = {}
        self.seconds = 0.0

    async def search(self, request: SearchRequest) -> SearchAnswer:
        self.asked.append(request.query)
        await trio.sleep(self.seconds)
        found = (
            Found(SpaceId(1), NodeId(node), path, Kind.FILE, "text", 0, 0, "name") for node, path in self.paths.items()
        )
        return SearchAnswer(tuple(found))


@pytest.fixture
def finding() -> Finding:
    return Finding()


@pytest.fixture
def searches(finding: Finding, tmp_path: Path) -> Iterator[Searches]:
    store = Store(tmp_path / "tree.mdb", STATE_TABLES, has_journal=True)
    yield Searches(finding.search, Tree(store), None)
    store.close()


def in_no_time(scene: Callable[[], Awaitable[None]]) -> None:
    """Nobody waits for real."""
    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


async def listed(searches: Searches, words: bytes) -> dict[bytes, bytes]:
    """Names with where they lead."""
    folder = await searches.lookup(searches.top(), words)
    return {name: searches.target(inode) for name, inode in await searches.children(folder)}


def test_the_server_is_asked_by_who_lists_and_once(searches: Searches, finding: Finding) -> None:
    async def scene() -> None:
        finding.paths = {5: b"work/report"}
        finding.seconds = 0.5
        folder = await searches.lookup(searches.top(), b"report")
        searches.attributes(folder)
        assert finding.asked == []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(searches.children, folder)
                nursery.start_soon(searches.lookup, folder, b"report")
        assert finding.asked == ["report"]
        for name in (b".hidden", b".directory", b".Trash-0"):
            with pytest.raises(NoEntry):
                await searches.lookup(searches.top(), name)
            with pytest.raises(NoEntry):
                await searches.lookup(folder, name)
        with pytest.raises(NoEntry):
            await searches.lookup(folder, b"other")
        assert finding.asked == ["report"]
        await trio.sleep(60)
        # A name that is known needs no server.
        await searches.lookup(folder, b"report")
        assert finding.asked == ["report"]
        await searches.children(folder)
        assert finding.asked == ["report"] * 2

    in_no_time(scene)


def test_a_name_leads_to_the_same_file_whatever_is_found_later(searches: Searches, finding: Finding) -> None:
    async def scene() -> None:
        finding.paths = {5: b"north/report.txt"}
        assert await listed(searches, b"report") == {b"report.txt": b"../../north/report.txt"}
        await trio.sleep(60)
        finding.paths = {6: b"south/report.txt", 5: b"north/report.txt"}
        both = {b"report (south).txt": b"../../south/report.txt", b"report.txt": b"../../north/report.txt"}
        assert await listed(searches, b"report") == both
        await trio.sleep(60)
        finding.paths = {6: b"south/report.txt"}
        assert await listed(searches, b"report") == {b"report (south).txt": b"../../south/report.txt"}
        folder = await searches.lookup(searches.top(), b"report")
        with pytest.raises(NoEntry):
            await searches.lookup(folder, b"report.txt")
        # Also of two that are found at once, neither is the one without a folder.
        assert list(await listed(searches, b"other words")) == [b"report.txt"]
        finding.paths = {5: b"north/report.txt", 6: b"south/report.txt"}
        assert list(await listed(searches, b"new words")) == [b"report (north).txt", b"report (south).txt"]

    in_no_time(scene)


def test_only_so_many_searches_and_names_are_remembered(searches: Searches, finding: Finding) -> None:
    async def scene() -> None:
        for number in range(2 * REMEMBERED_MAX):
            finding.paths = {number + 1: b"%d" % number}
            await listed(searches, b"%d" % number)
        shown = [name for name, _ in await searches.children(searches.top())]
        assert shown == [b"%d" % number for number in reversed(range(REMEMBERED_MAX, 2 * REMEMBERED_MAX))]
        for number in range(30):
            finding.paths = {1000 * number + one: b"%d/file" % one for one in range(1, 201)}
            assert len(await listed(searches, b"many")) == 200
            await trio.sleep(60)
        assert len(searches._remembered["many"].names) <= 2_200

    in_no_time(scene)
