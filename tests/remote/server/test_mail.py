"""Mail: told by a real SMTP server on loopback, never in front of a request."""

import email
import email.policy
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from remote.protocol.account import Email, EmailRequest, PasswordRequest
from remote.protocol.errors import BadRequest
from remote.protocol.nodes import Manifest
from remote.server import instance as instances
from remote.server import mail
from remote.server.config import Config, Smtp
from remote.server.database import accounts as account_rows
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio
SECONDS = 60.0


class PostOffice:
    """An SMTP server as RFC 5321 has the least of it; `busy`: how many mails it turns away first."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.busy = 0
        self.tried = 0
        self.changed = threading.Condition()
        office = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 office")
                while line := self.rfile.readline():
                    verb = line.decode().strip()
                    if verb.upper() == "DATA":
                        self.say("354 go on")
                        self.take()
                    elif verb.upper() == "QUIT":
                        self.say("221 bye")
                        return
                    elif verb.upper().startswith("RCPT"):
                        self.receive(verb)
                    else:
                        self.say("250 ok")

            def receive(self, verb: str) -> None:
                with office.changed:
                    office.tried += 1
                    office.changed.notify_all()
                    office.busy -= 1
                    if office.busy >= 0:
                        self.say("451 later")
                        return
                    office.recipients.append(verb)
                self.say("250 ok")

            def take(self) -> None:
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                with office.changed:
                    office.mails.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
                    office.changed.notify_all()
                self.say("250 taken")

            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, SECONDS)

    def forget(self) -> None:
        with self.changed:
            self.mails, self.recipients, self.tried = [], [], 0

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def smtp(self) -> Smtp:
        return Smtp("127.0.0.1", "drive@example.org", port=self.server.server_address[1], security="none")


@pytest.fixture
def office() -> Iterator[PostOffice]:
    office = PostOffice()
    yield office
    office.close()


@pytest.fixture
def instance(
    tmp_path: Path, statements: set[str], cheap_passwords: None, office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Instance]:
    monkeypatch.setattr(mail, "TRIES_SECONDS", (0.0, 0.01, 0.01))
    instances.make(tmp_path / "data", tmp_path / "key")
    with instances.opened(tmp_path / "data", tmp_path / "key", statements.add, Config(smtp=office.smtp)) as opened:
        yield opened


async def give_address(asker: Any, instance: Instance, office: PostOffice) -> None:
    """Mail to the asker's user arrives from now on; the office holds none yet.

    Where a mail goes is looked up when it is sent, so that the first sign-in may be told, too: it is waited out.
    """
    await asker.ask("POST", "/v1/email", EmailRequest("ann@example.org"), Email)
    instance.mail.tell(asker.login.user, "invitation", who="the test", what="an address")
    office.wait(lambda: any("an address" in one["Subject"] for one in office.mails))
    office.forget()


async def test_a_new_device_and_a_new_password_are_told(
    sign_in: Any, build: Any, instance: Instance, office: PostOffice
) -> None:
    ann = await sign_in("ann")
    assert await ann.ask("GET", "/v1/email", None, Email) == Email("", is_sent=True)
    await give_address(ann, instance, office)
    await sign_in("ann")
    await ann.ask("POST", "/v1/password", PasswordRequest(build.password, "another one"), dict)
    office.wait(lambda: len(office.mails) == 2)
    device, password = office.mails
    assert device["Subject"] == "Satchel: desk1 signed in as you"
    assert (device["To"], device["From"]) == ("ann@example.org", "drive@example.org")
    assert "from 127.0.0.1" in device.get_content()
    assert password["Subject"] == "Satchel: Your password was changed"
    assert "another one" not in password.as_string()


async def test_a_mail_that_is_turned_away_is_tried_again(ann: Any, instance: Instance, office: PostOffice) -> None:
    await give_address(ann, instance, office)
    office.busy = 2
    instance.mail.tell(ann.login.user, "invitation", who="bob", what="thesis")
    office.wait(lambda: bool(office.mails))
    assert office.tried == 3
    assert office.mails[0]["Subject"] == "Satchel: bob shares thesis with you"


@pytest.mark.logs_errors("could not be sent, and is dropped")
async def test_a_mail_that_nobody_takes_is_dropped_and_the_next_one_sent(
    ann: Any, instance: Instance, office: PostOffice
) -> None:
    await give_address(ann, instance, office)
    office.busy = len(mail.TRIES_SECONDS)
    instance.mail.tell(ann.login.user, "infected", path="a.exe", name="Eicar")
    instance.mail.tell(ann.login.user, "quota", space="ann", percent=90)
    office.wait(lambda: bool(office.mails))
    assert office.mails[0]["Subject"] == "Satchel: ann is 90 % full"


@pytest.mark.logs_errors("mails wait to be sent")
async def test_nobody_waits_for_a_post_office_that_hangs(
    ann: Any, instance: Instance, office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give_address(ann, instance, office)
    with office.changed:
        # It holds the handler of the office, and so the thread that sends.
        for number in range(mail.WAITING_MAX + 10):
            instance.mail.tell(ann.login.user, "mass-change", device=f"desk{number}", how="removed", count=5)
    office.wait(lambda: len(office.mails) >= 10)


async def test_a_home_that_is_nearly_full_is_told_once(
    ann: Any, build: Any, instance: Instance, office: PostOffice, tmp_path: Path
) -> None:
    await give_address(ann, instance, office)
    instances.set_quota(tmp_path / "data", tmp_path / "key", "ann", 1_000)

    async def add(name: bytes, size: int) -> None:
        await ann.commit(build.change(await ann.new_id(), build.file(name, content=Manifest(size, bytes(size)))))

    await add(b"a", 899)
    await add(b"b", 1)
    await add(b"c", 50)
    await ann.ask("POST", "/v1/password", PasswordRequest(build.password, "another one"), dict)
    office.wait(lambda: len(office.mails) == 2)
    assert [one["Subject"] for one in office.mails] == [
        "Satchel: ann is 90 % full",
        "Satchel: Your password was changed",
    ]


def test_a_server_stops_though_the_post_office_never_answers(
    tmp_path: Path, cheap_passwords: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "STALL_SECONDS", 1_000.0)
    data, key_file = tmp_path / "data", tmp_path / "key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", "password")
    instances.set_user_email(data, key_file, "ann", "ann@example.org")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        smtp = Smtp("127.0.0.1", "drive@example.org", port=silent.getsockname()[1], security="none")
        with instances.opened(data, key_file, config=Config(smtp=smtp)) as opened:
            user = opened.database.read_now(lambda session: account_rows.user_of_login(session, "ann"))
            assert user is not None
            opened.mail.tell(user, "password-changed")
            # Now it waits for a greeting.
            connection, _ = silent.accept()
        assert opened.mail._thread.is_alive(), "it waits still, and nobody for it"
        connection.close()
        opened.mail._thread.join(SECONDS)
        assert not opened.mail._thread.is_alive()


async def test_the_same_is_not_told_again_for_a_while(ann: Any, instance: Instance, office: PostOffice) -> None:
    await give_address(ann, instance, office)
    for percent in (90, 90, 90, 91):
        instance.mail.tell_once(ann.login.user, "quota", space="ann", percent=percent)
    office.wait(lambda: len(office.mails) == 2)


async def test_a_name_makes_no_header_of_its_own(ann: Any, instance: Instance, office: PostOffice) -> None:
    await give_address(ann, instance, office)
    instance.mail.tell(ann.login.user, "invitation", who="bob\r\nBcc: eve@example.org", what="{user}")
    office.wait(lambda: bool(office.mails))
    assert office.mails[0]["Bcc"] is None
    assert office.mails[0]["Subject"] == "Satchel: bob??Bcc: eve@example.org shares {user} with you"


async def test_every_template_says_what_it_is_given(ann: Any, instance: Instance) -> None:
    with pytest.raises(KeyError):
        instance.mail.tell(ann.login.user, "quota", space="ann")
    with pytest.raises(KeyError):
        instance.mail.tell(ann.login.user, "no such kind")


@pytest.mark.parametrize(
    "address", ["ann", "a@b", "a b@example.org", "a@example.org\r\nBcc: x@y.z", "<a@b.c>", "a@b@c.d"]
)
async def test_what_is_no_address_is_refused(ann: Any, address: str) -> None:
    with pytest.raises(BadRequest, match="no address"):
        await ann.ask("POST", "/v1/email", EmailRequest(address), Email)


async def test_what_a_script_removes_is_told_as_what_a_device_does(
    ann: Any, instance: Instance, office: PostOffice
) -> None:
    await give_address(ann, instance, office)
    headers = {"authorization": ann.headers["authorization"]}
    guard = f"/api/v1/spaces/{ann.home}/guard"
    found = (await ann.http.get(guard, headers=headers)).json()
    wanted = {**found, "mode": "tell", "count": 3, "settled_seconds": 0}
    assert (await ann.http.put(guard, headers=headers, json=wanted)).status_code == 200
    folder = await ann.new_folder(b"many")
    for number in range(3):
        await ann.new_file(b"%d" % number, folder)
    assert (await ann.http.delete(f"/api/v1/files/{folder}", headers=headers)).status_code == 200
    office.wait(lambda: bool(office.mails))
    assert "removed 3 files" in office.mails[0]["Subject"]
