"""Chunks: sent once, kept durably, read only by who may; and the signed URLs of the local store."""

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import msgspec
import pytest

from remote.protocol import manifests, sealing
from remote.protocol.errors import BadRequest, ChunkDamaged, ChunkMissing, NotAllowed, NotFound, ServerFault, TooLarge
from remote.protocol.ids import ChunkId
from remote.protocol.messages import (
    CHUNK_MAX,
    CHUNKS_MAX,
    GET_ANSWER_MAX,
    PACK_MAX,
    PUT_BODY_MAX,
    SMALL_CHUNK_MAX,
    Below,
    ChunkPart,
    PutRequest,
    WantRequest,
)
from remote.protocol.nodes import Entry
from remote.protocol.parts import Head
from remote.server import instance as instances
from remote.server import leaves
from remote.server.database import accounts as account_rows
from remote.server.database import spaces as space_rows
from remote.server.http import sending
from remote.server.http.objects import byte_range
from remote.server.instance import Instance
from remote.server.objects.packs import build_pack, plan_packs, read_footer

pytestmark = pytest.mark.anyio

LARGE = SMALL_CHUNK_MAX + 1


def stored_files(tmp_path: Path, what: str) -> list[Path]:
    return [path for path in (tmp_path / "data" / what).rglob("*") if path.is_file()]


async def send_large(asker: Any, data: bytes) -> Any:
    """Puts a large chunk through its URL; gives the URL."""
    answer = await asker.want(data)
    (url,) = answer.urls.values()
    response = await asker.http.put(url, content=data)
    assert response.status_code == 201, response.content
    return url


async def test_small_chunks_travel_together_and_lie_in_one_pack(ann: Any, build: Any, tmp_path: Path) -> None:
    chunks = [bytes([number]) * (number * 100 + 1) for number in range(50)]
    answer = await ann.put(*chunks)
    assert list(answer.ids) == [build.chunk_id(chunk) for chunk in chunks]
    assert await ann.get(*[ChunkPart(chunk) for chunk in reversed(answer.ids)]) == tuple(reversed(chunks))
    (pack,) = stored_files(tmp_path, "packs")
    assert read_footer(pack.read_bytes()) == [(build.chunk_id(chunk), len(chunk)) for chunk in chunks]
    assert build.chunk_id(pack.read_bytes()).hex() == pack.name


async def test_packs_are_bounded(ann: Any, build: Any, tmp_path: Path) -> None:
    chunks = [os.urandom(200_000) for _ in range(20)]
    await ann.put(*chunks)
    packs = stored_files(tmp_path, "packs")
    assert len(packs) == 4
    assert all(pack.stat().st_size <= PACK_MAX for pack in packs)
    for chunk in chunks:
        assert await ann.get(ChunkPart(build.chunk_id(chunk))) == (chunk,)


async def test_a_pack_of_the_smallest_chunks_is_bounded_too() -> None:
    chunks = [(number.to_bytes(32, "big"), b"x") for number in range(60_000)]
    packs = [build_pack(pack)[1] for pack in plan_packs(chunks)]  # type: ignore[arg-type]
    assert max(len(pack) for pack in packs) <= PACK_MAX
    assert sum(len(read_footer(pack)) for pack in packs) == 60_000
    with pytest.raises(ValueError):
        read_footer(b"no pack")


async def test_a_chunk_is_stored_once(ann: Any, bob: Any, build: Any, tmp_path: Path) -> None:
    await ann.put(b"same", b"same", b"other")
    await ann.put(b"same")
    await bob.put(b"same")
    assert len(stored_files(tmp_path, "packs")) == 1
    assert await bob.get(ChunkPart(build.chunk_id(b"same"))) == (b"same",)


async def test_want_names_what_is_missing(ann: Any, build: Any) -> None:
    small, large = b"small", b"x" * LARGE
    answer = await ann.want(small, large)
    assert answer.missing == (build.chunk_id(small), build.chunk_id(large))
    assert list(answer.urls) == [build.chunk_id(large)]
    await ann.put(small)
    await send_large(ann, large)
    answer = await ann.want(small, large)
    assert (answer.missing, answer.urls) == ((), {})


