"""The signed URLs of the local store: GET and PUT of whole objects, without any other sign-in."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

from litestar import Response, get, put
from litestar.handlers import HTTPRouteHandler

from remote.protocol.errors import BadRequest, Busy, NotAllowed
from remote.protocol.ids import ChunkId, SpaceId, UserId
from remote.server.database.chunks import Place
from remote.server.http.bodies import announced_length, body_pieces, gathered
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import ID_SIZE, INT63, check_chunk_size
from remote.server.objects.local import Incoming
from remote.server.objects.signing import Grant
from remote.server.objects.store import object_name

UPLOADS_MAX = 128
GET_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "Accept-Ranges": "bytes"}


def handlers(instance: Instance) -> list[HTTPRouteHandler]:
    """GET and PUT of objects."""
    uploads = 0

    @get("/v1/objects/{chunk:str}", media_type="application/octet-stream")
    async def read_object(request: AnyRequest) -> Response[bytes]:
        grant = _checked(instance, request, "GET", 0)
        place = await instance.answers.object_place(grant.user, grant.space, grant.chunk)
        start, stop = byte_range(request.headers.get("range"), place.size)
        headers = {**GET_HEADERS, "ETag": f'"{grant.chunk.hex()}"'}
        if start >= stop:
            headers["Content-Range"] = f"bytes */{place.size}"
            return Response(b"", status_code=416, media_type="application/octet-stream", headers=headers)
        data = await instance.answers.object_bytes(place, start, stop - start)
        is_part = len(data) != place.size
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{place.size}"
        return Response(
            data, status_code=206 if is_part else 200, media_type="application/octet-stream", headers=headers
        )

    @put("/v1/objects/{chunk:str}", status_code=201, media_type="application/octet-stream")
    async def write_object(request: AnyRequest) -> Response[bytes]:
        nonlocal uploads
        size = announced_length(request)
        if size is None:
            raise BadRequest("A PUT of an object needs a Content-Length: its signature binds the size.")
        check_chunk_size("The body", size)
        grant = _checked(instance, request, "PUT", size)
        if await instance.answers.has_object(grant.user, grant.space, grant.chunk):
            # An object never changes. Whether *another* space has the chunk is not told: there the body must come.
            return Response(b"", status_code=412, media_type="application/octet-stream")
        if uploads >= UPLOADS_MAX:
            raise Busy("Too many uploads at once: try again in a moment.", 1.0)
        uploads += 1
        try:
            await _receive(instance, body_pieces(request, size), grant)
        finally:
            uploads -= 1
        await instance.answers.objects_received(grant.space, [Place(grant.chunk, size, None)])
        return Response(b"", status_code=201, media_type="application/octet-stream")

    return [read_object, write_object]


def byte_range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and the one after the last that a Range asks for; empty when it lies outside.

    As HTTP says, a header that is no single range of bytes is passed over: the whole object is the answer.
    """
    whole = (0, size)
    if header is None or not header.startswith("bytes=") or "," in header:
        return whole
    first, dash, last = header.removeprefix("bytes=").strip().partition("-")
    if not dash or len(first) > 18 or len(last) > 18 or not (first + last).isascii() or not (first + last).isdigit():
        return whole
    if not first:
        return max(0, size - int(last)), size
    if not last:
        return int(first), size
    return (int(first), min(size, int(last) + 1)) if int(first) <= int(last) else whole


async def _receive(instance: Instance, pieces: AsyncIterator[bytes], grant: Grant) -> None:
    with ExitStack() as stack:
        incoming: Incoming | None = None
        async for together in gathered(pieces):
            if incoming is None:
                incoming = stack.enter_context(await asyncio.to_thread(instance.objects.incoming, grant.size))
            await asyncio.to_thread(_add, incoming, together)
        if incoming is None:
            raise BadRequest("The body is empty.")
        await asyncio.to_thread(_keep, instance, incoming, grant.chunk)


def _add(incoming: Incoming, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        incoming.add(piece)


def _keep(instance: Instance, incoming: Incoming, chunk: ChunkId) -> None:
    incoming.check(chunk)
    instance.objects.keep([(incoming, object_name(chunk))])


def _checked(instance: Instance, request: AnyRequest, method: str, size: int) -> Grant:
    """What the URL is about, after its signature was checked."""
    query = request.query_params
    try:
        chunk = ChunkId(bytes.fromhex(str(request.path_params["chunk"])))
        space = SpaceId(int(str(query["space"])[:20]))
        user = UserId(int(str(query["user"])[:20]))
        expires = int(str(query["expires"])[:20])
        signature = bytes.fromhex(str(query["signature"])[:128])
    except (KeyError, ValueError):
        raise NotAllowed("This is no signed URL: space, user, expires and signature are needed.") from None
    if len(chunk) != ID_SIZE or not (1 <= space <= INT63 and 1 <= user <= INT63):
        raise NotAllowed("This is no signed URL of a chunk.")
    grant = Grant(method, user, space, chunk, size)
    instance.signer.check(grant, expires, signature)
    return grant
