"""Pull: brings what the server says into the tree: the journal after our cursor, and folders when they are listed.

The journal is taken in order. What else the server says (listings, winners) is a state as of some rev: the journal is
brought up to that rev first, and what it said of a node meanwhile counts.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import trio
from msgspec.structs import replace

from cache import answered, news
from cache.edit import Edit
from cache.errors import NoSuchNode
from cache.lease import Lease
from cache.lives import Lives, set_back
from cache.records import Record, Table
from cache.staging import Staging
from cache.tree import Tree
from remote.protocol.errors import CursorTooOld, NotFound
from remote.protocol.ids import NOW, ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import FolderListing, FolderQuery, JournalCommit, Space
from remote.protocol.nodes import Kind, Manifest, Name, NodeState, NodeVersion
from remote.protocol.service import Service

log = logging.getLogger(__name__)

_AT_ONCE: Final = 100
"""States taken in between two looks at what programs want: 2-3 ms."""
_ASKED_AT_ONCE: Final = 500
_AHEAD_AT_ONCE: Final = 64
"""Folders listed ahead at a time."""
_AHEAD_FIRST: Final = 16
"""Those of them that are asked for by themselves: whoever wants the first of a request waits for all of it."""
_AHEAD_BELOW: Final = 1_000
"""So many children of folders further below come along with such a request: each level costs a round trip otherwise."""
_AHEAD_MAX: Final = 4_096
_AHEAD_SECONDS: Final = 1.0
"""For so long after a program waited for a listing it is taken to be on its way through the tree."""
_SET_BACK: Final = "set-back"
_CURSOR: Final = "cursor"


class Difference(NamedTuple):
    """What the mount showed of a node, and shows now; None: nothing. `is_content`: also other content."""

    before: NodeState | None
    after: NodeState | None
    is_content: bool


@dataclass(frozen=True)
class Effects:
    """What the mount shows differently now: names that lead elsewhere, and nodes whose attributes or content moved.

    `fresh`: those of the names that led nowhere before. `events`: what somebody elsewhere did, of which programs that
    watch are to hear; not what only became known here, or was made here.
    """

    names: frozenset[Name]
    nodes: frozenset[NodeId]
    contents: frozenset[NodeId]
    fresh: frozenset[Name] = frozenset()
    events: Mapping[NodeId, Difference] = field(default_factory=dict)


class Home(NamedTuple):
    """What a device mounts: a space, with the secret its chunk keys are derived from; and who the device is."""

    space: SpaceId
    device: DeviceId
    secret: bytes


class Mount(Protocol):
    """What synchronisation asks of the mount, and tells it; every method answers at once."""

    def is_busy(self, node: NodeId) -> bool:
        """Whether a program has the file open for writing: its content is not replaced now."""
        ...

    def is_held(self, node: NodeId) -> bool:
        """Whether something was written to the file that is not flushed yet."""
        ...

    def show(self, effects: Effects) -> None:
        """The tree shows something else now, which the kernel must learn."""
        ...

    def let_go(self, node: NodeId, staging: Staging, content: Manifest) -> None:
        """The server has this content, and the staging goes: whoever writes on begins a new staging."""
        ...


class Mounts(Protocol):
    """What becomes of shared folders by what the home's journal says (see cache.grafts)."""

    async def before(self, versions: Sequence[NodeVersion], *, is_next: bool) -> Sequence[NodeVersion]:
        """What of this news the home is to take in; `is_next`: it is the journal's next commit."""
        ...

    def noticed(self, versions: Iterable[NodeVersion]) -> None:
        """Some of these folders mount spaces; called before they are taken in."""
        ...

    async def set_back(self, common: Rev, as_of: Rev) -> None:
        """The server was put back, and the home is about to be set back to `common`; `as_of`: how to ask for that."""
        ...


