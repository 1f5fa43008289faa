"""Removing: takes a user away for good, with all that is his; what others share with him stays theirs.

His files are forgotten bit by bit, so that others can write meanwhile: what a crash leaves of them, and their content,
goes when garbage is collected.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from remote.protocol.errors import NotAllowed, NotFound
from remote.protocol.ids import SpaceId
from remote.server.accounts import login_name
from remote.server.audit import note
from remote.server.codes import end_codes
from remote.server.database import accounts as account_rows
from remote.server.database import links as link_rows
from remote.server.database import sharing as sharing_rows
from remote.server.database import spaces as space_rows
from remote.server.database import uploads as upload_rows
from remote.server.database.accounts import Account
from remote.server.database.connection import Database, Session
from remote.server.database.retention import every_space
from remote.server.groups import take_from_group
from remote.server.keyring import Keyring
from remote.server.membership import Members, Told

ROWS_AT_ONCE: Final = 5_000
"""Rows that are forgotten in one transaction: others wait for it, some 50 ms."""


def forget(database: Database, space: SpaceId, pause: Callable[[], None]) -> None:
    """Forgets what was in a space that is removed; does nothing to any other. `pause`: called between transactions."""
    while database.write_now(partial(space_rows.empty_some, space=space, count=ROWS_AT_ONCE)):
        pause()


def let_others_write() -> None:
    """The pause of another process than the server: who waits for the database looks every 0.1 s."""
    time.sleep(0.1)


def remove_user(session: Session, keyring: Keyring, name: str, now_ns: int) -> list[SpaceId]:
    """Removes a user; the spaces that were his, to be forgotten (`forget`).

    Raises NotFound, and NotAllowed for who owns what others use.
    """
    user = account_rows.user_of_login(session, login_name(name))
    account = account_rows.account(session, user) if user is not None else None
    if account is None:
        raise NotFound(f"There is no user {name}.")
    _check_owns_nothing(session, account)
    _leave_all(Members(session, keyring, Told(), now_ns), account)
    for row in account_rows.devices(session, account.user) + account_rows.app_tokens(session, account.user):
        account_rows.revoke_device(session, account.user, row.device, row.token_hash)
    for link in list(link_rows.links(session, account.user)):
        link_rows.revoke_link(session, account.user, link.link)
    for upload in upload_rows.uploads(session, account.user):
        upload_rows.remove_upload(session, account.user, upload.upload)
    end_codes(session, account.user)
    account_rows.end_mount(session, account.user, account.home)
    account_rows.end_account(session, account.user, login_name(name))
    spaces = [account.home, *_kept_by(session, account)]
    for space in spaces:
        space_rows.remove_space(session, space)
    note(session, account.user, "user removed", account.user_name)
    return spaces


def _kept_by(session: Session, account: Account) -> list[SpaceId]:
    """What is left of folders that he shared once: their history, which nobody else may read."""
    found = []
    for space in every_space(session):
        row = space_rows.space_row(session, space)
        if row is not None and row.payer == account.home:
            found.append(space)
    return found


def _check_owns_nothing(session: Session, account: Account) -> None:
    shared = [space_rows.space_row(session, space) for space in space_rows.paid_by(session, account.home)]
    names = ", ".join(row.name for row in shared if row is not None)
    if names:
        raise NotAllowed(
            f"{account.user_name} owns shared folders: {names}. First make a member their owner (satchel share PATH"
            " --transfer USER), or have them not shared any more; or keep the user out: satchel-server user disable"
        )
    for group in sharing_rows.groups_of(session, account.user):
        row = sharing_rows.group_row(session, group)
        if row is not None and row.owner == account.user:
            raise NotAllowed(
                f"{account.user_name} owns the group {row.group_name}: satchel-server group remove {row.group_name}"
            )


def _leave_all(members: Members, account: Account) -> None:
    session, user = members.session, account.user
    for group in sharing_rows.groups_of(session, user):
        row = sharing_rows.group_row(session, group)
        if row is not None:
            take_from_group(members, row, user, row.owner)
    invited = [row.space for row in sharing_rows.invitations(session, user)]
    for space in {*account_rows.mounts(session, user), *invited} - {account.home}:
        sharing_rows.end_permit(session, space, is_group=False, who=user)
        shared = space_rows.space_row(session, space)
        if shared is not None:
            members.refresh(shared, user, user)
