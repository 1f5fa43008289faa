"""The instance: a data directory with its database, objects and keys, made once and opened by one server at a time.

satchel.db (+ -wal, -shm)   everything but content
objects/ packs/ tmp/        see objects/local.py
damaged/                    what a scrub found damaged
search/                     the index, which can be made again: see search/index.py
lock                        held while a server runs
collect.lock                held while garbage is collected, or a backup made
scrub.lock                  held while a scrub runs
"""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from remote.protocol.errors import BadRequest, InTheWay, NotAllowed, NotFound, ServerFault
from remote.protocol.ids import UserId
from remote.server.accounts import (
    Accounts,
    UserLine,
    add_user,
    change_email,
    check_email,
    check_new_password,
    disable_user,
    hash_password,
    list_users,
    put_identity,
    replace_password,
    set_home_quota,
    user_called,
)
from remote.server.acts import Acts
from remote.server.answers import Answers
from remote.server.audit import AuditAnswers, exported, keep_days
from remote.server.codes import Codes, end_codes
from remote.server.config import Config
from remote.server.content import Contents
from remote.server.database import accounts as account_rows
from remote.server.database.connection import Database, OnStatement, Session, make_tables, upgrade_tables
from remote.server.database.schema import FORMAT, UPGRADES
from remote.server.devices import DeviceAnswers
from remote.server.edits import Edits
from remote.server.events import EventAnswers
from remote.server.feed import Feed
from remote.server.files import Files
from remote.server.groups import GroupAnswers
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import MasterKey, fresh_key, make_master_key, read_master_key, refuse_inside, sync_folder
from remote.server.links import LinkAnswers
from remote.server.located import Locator
from remote.server.mail import Mail
from remote.server.needs import Needs
from remote.server.objects.local import LocalObjects
from remote.server.objects.signing import Signer
from remote.server.previews.asking import PreviewAnswers
from remote.server.removing import forget, let_others_write, remove_user
from remote.server.search.answers import SearchAnswers
from remote.server.search.index import Index
from remote.server.sharing import SharingAnswers
from remote.server.slowing import Slowing
from remote.server.sso import Sso
from remote.server.tokens import TokenAnswers
from remote.server.totp import TotpAnswers
from remote.server.uploads import Uploads

DATABASE = "satchel.db"
_DRAFT = "satchel.db.new"
_PLAIN = Config()
_LOCK = "lock"
_KEY_CHECK = b"this is the master key of this instance"


class InstanceTrouble(Exception):
    """The data directory cannot be used as asked; `str()` says why and what to do."""


@dataclass(frozen=True)
class Instance:
    """An opened instance, ready to answer."""

    data: Path
    name: str
    database: Database
    keyring: Keyring
    objects: LocalObjects
    signer: Signer
    accounts: Accounts
    answers: Answers
    devices: DeviceAnswers
    tokens: TokenAnswers
    totp: TotpAnswers
    audit: AuditAnswers
    mail: Mail
    config: Config
    sso: Sso | None
    acts: Acts
    events: EventAnswers
    files: Files
    links: LinkAnswers
    contents: Contents
    sharing: SharingAnswers
    groups: GroupAnswers
    locator: Locator
    edits: Edits
    uploads: Uploads
    feed: Feed
    search: SearchAnswers
    previews: PreviewAnswers
    hub: Hub


def make(data: Path, key_file: Path) -> bool:
    """Makes a new instance, and the master key where there is none; False when the directory holds one already."""
    refuse_inside(key_file, data)
    if (data / DATABASE).exists():
        _settings(data, read_master_key(key_file))
        return False
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    strangers = [path.name for path in data.iterdir() if not path.name.startswith(_DRAFT) and path.name != _LOCK]
    if strangers:
        raise InstanceTrouble(f"{data} is not empty ({strangers[0]} is in it): give a new directory with --data DIR.")
    with _locked(data):
        master = make_master_key(key_file)
        for leftover in data.glob(f"{_DRAFT}*"):
            leftover.unlink()
        make_tables(data / _DRAFT, lambda session: _fill(session, master))
        # The database gets its name when it is whole: a kill before this line leaves nothing that looks like one.
        os.rename(data / _DRAFT, data / DATABASE)
        sync_folder(data)
    return True


