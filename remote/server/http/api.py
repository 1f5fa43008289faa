"""The JSON API, for people and scripts. Its page is /docs, its description /docs/openapi.json.

Paths are text, relative to the top of the space; bytes that are no UTF-8 show as `\\xff`. Ids are text, too: they are
larger than what JavaScript counts exactly. Every request needs `Authorization: Bearer TOKEN`.
"""

from typing import Any

from litestar import Request, Response, Router
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from remote.protocol.errors import RemoteError
from remote.protocol.messages import (
    PROTOCOL_VERSION,
    Problem,
)
from remote.server.http.api_access import access_routes
from remote.server.http.api_account import account_routes
from remote.server.http.api_common import (
    checked_body,
    documented,
    signed_in,
)
from remote.server.http.api_content import content_routes
from remote.server.http.api_files import file_routes
from remote.server.http.api_guard import guard_routes
from remote.server.http.api_history import history_routes
from remote.server.http.api_previews import preview_routes
from remote.server.http.api_search import search_routes
from remote.server.http.api_sharing import sharing_routes
from remote.server.http.described import api_page
from remote.server.http.problems import STATUSES, AnyRequest, completed, problem_of
from remote.server.instance import Instance

BODY_MAX = 64 << 10


def api(instance: Instance) -> Router:
    """All routes of the API."""
    return Router(
        path="/api/v1",
        route_handlers=documented(
            [
                *history_routes(instance),
                *file_routes(instance),
                *content_routes(instance),
                *account_routes(instance),
                *guard_routes(instance),
                *preview_routes(instance),
                *access_routes(instance),
                *sharing_routes(instance),
                *search_routes(instance),
            ]
        ),
        guards=[signed_in(instance)],
        before_request=checked_body,
        request_max_body_size=BODY_MAX,
        include_in_schema=True,
        security=[{"token": []}],
        exception_handlers={RemoteError: _answer_error, HTTPException: _answer_http_exception},
    )


def description() -> OpenAPIConfig:
    """What /docs tells."""
    return OpenAPIConfig(
        title="Satchel",
        version=str(PROTOCOL_VERSION),
        description="Your drive for programs: files, their history, search, previews, sharing, links and your account.",
        path="/docs",
        render_plugins=[_Page(path="/")],
        use_handler_docstrings=True,
        components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
    )


class _Page(OpenAPIRenderPlugin):
    """The description as a page that needs nothing from elsewhere, and no script."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # Any: JSON
        """The page."""
        return api_page(openapi_schema)


def _answer_error(request: AnyRequest, error: RemoteError) -> Response[Problem]:
    return completed(request, error, Response(problem_of(error), status_code=STATUSES[type(error)]))


def _answer_http_exception(_: AnyRequest, error: HTTPException) -> Response[Problem]:
    """What the framework refused: a body or a query that is not as described."""
    extra = getattr(error, "extra", None)
    said = "; ".join(str(one.get("message", "")) for one in extra if isinstance(one, dict)) if extra else error.detail
    code = {404: "not-found", 413: "too-large"}.get(error.status_code, "bad-request")
    return Response(Problem(code, said or "The request is not as /docs describes it."), status_code=error.status_code)
