"""Differences: what is otherwise in a folder, and in all below it, between two revs. Runs in a reader's thread.

Its cost is that of what changed, not of what there is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from remote.protocol.errors import BadRequest, NotFound, TooLarge
from remote.protocol.history import CHANGED_MAX, DIFFERENCES_MAX, Difference, Differences, DiffRequest
from remote.protocol.ids import NOW, NodeId, Rev
from remote.protocol.nodes import Kind, Name, NodeState
from remote.server.database import past as past_rows
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.keys import SpaceKey
from remote.server.limits import check_limit, check_node, check_rev
from remote.server.past import Past, Then
from remote.server.reading import kept_rev


@dataclass(frozen=True)
class Step:
    """One node before and after: what it is, and its names there; None and none where it is not."""

    node: NodeId
    before: Then | None
    after: Then | None
    names_before: tuple[Name, ...]
    names_after: tuple[Name, ...]


def diff(session: Session, row: SpaceRow, key: SpaceKey, request: DiffRequest) -> Differences:
    """What differs; raises NotFound for a folder or rev that there is not, TooLarge for too much."""
    check_node("folder", request.folder)
    check_limit(request.limit, DIFFERENCES_MAX)
    for what, rev in (("since", request.since), ("to", request.to)):
        check_rev(what, rev)
        if rev > row.head:
            raise NotFound(f"{row.name} has no rev {rev} yet: it is at rev {row.head}.")
    to = request.to if request.to != NOW else row.head
    if to < request.since:
        raise BadRequest(f"From rev {request.since} to rev {to} is backwards: give the older one first.")
    since, to = kept_rev(session, row, request.since), kept_rev(session, row, to)
    before, after = Past(session, row.space, key, since), Past(session, row.space, key, to)
    nodes = changed(session, row, since, to)
    top = request.folder
    steps = [
        Step(node, before.node(node), after.node(node), before.names_below(node, top), after.names_below(node, top))
        for node in nodes
    ]
    return told(steps, before, after, top, request.limit)


def changed(session: Session, row: SpaceRow, since: Rev, to: Rev) -> list[NodeId]:
    """The nodes that changed between two revs; raises TooLarge."""
    nodes = past_rows.changed_between(session, row.space, since, to, CHANGED_MAX + 1)
    if len(nodes) > CHANGED_MAX:
        raise TooLarge(f"More than {CHANGED_MAX} things changed since rev {since}: choose a later time.")
    return nodes


def told(steps: Iterable[Step], before: Past, after: Past, top: NodeId, limit: int) -> Differences:
    """The differences that these steps make below a folder, by path."""
    found = sorted(
        (one for step in steps for one in _of(step, before, after, top)), key=lambda one: (one.path, one.what)
    )
    counts = dict.fromkeys(("added", "removed", "changed", "moved", "attributes"), 0)
    for one in found:
        counts[one.what] += 1
    return Differences(before.rev, after.rev, differences=tuple(found[:limit]), **counts)


def _of(step: Step, before: Past, after: Past, top: NodeId) -> list[Difference]:
    old, new = step.before, step.after
    here = new or old
    if here is None:
        return []
    kind = here.state.kind.name.lower()
    size, was_size = new.size if new else 0, old.size if old else 0

    def one(what: str, path: bytes, was_path: bytes = b"") -> Difference:
        return Difference(step.node, what, kind, path, was_path, size, was_size)

    if step.node == top:
        # Where it is and what it is called is for those above.
        if old is None or new is None or (what := _what(old, new)) is None:
            return []
        return [one(what, b".")]
    came = [name for name in step.names_after if name not in step.names_before]
    went = [name for name in step.names_before if name not in step.names_after]
    found: list[Difference] = []
    while came and went:
        path, was = after.path(came.pop(0), top), before.path(went.pop(0), top)
        found.append(one("moved", path, was))
    found += [one("added", after.path(name, top)) for name in came]
    found += [one("removed", before.path(name, top)) for name in went]
    stayed = [name for name in step.names_after if name in step.names_before]
    if old is not None and new is not None and stayed:
        if (what := _what(old, new)) is not None:
            found += [one(what, after.path(name, top)) for name in stayed]
    elif found and old is not None and new is not None and _has_other_content(old, new):
        found += [one("changed", moved.path) for moved in found if moved.what == "moved"]
    return found


def _what(old: Then, new: Then) -> str | None:
    """What differs in a node that is where it was."""
    if _has_other_content(old, new):
        return "changed"
    return None if is_alike(old.state, new.state) else "attributes"


def _has_other_content(old: Then, new: Then) -> bool:
    return (old.content_id, old.state.target) != (new.content_id, new.state.target)


def is_alike(old: NodeState, new: NodeState) -> bool:
    """Whether states without content differ in nothing that a person set: times of folders move by themselves."""
    same = replace(new, names=old.names, ctime_ns=old.ctime_ns, atime_ns=old.atime_ns, birth_ns=old.birth_ns)
    if old.kind is Kind.FOLDER:
        same = replace(same, mtime_ns=old.mtime_ns)
    return same == old
