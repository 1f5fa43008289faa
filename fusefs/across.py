"""Across: what a path was in another space than the one that has it now: before its folder was shared, or while it was.

Sharing a folder, and to stop it, takes nodes with their ids into another space; what they were before stays in the
history of the space that they left, which their owner may read.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cache.grafted import Grafted
from cache.past import Past
from fusefs.history import History, Old
from fusefs.lookback import Lookback
from fusefs.restore import Restore
from fusefs.sights import Sight, Sights
from fusefs.volume import Volume
from remote.protocol.errors import NotAllowed, NotFound
from remote.protocol.ids import NO_SPACE, ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Moment
from remote.protocol.nodes import Kind
from remote.protocol.service import Service


@dataclass(frozen=True)
class Elsewhere:
    """What a path was in one other space, newest first; what is asked and restored there, by paths of the mount."""

    space: SpaceId
    word: str
    """What people call it: `home`, `shared1` for the first space that it was in while it was shared, and so on."""
    lookback: Lookback
    restore: Restore
    versions: Sequence[Old]
    moments: Sequence[Moment]
    left: frozenset[Rev] = frozenset()
    """Revs of the present space that say that it was removed: it went into the other one."""


class Across:
    """Looks for that in one drive."""

    def __init__(self, volume: Volume, sights: Sights, service: Service, past: Past, seconds: float) -> None:
        self._volume = volume
        self._sights = sights
        self._service = service
        self._past = past
        self._seconds = seconds

    async def of_path(self, sight: Sight, path: bytes) -> list[Elsewhere]:
        """The pasts elsewhere of what has this path of a space now, or had it last; raises NoEntry, RemoteError."""
        node = await sight.history.find(path)
        if sight is not self._sights.home:
            found = await self._before_sharing(sight, node)
            return [found] if found is not None else []
        return await self._while_shared(await sight.history.of_path(path))

    def mounted(self, space: SpaceId, top: NodeId, life: int) -> Lookback:
        """The past of a space that this folder of the home mounts, or did in that life of the home."""
        for sight in self._sights.all():
            if (sight.space, sight.top) == (space, top):
                return sight.lookback
        return Lookback(Grafted(self._service, top), space, self._past, lambda _: life, self._seconds)

    async def _before_sharing(self, sight: Sight, node: NodeId) -> Elsewhere | None:
        """Of what is in a shared folder: in the home, if that had the folder before it was shared."""
        home = self._sights.home
        tops = await home.history.of_node(sight.top)
        mounted = [old.version.rev for old in tops if old.version.state and old.version.state.mounts == sight.space]
        was = Rev(min(mounted, default=1) - 1)
        if not was or await home.lookback.state_at(sight.top, was) is None:
            return None
        if await home.lookback.state_at(node, was) is None:
            # A program that saves by renaming a new file over the old one made a new node since.
            holder = await self._holder_before(sight, node, was)
            if holder is None:
                return None
            node = holder
        return await self._elsewhere(home.space, home.lookback, home.history, node, was)

    async def _holder_before(self, sight: Sight, node: NodeId, was: Rev) -> NodeId | None:
        for old in await sight.history.of_node(node):
            for name in old.version.state.names if old.version.state else ():
                holder = await self._sights.home.history.holder_at(name, was)
                if holder is not None:
                    return holder
        return None

    async def _while_shared(self, found: Sequence[Old]) -> list[Elsewhere]:
        """Of what is in the home: in spaces that folders above it were, each once."""
        home = self._sights.home
        seen: set[SpaceId] = set()
        spaces: list[Elsewhere] = []
        for at, old in enumerate(found):
            state, older = old.version.state, next((one for one in found[at + 1 :] if one.node == old.node), None)
            if state is None:
                continue
            if state.mounts:
                space, top, rev = state.mounts, old.node, old.version.rev
            elif older is None or older.version.state is None:
                space, top, rev = await self._came_from(old.node, old.version.rev)
            else:
                continue
            is_shared = any(one.space == space for one in self._sights.all())
            if space == NO_SPACE or space in seen or is_shared:
                continue
            seen.add(space)
            life = home.lookback.life_at(rev)
            service = Grafted(self._service, top)
            lookback = self.mounted(space, top, life)
            history = History(self._volume, lookback, service, space, top)
            left = frozenset({older.version.rev}) if older is not None and older.version.state is None else frozenset()
            with suppress(NotFound, NotAllowed):
                one = await self._elsewhere(space, lookback, history, old.node, None, left)
                spaces += [one] if one is not None else []
        return [replace(one, word=f"shared{len(spaces) - at}") for at, one in enumerate(spaces)]

    async def _came_from(self, node: NodeId, rev: Rev) -> tuple[SpaceId, NodeId, Rev]:
        """The space that a folder above was until just before a rev, and that folder; NO_SPACE: none was."""
        lookback = self._sights.home.lookback
        at = node
        while at != ROOT and rev > 1:
            state = await lookback.state_at(at, rev)
            if state is None or not state.names:
                break
            at = state.names[0].parent
            before = await lookback.state_at(at, Rev(rev - 1)) if at != ROOT else None
            if before is not None and before.mounts:
                return before.mounts, at, Rev(rev - 1)
        return NO_SPACE, ROOT, rev

    async def _elsewhere(
        self,
        space: SpaceId,
        lookback: Lookback,
        history: History,
        node: NodeId,
        until: Rev | None,
        left: frozenset[Rev] = frozenset(),
    ) -> Elsewhere | None:
        """What a node, and who had its name before, was in a space: up to a rev of that, or its end."""
        own = await history.of_node(node)
        if until is not None:
            own = [old for old in own if old.version.rev <= until]
        # That it is not there any more is how it came to be where it is.
        while own and own[0].version.state is None:
            until = Rev(own[0].version.rev - 1)
            own = own[1:]
        own = [old for old in own if old.version.state is None or not old.version.state.mounts]
        state = own[0].version.state if own else None
        if state is None:
            return None
        restore = Restore(self._volume, lookback)
        if state.kind is not Kind.FOLDER:
            versions = await history.with_older(own, state.names[0])
            return Elsewhere(space, "home", lookback, restore, versions, (), left)
        revs = {old.version.rev for old in own}
        moments = [one for one in await history.moments_of(node) if until is None or one.rev <= until]
        if until is None and moments and not await lookback.children_at(node, moments[0].rev):
            # The end of sharing left the space empty.
            own, moments = [old for old in own if old.version.rev < moments[0].rev], moments[1:]
        return Elsewhere(space, "home", lookback, restore, own, [one for one in moments if one.rev not in revs], left)
