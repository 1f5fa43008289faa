"""Undoing a mass change: what one device did from one rev to another, taken back as the changes of one commit.

What others did meanwhile, and since, stays: a node is given back what it was before this device changed it, unless
somebody else changed it after that.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from remote.protocol.errors import InTheWay, NotFound, TooLarge
from remote.protocol.events import MASS_CHANGE
from remote.protocol.history import CHANGED_MAX, UndoRequest
from remote.protocol.ids import NOW, NOWHERE, ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Name
from remote.server.database import events as event_rows
from remote.server.database import past as past_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.events import EventRow
from remote.server.database.spaces import SpaceRow
from remote.server.events import event_of
from remote.server.keys import SpaceKey
from remote.server.limits import check_limit, check_op_id
from remote.server.past import Past, Then
from remote.server.rewinding import Asked, Plan, Target, leave_shared, plan_targets
from remote.server.trash import Bin, bring_folders, free_name

COMMITS_MAX: Final = 100_000
Targets = dict[NodeId, Target | None]


def plan_undo_event(session: Session, row: SpaceRow, key: SpaceKey, request: UndoRequest, now_ns: int) -> Plan:
    """Raises NotFound for an event that there is not, InTheWay for one that cannot be undone, TooLarge."""
    check_op_id(request.op_id)
    check_limit(request.limit, CHANGED_MAX)
    event = event_of(session, row, request.event)
    if event.kind != MASS_CHANGE:
        raise InTheWay(f"Event {event.event} is no mass change: there is nothing to undo. See satchel versions.")
    if not event.from_rev:
        raise InTheWay(f"Of event {event.event} nothing was taken: there is nothing to undo.")
    if event.from_rev <= row.floor:
        raise NotFound(f"Event {event.event} is older than what {row.name} keeps whole: it cannot be undone any more.")
    now = Past(session, row.space, key, NOW)
    targets, kept = _targets(session, row, key, event, now)
    kept += leave_shared(session, row, now, targets)
    if request.keeps_new:
        _keep_new(targets, now)
    _bring_folders(Bin(session, row, key), targets)
    _keep_folders_in_use(session, row, targets)
    kept += _name(session, row, targets, now)
    return plan_targets(session, row, now, targets, Asked(ROOT, event.to_rev, request.limit, now_ns), kept)


def _targets(session: Session, row: SpaceRow, key: SpaceKey, event: EventRow, now: Past) -> tuple[Targets, int]:
    """What each node was before the device changed it; and how many somebody else changed since, which stay."""
    revs = event_rows.commits_of(session, row.space, event, COMMITS_MAX + 1)
    if len(revs) > COMMITS_MAX:
        raise TooLarge(f"Event {event.event} has more than {COMMITS_MAX:,} commits: rewind instead.")
    own = frozenset(revs)
    nodes = dict.fromkeys(node for rev in revs for node in past_rows.changed_by(session, row.space, rev))
    if len(nodes) > CHANGED_MAX:
        raise TooLarge(f"Event {event.event} changed more than {CHANGED_MAX:,} nodes: rewind instead.")
    pasts: dict[Rev, Past] = {}
    targets: Targets = {}
    kept = 0
    for node in nodes:
        first = _first_of_the_last(session, row, node, own, event)
        then = pasts.setdefault(Rev(first - 1), Past(session, row.space, key, Rev(first - 1))) if first else None
        was = then.node(node) if then is not None else None
        if then is None or node in then.forgotten:
            kept += not _is_living_folder(now, node)
            continue
        targets[node] = None if was is None else Target(was.state, was.content_id, was.size)
    return targets, kept


def _first_of_the_last(
    session: Session, row: SpaceRow, node: NodeId, own: frozenset[Rev], event: EventRow
) -> Rev | None:
    """The first of the last changes of a node that nobody else's is between or behind; None: the last is another's."""
    first: Rev | None = None
    for rev in event_rows.revs_of_node(session, row.space, node, event.from_rev, row.head):
        if rev not in own:
            break
        first = rev
    return first


def _is_living_folder(now: Past, node: NodeId) -> bool:
    """A folder's times move with what is put into it: that says nothing."""
    there = now.node(node)
    return there is not None and there.state.kind is Kind.FOLDER


