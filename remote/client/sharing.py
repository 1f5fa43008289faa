"""Sharing: what a user asks a server about shared folders and groups."""

from remote.client.session import Session
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.messages import Done, Spaces
from remote.protocol.sharing import (
    Group,
    GroupMemberRequest,
    GroupRequest,
    Groups,
    Invitations,
    LimitRequest,
    Members,
    PermitRequest,
    RevokeRequest,
    Shared,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
    Wish,
)


class Sharing:
    """Asks as one signed-in device. Every method may raise any RemoteError."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def spaces(self) -> Spaces:
        """The user's home, and the shared spaces that he is a member of."""
        return await self._session.ask(Spaces, "GET", "v1/spaces")

    async def share(self, space: SpaceId, node: NodeId, wishes: tuple[Wish, ...] = ()) -> Shared:
        """Shares a folder or file of a home with users and groups; one that is shared already, also with these."""
        return await self._session.ask_once(Shared, "POST", "v1/shares/make", ShareRequest(space, node, wishes))

    async def members(self, space: SpaceId) -> Members:
        """Who the space is shared with."""
        return await self._session.ask(Members, "POST", "v1/shares/members", SharedSpaceRequest(space))

    async def permit(self, space: SpaceId, who: str, role: str) -> None:
        """Invites a user or group, or gives them another role."""
        await self._session.ask(Done, "POST", "v1/shares/permit", PermitRequest(space, who, role))

    async def revoke(self, space: SpaceId, who: str) -> None:
        """Takes away what a user or group was granted."""
        await self._session.ask_once(Done, "POST", "v1/shares/revoke", RevokeRequest(space, who))

    async def invitations(self) -> Invitations:
        """Shared spaces that the user may accept."""
        return await self._session.ask(Invitations, "GET", "v1/shares/invitations")

    async def accept(self, space: SpaceId) -> Shared:
        """Makes the user a member: the folder stands at the top of his drive."""
        return await self._session.ask_once(Shared, "POST", "v1/shares/accept", SharedSpaceRequest(space))

    async def decline(self, space: SpaceId) -> None:
        """Notes that the user does not want it."""
        await self._session.ask_once(Done, "POST", "v1/shares/decline", SharedSpaceRequest(space))

    async def leave(self, space: SpaceId) -> None:
        """Ends the user's membership."""
        await self._session.ask_once(Done, "POST", "v1/shares/leave", SharedSpaceRequest(space))

    async def transfer(self, space: SpaceId, who: str) -> None:
        """Makes another member the owner."""
        await self._session.ask_once(Done, "POST", "v1/shares/transfer", TransferRequest(space, who))

    async def limit(self, space: SpaceId, limit: int) -> None:
        """Bounds what may be in the space to so many bytes; 0: to what its owner has left."""
        await self._session.ask(Done, "POST", "v1/shares/limit", LimitRequest(space, limit))

    async def end(self, space: SpaceId) -> None:
        """Stops sharing: what is in the space goes back into the owner's folder."""
        await self._session.ask_once(Done, "POST", "v1/shares/end", SharedSpaceRequest(space))

    async def groups(self) -> Groups:
        """The groups that the user owns or is in."""
        return await self._session.ask(Groups, "GET", "v1/groups")

    async def make_group(self, name: str) -> Group:
        """A new group of nobody."""
        return await self._session.ask_once(Group, "POST", "v1/groups/make", GroupRequest(name))

    async def remove_group(self, name: str) -> None:
        """Ends a group."""
        await self._session.ask_once(Done, "POST", "v1/groups/remove", GroupRequest(name))

    async def add_group_member(self, name: str, who: str) -> None:
        """Puts a user into a group."""
        await self._session.ask(Done, "POST", "v1/groups/add-member", GroupMemberRequest(name, who))

    async def remove_group_member(self, name: str, who: str) -> None:
        """Takes a user out of a group."""
        await self._session.ask_once(Done, "POST", "v1/groups/remove-member", GroupMemberRequest(name, who))
