"""The JSON API of shared folders: who sees them, invitations, and groups of users."""

from typing import Annotated, Any

import msgspec
from litestar import delete, get, post, put
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from remote.protocol import sharing as messages
from remote.protocol.ids import SpaceId
from remote.protocol.sharing import (
    EDITOR,
    PERMITS_MAX,
    GroupMemberRequest,
    GroupRequest,
    LimitRequest,
    PermitRequest,
    RevokeRequest,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
)
from remote.protocol.times import iso
from remote.server.http.api_common import FileNumber, SpaceNumber, device_of, file_id, space_id
from remote.server.http.problems import AnyRequest
from remote.server.instance import Instance
from remote.server.limits import INT63_TOLD, LABEL_MAX
from remote.server.rights import Right

Who = Annotated[str, Meta(min_length=1, max_length=LABEL_MAX)]
Role = Annotated[str, Meta(pattern="^(viewer|editor|manager)$")]
WhoAsked = Annotated[str, QueryParameter(name="who", min_length=1, max_length=LABEL_MAX, description="A name.")]
GroupAsked = Annotated[
    str, QueryParameter(name="name", min_length=1, max_length=LABEL_MAX, description="The group's name.")
]


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """A user or, where no user has that name, a group of yours; and the role: viewer, editor or manager."""

    who: Who
    role: Role = EDITOR


class ShareWith(msgspec.Struct, forbid_unknown_fields=True):
    """With whom to share; `space`: where the file is, empty: your home."""

    wishes: Annotated[list[Wish], Meta(max_length=PERMITS_MAX)] = []
    space: Annotated[str, Meta(pattern="^[0-9]{0,19}$", max_length=19)] = ""


class Shared(msgspec.Struct):
    """A shared folder: its space, and the folder that stands for it in your home.

    `is_in_new_folder`: it was a file, and is in a new folder now, which is shared.
    """

    space: str
    file: str
    name: str
    is_new: bool
    is_in_new_folder: bool


class SharedFolder(msgspec.Struct):
    """A shared folder that you own or accepted; `file` stands for it in your home."""

    space: str
    file: str
    name: str
    owner: str
    role: str
    used_bytes: int


class Invitation(msgspec.Struct):
    """A shared folder that you may accept. `is_declined`: you declined it, or left it."""

    space: str
    name: str
    owner: str
    role: str
    invited_by: str
    invited: str
    is_declined: bool


class SharedWithMe(msgspec.Struct):
    """All shared folders of yours, and invitations."""

    folders: list[SharedFolder]
    invitations: list[Invitation]


class Member(msgspec.Struct):
    """Who the folder is shared with. `kind`: user or group; `standing`: member, invited or declined.

    `groups`: those by which a user has it, too.
    """

    who: str
    kind: str
    role: str
    standing: str
    groups: list[str]


class Members(msgspec.Struct):
    """A shared folder, your role in it, and who else has it; the owner first. `limit_bytes` 0: what the owner has."""

    space: str
    name: str
    role: str
    used_bytes: int
    limit_bytes: int
    members: list[Member]


class NewOwner(msgspec.Struct, forbid_unknown_fields=True):
    """The member who is to own it: it counts for that one's quota then."""

    who: Who


class NewLimit(msgspec.Struct, forbid_unknown_fields=True):
    """So many bytes at the most; 0: what its owner has left."""

    limit_bytes: Annotated[int, Meta(ge=0, le=INT63_TOLD)]


class Group(msgspec.Struct):
    """A group of users; its owner is no member by that."""

    name: str
    owner: str
    members: list[str]
    is_own: bool


class GroupName(msgspec.Struct, forbid_unknown_fields=True):
    """The name of a group; no user has it."""

    name: Who


class GroupMember(msgspec.Struct, forbid_unknown_fields=True):
    """A user who is to be in a group."""

    name: Who
    who: Who


class Did(msgspec.Struct):
    """What was done, in a few words."""

    did: str


