"""The JSON API's search: GET /api/v1/search, and POST /api/v1/files/search."""

from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from remote.protocol import search
from remote.protocol.ids import SpaceId
from remote.protocol.search import FOUND_MAX, REACH_MAX, SearchRequest
from remote.protocol.times import iso
from remote.server.http.api_common import device_of, space_id, text_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63_TOLD

WORDS_TOLD = 4_096

Words = Annotated[
    str,
    QueryParameter(
        name="words",
        description='Words, "words together", name:, type:pdf, size:>1M, before:, after:, on:2026-11-21, owner:, in:',
    ),
]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=FOUND_MAX, description="At most so many.")]
Offset = Annotated[int, QueryParameter(name="offset", ge=0, le=REACH_MAX, description="Behind the first so many.")]
Space = Annotated[
    int, QueryParameter(name="space", ge=0, le=INT63_TOLD, description="Only in this space; 0: in all of yours.")
]


class SearchFor(msgspec.Struct, forbid_unknown_fields=True):
    """What to find, as GET /search takes it; `space` empty: in all of yours."""

    words: Annotated[str, Meta(max_length=WORDS_TOLD)]
    limit: Annotated[int, Meta(ge=1, le=FOUND_MAX)] = 50
    offset: Annotated[int, Meta(ge=0, le=REACH_MAX)] = 0
    space: Annotated[str, Meta(pattern="^[0-9]{0,19}$", max_length=19)] = ""


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

    @post("/files/search", status_code=200, summary="The same as GET /search, for words that are long")
    async def find_by_body(request: AnyRequest, data: JSONBody[SearchFor]) -> Answer:
        device = await device_of(instance, request)
        wanted = SearchRequest(data.words, data.limit, data.offset, space_id(data.space) or SpaceId(0))
        found = await instance.search.search(device, wanted)
        return Answer([_shown(one) for one in found.found], found.more, found.is_behind, found.is_cut)

    return [find, find_by_body]


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
