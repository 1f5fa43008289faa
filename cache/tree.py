"""Tree: the local view of a space, whole, and for nodes that differ from it what was agreed and what is news.

Keeps records and the name index together and says which nodes are dirty. Decides nothing: the mount makes the edits of
programs, `merge` judges, `pull` and `push` carry out. Used from the event loop's thread only.
"""

import enum
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol, Self

import msgspec

from cache.errors import NoIdsLeft, NoSuchNode
from cache.listings import Listings
from cache.store import Change, Store
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import ROOT_NAME, Kind, Name, NodeState, NodeVersion


class Table(enum.IntEnum):
    """Tables of the state store, in the order of STATE_TABLES; their keys and values are in FORMAT.md."""

    NODES = 0
    NAMES = 1
    DIRTY = 2
    NEWS = 3
    LOST = 4
    STAGED = 5
    STAGED_BYTES = 6
    PINS = 7
    SETTINGS = 8
    SLOTS = 9
    SUBFOLDERS = 10
    UNLISTED = 11
    IGNORED = 12
    BACKED = 13
    BACKED_BLOCKS = 14
    BACKED_INODES = 15


STATE_TABLES: Final = tuple(table.name.lower() for table in Table)

HOME: Final = SpaceId(0)
"""What the home of this device's user is called in records, so that those of a drive without shares say nothing."""
_RECORDS_KEPT: Final = 8_192
_IDS_AT_ONCE: Final = 4_096


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one node.

    `local`: what the mount shows, None when removed here. `rev`, `synced`: what both sides last agreed on (0, None:
    the server never had it; a rev with None: removed there); `synced` is kept apart only while `is_dirty`.
    `staged`: id of the staging whose content replaces `local.content`, 0 for none; `staged_size` its size in bytes.
    `is_listed`: every child of this folder is known here. `is_listing`: on the way there, so news of children counts.
    `overrides`: the rev whose content lost against the local one, to be marked as a conflict with the next commit.
    `space`: the space that the node belongs to, and `rev` with it; what is in a folder that mounts a space is of that
    space, the folder itself of the home.
    `is_spared`: a folder that was removed elsewhere, and lives on for what is in it alone: nobody here renamed it.
    """

    rev: Rev
    local: NodeState | None
    is_dirty: bool = False
    synced: NodeState | None = None
    staged: int = 0
    staged_size: int = 0
    is_listed: bool = False
    is_listing: bool = False
    overrides: Rev = Rev(0)
    space: SpaceId = HOME
    is_spared: bool = False

    @property
    def space_below(self) -> SpaceId:
        """The space that entries of this folder belong to."""
        state = self.local or self.synced
        return (state.mounts if state is not None else HOME) or self.space

    @property
    def agreed(self) -> NodeState | None:
        """The state that both sides last agreed on."""
        return self.synced if self.is_dirty else self.local

    @property
    def is_unlisted_folder(self) -> bool:
        """Whether it is a folder of which children may be unknown here."""
        return self.local is not None and self.local.kind is Kind.FOLDER and not self.is_listed

    @property
    def size(self) -> int:
        """Bytes of content as the mount shows it."""
        if self.staged:
            return self.staged_size
        state = self.local
        if state is None:
            return 0
        if state.content is not None:
            return state.content.size
        return len(state.target)


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


class Child(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One name in a folder."""

    name: bytes
    node: NodeId
    kind: Kind


_KINDS: Final = {int(kind): kind for kind in Kind}


def _child(key: bytes, value: bytes) -> Child:
    return Child(key[8:], NodeId(int.from_bytes(value[:8], "big")), _KINDS[value[8]])


