"""Messages about a user's account: devices, the password, public links."""

import msgspec

from remote.protocol.ids import NO_SPACE, DeviceId, NodeId, SpaceId
from remote.protocol.messages import LoginAnswer


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

    `name`: of the file or folder, `/` for all of the drive; empty when it was removed. `leads_to`: its path in the
    drive of who made the link, where it was last when it was removed; empty when he may not see it any more.
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
    leads_to: str = ""


class Links(msgspec.Struct, frozen=True):
    """The links of a user that were not revoked, the newest first."""

    links: tuple[LinkEntry, ...]


class RevokeLinkRequest(msgspec.Struct, frozen=True):
    """Ends a link at once, for ever."""

    link: int


class AuditRequest(msgspec.Struct, frozen=True):
    """What was done in the user's name or to him, from a time on and before another (server clock; 0: any)."""

    since_ns: int = 0
    before_ns: int = 0
    limit: int = 100


class AuditEntry(msgspec.Struct, frozen=True):
    """One thing that was done. `by`: who did it, empty for whoever runs the server, or for nobody who is known.

    `is_good`: it was done; else it was tried and refused. `address`: from where, empty for the server itself.
    """

    time_ns: int
    what: str
    about: str
    by: str
    device_name: str
    address: str
    is_good: bool


class Audit(msgspec.Struct, frozen=True):
    """The newest first; `next`: ask again with this as `before_ns`, 0: there is no more."""

    entries: tuple[AuditEntry, ...]
    next: int = 0


class TotpState(msgspec.Struct, frozen=True):
    """Whether the user is asked for codes at sign-in, and how many recovery codes are left."""

    is_on: bool
    recovery_codes: int = 0


class TotpRequest(msgspec.Struct, frozen=True):
    """By who knows the password; `code`: of the authenticator app, or a recovery code, where codes are on."""

    password: str
    code: str = ""


class TotpCode(msgspec.Struct, frozen=True):
    """A code of the authenticator app."""

    code: str


class TotpBegun(msgspec.Struct, frozen=True):
    """The secret for an authenticator app, in base 32 to type and as an otpauth address; told this once."""

    secret: str
    address: str


class RecoveryCodes(msgspec.Struct, frozen=True):
    """Each stands for one code of the authenticator app, once; told this once."""

    codes: tuple[str, ...]


class AppTokenRequest(msgspec.Struct, frozen=True):
    """A token for a program. `scopes`: read, write, share, forget, webdav, webdav-read; `expires_ns` 0: never."""

    name: str
    scopes: tuple[str, ...]
    expires_ns: int = 0


class AppToken(msgspec.Struct, frozen=True):
    """An app token: its number, which ends it, and what it may be used for. `seen_ns`: last used, to ten minutes."""

    token: DeviceId
    name: str
    scopes: tuple[str, ...]
    created_ns: int
    expires_ns: int = 0
    seen_ns: int = 0


class AppTokenMade(msgspec.Struct, frozen=True):
    """What the program has to send; told this once."""

    secret: str
    entry: AppToken


class AppTokens(msgspec.Struct, frozen=True):
    """The app tokens of the user that were not revoked, the newest first."""

    tokens: tuple[AppToken, ...]


class RevokeAppTokenRequest(msgspec.Struct, frozen=True):
    """Ends an app token at once, for ever."""

    token: DeviceId


class EmailRequest(msgspec.Struct, frozen=True):
    """Where mail to the user goes; empty: nowhere."""

    email: str


class Email(msgspec.Struct, frozen=True):
    """Where mail to the user goes; `is_sent`: whether this server sends any."""

    email: str
    is_sent: bool = False


class PreviewRequest(msgspec.Struct, frozen=True):
    """What a file looks like, in at most so many pixels: 128, 256, 512 or 1,024; `space` 0: wherever the node is."""

    node: NodeId
    size: int = 256
    space: SpaceId = NO_SPACE


class Preview(msgspec.Struct, frozen=True):
    """A PNG of that size, or of the picture's own when that is smaller."""

    png: bytes
    size: int


class SsoRequest(msgspec.Struct, frozen=True):
    """Begins to sign in a new device whose user signs in elsewhere, with a browser."""

    device_name: str


class SsoBegun(msgspec.Struct, frozen=True):
    """`path`: to be opened in a browser, behind the server's address; it shows the same `letters`.

    `secret`: to ask with, for `seconds` at the most.
    """

    path: str
    secret: str
    letters: str
    seconds: int


class SsoAsk(msgspec.Struct, frozen=True):
    """Has the user signed in? The answer may take half a minute."""

    secret: str


class SsoAnswer(msgspec.Struct, frozen=True):
    """The new device, which is told this once; None: not yet, ask again."""

    login: LoginAnswer | None = None
