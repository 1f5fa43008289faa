"""Random batches against a simple model: what is accepted keeps every invariant, what is refused is explained."""

import asyncio
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from remote.protocol.errors import BadRequest
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Change, CommitAnswer
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.server import accounts
from remote.server import instance as instances
from remote.server.http.app import make_app

NODES = 6
FIRST = Rev(1)
NAMES = (b"a", b"b", b"c")


@dataclass(frozen=True)
class Step:
    """One change, in terms that are resolved when its turn comes; `base_back`: how many revs the device is behind."""

    node: int
    kind: Kind
    names: tuple[tuple[int, bytes], ...]
    is_removal: bool
    base_back: int
    mode: int
    content: bytes


@dataclass
class Model:
    """The tree as a dictionary, checked after each batch in the plainest way."""

    states: dict[NodeId, NodeState | None] = field(default_factory=dict)
    revs: dict[NodeId, Rev] = field(default_factory=dict)
    head: Rev = FIRST

    def faults(self, states: dict[NodeId, NodeState | None]) -> list[str]:
        faults: list[str] = []
        alive = {node: state for node, state in states.items() if state is not None}
        claimed: set[tuple[int, bytes]] = set()
        for node, state in alive.items():
            if node == ROOT:
                continue
            for name in state.names:
                if (name.parent, name.name) in claimed:
                    faults.append("name twice")
                claimed.add((name.parent, name.name))
                parent = alive.get(name.parent)
                if parent is None or parent.kind != Kind.FOLDER:
                    faults.append("parent not alive")
            at, passed = node, set()
            while at != ROOT and at in alive and at not in passed:
                passed.add(at)
                at = alive[at].names[0].parent
            if at in passed:
                faults.append("cycle")
        return faults

    def is_acceptable(self, changes: list[Change]) -> bool:
        after = dict(self.states)
        for change in changes:
            old = self.states.get(change.node)
            known = change.node in self.states
            if change.base != (self.revs[change.node] if known else 0) or (old is None and change.state is None):
                return False
            if old is not None and change.state is not None and old.kind != change.state.kind:
                return False
            after[change.node] = change.state
        return not self.faults(after)

    def take(self, changes: list[Change]) -> None:
        self.head = Rev(self.head + 1)
        for change in changes:
            self.states[change.node] = change.state
            self.revs[change.node] = self.head


steps = st.builds(
    Step,
    st.integers(0, NODES - 1),
    st.sampled_from([Kind.FOLDER, Kind.FOLDER, Kind.FILE]),
    st.lists(st.tuples(st.integers(-1, NODES - 1), st.sampled_from(NAMES)), min_size=1, max_size=2, unique=True).map(
        tuple
    ),
    st.booleans(),
    st.sampled_from([0, 0, 0, 0, 1, 2]),
    st.integers(0, 0o777),
    st.binary(max_size=3),
)
batches = st.lists(st.lists(steps, min_size=1, max_size=5, unique_by=lambda step: step.node), min_size=1, max_size=12)


@given(batches)
def test_random_batches_agree_with_the_model(build: Any, cheap: None, batches: list[list[Step]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        data, key_file = Path(directory) / "data", Path(directory) / "key"
        instances.make(data, key_file)
        instances.add_account(data, key_file, "ann", build.password)
        with instances.opened(data, key_file) as opened:
            asyncio.run(play(build, opened, batches))


@pytest.fixture(scope="module")
def cheap() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


async def play(build: Any, instance: Any, batches: list[list[Step]]) -> None:
    transport = httpx.ASGITransport(make_app(instance))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        ann = await build.signed_in(http, "ann")
        ids = [await ann.new_id() for _ in range(NODES)]
        kinds: dict[NodeId, Kind] = {}
        model = Model()
        model.states[ROOT], model.revs[ROOT] = (await ann.node(ROOT)).state, Rev(1)
        past: list[tuple[Rev, dict[NodeId, NodeState | None]]] = []
        for batch in batches:
            changes = [resolved(build, model, step, ids, kinds) for step in batch]
            is_acceptable = model.is_acceptable(changes)
            answer = await asked(ann, changes)
            if isinstance(answer, CommitAnswer) and answer.rev:
                assert is_acceptable, changes
                model.take(changes)
                assert answer.rev == model.head
                kinds.update({each.node: each.state.kind for each in changes if each.state is not None})
                past.append((model.head, dict(model.states)))
            else:
                assert not is_acceptable, answer
                assert isinstance(answer, BadRequest) or answer.winners
            await check_whole_tree(ann, model)
        for rev, states in past:
            await check_past(ann, rev, states)
        await check_journal(ann, model)


def resolved(build: Any, model: Model, step: Step, ids: list[NodeId], kinds: dict[NodeId, Kind]) -> Change:
    node = ids[step.node]
    base = Rev(max(0, model.revs[node] - step.base_back)) if node in model.revs else Rev(0)
    if step.is_removal:
        return build.change(node, None, base)
    # A kind is for ever, so a device would not ask for another one.
    kind = kinds.get(node, step.kind)
    names = tuple(Name(ROOT if at < 0 else ids[at], name) for at, name in step.names)
    if kind == Kind.FOLDER:
        return build.change(node, build.state(kind, names[:1], mode=step.mode), base)
    content = Manifest(len(step.content), step.content)
    return build.change(node, build.state(kind, names, mode=step.mode, content=content), base)


async def asked(ann: Any, changes: list[Change]) -> Any:
    try:
        return await ann.commit(*changes, op_id=secrets.token_bytes(16))
    except BadRequest as error:
        return error


async def check_whole_tree(ann: Any, model: Model) -> None:
    nodes = list(model.states)
    answer = await ann.nodes(*nodes)
    assert answer.rev == model.head
    for node, found in zip(nodes, answer.nodes, strict=True):
        assert (found.rev, found.state) == (model.revs[node], model.states[node])
    size = sum(state.content.size for state in model.states.values() if state is not None and state.content is not None)
    assert (await ann.space()).used == size


async def check_past(ann: Any, rev: Rev, states: dict[NodeId, NodeState | None]) -> None:
    """Every folder of that time lists what it held then."""
    folders = [node for node, state in states.items() if state is not None and state.kind == Kind.FOLDER]
    listing = await ann.listing(*folders, as_of=rev)
    for found in listing.folders:
        expected = sorted(
            (name.name, node)
            for node, state in states.items()
            if state is not None and node != ROOT
            for name in state.names
            if name.parent == found.folder
        )
        assert [(name, child.node) for name, child in zip(found.names, found.children, strict=True)] == expected
        assert all(child.state == states[child.node] for child in found.children)


async def check_journal(ann: Any, model: Model) -> None:
    """Replaying the journal gives the same tree."""
    replayed: dict[NodeId, NodeState | None] = {}
    commits = (await ann.changes(0)).commits
    assert [commit.rev for commit in commits] == list(range(1, model.head + 1))
    for commit in commits:
        replayed.update({change.node: change.state for change in commit.changes})
    assert replayed == model.states
