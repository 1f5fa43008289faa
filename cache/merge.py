"""Merge: pure decisions. What becomes of a node that changed here and elsewhere, and in what order edits are sent.

No I/O and no clock: everything it needs is given, so every decision can be replayed in a test. The rules are the
table in ARCHITECTURE, "State of a node"; each branch below is one of its rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from cache.errors import Contradiction
from cache.records import HOME, Record
from remote.protocol.ids import NodeId
from remote.protocol.nodes import NAME_MAX, Kind, Name, NodeState, NodeVersion

T = TypeVar("T")

ASIDE: Final = b" (ignored here)"
"""Stands in the name of what is ignored and gave its own up to something that came from elsewhere: ignored as well."""
_EXECUTABLE: Final = 0o111
_EXTENSION_MAX: Final = 100
"""Bytes; what follows the last dot and is longer is no extension."""


@dataclass(frozen=True)
class Settled:
    """What a record becomes with the news taken in.

    `record` None: forget the node. `is_local_lost`: the content here lost and must be kept as a version;
    the record no longer refers to its staging.
    """

    record: Record | None
    is_local_lost: bool = False


def settle(record: Record | None, news: NodeVersion, edited_ns: int, is_kept_alive: bool) -> Settled:
    """Takes what the server says of a node into its record.

    `edited_ns`: when the node was last edited here, by the server's clock. `is_kept_alive`: a folder that still has
    entries made or edited here, so that its removal elsewhere cannot stand. Raises Contradiction, and nothing else, for
    a node of two kinds, of which no server tells that keeps its promises.
    """
    if record is None:
        return Settled(_clean(None, news) if news.state is not None else None)
    if news.rev <= record.rev:
        return Settled(record)
    kinds = {state.kind for state in (record.local, record.synced, news.state) if state is not None}
    if len(kinds) > 1:
        named = " and ".join(kind.name.lower() for kind in sorted(kinds))
        raise Contradiction(f"Node {news.node} cannot be a {named}: this device or the server is damaged.")
    if not record.is_dirty:
        if news.state is None and is_kept_alive and record.local is not None:
            return Settled(replace(record, rev=news.rev, is_dirty=True, synced=None, is_spared=True))
        return Settled(_clean(record, news) if news.state is not None else None)
    if news.state is None:
        return _settle_removal_elsewhere(record, news, is_kept_alive)
    if record.local is None:
        return _settle_removal_here(record, news, news.state)
    return _merge(record, record.local, news, news.state, is_local_newer=edited_ns > news.edited_ns)


def _clean(record: Record | None, news: NodeVersion) -> Record:
    is_folder = news.state is not None and news.state.kind is Kind.FOLDER
    return Record(
        rev=news.rev,
        local=news.state,
        is_listed=is_folder and record is not None and record.is_listed,
        is_listing=is_folder and record is not None and record.is_listing,
        space=record.space if record is not None else HOME,
    )


def _settle_removal_elsewhere(record: Record, news: NodeVersion, is_kept_alive: bool) -> Settled:
    """Edit against delete: the edit lives."""
    if record.local is None:
        return Settled(None)
    local = record.local
    if not local.names and record.synced is not None:
        # Its names were another's already (see News): it has them still, if it lives.
        local = replace(local, names=record.synced.names)
    is_edit = bool(record.staged) or (not record.is_spared and _is_edit(local, record.synced))
    if not (is_edit or is_kept_alive):
        return Settled(None)
    return Settled(replace(record, rev=news.rev, local=local, synced=None, is_spared=not is_edit))


def _settle_removal_here(record: Record, news: NodeVersion, there: NodeState) -> Settled:
    """Delete against edit: the edit lives. So does a folder that was made a shared one before that is sent."""
    if there.mounts or _is_edit(there, record.synced):
        return Settled(_clean(record, news))
    return Settled(replace(record, rev=news.rev, synced=there))


def _is_edit(state: NodeState, agreed: NodeState | None) -> bool:
    """Whether somebody would miss it: permissions, attributes and times alone do not keep a node from being removed.

    Nor do names that only went: who took one of several away wants less of the node, not more. Nor a name that nobody
    gave: what moves because two folders become one, or gets out of another's way, keeps its ctime.
    """
    return (
        agreed is None
        or state.content != agreed.content
        or (state.ctime_ns != agreed.ctime_ns and not set(state.names) <= set(agreed.names))
        or state.target != agreed.target
        or state.mounts != agreed.mounts
    )


def _merge(record: Record, here: NodeState, news: NodeVersion, there: NodeState, *, is_local_newer: bool) -> Settled:
    agreed = record.synced
    is_content_here = bool(record.staged) or agreed is None or here.content != agreed.content
    is_content_there = agreed is None or there.content != agreed.content
    is_same = not record.staged and here.content == there.content
    is_conflict = is_content_here and is_content_there and not is_same and here.kind is Kind.FILE
    takes_local = is_content_here and (not is_content_there or is_local_newer or is_same)

    def pick(field: Callable[[NodeState], T], *, is_here_newer: bool = is_local_newer) -> T:
        local, remote = field(here), field(there)
        if agreed is not None and local == field(agreed):
            return remote
        if agreed is not None and remote == field(agreed):
            return local
        return local if is_here_newer else remote

    def pick_time(field: Callable[[NodeState], int]) -> int:
        # As the server judges touches: times move without an edit of their node, when a folder's entries change.
        return pick(field, is_here_newer=here.ctime_ns > there.ctime_ns)

    source = here if takes_local else there
    merged = NodeState(
        kind=here.kind,
        names=_merge_names(agreed.names if agreed else (), here.names, there.names, here.kind, is_local_newer),
        mode=_merge_modes(agreed, here, there, pick(lambda state: state.mode)),
        uid=pick(lambda state: state.uid),
        gid=pick(lambda state: state.gid),
        mtime_ns=source.mtime_ns if is_content_here or is_content_there else pick_time(lambda state: state.mtime_ns),
        ctime_ns=max(here.ctime_ns, there.ctime_ns),
        atime_ns=pick_time(lambda state: state.atime_ns),
        birth_ns=there.birth_ns,
        rdev=there.rdev,
        target=pick(lambda state: state.target),
        xattrs=_merge_xattrs(agreed.xattrs if agreed else {}, here.xattrs, there.xattrs, is_local_newer),
        content=source.content,
        mounts=there.mounts,
    )
    keeps_staging = takes_local and bool(record.staged)
    is_dirty = keeps_staging or replace(merged, ctime_ns=there.ctime_ns) != there
    if not is_dirty:
        return Settled(replace(_clean(record, news), local=there), is_local_lost=is_conflict and not takes_local)
    settled = replace(
        record,
        rev=news.rev,
        local=merged,
        is_dirty=True,
        synced=there,
        staged=record.staged if keeps_staging else 0,
        staged_size=record.staged_size if keeps_staging else 0,
        overrides=news.rev if is_conflict and takes_local else record.overrides,
    )
    return Settled(settled, is_local_lost=is_conflict and not takes_local)


def _merge_modes(agreed: NodeState | None, here: NodeState, there: NodeState, picked: int) -> int:
    """Whether a file can be executed is a field of its own: one who changed nothing else leaves the rest to the other.

    `picked`: whose mode counts when both changed more than that.
    """
    if agreed is None or here.kind is not Kind.FILE or agreed.mode in (here.mode, there.mode):
        return picked
    for one, other in ((here, there), (there, here)):
        if one.mode & ~_EXECUTABLE == agreed.mode & ~_EXECUTABLE:
            rest = other.mode & ~_EXECUTABLE
            # Who may read it may then execute it, as in `chmod +x` by those who usually may do both.
            return rest | (rest >> 2 & _EXECUTABLE) if one.mode & _EXECUTABLE else rest
    return picked


def _merge_names(
    agreed: tuple[Name, ...], here: tuple[Name, ...], there: tuple[Name, ...], kind: Kind, is_local_newer: bool
) -> tuple[Name, ...]:
    """Move against move: the newest wins; hard links made or removed on both sides all count."""
    if here in (there, agreed) or not here:
        return there
    if there == agreed:
        return here
    if kind is Kind.FOLDER or (len(here) == 1 and len(there) == 1):
        return here if is_local_newer else there
    removed = (set(agreed) - set(here)) | (set(agreed) - set(there))
    return tuple(sorted((set(here) | set(there)) - removed)) or (here if is_local_newer else there)


def _merge_xattrs(
    agreed: dict[bytes, bytes], here: dict[bytes, bytes], there: dict[bytes, bytes], is_local_newer: bool
) -> dict[bytes, bytes]:
    merged: dict[bytes, bytes] = {}
    for key in sorted({*here, *there}):
        base, local, remote = agreed.get(key), here.get(key), there.get(key)
        value = remote if local == base else local if remote == base or is_local_newer else remote
        if value is not None:
            merged[key] = value
    return merged


def is_touch(one: NodeState, other: NodeState) -> bool:
    """Whether two states differ in nothing but times (for a folder) or in nothing at all."""
    if one == other:
        return True
    if one.kind is not Kind.FOLDER:
        return replace(one, ctime_ns=0) == replace(other, ctime_ns=0)
    return replace(one, mtime_ns=0, ctime_ns=0, atime_ns=0) == replace(other, mtime_ns=0, ctime_ns=0, atime_ns=0)


def touched(agreed: NodeState, touch: NodeState, *, is_on_top: bool) -> NodeState:
    """What the server makes of a touch: the folder as it is, with its times, unless a later touch was first."""
    if not is_on_top and touch.ctime_ns <= agreed.ctime_ns:
        return agreed
    return replace(agreed, mtime_ns=touch.mtime_ns, ctime_ns=touch.ctime_ns, atime_ns=touch.atime_ns)


def free_name(name: bytes, is_taken: Callable[[bytes], bool]) -> bytes:
    """`name (2)`, `name (3)` ... before the extension: the first that is not taken, at most 255 bytes long."""
    for number in range(2, 1_000_000):
        candidate = labelled(name, b" (%d)" % number)
        if not is_taken(candidate):
            return candidate
    raise ValueError("there is no free name like this one")


def labelled(name: bytes, label: bytes) -> bytes:
    """The name with a label of at most 128 bytes before its extension; what is longer than 255 bytes then is cut."""
    stem, dot, extension = name.rpartition(b".")
    if not stem or len(extension) > _EXTENSION_MAX:
        stem, dot, extension = name, b"", b""
    ending = label + dot + extension
    return cut(stem, NAME_MAX - len(ending)) + ending


def cut(text: bytes, size: int) -> bytes:
    """The first `size` bytes, or up to three less: no UTF-8 character is cut in the middle."""
    if len(text) <= size:
        return text
    for end in range(size, max(0, size - 4), -1):
        if text[end] & 0xC0 != 0x80:
            return text[:end]
    return text[:size]


def units(nodes: Iterable[NodeId], needs: Callable[[NodeId], Sequence[NodeId]]) -> list[list[NodeId]]:
    """The nodes and all they need, as groups to be committed together, each after the groups that it needs.

    `needs(node)` names the dirty nodes whose change must be committed earlier or together with it; two that need
    each other are one group. Tarjan's strongly connected components, without recursion.
    """
    index: dict[NodeId, int] = {}
    low: dict[NodeId, int] = {}
    on_stack: set[NodeId] = set()
    stack: list[NodeId] = []
    groups: list[list[NodeId]] = []
    for start in nodes:
        if start in index:
            continue
        first = needs(start)
        if not first:
            # Most are like this: they need nothing, and nothing that is on the way needs them.
            index[start] = len(index)
            groups.append([start])
            continue
        work: list[tuple[NodeId, list[NodeId]]] = [(start, list(first))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, left = work[-1]
            if left:
                other = left.pop()
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, list(needs(other))))
                elif other in on_stack:
                    low[node] = min(low[node], index[other])
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[node])
            if low[node] == index[node]:
                group: list[NodeId] = []
                while True:
                    member = stack.pop()
                    on_stack.discard(member)
                    group.append(member)
                    if member == node:
                        break
                groups.append(group)
    return groups


def first_batch(
    groups: Sequence[Sequence[NodeId]], limit: int, weight: Callable[[NodeId], int], weight_max: int
) -> list[Sequence[NodeId]]:
    """The first groups that fill a commit of at most `limit` changes and about `weight_max` bytes; at least one."""
    batch: list[Sequence[NodeId]] = []
    count = total = 0
    for group in groups:
        count += len(group)
        total += sum(map(weight, group))
        if batch and (count > limit or total > weight_max):
            break
        batch.append(group)
    return batch
