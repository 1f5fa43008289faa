"""Transfer: chunks there and back, many in a request; large ones also each by its signed URL.

Readers and senders have limits of their own, so that a read never waits behind an upload.
"""

import base64
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import trio
from msgspec.structs import replace

from remote.client.answers import message_of, object_fault, problem_of
from remote.client.lines import Reply
from remote.client.patience import allow_for, together
from remote.client.session import PAGE_MAX, Session
from remote.client.wire import CutShort
from remote.protocol.errors import NotAllowed, NotFound, ServerFault, Unreachable
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.messages import (
    CHUNK_MAX,
    CHUNKS_MAX,
    GET_ANSWER_MAX,
    PUT_BODY_MAX,
    SMALL_CHUNK_MAX,
    ChunkPart,
    GetAnswer,
    GetRequest,
    PutAnswer,
    PutRequest,
    UrlsAnswer,
    UrlsRequest,
    WantAnswer,
    WantRequest,
)
from remote.protocol.parts import HEAD_SIZE, PARTS_TYPE, Head
from remote.protocol.sealing import FRAME
from remote.protocol.service import TakePart

Item = TypeVar("Item")

OBJECTS_READ_AT_ONCE = 6
OBJECTS_SENT_AT_ONCE = 4
GROUPS_SENT_AT_ONCE = 3
GROUP_BYTES = 16 << 20
FEW_SENT_MAX = 4 << 20
"""Groups up to this size do not queue behind longer ones."""
"""Sealed bytes that are sent in one stream: the server syncs what came in it together."""
BATCHES_READ_AT_ONCE = 3
BATCHES_SENT_AT_ONCE = 2
FEW_READ_AT_ONCE = 4
FEW_PARTS_MAX = 4
"""Requests for so few parts, as programs make that wait for them, do not queue behind those for many."""
FEW_BYTES_MAX = 512 << 10
"""The same for requests of `read`, by the bytes of content that they ask for."""
BULK_READ_AT_ONCE = 8
URLS_KEPT = 20_000
UNASKED_MAX = 16 << 10
_PUT_CHUNKS_MAX = 1_000
_WHOLE_FRAMES = 11
"""Of a chunk that is asked for whole, at the most."""
_EXPIRY_MARGIN_SECONDS = 30.0
_PUT_ANSWER = msgspec.msgpack.Decoder(PutAnswer)


@dataclass(frozen=True)
class _SignedUrl:
    url: str
    expires: float
    """By trio's clock."""


