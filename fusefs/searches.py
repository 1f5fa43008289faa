"""Searches: `.search/WORDS` at the top of the mount: links to what the server finds, as `satchel search` asks for it.

To look a search up costs nothing: the server is asked when the folder is listed, or a name in it is not known yet. A
name that a link once had leads to the same node for as long as its search is remembered, whatever else is found later:
a program that saves by that name must not write to another file.
"""

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cache.merge import cut, free_name, labelled
from cache.tree import Tree
from fusefs.attributes import Attributes, Owner, file_mode
from fusefs.errors import Invalid, NoEntry, NotFolder, ServerAway
from fusefs.virtual import SEARCHES, Inodes
from remote.protocol.errors import BadRequest, NotFound, Unreachable
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind
from remote.protocol.search import FOUND_MAX, Found, SearchAnswer, SearchRequest

SEARCH_NAME: Final = b".search"
REMEMBERED_MAX: Final = 32
"""Searches; the one that was used longest ago is forgotten first."""
_NAMES_MAX: Final = 10 * FOUND_MAX
"""Names that one search remembers, of what it found once."""
_FRESH_SECONDS: Final = 1.0
"""How long an answer is good for who lists."""
_KEPT_SECONDS: Final = 10.0
"""The same for who asks for a name that is not in it."""
_LABEL_MAX: Final = 100
_ABOVE: Final = b"../../"

Search = Callable[[SearchRequest], Awaitable[SearchAnswer]]


@dataclass(frozen=True)
class Top:
    """`.search` itself."""


@dataclass(frozen=True)
class Folder:
    """What was found for these words."""

    words: str


@dataclass(frozen=True)
class Link:
    """Something found, by where it was and when its content was changed then."""

    words: str
    node: NodeId
    path: bytes
    mtime_ns: int


@dataclass
class _Remembered:
    """A search, with its last answer (`asked_at` None: there was none yet): links by name, the best first."""

    links: dict[bytes, Link] = field(default_factory=dict)
    names: dict[NodeId, bytes] = field(default_factory=dict)
    asked_at: float | None = None
    answered_ns: int = 0
    lock: trio.Lock = field(default_factory=trio.Lock)
    """Who asks for the same meanwhile waits for that answer."""


