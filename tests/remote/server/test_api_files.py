"""Files by the JSON API: what a script makes, brings in parts, reads, changes, and hears of."""

import hashlib
import random
from typing import Any

import httpx
import pytest

from remote.protocol.ids import ROOT
from remote.protocol.nodes import Kind

pytestmark = pytest.mark.anyio
LARGE = random.Random(7).randbytes(5_000_000)


class Script:
    """What asks as a person's script does."""

    def __init__(self, asker: Any) -> None:
        self.http: httpx.AsyncClient = asker.http
        self.headers = {"authorization": f"Bearer {asker.login.token}"}

    async def raw(self, method: str, where: str, *, headers: dict[str, str] | None = None, **more: Any) -> Any:
        return await self.http.request(method, f"/api/v1{where}", headers={**self.headers, **(headers or {})}, **more)

    async def ask(self, method: str, where: str, status: int = 200, **more: Any) -> Any:
        answer = await self.raw(method, where, **more)
        assert answer.status_code == status, (method, where, answer.content)
        return answer.json()

    async def put(self, path: str, content: bytes, status: int = 201, **more: Any) -> Any:
        return await self.ask("PUT", "/files", status, params={"path": path}, content=content, **more)

    async def content(self, file: str, **more: Any) -> bytes:
        answer = await self.raw("GET", f"/files/{file}/download", **more)
        assert answer.status_code in {200, 206}, answer.content
        return bytes(answer.content)


@pytest.fixture
def script(ann: Any) -> Script:
    return Script(ann)


@pytest.fixture
def other(bob: Any) -> Script:
    return Script(bob)


def part(content: bytes) -> dict[str, Any]:
    return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


async def test_a_small_file_from_end_to_end(script: Script, ann: Any) -> None:
    folder = await script.ask("POST", "/folders", 201, json={"path": "work"})
    made = await script.put("work/a.txt", b"one")
    assert (made["path"], made["size_bytes"], made["parent"]) == ("work/a.txt", 3, folder["file"])
    assert await script.content(made["file"]) == b"one"
    # Devices see it as any other file.
    assert await ann.names(int(folder["file"])) == [b"a.txt"]
    listed = await script.ask("GET", f"/files/{folder['file']}/children")
    assert ([one["name"] for one in listed["files"]], listed["next"]) == (["a.txt"], None)
    assert await script.ask("GET", "/files", params={"path": "/work/a.txt"}) == made
    moved = await script.ask("PATCH", f"/files/{made['file']}", json={"path": "b.txt", "mode": "0600"})
    assert (moved["path"], moved["mode"], moved["file"]) == ("b.txt", "0600", made["file"])
    copied = await script.ask("POST", f"/files/{made['file']}/copy", 201, json={"path": "work/c.txt"})
    assert copied["file"] != made["file"]
    assert await script.content(copied["file"]) == b"one"
    assert await script.ask("DELETE", f"/files/{folder['file']}") == {"count": 2}
    assert await ann.names() == [b"b.txt"]
    await script.ask("GET", f"/files/{copied['file']}", 404)


async def test_nothing_is_replaced_that_nobody_spoke_of(script: Script) -> None:
    first = await script.put("a", b"one")
    assert (await script.put("a", b"two", 409))["code"] == "in-the-way"
    assert (await script.put("a", b"two", 412, headers={"if-none-match": "*"}))["code"] == "changed"
    second = await script.put("a", b"two", headers={"if-match": first["etag"]})
    assert second["file"] == first["file"]
    assert (await script.put("a", b"three", 412, headers={"if-match": first["etag"]}))["code"] == "changed"
    assert (await script.put("b", b"new", 412, headers={"if-match": "*"}))["code"] == "changed"
    stale = {"if-match": first["etag"]}
    await script.ask("DELETE", f"/files/{first['file']}", 412, headers=stale)
    await script.ask("PATCH", f"/files/{first['file']}", 412, headers=stale, json={"mode": "0600"})
    beside = await script.put("c", b"other")
    await script.ask("PATCH", f"/files/{first['file']}", 409, json={"path": "c"})
    assert await script.content(first["file"]) == b"two"
    replaced = await script.ask("PATCH", f"/files/{first['file']}", json={"path": "c", "replaces": True})
    listed = (await script.ask("GET", "/files/1/children"))["files"]
    assert [(one["name"], one["file"]) for one in listed] == [("c", replaced["file"])]
    # One commit: there is no rev in which the name leads nowhere.
    head = (await script.ask("GET", "/spaces"))[0]["rev"]
    assert replaced["rev"] == head
    # What was replaced is in the history.
    assert await script.content(beside["file"], params={"rev": head - 1}) == b"other"


