"""Devices: what a user sees of the devices that are signed in, and ends from afar."""

from collections.abc import Callable

from remote.protocol.account import DeviceEntry, Devices, PasswordRequest, RenameDeviceRequest, SignOutRequest
from remote.protocol.errors import NotFound
from remote.protocol.messages import Done
from remote.server.accounts import Accounts
from remote.server.database import accounts as account_rows
from remote.server.database.accounts import Device, DeviceRow
from remote.server.database.connection import Database, Session
from remote.server.hub import Hub
from remote.server.limits import check_label


class DeviceAnswers:
    """What an instance answers to a device about the devices of its user."""

    def __init__(self, database: Database, accounts: Accounts, hub: Hub) -> None:
        self._database = database
        self._accounts = accounts
        self._hub = hub

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

        row = await self._change(device, request.device, end)
        self._hub.signed_out(row.token_hash)
        return Done()

    async def rename(self, device: Device, request: RenameDeviceRequest) -> Done:
        """Calls a device of the user something else."""
        check_label("device_name", request.device_name)
        await self._change(
            device,
            request.device,
            lambda session, row: account_rows.rename_device(session, device.user, row.device, request.device_name),
        )
        return Done()

    async def change_password(self, device: Device, request: PasswordRequest) -> Done:
        """Gives the user a new password."""
        for token_hash in await self._accounts.change_password(device, request):
            self._hub.signed_out(token_hash)
        return Done()

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
