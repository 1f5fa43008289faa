"""What a space is and was: listings, states, journal, moments and versions. Each answer is one consistent state.

All functions run in a reader's thread. Answers are bounded in number and bytes; what does not fit is asked for again.
"""

import hashlib
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from remote.protocol.errors import CursorTooOld, NotFound, TooLarge
from remote.protocol.ids import NO_SPACE, NOW, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import (
    CHILDREN_MAX,
    COMMITS_MAX,
    CONFLICTS_MAX,
    FOLDERS_MAX,
    LIVES_MAX,
    AsOfRequest,
    Changes,
    Conflict,
    Conflicts,
    ConflictsRequest,
    FolderListing,
    FolderQuery,
    History,
    HistoryRequest,
    JournalCommit,
    Life,
    Listing,
    ListRequest,
    Moment,
    Moments,
    MomentsRequest,
    Nodes,
    NodesRequest,
    Version,
)
from remote.protocol.nodes import NAME_MAX, Kind, NodeVersion
from remote.server.asking import asking
from remote.server.database import accounts as account_rows
from remote.server.database import conflicts as conflict_rows
from remote.server.database import past as past_rows
from remote.server.database import retention as retention_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.connection import Row, Session
from remote.server.database.spaces import JournalRow, SpaceRow
from remote.server.keys import SpaceKey
from remote.server.limits import INT63, check_count, check_limit, check_node, check_rev, check_steps, check_time
from remote.server.states import decode_state, is_folder, version
from remote.server.thinning import thinned

ANSWER_BYTES_MAX = 8 << 20
"""Stored bytes in one answer, after which it ends; one thing more than that may be in it."""
NODES_MAX = 10_000
MOMENTS_MAX = 10_000
VERSIONS_MAX = 1_000


@dataclass
class _Room:
    """What still fits into an answer."""

    count: int
    size_bytes: int = ANSWER_BYTES_MAX

    def take(self, *parts: bytes | None) -> None:
        self.count -= 1
        self.size_bytes -= sum(len(part) for part in parts if part is not None)

    @property
    def is_full(self) -> bool:
        return self.count <= 0 or self.size_bytes <= 0


def list_folders(session: Session, row: SpaceRow, key: SpaceKey, request: ListRequest) -> Listing:
    """Children of these folders, now or as of a rev."""
    check_count("folders", len(request.folders), FOLDERS_MAX)
    rev = _rev_asked(session, row, request.as_of)
    for at, query in enumerate(request.folders):
        check_node(f"folders[{at}].folder", query.folder)
        check_count("bytes in `after`", len(query.after), NAME_MAX)
        check_count(f"folders[{at}].below", query.below, CHILDREN_MAX)
    room = _Room(CHILDREN_MAX)
    listings: list[FolderListing] = []
    for query in request.folders:
        if room.is_full:
            break
        listings.append(_list_folder(session, row.space, key, query, rev if request.as_of else NOW, room))
    if not request.as_of:
        for query, listing in zip(request.folders, tuple(listings), strict=False):
            listings += _list_below(session, row.space, key, listing, query.below, room)
    return Listing(rev, tuple(listings))


def nodes(session: Session, row: SpaceRow, key: SpaceKey, request: NodesRequest) -> Nodes:
    """The states of these nodes, now or as of a rev."""
    check_count("nodes", len(request.nodes), NODES_MAX)
    rev = _rev_asked(session, row, request.as_of)
    for at, node in enumerate(request.nodes):
        check_node(f"nodes[{at}]", node)
    room = _Room(NODES_MAX)
    found: list[NodeVersion | None] = []
    for node in request.nodes:
        if room.is_full:
            raise TooLarge(f"The first {len(found)} nodes fill an answer: ask for fewer at once.")
        stored = _stored(session, row.space, node, rev if request.as_of else NOW)
        found.append(_version(key, stored) if stored is not None else None)
        if stored is not None:
            room.take(stored.state, stored.manifest)
    return Nodes(rev, tuple(found))


