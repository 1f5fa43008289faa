"""Audit: who did what, when and from where. `note` writes it down, in the transaction of what is done."""

import json
import secrets
import time
from collections.abc import Iterator
from functools import partial

from remote.protocol.account import Audit, AuditEntry, AuditRequest
from remote.protocol.errors import BadRequest
from remote.protocol.ids import DeviceId, UserId
from remote.protocol.times import iso
from remote.server.asking import asking
from remote.server.database import accounts as account_rows
from remote.server.database import audit as audit_rows
from remote.server.database.accounts import Device
from remote.server.database.audit import AuditRow
from remote.server.database.connection import Database, Session

ENTRIES_MAX = 1_000
"""Entries in one answer."""
KEEP_DAYS = 365
"""For so long notes are kept, unless the instance says otherwise."""
NOBODY = UserId(0)
_ABOUT_MAX = 400
_KEEP_SETTING = "audit_days"
_DAY_NS = 86_400 * 10**9
_ENDED_AT_ONCE = 1_000
_NEVER = (1 << 63) - 1


def note(
    session: Session, user: UserId, what: str, about: str = "", *, is_good: bool = True, by: UserId | None = None
) -> None:
    """Writes down what was done, in the caller's transaction: it stands when that does.

    `user`: whom it concerns, who sees it; `what`: two or three words such as `link made`; `about`: to what, as text
    without secrets; `by`: who did it, where that is not who asks. Address and device are those of who asks.
    """
    now = asking()
    row = AuditRow(
        user=user,
        time_ns=time.time_ns(),
        note=secrets.randbits(62),
        by_user=now.user if by is None else by,
        device=now.device,
        address=now.address,
        what=what,
        about=_shown(about),
        is_good=is_good,
    )
    audit_rows.add_note(session, row)


class AuditAnswers:
    """What an instance tells its users of the notes that concern them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def audit(self, device: Device, request: AuditRequest) -> Audit:
        """What concerns the device's user, the newest first; `next` goes on before the last one."""
        if not 1 <= request.limit <= ENTRIES_MAX:
            raise BadRequest(f"limit is {request.limit}; from 1 to {ENTRIES_MAX} are told at once.")
        before_ns = request.before_ns or _NEVER

        def read(session: Session) -> Audit:
            rows = list(audit_rows.notes(session, device.user, request.since_ns, before_ns, request.limit + 1))
            names = _Names(session)
            entries = tuple(names.entry(row) for row in rows[: request.limit])
            return Audit(entries, entries[-1].time_ns if len(rows) > request.limit else 0)

        return await self._database.read(read)

    async def end_old(self, now_ns: int) -> int:
        """Lets go of notes that are older than the instance keeps them; how many these were."""
        before_ns = now_ns - await self._database.read(kept_days) * _DAY_NS
        ended, user = 0, UserId(-1)
        while users := await self._database.read(
            partial(audit_rows.users_with_notes, after=user, limit=_ENDED_AT_ONCE)
        ):
            for user in users:
                end = partial(audit_rows.end_notes, user=user, before_ns=before_ns, limit=_ENDED_AT_ONCE)
                while gone := await self._database.write(end):
                    ended += gone
        return ended


def kept_days(session: Session) -> int:
    """For how many days notes are kept."""
    stored = account_rows.setting(session, _KEEP_SETTING)
    return int(stored) if stored else KEEP_DAYS


def keep_days(session: Session, days: int) -> None:
    """Has notes kept for so many days."""
    account_rows.put_setting(session, _KEEP_SETTING, str(days).encode())
    note(session, NOBODY, "audit kept", f"for {days} days")


def exported(session: Session, since_ns: int, user: UserId | None = None) -> Iterator[str]:
    """All notes from a time on, the oldest first, each as a line of JSON; of one user where one is given."""
    names = _Names(session)
    for row in audit_rows.all_notes(session, since_ns):
        if user is None or row.user == user:
            entry = names.entry(row)
            yield json.dumps(
                {
                    "time": iso(entry.time_ns),
                    "user": names.user(row.user),
                    "by": entry.by,
                    "what": entry.what,
                    "about": entry.about,
                    "is_good": entry.is_good,
                    "device": entry.device_name,
                    "address": entry.address,
                },
                ensure_ascii=False,
            )


class _Names:
    """Names for numbers, each looked up once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._users: dict[UserId, str] = {NOBODY: ""}
        self._devices: dict[DeviceId, str] = {DeviceId(0): ""}

    def entry(self, row: AuditRow) -> AuditEntry:
        """A note as people read it."""
        if row.device not in self._devices:
            self._devices[row.device] = account_rows.device_name(self._session, row.by_user, row.device)
        device_name = self._devices[row.device]
        by = self.user(row.by_user)
        return AuditEntry(row.time_ns, row.what, row.about, by, device_name, row.address, row.is_good)

    def user(self, user: UserId) -> str:
        """The user's name; the number of one who was removed; empty for nobody."""
        if user not in self._users:
            found = account_rows.account(self._session, user)
            self._users[user] = found.user_name if found is not None else str(user)
        return self._users[user]


def _shown(about: str) -> str:
    """Text of a stranger, without what would drive a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in about[:_ABOUT_MAX])