def _keep_new(targets: Targets, now: Past) -> None:
    """Leaves what the device made, but for what has a name that something is to have again."""
    wanted = {name for target in targets.values() if target is not None for name in target.state.names}
    for node in [node for node, target in targets.items() if target is None]:
        there = now.node(node)
        if there is not None and wanted.isdisjoint(there.state.names):
            del targets[node]


def _bring_folders(bin_: Bin, targets: Targets) -> None:
    """Adds folders that somebody removed since: what comes back needs a place."""
    back: dict[NodeId, Then] = {}
    for target in list(targets.values()):
        for name in target.state.names[:1] if target is not None else ():
            if name.parent in targets or name.parent == NOWHERE:
                continue
            with suppress(NotFound):  # it is counted among those that are let be
                bring_folders(bin_, name.parent, back)
    for node, then in back.items():
        targets.setdefault(node, Target(then.state, then.content_id, then.size))


def _keep_folders_in_use(session: Session, row: SpaceRow, targets: Targets) -> None:
    """Leaves new folders in which something stays, and those above them."""
    going = {node for node, target in targets.items() if target is None}
    is_done = False
    while not is_done:
        is_done = True
        for folder in sorted(going, reverse=True):
            for child in trees.child_ids(session, row.space, folder, len(targets) + 1):
                target = targets.get(child)
                if child in going or (target is not None and all(name.parent != folder for name in target.state.names)):
                    continue
                going.discard(folder)
                del targets[folder]
                is_done = False
                break


def _name(session: Session, row: SpaceRow, targets: Targets, now: Past) -> int:
    """Gives each node names that are free; how many cannot be brought back as their folder is gone."""
    freed = _freed(targets, now)
    taken: set[Name] = set()
    lost: set[NodeId] = set()
    for node in _from_the_top(targets):
        target = targets[node]
        if target is None or node == ROOT:
            continue
        names = tuple(name for name in target.state.names if _will_be(name.parent, targets, lost, now))
        if not names:
            lost.add(node)
            continue
        there = now.node(node)
        own = frozenset(there.state.names) if there is not None else frozenset()
        free = tuple(free_name(session, row, name, taken, freed | own) for name in names)
        targets[node] = Target(replace(target.state, names=free), target.content_id, target.size)
    for node in lost:
        del targets[node]
    return len(lost)


def _freed(targets: Mapping[NodeId, Target | None], now: Past) -> frozenset[Name]:
    """Names that lead to something now, and that it gives up."""
    freed: set[Name] = set()
    for node, target in targets.items():
        there = now.node(node)
        stays = target.state.names if target is not None else ()
        freed.update(name for name in (there.state.names if there is not None else ()) if name not in stays)
    return frozenset(freed)


def _from_the_top(targets: Mapping[NodeId, Target | None]) -> Iterable[NodeId]:
    """Folders before what is in them, as far as they are among these."""
    done: set[NodeId] = set()
    for start in targets:
        way: list[NodeId] = []
        at = start
        while at in targets and at not in done and at not in way and len(way) < len(targets):
            way.append(at)
            target = targets[at]
            if target is None or not target.state.names:
                break
            at = target.state.names[0].parent
        for node in reversed(way):
            done.add(node)
            yield node


def _will_be(folder: NodeId, targets: Mapping[NodeId, Target | None], lost: set[NodeId], now: Past) -> bool:
    if folder in targets:
        return targets[folder] is not None and folder not in lost
    there = now.node(folder)
    return there is not None and there.state.kind is Kind.FOLDER
