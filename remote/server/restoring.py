"""Restoring: a path as it was, planned as the changes of one commit; what came into a folder since then stays.

`rewind` makes a folder exactly what it was; this brings back what is missing and sets back what is there.
"""

from dataclasses import dataclass, field

from msgspec.structs import replace

from remote.protocol.errors import BadRequest, InTheWay, NotFound, TooLarge
from remote.protocol.history import CHANGED_MAX, RestoreRequest
from remote.protocol.ids import NO_SPACE, NOW, ROOT, NodeId, Rev
from remote.protocol.messages import Change
from remote.protocol.nodes import NAME_MAX, Kind, Name, NodeState
from remote.server.commits import Draft
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.differences import Step, is_alike, told
from remote.server.files import shown_name
from remote.server.keys import SpaceKey
from remote.server.limits import check_limit, check_op_id, check_rev
from remote.server.past import Past, Then
from remote.server.reading import kept_rev
from remote.server.rewinding import Plan
from remote.server.states import encode_state

_TRIES = 1_000


def plan_restore(
    session: Session, row: SpaceRow, key: SpaceKey, request: RestoreRequest, first: NodeId, now_ns: int
) -> Plan:
    """Raises NotFound for a path or rev that there was not, InTheWay. From `first` on, CHANGED_MAX ids are free."""
    check_op_id(request.op_id)
    check_rev("to", request.to)
    check_limit(request.limit, CHANGED_MAX)
    if not 0 < request.to <= row.head:
        raise NotFound(f"{row.name} has no rev {request.to}: its revs are 1 to {row.head}.")
    to = kept_rev(session, row, request.to)
    work = _Work(session, row, Past(session, row.space, key, to), Past(session, row.space, key, NOW), first)
    work.restore(tuple(name for name in request.path.split(b"/") if name), is_beside=request.is_beside)
    return work.plan(request.to, request.limit, now_ns)


