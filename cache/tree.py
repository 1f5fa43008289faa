"""Tree: the local view of a space, whole, and for nodes that differ from it what was agreed and what is news.

Keeps records and the name index together and says which nodes are dirty; `edit` changes them. Used from the event
loop's thread only.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec

from cache.edit import Edit
from cache.errors import NoIdsLeft
from cache.listings import Listings
from cache.records import (
    HOME,
    Child,
    LostEdit,
    Record,
    Table,
    child_of,
    encode,
    lost_decoder,
    name_key,
    node_key,
    record_decoder,
    sending_of,
    version_decoder,
)
from cache.store import Store
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import ROOT_NAME, Kind, Name, NodeState, NodeVersion

_RECORDS_KEPT: Final = 8_192
_IDS_AT_ONCE: Final = 4_096


class Members(Protocol):
    """Which nodes of a tree belong to shared spaces, for a tree that has such (see cache.parts)."""

    def note(self, dirty: Mapping[bytes, bytes | None], unlisted: Mapping[bytes, bytes | None]) -> None:
        """These keys of the indexes were put or, with None, removed."""
        ...

    def is_on_its_way(self, node: NodeId, space: SpaceId) -> bool:
        """Whether a node of a shared space is in a commit whose answer is not known."""
        ...


class Tree:
    """The records of a home, and of the spaces mounted in it, in a state store."""

    space: SpaceId = HOME
    """The space that this is the tree of (see cache.parts)."""
    top: NodeId = ROOT
    """The folder in which all of that is."""

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
        self.set_setting("sending", encode(sorted(states)))
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
        record = record_decoder.decode(value)
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
        return [child_of(key, value) for key, value in self._store.scan(Table.NAMES, first, prefix=prefix, limit=limit)]

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

    def pages(self, size: int) -> Iterator[Sequence[NodeId]]:
        """Nodes that have a record, by id, so many at a time; the tree may change in between."""
        after = NodeId(0)
        while nodes := self.nodes(size, after):
            after = nodes[-1]
            yield nodes

    def unlisted(self, limit: int = 1 << 62, after: NodeId = NodeId(0)) -> list[NodeId]:  # noqa: B008
        """Folders of which children may be unknown here, by id, from the one after `after` on."""
        found = self._store.scan(Table.UNLISTED, node_key(NodeId(after + 1)), limit=limit)
        return [NodeId(int.from_bytes(key, "big")) for key, _ in found]

    def unlisted_count(self) -> int:
        """How many folders there are of which children may be unknown here."""
        return self._store.count(Table.UNLISTED)

    def news(self) -> list[NodeVersion]:
        """What the server told and could not be merged yet."""
        return [version_decoder.decode(value) for _, value in self._store.scan(Table.NEWS)]

    def news_of(self, node: NodeId) -> NodeVersion | None:
        """The unmerged news of one node."""
        value = self._store.get(Table.NEWS, node_key(node))
        return version_decoder.decode(value) if value else None

    def news_count(self) -> int:
        """How many nodes there are of which news could not be merged yet."""
        return self._store.count(Table.NEWS)

    def lost_count(self) -> int:
        """How many edits lost and still wait to be kept as versions."""
        return self._store.count(Table.LOST)

    def lost(self) -> list[tuple[bytes, NodeId, LostEdit]]:
        """Edits that lost and still wait to be kept as versions, with their keys."""
        return [
            (key, NodeId(int.from_bytes(key[:8], "big")), lost_decoder.decode(value))
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
