"""The JSON API of content: downloads with ranges and conditions, small files by one PUT, large ones in signed parts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, patch, post, put, route
from litestar.enums import HttpMethod
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import Meta

from remote.protocol.errors import BadRequest, NotAllowed
from remote.protocol.ids import Rev, UserId
from remote.protocol.messages import Problem
from remote.protocol.nodes import EMPTY, FILE_SIZE_MAX, Kind, Manifest
from remote.protocol.times import iso
from remote.server import uploads
from remote.server.content import Writer
from remote.server.edits import etag_of
from remote.server.files import shown_name
from remote.server.http.api_common import (
    BINARY,
    PATH_MAX,
    FileNumber,
    IfMatch,
    IfNoneMatch,
    SpaceAsked,
    condition_of,
    device_of,
    etags_of,
    file_id,
    raw_body,
    space_id,
)
from remote.server.http.api_files import File, by_of, file_of, place_of, time_of
from remote.server.http.bodies import announced_length, body_pieces, gathered
from remote.server.http.links import attachment
from remote.server.http.objects import byte_range
from remote.server.http.problems import AnyRequest
from remote.server.http.streamed import Streams, streamed
from remote.server.instance import Instance
from remote.server.limits import INT63, INT63_TOLD
from remote.server.located import Located
from remote.server.uploads import PART_MAX, Grant, Part, Upload, Wanted

STREAMS_MAX = 128
"""Files that are sent, or brought whole, at a time: each holds a few MiB."""
TOLD_MAX = 500
"""Parts that one request may tell of."""
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",
}
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="In hex, of the plain bytes.")]
Size = Annotated[int, Meta(ge=0, le=FILE_SIZE_MAX)]
Path = Annotated[
    str, QueryParameter(name="path", min_length=1, max_length=PATH_MAX, description="From the top of the space.")
]
Modified = Annotated[
    str, QueryParameter(name="modified", max_length=100, description="The file's time, in ISO 8601; empty: now.")
]
AtRev = Annotated[int, QueryParameter(name="rev", ge=0, le=INT63_TOLD, description="As of this rev; 0: as it is now.")]
UploadNumber = Annotated[
    str, QueryParameter(name="upload", pattern="^[0-9]{1,19}$", max_length=19, description="Which upload.")
]
Range = Annotated[str, HeaderParameter(name="Range", description="One range of bytes: bytes=0-99.")]
IfRange = Annotated[str, HeaderParameter(name="If-Range", description="The range only if it has this ETag.")]
IfChanged = Annotated[str, HeaderParameter(name="If-None-Match", description="Nothing if it has this ETag.")]


class NewPart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a file: its bytes and their SHA-256."""

    size_bytes: Annotated[int, Meta(ge=1, le=PART_MAX)]
    sha256: Sha256


class NewFile(msgspec.Struct, forbid_unknown_fields=True):
    """A file that comes in parts, in order; further parts can be told later. `space` empty: your home."""

    path: Annotated[str, Meta(min_length=1, max_length=PATH_MAX)]
    size_bytes: Size
    space: Annotated[str, Meta(pattern="^[0-9]{0,19}$", max_length=19)] = ""
    chunks: Annotated[list[NewPart], Meta(max_length=TOLD_MAX)] = []
    modified: Annotated[str, Meta(max_length=100)] = ""


class Chunk(msgspec.Struct):
    """A part: `url` takes its bytes by PUT, without a token, for an hour; null when it came."""

    number: int
    offset: int
    size_bytes: int
    sha256: str
    is_here: bool
    url: str | None


class Uploading(msgspec.Struct):
    """An upload as it stands; `rev` is that of the finished file, 0 before. `told_bytes`: of all parts told so far."""

    upload: str
    file: str
    space: str
    name: str
    size_bytes: int
    told_bytes: int
    expires: str
    rev: int
    chunks: list[Chunk]


class Further(msgspec.Struct, forbid_unknown_fields=True):
    """Further parts of an upload; `finish`: all is here, make the file."""

    upload: Annotated[str, Meta(pattern="^[0-9]{1,19}$", max_length=19)]
    chunks: Annotated[list[NewPart], Meta(max_length=TOLD_MAX)] = []
    finish: bool = False


class Forgotten(msgspec.Struct):
    """The upload that is forgotten."""

    upload: str


def content_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """All routes of this module."""
    streams = Streams(STREAMS_MAX)
    return [*_downloads(instance, streams), _put(instance, streams), *_uploads(instance), _part(instance)]


