"""Single sign-on over HTTP: two messages for devices that wait, and two pages for the browsers of their users."""

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from remote.protocol.account import SsoAsk, SsoRequest
from remote.protocol.errors import NotFound, RemoteError
from remote.server.http import pages
from remote.server.http.bodies import check_protocol, read_message
from remote.server.http.problems import STATUSES, AnyRequest, message_response
from remote.server.instance import Instance
from remote.server.sso import PENDING_SECONDS, Sso

BODY_MAX = 4 << 10
COOKIE = "satchel-sso"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}


def sso_handlers(instance: Instance) -> list[HTTPRouteHandler]:
    """The routes of single sign-on; where there is none, they say so."""
    asked, waiting = msgspec.msgpack.Decoder(SsoRequest), msgspec.msgpack.Decoder(SsoAsk)

    @post("/v1/sso/begin", status_code=200)
    async def begin(request: AnyRequest) -> Response[bytes]:
        check_protocol(request)
        return message_response(await _sso(instance).begin(await read_message(request, asked, BODY_MAX)))

    @post("/v1/sso/finish", status_code=200)
    async def finish(request: AnyRequest) -> Response[bytes]:
        check_protocol(request)
        return message_response(await _sso(instance).finish(await read_message(request, waiting, BODY_MAX)))

    @get("/sso/go/{ticket:str}")
    async def go(request: AnyRequest) -> Response[Any]:
        try:
            page = await _sso(instance).page(str(request.path_params["ticket"]))
        except RemoteError as error:
            return _refusal(error)
        cookie = Cookie(
            key=COOKIE,
            value=page.browser,
            path="/sso",
            max_age=int(PENDING_SECONDS),
            secure=instance.config.url.startswith("https://"),
            httponly=True,
            samesite="lax",
        )
        shown = pages.sign_in(page.device_name, page.letters, page.address)
        return Response(shown, media_type="text/html", headers=_HEADERS, cookies=[cookie])

    @get("/sso/return")
    async def returned(request: AnyRequest) -> Response[Any]:
        words = request.query_params
        try:
            if "code" not in words:
                raise NotFound("The provider signed nobody in. To try again, open the address once more.")
            name = await _sso(instance).returned(
                str(words.get("state", "")), str(words["code"]), request.cookies.get(COOKIE, "")
            )
        except RemoteError as error:
            return _refusal(error)
        page = pages.message("Signed in", f"{name} is signed in now. You can close this page.")
        return Response(page, media_type="text/html", headers=_HEADERS)

    return [begin, finish, go, returned]


def _sso(instance: Instance) -> Sso:
    if instance.sso is None:
        raise NotFound("This server has no single sign-on: sign in with name and password.")
    return instance.sso


def _refusal(error: RemoteError) -> Response[Any]:
    page = pages.message("That did not work", str(error))
    return Response(page, status_code=STATUSES[type(error)], media_type="text/html", headers=_HEADERS)
