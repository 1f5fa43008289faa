"""Devices of a user: listed, renamed, signed out and wiped from another one; and the password."""

import asyncio
from typing import Any

import pytest

from remote.protocol.account import DeviceEntry, Devices, PasswordRequest, RenameDeviceRequest, SignOutRequest
from remote.protocol.errors import BadRequest, NotAllowed, NotFound, NotSignedIn, Wiped
from remote.protocol.messages import Done, LoginRequest
from remote.server import accounts
from remote.server import instance as instances
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


async def listed(asker: Any) -> tuple[DeviceEntry, ...]:
    return (await asker.ask("GET", "/v1/devices", None, Devices)).devices


async def post(asker: Any, path: str, message: object) -> None:
    await asker.ask("POST", f"/v1/{path}", message, Done)


async def test_a_user_sees_all_devices_and_nobody_elses(sign_in: Any) -> None:
    first, second, _ = await sign_in("ann"), await sign_in("ann"), await sign_in("bob")
    found = await listed(second)
    assert {entry.device for entry in found} == {first.login.device, second.login.device}
    assert [entry.device for entry in found if entry.is_this] == [second.login.device]
    assert all(entry.created_ns for entry in found)


async def test_when_a_device_was_last_there_is_noted_now_and_then(
    sign_in: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await sign_in("ann")
    now = [5_000 * 10**9]
    monkeypatch.setattr(instance.accounts, "_now_ns", lambda: now[0])
    await ann.spaces()
    assert [entry.seen_ns for entry in await listed(ann)] == [now[0]]
    now[0] += accounts.SEEN_EVERY_NS
    assert [entry.seen_ns for entry in await listed(ann)] == [5_000 * 10**9]
    now[0] += 1
    await ann.spaces()
    assert [entry.seen_ns for entry in await listed(ann)] == [now[0]]


async def test_a_device_that_is_signed_out_from_afar_ends_at_once(sign_in: Any, build: Any, instance: Instance) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    head = (await first.space()).head
    polling = asyncio.create_task(first.poll({first.home: head}, 30))
    await build.until(lambda: bool(instance.hub._by_token))
    await post(second, "devices/sign-out", SignOutRequest(first.login.device))
    with pytest.raises(NotSignedIn):
        async with asyncio.timeout(10):
            await polling
    with pytest.raises(NotSignedIn) as raised:
        await first.spaces()
    assert not isinstance(raised.value, Wiped)
    assert [entry.device for entry in await listed(second)] == [second.login.device]


async def test_a_device_that_is_to_be_wiped_hears_of_it_until_it_says_that_it_did(sign_in: Any) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    await post(second, "devices/sign-out", SignOutRequest(first.login.device, wipe=True))
    for _ in range(2):
        with pytest.raises(Wiped):
            await first.spaces()
    assert [entry.device for entry in await listed(second) if entry.is_wiped] == [first.login.device]
    await post(first, "logout", None)
    assert [entry.device for entry in await listed(second)] == [second.login.device]
    with pytest.raises(NotSignedIn):
        await first.spaces()


@pytest.mark.parametrize("wipe", [False, True])
async def test_nobody_ends_or_renames_devices_of_others(ann: Any, bob: Any, wipe: bool) -> None:
    with pytest.raises(NotFound):
        await post(bob, "devices/sign-out", SignOutRequest(ann.login.device, wipe))
    with pytest.raises(NotFound):
        await post(bob, "devices/rename", RenameDeviceRequest(ann.login.device, "mine"))
    await ann.spaces()


async def test_a_new_name_shows_in_versions_too(ann: Any) -> None:
    node = await ann.new_folder(b"thesis")
    await post(ann, "devices/rename", RenameDeviceRequest(ann.login.device, "lap top"))
    assert (await ann.history(node)).versions[0].device_name == "lap top"


async def test_a_new_password_needs_the_old_one(sign_in: Any, build: Any) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    with pytest.raises(NotAllowed, match="not the present password"):
        await post(first, "password", PasswordRequest("wrong", "a new one"))
    with pytest.raises(BadRequest, match="at least 8"):
        await post(first, "password", PasswordRequest(build.password, "7777777"))
    await post(first, "password", PasswordRequest(build.password, "a new one"))
    await second.spaces()
    await post(first, "password", PasswordRequest("a new one", "an even newer", sign_out_others=True))
    with pytest.raises(NotSignedIn):
        await second.spaces()
    await first.spaces()
    with pytest.raises(NotSignedIn):
        await first.ask("POST", "/v1/login", LoginRequest("ann", build.password, "desk"), Done)


async def test_whoever_runs_the_server_lists_users_and_gives_passwords(
    sign_in: Any, tmp_path: Any, instance: Instance
) -> None:
    ann = await sign_in("ann")
    await sign_in("bob")
    await ann.spaces()
    found = instances.users(tmp_path / "data", tmp_path / "key")
    assert [(line.user_name, line.devices, line.quota) for line in found] == [("ann", 1, 0), ("bob", 1, 0)]
    instances.set_password(tmp_path / "data", tmp_path / "key", "ANN", "given by admin")
    await post(ann, "password", PasswordRequest("given by admin", "chosen by ann"))
    with pytest.raises(instances.InstanceTrouble, match="no user carl"):
        instances.set_password(tmp_path / "data", tmp_path / "key", "carl", "xxxxxxxx")
