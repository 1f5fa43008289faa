"""Grafts: the shared spaces of a home, each kept in step like the home itself, in one tree with it.

Which there are is said by the home: a folder that mounts a space is one. Its journal says when one comes and goes; the
server's list of spaces says under which role. What is known is kept, so that a start without the server has them all.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from cache import rehoming
from cache.ahead import Ahead
from cache.chunks import Chunks
from cache.edit import Edit
from cache.errors import CacheError
from cache.grafted import Grafted
from cache.ignoring import Ignoring
from cache.lease import Lease
from cache.leaving import Gone, Leaving
from cache.news import News
from cache.parts import Part, Shares, batches, below
from cache.polls import Polls
from cache.pull import Clock, Effects, Home, Mount, Pull, effects_of
from cache.push import Push
from cache.reader import Reader
from cache.records import HOME, Table
from cache.staging import Stagings
from cache.sync import Sync
from cache.tree import Tree
from cache.upload import Upload
from remote.protocol.errors import NotFound, RemoteError
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Space
from remote.protocol.nodes import Name, NodeVersion
from remote.protocol.service import Service
from remote.protocol.sharing import OWNER
from remote.protocol.sharing import VIEWER as _VIEWER

log = logging.getLogger(__name__)

T = TypeVar("T")

_KNOWN: Final = "spaces"
_GONE: Final = "gone"
_AGAIN_SECONDS: Final = (0.5, 15.0)
_DEPTH_MAX: Final = 4_096
_ASKED_AT_ONCE: Final = 500
VIEWER: Final = (
    "You may look at this shared folder, and change nothing in it: what was changed here before that was said is kept "
    "on this machine."
)


class Known(msgspec.Struct, frozen=True, array_like=True):
    """A shared space, as it was told of last."""

    space: SpaceId
    top: NodeId
    role: str
    name: str = ""
    owner_name: str = ""


@dataclass(frozen=True)
class Common:
    """What all spaces of a device share."""

    service: Service
    home: Home
    tree: Tree
    clock: Clock
    mount: Mount
    stagings: Stagings
    chunks: Chunks
    reader: Reader
    ignoring: Ignoring
    polls: Polls
    is_walking: bool = True


@dataclass
class Graft:
    """One shared space at work."""

    known: Known
    part: Part
    service: Grafted
    pull: Pull
    push: Push
    sync: Sync
    lease: Lease
    upload: Upload
    ahead: Ahead | None = None
    """Sends what is still being written, where somebody needs the room."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event | None = None

    @property
    def is_read_only(self) -> bool:
        """Whether this user may change nothing in it."""
        return self.known.role == _VIEWER


