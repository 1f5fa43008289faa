"""Statements on accounts, devices, tokens and leased ranges (keyed by user), and the directories that lead to them."""

from collections.abc import Iterator
from dataclasses import dataclass

from remote.protocol.ids import NOWHERE, DeviceId, NodeId, SpaceId, UserId
from remote.server.database.connection import Session
from remote.server.database.leases import end_holdings


@dataclass(frozen=True)
class Account:
    """One user as stored; `password_hash` is an argon2id string, empty for who signs in elsewhere only."""

    user: UserId
    user_name: str
    password_hash: str
    home: SpaceId
    is_disabled: bool = False
    email: str = ""


@dataclass(frozen=True)
class Device:
    """Who is asking: a signed-in device and its user. `scopes`: of an app token; empty: it may do everything."""

    user: UserId
    device: DeviceId
    user_name: str
    token_hash: bytes
    seen_ns: int = 0
    is_wiped: bool = False
    scopes: str = ""
    expires_ns: int = 0
    is_disabled: bool = False


@dataclass(frozen=True)
class DeviceRow:
    """A device as stored; one with `scopes` is an app token, which ends at `expires_ns` (0: never)."""

    device: DeviceId
    device_name: str
    token_hash: bytes
    created_ns: int
    seen_ns: int
    is_wiped: bool
    scopes: str = ""
    expires_ns: int = 0


SIGNED_OUT, TO_BE_WIPED = 1, 2
"""What `is_revoked` says of a device that is not signed in (0)."""


def setting(session: Session, name: str) -> bytes | None:
    """A value of the instance, or None."""
    found = session.row("SELECT value FROM setting WHERE name = ?", name)
    return bytes(found[0]) if found else None


def put_setting(session: Session, name: str, value: bytes) -> None:
    """Writes a value of the instance once."""
    session.run(
        "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name,
        value,
    )


def replace_setting(session: Session, name: str, value: bytes) -> None:
    """Changes a value of the instance."""
    session.run("UPDATE setting SET value = ? WHERE name = ?", value, name)


def user_of_login(session: Session, login_name: str) -> UserId | None:
    """Who signs in under this name."""
    found = session.row("SELECT user_id FROM login WHERE login_name = ?", login_name)
    return UserId(found[0]) if found else None


def users(session: Session) -> list[UserId]:
    """Everybody, by the name to sign in with; for whoever runs the server: it looks into every shard."""
    return [UserId(row[0]) for row in session.rows("SELECT user_id FROM login /* every shard */ ORDER BY login_name")]


def account(session: Session, user: UserId) -> Account | None:
    """The account of a user."""
    found = session.row(
        "SELECT user_name, password_hash, home, is_disabled, email FROM account WHERE user_id = ?", user
    )
    return Account(user, found[0], found[1], SpaceId(found[2]), bool(found[3]), found[4]) if found else None


def add_account(session: Session, login_name: str, account: Account, now_ns: int) -> None:
    """Writes an account and the name it signs in under."""
    session.run("INSERT INTO login (login_name, user_id) VALUES (?, ?)", login_name, account.user)
    session.run(
        "INSERT INTO account (user_id, user_name, password_hash, home, created_ns) VALUES (?, ?, ?, ?, ?)",
        account.user,
        account.user_name,
        account.password_hash,
        account.home,
        now_ns,
    )


def add_mount(session: Session, user: UserId, space: SpaceId, node: NodeId = NOWHERE) -> None:
    """Notes that the user is a member of the space, and which node of his home stands for it (0: it is his home)."""
    session.run("INSERT INTO mount (user_id, space_id, node_id) VALUES (?, ?, ?)", user, space, node)


def end_mount(session: Session, user: UserId, space: SpaceId) -> None:
    """The user is no member of the space any more."""
    session.run("DELETE FROM mount WHERE user_id = ? AND space_id = ?", user, space)


def mount_node(session: Session, user: UserId, space: SpaceId) -> NodeId:
    """The node of the user's home that stands for the space; NOWHERE when none does."""
    found = session.row("SELECT node_id FROM mount WHERE user_id = ? AND space_id = ?", user, space)
    return NodeId(found[0]) if found else NOWHERE


