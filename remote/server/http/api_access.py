"""The JSON API for who gets into an account: the second factor, app tokens, the audit log, and where mail goes.

An app token reaches none of this: it takes the token of a signed-in device.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter

from remote.protocol import account
from remote.protocol.account import (
    AppTokenRequest,
    AuditRequest,
    EmailRequest,
    RevokeAppTokenRequest,
    TotpCode,
    TotpRequest,
    TotpState,
)
from remote.protocol.errors import BadRequest
from remote.protocol.ids import DeviceId
from remote.protocol.times import iso, last_of, span
from remote.server.http.api_common import device_of
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63, INT63_TOLD

Token = Annotated[int, PathParameter(ge=1, le=INT63_TOLD, description="The token: GET /api/v1/tokens tells it.")]
Since = Annotated[
    str, QueryParameter(name="since", max_length=40, description="From this time on (ISO 8601); empty: any.")
]
Before = Annotated[
    int, QueryParameter(name="before", ge=0, le=INT63_TOLD, description="What `next` told; 0: from now.")
]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=1_000, description="At most so many.")]
Text = Annotated[str, msgspec.Meta(max_length=1_024)]


class Password(msgspec.Struct, forbid_unknown_fields=True):
    """Your password."""

    password: Text


class PasswordAndCode(msgspec.Struct, forbid_unknown_fields=True):
    """Your password, and a code of your authenticator app or a recovery code."""

    password: Text
    code: Text


class Code(msgspec.Struct, forbid_unknown_fields=True):
    """A code of your authenticator app."""

    code: Text


class Secret(msgspec.Struct):
    """For your authenticator app, to type or as the address that QR codes hold; told this once."""

    secret: str
    address: str


class RecoveryCodes(msgspec.Struct):
    """Each stands for one code of the authenticator app, once; told this once."""

    codes: list[str]


class NewToken(msgspec.Struct, forbid_unknown_fields=True):
    """For a program. `scopes`: read, write, share, forget, webdav, webdav-read; `expires`: empty for never."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    scopes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10)]
    expires: Annotated[str, msgspec.Meta(max_length=40)] = ""


class AppToken(msgspec.Struct):
    """An app token; `expires` and `last_used` are empty for never."""

    token: str
    name: str
    scopes: list[str]
    created: str
    expires: str
    last_used: str


class AppTokenMade(msgspec.Struct):
    """`secret` is what the program sends as `Authorization: Bearer`, or as its WebDAV password; told this once."""

    secret: str
    entry: AppToken


class Note(msgspec.Struct):
    """What was done; `by` empty: by who runs the server, or by nobody known. `is_good` false: it was refused."""

    time: str
    what: str
    about: str
    by: str
    device: str
    address: str
    is_good: bool


class Notes(msgspec.Struct):
    """The newest first; `next`: ask again with this as `before`, 0: there is no more."""

    notes: list[Note]
    next: int


class Email(msgspec.Struct, forbid_unknown_fields=True):
    """Where mail to you goes; empty: nowhere."""

    email: Annotated[str, msgspec.Meta(max_length=254)]


def access_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """The routes of accounts."""
    return [*_second_factor(instance), *_tokens(instance), *_notes(instance)]


def _second_factor(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    totp = instance.totp

    @get("/totp", summary="Whether you are asked for codes when you sign in")
    async def state(request: AnyRequest) -> TotpState:
        return await totp.state(await device_of(instance, request))

    @post("/totp/begin", status_code=200, summary="A new secret for your authenticator app")
    async def begin(request: AnyRequest, data: JSONBody[Password]) -> Secret:
        begun = await totp.begin(await device_of(instance, request), TotpRequest(data.password))
        return Secret(begun.secret, begun.address)

    @post("/totp/on", status_code=200, summary="Be asked for codes from now on")
    async def turn_on(request: AnyRequest, data: JSONBody[Code]) -> RecoveryCodes:
        return RecoveryCodes(list((await totp.turn_on(await device_of(instance, request), TotpCode(data.code))).codes))

    @post("/totp/off", status_code=200, summary="Be asked for no codes any more")
    async def turn_off(request: AnyRequest, data: JSONBody[PasswordAndCode]) -> TotpState:
        device = await device_of(instance, request)
        await totp.turn_off(device, TotpRequest(data.password, data.code))
        return await totp.state(device)

    @post("/totp/codes", status_code=200, summary="New recovery codes in place of all others")
    async def codes(request: AnyRequest, data: JSONBody[Code]) -> RecoveryCodes:
        made = await totp.recovery_codes(await device_of(instance, request), TotpCode(data.code))
        return RecoveryCodes(list(made.codes))

    return [state, begin, turn_on, turn_off, codes]


def _tokens(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    tokens = instance.tokens

    @get("/tokens", summary="Your app tokens")
    async def listing(request: AnyRequest) -> list[AppToken]:
        return [_token(one) for one in (await tokens.tokens(await device_of(instance, request))).tokens]

    @post("/tokens", status_code=201, summary="Make an app token")
    async def make(request: AnyRequest, data: JSONBody[NewToken]) -> AppTokenMade:
        device = await device_of(instance, request)
        expires_ns = _time_ns(data.expires, last_of)
        made = await tokens.make(device, AppTokenRequest(data.name, tuple(data.scopes), expires_ns))
        return AppTokenMade(made.secret, _token(made.entry))

    @delete("/tokens/{token:int}", status_code=204, summary="End an app token")
    async def revoke(request: AnyRequest, token: Token) -> None:
        await tokens.revoke(await device_of(instance, request), RevokeAppTokenRequest(DeviceId(token)))

    return [listing, make, revoke]


def _notes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    @get("/audit", summary="What was done in your name or to your account, newest first")
    async def audit(request: AnyRequest, since: Since = "", before: Before = 0, limit: Limit = 100) -> Notes:
        device = await device_of(instance, request)
        found = await instance.audit.audit(
            device, AuditRequest(_time_ns(since, lambda text: span(text)[0]), before, limit)
        )
        return Notes([_note(one) for one in found.entries], found.next)

    @get("/email", summary="Where mail to you goes")
    async def email(request: AnyRequest) -> Email:
        return Email((await instance.mail.email(await device_of(instance, request))).email)

    @put("/email", summary="Set where mail to you goes")
    async def set_email(request: AnyRequest, data: JSONBody[Email]) -> Email:
        return Email(
            (await instance.mail.set_email(await device_of(instance, request), EmailRequest(data.email))).email
        )

    return [audit, email, set_email]


def _token(one: account.AppToken) -> AppToken:
    return AppToken(
        str(one.token), one.name, list(one.scopes), iso(one.created_ns), _iso(one.expires_ns), _iso(one.seen_ns)
    )


def _note(one: account.AuditEntry) -> Note:
    return Note(iso(one.time_ns), one.what, one.about, one.by, one.device_name, one.address, one.is_good)


def _iso(time_ns: int) -> str:
    return iso(time_ns) if time_ns else ""


def _time_ns(text: str, read: Callable[[str], int]) -> int:
    """What the text means; 0 for none; raises BadRequest for what is no time, or none of these centuries."""
    try:
        time_ns = read(text) if text else 0
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if not 0 <= time_ns <= INT63:
        raise BadRequest(f"{text} lies too far away: give a time from 1970 to 2262.")
    return time_ns
