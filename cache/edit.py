"""Edit: changes to records and names that are kept together or not at all, with the indexes that go with them.

Decides nothing: the mount makes the edits of programs, `merge` judges, `pull` and `push` carry out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, Self

import msgspec

from cache.errors import NoSuchNode
from cache.records import (
    Child,
    LostEdit,
    Record,
    Table,
    child_of,
    encode,
    lost_decoder,
    name_key,
    node_key,
    version_decoder,
)
from cache.store import Change, Store
from remote.protocol.ids import NodeId, Rev
from remote.protocol.nodes import ROOT_NAME, Kind, Name, NodeState, NodeVersion


class Edited(Protocol):
    """What an edit asks of the tree that it is made to, which is one space's or that of all (see cache.tree, parts)."""

    may_ignore: bool
    """Whether any node was ignored."""

    @property
    def store(self) -> Store:
        """The state store."""
        ...

    def record(self, node: NodeId) -> Record | None:
        """The record of a node, as it was before the edit."""
        ...

    def placed(self, record: Record, edit: "Edit") -> Record:
        """A new record, as one of the space that it belongs to."""
        ...

    def is_unknown_elsewhere(self, node: NodeId, record: Record) -> bool:
        """Whether the server has no such node, nor a commit with it."""
        ...

    def settle(self, edit: "Edit", records: Mapping[NodeId, Record | None]) -> None:
        """The store has taken an edit that leaves these records."""
        ...

    def note_heir(self, node: NodeId, heir: NodeId) -> None:
        """What there was of a node goes on under another id."""
        ...


