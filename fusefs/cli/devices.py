"""Devices: those of the user, ended or renamed from here, and the password that they sign in with."""

import json

import msgspec

from fusefs.cli.asking import confirm, places
from fusefs.cli.server import asked_server, chosen, signed_in_account
from fusefs.cli.showing import shown
from fusefs.cli.signing_in import asked_password
from fusefs.control import Exit, Refused
from fusefs.settings import load_account, save_account
from remote.client.account import AccountService
from remote.protocol.account import DeviceEntry
from remote.protocol.times import iso


def listing(*, as_json: bool) -> None:
    """Prints the devices that are signed in; raises Refused."""
    found = asked_server(lambda service: service.devices()).devices
    if as_json:
        print(json.dumps([_as_json(entry) for entry in found], indent=2))
        return
    width = max(len(shown(entry.device_name)) for entry in found)
    for entry in found:
        if entry.is_wiped:
            standing = "is to be wiped, and has not answered yet"
        elif entry.is_this:
            standing = "this device"
        else:
            standing = f"last there {iso(entry.seen_ns)}" if entry.seen_ns else "not there lately"
        print(f"{shown(entry.device_name):{width}}  {entry.device:>19}  signed in {iso(entry.created_ns)}  {standing}")


def sign_out(which: str, *, is_wiping: bool, is_sure: bool = True) -> None:
    """Ends another device, by its number or its name; asks first unless `is_sure`. Raises Refused."""

    entry = _chosen(which, asked_server(lambda service: service.devices()).devices)
    name = shown(entry.device_name)
    if entry.is_this:
        raise Refused("That is this device. To sign it out: satchel logout")
    if not is_sure:
        confirm(
            f"{name} would lose all that it holds, also what it has not sent.",
            f"{name} loses all that it holds of the drive, also what it has not sent.",
            "Nothing was done.",
        )
    asked_server(lambda service: service.sign_out(entry.device, wipe=is_wiping))
    if is_wiping:
        print(f"{name} is signed out, and removes what it holds of the drive as soon as it reaches the server.")
    else:
        print(f"{name} is signed out. What it holds stays on it, and cannot be removed from afar any more.")


def rename(which: str, name: str) -> None:
    """Calls a device something else; raises Refused."""

    async def change(service: AccountService) -> DeviceEntry:
        entry = _chosen(which, (await service.devices()).devices)
        await service.rename(entry.device, name)
        return entry

    entry = asked_server(change)
    if entry.is_this:
        here = places()
        account = load_account(here.account_file)
        if account is not None:
            save_account(here.account_file, msgspec.structs.replace(account, device_name=name))
    print(f"{shown(entry.device_name)} is called {shown(name)} now.")


def change_password(*, is_on_stdin: bool, is_ending_others: bool) -> None:
    """Replaces the password; raises Refused."""
    account = signed_in_account()
    old = asked_password(f"Present password of {account.user_name}", is_on_stdin=is_on_stdin)
    new = asked_password("New password", is_on_stdin=is_on_stdin)
    if not is_on_stdin and asked_password("Once more", is_on_stdin=False) != new:
        raise Refused("The two new passwords differ; nothing was changed.", Exit.USAGE)
    asked_server(lambda service: service.change_password(old, new, sign_out_others=is_ending_others))
    others = "All other devices have to sign in again." if is_ending_others else "Devices stay signed in."
    print(f"The password is changed. {others}")


def _chosen(which: str, entries: tuple[DeviceEntry, ...]) -> DeviceEntry:
    return chosen(which, entries, lambda one: (one.device, one.device_name), "device", "satchel devices")


def _as_json(entry: DeviceEntry) -> dict[str, object]:
    return {
        "device": entry.device,
        "name": entry.device_name,
        "signed_in_ns": entry.created_ns,
        "seen_ns": entry.seen_ns,
        "is_this": entry.is_this,
        "is_to_be_wiped": entry.is_wiped,
    }
