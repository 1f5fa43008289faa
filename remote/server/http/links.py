"""Links over HTTP: pages, files, archives and uploads for whoever has a link; nothing else of the server shows here."""

import asyncio
import base64
import binascii
import logging
import mimetypes
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from remote.protocol.errors import (
    BadRequest,
    Busy,
    Infected,
    NotAllowed,
    NotSignedIn,
    RemoteError,
    ServerFault,
    TooLarge,
)
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind
from remote.protocol.sealing import Buffer
from remote.protocol.sizes import shown_size
from remote.server.archive import Member, zipped
from remote.server.content import Writer
from remote.server.files import Item, shown_name
from remote.server.http import pages
from remote.server.http.bodies import body_pieces, gathered
from remote.server.http.objects import byte_range
from remote.server.http.problems import STATUSES, AnyRequest
from remote.server.http.streamed import Streams, streamed
from remote.server.instance import Instance
from remote.server.links import READ, UPLOAD, VIEW, Opened

log = logging.getLogger(__name__)

STREAMS_MAX = 256
"""Files and archives that are sent, or brought, at a time: each holds a few MiB."""
_HEADERS = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    # What a stranger put there never runs in the name of this server, nor asks anything of it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; sandbox allow-forms",
}
_SHOWN_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "application/pdf", "text/plain")
"""What browsers may show instead of keeping it; besides, sound and video."""


class LinkRoutes:
    """The routes of public links, as `handlers`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._links = instance.links
        self._streams = Streams(STREAMS_MAX)
        paths = "/s/{secret:str}", "/s/{secret:str}/{path:path}"
        self.handlers: list[HTTPRouteHandler] = [self._handler(path) for path in paths]

    def _handler(self, path: str) -> HTTPRouteHandler:
        @route(path, http_method=[HttpMethod.GET, HttpMethod.HEAD, HttpMethod.PUT, HttpMethod.POST], status_code=200)
        async def answer(request: AnyRequest) -> Response[Any]:
            try:
                return await self._answer(request)
            except RemoteError as error:
                return _refusal(request, error)

        return answer

    async def _answer(self, request: AnyRequest) -> Response[Any]:
        base, path = _path_of(request)
        secret = str(request.path_params["secret"])
        is_bringing = request.method in {"PUT", "POST"}
        opened = await self._links.opened(secret, _password_of(request), () if is_bringing else path)
        if is_bringing:
            return await self._bring(request, secret, opened, path)
        if opened.row.kind == UPLOAD:
            address = str(request.base_url).rstrip("/") + base
            return _html(pages.upload(address, shown_name(opened.item.name) or "Files"))
        self._links.check_uses(opened, _who(request))
        if opened.item.state.kind == Kind.FILE:
            return await self._file(request, opened)
        if "zip" in request.query_params:
            return await self._archive(request, opened)
        children = await self._links.children(opened)
        whole = base + "".join(quote_from_bytes(name) + "/" for name in path)
        return _html(pages.folder(whole, opened.item, children, is_top=not path, has_archive=opened.row.kind == READ))

    async def _file(self, request: AnyRequest, opened: Opened) -> Response[Any]:
        manifest = opened.item.state.content
        assert manifest is not None
        start, stop = byte_range(request.headers.get("range"), manifest.size)
        headers = {**_HEADERS, "Accept-Ranges": "bytes", **_kind_of(opened.item, opened.row.kind)}
        kind = headers.pop("Content-Type")
        if request.headers.get("range") is not None and start >= stop:
            headers["Content-Range"] = f"bytes */{manifest.size}"
            return Response(b"", status_code=416, media_type=kind, headers=headers)
        is_part = (start, stop) != (0, manifest.size)
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{manifest.size}"
        headers["Content-Length"] = str(stop - start)
        status = 206 if is_part else 200
        if request.method == "HEAD":
            return Response(b"", status_code=status, media_type=kind, headers=headers)
        self._streams.check()
        pieces = self._instance.contents.read(opened.row.space, manifest, start, stop)
        await self._links.count(opened, _who(request), is_beginning=start == 0)
        return Stream(self._sent(request, opened, pieces), status_code=status, media_type=kind, headers=headers)

    async def _archive(self, request: AnyRequest, opened: Opened) -> Response[Any]:
        if opened.row.kind != READ:
            raise NotAllowed("This link is for looking only.")
        found = await self._links.tree(opened)
        name = (shown_name(opened.item.name) or "files") + ".zip"
        headers = {**_HEADERS, "Content-Disposition": attachment(name)}
        if request.method == "HEAD":
            return Response(b"", media_type="application/zip", headers=headers)
        self._streams.check()
        await self._links.count(opened, _who(request), is_beginning=True)
        pieces = zipped(member for path, node in found if (member := self._member(opened, path, node)) is not None)
        return Stream(self._sent(request, opened, pieces), media_type="application/zip", headers=headers)

    def _member(self, opened: Opened, path: str, node: NodeId) -> Member | None:
        item = self._links.now(opened, node)
        if item is None:
            return None
        manifest = item.state.content
        content: Iterator[Buffer] = iter(())
        if manifest is not None:
            try:
                content = self._instance.contents.read(opened.row.space, manifest, 0, manifest.size)
            except Infected:
                # The others are had without it.
                return None
        return path, item.state.mode, item.state.mtime_ns, content

    def _sent(self, request: AnyRequest, opened: Opened, pieces: Iterator[Buffer]) -> AsyncIterator[bytes]:
        return streamed(request, pieces, self._streams, lambda: self._links.check(opened))

    async def _bring(self, request: AnyRequest, secret: str, opened: Opened, path: tuple[bytes, ...]) -> Response[Any]:
        if opened.row.kind != UPLOAD:
            raise NotAllowed("Nothing can be brought by this link.")
        self._streams.check()
        with self._streams.one_more():
            writer = self._instance.contents.writer(opened.row.space)
            most = opened.space.left
            if request.method == "PUT":
                if len(path) != 1:
                    raise BadRequest("Say the name of the file behind the link's address.")
                name = path[0]
                async for together in gathered(body_pieces(request, most)):
                    await asyncio.to_thread(_add, writer, together)
            else:
                name = await self._from_form(request, writer, most)
            manifest = await asyncio.to_thread(writer.finish)
        # It may have been revoked while that came.
        opened = await self._links.opened(secret, _password_of(request))
        kept = await self._links.bring(opened, name, manifest)
        sentence = f"{shown_name(kept)} arrived, {shown_size(manifest.size)}."
        if request.method == "PUT":
            return Response(f"{sentence}\n", status_code=201, media_type="text/plain", headers=_HEADERS)
        return _html(pages.message("Thank you", sentence), 201)

    async def _from_form(self, request: AnyRequest, writer: Writer, most: int) -> bytes:
        """Takes the one file of a form, of at most so many bytes; its name."""
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != "multipart/form-data" or "boundary" not in options:
            raise BadRequest("A file is brought by PUT, or by a form as multipart/form-data.")
        name = b""
        try:
            with PushMultipartParser(options["boundary"], max_header_size=4096, max_segment_count=1) as parser:
                async for together in gathered(body_pieces(request, most)):
                    content: list[bytes] = []
                    for event in (event for piece in together for event in parser.parse(piece)):
                        if isinstance(event, MultipartSegment):
                            # Some browsers give a path of their machine.
                            name = (event.filename or "").replace("\\", "/").rpartition("/")[2].encode()
                        elif event:
                            content.append(bytes(event))
                    await asyncio.to_thread(_add, writer, content)
        except MultipartError as error:
            raise BadRequest(f"The form cannot be read: {error}") from None
        if not name:
            raise BadRequest("The form has no file with a name.")
        return name


def _add(writer: Writer, pieces: list[bytes]) -> None:
    for piece in pieces:
        writer.add(piece)


def _path_of(request: AnyRequest) -> tuple[str, tuple[bytes, ...]]:
    """The address of the link's top, which ends with a slash, and the names below it, as bytes."""
    raw = bytes(request.scope.get("raw_path") or request.url.path.encode())
    _, _, secret, *rest = raw.split(b"?")[0].split(b"/", 3)
    names = tuple(unquote_to_bytes(name) for name in (rest[0] if rest else b"").split(b"/") if name)
    if any(b"/" in name or b"\0" in name for name in names):
        raise BadRequest("A name in this address cannot be one.")
    return f"/s/{secret.decode('ascii', 'replace')}/", names


