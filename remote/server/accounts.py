"""Accounts: who may sign in, which devices are signed in, and the ranges of node ids they hold."""

import asyncio
import hashlib
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import argon2

from remote.protocol.account import PasswordRequest
from remote.protocol.errors import (
    BadRequest,
    Busy,
    Disabled,
    InTheWay,
    NotAllowed,
    NotSignedIn,
    ServerFault,
    TooLarge,
    Wiped,
)
from remote.protocol.ids import NODE_RANGE_BITS, ROOT, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import LoginAnswer, LoginRequest, NodeRange
from remote.protocol.nodes import ROOT_NAME, Kind, NodeState
from remote.server.asking import asking
from remote.server.audit import NOBODY, note
from remote.server.codes import Codes
from remote.server.database import accounts as account_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Account, Device, DeviceRow
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import JournalRow, SpaceRow
from remote.server.keys import MasterKey, SpaceKey, fresh_key
from remote.server.limits import LABEL_MAX, check_label, check_password
from remote.server.quotas import count_past
from remote.server.scopes import WEBDAV, WEBDAV_READ, check_scope, covers
from remote.server.slowing import Lately, Slowing
from remote.server.states import encode_state

RANGES_MAX = 4_096
"""Ranges of one user: 16 million million nodes; who asks for more asks in a loop."""
DEVICES_MAX = 1_000
"""Devices of one user that are signed in."""
SEEN_EVERY_NS = 600 * 1_000_000_000
"""How exactly it is noted when a device was last there: each note is a write."""
RANGE_NUMBER_MAX = (1 << 30) - 1
HASHING_MAX = 2
"""Passwords hashed at a time: each takes 64 MiB and a core."""
HASHING_WAITING_MAX = 32
PASSWORD_MIN = 8
"""Characters of a new password."""
APP_TOKEN = "app."  # noqa: S105  - how a secret begins is none
"""What app tokens begin with, so that one is known among passwords; no token of a device has a dot."""
EMAIL_MAX = 254
PROVEN_MAX = 1_000
PROVEN_SECONDS = 600.0
"""So long a right password is not hashed again: each time takes 64 MiB and a tenth of a second."""


def login_name(name: str) -> str:
    """What a name is looked up by: case and Unicode form do not matter."""
    return unicodedata.normalize("NFKC", name).casefold()


def hash_password(password: str) -> str:
    """The argon2id string to store."""
    check_password(password)
    return _hasher.hash(password)


def check_new_password(password: str) -> None:
    """Raises BadRequest for what may not become the password of an account."""
    check_password(password)
    if len(password) < PASSWORD_MIN:
        raise BadRequest(f"The password is too short: give at least {PASSWORD_MIN} characters.")


def add_user(session: Session, master: MasterKey, name: str, password_hash: str, now_ns: int) -> Account:
    """A new account with its home space; raises InTheWay when the name is taken, BadRequest when it can be none."""
    check_label("The user name", name)
    if account_rows.user_of_login(session, login_name(name)) is not None:
        raise InTheWay(f"There is a user {name} already.")
    user, home = UserId(_random_id()), SpaceId(_random_id())
    account = Account(user, name, password_hash, home)
    account_rows.add_account(session, login_name(name), account, now_ns)
    _add_home(session, master, account, now_ns)
    note(session, user, "user added", name)
    return account


def user_called(session: Session, name: str) -> UserId | None:
    """Who signs in under this name."""
    return account_rows.user_of_login(session, login_name(name))


def set_home_quota(
    session: Session, master: MasterKey, name: str, quota: int, *, counts_past: bool | None = None
) -> bool:
    """Bounds what a user keeps to so many bytes (0: no bound); False when there is no such user.

    `counts_past`: whether older versions count from now on; None: as it is.
    """
    account = _account_of(session, login_name(name))
    if account is None:
        return False
    space_rows.set_quota(session, account.home, quota)
    paid = (account.home, *space_rows.paid_by(session, account.home))
    # Their devices look at once.
    for member in {member for space in paid for member, _ in space_rows.members(session, space)}:
        account_rows.spaces_changed(session, member)
    for space in paid if counts_past is not None else ():
        row = space_rows.space_row(session, space)
        if row is not None:
            count_past(session, row, SpaceKey(master.unwrap(row.wrapped_key)), counts_past=bool(counts_past))
    with_past = "" if counts_past is None else ", with older versions" if counts_past else ", without older versions"
    note(session, account.user, "quota set", f"{quota} bytes{with_past}")
    return True


