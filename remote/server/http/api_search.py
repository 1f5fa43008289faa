"""The JSON API's search: GET /api/v1/search."""

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.params import QueryParameter

from remote.protocol import search
from remote.protocol.ids import SpaceId
from remote.protocol.search import FOUND_MAX, REACH_MAX, SearchRequest
from remote.protocol.times import iso
from remote.server.http.api_common import device_of, text_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance

Words = Annotated[
    str,
    QueryParameter(
        name="words",
        description='Words, "words together", name:, type:pdf, size:>1M, before:, after:, on:2026-11-21, owner:, in:',
    ),
]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=FOUND_MAX, description="At most so many.")]
Offset = Annotated[int, QueryParameter(name="offset", ge=0, le=REACH_MAX, description="Behind the first so many.")]
Space = Annotated[int, QueryParameter(name="space", ge=0, description="Only in this space; 0: in all of yours.")]


class Found(msgspec.Struct):
    """Something found; `path` is from the top of your home, `why`: name, content or similar."""

    space: str
    node: str
    path: str
    kind: str
    type: str
    size_bytes: int
    mtime: str
    why: str


class Answer(msgspec.Struct):
    """The best first. `more`: ask again with a greater `offset`.

    `is_behind`: some of what is there is not indexed yet. `is_cut`: there is more than could be looked at.
    """

    found: list[Found]
    more: bool
    is_behind: bool
    is_cut: bool


def search_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """The routes."""

    @get("/search", summary="Find files by name, type, size, time, owner, folder and content")
    async def find(
        request: AnyRequest, words: Words, limit: Limit = 50, offset: Offset = 0, space: Space = 0
    ) -> Answer:
        device = await device_of(instance, request)
        found = await instance.search.search(device, SearchRequest(words, limit, offset, SpaceId(space)))
        return Answer([_shown(one) for one in found.found], found.more, found.is_behind, found.is_cut)

    return [find]


def _shown(one: search.Found) -> Found:
    return Found(
        str(one.space),
        str(one.node),
        text_of(one.path),
        one.kind.name.lower(),
        one.type,
        one.size,
        iso(one.mtime_ns),
        one.why,
    )
