"""Keeping: what this machine keeps of a drive, as a person asks: told, trimmed, and given another limit."""

from typing import Final

from cache.chunks import Chunks
from cache.eviction import SPARE_SHARE, Budget
from cache.past import Past
from cache.pins import Pins
from cache.staging import Stagings
from fusefs.counting import Counting

PAST_SHARE: Final = 32
"""One part in so many of the cache is for answers about the past."""


class Keeping:
    """The cache of one drive."""

    def __init__(
        self, budget: Budget, chunks: Chunks, stagings: Stagings, past: Past, pins: Pins, counting: Counting
    ) -> None:
        self._budget = budget
        self._chunks = chunks
        self._stagings = stagings
        self._past = past
        self._pins = pins
        self._counting = counting

    def told(self) -> dict[str, int]:
        """How full it is, of what, and how many reads it could answer; bytes but for the last two."""
        budget, counts = self._budget, self._counting.sums()
        total, free, floor = budget.disk()
        return {
            "used_bytes": budget.used_bytes,
            "limit_bytes": budget.limit_bytes,
            "unsent_bytes": self._stagings.total_bytes,
            "pinned_bytes": self._pins.kept().size_bytes,
            "chunks": self._chunks.order.count,
            "disk_bytes": total,
            "disk_free_bytes": free,
            "floor_bytes": floor,
            "hits": counts.cache_hits,
            "misses": counts.cache_misses,
        }

    async def trim(self, target_bytes: int) -> dict[str, int]:
        """Drops what can be fetched again until no more than this is used; what is pinned or not yet sent stays."""
        before = self._budget.used_bytes
        await self._budget.trim(target_bytes)
        return {**self.told(), "freed_bytes": max(0, before - self._budget.used_bytes)}

    async def limit(self, size_bytes: int) -> dict[str, int]:
        """Holds the cache to another limit from now on; what is over it is dropped, as far as it can be."""
        past_bytes = size_bytes // PAST_SHARE
        self._budget.limit_bytes = size_bytes - past_bytes
        self._chunks.spare_limit_bytes = int(self._budget.limit_bytes * SPARE_SHARE)
        self._budget.notice()
        self._pins.retry()
        await self._past.limit(past_bytes)
        return await self.trim(self._budget.limit_bytes)
