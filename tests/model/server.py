"""The server of a play: the real one, its database, objects and answers, in this process and without threads or HTTP.

What is asked goes through the messages' encoding as over the wire. Each request is done when it is asked, so a play is
the same each time; every commit is followed by a look at the invariants of the space.
"""

import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import msgspec
import trio
from msgspec.structs import replace

from remote.protocol.errors import BadRequest, ChunkDamaged, NotFound, Unreachable
from remote.protocol.ids import NOW, NOWHERE, ROOT, ChunkId, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import (
    CHILDREN_MAX,
    CHUNKS_MAX,
    COMMITS_MAX,
    PUT_BODY_MAX,
    SMALL_CHUNK_MAX,
    AsOfRequest,
    Change,
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    Conflicts,
    ConflictsRequest,
    Done,
    FolderQuery,
    GetAnswer,
    GetRequest,
    History,
    HistoryRequest,
    Holding,
    Listing,
    ListRequest,
    LostAnswer,
    LostRequest,
    Moment,
    Moments,
    MomentsRequest,
    NodeRange,
    Nodes,
    NodesRequest,
    PollAnswer,
    PollRequest,
    PutAnswer,
    PutRequest,
    Room,
    RoomRequest,
    SettleRequest,
    Spaces,
    Version,
    WantAnswer,
    WantRequest,
)
from remote.protocol.nodes import ROOT_NAME, Kind, Name, NodeState, NodeVersion
from remote.protocol.parts import HEAD_SIZE, Head
from remote.protocol.service import NOTHING_HELD, TakePart
from remote.server import accounts, reading
from remote.server.accounts import Accounts
from remote.server.acts import Acts
from remote.server.answers import Answers
from remote.server.codes import Codes
from remote.server.database import accounts as account_rows
from remote.server.database.accounts import Account, Device
from remote.server.database.chunks import Place
from remote.server.database.connection import Database, Session, make_tables
from remote.server.database.connection import _Waiting as Waiting
from remote.server.files import Files
from remote.server.groups import GroupAnswers
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import MasterKey
from remote.server.leases import Holder
from remote.server.mail import Mail
from remote.server.needs import Needs
from remote.server.objects.local import LocalObjects
from remote.server.objects.signing import Signer
from remote.server.objects.store import object_name
from remote.server.sharing import SharingAnswers
from remote.server.slowing import Slowing

T = TypeVar("T")
M = TypeVar("M", bound=msgspec.Struct)

SPACE = SpaceId(7)
SECRET = b"s" * 32
DEVICES = 32
IN_MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
"""Where files lie that need not be there for long: no play waits for a disk."""
_USER = UserId(1)
GUEST = SpaceId(8)
"""The home of a second user, whose devices have numbers from GUESTS on."""
GUESTS = 100
_GUEST = UserId(2)
_MASTER = MasterKey(b"m" * 32)
_DATABASE = "satchel.db"

skew_ns: ContextVar[Callable[[], int]] = ContextVar("skew_ns", default=lambda: 0)
"""How far the clock of the machine that runs this task is ahead of the server's."""


