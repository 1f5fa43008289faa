"""Acts: what the server does with the past of a space for who asks, over HTTP: compare, rewind, undo, forget."""

import os
from collections.abc import Sequence

from remote.client.session import Session
from remote.protocol.events import EventAnswer, Events, EventsRequest, Guard, GuardRequest
from remote.protocol.history import (
    Differences,
    DiffRequest,
    Done,
    Purged,
    PurgeRequest,
    PutBackRequest,
    Retention,
    RetentionRequest,
    RetentionTold,
    RewindRequest,
    Trash,
    TrashRequest,
    UndoRequest,
)
from remote.protocol.ids import NOW, NodeId, Rev, SpaceId
from remote.protocol.messages import Done as Said

_OP_ID_SIZE = 16


class Acts:
    """For one server; op ids make it safe to ask again."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def diff(self, space: SpaceId, folder: NodeId, since: Rev, to: Rev, limit: int) -> Differences:
        """What differs in a folder between two revs (`to` NOW: the present)."""
        request = DiffRequest(folder, since, to, limit)
        return await self._session.ask(Differences, "POST", f"v1/spaces/{space}/diff", request)

    async def rewind(self, space: SpaceId, folder: NodeId, to: Rev, *, is_dry_run: bool, limit: int) -> Done:
        """Makes a folder what it was; raises InTheWay, QuotaExceeded."""
        request = RewindRequest(os.urandom(_OP_ID_SIZE), folder, to, is_dry_run, limit)
        return await self._session.ask(Done, "POST", f"v1/spaces/{space}/rewind", request)

    async def undo(
        self,
        space: SpaceId,
        rev: Rev = NOW,
        *,
        is_dry_run: bool,
        limit: int,
        event: int = 0,
        keeps_new: bool = False,
        passing: Sequence[NodeId] = (),
    ) -> Done:
        """Takes back what one commit did; NOW: the last one of this device, or that it asked for. Or a mass change.

        `passing`: see UndoRequest.
        """
        request = UndoRequest(os.urandom(_OP_ID_SIZE), rev, is_dry_run, limit, event, keeps_new, tuple(passing))
        return await self._session.ask(Done, "POST", f"v1/spaces/{space}/undo", request)

    async def events(self, space: SpaceId, before: int = 0, limit: int = 100) -> Events:
        """What the members of a space are told of, the newest first."""
        return await self._session.ask(Events, "POST", f"v1/spaces/{space}/events", EventsRequest(before, limit))

    async def answer_event(self, space: SpaceId, event: int, says: str) -> None:
        """Says something to an event: see EventAnswer; raises NotFound, InTheWay."""
        await self._session.ask(Said, "POST", f"v1/spaces/{space}/events/answer", EventAnswer(event, says))

    async def guard(self, space: SpaceId, guard: Guard | None = None) -> Guard:
        """The guard of a space; given one, that is set. Raises NotAllowed."""
        return await self._session.ask(Guard, "POST", f"v1/spaces/{space}/guard", GuardRequest(guard))

    async def trash(self, space: SpaceId, before: Rev = NOW, limit: int = 100) -> Trash:
        """What was removed and can be brought back, newest first; see `Trash.next` for more."""
        return await self._session.ask(Trash, "POST", f"v1/spaces/{space}/trash", TrashRequest(before, limit))

    async def put_back(self, space: SpaceId, nodes: Sequence[NodeId], *, limit: int) -> Done:
        """Brings removed things back; raises NotFound for what is not removed, or forgotten."""
        request = PutBackRequest(os.urandom(_OP_ID_SIZE), tuple(nodes), limit=limit)
        return await self._session.ask(Done, "POST", f"v1/spaces/{space}/trash/restore", request)

    async def purge(
        self, space: SpaceId, nodes: Sequence[NodeId] = (), before: Rev = NOW, *, is_dry_run: bool
    ) -> Purged:
        """Forgets for good what nodes were, or (none given) what was removed before a rev; raises NotAllowed."""
        request = PurgeRequest(tuple(nodes), before, is_dry_run)
        return await self._session.ask(Purged, "POST", f"v1/spaces/{space}/purge", request)

    async def retention(self, space: SpaceId, retention: Retention | None = None) -> RetentionTold:
        """What the space keeps of its past; given one, that is set. Raises NotAllowed."""
        request = RetentionRequest(retention)
        return await self._session.ask(RetentionTold, "POST", f"v1/spaces/{space}/retention", request)
