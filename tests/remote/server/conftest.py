"""A whole instance in a temporary directory, asked over HTTP; every statement it runs is checked for its shard key."""

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio.lowlevel
import argon2
import httpx
import msgspec
import pytest

from remote.protocol import errors
from remote.protocol.ids import ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    CONTENT_TYPE,
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
    Listing,
    ListRequest,
    LoginAnswer,
    LoginRequest,
    Moment,
    Moments,
    MomentsRequest,
    NodeRange,
    Nodes,
    NodesRequest,
    PollAnswer,
    PollRequest,
    Problem,
    PutAnswer,
    PutRequest,
    SettleRequest,
    Space,
    Spaces,
    UrlsAnswer,
    UrlsRequest,
    WantAnswer,
    WantRequest,
)
from remote.protocol.nodes import EMPTY, Kind, Manifest, Name, NodeState, NodeVersion
from remote.protocol.parts import HEAD_SIZE, PARTS_TYPE, Head
from remote.server import accounts
from remote.server import instance as instances
from remote.server.asking import Asking, begin
from remote.server.database.schema import SHARD_KEYS
from remote.server.http.app import make_app
from remote.server.instance import Instance

Message = TypeVar("Message")
PASSWORD = "correct horse"
SPACE_ROUTES = (
    *("list", "nodes", "commits", "moments", "as-of", "history", "conflicts", "conflicts/settle"),
    *("diff", "rewind", "undo", "trash", "trash/restore", "purge", "retention"),
    *("events", "events/answer", "guard"),
    *("chunks/want", "chunks/put", "chunks/send", "chunks/get", "chunks/read", "chunks/urls", "chunks/lost"),
)