async def test_a_large_file_comes_in_parts_with_an_interruption(script: Script) -> None:
    pieces = [LARGE[:2_000_000], LARGE[2_000_000:4_000_000], LARGE[4_000_000:]]
    wanted = {"path": "film.bin", "size_bytes": len(LARGE), "chunks": [part(one) for one in pieces[:2]]}
    begun = await script.ask("POST", "/files", 201, json=wanted)
    chunks = f"/files/{begun['file']}/chunks"
    urls = [one["url"] for one in begun["chunks"]]
    assert (await script.http.put(urls[1], content=pieces[1])).status_code == 200
    wrong = await script.http.put(urls[0], content=pieces[1])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "chunk-damaged")
    assert (await script.http.put(urls[0], content=LARGE)).status_code == 413
    forged = urls[0][:-1] + ("1" if urls[0].endswith("0") else "0")
    assert (await script.http.put(forged, content=pieces[0])).status_code == 403
    # Nobody sees anything of it.
    await script.ask("GET", "/files", 404, params={"path": "film.bin"})
    upload = {"upload": begun["upload"]}
    assert (await script.ask("PATCH", chunks, 409, json={**upload, "finish": True}))["code"] == "in-the-way"
    state = await script.ask("PATCH", chunks, json={**upload, "chunks": [part(pieces[2])]})
    assert [(one["is_here"], one["offset"]) for one in state["chunks"]] == [
        (False, 0),
        (True, 2_000_000),
        (False, 4_000_000),
    ]
    for one in state["chunks"]:
        if not one["is_here"]:
            assert (await script.http.put(one["url"], content=pieces[one["number"] - 1])).status_code == 200
    done = await script.ask("PATCH", chunks, json={**upload, "finish": True})
    assert done["rev"] > 0
    # An answer that got lost is asked for again.
    assert (await script.ask("PATCH", chunks, json={**upload, "finish": True}))["rev"] == done["rev"]
    assert await script.content(begun["file"]) == LARGE
    found = await script.ask("GET", "/files", params={"path": "film.bin"})
    assert (found["file"], found["size_bytes"]) == (begun["file"], len(LARGE))


async def test_an_upload_replaces_only_what_was_there_when_it_began(script: Script) -> None:
    old = await script.put("a", b"old")
    wanted = {"path": "a", "size_bytes": 3, "chunks": [part(b"new")]}
    assert (await script.ask("POST", "/files", 409, json=wanted))["code"] == "in-the-way"
    begun = await script.ask("POST", "/files", 201, json=wanted, headers={"if-match": "*"})
    assert begun["file"] == old["file"]
    assert (await script.http.put(begun["chunks"][0]["url"], content=b"new")).status_code == 200
    await script.put("a", b"newer", headers={"if-match": old["etag"]})
    finish = {"upload": begun["upload"], "finish": True}
    assert (await script.ask("PATCH", f"/files/{old['file']}/chunks", 412, json=finish))["code"] == "changed"
    assert await script.content(old["file"]) == b"newer"
    params = {"upload": begun["upload"]}
    await script.ask("DELETE", f"/files/{old['file']}/chunks", params=params)
    await script.ask("PATCH", f"/files/{old['file']}/chunks", 404, json=finish)


