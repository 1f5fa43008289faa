"""Single sign-on against a real provider on loopback: the whole exchange, signed tokens, and what must be refused."""

import base64
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from remote.protocol.account import SsoAnswer, SsoAsk, SsoBegun, SsoRequest
from remote.protocol.errors import BY_CODE, Busy, NotFound, NotSignedIn
from remote.protocol.messages import LoginAnswer, Problem
from remote.server import instance as instances
from remote.server import sso
from remote.server.config import Config, Oidc
from remote.server.http.app import make_app
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio
CLIENT, SECRET = "satchel", "a client's secret"
Claims = dict[str, Any]


class IdentityProvider:
    """Signs everybody in as `person` who comes, by RFC 6749 and OpenID Connect; `spoil` changes what it says."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self.shown_keys = [self.key]
        self.person: Claims = {"sub": "4711", "preferred_username": "carl", "email": "carl@example.org"}
        self.spoil: Callable[[Claims], None] = lambda claims: None
        self.sign: Callable[[Claims], str] | None = None
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                provider.asked.append(urlsplit(self.path).path)
                if self.path == "/.well-known/openid-configuration":
                    self.answer(provider.discovery())
                elif self.path == "/keys":
                    self.answer({"keys": [key.as_dict(private=False) for key in provider.shown_keys]})
                else:
                    self.send_response(302)
                    self.send_header("Location", provider.authorized(parse_qs(urlsplit(self.path).query)))
                    self.end_headers()

            def do_POST(self) -> None:
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                answer = provider.token({name: values[0] for name, values in body.items()}, self.headers)
                self.answer(answer, 200 if "id_token" in answer else 400)

            def answer(self, message: Claims, status: int = 200) -> None:
                text = json.dumps(message).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def discovery(self) -> Claims:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
        }

    def authorized(self, words: dict[str, list[str]]) -> str:
        """Where the browser goes when its user signed in."""
        asked = {name: values[0] for name, values in words.items()}
        assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, given: dict[str, str], headers: Any) -> Claims:
        asked = self.codes.pop(given["code"], None)
        if asked is None:
            return {"error": "invalid_grant"}
        pair = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
        assert pair == "satchel:a%20client%27s%20secret"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(given["code_verifier"].encode()).digest()).rstrip(b"=")
        assert challenge.decode() == asked["code_challenge"]
        assert given["redirect_uri"] == asked["redirect_uri"]
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.person,
        }
        self.spoil(claims)
        signed = self.sign(claims) if self.sign else jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return {"access_token": "unused", "token_type": "Bearer", "id_token": signed}


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.close()


@pytest.fixture
def creates_accounts() -> bool:
    return True


@pytest.fixture
def instance(
    tmp_path: Path, statements: set[str], cheap_passwords: None, provider: IdentityProvider, creates_accounts: bool
) -> Iterator[Instance]:
    instances.make(tmp_path / "data", tmp_path / "key")
    oidc = Oidc(provider.issuer, CLIENT, SECRET, creates_accounts)
    config = Config(url="http://127.0.0.1", oidc=oidc)
    with instances.opened(tmp_path / "data", tmp_path / "key", statements.add, config) as opened:
        yield opened


class Laptop:
    """A device that waits, and the browser of its user."""

    def __init__(self, instance: Instance) -> None:
        transport = httpx.ASGITransport(make_app(instance), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        self.browser = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def ask(self, path: str, message: object, kind: type[Any]) -> Any:
        response = await self.http.post(f"/v1/sso/{path}", content=msgspec.msgpack.encode(message))
        if response.status_code != 200:
            problem = msgspec.msgpack.decode(response.content, type=Problem)
            raise BY_CODE[problem.code](problem.message)
        return msgspec.msgpack.decode(response.content, type=kind)

    async def begin(self) -> SsoBegun:
        found: SsoBegun = await self.ask("begin", SsoRequest("lap <top>"), SsoBegun)
        return found

    async def open(self, begun: SsoBegun) -> str:
        """Opens the address; where its link leads."""
        page = await self.browser.get(begun.path)
        assert page.status_code == 200, page.text
        assert begun.letters in page.text
        assert "lap &lt;top&gt;" in page.text
        assert "script" not in page.text
        return unescape(re.findall(r'href="([^"]+)"', page.text)[0])

    async def sign_in(self, begun: SsoBegun) -> httpx.Response:
        """All that the user does: opens the address, follows the link, comes back."""
        return await self.come_back(await self.at_provider(await self.open(begun)))

    async def at_provider(self, address: str) -> str:
        async with httpx.AsyncClient(timeout=60) as other:
            answer = await other.get(address)
        assert answer.status_code == 302
        return str(answer.headers["location"])

    async def come_back(self, address: str) -> httpx.Response:
        return await self.browser.get(address)

    async def finish(self, begun: SsoBegun) -> LoginAnswer:
        answer: SsoAnswer = await self.ask("finish", SsoAsk(begun.secret), SsoAnswer)
        assert answer.login is not None
        return answer.login


@pytest.fixture
def laptop(instance: Instance) -> Laptop:
    return Laptop(instance)


async def test_a_device_is_signed_in_by_a_browser(
    laptop: Laptop, provider: IdentityProvider, instance: Instance
) -> None:
    provider.person["email_verified"] = True
    begun = await laptop.begin()
    page = await laptop.sign_in(begun)
    assert (page.status_code, "is signed in now" in page.text) == (200, True)
    login = await laptop.finish(begun)
    assert login.user_name == "carl"
    device = await instance.accounts.device(login.token)
    assert (await instance.mail.email(device)).email == "carl@example.org"
    # Once: neither the device nor the browser gets another one by the same secrets.
    with pytest.raises(NotFound):
        await laptop.finish(begun)
    # Who comes again is the same user, whatever he is called there now.
    provider.person["preferred_username"] = "somebody else"
    begun = await laptop.begin()
    await laptop.sign_in(begun)
    assert (await laptop.finish(begun)).user == login.user


async def test_an_account_without_a_password_has_none_that_is_right(laptop: Laptop, build: Any) -> None:
    begun = await laptop.begin()
    await laptop.sign_in(begun)
    await laptop.finish(begun)
    for password in ("", "anything"):
        message = {"user": "carl", "password": password, "device_name": "x"}
        answer = await laptop.http.post("/v1/login", content=msgspec.msgpack.encode(message))
        assert isinstance(build.error_of(answer), NotSignedIn)


async def test_a_device_waits_until_somebody_signed_in(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sso, "ASK_SECONDS", 0.01)
    begun = await laptop.begin()
    assert await laptop.ask("finish", SsoAsk(begun.secret), SsoAnswer) == SsoAnswer(None)
    await laptop.sign_in(begun)
    assert (await laptop.finish(begun)).token
    for secret in ("", begun.secret, begun.secret.partition(".")[0] + ".wrong"):
        with pytest.raises(NotFound):
            await laptop.ask("finish", SsoAsk(secret), SsoAnswer)


def spoiled(name: str, value: object) -> Callable[[Claims], None]:
    def spoil(claims: Claims) -> None:
        if value is None:
            del claims[name]
        else:
            claims[name] = value

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled("nonce", "another"),
        spoiled("nonce", None),
        spoiled("aud", "another client"),
        spoiled("aud", [CLIENT, "another client"]),
        spoiled("aud", None),
        spoiled("iss", "https://evil.example.org"),
        spoiled("iss", None),
        spoiled("exp", 1),
        spoiled("exp", None),
        spoiled("sub", None),
        spoiled("sub", 4711),
        spoiled("azp", "another client"),
    ],
)
async def test_a_token_that_is_not_for_us_is_refused(
    laptop: Laptop, provider: IdentityProvider, spoil: Callable[[Claims], None]
) -> None:
    provider.spoil = spoil
    await refused(laptop)


async def refused(laptop: Laptop) -> None:
    begun = await laptop.begin()
    page = await laptop.sign_in(begun)
    assert (page.status_code, "cannot be used" in page.text) == (401, True), page.text
    with pytest.raises(NotSignedIn, match="cannot be used"):
        await laptop.finish(begun)


async def test_a_token_that_somebody_else_signed_is_refused(laptop: Laptop, provider: IdentityProvider) -> None:
    other = RSAKey.generate_key(2048, {"kid": "one"})
    provider.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, other)
    await refused(laptop)


async def test_a_token_without_a_signature_or_by_a_shared_secret_is_refused(
    laptop: Laptop, provider: IdentityProvider
) -> None:
    def part(message: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(message).encode()).rstrip(b"=").decode()

    provider.sign = lambda claims: f"{part({'alg': 'none'})}.{part(claims)}."
    await refused(laptop)

    def by_secret(claims: Claims) -> str:
        signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
        seal = hmac.digest(provider.key.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(seal).rstrip(b'=').decode()}"

    provider.sign = by_secret
    await refused(laptop)


async def test_keys_that_the_provider_changed_are_asked_for_again(
    laptop: Laptop, provider: IdentityProvider, instance: Instance
) -> None:
    begun = await laptop.begin()
    await laptop.sign_in(begun)
    await laptop.finish(begun)
    provider.key = RSAKey.generate_key(2048, {"kid": "two"})
    provider.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "two"}, claims, provider.key)
    provider.shown_keys = [provider.key]
    # Not for each token, or a stranger could have us ask without end.
    await refused(laptop)
    assert provider.asked.count("/keys") == 1
    assert instance.sso is not None
    instance.sso._provider._keys_at -= 61
    begun = await laptop.begin()
    await laptop.sign_in(begun)
    await laptop.finish(begun)
    assert provider.asked.count("/keys") == 2


async def test_only_the_browser_in_which_it_began_comes_back(laptop: Laptop, instance: Instance) -> None:
    begun = await laptop.begin()
    back = await laptop.at_provider(await laptop.open(begun))
    stranger = Laptop(instance)
    assert (await stranger.come_back(back)).status_code == 401
    for address in (back + "x", "/sso/return", "/sso/return?code=1", "/sso/return?code=1&state=nothing.x"):
        assert (await laptop.come_back(address)).status_code in {401, 404}
    assert (await laptop.come_back(back)).status_code == 200
    # A second time it is nobody's.
    assert (await laptop.come_back(back)).status_code == 401


async def test_a_name_that_is_taken_is_not_given_away(
    laptop: Laptop, tmp_path: Path, provider: IdentityProvider
) -> None:
    instances.add_account(tmp_path / "data", tmp_path / "key", "Carl", "his password")
    begun = await laptop.begin()
    page = await laptop.sign_in(begun)
    assert (page.status_code, "There is a user carl already" in page.text) == (403, True)
    instances.link_identity(tmp_path / "data", tmp_path / "key", "carl", provider.issuer + "/", "4711")
    begun = await laptop.begin()
    await laptop.sign_in(begun)
    assert (await laptop.finish(begun)).user_name == "Carl"


@pytest.mark.parametrize("creates_accounts", [False])
async def test_strangers_get_no_account_where_none_is_made(laptop: Laptop) -> None:
    begun = await laptop.begin()
    page = await laptop.sign_in(begun)
    assert (page.status_code, "Nobody here is known as 4711" in page.text) == (403, True)


async def test_sign_ins_under_way_are_bounded_and_end(
    laptop: Laptop, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = [await laptop.begin() for _ in range(sso.PENDING_OF_ADDRESS_MAX)]
    with pytest.raises(Busy):
        await laptop.begin()
    assert instance.sso is not None
    later = time.monotonic() + sso.PENDING_SECONDS
    monkeypatch.setattr(instance.sso, "_now", lambda: later)
    await laptop.begin()
    with pytest.raises(NotFound):
        await laptop.finish(begun[0])


async def test_without_a_provider_the_server_says_so(tmp_path: Path, cheap_passwords: None) -> None:
    instances.make(tmp_path / "plain", tmp_path / "key")
    with (
        instances.opened(tmp_path / "plain", tmp_path / "key") as plain,
        pytest.raises(NotFound, match="no single sign-on"),
    ):
        await Laptop(plain).begin()
