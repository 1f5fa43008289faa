"""Previews: made behind the commits by a confined process, kept sealed and bounded, and given to members only."""

import io
import os
import threading
from pathlib import Path
from typing import Any

import av
import pypdfium2
import pytest
from PIL import Image

from remote.protocol.account import Preview, PreviewRequest
from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.history import Purged, PurgeRequest
from remote.protocol.ids import NodeId, SpaceId
from remote.server.instance import Instance
from remote.server.jobs.confined import CONTENT_MAX, Confined, Limits
from remote.server.jobs.following import Follower
from remote.server.jobs.running import catch_up
from remote.server.jobs.tasks.small import LENGTH
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


def film(kind: str = "mp4", codec: str = "mpeg4", *, black: int = 0, **fields: Any) -> bytes:
    """Four seconds of 640 x 360 pixels, red on the left and blue on the right, after `black` frames of none."""
    shown = Image.open(io.BytesIO(picture(640, 360, "PNG")))
    body = io.BytesIO()
    with av.open(body, "w", format=kind, **fields) as made:
        stream = made.add_stream(codec, rate=25, width=640, height=360, pix_fmt="yuv420p")
        assert isinstance(stream, av.VideoStream)
        stream.thread_count = 1
        for number in range(100):
            frame = av.VideoFrame.from_image(Image.new("RGB", shown.size) if number < black else shown)
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
    return body.getvalue()


def is_red_and_blue(shown: Image.Image) -> bool:
    """Whether it is what `film` and `picture` show."""
    left, right = (shown.convert("RGB").getpixel((shown.width * at // 8, shown.height // 2)) for at in (1, 7))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    return left[0] > 180 and left[2] < 60 and right[2] > 180 and right[0] < 60


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


def test_a_large_picture_is_in_memory_once() -> None:
    content = picture(6_400, 6_400, "PNG", compress_level=1)
    # 156 MiB of it, and what the process takes besides; a second one would not fit.
    made = Confined(Limits(memory_bytes=320 << 20)).run("picture", [content], "image", "128,256")
    for size in (128, 256):
        (length,) = LENGTH.unpack_from(made)
        png, made = made[LENGTH.size : LENGTH.size + length], made[LENGTH.size + length :]
        assert Image.open(io.BytesIO(png)).size == (size, size)


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


@pytest.mark.parametrize(
    ("name", "kind", "codec"),
    [
        ("a.mp4", "mp4", "libx264"),
        ("a.m4v", "mp4", "libx265"),
        ("a.mov", "mov", "mpeg4"),
        ("a.MKV", "matroska", "libx264"),
        ("a.webm", "webm", "libvpx-vp9"),
        ("a.avi", "avi", "mpeg4"),
        ("a.mpg", "mpegts", "mpeg2video"),
    ],
)
async def test_a_video_has_a_preview_behind_the_commit(
    ann: Any, instance: Instance, tmp_path: Path, name: str, kind: str, codec: str
) -> None:
    # libx265 tells what it is for otherwise.
    fields = {"options": {"x265-params": "log-level=none:pools=none"}} if codec == "libx265" else {}
    node = await bring(ann, name, film(kind, codec, **fields))
    run_job(instance, ann)
    assert len(kept(tmp_path)) == 2
    for size, height in ((128, 72), (256, 144), (512, 288), (1_024, 360)):
        shown = await asked(ann, node, size)
        assert shown.size == (min(size, 640), height)
        assert is_red_and_blue(shown)


async def test_a_video_is_turned_as_the_camera_says(ann: Any) -> None:
    straight = bytes.fromhex("00010000 00000000 00000000 00000000 00010000")
    turned = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000")
    # The first is that of the whole film, the second that of its pictures.
    head, both, tail = film().split(straight)
    shown = await asked(ann, await bring(ann, "upright.mp4", head + straight + both + turned + tail))
    assert shown.size == (144, 256)
    assert is_red_and_blue(shown.rotate(90, expand=True))


async def test_a_video_that_begins_black_shows_what_comes_then(ann: Any) -> None:
    assert is_red_and_blue(await asked(ann, await bring(ann, "late.mp4", film(black=45))))
    black = await asked(ann, await bring(ann, "night.mp4", film(black=100)))
    assert (black.size, is_red_and_blue(black)) == ((256, 144), False)


async def test_of_a_long_video_little_is_read(ann: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    # What players skip lies between the pictures and the index at the end: more than is taken of a picture.
    whole = film()
    at = whole.index(b"moov") - 4
    gap = CONTENT_MAX + (8 << 20)
    long = whole[:at] + gap.to_bytes(4, "big") + b"free" + bytes(gap - 8) + whole[at:]
    node = await bring(ann, "long.mp4", long)
    found: list[int] = []
    read = instance.contents.read

    def counted(space: Any, content: Any, start: int, stop: int) -> Any:
        found.append(stop - start)
        return read(space, content, start, stop)

    monkeypatch.setattr(instance.contents, "read", counted)
    assert is_red_and_blue(await asked(ann, node))
    assert 0 < sum(found) <= 4 << 20


async def test_what_is_no_video_has_none_and_is_not_tried_again(
    ann: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = film()
    sound = io.BytesIO()
    with av.open(sound, "w", format="avi") as made:
        stream = made.add_stream("pcm_s16le", rate=48_000)
        frame = av.AudioFrame(format="s16", layout="stereo", samples=1_024)
        frame.rate = 48_000
        made.mux(stream.encode(frame))
    playlist = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    nodes = [
        await bring(ann, "cut.mp4", whole[: len(whole) // 2]),
        await bring(ann, "text.mp4", b"no video, but words\n" * 500),
        await bring(ann, "noise.mkv", os.urandom(100_000)),
        await bring(ann, "rare.avi", film("avi", "ffvhuff")),
        await bring(ann, "sound.avi", sound.getvalue()),
        await bring(ann, "list.mp4", playlist),
    ]
    with pytest.raises(NotFound, match="of the kind ffvhuff are not read"):
        await asked(ann, nodes[3], 512)
    run_job(instance, ann)
    monkeypatch.setattr(Confined, "run_asking", None)
    for node in nodes:
        with pytest.raises(NotFound, match="could not be read"):
            await asked(ann, node)
    run_job(instance, ann)


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
