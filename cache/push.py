"""Push: sends what was edited here: content first, then commits that keep together what belongs together."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import trio
from msgspec.structs import replace

from cache import answered, merge
from cache.chunks import Chunks
from cache.errors import CacheError
from cache.ignoring import Ignoring
from cache.planning import Planner
from cache.prepared import Prepared
from cache.preparing import ITS_FAULT, NOT_ITS_FAULT, Preparing
from cache.pull import Pull
from cache.records import LostEdit, Record, Table
from cache.resending import ContentLost, Resending
from cache.staging import Stagings
from cache.tree import Tree
from cache.troubles import Troubles
from cache.upload import Upload
from remote.protocol.errors import ChunkMissing, CursorTooOld, NotAllowed, RemoteError, ServerFault
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Change, Commit
from remote.protocol.nodes import Kind, Name, NodeState

log = logging.getLogger(__name__)

COMMIT_CHANGES: Final = 1_000
COMMIT_BYTES: Final = 4 << 20
"""About how large a commit gets; the protocol allows four times that."""
LOST_AT_ONCE: Final = 64
"""Edits that lost in one commit: their content, small files mostly, is in memory until then."""
ENOUGH_NODES: Final = 500
"""So many are worth a commit of their own, whether programs pause or not."""
AHEAD_NODES: Final = 8
"""Dirty nodes up to which content is sent before edits are gathered."""
_LOST: Final = (
    "The server lost the content of this file, and not all of it is on this machine. Another device may have it; if"
    " none has, an older version can be restored, or the file removed."
)
_FAULTS_MAX: Final = 5
"""After so many failures of the server at one commit, the fault is taken to lie in what is in it."""
_LOOK_SECONDS: Final = 0.02
_TAKEN_AT_ONCE: Final = 64
"""Changes of an answer that are taken in before programs have their turn."""


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

    def __init__(
        self, pull: Pull, tree: Tree, stagings: Stagings, chunks: Chunks, upload: Upload, ignoring: Ignoring
    ) -> None:
        """Shares `pull`'s service, space, clock and mount."""
        self._service = pull.service
        self._space = pull.home.space
        self._clock = pull.clock
        self._mount = pull.mount
        self._pull = pull
        self._tree = tree
        self._chunks = chunks
        self.troubles = Troubles(tree)
        self._preparing = Preparing(tree, stagings, upload, self.troubles, self._take_content)
        self.ignoring = ignoring
        pull.is_ignored = ignoring.holds
        self._planner = Planner(tree, pull.mount, self.troubles, self._preparing, ignoring)
        self._limit = COMMIT_CHANGES
        self._lost_at_once = LOST_AT_ONCE
        self.resending = Resending(pull.service, pull.home, chunks)
        # Nodes with content that was sent again and not taken since: twice in a row is in vain.
        self._sent_again: set[NodeId] = set()
        self._in_flight: _Sent | None = None
        self._faults = 0
        self._is_heard = False
        self._is_behind = False
        self._has_content = False
        self._answered = trio.Event()
        self.on_taken: Callable[[], None] = lambda: None
        """Called when a commit of ours was taken in."""
        self.edited_at = 0.0
        """When `wake` was called last."""
        self.changed = trio.Event()
        """Something is to be sent, can be tried again or goes on."""
        # Content reached the server, or a commit was answered: what waited for that can be sent.
        self._went_on = trio.Event()

    @property
    def is_sending(self) -> bool:
        """Whether a commit is on its way of which the answer is not known."""
        return self._in_flight is not None

    @property
    def new_nodes(self) -> int:
        """About how many dirty nodes there are of which nothing is on its way."""
        sent = self._in_flight
        without_content = len(sent.commit.changes) - len(sent.prepared) if sent is not None else 0
        return self._tree.dirty_count() - len(self._preparing) - without_content

    @property
    def is_ready(self) -> bool:
        """Whether all that was edited are a few files that the server knows, closed, with their content there."""
        dirty = self._tree.dirty(AHEAD_NODES + 1)
        return len(dirty) <= AHEAD_NODES and all(self._is_there(node) for node, _ in dirty)

    def _is_there(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        return (
            record is not None
            and record.rev > 0
            and self._preparing.of(node) is not None
            and not self._preparing.is_missing(node, record)
            and not self._mount.is_busy(node)
        )

    def take_heard(self) -> bool:
        """Whether the server answered a commit since this was asked last."""
        is_heard, self._is_heard = self._is_heard, False
        return is_heard

    def moving(self) -> dict[NodeId, int]:
        """See Preparing.moving."""
        return self._preparing.moving()

    def wake(self) -> None:
        """Something is to be sent, or can be tried again."""
        self.edited_at = trio.current_time()
        self.changed.set()

    def may_be_sent(self, node: NodeId) -> bool:
        """Whether a node's content may leave this machine: it is there, and not ignored."""
        record = self._tree.record(node)
        return record is not None and record.local is not None and not self.ignoring.holds(node, record)

    @asynccontextmanager
    async def kept_back(self, node: NodeId) -> AsyncIterator[None]:
        """While this is entered no content of the node is on its way, nor begun with."""
        self._preparing.keep_back(node)
        try:
            while self._preparing.is_at_work(node) or (self._in_flight and node in self._in_flight.prepared):  # noqa: ASYNC110
                await trio.sleep(_LOOK_SECONDS)
            yield
        finally:
            self._preparing.give_back(node)

    async def answered(self) -> None:
        """Returns when no commit is on its way."""
        if self._in_flight is not None:
            await self._answered.wait()

    async def goes_on_within(self, seconds: float) -> bool:
        """Whether something that is on its way can go on within this time."""
        with trio.move_on_after(seconds):
            await self._went_on.wait()
            self._went_on = trio.Event()
            return True
        return False

    def seconds_to_next_try(self) -> float:
        """Until the first of those in trouble is tried again; infinite when there is none."""
        return self.troubles.seconds_to_next_try(self._planner.planned_at)

    def retry_all(self) -> None:
        """What was in the way may be gone: all is tried again now."""
        self.troubles.retry_all()
        self.wake()

    def _take_content(self) -> None:
        self._has_content = True
        self._go_on()

    def _go_on(self) -> None:
        self._went_on.set()
        self.changed.set()

    async def run_once(self, nursery: trio.Nursery, *, is_gathered: bool = True) -> bool:
        """Sends some of what can be sent now; starts uploads in the nursery; whether anything moved.

        Unless it `is_gathered`, only what goes on from before is sent, and what is enough for a commit of its own.
        """
        has_content, self._has_content = self._has_content, False
        self._preparing.check()
        if self._in_flight is not None:
            await self._finish()
        is_lost_sent = await self._send_lost()
        await self.ignoring.refresh()
        plan = await self._planner.plan()
        may_begin = is_gathered or self._is_behind or plan.count >= ENOUGH_NODES
        if not may_begin and not has_content:
            return is_lost_sent
        if may_begin:
            self._preparing.start(nursery, plan.small, plan.large)
        batch = merge.first_batch(plan.ready, self._limit, self._weight, COMMIT_BYTES) if plan.ready else []
        self._is_behind = len(batch) < len(plan.ready) or (may_begin and plan.is_cut)
        # Times of folders wait for the files that were put into them.
        if batch and not (may_begin and plan.small and all(map(self._is_touch, chain.from_iterable(batch)))):
            # No await since the plan was made.
            await self._commit(batch)
        return is_lost_sent or not plan.is_empty

    async def begin_ahead(self, nursery: trio.Nursery) -> bool:
        """Begins to send content while edits are still gathered, when there is little else to send; whether it did.

        Only of files that the server knows: a new one may be gone, or have another name, when programs pause.
        """
        if self._in_flight is not None or self._tree.dirty_count() > AHEAD_NODES:
            return False
        plan = await self._planner.plan()
        nodes = [*chain.from_iterable(plan.small), *plan.large]
        if not nodes or any((record := self._tree.record(node)) is None or not record.rev for node in nodes):
            return False
        self._preparing.start(nursery, plan.small, plan.large)
        return True

    # Commits

    def _weight(self, node: NodeId) -> int:
        """About how many bytes the change of a node takes in a commit."""
        record, prepared = self._tree.record(node), self._preparing.of(node)
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
                content = self._preparing.of(node) if record.staged else None
                if content is not None:
                    prepared[node] = content
                changes.append(self._change(node, record, content))
        self._start(_Sent(self._signed(changes), len(groups), prepared, {}))
        await self._finish()

    def _change(self, node: NodeId, record: Record, prepared: Prepared | None) -> Change:
        state = record.local
        if state is not None and prepared is not None:
            state = replace(state, content=prepared.manifest)
        edited_ns = self._tree.edited_ns(node) + self._clock.correction_ns
        return Change(node, record.rev, edited_ns, state, is_touch=self._is_touch(node), overrides=record.overrides)

    def _is_touch(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        if record is None or record.local is None or record.synced is None:
            return False
        return record.local.kind is Kind.FOLDER and merge.is_touch(record.local, record.synced)

    def _signed(self, changes: Sequence[Change]) -> Commit:
        """A commit that is taken only by a server that knows what it is made on top of."""
        cursor = self._tree.cursor
        return Commit(os.urandom(16), tuple(changes), cursor, self._pull.lives.at(cursor))

    def _start(self, sent: _Sent) -> None:
        self._tree.set_sending(
            {change.node: None if change.is_conflict else change.state for change in sent.commit.changes}
        )
        self._in_flight = sent
        self._answered = trio.Event()
        self._faults = 0

    async def _finish(self) -> None:
        """Sends the commit on its way until an answer comes, and takes the answer in."""
        sent = self._in_flight
        assert sent is not None
        nodes = [change.node for change in sent.commit.changes]
        set_backs = self._pull.set_backs
        with self._pull.crossing() as starts:
            try:
                answer = await self._service.commit(self._space, sent.commit)
                self._is_heard = True
            except CursorTooOld:
                # The server was put back from an older copy: what this commit is made on top of is not there.
                self._forget(nodes)
                await self._pull.catch_up()
                self.wake()
                return
            except ChunkMissing as error:
                await self._send_again(sent, nodes, error)
                return
            except RemoteError as error:
                if isinstance(error, NOT_ITS_FAULT) and not isinstance(error, NotAllowed):
                    # It may have been taken: only the same commit again, with its op id, or the journal can tell.
                    self._faults += isinstance(error, ServerFault)
                    if self._faults < _FAULTS_MAX:
                        raise
                # Some change in it, that is wrong or that this user may not make: it does not hold up the others.
                self._take_fault(sent, nodes, error)
                return
            self._clock.heard(answer.now_ns)
            if not answer.rev:
                self._forget(())
                await self._pull.take_winners(answer.winners, starts)
                if held := set(nodes).intersection(answer.held):
                    # The others go on without them.
                    self.troubles.ask(held, answer.reason)
                else:
                    self.troubles.note_refusal(nodes, answer.reason)
                self.wake()
                return
            if answer.rev > self._tree.cursor + 1:
                # States are taken in in the order of the journal: first what came before.
                await self._pull.catch_up()
        done: list[Prepared] = []
        try:
            if not await self._take_answer(sent, answer.rev, answer.life, set_backs, done):
                self._forget(nodes)
                self.wake()
                return
            self._forget(())
            if answer.room is not None:
                # Not before: what was sent counts on one side only.
                self._pull.lease.take(answer.room)
            # Who waits for the server need not wait for the cache.
            self.on_taken()
        finally:
            await self._settle_content(done)
        self._limit = min(self._limit * 2, COMMIT_CHANGES)
        self._sent_again.difference_update(nodes)
        self._go_on()

    async def _send_again(self, sent: _Sent, nodes: Sequence[NodeId], error: RemoteError) -> None:
        """Content that was agreed on, and that the server lost, goes there once more; what is gone is named."""
        old = [
            change
            for change in sent.commit.changes
            if change.node not in sent.prepared and change.state and change.state.content
        ]
        contents = [change.state.content for change in old if change.state and change.state.content]
        if all(change.node in self._sent_again for change in old):
            self._take_fault(sent, nodes, error)
            return
        are_there = await self.resending.manifests(contents)
        self._forget(nodes)
        lost = [change.node for change, is_there in zip(old, are_there, strict=True) if not is_there]
        self._sent_again.update({change.node for change in old}.difference(lost))
        for node in lost:
            log.warning("node %d: the server lost its content, and not all of it is here", node)
            self.troubles.note(node, ContentLost(_LOST))
        for change, key in zip(sent.commit.changes, sent.lost, strict=False):
            if change.node not in lost:
                continue
            record = self._tree.record(change.node)
            if record is None or record.local is None:
                # Nobody can make a version of it, and who removed the file wants none.
                self._drop_lost(key)
            else:
                self.troubles.note_lost(key, ContentLost(_LOST))
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
                self.troubles.note(node, error)
            for key in sent.lost:
                self.troubles.note_lost(key, error)
        self.wake()

    def _forget(self, nodes: Iterable[NodeId]) -> None:
        self._in_flight = None
        self._answered.set()
        for node in nodes:
            self._preparing.forget(node)
        # Last, as it fails when the disk is full: what stays noted there is taken back at the next start.
        self._tree.set_sending({})

    async def _take_answer(self, sent: _Sent, rev: Rev, life: int, set_backs: int, done: list[Prepared]) -> bool:
        """The server has it: the tree and the stagings change together, some nodes at a time, noted in `done`.

        False: it was taken in a life that is lost, and is to be sent again.
        Raises DiskFull; what was taken in until then stays, and the same answer is had again. Until all of it is, the
        nodes stay noted as being sent.
        """
        changes = [change for change in sent.commit.changes if not change.is_conflict]
        taken_back: set[bytes] = set()
        # News must not come in between: what is taken in here came before them, or after.
        async with self._pull.lock:
            if self._pull.set_backs != set_backs:
                return False
            self._pull.note_recent((change.node for change in changes if not change.is_touch), rev)
            is_next = rev == self._tree.cursor + 1
            if is_next:
                self._pull.lives.gave(rev, life)
            for first in range(0, len(changes), _TAKEN_AT_ONCE):
                done += self._take_changes(sent, changes[first : first + _TAKEN_AT_ONCE], rev, is_next=is_next)
                await trio.lowlevel.checkpoint()
            with self._tree.edit() as edit:
                for key in sent.lost:
                    if edit.change.get(Table.LOST, key) is None:
                        # Meanwhile somebody made it what the node is again: its staging is in use.
                        taken_back.add(key)
                        continue
                    edit.drop_lost(key)
                    if (lost := sent.lost[key]) is not None:
                        lost.staging.discard(edit.change)
                if is_next:
                    self._tree.set_cursor(rev, edit)
        for change, (key, lost) in zip(sent.commit.changes, sent.lost.items(), strict=False):
            self.troubles.end_lost(key)
            if lost is not None and key not in taken_back:
                done.append(lost)
                self._let_go(change.node, lost)
        return True

    def _let_go(self, node: NodeId, prepared: Prepared) -> None:
        self._tree.released.discard(prepared.staging.id)
        self._mount.let_go(node, prepared.staging, prepared.manifest)

    def _take_changes(self, sent: _Sent, changes: Sequence[Change], rev: Rev, *, is_next: bool) -> list[Prepared]:
        """Takes these changes in as agreed; what was prepared of those that are clean now."""
        settled: dict[NodeId, Prepared] = {}
        with self._tree.edit() as edit:
            for change in changes:
                if not self._tree.is_own(change.node):
                    # It became another space's meanwhile, which has what was agreed on.
                    continue
                prepared = sent.prepared.get(change.node)
                is_unchanged = self._is_current(change.node, prepared)
                answered.acknowledge(
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
                    settled[change.node] = prepared
        for change in changes:
            self._preparing.forget(change.node)
            self.troubles.end(change.node)
        for node, prepared in settled.items():
            self._let_go(node, prepared)
        return list(settled.values())

    def _is_current(self, node: NodeId, prepared: Prepared | None) -> bool:
        """Whether nothing was written to a node since a commit was made of it."""
        record = self._tree.record(node)
        if prepared is None:
            # Times do not tell: what is written within a second of the change before it may leave them as they are.
            return record is None or not record.staged
        return (
            record is not None
            and record.staged == prepared.staging.id
            and prepared.staging.generation == prepared.generation
            and not self._mount.is_held(node)
        )

    async def _settle_content(self, done: Sequence[Prepared]) -> None:
        """What was staged becomes cached content, without a copy where it lies in a file."""
        for number, prepared in enumerate(done):
            if number % _TAKEN_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            path = prepared.staging.path
            entries = (
                prepared.manifest.entries if prepared.plain is not None else [one.entry for one in prepared.pieces]
            )
            # Chunks of a known file stay as they are; those of a backup are not wanted here.
            new = {one.id for one in entries if not self._chunks.held(one)} if prepared.staging.is_spare else set()
            for chunk, plain in prepared.small:
                self._chunks.add_small(chunk, plain)
            try:
                if prepared.plain is not None and prepared.manifest.entries:
                    await self._chunks.add(prepared.manifest.entries[0], prepared.plain)
                elif prepared.pieces and path is not None:
                    pieces = [(piece.entry, piece.offset) for piece in prepared.pieces]
                    await self._chunks.adopt(path, pieces, [piece.sums for piece in prepared.pieces])
            except (CacheError, OSError) as error:
                log.info("content that was sent is not kept: %s", error)
            if new:
                await self._chunks.note_spare(new)
            prepared.staging.remove()

    # Edits that lost

    async def _send_lost(self) -> bool:
        """Local edits that lost a merge become versions on the server, many with one commit; whether any did."""
        waiting = [one for one in self._tree.lost() if self._may_send_lost(one[0], one[1])]
        for at in range(0, len(waiting), self._lost_at_once):
            batch = waiting[at : at + self._lost_at_once]
            ahead = await self._preparing.lost_together([lost for _, _, lost in batch])
            gathered: dict[NodeId, tuple[bytes, Change, Prepared | None]] = {}
            for key, node, lost in batch:
                if not self._may_send_lost(key, node):
                    # What was sent before changed that.
                    continue
                is_unborn = self._is_unborn(node)
                if node in gathered or is_unborn:
                    await self._commit_lost(gathered)
                found = await self._change_of_lost(key, node, lost, ahead.get(lost.staged), is_unborn=is_unborn)
                if found is not None:
                    gathered[node] = (key, *found)
                if is_unborn:
                    await self._commit_lost(gathered)
            await self._commit_lost(gathered)
        return bool(waiting)

    def _may_send_lost(self, key: bytes, node: NodeId) -> bool:
        now = trio.current_time()
        if self.troubles.holds_back_lost(key, now) or self.troubles.holds_back(node, now):
            return False
        record = self._tree.record(node)
        is_unknown = record is not None and record.rev == 0
        return not is_unknown or (self._is_unborn(node) and node not in self._tree.sending)

    def _is_unborn(self, node: NodeId) -> bool:
        """Made and removed here: the server has it first as it was in this edit, and hears of its removal next."""
        record = self._tree.record(node)
        return record is not None and record.rev == 0 and record.local is None

    async def _change_of_lost(
        self, key: bytes, node: NodeId, lost: LostEdit, prepared: Prepared | None, *, is_unborn: bool
    ) -> tuple[Change, Prepared | None] | None:
        """The change that an edit that lost becomes, its content being there; None when it cannot be sent."""
        try:
            prepared = prepared or await self._preparing.lost(lost)
        except NOT_ITS_FAULT:
            raise
        except KeyError:
            log.warning("node %d: an edit that was to be kept as a version is gone from this disk", node)
            self._drop_lost(key)
            return None
        except ITS_FAULT as error:
            self.troubles.note_lost(key, error)
            return None
        state: NodeState = lost.state if prepared is None else replace(lost.state, content=prepared.manifest)
        if is_unborn:
            state = replace(state, names=(self._place_of(state),))
        return Change(node, Rev(0), lost.edited_ns, state, is_conflict=not is_unborn), prepared

    async def _commit_lost(self, gathered: dict[NodeId, tuple[bytes, Change, Prepared | None]]) -> None:
        """Sends these in one commit and forgets them; when it is not taken, they go one by one the next time."""
        if not gathered:
            return
        # Somebody may have made one what its node is again, meanwhile.
        sent = [one for one in gathered.values() if self._tree.is_lost(one[0])]
        gathered.clear()
        if not sent:
            return
        kept = {key: prepared for key, _, prepared in sent}
        self._start(_Sent(self._signed([change for _, change, _ in sent]), len(sent), {}, kept))
        await self._finish()
        is_taken = not any(self._tree.store.has(Table.LOST, key) for key in kept)
        self._lost_at_once = LOST_AT_ONCE if is_taken else 1

    def _place_of(self, state: NodeState) -> Name:
        """A name that the server can give to a node which it does not have and that is gone here."""
        name = state.names[0]
        folder = self._tree.record(name.parent)
        if folder is None or folder.local is None or folder.agreed is None:
            name = Name(ROOT, name.name)

        def is_taken(candidate: bytes) -> bool:
            place = Name(name.parent, candidate)
            return self._tree.child(place.parent, place.name) is not None or self._tree.slot_holder(place) is not None

        return Name(name.parent, merge.free_name(name.name, is_taken)) if is_taken(name.name) else name

    def _drop_lost(self, key: bytes) -> None:
        with self._tree.edit() as edit:
            edit.drop_lost(key)
        self.troubles.end_lost(key)