@contextmanager
def opened(
    data: Path, key_file: Path, on_statement: OnStatement | None = None, config: Config = _PLAIN
) -> Iterator[Instance]:
    """The instance in this directory, which no other server may have open; raises InstanceTrouble or KeyTrouble."""
    refuse_inside(key_file, data)
    _check_made(data)
    with _locked(data):
        master = read_master_key(key_file)
        _upgrade(data, master)
        name, domain_secret = _settings(data, master)
        signer = Signer(master.derive(b"signed urls"), time.time)
        objects = LocalObjects(data, signer)
        database = Database(data / DATABASE, on_statement)
        hub = Hub()
        slowing = Slowing(time.time_ns)
        codes = Codes(database, master, slowing, time.time_ns)
        accounts = Accounts(database, name, slowing, codes, time.time_ns)
        mail = Mail(database, config.smtp)
        sso = None
        if config.oidc is not None:
            sso = Sso(config.oidc, config.url, database=database, accounts=accounts, mail=mail, master=master)
        keyring = Keyring(master)
        needs = Needs(database, hub)
        answers = Answers(database, objects, keyring, domain_secret, hub, mail, needs=needs)
        acts = Acts(database, keyring, hub, needs)
        contents = Contents(answers.chunks, domain_secret)
        locator = Locator(database, keyring)
        events = EventAnswers(database, answers.chunks, mail)
        answers.on_event = events.announce
        previews = PreviewAnswers(data, database, keyring, contents, locator)
        try:
            devices = DeviceAnswers(database, accounts, hub, mail)
            files = Files(database, keyring, accounts, answers.commit)
            links = LinkAnswers(database, keyring, accounts, files)
            sharing = SharingAnswers(database, keyring, master, answers.chunks, files, hub=hub, mail=mail)
            groups = GroupAnswers(sharing)
            edits = Edits(
                database,
                keyring,
                hub,
                files,
                answers.chunks,
                needs=needs,
                commit=answers.commit,
                announce=events.announce,
            )
            uploads = Uploads(database, keyring, files, contents, signer=signer, commit=answers.commit)
            yield Instance(
                data=data,
                name=name,
                database=database,
                keyring=keyring,
                objects=objects,
                signer=signer,
                accounts=accounts,
                answers=answers,
                devices=devices,
                tokens=TokenAnswers(database, hub),
                totp=TotpAnswers(database, accounts, codes),
                audit=AuditAnswers(database),
                mail=mail,
                config=config,
                sso=sso,
                acts=acts,
                events=events,
                files=files,
                links=links,
                contents=contents,
                search=SearchAnswers(database, keyring, Index(data)),
                sharing=sharing,
                groups=groups,
                locator=locator,
                edits=edits,
                uploads=uploads,
                feed=Feed(database, keyring, hub),
                previews=previews,
                hub=hub,
            )
        finally:
            hub.close()
            if sso is not None:
                sso.close()
            mail.close()
            accounts.close()
            previews.close()
            answers.close()
            database.close()


@dataclass(frozen=True)
class Beside:
    """An instance as a command sees it that works beside the server, whether that runs or not."""

    data: Path
    name: str
    database: Database
    objects: LocalObjects
    keyring: Keyring


@contextmanager
def beside(data: Path, key_file: Path) -> Iterator[Beside]:
    """The instance in this directory, which a server may have open; raises InstanceTrouble or KeyTrouble."""
    refuse_inside(key_file, data)
    with _database(data, key_file) as (name, master, database):
        signer = Signer(master.derive(b"signed urls"), time.time)
        yield Beside(data, name, database, LocalObjects(data, signer, is_only=False), Keyring(master))