def spaces_serial(session: Session, user: UserId) -> int:
    """Grows whenever spaces, roles or invitations of the user change."""
    found = session.row("SELECT spaces_serial FROM account WHERE user_id = ?", user)
    return int(found[0]) if found else 0


def spaces_changed(session: Session, user: UserId) -> None:
    """Spaces, roles or invitations of the user changed."""
    session.run("UPDATE account SET spaces_serial = spaces_serial + 1 WHERE user_id = ?", user)


def mounts(session: Session, user: UserId) -> list[SpaceId]:
    """The spaces that the user is a member of."""
    found = session.rows("SELECT space_id FROM mount WHERE user_id = ? ORDER BY space_id", user)
    return [SpaceId(row[0]) for row in found]


def add_device(session: Session, device: Device, device_name: str, now_ns: int) -> None:
    """Writes a signed-in device and the way from its token to it."""
    session.run(
        "INSERT INTO device (user_id, device_id, device_name, token_hash, created_ns, is_revoked, scopes, expires_ns)"
        " VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        device.user,
        device.device,
        device_name,
        device.token_hash,
        now_ns,
        device.scopes,
        device.expires_ns,
    )
    session.run(
        "INSERT INTO token (token_hash, user_id, device_id) VALUES (?, ?, ?)",
        device.token_hash,
        device.user,
        device.device,
    )


def device_count(session: Session, user: UserId) -> int:
    """How many devices of the user are signed in."""
    found = session.row("SELECT count(*) FROM device WHERE user_id = ? AND is_revoked = 0 AND scopes = ''", user)
    return int(found[0]) if found else 0


def token_count(session: Session, user: UserId) -> int:
    """How many app tokens the user has."""
    found = session.row("SELECT count(*) FROM device WHERE user_id = ? AND is_revoked = 0 AND scopes <> ''", user)
    return int(found[0]) if found else 0


def device_of_token(session: Session, token_hash: bytes) -> Device | None:
    """The device that holds this token, unless it was signed out; it may be one that is to be wiped."""
    found = session.row("SELECT user_id, device_id FROM token WHERE token_hash = ?", token_hash)
    if found is None:
        return None
    user, device = UserId(found[0]), DeviceId(found[1])
    stands = session.row(
        "SELECT is_revoked, seen_ns, scopes, expires_ns FROM device WHERE user_id = ? AND device_id = ?", user, device
    )
    owner = account(session, user)
    if stands is None or stands[0] == SIGNED_OUT or owner is None:
        return None
    return Device(
        user,
        device,
        owner.user_name,
        token_hash,
        seen_ns=stands[1],
        is_wiped=stands[0] == TO_BE_WIPED,
        scopes=stands[2],
        expires_ns=stands[3],
        is_disabled=owner.is_disabled,
    )


def revoke_device(session: Session, user: UserId, device: DeviceId, token_hash: bytes) -> None:
    """Ends the device's token, and what it held of quotas; the device stays, for the history that names it."""
    _set_standing(session, user, device, SIGNED_OUT)
    end_holdings(session, mounts(session, user), device)
    session.run("DELETE FROM token WHERE token_hash = ?", token_hash)


def wipe_device(session: Session, user: UserId, device: DeviceId) -> None:
    """Ends what the device may do; its token stays known, so that it can be told to wipe itself."""
    _set_standing(session, user, device, TO_BE_WIPED)
    end_holdings(session, mounts(session, user), device)


def devices(session: Session, user: UserId) -> list[DeviceRow]:
    """The devices of a user that are signed in or to be wiped, the newest first; not his app tokens."""
    return [row for row in _all_devices(session, user) if not row.scopes]


def device_ids(session: Session, user: UserId) -> list[DeviceId]:
    """Every device and app token that a user has or had."""
    return [DeviceId(row[0]) for row in session.rows("SELECT device_id FROM device WHERE user_id = ?", user)]


def app_tokens(session: Session, user: UserId) -> list[DeviceRow]:
    """The app tokens of a user that were not revoked, the newest first."""
    return [row for row in _all_devices(session, user) if row.scopes]


