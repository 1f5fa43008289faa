"""Sights: the past of each space of a drive, with all that can be asked or made of it."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from cache.grafted import GraftedActs
from cache.grafts import Graft, Grafts
from cache.past import Past
from cache.tree import Tree
from fusefs.conflicts import Conflicts
from fusefs.control import Refused
from fusefs.history import History
from fusefs.lookback import Lookback
from fusefs.restore import Restore
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.service import Acts, Service

Fields = dict[str, Any]  # a request's JSON: each verb checks what it uses
Choices = TypeVar("Choices", bound=msgspec.Struct)


@dataclass(frozen=True)
class Sight:
    """The past of one space, seen from the folder `top` that mounts it."""

    space: SpaceId
    top: NodeId
    tree: Tree
    """As this space sees it."""
    lookback: Lookback
    history: History
    restore: Restore
    conflicts: Conflicts
    acts: Acts

    @property
    def cursor(self) -> Rev:
        """The last rev of the space that this device has applied."""
        return self.tree.cursor


Make = Callable[[Lookback, Service, SpaceId, NodeId], tuple[History, Restore, Conflicts]]


class Sights:
    """Those of one drive."""

    def __init__(self, home: Sight, grafts: Grafts, past: Past, acts: Acts, make: Make, seconds: float) -> None:
        """`make` puts together what is asked of a space."""
        self.home = home
        self._grafts = grafts
        self._past = past
        self._acts = acts
        self._make = make
        self._seconds = seconds
        self._made: dict[tuple[SpaceId, NodeId], Sight] = {}

    def all(self) -> list[Sight]:
        """The home's first."""
        return [self.home, *map(self._of, self._grafts.all.values())]

    def below(self, folder: NodeId) -> Sight:
        """That of the space which the entries of a live folder belong to."""
        graft = self._grafts.below(folder)
        return self._of(graft) if graft is not None else self.home

    def of(self, node: NodeId) -> Sight:
        """That of the space which a live node belongs to."""
        graft = self._grafts.of(node)
        return self._of(graft) if graft is not None else self.home

    def of_path(self, path: bytes) -> tuple[Sight, bytes]:
        """That of the space which a path leads into, as far as it is known here, and the path in it."""
        parts = [part for part in path.split(b"/") if part]
        tree, node = self.home.tree, ROOT
        for number, part in enumerate(parts, start=1):
            child = tree.child(node, part)
            if child is None:
                break
            node = child
            record = tree.record(node)
            if record is not None and record.local is not None and record.local.mounts:
                return self.below(node), b"/".join(parts[number:])
        return self.home, path

    def named(self, fields: Fields) -> Sight:
        """That of the shared folder which a request names by a path in it; the home's without one. Raises Refused."""
        path = str(fields.get("path") or "")
        found = self.of_path(os.fsencode(path))[0]
        if path and found is self.home:
            raise Refused(f"{path} is in no shared folder. Nothing was done: leave --in out to ask of your home.")
        return found

    async def choices(self, fields: Fields, ask: Callable[[Sight, Choices | None], Awaitable[Choices]]) -> Fields:
        """What is chosen for the space that a request names, after what the request says of it was set.

        `ask` tells it, and sets what it is given.
        """
        sight = self.named(fields)
        now = await ask(sight, None)
        said = {name: fields[name] for name in now.__struct_fields__ if fields.get(name) is not None}
        if said:
            now = await ask(sight, msgspec.structs.replace(now, **said))
        return msgspec.structs.asdict(now)

    def prefix(self, sight: Sight) -> bytes:
        """What stands before a path in a space, in one of the mount."""
        return self.home.tree.path_of(sight.top) + b"/" if sight.top != ROOT else b""

    def _of(self, graft: Graft) -> Sight:
        known = graft.known
        key = (known.space, known.top)
        found = self._made.get(key)
        if found is None or found.tree is not graft.part:
            lookback = Lookback(graft.service, known.space, self._past, graft.pull.lives.at, self._seconds)
            history, restore, conflicts = self._make(lookback, graft.service, known.space, known.top)
            acts = GraftedActs(self._acts, known.top)
            found = Sight(known.space, known.top, graft.part, lookback, history, restore, conflicts, acts)
            live = {(one.known.space, one.known.top) for one in self._grafts.all.values()}
            self._made = {one: sight for one, sight in self._made.items() if one in live} | {key: found}
        return found