async def test_want_does_not_tell_what_others_have(ann: Any, bob: Any, build: Any) -> None:
    small, large = b"small", b"x" * LARGE
    await ann.put(small)
    await send_large(ann, large)
    answer = await bob.want(small, large)
    assert answer.missing == (build.chunk_id(small), build.chunk_id(large))
    response = await bob.http.put(answer.urls[build.chunk_id(large)], content=large)
    assert response.status_code == 201, "as if it had not been there"


async def test_want_takes_over_from_another_space_of_the_asker(
    ann: Any, bob: Any, build: Any, instance: Instance
) -> None:
    await ann.put(b"shared")
    await instance.database.write(lambda session: join(session, ann.home, bob.login.user, "viewer"))
    assert (await bob.want(b"shared")).missing == ()
    assert await bob.get(ChunkPart(build.chunk_id(b"shared"))) == (b"shared",)


def join(session: Any, space: Any, user: Any, role: str) -> None:
    space_rows.add_member(session, space, user, role)
    account_rows.add_mount(session, user, space)


async def test_chunks_of_others_are_not_found(ann: Any, bob: Any, build: Any) -> None:
    small, large = b"small", b"x" * LARGE
    await ann.put(small)
    await send_large(ann, large)
    for data in (small, large, b"nobody's"):
        chunk = build.chunk_id(data)
        with pytest.raises(NotFound):
            await bob.get(ChunkPart(chunk))
        with pytest.raises(NotFound):
            await bob.urls(chunk)
        with pytest.raises(NotFound):
            await bob.get(ChunkPart(chunk), space=ann.home)