def _all_devices(session: Session, user: UserId) -> Iterator[DeviceRow]:
    found = session.rows(
        "SELECT device_id, device_name, token_hash, created_ns, seen_ns, is_revoked, scopes, expires_ns FROM device"
        " WHERE user_id = ? AND is_revoked <> ? ORDER BY created_ns DESC, device_id",
        user,
        SIGNED_OUT,
    )
    for row in found:
        yield DeviceRow(DeviceId(row[0]), row[1], bytes(row[2]), row[3], row[4], row[5] == TO_BE_WIPED, row[6], row[7])


def set_seen(session: Session, user: UserId, device: DeviceId, now_ns: int) -> None:
    """Notes that the device asked for something."""
    session.run("UPDATE device SET seen_ns = ? WHERE user_id = ? AND device_id = ?", now_ns, user, device)


def rename_device(session: Session, user: UserId, device: DeviceId, device_name: str) -> None:
    """Calls a device something else."""
    session.run("UPDATE device SET device_name = ? WHERE user_id = ? AND device_id = ?", device_name, user, device)


def set_password(session: Session, user: UserId, password_hash: str) -> None:
    """Replaces the password."""
    session.run("UPDATE account SET password_hash = ? WHERE user_id = ?", password_hash, user)


def set_disabled(session: Session, user: UserId, *, is_disabled: bool) -> None:
    """Keeps the user out, or lets him in again."""
    session.run("UPDATE account SET is_disabled = ? WHERE user_id = ?", int(is_disabled), user)


def set_email(session: Session, user: UserId, email: str) -> None:
    """Where mail to the user goes; empty: nowhere."""
    session.run("UPDATE account SET email = ? WHERE user_id = ?", email, user)


def user_of_identity(session: Session, identity_hash: bytes) -> UserId | None:
    """Who signs in elsewhere as this."""
    found = session.row("SELECT user_id FROM identity WHERE identity_hash = ?", identity_hash)
    return UserId(found[0]) if found else None


def put_identity(session: Session, identity_hash: bytes, user: UserId) -> None:
    """Who signs in elsewhere as this is that user from now on."""
    session.run(
        "INSERT INTO identity (identity_hash, user_id) VALUES (?, ?)"
        " ON CONFLICT (identity_hash) DO UPDATE SET user_id = excluded.user_id",
        identity_hash,
        user,
    )


def _set_standing(session: Session, user: UserId, device: DeviceId, standing: int) -> None:
    session.run("UPDATE device SET is_revoked = ? WHERE user_id = ? AND device_id = ?", standing, user, device)


def device_name(session: Session, user: UserId, device: DeviceId) -> str:
    """What the device called itself; empty for the server itself."""
    found = session.row("SELECT device_name FROM device WHERE user_id = ? AND device_id = ?", user, device)
    return str(found[0]) if found else ""


def add_range(session: Session, range_number: int, user: UserId, device: DeviceId) -> bool:
    """Leases a range, unless it is leased already."""
    taken = session.run(
        "INSERT INTO node_range (range_number, user_id) VALUES (?, ?) ON CONFLICT DO NOTHING", range_number, user
    )
    if taken:
        session.run("INSERT INTO lease (user_id, range_number, device_id) VALUES (?, ?, ?)", user, range_number, device)
    return bool(taken)


def range_count(session: Session, user: UserId) -> int:
    """How many ranges the user's devices hold."""
    found = session.row("SELECT count(*) FROM lease WHERE user_id = ?", user)
    return int(found[0]) if found else 0


def holds_range(session: Session, user: UserId, range_number: int) -> bool:
    """Whether one of the user's devices leased this range."""
    sql = "SELECT 1 FROM lease WHERE user_id = ? AND range_number = ?"
    return session.row(sql, user, range_number) is not None


def end_account(session: Session, user: UserId, login_name: str) -> None:
    """Removes an account and the name it signs in under."""
    session.run("DELETE FROM login WHERE login_name = ?", login_name)
    session.run("DELETE FROM account WHERE user_id = ?", user)
