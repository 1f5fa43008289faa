"""Extended attributes: those that programs give, and ours, which tell how a file stands."""

import os
import time
from typing import Final

from msgspec.structs import replace

from fusefs.errors import NoAttribute, NoRoomForAttribute, NotPermitted, NotSupported
from fusefs.volume import Volume
from remote.protocol.ids import NodeId
from remote.protocol.nodes import XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_TOTAL_MAX, NodeState

_KEPT: Final = (b"user.", b"trusted.", b"security.")


class ExtendedAttributes:
    """The extended attributes of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def get(self, node: NodeId, name: bytes) -> bytes | None:
        """The value of an extended attribute, ours included; None when there is no such attribute."""
        if name.startswith(b"user.satchel."):
            return self._own(node, name)
        if name.startswith(b"system."):
            raise NotSupported("Access control lists are not kept.")
        return self._state(node).xattrs.get(name)

    def names(self, node: NodeId) -> list[bytes]:
        """Names of the attributes that programs gave; ours are not listed, so that copies do not carry them along."""
        return sorted(self._state(node).xattrs)

    def set(self, node: NodeId, name: bytes, value: bytes) -> None:
        """Sets one; raises NotPermitted for ours, NotSupported for ACLs, NoRoomForAttribute."""
        if name.startswith(b"user.satchel."):
            raise NotPermitted("These attributes tell how things are; they cannot be set.")
        if not name.startswith(_KEPT):
            raise NotSupported("Access control lists, and names of no kind that there is, are not kept.")
        self._volume.check_writable(node)
        state = self._state(node)
        if len(name) > XATTR_NAME_MAX or len(value) > XATTR_SIZE_MAX:
            raise NoRoomForAttribute(f"An attribute has at most {XATTR_SIZE_MAX} bytes.")
        xattrs = {**state.xattrs, name: value}
        if sum(len(key) + len(item) for key, item in xattrs.items()) > XATTR_TOTAL_MAX:
            raise NoRoomForAttribute(f"All attributes of a node have at most {XATTR_TOTAL_MAX} bytes.")
        self._put(node, state, xattrs)

    def remove(self, node: NodeId, name: bytes) -> None:
        """Removes one; raises NoAttribute, NotPermitted for ours."""
        if name.startswith(b"user.satchel."):
            raise NotPermitted("These attributes tell how things are; they cannot be removed.")
        self._volume.check_writable(node)
        state = self._state(node)
        if name not in state.xattrs:
            raise NoAttribute("There is no such attribute.")
        self._put(node, state, {key: value for key, value in state.xattrs.items() if key != name})

    def _put(self, node: NodeId, state: NodeState, xattrs: dict[bytes, bytes]) -> None:
        file = self._volume.files.find(node)
        now_ns = time.time_ns()
        if file is not None and file.is_orphan:
            file.state = replace(state, xattrs=xattrs, ctime_ns=now_ns)
            return
        with self._volume.tree.edit() as edit:
            edit.set_local(node, replace(state, xattrs=xattrs, ctime_ns=now_ns), now_ns)
        self._volume.wake()

    def _state(self, node: NodeId) -> NodeState:
        file = self._volume.files.find(node)
        state = self._volume.files.state(file) if file is not None else self._volume.record(node).local
        assert state is not None
        return state

    def _own(self, node: NodeId, name: bytes) -> bytes | None:
        record = self._volume.record(node)
        file = self._volume.files.find(node)
        is_ignored = bool(self._volume.sync.rule_for(node))
        is_changed = record.is_dirty or (file is not None and file.is_changed)
        is_pending = not is_ignored and (is_changed or self._volume.tree.has_lost(node))
        trouble = self._volume.sync.trouble_of(node)
        match name.removeprefix(b"user.satchel."):
            case b"state":
                if is_ignored:
                    return b"ignored"
                return b"error" if trouble else b"pending" if is_pending else b"synced"
            case b"pending_bytes":
                has_content = is_pending and (bool(record.staged) or (file is not None and file.is_changed))
                return b"%d" % (self._volume.attributes(node).size if has_content else 0)
            case b"cached_bytes":
                return b"%d" % self._volume.files.held_bytes(node)
            case b"error":
                return os.fsencode(trouble)
            case b"node":
                return b"%d" % node
            case b"rev":
                return b"%d" % record.rev
        return None
