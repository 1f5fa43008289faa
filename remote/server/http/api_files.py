"""The JSON API of files and folders: look, list, make, change, move, copy, remove, and what changed since."""

from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from remote.protocol.errors import BadRequest
from remote.protocol.ids import Rev, SpaceId
from remote.protocol.nodes import Name, NodeState
from remote.protocol.times import iso, span
from remote.server.database.accounts import Device
from remote.server.edits import By, Place, etag_of
from remote.server.feed import CHANGES_MAX, WAIT_SECONDS_MAX
from remote.server.files import folder_state
from remote.server.http.api_common import (
    PATH_MAX,
    FileNumber,
    IfMatch,
    SpaceAsked,
    condition_of,
    device_of,
    file_id,
    names_of,
    space_id,
    text_of,
)
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63_TOLD
from remote.server.located import LISTED_MAX, Located
from remote.server.rights import Right

Text = Annotated[str, Meta(max_length=PATH_MAX)]
Id = Annotated[str, Meta(pattern="^[0-9]{1,19}$", max_length=19)]
Mode = Annotated[str, Meta(pattern="^[0-7]{1,4}$", description="Permissions in octal, as chmod takes them.")]
Path = Annotated[str, QueryParameter(name="path", max_length=PATH_MAX, description="From the top; empty: the top.")]
After = Annotated[str, QueryParameter(name="after", max_length=PATH_MAX, description="`next` of the page before.")]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LISTED_MAX, description="At most so many.")]
Since = Annotated[
    int, QueryParameter(name="since", ge=0, le=INT63_TOLD, description="`next` of the answer before; 0: all.")
]
Most = Annotated[int, QueryParameter(name="limit", ge=1, le=CHANGES_MAX, description="About so many.")]
Wait = Annotated[
    int,
    QueryParameter(name="wait", ge=0, le=WAIT_SECONDS_MAX, description="Seconds to wait when there is nothing new."),
]

PathSpace = (
    Annotated[
        str,
        Meta(
            pattern="^[0-9]{0,19}$",
            max_length=19,
            description="The space that `path` begins in; not given: that of the file; empty: your home.",
        ),
    ]
    | UnsetType
)


class File(msgspec.Struct):
    """A file or folder as it is now. `etag`: for If-Match; `path`: from the top of `space`; `parent` "0": the top.

    `shared_space`: the space that a shared folder stands for in your home; else empty.
    """

    file: str
    space: str
    rev: int
    etag: str
    kind: str
    name: str
    path: str
    parent: str
    size_bytes: int
    mode: str
    modified: str
    created: str
    target: str
    shared_space: str


class Listing(msgspec.Struct):
    """What is in a folder, by name; `next`: ask again with this as `after`, null: there is no more."""

    files: list[File]
    next: str | None


class Change(msgspec.Struct):
    """What one rev did to one path: added, removed, changed, moved (from `was_path`) or attributes."""

    rev: int
    time: str
    user: str
    device: str
    file: str
    what: str
    kind: str
    path: str
    was_path: str
    size_bytes: int


class Changes(msgspec.Struct):
    """What changed, oldest first. `next`: ask again since this; `is_cut`: of the last rev not all is told here."""

    changes: list[Change]
    next: int
    head: int
    is_cut: bool


class NewFolder(msgspec.Struct, forbid_unknown_fields=True):
    """A folder to make at `path`; the one that it is in has to be there. `space` empty: your home."""

    path: Annotated[str, Meta(min_length=1, max_length=PATH_MAX)]
    space: Annotated[str, Meta(pattern="^[0-9]{0,19}$", max_length=19)] = ""


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """What to change: `path` moves or renames (`replaces` what is there), `mode` in octal, `modified` in ISO 8601."""

    path: Annotated[str, Meta(min_length=1, max_length=PATH_MAX)] | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    modified: Annotated[str, Meta(max_length=100)] | UnsetType = UNSET
    replaces: bool = False
    space: PathSpace = UNSET


class CopyTo(msgspec.Struct, forbid_unknown_fields=True):
    """Where the copy goes; `replaces` what is there."""

    path: Annotated[str, Meta(min_length=1, max_length=PATH_MAX)]
    replaces: bool = False
    space: PathSpace = UNSET


class Removal(msgspec.Struct):
    """How many files and folders went to the trash."""

    count: int


def file_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """All routes of this module."""
    return [*_looking(instance), *_editing(instance)]


