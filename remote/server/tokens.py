"""App tokens: what a user makes for a program, each for some scopes only, and ends again."""

import secrets
import time
from collections.abc import Callable

from remote.protocol.account import AppToken, AppTokenMade, AppTokenRequest, AppTokens, RevokeAppTokenRequest
from remote.protocol.errors import BadRequest, InTheWay, NotAllowed, NotFound
from remote.protocol.ids import DeviceId
from remote.protocol.messages import Done
from remote.server.accounts import APP_TOKEN, new_device_id, token_hash
from remote.server.audit import note
from remote.server.database import accounts as account_rows
from remote.server.database.accounts import Device, DeviceRow
from remote.server.database.connection import Database, Session
from remote.server.hub import Hub
from remote.server.limits import check_label
from remote.server.scopes import stored_scopes

TOKENS_MAX = 100
"""App tokens of one user."""


class TokenAnswers:
    """What an instance answers to a device about the app tokens of its user."""

    def __init__(self, database: Database, hub: Hub, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._database = database
        self._hub = hub
        self._now_ns = now_ns

    async def make(self, device: Device, request: AppTokenRequest) -> AppTokenMade:
        """A new token, which is told this once.

        Raises BadRequest for what can be none, InTheWay for a name that another has, NotAllowed for too many.
        """
        check_label("name", request.name)
        scopes = stored_scopes(request.scopes)
        now_ns = self._now_ns()
        if request.expires_ns < 0 or 0 < request.expires_ns <= now_ns:
            raise BadRequest("The token would have expired already.")
        token = APP_TOKEN + secrets.token_urlsafe(32)

        def make(session: Session) -> AppTokenMade:
            if account_rows.token_count(session, device.user) >= TOKENS_MAX:
                raise NotAllowed(f"You have {TOKENS_MAX} app tokens, which is all that one user gets: revoke some.")
            if any(row.device_name == request.name for row in account_rows.app_tokens(session, device.user)):
                raise InTheWay(f"You have an app token {request.name} already: give this one another name.")
            made = Device(
                device.user,
                new_device_id(),
                device.user_name,
                token_hash(token),
                scopes=scopes,
                expires_ns=request.expires_ns,
            )
            account_rows.add_device(session, made, request.name, now_ns)
            note(session, device.user, "app token made", f"{request.name} for {scopes}")
            entry = AppToken(made.device, request.name, tuple(scopes.split()), now_ns, request.expires_ns)
            return AppTokenMade(token, entry)

        return await self._database.write(make)

    async def tokens(self, device: Device) -> AppTokens:
        """The app tokens of the device's user, also those that expired."""
        rows = await self._database.read(lambda session: account_rows.app_tokens(session, device.user))
        return AppTokens(tuple(_entry(row) for row in rows))

    async def revoke(self, device: Device, request: RevokeAppTokenRequest) -> Done:
        """Ends a token at once; raises NotFound for one that is not the user's."""

        def revoke(session: Session) -> DeviceRow:
            for row in account_rows.app_tokens(session, device.user):
                if row.device == request.token:
                    account_rows.revoke_device(session, device.user, DeviceId(row.device), row.token_hash)
                    note(session, device.user, "app token revoked", row.device_name)
                    return row
            raise NotFound(f"You have no app token {request.token}.")

        row = await self._database.write(revoke)
        self._hub.signed_out(row.token_hash)
        return Done()


def _entry(row: DeviceRow) -> AppToken:
    return AppToken(row.device, row.device_name, tuple(row.scopes.split()), row.created_ns, row.expires_ns, row.seen_ns)
