"""Counting: what went over the wire and what the cache answered since this device was set up, kept across restarts."""

from typing import Final, Protocol

import msgspec

from cache.reader import Counters
from cache.tree import Tree

_SETTING: Final = "counts"


class Traffic(Protocol):
    """Counters of the wire since the daemon started, as the client keeps them."""

    sent_bytes: int
    received_bytes: int
    requests: int


class Counts(msgspec.Struct, frozen=True):
    """Sums since the device was set up."""

    sent_bytes: int = 0
    received_bytes: int = 0
    requests: int = 0
    cache_hits: int = 0
    cache_misses: int = 0


class Counting:
    """Adds what this run counts to what was counted before."""

    def __init__(self, tree: Tree, traffic: Traffic, reads: Counters) -> None:
        self._tree = tree
        self._traffic = traffic
        self._reads = reads
        value = tree.setting(_SETTING)
        self._before = msgspec.msgpack.decode(value, type=Counts) if value else Counts()
        self._kept = self._before

    def sums(self) -> Counts:
        """Everything up to now."""
        before = self._before
        return Counts(
            sent_bytes=before.sent_bytes + self._traffic.sent_bytes,
            received_bytes=before.received_bytes + self._traffic.received_bytes,
            requests=before.requests + self._traffic.requests,
            cache_hits=before.cache_hits + self._reads.hits,
            cache_misses=before.cache_misses + self._reads.misses,
        )

    def keep(self) -> None:
        """Keeps the sums in the tree's store, if they moved."""
        sums = self.sums()
        if sums != self._kept:
            self._tree.set_setting(_SETTING, msgspec.msgpack.encode(sums))
            self._kept = sums
