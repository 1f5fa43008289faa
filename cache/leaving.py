"""Leaving: what becomes of a shared folder's records here when it is not this user's any more.

Its files go, with their chunks in the cache, and who has one open is refused. What was edited here and never sent is
kept: as new files of the home, in a folder beside the one that went.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import trio
from msgspec.structs import replace

from cache.chunks import Chunks
from cache.edit import Edit
from cache.merge import free_name, labelled
from cache.parts import Part, batches, drop_settings
from cache.pull import Effects, effects_of
from cache.records import HOME, LostEdit, Record
from cache.rehoming import forget_unknown, unsent
from cache.staging import StagingId, Stagings
from cache.tree import Tree
from remote.protocol.errors import ChunkDamaged
from remote.protocol.ids import ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.manifests import decode_leaf
from remote.protocol.nodes import Entry, Kind, Manifest, Name, NodeState

log = logging.getLogger(__name__)

_AT_ONCE: Final = 200
_CHUNKS_AT_ONCE: Final = 1_000
_DEPTH_MAX: Final = 4_096


class Gone(msgspec.Struct, frozen=True, array_like=True):
    """A shared space that is to be cleaned up: the folder `top` mounted it, under this name in `folder`."""

    space: SpaceId
    top: NodeId
    folder: NodeId
    name: bytes


@dataclass
class Leaving:
    """Cleans up after shared spaces of one tree."""

    tree: Tree
    stagings: Stagings
    chunks: Chunks
    show: Callable[[Effects], None]
    """Tells the mount what it shows differently."""
    revoke: Callable[[Iterable[NodeId]], None] = lambda _: None
    """Refuses these files to those who have them open; what they wrote until now is put into the tree first."""

    async def clean_up(self, gone: Gone) -> int:
        """Takes away all that is left of the space; returns how many files were kept. May be called again."""
        part = Part(self.tree, gone.space, gone.top)
        nodes = sorted(part.all_nodes())
        self.revoke(nodes)
        await trio.lowlevel.checkpoint()
        contents = self._contents(nodes)
        forget_unknown(self.tree, part)
        kept = await self._rescue(part, gone)
        for some in batches(nodes, _AT_ONCE):
            with self.tree.edit() as edit:
                for node in some:
                    edit.forget_news(node)
                    edit.drop(node)
                effects = effects_of(edit, is_event=True)
            self.show(effects)
            await trio.lowlevel.checkpoint()
        needed = set(self._chunks_of(self._unsent_contents()))
        chunks = [one for one in dict.fromkeys(self._chunks_of(contents)) if one not in needed]
        for ids in batches(chunks, _CHUNKS_AT_ONCE):
            await self.chunks.drop(ids)
        with self.tree.edit() as edit:
            drop_settings(self.tree, edit, gone.space)
        log.info("space %d is not here any more: %d nodes are gone, %d files kept", gone.space, len(nodes), kept)
        return kept

    def _contents(self, nodes: Iterable[NodeId]) -> list[Manifest]:
        records = (self.tree.record(node) for node in nodes)
        states = (state for record in records if record is not None for state in (record.local, record.synced))
        return [state.content for state in states if state is not None and state.content is not None]

    def _unsent_contents(self) -> Iterator[Manifest]:
        """What files that are not sent are made of, or lie on: those kept from here too, also before a restart."""
        lost = [(one.state, one.staged) for _, _, one in self.tree.lost()]
        records = [self.tree.record(node) for node, _ in (*self.tree.dirty(), *self.tree.ignored())]
        for state, staged in (*lost, *((one.local, one.staged) for one in records if one is not None)):
            if state is not None and state.content is not None:
                yield state.content
            base = self.stagings.base_of(StagingId(staged)) if staged else None
            if base is not None:
                yield base

    def _chunks_of(self, contents: Iterable[Manifest]) -> Iterator[ChunkId]:
        for content in contents:
            yield from self._below(content.entries, content.depth)

    def _below(self, entries: Iterable[Entry], depth: int) -> Iterator[ChunkId]:
        for entry in entries:
            if entry.is_hole:
                continue
            if depth and (leaf := self.chunks.read_leaf(entry.id)) is not None:
                with suppress(ChunkDamaged):
                    yield from self._below(decode_leaf(leaf), depth - 1)
            yield entry.id
            if entry.base is not None:
                yield entry.base.id

    # What was never sent

    async def _rescue(self, part: Part, gone: Gone) -> int:
        """Makes new files of the home of what was not sent; returns how many."""
        files = [node for node in sorted(part.all_nodes()) if self._is_unsent(node)]
        lost = part.lost()
        if not files and not lost:
            return 0
        folders = _Folders(self.tree, gone)
        for some in batches(files, _AT_ONCE):
            with self.tree.edit() as edit:
                for node in some:
                    record = edit.get(node)
                    assert record.local is not None
                    place = self._place(part, node)
                    kept = self._keep(edit, folders, place, record.local, record.staged, record.staged_size)
                    edit.succeed(node, kept)
                    # Its content is the new file's now.
                    edit.drop(node)
                effects = effects_of(edit, is_event=True)
            self.show(effects)
            await trio.lowlevel.checkpoint()
        for key, node, one in lost:
            with self.tree.edit() as edit:
                self._keep_lost(edit, folders, self._place(part, node), one)
                edit.drop_lost(key)
                effects = effects_of(edit, is_event=True)
            self.show(effects)
        log.warning("%d files that were not sent are kept in %s", len(files) + len(lost), os.fsdecode(folders.name))
        return len(files) + len(lost)

    def _is_unsent(self, node: NodeId) -> bool:
        record = self.tree.record(node)
        return (
            record is not None and unsent(record) and record.local is not None and record.local.kind is not Kind.FOLDER
        )

    def _place(self, part: Part, node: NodeId) -> list[bytes]:
        """The names from the top of the space down to the node."""
        parts: list[bytes] = []
        while node != part.top and len(parts) < _DEPTH_MAX:
            record = self.tree.record(node)
            state = (record.local or record.agreed) if record is not None else None
            if state is None or not state.names:
                break
            parts.append(state.names[0].name)
            node = state.names[0].parent
        return parts[::-1] or [b"file"]

    def _keep_lost(self, edit: Edit, folders: "_Folders", place: Sequence[bytes], lost: LostEdit) -> None:
        size = self.stagings.kept_size(StagingId(lost.staged)) if lost.staged else 0
        named = [*place[:-1], labelled(place[-1], b" (edit that lost)")]
        self._keep(edit, folders, named, lost.state, lost.staged, size or 0)

    def _keep(
        self, edit: Edit, folders: "_Folders", place: Sequence[bytes], state: NodeState, staged: int, size: int
    ) -> NodeId:
        folder = folders.of(edit, place[:-1], state)
        name = place[-1]
        if edit.holder(Name(folder, name)) is not None:
            name = free_name(name, lambda candidate: edit.holder(Name(folder, candidate)) is not None)
        now_ns = time.time_ns()
        node = self.tree.new_node()
        local = replace(state, names=(Name(folder, name),), ctime_ns=now_ns)
        edit.put(node, Record(Rev(0), local, is_dirty=True, staged=staged, staged_size=size))
        edit.mark_dirty(node, now_ns)
        return node


class _Folders:
    """The folder that what was not sent is kept in, and those in it, made as they are needed."""

    def __init__(self, tree: Tree, gone: Gone) -> None:
        above = tree.record(gone.folder)
        is_there = above is not None and above.local is not None and above.space_below == HOME
        self._tree = tree
        self._above = gone.folder if is_there else ROOT
        self.name = labelled(gone.name, b" (unsent)")
        self._made: dict[tuple[bytes, ...], NodeId] = {}

    def of(self, edit: Edit, place: Sequence[bytes], like: NodeState) -> NodeId:
        """The folder at this place, for a file that belongs to the same people as `like`."""
        key = tuple(place)
        if key in self._made:
            return self._made[key]
        folder = self._above if not key else self.of(edit, key[:-1], like)
        name = key[-1] if key else self.name
        if edit.holder(Name(folder, name)) is not None:
            name = free_name(name, lambda candidate: edit.holder(Name(folder, candidate)) is not None)
        if not key:
            self.name = name
        node, now = self._tree.new_node(), time.time_ns()
        state = NodeState(Kind.FOLDER, (Name(folder, name),), 0o755, like.uid, like.gid, now, now, now, now)
        edit.set_local(node, state, now)
        edit.touch(folder, now)
        self._made[key] = node
        return node
