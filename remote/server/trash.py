"""Trash: what was removed and can be brought back: a view on history, for which nothing is moved or kept apart.

A folder stands for what was removed with it: what was in it until within ten minutes before it went, as `rm -r` makes
many commits. Of what others have the name of now, older states are versions of that path, and no trash.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from remote.protocol.errors import InTheWay, NotFound, TooLarge
from remote.protocol.history import CHANGED_MAX, TRASH_MAX, PutBackRequest, Removed, Trash, TrashRequest
from remote.protocol.ids import NOW, DeviceId, NodeId, Rev, UserId
from remote.protocol.nodes import NAME_MAX, Kind, Name
from remote.server.database import past as past_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.keys import SpaceKey
from remote.server.limits import INT63, check_count, check_limit, check_node, check_op_id, check_rev
from remote.server.past import Past, Then
from remote.server.reading import Authors
from remote.server.rewinding import Plan, plan_back

TOGETHER_NS: Final = 600_000_000_000
LOOKED_MAX: Final = 5_000
"""Removed nodes that one answer looks at, but for those of one rev, which are never parted."""
_TRIES: Final = 1_000
_NOBODY: Final = (0, UserId(0), DeviceId(0))


@dataclass(frozen=True)
class Gone:
    """A removed node, and what it was before."""

    node: NodeId
    rev: Rev
    then: Then


class Bin:
    """The removed nodes of one space."""

    def __init__(self, session: Session, row: SpaceRow, key: SpaceKey) -> None:
        self.now = Past(session, row.space, key, NOW)
        self._session = session
        self._row = row
        self._key = key
        self._times: dict[Rev, tuple[int, UserId, DeviceId]] = {}
        self._pasts: dict[Rev, Past] = {}

    def before(self, rev: Rev) -> Past:
        """Everything as it was just before a rev."""
        if rev not in self._pasts:
            self._pasts[rev] = Past(self._session, self._row.space, self._key, Rev(rev - 1))
        return self._pasts[rev]

    def find(self, node: NodeId) -> Gone | None:
        """The node, if it is removed and what it was is known."""
        row = trees.node_row(self._session, self._row.space, node)
        # What has a parent then is in another space now: it is not removed for anybody.
        if row is None or row.state is not None or row.parent:
            return None
        then = self.before(row.rev).node(node)
        return Gone(node, row.rev, then) if then is not None else None

    def has_moved(self, node: NodeId) -> bool:
        """Whether it is in another space now."""
        row = trees.node_row(self._session, self._row.space, node)
        return row is not None and row.state is None and bool(row.parent)

    def commit(self, rev: Rev) -> tuple[int, UserId, DeviceId]:
        """When, by whom and on which device a rev was made."""
        if rev not in self._times:
            found = past_rows.commit_row(self._session, self._row.space, rev)
            self._times[rev] = (found[0], UserId(found[1]), DeviceId(found[2])) if found is not None else _NOBODY
        return self._times[rev]

    def is_for_itself(self, gone: Gone) -> bool:
        """Whether it is to be listed: not with its folder, and not replaced."""
        for name in gone.then.state.names:
            folder = trees.node_row(self._session, self._row.space, name.parent)
            is_removed = folder is not None and folder.state is None and not folder.parent
            if folder is not None and is_removed and self._went_together(gone.rev, folder.rev):
                return False
            if trees.holder(self._session, self._row.space, name.parent, name.name) is not None:
                return False
        return True

    def _went_together(self, rev: Rev, folder: Rev) -> bool:
        return rev <= folder and self.commit(folder)[0] - self.commit(rev)[0] <= TOGETHER_NS

    def with_all_in_it(self, top: Gone) -> Iterator[Gone]:
        """It, and what was removed with it; folders before what is in them. Raises TooLarge."""
        found, count = [top], 0
        seen = {top.node}
        while found:
            one = found.pop()
            yield one
            count += 1
            if count > CHANGED_MAX:
                raise TooLarge(f"More than {CHANGED_MAX} things went with it: bring back, or purge, parts of it.")
            if one.then.state.kind is not Kind.FOLDER:
                continue
            since = space_rows.last_commit_at(self._session, self._row.space, self.commit(one.rev)[0] - TOGETHER_NS - 1)
            first = Rev(since[0] + 1 if since is not None else 1)
            for node, until in past_rows.names_ended_in(self._session, self._row.space, one.node, first):
                gone = self.find(node) if node not in seen else None
                if gone is not None and gone.rev == until and self._went_together(gone.rev, one.rev):
                    seen.add(node)
                    found.append(gone)


def trash(session: Session, row: SpaceRow, key: SpaceKey, request: TrashRequest) -> Trash:
    """What was removed, newest first; what went with a folder is not listed by itself."""
    check_rev("before", request.before)
    check_limit(request.limit, TRASH_MAX)
    nodes = past_rows.removed_before(session, row.space, request.before or INT63, LOOKED_MAX)
    has_more = len(nodes) == LOOKED_MAX
    if has_more:
        last = nodes[-1][1]
        nodes = [one for one in nodes if one[1] > last] or [
            (node, last) for node in past_rows.removed_by(session, row.space, last)
        ]
    found: list[Removed] = []
    bin_, authors = Bin(session, row, key), Authors(session, row.space)
    for node, rev in nodes:
        if len(found) >= request.limit and rev < found[-1].rev:
            return Trash(tuple(found), found[-1].rev)
        gone = bin_.find(node)
        if gone is not None and bin_.is_for_itself(gone):
            found.append(_told(bin_, gone, authors))
    return Trash(tuple(found), nodes[-1][1] if has_more else NOW)


def _told(bin_: Bin, gone: Gone, authors: Authors) -> Removed:
    together = list(bin_.with_all_in_it(gone))
    time_ns, user, device = bin_.commit(gone.rev)
    path = bin_.before(gone.rev).path(gone.then.state.names[0])
    size = sum(one.then.size for one in together)
    kind = gone.then.state.kind.name.lower()
    who = authors.names_at(gone.rev, user, device)
    return Removed(gone.node, gone.rev, time_ns, *who, kind, path, len(together), size)


def plan_put_back(session: Session, row: SpaceRow, key: SpaceKey, request: PutBackRequest, now_ns: int) -> Plan:
    """The commit that brings removed things back; raises NotFound for what is not removed, or forgotten."""
    check_op_id(request.op_id)
    check_count("nodes", len(request.nodes), TRASH_MAX)
    check_limit(request.limit, CHANGED_MAX)
    bin_ = Bin(session, row, key)
    back: dict[NodeId, Then] = {}
    taken: set[Name] = set()
    for at, node in enumerate(request.nodes):
        check_node(f"nodes[{at}]", node)
        top = bin_.find(node)
        if top is None:
            raise NotFound("It is not removed, or nothing of it is kept.")
        _refuse_shared(bin_, top)
        for one in bin_.with_all_in_it(top):
            back.setdefault(one.node, one.then)
        # Where it was must be there again, too.
        for name in top.then.state.names[:1]:
            bring_folders(bin_, name.parent, back)
    for node, then in back.items():
        names = [name for name in then.state.names if name.parent in back or bin_.now.node(name.parent) is not None]
        free = tuple(free_name(session, row, name, taken) for name in names)
        back[node] = Then(then.rev, replace(then.state, names=free), then.content_id, then.size)
    return plan_back(session, row, key, back, now_ns, request.limit)


def _refuse_shared(bin_: Bin, gone: Gone) -> None:
    """Raises InTheWay for what was in a folder that is another space's now: ids are alive in one space only."""
    folder = gone.then.state.names[0].parent
    while (there := bin_.now.node(folder)) is None:
        above = bin_.find(folder)
        if above is None:
            break
        folder = above.then.state.names[0].parent
    if bin_.has_moved(folder) if there is None else there.state.mounts:
        path = bin_.before(gone.rev).path(gone.then.state.names[0]).decode(errors="backslashreplace")
        raise InTheWay(
            f"{path} was in a folder that is shared now, and cannot be put back there by the server. Nothing was done. "
            "On a device, `satchel trash restore` brings it back; or copy what it was out of the history of your home."
        )


