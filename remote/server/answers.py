"""Answers: one method for each request of a signed-in device. Checks the right, then lets threads do the work."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

from msgspec.structs import replace

from remote.protocol.errors import Busy, ChunkMissing, QuotaExceeded
from remote.protocol.ids import ChunkId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import (
    CHUNKS_MAX,
    CONFLICTS_MAX,
    POLL_SECONDS_MAX,
    AsOfRequest,
    Changes,
    Commit,
    CommitAnswer,
    Conflicts,
    ConflictsRequest,
    Done,
    GetAnswer,
    GetRequest,
    History,
    HistoryRequest,
    Holding,
    Life,
    Listing,
    ListRequest,
    LostAnswer,
    LostRequest,
    Moment,
    Moments,
    MomentsRequest,
    Nodes,
    NodesRequest,
    PollAnswer,
    PollRequest,
    PutAnswer,
    PutRequest,
    Room,
    RoomRequest,
    SettleRequest,
    Space,
    Spaces,
    UrlsAnswer,
    UrlsRequest,
    WantAnswer,
    WantRequest,
)
from remote.server import commits, leases, reading
from remote.server.accounts import check_enabled, check_standing
from remote.server.chunks import Chunks
from remote.server.database import accounts as account_rows
from remote.server.database import chunks as chunk_rows
from remote.server.database import conflicts as conflict_rows
from remote.server.database import events as event_rows
from remote.server.database import spaces as space_rows
from remote.server.database.accounts import Device
from remote.server.database.chunks import Place
from remote.server.database.connection import Database, Session
from remote.server.database.events import EventRow
from remote.server.database.spaces import SpaceRow, role_of, space_row
from remote.server.guard import Watch
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.leaves import Leaves
from remote.server.limits import ID_SIZE, check_count, check_node, check_rev, check_size, check_space
from remote.server.mail import Mail
from remote.server.needs import Needs
from remote.server.objects.store import Objects
from remote.server.quotas import NEARLY_PERCENT, bounded, nearly_full
from remote.server.rights import RIGHTS, Right, member_space, owner_of

Result = TypeVar("Result")
SpaceJob = Callable[[Session, SpaceRow, SpaceKey], Result]

CURSORS_MAX = 1_000
FILE_THREADS = 8
_TRIES = 10
"""How often a commit is prepared anew while chunks are collected."""
EVENTS_TOLD = 100
"""More events that wait for a person are not counted."""
FREE_SECONDS = 5.0
"""For so long what the disk takes is not looked up again."""


class Answers:
    """What an instance answers to its devices."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        keyring: Keyring,
        domain_secret: bytes,
        hub: Hub,
        mail: Mail | None = None,
        *,
        needs: Needs,
    ) -> None:
        self._database = database
        self._objects = objects
        self._keyring = keyring
        self._domain_secret = domain_secret
        self._hub = hub
        self._needs = needs
        self._mail = mail
        self.chunks = Chunks(database, objects)
        self._leaves = Leaves(self.chunks.read_whole)
        self.on_event: Callable[[SpaceId, EventRow], Awaitable[None]] = _tell_nobody
        """Called when a commit begins an event."""
        self._free = 0
        self._free_until = 0.0
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="objects")

    def close(self) -> None:
        """Waits for files that are being read or written."""
        self._files.shutdown()

    async def spaces(self, device: Device) -> Spaces:
        """The spaces of the device's user."""
        free_bytes = await self.in_file_thread(self._free_bytes)
        found = await self._database.read(lambda session: _memberships(session, device))
        serial = await self._database.read(lambda session: account_rows.spaces_serial(session, device.user))
        return Spaces(tuple(self._space(one, free_bytes) for one in found), time.time_ns(), serial)

    async def list_folders(self, device: Device, space: SpaceId, request: ListRequest) -> Listing:
        """Children of many folders."""
        return await self._read(
            device, space, lambda session, row, key: reading.list_folders(session, row, key, request)
        )

    async def nodes(self, device: Device, space: SpaceId, request: NodesRequest) -> Nodes:
        """The states of nodes."""
        return await self._read(device, space, lambda session, row, key: reading.nodes(session, row, key, request))

    async def changes(self, device: Device, space: SpaceId, since: Rev, life: int = 0) -> Changes:
        """Commits after a cursor, which was given in that life."""
        return await self._read(
            device,
            space,
            lambda session, row, key: reading.changes(session, row, key, since, time.time_ns(), life),
            Right.FOLLOW,
        )

    async def moments(self, device: Device, space: SpaceId, request: MomentsRequest) -> Moments:
        """The newest moments of a folder."""
        return await self._read(
            device, space, lambda session, row, key: reading.moments(session, row, request, time.time_ns())
        )

    async def as_of(self, device: Device, space: SpaceId, request: AsOfRequest) -> Moment:
        """The last commit at or before a time."""
        return await self._read(device, space, lambda session, row, key: reading.as_of(session, row, request))

    async def history(self, device: Device, space: SpaceId, request: HistoryRequest) -> History:
        """The versions of a node."""
        return await self._read(device, space, lambda session, row, key: reading.history(session, row, key, request))

    async def conflicts(self, device: Device, space: SpaceId, request: ConflictsRequest) -> Conflicts:
        """Conflicts that nobody has settled."""
        return await self._read(device, space, lambda session, row, key: reading.conflicts(session, row, key, request))

    async def settle(self, device: Device, space: SpaceId, request: SettleRequest) -> Done:
        """Settles conflicts for all devices."""
        check_count("conflicts", len(request.conflicts), CONFLICTS_MAX)
        for at, (node, rev) in enumerate(request.conflicts):
            check_node(f"conflicts[{at}]", node)
            check_rev(f"conflicts[{at}]", rev)

        def settle(session: Session) -> Done:
            member_space(session, space, device.user, Right.WRITE)
            conflict_rows.end_conflicts(session, space, request.conflicts)
            return Done()

        return await self._database.write(settle)

    async def commit(self, device: Device, space: SpaceId, commit: Commit) -> CommitAnswer:
        """Takes the commit or refuses it whole, and tells those who wait for the space."""
        try:
            answer = await self._needs.met(device, space, lambda: self._commit(device, space, commit))
        except (QuotaExceeded, ChunkMissing):
            # Its device gives it up: delivered once more, when there is room, it must not be taken.
            await self._database.write(partial(space_rows.refuse_op, space=space, op_id=commit.op_id))
            raise
        if answer.rev:
            self._hub.moved(space)
        return answer

    async def _commit(self, device: Device, space: SpaceId, commit: Commit) -> CommitAnswer:
        def prepare(session: Session, _: SpaceRow, key: SpaceKey) -> commits.Prepared:
            return commits.prepare(session, space, commit, key, self._leaves, now_ns=time.time_ns())

        def take(prepared: commits.Prepared, session: Session) -> CommitAnswer:
            row = member_space(session, space, device.user, Right.WRITE)
            reading.check_life(session, row, commit.cursor, commit.life)
            key = self._keyring.key(row)
            watch = Watch(device)
            found = dataclasses.replace(prepared.found, watch=watch)
            answer = commits.take(
                session, row, device, commit.op_id, prepared.drafts, key=key, now_ns=time.time_ns(), found=found
            )
            if not answer.rev:
                space_rows.refuse_op(session, space, commit.op_id)
            begun.append(watch)
            taken = space_row(session, space)
            full.append(nearly_full(session, taken) if taken is not None else None)
            # What comes by a link is the server's commit, and the server holds nothing.
            if not answer.rev or taken is None or not device.device:
                return answer
            room = self._room(session, bounded(session, taken), device, 0)
            return replace(answer, room=replace(room, events=event_rows.open_events(session, space, EVENTS_TOLD)))

        begun: list[Watch] = []
        full: list[tuple[UserId, str] | None] = []
        for _ in range(_TRIES):
            prepared = await self._read(device, space, prepare, Right.WRITE)
            with suppress(commits.Overtaken):
                answer = await self._database.write(partial(take, prepared))
                if begun[-1].event is not None:
                    await self.on_event(space, begun[-1].event)
                if full[-1] is not None and self._mail is not None:
                    self._mail.tell_once(full[-1][0], "quota", space=full[-1][1], percent=NEARLY_PERCENT)
                return answer
        raise Busy("The server is putting its chunks in order: try again in a moment.", 1.0)

    async def room(self, device: Device, space: SpaceId, request: RoomRequest) -> Room:
        """What there is room for, with a lease of what is wanted, as far as that goes; others are asked for the rest
        of what is needed, and waited for.
        """
        check_size("wanted", request.wanted)
        check_size("needed", request.needed)
        holding = {} if request.holding is None else {space: request.holding}
        _check_holding(holding)
        self._check(device, space, Right.WRITE if request.needed else Right.READ)
        await self.hear(device, holding)
        wanted = max(request.wanted, request.needed)
        room = (await self.rooms(device, [space], wanted))[space]
        if not room.quota or room.lease >= request.needed:
            return room

        async with self._needs.need(device, space, request.needed) as need:
            while True:
                # Also at first: somebody may have let go before he was asked.
                room = (await self.rooms(device, [space], wanted))[space]
                if room.lease >= request.needed or not await need.hears():
                    return room

    async def poll(self, device: Device, request: PollRequest) -> PollAnswer:
        """The heads of spaces that are beyond their cursors, as soon as there is one, or another device needs what this
        one holds; and what there is room for.
        """
        check_count("cursors", len(request.cursors), CURSORS_MAX)
        check_count("holding", len(request.holding), CURSORS_MAX)
        _check_holding(request.holding)
        await self.hear(device, request.holding)
        self._needs.heard(device.device, {space: held.lease for space, held in request.holding.items()})
        answer = await self._poll(device, request)
        self._needs.tell(device.device, request.cursors)
        return replace(answer, rooms=await self.rooms(device, request.cursors))

    async def _poll(self, device: Device, request: PollRequest) -> PollAnswer:
        for space, rev in request.cursors.items():
            check_space("a cursor's space", space)
            check_rev("a cursor", rev)
        deadline = asyncio.get_running_loop().time() + min(max(request.wait_seconds, 1), POLL_SECONDS_MAX)
        # Entered before looking: a commit between the look and the wait sets the event.
        waiter = self._hub.enter(request.cursors, device.token_hash, device.user)

        def look(session: Session) -> PollAnswer:
            check_standing(session, device, time.time_ns())
            return _moved(session, device, request)

        try:
            while True:
                waiter.event.clear()
                answer = await self._database.read(look)
                if answer.heads or answer.spaces_changed or self._hub.is_closed:
                    return answer
                if asked := self._needs.untold(device.device, request.cursors):
                    # Nothing moved: the heads are as the device knows them.
                    return replace(answer, heads={space: request.cursors[space] for space in asked})
                try:
                    async with asyncio.timeout_at(deadline):
                        await waiter.event.wait()
                except TimeoutError:
                    return PollAnswer({}, time.time_ns())
        finally:
            self._hub.leave(waiter)

    async def hear(self, device: Device, holding: Mapping[SpaceId, Holding]) -> None:
        """Notes what the device holds itself to from now on."""

        def note(session: Session) -> None:
            for space, held in holding.items():
                row = space_row(session, space) if role_of(session, space, device.user) is not None else None
                bound = bounded(session, row) if row is not None else None
                if bound is not None and bound.quota:
                    leases.heard(session, bound, device.device, held, time.time_ns())

        if holding:
            await self._database.write(note)

    async def rooms(self, device: Device, spaces: Iterable[SpaceId], wanted: int = 0) -> dict[SpaceId, Room]:
        """What these spaces have room for, those that are the user's."""
        asked = list(spaces)

        def told(session: Session) -> dict[SpaceId, Room]:
            found: dict[SpaceId, Room] = {}
            for space in asked:
                role, found_row = role_of(session, space, device.user), space_row(session, space)
                if found_row is not None and role is not None:
                    row = bounded(session, found_row)
                    may_write = Right.WRITE in RIGHTS[role]
                    room = (
                        self._room(session, row, device, wanted) if may_write else Room(row.head, row.quota, row.used)
                    )
                    has_lost = bool(chunk_rows.lost_in(session, space, ChunkId(b""), 1))
                    waiting = event_rows.open_events(session, space, EVENTS_TOLD)
                    found[space] = replace(room, has_lost=has_lost, events=waiting)
            return found

        def has_quota(session: Session) -> bool:
            rows = [row for row in (space_row(session, space) for space in asked) if row is not None]
            return any(bounded(session, row).quota for row in rows)

        # Promises are made on the writing thread; where there is no quota, there is none.
        is_promise = await self._database.read(has_quota)
        return await (self._database.write(told) if is_promise else self._database.read(told))

    def _room(self, session: Session, row: SpaceRow, device: Device, wanted: int) -> Room:
        if not row.quota:
            return Room(row.head, 0, row.used, self._free_bytes())
        is_scarce = self._needs.is_scarce(row.payer or row.space)
        return leases.room(session, row, device.device, wanted, self._free_bytes(), time.time_ns(), is_scarce=is_scarce)

    def _free_bytes(self) -> int:
        """What the disk takes, as of a few seconds ago."""
        now = time.monotonic()
        if now > self._free_until:
            self._free, self._free_until = self._objects.free_bytes(), now + FREE_SECONDS
        return self._free

    async def moved(self, device: Device, request: PollRequest) -> PollAnswer:
        """The heads of spaces that are beyond their cursors now."""
        return await self._database.read(lambda session: _moved(session, device, request))

    async def want(self, device: Device, space: SpaceId, request: WantRequest) -> WantAnswer:
        """Which chunks must be sent, and where the large ones go."""

        others = self._others(device.user, space, Right.WRITE)
        return await self.in_file_thread(lambda: self.chunks.want(device.user, space, others, request))

    async def put(self, device: Device, space: SpaceId, request: PutRequest) -> PutAnswer:
        """Stores small chunks."""
        self._check(device, space, Right.WRITE)
        return await self.in_file_thread(lambda: self.chunks.put(space, request))

    async def get(self, device: Device, space: SpaceId, request: GetRequest) -> GetAnswer:
        """Chunks or parts of chunks."""
        others = self._others(device.user, space, Right.READ)
        return await self.in_file_thread(lambda: self.chunks.get(space, request, others))

    async def read(self, device: Device, space: SpaceId, request: GetRequest) -> tuple[int, Iterator[Sequence[bytes]]]:
        """Parts of chunks, of any number of bytes: how many, and they themselves, each read (`in_file_thread`) when it
        is asked for.
        """
        others = self._others(device.user, space, Right.READ)

        def begin() -> tuple[int, Iterator[Sequence[bytes]]]:
            pieces = self.chunks.plan(space, request, others)
            # What is wrong with the first piece can still be told in an answer.
            first = [self.chunks.piece(piece) for piece in pieces[:1]]
            size = sum(stretch.size for piece in pieces for stretch in piece)
            return size, chain(first, map(self.chunks.piece, pieces[1:]))

        return await self.in_file_thread(begin)

    async def lost(self, device: Device, space: SpaceId, request: LostRequest) -> LostAnswer:
        """Chunks of the space that are lost."""
        check_count("bytes in `after`", len(request.after), ID_SIZE)

        def look(session: Session, _: SpaceRow, key: SpaceKey) -> LostAnswer:
            found = chunk_rows.lost_in(session, space, request.after, CHUNKS_MAX + 1)
            return LostAnswer(tuple(found[:CHUNKS_MAX]), more=len(found) > CHUNKS_MAX)

        return await self._read(device, space, look)

    async def urls(self, device: Device, space: SpaceId, request: UrlsRequest) -> UrlsAnswer:
        """Signed GET URLs."""
        others = self._others(device.user, space, Right.READ)
        return await self.in_file_thread(lambda: self.chunks.urls(device.user, space, request, others))

    async def object_place(self, user: UserId, space: SpaceId, chunk: ChunkId) -> Place:
        """Where a chunk lies, for the holder of a signed URL."""
        await self._database.read(lambda session: check_enabled(session, user))
        others = self._others(user, space, Right.READ)
        return await self.in_file_thread(lambda: self.chunks.place(space, chunk, others))

    async def object_bytes(self, place: Place, start: int, length: int) -> bytes:
        """Bytes of a chunk, for the holder of a signed URL."""
        return await self.in_file_thread(lambda: self.chunks.read(place, start, length))

    async def has_object(self, user: UserId, space: SpaceId, chunk: ChunkId) -> bool:
        """Whether the chunk is there for this space already, for the holder of a signed URL to put it."""

        def look(session: Session) -> None:
            check_enabled(session, user)
            member_space(session, space, user, Right.WRITE)

        await self._database.read(look)
        return await self.in_file_thread(lambda: self.chunks.has(space, chunk))

    async def may_send(self, device: Device, space: SpaceId) -> None:
        """Raises NotFound or NotAllowed when this device may not send chunks to this space."""
        self._check(device, space, Right.WRITE)

    async def objects_received(self, space: SpaceId, places: Sequence[Place]) -> None:
        """Notes chunks that came whole and are objects now."""
        await self.in_file_thread(lambda: self.chunks.received(space, places))

    async def _read(self, device: Device, space: SpaceId, job: SpaceJob[Result], right: Right = Right.READ) -> Result:
        def read(session: Session) -> Result:
            row = member_space(session, space, device.user, right)
            return job(session, row, self._keyring.key(row))

        return await self._database.read(read)

    def _others(self, user: UserId, space: SpaceId, right: Right) -> list[SpaceId]:
        """The user's other spaces, if he may do this in this one."""

        def look(session: Session) -> list[SpaceId]:
            member_space(session, space, user, right)
            return [other for other in account_rows.mounts(session, user) if other != space]

        return self._database.look_up(look)

    def _check(self, device: Device, space: SpaceId, right: Right) -> None:
        self._database.look_up(lambda session: member_space(session, space, device.user, right))

    async def in_file_thread(self, job: Callable[[], Result]) -> Result:
        """What a job gives that blocks on the store, in one of few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._files, job)

    def _space(self, one: "_Membership", free_bytes: int) -> Space:
        row = one.row
        free = min(free_bytes, max(0, row.quota - row.used)) if row.quota else free_bytes
        return Space(
            space=row.space,
            name=row.name,
            role=one.role,
            head=row.head,
            floor=row.floor,
            quota=row.quota,
            used=row.used,
            domain_secret=self._domain_secret,
            free=free,
            lives=one.lives,
            lost=one.lost,
            owner_name=one.owner_name,
            mount=one.mount,
        )


async def _tell_nobody(_: SpaceId, __: EventRow) -> None:
    """Nobody is told of events."""


def _check_holding(holding: Mapping[SpaceId, Holding]) -> None:
    for space, held in holding.items():
        check_space("holding's space", space)
        check_size("holding's lease", held.lease)
        check_size("holding's serial", held.serial)


@dataclass(frozen=True)
class _Membership:
    """A space of a user, as it is now."""

    row: SpaceRow
    role: str
    lives: tuple[Life, ...]
    lost: int
    owner_name: str
    mount: NodeId


def _memberships(session: Session, device: Device) -> list[_Membership]:
    found: list[_Membership] = []
    for space in account_rows.mounts(session, device.user):
        role, row = role_of(session, space, device.user), space_row(session, space)
        if role is not None and row is not None:
            lost = len(chunk_rows.lost_in(session, space, ChunkId(b""), CHUNKS_MAX))
            lives = reading.lives_after(session, space, Rev(0))
            mount = account_rows.mount_node(session, device.user, space)
            owner = owner_of(session, space) if mount else device.user_name
            found.append(_Membership(bounded(session, row), role, lives, lost, owner, mount))
    # The home is mounted nowhere, and who takes the first one means it.
    return sorted(found, key=lambda one: one.mount != 0)


def _moved(session: Session, device: Device, request: PollRequest) -> PollAnswer:
    heads: dict[SpaceId, Rev] = {}
    spaces_changed = False
    for space, cursor in request.cursors.items():
        role = role_of(session, space, device.user)
        row = space_row(session, space) if role is not None and Right.FOLLOW in RIGHTS[role] else None
        if row is None:
            spaces_changed = True
        elif row.head != cursor:
            # Also when it is behind the cursor: a server restored from a backup has news of its own.
            heads[space] = row.head
    if request.serial and request.serial != account_rows.spaces_serial(session, device.user):
        spaces_changed = True
    return PollAnswer(heads, time.time_ns(), spaces_changed)
