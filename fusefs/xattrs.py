"""Extended attributes: those that programs give, and ours, which tell how a file stands."""

import os
from typing import Final

from msgspec.structs import replace

from fusefs.errors import Invalid, NoAttribute, NoRoomForAttribute, NotPermitted, NotSupported
from fusefs.volume import Volume
from remote.protocol.ids import NodeId
from remote.protocol.nodes import XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_TOTAL_MAX

_TRUSTED: Final = b"trusted."
_KEPT: Final = (b"user.", _TRUSTED, b"security.")


class ExtendedAttributes:
    """The extended attributes of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def get(self, node: NodeId, name: bytes) -> bytes | None:
        """The value of an extended attribute, ours included; None when there is no such attribute."""
        if name.startswith(b"user.satchel."):
            return self._own(node, name)
        _check_name(name)
        return self._volume.state(node).xattrs.get(name)

    def names(self, node: NodeId, *, is_root: bool) -> list[bytes]:
        """Names of the attributes that programs gave; ours are not listed, so that copies do not carry them along.

        Nor are those that only root can read, to others.
        """
        names = sorted(self._volume.state(node).xattrs)
        return names if is_root else [name for name in names if not name.startswith(_TRUSTED)]

    def set(self, node: NodeId, name: bytes, value: bytes) -> None:
        """Sets one; raises NotPermitted for ours, NotSupported for ACLs, Invalid, NoRoomForAttribute."""
        if name.startswith(b"user.satchel."):
            raise NotPermitted("These attributes tell how things are; they cannot be set.")
        _check_name(name)
        self._volume.check_writable(node)
        state = self._volume.state(node)
        if len(name) > XATTR_NAME_MAX or len(value) > XATTR_SIZE_MAX:
            raise NoRoomForAttribute(f"An attribute has at most {XATTR_SIZE_MAX} bytes.")
        xattrs = {**state.xattrs, name: value}
        if sum(len(key) + len(item) for key, item in xattrs.items()) > XATTR_TOTAL_MAX:
            raise NoRoomForAttribute(f"All attributes of a node have at most {XATTR_TOTAL_MAX} bytes.")
        self._volume.set_state(node, replace(state, xattrs=xattrs))

    def remove(self, node: NodeId, name: bytes) -> None:
        """Removes one; raises NoAttribute, NotPermitted for ours, NotSupported for ACLs, Invalid."""
        if name.startswith(b"user.satchel."):
            raise NotPermitted("These attributes tell how things are; they cannot be removed.")
        _check_name(name)
        self._volume.check_writable(node)
        state = self._volume.state(node)
        if name not in state.xattrs:
            raise NoAttribute("There is no such attribute.")
        xattrs = {key: value for key, value in state.xattrs.items() if key != name}
        self._volume.set_state(node, replace(state, xattrs=xattrs))

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


def _check_name(name: bytes) -> None:
    if not name.startswith(_KEPT):
        raise NotSupported("Access control lists, and names of no kind that there is, are not kept.")
    if name in _KEPT:
        raise Invalid("A name is more than its kind.")
