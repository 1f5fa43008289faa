"""How a node's state is stored: encoded without its content, which lies sealed and apart."""

import msgspec

from remote.protocol.ids import NodeId, Rev
from remote.protocol.nodes import Manifest, NodeState, NodeVersion
from remote.server.keys import SpaceKey

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


def version(
    key: SpaceKey, node: NodeId, rev: Rev, edited_ns: int, state: bytes | None, manifest: bytes | None
) -> NodeVersion:
    """A node's state put together again from what is stored."""
    if state is None:
        return NodeVersion(node, rev, edited_ns, None)
    opened = _states.decode(state)
    if manifest is not None:
        opened = msgspec.structs.replace(opened, content=open_manifest(key, manifest))
    return NodeVersion(node, rev, edited_ns, opened)
