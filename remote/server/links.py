"""Links: what somebody without an account may see or bring, for whoever made the link, and no more than he may himself.

A link is known by its secret (128 random bits), of which only a hash is kept to find it by; its maker sees it again
from a copy that the space's key seals.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from remote.protocol.account import LinkEntry, LinkRequest, Links, RevokeLinkRequest
from remote.protocol.errors import BadRequest, Gone, NotAllowed, NotFound, NotSignedIn
from remote.protocol.ids import NOWHERE, ROOT, NodeId, SpaceId, UserId
from remote.protocol.messages import Done
from remote.protocol.nodes import NAME_MAX, Kind, Manifest
from remote.server.accounts import PROVEN_MAX, PROVEN_SECONDS, Accounts
from remote.server.audit import note
from remote.server.database import accounts as account_rows
from remote.server.database import links as link_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.links import LinkRow
from remote.server.database.spaces import SpaceRow, space_row
from remote.server.files import TREE_MAX, Files, Item, below, children_of, file_state, item_of, shown_name
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.limits import check_node, check_space
from remote.server.lookup import path_of
from remote.server.rights import Right, member_space
from remote.server.slowing import Lately
from remote.server.states import decode_state

READ, VIEW, UPLOAD = "read", "view", "upload"
"""To download, to look at only, to bring files only."""
KINDS = {READ, VIEW, UPLOAD}
LINKS_MAX = 10_000
"""Links of one user that were not revoked."""
DEPTH_MAX = 1_000
NUMBERS_MAX = 1_000
"""Files of one name that are brought to a folder."""
CHILDREN_MAX = 10_000
MOVES_MAX = 100
"""Times that a folder was shared and not shared any more, after which nobody looks on."""
_SECRET_SIZE = 16
_STARTED_MAX = 10_000
_STARTED_SECONDS = 6 * 3_600.0
"""So long who began a download may ask for more of it without its being counted again: players do, to seek."""
_USED_UP = "This link was used as often as it may be: ask who gave it to you for a new one."


@dataclass(frozen=True)
class Opened:
    """A link that stands, and where it leads."""

    row: LinkRow
    space: SpaceRow
    key: SpaceKey
    item: Item


class LinkAnswers:
    """Makes links for devices, and opens them for everybody."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        accounts: Accounts,
        files: Files,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._accounts = accounts
        self._files = files
        self._now_ns = now_ns
        self._proven = Lately(PROVEN_MAX, PROVEN_SECONDS)
        self._started = Lately(_STARTED_MAX, _STARTED_SECONDS)

    async def make(self, device: Device, request: LinkRequest) -> LinkEntry:
        """A new link of the device's user; raises NotFound for what the server does not have (yet), NotAllowed."""
        check_space("space", request.space)
        check_node("node", request.node)
        if request.kind not in KINDS:
            raise BadRequest(f"A link is read, view or upload, not {request.kind[:20]!r}.")
        if request.downloads_max < 0 or request.expires_ns < 0:
            raise BadRequest("A link's expiry and downloads cannot be negative.")
        if request.expires_ns and request.expires_ns <= self._now_ns():
            raise BadRequest("The link would have expired already.")
        password_hash = await self._accounts.hashed(request.password) if request.password else ""
        secret = secrets.token_urlsafe(_SECRET_SIZE)

        def make(session: Session) -> LinkEntry:
            # Also to show: who may only look does not show it to all the world.
            member_space(session, request.space, device.user, Right.WRITE)
            where, node = _place(session, request.space, request.node)
            space = member_space(session, where, device.user, Right.WRITE)
            key = self._keyring.key(space)
            item = _item(session, space, key, node)
            if request.kind == UPLOAD and item.state.kind != Kind.FOLDER:
                raise BadRequest("Files can be brought into a folder only.")
            if item.state.kind not in {Kind.FILE, Kind.FOLDER}:
                raise BadRequest("A link leads to a file or a folder.")
            if link_rows.link_count(session, device.user) >= LINKS_MAX:
                raise NotAllowed(f"You have {LINKS_MAX} links, which is all that one user gets: revoke some.")
            row = LinkRow(
                user=device.user,
                link=secrets.randbelow((1 << 63) - 1) + 1,
                space=space.space,
                node=item.node,
                kind=request.kind,
                secret=key.seal(secret.encode()),
                password_hash=password_hash,
                created_ns=self._now_ns(),
                expires_ns=request.expires_ns,
                downloads_max=request.downloads_max,
                downloads=0,
                is_revoked=False,
            )
            link_rows.add_link(session, row, _hash(secret))
            entry = _entry(row, secret, item, _leads_to(session, device.user, space, item.node), is_over=False)
            note(session, device.user, "link made", _noted(row, entry.leads_to))
            return entry

        return await self._database.write(make)

    async def links(self, device: Device) -> Links:
        """The links of the device's user that were not revoked."""

        def read(session: Session) -> Links:
            found: list[LinkEntry] = []
            for row in link_rows.links(session, device.user):
                space = space_row(session, row.space)
                if space is None:
                    continue
                item, leads_to = self._told(session, row)
                secret = self._keyring.key(space).open(row.secret).decode()
                is_over = item is None or self._is_over(row)
                found.append(_entry(row, secret, item, leads_to, is_over=is_over))
            return Links(tuple(found))

        return await self._database.read(read)

    async def revoke(self, device: Device, request: RevokeLinkRequest) -> Done:
        """Ends a link at once; raises NotFound for one that is not the user's."""

        def revoke(session: Session) -> Done:
            row = link_rows.link(session, device.user, request.link)
            if row is None or row.is_revoked:
                raise NotFound(f"You have no link {request.link}.")
            link_rows.revoke_link(session, device.user, request.link)
            note(session, device.user, "link revoked", _noted(row, self._told(session, row)[1]))
            return Done()

        return await self._database.write(revoke)

    async def opened(self, secret: str, password: str | None, path: tuple[bytes, ...] = ()) -> Opened:
        """Where the link leads, or what has this path below it.

        Raises NotFound for an unknown secret or path, Gone for a link that is over, NotSignedIn without its password,
        Busy after too many wrong ones.
        """

        def read(session: Session) -> Opened | None:
            row = link_rows.link_of_secret(session, _hash(secret))
            return self._standing(session, row) if row is not None else None

        self._accounts.slowing.check_address()
        found = await self._database.read(read)
        if found is None:
            # A slip, or somebody who guesses.
            self._accounts.slowing.add_address()
            raise NotFound("There is no such link.")
        await self._check_password(found.row, password)
        if not path:
            return found
        if found.row.kind == UPLOAD:
            raise NotAllowed("This link is for bringing files; it shows none.")
        item = await self._database.read(lambda session: _below(session, found, path))
        return replace(found, item=item)

    async def check(self, opened: Opened) -> None:
        """Raises Gone when the link that was opened is over by now, or what it led to."""

        def read(session: Session) -> None:
            row = link_rows.link(session, opened.row.user, opened.row.link)
            if row is None:
                raise Gone("This link is over: ask who gave it to you for a new one.")
            self._standing(session, row)

        await self._database.read(read)

    def _standing(self, session: Session, row: LinkRow) -> Opened:
        """Where a link leads; raises Gone."""
        maker = account_rows.account(session, row.user)
        if maker is None or maker.is_disabled or row.is_revoked or self._has_expired(row):
            raise Gone("This link is over: ask who gave it to you for a new one.")
        try:
            return self._followed(session, row)
        except (NotFound, NotAllowed):
            raise Gone("What this link led to is not there any more.") from None

    def _followed(self, session: Session, row: LinkRow) -> Opened:
        """What a link leads to now, also when its folder was shared since, or is shared no more.

        Raises NotFound, and NotAllowed for what its maker may not give away any more.
        """
        space, node = _place(session, row.space, row.node)
        there = member_space(session, space, row.user, Right.WRITE)
        key = self._keyring.key(there)
        return Opened(replace(row, space=space, node=node), there, key, _item(session, there, key, node))

    def _told(self, session: Session, row: LinkRow) -> tuple[Item | None, str]:
        """What a link leads to, None when it is gone, and its path; both for its maker, as far as he may know it."""
        space, node = _place(session, row.space, row.node)
        try:
            there = member_space(session, space, row.user, Right.WRITE)
        except (NotFound, NotAllowed):
            return None, ""
        try:
            item = _item(session, there, self._keyring.key(there), node)
        except NotFound:
            item = None
        return item, _leads_to(session, row.user, there, node)

    def check_uses(self, opened: Opened, who: str) -> None:
        """Raises Gone when the link allows no more downloads, but for a file of which `who` began one."""
        may_go_on = opened.item.state.kind == Kind.FILE and self._started.has(_download(opened, who))
        if _is_used_up(opened.row) and not may_go_on:
            raise Gone(_USED_UP)

    async def count(self, opened: Opened, who: str, *, is_beginning: bool) -> None:
        """Counts a download, once for what `who` asks for in parts; raises Gone when the link allows no more."""
        key = _download(opened, who)
        if not is_beginning and self._started.has(key):
            return
        if not await self._database.write(
            lambda session: link_rows.count_download(session, opened.row.user, opened.row.link)
        ):
            raise Gone(_USED_UP)
        self._started.add(key)

    async def children(self, opened: Opened) -> list[Item]:
        """What is in the folder, by name; at most CHILDREN_MAX."""
        return await self._database.read(
            lambda session: list(
                islice(children_of(session, opened.row.space, opened.key, opened.item.node), CHILDREN_MAX)
            )
        )

    async def tree(self, opened: Opened) -> list[tuple[str, NodeId]]:
        """All files and folders below the folder with their paths from it; raises NotAllowed for over TREE_MAX."""

        def read(session: Session) -> list[tuple[str, NodeId]]:
            found: list[tuple[str, NodeId]] = []
            waiting = [("", opened.item.node)]
            while waiting:
                prefix, folder = waiting.pop()
                taken: dict[str, int] = {}
                for item in children_of(session, opened.row.space, opened.key, folder):
                    path = prefix + _in_archive(item.name, taken)
                    if item.state.kind == Kind.FOLDER:
                        path += "/"
                        waiting.append((path, item.node))
                    found.append((path, item.node))
                    if len(found) > TREE_MAX:
                        raise NotAllowed(f"There are over {TREE_MAX:,} files in this folder: take them one by one.")
            return found

        return await self._database.read(read)

    async def bring(self, opened: Opened, name: bytes, manifest: Manifest) -> bytes:
        """Makes a file of content that was brought, as the link's maker; its name, another one when it is taken.

        Raises BadRequest for what can be no name, QuotaExceeded.
        """
        stem, dot, suffix = name.rpartition(b".") if not name.startswith(b".") else (name, b"", b"")
        if not dot:
            stem, suffix = name, b""
        for number in range(1, NUMBERS_MAX):
            tried = name if number == 1 else stem[: NAME_MAX - 20] + b" (%d)" % number + dot + suffix[:10]
            row = opened.row
            if await self._files.make(row.user, row.space, opened.item.node, tried, file_state(manifest)) is not None:
                return tried
        raise NotAllowed("Too many files of that name are there already: give it another one.")

    def now(self, opened: Opened, node: NodeId) -> Item | None:
        """A node of a link as it is now, for callers in a thread; None when it is removed."""
        try:
            return self._database.read_now(lambda session: item_of(session, opened.row.space, opened.key, node))
        except NotFound:
            return None

    async def _check_password(self, row: LinkRow, password: str | None) -> None:
        if not row.password_hash:
            return
        if password is None:
            raise NotSignedIn("This link needs a password.")
        proof = (row.link, hashlib.sha256(password.encode()).digest())
        if self._proven.has(proof):
            return
        await self._accounts.check_secret(f"link {row.link}", row.password_hash, password)
        self._proven.add(proof)

    def _has_expired(self, row: LinkRow) -> bool:
        return bool(row.expires_ns) and row.expires_ns <= self._now_ns()

    def _is_over(self, row: LinkRow) -> bool:
        return self._has_expired(row) or _is_used_up(row)


