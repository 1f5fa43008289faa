"""The JSON API of history: versions, differences, going back, trash, conflicts and what is kept; and who you are."""

import secrets
from typing import Annotated, Any, Literal

import msgspec
from litestar import get, post, put
from litestar.params import JSONBody, QueryParameter

from remote.protocol import history, messages
from remote.protocol.errors import BadRequest
from remote.protocol.history import (
    CHANGED_MAX,
    DiffRequest,
    Purged,
    PurgeRequest,
    PutBackRequest,
    RestoreRequest,
    Retention,
    RetentionRequest,
    RetentionTold,
    RewindRequest,
    TrashRequest,
    UndoRequest,
)
from remote.protocol.ids import NOW, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    ConflictsRequest,
    HistoryRequest,
    LoginRequest,
    MomentsRequest,
    SettleRequest,
)
from remote.protocol.times import iso
from remote.server.edits import By
from remote.server.http.api_common import (
    PATH_MAX,
    SpaceNumber,
    device_of,
    file_id,
    names_of,
    text_of,
)
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63, INT63_TOLD

_LISTED = 100
Before = Annotated[
    int, QueryParameter(name="before", ge=0, le=INT63_TOLD, description="Removed before this rev; 0: all.")
]
Path = Annotated[
    str, QueryParameter(name="path", max_length=PATH_MAX, description="From the top of the space; empty: all of it.")
]
AfterFile = Annotated[
    str, QueryParameter(name="after", pattern="^[0-9]{1,19}$", max_length=19, description="Behind this file.")
]
AfterRev = Annotated[int, QueryParameter(name="after_rev", ge=0, le=INT63_TOLD, description="And this rev of it.")]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=1_000, description="At most so many.")]
Since = Annotated[
    str,
    QueryParameter(
        name="from", max_length=100, description="A time (ISO 8601, UTC unless it says otherwise) or a rev."
    ),
]
To = Annotated[str, QueryParameter(name="to", max_length=100, description="The same; empty: now.")]
Id = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,19}$", max_length=19)]


class SignedIn(msgspec.Struct):
    """The token is told this once; `satchel devices` lists what is signed in, and signs it out."""

    token: str
    device: str
    user: str
    home: str


class Space(msgspec.Struct):
    """A space of yours; `quota_bytes` 0: none."""

    space: str
    name: str
    role: str
    rev: int
    quota_bytes: int
    used_bytes: int


class Version(msgspec.Struct):
    """What something was, from a rev on; `kind` null: it was removed. `is_conflict`: it lost against another edit."""

    rev: int
    time: str
    user: str
    device: str
    kind: str | None
    name: str
    size_bytes: int
    is_conflict: bool


class Conflict(msgspec.Struct):
    """An edit that lost against another one: the version that lost, and the file as it is now."""

    file: str
    lost: Version
    current: Version


class Conflicts(msgspec.Struct):
    """Conflicts that nobody has settled; `more`: ask again after the last one's file and rev."""

    conflicts: list[Conflict]
    more: bool


class Settle(msgspec.Struct, forbid_unknown_fields=True):
    """Settles a conflict for all devices. `keep`: `current` as it is, or `lost`, which the file becomes then."""

    file: Id
    rev: Annotated[int, msgspec.Meta(ge=1, le=INT63_TOLD)]
    keep: Literal["current", "lost"] = "current"


class Moment(msgspec.Struct):
    """When a folder, or anything below it, changed."""

    rev: int
    time: str
    user: str
    device: str


class Difference(msgspec.Struct):
    """One path that differs: added, removed, changed, moved or attributes; `was_path`: from where it moved."""

    node: str
    what: str
    kind: str
    path: str
    was_path: str
    size_bytes: int
    was_size_bytes: int


class Differences(msgspec.Struct):
    """The first differences by path; the counts are of all."""

    added: int
    removed: int
    changed: int
    moved: int
    attributes: int
    differences: list[Difference]


