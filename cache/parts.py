"""Parts: one tree holds the home and the shared folders in it; each space is kept in step by itself, and sees its own.

A Part is the tree as far as one space goes, with its own cursor and settings, dirty nodes, folders and news. Records,
names and node ids are the tree's. What is of a shared space is told by the records (see Record.space); which of the
dirty nodes and of the folders not listed are, is kept in memory, so that a home without shares looks up nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from cache.edit import Edit
from cache.records import HOME, LostEdit, Record, Table, sending_of
from cache.store import Store
from cache.tree import Tree
from remote.protocol.ids import ROOT, NodeId, SpaceId
from remote.protocol.nodes import Kind, NodeState, NodeVersion

T = TypeVar("T")

_AT_ONCE: Final = 1_000
_FEW: Final = 2_000
"""So many nodes of a space are sorted each time; more are found in the order of the table."""
_FIRST: Final = NodeId(0)
_encode = msgspec.msgpack.Encoder().encode


def _node_of(key: bytes) -> NodeId:
    return NodeId(int.from_bytes(key[:8], "big"))


class Index:
    """Nodes with the space that each belongs to, and how many of each space there are."""

    def __init__(self) -> None:
        self.space_of: dict[NodeId, SpaceId] = {}
        self.counts: Counter[SpaceId] = Counter()

    def note(self, node: NodeId, space: SpaceId) -> None:
        """The node is of this space from now on; of HOME, it is none of these."""
        before = self.space_of.pop(node, HOME)
        if before != HOME:
            self.counts[before] -= 1
        if space != HOME:
            self.space_of[node] = space
            self.counts[space] += 1

    def of(
        self, space: SpaceId, after: NodeId, limit: int, walk: Callable[[int, NodeId], list[NodeId]]
    ) -> list[NodeId]:
        """The nodes of a space, by id, from the one after `after` on; `walk` gives those of all spaces."""
        if space != HOME and self.counts[space] <= _FEW:
            return sorted(node for node, own in self.space_of.items() if own == space and node > after)[:limit]
        found: list[NodeId] = []
        while len(found) < limit:
            some = walk(_AT_ONCE, after)
            found += [node for node in some if self.space_of.get(node, HOME) == space]
            if len(some) < _AT_ONCE:
                break
            after = some[-1]
        return found[:limit]


class Shares:
    """The shared spaces of a tree, with which of its dirty nodes and unlisted folders are theirs.

    In memory: about 100 bytes for each dirty node in a shared folder, and for each of its folders that is not listed.
    """

    def __init__(self, tree: Tree) -> None:
        """Becomes the tree's; from then on it says where new nodes belong to."""
        self._tree = tree
        self.dirty = Index()
        self.unlisted = Index()
        self.parts: dict[SpaceId, Part] = {}
        tree.members = self
        for table, found in ((Table.DIRTY, self.dirty), (Table.UNLISTED, self.unlisted)):
            for key, value in self._tree.store.walk(table):
                self._note(found, key, value, is_listing=table is Table.UNLISTED)

    def note(self, dirty: Mapping[bytes, bytes | None], unlisted: Mapping[bytes, bytes | None]) -> None:
        """See Members."""
        for key, value in dirty.items():
            self._note(self.dirty, key, value, is_listing=False)
        for key, value in unlisted.items():
            self._note(self.unlisted, key, value, is_listing=True)

    def _note(self, found: Index, key: bytes, value: bytes | None, *, is_listing: bool) -> None:
        node = _node_of(key)
        record = self._tree.record(node) if value is not None else None
        # Of a folder that mounts a space the entries are listed by that space.
        space = HOME if record is None else record.space_below if is_listing else record.space
        found.note(node, space)

    def is_on_its_way(self, node: NodeId, space: SpaceId) -> bool:
        """See Members."""
        part = self.parts.get(space)
        return part is not None and node in part.sending


