"""Push: sends what was edited here: content first, then commits that keep together what belongs together."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from remote.protocol.errors import Busy, ChunkMissing, RemoteError, ServerFault, Unreachable
from remote.protocol.ids import NodeId, Rev
from remote.protocol.messages import Change, Commit
from remote.protocol.nodes import Kind, NodeState

COMMIT_CHANGES: Final = 1_000
_WINDOW: Final = 2_000
"""Dirty nodes planned for at a time, so that no request of a program waits long for the planner."""
_SMALL_FILES: Final = 500
_SMALL_BYTES: Final = 8 << 20
_LARGE_AT_ONCE: Final = 2
_LATER_SECONDS: Final = (1.0, 300.0)


@dataclass(frozen=True)
class Trouble:
    """Why a node cannot be sent now, and when it is tried again (monotonic seconds)."""

    sentence: str
    tries: int
    again_at: float


@dataclass(frozen=True)
class _Sent:
    """A commit on its way, with what it was made from."""

    commit: Commit
    prepared: dict[NodeId, Prepared]
    lost: dict[bytes, Prepared | None]


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
        self._after = NodeId(0)
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
        """Sends what can be sent now; starts uploads of large files in the nursery; returns whether anything moved."""
        if self._in_flight is not None:
            await self._finish()
        lost_moved = await self._send_lost()
        groups = self._groups()
        ready, small, large = self._sort(groups)
        for node in large:
            self._running.add(node)
            nursery.start_soon(self._prepare_large, node)
        if small:
            await self._prepare_small(small)
            ready, _, _ = self._sort(groups)
        moved = bool(ready or small) or lost_moved
        limit, self._limit = self._limit, COMMIT_CHANGES
        for batch in merge.batches(ready, limit):
            await self._commit(batch)
        return moved

    def seconds_to_next_try(self) -> float:
        """Until the first of the nodes in trouble is tried again; infinite when there is none."""
        times = [trouble.again_at for trouble in self.troubles.values()]
        return max(0.0, min(times) - trio.current_time()) if times else float("inf")

    # Planning

    def _groups(self) -> list[list[NodeId]]:
        dirty = self._tree.dirty(_WINDOW, self._after)
        self._after = dirty[-1][0] if len(dirty) == _WINDOW else NodeId(0)
        dirty.sort(key=lambda pair: pair[1])
        nodes = [node for node, _ in dirty if not self._drop_if_void(node)]
        for node in self.troubles.keys() - set(nodes):
            if not self._tree.edited_ns(node):
                del self.troubles[node]
        return merge.units(nodes, self._needs)

    def _drop_if_void(self, node: NodeId) -> bool:
        """Made and removed here before the server heard of it, or changed and changed back: nothing to tell."""
        record = self._tree.record(node)
        if record is None or not record.is_dirty:
            with self._tree.edit() as edit:
                edit.mark_clean(node)
            return True
        if record.local is None and record.rev == 0 and node not in self._tree.sending:
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
        tree = self._tree
        record = tree.record(node)
        if record is None:
            return []
        here, agreed = record.local, record.synced
        found: list[NodeId | None] = []
        here_names = here.names if here is not None else ()
        agreed_names = agreed.names if agreed is not None else ()
        for name in here_names:
            parent = tree.record(name.parent)
            if parent is not None and parent.is_dirty and parent.synced is None:
                found.append(name.parent)
            if name not in agreed_names:
                found.append(tree.slot_holder(name))
                if here is not None and here.kind is Kind.FOLDER:
                    found.extend(self._moved_above(name.parent))
        found.extend(tree.child(name.parent, name.name) for name in agreed_names if name not in here_names)
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

    def _sort(self, groups: Sequence[Sequence[NodeId]]) -> tuple[list[list[NodeId]], list[NodeId], list[NodeId]]:
        """Groups that can be committed, and small and large files whose content must be sent first."""
        ready: list[list[NodeId]] = []
        small: list[NodeId] = []
        large: list[NodeId] = []
        small_bytes = 0
        blocked: set[NodeId] = set()
        for group in groups:
            waits = any(self._waits(node) for node in group)
            unsent = [node for node in group if self._needs_content(node)]
            for node in unsent:
                record = self._tree.record(node)
                if waits or record is None or node in self._running:
                    continue
                if record.staged_size > SMALL_FILE_MAX:
                    if len(self._running) + len(large) < _LARGE_AT_ONCE:
                        large.append(node)
                elif len(small) < _SMALL_FILES and small_bytes < _SMALL_BYTES:
                    small.append(node)
                    small_bytes += record.staged_size
            if waits or unsent or any(other in blocked for node in group for other in self._needs(node)):
                blocked.update(group)
            else:
                ready.append(list(group))
        return ready, small, large

    def _waits(self, node: NodeId) -> bool:
        trouble = self.troubles.get(node)
        if trouble is not None and trouble.again_at > trio.current_time():
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
        try:
            prepared = await self._upload.small(list(stagings.values()))
        except (RemoteError, CacheError) as error:
            if isinstance(error, Unreachable):
                raise
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
        except (RemoteError, CacheError) as error:
            self._note_trouble(node, error)
        else:
            self.troubles.pop(node, None)

    async def _prepare_large(self, node: NodeId) -> None:
        try:
            await self._prepare_one(node)
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
        self.troubles[node] = Trouble(str(error), tries, trio.current_time() + seconds)

    # Commits

    async def _commit(self, nodes: Sequence[NodeId]) -> None:
        changes: list[Change] = []
        prepared: dict[NodeId, Prepared] = {}
        for node in nodes:
            record = self._tree.record(node)
            if record is None or self._needs_content(node) or self._waits(node):
                # It changed since this round was planned: the whole batch is planned anew.
                self.wake()
                return
            if record.staged:
                prepared[node] = self._prepared[node]
            changes.append(self._change(node, record, prepared.get(node)))
        self._start(_Sent(Commit(os.urandom(16), tuple(changes)), prepared, {}))
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

    async def _finish(self) -> None:
        """Sends the commit on its way until an answer comes, and takes the answer in."""
        sent = self._in_flight
        assert sent is not None
        nodes = [change.node for change in sent.commit.changes]
        async with self._pull.lock:
            try:
                answer = await self._service.commit(self._space, sent.commit)
            except (Unreachable, ServerFault, Busy):
                # It may have been taken: only the same commit again, with its op id, can tell.
                raise
            except ChunkMissing:
                self._forget(sent, nodes)
                self.wake()
                return
            except RemoteError as error:
                self._forget(sent, nodes)
                if len(nodes) > 1 and self._limit > 1:
                    # One of them is at fault: alone, it is found, and does not hold up the others.
                    self._limit = 1
                    self.wake()
                    return
                for node in nodes:
                    self._note_trouble(node, error)
                return
            self._clock.heard(answer.now_ns)
            self._in_flight = None
            if answer.rev:
                done = self._take_answer(sent, answer.rev)
            else:
                self._forget(sent, ())
                self._pull.take_winners(answer.winners)
                self._note_refusal(nodes, answer.reason)
                done = []
        await self._settle_content(done)
        self.wake()

    def _forget(self, sent: _Sent, nodes: Iterable[NodeId]) -> None:
        self._in_flight = None
        self._tree.set_sending(())
        for node in nodes:
            self._prepared.pop(node, None)

    def _note_refusal(self, nodes: Sequence[NodeId], reason: str) -> None:
        """A refusal is ordinary (somebody was first) and tried again at once; again and again, it is trouble."""
        for node in nodes:
            tries = self.troubles[node].tries + 1 if node in self.troubles else 1
            seconds = 0.0 if tries < 4 else min(2.0 ** (tries - 4), _LATER_SECONDS[1])
            self.troubles[node] = Trouble(
                f"The server refused the change: {reason}", tries, trio.current_time() + seconds
            )

    def _take_answer(self, sent: _Sent, rev: Rev) -> list[Prepared]:
        """The server has it: from here to the end no await, the tree and the stagings change together."""
        done: list[Prepared] = []
        is_next = rev == self._tree.cursor + 1
        is_clear = True
        with self._tree.edit() as edit:
            for change in sent.commit.changes:
                if change.is_conflict:
                    continue
                if change.is_touch and not _is_on_top(change, edit.record(change.node)):
                    is_clear = False
                    continue
                prepared = sent.prepared.get(change.node)
                is_unchanged = prepared is None or self._is_current(change.node, prepared)
                # A touch is taken as it is where nothing came in between; else the journal brings what came of it.
                is_merged = change.is_touch and not is_next
                news.acknowledge(edit, change.node, change.state, rev, is_merged=is_merged, is_unchanged=is_unchanged)
                record = edit.record(change.node)
                if prepared is None or record is None:
                    continue
                if record.staged == prepared.staging.id:
                    prepared.staging.rebase(prepared.manifest)
                    prepared.staging.flush(edit.change)
                elif is_unchanged:
                    prepared.staging.discard(edit.change)
                    done.append(prepared)
            for key, lost in sent.lost.items():
                edit.change.delete(Table.LOST, key)
                if lost is not None:
                    lost.staging.discard(edit.change)
                    done.append(lost)
            if is_next and is_clear:
                self._tree.set_cursor(rev, edit)
        self._tree.released -= {prepared.staging.id for prepared in done}
        self._tree.set_sending(())
        for change in sent.commit.changes:
            self._prepared.pop(change.node, None)
            self.troubles.pop(change.node, None)
            settled = sent.prepared.get(change.node)
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
            if prepared.plain is not None and prepared.manifest.entries:
                await self._chunks.add(prepared.manifest.entries[0], prepared.plain)
            elif prepared.pieces and path is not None:
                await self._chunks.adopt(path, prepared.pieces)
            prepared.staging.remove()

    # Edits that lost

    async def _send_lost(self) -> bool:
        """Local edits that lost a merge become versions on the server."""
        waiting = self._tree.lost()
        for key, node, lost in waiting:
            prepared = await self._prepare_lost(lost)
            state: NodeState = lost.state if prepared is None else replace(lost.state, content=prepared.manifest)
            change = Change(node, Rev(0), lost.edited_ns, state, is_conflict=True)
            self._start(_Sent(Commit(os.urandom(16), (change,)), {}, {key: prepared}))
            await self._finish()
        return bool(waiting)

    async def _prepare_lost(self, lost: LostEdit) -> Prepared | None:
        if not lost.staged:
            return None
        staging = self._stagings.load(StagingId(lost.staged))
        if staging.size <= SMALL_FILE_MAX:
            return (await self._upload.small([staging]))[0]
        return await self._upload.large(staging)


def _is_on_top(change: Change, record: Record | None) -> bool:
    """Whether no news of the node came since the change was made."""
    return record is not None and record.rev == change.base