class Asker:
    """A signed-in device; its methods raise the error that a Problem stands for."""

    def __init__(self, http: httpx.AsyncClient, login: LoginAnswer) -> None:
        self.http = http
        self.login = login
        self.home = login.home
        self.headers = {"authorization": f"Bearer {login.token}", "satchel-protocol": "1"}
        self._next_id = 0
        self._range_end = 0

    def as_token(self, secret: str) -> "Asker":
        """Who asks with an app token of the user."""
        return Asker(self.http, msgspec.structs.replace(self.login, token=secret))

    async def raw(self, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        return await self.http.request(method, path, content=body, headers={**self.headers, **headers})

    async def ask(self, method: str, path: str, message: object, kind: type[Message]) -> Message:
        body = b"" if message is None else msgspec.msgpack.encode(message)
        response = await self.raw(method, path, body)
        assert response.headers["content-type"] == CONTENT_TYPE, response.content
        if response.status_code != 200:
            raise error_of(response)
        return msgspec.msgpack.decode(response.content, type=kind)

    async def in_space(self, what: str, message: object, kind: type[Message], space: int = 0) -> Message:
        return await self.ask("POST", f"/v1/spaces/{space or self.home}/{what}", message, kind)

    async def spaces(self) -> Spaces:
        return await self.ask("GET", "/v1/spaces", None, Spaces)

    async def space(self) -> Space:
        return next(space for space in (await self.spaces()).spaces if space.space == self.home)

    async def new_id(self) -> NodeId:
        if self._next_id == self._range_end:
            leased = await self.ask("POST", "/v1/ranges", None, NodeRange)
            self._next_id, self._range_end = leased.first, leased.first + leased.count
        self._next_id += 1
        return NodeId(self._next_id - 1)

    async def commit(self, *changes: Change, op_id: bytes = b"", space: int = 0) -> CommitAnswer:
        return await self.in_space("commits", Commit(op_id or secrets.token_bytes(16), changes), CommitAnswer, space)

    async def made(self, *changes: Change) -> Rev:
        answer = await self.commit(*changes)
        assert answer.rev, answer.reason
        return answer.rev

    async def new_file(self, name: bytes, parent: NodeId = ROOT, content: Manifest = EMPTY) -> NodeId:
        node = await self.new_id()
        await self.made(change(node, file(name, parent, content)))
        return node

    async def new_folder(self, name: bytes, parent: NodeId = ROOT) -> NodeId:
        node = await self.new_id()
        await self.made(change(node, folder(name, parent)))
        return node

    async def listing(self, *folders: NodeId | FolderQuery, as_of: int = 0) -> Listing:
        queries = tuple(each if isinstance(each, FolderQuery) else FolderQuery(each) for each in folders)
        return await self.in_space("list", ListRequest(queries, Rev(as_of)), Listing)

    async def names(self, folder: NodeId = ROOT, as_of: int = 0) -> list[bytes]:
        return list((await self.listing(folder, as_of=as_of)).folders[0].names)

    async def nodes(self, *nodes: NodeId, as_of: int = 0) -> Nodes:
        return await self.in_space("nodes", NodesRequest(nodes, Rev(as_of)), Nodes)

    async def node(self, node: NodeId) -> NodeVersion:
        found = (await self.nodes(node)).nodes[0]
        assert found is not None
        return found

    async def changes(self, since: int) -> Changes:
        return await self.ask("GET", f"/v1/spaces/{self.home}/changes?since={since}", None, Changes)

    async def moments(self, folder: NodeId, limit: int = 1000) -> list[int]:
        found = await self.in_space("moments", MomentsRequest(folder, limit), Moments)
        return [moment.rev for moment in found.moments]

    async def as_of(self, time_ns: int) -> Moment:
        return await self.in_space("as-of", AsOfRequest(time_ns), Moment)

    async def history(self, node: NodeId, before: int = 0, limit: int = 1000) -> History:
        return await self.in_space("history", HistoryRequest(node, Rev(before), limit), History)

    async def conflicts(self, after_node: int = 0, after_rev: int = 0, space: int = 0) -> Conflicts:
        request = ConflictsRequest(NodeId(after_node), Rev(after_rev))
        return await self.in_space("conflicts", request, Conflicts, space)

    async def settle(self, *conflicts: tuple[int, int], space: int = 0) -> None:
        await self.in_space("conflicts/settle", SettleRequest(conflicts), Done, space)  # type: ignore[arg-type]

    async def poll(self, cursors: Mapping[SpaceId, int], wait_seconds: int = 60) -> PollAnswer:
        return await self.ask("POST", "/v1/poll", PollRequest(dict(cursors), wait_seconds), PollAnswer)  # type: ignore[arg-type]

    async def want(self, *chunks: bytes, space: int = 0) -> WantAnswer:
        request = WantRequest(tuple((chunk_id(data), len(data)) for data in chunks))
        return await self.in_space("chunks/want", request, WantAnswer, space)

    async def put(self, *chunks: bytes) -> PutAnswer:
        return await self.in_space("chunks/put", PutRequest(chunks), PutAnswer)

    async def send(self, *chunks: bytes) -> PutAnswer:
        """Whole chunks in one body, each behind its head."""
        return await self.send_body(b"".join(Head.of(chunk_id(data), data).pack() + data for data in chunks))

    async def send_body(self, body: bytes) -> PutAnswer:
        response = await self.raw("POST", f"/v1/spaces/{self.home}/chunks/send", body)
        if response.status_code != 200:
            raise error_of(response)
        return msgspec.msgpack.decode(response.content, type=PutAnswer)

    async def get(self, *parts: ChunkPart, space: int = 0) -> tuple[bytes, ...]:
        return (await self.in_space("chunks/get", GetRequest(parts), GetAnswer, space)).parts

    async def read(self, *parts: ChunkPart) -> list[tuple[Head, bytes]]:
        """The items of the answer."""
        body = msgspec.msgpack.encode(GetRequest(parts))
        response = await self.raw("POST", f"/v1/spaces/{self.home}/chunks/read", body)
        if response.status_code != 200:
            raise error_of(response)
        assert response.headers["content-type"] == PARTS_TYPE
        assert int(response.headers["content-length"]) == len(response.content)
        found, at = [], 0
        while at < len(response.content):
            head = Head.unpack(response.content[at : at + HEAD_SIZE])
            at += HEAD_SIZE + head.length
            found.append((head, response.content[at - head.length : at]))
        return found

    async def urls(self, *chunks: ChunkId) -> UrlsAnswer:
        return await self.in_space("chunks/urls", UrlsRequest(chunks), UrlsAnswer)


def error_of(response: httpx.Response) -> errors.RemoteError:
    problem = msgspec.msgpack.decode(response.content, type=Problem)
    assert problem.message
    assert "Traceback" not in problem.message
    return errors.BY_CODE[problem.code](problem.message)


def chunk_id(data: bytes) -> ChunkId:
    return ChunkId(hashlib.sha256(data).digest())


def state(kind: Kind, names: tuple[Name, ...], **fields: Any) -> NodeState:
    now = 1_700_000_000_000_000_000
    times = {"mtime_ns": now, "ctime_ns": now, "atime_ns": now, "birth_ns": now}
    return NodeState(**{"kind": kind, "names": names, "mode": 0o644, "uid": 1000, "gid": 1000, **times, **fields})


def file(name: bytes, parent: NodeId = ROOT, content: Manifest = EMPTY, **fields: Any) -> NodeState:
    return state(Kind.FILE, (Name(parent, name),), content=content, **fields)


def folder(name: bytes, parent: NodeId = ROOT, **fields: Any) -> NodeState:
    return state(Kind.FOLDER, (Name(parent, name),), **{"mode": 0o755, **fields})


def change(node: NodeId, state: NodeState | None, base: int = 0, **fields: Any) -> Change:
    return Change(node, Rev(base), 1_700_000_000_000_000_000, state, **fields)


async def signed_in(http: httpx.AsyncClient, name: str, device: str = "desk") -> Asker:
    """A new device of a user whose password is PASSWORD."""
    response = await http.post("/v1/login", content=msgspec.msgpack.encode(LoginRequest(name, PASSWORD, device)))
    assert response.status_code == 200, response.content
    return Asker(http, msgspec.msgpack.decode(response.content, type=LoginAnswer))


async def until(holds: Callable[[], bool]) -> None:
    """Lets other tasks run until this holds."""
    while not holds():
        await anyio.lowlevel.checkpoint()


class Builders:
    """The functions above, for test modules (which cannot import from here)."""

    state = staticmethod(state)
    file = staticmethod(file)
    folder = staticmethod(folder)
    change = staticmethod(change)
    chunk_id = staticmethod(chunk_id)
    error_of = staticmethod(error_of)
    signed_in = staticmethod(signed_in)
    until = staticmethod(until)
    space_routes = SPACE_ROUTES
    password = PASSWORD


@pytest.fixture(scope="session")
def build() -> type[Builders]:
    return Builders


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing that costs nothing: the real cost is tested once."""
    monkeypatch.setattr(accounts, "_hasher", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def statements() -> Iterator[set[str]]:
    """Every statement that ran; each must have bound the shard key of each of its tables."""
    seen: set[str] = set()
    yield seen
    unbound = [fault for statement in sorted(seen) for fault in shard_key_faults(statement)]
    assert not unbound, unbound


@pytest.fixture
def instance(tmp_path: Path, statements: set[str], cheap_passwords: None) -> Iterator[Instance]:
    data, key_file = tmp_path / "data", tmp_path / "key"
    instances.make(data, key_file)
    with instances.opened(data, key_file, statements.add) as opened:
        yield opened


@pytest.fixture
async def http(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(instance), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


SignIn = Callable[[str], Awaitable[Asker]]


@pytest.fixture
def sign_in(instance: Instance, http: httpx.AsyncClient, tmp_path: Path) -> SignIn:
    """Signs a new device in; the account is made with its first one."""
    known: set[str] = set()

    async def sign_in(name: str) -> Asker:
        if name not in known:
            # A command is a process of its own, in which nobody asks.
            begin(Asking())
            instances.add_account(tmp_path / "data", tmp_path / "key", name, PASSWORD)
            known.add(name)
        return await signed_in(http, name, f"desk{len(known)}")

    return sign_in


@pytest.fixture
async def ann(sign_in: SignIn) -> Asker:
    return await sign_in("ann")


@pytest.fixture
async def bob(sign_in: SignIn) -> Asker:
    return await sign_in("bob")


@pytest.fixture(name="shard_key_faults")
def shard_key_faults_fixture() -> Callable[[str], list[str]]:
    return shard_key_faults


EVERY_SHARD = "/* every shard */"
"""Stands in statements for whoever runs the server, which look everywhere; none answers a device."""


def shard_key_faults(statement: str) -> list[str]:
    """Tables of a statement whose shard key it does not bind, to a value or to that of a table that does."""
    if EVERY_SHARD in statement:
        return []
    tables = re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)(?:\s+AS\s+([a-z_]+))?", statement)
    faults = []
    for table, alias in tables:
        key = SHARD_KEYS[table]
        if not key:
            continue
        if statement.startswith("INSERT"):
            is_bound = re.match(rf"INSERT INTO {table} \({key}\b", statement) is not None
        else:
            prefix = rf"{alias or table}\.{key}" if len(tables) > 1 else key
            is_bound = re.search(rf"(?<![\w.]){prefix} = (?:\?|[a-z_]+\.{key}\b)", statement) is not None
            # A walk through all rows goes through the shards one after the other.
            is_bound |= re.search(rf"(?<![\w.]){prefix} > \?.* ORDER BY {key} LIMIT \?", statement) is not None
        if not is_bound:
            faults.append(f"{table}.{key} is not bound in: {statement}")
    return faults