def _password_of(request: AnyRequest) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def _kind_of(item: Item, link_kind: str) -> dict[str, str]:
    name = shown_name(item.name) or "file"
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    is_shown = guessed in _SHOWN_TYPES or guessed.startswith(("video/", "audio/"))
    if link_kind == VIEW:
        # Shown as text where a browser would run it.
        guessed = guessed if is_shown else "text/plain" if guessed.startswith("text/") else "application/octet-stream"
        # The framework puts the charset behind a text type by itself.
        return {"Content-Type": guessed, "Content-Disposition": "inline"}
    return {
        "Content-Type": guessed if is_shown else "application/octet-stream",
        "Content-Disposition": attachment(name),
    }


def attachment(name: str) -> str:
    """The header that has a browser keep what comes under this name."""
    plain = "".join(letter if letter.isascii() and letter not in '"\\' else "_" for letter in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _who(request: AnyRequest) -> str:
    return request.client.host if request.client is not None else ""


def _html(page: str, status_code: int = 200) -> Response[Any]:
    return Response(page, status_code=status_code, media_type="text/html", headers=_HEADERS)


def _refusal(request: AnyRequest, error: RemoteError) -> Response[Any]:
    status = STATUSES[type(error)]
    if isinstance(error, ServerFault):
        log.error("%s of a link failed: %s", request.method, error)
    sentence = "The server failed at this. Try again later." if isinstance(error, ServerFault) else str(error)
    response = _html(pages.message("That is not possible", sentence), status)
    if isinstance(error, NotSignedIn):
        response.headers["WWW-Authenticate"] = 'Basic realm="This link needs its password", charset="UTF-8"'
    if isinstance(error, Busy):
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    if isinstance(error, TooLarge):
        response.headers["Connection"] = "close"
    return response