class _Database(Database):
    """The real one; what waits for a thread elsewhere is done at once here."""

    async def read(self, job: Callable[[Session], T]) -> T:
        return self.read_now(job)

    async def write(self, job: Callable[[Session], T]) -> T:
        return self._submit(job).result()

    def _submit(self, job: Callable[[Session], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._write_together([Waiting(job, future)])
        return future


class _Answers(Answers):
    """The real ones; what waits for a thread elsewhere is done at once here."""

    async def in_file_thread(self, job: Callable[[], T]) -> T:
        return job()


class _Needs(Needs):
    """The real ones, but nobody waits for who is asked: who needs more gets it when he asks again."""

    def _may_be_heard(self, holder: Holder, now: float) -> bool:
        return False


@cache
def new_database() -> bytes:
    """The file of an instance with one user, a home and some devices."""
    with tempfile.TemporaryDirectory(prefix="satchel-model-") as folder:
        path = Path(folder) / _DATABASE
        make_tables(path, _fill)
        return path.read_bytes()


def _fill(session: Session) -> None:
    for account, first in ((Account(_USER, "u", "", SPACE), 1), (Account(_GUEST, "guest", "", GUEST), GUESTS)):
        account_rows.add_account(session, account.user_name, account, 0)
        accounts._add_home(session, _MASTER, account, 1_790_000_000_000_000_000)
        for number in range(first, first + DEVICES):
            account_rows.add_device(session, device_row(DeviceId(number)), f"device {number}", 0)


def device_row(number: DeviceId) -> Device:
    """A device of the user to whom its number belongs."""
    user, name = (_USER, "u") if number < GUESTS else (_GUEST, "guest")
    return Device(user, number, name, hashlib.sha256(b"%d" % number).digest())


class Server:
    """A server with one space. `children_max`, `commits_max`: how much fits into one answer."""

    def __init__(self, *, children_max: int = CHILDREN_MAX, commits_max: int = COMMITS_MAX) -> None:
        self.children_max = children_max
        self.commits_max = commits_max
        self.refuses: Callable[[Change], bool] = lambda change: False
        """Changes that this server calls a bad request, whatever they are."""
        self.refusals: list[str] = []
        self.moved = trio.Event()
        self.down = trio.Event()
        """The server dies now: who waits for an answer gets none."""
        self.lives = 0
        """How often it crashed."""
        self._seen = Rev(0)
        self._now: dict[NodeId, NodeVersion] = {}
        self._home = Path(tempfile.mkdtemp(prefix="satchel-model-", dir=IN_MEMORY))
        (self._home / "0").mkdir()
        (self._home / "0" / _DATABASE).write_bytes(new_database())
        self._open()

    def _open(self) -> None:
        folder = self._home / str(self.lives)
        self._database = _Database(folder / _DATABASE)
        self.objects = LocalObjects(folder, Signer(_MASTER.derive(b"signed urls"), time.time))
        hub, keyring = Hub(), Keyring(_MASTER)
        self._needs = needs = _Needs(self._database, hub, trio.current_time)
        self._answers = _Answers(self._database, self.objects, keyring, SECRET, hub, needs=needs)
        slowing = Slowing(time.time_ns)
        codes = Codes(self._database, _MASTER, slowing, time.time_ns)
        self._accounts = Accounts(self._database, "model", slowing, codes, time.time_ns)
        files = Files(self._database, keyring, self._accounts, self._answers.commit)
        mail = Mail(self._database, None)
        self._sharing = SharingAnswers(
            self._database, keyring, _MASTER, self._answers.chunks, files, hub=hub, mail=mail
        )
        self.groups = GroupAnswers(self._sharing, time.time_ns)
        self._acts = Acts(self._database, keyring, hub, needs)
        self._end = weakref.finalize(self, _close, self._database, self._answers, self._accounts, self._home)

    def crash(self) -> None:
        """Ends as kill -9 does and starts again: what is on the disk at this moment is all that there is."""
        self.lives += 1
        shutil.copytree(self._home / str(self.lives - 1), self._home / str(self.lives))
        self._end.detach()
        _close(self._database, self._answers, self._accounts, self._home / str(self.lives - 1))
        self._open()
        down, self.down = self.down, trio.Event()
        down.set()
        self._tell()

    def back_up(self) -> None:
        """Keeps what is on the disk at this moment, for `put_back`."""
        shutil.rmtree(self._home / "backup", ignore_errors=True)
        shutil.copytree(self._home / str(self.lives), self._home / "backup")

    def put_back(self) -> None:
        """Starts again from what was kept: all that came later is lost."""
        shutil.rmtree(self._home / str(self.lives + 1), ignore_errors=True)
        backup = self._home / "backup"
        self._seen, self._now = Rev(0), {}
        self.lives += 1
        shutil.copytree(backup, self._home / str(self.lives))
        self._end.detach()
        _close(self._database, self._answers, self._accounts, self._home / str(self.lives - 1))
        self._open()
        down, self.down = self.down, trio.Event()
        down.set()
        self._tell()

    @contextmanager
    def answering(self) -> Iterator[_Answers]:
        """By the server's clock, and with answers as short as asked for."""
        token = skew_ns.set(lambda: 0)
        try:
            with (
                mock.patch.object(reading, "CHILDREN_MAX", self.children_max),
                mock.patch.object(reading, "COMMITS_MAX", self.commits_max),
            ):
                yield self._answers
        finally:
            skew_ns.reset(token)

    def ask(self, question: Callable[[_Answers], Awaitable[M]], kind: type[M]) -> M:
        """The answer, as it comes out of the wire."""
        with self.answering() as answers:
            return msgspec.msgpack.decode(msgspec.msgpack.encode(done(question(answers))), type=kind)

    def take(self, device: DeviceId, commit: Commit, space: SpaceId = SPACE) -> CommitAnswer:
        """Takes or refuses a commit whole."""
        for change in commit.changes:
            if self.refuses(change):
                raise BadRequest(f"node {change.node} is poisoned")
        sent = _over_the_wire(commit)
        answer = self.ask(lambda answers: answers.commit(device_row(device), space, sent), CommitAnswer)
        if answer.rev:
            check_invariants(self.alive())
            self._tell()
        else:
            self.refusals.append(answer.reason)
        return answer

    def _tell(self) -> None:
        moved, self.moved = self.moved, trio.Event()
        moved.set()

    async def poll(self, device: DeviceId, request: PollRequest) -> PollAnswer:
        """As the real one, but on trio's clock."""
        answer = PollAnswer({}, 0)
        done(self._answers.hear(device_row(device), request.holding))
        self._needs.heard(device, {space: held.lease for space, held in request.holding.items()})
        with trio.move_on_after(request.wait_seconds):
            while True:
                moved = self.moved
                answer = self.ask(lambda answers: answers.moved(device_row(device), request), PollAnswer)
                if answer.heads or answer.spaces_changed:
                    break
                if asked := self._needs.untold(device, request.cursors):
                    answer = replace(answer, heads={space: request.cursors[space] for space in asked})
                    break
                await moved.wait()
        self._needs.tell(device, request.cursors)
        return replace(answer, rooms=done(self._answers.rooms(device_row(device), request.cursors)))

    @staticmethod
    def home_of(device: DeviceId) -> SpaceId:
        """The home of the device's user."""
        return SPACE if device < GUESTS else GUEST

    def share(self, device: DeviceId, what: Callable[[SharingAnswers, Device], Awaitable[M]]) -> M:
        """Has the server do something about shared folders, asked from this device."""
        with self.answering():
            answer = done(what(self._sharing, device_row(device)))
        check_invariants(self.alive())
        self._tell()
        return answer

    def act(self, device: DeviceId, what: Callable[[Acts, Device], Awaitable[T]]) -> T:
        """Has the server do something with the past, asked from this device."""
        with self.answering():
            answer = done(what(self._acts, device_row(device)))
        check_invariants(self.alive())
        self._tell()
        return answer

    def lease_range(self, device: DeviceId) -> NodeRange:
        """A fresh range of node ids."""
        return done(self._accounts.lease_range(device_row(device)))

    # What is looked at from outside

    def _row(self, sql: str, *values: object) -> tuple[Any, ...]:
        found = self._database.read_now(lambda session: session.row(sql, *values))
        assert found is not None
        return found

    def run(self, sql: str, *values: object) -> None:
        """Changes the database behind the server's back."""
        done(self._database.write(lambda session: session.run(sql, *values)))

    @property
    def head(self) -> Rev:
        """The last rev."""
        return Rev(self._row("SELECT head FROM space WHERE space_id = ?", SPACE)[0])

    def spaces_of(self, device: DeviceId) -> dict[SpaceId, Rev]:
        """The spaces of a device's user, with the last rev of each."""
        answer = self.ask(lambda answers: answers.spaces(device_row(device)), Spaces)
        return {one.space: one.head for one in answer.spaces}

    @property
    def quota(self) -> int:
        """How many bytes the space may hold, 0 for as many as it likes."""
        return int(self._row("SELECT quota FROM space WHERE space_id = ?", SPACE)[0])

    @quota.setter
    def quota(self, quota: int) -> None:
        self.run("UPDATE space SET quota = ? WHERE space_id = ?", quota, SPACE)

    @property
    def floor(self) -> int:
        """The oldest cursor that the journal answers."""
        return int(self._row("SELECT floor FROM space WHERE space_id = ?", SPACE)[0])

    @floor.setter
    def floor(self, rev: int) -> None:
        self.run("UPDATE space SET floor = ? WHERE space_id = ?", rev, SPACE)

    @property
    def now(self) -> Mapping[NodeId, NodeVersion]:
        """Every node that ever was, as it is."""
        head = self.head
        if head != self._seen:
            sql = "SELECT node_id FROM node WHERE space_id = ? AND rev > ?"
            nodes = self._database.read_now(lambda session: [row[0] for row in session.rows(sql, SPACE, self._seen)])
            self._now |= {version.node: version for version in self.nodes(nodes)}
            self._seen = head
        return self._now

    def nodes(self, nodes: Sequence[NodeId]) -> list[NodeVersion]:
        """These nodes as they are."""
        found: list[NodeVersion | None] = []
        for at in range(0, len(nodes), 1_000):
            request = NodesRequest(tuple(nodes[at : at + 1_000]))
            found += self.ask(lambda answers: answers.nodes(device_row(DeviceId(1)), SPACE, request), Nodes).nodes  # noqa: B023
        return [version for version in found if version is not None]

    def alive(self) -> dict[NodeId, NodeState]:
        """Every node that exists."""
        return {node: version.state for node, version in self.now.items() if version.state is not None}

    def alive_in(self, space: SpaceId, device: DeviceId) -> dict[NodeId, NodeState]:
        """Every node that exists in a space, as this device may see it."""
        sql = "SELECT node_id FROM node WHERE space_id = ?"
        nodes = tuple(self._database.read_now(lambda session: [row[0] for row in session.rows(sql, space)]))
        answer = self.ask(lambda answers: answers.nodes(device_row(device), space, NodesRequest(nodes)), Nodes)
        return {one.node: one.state for one in answer.nodes if one is not None and one.state is not None}

    def contents_in(self, space: SpaceId, device: DeviceId) -> set[bytes]:
        """All that any file of a space ever was, of what is sent with its commit."""
        sql = "SELECT DISTINCT node_id FROM version WHERE space_id = ?"
        nodes = self._database.read_now(lambda session: [row[0] for row in session.rows(sql, space)])
        found: set[bytes] = set()
        for node in nodes:
            history = self.ask(
                lambda answers, node=node: answers.history(device_row(device), space, HistoryRequest(node)), History
            )
            states = (version.state for version in history.versions)
            found |= {state.content.inline for state in states if state is not None and state.content is not None}
        return found

    def versions_of(self, node: NodeId) -> list[Version]:
        """The versions of a node, oldest first."""
        try:
            request = HistoryRequest(node)
            answer = self.ask(lambda answers: answers.history(device_row(DeviceId(1)), SPACE, request), History)
        except NotFound:
            return []
        return list(reversed(answer.versions))

    def all_versions(self) -> list[Version]:
        """The versions of every node."""
        return [version for node in self.now for version in self.versions_of(node)]

    def rows(self, sql: str, *values: object) -> list[Any]:
        """What the database says."""
        return self._database.read_now(lambda session: list(session.rows(sql, *values)))

    def all_spaces(self) -> list[SpaceId]:
        """Every space, also those that are shared no more."""
        return [row[0] for row in self.rows("SELECT space_id FROM space ORDER BY space_id")]

    def _reader_of(self, space: SpaceId) -> DeviceId:
        users = [row[0] for row in self.rows("SELECT user_id FROM member WHERE space_id = ?", space)]
        return DeviceId(1) if _USER in users else DeviceId(GUESTS)

    def alive_of(self, space: SpaceId) -> dict[NodeId, NodeState]:
        """Every node that exists in a space."""
        asker, found = device_row(self._reader_of(space)), {}
        nodes = [row[0] for row in self.rows("SELECT node_id FROM node WHERE space_id = ?", space)]
        for at in range(0, len(nodes), 1_000):
            request = NodesRequest(tuple(nodes[at : at + 1_000]))
            answer = self.ask(lambda answers: answers.nodes(asker, space, request), Nodes)  # noqa: B023
            found |= {one.node: one.state for one in answer.nodes if one is not None and one.state is not None}
        return found

    def versions_in(self, space: SpaceId) -> Iterator[Version]:
        """The versions of every node of a space."""
        asker = device_row(self._reader_of(space))
        for (node,) in self.rows("SELECT DISTINCT node_id FROM version WHERE space_id = ?", space):
            request = HistoryRequest(node)
            yield from self.ask(lambda answers: answers.history(asker, space, request), History).versions  # noqa: B023

    def has_chunk(self, chunk: ChunkId) -> bool:
        """Whether the space may read the chunk."""
        return self._answers.chunks.has(SPACE, chunk)

    def chunk(self, chunk: ChunkId) -> bytes:
        """The sealed bytes of a chunk."""
        return self._database.read_now(lambda session: self._answers.chunks.read_whole(session, chunk))

    def chunk_count(self) -> int:
        """How many chunks the space may read."""
        return int(self._row("SELECT count(*) FROM chunk_reference WHERE space_id = ?", SPACE)[0])

    def forget_chunks(self) -> None:
        """As if no content had ever come."""
        self.run("DELETE FROM chunk_reference WHERE space_id = ?", SPACE)
        self.run("DELETE FROM chunk")


def _close(database: Database, answers: Answers, accounts: Accounts, folder: Path) -> None:
    accounts.close()
    answers.close()
    database.close()
    shutil.rmtree(folder)


def done(job: Awaitable[T]) -> T:
    """What a coroutine that never waits returns."""
    running = job.__await__()
    try:
        next(running)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waited")


def _over_the_wire(message: M) -> M:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message))


