"""Reports: what of a backup could not be taken, why, and when it is tried again; what is left out."""

from dataclasses import dataclass
from typing import Final

import trio

from fusefs.backup.entries import Place

KEPT_MAX: Final = 1_000
"""So many are named; of more it is known how many there are."""
_AGAIN_SECONDS: Final = (5.0, 600.0)


@dataclass
class Problem:
    """Of one name."""

    path: bytes
    sentence: str
    tries: int
    again_at: float

    @property
    def seconds(self) -> float:
        """Until it is tried again."""
        return max(0.0, self.again_at - trio.current_time())


class Reports:
    """Those of one backup."""

    def __init__(self) -> None:
        self.problems: dict[Place, Problem] = {}
        self.skipped: dict[Place, tuple[bytes, str]] = {}
        self.restless: dict[Place, int] = {}
        """Files that were changed while they were read, and how often in a row."""
        self.unnamed = 0

    def fail(self, place: Place, path: bytes, sentence: str) -> float:
        """Notes why a name could not be taken; in how many seconds it is tried again."""
        known = self.problems.get(place)
        tries = known.tries + 1 if known is not None else 1
        seconds = min(_AGAIN_SECONDS[0] * 2.0 ** min(tries - 1, 20), _AGAIN_SECONDS[1])
        if known is None and len(self.problems) >= KEPT_MAX:
            self.unnamed += 1
        else:
            self.problems[place] = Problem(path, sentence, tries, trio.current_time() + seconds)
        return seconds

    def skip(self, place: Place, path: bytes, why: str) -> None:
        """Notes that a name is left out on purpose."""
        if len(self.skipped) < KEPT_MAX:
            self.skipped[place] = (path, why)

    def settle(self, place: Place) -> None:
        """The name is taken, or gone."""
        self.problems.pop(place, None)
        self.skipped.pop(place, None)
        self.restless.pop(place, None)

    def begin(self) -> None:
        """All is looked through: what is still so is noted again."""
        self.skipped.clear()
        self.unnamed = 0