class Edit:
    """Changes to records and names that are kept together or not at all (see Store.change)."""

    __slots__ = ("_named", "_records", "_tree", "_unindexed", "change", "on_kept", "released", "taken")

    def __init__(self, tree: Edited, change: Change) -> None:
        self._tree = tree
        self.change = change
        self._records: dict[NodeId, Record | None] = {}
        self._named: dict[NodeId, set[bytes]] = {}
        self.released: set[int] = set()
        self.taken: set[int] = {0}
        # Nodes whose index may lack names that their record has.
        self._unindexed: set[NodeId] = set()
        self.on_kept: list[Callable[[], None]] = []
        """What else is so from now on, to be called when the changes are kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.change.__exit__(kind, error, trace)
        if kind is None:
            self._tree.settle(self, self._records)
            for follow in self.on_kept:
                follow()

    def record(self, node: NodeId) -> Record | None:
        """The record as this edit leaves it."""
        if node in self._records:
            return self._records[node]
        return self._tree.record(node)

    def get(self, node: NodeId) -> Record:
        """The record; raises NoSuchNode."""
        record = self.record(node)
        if record is None:
            raise NoSuchNode(f"There is no node {node} here.")
        return record

    def children(self, folder: NodeId) -> list[Child]:
        """Names of a folder as this edit leaves them, in no order."""
        prefix = node_key(folder)
        found = dict(self._tree.store.scan(Table.NAMES, prefix=prefix))
        for key in self._named.get(folder, ()):
            value = self.change.get(Table.NAMES, key)
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return [child_of(key, value) for key, value in found.items()]

    def has_children(self, folder: NodeId) -> bool:
        """Whether a folder has any entry as this edit leaves it."""
        touched = self._named.get(folder, set())
        if any(self.change.get(Table.NAMES, key) is not None for key in touched):
            return True
        return any(
            key not in touched
            for key, _ in self._tree.store.scan(Table.NAMES, prefix=node_key(folder), limit=len(touched) + 1)
        )

    def unindex(self, node: NodeId, names: Iterable[Name]) -> None:
        """Frees names of a node before its record is replaced, so that others may take them in any order.

        The next `put` of the node indexes the names that it has then: none of them may be another's.
        """
        self._unindexed.add(node)
        for name in names:
            if self.holder(name) == node:
                self._set_name(name, None)

    def holder(self, name: Name) -> NodeId | None:
        """The node to which this name leads."""
        value = self.change.get(Table.NAMES, name_key(name.parent, name.name))
        return NodeId(int.from_bytes(value[:8], "big")) if value else None

    def put(self, node: NodeId, record: Record) -> None:
        """Replaces a record; the name index and the dirty index follow."""
        self._replace(node, self.record(node), record)

    def _replace(self, node: NodeId, before: Record | None, record: Record) -> None:
        if before is None:
            record = self._tree.placed(record, self)
        if record.is_spared and not _is_still_spared(before, record):
            record = msgspec.structs.replace(record, is_spared=False)
        if before is None or self._unindexed or not _is_indexed_alike(before, record):
            self._index_names(node, before, record.local)
            self._index_slots(node, before, record)
            self._count_staged(before, record)
            self._index_unlisted(node, before, record)
        if before is not None and (before.space != record.space or before.space_below != record.space_below):
            self._index_space(node)
        self._records[node] = record
        self.change.put(Table.NODES, node_key(node), encode(record))

    def drop(self, node: NodeId) -> None:
        """Forgets a node."""
        before = self.record(node)
        self._index_names(node, before, None)
        self._index_slots(node, before, None)
        self._count_staged(before, None)
        self._index_unlisted(node, before, None)
        self._records[node] = None
        self.change.delete(Table.NODES, node_key(node))
        self.mark_clean(node)

    def mark_dirty(self, node: NodeId, edited_ns: int) -> None:
        """Puts a node among those to be planned for."""
        # By a clock that stands at 1970, what was edited elsewhere was edited before that.
        self.change.put(Table.DIRTY, node_key(node), max(edited_ns, 1).to_bytes(8, "big"))
        self._forget_ignored(node)

    def mark_clean(self, node: NodeId) -> None:
        """Takes a node from those to be planned for."""
        if self.change.get(Table.DIRTY, node_key(node)) is not None:
            self.change.delete(Table.DIRTY, node_key(node))
        self._forget_ignored(node)

    def ignore(self, node: NodeId) -> None:
        """Takes a dirty node from those to be planned for until it is edited: it stays on this machine."""
        key = node_key(node)
        edited = self.change.get(Table.DIRTY, key)
        if edited is not None:
            self.change.delete(Table.DIRTY, key)
            self.change.put(Table.IGNORED, key, edited)
            self._tree.may_ignore = True

    def _forget_ignored(self, node: NodeId) -> None:
        if self._tree.may_ignore and self.change.get(Table.IGNORED, node_key(node)) is not None:
            self.change.delete(Table.IGNORED, node_key(node))

    def edited_ns(self, node: NodeId) -> int:
        """When a dirty node was last edited here, 0 when it is clean."""
        value = self.change.get(Table.DIRTY, node_key(node))
        if value is None and self._tree.may_ignore:
            value = self.change.get(Table.IGNORED, node_key(node))
        return int.from_bytes(value, "big") if value else 0

    def set_local(
        self, node: NodeId, state: NodeState | None, edited_ns: int, *, staged: tuple[int, int] | None = None
    ) -> None:
        """What a program made of a node here: the record becomes dirty, or vanishes if nobody else ever saw it.

        One with edits that lost is kept, removed, until the server has these as its versions.
        `staged`: the staging, with its size, whose content replaces the state's from now on; None: as it was.
        """
        record = self.record(node)
        if record is None:
            if state is not None:
                new = Record(rev=Rev(0), local=state, is_dirty=True, is_listed=state.kind is Kind.FOLDER)
                self._replace(node, None, new)
                self.mark_dirty(node, edited_ns)
            return
        if state is None and self._tree.is_unknown_elsewhere(node, record) and not self._is_unborn(node, record):
            self.drop(node)
            return
        self._set_dirty(node, record, state, staged)
        self.mark_dirty(node, edited_ns)

    def _set_dirty(
        self, node: NodeId, record: Record, state: NodeState | None, staged: tuple[int, int] | None = None
    ) -> None:
        number, size = (staged or (record.staged, record.staged_size)) if state else (0, 0)
        dirty = msgspec.structs.replace(
            record, local=state, is_dirty=True, synced=record.agreed, staged=number, staged_size=size
        )
        self._replace(node, record, dirty)

    def touch(self, folder: NodeId, now_ns: int) -> None:
        """A folder's times move because its entries changed."""
        record = self.record(folder)
        if record is not None and record.local is not None:
            self._set_dirty(folder, record, msgspec.structs.replace(record.local, mtime_ns=now_ns, ctime_ns=now_ns))
            if self.change.get(Table.DIRTY, node_key(folder)) is None:
                self.mark_dirty(folder, self.edited_ns(folder) or now_ns)

    def keep_news(self, version: NodeVersion) -> None:
        """Remembers what the server told of a node until it can be merged."""
        self.change.put(Table.NEWS, node_key(version.node), encode(version))

    def news_of(self, node: NodeId) -> NodeVersion | None:
        """What the server told of a node and could not be merged yet."""
        value = self.change.get(Table.NEWS, node_key(node))
        return version_decoder.decode(value) if value else None

    def forget_news(self, node: NodeId) -> None:
        """The news is merged."""
        if self.change.get(Table.NEWS, node_key(node)) is not None:
            self.change.delete(Table.NEWS, node_key(node))

    def keep_lost(self, node: NodeId, lost: LostEdit) -> None:
        """Remembers a local edit that lost, until the server has it as a version."""
        self.taken.add(lost.staged)
        number = max(lost.edited_ns, 0)
        while self.change.get(Table.LOST, node_key(node) + number.to_bytes(8, "big")) is not None:
            number += 1
        self.change.put(Table.LOST, node_key(node) + number.to_bytes(8, "big"), encode(lost))

    def drop_lost(self, key: bytes) -> None:
        """An edit that lost is none any more: the server has it, or it is what a node here is again."""
        self.change.delete(Table.LOST, key)

    def move_lost(self, source: NodeId, target: NodeId) -> None:
        """Edits that lost in a node which the server never had go with it into another."""
        for key in self._lost_keys(source):
            value = self.change.get(Table.LOST, key)
            self.change.delete(Table.LOST, key)
            if value is not None:
                self.keep_lost(target, lost_decoder.decode(value))

    def _lost_keys(self, node: NodeId) -> list[bytes]:
        prefix = node_key(node)
        puts = self.change.puts.get(Table.LOST, {})
        if not puts and not self._tree.store.count(Table.LOST):
            return []
        found = {key for key, _ in self._tree.store.scan(Table.LOST, prefix=prefix)}
        found |= {key for key in puts if key.startswith(prefix)}
        return sorted(key for key in found if self.change.get(Table.LOST, key) is not None)

    def _is_unborn(self, node: NodeId, record: Record) -> bool:
        """Whether the server never had the node, but is to keep edits of it that lost."""
        return record.rev == 0 and bool(self._lost_keys(node))

    def _index_names(self, node: NodeId, record: Record | None, state: NodeState | None) -> None:
        before = record.local.names if record is not None and record.local is not None else ()
        after = state.names if state is not None else ()
        is_whole = node not in self._unindexed
        if before == after and is_whole:
            return
        self._unindexed.discard(node)
        for name in before:
            # A name may have been given to another node within this edit (rename over it).
            if name not in after and self.holder(name) == node:
                self._set_name(name, None)
        if state is not None:
            value = node_key(node) + bytes([state.kind])
            for name in after:
                if name != ROOT_NAME and not (is_whole and name in before):
                    self._set_name(name, value)

    def _set_name(self, name: Name, value: bytes | None) -> None:
        key = name_key(name.parent, name.name)
        self._named.setdefault(name.parent, set()).add(key)
        more = _is_folder(value) - _is_folder(self.change.get(Table.NAMES, key))
        if more:
            count = self._subfolders(name.parent) + more
            if count:
                self.change.put(Table.SUBFOLDERS, node_key(name.parent), count.to_bytes(8, "big"))
            else:
                self.change.delete(Table.SUBFOLDERS, node_key(name.parent))
        if value is None:
            self.change.delete(Table.NAMES, key)
        else:
            self.change.put(Table.NAMES, key, value)

    def _subfolders(self, folder: NodeId) -> int:
        value = self.change.get(Table.SUBFOLDERS, node_key(folder))
        return int.from_bytes(value, "big") if value else 0

    def _count_staged(self, before: Record | None, after: Record | None) -> None:
        old, new = before.staged if before else 0, after.staged if after else 0
        if old != new:
            self.released.add(old)
            self.taken.add(new)

    def _index_unlisted(self, node: NodeId, before: Record | None, after: Record | None) -> None:
        was = before is not None and before.is_unlisted_folder
        if after is not None and after.is_unlisted_folder:
            if not was:
                self.change.put(Table.UNLISTED, node_key(node), b"")
        elif was:
            self.change.delete(Table.UNLISTED, node_key(node))

    def _index_space(self, node: NodeId) -> None:
        """What is said of the node is said again, so that its new space has it (see Members)."""
        for table in (Table.DIRTY, Table.UNLISTED):
            value = self.change.get(table, node_key(node))
            if value is not None:
                self.change.put(table, node_key(node), value)

    def _index_slots(self, node: NodeId, before: Record | None, after: Record | None) -> None:
        value = node_key(node)
        new = _slots(after)
        for name in _slots(before):
            key = name_key(name.parent, name.name)
            if name not in new and self.change.get(Table.SLOTS, key) == value:
                self.change.delete(Table.SLOTS, key)
        for name in new:
            key = name_key(name.parent, name.name)
            holder = self.change.get(Table.SLOTS, key)
            # What was agreed of a node whose news waits is old: another may have its name there since.
            if holder is None or (holder != value and self.change.get(Table.NEWS, value) is None):
                self.change.put(Table.SLOTS, key, value)

    def slot_holder(self, name: Name) -> NodeId | None:
        """The dirty node that has this name in the agreed view."""
        value = self.change.get(Table.SLOTS, name_key(name.parent, name.name))
        return NodeId(int.from_bytes(value, "big")) if value else None

    def slot_holders(self, folder: NodeId) -> list[NodeId]:
        """The dirty nodes that the agreed view has in this folder, as this edit leaves it."""
        prefix = node_key(folder)
        keys = {key for key, _ in self._tree.store.scan(Table.SLOTS, prefix=prefix)}
        keys |= {key for key in self.change.puts.get(Table.SLOTS, {}) if key.startswith(prefix)}
        values = [self.change.get(Table.SLOTS, key) for key in sorted(keys)]
        return [NodeId(int.from_bytes(value, "big")) for value in values if value]

    def succeed(self, node: NodeId, heir: NodeId) -> None:
        """What there was of a node goes on under another id, for those who wait for it (see Tree.heir)."""
        self.on_kept.append(lambda: self._tree.note_heir(node, heir))

    def differences(self) -> Iterator[tuple[NodeId, Record | None, Record | None]]:
        """Each node that was touched, with its record before and after."""
        for node, record in self._records.items():
            yield node, self._tree.record(node), record


def _slots(record: Record | None) -> tuple[Name, ...]:
    """Names that a dirty node has in the agreed view: taken on the server until its change is committed."""
    return record.synced.names if record is not None and record.is_dirty and record.synced is not None else ()


def _is_still_spared(before: Record | None, after: Record) -> bool:
    """Whether a folder that lives on for what is in it has no other reason: the server has it, or somebody moved it.

    Who moves something changes its ctime; what merging moves keeps it.
    """
    if before is None or after.local is None or not after.is_dirty or after.synced is not None:
        return False
    was = before.local
    return was is None or was.names == after.local.names or was.ctime_ns == after.local.ctime_ns


def _is_indexed_alike(one: Record, other: Record) -> bool:
    """Whether nothing moved between two records of a node that an index tells of; by identity, as most edits keep."""
    return (
        one.local is not None
        and other.local is not None
        and one.local.names is other.local.names
        and one.synced is other.synced
        and one.is_dirty is other.is_dirty
        and one.is_listed is other.is_listed
        and one.staged == other.staged
    )


def _is_folder(value: bytes | None) -> bool:
    """Whether a value of the table of names leads to a folder."""
    return value is not None and value[8] == Kind.FOLDER
