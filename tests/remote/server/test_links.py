"""Public links: what they show, to whom, how often and how long; and bringing files by them."""

import io
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from remote.protocol.account import LinkEntry, LinkRequest, Links, RevokeLinkRequest
from remote.protocol.errors import BadRequest, NotAllowed, NotFound
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.messages import Done
from remote.protocol.sharing import Shared, SharedSpaceRequest, ShareRequest, Wish
from remote.server.database import spaces as space_rows
from remote.server.instance import Instance
from remote.server.slowing import FAILURES_FREE

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 2_000


@dataclass
class Drive:
    """Ann's drive with a folder: thesis/{intro.txt, tables/figures.bin, page.html}."""

    ann: Any
    folder: NodeId
    file: NodeId

    async def link(self, node: NodeId | None = None, **fields: Any) -> LinkEntry:
        request = LinkRequest(self.ann.home, self.folder if node is None else node, **fields)
        return await self.ann.ask("POST", "/v1/links/make", request, LinkEntry)  # type: ignore[no-any-return]

    async def links(self) -> tuple[LinkEntry, ...]:
        return (await self.ann.ask("GET", "/v1/links", None, Links)).links  # type: ignore[no-any-return]


@pytest.fixture
async def drive(ann: Any, instance: Instance) -> Drive:
    def content(data: bytes) -> Any:
        writer = instance.contents.writer(ann.home)
        writer.add(data)
        return writer.finish()

    thesis = await ann.new_folder(b"thesis")
    tables = await ann.new_folder(b"tables", thesis)
    await ann.new_file(b"intro.txt", thesis, content(b"Call me Ishmael."))
    file = await ann.new_file("f\u00fcr <b>.bin".encode(), tables, content(CONTENT))
    await ann.new_file(b"page.html", thesis, content(b"<script>alert(1)</script>"))
    return Drive(ann, thesis, file)


