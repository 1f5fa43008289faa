"""Preparing: content goes to the server ahead of the commit that names it, while other commits go on.

Many small files share a task, a large one has its own. What is prepared counts for the generation of its staging that
was read: written to since, it is prepared again.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from cache.errors import CacheError, ContentDamaged
from cache.prepared import Prepared
from cache.records import LostEdit, Record
from cache.staging import Staging, StagingId, Stagings
from cache.tree import Tree
from cache.troubles import Troubles
from cache.upload import SMALL_FILE_MAX, Upload
from remote.protocol.errors import Busy, NotAllowed, NotFound, NotSignedIn, RemoteError, ServerFault, Unreachable
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Manifest

log = logging.getLogger(__name__)

NOT_ITS_FAULT: Final = (Unreachable, ServerFault, Busy, NotSignedIn, NotAllowed, NotFound)
"""Why nothing at all can be sent now, whatever it is."""
ITS_FAULT: Final = (RemoteError, CacheError, OSError)

SMALL_FILES: Final = 500
SMALL_BYTES: Final = 4 << 20
"""Small files in one task: at most so many, and about so many bytes."""
_SMALL_TASKS: Final = 2
_LARGE_TASKS: Final = 2
_HUGE_BYTES: Final = 32 << 20
"""Files from this size on are huge. They have as many tasks as the other large ones: a film holds up no letter."""
_LOADED_AT_ONCE: Final = 64
"""Stagings that are looked up before programs have their turn."""
_PREPARED_BYTES: Final = 16 << 20
"""Content of small files that is kept in memory until it is committed, about."""


class Preparing:
    """Content of one space on its way to the server; `went_on` is called when some of it is there."""

    def __init__(
        self, tree: Tree, stagings: Stagings, upload: Upload, troubles: Troubles, went_on: Callable[[], None]
    ) -> None:
        self._tree = tree
        self._stagings = stagings
        self._upload = upload
        self._troubles = troubles
        self._went_on = went_on
        self._prepared: dict[NodeId, Prepared] = {}
        self._prepared_bytes = 0
        self._running: set[NodeId] = set()
        # Those of them that are small.
        self._passing: set[NodeId] = set()
        # Of which nothing is to be prepared now.
        self._kept_back: set[NodeId] = set()
        self._scopes: dict[NodeId, trio.CancelScope] = {}
        self._small_tasks = 0
        self._large_tasks = {False: 0, True: 0}
        self._failure: Exception | None = None

    def __len__(self) -> int:
        """How many nodes have their content on its way, or there and not committed."""
        return len(self._running) + len(self._prepared)

    def of(self, node: NodeId) -> Prepared | None:
        """What was prepared of the node and is still its content, as far as `is_missing` was asked."""
        return self._prepared.get(node)

    def moving(self) -> dict[NodeId, int]:
        """Nodes of which content is on its way, or there and not committed yet, with the bytes of it that are there."""
        # Inline content goes with the commit.
        found = {
            node: 0 if prepared.manifest.inline else prepared.manifest.size for node, prepared in self._prepared.items()
        }
        for node in self._running:
            record = self._tree.record(node)
            if record is not None and record.staged:
                found[node] = self._upload.done_bytes(StagingId(record.staged))
        return found

    def is_running(self, node: NodeId) -> bool:
        """Whether the node's content is on its way, or not to be looked at now."""
        return node in self._running or node in self._kept_back

    def is_passing(self, node: NodeId, record: Record) -> bool:
        """Whether the node is a small file whose content is on its way: until that is there, nothing can be done."""
        return bool(record.staged) and node in self._passing

    def keep_back(self, node: NodeId) -> None:
        """Nothing of the node is prepared until `give_back`; a large file that is on its way is given up."""
        self._kept_back.add(node)
        self.forget(node)
        if node in self._scopes:
            self._scopes[node].cancel()

    def is_at_work(self, node: NodeId) -> bool:
        """Whether content of the node is being prepared at this moment."""
        return node in self._running

    def give_back(self, node: NodeId) -> None:
        """The node is as others again."""
        self._kept_back.discard(node)
        self._went_on()

    def is_missing(self, node: NodeId, record: Record) -> bool:
        """Whether content of the node is to be sent before it can be committed."""
        prepared = self._prepared.get(node)
        if not record.staged:
            self.forget(node)
            return False
        if prepared is None:
            return True
        if prepared.staging.id == record.staged and prepared.staging.generation == prepared.generation:
            return False
        self.forget(node)
        return True

    @staticmethod
    def is_huge(record: Record | None) -> bool:
        """Whether this is one of those files that take long to send."""
        return record is not None and record.staged_size >= _HUGE_BYTES

    def forget(self, node: NodeId) -> None:
        """What was prepared of the node counts no more."""
        prepared = self._prepared.pop(node, None)
        if prepared is not None and prepared.plain is not None:
            self._prepared_bytes -= len(prepared.plain)

    def forget_settled(self) -> None:
        """Lets go of what was prepared of nodes that are clean by now."""
        for node in [node for node in self._prepared if not self._tree.is_pending(node)]:
            self.forget(node)

    def check(self) -> None:
        """Raises, once, why content could not be sent, when that was no fault of its own."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def small_room(self) -> int:
        """How many batches of small files may be begun with."""
        return _SMALL_TASKS - self._small_tasks if self._prepared_bytes < _PREPARED_BYTES else 0

    @property
    def large_room(self) -> dict[bool, int]:
        """How many large files may be begun with: of those that are huge (True), and of the others."""
        return {is_huge: _LARGE_TASKS - count for is_huge, count in self._large_tasks.items()}

    def start(self, nursery: trio.Nursery, small: Sequence[Sequence[NodeId]], large: Sequence[NodeId]) -> None:
        """Begins with these batches of small files and with these large ones: no more than there is room for."""
        for batch in small:
            self._running.update(batch)
            self._passing.update(batch)
            self._small_tasks += 1
            nursery.start_soon(self._prepare_small, batch)
        for node in large:
            is_huge = self.is_huge(self._tree.record(node))
            self._running.add(node)
            self._large_tasks[is_huge] += 1
            nursery.start_soon(self._prepare_large, node, is_huge)

    async def lost(self, lost: LostEdit) -> Prepared | None:
        """What an edit that lost had written, uploaded; None without any; raises KeyError when it is gone."""
        if not lost.staged:
            return None
        return await self._prepare(self._stagings.load(StagingId(lost.staged)), lambda: None)

    async def lost_together(self, edits: Sequence[LostEdit]) -> dict[int, Prepared]:
        """What those of these edits had written that are small, by their stagings; the others are for `lost`."""
        stagings: list[Staging] = []
        for lost in edits:
            # What is gone or damaged is told by `lost`.
            with suppress(KeyError, ContentDamaged):
                staging = self._stagings.load(StagingId(lost.staged)) if lost.staged else None
                if staging is not None and staging.size <= SMALL_FILE_MAX:
                    stagings.append(staging)
        if not stagings:
            return {}
        try:
            prepared = await self._upload.small(stagings)
        except NOT_ITS_FAULT:
            raise
        except ITS_FAULT:
            # One of them is at fault: alone, it is found.
            return {}
        return {staging.id: one for staging, one in zip(stagings, prepared, strict=True)}

    async def _prepare_small(self, nodes: Sequence[NodeId]) -> None:
        try:
            await self._prepare_together(nodes)
        except NOT_ITS_FAULT as error:
            self._failure = error
        except Exception as error:
            # A task beside the others, which must not end them.
            log.exception("%d nodes (%d first) cannot be uploaded", len(nodes), nodes[0])
            for node in nodes:
                self._troubles.note(node, error)
        finally:
            self._running.difference_update(nodes)
            self._passing.difference_update(nodes)
            self._small_tasks -= 1
            self._went_on()

    async def _prepare_together(self, nodes: Sequence[NodeId]) -> None:
        stagings: dict[NodeId, Staging] = {}
        for number, node in enumerate(nodes):
            if number % _LOADED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            staging = self._load(node)
            if staging is not None:
                stagings[node] = staging
        if not stagings:
            return
        try:
            prepared = await self._upload.small(list(stagings.values()))
        except NOT_ITS_FAULT:
            raise
        except ITS_FAULT:
            # One of them is at fault: alone, it is found, and does not hold up the others.
            for node in stagings:
                await self._prepare_one(node)
            return
        for node, one in zip(stagings, prepared, strict=True):
            self._keep(node, one)

    async def _prepare_large(self, node: NodeId, is_huge: bool) -> None:
        scope = self._scopes[node] = trio.CancelScope()
        try:
            with scope:
                await self._prepare_one(node)
        except NOT_ITS_FAULT as error:
            self._troubles.note(node, error)
        except Exception as error:
            # A task beside the others, which must not end them.
            log.exception("node %d cannot be uploaded", node)
            self._troubles.note(node, error)
        finally:
            del self._scopes[node]
            self._running.discard(node)
            self._large_tasks[is_huge] -= 1
            self._went_on()

    async def _prepare_one(self, node: NodeId) -> None:
        staging = self._load(node)
        if staging is None:
            return
        try:
            self._keep(node, await self._prepare(staging, lambda: self._replaced(node)))
        except NOT_ITS_FAULT:
            raise
        except ITS_FAULT as error:
            self._troubles.note(node, error)

    async def _prepare(self, staging: Staging, replaced: Callable[[], Manifest | None]) -> Prepared:
        if staging.size <= SMALL_FILE_MAX:
            return (await self._upload.small([staging]))[0]
        return await self._upload.large(staging, replaced)

    def _replaced(self, node: NodeId) -> Manifest | None:
        """What the server has under a name of this node, of another: the content that a save by rename replaces."""
        record = self._tree.record(node)
        for name in record.local.names if record is not None and record.local is not None else ():
            holder = self._tree.slot_holder(name)
            other = self._tree.record(holder) if holder is not None and holder != node else None
            if other is not None and other.synced is not None:
                return other.synced.content
        return None

    def _keep(self, node: NodeId, prepared: Prepared) -> None:
        self.forget(node)
        self._prepared[node] = prepared
        if prepared.plain is not None:
            self._prepared_bytes += len(prepared.plain)

    def _load(self, node: NodeId) -> Staging | None:
        record = self._tree.record(node)
        if record is None or not record.staged:
            return None
        try:
            return self._stagings.load(StagingId(record.staged))
        except (KeyError, ContentDamaged) as error:
            self._troubles.note(node, error)
            return None