class Part(Tree):
    """A tree as far as one space goes: HOME, or that which the folder `top` mounts."""

    def __init__(self, whole: Tree, space: SpaceId = HOME, top: NodeId = ROOT) -> None:
        """What it keeps in memory is the whole tree's."""
        self._whole = whole
        self._store: Store = whole.store
        self._records = whole._records
        self.space = space
        self.top = top
        if space != HOME:
            self._sending: Mapping[NodeId, NodeState | None] = sending_of(self.setting("sending"))

    @property
    def _shares(self) -> Shares | None:
        members = self._whole.members
        return members if isinstance(members, Shares) else None

    # What the whole tree keeps

    @property
    def members(self) -> Shares | None:  # type: ignore[override]  # the whole tree's, which only Shares sets
        """See Tree."""
        return self._shares

    @property
    def released(self) -> set[int]:
        """See Tree."""
        return self._whole.released

    @released.setter
    def released(self, released: set[int]) -> None:
        self._whole.released = released

    @property
    def touched(self) -> set[NodeId] | None:
        """See Tree."""
        return self._whole.touched

    @touched.setter
    def touched(self, touched: set[NodeId] | None) -> None:
        self._whole.touched = touched

    @property
    def may_ignore(self) -> bool:
        """See Tree."""
        return self._whole.may_ignore

    @may_ignore.setter
    def may_ignore(self, may_ignore: bool) -> None:
        self._whole.may_ignore = may_ignore

    @property
    def sending(self) -> Mapping[NodeId, NodeState | None]:
        """See Tree; of this space's nodes."""
        return self._whole.sending if self.space == HOME else self._sending

    @sending.setter
    def sending(self, sending: Mapping[NodeId, NodeState | None]) -> None:
        if self.space == HOME:
            self._whole.sending = sending
        else:
            self._sending = sending

    def settle(self, edit: Edit, records: Mapping[NodeId, Record | None]) -> None:
        """See Tree."""
        self._whole.settle(edit, records)

    def note_heir(self, node: NodeId, heir: NodeId) -> None:
        """See Tree."""
        self._whole.note_heir(node, heir)

    def lease(self, first: NodeId, count: int) -> None:
        """See Tree."""
        self._whole.lease(first, count)

    @property
    def has_range(self) -> bool:
        """See Tree."""
        return self._whole.has_range

    def new_node(self) -> NodeId:
        """See Tree."""
        return self._whole.new_node()

    # What is this space's

    def key_of(self, name: str) -> bytes:
        """The home has the names that it had before there were others."""
        return name.encode() if self.space == HOME else b"%x/%s" % (self.space, name.encode())

    def placed(self, record: Record, edit: Edit) -> Record:
        """What this space hears of for the first time is its own."""
        return record if record.space == self.space else replace(record, space=self.space)

    def is_own(self, node: NodeId) -> bool:
        """Whether a node belongs to this space; one that is not known here may."""
        record = self.record(node)
        if record is not None:
            return record.space == self.space
        waiting = self.news_of(node) if self._shares is not None and super().news_count() else None
        return waiting is None or self._is_told(waiting)

    def dirty(self, limit: int = 1 << 62, after: NodeId = _FIRST) -> list[tuple[NodeId, int]]:
        """See Tree."""
        shares = self._shares
        if shares is None:
            return super().dirty(limit, after) if self.space == HOME else []
        if not self.dirty_count():
            return []
        nodes = shares.dirty.of(self.space, after, limit, self._all_dirty)
        return [(node, self.edited_ns(node)) for node in nodes]

    def _all_dirty(self, limit: int, after: NodeId) -> list[NodeId]:
        return [node for node, _ in super().dirty(limit, after)]

    def dirty_count(self) -> int:
        """See Tree."""
        return self._count(super().dirty_count(), lambda shares: shares.dirty)

    def _count(self, everything: int, index_of: Callable[[Shares], Index]) -> int:
        if self._shares is None:
            return everything if self.space == HOME else 0
        index = index_of(self._shares)
        return everything - len(index.space_of) if self.space == HOME else index.counts[self.space]

    def is_dirty(self, node: NodeId) -> bool:
        """See Tree; a node of another space is none of this one's work."""
        record = self.record(node)
        return record is not None and record.is_dirty and record.space == self.space

    def is_all_sent(self) -> bool:
        """See Tree."""
        return not self.dirty_count() and not self.lost_count()

    def unlisted(self, limit: int = 1 << 62, after: NodeId = _FIRST) -> list[NodeId]:
        """See Tree."""
        shares = self._shares
        if shares is None:
            return super().unlisted(limit, after) if self.space == HOME else []
        return shares.unlisted.of(self.space, after, limit, super().unlisted) if self.unlisted_count() else []

    def unlisted_count(self) -> int:
        """See Tree."""
        return self._count(super().unlisted_count(), lambda shares: shares.unlisted)

    def news(self) -> list[NodeVersion]:
        """See Tree."""
        found = super().news() if super().news_count() else []
        return found if self._shares is None else [version for version in found if self._is_told(version)]

    def _is_told(self, version: NodeVersion) -> bool:
        """Whether this space told of it: a node not known here is where it is said to be."""
        record = self.record(version.node)
        if record is not None:
            return record.space == self.space
        names = version.state.names if version.state is not None else ()
        return (self.space_below(names[0].parent) if names else HOME) == self.space

    def news_count(self) -> int:
        """See Tree."""
        return super().news_count() if self._shares is None else len(self.news())

    def lost(self) -> list[tuple[bytes, NodeId, LostEdit]]:
        """See Tree."""
        found = super().lost() if super().lost_count() else []
        return found if self._shares is None else [one for one in found if self._has_lost(one[1])]

    def _has_lost(self, node: NodeId) -> bool:
        record = self.record(node)
        return (record.space if record is not None else HOME) == self.space

    def lost_count(self) -> int:
        """See Tree."""
        return super().lost_count() if self._shares is None else len(self.lost())

    def nodes(self, limit: int = 1 << 62, after: NodeId = _FIRST) -> list[NodeId]:
        """See Tree. Of a shared space all are looked for each time: who wants them some at a time asks for `pages`."""
        if self.space != HOME:
            return [node for node in sorted(self.all_nodes()) if node > after][:limit]
        if self._shares is None:
            return super().nodes(limit, after)
        found: list[NodeId] = []
        while len(found) < limit:
            some = super().nodes(min(limit, _AT_ONCE), after)
            found += [node for node in some if self.is_own(node)]
            if len(some) < min(limit, _AT_ONCE):
                break
            after = some[-1]
        return found[:limit]

    def pages(self, size: int) -> Iterator[Sequence[NodeId]]:
        """See Tree. Of a shared space all are looked for once, when the first are asked for."""
        return super().pages(size) if self.space == HOME else batches(sorted(self.all_nodes()), size)

    def all_nodes(self) -> set[NodeId]:
        """The nodes of a shared space that have a record, those removed here too; not the folder that mounts it."""
        shares = self._shares
        found: set[NodeId] = set()
        todo = [self.top]
        if shares is not None:
            todo += [node for node, space in shares.dirty.space_of.items() if space == self.space]
        todo += [node for node, _ in self.ignored() if self.is_own(node)]
        while todo:
            node = todo.pop()
            if node in found:
                continue
            record = self.record(node)
            if record is not None and record.space == self.space:
                found.add(node)
            elif node != self.top:
                continue
            if node == self.top or is_folder(record):
                todo += (child.node for child in self.children(node))
                todo += self.slot_holders(node)
        return found


def is_folder(record: Record | None) -> bool:
    """Whether it is one, or was one that is removed here."""
    state = (record.local or record.agreed) if record is not None else None
    return state is not None and state.kind is Kind.FOLDER


def below(tree: Tree, top: NodeId) -> Iterator[NodeId]:
    """All nodes below a folder, as the mount shows it or as both sides agreed on; each once, folders first."""
    seen: set[NodeId] = {top}
    todo = [top]
    while todo:
        folder = todo.pop()
        # Taken whole first: who asks may move what is in it.
        found = {child.node: child.kind is Kind.FOLDER for child in tree.children(folder)}
        found.update((node, is_folder(tree.record(node))) for node in tree.slot_holders(folder))
        for node, may_hold in found.items():
            if node not in seen:
                seen.add(node)
                yield node
                if may_hold:
                    todo.append(node)


def drop_settings(tree: Tree, edit: Edit, space: SpaceId) -> None:
    """Forgets what was kept of a space that is not mounted here any more."""
    for key, _ in tree.store.scan(Table.SETTINGS, prefix=b"%x/" % space):
        edit.change.delete(Table.SETTINGS, key)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """So many at a time, so that programs have their turn in between."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