class Transfer:
    """Moves sealed chunks for one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._object_readers = trio.CapacityLimiter(OBJECTS_READ_AT_ONCE)
        self._object_senders = trio.CapacityLimiter(OBJECTS_SENT_AT_ONCE)
        self._group_senders = trio.CapacityLimiter(GROUPS_SENT_AT_ONCE)
        self._few_senders = trio.CapacityLimiter(GROUPS_SENT_AT_ONCE)
        self._batch_readers = trio.CapacityLimiter(BATCHES_READ_AT_ONCE)
        self._few_readers = trio.CapacityLimiter(FEW_READ_AT_ONCE)
        self._bulk_readers = trio.CapacityLimiter(BULK_READ_AT_ONCE)
        self._batch_senders = trio.CapacityLimiter(BATCHES_SENT_AT_ONCE)
        self._urls: dict[tuple[SpaceId, ChunkId], _SignedUrl] = {}

    async def want(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> WantAnswer:
        """Which of these chunks (id -> sealed size) must be sent, and where to."""
        missing: list[ChunkId] = []
        urls: dict[ChunkId, str] = {}
        may_send = True
        for batch in _batches(list(chunks.items()), CHUNKS_MAX):
            path = f"v1/spaces/{space}/chunks/want"
            answer = await self._session.ask(WantAnswer, "POST", path, WantRequest(tuple(batch)))
            missing += answer.missing
            urls.update(answer.urls)
            may_send = may_send and answer.may_send
        if not chunks.keys() >= set(missing):
            raise ServerFault("The server wants chunks that it was not offered.")
        return WantAnswer(tuple(missing), urls, may_send)

    async def send(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        """Sends those of these chunks that the server asks for; returns their bytes.

        Few bytes are sent unasked: that takes no longer than to ask.
        """
        if sum(map(len, chunks.values())) <= UNASKED_MAX:
            await self._put_batch(space, list(chunks), chunks)
            return sum(map(len, chunks.values()))
        wanted = await self.want(space, {chunk: len(data) for chunk, data in chunks.items()})
        missing = set(wanted.missing)
        small = [chunk for chunk in chunks if chunk in missing and len(chunks[chunk]) <= SMALL_CHUNK_MAX]
        large = [chunk for chunk in chunks if chunk in missing and len(chunks[chunk]) > SMALL_CHUNK_MAX]
        jobs = [partial(self._put_batch, space, batch, chunks) for batch in _batched(small, chunks, PUT_BODY_MAX)]
        if wanted.may_send and not self._session.is_proxied:
            jobs += [partial(self._send_group, space, group, chunks) for group in _batched(large, chunks, GROUP_BYTES)]
        else:
            jobs += [partial(self._put_object, space, chunk, chunks[chunk], wanted.urls.get(chunk)) for chunk in large]
        await together(jobs)
        return sum(len(chunks[chunk]) for chunk in missing)

    async def get(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        """The bytes of all these parts, in order."""
        found: dict[int, bytes] = {}
        urls = await self._signed_urls(space, {part.id for part in parts if not part.frames})
        direct = [number for number, part in enumerate(parts) if not part.frames and part.id in urls]
        others = [number for number, part in enumerate(parts) if part.frames or part.id not in urls]
        jobs = [partial(self._get_object, space, parts, number, urls[parts[number].id], found) for number in direct]
        jobs += [partial(self._get_batch, space, parts, batch, found) for batch in _get_batches(others, parts)]
        await together(jobs)
        return [found[number] for number in range(len(parts))]

    async def read(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        """Gives the bytes of all these parts, and of what is below them, to `take`, in a thread; see Service."""
        if self._session.is_proxied:
            asked = [replace(part, below=None) for part in parts]
            for part, data in zip(asked, await self.get(space, asked), strict=True):
                await trio.to_thread.run_sync(take, part.id, part.first, part.frames, data)
            return
        left = deque(parts)
        size = sum((part.frames or _WHOLE_FRAMES) * FRAME for part in parts)
        path = f"v1/spaces/{space}/chunks/read"

        async def attempt(scope: trio.CancelScope) -> None:
            allow_for(scope, size, self._session.traffic.down)
            is_few = size <= FEW_BYTES_MAX
            async with self._few_readers if is_few else self._bulk_readers:
                await self._session.read_parts(
                    path, GetRequest(tuple(left)), lambda reply: _take(reply, left, take), is_urgent=is_few
                )

        if left:
            await self._session.over(attempt)

    async def _put_batch(self, space: SpaceId, batch: Sequence[ChunkId], chunks: Mapping[ChunkId, bytes]) -> None:
        async with self._batch_senders:
            await self._session.traffic.uploads.passed()
            request = PutRequest(tuple(chunks[chunk] for chunk in batch))
            answer = await self._session.ask(PutAnswer, "POST", f"v1/spaces/{space}/chunks/put", request)
        if list(answer.ids) != list(batch):
            raise ServerFault("The server stored other chunks than it was sent.")

    async def _send_group(self, space: SpaceId, group: Sequence[ChunkId], chunks: Mapping[ChunkId, bytes]) -> None:
        """Sends large chunks in one stream; after a cut, those that did not come whole before it."""
        left = list(group)
        is_first = True

        async def attempt(scope: trio.CancelScope) -> None:
            nonlocal left, is_first
            if not is_first:
                wanted = set((await self.want(space, {chunk: len(chunks[chunk]) for chunk in left})).missing)
                left = [chunk for chunk in left if chunk in wanted]
            is_first = False
            if left:
                body = [piece for chunk in left for piece in (Head.of(chunk, chunks[chunk]).pack(), chunks[chunk])]
                allow_for(scope, sum(map(len, body)), self._session.traffic.up)
                ids = await self._session.send_parts(f"v1/spaces/{space}/chunks/send", body, _stored)
                if list(ids) != left:
                    raise ServerFault("The server stored other chunks than it was sent.")

        is_few = sum(len(chunks[chunk]) for chunk in group) <= FEW_SENT_MAX
        uploads = self._session.traffic.uploads
        while True:
            async with self._few_senders if is_few else self._group_senders:
                await uploads.passed()
                try:
                    return await self._session.over(attempt)
                except Unreachable:
                    # A pause cuts it; else it is as it says.
                    if not uploads.is_shut:
                        raise

    async def _put_object(self, space: SpaceId, chunk: ChunkId, data: bytes, url: str | None) -> None:
        async with self._object_senders:
            await self._session.traffic.uploads.passed()
            try:
                await self._put_to(url, chunk, data)
            except (NotAllowed, NotFound):
                # The URL may have expired while others were sent: ask once more.
                wanted = await self.want(space, {chunk: len(data)})
                if wanted.missing:
                    await self._put_to(wanted.urls.get(chunk), chunk, data)

    async def _put_to(self, url: str | None, chunk: ChunkId, data: bytes) -> None:
        if url is None:
            raise ServerFault(f"The server wants chunk {chunk.hex()} but does not say where to.")
        absolute = self._session.object_url(url)
        headers = {
            "content-type": "application/octet-stream",
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(chunk).decode(),
        }

        async def attempt(scope: trio.CancelScope) -> None:
            allow_for(scope, len(data), self._session.traffic.up)
            async with self._session.put_object(absolute, headers, data) as answer:
                body = await answer.read(PAGE_MAX)
            # 409 and 412: it is there already, and its name is the checksum of its bytes.
            if not (200 <= answer.status < 300 or answer.status in {409, 412}):
                raise object_fault(answer.status, answer.headers, body)

        await self._session.over(attempt)

    async def _get_object(
        self, space: SpaceId, parts: Sequence[ChunkPart], number: int, url: str, found: dict[int, bytes]
    ) -> None:
        """Puts a whole chunk into `found`; when its URL is refused, by way of the server."""
        try:
            async with self._object_readers:
                found[number] = await self._get_from(url)
        except (NotAllowed, NotFound):
            self._urls.pop((space, parts[number].id), None)
            await self._get_batch(space, parts, [number], found)

    async def _get_from(self, url: str) -> bytes:
        absolute = self._session.object_url(url)
        have = b""

        async def attempt(scope: trio.CancelScope) -> bytes:
            nonlocal have
            headers = {"range": f"bytes={len(have)}-"} if have else {}
            async with self._session.get_object(absolute, headers) as answer:
                is_rest = answer.status == 206 and answer.headers.get("content-range", "").startswith(
                    f"bytes {len(have)}-"
                )
                have = have if is_rest else b""
                if not 200 <= answer.status < 300:
                    raise object_fault(answer.status, answer.headers, await answer.read(PAGE_MAX))
                allow_for(scope, min(CHUNK_MAX, answer.length or 0), self._session.traffic.down)
                try:
                    rest = await answer.read(CHUNK_MAX - len(have))
                except CutShort as cut:
                    have += cut.partial
                    raise
            return have + rest

        return await self._session.over(attempt)

    async def _get_batch(
        self, space: SpaceId, parts: Sequence[ChunkPart], numbers: Sequence[int], found: dict[int, bytes]
    ) -> None:
        left = list(numbers)
        while left:
            async with self._few_readers if len(left) <= FEW_PARTS_MAX else self._batch_readers:
                request = GetRequest(tuple(parts[number] for number in left))
                answer = await self._session.ask(GetAnswer, "POST", f"v1/spaces/{space}/chunks/get", request)
            if not 0 < len(answer.parts) <= len(left):
                raise ServerFault(f"The server answered {len(answer.parts)} parts where {len(left)} were asked for.")
            found.update(zip(left, answer.parts, strict=False))
            left = left[len(answer.parts) :]

    async def _signed_urls(self, space: SpaceId, chunks: set[ChunkId]) -> dict[ChunkId, str]:
        """A signed URL for each of these chunks that has an object of its own."""
        now = trio.current_time()
        urls: dict[ChunkId, str] = {}
        unknown: list[ChunkId] = []
        for chunk in chunks:
            known = self._urls.get((space, chunk))
            if known is not None and known.expires > now:
                urls[chunk] = known.url
            else:
                unknown.append(chunk)
        for batch in _batches(unknown, CHUNKS_MAX):
            path = f"v1/spaces/{space}/chunks/urls"
            answer = await self._session.ask(UrlsAnswer, "POST", path, UrlsRequest(tuple(batch)))
            urls.update(answer.urls)
            self._keep(space, answer, now)
        return urls

    def _keep(self, space: SpaceId, answer: UrlsAnswer, asked: float) -> None:
        expires = asked + answer.expires_seconds - _EXPIRY_MARGIN_SECONDS
        for chunk, url in answer.urls.items():
            self._urls.pop((space, chunk), None)
            self._urls[space, chunk] = _SignedUrl(url, expires)
        # A dict keeps its order of insertion: the first ones are the oldest.
        while len(self._urls) > URLS_KEPT:
            del self._urls[next(iter(self._urls))]


def _stored(reply: Reply) -> tuple[ChunkId, ...]:
    """The chunks that the server says it has stored."""
    return message_of(reply.status, reply.headers, reply.finish(PUT_BODY_MAX), _PUT_ANSWER).ids


def _take(reply: Reply, left: deque[ChunkPart], take: TakePart) -> None:
    """Gives the parts in an answer to `take` and strikes them off what is left to ask for."""
    if reply.status != 200 or reply.headers.get("content-type", "").partition(";")[0] != PARTS_TYPE:
        raise problem_of(reply.status, reply.headers, reply.finish(PAGE_MAX))
    while reply.left:
        view = reply.room(HEAD_SIZE)
        reply.fill(view)
        head = Head.unpack(view)
        if head.length > CHUNK_MAX:
            raise ServerFault(f"The server answered a part of {head.length} bytes.")
        view = reply.room(head.length)
        reply.fill(view)
        take(head.id, head.first, head.frames, view)
        if left and (left[0].id, left[0].first, left[0].frames) == head[:3]:
            left.popleft()
    reply.finish(0)
    if left:
        raise ServerFault(f"The server left out {len(left)} parts that it was asked for.")


def _batches(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), most):
        yield items[first : first + most]


def _batched(ids: Sequence[ChunkId], chunks: Mapping[ChunkId, bytes], most: int) -> Iterator[list[ChunkId]]:
    """These chunks in their order, as few requests as so many bytes in one allow: neighbours stay together."""
    batch: list[ChunkId] = []
    size = 0
    for chunk in ids:
        length = len(chunks[chunk])
        if batch and (size + length > most or len(batch) == _PUT_CHUNKS_MAX):
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += length
    if batch:
        yield batch


def _get_batches(numbers: Sequence[int], parts: Sequence[ChunkPart]) -> Iterator[list[int]]:
    """Requests whose answers fit if the last frame of each part (all of it, as a rule) is a small one."""
    batch: list[int] = []
    size = 0
    for number in numbers:
        length = FRAME // 8 + max(0, parts[number].frames - 1) * FRAME
        if batch and (size + length > GET_ANSWER_MAX or len(batch) == CHUNKS_MAX):
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += length
    if batch:
        yield batch