async def test_downloads_in_ranges_and_under_conditions(script: Script) -> None:
    made = await script.put("a", LARGE)
    where = f"/files/{made['file']}/download"
    whole = await script.raw("GET", where)
    assert (whole.content, whole.headers["etag"]) == (LARGE, made["etag"])
    ranged = await script.raw("GET", where, headers={"range": "bytes=1000000-2999999"})
    assert (ranged.status_code, ranged.content) == (206, LARGE[1_000_000:3_000_000])
    assert ranged.headers["content-range"] == f"bytes 1000000-2999999/{len(LARGE)}"
    behind = await script.raw("GET", where, headers={"range": f"bytes={len(LARGE)}-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(LARGE)}")
    fits = {"range": "bytes=0-9", "if-range": made["etag"]}
    assert (await script.raw("GET", where, headers=fits)).content == LARGE[:10]
    other = {"range": "bytes=0-9", "if-range": '"other"'}
    assert (await script.raw("GET", where, headers=other)).status_code == 200
    assert (await script.raw("GET", where, headers={"if-none-match": made["etag"]})).status_code == 304
    told = await script.raw("HEAD", where)
    assert (told.status_code, told.content, told.headers["content-length"]) == (200, b"", str(len(LARGE)))
    await script.put("a", b"now", headers={"if-match": made["etag"]})
    assert await script.content(made["file"], params={"rev": made["rev"]}) == LARGE
    assert await script.content(made["file"]) == b"now"


async def test_the_feed_tells_what_changed(script: Script, ann: Any, build: Any) -> None:
    start = await script.ask("GET", "/files/1/changes", params={"since": 0})
    folder = await script.ask("POST", "/folders", 201, json={"path": "work"})
    made = await script.put("work/a", b"one")
    await ann.new_file(b"beside")
    await script.ask("PATCH", f"/files/{made['file']}", json={"path": "work/b"})
    everything = await script.ask("GET", "/files/1/changes", params={"since": start["next"]})
    assert [(one["what"], one["path"], one["was_path"]) for one in everything["changes"]] == [
        ("added", "work", ""),
        ("added", "work/a", ""),
        ("added", "beside", ""),
        ("moved", "work/b", "work/a"),
    ]
    below = await script.ask("GET", f"/files/{folder['file']}/changes", params={"since": start["next"]})
    assert [one["what"] for one in below["changes"]][-2:] == ["added", "moved"]
    one = await script.ask("GET", f"/files/{made['file']}/changes", params={"since": start["next"], "limit": 1})
    assert [each["path"] for each in one["changes"]] == ["work/a"]
    rest = await script.ask("GET", f"/files/{made['file']}/changes", params={"since": one["next"]})
    assert [each["path"] for each in rest["changes"]] == ["work/b"]
    assert (await script.ask("GET", "/files/1/changes", 410, params={"since": 99_999}))["code"] == "cursor-too-old"


async def test_a_copy_keeps_links_symlinks_and_what_is_below(script: Script, ann: Any, build: Any) -> None:
    folder = await ann.new_folder(b"top")
    await ann.new_file(b"file", folder)
    node = await ann.new_id()
    link = build.state(Kind.SYMLINK, build.file(b"link", folder).names, target=b"file")
    await ann.made(build.change(node, link))
    before = (await script.ask("GET", "/spaces"))[0]["rev"]
    copied = await script.ask("POST", f"/files/{folder}/copy", 201, json={"path": "copy"})
    assert await ann.names(int(copied["file"])) == [b"file", b"link"]
    listed = (await script.ask("GET", f"/files/{copied['file']}/children"))["files"]
    assert [(one["kind"], one["target"]) for one in listed] == [("file", ""), ("symlink", "file")]
    assert (await script.ask("GET", "/spaces"))[0]["rev"] == before + 1
    await script.ask("POST", f"/files/{folder}/copy", 409, json={"path": "copy"})
    await script.ask("POST", f"/files/{folder}/copy", 403, json={"path": "top/within"})
    await script.ask("POST", f"/files/{folder}/copy", 201, json={"path": "copy", "replaces": True})
    assert (await script.ask("GET", "/spaces"))[0]["rev"] == before + 2
    assert await ann.names(ROOT) == [b"copy", b"top"]


async def test_other_people_learn_nothing(script: Script, other: Script) -> None:
    made = await script.put("a", b"mine")
    for method, where, body in (
        ("GET", f"/files/{made['file']}", None),
        ("GET", f"/files/{made['file']}/download", None),
        ("GET", f"/files/{made['file']}/changes?since=0", None),
        ("GET", f"/files?path=a&space={made['space']}", None),
        ("PATCH", f"/files/{made['file']}", {"path": "b"}),
        ("DELETE", f"/files/{made['file']}", None),
        ("POST", f"/files/{made['file']}/copy", {"path": "b"}),
        ("POST", "/files", {"path": "b", "size_bytes": 1, "space": made["space"]}),
        ("PATCH", f"/files/{made['file']}/chunks", {"upload": "1"}),
    ):
        answer = await other.raw(method, where, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), (method, where)
        anonymous = await other.http.request(method, f"/api/v1{where}", json=body)
        assert anonymous.status_code == 401, (method, where)
    assert await script.content(made["file"]) == b"mine"


async def test_an_upload_that_was_refused_can_be_finished_later(script: Script) -> None:
    folder = await script.ask("POST", "/folders", 201, json={"path": "work"})
    begun = await script.ask("POST", "/files", 201, json={"path": "work/a", "size_bytes": 3, "chunks": [part(b"abc")]})
    assert (await script.http.put(begun["chunks"][0]["url"], content=b"abc")).status_code == 200
    await script.ask("DELETE", f"/files/{folder['file']}")
    where, finish = f"/files/{begun['file']}/chunks", {"upload": begun["upload"], "finish": True}
    assert (await script.ask("PATCH", where, 412, json=finish))["code"] == "changed"
    removed = (await script.ask("GET", f"/spaces/{begun['space']}/trash"))["removed"]
    await script.ask("POST", f"/spaces/{begun['space']}/trash/restore", json={"nodes": [removed[0]["node"]]})
    assert (await script.ask("PATCH", where, json=finish))["rev"] > 0
    assert await script.content(begun["file"]) == b"abc"


async def test_the_guard_sees_what_a_script_removes(script: Script, ann: Any, build: Any) -> None:
    guard = f"/spaces/{ann.home}/guard"
    found = await script.ask("GET", guard)
    await script.ask("PUT", guard, json={**found, "mode": "ask", "count": 5, "settled_seconds": 0})
    folder = await ann.new_folder(b"many")
    for number in range(8):
        await ann.new_file(b"%d" % number, folder)
    refused = await script.ask("DELETE", f"/files/{folder}", 403)
    assert refused["code"] == "not-allowed"
    assert len(await ann.names(folder)) == 8
    (event,) = (await script.ask("GET", f"/spaces/{ann.home}/events"))["events"]
    assert event["state"] == "held"
    allowed = await script.raw("POST", f"/spaces/{ann.home}/events/{event['event']}/allow")
    assert allowed.status_code == 204
    assert (await script.ask("DELETE", f"/files/{folder}"))["count"] == 9