def bring_folders(bin_: Bin, folder: NodeId, back: dict[NodeId, Then]) -> None:
    """Adds the folder, and those above it, as far as they are removed, to what is brought back; raises NotFound."""
    while folder not in back and bin_.now.node(folder) is None:
        gone = bin_.find(folder)
        if gone is None:
            raise NotFound("The folder that it was in is forgotten: it cannot be put back there.")
        back[folder] = gone.then
        folder = gone.then.state.names[0].parent


def free_name(
    session: Session, row: SpaceRow, name: Name, taken: set[Name], freed: Container[Name] = frozenset()
) -> Name:
    """The name, or one beside it that leads to nothing, or is `freed`; from now on it is among `taken`."""
    wanted = name
    for number in range(1, _TRIES):
        is_held = wanted not in freed and trees.holder(session, row.space, wanted.parent, wanted.name) is not None
        if wanted not in taken and not is_held:
            break
        label = b" (restored)" if number == 1 else b" (restored %d)" % number
        stem, dot, extension = name.name.rpartition(b".")
        if not stem or len(extension) > 16:
            stem, dot, extension = name.name, b"", b""
        end = label + dot + extension
        short = stem[: NAME_MAX - len(end)].decode(errors="surrogateescape").encode(errors="surrogateescape")
        wanted = Name(name.parent, short + end)
    taken.add(wanted)
    return wanted