def sharing_routes(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    """All routes of this module."""
    return [*_sharing(instance), *_membership(instance), *_groups(instance)]


def _sharing(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    sharing = instance.sharing

    @post("/files/{file:str}/share", status_code=200, summary="Share a file or folder with users and groups")
    async def share(request: AnyRequest, file: FileNumber, data: JSONBody[ShareWith]) -> Shared:
        device = await device_of(instance, request)
        node = file_id(file)
        space = await instance.locator.space_of(device, node, space_id(data.space), Right.READ)
        wishes = tuple(messages.Wish(wish.who, wish.role) for wish in data.wishes)
        made = await sharing.make(device, ShareRequest(space.space, node, wishes))
        return _shared(made)

    @get("/shares", summary="Shared folders of yours, and invitations")
    async def shared_with_me(request: AnyRequest) -> SharedWithMe:
        device = await device_of(instance, request)
        spaces = [one for one in (await instance.answers.spaces(device)).spaces if one.mount]
        folders = [
            SharedFolder(str(one.space), str(one.mount), one.name, one.owner_name, one.role, one.used) for one in spaces
        ]
        return SharedWithMe(folders, [_invitation(one) for one in (await sharing.invitations(device)).invitations])

    @get("/shares/{space:int}", summary="Who a folder is shared with")
    async def members(request: AnyRequest, space: SpaceNumber) -> Members:
        found = await sharing.members(await device_of(instance, request), SharedSpaceRequest(SpaceId(space)))
        told = [Member(one.who, one.kind, one.role, one.standing, list(one.groups)) for one in found.members]
        return Members(str(found.space), found.name, found.role, found.used, found.limit, told)

    @post("/shares/{space:int}/members", status_code=200, summary="Invite a user or group, or change their role")
    async def permit(request: AnyRequest, space: SpaceNumber, data: JSONBody[Wish]) -> Did:
        device = await device_of(instance, request)
        await sharing.permit(device, PermitRequest(SpaceId(space), data.who, data.role))
        return Did(f"{data.who} may have it as {data.role}")

    @delete("/shares/{space:int}/members", status_code=200, summary="Take it away from a user or group")
    async def revoke(request: AnyRequest, space: SpaceNumber, who: WhoAsked) -> Did:
        await sharing.revoke(await device_of(instance, request), RevokeRequest(SpaceId(space), who))
        return Did(f"{who} has it no more")

    return [share, shared_with_me, members, permit, revoke]


def _membership(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    sharing = instance.sharing

    @post("/shares/{space:int}/accept", status_code=200, summary="Accept an invitation")
    async def accept(request: AnyRequest, space: SpaceNumber) -> Shared:
        return _shared(await sharing.accept(await device_of(instance, request), SharedSpaceRequest(SpaceId(space))))

    @post("/shares/{space:int}/decline", status_code=200, summary="Decline an invitation")
    async def decline(request: AnyRequest, space: SpaceNumber) -> Did:
        await sharing.decline(await device_of(instance, request), SharedSpaceRequest(SpaceId(space)))
        return Did("it is declined")

    @post("/shares/{space:int}/leave", status_code=200, summary="Leave a shared folder")
    async def leave(request: AnyRequest, space: SpaceNumber) -> Did:
        await sharing.leave(await device_of(instance, request), SharedSpaceRequest(SpaceId(space)))
        return Did("you left it")

    @post("/shares/{space:int}/transfer", status_code=200, summary="Make another member the owner")
    async def transfer(request: AnyRequest, space: SpaceNumber, data: JSONBody[NewOwner]) -> Did:
        await sharing.transfer(await device_of(instance, request), TransferRequest(SpaceId(space), data.who))
        return Did(f"{data.who} owns it")

    @put("/shares/{space:int}/limit", summary="Bound what may be in it")
    async def limit(request: AnyRequest, space: SpaceNumber, data: JSONBody[NewLimit]) -> Did:
        await sharing.limit(await device_of(instance, request), LimitRequest(SpaceId(space), data.limit_bytes))
        return Did(f"{data.limit_bytes} bytes at the most" if data.limit_bytes else "it has no bound of its own")

    @delete("/shares/{space:int}", status_code=200, summary="Stop sharing: all of it is an ordinary folder again")
    async def end(request: AnyRequest, space: SpaceNumber) -> Did:
        await sharing.end(await device_of(instance, request), SharedSpaceRequest(SpaceId(space)))
        return Did("it is shared no more")

    return [accept, decline, leave, transfer, limit, end]


def _groups(instance: Instance) -> list[Any]:  # Any: handlers of several kinds
    groups = instance.groups

    @get("/groups", summary="Groups that you own or are in")
    async def listing(request: AnyRequest) -> list[Group]:
        return [_group(one) for one in (await groups.groups(await device_of(instance, request))).groups]

    @post("/groups", status_code=200, summary="Make a group")
    async def make(request: AnyRequest, data: JSONBody[GroupName]) -> Group:
        return _group(await groups.make(await device_of(instance, request), GroupRequest(data.name)))

    @delete("/groups", status_code=200, summary="End a group: who had folders by it alone loses them")
    async def remove(request: AnyRequest, name: GroupAsked) -> Did:
        await groups.remove(await device_of(instance, request), GroupRequest(name))
        return Did(f"{name} is gone")

    @post("/groups/members", status_code=200, summary="Put a user into a group")
    async def add_member(request: AnyRequest, data: JSONBody[GroupMember]) -> Did:
        await groups.add_member(await device_of(instance, request), GroupMemberRequest(data.name, data.who))
        return Did(f"{data.who} is in {data.name}")

    @delete("/groups/members", status_code=200, summary="Take a user out of a group")
    async def remove_member(request: AnyRequest, name: GroupAsked, who: WhoAsked) -> Did:
        await groups.remove_member(await device_of(instance, request), GroupMemberRequest(name, who))
        return Did(f"{who} is not in {name}")

    return [listing, make, remove, add_member, remove_member]


def _shared(made: messages.Shared) -> Shared:
    return Shared(str(made.space), str(made.mount), made.name, made.is_new, made.is_in_new_folder)


def _invitation(one: messages.Invitation) -> Invitation:
    who = (one.owner_name, one.role, one.invited_by)
    return Invitation(str(one.space), one.name, *who, iso(one.invited_ns), one.is_declined)


def _group(one: messages.Group) -> Group:
    return Group(one.name, one.owner_name, list(one.members), one.is_own)
