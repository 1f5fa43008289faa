"""Lookup: what a person means by a path and by a time or rev, in one space; and the path of what is, or was, there."""

from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.ids import NOW, ROOT, NodeId, Rev, SpaceId
from remote.protocol.times import last_of
from remote.server.database import past as past_rows
from remote.server.database import retention as retention_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.states import decode_state

_DEPTH_MAX = 4_096
_DATE_LENGTH = len("20261121")


def node_of(session: Session, space: SpaceId, path: bytes) -> NodeId:
    """The node that has this path now, or had it last, name by name; the top for an empty one. Raises NotFound."""
    node = ROOT
    for name in (part for part in path.split(b"/") if part):
        found = trees.holder(session, space, node, name) or past_rows.last_holder(session, space, node, name)
        if found is None:
            raise NotFound(f"There is no {path.decode(errors='backslashreplace')}, and none is known that was.")
        node = found
    return node


def path_of(session: Session, space: SpaceId, node: NodeId) -> bytes:
    """Where a node is from the top of its space, or was when it was last there; `?` for what is not known any more."""
    parts: list[bytes] = []
    while node != ROOT and len(parts) < _DEPTH_MAX:
        found = trees.last_state(session, space, node)
        state = decode_state(found) if found is not None else None
        if state is None or not state.names:
            parts.append(b"?")
            break
        parts.append(state.names[0].name)
        node = state.names[0].parent
    return b"/".join(reversed(parts))


def rev_of(session: Session, row: SpaceRow, text: str) -> Rev:
    """The rev of a time or a number: "41", "2026-11-21T10:15:30Z"; empty: now. Raises BadRequest, NotFound."""
    if not text:
        return NOW
    if text.isascii() and text.isdecimal() and len(text) != _DATE_LENGTH:
        if not 0 < int(text) <= row.head:
            raise NotFound(f"{row.name} has no rev {text[:20]}: its revs are 1 to {row.head}.")
        return Rev(int(text))
    try:
        found = space_rows.last_commit_at(session, row.space, last_of(text))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if found is not None and found[0] < row.floor:
        found = retention_rows.kept_until(session, row.space, found[0])
    if found is None:
        raise NotFound(f"Nothing of {row.name} is known from that time.")
    return Rev(found[0])
