"""Single sign-on: a device that waits while its user signs in elsewhere with a browser.

A device begins and gets an address for the browser, a secret to ask with, and a few letters that the browser shows,
too: so that nobody signs in the device of somebody who sent him the address. What is under way is in memory only.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from remote.protocol.account import SsoAnswer, SsoAsk, SsoBegun, SsoRequest
from remote.protocol.errors import BadRequest, Busy, NotAllowed, NotFound, NotSignedIn, RemoteError
from remote.server.accounts import (
    EMAIL_MAX,
    Accounts,
    add_user,
    change_email,
    check_email,
    identity_hash,
    login_name,
    put_identity,
)
from remote.server.asking import asking
from remote.server.audit import NOBODY, note
from remote.server.config import Oidc
from remote.server.database import accounts as account_rows
from remote.server.database.accounts import Account
from remote.server.database.connection import Database, Session
from remote.server.keys import MasterKey
from remote.server.limits import check_label
from remote.server.mail import Mail
from remote.server.slowing import network_of

if TYPE_CHECKING:
    from remote.server.provider import Identity

PENDING_MAX = 1_000
PENDING_OF_ADDRESS_MAX = 20
PENDING_SECONDS = 600.0
ASK_SECONDS = 20.0
"""How long an answer to a device that waits is held back."""
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""Without vowels: they make no words."""


@dataclass
class _Pending:
    device_name: str
    letters: str
    secret_hash: bytes
    network: str
    until: float
    ticket: str
    state: str = ""
    nonce: str = ""
    verifier: str = ""
    browser: str = ""
    account: Account | None = None
    refusal: str = ""
    is_done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Page:
    """What a browser is shown: which device, its letters, and where to sign in; `browser`: a secret for its cookie."""

    device_name: str
    letters: str
    address: str
    browser: str


class Sso:
    """Sign-ins that are under way."""

    def __init__(
        self,
        oidc: Oidc,
        url: str,
        *,
        database: Database,
        accounts: Accounts,
        mail: Mail,
        master: MasterKey,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        # Loaded for those who want it: authlib is large.
        from remote.server.provider import Provider  # noqa: PLC0415

        self._oidc = oidc
        self._back = f"{url.rstrip('/')}/sso/return"
        self._provider = Provider(oidc)
        self._database = database
        self._accounts = accounts
        self._mail = mail
        self._master = master
        self._now = now
        self._pending: dict[str, _Pending] = {}

    async def begin(self, request: SsoRequest) -> SsoBegun:
        """A sign-in for a new device; raises Busy when too many are under way."""
        check_label("device_name", request.device_name)
        self._forget_old()
        network = network_of(asking().address)
        of_network = sum(pending.network == network for pending in self._pending.values())
        if len(self._pending) >= PENDING_MAX or of_network >= PENDING_OF_ADDRESS_MAX:
            raise Busy("Too many devices are being signed in: try again in some minutes.", 60.0)
        secret = secrets.token_urlsafe(32)
        letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
        pending = _Pending(
            device_name=request.device_name,
            letters=f"{letters[:4]}-{letters[4:]}",
            secret_hash=_hash(secret),
            network=network,
            until=self._now() + PENDING_SECONDS,
            ticket=secrets.token_urlsafe(16),
        )
        self._pending[pending.ticket] = pending
        return SsoBegun(
            f"/sso/go/{pending.ticket}", f"{pending.ticket}.{secret}", pending.letters, int(PENDING_SECONDS)
        )

    async def page(self, ticket: str) -> Page:
        """What a browser is shown that opened the address; each time another way to the provider begins."""
        pending = self._find(ticket)
        pending.state, pending.nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        pending.verifier, pending.browser = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        address = await asyncio.to_thread(
            self._provider.address, self._back, _state(pending), pending.nonce, pending.verifier
        )
        return Page(pending.device_name, pending.letters, address, pending.browser)

    async def returned(self, state: str, code: str, browser: str) -> str:
        """Takes what a browser brought from the provider; the device's name. Raises NotSignedIn, NotAllowed."""
        pending = self._find(state.partition(".")[0])
        is_its_own = hmac.compare_digest(state.encode(), _state(pending).encode())
        if not pending.state or not is_its_own or not hmac.compare_digest(browser.encode(), pending.browser.encode()):
            raise NotSignedIn("This is not the browser in which the sign-in began: open the address again.")
        # A code is good once.
        pending.state = ""
        try:
            identity = await asyncio.to_thread(
                self._provider.identity, code, self._back, pending.nonce, pending.verifier
            )
            pending.account = await self._database.write(lambda session: self._account(session, identity))
        except RemoteError as error:
            pending.refusal = str(error)
            await self._database.write(
                lambda session: note(session, NOBODY, "sign-in", f"by {self._oidc.issuer}", is_good=False)
            )
            raise
        finally:
            pending.is_done.set()
        return pending.device_name

    async def finish(self, request: SsoAsk) -> SsoAnswer:
        """The new device, as soon as its user signed in; without one: ask again. Raises NotSignedIn, NotFound."""
        ticket, _, secret = request.secret.partition(".")
        pending = self._find(ticket)
        if not hmac.compare_digest(_hash(secret), pending.secret_hash):
            raise NotFound("No sign-in with this secret is under way.")
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await pending.is_done.wait()
        except TimeoutError:
            return SsoAnswer()
        # No await from here to the removal: a token is given once.
        if self._pending.pop(ticket, None) is None or pending.account is None:
            raise NotSignedIn(pending.refusal or "This sign-in is over: begin again.")
        answer = await self._accounts.sign_in(pending.account, pending.device_name)
        self._mail.tell(answer.user, "new-device", device=pending.device_name)
        return SsoAnswer(answer)

    def close(self) -> None:
        """Has all who wait begin again."""
        for pending in self._pending.values():
            pending.refusal = "The server stopped: begin again."
            pending.is_done.set()

    def _account(self, session: Session, identity: "Identity") -> Account:
        hashed = identity_hash(identity.issuer, identity.subject)
        user = account_rows.user_of_identity(session, hashed)
        account = account_rows.account(session, user) if user is not None else None
        if account is not None:
            return account
        how = f"satchel-server user link NAME {identity.issuer} {identity.subject}"
        if not self._oidc.creates_accounts:
            raise NotAllowed(f"Nobody here is known as {identity.subject}. Ask who runs the server: {how}")
        if account_rows.user_of_login(session, login_name(identity.name)) is not None:
            # The name proves nothing: whoever may choose it there would get the account here.
            raise NotAllowed(f"There is a user {identity.name} already. If that is you, ask who runs the server: {how}")
        now_ns = time.time_ns()
        made = add_user(session, self._master, identity.name, "", now_ns)
        put_identity(session, made.user, identity.issuer, identity.subject)
        if identity.email and len(identity.email) <= EMAIL_MAX and _is_email(identity.email):
            change_email(session, made.user, identity.email)
        return made

    def _find(self, ticket: str) -> _Pending:
        self._forget_old()
        pending = self._pending.get(ticket)
        if pending is None:
            raise NotFound("This sign-in is over, or was none: begin again on the device.")
        return pending

    def _forget_old(self) -> None:
        now = self._now()
        for ticket in [ticket for ticket, pending in self._pending.items() if pending.until <= now]:
            pending = self._pending.pop(ticket)
            pending.refusal = "Nobody signed in within ten minutes: begin again."
            pending.is_done.set()


def _state(pending: _Pending) -> str:
    return f"{pending.ticket}.{pending.state}"


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _is_email(text: str) -> bool:
    try:
        check_email(text)
    except BadRequest:
        return False
    return True
