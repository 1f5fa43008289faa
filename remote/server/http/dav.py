"""WebDAV: the home of whoever signs in, for phones and other systems; the only module that speaks wsgidav.

Shared folders are gone into where they stand in it. wsgidav makes of one request many steps, so that what holds a
shared folder is never removed or copied by one: neither by mistake nor by halves.

wsgidav answers in threads of its own; what it asks of the drive runs in the server's loop. Locks are kept in memory, so
a restart ends them; properties that clients invent are extended attributes of the file.
"""

import asyncio
import logging
import mimetypes
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec
from a2wsgi import WSGIMiddleware
from litestar.types import Receive, ReceiveMessage, Scope, Send
from wsgidav import util
from wsgidav.dav_error import (
    HTTP_CONFLICT,
    HTTP_FORBIDDEN,
    HTTP_INSUFFICIENT_STORAGE,
    HTTP_INTERNAL_ERROR,
    HTTP_NOT_FOUND,
    HTTP_SERVICE_UNAVAILABLE,
    DAVError,
)
from wsgidav.dav_provider import DAVCollection, DAVNonCollection, DAVProvider
from wsgidav.dc.base_dc import BaseDomainController
from wsgidav.error_printer import ErrorPrinter
from wsgidav.http_authenticator import HTTPAuthenticator
from wsgidav.request_resolver import RequestResolver
from wsgidav.wsgidav_app import WsgiDAVApp

from remote.protocol.errors import BadRequest, Busy, NotAllowed, NotFound, NotSignedIn, QuotaExceeded, RemoteError
from remote.protocol.ids import ROOT, DeviceId, NodeId, SpaceId, UserId
from remote.protocol.nodes import EMPTY, Kind, Manifest, Name, NodeState
from remote.protocol.sealing import Buffer
from remote.server.content import Writer
from remote.server.database.accounts import Device
from remote.server.files import Files, Item, file_state, folder_state, shown_name
from remote.server.http.bodies import STALL_SECONDS
from remote.server.instance import Instance
from remote.server.located import Located

log = logging.getLogger(__name__)

PATH = "/dav"
THREADS = 32
"""Requests at a time; more wait."""
_READING = ("GET", "HEAD", "OPTIONS", "PROPFIND")
_USER, _SPACE = "satchel.user", "satchel.space"
_PROPERTY = b"user.dav."
_ANSWER_SECONDS = 300.0
_SAFE_HEADERS = [
    # A browser that knows the password would run a page that a stranger brought by a link as the drive's owner.
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
    ("X-Content-Type-Options", "nosniff"),
]
_STATUSES: tuple[tuple[type[RemoteError], int], ...] = (
    (NotFound, HTTP_NOT_FOUND),
    (QuotaExceeded, HTTP_INSUFFICIENT_STORAGE),
    (Busy, HTTP_SERVICE_UNAVAILABLE),
    (NotAllowed, HTTP_CONFLICT),
    (BadRequest, HTTP_FORBIDDEN),
)
Answer = TypeVar("Answer")
Environ = dict[str, Any]  # as WSGI has it


def webdav(instance: Instance) -> Any:
    """An ASGI application for everything below PATH; to be made where the server's loop runs."""
    provider = _Provider(_Drive(instance, asyncio.get_running_loop()))
    config = {
        "provider_mapping": {"/": provider},
        "mount_path": PATH,
        "verbose": 1,
        "logging": {"enable": False},
        "property_manager": None,
        "lock_storage": True,
        "suppress_version_info": True,
        "http_authenticator": {
            "domain_controller": _Accounts,
            "accept_basic": True,
            "accept_digest": False,
            "default_to_digest": False,
        },
        "middleware_stack": [ErrorPrinter, HTTPAuthenticator, RequestResolver],
        "satchel.drive": provider.drive,
    }
    app = WsgiDAVApp(config)
    provider.set_prop_manager(_Properties(provider))
    # wsgidav logs each refusal as if it were its own fault.
    logging.getLogger("wsgidav").setLevel(logging.CRITICAL)
    inner = WSGIMiddleware(_with_right_headers(app), workers=THREADS)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> ReceiveMessage:
            async with asyncio.timeout(STALL_SECONDS):
                message = await receive()
            if message["type"] != "http.request":
                # Else the end of a cut body would look like the end of the file.
                raise BadRequest("The connection ended in the middle of the body.")
            return message

        await inner({**scope, "root_path": PATH}, received, send)  # type: ignore[arg-type]

    return answer


