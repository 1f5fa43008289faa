"""Beat: once a second while the event loop has anything to do, and never while it has not.

A drive that nobody uses wakes no processor.
"""

from typing import Final

import trio

BEAT_SECONDS: Final = 1.0


class Beat(trio.abc.Instrument):
    """For one task of one loop; to be added to the loop as an instrument."""

    def __init__(self) -> None:
        self._turns = 0
        self._has_rested = False
        self._woken: trio.Event | None = None

    def after_io_wait(self, timeout: float) -> None:
        """A turn of the loop begins."""
        self._turns += 1
        if self._woken is not None:
            self._woken.set()
            self._woken = None

    async def next(self, *, may_rest: bool) -> bool:
        """Returns after BEAT_SECONDS; if it `may_rest` and the loop did nothing meanwhile, when it does; whether so."""
        # What ended the rest may go on after this turn's beat: that turn counts for the next one.
        turns = self._turns - self._has_rested
        await trio.sleep(BEAT_SECONDS)
        # One turn is that of the sleep itself.
        self._has_rested = may_rest and self._turns <= turns + 1
        if self._has_rested:
            self._woken = trio.Event()
            await self._woken.wait()
        return self._has_rested
