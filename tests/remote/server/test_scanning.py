"""The virus scan, with a real clamd: what is found is refused on every way out, an event, and allowed by a manager."""

import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from remote.protocol import deltas, sealing
from remote.protocol.account import LinkEntry, LinkRequest, Preview, PreviewRequest
from remote.protocol.errors import Infected, InTheWay, NotAllowed
from remote.protocol.events import ALLOWED, Event, EventAnswer, Events, EventsRequest
from remote.protocol.history import Done, UndoRequest
from remote.protocol.ids import ROOT, ChunkId, NodeId
from remote.protocol.messages import Change, ChunkPart
from remote.protocol.messages import Done as Said
from remote.protocol.nodes import Base, Entry, Manifest, Name
from remote.protocol.sharing import Shared, SharedSpaceRequest, ShareRequest, Wish
from remote.server import instance as instances
from remote.server.database import jobs as rows
from remote.server.edits import By, Place
from remote.server.instance import Instance
from remote.server.jobs.chosen import Choice, chosen
from remote.server.jobs.following import Follower, NotNow
from remote.server.jobs.running import catch_up
from remote.server.scanning.clamd import Clamd, ScannerAway, TooLarge
from remote.server.scanning.job import Scanning
from tests.scanner import EICAR, LARGEST, PATTERN, Scanner, running_scanner

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def running() -> Iterator[Scanner]:
    with running_scanner() as scanner:
        yield scanner


@pytest.fixture
def scan(instance: Instance, running: Scanner) -> Callable[[Any], None]:
    """Scans all that there is to scan in the home of somebody."""
    return lambda ann: run(instance, running, ann)


def made(instance: Instance, scanner: Scanner) -> Scanning:
    (job,) = chosen(instance, Choice(search="off", has_previews=False, clamd=scanner.place))
    assert isinstance(job, Scanning)
    return job


def run(instance: Instance, scanner: Scanner, ann: Any) -> None:
    job = made(instance, scanner)
    catch_up(
        Follower(job, instance.database, instance.keyring, instance.contents, threading.Event()),
        [ann.home],
    )
    job.close()


def inline(text: bytes) -> Manifest:
    return Manifest(len(text), text)


def bearer(ann: Any) -> dict[str, str]:
    return {"authorization": ann.headers["authorization"], "content-type": "application/octet-stream"}


async def bring(ann: Any, path: str, content: bytes, **headers: str) -> NodeId:
    headers |= bearer(ann)
    found = await ann.http.put("/api/v1/files", params={"path": path}, content=content, headers=headers)
    assert found.status_code == 201, found.content
    return NodeId(int(found.json()["file"]))


async def download(ann: Any, node: NodeId, **params: Any) -> tuple[int, Any]:
    found = await ann.http.get(f"/api/v1/files/{node}/download", params=params, headers=bearer(ann))
    return found.status_code, found.content if found.status_code == 200 else found.json()["code"]


async def events(ann: Any) -> list[Event]:
    return list((await ann.in_space("events", EventsRequest(), Events)).events)


async def content_of(ann: Any, node: NodeId) -> Manifest:
    content = (await ann.node(node)).state.content
    assert content is not None
    return content


def large(pattern: bytes = b"") -> bytes:
    return os.urandom(2 << 20) + pattern + os.urandom(2 << 20)


async def test_a_small_infected_file_is_refused_on_every_way_out(
    ann: Any, instance: Instance, scan: Callable[[Any], None], http: Any
) -> None:
    node = await ann.new_file(b"eicar.com", content=inline(EICAR))
    clean = await ann.new_file(b"clean.txt", content=inline(b"clean"))
    assert await download(ann, node) == (200, EICAR)
    scan(ann)
    # It is listed, with its size; its bytes are not in its state any more, and every device hears of that.
    assert await ann.names() == [b"clean.txt", b"eicar.com"]
    content = await content_of(ann, node)
    assert (content.size, content.inline, len(content.entries)) == (len(EICAR), b"", 1)
    commit = (await ann.changes(0)).commits[-1]
    assert (commit.device, [change.node for change in commit.changes]) == (0, [node])
    assert EICAR not in msgspec.msgpack.encode(await ann.changes(0))
    assert EICAR not in msgspec.msgpack.encode(await ann.history(node))
    chunk = content.entries[0].id
    for ask in (lambda: ann.get(ChunkPart(chunk)), lambda: ann.read(ChunkPart(chunk)), lambda: ann.urls(chunk)):
        with pytest.raises(Infected, match="Eicar-Test"):
            await ask()
    assert await download(ann, node) == (403, "infected")
    assert await download(ann, clean) == (200, b"clean")
    (event,) = await events(ann)
    assert (event.kind, event.state, event.node, event.device_name) == ("infected", "told", node, "desk1")
    assert event.examples == (b"eicar.com",)
    assert event.detail.startswith("Eicar-Test")
    # Told once, whatever else becomes of the file.
    await ann.made(_renamed(await ann.node(node)))
    scan(ann)
    assert len(await events(ann)) == 1
    assert await download(ann, node) == (403, "infected")
    with pytest.raises(InTheWay, match="no mass change"):
        await ann.in_space("undo", UndoRequest(b"x" * 16, event=1), Done)


