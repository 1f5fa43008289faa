"""Commits: taken whole or refused whole, in the order in which they get their rev.

`prepare` does what needs no order (checks, encoding, sealing, looking chunks up) in a reader's thread; `take` is the
short part that runs alone, in the writer's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from remote.protocol.errors import QuotaExceeded
from remote.protocol.ids import NOWHERE, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import Change, Commit, CommitAnswer
from remote.protocol.nodes import Kind, Name, NodeState, NodeVersion
from remote.protocol.sizes import shown_size
from remote.server import guard, leases
from remote.server.accounts import RANGE_NUMBER_MAX, RANGES_MAX
from remote.server.database import accounts as account_rows
from remote.server.database import chunks as chunk_rows
from remote.server.database import conflicts as conflict_rows
from remote.server.database import past as past_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.spaces import JournalRow, SpaceRow
from remote.server.invariants import Present, Refusal, judge, parent_after, settled_states
from remote.server.keys import SpaceKey
from remote.server.leaves import Leaves
from remote.server.limits import INT63, check_commit
from remote.server.quotas import bounded
from remote.server.states import decode_state, encode_manifest, encode_state, version

WINNERS_BYTES_MAX = 8 << 20


@dataclass(frozen=True)
class Draft:
    """One change, ready to be written: its state encoded, its content named and sealed.

    `sealed` is None also for content that is stored already; `size` is that of the content in bytes.
    """

    change: Change
    state: bytes | None
    content_id: bytes | None
    sealed: bytes | None
    size: int = 0


@dataclass(frozen=True)
class Found:
    """What was found when the chunks of a commit were looked up."""

    doubted: frozenset[ChunkId]
    """Chunks that nothing was known to name: the commit does."""
    round: int
    """The round of upkeep in which they were looked up: in another one, that has to be done again."""
    watch: guard.Watch | None = None
    """With it, the guard looks at the commit."""


@dataclass(frozen=True)
class Prepared:
    """A commit, ready to be taken."""

    drafts: list[Draft]
    found: Found


@dataclass(frozen=True)
class Moving:
    """A commit of the server that makes, changes or removes shared folders in a home.

    What it removes lives on in the space `to`: it is no trash, and cannot come back by any other commit.
    """

    to: SpaceId
    rows: Sequence[trees.NodeRow] = ()
    """Nodes of it that are known already, as they are in this transaction."""


class Overtaken(Exception):
    """Chunks were collected since the commit was prepared: it must be prepared again. Nothing was changed."""


def prepare(
    session: Session, space: SpaceId, commit: Commit, key: SpaceKey, leaves: Leaves, *, now_ns: int
) -> Prepared:
    """The changes ready to be written; raises BadRequest and ChunkMissing."""
    check_commit(commit)
    manifests = [change.state.content for change in commit.changes if change.state and change.state.content]
    doubted = leaves.check(session, space, manifests)
    drafts = [_draft(_not_later(change, now_ns), key) for change in commit.changes]
    return Prepared(drafts, Found(frozenset(doubted), chunk_rows.upkeep_round(session)))


def take(
    session: Session,
    row: SpaceRow,
    device: Device,
    op_id: bytes,
    drafts: Sequence[Draft],
    *,
    key: SpaceKey,
    now_ns: int,
    found: "Found | Moving | None" = None,
) -> CommitAnswer:
    """The answer to the commit, which is written when the answer has a rev.

    `found`: where drafts bring content; without it, they may only name what is stored. Moving: the server shares a
    folder, places or removes a shared one, and cares for chunks itself. Raises BadRequest, NotAllowed, QuotaExceeded
    and Overtaken.
    """
    moving = found if isinstance(found, Moving) else None
    looked = found if isinstance(found, Found) else None
    seen = space_rows.rev_of_op(session, row.space, op_id)
    if seen == 0:
        return CommitAnswer(Rev(0), now_ns, (), "This commit was refused before: a new one is needed.")
    if seen is not None:
        return CommitAnswer(seen, now_ns, life=space_rows.life_at(session, row.space, seen))
    if looked is not None and chunk_rows.upkeep_round(session) != looked.round:
        raise Overtaken
    if any(_is_gone(session, row.space, draft) for draft in drafts):
        return CommitAnswer(Rev(0), now_ns, (), "Content of an older version was removed for good meanwhile.")
    tree = _StoredTree(session, row.space, device, moving.rows if moving is not None else ())
    refusal = judge(tree, [draft.change for draft in drafts], may_mount=moving is not None)
    if refusal is not None:
        return CommitAnswer(Rev(0), now_ns, _winners(session, row.space, refusal, key), refusal.reason)
    rev = Rev(row.head + 1)
    watch = looked.watch if looked is not None else None
    held = guard.look(session, row, tree, drafts, watch, rev=rev, now_ns=now_ns) if watch is not None else None
    if held is not None:
        return CommitAnswer(Rev(0), now_ns, (), held.reason, held=held.nodes)
    writing = _plan(tree, drafts, rev, moving, counts_past=bool(row.counts_past))
    has_quota = _check_quota(session, row, device, writing.growth, now_ns)
    _write(session, row.space, rev, writing)
    if looked is not None:
        chunk_rows.add_references(session, row.space, looked.doubted)
    # Strictly increasing, whatever the clock does: a time says exactly one rev.
    time_ns = max(now_ns, row.last_time_ns + 1)
    if has_quota:
        leases.took(session, row.space, device.device, writing.growth, now_ns)
    journal = JournalRow(rev, time_ns, device.user, device.device)
    space_rows.add_commit(session, row.space, journal, op_id, row.used + writing.growth)
    return CommitAnswer(rev, now_ns, life=session.life)


def _check_quota(session: Session, row: SpaceRow, device: Device, growth: int, now_ns: int) -> bool:
    """Whether there is a quota at all; raises QuotaExceeded. What a shared space grows by is counted for its owner."""
    if row.used + row.shared_used + growth > INT63:
        raise QuotaExceeded(f"{row.name} holds {row.used} bytes, holes included: no more can be counted.")
    if not row.quota and not row.payer:
        return False
    bound = bounded(session, row)
    is_bounded = growth > 0 and bool(bound.quota)
    reserved, here = leases.reserved(session, bound, device.device, now_ns) if is_bounded else (0, 0)
    if row.payer:
        is_over = growth > 0 and bool(row.quota) and row.used + growth + here > row.quota
        is_over = is_over or not space_rows.pay(session, row.payer, growth, reserved)
    else:
        is_over = growth > 0 and bound.used + growth + reserved > bound.quota
    if is_over:
        kept = f", and {shown_size(reserved)} are kept for what other devices write" if reserved else ""
        exceeded = QuotaExceeded(
            f"{row.name} holds {shown_size(bound.used)} of {shown_size(bound.quota)}{kept}; this needs "
            f"{shown_size(growth)} more. Remove something, or ask whoever runs the server for a larger quota."
        )
        exceeded.is_kept = growth <= leases.most(bound)
        raise exceeded
    return bool(bound.quota)


def _is_gone(session: Session, space: SpaceId, draft: Draft) -> bool:
    """Whether the draft names stored content that is stored no more."""
    is_named = draft.content_id is not None and draft.sealed is None
    return is_named and past_rows.manifest(session, space, draft.content_id or b"") is None


class _StoredTree:
    """invariants.Tree from the database; each node is looked up once."""

    def __init__(self, session: Session, space: SpaceId, device: Device, known: Iterable[trees.NodeRow] = ()) -> None:
        self._session = session
        self._space = space
        self._device = device
        self._rows: dict[NodeId, trees.NodeRow | None] = {row.node: row for row in known}
        self._presents: dict[NodeId, Present | None] = {}
        self._names: dict[NodeId, tuple[Name, ...]] = {}
        self._ranges: dict[int, bool] = {}

    def row(self, node: NodeId) -> trees.NodeRow | None:
        if node not in self._rows:
            self._rows[node] = trees.node_row(self._session, self._space, node)
        return self._rows[node]

    def state(self, node: NodeId) -> NodeState | None:
        row = self.row(node)
        return decode_state(row.state) if row is not None and row.state is not None else None

    def present(self, node: NodeId) -> Present | None:
        if node not in self._presents:
            row = self.row(node)
            self._presents[node] = None if row is None else _present(row)
        return self._presents[node]

    def names(self, node: NodeId) -> tuple[Name, ...]:
        if node not in self._names:
            state = self.state(node)
            self._names[node] = state.names if state is not None else ()
        return self._names[node]

    def holder(self, name: Name) -> NodeId | None:
        return trees.holder(self._session, self._space, name.parent, name.name)

    def children(self, folder: NodeId, limit: int) -> Sequence[NodeId]:
        return trees.child_ids(self._session, self._space, folder, limit)

    def holds_range(self, range_number: int) -> bool:
        if range_number not in self._ranges:
            # One that nobody holds was leased and forgotten, when the server was put back from an older copy.
            user, device = self._device.user, self._device.device
            self._ranges[range_number] = account_rows.holds_range(self._session, user, range_number) or (
                1 <= range_number <= RANGE_NUMBER_MAX
                and account_rows.range_count(self._session, user) < RANGES_MAX
                and account_rows.add_range(self._session, range_number, user, device)
            )
        return self._ranges[range_number]

    def parent_now(self, folder: NodeId) -> NodeId | None:
        row = self.row(folder)
        return row.parent if row is not None and row.state is not None else None

    def counted_before(self, node: NodeId, content_id: bytes) -> list[tuple[Rev, int]]:
        return trees.counted_before(self._session, self._space, node, content_id)

    def has_version(self, node: NodeId, rev: Rev) -> bool:
        return trees.has_version(self._session, self._space, node, rev)


def _present(row: trees.NodeRow) -> Present:
    is_removed = row.state is None
    mounts = decode_state(row.state).mounts if row.state is not None and row.kind == Kind.FOLDER else SpaceId(0)
    # Of a removed node `parent` is the space that it moved to.
    return Present(row.rev, row.kind, row.parent, is_removed, mounts, is_removed and bool(row.parent))


@dataclass
class _Writing:
    """The rows of one commit."""

    nodes: list[trees.NodeRow] = field(default_factory=list)
    versions: list[trees.VersionRow] = field(default_factory=list)
    ended: list[trees.NameRow] = field(default_factory=list)
    added: list[trees.NameRow] = field(default_factory=list)
    lost: list[tuple[NodeId, Rev]] = field(default_factory=list)
    conflicts: list[tuple[NodeId, Rev]] = field(default_factory=list)
    removed: list[NodeId] = field(default_factory=list)
    returned: list[tuple[NodeId, Rev]] = field(default_factory=list)
    manifests: dict[bytes, bytes] = field(default_factory=dict)
    above_before: set[NodeId] = field(default_factory=set)
    above_after: set[NodeId] = field(default_factory=set)
    growth: int = 0
    counts_past: bool = False
    superseded: list[tuple[int, NodeId, Rev]] = field(default_factory=list)
    """(bytes, node, rev) of versions that count from now on as the past."""
    moved_to: NodeId = NOWHERE
    """The space that lives on with what is removed, as `node.parent` keeps it."""


def _not_later(change: Change, now_ns: int) -> Change:
    """The change, edited by now at the latest: who has a wrong clock does not win against all who edit after it."""
    return change if change.edited_ns <= now_ns else msgspec.structs.replace(change, edited_ns=now_ns)


def _draft(change: Change, key: SpaceKey) -> Draft:
    if change.state is None:
        return Draft(change, None, None, None)
    state = encode_state(change.state)
    if change.state.content is None:
        return Draft(change, state, None, None)
    manifest = encode_manifest(change.state.content)
    return Draft(change, state, key.content_id(manifest), key.seal(manifest), change.state.content.size)


def _plan(
    tree: _StoredTree, drafts: Sequence[Draft], rev: Rev, moving: Moving | None, *, counts_past: bool
) -> _Writing:
    writing = _Writing(counts_past=counts_past, moved_to=NodeId(moving.to) if moving is not None else NodeId(0))
    settled = settled_states([draft.change for draft in drafts])
    for draft in drafts:
        effective: Draft | None = draft
        if draft.change.is_touch:
            effective = _touched(tree, draft)
        if effective is None:
            continue
        change = effective.change
        mark = trees.LOST if change.is_conflict else trees.WAS_STATE
        past_bytes = effective.size if counts_past and change.is_conflict else 0
        writing.growth += past_bytes
        writing.versions.append(
            trees.VersionRow(
                change.node, change.edited_ns, effective.state, effective.content_id, mark, change.overrides, past_bytes
            )
        )
        if effective.content_id is not None and effective.sealed is not None:
            writing.manifests[effective.content_id] = effective.sealed
        if change.is_conflict:
            writing.conflicts.append((change.node, rev))
        else:
            _plan_state(tree, effective, settled, rev, writing)
    return writing


def _plan_state(
    tree: _StoredTree, draft: Draft, settled: Mapping[NodeId, NodeState | None], rev: Rev, writing: _Writing
) -> None:
    """What a change that takes effect does to the present."""
    change, state = draft.change, draft.change.state
    row = tree.row(change.node)
    had = tree.names(change.node)
    has = state.names if state is not None else ()
    writing.ended += [(name.parent, name.name, change.node) for name in had if name not in has]
    writing.added += [(name.parent, name.name, change.node) for name in has if name not in had]
    if change.overrides:
        writing.lost.append((change.node, change.overrides))
        writing.conflicts.append((change.node, change.overrides))
    kind = state.kind if state is not None else Kind(row.kind) if row is not None else Kind.FILE
    parent = writing.moved_to if state is None else state.names[0].parent if kind == Kind.FOLDER else NodeId(0)
    writing.nodes.append(
        trees.NodeRow(change.node, rev, change.edited_ns, kind, parent, draft.size, draft.state, draft.content_id)
    )
    if state is None:
        if not writing.moved_to:
            writing.removed.append(change.node)
    elif row is not None and row.state is None:
        writing.returned.append((change.node, row.rev))
    writing.growth += draft.size - (row.size if row is not None else 0)
    # What moves to another space is no past: it is counted there.
    had_content = row.content_id if row is not None else None
    if writing.counts_past and not writing.moved_to and draft.content_id != had_content:
        _plan_past(tree, draft, row, writing)
    is_folder = kind == Kind.FOLDER
    _climb([change.node] if is_folder else [name.parent for name in had], tree.parent_now, writing.above_before)
    _climb(
        [change.node] if is_folder else [name.parent for name in has],
        lambda folder: parent_after(tree, settled, folder),
        writing.above_after,
    )


def _plan_past(tree: _StoredTree, draft: Draft, row: trees.NodeRow | None, writing: _Writing) -> None:
    """Counts the content that a file had, and no longer as the past what it has again."""
    node = draft.change.node
    if draft.content_id is not None and row is not None:
        for rev, size in tree.counted_before(node, draft.content_id):
            writing.superseded.append((0, node, rev))
            writing.growth -= size
    if row is not None and row.size:
        writing.superseded.append((row.size, node, row.rev))
        writing.growth += row.size


def _touched(tree: _StoredTree, draft: Draft) -> Draft | None:
    """The folder as it is, with the times of the touch; None when a later one was first, or the folder is gone."""
    row, state = tree.row(draft.change.node), tree.state(draft.change.node)
    touch = draft.change.state
    if row is None or state is None or touch is None:
        return None
    # Times may be set back, so the larger is not the newer. On top of the present there is nothing to compare.
    if draft.change.base != row.rev and touch.ctime_ns <= state.ctime_ns:
        return None
    touched = msgspec.structs.replace(state, mtime_ns=touch.mtime_ns, ctime_ns=touch.ctime_ns, atime_ns=touch.atime_ns)
    if touched == state:
        return None
    edited_ns = max(row.edited_ns, draft.change.edited_ns)
    change = msgspec.structs.replace(draft.change, state=touched, edited_ns=edited_ns)
    return replace(draft, change=change, state=encode_state(touched))


def _climb(folders: Iterable[NodeId], parent_of: Callable[[NodeId], NodeId | None], passed: set[NodeId]) -> None:
    """Adds these folders and all above them; where somebody passed already, the rest of the way is known."""
    for start in folders:
        at: NodeId | None = start
        while at and at not in passed:
            passed.add(at)
            at = parent_of(at)


def _write(session: Session, space: SpaceId, rev: Rev, writing: _Writing) -> None:
    # Names end before names begin: a name that moves from one node to another is free in between.
    trees.end_names(session, space, writing.ended, rev)
    trees.add_names(session, space, writing.added, rev)
    trees.add_manifests(session, space, writing.manifests.items())
    trees.put_nodes(session, space, writing.nodes)
    past_rows.forget_removed(session, space, writing.returned)
    past_rows.note_removed(session, space, writing.removed, rev)
    trees.mark_lost(session, space, writing.lost)
    trees.set_past_bytes(session, space, writing.superseded)
    trees.add_versions(session, space, rev, writing.versions)
    conflict_rows.add_conflicts(session, space, writing.conflicts)
    space_rows.add_moments(session, space, writing.above_before | writing.above_after, rev)


def _winners(session: Session, space: SpaceId, refusal: Refusal, key: SpaceKey) -> tuple[NodeVersion, ...]:
    winners: list[NodeVersion] = []
    size_bytes = 0
    for node in refusal.winners:
        stored = trees.stored_now(session, space, node)
        if stored is None:
            continue
        winners.append(version(key, stored.node, stored.rev, stored.edited_ns, stored.state, stored.manifest))
        size_bytes += len(stored.state or b"") + len(stored.manifest or b"")
        if size_bytes > WINNERS_BYTES_MAX:
            # The others come when the commit is tried again on top of these.
            break
    return tuple(winners)
