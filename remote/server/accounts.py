"""Accounts: who may sign in, which devices are signed in, and the ranges of node ids they hold."""

import asyncio
import hashlib
import math
import secrets
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import argon2

from remote.protocol.account import PasswordRequest
from remote.protocol.errors import BadRequest, Busy, NotAllowed, NotSignedIn, ServerFault, TooLarge, Wiped
from remote.protocol.ids import NODE_RANGE_BITS, ROOT, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import LoginAnswer, LoginRequest, NodeRange
from remote.protocol.nodes import ROOT_NAME, Kind, NodeState
from remote.server.database import accounts as account_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Account, Device
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import JournalRow, SpaceRow
from remote.server.keys import MasterKey, fresh_key
from remote.server.limits import LABEL_MAX, check_label, check_password
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
FAILURES_FREE = 5
"""Wrong passwords in a row before the next one has to wait."""
FAILURE_WAIT_MAX_SECONDS = 60.0
FAILURES_REMEMBERED = 10_000
PROVEN_MAX = 1_000
PROVEN_SECONDS = 600.0
"""So long a right password is not hashed again: each time takes 64 MiB and a tenth of a second."""


def login_name(name: str) -> str:
    """What a name is looked up by: case and Unicode form do not matter."""
    return unicodedata.normalize("NFKC", name).casefold()


def hash_password(password: str) -> str:
    """The argon2id string to store."""
    if not password:
        raise BadRequest("The password is empty.")
    check_password(password)
    return _hasher.hash(password)


def add_user(session: Session, master: MasterKey, name: str, password_hash: str, now_ns: int) -> Account:
    """A new account with its home space; raises BadRequest when the name is taken or cannot be one."""
    check_label("The user name", name)
    if account_rows.user_of_login(session, login_name(name)) is not None:
        raise BadRequest(f"There is a user {name} already.")
    user, home = UserId(_random_id()), SpaceId(_random_id())
    account = Account(user, name, password_hash, home)
    account_rows.add_account(session, login_name(name), account, now_ns)
    _add_home(session, master, account, now_ns)
    return account


def set_home_quota(session: Session, name: str, quota: int) -> bool:
    """Bounds the user's home to so many bytes (0: no bound); False when there is no such user."""
    account = _account_of(session, login_name(name))
    if account is None:
        return False
    space_rows.set_quota(session, account.home, quota)
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
        found.append(UserLine(account.user_name, home.used + home.shared_used, home.quota, len(devices), seen_ns))
    return found


def replace_password(session: Session, name: str, password_hash: str) -> bool:
    """Gives the user a new password; False when there is no such user."""
    account = _account_of(session, login_name(name))
    if account is None:
        return False
    account_rows.set_password(session, account.user, password_hash)
    return True


def token_hash(token: str) -> bytes:
    """What is stored of a token: it has 256 random bits, so a plain hash does."""
    return hashlib.sha256(token.encode()).digest()


