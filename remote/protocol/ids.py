"""The identifiers of the glossary, each with a type of its own, and the few ids with a fixed meaning."""

from typing import NewType

SpaceId = NewType("SpaceId", int)
"""Random, 1 .. 2**63 - 1."""

NodeId = NewType("NodeId", int)
"""Unique on its instance and never reused: range number (30 bits) << 32 | counter; also the inode number.

All are below 2**62: a device may use the inode numbers above for what exists only in its mount."""

Rev = NewType("Rev", int)
"""1, 2, 3 ... in each space, one for each commit; 0 stands for "before the first commit"."""

ChunkId = NewType("ChunkId", bytes)
"""SHA-256 of the sealed bytes, 32 bytes."""

NOW = Rev(0)
"""Where a rev says "as of when": the present."""

PlainHash = NewType("PlainHash", bytes)
"""SHA-256 of the bytes before sealing, 32 bytes; never leaves the device."""

DeviceId = NewType("DeviceId", int)
UserId = NewType("UserId", int)

ROOT = NodeId(1)
"""The top folder of every space."""

NODE_MAX = NodeId((1 << 62) - 1)

NOWHERE = NodeId(0)
"""No node; all ids are greater."""

NO_SPACE = SpaceId(0)
"""No space; all ids are greater."""

NODE_RANGE_BITS = 32
"""A leased range holds 2**32 node ids: range number << NODE_RANGE_BITS is its first id."""