def changes(session: Session, row: SpaceRow, key: SpaceKey, since: Rev, now_ns: int, life: int = 0) -> Changes:
    """Whole commits after a cursor; raises CursorTooOld for a cursor that this journal cannot go on from."""
    check_life(session, row, since, life)
    if since < row.floor:
        raise CursorTooOld(f"The journal of {row.name} begins after rev {row.floor}: list again.")
    if since > row.head:
        # A server that was restored from a backup: what the device knows never happened here.
        raise CursorTooOld(f"The journal of {row.name} ends at rev {row.head} and knows no rev {since}: list again.")
    journal = space_rows.journal_after(session, row.space, since, COMMITS_MAX)
    lives = lives_after(session, row.space, since)
    if not journal:
        return Changes(row.head, now_ns, (), lives)
    states = trees.changes_between(session, row.space, since, journal[-1].rev)
    return Changes(row.head, now_ns, tuple(_whole_commits(key, journal, states)), lives)


def check_life(session: Session, row: SpaceRow, cursor: Rev, life: int) -> None:
    """Raises CursorTooOld for a cursor that was given in another life of the journal; 0: not looked at."""
    if life and cursor and space_rows.life_at(session, row.space, cursor) != life:
        raise CursorTooOld(
            f"Rev {cursor} of {row.name} is another commit than the one that this device knows: the server was put back"
            " from an older copy."
        )


def lives_after(session: Session, space: SpaceId, since: Rev) -> tuple[Life, ...]:
    """The lives of the journal from that of a rev on."""
    lives = [Life(*each) for each in space_rows.lives(session, space, LIVES_MAX)]
    older = sum(each.from_rev < since for each in lives[1:])
    return tuple(lives[older:])


def moments(session: Session, row: SpaceRow, request: MomentsRequest, now_ns: int) -> Moments:
    """The newest moments of a folder, thinned as asked."""
    check_node("folder", request.folder)
    check_limit(request.limit, MOMENTS_MAX)
    present = trees.node_row(session, row.space, request.folder)
    if present is None or present.kind != Kind.FOLDER:
        raise NotFound(f"There is no such folder in {row.name}.")
    check_steps(request.steps)
    authors = Authors(session, row.space)

    def newest(last: int, limit: int) -> Iterator[Row]:
        return space_rows.moments(session, row.space, request.folder, last, limit)

    def last_before(time_ns: int) -> int:
        found = space_rows.last_commit_at(session, row.space, time_ns - 1)
        return found[0] if found is not None else 0

    found = (
        thinned(newest, last_before, request.steps, now_ns, request.limit)
        if request.steps
        else newest(INT63, request.limit)
    )
    told: list[Moment] = []
    for rev, time_ns, *who in found:
        moment = Moment(Rev(rev), time_ns, *authors.names_at(Rev(rev), *who))
        if rev < row.floor and (kept := retention_rows.kept_from(session, row.space, rev)) is not None:
            # The next kept rev is the first at which it can be read.
            moment = Moment(Rev(kept[0]), kept[1], *((moment.user_name, moment.device_name) if kept[0] == rev else ()))
        if not told or moment.rev < told[-1].rev:
            told.append(moment)
    return Moments(tuple(told))


def as_of(session: Session, row: SpaceRow, request: AsOfRequest) -> Moment:
    """The last commit at or before a time; rev 0 when there was none."""
    check_time("time_ns", request.time_ns)
    found = space_rows.last_commit_at(session, row.space, request.time_ns)
    if found is not None and found[0] < row.floor:
        found = retention_rows.kept_until(session, row.space, found[0])
    return Moment(*found) if found is not None else Moment(Rev(0), 0)


