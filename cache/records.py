"""Records: what is known of nodes, names and edits that lost, as the tables of the state store have it.

No more than shapes, keys and their coding: `edit` changes them, `tree` reads them.
"""

import enum
from typing import Final

import msgspec

from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind, NodeState, NodeVersion


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


class Child(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One name in a folder."""

    name: bytes
    node: NodeId
    kind: Kind


_KINDS: Final = {int(kind): kind for kind in Kind}


def child_of(key: bytes, value: bytes) -> Child:
    return Child(key[8:], NodeId(int.from_bytes(value[:8], "big")), _KINDS[value[8]])


class LostEdit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A local edit that lost a merge and is still to be kept as a version on the server."""

    state: NodeState
    edited_ns: int
    staged: int = 0


def sending_of(value: bytes | None) -> dict[NodeId, NodeState | None]:
    """What stands in the setting `sending`."""
    return dict.fromkeys(msgspec.msgpack.decode(value, type=list[NodeId]) if value else ())


record_decoder = msgspec.msgpack.Decoder(Record)
version_decoder = msgspec.msgpack.Decoder(NodeVersion)
lost_decoder = msgspec.msgpack.Decoder(LostEdit)
encode = msgspec.msgpack.Encoder().encode


def node_key(node: NodeId) -> bytes:
    """The key of a node in the tables."""
    return node.to_bytes(8, "big")


def name_key(parent: NodeId, name: bytes) -> bytes:
    """The key of a name: names of one folder stand together, in bytewise order."""
    return parent.to_bytes(8, "big") + name