@dataclass(frozen=True)
class UserLine:
    """An account as whoever runs the server sees it; sizes in bytes, quota 0: none."""

    user_name: str
    used: int
    quota: int
    devices: int
    seen_ns: int
    """When one of the devices was last there; 0: not since servers note it."""
    counts_past: bool = False
    """Whether older versions count."""
    is_disabled: bool = False
    email: str = ""


def list_users(session: Session) -> list[UserLine]:
    """All accounts, by name."""
    found: list[UserLine] = []
    for user in account_rows.users(session):
        account = account_rows.account(session, user)
        home = space_rows.space_row(session, account.home) if account is not None else None
        if account is None or home is None:
            continue
        devices = [row for row in account_rows.devices(session, user) if not row.is_wiped]
        seen_ns = max((row.seen_ns for row in devices), default=0)
        found.append(
            UserLine(
                account.user_name,
                home.used + home.shared_used,
                home.quota,
                len(devices),
                seen_ns,
                bool(home.counts_past),
                account.is_disabled,
                account.email,
            )
        )
    return found


def replace_password(session: Session, name: str, password_hash: str) -> bool:
    """Gives the user a new password; False when there is no such user."""
    account = _account_of(session, login_name(name))
    if account is None:
        return False
    account_rows.set_password(session, account.user, password_hash)
    note(session, account.user, "password set")
    return True


def disable_user(session: Session, user: UserId, *, is_disabled: bool) -> None:
    """Keeps a user and all his devices, tokens and links out, or lets them in again."""
    account_rows.set_disabled(session, user, is_disabled=is_disabled)
    note(session, user, "user disabled" if is_disabled else "user enabled")


def check_email(email: str) -> None:
    """Raises BadRequest for what no mail can go to; empty is allowed, for none."""
    name, at, host = email.rpartition("@")
    is_plain = email.isascii() and email.isprintable() and not any(letter in email for letter in ' <>,;"()[]\\')
    if email and not (at and name and "@" not in name and "." in host and is_plain and len(email) <= EMAIL_MAX):
        raise BadRequest(f"{email[:80]!r} is no address that mail can go to.")


def change_email(session: Session, user: UserId, email: str) -> None:
    """Where mail to the user goes; empty: nowhere."""
    account_rows.set_email(session, user, email)
    note(session, user, "e-mail set", email or "none")


def identity_hash(issuer: str, subject: str) -> bytes:
    """What somebody who signs in elsewhere is looked up by."""
    plain = issuer.rstrip("/")
    return hashlib.sha256(f"{len(plain)} {plain} {subject}".encode()).digest()


def put_identity(session: Session, user: UserId, issuer: str, subject: str) -> None:
    """Has who signs in at the issuer as this subject be the user."""
    account_rows.put_identity(session, identity_hash(issuer, subject), user)
    note(session, user, "identity linked", f"{subject} at {issuer}")