async def test_put_limits(ann: Any, build: Any, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await ann.put(b"x" * LARGE)
    with pytest.raises(BadRequest):
        await ann.put(b"")
    with pytest.raises(TooLarge):
        await ann.put(*[b"%d" % number for number in range(CHUNKS_MAX + 1)])
    body = msgspec.msgpack.encode(PutRequest((b"x" * (PUT_BODY_MAX + 20_000),)))
    assert (await ann.raw("POST", f"/v1/spaces/{ann.home}/chunks/put", body)).status_code == 413
    assert stored_files(tmp_path, "packs") == []
    full = [os.urandom(SMALL_CHUNK_MAX) for _ in range(PUT_BODY_MAX // SMALL_CHUNK_MAX)]
    assert len((await ann.put(*full)).ids) == 16


async def test_want_limits(ann: Any) -> None:
    def want(*chunks: Any) -> Any:
        return ann.in_space("chunks/want", WantRequest(chunks), object)

    for size in (0, -1):
        with pytest.raises(BadRequest):
            await want((b"i" * 32, size))
    with pytest.raises(TooLarge):
        await want((b"i" * 32, CHUNK_MAX + 1))
    with pytest.raises(BadRequest):
        await want((b"i" * 31, 5))
    with pytest.raises(BadRequest):
        await want((b"i" * 32, 5), (b"i" * 32, 6))
    with pytest.raises(TooLarge):
        await want(*[(number.to_bytes(32, "big"), 5) for number in range(CHUNKS_MAX + 1)])


async def test_frames_of_a_sealed_chunk(ann: Any, build: Any) -> None:
    secret = (await ann.space()).domain_secret
    plain = os.urandom(500_000)
    sealed = sealing.seal(plain, secret)
    tiny = sealing.seal(b"tiny", secret)
    await send_large(ann, sealed.data)
    await ann.put(tiny.data)
    entry = Entry(sealed.id, sealed.key, sealed.length)
    parts = await ann.get(ChunkPart(sealed.id, 1, 2), ChunkPart(tiny.id, 0, 1), ChunkPart(sealed.id))
    assert sealing.open_frames(entry, parts[0], 1, 2) == plain[sealing.FRAME : 3 * sealing.FRAME]
    assert sealing.open_frames(Entry(tiny.id, tiny.key, 4), parts[1], 0, 1) == b"tiny"
    assert sealing.open_chunk(entry, parts[2]) == plain
    for first, frames in ((3, 2), (4, 1), (-1, 1), (0, -1), (1, 0), (0, 1 << 40)):
        with pytest.raises(BadRequest):
            await ann.get(ChunkPart(sealed.id, first, frames))


async def test_many_parts_are_read_in_one_answer(ann: Any, build: Any) -> None:
    secret = (await ann.space()).domain_secret
    plain = os.urandom(900_000)
    large, small, empty = (
        sealing.seal(plain, secret),
        sealing.seal(b"small", secret),
        sealing.seal(bytes(300_000), secret),
    )
    await send_large(ann, large.data)
    await ann.put(small.data, empty.data)
    asked = [
        *(ChunkPart(large.id, 2, 3), ChunkPart(small.id, 0, 1), ChunkPart(large.id), ChunkPart(empty.id, 1, 2)),
        *(ChunkPart(large.id, 0, 7), ChunkPart(small.id)),
    ]
    items = await ann.read(*asked)
    assert [head[:3] for head, _ in items] == [(part.id, part.first, part.frames) for part in asked]
    assert tuple(data for _, data in items) == await ann.get(*asked), "the same bytes as in a message"
    assert await ann.read() == []
    for first, frames in ((3, 5), (8, 1), (-1, 1), (0, -1), (1, 0), (0, 1 << 40)):
        with pytest.raises(BadRequest):
            await ann.read(ChunkPart(small.id, 0, 1), ChunkPart(large.id, first, frames))
    with pytest.raises(NotFound):
        await ann.read(ChunkPart(small.id), ChunkPart(ChunkId(bytes(32)), 0, 1))


async def test_what_is_below_a_leaf_comes_with_it(ann: Any, bob: Any) -> None:
    secret = (await ann.space()).domain_secret
    pieces = [sealing.seal(os.urandom(300_000), secret) for _ in range(200)]
    entries = [Entry(piece.id, piece.key, piece.length) for piece in pieces]
    entries.insert(3, Entry(ChunkId(b""), b"", 1_000_000))
    manifest, leaves = manifests.build(61_000_000, entries, lambda data: sealing.seal(data, secret))
    for piece in pieces[:10]:
        await send_large(ann, piece.data)
    await ann.put(*(leaf.data for leaf in leaves))
    leaf = manifest.entries[0]
    # From the second frame of the third chunk, over the hole, into the fourth chunk's first frame.
    below = Below(leaf.key, 1, 600_000 + sealing.FRAME, 1_900_000 + 10)
    items = await ann.read(ChunkPart(leaf.id, 0, 1, below))
    assert [head[:3] for head, _ in items] == [(leaf.id, 0, 1), (pieces[2].id, 1, 2), (pieces[3].id, 0, 1)]
    assert manifests.decode_leaf(sealing.open_leaf(leaf, items[0][1]))[2] == entries[2]
    opened = sealing.open_frames(entries[2], items[1][1], 1, 2)
    assert opened == sealing.open_chunk(entries[2], pieces[2].data)[sealing.FRAME :]
    for wrong in (
        *(Below(leaf.key, 0, 0, 1), Below(leaf.key, 9, 0, 1), Below(leaf.key, 1, 5, 5), Below(leaf.key, 1, -1, 5)),
        Below(leaf.key, 1, 0, 1 << 40),
    ):
        with pytest.raises(BadRequest):
            await ann.read(ChunkPart(leaf.id, 0, 1, wrong))
    with pytest.raises(ChunkDamaged):
        await ann.read(ChunkPart(leaf.id, 0, 1, Below(bytes(32), 1, 0, 1)))
    with pytest.raises(NotFound):
        await bob.read(ChunkPart(leaf.id, 0, 1, below))


async def test_frames_of_what_is_no_sealed_chunk(ann: Any, build: Any) -> None:
    for data in (b"x", b"no header at all", b"\x01\x00\x00\x01\x00\x01\x00\x00short"):
        await ann.put(data)
        with pytest.raises((ChunkDamaged, BadRequest)):
            await ann.get(ChunkPart(build.chunk_id(data), 0, 1))


async def test_an_answer_holds_what_fits(ann: Any, build: Any) -> None:
    chunks = [os.urandom(CHUNK_MAX) for _ in range(3)]
    for chunk in chunks:
        await send_large(ann, chunk)
    parts = await ann.get(*[ChunkPart(build.chunk_id(chunk)) for chunk in chunks])
    assert parts == (chunks[0],)
    assert 2 * CHUNK_MAX > GET_ANSWER_MAX
    assert await ann.get() == ()
    with pytest.raises(TooLarge):
        await ann.get(*[ChunkPart(build.chunk_id(chunks[0]))] * (CHUNKS_MAX + 1))
    with pytest.raises(BadRequest):
        await ann.get(ChunkPart(b"short"))  # type: ignore[arg-type]


@pytest.mark.logs_errors("should be in the store")
async def test_a_lost_object_is_a_fault_and_no_data(ann: Any, build: Any, tmp_path: Path) -> None:
    await ann.put(b"data")
    (pack,) = stored_files(tmp_path, "packs")
    pack.unlink()
    with pytest.raises(ServerFault):
        await ann.get(ChunkPart(build.chunk_id(b"data")))


@pytest.mark.logs_errors("disk is full")
async def test_a_full_disk_takes_no_chunks_and_says_so(
    ann: Any, build: Any, tmp_path: Path, instance: Instance
) -> None:
    large = os.urandom(LARGE)
    (url,) = (await ann.want(large)).urls.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance.objects, "free_bytes", lambda: 100)
        with pytest.raises(ServerFault, match="disk is full"):
            await ann.put(b"x" * 200)
        assert (await ann.http.put(url, content=large)).status_code == 500
        assert (await ann.space()).free == 100
        await ann.new_file(b"still taken")
    assert stored_files(tmp_path, "packs") + stored_files(tmp_path, "objects") + stored_files(tmp_path, "tmp") == []
    assert (await ann.http.put(url, content=large)).status_code == 201


async def test_urls_are_for_objects_of_their_own(ann: Any, build: Any) -> None:
    large = os.urandom(LARGE)
    await ann.put(b"small")
    await send_large(ann, large)
    answer = await ann.urls(build.chunk_id(large), build.chunk_id(b"small"))
    assert list(answer.urls) == [build.chunk_id(large)]
    url = answer.urls[build.chunk_id(large)]
    response = await ann.http.get(url)
    assert (response.status_code, response.content) == (200, large)
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["etag"] == f'"{build.chunk_id(large).hex()}"'
    part = await ann.http.get(url, headers={"range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, large[5:15])
    assert part.headers["content-range"] == f"bytes 5-14/{LARGE}"
    beyond = await ann.http.get(url, headers={"range": f"bytes={LARGE}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{LARGE}")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=10-1000", (10, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=100-", (100, 100)),
        ("bytes=200-300", (200, 100)),
        ("bytes=20-10", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("bytes=-", (0, 100)),
        ("bytes=x-y", (0, 100)),
        ("bytes=9999999999999999999999-", (0, 100)),
        ("lines=1-2", (0, 100)),
    ],
)
async def test_ranges(header: str | None, expected: tuple[int, int]) -> None:
    assert byte_range(header, 100) == expected


async def test_an_object_is_put_once_and_never_changed(ann: Any, build: Any, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    url = await send_large(ann, data)
    (path,) = stored_files(tmp_path, "objects")
    before = path.stat()
    assert (await ann.http.put(url, content=data)).status_code == 412
    assert (await ann.http.put(url, content=bytes(LARGE))).status_code == 412
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o077 == 0 or (tmp_path / "data").stat().st_mode & 0o077 == 0


async def test_the_same_put_by_two_at_once(ann: Any, bob: Any, build: Any, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    urls = [next(iter((await asker.want(data)).urls.values())) for asker in (ann, bob)]
    responses = await asyncio.gather(*(ann.http.put(url, content=data) for url in urls * 3))
    assert {response.status_code for response in responses} <= {201, 412}
    assert len(stored_files(tmp_path, "objects")) == 1
    for asker in (ann, bob):
        assert await asker.get(ChunkPart(build.chunk_id(data))) == (data,)


async def test_a_wrong_body_is_refused_and_nothing_kept(ann: Any, build: Any, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    (url,) = (await ann.want(data)).urls.values()
    response = await ann.http.put(url, content=bytes(LARGE))
    assert response.status_code == 400
    assert "SHA-256" in str(build.error_of(response))
    for body in (data[:-1], data + b"x", b""):
        assert (await ann.http.put(url, content=body)).status_code in (400, 403), len(body)

    async def pieces() -> Any:
        yield data

    assert (await ann.http.put(url, content=pieces())).status_code == 400, "no Content-Length"
    assert stored_files(tmp_path, "objects") == []
    assert stored_files(tmp_path, "tmp") == []
    assert (await ann.want(data)).missing == (build.chunk_id(data),)
    assert (await ann.http.put(url, content=data)).status_code == 201


async def test_large_chunks_of_one_body_are_objects_of_their_own(ann: Any, build: Any, tmp_path: Path) -> None:
    chunks = [os.urandom(LARGE + number * 400_000) for number in range(5)]
    answer = await ann.want(*chunks)
    assert answer.may_send
    assert (await ann.send(*chunks, chunks[0])).ids == tuple(build.chunk_id(data) for data in (*chunks, chunks[0]))
    stored = {path.name: path.read_bytes() for path in stored_files(tmp_path, "objects")}
    assert stored == {build.chunk_id(data).hex(): data for data in chunks}
    assert stored_files(tmp_path, "tmp") == []
    assert (await ann.want(*chunks)).missing == ()
    for data in chunks:
        assert await ann.get(ChunkPart(build.chunk_id(data))) == (data,)


async def test_the_same_body_by_two_at_once(ann: Any, bob: Any, build: Any, tmp_path: Path) -> None:
    chunks = [os.urandom(LARGE) for _ in range(3)]
    await asyncio.gather(*(asker.send(*chunks) for asker in (ann, bob) * 3))
    assert len(stored_files(tmp_path, "objects")) == 3
    for asker in (ann, bob):
        assert await asker.get(*map(ChunkPart, map(build.chunk_id, chunks))) == tuple(chunks)


async def test_a_body_with_one_wrong_chunk_is_refused_whole(
    ann: Any, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, other, small = os.urandom(LARGE), os.urandom(LARGE), os.urandom(SMALL_CHUNK_MAX)
    good = Head.of(build.chunk_id(data), data).pack() + data
    bad = {
        "another chunk": Head.of(build.chunk_id(data), other).pack() + other,
        "a part of one": Head(build.chunk_id(other), 0, 1, LARGE).pack() + other,
        "a small one": Head.of(build.chunk_id(small), small).pack() + small,
        "an empty one": Head.of(build.chunk_id(b""), b"").pack(),
        "an endless one": Head(build.chunk_id(other), 0, 0, CHUNK_MAX + 1).pack() + other,
        "one that ends early": (Head.of(build.chunk_id(other), other).pack() + other)[:-1],
        "half a head": Head.of(build.chunk_id(other), other).pack()[:-1],
    }
    for what, body in bad.items():
        with pytest.raises((BadRequest, TooLarge)):
            await ann.send_body(good + body)
        assert stored_files(tmp_path, "objects") == stored_files(tmp_path, "tmp") == [], what
    monkeypatch.setattr(sending, "SEND_BODY_MAX", 2 * LARGE)
    with pytest.raises(TooLarge):
        await ann.send(data, other)
    assert stored_files(tmp_path, "objects") == stored_files(tmp_path, "tmp") == []
    assert (await ann.want(data, other)).missing == (build.chunk_id(data), build.chunk_id(other))
    assert await ann.send_body(b"") is not None


async def test_only_who_may_write_sends(ann: Any, build: Any, instance: Instance, tmp_path: Path) -> None:
    await instance.database.write(lambda session: set_role(session, ann.home, "viewer"))
    with pytest.raises(NotAllowed):
        await ann.send(os.urandom(LARGE))
    assert stored_files(tmp_path, "objects") == []


def changed(url: str, **fields: str) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    chunk = fields.pop("chunk", parts.path.rpartition("/")[2])
    query = {name: value for name, value in {**query, **fields}.items() if value}
    return f"/v1/objects/{chunk}?{urlencode(query)}"


async def test_signatures_cannot_be_forged_or_bent(ann: Any, bob: Any, build: Any, instance: Instance) -> None:
    data, other = os.urandom(LARGE), os.urandom(LARGE)
    put_url = await send_large(ann, data)
    get_url = (await ann.urls(build.chunk_id(data))).urls[build.chunk_id(data)]
    (other_url,) = (await ann.want(other)).urls.values()
    bent = [
        ("GET", put_url),
        ("PUT", get_url),
        ("GET", changed(get_url, space=str(bob.home))),
        ("GET", changed(get_url, space="-5")),
        ("GET", changed(get_url, space="x")),
        ("GET", changed(get_url, space="")),
        ("GET", changed(get_url, user=str(bob.login.user))),
        ("GET", changed(get_url, user="0")),
        ("GET", changed(get_url, user="")),
        ("GET", changed(get_url, expires="99999999999")),
        ("GET", changed(get_url, expires="9" * 400)),
        ("GET", changed(get_url, signature="00" * 32)),
        ("GET", changed(get_url, signature="")),
        ("GET", changed(get_url, signature="zz")),
        ("GET", changed(get_url, chunk=build.chunk_id(other).hex())),
        ("GET", changed(get_url, chunk="..%2f..%2fsatchel.db")),
        ("GET", changed(get_url, chunk="abcd")),
        ("PUT", changed(other_url, space=str(bob.home))),
        ("PUT", changed(put_url, chunk=build.chunk_id(other).hex())),
        ("GET", f"/v1/objects/{build.chunk_id(data).hex()}"),
    ]
    for method, url in bent:
        response = await ann.http.request(method, url, content=other if method == "PUT" else b"")
        assert response.status_code in (400, 403, 404), (method, url)
        assert isinstance(build.error_of(response), NotAllowed | BadRequest | NotFound)
    assert (await ann.want(other)).missing == (build.chunk_id(other),)


async def test_signed_urls_expire(ann: Any, build: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = os.urandom(LARGE), os.urandom(LARGE)
    await send_large(ann, data)
    answer = await ann.urls(build.chunk_id(data))
    (put_url,) = (await ann.want(other)).urls.values()
    now = instance.signer._clock_seconds()
    monkeypatch.setattr(instance.signer, "_clock_seconds", lambda: now + answer.expires_seconds - 1)
    assert (await ann.http.get(answer.urls[build.chunk_id(data)])).status_code == 200
    monkeypatch.setattr(instance.signer, "_clock_seconds", lambda: now + 3_700)
    response = await ann.http.get(answer.urls[build.chunk_id(data)])
    assert response.status_code == 403
    assert "expired" in str(build.error_of(response))
    assert (await ann.http.put(put_url, content=other)).status_code == 403


async def test_a_damaged_object_is_healed_by_the_next_upload(ann: Any, bob: Any, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    await send_large(ann, data)
    (path,) = stored_files(tmp_path, "objects")
    path.write_bytes(data[:100])
    await send_large(bob, data)
    assert path.read_bytes() == data


def tree_of(content: bytes, secret: bytes, pieces: int) -> tuple[Any, list[sealing.Sealed], list[sealing.Sealed]]:
    """A manifest with leaves, the leaves, and the chunks below them."""
    size = len(content) // pieces
    chunks = [sealing.seal(content[at * size : (at + 1) * size], secret) for at in range(pieces)]
    entries = [Entry(chunk.id, chunk.key, chunk.length) for chunk in chunks]
    manifest, made = manifests.build(size * pieces, entries, lambda plain: sealing.seal(plain, secret))
    return manifest, made, chunks


async def test_long_manifests_are_checked_through_their_leaves(ann: Any, build: Any) -> None:
    secret = (await ann.space()).domain_secret
    manifest, made, chunks = tree_of(os.urandom(300 * 50), secret, 300)
    assert manifest.depth == 1
    node = await ann.new_id()
    change = build.change(node, build.file(b"a", content=manifest))
    with pytest.raises(ChunkMissing):
        await ann.commit(change)
    await ann.put(*(leaf.data for leaf in made))
    with pytest.raises(ChunkMissing) as raised:
        await ann.commit(change)
    assert any(chunk.id.hex() in str(raised.value) for chunk in chunks)
    await ann.put(*(chunk.data for chunk in chunks[:-1]))
    with pytest.raises(ChunkMissing) as raised:
        await ann.commit(change)
    assert chunks[-1].id.hex() in str(raised.value)
    await ann.put(chunks[-1].data)
    assert (await ann.commit(change)).rev
    assert (await ann.node(node)).state.content == manifest


async def test_leaves_of_others_do_not_count(ann: Any, bob: Any, build: Any) -> None:
    secret = (await ann.space()).domain_secret
    manifest, made, chunks = tree_of(os.urandom(300 * 50), secret, 300)
    await ann.put(*(each.data for each in (*made, *chunks)))
    await ann.made(build.change(await ann.new_id(), build.file(b"a", content=manifest)))
    with pytest.raises(ChunkMissing):
        await bob.commit(build.change(await bob.new_id(), build.file(b"a", content=manifest)))
    await bob.put(*(leaf.data for leaf in made))
    with pytest.raises(ChunkMissing):
        await bob.commit(build.change(await bob.new_id(), build.file(b"a", content=manifest)))


async def test_leaves_that_lie_are_refused(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (await ann.space()).domain_secret
    manifest, made, chunks = tree_of(os.urandom(300 * 50), secret, 300)
    await ann.put(*(each.data for each in (*made, *chunks)), b"no chunk at all")

    async def commit(top: Entry, *rest: Entry, depth: int = 1) -> Any:
        entries = (top, *rest)
        lying = msgspec.structs.replace(
            manifest, entries=entries, size=sum(entry.length for entry in entries), depth=depth
        )
        return await ann.commit(build.change(await ann.new_id(), build.file(b"a", content=lying)))

    first, *rest = manifest.entries
    with pytest.raises(BadRequest, match="stands for"):
        await commit(msgspec.structs.replace(first, length=first.length + 1), *rest)
    with pytest.raises(ChunkDamaged):
        await commit(msgspec.structs.replace(first, key=b"k" * 32), *rest)
    with pytest.raises(ChunkDamaged):
        await commit(Entry(chunks[0].id, chunks[0].key, 50), *rest)
    with pytest.raises(ChunkDamaged):
        await commit(Entry(build.chunk_id(b"no chunk at all"), b"k" * 32, 50), *rest)
    with pytest.raises(ChunkDamaged):
        await commit(first, *rest, depth=2)
    with pytest.raises(BadRequest):
        await commit(Entry(b"", b"", 5), *rest)  # type: ignore[arg-type]
    monkeypatch.setattr(leaves, "LEAVES_MAX", 0)
    with pytest.raises(TooLarge):
        await commit(first, *rest)


async def test_a_small_edit_of_a_long_file_opens_only_new_leaves(
    ann: Any, build: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = (await ann.space()).domain_secret
    content = os.urandom(2000 * 50)
    manifest, made, chunks = tree_of(content, secret, 2000)
    await ann.put(*(leaf.data for leaf in made))
    await ann.put(*(chunk.data for chunk in chunks))
    node = await ann.new_id()
    rev = await ann.made(build.change(node, build.file(b"a", content=manifest)))
    opened: list[Any] = []
    real = sealing.open_leaf
    monkeypatch.setattr(sealing, "open_leaf", lambda entry, data: opened.append(entry) or real(entry, data))
    edited, made_now, chunks_now = tree_of(b"\0" * 50 + content[50:], secret, 2000)
    await ann.put(*(leaf.data for leaf in made_now), chunks_now[0].data)
    await ann.made(build.change(node, build.file(b"a", content=edited), rev))
    assert len(opened) <= 6, "of about ninety"


async def test_signed_urls_end_with_the_account(ann: Any, build: Any, http: httpx.AsyncClient, tmp_path: Path) -> None:
    data, other = os.urandom(LARGE), os.urandom(LARGE)
    await send_large(ann, data)
    get_url = (await ann.urls(build.chunk_id(data))).urls[build.chunk_id(data)]
    (put_url,) = (await ann.want(other)).urls.values()
    instances.set_disabled(tmp_path / "data", tmp_path / "key", "ann", is_disabled=True)
    assert (await http.get(get_url)).status_code == 401
    assert (await http.put(put_url, content=other)).status_code == 401
    instances.set_disabled(tmp_path / "data", tmp_path / "key", "ann", is_disabled=False)
    assert (await http.get(get_url)).content == data
    assert (await http.put(put_url, content=other)).status_code == 201


async def test_signed_urls_end_with_the_right(
    ann: Any, build: Any, http: httpx.AsyncClient, instance: Instance
) -> None:
    """They need no other sign-in, and are worth nothing when their user may no longer read or write there."""
    data, other = os.urandom(LARGE), os.urandom(LARGE)
    await send_large(ann, data)
    get_url = (await ann.urls(build.chunk_id(data))).urls[build.chunk_id(data)]
    (put_url,) = (await ann.want(other)).urls.values()
    assert (await http.get(get_url)).content == data
    await instance.database.write(lambda session: set_role(session, ann.home, "viewer"))
    assert (await http.get(get_url)).content == data
    assert (await http.put(put_url, content=other)).status_code == 403
    await instance.database.write(
        lambda session: session.run("DELETE FROM member WHERE space_id = ? AND user_id = ?", ann.home, ann.login.user)
    )
    assert (await http.get(get_url)).status_code == 404
    assert (await http.put(put_url, content=other)).status_code == 404


def set_role(session: Any, space: Any, role: str) -> None:
    session.run("UPDATE member SET role = ? WHERE space_id = ?", role, space)