def _looking(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    locator, feed = instance.locator, instance.feed

    @get("/files", summary="The file or folder of a path")
    async def find(request: AnyRequest, path: Path = "", space: SpaceAsked = "") -> Response[File]:
        device = await device_of(instance, request)
        return _answer(await locator.by_path(device, space_id(space), names_of(path)))

    @get("/files/{file:str}", summary="A file or folder")
    async def look(request: AnyRequest, file: FileNumber, space: SpaceAsked = "") -> Response[File]:
        device = await device_of(instance, request)
        return _answer(await locator.by_id(device, file_id(file), space_id(space)))

    @get("/files/{file:str}/children", summary="What is in a folder, by name")
    async def children(
        request: AnyRequest, file: FileNumber, space: SpaceAsked = "", after: After = "", limit: Limit = 100
    ) -> Listing:
        device = await device_of(instance, request)
        found = await locator.children(device, file_id(file), space_id(space), _cursor(after), limit)
        following = _page(found.after) if found.after is not None else None
        return Listing([file_of(one) for one in found.children], following)

    @get("/files/{file:str}/changes", summary="What changed in a file, or in a folder and all below it, since a rev")
    async def changes(
        request: AnyRequest,
        file: FileNumber,
        since: Since,
        space: SpaceAsked = "",
        limit: Most = 1_000,
        wait: Wait = 0,
    ) -> Changes:
        device = await device_of(instance, request)
        node = file_id(file)
        row = await locator.space_of(device, node, space_id(space), Right.READ)
        found = await feed.changes(device, row.space, node, Rev(since), limit, wait)
        told = [
            Change(
                one.rev,
                iso(one.time_ns),
                one.user_name,
                one.device_name,
                str(each.node),
                each.what,
                each.kind,
                text_of(each.path),
                text_of(each.was_path),
                each.size,
            )
            for one in found.revs
            for each in one.differences
        ]
        return Changes(told, found.next, found.head, found.is_cut)

    return [find, look, children, changes]


def _editing(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    edits, locator = instance.edits, instance.locator

    @post("/folders", status_code=201, summary="Make a folder")
    async def make_folder(request: AnyRequest, data: JSONBody[NewFolder]) -> Response[File]:
        device = await device_of(instance, request)
        at, space = await place_of(instance, device, data.space, data.path)
        made = await edits.make_folder(by_of(device), space, at, folder_state())
        return _answer(await locator.by_id(device, made, space), 201)

    @patch("/files/{file:str}", summary="Move, rename, or change the mode or time of a file or folder")
    async def edit(
        request: AnyRequest,
        file: FileNumber,
        data: JSONBody[Edit],
        space: SpaceAsked = "",
        if_match: IfMatch = "",
    ) -> Response[File]:
        device = await device_of(instance, request)
        found = await locator.by_id(device, file_id(file), space_id(space), right=Right.WRITE)
        condition = condition_of(if_match)
        node, within = found.item.node, found.space.space
        changed = _edited(data)

        def edited(state: NodeState) -> NodeState:
            return replace(state, **changed)

        if data.path is UNSET:
            await edits.change(by_of(device), within, node, edited, condition)
        else:
            to, there = await place_of(instance, device, _meant(data.space, within), data.path)
            target = Place(to, there, data.replaces)
            node = await edits.move(by_of(device), within, node, target, condition=condition, edit=edited)
            within = there
        return _answer(await locator.by_id(device, node, within))

    @post("/files/{file:str}/copy", status_code=201, summary="Copy a file, or a folder and all in it; no content moves")
    async def copy(
        request: AnyRequest, file: FileNumber, data: JSONBody[CopyTo], space: SpaceAsked = ""
    ) -> Response[File]:
        device = await device_of(instance, request)
        found = await locator.by_id(device, file_id(file), space_id(space))
        source = found.space.space
        to, within = await place_of(instance, device, _meant(data.space, source), data.path)
        target = Place(to, within, data.replaces)
        made = await edits.copy(by_of(device), source, found.item.node, target)
        return _answer(await locator.by_id(device, made, within), 201)

    @delete(
        "/files/{file:str}", status_code=200, summary="Remove a file, or a folder and all in it; the trash has it then"
    )
    async def remove(request: AnyRequest, file: FileNumber, space: SpaceAsked = "", if_match: IfMatch = "") -> Removal:
        device = await device_of(instance, request)
        found = await locator.by_id(device, file_id(file), space_id(space), right=Right.WRITE)
        condition = condition_of(if_match)
        return Removal(await edits.remove(by_of(device), found.space.space, found.item.node, condition=condition))

    return [make_folder, edit, copy, remove]


def by_of(device: Device) -> By:
    """For whom an edit is made that this device asks for."""
    return By(device.user, device.device)


async def place_of(instance: Instance, device: Device, space: str, path: str) -> tuple[Name, SpaceId]:
    """The name that a path means, in a folder that is there, and its space; raises NotFound, BadRequest."""
    names = names_of(path)
    if not names:
        raise BadRequest("The path is that of the top: say what is in it.")
    parent = await instance.locator.by_path(device, space_id(space), names[:-1], Right.WRITE, is_entered=True)
    return Name(parent.item.node, names[-1]), parent.space.space


def file_of(found: Located) -> File:
    """A file as JSON tells of it."""
    item = found.item
    state = item.state
    return File(
        file=str(item.node),
        space=str(found.space.space),
        rev=item.rev,
        etag=etag_of(item.rev, state),
        kind=state.kind.name.lower(),
        name=text_of(item.name),
        path=text_of(found.path),
        parent=str(state.names[0].parent),
        size_bytes=state.content.size if state.content is not None else 0,
        mode=f"{state.mode:04o}",
        modified=iso(state.mtime_ns),
        created=iso(state.birth_ns),
        target=text_of(state.target),
        shared_space=str(state.mounts) if state.mounts else "",
    )


def _answer(found: Located, status_code: int = 200) -> Response[File]:
    told = file_of(found)
    return Response(told, status_code=status_code, headers={"ETag": told.etag})


def _meant(space: str | UnsetType, own: SpaceId) -> str:
    return str(own) if space is UNSET else space


def _edited(data: Edit) -> dict[str, int]:
    changed: dict[str, int] = {}
    if data.mode is not UNSET:
        changed["mode"] = int(data.mode, 8)
    if data.modified is not UNSET:
        changed["mtime_ns"] = time_of(data.modified)
    return changed


def time_of(text: str) -> int:
    """The time in ns that a text means; raises BadRequest."""
    try:
        return span(text)[0]
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _page(name: bytes) -> str:
    # Names are bytes; as hex any of them goes into a query.
    return name.hex()


def _cursor(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadRequest(f"{text[:40]!r} is no `next` of a listing.") from None
