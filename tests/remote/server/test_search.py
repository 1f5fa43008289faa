"""Search: what is found by what, who finds it, and how it follows what becomes of files."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remote.protocol.ids import ROOT
from remote.protocol.messages import Done
from remote.protocol.nodes import Manifest
from remote.protocol.search import SearchAnswer, SearchRequest
from remote.protocol.sharing import RevokeRequest, Shared, SharedSpaceRequest, ShareRequest, Wish
from remote.server import instance as instances
from remote.server.instance import Instance
from remote.server.jobs.following import Follower
from remote.server.jobs.running import catch_up
from remote.server.search import upkeep
from remote.server.search.tokens import has_terms

pytestmark = pytest.mark.anyio


@pytest.fixture
async def follower(instance: Instance) -> Follower:
    job = instance.search.indexer(reads_content=True)
    return Follower(job, instance.database, instance.keyring, instance.contents, threading.Event())


@pytest.fixture
def index(follower: Follower, ann: Any, bob: Any) -> Callable[[], None]:
    """Brings the index up to date."""
    return lambda: catch_up(follower, [ann.home, bob.home])


async def asked(who: Any, query: str, **more: Any) -> SearchAnswer:
    found: SearchAnswer = await who.ask("POST", "/v1/search", SearchRequest(query, **more), SearchAnswer)
    return found


async def paths(who: Any, query: str, **more: Any) -> list[str]:
    return [one.path.decode() for one in (await asked(who, query, **more)).found]


def text(words: str) -> Manifest:
    return Manifest(len(words.encode()), words.encode())


async def test_names_are_found_by_parts_and_misspelt(ann: Any, index: Any) -> None:
    work = await ann.new_folder(b"Work")
    await ann.new_file("Jährlicher Bericht 2024.odt".encode(), work)
    await ann.new_file(b"invoice-0042.pdf", work)
    await ann.new_file(b"Stromrechnung.pdf")
    await ann.new_file(b"invoice")
    index()
    assert await paths(ann, "bericht") == ["Work/Jährlicher Bericht 2024.odt"]
    assert await paths(ann, "jahrlicher") == ["Work/Jährlicher Bericht 2024.odt"]
    assert await paths(ann, "rechnung") == ["Stromrechnung.pdf"]
    # The whole name first, then those that begin so.
    assert await paths(ann, "invoice") == ["invoice", "Work/invoice-0042.pdf"]
    for misspelt in ("invioce", "invoic", "invoicee", "invoise"):
        assert set(await paths(ann, misspelt)) == {"invoice", "Work/invoice-0042.pdf"}, misspelt
    assert await paths(ann, "invoice 0042") == ["Work/invoice-0042.pdf"]
    assert await paths(ann, '"bericht 2024"') == ["Work/Jährlicher Bericht 2024.odt"]
    assert await paths(ann, '"2024 bericht"') == []
    assert await paths(ann, "zzzz") == []


async def test_content_is_found_by_its_words(ann: Any, index: Any) -> None:
    await ann.new_file(b"notes.txt", ROOT, text("The quick brown fox jumps over the lazy dog."))
    await ann.new_file(b"photo.jpg", ROOT, text("fox"))
    await ann.new_file(b"binary.txt", ROOT, Manifest(4, b"fo\0x"))
    index()
    (found,) = (await asked(ann, "fox")).found
    assert (found.path, found.why) == (b"notes.txt", "content")
    assert await paths(ann, "quick dog") == ["notes.txt"]
    assert await paths(ann, "quick cat") == []
    (found,) = (await asked(ann, "quikc")).found
    assert (found.path, found.why) == (b"notes.txt", "similar")
    assert await paths(ann, "name:fox") == []
    # One word in the name, the other in the content.
    assert await paths(ann, "notes lazy") == ["notes.txt"]


async def test_it_follows_what_becomes_of_files(ann: Any, index: Any, build: Any) -> None:
    folder = await ann.new_folder(b"old place")
    node = await ann.new_file(b"draft.txt", folder, text("about penguins"))
    index()
    assert await paths(ann, "penguins") == ["old place/draft.txt"]
    await ann.made(build.change(folder, build.folder(b"new place"), 2))
    # Before the index knows: what is there is told as it is.
    assert await paths(ann, "penguins") == ["new place/draft.txt"]
    index()
    assert await paths(ann, "old") == []
    assert await paths(ann, "new") == ["new place"]
    await ann.made(build.change(node, build.file(b"final.txt", folder, text("about penguins")), 3))
    index()
    assert await paths(ann, "penguins") == ["new place/final.txt"]
    assert await paths(ann, "draft") == []
    await ann.made(build.change(node, build.file(b"final.txt", folder, text("about walruses")), 5))
    index()
    assert await paths(ann, "penguins") == []
    assert await paths(ann, "walruses") == ["new place/final.txt"]
    await ann.made(build.change(node, None, 6), build.change(folder, None, 4))
    assert await paths(ann, "walruses") == []
    index()
    assert await paths(ann, "walruses") == []
    assert await paths(ann, "place") == []


async def test_nobody_finds_what_is_not_his(ann: Any, bob: Any, index: Any) -> None:
    await ann.new_file(b"secret-of-ann.txt", ROOT, text("treasure"))
    await bob.new_file(b"secret-of-bob.txt", ROOT, text("treasure"))
    index()
    for query in ("secret", "treasure", "type:text", "tresaure", "name:secret", "size:>0", "after:2000"):
        assert await paths(ann, query) == ["secret-of-ann.txt"], query
        assert await paths(bob, query) == ["secret-of-bob.txt"], query


async def test_what_is_shared_is_found_under_the_name_that_it_has_for_who_asks(
    ann: Any, bob: Any, index: Any, follower: Follower
) -> None:
    folder = await ann.new_folder(b"project")
    await ann.new_file(b"plan.txt", folder, text("the schedule of penguins"))
    index()
    shared = await ann.ask("POST", "/v1/shares/make", ShareRequest(ann.home, folder, (Wish("bob"),)), Shared)
    assert await paths(bob, "penguins") == []
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(shared.space), Shared)
    index()
    catch_up(follower, [shared.space])
    for who in (ann, bob):
        assert await paths(who, "penguins") == ["project/plan.txt"]
        assert await paths(who, "in:project schedule") == ["project/plan.txt"]
        assert await paths(who, "owner:ann plan") == ["project/plan.txt"]
        assert await paths(who, "name:project") == ["project"]
    # It is in nobody's home any more.
    assert await paths(ann, "penguins", space=ann.home) == []
    await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(shared.space, "bob"), Done)
    assert await paths(bob, "penguins") == []
    assert await paths(ann, "penguins") == ["project/plan.txt"]


async def test_conditions(ann: Any, index: Any) -> None:
    work = await ann.new_folder(b"work")
    deep = await ann.new_folder(b"deep", work)
    await ann.new_file(b"small.txt", work, text("x" * 10))
    await ann.new_file(b"large.txt", deep, text("y" * 2_000))
    await ann.new_file(b"photo.JPG", deep)
    index()
    for query, wanted in (
        ("type:folder", {"work", "work/deep"}),
        ("type:image", {"work/deep/photo.JPG"}),
        ("type:jpg", {"work/deep/photo.JPG"}),
        ("type:photos,folder", {"work/deep/photo.JPG", "work", "work/deep"}),
        ("size:>1K", {"work/deep/large.txt"}),
        ("size:5..20", {"work/small.txt"}),
        ("size:>1K type:folder", set()),
        ("size:>1K after:2023-11 before:2024 type:txt,pdf", {"work/deep/large.txt"}),
        ("type:text size:<1k", {"work/small.txt"}),
        ("txt size:>=2000", {"work/deep/large.txt"}),
        ("in:work/deep", {"work/deep/large.txt", "work/deep/photo.JPG"}),
        ("in:work txt", {"work/deep/large.txt", "work/small.txt"}),
        ("on:2023-11-14 type:image", {"work/deep/photo.JPG"}),
        ("on:2023 type:image", {"work/deep/photo.JPG"}),
        ("before:2023-11-14 txt", set()),
        ("after:2023-11 txt", {"work/deep/large.txt", "work/small.txt"}),
        ("owner:ann large", {"work/deep/large.txt"}),
        ("la", {"work/deep/large.txt"}),
    ):
        assert set(await paths(ann, query)) == wanted, query


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "Search for what"),
        ("x", "too short"),
        ("size:huge", "no size"),
        ("type:!", "no type"),
        ("on:yesterday", "no time"),
        ('"open', "not closed"),
        ("size:>5 size:<3", "exclude each other"),
        ("in:", "in: what"),
        ("a" * 2_000, "at most 1000 letters"),
        ("word " * 17, "at most 16 words"),
    ],
)
async def test_what_cannot_be_asked_is_said(ann: Any, index: Any, build: Any, query: str, told: str) -> None:
    response = await ann.http.get("/api/v1/search", params={"words": query}, headers=ann.headers)
    assert response.status_code == 400, response.content
    assert told in response.json()["message"]


async def test_owners_and_folders_that_there_are_not(ann: Any, index: Any) -> None:
    for query in ("owner:bob x1", "in:nowhere x1"):
        response = await ann.http.get("/api/v1/search", params={"words": query}, headers=ann.headers)
        assert response.status_code == 404, response.content


async def test_pages(ann: Any, index: Any, build: Any) -> None:
    nodes = [await ann.new_id() for _ in range(30)]
    await ann.made(*[build.change(node, build.file(b"page %02d" % at)) for at, node in enumerate(nodes)])
    index()
    found: list[str] = []
    more = True
    while more:
        answer = await asked(ann, "page", limit=7, offset=len(found))
        found += [one.path.decode() for one in answer.found]
        more = answer.more
    assert sorted(found) == [f"page {at:02}" for at in range(30)]


async def test_the_json_api_tells_the_same(ann: Any, index: Any) -> None:
    node = await ann.new_file(b"a.txt", ROOT, text("hello"))
    index()
    response = await ann.http.get("/api/v1/search", params={"words": "hello", "limit": 1}, headers=ann.headers)
    assert response.json() == {
        "found": [
            {
                "space": str(ann.home),
                "node": str(node),
                "path": "a.txt",
                "kind": "file",
                "type": "text",
                "size_bytes": 5,
                "mtime": "2023-11-14T22:13:20Z",
                "why": "content",
            }
        ],
        "more": False,
        "is_behind": False,
        "is_cut": False,
    }


async def test_words_of_content_are_in_no_file(instance: Instance, ann: Any, index: Any) -> None:
    await ann.new_file(b"plain.txt", ROOT, text("zebrafinch confidential"))
    index()
    files = list((instance.data / "search").iterdir())
    assert files
    for path in files:
        held = path.read_bytes()
        assert b"zebrafinch" not in held
        assert b"confidential" not in held
    assert await paths(ann, "zebrafinch") == ["plain.txt"]


async def test_a_damaged_index_is_made_again(instance: Instance, ann: Any, index: Any) -> None:
    await ann.new_file(b"kept.txt", ROOT, text("hello"))
    index()
    path = instance.data / "search" / f"{ann.home}.index"
    path.write_bytes(b"no database" * 1_000)
    answer = await asked(ann, "kept")
    assert (answer.found, answer.is_behind) == ((), True)
    index()
    assert await paths(ann, "hello") == ["kept.txt"]
    assert not (await asked(ann, "hello")).is_behind


async def test_a_search_that_is_off_says_so(ann: Any) -> None:
    response = await ann.http.get("/api/v1/search", params={"words": "word"}, headers=ann.headers)
    assert (response.status_code, response.json()["code"]) == (403, "not-allowed")


async def test_names_of_several_folders_and_odd_bytes(ann: Any, index: Any, build: Any) -> None:
    where = await ann.new_folder(b"there")
    node = await ann.new_id()
    names = (build.file(b"first").names[0], build.file(b"caf\xe9 second", where).names[0])
    await ann.made(build.change(node, build.state(1, names, content=Manifest(0))))
    index()
    assert [one.path for one in (await asked(ann, "second")).found] == [b"there/caf\xe9 second"]
    assert [one.path for one in (await asked(ann, "first")).found] == [b"first"]
    assert [one.path for one in (await asked(ann, "in:there second")).found] == [b"there/caf\xe9 second"]


async def test_the_index_command_makes_it_anew_and_names_what_cannot_be_read(
    instance: Instance, tmp_path: Path, ann: Any, index: Any
) -> None:
    folder = await ann.new_folder(b"papers")
    await ann.new_file(b"broken.pdf", folder, text("no pdf at all"))
    await ann.new_file(b"good.txt", folder, text("readable"))
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        before = {one.name: one for one in upkeep.standing(beside)}["ann"]
        assert (before.files, before.is_walked) == (0, False)
        for _ in range(2):
            after = {one.name: one for one in upkeep.rebuild(beside, reads_content=True)}["ann"]
            assert (after.files, after.to_be_read, after.behind, after.is_walked) == (3, 0, 0, True)
            (unread,) = after.unread
            assert unread.path == b"papers/broken.pdf"
            assert "cannot be read" in unread.reason
            assert await paths(ann, "readable") == ["papers/good.txt"]
    await ann.new_file(b"later.txt", folder, text("afterwards"))
    index()
    assert await paths(ann, "afterwards") == ["papers/later.txt"]


def test_a_hash_is_found_among_others_only_where_one_begins() -> None:
    terms = b"abcdef" + b"cdefab" + b"abcdcd"
    assert has_terms(terms, [b"cdefab", b"abcdef", b"abcdcd"])
    # Once it begins in the middle of one, once that is where it begins as well.
    assert not has_terms(terms, [b"efcdef"])
    assert has_terms(b"aaaaab" + b"aaaaaa" + b"baaaaa", [b"baaaaa"])
    assert not has_terms(terms, [b"abcdef", b"zzzzzz"])
    assert has_terms(b"", [])