class Clock:
    """How far this machine's clock is from the server's."""

    def __init__(self) -> None:
        self.correction_ns = 0
        """To be added to local time to get the server's."""

    def heard(self, now_ns: int) -> None:
        """Takes the server's time from an answer; small differences are the network's."""
        difference = now_ns - time.time_ns()
        self.correction_ns = difference if abs(difference) > 1_000_000_000 else 0


class Pull:
    """Brings one space's news in; `lock` is held while news change the tree."""

    def __init__(
        self, service: Service, home: Home, tree: Tree, clock: Clock, mount: Mount, lease: Lease | None = None
    ) -> None:
        self.service = service
        self.lease = lease or Lease(tree)
        self.home = home
        self.clock = clock
        self.mount = mount
        self._tree = tree
        self.mounts: Mounts | None = None
        """Of the home, when spaces may be mounted in it."""
        self.lives = Lives(tree)
        self.is_ignored: Callable[[NodeId, Record | None], bool] = lambda node, record: False
        """Whether a node stays on this machine; set by who sends."""
        self._listing: dict[NodeId, trio.Event] = {}
        # Folders in those that programs waited for, the likely next one first.
        self._ahead: deque[NodeId] = deque(maxlen=_AHEAD_MAX)
        self._waited_at = -_AHEAD_SECONDS
        self.looked = trio.Event()
        """There is something to be listed ahead: see `list_ahead`."""
        self.lock = trio.Lock()
        # While requests are on their way: what the journal said meanwhile, which is newer than their answers.
        self._recent: dict[NodeId, Rev] = {}
        self._crossings = 0
        self._starts = 0
        self.set_backs = 0
        """How often what was agreed was set back: answers to what was asked before are of a life that is lost."""
        # Folders that must be listed before some news can be taken in.
        self._unlisted: set[NodeId] = set()
        # The newest rev that the server told of, and whether news waits until it is reached.
        self._head = Rev(0)
        self._is_deferred = False

    async def catch_up(self) -> None:
        """Applies the journal up to the server's head."""
        while True:
            if self._tree.setting(_CURSOR) is None:
                # A new device needs no history: it begins with what there is now.
                await self._start_over()
            cursor, set_backs = self._tree.cursor, self.set_backs
            try:
                answer = await self.service.changes(self.home.space, cursor, self.lives.at(cursor))
            except CursorTooOld:
                # Unless another task heard of it first, and all is in order by now.
                if self.set_backs == set_backs and not await self._set_back():
                    await self._start_over()
                continue
            self.clock.heard(answer.now_ns)
            async with self.lock:
                if self.set_backs != set_backs:
                    # Somebody else heard that these commits are of a life that is lost.
                    continue
                # Before the commits, so that no cursor is ever ahead of what is known of its life.
                self.lives.heard(answer.lives)
                self._head = answer.head
                for commit in answer.commits:
                    if commit.rev > self._tree.cursor:
                        await self._apply(commit)
                if not answer.commits or answer.commits[-1].rev >= answer.head:
                    self._head = self._tree.cursor
                    self._take_deferred()
                    return

    def _take_deferred(self) -> None:
        """Takes in what waited for the end of the journal."""
        if self._is_deferred:
            self._is_deferred = False
            self._take(self._tree.news(), is_event=True)

    @contextmanager
    def crossing(self) -> Iterator[int]:
        """While a request is on its way whose answer tells states: the journal may overtake it.

        Gives how often this device started over until now.
        """
        self._crossings += 1
        try:
            yield self._starts
        finally:
            self._crossings -= 1
            if not self._crossings:
                self._recent.clear()

    async def _apply(self, commit: JournalCommit) -> None:
        self.note_recent((version.node for version in commit.changes), commit.rev)
        if self.mounts is not None:
            commit = replace(commit, changes=tuple(await self.mounts.before(commit.changes, is_next=True)))
        versions, arrivals = commit.changes, commit.changes[:0]
        if commit.device != self.home.device and len(versions) > _AT_ONCE:
            versions, arrivals = self._split(versions)
        parts = [arrivals[at : at + _AT_ONCE] for at in range(0, len(arrivals), _AT_ONCE)]
        with self._tree.edit() as edit:
            if commit.device == self.home.device:
                versions = self._take_own(edit, commit)
            self._take_in(edit, versions, as_of=commit.rev)
            if not parts:
                self._tree.set_cursor(commit.rev, edit)
            effects = effects_of(edit, is_event=commit.device != self.home.device)
        self.mount.show(effects)
        await trio.lowlevel.checkpoint()
        for part in parts:
            # Cut off in between, the commit is applied again: what is in the tree already is passed over then.
            with self._tree.edit() as edit:
                self._take_in(edit, part, as_of=commit.rev)
                if part is parts[-1]:
                    self._tree.set_cursor(commit.rev, edit)
                effects = effects_of(edit, is_event=True)
            self.mount.show(effects)
            await trio.lowlevel.checkpoint()

    def note_recent(self, nodes: Iterable[NodeId], rev: Rev) -> None:
        """These nodes are known as of this rev now: what requests that are on their way tell of them may be older.

        It matters for those that are removed and forgotten: nothing else tells that they were.
        """
        if self._crossings:
            self._recent.update(dict.fromkeys(nodes, rev))

    def _split(self, versions: Sequence[NodeVersion]) -> tuple[tuple[NodeVersion, ...], tuple[NodeVersion, ...]]:
        """What a commit changes of what there is, to be shown as one step; and what only comes in under free names."""
        changed: list[NodeVersion] = []
        arrivals: list[NodeVersion] = []
        for version in versions:
            state = version.state
            is_arrival = (
                state is not None
                and self._tree.record(version.node) is None
                and all(self._tree.child(name.parent, name.name) is None for name in state.names)
            )
            (arrivals if is_arrival else changed).append(version)
        # Folders before what is in them.
        arrivals.sort(key=lambda version: version.state is None or version.state.kind is not Kind.FOLDER)
        return tuple(changed), tuple(arrivals)

    def _take_own(self, edit: Edit, commit: JournalCommit) -> tuple[NodeVersion, ...]:
        """Our own commit comes back: where its answer did not come (yet), this is the answer."""
        left: list[NodeVersion] = []
        for version in commit.changes:
            record = edit.record(version.node)
            if (record is not None and record.rev >= commit.rev) or not self._tree.is_own(version.node):
                continue
            # A touch is taken on top of what waits to be merged here: then this takes its place, and waits as well.
            if record is not None and record.is_dirty and edit.news_of(version.node) is None:
                answered.acknowledge(edit, version.node, version.state, commit.rev, is_unchanged=False)
            else:
                left.append(version)
        return tuple(left)

    def _take_in(
        self, edit: Edit, versions: Sequence[NodeVersion], *, are_in_the_way: bool = False, as_of: Rev | None = None
    ) -> None:
        """Takes states in, as of a rev: that of the cursor, if none is given."""
        if self.mounts is not None and any(one.state is not None and one.state.mounts for one in versions):
            self.mounts.noticed(versions)
        is_behind = (self._tree.cursor if as_of is None else as_of) < self._head
        told = news.News(
            edit,
            self.mount.is_busy,
            self.clock.correction_ns,
            is_behind=is_behind,
            is_ignored=self.is_ignored,
            is_own=self._tree.is_own,
            top=self._tree.top,
        )
        told.take([one for one in versions if self._tree.is_own(one.node)], are_in_the_way=are_in_the_way)
        self._unlisted |= told.unlisted
        self._is_deferred |= told.is_deferred

    async def take_winners(self, versions: Sequence[NodeVersion], starts: int) -> None:
        """Takes in the states that made the server refuse a commit; within a `crossing` that began with `starts`."""
        await self.catch_up()
        async with self.lock:
            if starts != self._starts:
                # Nobody told what became of nodes that are not known here. Refused again, we hear of those in the way.
                return
            self._take(self._not_overtaken(versions), are_in_the_way=True, is_event=True)

    async def retry_waiting(self) -> bool:
        """Takes in news that waited for a file to be closed or a folder to be listed; whether any waits no more."""
        before = self._tree.news_count()
        while True:
            self._unlisted.clear()
            async with self.lock:
                waiting = self._tree.news()
                if waiting:
                    self._take(waiting, is_event=True)
            if not self._unlisted:
                return self._tree.news_count() < before
            for folder in sorted(self._unlisted):
                with suppress(NoSuchNode):
                    await self.list_folder(folder)

    def _not_overtaken(self, versions: Sequence[NodeVersion]) -> list[NodeVersion]:
        return [version for version in versions if version.rev >= self._recent.get(version.node, 0)]

    def _take(self, versions: Sequence[NodeVersion], *, are_in_the_way: bool = False, is_event: bool = False) -> None:
        with self._tree.edit() as edit:
            for version in versions:
                record = edit.record(version.node)
                if record is not None and version.rev <= record.rev:
                    edit.forget_news(version.node)
            self._take_in(edit, versions, are_in_the_way=are_in_the_way)
            effects = effects_of(edit, is_event=is_event)
        self.mount.show(effects)

    async def list_folder(self, folder: NodeId) -> None:
        """Returns when all children of the folder are known, or are another space's; raises RemoteError, NoSuchNode."""
        while not self._is_listed(folder) and self._is_own_folder(folder):
            is_on_its_way = self._is_looked_through
            self._waited_at = trio.current_time()
            running = self._listing.get(folder)
            if running is not None:
                await running.wait()
                continue
            # Down a path each level is another wait, so what is below the next one comes along.
            await self.list_folders([folder], is_wanted=True, below=_AHEAD_BELOW if is_on_its_way else 0)

    @property
    def _is_looked_through(self) -> bool:
        """Whether a program is on its way through the tree: it waited for a listing a moment ago."""
        return trio.current_time() < self._waited_at + _AHEAD_SECONDS

    @property
    def is_listing_ahead(self) -> bool:
        """Whether folders come now, or next, that a program on its way through the tree wants."""
        return self._is_looked_through and bool(self._ahead or self._listing)

    async def list_ahead(self) -> None:
        """Lists what a program that waited for a listing is likely to look into next; raises RemoteError.

        A program that goes through a tree waits for a request for the first folders only, not for one for each.
        """
        self.looked = trio.Event()
        while self._ahead and self._is_looked_through:
            folders = [self._ahead.popleft() for _ in range(min(len(self._ahead), _AHEAD_AT_ONCE))]
            wanted = [folder for folder in folders if self._is_worth_listing(folder)]
            failures: list[Exception] = []
            # Side by side: while the first are taken in, and gone through, the others are on their way. Two requests,
            # the first ahead of the other: more would wait for new connections first.
            async with trio.open_nursery() as nursery:
                if len(wanted) > _AHEAD_FIRST:
                    nursery.start_soon(self._list_some_ahead, wanted[_AHEAD_FIRST:], failures)
                if wanted:
                    await self._list_some_ahead(wanted[:_AHEAD_FIRST], failures)
            if failures:
                raise failures[0]
        self._ahead.clear()

    async def _list_some_ahead(self, folders: Sequence[NodeId], failures: list[Exception]) -> None:
        try:
            await self.list_folders(folders, is_wanted=True, below=_AHEAD_BELOW // len(folders))
        except Exception as error:  # noqa: BLE001 - raised by who waits for all: out of a nursery it would come in a group
            failures.append(error)

    def _is_worth_listing(self, folder: NodeId) -> bool:
        record = self._tree.record(folder)
        return record is not None and record.is_unlisted_folder and self._is_own_folder(folder)

    def _is_own_folder(self, folder: NodeId) -> bool:
        return self._tree.space_below(folder) == self._tree.space

    def _is_listed(self, folder: NodeId) -> bool:
        record = self._tree.record(folder)
        if record is None or record.local is None or record.local.kind is not Kind.FOLDER:
            raise NoSuchNode(f"There is no folder {folder} here.")
        return record.is_listed

    async def list_folders(self, folders: Sequence[NodeId], *, is_wanted: bool = False, below: int = 0) -> int:
        """Lists these folders whole; returns how many children came. For many, asks for many at once.

        Those that programs may wait for already are left out. `is_wanted`: so are these, and what is in them is next.
        `below`: about so many children of folders below each may come along.
        """
        folders = [folder for folder in folders if self._is_own_folder(folder)]
        own = {folder: trio.Event() for folder in folders if folder not in self._listing}
        left = dict.fromkeys(own, b"")
        found = 0
        try:
            if is_wanted or len(own) == 1:
                # Who wants one that is on its way by itself waits for that: to ask anew would take longer.
                self._listing |= own
            self._mark(own)
            while left:
                queries = [FolderQuery(folder, after, below) for folder, after in left.items()]
                with self.crossing():
                    listing = await self.service.list_folders(self.home.space, queries)
                    if listing.rev > self._tree.cursor:
                        await self.catch_up()
                    coming = {answer.folder for answer in listing.folders}
                    async with self.lock:
                        for answer in listing.folders:
                            if not self._is_own_folder(answer.folder):
                                # It became a shared one meanwhile, or is none any more.
                                left.pop(answer.folder, None)
                                continue
                            if answer.folder not in own and not self._may_take(answer.folder, listing.rev):
                                continue
                            found += len(answer.children)
                            await self._take_listing(answer, left)
                            if answer.folder in own and answer.folder not in left:
                                own[answer.folder].set()
                            if is_wanted:
                                self._look_next([one for one in _folders_in(answer) if one not in coming])
        finally:
            for folder, event in own.items():
                if self._listing.get(folder) is event:
                    del self._listing[folder]
                event.set()
        return found

    def _look_next(self, folders: Sequence[NodeId]) -> None:
        """A program that looked into one folder is likely to look into these; those that it knew before come later."""
        if folders:
            self._ahead.extendleft(reversed(folders))
            self.looked.set()

    def _may_take(self, folder: NodeId, rev: Rev) -> bool:
        """Whether to take in what came unasked: news of what is in the folder did not count until now."""
        if self._tree.cursor != rev or not self._is_worth_listing(folder):
            return False
        self._mark([folder])
        return True

    async def _take_listing(self, answer: FolderListing, left: dict[NodeId, bytes]) -> None:
        folder = answer.folder
        known = self._tree.record(folder)
        if known is not None and not (known.is_listing or known.is_listed):
            # Removed and back meanwhile: the journal passed over what is in it.
            self._mark([folder])
            left[folder] = b""
            return
        children = self._not_overtaken(answer.children)
        # Those known already are as of this rev or later, so the others come in under free names, in any order.
        while len(children) > _AT_ONCE:
            self._take(children[:_AT_ONCE])
            children = children[_AT_ONCE:]
            await trio.lowlevel.checkpoint()
        with self._tree.edit() as edit:
            self._take_in(edit, children)
            record = edit.record(folder)
            if record is not None and not answer.more:
                edit.put(folder, replace(record, is_listed=True, is_listing=False))
            effects = effects_of(edit, is_event=False)
        if answer.more and answer.names:
            left[folder] = answer.names[-1]
        else:
            left.pop(folder, None)
        self.mount.show(effects)
        await trio.lowlevel.checkpoint()

    def _mark(self, folders: Iterable[NodeId]) -> None:
        """From now on news of what is in these folders counts."""
        with self._tree.edit() as edit:
            for folder in folders:
                record = edit.record(folder)
                if record is not None and not record.is_listed and not record.is_listing:
                    edit.put(folder, replace(record, is_listing=True))

    async def _start_over(self) -> None:
        """The journal does not reach back to our cursor: everything that is known is asked for, and listed anew."""
        cursor = self._tree.setting(_CURSOR)
        space = await self._space()
        head = space.head
        async with self.lock:
            if self._tree.setting(_CURSOR) != cursor:
                # Somebody else did, meanwhile.
                return
            self.lives.heard(space.lives)
            # A file that was asked for may have the name of one that is not yet: what waits is taken in at the end.
            self._head = head
            self._starts += 1
            removed: list[NodeVersion] = []
            for known in self._known():
                answer = await self.service.nodes(self.home.space, known)
                versions = [
                    version if version is not None else NodeVersion(node, answer.rev, 0, None)
                    for node, version in zip(known, answer.nodes, strict=True)
                    # One that is on its way for the first time may be there already or not.
                    if version is not None or self._has_rev(node)
                ]
                for version in versions:
                    self.note_recent([version.node], version.rev)
                with self._tree.edit() as edit:
                    for version in versions:
                        answered.recognize(edit, version, self._tree.sending.get(version.node))
                removed += [version for version in versions if version.state is None]
                await self._take_in_parts([version for version in versions if version.state is not None])
            # What is in a folder before the folder: what still holds something lives on.
            depths = {version.node: self._tree.path_of(version.node).count(b"/") for version in removed}
            removed.sort(key=lambda version: -depths[version.node])
            await self._take_in_parts(removed)
            for known in self._known():
                await trio.lowlevel.checkpoint()
                with self._tree.edit() as edit:
                    for node in known:
                        record = edit.record(node)
                        if record is not None and (record.is_listed or record.is_listing):
                            # A listing on its way does not have what the journal would have told since.
                            edit.put(node, replace(record, is_listed=False, is_listing=False))
            with self._tree.edit() as edit:
                for version in self._tree.news():
                    # Not asked for: it comes with its folder's listing, if it is there still.
                    if edit.record(version.node) is None:
                        edit.forget_news(version.node)
                self._tree.set_cursor(head, edit)

    async def _space(self) -> Space:
        """What the server says of the space; raises NotFound."""
        for one in (await self.service.spaces()).spaces:
            if one.space == self.home.space:
                return one
        raise NotFound("There is no such space, or not any more.")

    async def _set_back(self) -> bool:
        """Whether the server lost commits that are known here: then what it lost is to be sent again.

        Agreed is, from now on, what was so at the last rev that both sides have; from there on the journal is taken
        once more. What the mount shows does not change.
        """
        cursor = self._tree.cursor
        space = await self._space()
        common = self.lives.common(cursor, space.lives, space.head)
        if common is None or not 1 <= common < cursor:
            return False
        # What is thinned cannot be asked for: then what there is now is agreed, with our side as an edit on top of it.
        as_of = common if common >= space.floor else NOW
        log.warning("the server was put back from an older copy: revs %d to %d are lost there", common + 1, cursor)
        async with self.lock:
            if self._tree.cursor != cursor:
                return True
            self._starts += 1
            if self.mounts is not None:
                await self.mounts.set_back(common, as_of)
            waiting = {version.node for version in self._tree.news() if version.rev > common}
            for nodes in self._tree.pages(_ASKED_AT_ONCE):
                asked = [node for node in nodes if self._rev_of(node) > common or node in waiting]
                then = (await self.service.nodes(self.home.space, asked, as_of)).nodes if asked else ()
                with self._tree.edit() as edit:
                    for node, version in zip(asked, then, strict=True):
                        self._set_node_back(edit, node, version, common)
                    for node in nodes:
                        record = edit.record(node)
                        if record is not None and (record.is_listed or record.is_listing):
                            # What was removed by a commit that is lost is there again.
                            edit.put(node, replace(record, is_listed=False, is_listing=False))
                await trio.lowlevel.checkpoint()
            with self._tree.edit() as edit:
                for version in self._tree.news():
                    if version.rev > common and edit.record(version.node) is None:
                        edit.forget_news(version.node)
                self._tree.set_cursor(common, edit)
                now_ns = time.time_ns()
                edit.change.put(Table.SETTINGS, self._tree.key_of(_SET_BACK), now_ns.to_bytes(8, "big"))
            # With the cursor: who asked with the old one finds it changed.
            self.set_backs += 1
            # Revs of the lost life, which are greater than what comes now.
            self._recent.clear()
            self.lives.heard(space.lives)
        return True

    def set_back_ns(self) -> int:
        """When it was noticed last, by this machine's clock, that the server was put back; 0: never."""
        return int.from_bytes(self._tree.setting(_SET_BACK) or b"", "big")

    def _rev_of(self, node: NodeId) -> Rev:
        record = self._tree.record(node)
        return record.rev if record is not None else Rev(0)

    def _set_node_back(self, edit: Edit, node: NodeId, then: NodeVersion | None, common: Rev) -> None:
        """Agreed on the node is what it was then; what was told of it since is forgotten."""
        record, waiting = edit.record(node), edit.news_of(node)
        if waiting is not None and waiting.rev > common:
            edit.forget_news(node)
            if then is not None and record is not None and then.rev > record.rev:
                edit.keep_news(then)
        if record is None or record.rev <= common:
            return
        new = set_back(record, then.rev if then is not None else Rev(0), then.state if then is not None else None)
        if new is None:
            edit.drop(node)
            return
        edited_ns = edit.edited_ns(node)
        edit.put(node, new)
        if new.is_dirty:
            # Of a clean one it is not known when it was edited, but not later than its ctime.
            last_ns = new.local.ctime_ns if new.local is not None else time.time_ns() + self.clock.correction_ns
            edit.mark_dirty(node, edited_ns or last_ns - self.clock.correction_ns)
        else:
            edit.mark_clean(node)

    async def _take_in_parts(self, versions: Sequence[NodeVersion]) -> None:
        if self.mounts is not None:
            versions = await self.mounts.before(versions, is_next=False)
        for at in range(0, len(versions), _AT_ONCE):
            self._take(versions[at : at + _AT_ONCE])
            await trio.lowlevel.checkpoint()

    def _known(self) -> Iterator[list[NodeId]]:
        """The nodes that the server knows or may know, some at a time."""
        for nodes in self._tree.pages(_ASKED_AT_ONCE):
            yield [node for node in nodes if self._knows(node)]

    def _knows(self, node: NodeId) -> bool:
        return node == ROOT or node in self._tree.sending or self._has_rev(node)

    def _has_rev(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        return record is not None and record.rev > 0


def _folders_in(answer: FolderListing) -> list[NodeId]:
    return [one.node for one in answer.children if one.state is not None and one.state.kind is Kind.FOLDER]


def effects_of(edit: Edit, *, is_event: bool) -> Effects:
    """What the mount shows differently after this edit; ask before the edit ends."""
    events: dict[NodeId, Difference] = {}
    came: set[Name] = set()
    went: set[Name] = set()
    nodes: set[NodeId] = set()
    contents: set[NodeId] = set()
    for node, before, after in edit.differences():
        old = before.local if before is not None else None
        new = after.local if after is not None else None
        is_restaged = before is not None and after is not None and before.staged != after.staged
        if not is_restaged and (old is new or old == new):
            continue
        old_names = set(old.names) if old is not None else set()
        new_names = set(new.names) if new is not None else set()
        came |= new_names - old_names
        went |= old_names - new_names
        is_content = old is not None and new is not None and (is_restaged or old.content != new.content)
        if is_event:
            events[node] = Difference(old, new, is_content)
        if old is not None:
            nodes.add(node)
        if is_content:
            contents.add(node)
    return Effects(frozenset(came | went), frozenset(nodes), frozenset(contents), frozenset(came - went), events)