def _with_right_headers(app: Any) -> Any:
    """The application, with the headers of a LOCK as RFC 4918 (10.5) has them (wsgidav leaves the brackets out).

    And with those that keep a browser from running what it is shown.
    """

    def answer(environ: Environ, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            righted = []
            for name, value in headers:
                if name.lower() == "lock-token" and not value.startswith("<"):
                    righted.append((name, f"<{value}>"))
                elif name.lower() == "content-type" and value.startswith("application;"):
                    righted.append((name, "application/xml; charset=utf-8"))
                else:
                    righted.append((name, value))
            righted += _SAFE_HEADERS
            return start_response(status, righted, exc_info)

        return app(environ, start)

    return answer


@dataclass(frozen=True)
class _Drive:
    """The instance, for threads."""

    instance: Instance
    loop: asyncio.AbstractEventLoop

    @property
    def files(self) -> Files:
        return self.instance.files

    def find(self, environ: Environ, path: str, *, is_entered: bool = False) -> Located:
        """What has this path in the home of who asks; `is_entered`: of a shared folder the top of its space."""
        who = Device(environ[_USER], DeviceId(0), "", b"")
        names = names_of(path)
        return self.ask(self.instance.locator.by_path(who, environ[_SPACE], names, is_entered=is_entered))

    def ask(self, job: Coroutine[Any, Any, Answer]) -> Answer:
        """What the loop answers; raises DAVError."""
        try:
            return asyncio.run_coroutine_threadsafe(job, self.loop).result(_ANSWER_SECONDS)
        except RemoteError as error:
            raise _refusal(error) from error


def _refusal(error: RemoteError) -> DAVError:
    status = next((status for family, status in _STATUSES if isinstance(error, family)), HTTP_INTERNAL_ERROR)
    if status == HTTP_INTERNAL_ERROR:
        log.error("a WebDAV request failed: %s", error)
    return DAVError(status, str(error))


class _Accounts(BaseDomainController):  # type: ignore[misc]
    """Names and passwords of the accounts."""

    def __init__(self, wsgidav_app: Any, config: dict[str, Any]) -> None:
        super().__init__(wsgidav_app, config)
        self._drive: _Drive = config["satchel.drive"]

    def get_domain_realm(self, path_info: str, environ: Environ | None) -> str:
        return "Satchel"

    def require_authentication(self, realm: str, environ: Environ | None) -> bool:
        return True

    def supports_http_digest_auth(self) -> bool:
        return False

    def basic_auth_user(self, realm: str, user_name: str, password: str, environ: Environ) -> bool:
        try:
            known = asyncio.run_coroutine_threadsafe(
                self._drive.instance.accounts.known(user_name, password), self._drive.loop
            ).result(_ANSWER_SECONDS)
        except NotSignedIn:
            return False
        except NotAllowed as error:
            # The password is right, and asking for it again would not help.
            raise DAVError(HTTP_FORBIDDEN, str(error)) from error
        except RemoteError as error:
            raise _refusal(error) from error
        if not known.may_write and environ["REQUEST_METHOD"] not in _READING:
            raise DAVError(HTTP_FORBIDDEN, "This app token is for webdav-read; this needs webdav.")
        environ[_USER], environ[_SPACE] = known.user, known.home
        return True


class _Provider(DAVProvider):  # type: ignore[misc]
    """Paths in the home of who asks."""

    def __init__(self, drive: _Drive) -> None:
        super().__init__()
        self.drive = drive

    def is_readonly(self) -> bool:
        return False

    def ref_url_to_path(self, ref_url: str) -> str:
        return "/" + unquote(ref_url).lstrip("/").partition("/")[2]

    def get_resource_inst(self, path: str | None, environ: Environ) -> "_File | _Folder | None":
        self._count_get_resource_inst += 1
        if path is None:
            # What is above the top.
            return None
        try:
            found = self.drive.find(environ, path)
        except DAVError as error:
            if error.value == HTTP_NOT_FOUND:
                return None
            raise
        return resource(self.drive, path, environ, found.item, found.space.space)


def names_of(path: str) -> tuple[bytes, ...]:
    """The names in a path as wsgidav has it."""
    return tuple(name.encode("utf-8", "surrogateescape") for name in path.split("/") if name)


def resource(drive: _Drive, path: str, environ: Environ, item: Item, space: SpaceId) -> "_File | _Folder | None":
    """What stands for an item; None for what WebDAV knows no kind of."""
    if item.state.kind == Kind.FOLDER:
        return _Folder(drive, path, environ, item, space)
    return _File(drive, path, environ, item, space) if item.state.kind == Kind.FILE else None


class _Node:
    """What files and folders have in common."""

    path: str
    environ: Environ

    def _begin(self, drive: _Drive, item: Item | None, space: SpaceId) -> None:
        self._drive = drive
        self.item = item
        self._user: UserId = self.environ[_USER]
        self._space = space

    @property
    def state(self) -> NodeState:
        assert self.item is not None
        return self.item.state

    def get_creation_date(self) -> float:
        return self.state.birth_ns / 1e9

    def get_last_modified(self) -> float:
        return self.state.mtime_ns / 1e9

    def set_last_modified(self, dest_path: str, time_stamp: str | int, *, dry_run: bool) -> bool:
        seconds = time_stamp if isinstance(time_stamp, int) else util.parse_time_string(time_stamp)
        if seconds is None:
            return False
        if not dry_run:
            self._edit(lambda state: msgspec.structs.replace(state, mtime_ns=int(seconds) * 10**9))
        return True

    def get_ref_url(self) -> str:
        """What locks are kept by: everybody's home begins at the same path, so it says in whose home this is."""
        return quote(f"/{self.environ[_SPACE]}{self.get_preferred_path()}")  # type: ignore[attr-defined]

    def get_display_name(self) -> str:
        """The name, without what XML cannot say: one file would make its whole folder unreadable."""
        names = names_of(self.path)
        return shown_name(names[-1]) if names else ""

    def handle_delete(self) -> bool:
        """Refuses what would take everything; the rest is for wsgidav."""
        if not names_of(self.path):
            raise DAVError(HTTP_FORBIDDEN, "The whole drive cannot be deleted.")
        if self._holds_shared(self):
            raise DAVError(HTTP_FORBIDDEN, "A shared folder is not deleted but left: on a device, or by /docs.")
        return False

    def handle_move(self, dest_path: str) -> bool:
        """As `handle_copy`; what holds a shared folder is moved here, by one commit, to a name that is free."""
        self._check_destination(dest_path)
        if not self._holds_shared(self):
            return False
        if self.provider.get_resource_inst(dest_path, self.environ) is not None:  # type: ignore[attr-defined]
            raise DAVError(HTTP_FORBIDDEN, "What holds a shared folder replaces nothing: delete that first.")
        self.move_recursive(dest_path)
        return True

    def handle_copy(self, dest_path: str, *, depth_infinity: bool) -> bool:
        """Refuses what wsgidav does not see, before it clears the destination; the rest is for it."""
        self._check_destination(dest_path)
        if self._holds_shared(self):
            raise DAVError(HTTP_FORBIDDEN, "What holds a shared folder is not copied at once: copy what is in that.")
        return False

    def _check_destination(self, dest_path: str) -> None:
        here, there = names_of(self.path), names_of(dest_path)
        meant = names_of(unquote(urlsplit(self.environ["HTTP_DESTINATION"]).path))
        if not there or meant[-len(there) :] != there:
            # It takes what is behind ? and ; for no part of the name: another file would be replaced.
            raise DAVError(HTTP_FORBIDDEN, "A destination with ? or ; in its name is not understood.")
        common = min(len(here), len(there))
        if here[:common] == there[:common]:
            # Also where one address has more slashes than the other.
            raise DAVError(HTTP_FORBIDDEN, "What is moved or copied and its destination lie in each other.")
        there_now = self.provider.get_resource_inst(dest_path, self.environ)  # type: ignore[attr-defined]
        if there_now is not None and self._holds_shared(there_now):
            raise DAVError(HTTP_FORBIDDEN, "There is a shared folder at the destination, which nothing replaces.")
        if self._parent_of(dest_path)[0] != self._space:
            raise DAVError(HTTP_FORBIDDEN, "The destination is in another space: bring the files there as new ones.")

    def _holds_shared(self, node: "_Node") -> bool:
        """Whether it is a shared folder of this home, or one is below it."""
        home = self.environ[_SPACE]
        if node.item is None or node._space != home or node.state.kind != Kind.FOLDER:
            return False
        return self._drive.ask(self._drive.files.holds_shared(self._user, home, node.item.node))

    def delete(self) -> None:
        assert self.item is not None
        name = Name(self._parent_of(self.path)[1], self.item.name)
        self._drive.ask(self._drive.files.remove(self._user, self._space, self.item.node, name))
        self.remove_all_locks(recursive=True)  # type: ignore[attr-defined]

    def support_recursive_move(self, dest_path: str) -> bool:
        return True

    def move_recursive(self, dest_path: str) -> None:
        """One commit: the node gets another name, nothing below it is touched."""
        assert self.item is not None
        was, name = self.item, names_of(dest_path)[-1]
        parent = self._parent_of(dest_path)[1]
        old_parent = self._parent_of(self.path)[1]

        def moved(state: NodeState) -> NodeState:
            others = tuple(one for one in state.names if one != Name(old_parent, was.name))
            return msgspec.structs.replace(state, names=(*others, Name(parent, name)))

        self._drive.ask(self._drive.files.change(self._user, self._space, was.node, moved))

    def _parent_of(self, path: str) -> tuple[SpaceId, NodeId]:
        found = self._drive.find(self.environ, util.get_uri_parent(path) or "/", is_entered=True)
        return found.space.space, found.item.node

    def _edit(self, edit: Any) -> None:
        assert self.item is not None
        self._drive.ask(self._drive.files.change(self._user, self._space, self.item.node, edit))

    def _make(self, path: str, state: NodeState) -> None:
        space, parent = self._parent_of(path)
        made = self._drive.ask(self._drive.files.make(self._user, space, parent, names_of(path)[-1], state))
        if made is None:
            raise DAVError(HTTP_CONFLICT, "Somebody else made something of that name just now.")

    def _copy(self, path: str, state: NodeState) -> None:
        """Makes a copy with this state; where one of its kind is already, that becomes like it."""
        try:
            present = self._drive.find(self.environ, path).item
        except DAVError as error:
            if error.value != HTTP_NOT_FOUND:
                raise
            self._make(path, state)
            return
        if present.state.kind != state.kind:
            raise DAVError(HTTP_CONFLICT, "Something of another kind has that name.")

        def alike(old: NodeState) -> NodeState:
            return msgspec.structs.replace(state, names=old.names, uid=old.uid, gid=old.gid, birth_ns=old.birth_ns)

        self._drive.ask(self._drive.files.change(self._user, self._space, present.node, alike))


class _Folder(_Node, DAVCollection):  # type: ignore[misc]
    """A folder."""

    def __init__(self, drive: _Drive, path: str, environ: Environ, item: Item, space: SpaceId) -> None:
        DAVCollection.__init__(self, path, environ)
        self._begin(drive, item, space)
        # What is in it: in the space that it stands for, if it is a shared folder.
        self._within, self._top = (item.state.mounts, ROOT) if item.state.mounts else (space, item.node)
        self._children: dict[str, Item] | None = None

    def get_member_names(self) -> list[str]:
        return list(self._listed())

    def get_member(self, name: str) -> "_File | _Folder | None":
        item = self._listed().get(name)
        path = util.join_uri(self.path, name)
        return resource(self._drive, path, self.environ, item, self._within) if item is not None else None

    def create_empty_resource(self, name: str) -> "_File":
        path = util.join_uri(self.path, name)
        if self.environ["REQUEST_METHOD"] != "PUT":
            self._make(path, file_state(EMPTY))
        # A PUT makes the file when its content is there: nobody ever sees an empty one.
        return _File(self._drive, path, self.environ, None, self._within)

    def create_collection(self, name: str) -> None:
        self._make(util.join_uri(self.path, name), folder_state())

    def copy_move_single(self, dest_path: str, *, is_move: bool) -> None:
        self._copy(dest_path, msgspec.structs.replace(folder_state(), xattrs=self.state.xattrs, mode=self.state.mode))

    def get_etag(self) -> None:
        return None

    def support_etag(self) -> bool:
        return False

    def _listed(self) -> dict[str, Item]:
        if self._children is None:
            found = self._drive.ask(self._drive.files.children(self._user, self._within, self._top))
            # Names that are no UTF-8 cannot travel.
            self._children = {name: item for item in found if (name := _text(item.name)) is not None}
        return self._children


class _File(_Node, DAVNonCollection):  # type: ignore[misc]
    """A file; without an item while a PUT brings its first content."""

    def __init__(self, drive: _Drive, path: str, environ: Environ, item: Item | None, space: SpaceId) -> None:
        DAVNonCollection.__init__(self, path, environ)
        self._begin(drive, item, space)
        self._writing: _Writing | None = None

    @property
    def _manifest(self) -> Manifest:
        content = self.state.content if self.item is not None else None
        return content if content is not None else EMPTY

    def get_content_length(self) -> int:
        return self._manifest.size

    def get_content_type(self) -> str:
        return mimetypes.guess_type(self.path)[0] or "application/octet-stream"

    def get_etag(self) -> str | None:
        return f"{self.item.node}-{self.item.rev}" if self.item is not None else None

    def support_etag(self) -> bool:
        return True

    def support_ranges(self) -> bool:
        return True

    def get_content(self) -> "_Reading":
        return _Reading(self._drive.instance, self._space, self._manifest)

    def begin_write(self, *, content_type: str | None = None) -> "_Writing":
        left = self._drive.ask(self._drive.files.left(self._user, self._space)) + self._manifest.size
        self._writing = _Writing(self._drive.instance.contents.writer(self._space), left)
        return self._writing

    def end_write(self, *, with_errors: bool) -> None:
        writing, self._writing = self._writing, None
        if with_errors or writing is None:
            return
        announced = self.environ.get("CONTENT_LENGTH", "")
        if announced.isdigit() and int(announced) != writing.size:
            raise DAVError(HTTP_CONFLICT, f"{writing.size} of {announced} bytes arrived; nothing was changed.")
        try:
            manifest = writing.finish()
        except RemoteError as error:
            raise _refusal(error) from error
        if self.item is None:
            self._make(self.path, file_state(manifest))
        else:
            now_ns = file_state(manifest).mtime_ns
            self._edit(lambda state: msgspec.structs.replace(state, content=manifest, mtime_ns=now_ns, ctime_ns=now_ns))
        self.item = self._drive.find(self.environ, self.path).item

    def copy_move_single(self, dest_path: str, *, is_move: bool) -> None:
        """Moves no content: the copy has the same chunks."""
        state = self.state
        copied = msgspec.structs.replace(file_state(self._manifest, state.mode, state.mtime_ns), xattrs=state.xattrs)
        self._copy(dest_path, copied)


class _Reading:
    """Content as a stream that can seek before it is read."""

    def __init__(self, instance: Instance, space: SpaceId, manifest: Manifest) -> None:
        self._instance, self._space, self._manifest = instance, space, manifest
        self._at = 0
        self._pieces: Iterator[Buffer] | None = None
        self._rest = memoryview(b"")

    def seek(self, offset: int) -> int:
        self._at, self._pieces, self._rest = offset, None, memoryview(b"")
        return offset

    def read(self, size: int = -1) -> bytes:
        if self._pieces is None:
            self._pieces = self._instance.contents.read(
                self._space, self._manifest, min(self._at, self._manifest.size), self._manifest.size
            )
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b"")).cast("B")
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def close(self) -> None:
        self._pieces = None


