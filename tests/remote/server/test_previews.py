"""Previews: made behind the commits by a confined process, kept sealed and bounded, and given to members only."""

import io
import os
import threading
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from PIL import Image

from remote.protocol.account import Preview, PreviewRequest
from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.history import Purged, PurgeRequest
from remote.protocol.ids import NodeId, SpaceId
from remote.server.instance import Instance
from remote.server.jobs.following import Follower
from remote.server.jobs.running import catch_up
from remote.server.previews.asking import FOLDER
from remote.server.previews.shelf import Shelf, Shown

pytestmark = pytest.mark.anyio


def picture(width: int, height: int, kind: str = "JPEG", **fields: Any) -> bytes:
    """Red on the left, blue on the right."""
    made = Image.new("RGB", (width, height), "red")
    made.paste("blue", (width // 2, 0, width, height))
    body = io.BytesIO()
    made.save(body, kind, **fields)
    return body.getvalue()


def document() -> bytes:
    made = pypdfium2.PdfDocument.new()
    made.new_page(600, 800)
    body = io.BytesIO()
    made.save(body)
    return body.getvalue()


async def bring(ann: Any, path: str, content: bytes) -> NodeId:
    headers = {"authorization": ann.headers["authorization"], "content-type": "application/octet-stream"}
    found = await ann.http.put("/api/v1/files", params={"path": path}, content=content, headers=headers)
    assert found.status_code == 201, found.content
    return NodeId(int(found.json()["file"]))


def run_job(instance: Instance, ann: Any) -> None:
    job = instance.previews.job()
    follower = Follower(job, instance.database, instance.keyring, instance.contents, threading.Event())
    catch_up(follower, [SpaceId(ann.home)])
    job.close()


async def asked(ann: Any, node: NodeId, size: int = 256) -> Image.Image:
    found = await ann.ask("POST", "/v1/previews", PreviewRequest(node, size), Preview)
    opened = Image.open(io.BytesIO(found.png))
    assert opened.format == "PNG"
    return opened


def kept(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "data" / FOLDER).rglob("*") if path.is_file())


async def test_pictures_and_documents_have_previews_behind_the_commit(
    ann: Any, instance: Instance, tmp_path: Path
) -> None:
    wide = await bring(ann, "wide.jpg", picture(3_000, 1_500))
    page = await bring(ann, "page.pdf", document())
    await bring(ann, "text.txt", b"no picture")
    assert kept(tmp_path) == []
    run_job(instance, ann)
    names = [path.name.partition("-")[2] for path in kept(tmp_path)]
    assert sorted(names) == ["128", "128", "256", "256"]
    # The store shows no content.
    assert not any(b"PNG" in path.read_bytes() for path in kept(tmp_path))
    assert (await asked(ann, wide, 128)).size == (128, 64)
    large = await asked(ann, wide)
    assert large.size == (256, 128)
    left, right = large.getpixel((5, 60)), large.getpixel((250, 60))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert (left[0] > 200, right[2] > 200) == (True, True)
    assert (await asked(ann, page)).size == (192, 256)
    # Others are made when they are asked for, and kept.
    assert (await asked(ann, wide, 1_024)).size == (1_024, 512)
    assert len(kept(tmp_path)) == 5
    # Nothing is made twice.
    before = [path.stat().st_ino for path in kept(tmp_path)]
    run_job(instance, ann)
    assert [path.stat().st_ino for path in kept(tmp_path)] == before


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
async def test_each_format_is_read_where_nothing_can_be_opened(ann: Any, kind: str) -> None:
    node = await bring(ann, f"small.{kind.lower()}", picture(64, 32, kind))
    assert max((await asked(ann, node)).size) == 64


async def test_a_picture_is_turned_as_the_camera_says(ann: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    node = await bring(ann, "turned.jpg", picture(400, 200, exif=exif))
    assert (await asked(ann, node)).size == (128, 256)


async def test_what_is_no_picture_has_none_and_is_not_tried_again(ann: Any, instance: Instance, tmp_path: Path) -> None:
    whole = picture(500, 500)
    broken = await bring(ann, "broken.jpg", os.urandom(5_000))
    cut = await bring(ann, "cut.jpg", whole[: len(whole) // 2])
    text = await bring(ann, "text.txt", b"no picture")
    huge = await bring(ann, "huge.png", picture(20_000, 20_000, "PNG"))
    run_job(instance, ann)
    for node in (broken, cut, huge):
        with pytest.raises(NotFound, match="could not be read"):
            await asked(ann, node)
    with pytest.raises(NotFound, match="such a file"):
        await asked(ann, text)
    with pytest.raises(NotFound, match="more than"):
        await asked(ann, huge, 512)
    with pytest.raises(BadRequest):
        await asked(ann, broken, 300)


async def test_only_members_have_it(ann: Any, bob: Any, http: Any) -> None:
    node = await bring(ann, "mine.png", picture(300, 300, "PNG"))
    with pytest.raises(NotFound):
        await asked(bob, node)
    with pytest.raises(NotFound):
        await bob.ask("POST", "/v1/previews", PreviewRequest(node, 256, SpaceId(ann.home)), Preview)
    path = f"/api/v1/files/{node}/preview"
    assert (await http.get(path)).status_code == 401
    found = await http.get(path, params={"size": 128}, headers={"authorization": ann.headers["authorization"]})
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(found.content)).size == (128, 128)
    refused = await http.get(path, params={"size": 200}, headers={"authorization": ann.headers["authorization"]})
    assert refused.status_code == 400


async def test_it_goes_with_the_content(ann: Any, instance: Instance, build: Any, tmp_path: Path) -> None:
    gone = await bring(ann, "gone.png", picture(300, 300, "PNG"))
    stays = await bring(ann, "stays.png", picture(301, 300, "PNG"))
    await asked(ann, gone)
    await asked(ann, stays)
    await ann.made(build.change(gone, None, (await ann.node(gone)).rev))
    # It can be brought back as long as the history has it.
    assert (await instance.previews.sweep(), len(kept(tmp_path))) == (0, 2)
    await ann.in_space("purge", PurgeRequest((gone,)), Purged)
    assert (await instance.previews.sweep(), len(kept(tmp_path))) == (1, 1)
    assert (await asked(ann, stays)).size == (256, 255)


async def test_half_a_file_after_a_power_cut_is_made_again(ann: Any, tmp_path: Path) -> None:
    node = await bring(ann, "a.png", picture(300, 300, "PNG"))
    await asked(ann, node)
    (path,) = kept(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    assert (await asked(ann, node)).size == (256, 256)


def test_the_shelf_is_bounded_and_keeps_what_is_used(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", 10_000)
    shown = [Shown(SpaceId(7), bytes([number]) * 32, 128) for number in range(12)]
    for number, one in enumerate(shown[:10]):
        shelf.put(one, bytes(1_000))
        os.utime(next((tmp_path / "shelf").rglob(f"{one.content_id.hex()}-128")), (number, number))
    assert shelf.get(shown[0]) == bytes(1_000)
    shelf.put(shown[10], bytes(1_000))
    assert shelf.used_bytes() <= 9_000
    assert shelf.has(shown[0])
    assert shelf.has(shown[10])
    assert not shelf.has(shown[1])
    assert shelf.sweep(lambda space, content: content == shown[0].content_id) == 8
    assert shelf.used_bytes() == 1_000
