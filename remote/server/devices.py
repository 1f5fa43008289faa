"""Devices: what a user sees of the devices that are signed in, and ends from afar."""

from collections.abc import Callable

from remote.protocol.account import DeviceEntry, Devices, PasswordRequest, RenameDeviceRequest, SignOutRequest
from remote.protocol.errors import NotFound
from remote.protocol.messages import Done, LoginAnswer, LoginRequest
from remote.server.accounts import Accounts
from remote.server.audit import note
from remote.server.database import accounts as account_rows
from remote.server.database.accounts import Device, DeviceRow
from remote.server.database.connection import Database, Session
from remote.server.hub import Hub
from remote.server.limits import check_label
from remote.server.mail import Mail


class DeviceAnswers:
    """What an instance answers to a device about the devices of its user."""

    def __init__(self, database: Database, accounts: Accounts, hub: Hub, mail: Mail) -> None:
        self._database = database
        self._accounts = accounts
        self._hub = hub
        self._mail = mail

    async def devices(self, device: Device) -> Devices:
        """The devices of the device's user."""
        rows = await self._database.read(lambda session: account_rows.devices(session, device.user))
        return Devices(
            tuple(
                DeviceEntry(
                    row.device, row.device_name, row.created_ns, row.seen_ns, row.device == device.device, row.is_wiped
                )
                for row in rows
            )
        )

    async def sign_out(self, device: Device, request: SignOutRequest) -> Done:
        """Ends another device's token, or has it wiped; raises NotFound for a device that is not the user's."""

        def end(session: Session, row: DeviceRow) -> None:
            if request.wipe:
                account_rows.wipe_device(session, device.user, row.device)
            else:
                account_rows.revoke_device(session, device.user, row.device, row.token_hash)
            note(session, device.user, "device wiped" if request.wipe else "device signed out", row.device_name)

        row = await self._change(device, request.device, end)
        self._hub.signed_out(row.token_hash)
        return Done()

    async def rename(self, device: Device, request: RenameDeviceRequest) -> Done:
        """Calls a device of the user something else."""
        check_label("device_name", request.device_name)

        def change(session: Session, row: DeviceRow) -> None:
            account_rows.rename_device(session, device.user, row.device, request.device_name)
            note(session, device.user, "device renamed", f"{row.device_name} to {request.device_name}")

        await self._change(device, request.device, change)
        return Done()

    async def change_password(self, device: Device, request: PasswordRequest) -> Done:
        """Gives the user a new password."""
        for token_hash in await self._accounts.change_password(device, request):
            self._hub.signed_out(token_hash)
        self._mail.tell(device.user, "password-changed")
        return Done()

    async def login(self, request: LoginRequest) -> LoginAnswer:
        """A new device of a user, who is told of it; raises what `Accounts.login` does."""
        answer = await self._accounts.login(request)
        self._mail.tell(answer.user, "new-device", device=request.device_name)
        return answer

    async def logout(self, device: Device) -> Done:
        """Ends the device's own token."""
        await self._accounts.logout(device)
        self._hub.signed_out(device.token_hash)
        return Done()

    async def _change(self, device: Device, other: int, job: Callable[[Session, DeviceRow], None]) -> DeviceRow:
        def change(session: Session) -> DeviceRow:
            for row in account_rows.devices(session, device.user):
                if row.device == other:
                    job(session, row)
                    return row
            raise NotFound(f"You have no device {other} that is signed in.")

        return await self._database.write(change)