class LostEdit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A local edit that lost a merge and is still to be kept as a version on the server."""

    state: NodeState
    edited_ns: int
    staged: int = 0


def sending_of(value: bytes | None) -> dict[NodeId, NodeState | None]:
    """What stands in the setting `sending`."""
    return dict.fromkeys(msgspec.msgpack.decode(value, type=list[NodeId]) if value else ())


_record_decoder = msgspec.msgpack.Decoder(Record)
_version_decoder = msgspec.msgpack.Decoder(NodeVersion)
_lost_decoder = msgspec.msgpack.Decoder(LostEdit)
_encode = msgspec.msgpack.Encoder().encode


def node_key(node: NodeId) -> bytes:
    """The key of a node in the tables."""
    return node.to_bytes(8, "big")


def name_key(parent: NodeId, name: bytes) -> bytes:
    """The key of a name: names of one folder stand together, in bytewise order."""
    return parent.to_bytes(8, "big") + name


class Members(Protocol):
    """Which nodes of a tree belong to shared spaces, for a tree that has such (see cache.parts)."""

    def note(self, dirty: Mapping[bytes, bytes | None], unlisted: Mapping[bytes, bytes | None]) -> None:
        """These keys of the indexes were put or, with None, removed."""
        ...

    def is_on_its_way(self, node: NodeId, space: SpaceId) -> bool:
        """Whether a node of a shared space is in a commit whose answer is not known."""
        ...


def _is_folder(value: bytes | None) -> bool:
    """Whether a value of the table of names leads to a folder."""
    return value is not None and value[8] == Kind.FOLDER


class Edit:
    """Changes to records and names that are kept together or not at all (see Store.change)."""

    __slots__ = ("_named", "_records", "_tree", "_unindexed", "change", "on_kept", "released", "taken")

    def __init__(self, tree: "Tree", change: Change) -> None:
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
        return [_child(key, value) for key, value in found.items()]

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
        self.change.put(Table.NODES, node_key(node), _encode(record))

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
        self.change.put(Table.NEWS, node_key(version.node), _encode(version))

    def news_of(self, node: NodeId) -> NodeVersion | None:
        """What the server told of a node and could not be merged yet."""
        value = self.change.get(Table.NEWS, node_key(node))
        return _version_decoder.decode(value) if value else None

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
        self.change.put(Table.LOST, node_key(node) + number.to_bytes(8, "big"), _encode(lost))

    def drop_lost(self, key: bytes) -> None:
        """An edit that lost is none any more: the server has it, or it is what a node here is again."""
        self.change.delete(Table.LOST, key)

    def move_lost(self, source: NodeId, target: NodeId) -> None:
        """Edits that lost in a node which the server never had go with it into another."""
        for key in self._lost_keys(source):
            value = self.change.get(Table.LOST, key)
            self.change.delete(Table.LOST, key)
            if value is not None:
                self.keep_lost(target, _lost_decoder.decode(value))

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


class Tree:
    """The records of a home, and of the spaces mounted in it, in a state store."""

    space: SpaceId = HOME
    """The space that this is the tree of (see cache.parts)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[NodeId, Record] = {}
        self._next_id = 0
        self._ids_end = 0
        self.released: set[int] = set()
        """Stagings that no record names any more: to be let go of when no program has them open."""
        self.touched: set[NodeId] | None = None
        """Nodes that were edited, for who sets it to a set to take them out; None: nobody wants to know."""
        self.listings: Listings[Any] = Listings()
        """What the mount remembers of entries (of its own type): a listing goes when a name or record in it changes."""
        self.members: Members | None = None
        """Which nodes are of shared spaces, while there are any."""
        # Noted while somebody waits for nodes, and forgotten then.
        self._heirs: dict[NodeId, NodeId] = {}
        self._waiting = 0
        value = self.setting("sending")
        self.may_ignore = bool(store.count(Table.IGNORED))
        """Whether any node was ignored since the store was opened; spares looking in its table."""
        self.sending: Mapping[NodeId, NodeState | None] = sending_of(value)
        """Nodes in a commit whose answer is not known: the server may or may not have them, in this state.

        None: removed, or sent before this device was started.
        """

    def set_sending(self, states: Mapping[NodeId, NodeState | None]) -> None:
        """Notes which nodes are on their way, before they are sent, and (empty) when the answer is taken in.

        Raises DiskFull: then none are.
        """
        self.sending = {}
        self.set_setting("sending", _encode(sorted(states)))
        self.sending = states

    @contextmanager
    def following(self) -> Iterator[None]:
        """While this is entered, `heir` knows under which id a node goes on."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._heirs.clear()

    def note_heir(self, node: NodeId, heir: NodeId) -> None:
        """What there was of a node goes on under another id."""
        if self._waiting:
            self._heirs[node] = heir

    def heir(self, node: NodeId) -> NodeId:
        """The id under which a node goes on: another one if it changed its space, and nobody may have the old one."""
        while node in self._heirs:
            node = self._heirs[node]
        return node

    def is_unknown_elsewhere(self, node: NodeId, record: Record) -> bool:
        """Whether the server has no such node (it was made here, or removed elsewhere), nor a commit with it."""
        if record.rev != 0 and not (record.is_dirty and record.synced is None):
            return False
        if record.space != HOME and self.members is not None:
            return not self.members.is_on_its_way(node, record.space)
        return node not in self.sending

    def placed(self, record: Record, edit: Edit) -> Record:
        """A new record, as one of the space that its folder's entries belong to."""
        if self.members is None:
            return record
        state = record.local or record.synced
        above = edit.record(state.names[0].parent) if state is not None and state.names else None
        if above is None or above.space_below == record.space:
            return record
        return msgspec.structs.replace(record, space=above.space_below)

    def is_own(self, node: NodeId) -> bool:
        """Whether a node is of the space that this is the tree of (see cache.parts); one that is not known may be."""
        del node
        return True

    def space_below(self, folder: NodeId) -> SpaceId:
        """The space that entries of this folder belong to; home's for what is not known here."""
        record = self.record(folder)
        return record.space_below if record is not None else HOME

    @property
    def store(self) -> Store:
        """The state store that the tree lives in."""
        return self._store

    def record(self, node: NodeId) -> Record | None:
        """The record of a node, or None."""
        known = self._records.get(node)
        if known is not None:
            return known
        value = self._store.get(Table.NODES, node_key(node))
        if value is None:
            return None
        record = _record_decoder.decode(value)
        self._keep(node, record)
        return record

    def _keep(self, node: NodeId, record: Record) -> None:
        """Remembers a decoded record, a bounded number of them: the oldest half goes when there are too many."""
        if len(self._records) >= _RECORDS_KEPT and node not in self._records:
            for old in list(self._records)[: _RECORDS_KEPT // 2]:
                del self._records[old]
        self._records[node] = record

    def child(self, parent: NodeId, name: bytes) -> NodeId | None:
        """The node to which a name leads in the local view."""
        value = self._store.get(Table.NAMES, name_key(parent, name))
        return NodeId(int.from_bytes(value[:8], "big")) if value else None

    def children(self, folder: NodeId, after: bytes = b"", limit: int = 1 << 62) -> list[Child]:
        """Names of a folder in bytewise order, from the one after `after` on."""
        prefix = node_key(folder)
        first = prefix + after + b"\0" if after else prefix
        return [_child(key, value) for key, value in self._store.scan(Table.NAMES, first, prefix=prefix, limit=limit)]

    def subfolders(self, folder: NodeId) -> int:
        """How many folders the local view of a folder has in it."""
        value = self._store.get(Table.SUBFOLDERS, node_key(folder))
        return int.from_bytes(value, "big") if value else 0

    def has_children(self, folder: NodeId) -> bool:
        """Whether the local view of a folder has any entry."""
        return bool(self._store.scan(Table.NAMES, prefix=node_key(folder), limit=1))

    def edit(self) -> Edit:
        """An edit; kept when its block ends well. The end raises DiskFull when it was not made."""
        return Edit(self, self._store.change())

    def settle(self, edit: Edit, records: Mapping[NodeId, Record | None]) -> None:
        """The store has taken an edit that leaves these records."""
        if edit.released or self.released:
            self.released = (self.released | edit.released) - edit.taken
        if self.touched is not None:
            self.touched.update(records)
        for node, record in records.items():
            if record is None:
                self._records.pop(node, None)
            else:
                self._keep(node, record)
        puts = edit.change.puts
        if self.listings:
            self.listings.drop(NodeId(int.from_bytes(key[:8], "big")) for key in puts.get(Table.NAMES, ()))
            for record in records.values():
                if record is not None and record.local is not None:
                    self.listings.drop(name.parent for name in record.local.names)
        if self.members is not None:
            self.members.note(puts.get(Table.DIRTY, {}), puts.get(Table.UNLISTED, {}))

    def dirty(self, limit: int = 1 << 62, after: NodeId = NodeId(0)) -> list[tuple[NodeId, int]]:  # noqa: B008
        """Dirty nodes, but ignored ones, with the time (ns) of their last edit here, by id, from after `after` on."""
        return [
            (NodeId(int.from_bytes(key, "big")), int.from_bytes(value, "big"))
            for key, value in self._store.scan(Table.DIRTY, node_key(NodeId(after + 1)), limit=limit)
        ]

    def edited_ns(self, node: NodeId) -> int:
        """When a dirty node was last edited here, 0 when it is clean."""
        value = self._store.get(Table.DIRTY, node_key(node))
        if value is None and self.may_ignore:
            value = self._store.get(Table.IGNORED, node_key(node))
        return int.from_bytes(value, "big") if value else 0

    def slot_holder(self, name: Name) -> NodeId | None:
        """The dirty node that has this name in the agreed view."""
        value = self._store.get(Table.SLOTS, name_key(name.parent, name.name))
        return NodeId(int.from_bytes(value, "big")) if value else None

    def slot_holders(self, folder: NodeId, limit: int = 1 << 62) -> list[NodeId]:
        """The dirty nodes that the agreed view has in this folder."""
        return [
            NodeId(int.from_bytes(value, "big"))
            for _, value in self._store.scan(Table.SLOTS, prefix=node_key(folder), limit=limit)
        ]

    def is_all_sent(self) -> bool:
        """Whether nothing is to be sent: what is ignored never is."""
        return not self._store.count(Table.DIRTY) and not self._store.count(Table.LOST)

    def is_dirty(self, node: NodeId) -> bool:
        """Whether the node differs here from what both sides agreed on."""
        record = self.record(node)
        return record is not None and record.is_dirty

    def is_pending(self, node: NodeId) -> bool:
        """Whether the node is dirty and not ignored."""
        return self.is_dirty(node) and not self.is_ignored(node)

    def dirty_count(self) -> int:
        """How many nodes are dirty and not ignored."""
        return self._store.count(Table.DIRTY)

    def is_ignored(self, node: NodeId) -> bool:
        """Whether the node stays on this machine, as far as it was planned for since it was edited."""
        return self.may_ignore and self._store.get(Table.IGNORED, node_key(node)) is not None

    def ignored(self) -> list[tuple[NodeId, int]]:
        """Ignored nodes with the time (ns) of their last edit here, by node id."""
        return [
            (NodeId(int.from_bytes(key, "big")), int.from_bytes(value, "big"))
            for key, value in self._store.scan(Table.IGNORED)
        ]

    def ignored_count(self) -> int:
        """How many nodes are ignored."""
        return self._store.count(Table.IGNORED)

    def nodes(self, limit: int = 1 << 62, after: NodeId = NodeId(0)) -> list[NodeId]:  # noqa: B008
        """Nodes that have a record, by id, from the one after `after` on."""
        found = self._store.scan(Table.NODES, node_key(NodeId(after + 1)), limit=limit)
        return [NodeId(int.from_bytes(key, "big")) for key, _ in found]

    def unlisted(self, limit: int = 1 << 62, after: NodeId = NodeId(0)) -> list[NodeId]:  # noqa: B008
        """Folders of which children may be unknown here, by id, from the one after `after` on."""
        found = self._store.scan(Table.UNLISTED, node_key(NodeId(after + 1)), limit=limit)
        return [NodeId(int.from_bytes(key, "big")) for key, _ in found]

    def unlisted_count(self) -> int:
        """How many folders there are of which children may be unknown here."""
        return self._store.count(Table.UNLISTED)

    def news(self) -> list[NodeVersion]:
        """What the server told and could not be merged yet."""
        return [_version_decoder.decode(value) for _, value in self._store.scan(Table.NEWS)]

    def news_of(self, node: NodeId) -> NodeVersion | None:
        """The unmerged news of one node."""
        value = self._store.get(Table.NEWS, node_key(node))
        return _version_decoder.decode(value) if value else None

    def news_count(self) -> int:
        """How many nodes there are of which news could not be merged yet."""
        return self._store.count(Table.NEWS)

    def lost_count(self) -> int:
        """How many edits lost and still wait to be kept as versions."""
        return self._store.count(Table.LOST)

    def lost(self) -> list[tuple[bytes, NodeId, LostEdit]]:
        """Edits that lost and still wait to be kept as versions, with their keys."""
        return [
            (key, NodeId(int.from_bytes(key[:8], "big")), _lost_decoder.decode(value))
            for key, value in self._store.scan(Table.LOST)
        ]

    def is_lost(self, key: bytes) -> bool:
        """Whether there is still an edit that lost of this key."""
        return self._store.has(Table.LOST, key)

    def has_lost(self, node: NodeId) -> bool:
        """Whether an edit of the node lost and still waits to be kept as a version."""
        return bool(self._store.scan(Table.LOST, prefix=node_key(node), limit=1))

    def will_send_lost(self, node: NodeId) -> bool:
        """Whether such an edit will become a version: not of a node that was made and removed before it was sent."""
        record = self.record(node)
        is_void = record is not None and record.rev == 0 and record.local is None
        return not is_void and self.has_lost(node)

    def stagings(self) -> set[int]:
        """Ids of all stagings that a record or a lost edit refers to."""
        records = (self.record(node) for node, _ in (*self.dirty(), *self.ignored()))
        return {record.staged for record in records if record is not None} | {lost.staged for _, _, lost in self.lost()}

    def setting(self, name: str) -> bytes | None:
        """A value of the settings table."""
        return self._store.get(Table.SETTINGS, self.key_of(name))

    def key_of(self, name: str) -> bytes:
        """The key of a setting in its table."""
        return name.encode()

    def set_setting(self, name: str, value: bytes) -> None:
        """Keeps a value in the settings table."""
        with self._store.change() as change:
            change.put(Table.SETTINGS, self.key_of(name), value)

    @property
    def cursor(self) -> Rev:
        """The last rev that this device has applied."""
        value = self.setting("cursor")
        return Rev(int.from_bytes(value, "big")) if value else Rev(0)

    def set_cursor(self, rev: Rev, edit: Edit) -> None:
        """Moves the cursor with the changes that came with it."""
        edit.change.put(Table.SETTINGS, self.key_of("cursor"), rev.to_bytes(8, "big"))

    def lease(self, first: NodeId, count: int) -> None:
        """Takes a leased range of node ids into use."""
        self.set_setting("range", first.to_bytes(8, "big") + (first + count).to_bytes(8, "big"))
        self._next_id = self._ids_end = 0

    @property
    def has_range(self) -> bool:
        """Whether this device has node ids left to give."""
        if self._next_id < self._ids_end:
            return True
        value = self.setting("range")
        return value is not None and int.from_bytes(value[:8], "big") < int.from_bytes(value[8:], "big")

    def new_node(self) -> NodeId:
        """A node id never given before, also not before a crash: ids are set aside by the thousand."""
        if self._next_id >= self._ids_end:
            value = self.setting("range")
            if value is None:
                raise NoIdsLeft("This device has no range of node ids yet: it must reach the server once.")
            first, end = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
            if first >= end:
                raise NoIdsLeft("This device's node ids are used up: it must reach the server for a new range.")
            ids_end = min(first + _IDS_AT_ONCE, end)
            # Kept before the first of them is given: after a full disk or a kill they must not be given again.
            self.set_setting("range", ids_end.to_bytes(8, "big") + end.to_bytes(8, "big"))
            self._next_id, self._ids_end = first, ids_end
        node = NodeId(self._next_id)
        self._next_id += 1
        return node

    def make_root(self) -> None:
        """Makes the root's record when there is none yet (it exists on every server with the space)."""
        if self.record(ROOT) is None:
            now = time.time_ns()
            state = NodeState(Kind.FOLDER, (ROOT_NAME,), 0o755, 0, 0, now, now, now, now)
            with self.edit() as edit:
                edit.put(ROOT, Record(rev=Rev(0), local=state))

    def path_of(self, node: NodeId, was: NodeState | None = None) -> bytes:
        """A path of the node in the local view, relative to the root, for messages; b"?" when it has none.

        `was`: a state of it, whose name is told when it is not known here any more.
        """
        parts: list[bytes] = []
        while node != ROOT:
            record = self.record(node)
            state = (record and (record.local or record.agreed)) or was
            was = None
            if not state or not state.names or len(parts) > 4_096:
                return b"/".join([b"?", *reversed(parts)])
            name = state.names[0]
            parts.append(name.name)
            node = name.parent
        return b"/".join(reversed(parts))