def _is_used_up(row: LinkRow) -> bool:
    return bool(row.downloads_max) and row.downloads >= row.downloads_max


def _download(opened: Opened, who: str) -> tuple[int, int, int, str]:
    return opened.row.user, opened.row.link, opened.item.node, who


def _place(session: Session, space: SpaceId, node: NodeId) -> tuple[SpaceId, NodeId]:
    """Where a node is that was in this space: it keeps its id when its folder becomes a space, or the home's again."""
    for _ in range(MOVES_MAX):
        found = trees.node_row(session, space, node)
        if found is None:
            break
        if found.state is None:
            if not found.parent:
                break
            space = SpaceId(found.parent)
        elif mounts := decode_state(found.state).mounts:
            return mounts, ROOT
        else:
            break
    return space, node


def _in_archive(name: bytes, taken: dict[str, int]) -> str:
    r"""A name as an archive has it, one that is not in `taken` yet; `..\` in it leads nowhere on any system.

    Names that are no UTF-8 may look alike: `taken` counts them, so that many cost no more than few.
    """
    shown = shown_name(name).replace("\\", "_")
    stem, dot, suffix = shown.rpartition(".")
    if not stem:
        stem, dot, suffix = shown, "", ""
    tried = shown
    while tried in taken:
        taken[shown] += 1
        tried = f"{stem} ({taken[shown]}){dot}{suffix}"
    taken[tried] = 1
    return tried


