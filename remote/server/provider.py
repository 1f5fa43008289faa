"""Provider: one OpenID Connect provider, asked over HTTPS; the only module that speaks authlib, and joserfc below it.

Requests block, so callers are in threads. Redirects are not followed, answers are bounded.
"""

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from remote.protocol.errors import NotSignedIn, ServerFault
from remote.server.config import Oidc, is_safe

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by keys that only the provider has; never `none`, nor one by a secret that we have, too."""
ANSWER_MAX = 1 << 20
TIMEOUT_SECONDS = 15.0
LEEWAY_SECONDS = 60
_KEPT_SECONDS = 3_600.0
_KEYS_SECONDS = 60.0
"""For so long keys are not asked for again, however many tokens name unknown ones."""
_SCOPE = "openid profile email"
Json = dict[str, Any]  # what a provider says has many shapes


@dataclass(frozen=True)
class Identity:
    """Who signed in, by the word of the provider."""

    issuer: str
    subject: str
    name: str
    email: str


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None


class Provider:
    """Sends browsers to the provider, and reads what they bring back."""

    def __init__(self, oidc: Oidc) -> None:
        self._oidc = oidc
        self._issuer = oidc.issuer.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._lock = threading.Lock()
        self._found: Json = {}
        self._found_at = 0.0
        self._keys: Json = {}
        self._keys_at = float("-inf")

    def address(self, back: str, state: str, nonce: str, verifier: str) -> str:
        """Where a browser signs in, to come back to `back`; raises ServerFault when the provider is away."""
        words = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": back,
            "scope": _SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        endpoint = self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(words)}"

    def identity(self, code: str, back: str, nonce: str, verifier: str) -> Identity:
        """Who stands behind the code that a browser brought; raises NotSignedIn, ServerFault."""
        words = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "code_verifier": verifier}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        told = self._discovered().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if not self._oidc.client_secret:
            words["client_id"] = self._oidc.client_id
        elif "client_secret_basic" in told:
            pair = f"{quote(self._oidc.client_id, safe='')}:{quote(self._oidc.client_secret, safe='')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            words |= {"client_id": self._oidc.client_id, "client_secret": self._oidc.client_secret}
        answer = self._ask(self._endpoint("token_endpoint"), urlencode(words).encode(), headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            _refuse("it gave no id token")
        return self._checked(token, nonce, str(answer.get("access_token") or ""))

    def _checked(self, token: str, nonce: str, access_token: str) -> Identity:
        signed = self._verified(token)
        options = {
            "iss": {"essential": True, "values": [self._oidc.issuer, self._issuer]},
            "aud": {"essential": True, "values": [self._oidc.client_id]},
            "sub": {"essential": True},
            "exp": {"essential": True},
        }
        known = {"nonce": nonce, "client_id": self._oidc.client_id, "access_token": access_token}
        try:
            claims = CodeIDToken(signed.claims, signed.header, options, known)
            claims.validate(leeway=LEEWAY_SECONDS)
        except Exception as error:  # noqa: BLE001  - authlib raises errors of several families, all say: not this one
            _refuse(f"its token is not good ({type(error).__name__}: {error})")
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            _refuse("its token names nobody")
        name = claims.get("preferred_username") or str(claims.get("email") or "").partition("@")[0] or subject
        email = str(claims.get("email") or "") if claims.get("email_verified") is True else ""
        return Identity(self._issuer, subject, str(name), email)

    def _verified(self, token: str) -> jwt.Token:
        told = self._discovered().get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(algorithms=[name for name in ALGORITHMS if name in told], strict_check_header=False)
        for is_forced in (False, True):
            try:
                return jwt.decode(token, KeySet.import_key_set(self._key_set(is_forced=is_forced)), registry=registry)
            except (JoseError, ValueError, KeyError, TypeError) as error:
                # Keys are changed now and then: with fresh ones it may be right.
                if is_forced:
                    _refuse(f"its token is not signed by it ({type(error).__name__})")
        raise AssertionError("one of the two returned or raised")

    def _key_set(self, *, is_forced: bool) -> Any:
        now = time.monotonic()
        with self._lock:
            age = now - self._keys_at
            is_good = self._keys and age < (_KEYS_SECONDS if is_forced else _KEPT_SECONDS)
        if not is_good:
            keys = self._ask(self._endpoint("jwks_uri"))
            with self._lock:
                self._keys, self._keys_at = keys, now
        return self._keys

    def _discovered(self) -> Json:
        now = time.monotonic()
        with self._lock:
            if self._found and now - self._found_at < _KEPT_SECONDS:
                return self._found
        found = self._ask(f"{self._issuer}/.well-known/openid-configuration")
        if str(found.get("issuer", "")).rstrip("/") != self._issuer:
            raise ServerFault(f"{self._issuer} says that it is {found.get('issuer')!r}: look at oidc.issuer.")
        with self._lock:
            self._found, self._found_at = found, now
        return found

    def _endpoint(self, name: str) -> str:
        found = self._discovered().get(name)
        if not isinstance(found, str) or not is_safe(found):
            raise ServerFault(f"{self._issuer} tells no {name} that is https.")
        return found

    def _ask(self, address: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Json:
        request = urllib.request.Request(  # noqa: S310  - https, or loopback: checked where addresses come in
            address, data=body, headers={"Accept": "application/json", **(headers or {})}
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                text = answer.read(ANSWER_MAX + 1)
        except urllib.error.HTTPError as error:
            error.close()
            if body is not None and 400 <= error.code < 500:
                _refuse(f"it did not take the code ({error.code})")
            raise ServerFault(f"{self._issuer} answered {error.code}.") from None
        except OSError as error:
            raise ServerFault(f"{self._issuer} cannot be reached: {error}.") from error
        try:
            found = json.loads(text) if len(text) <= ANSWER_MAX else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ServerFault(f"{self._issuer} answered with something that is no JSON object.")
        return found


def _refuse(why: str) -> NoReturn:
    raise NotSignedIn(f"The provider's answer cannot be used: {why}. Begin again.")