def history(session: Session, row: SpaceRow, key: SpaceKey, request: HistoryRequest) -> History:
    """The versions of a node, newest first; all of one rev are in the same answer."""
    check_node("node", request.node)
    check_rev("before", request.before)
    check_limit(request.limit, VERSIONS_MAX)
    if trees.node_row(session, row.space, request.node) is None:
        raise NotFound(f"There never was such a file or folder in {row.name}.")
    before = request.before if request.before != NOW else Rev(INT63)
    authors = Authors(session, row.space)
    versions: list[Version] = []
    room = _Room(request.limit)
    # One row more: a rev that kept a lost state beside the new one has two rows, which belong together.
    for found in trees.versions_before(session, row.space, request.node, before, request.limit + 1):
        if room.is_full and versions[-1].rev != found[0]:
            break
        room.take(found[2], found[3])
        versions.append(_history_version(key, request.node, found, authors))
    return History(tuple(versions))


def conflicts(session: Session, row: SpaceRow, key: SpaceKey, request: ConflictsRequest) -> Conflicts:
    """Conflicts that nobody has settled, of nodes that exist."""
    check_rev("after_node", Rev(request.after_node))
    check_rev("after_rev", request.after_rev)
    authors = Authors(session, row.space)
    found: list[Conflict] = []
    room = _Room(CONFLICTS_MAX)
    for node, *lost in conflict_rows.conflicts_after(
        session, row.space, request.after_node, request.after_rev, CONFLICTS_MAX + 2
    ):
        # Two versions of one rev belong together.
        if room.is_full and (found[-1].node, found[-1].lost.rev) != (node, lost[0]):
            return Conflicts(tuple(found), more=True)
        current = conflict_rows.current(session, row.space, node)
        room.take(lost[2], lost[3], current[2], current[3])
        lost_version, current_version = (_history_version(key, node, tuple(each), authors) for each in (lost, current))
        found.append(Conflict(node, lost_version, current_version))
    return Conflicts(tuple(found))


def act_tag(device: DeviceId) -> bytes:
    """How op ids begin of what the server commits because this device asked for it: 8 bytes."""
    return b"act" + hashlib.sha256(b"%d" % device).digest()[:5]


def asked_op_id() -> bytes:
    """An op id for what the server commits while a device asks for something else, such as to share a folder.

    Versions name that device, and its next undo passes this by.
    """
    return _asked_tag(asking().device) + secrets.token_bytes(8)


def _asked_tag(device: DeviceId) -> bytes:
    return b"ask" + hashlib.sha256(b"%d" % device).digest()[:5]


class Authors:
    """Names of users and devices, each looked up once."""

    def __init__(self, session: Session, space: SpaceId = NO_SPACE) -> None:
        """`space`: that of the revs which `names_at` is asked of."""
        self._session = session
        self._space = space
        self._names: dict[tuple[UserId, DeviceId], tuple[str, str]] = {}
        self._tags: dict[UserId, dict[bytes, DeviceId]] = {}

    def names_at(self, rev: Rev, user: UserId, device: DeviceId) -> tuple[str, str]:
        """Who made a rev: of what the server did because a device asked (to undo, or to share), that device."""
        return self.names(user, device or self._asking(rev, user))

    def _asking(self, rev: Rev, user: UserId) -> DeviceId:
        if user not in self._tags:
            known = account_rows.device_ids(self._session, user)
            self._tags[user] = {tag(device): device for device in known for tag in (act_tag, _asked_tag)}
        tag = past_rows.op_id(self._session, self._space, rev)[:8]
        return self._tags[user].get(tag, DeviceId(0))

    def names(self, user: UserId, device: DeviceId) -> tuple[str, str]:
        """What they are called now."""
        if (user, device) not in self._names:
            account = account_rows.account(self._session, user)
            self._names[user, device] = (
                account.user_name if account is not None else "",
                account_rows.device_name(self._session, user, device),
            )
        return self._names[user, device]