@contextmanager
def only_one(directory: Path, name: str, what: str) -> Iterator[None]:
    """While this lock is held in the directory; raises InstanceTrouble when another process holds it, for `what`."""
    with open(directory / name, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstanceTrouble(f"{what} is at work in {directory} already: try again when it is done.") from None
        yield


def add_account(data: Path, key_file: Path, name: str, password: str) -> None:
    """A new user with a home, whether a server runs or not; raises InstanceTrouble or KeyTrouble."""
    try:
        with _database(data, key_file) as (_, master, database):
            check_new_password(password)
            hashed = hash_password(password)
            database.write_now(lambda session: add_user(session, master, name, hashed, time.time_ns()))
    except (BadRequest, InTheWay) as error:
        raise InstanceTrouble(str(error)) from error


def set_quota(data: Path, key_file: Path, name: str, quota: int, *, counts_past: bool | None = None) -> None:
    """Bounds what a user keeps (0: no bound), and says whether older versions count (None: as it is).

    Raises InstanceTrouble or KeyTrouble.
    """
    with _database(data, key_file) as (_, master, database):
        if not database.write_now(
            lambda session: set_home_quota(session, master, name, quota, counts_past=counts_past)
        ):
            raise InstanceTrouble(f"There is no user {name}.")


def users(data: Path, key_file: Path) -> list[UserLine]:
    """All accounts by name; raises InstanceTrouble or KeyTrouble."""
    with _database(data, key_file) as (_, _, database):
        return database.read_now(list_users)


def set_password(data: Path, key_file: Path, name: str, password: str) -> None:
    """A new password for a user who lost his; his devices stay signed in. Raises InstanceTrouble or KeyTrouble."""
    try:
        check_new_password(password)
        hashed = hash_password(password)
    except BadRequest as error:
        raise InstanceTrouble(str(error)) from error
    with _database(data, key_file) as (_, _, database):
        if not database.write_now(lambda session: replace_password(session, name, hashed)):
            raise InstanceTrouble(f"There is no user {name}.")


def end_totp(data: Path, key_file: Path, name: str) -> None:
    """Has a user who lost his authenticator app sign in without codes. Raises InstanceTrouble or KeyTrouble."""
    _about_user(data, key_file, name, end_codes)


def set_disabled(data: Path, key_file: Path, name: str, *, is_disabled: bool) -> None:
    """Keeps a user out with all that he has signed in, or lets him in. Raises InstanceTrouble or KeyTrouble."""
    _about_user(data, key_file, name, partial(disable_user, is_disabled=is_disabled))


def remove(data: Path, key_file: Path, name: str) -> None:
    """Removes a user with all that is his. Raises InstanceTrouble or KeyTrouble."""
    with _database(data, key_file) as (_, master, database):
        try:
            spaces = database.write_now(lambda session: remove_user(session, Keyring(master), name, time.time_ns()))
        except (NotFound, NotAllowed) as error:
            raise InstanceTrouble(str(error)) from error
        index = Index(data)
        for space in spaces:
            # Names of files stand in it in the clear.
            index.clear(space)
            forget(database, space, let_others_write)


def set_user_email(data: Path, key_file: Path, name: str, email: str) -> None:
    """Where mail to a user goes; empty: nowhere. Raises InstanceTrouble or KeyTrouble."""
    try:
        check_email(email)
    except BadRequest as error:
        raise InstanceTrouble(str(error)) from error
    _about_user(data, key_file, name, partial(change_email, email=email))


def link_identity(data: Path, key_file: Path, name: str, issuer: str, subject: str) -> None:
    """Has who signs in at the issuer as this subject be the user. Raises InstanceTrouble or KeyTrouble."""
    _about_user(data, key_file, name, partial(put_identity, issuer=issuer, subject=subject))


def set_audit_days(data: Path, key_file: Path, days: int) -> None:
    """For how many days notes are kept. Raises InstanceTrouble or KeyTrouble."""
    with _database(data, key_file) as (_, _, database):
        database.write_now(lambda session: keep_days(session, days))


def _about_user(data: Path, key_file: Path, name: str, job: Callable[[Session, UserId], object]) -> None:
    def change(session: Session) -> bool:
        user = user_called(session, name)
        if user is not None:
            job(session, user)
        return user is not None

    with _database(data, key_file) as (_, _, database):
        if not database.write_now(change):
            raise InstanceTrouble(f"There is no user {name}.")


def audit_lines(data: Path, key_file: Path, since_ns: int = 0, user: str | None = None) -> Iterator[str]:
    """What was noted, the oldest first, each as a line of JSON; raises InstanceTrouble or KeyTrouble."""
    with _database(data, key_file) as (_, _, database), database.reading() as session:
        number = user_called(session, user) if user is not None else None
        if user is not None and number is None:
            raise InstanceTrouble(f"There is no user {user}.")
        yield from exported(session, since_ns, number)


@contextmanager
def _database(data: Path, key_file: Path) -> Iterator[tuple[str, MasterKey, Database]]:
    """The name, the master key and the database of an instance that a server may have open meanwhile."""
    _check_made(data)
    master = read_master_key(key_file)
    name, _ = _settings(data, master)
    database = Database(data / DATABASE)
    try:
        yield name, master, database
    finally:
        database.close()


def _check_made(data: Path) -> None:
    if not (data / DATABASE).exists():
        raise InstanceTrouble(f"There is no instance in {data} yet: run satchel-server init --data {data}")


@contextmanager
def _locked(data: Path) -> Iterator[IO[bytes]]:
    with open(data / _LOCK, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstanceTrouble(
                f"Another satchel-server has {data} open: stop that one first, or give another --data DIR."
            ) from None
        yield lock


def _settings(data: Path, master: MasterKey) -> tuple[str, bytes]:
    """The instance's name and domain secret, after the key and the format were checked."""
    found = _stored_settings(data, master)
    if found["format"] != str(FORMAT).encode():
        # Only with the lock may it be upgraded, and who comes here has none.
        how = (
            "start the server once, which upgrades it"
            if _oldest() <= _format(found) < FORMAT
            else "use the version that made it"
        )
        raise InstanceTrouble(
            f"The data in {data} has format {found['format'].decode(errors='replace')}; this version works with "
            f"format {FORMAT}: {how}."
        )
    return found["instance"].decode(), master.unwrap(found["domain_secret"])


def _stored_settings(data: Path, master: MasterKey) -> dict[str, bytes]:
    """What is stored of the instance, after the key was checked."""
    database = Database(data / DATABASE)
    try:
        found = database.read_now(
            lambda session: {
                name: account_rows.setting(session, name) or b""
                for name in ("format", "instance", "key_check", "domain_secret")
            }
        )
    finally:
        database.close()
    master.unwrap(found["key_check"])
    return found


def _format(found: dict[str, bytes]) -> int:
    try:
        return int(found["format"])
    except ValueError:
        return 0


def _oldest() -> int:
    return min(UPGRADES, default=FORMAT)


def _upgrade(data: Path, master: MasterKey) -> None:
    """Brings the tables of an older version to the present ones, all or nothing; a copy of the old ones stays."""
    old = _format(_stored_settings(data, master))
    if not _oldest() <= old < FORMAT:
        return
    statements = [statement for format_ in range(old, FORMAT) for statement in UPGRADES[format_]]
    spare = data / f"{DATABASE}.format-{old}"
    try:
        upgrade_tables(
            data / DATABASE,
            spare,
            statements,
            lambda session: account_rows.replace_setting(session, "format", str(FORMAT).encode()),
        )
    except ServerFault as error:
        raise InstanceTrouble(
            f"The data in {data} could not be brought from format {old} to {FORMAT} ({error}); nothing was changed."
        ) from error


def _fill(session: Session, master: MasterKey) -> None:
    account_rows.put_setting(session, "format", str(FORMAT).encode())
    account_rows.put_setting(session, "instance", secrets.token_hex(16).encode())
    account_rows.put_setting(session, "key_check", master.wrap(_KEY_CHECK))
    account_rows.put_setting(session, "domain_secret", master.wrap(fresh_key()))