def token_hash(token: str) -> bytes:
    """What is stored of a token: it has 256 random bits, so a plain hash does."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True)
class Known:
    """Who asks by name and password; `token_hash`: of the app token that he gave in place of one."""

    user: UserId
    home: SpaceId
    may_write: bool = True
    token_hash: bytes = b""


class Accounts:
    """Signs devices in and out, and says which device a token belongs to."""

    def __init__(
        self, database: Database, instance: str, slowing: Slowing, codes: Codes, now_ns: Callable[[], int]
    ) -> None:
        self._database = database
        self._instance = instance
        self._now_ns = now_ns
        self._codes = codes
        self.slowing = slowing
        self._proven = Lately(PROVEN_MAX, PROVEN_SECONDS)
        self._hashing = ThreadPoolExecutor(HASHING_MAX, thread_name_prefix="password")
        self._hashing_count = 0

    async def login(self, request: LoginRequest) -> LoginAnswer:
        """A new device of the user; raises NotSignedIn, CodeNeeded, or Busy after too many wrong passwords."""
        check_label("device_name", request.device_name)
        check_password(request.password)
        if len(request.user) > LABEL_MAX:
            raise TooLarge(f"The user name has {len(request.user)} characters; at most {LABEL_MAX} are allowed.")
        account = await self._signing_in(login_name(request.user), request.password)
        await self._codes.check(account.user, request.code)
        return await self.sign_in(account, request.device_name)

    async def sign_in(self, account: Account, device_name: str) -> LoginAnswer:
        """A new device of who proved to be this user; raises NotAllowed for too many, NotSignedIn when disabled."""
        _check_enabled(account.is_disabled)
        check_label("device_name", device_name)
        token = secrets.token_urlsafe(32)
        device = Device(account.user, new_device_id(), account.user_name, token_hash(token))
        asking().is_by(device.user, device.user_name, device.device)
        await self._database.write(lambda session: self._add_device(session, device, device_name))
        return LoginAnswer(token, device.device, device.user, device.user_name, account.home, self._instance)

    async def known(self, user_name: str, password: str) -> Known:
        """Who asks by name and password, or by name and an app token in place of it.

        Raises NotSignedIn, Busy after too many wrong passwords, and NotAllowed where a password does not do: for a
        token without the scope, and for who signs in with codes. A right password is remembered (as a hash) for ten
        minutes: who has no token gives it with each request.
        """
        check_password(password)
        name = login_name(user_name[:LABEL_MAX])
        if password.startswith(APP_TOKEN):
            return await self._known_token(name, password)
        account = await self._database.read(lambda session: _account_of(session, name))
        if account is None or not self._proven.has(_proof(account, password)):
            account = await self._signing_in(name, password)
            self._proven.add(_proof(account, password))
        _check_enabled(account.is_disabled)
        if await self._codes.is_on(account.user):
            raise NotAllowed(
                "This account signs in with codes, which cannot be asked for here. Make an app token, and give that as"
                " the password: satchel token add NAME --scope webdav"
            )
        asking().is_by(account.user, account.user_name)
        return Known(account.user, account.home)

    async def _known_token(self, name: str, token: str) -> Known:
        device = await self._standing(token)
        account = await self._database.read(lambda session: account_rows.account(session, device.user))
        if account is None or login_name(device.user_name) != name:
            raise NotSignedIn("This app token is not one of that user.")
        check_scope(device.scopes, WEBDAV_READ)
        return Known(device.user, account.home, covers(device.scopes, WEBDAV), device.token_hash)

    async def device(self, token: str, *, may_be_wiped: bool = False) -> Device:
        """Who holds this token; raises NotSignedIn, or Wiped for a device that is to remove what it holds."""
        found = await self._standing(token)
        if not may_be_wiped:
            _check_not_wiped(found)
        check_scope(found.scopes, asking().needs)
        return found

    async def _standing(self, token: str) -> Device:
        """Who holds this token, and that it was used now."""
        hashed, now_ns = token_hash(token), self._now_ns()
        found = self._database.look_up(lambda session: _holder(session, hashed, now_ns))
        asking().is_by(found.user, found.user_name, found.device)
        if now_ns - found.seen_ns > SEEN_EVERY_NS and not found.is_wiped:
            await self._database.write(lambda session: account_rows.set_seen(session, found.user, found.device, now_ns))
        return found

    async def logout(self, device: Device) -> None:
        """Ends the device's token."""

        def end(session: Session) -> None:
            account_rows.revoke_device(session, device.user, device.device, device.token_hash)
            note(session, device.user, "signed out")

        await self._database.write(end)

    async def change_password(self, device: Device, request: PasswordRequest) -> list[bytes]:
        """Gives the user a new password; the tokens of devices that were signed out with it.

        Raises NotAllowed when the old one is not right, Busy after too many wrong ones.
        """
        check_new_password(request.new)
        await self.check_own_password(device, request.old)
        hashed = await self.hashed(request.new)

        def change(session: Session) -> list[bytes]:
            account_rows.set_password(session, device.user, hashed)
            others: list[DeviceRow] = []
            if request.sign_out_others:
                # Whoever knew the old password may have made tokens by it.
                others = account_rows.devices(session, device.user) + account_rows.app_tokens(session, device.user)
            ended = [each for each in others if each.device != device.device and not each.is_wiped]
            for each in ended:
                account_rows.revoke_device(session, device.user, each.device, each.token_hash)
            note(session, device.user, "password changed", f"{len(ended)} devices and tokens signed out")
            return [each.token_hash for each in ended]

        return await self._database.write(change)

    async def check_own_password(self, device: Device, password: str) -> None:
        """Raises NotAllowed when that is not the password of the device's user, Busy after too many wrong ones."""
        check_password(password)
        account = await self._database.read(lambda session: account_rows.account(session, device.user))
        if not await self._is_right(login_name(device.user_name), account, password):
            user = device.user
            await self._database.write(lambda session: note(session, user, "password", "wrong", is_good=False))
            raise NotAllowed("That is not the present password; nothing was changed.")

    async def lease_range(self, device: Device) -> NodeRange:
        """A range of node ids that nobody else ever gets."""
        number = await self._database.write(lambda session: _lease(session, device))
        return NodeRange(NodeId(number << NODE_RANGE_BITS), 1 << NODE_RANGE_BITS)

    def close(self) -> None:
        """Waits for passwords that are being hashed."""
        self._hashing.shutdown(cancel_futures=True)

    def _add_device(self, session: Session, device: Device, device_name: str) -> None:
        if account_rows.device_count(session, device.user) >= DEVICES_MAX:
            raise NotAllowed(f"{DEVICES_MAX} devices are signed in, which is all that one user gets: sign one out.")
        account_rows.add_device(session, device, device_name, self._now_ns())
        note(session, device.user, "signed in", device_name)

    async def hashed(self, password: str) -> str:
        """What to store of a password; raises BadRequest for one that cannot be."""
        return await asyncio.get_running_loop().run_in_executor(self._hashing, hash_password, password)

    async def check_secret(self, name: str, stored: str, password: str) -> None:
        """Raises NotSignedIn for a wrong password of something that is no account, Busy after too many of them."""
        check_password(password)
        if not await self._matches(name, stored, password):
            raise NotSignedIn("That is not the password.")

    async def _signing_in(self, name: str, password: str) -> Account:
        """The account of this name; raises NotSignedIn for a wrong password, Busy after too many of them."""
        account = await self._database.read(lambda session: _account_of(session, name))
        if not await self._is_right(name, account, password) or account is None:
            user = account.user if account is not None else NOBODY
            await self._database.write(lambda session: note(session, user, "sign-in", name, is_good=False))
            raise NotSignedIn("Name and password do not match.")
        return account

    async def _is_right(self, name: str, account: Account | None, password: str) -> bool:
        # An unknown name costs the same time as a known one, so that time does not tell them apart.
        stored = (account.password_hash if account is not None else "") or _NOBODY
        return await self._matches(name, stored, password)

    async def _matches(self, name: str, stored: str, password: str) -> bool:
        """Whether the password is right; counts wrong ones in a row for this name, and raises Busy after too many."""
        self.slowing.check(name)
        is_right = await self._verified(stored, password)
        if is_right:
            self.slowing.forget(name)
        else:
            self.slowing.add(name)
        return is_right

    async def _verified(self, stored: str, password: str) -> bool:
        if self._hashing_count >= HASHING_WAITING_MAX:
            raise Busy("Too many devices are signing in: try again in a moment.", 2.0)
        self._hashing_count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashing, _verify, stored, password)
        finally:
            self._hashing_count -= 1


