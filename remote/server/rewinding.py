"""Rewinding: a folder as it was, or what one commit did taken back, planned as the changes of one commit.

No content moves: nodes get their older states, which name content that the server has. What is planned in a reader's
thread is judged again, like any commit, when it is taken.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from remote.protocol.errors import InTheWay, NotFound
from remote.protocol.history import CHANGED_MAX, STAYS_MAX, Differences, RewindRequest, Stay, UndoRequest
from remote.protocol.ids import NO_SPACE, NOW, ROOT, NodeId, Rev
from remote.protocol.messages import Change
from remote.protocol.nodes import Kind, Name, NodeState
from remote.server.commits import Draft
from remote.server.database import past as past_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.differences import Step, changed, told
from remote.server.keys import SpaceKey
from remote.server.limits import check_limit, check_node, check_op_id, check_rev
from remote.server.past import Past, Then
from remote.server.reading import act_tag, kept_rev
from remote.server.states import encode_state


@dataclass(frozen=True)
class Plan:
    """What to commit, how it reads to a person, the rev gone back to or undone, and how many nodes are let be."""

    drafts: list[Draft]
    did: Differences
    of: Rev
    kept: int = 0
    stays: tuple[Stay, ...] = ()


@dataclass(frozen=True)
class Asked:
    """Below which folder differences are told, at most how many; the rev gone back to or undone, and the time."""

    top: NodeId
    of: Rev
    limit: int
    now_ns: int


@dataclass(frozen=True)
class Target:
    """What a node is to be: a state without its content, with what stands in its place; None: removed."""

    state: NodeState
    content_id: bytes | None
    size: int


def plan_rewind(session: Session, row: SpaceRow, key: SpaceKey, request: RewindRequest, now_ns: int) -> Plan:
    """Raises NotFound for a folder or rev that there is not, TooLarge for too much, InTheWay."""
    check_op_id(request.op_id)
    check_node("folder", request.folder)
    check_rev("to", request.to)
    check_limit(request.limit, CHANGED_MAX)
    if not 0 < request.to <= row.head:
        raise NotFound(f"{row.name} has no rev {request.to}: its revs are 1 to {row.head}.")
    top = request.folder
    to = kept_rev(session, row, request.to)
    then, now = Past(session, row.space, key, to), Past(session, row.space, key, NOW)
    if then.node(top) is None:
        raise NotFound(f"The folder did not exist at rev {request.to}.")
    targets: dict[NodeId, Target | None] = {}
    kept = 0
    for node in changed(session, row, to, row.head):
        names_then, names_now = then.names_below(node, top), now.names_below(node, top)
        was, there = then.node(node), now.node(node)
        if node in then.forgotten:
            # What is not known any more cannot be gone back to.
            kept += 1
            continue
        if was is not None and names_then:
            targets[node] = _as_it_was(was, there, names_then, names_now, node == top)
        elif there is not None and names_now and not _came_with_a_folder(there, then, now, top):
            others = tuple(name for name in there.state.names if name not in names_now)
            back = _where_it_was(was, now, others) if was is not None else others
            targets[node] = Target(replace(there.state, names=back), there.content_id, there.size) if back else None
    kept += leave_shared(session, row, now, targets)
    return plan_targets(session, row, now, targets, Asked(top, request.to, request.limit, now_ns), kept)


def _as_it_was(
    was: Then, there: Then | None, names_then: tuple[Name, ...], names_now: tuple[Name, ...], is_top: bool
) -> Target:
    names = names_then
    if there is not None and is_top:
        # What is rewound is what is in it: where it is, and what it is called, is for those above.
        names = there.state.names
    elif there is not None and was.state.kind is not Kind.FOLDER:
        # Of one that was in a folder which moved out, the name is the same outside.
        outside = [name for name in there.state.names if name not in names_now and name not in names]
        # What moved out comes back; a further name that it got outside stays.
        names += tuple(name for name in outside if names_now or name in was.state.names)
    return Target(replace(was.state, names=names), was.content_id, was.size)


def _came_with_a_folder(there: Then, then: Past, now: Past, top: NodeId) -> bool:
    """Whether a node that was not there came in, or was made, in a folder that was outside then and goes back out."""
    return any(
        then.node(folder) is not None and not then.is_below(folder, top)
        for name in there.state.names
        for folder in now.above(name.parent, top)
        if now.is_below(folder, top)
    )


def _where_it_was(was: Then, now: Past, others: tuple[Name, ...]) -> tuple[Name, ...]:
    """The names of something that moved in, where it came from."""
    names = dict.fromkeys(others)
    for name in was.state.names:
        parent = now.node(name.parent)
        if parent is None or parent.state.kind is not Kind.FOLDER:
            raise InTheWay(
                f"{os.fsdecode(name.name)} was moved in from a folder that is gone: move it elsewhere first."
            )
        names[name] = None
    return tuple(names)


def plan_undo(
    session: Session, row: SpaceRow, key: SpaceKey, request: UndoRequest, device: Device, now_ns: int
) -> Plan:
    """Raises NotFound for a rev that there is not."""
    check_op_id(request.op_id)
    check_rev("rev", request.rev)
    check_limit(request.limit, CHANGED_MAX)
    if request.rev:
        rev, nodes = request.rev, past_rows.changed_by(session, row.space, request.rev)
    else:
        rev, nodes = _last_of(session, row, key, device, request.passing)
    if rev > row.head or rev <= row.floor:
        raise NotFound(f"{row.name} has no rev {rev} that could be undone: those are {row.floor + 1} to {row.head}.")
    if rev == 1:
        raise NotFound("Rev 1 made the space: it cannot be undone.")
    then, now = Past(session, row.space, key, Rev(rev - 1)), Past(session, row.space, key, NOW)
    targets: dict[NodeId, Target | None] = {}
    staying: list[tuple[NodeId, Rev]] = []
    for node in nodes:
        present = trees.node_row(session, row.space, node)
        was = then.node(node)
        if present is None or present.rev != rev:
            staying.append((node, present.rev if present is not None else NOW))
        elif node in then.forgotten:
            staying.append((node, NOW))
        else:
            targets[node] = None if was is None else Target(was.state, was.content_id, was.size)
    kept = len(staying) + leave_shared(session, row, now, targets)
    plan = plan_targets(session, row, now, targets, Asked(ROOT, rev, request.limit, now_ns), kept)
    pasts = (now, Past(session, row.space, key, rev), then)
    stays = tuple(_stay(node, since, pasts) for node, since in staying[:STAYS_MAX])
    return Plan(plan.drafts, plan.did, plan.of, kept, stays)


def _stay(node: NodeId, since: Rev, pasts: Sequence[Past]) -> Stay:
    """With the path that it has, or had in the first of these pasts that knows it."""
    found = ((past, there) for past in pasts if (there := past.node(node)) is not None and there.state.names)
    path = next((past.path(there.state.names[0]) for past, there in found), b"")
    return Stay(path, since)


def _last_of(
    session: Session, row: SpaceRow, key: SpaceKey, device: Device, passing: Sequence[NodeId]
) -> tuple[Rev, list[NodeId]]:
    """The last commit of a device, or that it asked for, with what it did beside what lies in these folders."""
    before, looked_at = Rev(row.head + 1), 0
    while found := past_rows.last_commit_of(
        session, row.space, device.user, device.device, act_tag(device.device), before
    ):
        before, doer = found
        nodes = list(past_rows.changed_by(session, row.space, before))
        if not passing or doer != device.device:
            return before, nodes
        looked_at += len(nodes)
        then, after = Past(session, row.space, key, Rev(before - 1)), Past(session, row.space, key, before)
        if own := [node for node in nodes if not _is_kept_in(passing, then, after, node)]:
            return before, own
        if looked_at > CHANGED_MAX:
            raise NotFound("What this device did last are backups alone: say which rev, as satchel versions lists it.")
    raise NotFound("This device has done nothing yet that could be undone.")


def _is_kept_in(folders: Sequence[NodeId], then: Past, after: Past, node: NodeId) -> bool:
    """Whether a commit changed a node within one of these folders, or made or touched one that leads there."""
    was, there = then.node(node), after.node(node)
    for folder in folders:
        sides = [past.names_below(node, folder) for past, one in ((then, was), (after, there)) if one is not None]
        if node != folder and sides and all(sides):
            return True
        if there is not None and node in (folder, *after.above(folder, ROOT)):
            return was is None or was.state.names == there.state.names
    return False


def plan_back(
    session: Session, row: SpaceRow, key: SpaceKey, states: dict[NodeId, Then], now_ns: int, limit: int = 1
) -> Plan:
    """Brings removed nodes back in these states."""
    now = Past(session, row.space, key, NOW)
    targets: dict[NodeId, Target | None] = {
        node: Target(then.state, then.content_id, then.size) for node, then in states.items()
    }
    return plan_targets(session, row, now, targets, Asked(ROOT, NOW, limit, now_ns))


def leave_shared(session: Session, row: SpaceRow, now: Past, targets: dict[NodeId, Target | None]) -> int:
    """Takes out of the targets what is in another space now, and what stands for one or was in it: how many.

    Folders are shared and unshared by those who share them, not by going back.
    """

    def has_moved(node: NodeId) -> bool:
        present = trees.node_row(session, row.space, node) if now.node(node) is None else None
        return present is not None and bool(present.parent)

    def is_shared(folder: NodeId) -> bool:
        there = now.node(folder)
        return has_moved(folder) if there is None else bool(there.state.mounts)

    left: list[NodeId] = []
    for node, target in targets.items():
        there = now.node(node)
        mounts = there.state.mounts if there is not None else NO_SPACE
        if target is None:
            is_left = bool(mounts)
        else:
            is_left = target.state.mounts != mounts or has_moved(node)
            is_left |= any(is_shared(name.parent) for name in target.state.names)
        if is_left:
            left.append(node)
    for node in left:
        del targets[node]
    return len(left)


def plan_targets(
    session: Session, row: SpaceRow, now: Past, targets: dict[NodeId, Target | None], asked: Asked, kept: int = 0
) -> Plan:
    """The commit that makes nodes what they are to be; `kept`: how many others are let be."""
    drafts: list[Draft] = []
    steps: list[Step] = []
    after, top = _After(now, targets), asked.top
    for node, target in targets.items():
        there = now.node(node)
        if _is_as_it_should(there, target):
            continue
        present = trees.node_row(session, row.space, node)
        if present is None:
            raise NotFound(f"There never was such a file or folder in {row.name}.")
        drafts.append(_draft(node, present.rev, target, asked.now_ns))
        steps.append(Step(node, there, after.node(node), now.names_below(node, top), after.names_below(node, top)))
    return Plan(drafts, told(steps, now, after, top, asked.limit), asked.of, kept)


class _After(Past):
    """The present as it will be."""

    def __init__(self, now: Past, targets: dict[NodeId, Target | None]) -> None:
        super().__init__(now._session, now._space, now._key, NOW)
        self._nodes = {
            node: None if target is None else Then(NOW, target.state, target.content_id, target.size)
            for node, target in targets.items()
        }
        self._now = now

    def _find(self, node: NodeId) -> Then | None:
        return self._now.node(node)


def _is_as_it_should(there: Then | None, target: Target | None) -> bool:
    if there is None or target is None:
        return there is None and target is None
    same = replace(target.state, ctime_ns=there.state.ctime_ns, atime_ns=there.state.atime_ns)
    return same == there.state and there.content_id == target.content_id


def _draft(node: NodeId, base: Rev, target: Target | None, now_ns: int) -> Draft:
    if target is None:
        return Draft(Change(node, base, now_ns, None), None, None, None)
    state = replace(target.state, ctime_ns=now_ns)
    return Draft(Change(node, base, now_ns, state), encode_state(state), target.content_id, None, target.size)


def names_taken(session: Session, row: SpaceRow, names: Sequence[Name]) -> list[Name]:
    """Those of these names that lead to something now."""
    return [name for name in names if trees.holder(session, row.space, name.parent, name.name) is not None]
