"""Statements on second factors (keyed by user): the secret for codes, and codes for who lost the device with it."""

from collections.abc import Iterable
from dataclasses import dataclass

from remote.protocol.ids import UserId
from remote.server.database.connection import Session


@dataclass(frozen=True)
class TotpRow:
    """The secret of a user, sealed by the master key; `is_on`: codes are asked for. `last_step`: of the last code."""

    secret: bytes
    is_on: bool
    last_step: int


def totp(session: Session, user: UserId) -> TotpRow | None:
    """What the user has."""
    found = session.row("SELECT secret, is_on, last_step FROM totp WHERE user_id = ?", user)
    return TotpRow(bytes(found[0]), bool(found[1]), found[2]) if found else None


def put_totp(session: Session, user: UserId, row: TotpRow) -> None:
    """Writes it in place of what the user had."""
    session.run(
        "INSERT INTO totp (user_id, secret, is_on, last_step) VALUES (?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE"
        " SET secret = excluded.secret, is_on = excluded.is_on, last_step = excluded.last_step",
        user,
        row.secret,
        int(row.is_on),
        row.last_step,
    )


def end_totp(session: Session, user: UserId) -> None:
    """The user has none any more, nor codes for the loss of it."""
    session.run("DELETE FROM totp WHERE user_id = ?", user)
    session.run("DELETE FROM recovery_code WHERE user_id = ?", user)


def put_recovery_codes(session: Session, user: UserId, hashes: Iterable[bytes]) -> None:
    """Writes these in place of those that the user had."""
    session.run("DELETE FROM recovery_code WHERE user_id = ?", user)
    for code_hash in hashes:
        session.run("INSERT INTO recovery_code (user_id, code_hash) VALUES (?, ?)", user, code_hash)


def use_recovery_code(session: Session, user: UserId, code_hash: bytes) -> bool:
    """Whether the user had this one; he has it no more."""
    return bool(session.run("DELETE FROM recovery_code WHERE user_id = ? AND code_hash = ?", user, code_hash))


def recovery_code_count(session: Session, user: UserId) -> int:
    """How many the user has left."""
    found = session.row("SELECT count(*) FROM recovery_code WHERE user_id = ?", user)
    return int(found[0]) if found else 0