class Accounts:
    """Signs devices in and out, and says which device a token belongs to."""

    def __init__(self, database: Database, instance: str, now_ns: Callable[[], int]) -> None:
        self._database = database
        self._instance = instance
        self._now_ns = now_ns
        self._failures = _Failures(now_ns)
        self._proven = Lately(PROVEN_MAX, PROVEN_SECONDS)
        self._hashing = ThreadPoolExecutor(HASHING_MAX, thread_name_prefix="password")
        self._hashing_count = 0

    async def login(self, request: LoginRequest) -> LoginAnswer:
        """A new device of the user; raises NotSignedIn, or Busy after too many wrong passwords."""
        check_label("device_name", request.device_name)
        check_password(request.password)
        if len(request.user) > LABEL_MAX:
            raise TooLarge(f"The user name has {len(request.user)} characters; at most {LABEL_MAX} are allowed.")
        account = await self._signing_in(login_name(request.user), request.password)
        token = secrets.token_urlsafe(32)
        device = Device(account.user, DeviceId(_random_id()), account.user_name, token_hash(token))
        await self._database.write(lambda session: self._add_device(session, device, request.device_name))
        return LoginAnswer(token, device.device, device.user, device.user_name, account.home, self._instance)

    async def known(self, user_name: str, password: str) -> tuple[UserId, SpaceId]:
        """The user and his home, by name and password; raises NotSignedIn, or Busy after too many wrong passwords.

        A right password is remembered (as a hash) for ten minutes: who has no token gives it with each request.
        """
        check_password(password)
        name = login_name(user_name[:LABEL_MAX])
        account = await self._database.read(lambda session: _account_of(session, name))
        if account is None or not self._proven.has(_proof(account, password)):
            account = await self._signing_in(name, password)
            self._proven.add(_proof(account, password))
        return account.user, account.home

    async def device(self, token: str, *, may_be_wiped: bool = False) -> Device:
        """Who holds this token; raises NotSignedIn, or Wiped for a device that is to remove what it holds."""
        hashed = token_hash(token)
        found = await self._database.read(lambda session: account_rows.device_of_token(session, hashed))
        if found is None:
            raise NotSignedIn("This device is not signed in, or was signed out: sign in again.")
        if found.is_wiped:
            if may_be_wiped:
                return found
            raise Wiped("This device was signed out from another one, and is to remove what it holds of the drive.")
        now_ns = self._now_ns()
        if now_ns - found.seen_ns > SEEN_EVERY_NS:
            await self._database.write(lambda session: account_rows.set_seen(session, found.user, found.device, now_ns))
        return found

    async def logout(self, device: Device) -> None:
        """Ends the device's token."""
        await self._database.write(
            lambda session: account_rows.revoke_device(session, device.user, device.device, device.token_hash)
        )

    async def change_password(self, device: Device, request: PasswordRequest) -> list[bytes]:
        """Gives the user a new password; the tokens of devices that were signed out with it.

        Raises NotAllowed when the old one is not right, Busy after too many wrong ones.
        """
        check_password(request.old)
        account = await self._database.read(lambda session: account_rows.account(session, device.user))
        if not await self._is_right(login_name(device.user_name), account, request.old):
            raise NotAllowed("That is not the present password; nothing was changed.")
        hashed = await self.hashed(request.new)

        def change(session: Session) -> list[bytes]:
            account_rows.set_password(session, device.user, hashed)
            others = account_rows.devices(session, device.user) if request.sign_out_others else []
            ended = [each for each in others if each.device != device.device and not each.is_wiped]
            for each in ended:
                account_rows.revoke_device(session, device.user, each.device, each.token_hash)
            return [each.token_hash for each in ended]

        return await self._database.write(change)

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
            raise NotSignedIn("Name and password do not match.")
        return account

    async def _is_right(self, name: str, account: Account | None, password: str) -> bool:
        # An unknown name costs the same time as a known one, so that time does not tell them apart.
        stored = account.password_hash if account is not None else _NOBODY
        return await self._matches(name, stored, password)

    async def _matches(self, name: str, stored: str, password: str) -> bool:
        """Whether the password is right; counts wrong ones in a row for this name, and raises Busy after too many."""
        self._failures.check(name)
        is_right = await self._verified(stored, password)
        if is_right:
            self._failures.forget(name)
        else:
            self._failures.add(name)
        return is_right

    async def _verified(self, stored: str, password: str) -> bool:
        if self._hashing_count >= HASHING_WAITING_MAX:
            raise Busy("Too many devices are signing in: try again in a moment.", 2.0)
        self._hashing_count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashing, _verify, stored, password)
        finally:
            self._hashing_count -= 1


class Lately:
    """What happened lately, the newest of it only."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._since: OrderedDict[object, float] = OrderedDict()

    def add(self, key: object) -> None:
        """It happens now."""
        self._since[key] = time.monotonic()
        self._since.move_to_end(key)
        if len(self._since) > self._most:
            self._since.popitem(last=False)

    def has(self, key: object) -> bool:
        """Whether it happened within the last `seconds`."""
        since = self._since.get(key)
        return since is not None and time.monotonic() - since < self._seconds


@dataclass(frozen=True)
class _Failed:
    count: int
    last_ns: int


class _Failures:
    """Wrong passwords in a row by name, the latest of them only."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._failed: OrderedDict[str, _Failed] = OrderedDict()

    def check(self, name: str) -> None:
        failed = self._failed.get(name)
        if failed is None or failed.count < FAILURES_FREE:
            return
        wait_seconds = min(FAILURE_WAIT_MAX_SECONDS, 2.0 ** min(failed.count - FAILURES_FREE, 10))
        left_seconds = wait_seconds - (self._now_ns() - failed.last_ns) / 1e9
        if left_seconds > 0:
            raise Busy(f"Too many wrong passwords: try again in {math.ceil(left_seconds)} s.", left_seconds)

    def add(self, name: str) -> None:
        count = self._failed[name].count if name in self._failed else 0
        self._failed[name] = _Failed(count + 1, self._now_ns())
        self._failed.move_to_end(name)
        if len(self._failed) > FAILURES_REMEMBERED:
            self._failed.popitem(last=False)

    def forget(self, name: str) -> None:
        self._failed.pop(name, None)


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
