"""Files and folders as WebDAV knows them: what wsgidav asks of each, in threads of its own.

Moving, copying and deleting are one commit each, with all that is below.
"""

import asyncio
import logging
import mimetypes
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec
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

from remote.protocol.errors import (
    BadRequest,
    Busy,
    Infected,
    NotAllowed,
    NotFound,
    NotSignedIn,
    QuotaExceeded,
    RemoteError,
)
from remote.protocol.ids import ROOT, DeviceId, NodeId, SpaceId, UserId
from remote.protocol.nodes import EMPTY, Kind, Manifest, Name, NodeState
from remote.server.database.accounts import Device
from remote.server.edits import By, Place
from remote.server.files import Files, Item, file_state, folder_state, shown_name
from remote.server.http.dav_content import Reading, Writing
from remote.server.http.streamed import abort_of
from remote.server.instance import Instance
from remote.server.located import Located

log = logging.getLogger(__name__)

USER, SPACE, TOKEN = "satchel.user", "satchel.space", "satchel.token"
CREATED = "satchel.created"
"""Set for an answer that tells of something new."""
_PROPERTY = b"user.dav."
ANSWER_SECONDS = 300.0
PROPERTIES_MAX = 50
"""Properties that a question may name; there are a dozen that are not of a client's own making."""
_STATUSES: tuple[tuple[type[RemoteError], int], ...] = (
    (Infected, HTTP_FORBIDDEN),
    (NotFound, HTTP_NOT_FOUND),
    (QuotaExceeded, HTTP_INSUFFICIENT_STORAGE),
    (Busy, HTTP_SERVICE_UNAVAILABLE),
    (NotAllowed, HTTP_CONFLICT),
    (BadRequest, HTTP_FORBIDDEN),
    (NotSignedIn, HTTP_FORBIDDEN),
)
Answer = TypeVar("Answer")
Environ = dict[str, Any]  # as WSGI has it


@dataclass(frozen=True)
class Drive:
    """The instance, for threads."""

    instance: Instance
    loop: asyncio.AbstractEventLoop

    @property
    def files(self) -> Files:
        return self.instance.files

    def find(self, environ: Environ, path: str, *, is_entered: bool = False) -> Located:
        """What has this path in the home of who asks; `is_entered`: of a shared folder the top of its space."""
        who = Device(environ[USER], DeviceId(0), "", b"")
        names = names_of(path)
        return self.ask(self.instance.locator.by_path(who, environ[SPACE], names, is_entered=is_entered))

    def ask(self, job: Coroutine[Any, Any, Answer]) -> Answer:
        """What the loop answers; raises DAVError."""
        try:
            return asyncio.run_coroutine_threadsafe(job, self.loop).result(ANSWER_SECONDS)
        except RemoteError as error:
            raise refusal(error) from error


def refusal(error: RemoteError) -> DAVError:
    status = next((status for family, status in _STATUSES if isinstance(error, family)), HTTP_INTERNAL_ERROR)
    if status == HTTP_INTERNAL_ERROR:
        log.error("a WebDAV request failed: %s", error)
    return DAVError(status, str(error))


class Provider(DAVProvider):  # type: ignore[misc]
    """Paths in the home of who asks."""

    def __init__(self, drive: Drive) -> None:
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


def resource(drive: Drive, path: str, environ: Environ, item: Item, space: SpaceId) -> "_File | _Folder | None":
    """What stands for an item; None for what WebDAV knows no kind of."""
    if item.state.kind == Kind.FOLDER:
        return _Folder(drive, path, environ, item, space)
    return _File(drive, path, environ, item, space) if item.state.kind == Kind.FILE else None


