"""Answers about what is found: in which of a user's spaces a query looks, and what of the hits is there right now.

The index is behind the truth by a moment, so everything it names is looked up again: what is not there, or not this
user's to see, is not told.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from remote.protocol.errors import BadRequest, NotAllowed, NotFound
from remote.protocol.ids import NOW, NOWHERE, ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind
from remote.protocol.search import FOUND_MAX, REACH_MAX, Found, SearchAnswer, SearchRequest
from remote.server.database import accounts as account_rows
from remote.server.database import index as rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, DerivedDamaged, Session
from remote.server.database.jobs import WALKED
from remote.server.database.spaces import SpaceRow
from remote.server.keyring import Keyring
from remote.server.limits import check_limit
from remote.server.past import Past
from remote.server.rights import Right, member_space, owner_of
from remote.server.search.finding import CONTENT, SIMILAR, Finder, Hit, check_words
from remote.server.search.index import Index
from remote.server.search.indexing import Indexer, tokens_of
from remote.server.search.query import Query, parse
from remote.server.search.tokens import folded_name
from remote.server.search.types import extension_of, type_of

log = logging.getLogger(__name__)

_FEW: Final = 5
"""When fewer are found, what is similar counts as well."""
_ZONE_MAX: Final = 24 * 60
_WHY: Final = {CONTENT: "content", SIMILAR: "similar"}


@dataclass(frozen=True)
class _Place:
    """A space to look in, and from which folder on; `front`: what its paths begin with in the asker's home."""

    row: SpaceRow
    below: NodeId
    front: bytes


class SearchAnswers:
    """What an instance answers to who searches."""

    def __init__(self, database: Database, keyring: Keyring, index: Index) -> None:
        self._database = database
        self._keyring = keyring
        self._index = index
        self._is_on = False
        self._reads_content = False

    def indexer(self, *, reads_content: bool) -> Indexer:
        """The job that keeps the index; from now on searches are answered."""
        self._is_on, self._reads_content = True, reads_content
        return Indexer(self._index, reads_content=reads_content)

    async def search(self, device: Device, request: SearchRequest) -> SearchAnswer:
        """What the query finds in the user's spaces; raises BadRequest, NotFound, NotAllowed when there is no index."""
        if not self._is_on:
            raise NotAllowed("Search is switched off on this server.")
        check_limit(request.limit, FOUND_MAX)
        if not 0 <= request.offset <= REACH_MAX - request.limit:
            raise BadRequest(f"Only the first {REACH_MAX:,} can be paged to: search for something narrower.")
        if abs(request.local_offset_minutes) > _ZONE_MAX:
            raise BadRequest(f"{request.local_offset_minutes} minutes are no time zone.")
        query = parse(request.query, request.local_offset_minutes)
        check_words(query)
        return await self._database.read(lambda session: self._search(session, device, request, query))

    def _search(self, session: Session, device: Device, request: SearchRequest, query: Query) -> SearchAnswer:
        places = list(self._places(session, device, request, query))
        is_behind = is_cut = False
        hits: list[tuple[_Place, Hit]] = []
        with ExitStack() as stack:
            finders: list[tuple[_Place, Finder]] = []
            for place in places:
                try:
                    index = stack.enter_context(self._index.reading(place.row.space))
                    if index is None:
                        is_behind = True
                        continue
                    is_behind |= self._is_behind(index, place.row.head)
                    finder = Finder(index, tokens_of(self._keyring.key(place.row)), query, place.below)
                    hits += [(place, hit) for hit in finder.literal()]
                except DerivedDamaged as error:
                    log.warning("search: %s satchel-server index --rebuild makes it anew", error)
                    is_behind = True
                    continue
                finders.append((place, finder))
            if len(hits) < _FEW:
                hits += [(place, hit) for place, finder in finders for hit in finder.similar()]
            is_cut = any(finder.is_cut for _, finder in finders)
        hits.sort(key=lambda each: each[1].rank)
        page = hits[request.offset : request.offset + request.limit]
        past = {place.row.space: Past(session, place.row.space, self._keyring.key(place.row), NOW) for place in places}
        found = tuple(told for place, hit in page if (told := _told(past[place.row.space], place, hit)) is not None)
        has_more = len(hits) > request.offset + request.limit and request.offset + request.limit < REACH_MAX
        return SearchAnswer(found, has_more, is_behind, is_cut)

    def _is_behind(self, index: Session, head: Rev) -> bool:
        """Whether something is not indexed yet."""
        cursor = rows.cursor(index)
        if cursor is None or cursor.walked != WALKED or cursor.rev < head:
            return True
        return self._reads_content and bool(rows.later(index, 1))

    def _places(self, session: Session, device: Device, request: SearchRequest, query: Query) -> Iterator[_Place]:
        """Where the query looks; raises NotFound for a folder, owner or space that there is not."""
        account = account_rows.account(session, device.user)
        if account is None:
            return
        home = member_space(session, account.home, device.user, Right.READ)
        there = Past(session, home.space, self._keyring.key(home), NOW)
        space, folder = self._folder(session, device, home, query.below)
        if request.space:
            member_space(session, request.space, device.user, Right.READ)
        is_owner_known = False
        for one in account_rows.mounts(session, device.user):
            row = member_space(session, one, device.user, Right.READ)
            mount = account_rows.mount_node(session, device.user, one)
            owner = owner_of(session, one) or device.user_name
            if query.owner and owner.casefold() != query.owner.casefold():
                continue
            is_owner_known = True
            if request.space not in {0, one}:
                continue
            front = b""
            if mount != NOWHERE and (node := there.node(mount)) is not None:
                front = there.path(node.state.names[0]) + b"/"
            if space == one:
                yield _Place(row, folder, front)
            elif space == home.space and mount != NOWHERE and there.names_below(mount, folder):
                yield _Place(row, ROOT, front)
        if query.owner and not is_owner_known:
            raise NotFound(f"Nothing that you see is owned by {query.owner}.")

    def _folder(self, session: Session, device: Device, home: SpaceRow, path: bytes) -> tuple[SpaceId, NodeId]:
        """The space and node of a folder by its path in the user's home, through what is shared with him."""
        space, node = home.space, ROOT
        past = Past(session, space, self._keyring.key(home), NOW)
        for name in (part for part in path.split(b"/") if part):
            found = trees.holder(session, space, node, name)
            state = past.node(found) if found is not None else None
            if found is None or state is None or state.state.kind != Kind.FOLDER:
                raise NotFound(f"in: there is no folder {path.decode(errors='backslashreplace')}.")
            node = found
            if state.state.mounts:
                space, node = state.state.mounts, ROOT
                past = Past(
                    session, space, self._keyring.key(member_space(session, space, device.user, Right.READ)), NOW
                )
        return space, node


def _told(past: Past, place: _Place, hit: Hit) -> Found | None:
    """A hit as it is now; None when it is gone, or not where the query looks."""
    there = past.node(hit.node)
    if there is None:
        return None
    names = past.names_below(hit.node, place.below)
    if not names:
        return None
    name = next((each for each in names if each.name == hit.name), names[0])
    state = there.state
    extension = extension_of(folded_name(name.name)) if state.kind == Kind.FILE else ""
    return Found(
        place.row.space,
        hit.node,
        place.front + past.path(name),
        state.kind,
        type_of(state.kind, extension),
        there.size,
        state.mtime_ns,
        _WHY.get(hit.why, "name"),
    )