def _downloads(instance: Instance, streams: Streams) -> list[Any]:  # Any: handlers of several kinds
    async def download(
        request: AnyRequest,
        file: FileNumber,
        *,
        space: SpaceAsked = "",
        rev: AtRev = 0,
        range_: Range = "",
        if_range: IfRange = "",
        if_none_match: IfChanged = "",
    ) -> Response[Any]:
        device = await device_of(instance, request)
        node, within = file_id(file), space_id(space)
        found = await (
            instance.locator.as_of(device, node, Rev(rev), within)
            if rev
            else instance.locator.by_id(device, node, within)
        )
        asked = _Asked(request.method == "HEAD", range_, if_range, if_none_match)
        there = found.space.space

        async def check() -> None:
            await instance.locator.check(device, there)
            await asyncio.to_thread(instance.contents.check, there, found.item.state.content or EMPTY)

        async def body(manifest: Manifest, start: int, stop: int) -> AsyncIterator[bytes]:
            streams.check()
            pieces = await asyncio.to_thread(instance.contents.read, there, manifest, start, stop)
            return streamed(request, pieces, streams, check)

        return await _sent(found, asked, body)

    responses = {
        206: ResponseSpec(bytes, media_type=BINARY, description="The range.", generate_examples=False),
        304: ResponseSpec(None, description="It has that ETag still."),
        416: ResponseSpec(
            bytes, media_type=BINARY, description="The range lies behind its end.", generate_examples=False
        ),
    }
    answer = route(
        "/files/{file:str}/download",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        status_code=200,
        summary="The bytes of a file",
        responses=responses,
        media_type=BINARY,
    )
    return [answer(download)]


@dataclass(frozen=True)
class _Asked:
    """What the headers of a download ask for."""

    is_head: bool
    range: str
    if_range: str
    if_none_match: str


async def _sent(
    found: Located, asked: _Asked, body: Callable[[Manifest, int, int], Awaitable[AsyncIterator[bytes]]]
) -> Response[Any]:
    state = found.item.state
    manifest = state.content
    if state.kind is not Kind.FILE or manifest is None:
        raise BadRequest("That is no file: a folder is had as an archive, by a link.")
    etag = etag_of(found.item.rev, state)
    headers = {**_SAFE_HEADERS, "ETag": etag, "Accept-Ranges": "bytes"}
    if asked.if_none_match and {etag, "*"} & etags_of(asked.if_none_match):
        return Response(b"", status_code=304, media_type=BINARY, headers=headers)
    within = asked.range if asked.range and asked.if_range.strip() in {"", etag} else None
    start, stop = byte_range(within, manifest.size)
    if within is not None and start >= stop:
        headers["Content-Range"] = f"bytes */{manifest.size}"
        return Response(b"", status_code=416, media_type=BINARY, headers=headers)
    is_part = (start, stop) != (0, manifest.size)
    if is_part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{manifest.size}"
    headers |= {
        "Content-Length": str(stop - start),
        "Content-Disposition": attachment(shown_name(found.item.name) or "file"),
    }
    status = 206 if is_part else 200
    if asked.is_head:
        return Response(b"", status_code=status, media_type=BINARY, headers=headers)
    return Stream(await body(manifest, start, stop), status_code=status, media_type=BINARY, headers=headers)


def _put(instance: Instance, streams: Streams) -> Any:
    @put(
        "/files",
        status_code=201,
        summary="Bring a file by one request: a new one, or with If-Match in place of the one that is there",
        operation_class=raw_body("The content."),
    )
    async def bring(
        request: AnyRequest,
        path: Path,
        space: SpaceAsked = "",
        modified: Modified = "",
        if_match: IfMatch = "",
        if_none_match: IfNoneMatch = "",
    ) -> Response[File]:
        device = await device_of(instance, request)
        condition = condition_of(if_match, if_none_match)
        mtime_ns = time_of(modified) if modified else 0
        at, within = await place_of(instance, device, space, path)
        most = await instance.edits.room_for(by_of(device), within, at, condition)
        streams.check()
        with streams.one_more():
            manifest = await _received(request, instance.contents.writer(within), most)
        node = await instance.edits.put(by_of(device), within, at, manifest, condition, mtime_ns=mtime_ns)
        told = file_of(await instance.locator.by_id(device, node, within))
        return Response(told, status_code=201, headers={"ETag": told.etag})

    return bring


