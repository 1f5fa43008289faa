"""Who may do what: role -> rights, looked up at every request."""

import enum

from remote.protocol.errors import NotAllowed, NotFound
from remote.protocol.ids import SpaceId, UserId
from remote.protocol.sharing import KEEPER
from remote.server.database import accounts as account_rows
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow, owner_id, role_of, space_row


class Right(enum.Enum):
    """What a request asks for."""

    READ = "read"
    FOLLOW = "hear what changes"
    WRITE = "write"
    FORGET = "forget the past"
    GUARD = "set its guard"
    SHARE = "share with others"
    OWN = "give away or stop sharing"


RIGHTS: dict[str, frozenset[Right]] = {
    "owner": frozenset(Right),
    "manager": frozenset({Right.READ, Right.FOLLOW, Right.WRITE, Right.FORGET, Right.GUARD, Right.SHARE}),
    "editor": frozenset({Right.READ, Right.FOLLOW, Right.WRITE}),
    "viewer": frozenset({Right.READ, Right.FOLLOW}),
    # Of a folder that is shared no more: what is left is its history. That it is empty now is no news: its files are
    # in the home, whose news may come to a device a moment later.
    KEEPER: frozenset({Right.READ, Right.FORGET}),
}


def member_space(session: Session, space: SpaceId, user: UserId, right: Right) -> SpaceRow:
    """The space, if the user may do this in it.

    Raises NotFound for a space that is not the user's, as for one that does not exist; NotAllowed for lack of a right.
    """
    role = role_of(session, space, user)
    row = space_row(session, space) if role is not None else None
    if role is None or row is None:
        raise NotFound(f"There is no space {space}, or you are no member of it.")
    if right not in RIGHTS[role]:
        raise NotAllowed(f"As {role} of {row.name} you may not {right.value} there.")
    return row


def owner_of(session: Session, space: SpaceId) -> str:
    """The name of the user whose space it is; empty when nobody's."""
    owner = owner_id(session, space)
    account = account_rows.account(session, owner) if owner is not None else None
    return account.user_name if account is not None else ""
