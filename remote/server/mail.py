"""Mail: tells users by e-mail what they should know at once, where whoever runs the server gave an SMTP server.

Nobody waits for it: what is told goes into a bounded queue, a thread sends it, tries again for a while, and gives up.
"""

import logging
import queue
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from functools import partial

from remote.protocol.account import Email, EmailRequest
from remote.protocol.errors import RemoteError
from remote.protocol.ids import UserId
from remote.protocol.times import iso
from remote.server.accounts import change_email, check_email
from remote.server.asking import asking
from remote.server.config import Smtp
from remote.server.database import accounts as account_rows
from remote.server.database.accounts import Account, Device
from remote.server.database.connection import Database, Session
from remote.server.slowing import Lately

log = logging.getLogger(__name__)

WAITING_MAX = 1_000
"""Mails that wait; what comes beyond is dropped, and logged once."""
TRIES_SECONDS = (0.0, 5.0, 30.0, 120.0)
"""How long to wait before each try of a mail."""
STALL_SECONDS = 20.0
CLOSING_SECONDS = 2.0
"""So long a server that stops waits for the mail that is being sent."""
_FOR_GOOD = 500
"""Replies from this number on say that trying again is useless."""
_WORD_MAX = 200
_SAME_MAX = 10_000
_SAME_SECONDS = 6 * 3_600.0
"""The same mail is not sent to a user again for so long."""

TEMPLATES: dict[str, tuple[str, str]] = {
    "new-device": (
        "{device} signed in as you",
        """{device} signed in to your drive as {user}, from {address}.

If that was not you, sign it out and change your password:

    satchel devices sign-out '{device}'
    satchel password --sign-out-others
""",
    ),
    "password-changed": (
        "Your password was changed",
        """The password of {user} was changed, from {address}.

If that was not you, ask whoever runs the server for a new one at once.
""",
    ),
    "invitation": (
        "{who} shares {what} with you",
        """{who} wants to share {what} with you.

To look at your invitations: satchel shared
""",
    ),
    "mass-change": (
        "{device} {how} {count} files at once",
        """{device} {how} {count} files of your drive within a short time.

If that was meant, there is nothing to do. If not, take it back: satchel undo
""",
    ),
    "infected": (
        "{path} is infected",
        """The virus scanner found {name} in {path}. That version is not given out any more, to nobody.

Older versions are still there: satchel versions '{path}'
""",
    ),
    "quota": (
        "{space} is {percent} % full",
        """{space} is {percent} % full. When it is full, nothing can be added to it.

To make room: satchel trash purge --all; or ask whoever runs the server for more.
""",
    ),
}
"""kind -> subject and text; the words in braces are given by who tells it, `user` and `address` come by themselves."""


@dataclass(frozen=True)
class _Waiting:
    user: UserId
    kind: str
    words: dict[str, str]