async def _received(request: AnyRequest, writer: Writer, most: int) -> Manifest:
    async for together in gathered(body_pieces(request, most)):
        await asyncio.to_thread(_add, writer, together)
    announced = announced_length(request)
    if announced is not None and announced != writer.size:
        raise BadRequest(f"{writer.size} of {announced} bytes arrived; nothing was changed.")
    return await asyncio.to_thread(writer.finish)


def _add(writer: Writer, pieces: list[bytes]) -> None:
    for piece in pieces:
        writer.add(piece)


def _uploads(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    @post("/files", status_code=201, summary="Begin to bring a file in parts: metadata in, signed addresses out")
    async def begin(
        request: AnyRequest, data: JSONBody[NewFile], if_match: IfMatch = "", if_none_match: IfNoneMatch = ""
    ) -> Uploading:
        device = await device_of(instance, request)
        at, space = await place_of(instance, device, data.space, data.path)
        mtime_ns = time_of(data.modified) if data.modified else 0
        wanted = Wanted(at, data.size_bytes, _told(data.chunks), condition_of(if_match, if_none_match), mtime_ns)
        return _uploading(await instance.uploads.begin(device, space, wanted))

    @patch("/files/{file:str}/chunks", summary="Which parts are here, addresses for the others, and the end of it")
    async def chunks(request: AnyRequest, file: FileNumber, data: JSONBody[Further]) -> Uploading:
        device = await device_of(instance, request)
        node, upload = file_id(file), int(data.upload)
        found = await instance.uploads.state(device, node, upload, _told(data.chunks))
        if data.finish:
            row = await instance.uploads.finish(device, node, upload)
            found = Upload(row, [one for one in found.parts if one.has_come])
        return _uploading(found)

    @get("/uploads", summary="Your uploads of the last days, without their parts")
    async def listing(request: AnyRequest) -> list[Uploading]:
        return [_uploading(one) for one in await instance.uploads.all(await device_of(instance, request))]

    @delete("/files/{file:str}/chunks", status_code=200, summary="Forget an upload; the file stays as it is")
    async def abandon(request: AnyRequest, file: FileNumber, upload: UploadNumber) -> Forgotten:
        device = await device_of(instance, request)
        await instance.uploads.abandon(device, file_id(file), int(upload))
        return Forgotten(upload)

    return [begin, chunks, listing, abandon]


def _part(instance: Instance) -> Any:
    @put(
        "/uploads/{upload:str}/parts/{number:int}",
        status_code=200,
        security=[{}],
        summary="The bytes of a part: to the address that the upload tells",
        operation_class=raw_body("The bytes of the part."),
        responses={422: ResponseSpec(Problem, description="These are other bytes.", generate_examples=False)},
    )
    async def part(
        request: AnyRequest,
        upload: Annotated[str, PathParameter(pattern="^[0-9]{1,19}$", description="The upload.")],
        number: Annotated[int, PathParameter(ge=1, le=uploads.PARTS_MAX, description="Its part.")],
        user: Annotated[str, QueryParameter(pattern="^[0-9]{1,19}$", max_length=19, description="For whom.")],
        expires: Annotated[int, QueryParameter(ge=0, le=INT63_TOLD, description="When the address is over.")],
        signature: Annotated[str, QueryParameter(pattern="^[0-9a-f]{64}$", description="Of all this.")],
    ) -> Chunk:
        if int(upload) > INT63 or int(user) > INT63:
            raise NotAllowed("This is no signed URL of a part.")
        grant = Grant(UserId(int(user)), int(upload), number)
        pieces = gathered(body_pieces(request, PART_MAX))
        return _chunk(await instance.uploads.take(grant, expires, bytes.fromhex(signature), pieces))

    return part


def _told(parts: list[NewPart]) -> list[tuple[int, bytes]]:
    return [(part.size_bytes, bytes.fromhex(part.sha256)) for part in parts]


def _uploading(found: Upload) -> Uploading:
    row = found.row
    return Uploading(
        upload=str(row.upload),
        file=str(row.node),
        space=str(row.space),
        name=shown_name(row.name),
        size_bytes=row.size,
        told_bytes=found.told,
        expires=iso(row.expires_ns),
        rev=row.rev,
        chunks=[_chunk(part) for part in found.parts],
    )


def _chunk(part: Part) -> Chunk:
    return Chunk(part.number, part.offset, part.size, part.sha256.hex(), part.has_come, part.url or None)
