"""Messages about a user's account: devices, the password, public links."""

import msgspec

from remote.protocol.ids import DeviceId, NodeId, SpaceId


class DeviceEntry(msgspec.Struct, frozen=True):
    """A device of the user. `seen_ns`: when it last asked for anything, to ten minutes; 0: not since servers note it.

    `is_wiped`: it was told to remove what it holds, and has not said yet that it did.
    """

    device: DeviceId
    device_name: str
    created_ns: int
    seen_ns: int
    is_this: bool = False
    is_wiped: bool = False


class Devices(msgspec.Struct, frozen=True):
    """All devices of the user that are signed in, or are to be wiped; the newest first."""

    devices: tuple[DeviceEntry, ...]


class SignOutRequest(msgspec.Struct, frozen=True):
    """Signs another device of the user out; `wipe`: it is to remove what it holds of the drive when it asks next."""

    device: DeviceId
    wipe: bool = False


class RenameDeviceRequest(msgspec.Struct, frozen=True):
    """What a device of the user is called from now on, also in versions that it made before."""

    device: DeviceId
    device_name: str


class PasswordRequest(msgspec.Struct, frozen=True):
    """A new password, by who knows the old one; `sign_out_others`: all devices but this one have to sign in again."""

    old: str
    new: str
    sign_out_others: bool = False


class LinkRequest(msgspec.Struct, frozen=True):
    """A public link to a file or folder. `kind`: `read` (to download), `view` (to look at), `upload` (to bring files).

    `expires_ns`: server clock, 0 for never; `downloads_max`: 0 for any number; `password`: empty for none.
    """

    space: SpaceId
    node: NodeId
    kind: str = "read"
    expires_ns: int = 0
    password: str = ""
    downloads_max: int = 0


class LinkEntry(msgspec.Struct, frozen=True):
    """A link: `path` is to be put behind the server's address; `is_over`: it leads nowhere any more.

    `name`: of the file or folder, `/` for all of the drive; empty when it was removed.
    """

    link: int
    path: str
    name: str
    kind: str
    created_ns: int
    expires_ns: int = 0
    has_password: bool = False
    downloads: int = 0
    downloads_max: int = 0
    is_over: bool = False


class Links(msgspec.Struct, frozen=True):
    """The links of a user that were not revoked, the newest first."""

    links: tuple[LinkEntry, ...]


class RevokeLinkRequest(msgspec.Struct, frozen=True):
    """Ends a link at once, for ever."""

    link: int
