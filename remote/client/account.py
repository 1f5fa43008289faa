"""Account: what a user asks a server about his devices, his password and his links; needs no mount and no cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from remote.client.patience import Patience
from remote.client.service import DEADLINE_SECONDS
from remote.client.session import Session, open_session
from remote.client.sharing import Sharing
from remote.client.traffic import Traffic
from remote.protocol.account import (
    AppTokenMade,
    AppTokenRequest,
    AppTokens,
    Audit,
    AuditRequest,
    Devices,
    Email,
    EmailRequest,
    LinkEntry,
    LinkRequest,
    Links,
    PasswordRequest,
    Preview,
    PreviewRequest,
    RecoveryCodes,
    RenameDeviceRequest,
    RevokeAppTokenRequest,
    RevokeLinkRequest,
    SignOutRequest,
    TotpBegun,
    TotpCode,
    TotpRequest,
    TotpState,
)
from remote.protocol.ids import DeviceId, NodeId
from remote.protocol.messages import Done
from remote.protocol.search import SearchAnswer, SearchRequest


class AccountService:
    """Asks as one signed-in device; made by `connect_account`. Every method may raise any RemoteError."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.sharing = Sharing(session)

    async def devices(self) -> Devices:
        """The devices of the user, the newest first."""
        return await self._session.ask(Devices, "GET", "v1/devices")

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """What the query finds; raises BadRequest for one that is not understood, NotAllowed where search is off."""
        return await self._session.ask(SearchAnswer, "POST", "v1/search", request)

    async def sign_out(self, device: DeviceId, *, wipe: bool) -> None:
        """Ends the token of a device; `wipe`: it removes what it holds as soon as it asks for anything."""
        await self._session.ask_once(Done, "POST", "v1/devices/sign-out", SignOutRequest(device, wipe))

    async def rename(self, device: DeviceId, device_name: str) -> None:
        """Calls a device something else."""
        await self._session.ask(Done, "POST", "v1/devices/rename", RenameDeviceRequest(device, device_name))

    async def change_password(self, old: str, new: str, *, sign_out_others: bool) -> None:
        """Replaces the user's password; raises NotAllowed when `old` is not right."""
        await self._session.ask_once(Done, "POST", "v1/password", PasswordRequest(old, new, sign_out_others))

    async def preview(self, node: NodeId, size: int) -> Preview:
        """What a file looks like; raises NotFound where there is no preview."""
        return await self._session.ask(Preview, "POST", "v1/previews", PreviewRequest(node, size))

    async def totp(self) -> TotpState:
        """Whether the user is asked for codes."""
        return await self._session.ask(TotpState, "GET", "v1/totp")

    async def begin_totp(self, password: str) -> TotpBegun:
        """A new secret for an authenticator app, which does not count yet."""
        return await self._session.ask_once(TotpBegun, "POST", "v1/totp/begin", TotpRequest(password))

    async def turn_totp_on(self, code: str) -> RecoveryCodes:
        """Has codes asked for, by one that is right."""
        return await self._session.ask_once(RecoveryCodes, "POST", "v1/totp/on", TotpCode(code))

    async def turn_totp_off(self, password: str, code: str) -> None:
        """Has codes asked for no more."""
        await self._session.ask_once(Done, "POST", "v1/totp/off", TotpRequest(password, code))

    async def recovery_codes(self, code: str) -> RecoveryCodes:
        """New recovery codes in place of all others."""
        return await self._session.ask_once(RecoveryCodes, "POST", "v1/totp/codes", TotpCode(code))

    async def make_token(self, request: AppTokenRequest) -> AppTokenMade:
        """A new app token."""
        return await self._session.ask_once(AppTokenMade, "POST", "v1/tokens/make", request)

    async def tokens(self) -> AppTokens:
        """The user's app tokens that were not revoked."""
        return await self._session.ask(AppTokens, "GET", "v1/tokens")

    async def revoke_token(self, token: DeviceId) -> None:
        """Ends an app token at once; raises NotFound for one that is not the user's."""
        await self._session.ask_once(Done, "POST", "v1/tokens/revoke", RevokeAppTokenRequest(token))

    async def audit(self, request: AuditRequest) -> Audit:
        """What was done in the user's name, or to him."""
        return await self._session.ask(Audit, "POST", "v1/audit", request)

    async def email(self) -> Email:
        """Where mail to the user goes."""
        return await self._session.ask(Email, "GET", "v1/email")

    async def set_email(self, email: str) -> Email:
        """Has mail to the user go there."""
        return await self._session.ask(Email, "POST", "v1/email", EmailRequest(email))

    async def make_link(self, request: LinkRequest) -> LinkEntry:
        """A new public link; raises NotFound for what the server does not have."""
        return await self._session.ask_once(LinkEntry, "POST", "v1/links/make", request)

    async def links(self) -> Links:
        """The user's links that were not revoked."""
        return await self._session.ask(Links, "GET", "v1/links")

    async def revoke_link(self, link: int) -> None:
        """Ends a link at once; raises NotFound for one that is not the user's."""
        await self._session.ask_once(Done, "POST", "v1/links/revoke", RevokeLinkRequest(link))


@asynccontextmanager
async def connect_account(url: str, token: str, *, allow_insecure: bool = False) -> AsyncIterator[AccountService]:
    """An AccountService of the server at this address; raises BadRequest for an address that cannot be used safely."""
    patience = Patience(DEADLINE_SECONDS, tries=1)
    async with open_session(url, token, patience, allow_insecure=allow_insecure, traffic=Traffic()) as session:
        yield AccountService(session)
