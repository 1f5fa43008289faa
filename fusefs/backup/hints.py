"""Hints: where something may have changed, and when to look: at once, or when what is being written has come to rest.

Bounded: when there is more to remember than that, everything is looked through.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import trio

from fusefs.backup.entries import FolderId, Place

_FOLDERS_MAX: Final = 4_096
_NAMES_MAX: Final = 1_024
_LATER_MAX: Final = 1_000
_QUICK_SECONDS: Final = (0.15, 1.0)
"""Without news of a folder for so long; at the latest after so long."""
_REST_SECONDS: Final = (1.0, 10.0)
"""Likewise for files that are being written to."""


@dataclass
class Hint:
    """Names in one folder; None: all of them."""

    names: set[bytes] | None = field(default_factory=set)
    first: float = 0.0
    due: float = 0.0


class Hints:
    """Those of one backup. Times are trio's."""

    def __init__(self) -> None:
        self._hints: dict[tuple[FolderId, bool], Hint] = {}
        self._later: dict[Place, float] = {}
        self.is_too_much = False
        """More changed than was remembered."""
        self.unwatched = ""
        """Why changes in some folders are not heard of, a sentence."""
        self.changed = trio.Event()

    def __len__(self) -> int:
        return len(self._hints) + len(self._later)

    def note(self, folder: FolderId, name: bytes, *, is_written: bool) -> None:
        """Something about a name (empty: the folder itself) may be another; `is_written`: and will be soon again."""
        now = trio.current_time()
        pause, most = _REST_SECONDS if is_written else _QUICK_SECONDS
        hint = self._hints.get((folder, is_written))
        if hint is None:
            if len(self._hints) >= _FOLDERS_MAX:
                self.is_too_much = True
                self.changed.set()
                return
            hint = self._hints[folder, is_written] = Hint(first=now)
            self.changed.set()
        hint.due = min(now + pause, hint.first + most)
        if hint.names is None or not name:
            return
        hint.names.add(name)
        if len(hint.names) > _NAMES_MAX:
            hint.names = None

    def again(self, place: Place, seconds: float) -> None:
        """Looks at a name once more after so long."""
        if len(self._later) >= _LATER_MAX and place not in self._later:
            # Whatever it is, the next look at everything finds it.
            return
        self._later[place] = trio.current_time() + seconds
        self.changed.set()

    def clear(self) -> None:
        """Everything is looked at anyway."""
        self._hints.clear()
        self._later.clear()
        self.is_too_much = False

    @property
    def next_due(self) -> float:
        """When to look; infinite when there is nothing."""
        if self.is_too_much:
            return 0.0
        dues = [hint.due for hint in self._hints.values()] + list(self._later.values())
        return min(dues, default=math.inf)

    def take(self) -> dict[FolderId, set[bytes] | None]:
        """What is due."""
        now = trio.current_time()
        found: dict[FolderId, set[bytes] | None] = {}
        for key, hint in [pair for pair in self._hints.items() if pair[1].due <= now]:
            del self._hints[key]
            known = found.get(key[0], set())
            found[key[0]] = None if known is None or hint.names is None else known | hint.names
        for place in [place for place, due in self._later.items() if due <= now]:
            del self._later[place]
            known = found.setdefault(place.folder, set())
            if known is not None:
                known.add(place.name)
        return found
