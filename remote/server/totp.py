"""TOTP: turning the second factor of an account on and off, and its recovery codes."""

import base64

from remote.protocol.account import RecoveryCodes, TotpBegun, TotpCode, TotpRequest, TotpState
from remote.protocol.errors import BadRequest, InTheWay
from remote.protocol.messages import Done
from remote.server.accounts import Accounts
from remote.server.audit import note
from remote.server.codes import CODE_MAX, Codes, end_codes, new_recovery_codes, totp_of
from remote.server.database import totp as totp_rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session

ISSUER = "Satchel"


class TotpAnswers:
    """What an instance answers to a device about the second factor of its user."""

    def __init__(self, database: Database, accounts: Accounts, codes: Codes) -> None:
        self._database = database
        self._accounts = accounts
        self._codes = codes

    async def state(self, device: Device) -> TotpState:
        """Whether codes are asked for."""

        def read(session: Session) -> TotpState:
            row = totp_rows.totp(session, device.user)
            is_on = row is not None and row.is_on
            return TotpState(is_on, totp_rows.recovery_code_count(session, device.user) if is_on else 0)

        return await self._database.read(read)

    async def begin(self, device: Device, request: TotpRequest) -> TotpBegun:
        """A new secret for the user's authenticator app, by who knows the password; it counts when `turn_on` did."""
        await self._accounts.check_own_password(device, request.password)
        secret = await self._database.write(lambda session: self._codes.begin(session, device.user))
        text = base64.b32encode(secret).decode()
        return TotpBegun(text, totp_of(secret).get_provisioning_uri(device.user_name, ISSUER))

    async def turn_on(self, device: Device, request: TotpCode) -> RecoveryCodes:
        """Asks for codes from now on, after one was right; the recovery codes, which are told this once."""
        if len(request.code) > CODE_MAX:
            raise BadRequest("That is no code.")

        def turn_on(session: Session) -> RecoveryCodes:
            self._codes.turn_on(session, device.user, request.code)
            note(session, device.user, "codes on")
            return RecoveryCodes(new_recovery_codes(session, device.user))

        return await self._database.write(turn_on)

    async def turn_off(self, device: Device, request: TotpRequest) -> Done:
        """Asks for no codes any more, by who knows the password and a code."""
        await self._accounts.check_own_password(device, request.password)
        await self._codes.check(device.user, request.code)

        def turn_off(session: Session) -> Done:
            end_codes(session, device.user)
            return Done()

        return await self._database.write(turn_off)

    async def recovery_codes(self, device: Device, request: TotpCode) -> RecoveryCodes:
        """New recovery codes in place of all others, by who has a code."""
        if not await self._codes.is_on(device.user):
            raise InTheWay("Codes are not asked for, so there is nothing to recover.")
        await self._codes.check(device.user, request.code)
        return await self._database.write(lambda session: RecoveryCodes(new_recovery_codes(session, device.user)))
