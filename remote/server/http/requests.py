"""Requests: who asks, from which address, for which route; and a line of the log for each, where that is wanted."""

import ipaddress
import logging
import time
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Guard, Message, Receive, Scope, Send

from remote.server.accounts import APP_TOKEN
from remote.server.asking import DEVICES_ONLY, Asking, begin
from remote.server.http.bodies import TOKEN_MAX
from remote.server.http.scopes import OPEN, ROUTE_SCOPES
from remote.server.instance import Instance

log = logging.getLogger("satchel.requests")

FORWARDED_MAX = 20
"""Addresses that are read in a header of proxies."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_KEY = "satchel.asking"
_NOT_ROUTED = "(none)"


def guard(instance: Instance) -> Guard:
    """Notes before every route which it is; and asks an app token whether it is for that, before the body is read."""

    # One that is not async would run in a thread, where what it notes is lost.
    async def noted(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        scope = connection.scope
        known = scope["state"].get(_KEY)
        if known is None:
            # Not behind `watched`: a test, or a server that neither logs requests nor stands behind a proxy.
            known = Asking(_client(scope))
            begin(known)
        known.route = str(scope.get("path_template") or _NOT_ROUTED)
        known.needs = ROUTE_SCOPES.get(f"{scope.get('method')} {known.route}", DEVICES_ONLY)
        kind, _space, token = connection.headers.get("authorization", "").partition(" ")
        if known.needs != OPEN and kind.lower() == "bearer" and token.strip().startswith(APP_TOKEN):
            await instance.accounts.device(token.strip()[:TOKEN_MAX])

    return noted


def watched(app: ASGIApp, proxies: Sequence[Network] = (), *, is_logged: bool = False) -> ASGIApp:
    """The application, with who asks known by its proxies' word; `is_logged`: a line of the log for each request."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        request = Asking(_address(scope, proxies))
        scope.setdefault("state", {})[_KEY] = request
        begin(request)
        if not is_logged:
            await app(scope, receive, send)
            return
        status, method = 0, str(scope["method"])

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await app(scope, receive, sent)
        finally:
            _log(request, method, status, time.perf_counter() - began)

    return answer


def _log(request: Asking, method: str, status: int, seconds: float) -> None:
    """The route, never the path or the query: secrets of links and names of files stand there."""
    log.info(
        "%s %s %s",
        method,
        request.route or _NOT_ROUTED,
        status,
        extra={
            "fields": {
                "request": request.request_id,
                "address": request.address,
                "user": request.user_name,
                "device": request.device,
                "method": method,
                "route": request.route or _NOT_ROUTED,
                "status": status,
                "seconds": round(seconds, 6),
            }
        },
    )


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _address(scope: Scope, proxies: Sequence[Network]) -> str:
    """The last address on the way here that is none of our proxies: what is before it anybody may have written."""
    address = _client(scope)
    if not proxies or not _is_in(address, proxies):
        return address
    header = b",".join(value for name, value in scope["headers"] if name.lower() == b"x-forwarded-for")
    for word in reversed(header.decode("latin-1").rsplit(",", FORWARDED_MAX)):
        told = word.strip()
        if not _is_address(told):
            return address
        address = told
        if not _is_in(address, proxies):
            return address
    return address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in network for network in networks)