def check_standing(session: Session, device: Device, now_ns: int) -> None:
    """Raises NotSignedIn or Wiped for who asked as this device (or by name and password, without a token of his own),
    and may not go on with what is being answered.
    """
    if not device.token_hash:
        check_enabled(session, device.user)
        return
    _check_not_wiped(_holder(session, device.token_hash, now_ns))


def check_enabled(session: Session, user: UserId) -> None:
    """Raises NotSignedIn for a user who is kept out, or gone."""
    account = account_rows.account(session, user)
    _check_enabled(account is None or account.is_disabled)


def _holder(session: Session, hashed: bytes, now_ns: int) -> Device:
    """Who holds the token with this hash; raises NotSignedIn."""
    found = account_rows.device_of_token(session, hashed)
    if found is None:
        raise NotSignedIn("This device is not signed in, or was signed out: sign in again.")
    if not found.is_wiped:
        _check_enabled(found.is_disabled)
    if found.expires_ns and found.expires_ns <= now_ns:
        raise NotSignedIn("This app token has expired: make a new one.")
    return found


def _check_not_wiped(device: Device) -> None:
    if device.is_wiped:
        raise Wiped("This device was signed out from another one, and is to remove what it holds of the drive.")


def _add_home(session: Session, master: MasterKey, account: Account, now_ns: int) -> None:
    """The user's home space; its first commit, by no device, is its root folder."""
    rev = Rev(1)
    wrapped_key = master.wrap(fresh_key())
    space_rows.add_space(session, SpaceRow(account.home, account.user_name, Rev(0), Rev(0), 0, 0, 0, wrapped_key))
    space_rows.add_member(session, account.home, account.user, "owner")
    account_rows.add_mount(session, account.user, account.home)
    root = NodeState(Kind.FOLDER, (ROOT_NAME,), 0o755, 0, 0, now_ns, now_ns, now_ns, now_ns)
    state, nowhere = encode_state(root), NodeId(0)
    trees.put_nodes(session, account.home, [trees.NodeRow(ROOT, rev, now_ns, Kind.FOLDER, nowhere, 0, state, None)])
    trees.add_versions(
        session, account.home, rev, [trees.VersionRow(ROOT, now_ns, state, None, trees.WAS_STATE, Rev(0))]
    )
    space_rows.add_moments(session, account.home, [ROOT], rev)
    birth = JournalRow(rev, now_ns, account.user, DeviceId(0))
    space_rows.add_commit(session, account.home, birth, secrets.token_bytes(16), 0)


