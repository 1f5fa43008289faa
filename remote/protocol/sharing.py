"""Messages about shared folders: who may do what in them, invitations, and groups of users."""

import msgspec

from remote.protocol.ids import NodeId, Rev, SpaceId

OWNER, MANAGER, EDITOR, VIEWER = "owner", "manager", "editor", "viewer"
ROLES = (VIEWER, EDITOR, MANAGER)
"""What can be granted, the least first. There is one owner."""
KEEPER = "keeper"
"""Whose folder it was, of a space that is shared no more: he may read its history, and have it forgotten."""
PERMITS_MAX = 1_000
"""Users and groups that one space is shared with."""
SHARED_MAX = 1_000
"""Shared spaces, and invitations, of one user."""
SHARED_NODES_MAX = 100_000
"""Files and folders in a folder that becomes a shared one, or an ordinary one again."""
FOUNDED = Rev(2)
"""The first rev of a shared space that has what its folder had, in the very states that the home had just before."""
GROUPS_MAX = 1_000
"""Groups that one user owns or is in."""
GROUP_MEMBERS_MAX = 1_000


class Wish(msgspec.Struct, frozen=True):
    """Who is to get which role: the name of a user or, where no user has it, of a group."""

    who: str
    role: str = EDITOR


class ShareRequest(msgspec.Struct, frozen=True):
    """Shares a file or folder with these users and groups; one that is shared already, also with them.

    A folder becomes a space of its own. A file is put into a new folder beside it, "NAME (shared)", which becomes one.
    """

    space: SpaceId
    node: NodeId
    wishes: tuple[Wish, ...] = ()


class Shared(msgspec.Struct, frozen=True):
    """The shared space, and the folder in the asking user's home that stands for it."""

    space: SpaceId
    mount: NodeId
    name: str
    is_new: bool = False
    is_in_new_folder: bool = False
    """It was a file, which is in a new folder now."""


class SharedSpaceRequest(msgspec.Struct, frozen=True):
    """A shared space: to leave it, accept or decline the invitation to it, tell its members, or end it."""

    space: SpaceId


class Member(msgspec.Struct, frozen=True):
    """Who the space is shared with. `kind`: user or group; `standing`: member, invited or declined.

    `groups`: those by which a user has the space; `is_own`: he was granted it himself, too.
    """

    who: str
    kind: str
    role: str
    standing: str = "member"
    groups: tuple[str, ...] = ()
    is_own: bool = False


class Members(msgspec.Struct, frozen=True):
    """The owner first, then users and groups by name."""

    space: SpaceId
    name: str
    role: str
    """That of who asks."""
    members: tuple[Member, ...]
    used: int = 0
    """Bytes that are in it; they count for its owner."""
    limit: int = 0
    """Bytes that its owner bounds it to; 0: to what he has left."""


class PermitRequest(msgspec.Struct, frozen=True):
    """Gives a user or group this role in a shared space: invites, or changes what was granted."""

    space: SpaceId
    who: str
    role: str


class RevokeRequest(msgspec.Struct, frozen=True):
    """Takes away what a user or group was granted in a shared space."""

    space: SpaceId
    who: str


class TransferRequest(msgspec.Struct, frozen=True):
    """Makes another member the owner, whose quota counts from then on; the old one stays as manager."""

    space: SpaceId
    who: str


class LimitRequest(msgspec.Struct, frozen=True):
    """Bounds a shared space to so many bytes, beside what its owner's quota leaves; 0: no bound of its own."""

    space: SpaceId
    limit: int


class Invitation(msgspec.Struct, frozen=True):
    """A shared space that the user may accept. `is_declined`: he declined, or left it, and still may."""

    space: SpaceId
    name: str
    role: str
    owner_name: str
    invited_by: str
    invited_ns: int
    is_declined: bool = False


class Invitations(msgspec.Struct, frozen=True):
    """The newest first."""

    invitations: tuple[Invitation, ...]


class Group(msgspec.Struct, frozen=True):
    """A group of users, which its owner keeps; he is no member by that."""

    name: str
    owner_name: str
    members: tuple[str, ...]
    is_own: bool


class Groups(msgspec.Struct, frozen=True):
    """The groups that the user owns or is in, by name."""

    groups: tuple[Group, ...]


class GroupRequest(msgspec.Struct, frozen=True):
    """A group by its name, to make or remove it."""

    name: str


class GroupMemberRequest(msgspec.Struct, frozen=True):
    """A user to put into a group, or to take out of it."""

    name: str
    who: str
