"""Located: which of a user's spaces an id or a path leads into, and what is there, now or as of a rev."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.ids import NOW, ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind, NodeState
from remote.server.accounts import check_standing
from remote.server.database import accounts as account_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import SpaceRow, role_of
from remote.server.files import Item, item_of
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.past import Past
from remote.server.reading import kept_rev
from remote.server.rights import Right, member_space
from remote.server.states import decode_state, open_manifest

LISTED_MAX = 1_000


@dataclass(frozen=True)
class Located:
    """A node in one of the user's spaces, with its path from the top of that."""

    space: SpaceRow
    item: Item
    path: bytes


@dataclass(frozen=True)
class Listed:
    """Children by name; `after`: ask again behind this name, None when there are no more."""

    space: SpaceRow
    folder: Located
    children: list[Located]
    after: bytes | None


class Locator:
    """Looks up files for people who name them by id or by path; every method raises NotFound."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def by_id(
        self, device: Device, node: NodeId, space: SpaceId | None = None, *, right: Right = Right.READ
    ) -> Located:
        """The node as it is now."""

        def read(session: Session) -> Located:
            row = self._space_of(session, device, node, space, right)
            key = self._keyring.key(row)
            return self._located(session, row, key, item_of(session, row.space, key, node))

        return await self._database.read(read)

    async def as_of(self, device: Device, node: NodeId, rev: Rev, space: SpaceId | None = None) -> Located:
        """The node as it was at a rev."""

        def read(session: Session) -> Located:
            row = self._space_of(session, device, node, space, Right.READ)
            key = self._keyring.key(row)
            if rev > row.head:
                raise NotFound(f"{row.name} has no rev {rev} yet: it is at rev {row.head}.")
            at = kept_rev(session, row, rev)
            stored = trees.stored_as_of(session, row.space, node, at)
            if stored is None or stored.state is None:
                raise NotFound(f"It did not exist at rev {rev}.")
            state = _opened(key, stored.state, stored.manifest)
            path = Past(session, row.space, key, at).path(state.names[0]) if node != ROOT else b""
            return Located(row, Item(node, stored.rev, state.names[0].name, state), path)

        return await self._database.read(read)

    async def by_path(
        self,
        device: Device,
        space: SpaceId | None,
        names: tuple[bytes, ...],
        right: Right = Right.READ,
        *,
        is_entered: bool = False,
    ) -> Located:
        """What has this path from the top of the space; shared folders are gone into, symlinks are not followed.

        `is_entered`: of a shared folder the top of its own space, not what stands for it in a home.
        """

        def read(session: Session) -> Located:
            top = member_space(session, space or _home(session, device), device.user, right)
            row, node = _follow(session, device, top, names, right, is_entered=is_entered)
            key = self._keyring.key(row)
            return self._located(session, row, key, item_of(session, row.space, key, node))

        return await self._database.read(read)

    async def children(self, device: Device, node: NodeId, space: SpaceId | None, after: bytes, limit: int) -> Listed:
        """What is in a folder, of every kind, by name; raises BadRequest for what is none."""

        def read(session: Session) -> Listed:
            row, top = _entered(
                session, device, self._space_of(session, device, node, space, Right.READ), node, Right.READ
            )
            key = self._keyring.key(row)
            folder = self._located(session, row, key, item_of(session, row.space, key, top))
            if folder.item.state.kind is not Kind.FOLDER:
                raise BadRequest(f"{folder.path.decode(errors='backslashreplace')} is no folder.")
            found = list(_children(session, row, key, folder, after, limit + 1))
            more = found[limit - 1].item.name if len(found) > limit else None
            return Listed(row, folder, found[:limit], more)

        return await self._database.read(read)

    async def space_of(self, device: Device, node: NodeId, space: SpaceId | None, right: Right) -> SpaceRow:
        """The space that has, or had, this node."""
        return await self._database.read(lambda session: self._space_of(session, device, node, space, right))

    async def check(self, device: Device, space: SpaceId) -> None:
        """Raises NotSignedIn, NotFound or NotAllowed for who asked for something there and may not have it now."""

        def look(session: Session) -> None:
            check_standing(session, device, time.time_ns())
            member_space(session, space, device.user, Right.READ)

        await self._database.read(look)

    async def home(self, device: Device) -> SpaceId:
        """The home of who asks."""
        return await self._database.read(lambda session: _home(session, device))

    def _space_of(
        self, session: Session, device: Device, node: NodeId, space: SpaceId | None, right: Right
    ) -> SpaceRow:
        if space is not None:
            return member_space(session, space, device.user, right)
        if node == ROOT:
            return member_space(session, _home(session, device), device.user, right)
        was: SpaceId | None = None
        for each in account_rows.mounts(session, device.user):
            found = trees.node_row(session, each, node) if role_of(session, each, device.user) else None
            if found is not None and found.state is not None:
                return member_space(session, each, device.user, right)
            was = each if found is not None else was
        if was is None:
            raise NotFound(f"There is no file {node}, or none that you may know of.")
        # It was removed there.
        return member_space(session, was, device.user, right)

    def _located(self, session: Session, row: SpaceRow, key: SpaceKey, item: Item) -> Located:
        path = b"" if item.node == ROOT else Past(session, row.space, key, NOW).path(item.state.names[0])
        return Located(row, item, path)


def _home(session: Session, device: Device) -> SpaceId:
    account = account_rows.account(session, device.user)
    if account is None:
        raise NotFound("There is no such user any more.")
    return account.home


def _follow(
    session: Session, device: Device, row: SpaceRow, names: tuple[bytes, ...], right: Right, *, is_entered: bool
) -> tuple[SpaceRow, NodeId]:
    node = ROOT
    for at, name in enumerate(names):
        row, node = _entered(session, device, row, node, right)
        found = trees.holder(session, row.space, node, name)
        if found is None:
            raise NotFound(f"There is no {b'/'.join(names[: at + 1]).decode(errors='backslashreplace')}.")
        node = found
    return _entered(session, device, row, node, right) if is_entered else (row, node)


def _entered(session: Session, device: Device, row: SpaceRow, node: NodeId, right: Right) -> tuple[SpaceRow, NodeId]:
    """The top of the shared space that a folder stands for; of any other node itself."""
    stored = trees.node_row(session, row.space, node)
    if stored is None or stored.state is None or stored.kind != Kind.FOLDER:
        return row, node
    mounts = decode_state(stored.state).mounts
    return (member_space(session, mounts, device.user, right), ROOT) if mounts else (row, node)


def _children(
    session: Session, row: SpaceRow, key: SpaceKey, folder: Located, after: bytes, limit: int
) -> Iterator[Located]:
    for name, node, rev, _, state, manifest in trees.children_now(session, row.space, folder.item.node, after, limit):
        path = folder.path + b"/" + name if folder.path else bytes(name)
        yield Located(row, Item(NodeId(node), Rev(rev), bytes(name), _opened(key, state, manifest)), path)


def _opened(key: SpaceKey, state: bytes, manifest: bytes | None) -> NodeState:
    found = decode_state(state)
    return found if manifest is None else replace(found, content=open_manifest(key, manifest))