def _account_of(session: Session, name: str) -> Account | None:
    user = account_rows.user_of_login(session, name)
    return account_rows.account(session, user) if user is not None else None


def _lease(session: Session, device: Device) -> int:
    if account_rows.range_count(session, device.user) >= RANGES_MAX:
        raise NotAllowed(f"Your devices hold {RANGES_MAX} ranges of node ids, which is all that one user gets.")
    for _ in range(100):
        # Number 0 holds the ids with a fixed meaning.
        number = secrets.randbelow(RANGE_NUMBER_MAX) + 1
        if account_rows.add_range(session, number, device.user, device.device):
            return number
    raise ServerFault("No free range of node ids was found.")


def new_device_id() -> DeviceId:
    """An id that no other device has."""
    return DeviceId(_random_id())


def _check_enabled(is_disabled: bool) -> None:
    if is_disabled:
        raise Disabled("This account is disabled: ask who runs the server.")


def _random_id() -> int:
    return secrets.randbelow((1 << 63) - 1) + 1


def _proof(account: Account, password: str) -> object:
    """What stands for a right password, as long as that stays the account's."""
    return account.user, account.password_hash, token_hash(password)


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except argon2.exceptions.VerificationError:
        return False


_hasher = argon2.PasswordHasher(type=argon2.Type.ID)
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$bm9ib2R5LW5vYm9keS0w$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""A hash with the same costs that no password has."""
