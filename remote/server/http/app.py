"""The ASGI application of one instance."""

from litestar import Litestar
from litestar.exceptions import HTTPException

from remote.protocol.errors import RemoteError
from remote.server.http import objects
from remote.server.http.api import api, description
from remote.server.http.described import tell_strict
from remote.server.http.links import LinkRoutes
from remote.server.http.problems import answer_fault, answer_http_exception, answer_remote_error
from remote.server.http.requests import guard
from remote.server.http.routes import Routes
from remote.server.http.sso import sso_handlers
from remote.server.instance import Instance


def make_app(instance: Instance) -> Litestar:
    """The application that answers for this instance."""
    app = Litestar(
        route_handlers=[
            *Routes(instance).handlers,
            *LinkRoutes(instance).handlers,
            *objects.handlers(instance),
            *sso_handlers(instance),
            api(instance),
        ],
        guards=[guard(instance)],
        exception_handlers={
            RemoteError: answer_remote_error,
            HTTPException: answer_http_exception,
            Exception: answer_fault,
        },
        openapi_config=description(),
        # Of the API only: the sync protocol has a page of its own, PROTOCOL.md.
        include_in_schema=False,
        logging_config=None,
        # Each route has a limit of its own, see bodies.
        request_max_body_size=None,
    )
    tell_strict(app)
    return app