class Done(msgspec.Struct):
    """What was done by the new `rev` (0: nothing); `of`: the rev gone back to or undone; `kept`: things let be."""

    rev: int
    of: int
    kept: int
    did: Differences


class Removed(msgspec.Struct):
    """Something that was removed, with what went with it: `count` in all."""

    node: str
    path: str
    kind: str
    rev: int
    time: str
    user: str
    device: str
    count: int
    size_bytes: int


class Trash(msgspec.Struct):
    """What was removed, newest first; `next`: ask again with this as `before`, 0: there is no more."""

    removed: list[Removed]
    next: int


class Rewind(msgspec.Struct, forbid_unknown_fields=True):
    """Make `path`, and all in it, what it was at a time or rev."""

    to: Annotated[str, msgspec.Meta(max_length=100)]
    path: Annotated[str, msgspec.Meta(max_length=PATH_MAX)] = ""
    dry_run: bool = False


class Restore(msgspec.Struct, forbid_unknown_fields=True):
    """Make `path` what it was at a time or rev; what came into a folder since stays. `beside`: as a copy beside it."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_MAX)]
    to: Annotated[str, msgspec.Meta(max_length=100)]
    beside: bool = False
    dry_run: bool = False


class Undo(msgspec.Struct, forbid_unknown_fields=True):
    """Take back what a rev did; 0: what this device did, or had done, last. Or the mass change `event`, which /events
    tells; with `keep_new`, what its device made then stays.
    """

    rev: Annotated[int, msgspec.Meta(ge=0, le=INT63_TOLD)] = 0
    dry_run: bool = False
    event: Annotated[int, msgspec.Meta(ge=0, le=INT63_TOLD)] = 0
    keep_new: bool = False


class Nodes(msgspec.Struct, forbid_unknown_fields=True):
    """Removed things, by the `node` that the trash tells."""

    nodes: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=1_000)]


class PurgePath(msgspec.Struct, forbid_unknown_fields=True):
    """Forget for good what `path`, and all below it, was before now."""

    path: Annotated[str, msgspec.Meta(max_length=PATH_MAX)]
    dry_run: bool = False


class PurgeTrash(msgspec.Struct, forbid_unknown_fields=True):
    """Forget for good these removed things, or (none given) all that was removed before the rev `before` (0: all)."""

    nodes: Annotated[list[Id], msgspec.Meta(max_length=1_000)] = []
    before: Annotated[int, msgspec.Meta(ge=0, le=INT63_TOLD)] = 0
    dry_run: bool = False


def history_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """All routes of this module."""
    return [*_reading(instance), *_acting(instance), *_forgetting(instance), *_conflict_routes(instance)]


def _reading(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    answers, acts = instance.answers, instance.acts

    @post("/login", status_code=200, security=[{}], summary="Sign a script in: a device of yours, with a token")
    async def login(data: JSONBody[LoginRequest]) -> SignedIn:
        found = await instance.devices.login(data)
        return SignedIn(found.token, str(found.device), found.user_name, str(found.home))

    @get("/spaces", summary="Your spaces")
    async def spaces(request: AnyRequest) -> list[Space]:
        found = await answers.spaces(await device_of(instance, request))
        return [Space(str(one.space), one.name, one.role, one.head, one.quota, one.used) for one in found.spaces]

    @get("/spaces/{space:int}/versions", summary="What a path was, newest first")
    async def versions(request: AnyRequest, space: SpaceNumber, path: Path = "", limit: Limit = 1_000) -> list[Version]:
        device, of = await device_of(instance, request), SpaceId(space)
        node = await acts.find(device, of, path.encode())
        found = await answers.history(device, of, HistoryRequest(node, NOW, limit))
        # What is stored is answered to devices undecoded.
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=type(found))
        return [_version(one) for one in decoded.versions]

    @get("/spaces/{space:int}/moments", summary="When a folder, or anything below it, changed, newest first")
    async def moments(request: AnyRequest, space: SpaceNumber, path: Path = "", limit: Limit = 1_000) -> list[Moment]:
        device, of = await device_of(instance, request), SpaceId(space)
        node = await acts.find(device, of, path.encode())
        found = await answers.moments(device, of, MomentsRequest(node, limit))
        return [Moment(one.rev, iso(one.time_ns), one.user_name, one.device_name) for one in found.moments]

    @get("/spaces/{space:int}/diff", summary="What differs in a folder between two times")
    async def diff(
        request: AnyRequest, space: SpaceNumber, since: Since, path: Path = "", to: To = "", limit: Limit = 1_000
    ) -> Differences:
        device, of = await device_of(instance, request), SpaceId(space)
        node = await acts.find(device, of, path.encode())
        wanted = DiffRequest(node, await acts.rev_of(device, of, since), await acts.rev_of(device, of, to), limit)
        return _differences(await acts.diff(device, of, wanted))

    @get("/spaces/{space:int}/trash", summary="What was removed and can be brought back, newest first")
    async def trash(request: AnyRequest, space: SpaceNumber, before: Before = 0, limit: Limit = 100) -> Trash:
        wanted = TrashRequest(Rev(before), limit)
        found = await acts.trash(await device_of(instance, request), SpaceId(space), wanted)
        return Trash([_removed(one) for one in found.removed], found.next)

    @get("/spaces/{space:int}/retention", summary="How much of the past is kept")
    async def retention(request: AnyRequest, space: SpaceNumber) -> RetentionTold:
        return await acts.retention(await device_of(instance, request), SpaceId(space), RetentionRequest())

    return [login, spaces, versions, moments, diff, trash, retention]


def _acting(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    acts = instance.acts

    @post("/spaces/{space:int}/rewind", status_code=200, summary="Make a tree what it was")
    async def rewind(request: AnyRequest, space: SpaceNumber, data: JSONBody[Rewind]) -> Done:
        device, of = await device_of(instance, request), SpaceId(space)
        node = await acts.find(device, of, data.path.encode())
        to = await acts.rev_of(device, of, data.to)
        return _done(await acts.rewind(device, of, RewindRequest(_op_id(), node, to, data.dry_run, _LISTED)))

    @post("/spaces/{space:int}/restore", status_code=200, summary="Bring a path back as it was, or beside what it is")
    async def restore(request: AnyRequest, space: SpaceNumber, data: JSONBody[Restore]) -> Done:
        device, of = await device_of(instance, request), SpaceId(space)
        path = b"/".join(names_of(data.path))
        to = await acts.rev_of(device, of, data.to)
        first = await instance.files.fresh_nodes(device.user, CHANGED_MAX + 1)
        wanted = RestoreRequest(_op_id(), path, to, data.beside, data.dry_run, _LISTED)
        return _done(await acts.restore(device, of, wanted, first))

    @post("/spaces/{space:int}/undo", status_code=200, summary="Take back what a rev did")
    async def undo(request: AnyRequest, space: SpaceNumber, data: JSONBody[Undo]) -> Done:
        wanted = UndoRequest(_op_id(), Rev(data.rev), data.dry_run, _LISTED, data.event, data.keep_new)
        return _done(await acts.undo(await device_of(instance, request), SpaceId(space), wanted))

    @post("/spaces/{space:int}/trash/restore", status_code=200, summary="Bring removed things back")
    async def put_back(request: AnyRequest, space: SpaceNumber, data: JSONBody[Nodes]) -> Done:
        wanted = PutBackRequest(_op_id(), _nodes(data.nodes), limit=_LISTED)
        return _done(await acts.put_back(await device_of(instance, request), SpaceId(space), wanted))

    return [rewind, restore, undo, put_back]


def _forgetting(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    acts = instance.acts

    @put("/spaces/{space:int}/retention", summary="Set how much of the past is kept")
    async def set_retention(request: AnyRequest, space: SpaceNumber, data: JSONBody[Retention]) -> RetentionTold:
        return await acts.retention(await device_of(instance, request), SpaceId(space), RetentionRequest(data))

    @post("/spaces/{space:int}/trash/purge", status_code=200, summary="Forget removed things for good")
    async def purge_trash(request: AnyRequest, space: SpaceNumber, data: JSONBody[PurgeTrash]) -> Purged:
        wanted = PurgeRequest(_nodes(data.nodes), Rev(data.before), data.dry_run)
        return await acts.purge(await device_of(instance, request), SpaceId(space), wanted)

    @post("/spaces/{space:int}/purge", status_code=200, summary="Forget for good what a path was before now")
    async def purge_path(request: AnyRequest, space: SpaceNumber, data: JSONBody[PurgePath]) -> Purged:
        device, of = await device_of(instance, request), SpaceId(space)
        node = await acts.find(device, of, data.path.encode())
        return await acts.purge(device, of, PurgeRequest((node,), NOW, data.dry_run))

    return [set_retention, purge_trash, purge_path]


def _op_id() -> bytes:
    return secrets.token_bytes(16)


def _nodes(texts: list[str]) -> tuple[NodeId, ...]:
    for text in texts:
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise BadRequest(f"{text[:40]!r} is no node: the trash tells them.")
    return tuple(NodeId(int(text)) for text in texts)


def _version(one: messages.Version) -> Version:
    return Version(
        one.rev,
        iso(one.time_ns),
        one.user_name,
        one.device_name,
        one.state.kind.name.lower() if one.state is not None else None,
        text_of(one.state.names[0].name) if one.state is not None else "",
        one.state.content.size if one.state is not None and one.state.content is not None else 0,
        one.is_conflict,
    )


def _conflict_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    answers = instance.answers

    @get("/spaces/{space:int}/conflicts", summary="Edits that lost against others, and that nobody has settled")
    async def conflicts(
        request: AnyRequest, space: SpaceNumber, after: AfterFile = "0", after_rev: AfterRev = 0
    ) -> Conflicts:
        device = await device_of(instance, request)
        wanted = ConflictsRequest(NodeId(min(int(after), INT63)), Rev(after_rev))
        found = await answers.conflicts(device, SpaceId(space), wanted)
        # What is stored is answered to devices undecoded.
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=type(found))
        told = [Conflict(str(one.node), _version(one.lost), _version(one.current)) for one in decoded.conflicts]
        return Conflicts(told, decoded.more)

    @post("/spaces/{space:int}/conflicts/settle", status_code=200, summary="Settle a conflict for all devices")
    async def settle(request: AnyRequest, space: SpaceNumber, data: JSONBody[Settle]) -> Settle:
        device, of, node = await device_of(instance, request), SpaceId(space), file_id(data.file)
        if data.keep == "lost":
            await instance.edits.take_lost(By(device.user, device.device), of, node, Rev(data.rev))
        await answers.settle(device, of, SettleRequest(((node, Rev(data.rev)),)))
        return data

    return [conflicts, settle]


def _differences(found: history.Differences) -> Differences:
    listed = [
        Difference(
            str(one.node),
            one.what,
            one.kind,
            text_of(one.path),
            text_of(one.was_path),
            one.size,
            one.was_size,
        )
        for one in found.differences
    ]
    return Differences(found.added, found.removed, found.changed, found.moved, found.attributes, listed)


def _done(found: history.Done) -> Done:
    return Done(found.rev, found.of, found.kept, _differences(found.did))


def _removed(one: history.Removed) -> Removed:
    time, who = iso(one.time_ns), (one.user_name, one.device_name)
    return Removed(str(one.node), text_of(one.path), one.kind, one.rev, time, *who, one.nodes, one.size)