class _Writing:
    """Content on its way in."""

    def __init__(self, writer: Writer, most: int) -> None:
        self._writer = writer
        self._most = most
        self.finish = writer.finish

    @property
    def size(self) -> int:
        return self._writer.size

    def write(self, piece: bytes) -> None:
        if self._writer.size + len(piece) > self._most:
            raise DAVError(HTTP_INSUFFICIENT_STORAGE, "The quota does not leave room for this.")
        self._writer.add(piece)

    def writelines(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def close(self) -> None:
        """What came is kept by `end_write`."""


class _Properties:
    """Properties that clients invent, as extended attributes: they go where the file goes."""

    def __init__(self, provider: _Provider) -> None:
        self._provider = provider

    def get_properties(self, norm_url: str, environ: Environ) -> list[str]:
        state = self._node(norm_url, environ).state
        return [name[len(_PROPERTY) :].decode() for name in state.xattrs if name.startswith(_PROPERTY)]

    def get_property(self, norm_url: str, name: str, environ: Environ) -> bytes | None:
        return self._node(norm_url, environ).state.xattrs.get(_PROPERTY + name.encode())

    def write_property(
        self,
        norm_url: str,
        name: str,
        property_value: str | bytes,
        dry_run: bool = False,
        environ: Environ | None = None,
    ) -> None:
        if not dry_run and environ is not None:
            value = property_value.encode() if isinstance(property_value, str) else property_value
            self._edit(norm_url, environ, lambda xattrs: {**xattrs, _PROPERTY + name.encode(): value})

    def remove_property(self, norm_url: str, name: str, dry_run: bool = False, environ: Environ | None = None) -> None:
        if not dry_run and environ is not None:
            gone = _PROPERTY + name.encode()
            self._edit(norm_url, environ, lambda xattrs: {key: xattrs[key] for key in xattrs if key != gone})

    def remove_properties(self, norm_url: str, environ: Environ | None = None) -> None:
        """They go with the file."""

    def copy_properties(self, src_url: str, dest_url: str, environ: Environ | None = None) -> None:
        """They were copied with the file."""

    def move_properties(self, src_url: str, dest_url: str, with_children: bool, environ: Environ | None = None) -> None:
        """They moved with the file."""

    def _node(self, norm_url: str, environ: Environ) -> _Node:
        found = self._provider.get_resource_inst(self._provider.ref_url_to_path(norm_url), environ)
        if found is None:
            raise DAVError(HTTP_NOT_FOUND)
        return found

    def _edit(self, norm_url: str, environ: Environ, edit: Any) -> None:
        self._node(norm_url, environ)._edit(lambda state: msgspec.structs.replace(state, xattrs=edit(state.xattrs)))


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