@dataclass
class _Work:
    """One restore; `targets` is what nodes are to be, None: removed."""

    session: Session
    row: SpaceRow
    then: Past
    now: Past
    next_id: int
    targets: dict[NodeId, Then | None] = field(default_factory=dict)
    made: dict[NodeId, NodeId] = field(default_factory=dict)
    """By what was: the node that stands for it now, where it is brought back."""
    kept: int = 0

    def restore(self, names: tuple[bytes, ...], *, is_beside: bool) -> None:
        node, folder = ROOT, ROOT
        for at, name in enumerate(names):
            found = trees.holder_as_of(self.session, self.row.space, node, name, self.then.rev)
            if found is None:
                path = b"/".join(names[: at + 1]).decode(errors="backslashreplace")
                raise NotFound(f"{path} did not exist at rev {self.then.rev}: its versions tell when it did.")
            node = found
            if at < len(names) - 1:
                folder = self._folder(folder, name, node)
        if names:
            name = self._free(folder, names[-1]) if is_beside else names[-1]
            self._put_all([(folder, name, node)], is_copy=is_beside)
        elif is_beside:
            raise BadRequest("The whole of a space has nothing beside it.")
        else:
            self._put_all(self._within(ROOT, ROOT), is_copy=False)

    def plan(self, of: Rev, limit: int, now_ns: int) -> Plan:
        after = _After(self.now, self.targets)
        drafts: list[Draft] = []
        steps: list[Step] = []
        for node, target in self.targets.items():
            present = trees.node_row(self.session, self.row.space, node)
            base = present.rev if present is not None else Rev(0)
            if target is None:
                drafts.append(Draft(Change(node, base, now_ns, None), None, None, None))
            else:
                state = replace(target.state, ctime_ns=now_ns)
                change = Change(node, base, now_ns, state)
                drafts.append(Draft(change, encode_state(state), target.content_id, None, target.size))
            names = self.now.names_below(node, ROOT), after.names_below(node, ROOT)
            steps.append(Step(node, self.now.node(node), after.node(node), *names))
        return Plan(drafts, told(steps, self.now, after, ROOT, limit), of, self.kept)

    def _folder(self, parent: NodeId, name: bytes, node: NodeId) -> NodeId:
        """The folder of this name, brought back without what was in it when it is gone."""
        live = self._holder(parent, name)
        if live is None:
            return self._bring_back(parent, name, node, is_copy=False)
        there = self.now.node(live)
        if there is None or there.state.kind is not Kind.FOLDER or there.state.mounts:
            raise InTheWay(f"{shown_name(name)} is no folder of this space any more: move it away first.")
        return live

    def _put_all(self, waiting: list[tuple[NodeId, bytes, NodeId]], *, is_copy: bool) -> None:
        while waiting:
            parent, name, node = waiting.pop()
            was = self.then.node(node)
            if was is None or was.state.mounts:
                # Forgotten, or a shared folder, which has a history of its own.
                self.kept += 1
                continue
            live = self._put(parent, name, node, was, is_copy=is_copy)
            if live is not None and was.state.kind is Kind.FOLDER:
                waiting += self._within(node, live)
            if len(self.targets) >= CHANGED_MAX:
                raise TooLarge(f"More than {CHANGED_MAX} things would be changed: restore parts of it.")

    def _within(self, node: NodeId, live: NodeId) -> list[tuple[NodeId, bytes, NodeId]]:
        found = trees.names_in_as_of(self.session, self.row.space, node, self.then.rev)
        return [(live, bytes(name), NodeId(child)) for name, child in found]

    def _put(self, parent: NodeId, name: bytes, node: NodeId, was: Then, *, is_copy: bool) -> NodeId | None:
        live = None if is_copy else self._holder(parent, name)
        there = self.now.node(live) if live is not None else None
        if live is None or there is None:
            return self._bring_back(parent, name, node, is_copy=is_copy)
        if there.state.mounts:
            self.kept += 1
            return None
        if there.state.kind is not was.state.kind:
            if there.state.kind is Kind.FOLDER:
                raise InTheWay(f"{shown_name(name)} is a folder now and was none then: move it away first.")
            others = tuple(one for one in there.state.names if one != Name(parent, name))
            self.targets[live] = replace_state(there, replace(there.state, names=others)) if others else None
            return self._bring_back(parent, name, node, is_copy=False)
        state = replace(was.state, names=there.state.names, birth_ns=there.state.birth_ns)
        if (
            not is_alike(there.state, state)
            or there.content_id != was.content_id
            or was.state.target != there.state.target
        ):
            self.targets[live] = replace_state(was, state)
        return live

    def _bring_back(self, parent: NodeId, name: bytes, node: NodeId, *, is_copy: bool) -> NodeId:
        """What was, under this name: the node itself when it is removed, else a new one; further names are links."""
        was = self.then.node(node)
        if was is None:
            raise NotFound(f"What {shown_name(name)} was is forgotten.")
        at = Name(parent, name)
        made = self.made.get(node)
        before = self.targets.get(made) if made is not None else None
        if made is not None and before is not None and was.state.kind is not Kind.FOLDER:
            self.targets[made] = replace_state(before, replace(before.state, names=(*before.state.names, at)))
            return made
        present = trees.node_row(self.session, self.row.space, node)
        is_free = present is not None and present.state is None and not present.parent and node not in self.targets
        if is_copy or not is_free:
            made = NodeId(self.next_id)
            self.next_id += 1
        else:
            made = node
        self.made[node] = made
        self.targets[made] = replace_state(was, replace(was.state, names=(at,), mounts=NO_SPACE))
        return made

    def _holder(self, parent: NodeId, name: bytes) -> NodeId | None:
        if parent in self.targets and self.now.node(parent) is None:
            # It is brought back itself, with nothing in it.
            return None
        return trees.holder(self.session, self.row.space, parent, name)

    def _free(self, folder: NodeId, name: bytes) -> bytes:
        stem, dot, suffix = name.rpartition(b".")
        if not stem or len(suffix) > 16:
            stem, dot, suffix = name, b"", b""
        for number in range(1, _TRIES):
            label = b" (rev %d)" % self.then.rev if number == 1 else b" (rev %d, %d)" % (self.then.rev, number)
            end = label + dot + suffix
            short = stem[: NAME_MAX - len(end)].decode(errors="surrogateescape").encode(errors="surrogateescape")
            if self._holder(folder, short + end) is None:
                return short + end
        raise InTheWay(f"Too many copies of {shown_name(name)} are there already.")


class _After(Past):
    """The present as it will be."""

    def __init__(self, now: Past, targets: dict[NodeId, Then | None]) -> None:
        super().__init__(now._session, now._space, now._key, NOW)
        self._nodes = dict(targets)
        self._now = now

    def _find(self, node: NodeId) -> Then | None:
        return self._now.node(node)


def replace_state(was: Then, state: NodeState) -> Then:
    """The same content in another state."""
    return Then(was.rev, state, was.content_id, was.size)
