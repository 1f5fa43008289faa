"""Load: whether others want the processors of this machine, so that what can wait gives way to them."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

_SPARE_PROCESSORS: Final = 0.5
"""Idle processors below which others go without."""
GIVE_WAY: Final = 4
"""How many more pauses there are, at most, before who gives way goes on."""
_LOOK_SECONDS: Final = 0.1
"""The kernel counts hundredths of a second: looks that follow each other sooner would say nothing."""
_IDLE: Final = slice(3, 5)
"""Of a line of /proc/stat: idle, and waiting for disks (proc_stat(5))."""


class Load:
    """What the machine did between one look and the next."""

    def __init__(self, counted: Path = Path("/proc/stat")) -> None:
        self._counted = counted
        self._idle_ticks = 0
        self._looked_at = 0.0
        self._is_high = False
        self._ticks_in_second = os.sysconf("SC_CLK_TCK")
        self.is_high()

    def is_high(self) -> bool:
        """Whether less than half a processor was idle since the last look; False where the kernel does not say."""
        now = time.monotonic()
        seconds = now - self._looked_at
        if seconds < _LOOK_SECONDS:
            return self._is_high
        try:
            with open(self._counted, encoding="ascii") as file:
                idle_ticks = sum(map(int, file.readline().split()[1:][_IDLE]))
        except (OSError, ValueError):
            return False
        idle_seconds = (idle_ticks - self._idle_ticks) / self._ticks_in_second
        self._is_high = self._looked_at > 0 and idle_seconds < _SPARE_PROCESSORS * seconds
        self._idle_ticks, self._looked_at = idle_ticks, now
        return self._is_high

    async def give_way(self, seconds: float) -> None:
        """Pauses so long, at most four times, while others want the processors."""
        for _ in range(GIVE_WAY):
            if not self.is_high():
                return
            await asyncio.sleep(seconds)