async def test_devices_hear_of_every_file_of_a_small_infected_content(ann: Any, scan: Callable[[Any], None]) -> None:
    nodes = [await ann.new_file(name, content=inline(EICAR)) for name in (b"eicar.com", b"copy.com")]
    await ann.new_file(b"clean.txt", content=inline(b"clean"))
    head = (await ann.space()).head
    scan(ann)
    (commit,) = (await ann.changes(head)).commits
    assert sorted(change.node for change in commit.changes) == sorted(nodes)
    assert [change.state.content.inline for change in commit.changes] == [b"", b""]
    assert len(await events(ann)) == 1


async def test_links_give_what_is_clean(ann: Any, scan: Callable[[Any], None], http: Any) -> None:
    folder = await ann.new_folder(b"folder")
    node = await ann.new_file(b"eicar.com", folder, inline(EICAR))
    await ann.new_file(b"clean.txt", folder, inline(b"clean"))
    links = [
        await ann.ask("POST", "/v1/links/make", LinkRequest(ann.home, each, "read"), LinkEntry)
        for each in (node, folder)
    ]
    assert (await http.get(links[0].path)).content == EICAR
    scan(ann)
    refused = await http.get(links[0].path)
    assert refused.status_code == 403
    assert EICAR not in refused.content
    archive = await http.get(f"{links[1].path}?zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        assert [name for name in opened.namelist() if not name.endswith("/")] == ["clean.txt"]


def _renamed(found: Any, name: bytes = b"renamed") -> Any:
    state = msgspec.structs.replace(found.state, names=(Name(ROOT, name),))
    return Change(found.node, found.rev, found.edited_ns, state)


async def test_of_a_large_file_the_version_before_can_be_read(ann: Any, scan: Callable[[Any], None]) -> None:
    before = large()
    node = await bring(ann, "program", before)
    rev = (await ann.node(node)).rev
    cure = await content_of(ann, node)
    await bring(ann, "program", before[: 3 << 20] + PATTERN + before[3 << 20 :], **{"if-match": "*"})
    infected = await content_of(ann, node)
    assert {entry.id for entry in cure.entries} & {entry.id for entry in infected.entries}
    scan(ann)
    assert (await download(ann, node))[0] == 403
    assert await download(ann, node, rev=rev) == (200, before)
    # A copy is the same content, under whatever name, and so is what was there before it was scanned.
    copied = await ann.http.post(f"/api/v1/files/{node}/copy", json={"path": "copy"}, headers=_json(ann))
    assert (await download(ann, NodeId(int(copied.json()["file"]))))[0] == 403
    (event,) = await events(ann)
    assert (event.examples, event.detail.startswith("Satchel-Test")) == ((b"program",), True)


def _json(ann: Any) -> dict[str, str]:
    return {"authorization": ann.headers["authorization"]}


async def test_what_the_scanner_forgot_is_not_given_out_by_a_rename_or_a_copy(
    ann: Any, instance: Instance, scan: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await ann.new_file(b"eicar.com", content=inline(EICAR))
    node = await bring(ann, "large", large(PATTERN))
    scan(ann)

    def knows_nothing(_self: Clamd, content: Iterable[Any]) -> str:
        # It is read, as a scanner does.
        return "" if list(content) else "empty"

    monkeypatch.setattr(Clamd, "scan", knows_nothing)
    copy = await ann.new_file(b"copy", content=await content_of(ann, node))
    for one, name in ((small, b"small"), (node, b"renamed")):
        await ann.made(_renamed(await ann.node(one), name))
    scan(ann)
    assert [await download(ann, one) for one in (small, node, copy)] == [(403, "infected")] * 3
    for event in await events(ann):
        await ann.in_space("events/answer", EventAnswer(event.event, ALLOWED), Said)
    assert await download(ann, small) == (200, EICAR)


async def test_a_manager_may_say_that_it_is_none(
    ann: Any, instance: Instance, scan: Callable[[Any], None], tmp_path: Path
) -> None:
    small = await ann.new_file(b"eicar.com", content=inline(EICAR))
    whole = large(PATTERN)
    node = await bring(ann, "large", whole)
    scan(ann)
    numbers = {event.node: event.event for event in await events(ann)}
    role = "UPDATE member SET role = ? WHERE space_id = ? AND user_id = ?"
    instance.database.write_now(lambda session: session.run(role, "editor", ann.home, ann.login.user))
    for number in numbers.values():
        with pytest.raises(NotAllowed, match="guard"):
            await ann.in_space("events/answer", EventAnswer(number, ALLOWED), Said)
    instance.database.write_now(lambda session: session.run(role, "owner", ann.home, ann.login.user))
    for number in numbers.values():
        await ann.in_space("events/answer", EventAnswer(number, ALLOWED), Said)
    assert await download(ann, node) == (200, whole)
    assert await download(ann, small) == (200, EICAR)
    # And is not asked about again.
    await ann.made(_renamed(await ann.node(node)))
    scan(ann)
    assert [event.state for event in await events(ann)] == ["allowed", "allowed"]
    assert await download(ann, node) == (200, whole)


async def test_what_is_refused_stays_so_when_its_folder_is_shared_and_when_that_ends(
    ann: Any, bob: Any, scan: Callable[[Any], None]
) -> None:
    folder = await ann.new_folder(b"folder")
    node = await ann.new_file(b"eicar.com", folder, inline(EICAR))
    scan(ann)
    (chunk,) = (entry.id for entry in (await content_of(ann, node)).entries)
    request = ShareRequest(ann.home, folder, (Wish("bob", "editor"),))
    shared = await ann.ask("POST", "/v1/shares/make", request, Shared)
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(shared.space), Shared)
    # Nothing was scanned since.
    for asker in (ann, bob):
        with pytest.raises(Infected):
            await asker.get(ChunkPart(chunk), space=shared.space)
        (event,) = (await asker.in_space("events", EventsRequest(), Events, shared.space)).events
        assert (event.kind, event.node) == ("infected", node)
    answer = EventAnswer(event.event, ALLOWED)
    with pytest.raises(NotAllowed):
        await bob.in_space("events/answer", answer, Said, shared.space)
    await ann.ask("POST", "/v1/shares/end", SharedSpaceRequest(shared.space), Said)
    with pytest.raises(Infected):
        await ann.get(ChunkPart(chunk))


async def test_what_is_refused_stays_so_in_a_copy_in_another_space(
    ann: Any, bob: Any, scan: Callable[[Any], None], instance: Instance
) -> None:
    node = await bring(ann, "large", large(PATTERN))
    scan(ann)
    chunks = {entry.id for entry in (await content_of(ann, node)).entries}
    request = ShareRequest(ann.home, await ann.new_folder(b"folder"), (Wish("bob", "editor"),))
    shared = await ann.ask("POST", "/v1/shares/make", request, Shared)
    await bob.ask("POST", "/v1/shares/accept", SharedSpaceRequest(shared.space), Shared)
    by = By((await instance.accounts.device(ann.login.token)).user)
    copied = await instance.edits.copy(by, ann.home, node, Place(Name(ROOT, b"copy"), shared.space))
    # Nothing was scanned since.
    for chunk in chunks:
        with pytest.raises(Infected):
            await bob.get(ChunkPart(chunk), space=shared.space)
    (event,) = (await bob.in_space("events", EventsRequest(), Events, shared.space)).events
    assert (event.kind, event.node) == ("infected", copied)


async def test_a_preview_from_before_is_given_no_more(ann: Any, scan: Callable[[Any], None]) -> None:
    shown = io.BytesIO()
    Image.new("RGB", (200, 200), "red").save(shown, "PNG")
    node = await bring(ann, "shown.png", shown.getvalue() + PATTERN)
    wanted = PreviewRequest(node, 128)
    assert (await ann.ask("POST", "/v1/previews", wanted, Preview)).png
    scan(ann)
    with pytest.raises(Infected):
        await ann.ask("POST", "/v1/previews", wanted, Preview)


async def test_what_is_refused_is_in_the_database(ann: Any, scan: Callable[[Any], None], tmp_path: Path) -> None:
    node = await bring(ann, "large", large(PATTERN))
    scan(ann)
    chunks = {entry.id for entry in (await content_of(ann, node)).entries}
    # Where the next server reads it.
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        sql = "SELECT chunk_id FROM refused WHERE space_id = ?"
        found = beside.database.read_now(lambda session: {ChunkId(row[0]) for row in session.rows(sql, ann.home)})
    assert found == chunks


async def test_without_the_scanner_nothing_is_passed_over(
    ann: Any, instance: Instance, running: Scanner, scan: Callable[[Any], None]
) -> None:
    node = await bring(ann, "large", large(PATTERN))
    running.stop()
    try:
        with pytest.raises(NotNow, match="does not answer"):
            scan(ann)
    finally:
        running.start()
    assert (await download(ann, node))[0] == 200
    scan(ann)
    assert (await download(ann, node))[0] == 403


async def test_what_the_scanner_does_not_take_is_noted(
    ann: Any, instance: Instance, scan: Callable[[Any], None]
) -> None:
    node = await bring(ann, "huge", bytes(LARGEST) + os.urandom(3 << 20))
    scan(ann)
    found = instance.database.read_now(lambda session: rows.troubles_after(session, ann.home, "scan", NodeId(0), 9))
    assert [(one.node, "StreamMaxLength" in one.reason) for one in found] == [(node, True)]
    assert (await download(ann, node))[0] == 200


async def test_all_is_scanned_anew_when_the_scanner_has_learnt(
    ann: Any, build: Any, instance: Instance, running: Scanner, scan: Callable[[Any], None]
) -> None:
    pattern = b"satchel test pattern, learnt: " + os.urandom(16)
    infected, cured = large(pattern), large()
    cured_later = await bring(ann, "cured", infected)
    rev = (await ann.node(cured_later)).rev
    await bring(ann, "cured", cured, **{"if-match": "*"})
    now = await bring(ann, "now", large(pattern))
    small = await ann.new_file(b"small", content=inline(b"-" * 20 + pattern))
    lost = build.change(small, build.file(b"small", content=inline(pattern + b"lost")), 1, is_conflict=True)
    lost_rev = await ann.made(lost)
    scan(ann)
    anew = made(instance, running).anew
    anew.go_through()
    assert await events(ann) == []
    running.learn("Learnt", pattern)
    # What is known is enough for the job that follows: nothing came.
    scan(ann)
    assert await events(ann) == []
    anew.go_through()
    # One of what a file is, and one of what it was.
    assert sorted(event.node for event in await events(ann)) == sorted([cured_later, now, small, small])
    assert (await download(ann, now))[0] == 403
    assert (await download(ann, small))[0] == 403
    assert (await download(ann, cured_later, rev=rev))[0] == 403
    assert await download(ann, cured_later) == (200, cured)
    assert pattern not in msgspec.msgpack.encode(await ann.history(small))
    (conflict,) = (await ann.conflicts()).conflicts
    assert (conflict.lost.rev, conflict.lost.state.content.inline) == (lost_rev, b"")
    # Nothing is told twice.
    anew.go_through()
    made(instance, running).anew.go_through()
    assert len(await events(ann)) == 4


async def test_what_lost_a_merge_is_scanned_when_it_comes(ann: Any, build: Any, scan: Callable[[Any], None]) -> None:
    node = await ann.new_file(b"file", content=inline(b"clean"))
    scan(ann)
    await ann.made(build.change(node, build.file(b"file", content=inline(EICAR)), 1, is_conflict=True))
    scan(ann)
    (event,) = await events(ann)
    assert (event.kind, event.node) == ("infected", node)
    assert await download(ann, node) == (200, b"clean")
    (conflict,) = (await ann.conflicts()).conflicts
    assert conflict.lost.state.content.inline == b""


async def test_scanning_anew_goes_on_where_it_was(ann: Any, instance: Instance, running: Scanner) -> None:
    pattern = b"satchel test pattern, of old: " + os.urandom(16)
    oldest = await ann.new_file(b"oldest", content=inline(pattern))
    for number in range(30):
        await ann.new_file(b"%d" % number, content=inline(b"clean %d" % number))
    newest = await ann.new_file(b"newest", content=inline(pattern + b"."))
    anew = made(instance, running).anew
    assert anew.step(ann.home)
    running.learn("Old", pattern)
    # The server is started again meanwhile. What it did is not done again, what was left is: then the next pass begins.
    anew = made(instance, running).anew
    assert anew.step(ann.home)
    assert (await download(ann, newest))[0] == 200
    assert (await download(ann, oldest))[0] == 403
    anew.go_through()
    assert (await download(ann, newest))[0] == 403
    assert not anew.step(ann.home)


async def test_of_many_old_versions_of_a_file_one_event_tells(
    ann: Any, instance: Instance, running: Scanner, scan: Callable[[Any], None]
) -> None:
    pattern = b"satchel test pattern, many: " + os.urandom(16)
    node = await bring(ann, "file", large(pattern))
    for _ in range(2):
        await bring(ann, "file", large(pattern), **{"if-match": "*"})
    clean = large()
    await bring(ann, "file", clean, **{"if-match": "*"})
    running.learn("Many", pattern)
    made(instance, running).anew.go_through()
    (event,) = await events(ann)
    revs = [version.rev for version in (await ann.history(node)).versions]
    assert [(await download(ann, node, rev=rev))[0] for rev in revs] == [200, 403, 403, 403]
    await ann.in_space("events/answer", EventAnswer(event.event, ALLOWED), Said)
    assert [(await download(ann, node, rev=rev))[0] for rev in revs] == [200, 200, 200, 200]


async def test_a_cure_that_came_as_a_delta_of_what_is_refused_gets_a_chunk_of_its_own(
    ann: Any, build: Any, instance: Instance, running: Scanner, scan: Callable[[Any], None]
) -> None:
    secret = (await ann.space()).domain_secret
    plain = os.urandom(50_000) + PATTERN + os.urandom(50_000)
    chunk = sealing.seal(plain, secret)
    base = Base(chunk.id, chunk.key, chunk.length)
    instance.contents._chunks.keep(ann.home, [chunk])
    whole = Manifest(len(plain), entries=(Entry(chunk.id, chunk.key, chunk.length),))
    node = await ann.new_file(b"file", content=whole)
    scan(ann)
    assert (await download(ann, node))[0] == 403

    async def edited(*parts: deltas.Part) -> bytes:
        told = sealing.seal(deltas.encode(base, parts), secret)
        instance.contents._chunks.keep(ann.home, [told])
        new = b"".join(part if isinstance(part, bytes) else plain[part.start : part.stop] for part in parts)
        content = Manifest(len(new), entries=(Entry(told.id, told.key, len(new), base),))
        await ann.made(build.change(node, build.file(b"file", content=content), (await ann.node(node)).rev))
        assert (await download(ann, node))[0] == 403
        scan(ann)
        return new

    cured = await edited(deltas.Copy(0, 50_000), b"cured", deltas.Copy(50_000 + len(PATTERN), len(plain)))
    head = (await ann.space()).head
    assert await download(ann, node) == (200, cured)
    # Devices hear of it, and read it without what is refused.
    (commit,) = (await ann.changes(head - 1)).commits
    assert [change.node for change in commit.changes] == [node]
    (entry,) = (await content_of(ann, node)).entries
    assert entry.base is None
    assert await ann.get(ChunkPart(entry.id))
    assert len(await events(ann)) == 1
    # What holds the pattern still is found, and told.
    await edited(b"more", deltas.Copy(0, len(plain)))
    assert (await download(ann, node))[0] == 403
    assert len(await events(ann)) == 2
    scan(ann)
    made(instance, running).anew.go_through()
    assert len(await events(ann)) == 2


async def test_a_file_that_was_cured_can_be_read_when_an_older_version_of_it_is_refused(
    ann: Any, instance: Instance, running: Scanner
) -> None:
    pattern = b"satchel test pattern, cured: " + os.urandom(16)
    start, end = os.urandom(2 << 20), os.urandom(2 << 20)
    node = await bring(ann, "file", start + pattern + end)
    rev = (await ann.node(node)).rev
    cured = await content_of(ann, node)
    await bring(ann, "file", start + end, **{"if-match": "*"})
    # Both have chunks of the start and the end.
    assert {entry.id for entry in cured.entries} & {entry.id for entry in (await content_of(ann, node)).entries}
    running.learn("Cured", pattern)
    made(instance, running).anew.go_through()
    assert (await download(ann, node, rev=rev))[0] == 403
    assert await download(ann, node) == (200, start + end)


async def test_a_cure_of_what_was_infected_from_its_first_version_can_be_read(
    ann: Any, instance: Instance, scan: Callable[[Any], None]
) -> None:
    start, end = os.urandom(2 << 20), os.urandom(2 << 20)
    node = await bring(ann, "file", start + PATTERN + end)
    first = (await ann.node(node)).rev
    scan(ann)
    assert (await download(ann, node))[0] == 403
    refused = {entry.id for entry in (await content_of(ann, node)).entries}
    await bring(ann, "file", start + end, **{"if-match": "*"})
    came = {entry.id for entry in (await content_of(ann, node)).entries}
    assert came & refused, "the cure has chunks of what it cures"
    assert (await download(ann, node))[0] == 403
    scan(ann)
    assert await download(ann, node) == (200, start + end)
    # Devices hear of it: by chunks that nothing else has, for what is refused stays so.
    kept = {entry.id for entry in (await content_of(ann, node)).entries}
    assert not kept & refused
    assert came - refused <= kept
    for chunk in kept:
        assert await ann.get(ChunkPart(chunk))
    assert (await download(ann, node, rev=first))[0] == 403
    # The same in what is infected still is no cure.
    await bring(ann, "file", start + PATTERN + end + b"more", **{"if-match": "*"})
    scan(ann)
    assert (await download(ann, node))[0] == 403
    scan(ann)
    assert len({event.event for event in await events(ann)}) <= 2


async def test_a_clean_version_between_an_old_infected_one_and_the_present_can_be_read(
    ann: Any, instance: Instance, running: Scanner
) -> None:
    pattern = b"satchel test pattern, between: " + os.urandom(16)
    start, end = os.urandom(2 << 20), os.urandom(2 << 20)
    contents = [start + pattern + end, start + end, os.urandom(2 << 20)]
    revs = []
    for content in contents:
        node = await bring(ann, "file", content, **({"if-match": "*"} if revs else {}))
        revs.append((await ann.node(node)).rev)
    running.learn("Between", pattern)
    made(instance, running).anew.go_through()
    assert (await download(ann, node, rev=revs[0]))[0] == 403
    assert await download(ann, node, rev=revs[1]) == (200, contents[1])
    assert await download(ann, node) == (200, contents[2])


def test_the_client_of_clamd(running: Scanner, tmp_path: Path) -> None:
    clamd = Clamd.at(running.place)
    before = clamd.version()
    running.learn("More", os.urandom(16))
    assert clamd.version() != before
    assert clamd.scan([b"clean", b"", b"er"]) == ""
    # Also over the border of two pieces.
    assert clamd.scan([b"-" * 100 + EICAR[:30], EICAR[30:]]).startswith("Eicar-Test")
    with pytest.raises(TooLarge):
        clamd.scan(bytes(1 << 20) for _ in range(20))
    with pytest.raises(ScannerAway):
        Clamd.at(str(tmp_path / "nobody")).version()
    for wrong in ("localhost", "localhost:0", ":5", "x:70000"):
        with pytest.raises(ValueError, match="neither"):
            Clamd.at(wrong)
    clamd.close()
    with pytest.raises(ScannerAway):
        clamd.scan([b"x"])


def test_a_scanner_that_does_not_say_its_version_holds_up_no_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as thread:
        host, port = silent.getsockname()
        clamd = Clamd(address=(host, port))
        asked = thread.submit(clamd.version)
        with silent.accept()[0] as peer:
            assert peer.recv(100) == b"zVERSION\0"
            clamd.close()
            with pytest.raises(ScannerAway):
                asked.result(30)