def _below(session: Session, opened: Opened, path: tuple[bytes, ...]) -> Item:
    if len(path) > DEPTH_MAX:
        raise NotFound("There is no such file in this folder.")
    return below(session, opened.row.space, opened.key, opened.item, path)


def _item(session: Session, space: SpaceRow, key: SpaceKey, node: NodeId) -> Item:
    """A node as it is now; the top of a shared folder has the name of that."""
    item = item_of(session, space.space, key, node)
    return replace(item, name=space.name.encode()) if node == ROOT and space.payer else item


def _leads_to(session: Session, user: UserId, space: SpaceRow, node: NodeId) -> str:
    """The path of a node in the user's drive, where it was last when it is removed; `/` for all of the drive."""
    account = account_rows.account(session, user)
    mount = account_rows.mount_node(session, user, space.space)
    parts = [path_of(session, account.home, mount)] if account is not None and mount != NOWHERE else []
    parts.append(path_of(session, space.space, node))
    return shown_name(b"/".join(part for part in parts if part)) or "/"


def _noted(row: LinkRow, leads_to: str) -> str:
    # The path last, for a long one is cut.
    return f"link {row.link}, {row.kind}{': ' if leads_to else ''}{leads_to}"


def _entry(row: LinkRow, secret: str, item: Item | None, leads_to: str, *, is_over: bool) -> LinkEntry:
    name = "" if item is None else shown_name(item.name) or "/"
    return LinkEntry(
        link=row.link,
        path=f"/s/{secret}",
        name=name,
        kind=row.kind,
        created_ns=row.created_ns,
        expires_ns=row.expires_ns,
        has_password=bool(row.password_hash),
        downloads=row.downloads,
        downloads_max=row.downloads_max,
        is_over=is_over,
        leads_to=leads_to,
    )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