def _rev_asked(session: Session, row: SpaceRow, as_of: Rev) -> Rev:
    """The rev that an answer is of; raises NotFound for one that is not there (any more)."""
    check_rev("as_of", as_of)
    if as_of > row.head:
        raise NotFound(f"{row.name} has no rev {as_of} yet: it is at rev {row.head}.")
    return row.head if as_of == NOW else kept_rev(session, row, as_of)


def kept_rev(session: Session, row: SpaceRow, rev: Rev) -> Rev:
    """The first kept rev from this one on, at which every version of this rev that is kept can be read."""
    if rev >= row.floor:
        return rev
    found = retention_rows.kept_from(session, row.space, rev)
    if found is None:
        raise NotFound(f"{row.name} no longer keeps rev {rev}: the oldest is {row.floor}.")
    return Rev(found[0])


def _stored(session: Session, space: SpaceId, node: NodeId, as_of: Rev) -> trees.Stored | None:
    if as_of == NOW:
        return trees.stored_now(session, space, node)
    return trees.stored_as_of(session, space, node, as_of)


def _version(key: SpaceKey, stored: trees.Stored) -> NodeVersion:
    return version(key, stored.node, stored.rev, stored.edited_ns, stored.state, stored.manifest)


def _list_folder(
    session: Session, space: SpaceId, key: SpaceKey, query: FolderQuery, as_of: Rev, room: _Room
) -> FolderListing:
    stored = _stored(session, space, query.folder, as_of)
    if stored is None or stored.state is None or decode_state(stored.state).kind != Kind.FOLDER:
        return FolderListing(query.folder, (), (), gone=True)
    if as_of == NOW:
        found = trees.children_now(session, space, query.folder, query.after, room.count + 1)
    else:
        found = trees.children_as_of(session, space, query.folder, as_of, query.after, room.count + 1)
    names: list[bytes] = []
    children: list[NodeVersion] = []
    for name, node, rev, edited_ns, state_bytes, manifest in found:
        if room.is_full:
            return FolderListing(query.folder, tuple(names), tuple(children), more=True)
        room.take(name, state_bytes, manifest)
        names.append(name)
        children.append(version(key, node, rev, edited_ns, state_bytes, manifest))
    return FolderListing(query.folder, tuple(names), tuple(children))


def _list_below(
    session: Session, space: SpaceId, key: SpaceKey, top: FolderListing, most: int, room: _Room
) -> Iterator[FolderListing]:
    """Whole folders below one, the nearest first, with at most so many children in all."""
    waiting = deque(child.node for child in top.children if is_folder(child))
    while waiting and most > 0 and not room.is_full:
        left = _Room(min(most, room.count), room.size_bytes)
        found = _list_folder(session, space, key, FolderQuery(waiting.popleft()), NOW, left)
        if found.more:
            return
        most -= len(found.children)
        room.count -= len(found.children)
        room.size_bytes = left.size_bytes
        waiting.extend(child.node for child in found.children if is_folder(child))
        yield found


def _whole_commits(key: SpaceKey, journal: list[JournalRow], states: Iterator[Row]) -> Iterator[JournalCommit]:
    """The commits in order, until the answer is full; never a part of one."""
    room = _Room(INT63)
    following = next(states, None)
    for commit in journal:
        if room.is_full:
            return
        changed: list[NodeVersion] = []
        while following is not None and following[0] == commit.rev:
            rev, node, edited_ns, state, manifest = following
            room.take(state, manifest)
            changed.append(version(key, node, rev, edited_ns, state, manifest))
            following = next(states, None)
        yield JournalCommit(commit.rev, commit.time_ns, commit.device, tuple(changed))


def _history_version(key: SpaceKey, node: NodeId, found: Row, authors: Authors) -> Version:
    rev, edited_ns, state, manifest, mark, time_ns, user, device = found
    user_name, device_name = authors.names_at(rev, user, device)
    opened = version(key, node, rev, edited_ns, state, manifest).state
    return Version(rev, time_ns, edited_ns, user_name, device_name, opened, mark != trees.WAS_STATE, device)
