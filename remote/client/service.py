"""HttpService: the Service of the protocol, answered by a server over HTTP; and signing in, before there is one."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from remote.client.acts import Acts
from remote.client.patience import Patience
from remote.client.session import Session, open_session
from remote.client.traffic import Traffic
from remote.client.transfer import Transfer
from remote.protocol.account import SsoAnswer, SsoAsk, SsoBegun, SsoRequest
from remote.protocol.errors import NotSignedIn
from remote.protocol.ids import NOW, NOWHERE, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    COMMIT_BODY_MAX,
    CONFLICTS_MAX,
    FOLDERS_MAX,
    POLL_SECONDS_MAX,
    AsOfRequest,
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    Conflicts,
    ConflictsRequest,
    Done,
    FolderQuery,
    History,
    HistoryRequest,
    Holding,
    Listing,
    ListRequest,
    LoginAnswer,
    LoginRequest,
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
    Room,
    RoomRequest,
    SettleRequest,
    Spaces,
)
from remote.protocol.search import SearchAnswer, SearchRequest
from remote.protocol.service import NOTHING_HELD, TakePart

DEADLINE_SECONDS = 20.0
SSO_WAIT_SECONDS = 30.0


class HttpService:
    """A `remote.protocol.service.Service`; made by `connect`. Safe to use from many trio tasks at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transfer = Transfer(session)
        self.acts = Acts(session)

    async def keep_ready(self) -> None:
        """While it runs, a connection waits for the first read after anything is asked: to connect takes as long."""
        await self._session.keep_ready()

    async def spaces(self) -> Spaces:
        """The spaces of the device's user."""
        return await self._session.ask(Spaces, "GET", "v1/spaces")

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """What the query finds; raises BadRequest for one that is not understood, NotAllowed where search is off."""
        return await self._session.ask(SearchAnswer, "POST", "v1/search", request)

    async def lease_range(self) -> NodeRange:
        """A fresh range of node ids for this device."""
        return await self._session.ask(NodeRange, "POST", "v1/ranges")

    async def list_folders(self, space: SpaceId, folders: Sequence[FolderQuery], as_of: Rev = NOW) -> Listing:
        """Children of these folders; those beyond FOLDERS_MAX are left out, as any others that do not fit."""
        request = ListRequest(tuple(folders[:FOLDERS_MAX]), as_of)
        return await self._session.ask(Listing, "POST", f"v1/spaces/{space}/list", request)

    async def nodes(self, space: SpaceId, nodes: Sequence[NodeId], as_of: Rev = NOW) -> Nodes:
        """The states of these nodes, in order."""
        request = NodesRequest(tuple(nodes), as_of)
        return await self._session.ask(Nodes, "POST", f"v1/spaces/{space}/nodes", request)

    async def changes(self, space: SpaceId, since: Rev, life: int = 0) -> Changes:
        """Commits after `since`; raises CursorTooOld below the floor."""
        return await self._session.ask(Changes, "GET", f"v1/spaces/{space}/changes?since={since}&life={life}")

    async def room(self, space: SpaceId, holding: Holding | None, wanted: int, needed: int = 0) -> Room:
        """What the space has room for, with a lease of what is wanted, as far as that goes: see RoomRequest."""
        return await self._session.ask(Room, "POST", f"v1/spaces/{space}/room", RoomRequest(holding, wanted, needed))

    async def poll(
        self,
        cursors: Mapping[SpaceId, Rev],
        wait_seconds: int,
        holding: Mapping[SpaceId, Holding] = NOTHING_HELD,
        serial: int = 0,
    ) -> PollAnswer:
        """Waits for a space to move beyond its cursor; asked once only, as the caller asks again anyway."""
        seconds = max(0, min(wait_seconds, POLL_SECONDS_MAX))
        request = PollRequest(dict(cursors), seconds, dict(holding), serial)
        return await self._session.wait(PollAnswer, "v1/poll", request, seconds)

    async def commit(self, space: SpaceId, commit: Commit) -> CommitAnswer:
        """Takes the commit or refuses it whole; raises ChunkMissing, QuotaExceeded. The op id makes retries safe."""
        path = f"v1/spaces/{space}/commits"
        return await self._session.ask(CommitAnswer, "POST", path, commit, body_max=COMMIT_BODY_MAX)

    async def send_chunks(self, space: SpaceId, chunks: Mapping[ChunkId, bytes]) -> int:
        """Stores these sealed chunks, sending only what the server asks for; returns the bytes that were sent."""
        return await self._transfer.send(space, chunks)

    async def wanted(self, space: SpaceId, chunks: Mapping[ChunkId, int]) -> set[ChunkId]:
        """Which of these chunks (id -> sealed size in bytes) the server does not hold for this space."""
        return set((await self._transfer.want(space, chunks)).missing)

    async def lost(self, space: SpaceId, after: ChunkId) -> LostAnswer:
        """Chunks of the space that the server lost, by id, behind this one."""
        return await self._session.ask(LostAnswer, "POST", f"v1/spaces/{space}/chunks/lost", LostRequest(after))

    async def get_parts(self, space: SpaceId, parts: Sequence[ChunkPart]) -> list[bytes]:
        """The bytes of all these parts, in order, unchecked; raises NotFound for an unknown chunk.

        Whole chunks (`frames` 0) cost a request for their URLs first; a chunk known to be small comes in one round
        trip when asked for by all of its frames, which gives the same bytes.
        """
        return await self._transfer.get(space, parts)

    async def read_parts(self, space: SpaceId, parts: Sequence[ChunkPart], take: TakePart) -> None:
        """Gives the bytes of all these parts to `take` as they come, all in one round trip; see Service."""
        await self._transfer.read(space, parts, take)

    async def moments(
        self, space: SpaceId, folder: NodeId, limit: int, steps: Sequence[tuple[int, int]] = ()
    ) -> Moments:
        """The newest moments at which the folder or anything below it changed; see MomentsRequest for `steps`."""
        request = MomentsRequest(folder, limit, tuple(steps))
        return await self._session.ask(Moments, "POST", f"v1/spaces/{space}/moments", request)

    async def as_of(self, space: SpaceId, time_ns: int) -> Moment:
        """The last commit at or before this time (server clock); rev 0 when there was none."""
        return await self._session.ask(Moment, "POST", f"v1/spaces/{space}/as-of", AsOfRequest(time_ns))

    async def history(self, space: SpaceId, node: NodeId, before: Rev = NOW, limit: int = 1_000) -> History:
        """The versions of one node, newest first."""
        request = HistoryRequest(node, before, limit)
        return await self._session.ask(History, "POST", f"v1/spaces/{space}/history", request)

    async def conflicts(self, space: SpaceId, after_node: NodeId = NOWHERE, after_rev: Rev = NOW) -> Conflicts:
        """Conflicts that nobody has settled, by node and rev, behind this one."""
        request = ConflictsRequest(after_node, after_rev)
        return await self._session.ask(Conflicts, "POST", f"v1/spaces/{space}/conflicts", request)

    async def settle(self, space: SpaceId, conflicts: Sequence[tuple[NodeId, Rev]]) -> None:
        """These conflicts (node, rev of what lost) are settled for all devices."""
        for at in range(0, len(conflicts), CONFLICTS_MAX):
            request = SettleRequest(tuple(conflicts[at : at + CONFLICTS_MAX]))
            await self._session.ask(Done, "POST", f"v1/spaces/{space}/conflicts/settle", request)


