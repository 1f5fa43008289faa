"""Who may ask for what in a shared space: every role, and who has none, by every request that there is.

The routes are those of the application: one that is not in the table fails the test, whoever adds it.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from remote.protocol.account import LinkRequest, PreviewRequest
from remote.protocol.events import EventAnswer, EventsRequest, Guard, GuardRequest
from remote.protocol.history import (
    DiffRequest,
    PurgeRequest,
    PutBackRequest,
    Retention,
    RetentionRequest,
    RewindRequest,
    TrashRequest,
    UndoRequest,
)
from remote.protocol.ids import ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    AsOfRequest,
    Change,
    ChunkPart,
    Commit,
    ConflictsRequest,
    Done,
    FolderQuery,
    GetRequest,
    HistoryRequest,
    ListRequest,
    LostRequest,
    MomentsRequest,
    NodesRequest,
    Problem,
    PutRequest,
    RoomRequest,
    SettleRequest,
    UrlsRequest,
    WantRequest,
)
from remote.protocol.nodes import EMPTY, Kind, Name, NodeState
from remote.protocol.parts import Head
from remote.protocol.search import SearchRequest
from remote.protocol.sharing import (
    LimitRequest,
    PermitRequest,
    RevokeRequest,
    Shared,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
    Wish,
)
from remote.server.http.app import make_app
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio

MEMBERS = ("viewer", "editor", "manager", "owner")
EVERYBODY = ("nobody", "stranger", "removed", "invited", *MEMBERS)
"""Not signed in; signed in and nothing else; was a member; did not accept yet; and the roles, the least first."""
READ, WRITE, MANAGE, OWN = MEMBERS, MEMBERS[1:], MEMBERS[2:], MEMBERS[3:]
NOW_NS = 1_700_000_000_000_000_000


@dataclass
class World:
    """A shared space with a file and a removed one, and everybody. `turn` differs for each who asks."""

    people: dict[str, Any]
    space: SpaceId
    file: NodeId
    file_rev: Rev
    gone: NodeId
    chunk: ChunkId
    turn: int
    fresh: NodeId
    """An id of the one who asks."""

    def op_id(self) -> bytes:
        return self.turn.to_bytes(16, "big")

    def state(self, name: bytes = b"") -> NodeState:
        names = (Name(ROOT, name or b"made %d" % self.turn),)
        return NodeState(Kind.FILE, names, 0o644, 0, 0, NOW_NS, NOW_NS, NOW_NS, NOW_NS, content=EMPTY)


Body = Callable[[World], object]


@dataclass(frozen=True)
class Case:
    """Who may, and what is asked: a message or JSON; `path` and `query` fill in the rest of the address."""

    may: tuple[str, ...]
    body: Body | None = None
    query: str = ""
    raw: bool = False
    is_top: bool = False
    """Whether the file of the address is the top of the space."""
    status: int = 200
    """What those who may are answered: 404 where what they ask about is not there."""


def about(world: World) -> SharedSpaceRequest:
    return SharedSpaceRequest(world.space)


CHUNK = b"a chunk of nobody's"
LARGE = bytes(300_000)
IN_SPACE: dict[str, Case] = {
    "list": Case(READ, lambda _: ListRequest((FolderQuery(ROOT),))),
    "nodes": Case(READ, lambda world: NodesRequest((world.file,))),
    "room": Case(READ, lambda _: RoomRequest()),
    "changes": Case(READ, query="?since=1"),
    "moments": Case(READ, lambda _: MomentsRequest(ROOT)),
    "as-of": Case(READ, lambda _: AsOfRequest(1 << 62)),
    "history": Case(READ, lambda world: HistoryRequest(world.file)),
    "conflicts": Case(READ, lambda _: ConflictsRequest()),
    "conflicts/settle": Case(WRITE, lambda world: SettleRequest(((world.file, Rev(1)),))),
    "commits": Case(WRITE, lambda world: Commit(world.op_id(), (Change(world.fresh, Rev(0), NOW_NS, world.state()),))),
    "diff": Case(READ, lambda _: DiffRequest(ROOT, Rev(2))),
    "rewind": Case(WRITE, lambda world: RewindRequest(world.op_id(), ROOT, Rev(2))),
    "undo": Case(WRITE, lambda world: UndoRequest(world.op_id(), Rev(3))),
    "trash": Case(READ, lambda _: TrashRequest()),
    "trash/restore": Case(WRITE, lambda world: PutBackRequest(world.op_id(), (world.gone,))),
    "purge": Case(MANAGE, lambda world: PurgeRequest((world.file,))),
    "retention": Case(MANAGE, lambda _: RetentionRequest(Retention(all_days=7))),
    "chunks/want": Case(WRITE, lambda _: WantRequest(((ChunkId(bytes(32)), 100),))),
    "chunks/put": Case(WRITE, lambda _: PutRequest((CHUNK,))),
    "chunks/send": Case(
        WRITE, lambda _: Head.of(ChunkId(hashlib.sha256(LARGE).digest()), LARGE).pack() + LARGE, raw=True
    ),
    "chunks/get": Case(READ, lambda world: GetRequest((ChunkPart(world.chunk),))),
    "chunks/read": Case(READ, lambda world: GetRequest((ChunkPart(world.chunk),))),
    "chunks/urls": Case(READ, lambda world: UrlsRequest((world.chunk,))),
    "chunks/lost": Case(READ, lambda _: LostRequest(ChunkId(b""))),
    "events": Case(READ, lambda _: EventsRequest()),
    "events/answer": Case(WRITE, lambda _: EventAnswer(5, "done"), status=404),
    "guard": Case(MANAGE, lambda _: GuardRequest(Guard())),
}
SHARES: dict[str, Case] = {
    "POST /v1/previews": Case(READ, lambda world: PreviewRequest(world.file, 256, world.space), status=404),
    "POST /v1/shares/members": Case(READ, about),
    "POST /v1/shares/permit": Case(MANAGE, lambda world: PermitRequest(world.space, "stranger", "viewer")),
    "POST /v1/shares/revoke": Case(MANAGE, lambda world: RevokeRequest(world.space, "invited")),
    "POST /v1/shares/make": Case(MANAGE, lambda world: ShareRequest(world.space, ROOT, (Wish("stranger"),))),
    "POST /v1/shares/accept": Case(("invited",), about),
    "POST /v1/shares/decline": Case(("invited",), about),
    "POST /v1/shares/leave": Case(READ[:-1], about),
    "POST /v1/shares/transfer": Case(OWN, lambda world: TransferRequest(world.space, "manager")),
    "POST /v1/shares/limit": Case(OWN, lambda world: LimitRequest(world.space, 1 << 40)),
    "POST /v1/shares/end": Case(OWN, about),
    "POST /v1/search": Case(READ, lambda world: SearchRequest("type:text", space=world.space)),
    "POST /v1/links/make": Case(WRITE, lambda world: LinkRequest(world.space, world.file)),
}
JSON_IN_SPACE: dict[str, Case] = {
    "GET versions": Case(READ),
    "GET moments": Case(READ),
    "GET diff": Case(READ, query="?from=2"),
    "GET trash": Case(READ),
    "GET retention": Case(READ),
    "PUT retention": Case(MANAGE, lambda _: {"all_days": 7}),
    "POST rewind": Case(WRITE, lambda _: {"to": "2"}),
    "POST undo": Case(WRITE, lambda _: {"rev": 3}),
    "GET conflicts": Case(READ),
    "POST conflicts/settle": Case(WRITE, lambda world: {"file": str(world.file), "rev": 1}),
    "POST restore": Case(WRITE, lambda _: {"path": "removed", "to": "2"}),
    "POST trash/restore": Case(WRITE, lambda world: {"nodes": [str(world.gone)]}),
    "POST trash/purge": Case(MANAGE, lambda world: {"nodes": [str(world.gone)], "dry_run": True}),
    "POST purge": Case(MANAGE, lambda _: {"path": "report.txt"}),
    "GET events": Case(READ),
    "POST events/{event:int}/allow": Case(WRITE, status=404),
    "POST events/{event:int}/done": Case(WRITE, status=404),
    "GET guard": Case(READ),
    "PUT guard": Case(MANAGE, lambda _: {"mode": "off"}),
}
FILES = {
    "GET /api/v1/files": Case(READ, query="?path=report.txt&space={space}"),
    "PUT /api/v1/files": Case(WRITE, lambda _: b"content", query="?path=new&space={space}", raw=True),
    "POST /api/v1/files": Case(WRITE, lambda world: {"path": "big", "size_bytes": 9, "space": str(world.space)}),
    "POST /api/v1/folders": Case(WRITE, lambda world: {"path": "folder", "space": str(world.space)}),
    "GET /api/v1/files/{file:str}": Case(READ, query="?space={space}"),
    "PATCH /api/v1/files/{file:str}": Case(WRITE, lambda _: {"mode": "0600"}, query="?space={space}"),
    "DELETE /api/v1/files/{file:str}": Case(WRITE, query="?space={space}"),
    "GET /api/v1/files/{file:str}/children": Case(READ, query="?space={space}", is_top=True),
    "GET /api/v1/files/{file:str}/changes": Case(READ, query="?space={space}&since=1"),
    "POST /api/v1/files/{file:str}/copy": Case(WRITE, lambda _: {"path": "copy"}, query="?space={space}"),
    "GET /api/v1/files/{file:str}/download": Case(READ, query="?space={space}"),
    "HEAD /api/v1/files/{file:str}/download": Case(READ, query="?space={space}"),
    "POST /api/v1/files/search": Case(READ, lambda world: {"words": "type:text", "space": str(world.space)}),
    # A text has none.
    "GET /api/v1/files/{file:str}/preview": Case(READ, query="?space={space}", status=404),
    "GET /api/v1/search": Case(READ, query="?words=type:text&space={space}"),
    "POST /api/v1/links": Case(WRITE, lambda world: {"file": str(world.file), "space": str(world.space)}),
    "POST /api/v1/files/{file:str}/share": Case(
        MANAGE, lambda world: {"wishes": [{"who": "stranger"}], "space": str(world.space)}, is_top=True
    ),
    "GET /api/v1/shares/{space:int}": Case(READ),
    "POST /api/v1/shares/{space:int}/members": Case(MANAGE, lambda _: {"who": "stranger", "role": "viewer"}),
    "DELETE /api/v1/shares/{space:int}/members": Case(MANAGE, query="?who=invited"),
    "POST /api/v1/shares/{space:int}/accept": Case(("invited",)),
    "POST /api/v1/shares/{space:int}/decline": Case(("invited",)),
    "POST /api/v1/shares/{space:int}/leave": Case(READ[:-1]),
    "POST /api/v1/shares/{space:int}/transfer": Case(OWN, lambda _: {"who": "manager"}),
    "PUT /api/v1/shares/{space:int}/limit": Case(OWN, lambda _: {"limit_bytes": 1 << 40}),
    "DELETE /api/v1/shares/{space:int}": Case(OWN),
}
TABLE: dict[str, Case] = {
    **{
        f"{'GET' if what == 'changes' else 'POST'} /v1/spaces/{{space:str}}/{what}": case
        for what, case in IN_SPACE.items()
    },
    **SHARES,
    **{
        f"{what.split()[0]} /api/v1/spaces/{{space:int}}/{what.split()[1]}": case
        for what, case in JSON_IN_SPACE.items()
    },
    **FILES,
}
OF_THE_ASKER = {
    *("POST /v1/logout", "POST /v1/ranges", "POST /v1/password", "POST /v1/poll", "GET /v1/spaces"),
    *("GET /v1/devices", "POST /v1/devices/sign-out", "POST /v1/devices/rename"),
    *("GET /v1/tokens", "POST /v1/tokens/make", "POST /v1/tokens/revoke", "POST /v1/audit"),
    *("GET /v1/totp", *(f"POST /v1/totp/{what}" for what in ("begin", "on", "off", "codes"))),
    *("GET /v1/email", "POST /v1/email", "GET /api/v1/email", "PUT /api/v1/email", "GET /api/v1/audit"),
    *("GET /api/v1/tokens", "POST /api/v1/tokens", "DELETE /api/v1/tokens/{token:int}"),
    *("GET /api/v1/totp", *(f"POST /api/v1/totp/{what}" for what in ("begin", "on", "off", "codes"))),
    *("GET /v1/links", "POST /v1/links/revoke", "GET /v1/shares/invitations"),
    *("GET /v1/groups", "POST /v1/groups/make", "POST /v1/groups/remove"),
    *("POST /v1/groups/add-member", "POST /v1/groups/remove-member"),
    *("GET /api/v1/devices", "DELETE /api/v1/devices/{device:str}", "PATCH /api/v1/devices/{device:str}"),
    *("GET /api/v1/links", "DELETE /api/v1/links/{link:str}", "POST /api/v1/logout", "POST /api/v1/password"),
    *("GET /api/v1/spaces", "GET /api/v1/uploads", "GET /api/v1/shares"),
    *("PATCH /api/v1/files/{file:str}/chunks", "DELETE /api/v1/files/{file:str}/chunks"),
    *("GET /api/v1/groups", "POST /api/v1/groups", "DELETE /api/v1/groups"),
    *("POST /api/v1/groups/members", "DELETE /api/v1/groups/members"),
}
"""Requests about the asker himself: what they answer is his, whoever he is. They need a sign-in."""
OPEN = {
    *("GET /", "GET /v1/health", "POST /v1/login", "POST /api/v1/login"),
    *("POST /v1/sso/begin", "POST /v1/sso/finish", "GET /sso/go/{ticket:str}", "GET /sso/return"),
    *("GET /docs", "GET /docs/openapi.json", "GET /docs/{path:str}"),
    *(f"{method} /s/{{secret:str}}" for method in ("GET", "HEAD", "POST", "PUT")),
    *(f"{method} /s/{{secret:str}}/{{path:path}}" for method in ("GET", "HEAD", "POST", "PUT")),
    *(
        "GET /v1/objects/{chunk:str}",
        "PUT /v1/objects/{chunk:str}",
        "PUT /api/v1/uploads/{upload:str}/parts/{number:int}",
    ),
}
"""Requests without a sign-in: for everybody, or by a link or a signature, which have tests of their own."""


@pytest.fixture
async def people(sign_in: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
    return {name: await sign_in(name) for name in EVERYBODY if name != "nobody"}


async def world_of(people: dict[str, Any], instance: Instance, turn: int, role: str) -> World:
    """A new shared space in which everybody is what the name says."""
    owner = people["owner"]
    writer = instance.contents.writer(owner.home)
    writer.add(bytes(range(256)) * 40)
    content = writer.finish()
    folder = await owner.new_folder(b"shared %d" % turn)
    file = await owner.new_file(b"report.txt", folder, content)
    gone = await owner.new_file(b"removed", folder, content)
    wishes = tuple(Wish(name, name) for name in MEMBERS[:-1])
    wishes += (Wish("invited", "editor"), Wish("removed", "editor"))
    shared = await owner.ask("POST", "/v1/shares/make", ShareRequest(owner.home, folder, wishes), Shared)
    for name in (*MEMBERS[:-1], "removed"):
        await people[name].ask("POST", "/v1/shares/accept", SharedSpaceRequest(shared.space), Shared)
    await owner.ask("POST", "/v1/shares/revoke", RevokeRequest(shared.space, "removed"), Done)
    changes = (Change(gone, Rev(2), NOW_NS, None),)
    assert (await owner.commit(*changes, space=shared.space)).rev == 3
    fresh = await people[role].new_id() if role in people else NodeId(1 << 40)
    return World(people, shared.space, file, Rev(2), gone, content.entries[0].id, turn, fresh)


async def asked(http: Any, route: str, case: Case, world: World, role: str) -> tuple[int, str]:
    """The status, and the code of the Problem."""
    method, path = route.split()
    node = ROOT if case.is_top else world.file
    for key, value in (("space:str", world.space), ("space:int", world.space), ("file:str", node), ("event:int", 5)):
        path = path.replace(f"{{{key}}}", str(value))
    headers = dict(world.people[role].headers) if role != "nobody" else {"satchel-protocol": "1"}
    body = case.body(world) if case.body is not None else None
    content = b""
    if case.raw and isinstance(body, bytes):
        content = body
    elif body is not None and path.startswith("/api/"):
        content, headers["content-type"] = msgspec.json.encode(body), "application/json"
    elif body is not None:
        content = msgspec.msgpack.encode(body)
    response = await http.request(method, path + case.query.format(space=world.space), content=content, headers=headers)
    if response.status_code < 300 or method == "HEAD":
        return response.status_code, ""
    decode = msgspec.json.decode if path.startswith("/api/") else msgspec.msgpack.decode
    return response.status_code, decode(response.content, type=Problem).code


def wanted(case: Case, role: str) -> int:
    """The status of a refusal, 200 for none."""
    if role in case.may:
        return case.status
    if role == "nobody":
        return 401
    # Who is no member is told no more than who asks for what never was; nor is who has nothing to accept.
    return 403 if role in MEMBERS and case.may != ("invited",) else 404


async def test_every_route_is_in_the_table(instance: Instance) -> None:
    found = {
        f"{method} {route.path}"
        for route in make_app(instance).routes
        for method in route.methods  # type: ignore[union-attr]
        if method != "OPTIONS"
    }
    known = {*TABLE, *OF_THE_ASKER, *OPEN}
    assert not found - known, "say in the tables above who may ask for these"
    assert not known - found


async def test_every_role_by_every_request(people: dict[str, Any], instance: Instance, http: Any) -> None:
    wrong: list[str] = []
    turn = 0
    # From now on searches are answered.
    instance.search.indexer(reads_content=False)
    for route, case in TABLE.items():
        world = await world_of(people, instance, turn, "owner")
        for role in sorted(EVERYBODY, key=lambda one: (one in case.may, EVERYBODY.index(one))):
            turn += 1
            if role in case.may and case.may != READ:
                # What is done once cannot be done again.
                world = await world_of(people, instance, turn, role)
            status, code = await asked(http, route, case, world, role)
            expected = wanted(case, role)
            if (status if status >= 300 else 200) != expected:
                wrong.append(f"{route} by {role}: {status} {code}, not {expected}")
        turn += 1
    assert not wrong, "\n".join(wrong)


async def test_what_is_the_askers_own_needs_a_sign_in(http: Any) -> None:
    for route in sorted(OF_THE_ASKER):
        method, path = route.split()
        for key in ("device:str", "link:str", "file:str", "token:int"):
            path = path.replace(f"{{{key}}}", "5")
        is_json = path.startswith("/api/")
        headers = {"content-type": "application/json"} if is_json else {"satchel-protocol": "1"}
        response = await http.request(method, path, headers=headers)
        assert response.status_code == 401, (route, response.status_code)