class _Node:
    """What files and folders have in common."""

    path: str
    environ: Environ

    def _begin(self, drive: Drive, item: Item | None, space: SpaceId) -> None:
        self._drive = drive
        self.item = item
        self._user: UserId = self.environ[USER]
        self._space = space

    def get_properties(self, mode: str, *, name_list: list[str] | None = None) -> list[tuple[str, object]]:
        """What wsgidav tells of one file; raises DAVError when more is asked for than any program does."""
        if name_list is not None and len(name_list) > PROPERTIES_MAX:
            # Each is answered for each file of a folder, also what there is not: a thread would take minutes.
            raise DAVError(
                HTTP_FORBIDDEN, f"{len(name_list)} properties are asked for; at most {PROPERTIES_MAX} are told."
            )
        return super().get_properties(mode, name_list=name_list)  # type: ignore[misc,no-any-return]

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
        return quote(f"/{self.environ[SPACE]}{self.get_preferred_path()}")  # type: ignore[attr-defined]

    def get_display_name(self) -> str:
        """The name, without what XML cannot say: one file would make its whole folder unreadable."""
        names = names_of(self.path)
        return shown_name(names[-1]) if names else ""

    def handle_delete(self) -> bool:
        """Refuses what would take everything; the rest is for wsgidav, which looks at locks first."""
        if not names_of(self.path):
            raise DAVError(HTTP_FORBIDDEN, "The whole drive cannot be deleted.")
        if self._holds_shared(self):
            raise DAVError(HTTP_FORBIDDEN, "A shared folder is not deleted but left: on a device, or by /docs.")
        return False

    def handle_move(self, dest_path: str) -> bool:
        """One commit: the node gets another name, what has that goes, nothing below it is touched.

        Into a shared folder or out of it: a commit in each space, both or none; there it is all new.
        """
        there = self._check_destination(dest_path)
        assert self.item is not None
        was = Name(self._parent_of(self.path)[1], self.item.name)
        to, edits = self._place_of(dest_path), self._drive.instance.edits
        self._drive.ask(edits.move(By(self._user), self._space, self.item.node, to, was=was))
        self.remove_all_locks(recursive=True)  # type: ignore[attr-defined]
        self._made(there)
        return True

    def handle_copy(self, dest_path: str, *, depth_infinity: bool) -> bool:
        """One commit, which moves no content; symlinks and further names of files are copied, too."""
        there = self._check_destination(dest_path)
        assert self.item is not None
        to, edits = self._place_of(dest_path), self._drive.instance.edits
        self._drive.ask(edits.copy(By(self._user), self._space, self.item.node, to, is_deep=depth_infinity))
        self._made(there)
        return True

    def _made(self, there: "_Node | None") -> None:
        """Ends the locks of what was replaced; says that something new is there, where nothing was."""
        if there is None:
            self.environ[CREATED] = True
        else:
            there.remove_all_locks(recursive=True)  # type: ignore[attr-defined]

    def _place_of(self, path: str) -> Place:
        space, parent = self._parent_of(path)
        return Place(Name(parent, names_of(path)[-1]), space, replaces=True)

    def _check_destination(self, dest_path: str) -> "_Node | None":
        """What is there now; raises DAVError for what nothing is moved or copied to."""
        here, there = names_of(self.path), names_of(dest_path)
        meant = names_of(unquote(urlsplit(self.environ["HTTP_DESTINATION"]).path))
        if not there or meant[-len(there) :] != there:
            # It takes what is behind ? and ; for no part of the name: another file would be replaced.
            raise DAVError(HTTP_FORBIDDEN, "A destination with ? or ; in its name is not understood.")
        common = min(len(here), len(there))
        if here[:common] == there[:common]:
            # Also where one address has more slashes than the other.
            raise DAVError(HTTP_FORBIDDEN, "What is moved or copied and its destination lie in each other.")
        there_now: _Node | None = self.provider.get_resource_inst(dest_path, self.environ)  # type: ignore[attr-defined]
        if there_now is not None and self._holds_shared(there_now):
            raise DAVError(HTTP_FORBIDDEN, "There is a shared folder at the destination, which nothing replaces.")
        return there_now

    def _holds_shared(self, node: "_Node") -> bool:
        """Whether it is a shared folder of this home, or one is below it."""
        home = self.environ[SPACE]
        if node.item is None or node._space != home or node.state.kind != Kind.FOLDER:
            return False
        return self._drive.ask(self._drive.files.holds_shared(self._user, home, node.item.node))

    def support_recursive_delete(self) -> bool:
        return True

    def delete(self) -> None:
        """One commit, for a folder with all in it."""
        assert self.item is not None
        name = Name(self._parent_of(self.path)[1], self.item.name)
        edits = self._drive.instance.edits
        self._drive.ask(edits.remove(By(self._user), self._space, self.item.node, name))
        self.remove_all_locks(recursive=True)  # type: ignore[attr-defined]

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


class _Folder(_Node, DAVCollection):  # type: ignore[misc]
    """A folder."""

    def __init__(self, drive: Drive, path: str, environ: Environ, item: Item, space: SpaceId) -> None:
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

    def __init__(self, drive: Drive, path: str, environ: Environ, item: Item | None, space: SpaceId) -> None:
        DAVNonCollection.__init__(self, path, environ)
        self._begin(drive, item, space)
        self._writing: Writing | None = None

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

    def get_content(self) -> Reading:
        try:
            self._drive.instance.contents.check(self._space, self._manifest)
        except Infected as error:
            raise refusal(error) from error
        return Reading(self._drive.instance, self._space, self._manifest, self._may_read)

    def _may_read(self) -> bool:
        """Whether who began a download may have the rest of it; for who may not, the connection ends."""
        who = Device(self._user, DeviceId(0), "", self.environ[TOKEN])
        try:
            self._drive.ask(self._drive.instance.locator.check(who, self._space))
            self._drive.instance.contents.check(self._space, self._manifest)
        except (DAVError, Infected) as error:
            log.info("a WebDAV download ends here: %s", error)
            abort = abort_of(self.environ["asgi.scope"])
            if abort is not None:
                self._drive.loop.call_soon_threadsafe(abort)
            return False
        return True

    def begin_write(self, *, content_type: str | None = None) -> Writing:
        left = self._drive.ask(self._drive.files.left(self._user, self._space)) + self._manifest.size
        self._writing = Writing(self._drive.instance.contents.writer(self._space), left)
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
            raise refusal(error) from error
        if self.item is None:
            self._make(self.path, file_state(manifest))
        else:
            now_ns = file_state(manifest).mtime_ns
            self._edit(lambda state: msgspec.structs.replace(state, content=manifest, mtime_ns=now_ns, ctime_ns=now_ns))
        self.item = self._drive.find(self.environ, self.path).item


class Properties:
    """Properties that clients invent, as extended attributes: they go where the file goes."""

    def __init__(self, provider: Provider) -> None:
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
