"""The JSON API of an account: its devices, its password, its public links, and signing out."""

import time
from typing import Annotated, Any

import msgspec
from litestar import delete, get, patch, post
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta

from remote.protocol.account import (
    LinkEntry,
    LinkRequest,
    PasswordRequest,
    RenameDeviceRequest,
    RevokeLinkRequest,
    SignOutRequest,
)
from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.ids import DeviceId
from remote.protocol.times import iso, last_of
from remote.server.http.api_common import device_of, file_id, space_id
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63, INT63_TOLD, LABEL_MAX, PASSWORD_MAX
from remote.server.rights import Right

Password = Annotated[str, Meta(max_length=PASSWORD_MAX)]
Number = Annotated[str, PathParameter(pattern="^[0-9]{1,19}$", description="Its number.")]
Wipe = Annotated[
    bool, QueryParameter(name="wipe", description="Have it remove what it holds of the drive: when it is lost.")
]


class DeviceLine(msgspec.Struct):
    """A device of yours; `seen` null: not since servers note it. `is_wiped`: it was told to remove what it holds."""

    device: str
    name: str
    created: str
    seen: str | None
    is_this: bool
    is_wiped: bool


class NewName(msgspec.Struct, forbid_unknown_fields=True):
    """What a device is called from now on."""

    name: Annotated[str, Meta(min_length=1, max_length=LABEL_MAX)]


class NewPassword(msgspec.Struct, forbid_unknown_fields=True):
    """A new password, by who knows the old one; `sign_out_others`: all devices but this one sign in again."""

    old: Password
    new: Password
    sign_out_others: bool = False


class NewLink(msgspec.Struct, forbid_unknown_fields=True):
    """A public link to a file or folder. `kind`: read (to download), view (to look at), upload (to bring files).

    `expires`: a time in ISO 8601, empty: never; `downloads_max` 0: any number; `password` empty: none.
    """

    file: Annotated[str, Meta(pattern="^[0-9]{1,19}$", max_length=19)]
    space: Annotated[str, Meta(pattern="^[0-9]{0,19}$", max_length=19)] = ""
    kind: Annotated[str, Meta(pattern="^(read|view|upload)$")] = "read"
    expires: Annotated[str, Meta(max_length=100)] = ""
    password: Password = ""
    downloads_max: Annotated[int, Meta(ge=0, le=INT63_TOLD)] = 0


class Link(msgspec.Struct):
    """A link of yours: `url` is for whoever gets it. `is_over`: it leads nowhere any more.

    `leads_to`: a path in your drive, the last one when that was removed; empty: you may not see it any more.
    """

    link: str
    url: str
    name: str
    kind: str
    created: str
    expires: str | None
    has_password: bool
    downloads: int
    downloads_max: int
    is_over: bool
    leads_to: str


class Ended(msgspec.Struct):
    """What is over from now on."""

    ended: str


def account_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """All routes of this module."""
    return [*_devices(instance), *_links(instance)]


def _devices(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    devices = instance.devices

    @get("/devices", summary="Your devices that are signed in, newest first")
    async def listing(request: AnyRequest) -> list[DeviceLine]:
        found = await devices.devices(await device_of(instance, request))
        return [
            DeviceLine(
                str(one.device),
                one.device_name,
                iso(one.created_ns),
                iso(one.seen_ns) if one.seen_ns else None,
                one.is_this,
                one.is_wiped,
            )
            for one in found.devices
        ]

    @patch("/devices/{device:str}", summary="Call a device something else, also in the versions that it made")
    async def rename(request: AnyRequest, device: Number, data: JSONBody[NewName]) -> NewName:
        asker = await device_of(instance, request)
        await devices.rename(asker, RenameDeviceRequest(_device_id(device), data.name))
        return data

    @delete("/devices/{device:str}", status_code=200, summary="Sign a device out; what it holds stays, or is wiped")
    async def sign_out(request: AnyRequest, device: Number, wipe: Wipe = False) -> Ended:
        asker = await device_of(instance, request)
        await devices.sign_out(asker, SignOutRequest(_device_id(device), wipe))
        return Ended(device)

    @post("/logout", status_code=200, summary="End the token that asks")
    async def logout(request: AnyRequest) -> Ended:
        asker = await device_of(instance, request)
        await devices.logout(asker)
        return Ended(str(asker.device))

    @post("/password", status_code=200, summary="Change your password")
    async def password(request: AnyRequest, data: JSONBody[NewPassword]) -> Ended:
        asker = await device_of(instance, request)
        await devices.change_password(asker, PasswordRequest(data.old, data.new, data.sign_out_others))
        return Ended("the old password")

    return [listing, rename, sign_out, logout, password]


def _links(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    links = instance.links

    @get("/links", summary="Your public links that were not revoked, newest first")
    async def listing(request: AnyRequest) -> list[Link]:
        found = await links.links(await device_of(instance, request))
        return [_link(request, one) for one in found.links]

    @post("/links", status_code=201, summary="Make a public link to a file or folder")
    async def make(request: AnyRequest, data: JSONBody[NewLink]) -> Link:
        device = await device_of(instance, request)
        node = file_id(data.file)
        row = await instance.locator.space_of(device, node, space_id(data.space), Right.READ)
        expires_ns = _expiry(data.expires)
        wanted = LinkRequest(row.space, node, data.kind, expires_ns, data.password, data.downloads_max)
        return _link(request, await links.make(device, wanted))

    @delete("/links/{link:str}", status_code=200, summary="End a link at once, for ever")
    async def revoke(request: AnyRequest, link: Number) -> Ended:
        device = await device_of(instance, request)
        await links.revoke(device, RevokeLinkRequest(_number(link)))
        return Ended(link)

    return [listing, make, revoke]


def _link(request: AnyRequest, one: LinkEntry) -> Link:
    return Link(
        link=str(one.link),
        url=str(request.base_url).rstrip("/") + one.path,
        name=one.name,
        kind=one.kind,
        created=iso(one.created_ns),
        expires=iso(one.expires_ns) if one.expires_ns else None,
        has_password=one.has_password,
        downloads=one.downloads,
        downloads_max=one.downloads_max,
        is_over=one.is_over,
        leads_to=one.leads_to,
    )


def _expiry(text: str) -> int:
    if not text:
        return 0
    try:
        expires_ns = last_of(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if not time.time_ns() < expires_ns <= INT63:
        raise BadRequest(f"{text} is over already, or too far away.")
    return expires_ns


def _device_id(text: str) -> DeviceId:
    return DeviceId(_number(text))


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= INT63:
        raise NotFound(f"There is no {text[:40]!r}.")
    return int(text)