@asynccontextmanager
async def connect(
    url: str,
    token: str,
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    allow_insecure: bool = False,
    traffic: Traffic | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[HttpService]:
    """A Service that speaks with the server at this address; nothing is sent yet, so that it works offline too.

    Each request is answered, or raises Unreachable, within `deadline_seconds` (retries included) and the time that
    its bytes take at 64 KiB/s. Raises BadRequest for an address that cannot be used, or not safely.
    """
    patience = patience or Patience(deadline_seconds)
    async with open_session(
        url, token, patience, allow_insecure=allow_insecure, traffic=traffic or Traffic()
    ) as session:
        yield HttpService(session)


async def login(
    url: str, user: str, password: str, device_name: str, *, code: str = "", allow_insecure: bool = False
) -> LoginAnswer:
    """Signs this device in; raises NotSignedIn when name and password do not match, CodeNeeded for want of a code."""
    patience = Patience(DEADLINE_SECONDS)
    async with open_session(url, "", patience, allow_insecure=allow_insecure, traffic=Traffic()) as session:
        # Once: each time it arrives makes a device.
        request = LoginRequest(user, password, device_name, code)
        return await session.ask_once(LoginAnswer, "POST", "v1/login", request)


async def sign_in_elsewhere(
    url: str, device_name: str, show: Callable[[str, str], None], *, allow_insecure: bool = False
) -> LoginAnswer:
    """Signs this device in when its user did so in a browser: `show` gets the address to open, and its letters.

    Raises NotFound where the server has no single sign-on, NotSignedIn when nobody signed in in time.
    """
    patience = Patience(DEADLINE_SECONDS)
    async with open_session(url, "", patience, allow_insecure=allow_insecure, traffic=Traffic()) as session:
        begun = await session.ask_once(SsoBegun, "POST", "v1/sso/begin", SsoRequest(device_name))
        show(f"{url.rstrip('/')}{begun.path}", begun.letters)
        with trio.move_on_after(begun.seconds):
            while True:
                # The server holds it back for a while; it says itself when all is over.
                answer = await session.wait(SsoAnswer, "v1/sso/finish", SsoAsk(begun.secret), SSO_WAIT_SECONDS)
                if answer.login is not None:
                    return answer.login
    raise NotSignedIn("Nobody signed in in time: begin again.")


async def logout(url: str, token: str, *, allow_insecure: bool = False) -> None:
    """Makes the server forget the device that has this token; raises NotSignedIn when it knows no such device."""
    patience = Patience(DEADLINE_SECONDS, tries=1)
    async with open_session(url, token, patience, allow_insecure=allow_insecure, traffic=Traffic()) as session:
        await session.ask_once(Done, "POST", "v1/logout")


async def health(url: str, *, allow_insecure: bool = False) -> None:
    """Returns when a Satchel server of our protocol version answers at this address; raises what is wrong otherwise."""
    patience = Patience(DEADLINE_SECONDS, tries=1)
    async with open_session(url, "", patience, allow_insecure=allow_insecure, traffic=Traffic()) as session:
        await session.check_health("v1/health")
