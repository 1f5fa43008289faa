"""WebDAV: the home of whoever signs in, for phones and other systems; the only module that speaks wsgidav.

Shared folders are gone into where they stand in it. wsgidav makes of one request many steps, so that what holds a
shared folder is never removed or copied by one: neither by mistake nor by halves.

wsgidav answers in threads of its own; what it asks of the drive runs in the server's loop. Locks are kept in memory, so
a restart ends them; properties that clients invent are extended attributes of the file.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from a2wsgi import WSGIMiddleware
from litestar.types import Receive, ReceiveMessage, Scope, Send
from wsgidav.dav_error import (
    HTTP_BAD_GATEWAY,
    HTTP_BAD_REQUEST,
    HTTP_FORBIDDEN,
    HTTP_INTERNAL_ERROR,
    DAVError,
    PRECONDITION_CODE_PropfindFiniteDepth,
    get_http_status_string,
)
from wsgidav.error_printer import ErrorPrinter
from wsgidav.mw.base_mw import BaseMiddleware
from wsgidav.request_resolver import RequestResolver
from wsgidav.wsgidav_app import WsgiDAVApp

from remote.protocol.errors import BadRequest, NotAllowed, NotSignedIn, RemoteError
from remote.server.asking import asking
from remote.server.http import pages
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
XML_MAX, PROPFIND_MAX = 128 << 10, 8 << 10
"""Bytes of a body that says what is wanted, and of one that is answered for each file of a folder."""
_READING = ("GET", "HEAD", "OPTIONS", "PROPFIND")
_TOO_LARGE = 413
_HTML = "text/html; charset=utf-8"
_SIGN_IN = (
    "This is for phones, file managers and other programs that speak WebDAV: give them this address, your name, and"
    " your password or an app token (satchel token add NAME --scope webdav)."
)
_FOLDER = (
    "This folder is shown by file managers and other programs that speak WebDAV, not by a browser: give them this"
    " address, your name, and your password or an app token (satchel token add NAME --scope webdav)."
)
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
        "middleware_stack": [ErrorPrinter, _Gate, RequestResolver],
        "satchel.drive": provider.drive,
    }
    # wsgidav has a page of its own at many places, which tells its version and what went wrong inside.
    DAVError.get_response_page = _page
    app = WsgiDAVApp(config)
    provider.set_prop_manager(Properties(provider))
    # wsgidav logs each refusal as if it were its own fault.
    logging.getLogger("wsgidav").setLevel(logging.CRITICAL)
    inner = WSGIMiddleware(_with_right_headers(app), workers=THREADS)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        asking().route = scope["path_template"] = PATH

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
                elif name.lower() != "date":  # which the server says itself
                    righted.append((name, value))
            righted += _SAFE_HEADERS
            # What a provider did by itself wsgidav takes for a change of what was there.
            told = "201 Created" if environ.get(CREATED) and status.startswith("204") else status
            return start_response(told, righted, exc_info)

        return app(environ, start)

    return answer


class _Gate(BaseMiddleware):  # type: ignore[misc]
    """Who asks, by name and password; and what wsgidav would misread, or work at for long, goes no further."""

    def __init__(self, wsgidav_app: Any, next_app: Any, config: dict[str, Any]) -> None:
        super().__init__(wsgidav_app, next_app, config)
        self._drive: Drive = config["satchel.drive"]
        self._own_host = urlsplit(self._drive.instance.config.url).netloc.lower()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        given = _given(environ.get("HTTP_AUTHORIZATION", ""))
        if given is None or not self._is_known(*given, environ):
            body = pages.message("Sign in", _SIGN_IN).encode()
            headers = [("WWW-Authenticate", 'Basic realm="Satchel", charset="UTF-8"'), ("Content-Type", _HTML)]
            start_response("401 Unauthorized", [*headers, ("Content-Length", str(len(body)))])
            return [body]
        _check(environ)
        if "HTTP_DESTINATION" in environ:
            hosts = {environ.get(name, "").lower() for name in ("HTTP_HOST", "HTTP_X_FORWARDED_HOST")} | {
                self._own_host
            }
            environ["HTTP_DESTINATION"] = _destination(environ["HTTP_DESTINATION"], hosts)
        environ["wsgidav.auth.realm"], environ["wsgidav.auth.user_name"] = "Satchel", given[0]
        environ["wsgidav.auth.roles"] = environ["wsgidav.auth.permissions"] = None
        answer: Iterable[bytes] = self.next_app(environ, start_response)
        return answer

    def _is_known(self, user_name: str, password: str, environ: Environ) -> bool:
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


def _given(authorization: str) -> tuple[str, str] | None:
    """Name and password in a header; None where there are none."""
    kind, _, value = authorization.partition(" ")
    try:
        name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if kind.lower() == "basic" and colon else None


def _check(environ: Environ) -> None:
    """Raises DAVError for paths that are no UTF-8, and for questions without bounds."""
    _check_text(environ["asgi.scope"]["raw_path"])
    method, size = environ["REQUEST_METHOD"], environ.get("CONTENT_LENGTH") or "0"
    most = PROPFIND_MAX if method == "PROPFIND" else XML_MAX
    if method != "PUT" and int(size) > most:
        raise DAVError(_TOO_LARGE, f"The body has {size} bytes; at most {most} are allowed here.")
    if method == "PROPFIND" and environ.get("HTTP_DEPTH", "infinity").lower() == "infinity":
        raise DAVError(HTTP_FORBIDDEN, err_condition=PRECONDITION_CODE_PropfindFiniteDepth)


def _check_text(address: bytes) -> None:
    try:
        unquote_to_bytes(address).decode()
    except UnicodeDecodeError:
        # It would be taken for another name, whose file is replaced or given.
        raise DAVError(HTTP_BAD_REQUEST, "Names that are no UTF-8 cannot be used here.") from None


def _destination(address: str, hosts: set[str]) -> str:
    """The path in it, whatever scheme a proxy before this server speaks; raises DAVError for one that is elsewhere."""
    try:
        told = urlsplit(address)
    except ValueError:
        raise DAVError(HTTP_BAD_REQUEST, "The destination is no address.") from None
    is_here = told.scheme in {"http", "https"} and told.netloc.lower() in hosts if told.netloc else not told.scheme
    if not is_here or not told.path.startswith(f"{PATH}/"):
        raise DAVError(HTTP_BAD_GATEWAY, "The destination is not in this drive: nothing is sent elsewhere.")
    _check_text(told.path.encode("latin-1", "replace"))
    return address[len(f"{told.scheme}://{told.netloc}") :] if told.netloc else address


def _page(error: DAVError) -> tuple[str, bytes]:
    """What stands in an answer that has nothing else in it."""
    if error.err_condition:
        return "application/xml; charset=utf-8", str(error.err_condition.as_string()).encode()
    title = get_http_status_string(error)
    sentence = error.context_info or ""
    if error.value == HTTP_INTERNAL_ERROR:
        if error.src_exception is not None and not isinstance(error.src_exception, BadRequest | TimeoutError):
            # Those are bodies that were cut, and nobody reads this.
            log.error("a WebDAV request failed", exc_info=error.src_exception)
        sentence = "The server failed at this request; its log says why. Nothing is known to be lost."
    elif sentence.startswith("Directory browsing"):
        title, sentence = "A drive, by WebDAV", _FOLDER
    return _HTML, pages.message(title, sentence).encode()