class Mail:
    """Sends mail to users; without an SMTP server it does nothing at all."""

    def __init__(self, database: Database, smtp: Smtp | None, wait: Callable[[float], bool] | None = None) -> None:
        self._database = database
        self._smtp = smtp
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(WAITING_MAX)
        self._same = Lately(_SAME_MAX, _SAME_SECONDS)
        self._is_closing = threading.Event()
        # True when it is closed meanwhile.
        self._wait = wait or self._is_closing.wait
        self._is_dropping = False
        self._thread = threading.Thread(target=self._send_until_closed, name="mail", daemon=True)
        if smtp is not None:
            self._thread.start()

    def tell(self, user: UserId, kind: str, **words: object) -> None:
        """Has the user told, if he has an address; from any thread, never waits. See TEMPLATES for kinds and words.

        To be called when what is told is durable.
        """
        subject, text = TEMPLATES[kind]
        shown = {name: _shown(str(word)) for name, word in words.items()}
        shown["address"] = asking().address or "the server itself"
        # A word that is missing fails here, where it was forgotten, whether mail is sent or not.
        (subject + text).format(**shown, user="")
        if self._smtp is None:
            return
        try:
            self._waiting.put_nowait(_Waiting(user, kind, shown))
            self._is_dropping = False
        except queue.Full:
            if not self._is_dropping:
                log.error("%s mails wait to be sent, so further ones are dropped: look at the SMTP server", WAITING_MAX)
            self._is_dropping = True

    def tell_once(self, user: UserId, kind: str, **words: object) -> None:
        """As `tell`, but not again for the same words within six hours; on the server's event loop."""
        key = user, kind, tuple(sorted((name, str(word)) for name, word in words.items()))
        if not self._same.has(key):
            self._same.add(key)
            self.tell(user, kind, **words)

    async def email(self, device: Device) -> Email:
        """Where mail to the device's user goes."""
        found = await self._database.read(lambda session: account_rows.account(session, device.user))
        return Email(found.email if found is not None else "", self._smtp is not None)

    async def set_email(self, device: Device, request: EmailRequest) -> Email:
        """Has mail to the device's user go there; raises BadRequest for what is no address."""
        check_email(request.email)

        def change(session: Session) -> None:
            change_email(session, device.user, request.email)

        await self._database.write(change)
        return Email(request.email, self._smtp is not None)

    def close(self) -> None:
        """Drops what waits; a mail that is being sent is finished, unless that takes long."""
        self._is_closing.set()
        if self._smtp is not None:
            # Where it is full, the thread sees that it is closed at the next one.
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(CLOSING_SECONDS)

    def _send_until_closed(self) -> None:
        while (waiting := self._waiting.get()) is not None and not self._is_closing.is_set():
            try:
                account = self._database.read_now(partial(account_rows.account, user=waiting.user))
            except RemoteError as error:
                log.error("a mail could not be sent: %s", error)
                continue
            if account is not None and account.email:
                self._send(self._message(account, waiting), waiting.kind)

    def _message(self, account: Account, waiting: _Waiting) -> EmailMessage:
        assert self._smtp is not None
        subject, text = TEMPLATES[waiting.kind]
        words = {**waiting.words, "user": _shown(account.user_name)}
        message = EmailMessage()
        message["From"] = self._smtp.sender
        message["To"] = account.email
        message["Subject"] = f"Satchel: {subject.format(**words)}"
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=self._smtp.sender.rpartition("@")[2])
        # Vacation notices of machines to machines help nobody.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(f"{text.format(**words)}\n{iso(time.time_ns())}\n")
        return message

    def _send(self, message: EmailMessage, kind: str) -> None:
        assert self._smtp is not None
        error: Exception | None = None
        for seconds in TRIES_SECONDS:
            if seconds and self._wait(seconds):
                return
            try:
                _send(self._smtp, message)
            except smtplib.SMTPRecipientsRefused as refused:
                error = refused
                if all(code >= _FOR_GOOD for code, _ in refused.recipients.values()):
                    break
            except (OSError, smtplib.SMTPException) as failed:
                error = failed
            else:
                return
        # No address: the log is for who runs the server, and the kind tells enough.
        log.error("a mail (%s) could not be sent, and is dropped: %s", kind, type(error).__name__)


def _send(smtp: Smtp, message: EmailMessage) -> None:
    trust = ssl.create_default_context(cafile=smtp.trust or None)
    if smtp.security == "tls":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=STALL_SECONDS, context=trust)
    else:
        connection = smtplib.SMTP(smtp.host, smtp.port, timeout=STALL_SECONDS)
    with connection:
        if smtp.security == "starttls":
            connection.starttls(context=trust)
        if smtp.user:
            connection.login(smtp.user, smtp.password)
        connection.send_message(message)


def _shown(word: str) -> str:
    """A word of a stranger, without what would make a header or a second line of it."""
    return "".join(letter if letter.isprintable() else "?" for letter in word[:_WORD_MAX])
