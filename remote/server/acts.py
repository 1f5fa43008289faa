"""Acts: what a signed-in person asks the server to do with the past of a space: compare, rewind, undo, put
back, forget.

Each is planned in a reader's thread, and taken like a commit: judged again, whole or not at all. Such a commit is by
the user and by device 0, the server: no device takes it for one of its own.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from remote.protocol.errors import InTheWay
from remote.protocol.events import UNDONE
from remote.protocol.history import (
    Differences,
    DiffRequest,
    Done,
    Purged,
    PurgeRequest,
    PutBackRequest,
    RestoreRequest,
    RetentionRequest,
    RetentionTold,
    RewindRequest,
    Trash,
    TrashRequest,
    UndoRequest,
)
from remote.protocol.ids import NOW, ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.server import commits
from remote.server.audit import note
from remote.server.database import past as past_rows
from remote.server.database import retention as retention_rows
from remote.server.database import spaces as space_rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import SpaceRow
from remote.server.differences import Step, diff, told
from remote.server.events import close, event_of
from remote.server.files import shown_name
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.lookup import node_of, path_of, rev_of
from remote.server.needs import Needs
from remote.server.past import Past
from remote.server.reading import act_tag
from remote.server.restoring import plan_restore
from remote.server.retention import (
    Purging,
    Thinning,
    add_kept,
    check_retention,
    drop_kept,
    is_clock_steady,
    nodes_to_purge,
    plan_thinning,
    purge,
    told_retention,
)
from remote.server.rewinding import Plan, plan_rewind, plan_undo
from remote.server.rights import Right, member_space
from remote.server.trash import plan_put_back, trash
from remote.server.undoing import plan_undo_event

SERVER: Final = DeviceId(0)
"""As which device the server commits, for a user."""
_TRIES: Final = 5
PURGED_AT_ONCE: Final = 200
"""Files whose past is forgotten by one transaction."""
_NAMED: Final = 3
"""Paths in the note of a purge."""

Result = TypeVar("Result")
Planner = Callable[[Session, SpaceRow, SpaceKey], Plan]


class Acts:
    """What an instance does with the past, for its users."""

    def __init__(self, database: Database, keyring: Keyring, hub: Hub, needs: Needs) -> None:
        self._database = database
        self._keyring = keyring
        self._hub = hub
        self._needs = needs

    async def find(self, device: Device, space: SpaceId, path: bytes) -> NodeId:
        """The node that has this path, or had it last; raises NotFound."""
        return await self._read(device, space, Right.READ, lambda session, row, _: node_of(session, row.space, path))

    async def rev_of(self, device: Device, space: SpaceId, text: str) -> Rev:
        """The rev of a time or number that a person wrote; empty: now. Raises BadRequest, NotFound."""
        return await self._read(device, space, Right.READ, lambda session, row, _: rev_of(session, row, text))

    async def diff(self, device: Device, space: SpaceId, request: DiffRequest) -> Differences:
        """What differs in a folder between two revs."""
        return await self._read(device, space, Right.READ, lambda session, row, key: diff(session, row, key, request))

    async def rewind(self, device: Device, space: SpaceId, request: RewindRequest) -> Done:
        """A folder as it was; what is in it now and was not then goes, and stays in the history."""

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> Plan:
            return plan_rewind(session, row, key, request, time.time_ns())

        return await self._act(device, space, request.op_id, plan, is_dry_run=request.is_dry_run)

    async def restore(self, device: Device, space: SpaceId, request: RestoreRequest, first: NodeId) -> Done:
        """A path as it was; from `first` on, CHANGED_MAX ids are free for what comes back as another node."""

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> Plan:
            return plan_restore(session, row, key, request, first, time.time_ns())

        return await self._act(device, space, request.op_id, plan, is_dry_run=request.is_dry_run)

    async def undo(self, device: Device, space: SpaceId, request: UndoRequest) -> Done:
        """What one commit did, or a mass change, taken back."""

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> Plan:
            if request.event:
                return plan_undo_event(session, row, key, request, time.time_ns())
            return plan_undo(session, row, key, request, device, time.time_ns())

        done = await self._act(device, space, request.op_id, plan, is_dry_run=request.is_dry_run)
        if request.event and not request.is_dry_run:

            def note(session: Session) -> None:
                row = member_space(session, space, device.user, Right.WRITE)
                close(session, space, event_of(session, row, request.event), UNDONE)

            await self._database.write(note)
        return done

    async def trash(self, device: Device, space: SpaceId, request: TrashRequest) -> Trash:
        """What was removed and can be brought back."""
        return await self._read(device, space, Right.READ, lambda session, row, key: trash(session, row, key, request))

    async def put_back(self, device: Device, space: SpaceId, request: PutBackRequest) -> Done:
        """Removed things, there again."""

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> Plan:
            return plan_put_back(session, row, key, request, time.time_ns())

        return await self._act(device, space, request.op_id, plan, is_dry_run=request.is_dry_run)

    async def purge(self, device: Device, space: SpaceId, request: PurgeRequest) -> Purged:
        """Forgets the past of nodes, or of all that was removed, for good."""

        def plan(session: Session) -> list[Purging]:
            row = member_space(session, space, device.user, Right.FORGET)
            return nodes_to_purge(session, row, self._keyring.key(row), request)

        def forget(nodes: list[Purging], session: Session) -> Purged:
            row = member_space(session, space, device.user, Right.FORGET)
            return purge(session, row, self._keyring.key(row), nodes, is_dry_run=request.is_dry_run)

        def begin(session: Session) -> None:
            row = member_space(session, space, device.user, Right.FORGET)
            note(
                session,
                device.user,
                "history purged",
                f"{len(planned)} files and folders in {row.name}: {named(session)}",
            )

        def named(session: Session) -> str:
            if not request.nodes:
                return "all that was removed"
            some = [shown_name(path_of(session, space, node)) or "/" for node in request.nodes[:_NAMED]]
            more = len(request.nodes) - len(some)
            return ", ".join([*some, f"and {more} more"] if more else some)

        planned = await self._database.read(plan)
        if request.is_dry_run:
            return await self._database.read(partial(forget, planned))
        await self._database.write(begin)
        done = Purged(0, 0, 0)
        # In steps, between which others write. What is cut off is forgotten when it is asked for again.
        for at in range(0, len(planned), PURGED_AT_ONCE):
            one = await self._database.write(partial(forget, planned[at : at + PURGED_AT_ONCE]))
            done = Purged(done.versions + one.versions, done.nodes + one.nodes, done.size + one.size)
        return done

    async def retention(self, device: Device, space: SpaceId, request: RetentionRequest) -> RetentionTold:
        """What the space keeps of its past; set first, when that is asked."""
        wanted = request.retention
        if wanted is None:
            return await self._read(
                device, space, Right.READ, lambda session, row, _: told_retention(session, row.space, time.time_ns())
            )
        check_retention(wanted)

        def put(session: Session) -> RetentionTold:
            row = member_space(session, space, device.user, Right.FORGET)
            days = (wanted.all_days, wanted.hourly_days, wanted.daily_days)
            retention_rows.set_retention(session, space, days, for_ever=wanted.for_ever)
            kept = f"{row.name}: all {days[0]} days, hourly {days[1]}, daily {days[2]}, "
            note(session, device.user, "retention set", kept + ("then weekly" if wanted.for_ever else "then nothing"))
            return told_retention(session, space, time.time_ns())

        return await self._database.write(put)

    async def thin_by_clock(self, now_ns: int) -> int:
        """The same as `thin`, but nothing as long as the clock cannot be relied on; to be called every few hours."""
        if not await self._database.write(lambda session: is_clock_steady(session, now_ns)):
            return 0
        return await self.thin(now_ns)

    async def thin(self, now_ns: int) -> int:
        """Thins the past of every space as its retention says; how many revs are kept no more or newly."""
        done = 0
        for space in await self._database.read(retention_rows.every_space):
            done += await self._thin(space, now_ns)
        return done

    async def _thin(self, space: SpaceId, now_ns: int) -> int:
        def plan(session: Session) -> Thinning:
            row = space_rows.space_row(session, space)
            return plan_thinning(session, row, now_ns) if row is not None else Thinning((), ())

        work = await self._database.read(plan)
        # Each in a transaction of its own, oldest first: others write in between, and what is cut off goes on later.
        for rev in work.dropped:
            await self._database.write(partial(drop_kept, space=space, rev=rev))
        for rev in work.added:
            await self._database.write(partial(add_kept, space=space, rev=rev))
        return len(work.dropped) + len(work.added)

    async def _act(
        self, device: Device, space: SpaceId, op_id: bytes, planner: Planner, *, is_dry_run: bool = False
    ) -> Done:
        right = Right.READ if is_dry_run else Right.WRITE
        # Others commit as device 0, too, for those who come without one: by its op id an act is known as this device's.
        op_id = act_tag(device.device) + op_id[:8]
        reason = ""

        def before(session: Session, row: SpaceRow, key: SpaceKey) -> Done | None:
            return _done_before(session, row, key, op_id)

        for _ in range(_TRIES):
            seen = await self._read(device, space, right, before)
            if seen is not None:
                return seen
            plan = await self._read(device, space, right, planner)
            if is_dry_run or not plan.drafts:
                return Done(NOW, plan.of, plan.did, plan.kept, plan.stays)
            rev, reason = await self._take(device, space, op_id, plan)
            if rev:
                return Done(rev, plan.of, plan.did, plan.kept, plan.stays)
        raise InTheWay(f"{reason} Nothing was changed.")

    async def _take(self, device: Device, space: SpaceId, op_id: bytes, plan: Plan) -> tuple[Rev, str]:
        def take(session: Session) -> tuple[Rev, str]:
            row = member_space(session, space, device.user, Right.WRITE)
            by = replace(device, device=SERVER)
            key = self._keyring.key(row)
            answer = commits.take(session, row, by, op_id, plan.drafts, key=key, now_ns=time.time_ns())
            return answer.rev, answer.reason

        rev, reason = await self._needs.met(device, space, lambda: self._database.write(take))
        if rev:
            self._hub.moved(space)
        return rev, reason

    async def _read(
        self, device: Device, space: SpaceId, right: Right, job: Callable[[Session, SpaceRow, SpaceKey], Result]
    ) -> Result:
        def read(session: Session) -> Result:
            row = member_space(session, space, device.user, right)
            return job(session, row, self._keyring.key(row))

        return await self._database.read(read)


def _done_before(session: Session, row: SpaceRow, key: SpaceKey, op_id: bytes) -> Done | None:
    """What this op id did when it was asked for before."""
    rev = space_rows.rev_of_op(session, row.space, op_id)
    if not rev:
        return None
    before, after = Past(session, row.space, key, Rev(rev - 1)), Past(session, row.space, key, rev)
    steps = [
        Step(node, before.node(node), after.node(node), before.names_below(node, ROOT), after.names_below(node, ROOT))
        for node in past_rows.changed_by(session, row.space, rev)
    ]
    return Done(rev, NOW, told(steps, before, after, ROOT, 100))
