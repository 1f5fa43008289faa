"""How an error travels: an HTTP status and a Problem, never a stack trace."""

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.routes import HTTPRoute

from remote.protocol.errors import (
    BadRequest,
    Busy,
    Changed,
    ChunkDamaged,
    ChunkMissing,
    CodeNeeded,
    CursorTooOld,
    Disabled,
    Gone,
    Infected,
    InTheWay,
    NotAllowed,
    NotFound,
    NotSignedIn,
    QuotaExceeded,
    RemoteError,
    ServerFault,
    TooLarge,
    Unreachable,
    Wiped,
)
from remote.protocol.messages import CONTENT_TYPE, PROTOCOL_VERSION, Problem

log = logging.getLogger(__name__)

# Of a request, nothing but its line is used here: user, auth and state may be of any type.
AnyRequest = Request[Any, Any, Any]
Answer = TypeVar("Answer")

STATUSES: dict[type[RemoteError], int] = {
    BadRequest: 400,
    NotSignedIn: 401,
    Wiped: 401,
    Disabled: 401,
    CodeNeeded: 401,
    NotAllowed: 403,
    NotFound: 404,
    Infected: 403,
    ChunkMissing: 409,
    InTheWay: 409,
    Gone: 410,
    CursorTooOld: 410,
    Changed: 412,
    TooLarge: 413,
    ChunkDamaged: 422,
    Busy: 429,
    ServerFault: 500,
    Unreachable: 503,
    QuotaExceeded: 507,
}
JSON_PATH = "/api/"
PROTOCOL_HEADER = "Satchel-Protocol"


def message_response(message: msgspec.Struct, status_code: int = 200) -> Response[bytes]:
    """An answer of the protocol."""
    return Response(
        msgspec.msgpack.encode(message),
        status_code=status_code,
        media_type=CONTENT_TYPE,
        headers={PROTOCOL_HEADER: str(PROTOCOL_VERSION)},
    )


def answer_remote_error(request: AnyRequest, error: RemoteError) -> Response[bytes]:
    """The error with its own code."""
    return completed(request, error, message_response(problem_of(error), STATUSES[type(error)]))


def problem_of(error: RemoteError) -> Problem:
    """The error as it travels."""
    return Problem(error.code, str(error), error.retry_after_seconds if isinstance(error, Busy) else 0.0)


def completed(request: AnyRequest, error: RemoteError, response: Response[Answer]) -> Response[Answer]:
    """An answer that tells of this error, with the headers that go with it; a fault of the server is logged."""
    if isinstance(error, ServerFault):
        log.error("%s %s failed: %s", request.method, _route(request), error)
    if isinstance(error, Busy) and error.retry_after_seconds:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    if isinstance(error, NotSignedIn):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def answer_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """What the framework refused: an unknown path or method, a request that is none."""
    if error.status_code >= 500:
        return answer_fault(request, error)
    response = _answer_refused(request, error)
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response


def _answer_refused(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    path = request.url.path[:200]
    if error.status_code == 404:
        problem = Problem(NotFound.code, f"There is no {path} here.")
    elif error.status_code == 405:
        problem = Problem(BadRequest.code, f"{path} does not answer {request.method}.")
    else:
        problem = Problem(BadRequest.code, f"The request cannot be understood: {error.detail}")
    if path.startswith(JSON_PATH):
        return Response(msgspec.json.encode(problem), status_code=error.status_code, media_type="application/json")
    return message_response(problem, error.status_code)


def _methods(request: AnyRequest) -> set[str]:
    """What the routes of this path answer to."""
    asked = request.url.path.strip("/").split("/")
    return {
        str(method)
        for route in request.app.routes
        if isinstance(route, HTTPRoute) and _is_of(asked, route.path_components)
        for method in route.methods
    }


def _is_of(asked: list[str], components: Sequence[object]) -> bool:
    return len(asked) == len(components) and all(
        not isinstance(part, str) or part == word for word, part in zip(asked, components, strict=True)
    )


def answer_fault(request: AnyRequest, error: Exception) -> Response[bytes]:
    """A fault of the server: logged whole here, told in one sentence there."""
    log.error("%s %s failed", request.method, _route(request), exc_info=error)
    fault = ServerFault("The server failed at this request; its log says why. Nothing is known to be lost.")
    return message_response(Problem(fault.code, str(fault)), STATUSES[ServerFault])


def _route(request: AnyRequest) -> str:
    """For the log: paths hold names of files, and secrets of links."""
    return str(request.scope.get("path_template") or "(no route)")