class Grafts:
    """All shared spaces of one home; `run` must be running for any of them to be kept in step."""

    def __init__(self, common: Common, on_made: Callable[[Graft], None] = lambda _: None) -> None:
        """`on_made`: called for each space before it is kept in step."""
        self._common = common
        self._on_made = on_made
        self._tree = common.tree
        self.all: dict[SpaceId, Graft] = {}
        self._known = {one.space: one for one in self._stored(_KNOWN, Known)}
        self._gone = self._stored(_GONE, Gone)
        self._nursery: trio.Nursery | None = None
        self._reason = ""
        self._wanted = trio.Event()
        self._came = trio.Event()
        self.revoke: Callable[[Iterable[NodeId]], None] = lambda _: None
        """See Leaving."""
        self.on_left: Callable[[], Awaitable[None]] = _nothing
        """Called when a space was cleaned up."""
        self.list_home: Callable[[NodeId], Awaitable[None]] = _listed
        """Lists a folder of the home: see Pull.list_folder."""
        self.on_moved: Callable[[], None] = lambda: None
        """Called whenever one of them is further, or was cleaned up."""
        common.polls.on_spaces_changed = self._ask_for_list
        if self._known or self._gone:
            self._shares()
        for known in list(self._known.values()):
            if self._may_begin(known):
                self._make(known)

    def _stored(self, name: str, kind: type[T]) -> list[T]:
        value = self._tree.setting(name)
        return msgspec.msgpack.decode(value, type=list[kind]) if value else []  # type: ignore[valid-type]  # told by `kind`

    def _shares(self) -> Shares:
        members = self._tree.members
        return members if isinstance(members, Shares) else Shares(self._tree)

    def _is_mounted(self, known: Known) -> bool:
        record = self._tree.record(known.top)
        return record is not None and record.local is not None and record.local.mounts == known.space

    def _may_begin(self, known: Known) -> bool:
        """Whether a space can be kept in step: all of what its folder held is its own, and of an old one is gone."""
        is_gone = any(gone.space == known.space for gone in self._gone)
        return self._is_mounted(known) and not is_gone and not rehoming.is_unfinished(self._tree, known.top)

    def known(self) -> list[Known]:
        """The shared spaces that were told of."""
        return list(self._known.values())

    def gone(self) -> list[Gone]:
        """Those that are to be cleaned up."""
        return list(self._gone)

    # For those who ask about a node

    def of(self, node: NodeId) -> Graft | None:
        """The shared space that a node belongs to; None: the home."""
        if not self.all:
            return None
        record = self._tree.record(node)
        return self.all.get(record.space) if record is not None else None

    def below(self, folder: NodeId) -> Graft | None:
        """The shared space that what is in this folder belongs to; None: the home."""
        return self.all.get(self._tree.space_below(folder)) if self.all else None

    def is_read_only(self, space: SpaceId) -> bool:
        """Whether this user may change nothing in a space; so it is of one that is not known yet."""
        if space == HOME:
            return False
        # Of a folder that becomes a shared one just now, programs are writing to it, it is known whose it is.
        known = self._known.get(space)
        return known is None or known.role == _VIEWER

    async def list_folder(self, folder: NodeId) -> None:
        """Returns when what is in a folder of a shared space is known, or it is none; raises RemoteError."""
        while (graft := self.below(folder)) is None:
            if self._tree.space_below(folder) == HOME:
                return
            # Its folder is here already, and the list of spaces on its way.
            self._ask_for_list()
            came = self._came
            await came.wait()
        await graft.pull.list_folder(folder)

    def hold(self, reason: str) -> None:
        """See Sync.hold; for those to come, too."""
        self._reason = reason
        for graft in self.all.values():
            self._hold(graft)

    def _hold(self, graft: Graft) -> None:
        graft.sync.hold(self._reason or (VIEWER if graft.is_read_only else ""))

    def wake(self) -> None:
        """Something is to be sent, by whichever of them."""
        shares = self._tree.members
        if isinstance(shares, Shares):
            for space, count in shares.dirty.counts.items():
                if count and (graft := self.all.get(space)) is not None:
                    graft.push.wake()

    # Running

    async def run(self) -> None:
        """Keeps them in step until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for graft in list(self.all.values()):
                nursery.start_soon(self._run_graft, graft)
            failures = 0
            self._wanted.set()
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                try:
                    await self._clean_up_and_look()
                    failures = 0
                except (RemoteError, CacheError, OSError) as error:
                    log.info("the list of spaces cannot be had now: %s", error)
                    failures += 1
                    with trio.move_on_after(min(_AGAIN_SECONDS[1], _AGAIN_SECONDS[0] * 2 ** min(failures, 8))):
                        await self._wanted.wait()
                    self._wanted.set()
                except Exception:
                    # The outermost loop: what is on this machine can be used whatever goes wrong here.
                    log.exception("keeping shared folders in step failed and goes on")
                    await trio.sleep(_AGAIN_SECONDS[1])
                    self._wanted.set()

    async def _clean_up_and_look(self) -> None:
        """Raises what failed of the one when the other is done as well."""
        try:
            await self._clean_up()
        finally:
            await self._look()

    async def _run_graft(self, graft: Graft) -> None:
        graft.ended = trio.Event()
        try:
            with graft.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(graft.sync.run)
                    if graft.ahead is not None:
                        nursery.start_soon(graft.ahead.send)
        finally:
            graft.ended.set()

    async def _look(self) -> None:
        """Takes the server's list of spaces in."""
        asked = list(self._known.values())
        answer = await self._common.service.spaces()
        self._common.polls.serial = answer.serial
        for space in answer.spaces:
            if space.mount and space.space != self._common.home.space:
                self._take(space)
        there = {space.space for space in answer.spaces}
        for known in asked:
            # Of one whose folder is here, the home's journal says so.
            if known.space not in there and self._known.get(known.space) == known and self._is_unheard_of(known.top):
                with self._tree.edit() as edit:
                    self._note_gone(edit, known, None)
            elif self._shares().dirty.counts[known.space] and self._is_unheard_of(known.top):
                # What is to be sent was known before it came into a folder that nobody looked into here.
                await self._reach(known.top)

    async def _reach(self, folder: NodeId) -> None:
        """Lists the folders above one of the home, from the top on, until it is known."""
        way: list[NodeId] = []
        while self._tree.record(folder) is None and len(way) < _DEPTH_MAX:
            answer = await self._common.service.nodes(self._common.home.space, [folder])
            state = answer.nodes[0].state if answer.nodes[0] is not None else None
            if state is None:
                return
            folder = state.names[0].parent
            way.append(folder)
        for above in reversed(way):
            await self.list_home(above)

    def _is_unheard_of(self, folder: NodeId) -> bool:
        return self._tree.record(folder) is None and self._tree.news_of(folder) is None

    def _take(self, space: Space) -> None:
        known = Known(space.space, space.mount, space.role, space.name, space.owner_name)
        before = self._known.get(known.space)
        if known != before:
            self._keep(known)
        graft = self.all.get(known.space)
        if graft is not None and graft.known.top == known.top:
            was_read_only = graft.is_read_only
            graft.known = known
            if was_read_only != graft.is_read_only:
                self._hold(graft)
                # Modes are shown without the right to write, and the kernel believes what it was told.
                nodes = frozenset(graft.part.all_nodes())
                self._common.mount.show(Effects(frozenset(), nodes, frozenset()))
        elif graft is None and self._may_begin(known):
            self._begin(known)

    def _keep(self, known: Known) -> None:
        self._shares()
        with self._tree.edit() as edit:
            self._remember(edit, {**self._known, known.space: known})

    def _remember(self, edit: Edit, known: dict[SpaceId, Known]) -> None:
        """These are the spaces that are known, when the edit is kept: no await until then."""
        edit.change.put(Table.SETTINGS, self._tree.key_of(_KNOWN), msgspec.msgpack.encode(list(known.values())))
        edit.on_kept.append(partial(setattr, self, "_known", known))

    def _begin(self, known: Known) -> None:
        graft = self._make(known)
        if self._nursery is not None:
            self._nursery.start_soon(self._run_graft, graft)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        self._came.set()
        self._came = trio.Event()

    def _make(self, known: Known) -> Graft:
        common = self._common
        shares = self._shares()
        part = Part(self._tree, known.space, known.top)
        shares.parts[known.space] = part
        service = Grafted(common.service, known.top)
        home = common.home._replace(space=known.space)
        lease = Lease(part)
        pull = Pull(service, home, part, common.clock, common.mount, lease)
        upload = Upload(service, known.space, home.secret, common.reader, common.chunks)
        push = Push(pull, part, common.stagings, common.chunks, upload, common.ignoring)
        sync = Sync(part, pull, push, common.polls, is_walking=common.is_walking, on_moved=self._tell)
        graft = self.all[known.space] = Graft(known, part, service, pull, push, sync, lease, upload)
        self._hold(graft)
        self._on_made(graft)
        return graft

    def _tell(self) -> None:
        self.on_moved()

    async def _stop(self, space: SpaceId) -> None:
        """Returns when nothing of a space is kept in step any more."""
        graft = self.all.pop(space, None)
        if graft is None:
            return
        graft.scope.cancel()
        if graft.ended is not None:
            await graft.ended.wait()
        self._shares().parts.pop(space, None)
        self._common.polls.forget(space)

    # What the home's journal says of folders that mount spaces

    def noticed(self, versions: Iterable[NodeVersion]) -> None:
        """The home tells of folders that mount spaces."""
        for one in versions:
            if one.state is None or not one.state.mounts:
                continue
            known = self._known.get(one.state.mounts)
            if known is None or (known.top != one.node and not self._is_mounted(known)):
                # Before the folder is seen: what is in it is not the home's. Who may change it is said by the list.
                name = one.state.names[0].name.decode(errors="replace") if one.state.names else ""
                self._keep(Known(one.state.mounts, one.node, _VIEWER, name))
        self._ask_for_list()

    def _ask_for_list(self) -> None:
        self._wanted.set()

    async def before(self, versions: Sequence[NodeVersion], *, is_next: bool) -> Sequence[NodeVersion]:
        """Does what becomes of shared folders by news of the home; returns what the home is to take in.

        `is_next`: the news is the journal's next commit. Called with the home's lock held; after a cut again.
        """
        if self._tree.members is None and not any(one.state is not None and one.state.mounts for one in versions):
            return versions
        left: list[NodeVersion] = []
        went = frozenset(one.node for one in versions if one.state is None) if is_next else None
        for version in versions:
            record = self._tree.record(version.node)
            here = self._mounted_by(version.node)
            there = version.state.mounts if version.state is not None else HOME
            is_cut = bool(there) and rehoming.is_unfinished(self._tree, version.node)
            if record is None and there and went:
                # Its folder is not listed here; of what was in it something may be known all the same.
                if moved := await self._moved_into(there, went):
                    await self._share(version.node, there, moved)
                left.append(version)
            elif record is None and not there and version.state is not None and (was := self._unmade(version.node)):
                # That it mounts one was taken in while its own news waited: what it holds is still that space's.
                await self._unshare(was, version.node, versions, version.rev)
                left.append(version)
            elif record is None or version.rev <= record.rev or (here == there and not is_cut):
                left.append(version)
            elif there and (here == HOME or is_cut):
                await self._share(version.node, there, went)
                left.append(version)
            elif here and version.state is not None and not there:
                await self._unshare(here, version.node, versions, version.rev)
                left.append(version)
            else:
                await self._leave(version.node, here)
                if version.state is not None:
                    left.append(version)
        return left

    async def _moved_into(self, space: SpaceId, went: Iterable[NodeId]) -> frozenset[NodeId]:
        """Those of these nodes that are known here and are this space's now; others were removed by the same commit."""
        known = [node for node in went if self._tree.record(node) is not None or self._tree.news_of(node) is not None]
        found: set[NodeId] = set()
        for some in batches(known, _ASKED_AT_ONCE):
            try:
                answer = await self._common.service.nodes(space, some)
            except NotFound:
                return frozenset()
            found.update(node for node, version in zip(some, answer.nodes, strict=True) if version is not None)
        return frozenset(found)

    async def _share(self, top: NodeId, space: SpaceId, went: frozenset[NodeId] | None) -> None:
        record = self._tree.record(top)
        names = record.local.names if record is not None and record.local is not None else ()
        name = names[0].name.decode(errors="replace") if names else ""
        # Before anything else: whoever makes something in it after a restart must know whose it is.
        known = Known(space, top, OWNER, name)
        self._keep(known)
        self._take_removals(top)
        await rehoming.share(self._tree, self._common.mount.show, top, space, went)
        if record is not None:
            self._begin(known)
        self._ask_for_list()

    async def set_back(self, common: Rev, as_of: Rev) -> None:
        """The server was put back: folders that were shared since are the home's, those that were then are shared.

        Called before the home is set back to `common`, which it tells of as of `as_of`, with its lock held.
        """
        service, home = self._common.service, self._common.home.space
        there = {one.mount: one.space for one in (await service.spaces()).spaces if one.mount and one.space != home}
        mounted = {known.top: known.space for known in self._known.values() if self._is_mounted(known)}
        tops = [top for top in dict.fromkeys([*mounted, *there]) if self._tree.record(top) is not None]
        then = (await service.nodes(home, tops, as_of)).nodes if tops else ()
        for top, version in zip(tops, then, strict=True):
            was = version.state.mounts if version is not None and version.state is not None else HOME
            here = mounted.get(top, HOME)
            if here and here != was:
                await self._take_back(self._known[here], common, as_of)
            if was and (here != was or rehoming.is_unfinished(self._tree, top)):
                self._keep(Known(was, top, _VIEWER))
                part = Part(self._tree, was, top)
                await rehoming.give_back(self._tree, part, partial(Grafted(service, top).nodes, was))
                self._ask_for_list()

    async def _take_back(self, known: Known, common: Rev, as_of: Rev) -> None:
        if known.role != OWNER:
            await self._leave(known.top, known.space)
            return
        await self._stop(known.space)
        ask = partial(self._common.service.nodes, self._common.home.space, as_of=as_of)
        part = Part(self._tree, known.space, known.top)
        forget = partial(self._forget, space=known.space)
        show, rev = self._common.mount.show, Rev(common + 1)
        await rehoming.take_back(self._tree, show, part, rev, ask, self.revoke, forget=forget)

    def _take_removals(self, top: NodeId) -> None:
        """What waits to be removed, as a program writes to it, waits no more: nobody can have its id in the space.

        Who writes on is refused, and what was written is kept as another file.
        """
        within = set(below(self._tree, top))
        removed = [one for one in self._tree.news() if one.state is None and one.node in within]
        if removed:
            self.revoke([one.node for one in removed])
            common = self._common
            with self._tree.edit() as edit:
                News(edit, lambda _: False, common.clock.correction_ns).take(removed)
                effects = effects_of(edit, is_event=True)
            common.mount.show(effects)
        self.revoke([node for node in within if rehoming.lives_on(self._tree.record(node))])

    async def _unshare(self, space: SpaceId, top: NodeId, versions: Sequence[NodeVersion], rev: Rev) -> None:
        # The list of spaces may not have told of it yet.
        await self._stop(space)
        part = Part(self._tree, space, top)
        told = {version.node for version in versions if version.state is not None}
        # What is being written and was removed elsewhere is kept as another file: to write on in this one is refused.
        nodes = part.all_nodes()
        self.revoke([one for one in nodes - told if self._is_written(one)])
        forget = partial(self._forget, space=space)
        await rehoming.unshare(self._tree, self._common.mount.show, part, nodes, versions, rev, forget=forget)

    def _mounted_by(self, folder: NodeId) -> SpaceId:
        """The space that a folder mounts here; also when the news that it does waits for another's name."""
        record = self._tree.record(folder)
        state = (record.local or record.agreed) if record is not None else None
        found = state.mounts if state is not None else HOME
        return found or next((space for space, graft in self.all.items() if graft.part.top == folder), HOME)

    def _is_written(self, node: NodeId) -> bool:
        record = self._tree.record(node)
        return record is not None and bool(record.rev) and self._common.mount.is_busy(node)

    def _unmade(self, folder: NodeId) -> SpaceId:
        """The space that is known to be mounted by a folder which is not known here itself."""
        return next((space for space, known in self._known.items() if known.top == folder), HOME)

    async def _leave(self, top: NodeId, space: SpaceId) -> None:
        """The folder goes at once, whatever is in it; what was in it is cleaned up next."""
        # Before another folder may come that mounts it.
        await self._stop(space)
        record = self._tree.record(top)
        assert record is not None
        state = record.local or record.agreed
        assert state is not None
        known = self._known.get(space) or Known(space, top, _VIEWER)
        with self._tree.edit() as edit:
            self._note_gone(edit, replace(known, top=top), state.names[0] if state.names else None)
            edit.forget_news(top)
            edit.drop(top)
        self._common.mount.show(
            Effects(frozenset(state.names if record.local is not None else ()), frozenset((top,)), frozenset())
        )

    def _note_gone(self, edit: Edit, known: Known, name: Name | None) -> None:
        folder, called = (name.parent, name.name) if name is not None else (ROOT, known.name.encode())
        self._set_gone(edit, [*self._gone, Gone(known.space, known.top, folder, called or b"shared")])
        self._forget(edit, known.space)
        edit.on_kept.append(self._ask_for_list)

    def _set_gone(self, edit: Edit, gone: list[Gone]) -> None:
        edit.change.put(Table.SETTINGS, self._tree.key_of(_GONE), msgspec.msgpack.encode(gone))
        edit.on_kept.append(partial(setattr, self, "_gone", gone))

    def _forget(self, edit: Edit, space: SpaceId) -> None:
        self._remember(edit, {one: known for one, known in self._known.items() if one != space})
        edit.on_kept.append(self._wake_waiting)

    async def _clean_up(self) -> None:
        while self._gone:
            gone = self._gone[0]
            # One at which this fails is tried again after the others.
            self._gone = [*self._gone[1:], gone]
            await self._stop(gone.space)
            common = self._common
            leaving = Leaving(self._tree, common.stagings, common.chunks, common.mount.show, self.revoke)
            await leaving.clean_up(gone)
            await self.on_left()
            self._tell()
            with self._tree.edit() as edit:
                self._set_gone(edit, [one for one in self._gone if one is not gone])


async def _listed(_: NodeId) -> None:
    await trio.lowlevel.checkpoint()


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()