def check_invariants(alive: Mapping[NodeId, NodeState]) -> None:
    """Names are unique, parents are living folders, and every folder hangs from the root."""
    names: dict[Name, NodeId] = {}
    for node, state in alive.items():
        assert state.names, f"node {node} has no name"
        assert state.kind is not Kind.FOLDER or len(state.names) == 1, f"folder {node} has several names"
        for name in state.names:
            assert names.setdefault(name, node) == node, f"{name} leads to {node} and {names[name]}"
            if node != ROOT:
                assert name.parent in alive, f"node {node} is an orphan: there is no {name.parent}"
                assert alive[name.parent].kind is Kind.FOLDER, f"node {node} is in {name.parent}, which is no folder"
    assert alive[ROOT].names == (ROOT_NAME,)
    rooted = {ROOT}
    for node, state in alive.items():
        way: list[NodeId] = []
        at = node
        while at not in rooted and state.kind is Kind.FOLDER:
            way.append(at)
            at = alive[at].names[0].parent
            assert len(way) <= len(alive), f"folder {node} is inside itself"
        rooted.update(way)


@dataclass
class Desk:
    """The server as one signed-in device sees it: remote.protocol.service.Service."""

    server: Server
    device: DeviceId

    @property
    def _asker(self) -> Device:
        return device_row(self.device)

    async def spaces(self) -> Spaces:
        return self.server.ask(lambda answers: answers.spaces(self._asker), Spaces)

    async def lease_range(self) -> NodeRange:
        return self.server.lease_range(self.device)

    async def list_folders(self, space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
        request = ListRequest(tuple(folders), as_of)
        return self.server.ask(lambda answers: answers.list_folders(self._asker, space, request), Listing)

    async def nodes(self, space: SpaceId, nodes: Sequence[NodeId], as_of: Rev = NOW) -> Nodes:
        request = NodesRequest(tuple(nodes), as_of)
        return self.server.ask(lambda answers: answers.nodes(self._asker, space, request), Nodes)

    async def changes(self, space: SpaceId, since: Rev, life: int = 0) -> Changes:
        return self.server.ask(lambda answers: answers.changes(self._asker, space, since, life), Changes)

    async def lost(self, space: SpaceId, after: ChunkId) -> LostAnswer:
        return self.server.ask(lambda answers: answers.lost(self._asker, space, LostRequest(after)), LostAnswer)

    async def room(self, space: SpaceId, holding: Holding | None, wanted: int, needed: int = 0) -> Room:
        request = RoomRequest(holding, wanted, needed)
        return self.server.ask(lambda answers: answers.room(self._asker, space, request), Room)

    async def poll(
        self,
        cursors: Mapping[SpaceId, Rev],
        wait_seconds: int,
        holding: Mapping[SpaceId, Holding] = NOTHING_HELD,
        serial: int = 0,
    ) -> PollAnswer:
        down = self.server.down
        answers: list[PollAnswer] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                request = PollRequest(dict(cursors), wait_seconds, dict(holding), serial)
                answers.append(await self.server.poll(self.device, request))
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            await down.wait()
            nursery.cancel_scope.cancel()
        if not answers:
            raise Unreachable("the server ended")
        return answers[0]

    async def commit(self, space: SpaceId, commit: Commit) -> CommitAnswer:
        return self.server.take(self.device, commit, *([] if space == SPACE else [space]))

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        for chunk, data in chunks.items():
            if hashlib.sha256(data).digest() != chunk:
                raise ChunkDamaged(f"chunk {chunk.hex()} is not what its id says")
        wanted = await self.wanted(space, {chunk: len(data) for chunk, data in chunks.items()})
        missing = [chunk for chunk in chunks if chunk in wanted]
        batch: list[bytes] = []
        for chunk in missing:
            data = bytes(chunks[chunk])
            if len(data) > SMALL_CHUNK_MAX:
                # As its signed URL does.
                self.server.objects.write(object_name(chunk), data)
                with self.server.answering() as answers:
                    done(answers.objects_received(space, [Place(chunk, len(data), None)]))
                continue
            if batch and sum(map(len, batch)) + len(data) > PUT_BODY_MAX:
                self._put(space, batch)
                batch = []
            batch.append(data)
        if batch:
            self._put(space, batch)
        return sum(len(chunks[chunk]) for chunk in missing)

    def _put(self, space: SpaceId, batch: Sequence[bytes]) -> None:
        request = PutRequest(tuple(batch))
        self.server.ask(lambda answers: answers.put(self._asker, space, request), PutAnswer)

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        missing: set[ChunkId] = set()
        pairs = list(chunks.items())
        for at in range(0, len(pairs), CHUNKS_MAX):
            request = WantRequest(tuple(pairs[at : at + CHUNKS_MAX]))
            answer = self.server.ask(lambda answers: answers.want(self._asker, space, request), WantAnswer)  # noqa: B023
            missing.update(answer.missing)
        return missing

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < len(parts):
            request = GetRequest(tuple(parts[len(found) :]))
            found += self.server.ask(lambda answers: answers.get(self._asker, space, request), GetAnswer).parts  # noqa: B023
        return found

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        with self.server.answering() as answers:
            size, pieces = done(answers.read(self._asker, space, GetRequest(tuple(parts))))
            body = b"".join(chain.from_iterable(pieces))
        assert len(body) == size
        at = 0
        while at < len(body):
            head = Head.unpack(body[at : at + HEAD_SIZE])
            at += HEAD_SIZE + head.length
            take(head.id, head.first, head.frames, body[at - head.length : at])

    async def moments(
        self, space: SpaceId, folder: NodeId, limit: int, steps: Sequence[tuple[int, int]] = ()
    ) -> Moments:
        request = MomentsRequest(folder, limit, tuple(steps))
        return self.server.ask(lambda answers: answers.moments(self._asker, space, request), Moments)

    async def as_of(self, space: SpaceId, time_ns: int) -> Moment:
        return self.server.ask(lambda answers: answers.as_of(self._asker, space, AsOfRequest(time_ns)), Moment)

    async def history(self, space: SpaceId, node: NodeId, before: Rev = NOW, limit: int = 1_000) -> History:
        request = HistoryRequest(node, before, limit)
        return self.server.ask(lambda answers: answers.history(self._asker, space, request), History)

    async def conflicts(self, space: SpaceId, after_node: NodeId = NOWHERE, after_rev: Rev = NOW) -> Conflicts:
        request = ConflictsRequest(after_node, after_rev)
        return self.server.ask(lambda answers: answers.conflicts(self._asker, space, request), Conflicts)

    async def settle(self, space: SpaceId, conflicts: Sequence[tuple[NodeId, Rev]]) -> None:
        request = SettleRequest(tuple(conflicts))
        self.server.ask(lambda answers: answers.settle(self._asker, space, request), Done)
