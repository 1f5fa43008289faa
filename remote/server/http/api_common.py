"""What the modules of the JSON API share: who asks, what paths and ids are as text, and what every route may answer."""

from collections.abc import Iterable
from typing import Annotated, Any

from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.messages import Problem
from remote.server.database.accounts import Device
from remote.server.edits import Condition
from remote.server.http.bodies import token_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63

BINARY = "application/octet-stream"
PATH_MAX = 65_536
ETAGS_MAX = 100

SpaceNumber = Annotated[int, PathParameter(description="The space: GET /api/v1/spaces tells it.", ge=1, le=INT63)]
FileNumber = Annotated[
    str, PathParameter(description="The id of a file or folder; 1: the top.", pattern="^[0-9]{1,19}$")
]
SpaceAsked = Annotated[
    str,
    QueryParameter(name="space", description="The space; empty: your home.", pattern="^[0-9]{0,19}$", max_length=19),
]
IfMatch = Annotated[
    str, HeaderParameter(name="If-Match", description="Only if it has this ETag; `*`: only if it is there.")
]
IfNoneMatch = Annotated[
    str, HeaderParameter(name="If-None-Match", description="`*`: only if there is nothing of this name.")
]

_REFUSALS = {
    400: "The request is not as described here.",
    401: "No token, or one that is not valid (any more).",
    403: "You may not do this.",
    404: "There is no such thing, or none that you may know of.",
    409: "Something as it is now keeps this from being done; nothing was changed.",
    410: "It is over for good, or the feed no longer reaches back so far.",
    412: "What is there is not what the request names as its condition; nothing was changed.",
    413: "It is over a limit.",
    429: "Too much at once: `retry_after_seconds` says when to come back.",
    507: "There is no room for it.",
}


def documented(handlers: Iterable[Any]) -> list[Any]:  # Any: handlers of several kinds
    """The handlers, each with the refusals that any route may answer in its description."""
    found = list(handlers)
    for handler in found:
        if isinstance(handler, HTTPRouteHandler):
            refusals = {
                status: ResponseSpec(Problem, description=text, generate_examples=False)
                for status, text in _REFUSALS.items()
            }
            handler.responses = {**refusals, **(handler.responses or {})}
    return found


def raw_body(description: str) -> type[Operation]:
    """What describes a body of plain bytes, which a handler reads as it comes."""

    class RawBody(Operation):
        def __post_init__(self) -> None:
            schema = Schema(type=OpenAPIType.STRING, content_media_type=BINARY)
            self.request_body = RequestBody(
                content={BINARY: OpenAPIMediaType(schema=schema)}, description=description, required=True
            )

    return RawBody


async def device_of(instance: Instance, request: AnyRequest) -> Device:
    """Who asks; raises NotSignedIn."""
    return await instance.accounts.device(token_of(request))


def file_id(text: str) -> NodeId:
    """The id of a file in a path or a body; raises NotFound for what can be none."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not 1 <= int(text) <= INT63:
        raise NotFound(f"There is no file {text[:40]!r}.")
    return NodeId(int(text))


def space_id(text: str) -> SpaceId | None:
    """The space that is meant; None for an empty text: the home of who asks. Raises NotFound for what can be none."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not 1 <= int(text) <= INT63:
        raise NotFound(f"There is no space {text[:40]!r}.")
    return SpaceId(int(text))


def names_of(path: str) -> tuple[bytes, ...]:
    """The names in a path from the top of a space; raises BadRequest for what can be none."""
    try:
        names = tuple(name for name in path.encode().split(b"/") if name)
    except UnicodeEncodeError as error:
        raise BadRequest("The path is no UTF-8: use the id of the file.") from error
    if any(b"\0" in name or name in (b".", b"..") for name in names):
        raise BadRequest(f"{path[:100]!r} cannot be a path: a name in it is none.")
    return names


def text_of(path: bytes) -> str:
    """A path or name for JSON: bytes that are no UTF-8 show as `\\xff`."""
    return path.decode(errors="backslashreplace")


def condition_of(if_match: str, if_none_match: str = "") -> Condition:
    """What If-Match and If-None-Match ask for (empty: nothing); raises BadRequest for what is not understood."""
    if if_none_match.strip() not in {"", "*"}:
        raise BadRequest("If-None-Match may only be * here: only if there is nothing of this name.")
    return Condition(etags_of(if_match), is_new=bool(if_none_match.strip()))


def etags_of(header: str) -> frozenset[str]:
    """The ETags that a header names; weak ones count as what they are of."""
    return frozenset(one.strip().removeprefix("W/") for one in header.split(",", ETAGS_MAX) if one.strip())
