"""Lives: which run of the server gave the revs that this device knows, and how far its journal is still the same.

A server that was put back from an older copy goes on from there in another life. What it gave after that copy was made
is lost on it, and known here: agreed states are set back to what both sides have in common, so that all else is a
local edit again, to be sent.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from cache.records import Record
from cache.tree import Tree
from remote.protocol.ids import Rev
from remote.protocol.messages import Life
from remote.protocol.nodes import NodeState

_SETTING: Final = "lives"
_decoder = msgspec.msgpack.Decoder(tuple[Life, ...])


class Lives:
    """The lives of one space's journal, as the server told them, oldest first; kept in the state store."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        stored = tree.setting(_SETTING)
        self._lives: tuple[Life, ...] = _decoder.decode(stored) if stored else ()

    def at(self, rev: Rev) -> int:
        """The life that this rev was given in; 0 when it is not known."""
        return next((one.life for one in reversed(self._lives) if one.from_rev < rev), 0)

    def heard(self, lives: Sequence[Life]) -> None:
        """Takes the lives from some rev on, before anything that is told with them is taken in."""
        if lives:
            first = lives[0].from_rev
            self._keep((*(one for one in self._lives if one.from_rev < first), *lives))

    def gave(self, rev: Rev, life: int) -> None:
        """A commit of ours became this rev, in this life."""
        if life and self.at(rev) != life:
            self._keep((*(one for one in self._lives if one.from_rev < rev - 1), Life(Rev(rev - 1), life)))

    def common(self, cursor: Rev, theirs: Sequence[Life], head: Rev) -> Rev | None:
        """The last rev up to `cursor` that is the same commit on the server, whose head and lives these are.

        None: none is known to be.
        """
        found: Rev | None = None
        for number, one in enumerate(self._lives):
            for other_number, other in enumerate(theirs):
                if one.life == other.life and one.from_rev < cursor:
                    here = self._lives[number + 1].from_rev if number + 1 < len(self._lives) else cursor
                    there = theirs[other_number + 1].from_rev if other_number + 1 < len(theirs) else head
                    found = max(found or Rev(0), min(here, there, cursor))
        return found

    def _keep(self, lives: tuple[Life, ...]) -> None:
        if lives != self._lives:
            self._tree.set_setting(_SETTING, msgspec.msgpack.encode(lives))
            self._lives = lives


def set_back(record: Record, rev: Rev, then: NodeState | None) -> Record | None:
    """What a record becomes when both sides agree on an older state only; None: on nothing, and nothing is here.

    `rev` 0: the server never had the node. What the mount shows stays as it is.
    """
    listed = replace(record, is_listed=False, is_listing=False)
    if record.local is None and then is None:
        return None
    if not record.staged and record.local == then:
        return replace(listed, rev=rev, is_dirty=False, synced=None, overrides=Rev(0))
    return replace(listed, rev=rev, is_dirty=True, synced=then, overrides=Rev(0))
