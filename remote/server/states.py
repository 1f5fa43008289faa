"""How a node's state is stored: encoded without its content, which lies sealed and apart."""

from typing import cast

import msgspec

from remote.protocol.ids import NodeId, Rev
from remote.protocol.nodes import Kind, Manifest, NodeState, NodeVersion
from remote.server.keys import SpaceKey

_FIELDS = len(NodeState.__struct_fields__)
_HEAD = 0x90 | _FIELDS
"""How msgpack begins an array of so many elements, up to 15."""
_NIL = 0xC0
_TAIL = b"\xc0\x00"
"""How a stored state of what mounts nothing ends: no content, and 0."""
_HEAD_BEFORE = _HEAD - 1
"""Of states without `mounts`, as they were written up to format 4."""
assert _FIELDS <= 15, "a longer array begins otherwise"
assert NodeState.__struct_fields__[0] == "kind", "folders are known by it"
assert NodeState.__struct_fields__[-2:] == ("content", "mounts"), "content is put between the rest of a stored state"

_encoder = msgspec.msgpack.Encoder()
_states = msgspec.msgpack.Decoder(NodeState)
_manifests = msgspec.msgpack.Decoder(Manifest)


def encode_state(state: NodeState) -> bytes:
    """The state without its content."""
    bare = state if state.content is None else msgspec.structs.replace(state, content=None)
    return _encoder.encode(bare)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is sealed."""
    return _encoder.encode(manifest)


def decode_state(stored: bytes) -> NodeState:
    """The state without its content."""
    return _states.decode(stored)


def open_manifest(key: SpaceKey, sealed: bytes) -> Manifest:
    """The manifest that was sealed."""
    return _manifests.decode(key.open(sealed))


def opened_state(key: SpaceKey, state: bytes | None, manifest: bytes | None) -> NodeState | None:
    """The state with the content of its sealed manifest, if it has one; None for a node that was removed."""
    if state is None:
        return None
    found = decode_state(state)
    return found if manifest is None else msgspec.structs.replace(found, content=open_manifest(key, manifest))


def version(
    key: SpaceKey, node: NodeId, rev: Rev, edited_ns: int, state: bytes | None, manifest: bytes | None
) -> NodeVersion:
    """A node's state put together again from what is stored, to be encoded only: its fields cannot be looked at."""
    if state is None:
        return NodeVersion(node, rev, edited_ns, None)
    if manifest is not None:
        state = _with_content(key, state, manifest)
    # Encoded, it is a state; to decode and encode it again takes five times as long (16 us).
    return NodeVersion(node, rev, edited_ns, cast(NodeState, msgspec.Raw(state)))


def is_folder(put_together: NodeVersion) -> bool:
    """Whether this, as `version` puts it together, is a folder: the kind is the first field, a small number."""
    return put_together.state is not None and memoryview(cast(msgspec.Raw, put_together.state))[1] == Kind.FOLDER


def _with_content(key: SpaceKey, state: bytes, manifest: bytes) -> bytes:
    if state[0] == _HEAD and state[-2:] == _TAIL:
        return b"".join((state[:-2], key.open(manifest), b"\0"))
    if state[0] == _HEAD_BEFORE and state[-1] == _NIL:
        return state[:-1] + key.open(manifest)
    # Written by a version whose states had other fields.
    return _encoder.encode(msgspec.structs.replace(_states.decode(state), content=open_manifest(key, manifest)))
