"""The routes of the sync protocol: which message each takes, how large it may be, and what answers it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from remote.protocol.account import (
    AppTokenRequest,
    AuditRequest,
    EmailRequest,
    LinkRequest,
    PasswordRequest,
    PreviewRequest,
    RenameDeviceRequest,
    RevokeAppTokenRequest,
    RevokeLinkRequest,
    SignOutRequest,
    TotpCode,
    TotpRequest,
)
from remote.protocol.errors import Busy
from remote.protocol.events import EventAnswer, EventsRequest, GuardRequest
from remote.protocol.history import (
    DiffRequest,
    PurgeRequest,
    PutBackRequest,
    RetentionRequest,
    RewindRequest,
    TrashRequest,
    UndoRequest,
)
from remote.protocol.ids import SpaceId
from remote.protocol.messages import (
    CHUNKS_MAX,
    COMMIT_BODY_MAX,
    PROTOCOL_VERSION,
    PUT_BODY_MAX,
    AsOfRequest,
    Commit,
    ConflictsRequest,
    Done,
    GetRequest,
    HistoryRequest,
    ListRequest,
    LoginRequest,
    LostRequest,
    MomentsRequest,
    NodesRequest,
    PollRequest,
    PutRequest,
    RoomRequest,
    SettleRequest,
    UrlsRequest,
    WantRequest,
)
from remote.protocol.search import SearchRequest
from remote.protocol.sharing import (
    GroupMemberRequest,
    GroupRequest,
    LimitRequest,
    PermitRequest,
    RevokeRequest,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
)
from remote.server.database.accounts import Device
from remote.server.groups import GroupAnswers
from remote.server.http.bodies import check_protocol, read_message, space_of, token_of
from remote.server.http.pouring import pour_parts
from remote.server.http.problems import AnyRequest, message_response
from remote.server.http.sending import take_chunks
from remote.server.instance import Instance
from remote.server.limits import as_rev
from remote.server.sharing import SharingAnswers

Message = TypeVar("Message", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)
SpaceAnswer = Callable[[Device, SpaceId, Message], Awaitable[msgspec.Struct]]

SMALL_BODY_MAX = 1 << 20
LOGIN_BODY_MAX = 16 << 10
_PUT_BODY_MAX = PUT_BODY_MAX + 64 + 5 * CHUNKS_MAX
"""Each chunk has up to 5 bytes of framing."""
LARGE_BODIES_MAX = 64
"""Large bodies held in memory at a time: 1 GiB at the worst."""
SENDS_MAX = 64
"""Streams of chunks at a time: each holds about 2 MiB of memory, and a file for each of its chunks until its end."""


class Routes:
    """All routes of the sync protocol for one instance, as `handlers`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._large_bodies = 0
        self._sends = 0
        answers, acts = instance.answers, instance.acts
        self.handlers: list[HTTPRouteHandler] = [
            self._greeting(),
            self._health(),
            self._login(),
            self._logout(),
            self._of_device("/v1/ranges", instance.accounts.lease_range),
            self._of_device("/v1/devices", instance.devices.devices, get),
            self._about_account("devices/sign-out", SignOutRequest, instance.devices.sign_out),
            self._about_account("devices/rename", RenameDeviceRequest, instance.devices.rename),
            self._of_device("/v1/links", instance.links.links, get),
            self._about_account("links/make", LinkRequest, instance.links.make),
            self._about_account("links/revoke", RevokeLinkRequest, instance.links.revoke),
            self._about_account("password", PasswordRequest, instance.devices.change_password),
            self._about_account("previews", PreviewRequest, instance.previews.preview),
            *self._sharing(instance.sharing),
            *self._groups(instance.groups),
            self._of_device("/v1/totp", instance.totp.state, get),
            self._about_account("totp/begin", TotpRequest, instance.totp.begin),
            self._about_account("totp/on", TotpCode, instance.totp.turn_on),
            self._about_account("totp/off", TotpRequest, instance.totp.turn_off),
            self._about_account("totp/codes", TotpCode, instance.totp.recovery_codes),
            self._of_device("/v1/tokens", instance.tokens.tokens, get),
            self._about_account("tokens/make", AppTokenRequest, instance.tokens.make),
            self._about_account("tokens/revoke", RevokeAppTokenRequest, instance.tokens.revoke),
            self._of_device("/v1/email", instance.mail.email, get),
            self._about_account("email", EmailRequest, instance.mail.set_email),
            self._about_account("audit", AuditRequest, instance.audit.audit),
            self._about_account("search", SearchRequest, instance.search.search),
            self._of_device("/v1/spaces", answers.spaces, get),
            self._poll(),
            self._changes(),
            self._in_space("list", ListRequest, SMALL_BODY_MAX, answers.list_folders),
            self._in_space("nodes", NodesRequest, SMALL_BODY_MAX, answers.nodes),
            self._in_space("room", RoomRequest, SMALL_BODY_MAX, answers.room),
            self._in_space("commits", Commit, COMMIT_BODY_MAX, answers.commit),
            self._in_space("moments", MomentsRequest, SMALL_BODY_MAX, answers.moments),
            self._in_space("as-of", AsOfRequest, SMALL_BODY_MAX, answers.as_of),
            self._in_space("history", HistoryRequest, SMALL_BODY_MAX, answers.history),
            self._in_space("conflicts", ConflictsRequest, SMALL_BODY_MAX, answers.conflicts),
            self._in_space("conflicts/settle", SettleRequest, SMALL_BODY_MAX, answers.settle),
            self._in_space("diff", DiffRequest, SMALL_BODY_MAX, acts.diff),
            self._in_space("rewind", RewindRequest, SMALL_BODY_MAX, acts.rewind),
            self._in_space("undo", UndoRequest, SMALL_BODY_MAX, acts.undo),
            self._in_space("trash", TrashRequest, SMALL_BODY_MAX, acts.trash),
            self._in_space("trash/restore", PutBackRequest, SMALL_BODY_MAX, acts.put_back),
            self._in_space("purge", PurgeRequest, SMALL_BODY_MAX, acts.purge),
            self._in_space("retention", RetentionRequest, SMALL_BODY_MAX, acts.retention),
            self._in_space("events", EventsRequest, SMALL_BODY_MAX, instance.events.events),
            self._in_space("events/answer", EventAnswer, SMALL_BODY_MAX, instance.events.answer),
            self._in_space("guard", GuardRequest, SMALL_BODY_MAX, instance.events.guard),
            self._in_space("chunks/want", WantRequest, SMALL_BODY_MAX, answers.want),
            self._in_space("chunks/put", PutRequest, _PUT_BODY_MAX, answers.put),
            self._send_chunks(),
            self._in_space("chunks/get", GetRequest, SMALL_BODY_MAX, answers.get),
            self._read_parts(),
            self._in_space("chunks/lost", LostRequest, SMALL_BODY_MAX, answers.lost),
            self._in_space("chunks/urls", UrlsRequest, SMALL_BODY_MAX, answers.urls),
        ]

    def _sharing(self, sharing: SharingAnswers) -> list[HTTPRouteHandler]:
        return [
            self._of_device("/v1/shares/invitations", sharing.invitations, get),
            self._about_account("shares/make", ShareRequest, sharing.make, SMALL_BODY_MAX),
            self._about_account("shares/members", SharedSpaceRequest, sharing.members),
            self._about_account("shares/permit", PermitRequest, sharing.permit),
            self._about_account("shares/revoke", RevokeRequest, sharing.revoke),
            self._about_account("shares/accept", SharedSpaceRequest, sharing.accept),
            self._about_account("shares/decline", SharedSpaceRequest, sharing.decline),
            self._about_account("shares/leave", SharedSpaceRequest, sharing.leave),
            self._about_account("shares/limit", LimitRequest, sharing.limit),
            self._about_account("shares/end", SharedSpaceRequest, sharing.end),
            self._about_account("shares/transfer", TransferRequest, sharing.transfer),
        ]

    def _groups(self, groups: GroupAnswers) -> list[HTTPRouteHandler]:
        return [
            self._of_device("/v1/groups", groups.groups, get),
            self._about_account("groups/make", GroupRequest, groups.make),
            self._about_account("groups/remove", GroupRequest, groups.remove),
            self._about_account("groups/add-member", GroupMemberRequest, groups.add_member),
            self._about_account("groups/remove-member", GroupMemberRequest, groups.remove_member),
        ]

    def _greeting(self) -> HTTPRouteHandler:
        """For a person who opens the server's address in a browser."""

        @get("/", media_type="text/plain")
        async def greeting() -> str:
            return "This is a Satchel server. Use it from a Linux machine: satchel login URL --user NAME\n"

        return greeting

    def _health(self) -> HTTPRouteHandler:
        @get("/v1/health")
        async def health() -> dict[str, Any]:  # Any: JSON
            return {"status": "ok", "protocol": PROTOCOL_VERSION}

        return health

    def _login(self) -> HTTPRouteHandler:
        decoder = msgspec.msgpack.Decoder(LoginRequest)

        @post("/v1/login", status_code=200)
        async def login(request: AnyRequest) -> Response[bytes]:
            check_protocol(request)
            message = await read_message(request, decoder, LOGIN_BODY_MAX)
            return message_response(await self._instance.devices.login(message))

        return login

    def _of_device(
        self, path: str, answer: Callable[[Device], Awaitable[msgspec.Struct]], method: type[get | post] = post
    ) -> HTTPRouteHandler:
        """A request that needs no more than to know the device."""

        async def handler(request: AnyRequest) -> Response[bytes]:
            return message_response(await answer(await self._device(request)))

        return method(path, status_code=200)(handler)

    def _about_account(
        self,
        path: str,
        kind: type[Message],
        answer: Callable[[Device, Message], Awaitable[msgspec.Struct]],
        maximum: int = LOGIN_BODY_MAX,
    ) -> HTTPRouteHandler:
        """A POST of one message about the device's user."""
        decoder = msgspec.msgpack.Decoder(kind)

        @post(f"/v1/{path}", status_code=200)
        async def handler(request: AnyRequest) -> Response[bytes]:
            device = await self._device(request)
            return message_response(await answer(device, await read_message(request, decoder, maximum)))

        return handler

    def _logout(self) -> HTTPRouteHandler:
        @post("/v1/logout", status_code=200)
        async def logout(request: AnyRequest) -> Response[bytes]:
            check_protocol(request)
            device = await self._instance.accounts.device(token_of(request), may_be_wiped=True)
            return message_response(await self._instance.devices.logout(device))

        return logout

    def _poll(self) -> HTTPRouteHandler:
        decoder = msgspec.msgpack.Decoder(PollRequest)

        @post("/v1/poll", status_code=200)
        async def poll(request: AnyRequest) -> Response[bytes]:
            device = await self._device(request)
            message = await read_message(request, decoder, SMALL_BODY_MAX)
            answer = await _unless_gone(request, self._instance.answers.poll(device, message))
            # Nobody reads the answer to a client that is gone.
            return message_response(answer if answer is not None else Done())

        return poll

    def _changes(self) -> HTTPRouteHandler:
        @get("/v1/spaces/{space:str}/changes")
        async def changes(request: AnyRequest) -> Response[bytes]:
            device = await self._device(request)
            since = as_rev("since", str(request.query_params.get("since", "")))
            life = as_rev("life", str(request.query_params.get("life", "0")))
            return message_response(await self._instance.answers.changes(device, space_of(request), since, life))

        return changes

    def _in_space(self, what: str, kind: type[Message], maximum: int, answer: SpaceAnswer[Message]) -> HTTPRouteHandler:
        """A POST of one message about one space."""
        decoder = msgspec.msgpack.Decoder(kind)

        @post(f"/v1/spaces/{{space:str}}/{what}", status_code=200)
        async def handler(request: AnyRequest) -> Response[bytes]:
            device = await self._device(request)
            space = space_of(request)
            if maximum <= SMALL_BODY_MAX:
                return message_response(await answer(device, space, await read_message(request, decoder, maximum)))
            if self._large_bodies >= LARGE_BODIES_MAX:
                raise Busy("Too many large requests at once: try again in a moment.", 1.0)
            self._large_bodies += 1
            try:
                return message_response(await answer(device, space, await read_message(request, decoder, maximum)))
            finally:
                self._large_bodies -= 1

        return handler

    def _send_chunks(self) -> HTTPRouteHandler:
        @post("/v1/spaces/{space:str}/chunks/send", status_code=200)
        async def send_chunks(request: AnyRequest) -> Response[bytes]:
            device, space = await self._device(request), space_of(request)
            await self._instance.answers.may_send(device, space)
            if self._sends >= SENDS_MAX:
                raise Busy("Too many uploads at once: try again in a moment.", 1.0)
            self._sends += 1
            try:
                return message_response(await take_chunks(self._instance, space, request))
            finally:
                self._sends -= 1

        return send_chunks

    def _read_parts(self) -> HTTPRouteHandler:
        decoder = msgspec.msgpack.Decoder(GetRequest)

        @post("/v1/spaces/{space:str}/chunks/read", status_code=200)
        async def read_parts(request: AnyRequest) -> ASGIApp:
            device = await self._device(request)
            message = await read_message(request, decoder, SMALL_BODY_MAX)
            size, pieces = await self._instance.answers.read(device, space_of(request), message)
            return pour_parts(self._instance, size, pieces)

        return read_parts

    async def _device(self, request: AnyRequest) -> Device:
        check_protocol(request)
        return await self._instance.accounts.device(token_of(request))


async def _unless_gone(request: AnyRequest, answer: Coroutine[Any, Any, Answer]) -> Answer | None:
    """The answer, or None when the client went away before it came: then nobody waits for it here either."""
    answering = asyncio.ensure_future(answer)
    # The body was read, so the next event is that the connection ended.
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.wait((answering, leaving))
