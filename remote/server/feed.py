"""Feed: what changed in a file, or in a folder and all below it, rev by rev, for programs that follow it."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial

from remote.protocol.errors import CursorTooOld, NotFound
from remote.protocol.history import Difference
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind
from remote.server.accounts import check_standing
from remote.server.database import past as past_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import SpaceRow
from remote.server.differences import Step, told
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.past import Past
from remote.server.reading import Authors
from remote.server.rights import Right, member_space

CHANGES_MAX = 10_000
REVS_MAX = 1_000
WAIT_SECONDS_MAX = 60


@dataclass(frozen=True)
class Changed:
    """What one rev did there."""

    rev: Rev
    time_ns: int
    user_name: str
    device_name: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Changes:
    """Oldest first; `next`: ask again since this. `is_cut`: of the last rev not all is told."""

    revs: list[Changed]
    next: Rev
    head: Rev
    is_cut: bool


class Feed:
    """Follows spaces, for their members."""

    def __init__(self, database: Database, keyring: Keyring, hub: Hub) -> None:
        self._database = database
        self._keyring = keyring
        self._hub = hub

    async def changes(
        self, device: Device, space: SpaceId, node: NodeId, since: Rev, limit: int, wait_seconds: int = 0
    ) -> Changes:
        """What revs after `since` did to the node and what is below it; waits so long when there is nothing.

        Raises NotFound, CursorTooOld for a rev that the journal no longer reaches, or never came to.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        # Entered before looking: a commit between the look and the wait sets the event.
        waiter = self._hub.enter([space], device.token_hash, device.user)
        try:
            while True:
                waiter.event.clear()
                found = await self._database.read(partial(self._look, device, space, node, since, limit))
                if found.revs or not wait_seconds or self._hub.is_closed:
                    return found
                since = found.next
                try:
                    async with asyncio.timeout_at(deadline):
                        await waiter.event.wait()
                except TimeoutError:
                    return found
        finally:
            self._hub.leave(waiter)

    def _look(self, device: Device, space: SpaceId, node: NodeId, since: Rev, limit: int, session: Session) -> Changes:
        check_standing(session, device, time.time_ns())
        row = member_space(session, space, device.user, Right.READ)
        since = max(since, Rev(0)) or row.floor
        if since < row.floor:
            raise CursorTooOld(f"The journal of {row.name} begins after rev {row.floor}: list again.")
        if since > row.head:
            raise CursorTooOld(
                f"The journal of {row.name} ends at rev {row.head} and knows no rev {since}: list again."
            )
        present = trees.node_row(session, space, node)
        if present is None:
            raise NotFound(f"There never was a file {node} in {row.name}.")
        is_folder = present.kind == Kind.FOLDER
        revs = (
            space_rows.moments_after(session, space, node, since, REVS_MAX)
            if is_folder
            else space_rows.versions_after(session, space, node, since, REVS_MAX)
        )
        key, authors = self._keyring.key(row), Authors(session, row.space)
        found: list[Changed] = []
        left = limit
        for rev, time_ns, user, by in revs:
            one = _told(session, row, key, node, Rev(rev), left, is_folder=is_folder)
            if len(one) > left and found:
                # It comes whole with the next answer.
                return Changes(found, found[-1].rev, row.head, is_cut=False)
            if one:
                found.append(Changed(Rev(rev), time_ns, *authors.names_at(Rev(rev), user, by), one[:limit]))
                left -= len(one)
            if left <= 0:
                return Changes(found, Rev(rev), row.head, is_cut=left < 0)
        return Changes(found, Rev(revs[-1][0]) if len(revs) == REVS_MAX else row.head, row.head, is_cut=False)


def _told(
    session: Session, row: SpaceRow, key: SpaceKey, node: NodeId, rev: Rev, limit: int, *, is_folder: bool
) -> tuple[Difference, ...]:
    """What a rev did; one more than `limit` when there is more."""
    after = Past(session, row.space, key, rev)
    top = node if is_folder else ROOT
    nodes = past_rows.changed_by(session, row.space, rev) if is_folder else [node]
    if rev == 1:
        # It made the space; rev 0 would mean the present.
        steps = [Step(each, None, after.node(each), (), after.names_below(each, top)) for each in nodes]
        return told(steps, after, after, top, limit + 1).differences
    before = Past(session, row.space, key, Rev(rev - 1))
    steps = [
        Step(each, before.node(each), after.node(each), before.names_below(each, top), after.names_below(each, top))
        for each in nodes
    ]
    return told(steps, before, after, top, limit + 1).differences
