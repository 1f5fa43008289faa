"""What the modules of the JSON API share: who asks, what paths and ids are as text, and what every route may answer."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from litestar import Response, route
from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import HeaderParameter, PathParameter, QueryParameter
from litestar.types import Guard

from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.messages import Problem
from remote.server.database.accounts import Device
from remote.server.edits import Condition
from remote.server.http.bodies import STALL_SECONDS, token_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63, INT63_TOLD

BINARY = "application/octet-stream"
PATH_MAX = 4_096
ETAGS_MAX = 100
_DEVICE = "satchel.device"

SpaceNumber = Annotated[int, PathParameter(description="The space: GET /api/v1/spaces tells it.", ge=1, le=INT63_TOLD)]
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
    # First: the framework makes its own where there is none yet.
    return [*_options(found), *found]


def _options(handlers: Iterable[Any]) -> list[Any]:
    """What answers OPTIONS: the framework's own tells of the first handler of a path only."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(map(str, handler.http_methods))

    def answering(path: str) -> Any:
        @route(path, http_method=[HttpMethod.OPTIONS], status_code=204, include_in_schema=False, security=[{}])
        async def options(request: AnyRequest) -> Response[None]:
            return Response(None, status_code=204, headers={"Allow": ", ".join(sorted(methods[path]))})

        return options

    return [answering(path) for path in methods]


def signed_in(instance: Instance) -> Guard:
    """Asks who it is before the body of a request is looked at, wherever a token is needed at all."""

    async def check(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if isinstance(handler, HTTPRouteHandler) and handler.security != [{}]:
            device = await instance.accounts.device(token_of(connection))
            connection.scope["state"][_DEVICE] = device

    return check


async def checked_body(request: AnyRequest) -> None:
    """Raises BadRequest unless the JSON in the body is what the route takes: the framework would take 0 for false."""
    handler = request.scope["route_handler"]
    body = handler.parsed_fn_signature.parameters.get("data")
    if body is None:
        return
    try:
        async with asyncio.timeout(STALL_SECONDS):
            told = await request.body()
        msgspec.json.decode(told, type=body.annotation)
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {STALL_SECONDS} seconds.") from None
    except msgspec.MsgspecError as error:
        raise BadRequest(f"The body is not what {request.method} {request.url.path} takes: {error}") from None
    except RecursionError:
        raise BadRequest("The body is nested too deep.") from None


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
    found: Device | None = request.scope["state"].get(_DEVICE)
    return found if found is not None else await instance.accounts.device(token_of(request))


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