async def test_a_link_to_a_file_gives_it_to_anybody(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(drive.file)
    answer = await http.get(link.path)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "filename*=UTF-8''f%C3%BCr%20%3Cb%3E.bin" in answer.headers["content-disposition"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    head = await http.head(link.path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(CONTENT)), b"")


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [("bytes=0-9", 206, 0, 10), ("bytes=500000-", 206, 500_000, 512_000), ("bytes=-5", 206, 511_995, 512_000)],
)
async def test_players_may_seek(
    drive: Drive, http: httpx.AsyncClient, asked: str, status: int, start: int, stop: int
) -> None:
    answer = await http.get((await drive.link(drive.file)).path, headers={"range": asked})
    assert (answer.status_code, answer.content) == (status, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


async def test_what_lies_behind_the_end_is_refused(drive: Drive, http: httpx.AsyncClient) -> None:
    answer = await http.get((await drive.link(drive.file)).path, headers={"range": "bytes=600000-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")


async def test_a_folder_is_a_page_that_leads_to_all_of_it(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link()
    page = await http.get(link.path)
    assert page.headers["content-type"].startswith("text/html")
    assert f'href="{link.path}/intro.txt"' in page.text
    assert (await http.get(f"{link.path}/intro.txt")).text == "Call me Ishmael."
    inner = await http.get(f"{link.path}/tables/")
    assert f'href="{link.path}/tables/f%C3%BCr%20%3Cb%3E.bin"' in inner.text
    assert "<b>" not in inner.text
    assert (await http.get(f"{link.path}/tables/f%C3%BCr%20%3Cb%3E.bin")).content == CONTENT
    for path in ["/nothing", "/intro.txt/x", "/../thesis", "/tables/%2e%2e/intro.txt", "/a%2Fb", "/a%00b"]:
        assert (await http.get(link.path + path)).status_code in {400, 404}, path


async def test_a_folder_is_a_zip_that_is_made_as_it_is_sent(drive: Drive, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{(await drive.link()).path}?zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["intro.txt", "page.html", "tables/", "tables/f\u00fcr <b>.bin"]
        assert archive.read("tables/f\u00fcr <b>.bin") == CONTENT


async def test_an_archive_has_all_files_and_no_way_out_of_it(drive: Drive, http: httpx.AsyncClient) -> None:
    folder = await drive.ann.new_folder(b"odd", drive.folder)
    for name in (b"a\xff.txt", b"a\xfe.txt", b"..\\..\\evil", b".._.._evil", b".\xff", b".\xfe"):
        await drive.ann.new_file(name, folder)
    answer = await http.get(f"{(await drive.link(folder)).path}?zip")
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert len(set(names)) == 6
    assert not any("\\" in name for name in names)
    assert {"a\N{REPLACEMENT CHARACTER}.txt", "a\N{REPLACEMENT CHARACTER} (2).txt"} < set(names)


async def test_what_a_browser_would_run_is_kept_as_a_file_or_shown_as_text(
    drive: Drive, http: httpx.AsyncClient
) -> None:
    kept = await http.get(f"{(await drive.link()).path}/page.html")
    assert kept.headers["content-type"] == "application/octet-stream"
    assert kept.headers["content-disposition"].startswith("attachment")
    shown = await http.get(f"{(await drive.link(kind='view')).path}/page.html")
    assert (shown.headers["content-type"], shown.headers["content-disposition"]) == (
        "text/plain; charset=utf-8",
        "inline",
    )


async def test_a_link_to_look_at_has_no_archive(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(kind="view")
    assert "?zip" not in (await http.get(link.path)).text
    assert (await http.get(f"{link.path}?zip")).status_code == 403


async def test_a_password_is_asked_for_and_cannot_be_tried_for_ever(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(password="open sesame")
    asked = await http.get(link.path)
    assert (asked.status_code, asked.headers["www-authenticate"][:5]) == (401, "Basic")
    for _ in range(2):
        assert (await http.get(link.path, auth=("", "open sesame"))).status_code == 200
    for _ in range(FAILURES_FREE):
        assert (await http.get(link.path, auth=("", "wrong"))).status_code == 401
    assert (await http.get(link.path, auth=("", "wrong"))).status_code == 429
    assert "sesame" not in repr(await drive.links())


async def test_a_link_is_over_when_it_expires(drive: Drive, http: httpx.AsyncClient, instance: Instance) -> None:
    now = instance.links._now_ns()
    link = await drive.link(expires_ns=now + 10**12)
    assert (await http.get(link.path)).status_code == 200
    instance.links._now_ns = lambda: now + 10**12  # type: ignore[method-assign]
    assert (await http.get(link.path)).status_code == 410
    assert [entry.is_over for entry in await drive.links()] == [True]
    with pytest.raises(BadRequest, match="expired already"):
        await drive.link(expires_ns=now)


async def test_a_link_is_over_when_it_was_used_often_enough(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(downloads_max=2)
    for path in ["/intro.txt", "?zip"]:
        assert (await http.get(link.path)).status_code == 200
        assert (await http.get(link.path + path)).status_code == 200
    assert (await http.get(f"{link.path}/intro.txt")).status_code == 410
    # Who began may go on: players ask for parts.
    part = await http.get(f"{link.path}/intro.txt", headers={"range": "bytes=5-"})
    assert (part.status_code, part.text) == (206, "me Ishmael.")
    other = await http.get(f"{link.path}/page.html", headers={"range": "bytes=5-"})
    assert other.status_code == 410
    # And nothing else is told of what is there.
    assert (await http.head(f"{link.path}/intro.txt")).status_code == 200
    for told in [await http.get(link.path), await http.head(link.path), await http.head(f"{link.path}/page.html")]:
        assert told.status_code == 410
    assert [(entry.downloads, entry.is_over) for entry in await drive.links()] == [(2, True)]


async def test_a_revoked_link_is_over_at_once(drive: Drive, bob: Any, http: httpx.AsyncClient) -> None:
    link = await drive.link()
    with pytest.raises(NotFound):
        await bob.ask("POST", "/v1/links/revoke", RevokeLinkRequest(link.link), Done)
    assert (await http.get(link.path)).status_code == 200
    await drive.ann.ask("POST", "/v1/links/revoke", RevokeLinkRequest(link.link), Done)
    assert (await http.get(link.path)).status_code == 410
    assert await drive.links() == ()


async def test_a_link_shows_the_file_as_it_is_now_and_ends_with_it(
    drive: Drive, http: httpx.AsyncClient, build: Any
) -> None:
    link = await drive.link(drive.file)
    base = (await drive.ann.node(drive.file)).rev
    await drive.ann.made(build.change(drive.file, None, base))
    assert (await http.get(link.path)).status_code == 410
    assert link.leads_to == "thesis/tables/für <b>.bin"
    # It is told where it was, though it has no name any more.
    told = [(entry.is_over, entry.name, entry.leads_to) for entry in await drive.links()]
    assert told == [(True, "", link.leads_to)]
    assert (await http.get("/s/AAAAAAAAAAAAAAAAAAAAAA")).status_code == 404


async def test_links_lead_on_when_their_folder_is_shared_and_when_that_ends(
    drive: Drive, bob: Any, http: httpx.AsyncClient
) -> None:
    ann = drive.ann
    whole, inner, upload = await drive.link(), await drive.link(drive.file), await drive.link(kind="upload")

    async def lead_on(brought: bytes) -> None:
        assert "intro.txt" in (await http.get(whole.path)).text
        assert (await http.get(f"{whole.path}/intro.txt")).content == b"Call me Ishmael."
        assert (await http.get(inner.path)).content == CONTENT
        assert (await http.put(f"{upload.path}/{brought.decode()}", content=b"new")).status_code == 201
        assert not [link for link in await drive.links() if link.is_over]

    await lead_on(b"first")
    request = ShareRequest(ann.home, drive.folder, (Wish("bob", "editor"),))
    shared = await ann.ask("POST", "/v1/shares/make", request, Shared)
    await lead_on(b"second")
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(shared.space), Shared)
    inside = LinkRequest(shared.space, drive.file)
    his, hers = [await one.ask("POST", "/v1/links/make", inside, LinkEntry) for one in (bob, ann)]
    assert (await http.get(his.path)).content == CONTENT
    await ann.ask("POST", "/v1/shares/end", SharedSpaceRequest(shared.space), Done)
    await lead_on(b"third")
    assert (await http.get(hers.path)).content == CONTENT
    # What went back to her home is no more his to give.
    assert (await http.get(his.path)).status_code == 410
    await ann.ask("POST", "/v1/shares/make", request, Shared)
    await lead_on(b"fourth")
    for name in ("first", "second", "third"):
        assert name in (await http.get(whole.path)).text


async def test_nobody_links_what_is_not_his(drive: Drive, bob: Any) -> None:
    with pytest.raises(NotFound):
        await bob.ask("POST", "/v1/links/make", LinkRequest(drive.ann.home, drive.file), LinkEntry)
    with pytest.raises(NotFound, match="not sent yet"):
        await drive.link(NodeId(12345))
    for fields in [{"kind": "admin"}, {"downloads_max": -1}, {"node": drive.file, "kind": "upload"}]:
        with pytest.raises(BadRequest):
            await drive.link(**fields)


async def test_files_are_brought_and_never_seen_by_others(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(kind="upload")
    page = await http.get(link.path)
    assert (page.status_code, "intro.txt" in page.text) == (200, False)
    assert (await http.get(f"{link.path}/intro.txt")).status_code == 403
    first = await http.put(f"{link.path}/photo%20%231.jpg", content=CONTENT)
    assert (first.status_code, first.text.startswith("photo #1.jpg arrived")) == (201, True)
    assert "photo #1 (2).jpg" in (await http.put(f"{link.path}/photo%20%231.jpg", content=b"other")).text
    form = await http.post(link.path, files={"file": ("C:\\letters\\dear.txt", CONTENT + b"form")})
    assert (form.status_code, "dear.txt arrived" in form.text) == (201, True)
    names = await drive.ann.names(drive.folder)
    assert {b"photo #1.jpg", b"photo #1 (2).jpg", b"dear.txt"} <= set(names)
    shown = await drive.link()
    assert (await http.get(f"{shown.path}/dear.txt")).content == CONTENT + b"form"
    assert (await http.get(f"{shown.path}/photo%20%231%20%282%29.jpg")).content == b"other"


async def test_nothing_is_brought_where_it_may_not_be(drive: Drive, http: httpx.AsyncClient) -> None:
    before = await drive.ann.names(drive.folder)
    reading = await drive.link()
    assert (await http.put(f"{reading.path}/x", content=b"x")).status_code == 403
    bringing = await drive.link(kind="upload")
    for path in ["", "/", "/a/b", "/%2e%2e", "/" + "n" * 300]:
        assert (await http.put(bringing.path + path, content=b"x")).status_code in {400, 413}, path
    empty = await http.post(
        bringing.path, content=b"--x\r\n", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert empty.status_code == 400
    assert await drive.ann.names(drive.folder) == before


async def test_the_top_of_a_drive_can_be_linked(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(ROOT)
    assert [(entry.name, entry.is_over) for entry in await drive.links()] == [("/", False)]
    assert "thesis/" in (await http.get(link.path)).text
    assert (await http.get(f"{link.path}/thesis/intro.txt")).text == "Call me Ishmael."


async def test_links_have_a_bound(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remote.server.links.LINKS_MAX", 1)
    await drive.link()
    with pytest.raises(NotAllowed, match="revoke some"):
        await drive.link()


async def test_what_passes_the_quota_is_not_even_taken(
    drive: Drive, http: httpx.AsyncClient, instance: Instance
) -> None:
    link = await drive.link(kind="upload")
    used = (await drive.ann.space()).used
    instance.database.write_now(lambda session: space_rows.set_quota(session, drive.ann.home, used + 1_000_000))
    before = await drive.ann.names(drive.folder)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    assert (await http.put(f"{link.path}/large", content=endless())).status_code == 413
    assert await drive.ann.names(drive.folder) == before
    assert (await http.put(f"{link.path}/fits", content=bytes(900_000))).status_code == 201


async def test_an_archive_goes_on_without_what_is_removed_meanwhile(
    drive: Drive, http: httpx.AsyncClient, instance: Instance, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await drive.link()
    found = await instance.links.tree(await instance.links.opened(link.path.rpartition("/")[2], None))
    await drive.ann.made(build.change(drive.file, None, (await drive.ann.node(drive.file)).rev))

    async def tree(_: object) -> Any:
        return found

    monkeypatch.setattr(instance.links, "tree", tree)
    with zipfile.ZipFile(io.BytesIO((await http.get(f"{link.path}?zip")).content)) as archive:
        assert sorted(archive.namelist()) == ["intro.txt", "page.html", "tables/"]


async def test_what_comes_while_the_link_is_revoked_is_not_taken(drive: Drive, http: httpx.AsyncClient) -> None:
    link = await drive.link(kind="upload")

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await drive.ann.ask("POST", "/v1/links/revoke", RevokeLinkRequest(link.link), Done)
        yield b"x" * 100_000

    answer = await http.put(f"{link.path}/late", content=body())
    assert answer.status_code == 410
    assert b"late" not in await drive.ann.names(drive.folder)
