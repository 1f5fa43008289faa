"""WebDAV: the home of whoever signs in, for phones and other systems; the only module that speaks wsgidav.

Shared folders are gone into where they stand in it. wsgidav makes of one request many steps, so that what holds a
shared folder is never removed or copied by one: neither by mistake nor by halves.

wsgidav answers in threads of its own; what it asks of the drive runs in the server's loop. Locks are kept in memory, so
a restart ends them; properties that clients invent are extended attributes of the file.
"""

import asyncio
import logging
from typing import Any

from a2wsgi import WSGIMiddleware
from litestar.types import Receive, ReceiveMessage, Scope, Send
from wsgidav.dav_error import (
    HTTP_FORBIDDEN,
    DAVError,
)
from wsgidav.dc.base_dc import BaseDomainController
from wsgidav.error_printer import ErrorPrinter
from wsgidav.http_authenticator import HTTPAuthenticator
from wsgidav.request_resolver import RequestResolver
from wsgidav.wsgidav_app import WsgiDAVApp

from remote.protocol.errors import BadRequest, NotAllowed, NotSignedIn, RemoteError
from remote.server.http.bodies import STALL_SECONDS
from remote.server.http.dav_nodes import (
    ANSWER_SECONDS,
    CREATED,
    SPACE,
    TOKEN,
    USER,
    Drive,
    Environ,
    Properties,
    Provider,
    refusal,
)
from remote.server.instance import Instance

log = logging.getLogger(__name__)

PATH = "/dav"
THREADS = 32
"""Requests at a time; more wait."""
_READING = ("GET", "HEAD", "OPTIONS", "PROPFIND")
_SAFE_HEADERS = [
    # A browser that knows the password would run a page that a stranger brought by a link as the drive's owner.
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
    ("X-Content-Type-Options", "nosniff"),
]


def webdav(instance: Instance) -> Any:
    """An ASGI application for everything below PATH; to be made where the server's loop runs."""
    provider = Provider(Drive(instance, asyncio.get_running_loop()))
    config = {
        "provider_mapping": {"/": provider},
        "mount_path": PATH,
        "verbose": 1,
        "logging": {"enable": False},
        "property_manager": None,
        "lock_storage": True,
        "suppress_version_info": True,
        "http_authenticator": {
            "domain_controller": _Accounts,
            "accept_basic": True,
            "accept_digest": False,
            "default_to_digest": False,
        },
        "middleware_stack": [ErrorPrinter, HTTPAuthenticator, RequestResolver],
        "satchel.drive": provider.drive,
    }
    app = WsgiDAVApp(config)
    provider.set_prop_manager(Properties(provider))
    # wsgidav logs each refusal as if it were its own fault.
    logging.getLogger("wsgidav").setLevel(logging.CRITICAL)
    inner = WSGIMiddleware(_with_right_headers(app), workers=THREADS)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> ReceiveMessage:
            async with asyncio.timeout(STALL_SECONDS):
                message = await receive()
            if message["type"] != "http.request":
                # Else the end of a cut body would look like the end of the file.
                raise BadRequest("The connection ended in the middle of the body.")
            return message

        await inner({**scope, "root_path": PATH}, received, send)  # type: ignore[arg-type]

    return answer


def _with_right_headers(app: Any) -> Any:
    """The application, with the headers of a LOCK as RFC 4918 (10.5) has them (wsgidav leaves the brackets out).

    And with those that keep a browser from running what it is shown.
    """

    def answer(environ: Environ, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            righted = []
            for name, value in headers:
                if name.lower() == "lock-token" and not value.startswith("<"):
                    righted.append((name, f"<{value}>"))
                elif name.lower() == "content-type" and value.startswith("application;"):
                    righted.append((name, "application/xml; charset=utf-8"))
                else:
                    righted.append((name, value))
            righted += _SAFE_HEADERS
            # What a provider did by itself wsgidav takes for a change of what was there.
            told = "201 Created" if environ.get(CREATED) and status.startswith("204") else status
            return start_response(told, righted, exc_info)

        return app(environ, start)

    return answer


class _Accounts(BaseDomainController):  # type: ignore[misc]
    """Names and passwords of the accounts."""

    def __init__(self, wsgidav_app: Any, config: dict[str, Any]) -> None:
        super().__init__(wsgidav_app, config)
        self._drive: Drive = config["satchel.drive"]

    def get_domain_realm(self, path_info: str, environ: Environ | None) -> str:
        return "Satchel"

    def require_authentication(self, realm: str, environ: Environ | None) -> bool:
        return True

    def supports_http_digest_auth(self) -> bool:
        return False

    def basic_auth_user(self, realm: str, user_name: str, password: str, environ: Environ) -> bool:
        try:
            known = asyncio.run_coroutine_threadsafe(
                self._drive.instance.accounts.known(user_name, password), self._drive.loop
            ).result(ANSWER_SECONDS)
        except NotSignedIn:
            return False
        except NotAllowed as error:
            # The password is right, and asking for it again would not help.
            raise DAVError(HTTP_FORBIDDEN, str(error)) from error
        except RemoteError as error:
            raise refusal(error) from error
        if not known.may_write and environ["REQUEST_METHOD"] not in _READING:
            raise DAVError(HTTP_FORBIDDEN, "This app token is for webdav-read; this needs webdav.")
        environ[USER], environ[SPACE], environ[TOKEN] = known.user, known.home, known.token_hash
        return True
