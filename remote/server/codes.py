"""Codes: what an authenticator app shows at a time (RFC 6238), and recovery codes for who lost that device."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from remote.protocol.errors import CodeNeeded, InTheWay, NotAllowed, TooLarge
from remote.protocol.ids import UserId
from remote.server.audit import note
from remote.server.database import totp as totp_rows
from remote.server.database.connection import Database, Session
from remote.server.database.totp import TotpRow
from remote.server.keys import MasterKey
from remote.server.slowing import Slowing

CODE_MAX = 64
"""Characters of a code."""
RECOVERY_CODES = 10
_STEP_SECONDS = 30
_DIGITS = 6
_SECRET_SIZE = 20
_AROUND = (0, -1, 1)
"""Steps beside the present one whose codes are taken, too: clocks differ, and people type slowly."""


class Codes:
    """Asks for the codes of those who turned that on."""

    def __init__(self, database: Database, master: MasterKey, slowing: Slowing, now_ns: Callable[[], int]) -> None:
        self._database = database
        self._master = master
        self._slowing = slowing
        self._now_ns = now_ns

    async def is_on(self, user: UserId) -> bool:
        """Whether the user signs in with codes."""
        row = await self._database.read(lambda session: totp_rows.totp(session, user))
        return row is not None and row.is_on

    async def check(self, user: UserId, code: str) -> None:
        """Takes a code, which counts once; raises CodeNeeded where one is asked for, Busy after wrong ones."""
        if len(code) > CODE_MAX:
            raise TooLarge(f"The code has {len(code)} characters; at most {CODE_MAX} are allowed.")
        if not await self.is_on(user):
            return
        if not code.strip():
            raise CodeNeeded("This account asks for the code of its authenticator app, too, or for a recovery code.")
        name = f"codes of {user}"
        self._slowing.check(name)
        if not await self._database.write(lambda session: self._take(session, user, code)):
            self._slowing.add(name)
            raise CodeNeeded("That code is not right, or was used already: wait for the next one.")
        self._slowing.forget(name)

    def _take(self, session: Session, user: UserId, code: str) -> bool:
        """In the transaction that notes it, so that of two who give the same code one is refused."""
        row = totp_rows.totp(session, user)
        if row is None or not row.is_on:
            return True
        step = step_of(self._master.unwrap(row.secret), code, self._now_ns() // 10**9, row.last_step)
        if step:
            totp_rows.put_totp(session, user, TotpRow(row.secret, True, step))
            return True
        if totp_rows.use_recovery_code(session, user, _recovery_hash(code)):
            left = totp_rows.recovery_code_count(session, user)
            note(session, user, "recovery code used", f"{left} are left", by=user)
            return True
        note(session, user, "code", "wrong, or used already", is_good=False)
        return False

    def begin(self, session: Session, user: UserId) -> bytes:
        """A new secret, which does not count yet; raises InTheWay when codes are asked for already."""
        row = totp_rows.totp(session, user)
        if row is not None and row.is_on:
            raise InTheWay("Codes are asked for already: turn that off first, to begin with another authenticator app.")
        secret = secrets.token_bytes(_SECRET_SIZE)
        totp_rows.put_totp(session, user, TotpRow(self._master.wrap(secret), False, 0))
        return secret

    def turn_on(self, session: Session, user: UserId, code: str) -> None:
        """From now on codes are asked for; raises InTheWay, or NotAllowed when this one is not right."""
        row = totp_rows.totp(session, user)
        if row is None or row.is_on:
            raise InTheWay("Codes are asked for already." if row is not None else "Ask for a secret first.")
        step = step_of(self._master.unwrap(row.secret), code, self._now_ns() // 10**9, row.last_step)
        if not step:
            raise NotAllowed("That is not the code of this secret now: look at the clocks of both devices.")
        totp_rows.put_totp(session, user, TotpRow(row.secret, True, step))


def end_codes(session: Session, user: UserId) -> None:
    """The user signs in without codes again."""
    totp_rows.end_totp(session, user)
    note(session, user, "codes off")


def step_of(secret: bytes, code: str, now_seconds: int, last_step: int) -> int:
    """The step of time that a code belongs to, when it is one of now that is newer than `last_step`; else 0."""
    given = "".join(code.split()).encode()
    found = 0
    for around in _AROUND:
        step = now_seconds // _STEP_SECONDS + around
        # Each is compared, so that time does not tell which.
        is_right = hmac.compare_digest(totp_of(secret).generate(step * _STEP_SECONDS), given)
        if is_right and step > last_step:
            found = step
    return found


def totp_of(secret: bytes) -> TOTP:
    """The codes of a secret."""
    # SHA-1 is what authenticator apps know; the codes do not rest on collisions being hard to find.
    return TOTP(secret, _DIGITS, SHA1(), _STEP_SECONDS)  # noqa: S303


def new_recovery_codes(session: Session, user: UserId) -> tuple[str, ...]:
    """New recovery codes in place of all others; they are stored as hashes only."""
    codes = tuple(_recovery_code() for _ in range(RECOVERY_CODES))
    totp_rows.put_recovery_codes(session, user, _hashes(codes))
    note(session, user, "recovery codes made")
    return codes


def _recovery_code() -> str:
    """80 random bits, as people can type them: a plain hash of it cannot be guessed back."""
    text = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def _hashes(codes: Iterable[str]) -> list[bytes]:
    return [_recovery_hash(code) for code in codes]


def _recovery_hash(code: str) -> bytes:
    plain = "".join(letter for letter in code.lower() if letter.isalnum())
    return hashlib.sha256(plain.encode()).digest()
