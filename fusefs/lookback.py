"""Lookback: what one space was, asked of its server. What is known of the past never changes, so answers are kept."""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from cache.past import Past
from fusefs.errors import NoEntry, NotFolder
from remote.protocol.errors import NotFound
from remote.protocol.ids import NOW, NOWHERE, ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Conflict, FolderQuery, Moments
from remote.protocol.nodes import NodeState, NodeVersion
from remote.protocol.service import Service

_MOMENTS_MAX: Final = 10_000

_children_encoder = msgspec.msgpack.Encoder()
_children_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, NodeVersion]])


class Lookback:
    """The past of one space."""

    def __init__(
        self, service: Service, space: SpaceId, past: Past, life_at: Callable[[Rev], int], seconds: float = 15.0
    ) -> None:
        """`life_at`: see Lives.at: a server that was put back gives revs again. `seconds`: for each question."""
        self._service = service
        self.space = space
        self._past = past
        self.life_at = life_at
        self._seconds = seconds

    async def moments(self, folder: NodeId, steps: tuple[tuple[int, int], ...]) -> Moments:
        """The moments at which a folder, or anything below it, changed; see MomentsRequest for `steps`."""
        with trio.fail_after(self._seconds):
            return await self._service.moments(self.space, folder, _MOMENTS_MAX, steps)

    async def conflicts(self) -> list[Conflict]:
        """All conflicts that nobody has settled, by node and rev."""
        found: list[Conflict] = []
        after, after_rev = NOWHERE, NOW
        with trio.fail_after(self._seconds):
            while True:
                answer = await self._service.conflicts(self.space, after, after_rev)
                found += answer.conflicts
                if not answer.more:
                    return found
                after, after_rev = found[-1].node, found[-1].lost.rev

    async def rev_at(self, time_ns: int) -> Rev:
        """The last rev at this time; raises NoEntry before the first."""
        with trio.fail_after(self._seconds):
            moment = await self._service.as_of(self.space, time_ns)
        if moment.rev == 0:
            raise NoEntry("Nothing existed at that time: satchel versions shows when it did.")
        return moment.rev

    async def time_of(self, rev: Rev) -> int:
        """When the commit of a rev was, in ns; raises NoEntry for one that is older than the latest thousands."""
        found = (await self.moments(ROOT, ())).moments
        later = [one.time_ns for one in found if one.rev >= rev]
        if not later or (len(later) == len(found) == _MOMENTS_MAX):
            raise NoEntry(f"When rev {rev} was is not known any more: ask for its time.")
        return later[-1]

    async def state_at(self, node: NodeId, rev: Rev) -> NodeState | None:
        """A node's state as of a rev, None when it did not exist."""
        key = b"node %d %x %d %d" % (self.space, self.life_at(rev), rev, node)
        kept = await self._past.get(key)
        if kept is not None:
            return msgspec.msgpack.decode(kept, type=NodeState | None)
        try:
            with trio.fail_after(self._seconds):
                answer = await self._service.nodes(self.space, [node], rev)
        except NotFound:
            return None
        version = answer.nodes[0]
        state = version.state if version is not None else None
        await self._past.put(key, msgspec.msgpack.encode(state))
        return state

    async def children_at(self, folder: NodeId, rev: Rev) -> list[tuple[bytes, NodeVersion]]:
        """The names in a folder as of a rev, with their nodes as of then."""
        key = b"list %d %x %d %d" % (self.space, self.life_at(rev), rev, folder)
        kept = await self._past.get(key)
        if kept is not None:
            return _children_decoder.decode(kept)
        found: list[tuple[bytes, NodeVersion]] = []
        after = b""
        with trio.fail_after(self._seconds):
            while True:
                answer = await self._service.list_folders(self.space, [FolderQuery(folder, after)], rev)
                for listing in answer.folders:
                    if listing.gone:
                        raise NotFolder("There was no such folder at that time.")
                    found.extend(zip(listing.names, listing.children, strict=True))
                if not answer.folders or not answer.folders[0].more:
                    break
                after = answer.folders[0].names[-1]
        await self._past.put(key, _children_encoder.encode(found))
        return found
