"""App tokens: each route asks for its scope, and what is not in the table takes a device."""

from collections.abc import Iterator
from typing import Any

import pytest
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from remote.protocol.account import AppTokenMade, AppTokenRequest, AppTokens, LinkRequest, RevokeAppTokenRequest
from remote.protocol.errors import BadRequest, InTheWay, NotAllowed, NotFound, NotSignedIn
from remote.protocol.ids import ROOT
from remote.server import tokens
from remote.server.asking import DEVICES_ONLY
from remote.server.http.app import make_app
from remote.server.http.scopes import OPEN, ROUTE_SCOPES
from remote.server.instance import Instance
from remote.server.scopes import SCOPES, covers, stored_scopes

pytestmark = pytest.mark.anyio

OWN_SECRETS = ("/s/", "/v1/objects/", "/docs", "/sso/")
"""Routes that carry a secret of their own, or none at all: they look at no token."""


def routes(instance: Instance) -> Iterator[tuple[str, str]]:
    """Method and path of each route."""
    for route in make_app(instance).routes:
        if isinstance(route, HTTPRoute) and not route.path.startswith(OWN_SECRETS):
            for handler in route.route_handlers:
                assert isinstance(handler, HTTPRouteHandler)
                yield from ((str(method), route.path_format) for method in handler.http_methods if method != "OPTIONS")


async def test_every_route_says_what_it_needs(instance: Instance) -> None:
    found = {f"{method} {path}" for method, path in routes(instance)}
    assert found - set(ROUTE_SCOPES) == set(), "add them to remote/server/http/scopes.py"
    assert set(ROUTE_SCOPES) - found == set(), "these are in remote/server/http/scopes.py, and no route"


async def made(ann: Any, *scopes: str, name: str = "script", **fields: Any) -> AppTokenMade:
    found: AppTokenMade = await ann.ask(
        "POST", "/v1/tokens/make", AppTokenRequest(name, scopes, **fields), AppTokenMade
    )
    return found


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_token_reaches_the_routes_of_its_scope_and_no_others(ann: Any, instance: Instance, scope: str) -> None:
    token = (await made(ann, scope)).secret
    headers = {"authorization": f"Bearer {token}"}
    asked = 0
    for method, path in routes(instance):
        needs = ROUTE_SCOPES.get(f"{method} {path}", DEVICES_ONLY)
        if needs == OPEN:
            continue
        address = path.replace("{space}", str(ann.home))
        address = "/".join("1" if word.startswith("{") else word for word in address.split("/"))
        if path == "/v1/poll":
            # It would wait, which is not what is asked here.
            continue
        response = await ann.http.request(method, address, headers=headers)
        is_refused = response.status_code == 403 and (method == "HEAD" or b"app token" in response.content)
        assert is_refused == (needs == DEVICES_ONLY or not covers(scope, needs)), (method, path, response.content)
        asked += 1
    assert asked > 50


async def test_a_token_does_what_it_is_for(ann: Any, build: Any) -> None:
    reader = ann.as_token((await made(ann, "read", name="reader")).secret)
    writer = ann.as_token((await made(ann, "write", name="writer")).secret)
    sharer = ann.as_token((await made(ann, "share", name="sharer")).secret)
    assert await reader.names() == []
    with pytest.raises(NotAllowed, match="is for read; this needs write"):
        await reader.new_id()
    folder = await writer.new_folder(b"thesis")
    assert await reader.names() == [b"thesis"]
    # It is named where its work shows.
    assert (await ann.history(folder)).versions[0].device_name == "writer"
    await sharer.ask("POST", "/v1/links/make", LinkRequest(ann.home, ROOT), dict)
    for token in (reader, writer, sharer):
        with pytest.raises(NotAllowed, match="takes a signed-in device"):
            await token.ask("GET", "/v1/devices", None, dict)


async def test_tokens_are_listed_ended_and_expire(
    ann: Any, bob: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await made(ann, "read", "share", name="a"), await made(ann, "read", name="b", expires_ns=1 << 62)
    listed = await ann.ask("GET", "/v1/tokens", None, AppTokens)
    assert {(entry.name, entry.scopes) for entry in listed.tokens} == {("a", ("read", "share")), ("b", ("read",))}
    assert first.secret not in repr(listed)
    # They are no devices.
    assert len((await ann.ask("GET", "/v1/devices", None, dict))["devices"]) == 1
    with pytest.raises(NotFound):
        await bob.ask("POST", "/v1/tokens/revoke", RevokeAppTokenRequest(first.entry.token), dict)
    await ann.ask("POST", "/v1/tokens/revoke", RevokeAppTokenRequest(first.entry.token), dict)
    with pytest.raises(NotSignedIn):
        await ann.as_token(first.secret).spaces()
    await ann.as_token(second.secret).spaces()
    monkeypatch.setattr(instance.accounts, "_now_ns", lambda: 1 << 62)
    with pytest.raises(NotSignedIn, match="expired"):
        await ann.as_token(second.secret).spaces()


async def test_what_can_be_no_token_is_refused(ann: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for scopes in ((), ("read", "everything"), ("",)):
        with pytest.raises(BadRequest, match="scope"):
            await made(ann, *scopes)
    with pytest.raises(BadRequest, match="expired already"):
        await made(ann, "read", expires_ns=1)
    await made(ann, "read")
    with pytest.raises(InTheWay, match="script already"):
        await made(ann, "write")
    monkeypatch.setattr(tokens, "TOKENS_MAX", 1)
    with pytest.raises(NotAllowed, match="1 app tokens"):
        await made(ann, "read", name="another")


def test_scopes_are_stored_in_order_and_once() -> None:
    assert stored_scopes(["write", "read", "write"]) == "read write"
    assert covers("write", "read")
    assert covers("webdav", "webdav-read")
    assert not covers("read", "write")
    assert not covers("webdav", "read")
    assert not covers("read", DEVICES_ONLY)