class Searches:
    """Those of one drive, until it is unmounted."""

    def __init__(self, search: Search, tree: Tree, owner: Owner | None, seconds: float = 15.0) -> None:
        """`seconds`: how long a search may take before it fails."""
        self._search = search
        self._tree = tree
        self._owner = owner
        self._seconds = seconds
        self._remembered: dict[str, _Remembered] = {}
        self._began_ns = time.time_ns()
        self.inodes: Inodes[Top | Folder | Link, None] = Inodes(SEARCHES)

    def top(self) -> int:
        """The inode of `.search`."""
        return self.inodes.number(Top(), None)

    # Names

    async def lookup(self, inode: int, name: bytes) -> int:
        """The inode that a name leads to; raises NoEntry, and what `_ask` raises."""
        what = self.inodes.find(inode).what
        if isinstance(what, Top):
            return self.inodes.number(Folder(_words(name)), None)
        if isinstance(what, Link):
            raise NotFolder("This is a symlink.")
        remembered = self._remembered.get(what.words)
        link = remembered.links.get(name) if remembered is not None else None
        # What programs look for beside any file (.hidden, .directory) is worth no question.
        if link is None and not name.startswith(b"."):
            link = (await self._asked(what.words, _KEPT_SECONDS)).links.get(name)
        if link is None or not self._is_there(link):
            raise NoEntry("Nothing of this name was found.")
        return self.inodes.number(link, None)

    async def children(self, inode: int) -> list[tuple[bytes, int]]:
        """The searches that are remembered, the last one first; or what one finds now, the best first."""
        what = self.inodes.find(inode).what
        if isinstance(what, Top):
            return [
                (words.encode(), self.inodes.number(Folder(words), None))
                for words, remembered in reversed(self._remembered.items())
                if remembered.asked_at is not None
            ]
        if isinstance(what, Link):
            raise NotFolder("This is a symlink.")
        remembered = await self._asked(what.words, _FRESH_SECONDS)
        return [
            (name, self.inodes.number(link, None)) for name, link in remembered.links.items() if self._is_there(link)
        ]

    def _is_there(self, link: Link) -> bool:
        """Whether it was not removed here meanwhile, which the server may not know."""
        record = self._tree.record(link.node)
        return record is None or record.local is not None

    # Asking

    async def _asked(self, words: str, seconds: float) -> _Remembered:
        """A search with an answer that is no older."""
        remembered = self._remembered.pop(words, None) or _Remembered()
        self._remembered[words] = remembered
        if len(self._remembered) > REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        async with remembered.lock:
            if remembered.asked_at is None or trio.current_time() - remembered.asked_at > seconds:
                await self._ask(words, remembered)
        return remembered

    async def _ask(self, words: str, remembered: _Remembered) -> None:
        """Asks the server; raises Invalid, ServerAway, NotAllowed, TooSlowError."""
        asked_at, minutes = trio.current_time(), time.localtime().tm_gmtoff // 60
        try:
            with trio.fail_after(self._seconds):
                answer = await self._search(SearchRequest(words, FOUND_MAX, local_offset_minutes=minutes))
        except (BadRequest, NotFound) as error:
            # Of a folder or owner that there is not, too: readdir(3) takes ENOENT for the end of a folder.
            raise Invalid(str(error)) from error
        except Unreachable as error:
            raise ServerAway(f"Only the server can search. {error}") from error
        _give_names(remembered.names, answer.found)
        remembered.links = {
            remembered.names[one.node]: Link(words, one.node, one.path, one.mtime_ns) for one in answer.found
        }
        remembered.asked_at, remembered.answered_ns = asked_at, time.time_ns()

    # Looking

    def attributes(self, inode: int) -> tuple[Attributes, float]:
        """What stat(2) shows, and for how many seconds the kernel may believe it."""
        what = self.inodes.find(inode).what
        uid, gid = (self._owner.uid, self._owner.gid) if self._owner else (0, 0)
        if isinstance(what, Link):
            mode, size, time_ns = file_mode(Kind.SYMLINK, 0o777), len(self.target(inode)), what.mtime_ns
        else:
            remembered = self._remembered.get(what.words) if isinstance(what, Folder) else None
            mode, size = file_mode(Kind.FOLDER, 0o555), 0
            time_ns = (remembered.answered_ns if remembered is not None else 0) or self._began_ns
        shown = Attributes(NodeId(inode), mode, 1, uid, gid, 0, size, 0, time_ns, time_ns, time_ns, time_ns)
        return shown, _FRESH_SECONDS

    def target(self, inode: int) -> bytes:
        """Where a link leads: to where its node is now, as far as that is known here."""
        what = self.inodes.find(inode).what
        if not isinstance(what, Link):
            raise Invalid("This is no symlink.")
        return _ABOVE + (self._path_here(what) or what.path)

    def _path_here(self, link: Link) -> bytes | None:
        record = self._tree.record(link.node)
        if record is None or record.local is None or not record.local.names:
            return None
        wanted = os.path.basename(link.path)
        name = next((one for one in record.local.names if one.name == wanted), record.local.names[0])
        folder = self._tree.path_of(name.parent)
        path = b"%s/%s" % (folder, name.name) if folder else name.name
        return None if path.startswith(b"?/") else path

    def xattr(self, inode: int, name: bytes) -> bytes | None:
        """There are none."""
        return None

    def xattrs(self, inode: int) -> list[bytes]:
        """There are none."""
        return []


def _words(name: bytes) -> str:
    """The words that a folder's name means; raises NoEntry for what nobody searches for."""
    if name.startswith(b"."):
        raise NoEntry("A name with a dot in front is no search: file managers look for such everywhere.")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise NoEntry("This is no text.") from None


def _give_names(names: dict[NodeId, bytes], found: Sequence[Found]) -> None:
    """Gives each node a name that it keeps: its own, where only one has that, else with its folder before the dot."""
    new = [one for one in found if one.node not in names]
    if len(names) > _NAMES_MAX:
        nodes = {one.node for one in found}
        for node in [node for node in names if node not in nodes][: len(names) - _NAMES_MAX]:
            del names[node]
    taken = set(names.values())
    count = Counter(os.path.basename(one.path) for one in new)
    for one in new:
        folder, _, name = one.path.rpartition(b"/")
        if folder and (name in taken or count[name] > 1):
            name = labelled(name, b" (%s)" % cut(os.path.basename(folder), _LABEL_MAX))
        if name in taken:
            name = free_name(name, taken.__contains__)
        taken.add(name)
        names[one.node] = name
