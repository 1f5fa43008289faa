"""Push: sends what was edited here: content first, then commits that keep together what belongs together."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import trio
from msgspec.structs import replace

from cache import merge, news
from cache.chunks import Chunks
from cache.errors import CacheError, ContentDamaged
from cache.pull import Pull
from cache.staging import Staging, StagingId, Stagings
from cache.tree import LostEdit, Record, Table, Tree
from cache.upload import SMALL_FILE_MAX, Prepared, Upload
from remote.protocol.errors import Busy, NotAllowed, NotFound, NotSignedIn, RemoteError, ServerFault, Unreachable
from remote.protocol.ids import NodeId, Rev
from remote.protocol.messages import CHANGES_MAX, Change, Commit
from remote.protocol.nodes import Kind, NodeState

log = logging.getLogger(__name__)

COMMIT_CHANGES: Final = 1_000
COMMIT_BYTES: Final = 4 << 20
"""About how large a commit gets; the protocol allows four times that."""
_WINDOW: Final = 2_000
"""Dirty nodes planned for at a time, so that no request of a program waits long for the planner."""
_SMALL_FILES: Final = 500
_SMALL_BYTES: Final = 8 << 20
_LARGE_AT_ONCE: Final = 2
_LATER_SECONDS: Final = (1.0, 300.0)
_REFUSALS_FREE: Final = 4
"""Refusals in a row that are ordinary: somebody was first, and the next try knows it."""
_FAULTS_MAX: Final = 5
"""After so many failures of the server at one commit, the fault is taken to lie in what is in it."""
_NOT_ITS_FAULT: Final = (Unreachable, ServerFault, Busy, NotSignedIn, NotAllowed, NotFound)
"""Why nothing at all can be sent now, whatever it is."""
_ITS_FAULT: Final = (RemoteError, CacheError, OSError)


@dataclass(frozen=True)
class Trouble:
    """Why a node cannot be sent now, and when it is tried again (monotonic seconds); an edit of it ends the trouble."""

    sentence: str
    tries: int
    again_at: float
    edited_ns: int = 0


@dataclass(frozen=True)
class _Plan:
    """Groups that can be committed, and small and large files whose content must be sent first."""

    ready: list[list[NodeId]]
    small: list[NodeId]
    large: list[NodeId]

    @property
    def is_empty(self) -> bool:
        return not (self.ready or self.small or self.large)


@dataclass(frozen=True)
class _Sent:
    """A commit on its way, with what it was made from."""

    commit: Commit
    groups: int
    prepared: dict[NodeId, Prepared]
    lost: dict[bytes, Prepared | None]
    rebased: set[NodeId] = field(default_factory=set)


class Push:
    """Sends one space's edits; whoever edits the tree calls `wake`."""

    def __init__(self, pull: Pull, tree: Tree, stagings: Stagings, chunks: Chunks, upload: Upload) -> None:
        """Shares `pull`'s service, space, clock and mount."""
        self._service = pull.service
        self._space = pull.home.space
        self._clock = pull.clock
        self._mount = pull.mount
        self._pull = pull
        self._tree = tree
        self._stagings = stagings
        self._chunks = chunks
        self._upload = upload
        self._limit = COMMIT_CHANGES
        self._prepared: dict[NodeId, Prepared] = {}
        self._running: set[NodeId] = set()
        self._in_flight: _Sent | None = None
        self._faults = 0
        self._after = NodeId(0)
        self._planned_at = 0.0
        self._refusals: dict[NodeId, int] = {}
        self._lost_troubles: dict[bytes, Trouble] = {}
        self.troubles: dict[NodeId, Trouble] = {}
        self.changed = trio.Event()

    @property
    def is_sending(self) -> bool:
        """Whether a commit is on its way of which the answer is not known."""
        return self._in_flight is not None

    def wake(self) -> None:
        """Something is to be sent, or can be tried again."""
        self.changed.set()

    async def run_once(self, nursery: trio.Nursery) -> bool:
        """Sends some of what can be sent now; starts uploads of large files in the nursery; whether anything moved."""
        if self._in_flight is not None:
            await self._finish()
        is_lost_sent = await self._send_lost()
        plan = await self._plan()
        for node in plan.large:
            self._running.add(node)
            nursery.start_soon(self._prepare_large, node)
        if plan.small:
            await self._prepare_small(plan.small)
            # Meanwhile programs went on: what belongs together now is not what belonged together then.
            ready = (await self._plan()).ready
        else:
            ready = plan.ready
        if ready:
            # No await since the plan was made.
            await self._commit(merge.first_batch(ready, self._limit, self._weight, COMMIT_BYTES))
        return is_lost_sent or not plan.is_empty

    def seconds_to_next_try(self) -> float:
        """Until the first of the nodes in trouble is tried again; infinite when there is none."""
        times = [
            trouble.again_at
            for trouble in (*self.troubles.values(), *self._lost_troubles.values())
            if trouble.again_at > self._planned_at
        ]
        return max(0.0, min(times) - trio.current_time()) if times else float("inf")

    def stuck(self, limit: int) -> list[tuple[NodeId, Trouble]]:
        """Nodes that cannot be sent now, and those of which an edit that lost cannot be."""
        found = list(islice(self.troubles.items(), limit))
        lost = islice(self._lost_troubles.items(), limit - len(found))
        return found + [(NodeId(int.from_bytes(key[:8], "big")), trouble) for key, trouble in lost]

    def retry_all(self) -> None:
        """What was in the way may be gone: all is tried again now."""
        now = trio.current_time()
        self.troubles = {node: _at(trouble, now) for node, trouble in self.troubles.items()}
        self._lost_troubles = {key: _at(trouble, now) for key, trouble in self._lost_troubles.items()}
        self.wake()

    # Planning

    async def _plan(self) -> _Plan:
        """What can be done for the next dirty nodes for which something can be done; no await after it is made."""
        self._planned_at = trio.current_time()
        self._forget_settled()
        is_round = self._after == 0
        while True:
            dirty = self._tree.dirty(_WINDOW, self._after)
            plan = self._sort(self._groups(dirty))
            if not plan.is_empty:
                return plan
            if len(dirty) == _WINDOW:
                self._after = dirty[-1][0]
            elif is_round:
                self._after = NodeId(0)
                return plan
            else:
                is_round, self._after = True, NodeId(0)
            await trio.lowlevel.checkpoint()

    def _forget_settled(self) -> None:
        """Troubles of nodes that are clean by now are over."""
        for node in [node for node in self.troubles if not self._is_dirty(node)]:
            del self.troubles[node]
        for node in [node for node in self._refusals if not self._is_dirty(node)]:
            del self._refusals[node]
        for node in [node for node in self._prepared if not self._is_dirty(node)]:
            del self._prepared[node]

    def _groups(self, dirty: list[tuple[NodeId, int]]) -> list[list[NodeId]]:
        dirty.sort(key=lambda pair: pair[1])
        nodes = [node for node, _ in dirty if not self._drop_if_void(node)]
        groups: list[list[NodeId]] = []
        for group in merge.units(nodes, self._needs):
            if len(group) <= CHANGES_MAX:
                groups.append(group)
                continue
            # More than a commit may hold: then names are missing for a moment on the way, in an order that works.
            groups += self._in_order(group)
        return groups

    def _in_order(self, group: Sequence[NodeId]) -> list[list[NodeId]]:
        members = set(group)
        return merge.units(group, lambda node: [other for other in self._needs_first(node) if other in members])

    def _drop_if_void(self, node: NodeId) -> bool:
        """Made and removed here before the server heard of it, or changed and changed back: nothing to tell."""
        record = self._tree.record(node)
        if record is None or not record.is_dirty:
            with self._tree.edit() as edit:
                edit.mark_clean(node)
            return True
        if record.local is None and self._tree.is_unknown_elsewhere(node, record):
            with self._tree.edit() as edit:
                edit.drop(node)
            return True
        if record.local is not None and record.local == record.synced and not record.staged:
            with self._tree.edit() as edit:
                edit.put(node, replace(record, is_dirty=False, synced=None))
                edit.mark_clean(node)
            return True
        return False

    def _needs(self, node: NodeId) -> list[NodeId]:
        """Dirty nodes whose change must be committed before this one's, or with it (when they need each other)."""
        record = self._tree.record(node)
        if record is None:
            return []
        here_names = record.local.names if record.local is not None else ()
        agreed_names = record.synced.names if record.synced is not None else ()
        # Whoever has a name of ours now goes with us: elsewhere the name always leads to one of us.
        heirs = [self._tree.child(name.parent, name.name) for name in agreed_names if name not in here_names]
        return self._needs_first(node) + [
            heir for heir in heirs if heir is not None and heir != node and self._is_dirty(heir)
        ]

    def _needs_first(self, node: NodeId) -> list[NodeId]:
        """Dirty nodes without whose change, before or with this one's, the server would refuse it."""
        tree = self._tree
        record = tree.record(node)
        if record is None:
            return []
        here, agreed = record.local, record.synced
        found: list[NodeId | None] = []
        agreed_names = agreed.names if agreed is not None else ()
        for name in here.names if here is not None else ():
            parent = tree.record(name.parent)
            if parent is not None and parent.is_dirty and parent.synced is None:
                found.append(name.parent)
            if name not in agreed_names:
                found.append(tree.slot_holder(name))
                if here is not None and here.kind is Kind.FOLDER:
                    found.extend(self._moved_above(name.parent))
        if here is None and agreed is not None and agreed.kind is Kind.FOLDER:
            found.extend(tree.slot_holders(node))
        return [other for other in found if other is not None and other != node and self._is_dirty(other)]

    def _is_dirty(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        return record is not None and record.is_dirty

    def _moved_above(self, folder: NodeId) -> list[NodeId]:
        """Folders above that were moved here: they go first, or the server could see a cycle in between."""
        moved: list[NodeId] = []
        for _ in range(4_096):
            record = self._tree.record(folder)
            if record is None or record.local is None or record.local.names[0].parent == 0:
                break
            if record.is_dirty and (record.synced is None or record.synced.names != record.local.names):
                moved.append(folder)
            folder = record.local.names[0].parent
        return moved

    def _sort(self, groups: Sequence[Sequence[NodeId]]) -> _Plan:
        plan = _Plan([], [], [])
        small_bytes = 0
        blocked: set[NodeId] = set()
        for group in groups:
            if any(self._waits(node) for node in group) or any(
                other in blocked for node in group for other in self._needs(node)
            ):
                blocked.update(group)
                continue
            unsent = [node for node in group if self._needs_content(node)]
            if not unsent:
                plan.ready.append(list(group))
                continue
            blocked.update(group)
            for node in unsent:
                record = self._tree.record(node)
                if record is None or node in self._running:
                    continue
                if record.staged_size > SMALL_FILE_MAX:
                    if len(self._running) + len(plan.large) < _LARGE_AT_ONCE:
                        plan.large.append(node)
                elif len(plan.small) < _SMALL_FILES and small_bytes < _SMALL_BYTES:
                    plan.small.append(node)
                    small_bytes += record.staged_size
        return plan

    def _waits(self, node: NodeId) -> bool:
        trouble = self.troubles.get(node)
        if (
            trouble is not None
            and trouble.again_at > self._planned_at
            and trouble.edited_ns == self._tree.edited_ns(node)
        ):
            return True
        return self._mount.is_held(node) or self._tree.news_of(node) is not None

    def _needs_content(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        if record is None or not record.staged:
            self._prepared.pop(node, None)
            return False
        prepared = self._prepared.get(node)
        if prepared is None:
            return True
        if prepared.staging.id != record.staged or prepared.staging.generation != prepared.generation:
            del self._prepared[node]
            return True
        return False

    # Content

    async def _prepare_small(self, nodes: Sequence[NodeId]) -> None:
        stagings: dict[NodeId, Staging] = {}
        for node in nodes:
            staging = self._load(node)
            if staging is not None:
                stagings[node] = staging
        if not stagings:
            return
        try:
            prepared = await self._upload.small(list(stagings.values()))
        except _NOT_ITS_FAULT:
            raise
        except _ITS_FAULT:
            # One of them is at fault: alone, it is found, and does not hold up the others.
            for node in stagings:
                await self._prepare_one(node)
            return
        self._prepared.update(zip(stagings, prepared, strict=True))

    async def _prepare_one(self, node: NodeId) -> None:
        staging = self._load(node)
        if staging is None:
            return
        try:
            if staging.size <= SMALL_FILE_MAX:
                self._prepared[node] = (await self._upload.small([staging]))[0]
            else:
                self._prepared[node] = await self._upload.large(staging)
        except _NOT_ITS_FAULT:
            raise
        except _ITS_FAULT as error:
            self._note_trouble(node, error)

    async def _prepare_large(self, node: NodeId) -> None:
        try:
            await self._prepare_one(node)
        except _NOT_ITS_FAULT as error:
            self._note_trouble(node, error)
        except Exception as error:
            # A task beside the others, which must not end them.
            log.exception("node %d cannot be uploaded", node)
            self._note_trouble(node, error)
        finally:
            self._running.discard(node)
            self.wake()

    def _load(self, node: NodeId) -> Staging | None:
        record = self._tree.record(node)
        if record is None or not record.staged:
            return None
        try:
            return self._stagings.load(StagingId(record.staged))
        except (KeyError, ContentDamaged) as error:
            self._note_trouble(node, error)
            return None

    def _note_trouble(self, node: NodeId, error: Exception) -> None:
        tries = self.troubles[node].tries + 1 if node in self.troubles else 1
        seconds = min(_LATER_SECONDS[0] * 2 ** min(tries, 20), _LATER_SECONDS[1])
        again_at = trio.current_time() + seconds
        self.troubles[node] = Trouble(str(error) or repr(error), tries, again_at, self._tree.edited_ns(node))

    # Commits

    def _weight(self, node: NodeId) -> int:
        """About how many bytes the change of a node takes in a commit."""
        record, prepared = self._tree.record(node), self._prepared.get(node)
        state = record.local if record is not None else None
        if state is None:
            return 64
        content = prepared.manifest if prepared is not None else state.content
        return (
            256
            + sum(len(name.name) + 16 for name in state.names)
            + len(state.target)
            + sum(len(name) + len(value) for name, value in state.xattrs.items())
            + (len(content.inline) + 96 * len(content.entries) if content is not None else 0)
        )

    async def _commit(self, groups: Sequence[Sequence[NodeId]]) -> None:
        changes: list[Change] = []
        prepared: dict[NodeId, Prepared] = {}
        for group in groups:
            for node in group:
                record = self._tree.record(node)
                assert record is not None, "planned just now"
                if record.staged:
                    prepared[node] = self._prepared[node]
                changes.append(self._change(node, record, prepared.get(node)))
        self._start(_Sent(Commit(os.urandom(16), tuple(changes)), len(groups), prepared, {}))
        await self._finish()

    def _change(self, node: NodeId, record: Record, prepared: Prepared | None) -> Change:
        state = record.local
        if state is not None and prepared is not None:
            state = replace(state, content=prepared.manifest)
        is_touch = (
            state is not None
            and state.kind is Kind.FOLDER
            and record.synced is not None
            and merge.is_touch(state, record.synced)
        )
        edited_ns = self._tree.edited_ns(node) + self._clock.correction_ns
        return Change(node, record.rev, edited_ns, state, is_touch=is_touch, overrides=record.overrides)

    def _start(self, sent: _Sent) -> None:
        self._tree.set_sending(change.node for change in sent.commit.changes)
        self._in_flight = sent
        self._faults = 0

    async def _finish(self) -> None:
        """Sends the commit on its way until an answer comes, and takes the answer in."""
        sent = self._in_flight
        assert sent is not None
        nodes = [change.node for change in sent.commit.changes]
        with self._pull.crossing():
            try:
                answer = await self._service.commit(self._space, sent.commit)
            except _NOT_ITS_FAULT as error:
                # It may have been taken: only the same commit again, with its op id, or the journal can tell.
                self._faults += isinstance(error, ServerFault)
                if self._faults < _FAULTS_MAX:
                    raise
                self._take_fault(sent, nodes, error)
                return
            except RemoteError as error:
                self._take_fault(sent, nodes, error)
                return
            self._clock.heard(answer.now_ns)
            if not answer.rev:
                self._forget(())
                await self._pull.take_winners(answer.winners)
                self._note_refusal(nodes, answer.reason)
                self.wake()
                return
            if answer.rev > self._tree.cursor + 1:
                # States are taken in in the order of the journal: first what came before.
                await self._pull.catch_up()
        # No await until all of the answer is taken in.
        done = self._take_answer(sent, answer.rev)
        self._in_flight = None
        self._limit = min(self._limit * 2, COMMIT_CHANGES)
        await self._settle_content(done)
        self.wake()

    def _take_fault(self, sent: _Sent, nodes: Sequence[NodeId], error: RemoteError) -> None:
        """The server can do nothing with the commit (it is wrong, has no room, lacks a chunk)."""
        self._forget(nodes)
        if sent.groups > 1:
            # One of them is at fault: in ever smaller commits it is found, and does not hold up the others.
            self._limit = max(1, len(nodes) // 2)
        else:
            log.warning("%d changes (node %d first) are not taken: %s", len(nodes), nodes[0], error)
            for node in nodes:
                self._note_trouble(node, error)
            for key in sent.lost:
                self._note_lost_trouble(key, error)
        self.wake()

    def _forget(self, nodes: Iterable[NodeId]) -> None:
        self._in_flight = None
        self._tree.set_sending(())
        for node in nodes:
            self._prepared.pop(node, None)

    def _note_refusal(self, nodes: Sequence[NodeId], reason: str) -> None:
        """A refusal is ordinary (somebody was first) and tried again at once; again and again, it is trouble."""
        for node in nodes:
            tries = self._refusals[node] = self._refusals.get(node, 0) + 1
            if tries >= _REFUSALS_FREE:
                seconds = min(2.0 ** (tries - _REFUSALS_FREE), _LATER_SECONDS[1])
                sentence = f"The server refused the change: {reason}"
                again_at = trio.current_time() + seconds
                self.troubles[node] = Trouble(sentence, tries, again_at, self._tree.edited_ns(node))

    def _take_answer(self, sent: _Sent, rev: Rev) -> list[Prepared]:
        """The server has it: the tree and the stagings change together. Raises DiskFull, then nothing has changed."""
        done: list[Prepared] = []
        is_next = rev == self._tree.cursor + 1
        with self._tree.edit() as edit:
            for change in sent.commit.changes:
                if change.is_conflict:
                    continue
                prepared = sent.prepared.get(change.node)
                is_unchanged = prepared is None or self._is_current(change.node, prepared)
                news.acknowledge(
                    edit,
                    change.node,
                    change.state,
                    rev,
                    touch_base=change.base if change.is_touch else None,
                    is_next=is_next,
                    is_unchanged=is_unchanged,
                )
                record = edit.record(change.node)
                if prepared is None or record is None:
                    continue
                if record.staged == prepared.staging.id:
                    if change.node not in sent.rebased:
                        prepared.staging.rebase(prepared.manifest)
                        sent.rebased.add(change.node)
                    prepared.staging.flush(edit.change)
                elif is_unchanged:
                    prepared.staging.discard(edit.change)
                    done.append(prepared)
            for key, lost in sent.lost.items():
                edit.change.delete(Table.LOST, key)
                self._lost_troubles.pop(key, None)
                if lost is not None:
                    lost.staging.discard(edit.change)
                    done.append(lost)
            if is_next:
                self._tree.set_cursor(rev, edit)
        self._tree.released -= {prepared.staging.id for prepared in done}
        self._tree.set_sending(())
        for change in sent.commit.changes:
            self._prepared.pop(change.node, None)
            self.troubles.pop(change.node, None)
            self._refusals.pop(change.node, None)
            settled = sent.prepared.get(change.node) or next(iter(sent.lost.values()), None)
            if settled is not None and settled in done:
                self._mount.let_go(change.node, settled.staging)
        return done

    def _is_current(self, node: NodeId, prepared: Prepared) -> bool:
        record = self._tree.record(node)
        return (
            record is not None
            and record.staged == prepared.staging.id
            and prepared.staging.generation == prepared.generation
            and not self._mount.is_held(node)
        )

    async def _settle_content(self, done: Sequence[Prepared]) -> None:
        """What was staged becomes cached content, without a copy where it lies in a file."""
        for prepared in done:
            path = prepared.staging.path
            try:
                if prepared.plain is not None and prepared.manifest.entries:
                    await self._chunks.add(prepared.manifest.entries[0], prepared.plain)
                elif prepared.pieces and path is not None:
                    await self._chunks.adopt(path, prepared.pieces)
            except (CacheError, OSError) as error:
                log.info("content that was sent is not kept: %s", error)
            prepared.staging.remove()

    # Edits that lost

    async def _send_lost(self) -> bool:
        """Local edits that lost a merge become versions on the server; whether any did."""
        is_sent = False
        for key, node, lost in self._tree.lost():
            trouble = self._lost_troubles.get(key)
            if trouble is not None and trouble.again_at > trio.current_time():
                continue
            try:
                prepared = await self._prepare_lost(lost)
            except _NOT_ITS_FAULT:
                raise
            except KeyError:
                log.warning("node %d: an edit that was to be kept as a version is gone from this disk", node)
                self._drop_lost(key)
                continue
            except _ITS_FAULT as error:
                self._note_lost_trouble(key, error)
                continue
            state: NodeState = lost.state if prepared is None else replace(lost.state, content=prepared.manifest)
            change = Change(node, Rev(0), lost.edited_ns, state, is_conflict=True)
            self._start(_Sent(Commit(os.urandom(16), (change,)), 1, {}, {key: prepared}))
            await self._finish()
            is_sent = True
        return is_sent

    def _drop_lost(self, key: bytes) -> None:
        with self._tree.edit() as edit:
            edit.change.delete(Table.LOST, key)

    def _note_lost_trouble(self, key: bytes, error: Exception) -> None:
        tries = self._lost_troubles[key].tries + 1 if key in self._lost_troubles else 1
        seconds = min(_LATER_SECONDS[0] * 2 ** min(tries, 20), _LATER_SECONDS[1])
        self._lost_troubles[key] = Trouble(str(error), tries, trio.current_time() + seconds)

    async def _prepare_lost(self, lost: LostEdit) -> Prepared | None:
        """What was written, uploaded; None when there is nothing to upload; KeyError when it is gone."""
        if not lost.staged:
            return None
        staging = self._stagings.load(StagingId(lost.staged))
        if staging.size <= SMALL_FILE_MAX:
            return (await self._upload.small([staging]))[0]
        return await self._upload.large(staging)


def _at(trouble: Trouble, again_at: float) -> Trouble:
    """The same trouble, tried again at another time."""
    return Trouble(trouble.sentence, trouble.tries, again_at, trouble.edited_ns)
