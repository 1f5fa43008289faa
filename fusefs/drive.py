"""Drive: all parts of one space on one device, put together, and the chores that run beside them."""

import gc
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from cache.ahead import Ahead
from cache.chunks import Chunks
from cache.edit import Edit
from cache.errors import CacheError, DiskFull, OpenHere
from cache.eviction import Budget
from cache.grafts import Common, Graft
from cache.ignoring import Ignoring
from cache.lease import Lease
from cache.parts import Part
from cache.past import Past
from cache.pins import Pins
from cache.polls import Polls
from cache.pull import Clock, Effects, Home
from cache.push import Push
from cache.reader import Reader
from cache.records import Table
from cache.recovery import agree_on_sizes, recover
from cache.staging import Stagings
from cache.store import Store
from cache.syncs import Syncs
from cache.tree import Tree
from cache.upload import Upload
from fusefs.across import Across
from fusefs.announcer import Announcer
from fusefs.attributes import DiskRoom, Owner
from fusefs.backup.backups import Backups
from fusefs.beat import Beat
from fusefs.conflicts import Conflicts
from fusefs.counting import Counting
from fusefs.errors import NotSent, ServerAway
from fusefs.face import Face
from fusefs.flow import Flow, Traffic
from fusefs.handles import OpenFiles
from fusefs.hands import Hands
from fusefs.history import History
from fusefs.keeping import PAST_SHARE, Keeping
from fusefs.kernel import Delivering, Operations
from fusefs.lookback import Lookback
from fusefs.repeater import Repeater
from fusefs.restore import Restore
from fusefs.searches import Search, Searches
from fusefs.settings import Account, Choices, Places
from fusefs.sights import Sight, Sights
from fusefs.versions import Versions
from fusefs.volume import Volume
from remote.protocol.errors import RemoteError, Unreachable
from remote.protocol.ids import ROOT, ChunkId, DeviceId, NodeId, SpaceId
from remote.protocol.messages import Room
from remote.protocol.service import Acts, Service

log = logging.getLogger(__name__)

_CHANGES_BYTES: Final = 4 << 20
"""What changes to the tree may take on the disk until they are in LMDB, and some more."""


@dataclass(frozen=True)
class Plan:
    """What to mount where, all checked."""

    point: str
    places: Places
    account: Account
    choices: Choices
    options: frozenset[str]
    """For the kernel."""
    source: str
    """What is shown as the device."""


def _owner(choices: Choices) -> Owner | None:
    """Whose everything is shown as; None: as whose it was made. User ids of other machines say nothing on this one."""
    if choices.owners == "real":
        return None
    return Owner(
        os.getuid() if choices.uid is None else choices.uid, os.getgid() if choices.gid is None else choices.gid
    )


class Drive:
    """One space on this device, over stores that somebody else opened and will close."""

    def __init__(
        self, plan: Plan, state: Store, cache: Store, service: Service, acts: Acts, traffic: Traffic, *, search: Search
    ) -> None:
        """Nothing runs before `run`."""
        places, account, choices = plan.places, plan.account, plan.choices
        owner = _owner(choices)
        self.state, self.cache = state, cache
        self._choices = choices
        self._service = service
        self.acts = acts
        self.space = SpaceId(account.space)
        self.tree = Tree(state)
        self.tree.make_root()
        self.stagings = Stagings(state, places.stagings, Table.STAGED, Table.STAGED_BYTES)
        agree_on_sizes(self.tree, self.stagings)
        recover(self.tree, self.stagings)
        self.chunks = Chunks(cache, places.cache)
        past_bytes = choices.cache_size_bytes // PAST_SHARE
        self.budget = Budget(
            choices.cache_size_bytes - past_bytes,
            self.chunks,
            lambda: self.stagings.total_bytes,
            self._is_pinned,
            floor_bytes=choices.free_floor_bytes,
        )
        seconds = choices.read_seconds
        self.reader = Reader(service, self.space, self.chunks, self.budget, read_seconds=seconds)
        # The home by itself: what is in shared spaces counts for their owners.
        lease = Lease(Part(self.tree))
        self.files = OpenFiles(self.tree, self.stagings, self.reader, self.budget, lease)
        self.files.sweep()
        face = Face(self.files, self._announce, self.budget.notice)
        self.ignoring = Ignoring(self.tree, self.stagings, self.reader)
        common = Common(
            service=service,
            home=Home(self.space, DeviceId(account.device), account.secret),
            tree=self.tree,
            clock=Clock(),
            mount=face,
            stagings=self.stagings,
            chunks=self.chunks,
            reader=self.reader,
            ignoring=self.ignoring,
            polls=Polls(service),
            is_walking=choices.background_listing,
        )
        self.sync = Syncs(common, lease, self._join)
        self.grafts, push = self.sync.grafts, self.sync.push
        self.grafts.revoke = self.files.revoke
        self.pins = Pins(self.tree, self.reader, self.sync.list_folder)
        self.files.room.is_online = lambda: self.sync.may_send
        self.ahead = self._make_ahead(self.sync.upload, push, traffic)
        self.flow = Flow(self.tree, traffic, self.sync, self.reader, heeds_metered=choices.metered == "pause-uploads")
        self.volume = Volume(
            self.tree,
            self.files,
            self.sync,
            owner=owner,
            list_folder=self.sync.list_folder,
            wake=self.sync.wake,
            show=self._announce,
            listing_seconds=seconds,
        )
        self.volume.is_read_only = self.grafts.is_read_only
        self.backups = Backups(self.volume, self.stagings, self.budget, self.ignoring, places, account.device_name)
        face.on_sent = self.backups.note_sent
        self.past = Past(places.cache / "past", past_bytes)
        self.grafts.on_left = self.past.clear
        self._device = DeviceId(account.device)
        lookback = Lookback(service, self.space, self.past, self.sync.pull.lives.at, seconds)
        self.history, self.restore, self.conflicts = self._past_of(lookback, service, self.space, ROOT)
        home = Sight(self.space, ROOT, self.tree, lookback, self.history, self.restore, self.conflicts, acts)
        self.sights = Sights(home, self.grafts, self.past, acts, self._past_of, seconds)
        self.across = Across(self.volume, self.sights, service, self.past, seconds)
        below = self.sights.below
        self.versions = Versions(lambda folder: below(folder).lookback, self.across.mounted, self.reader, owner)
        self._beat = Beat()
        self._lost = trio.Event()
        self.counting = Counting(self.tree, traffic, self.reader.counters)
        self.keeping = Keeping(self.budget, self.chunks, self.stagings, self.past, self.pins, self.counting)
        searches = Searches(search, self.tree, owner, seconds)
        self.operations = (
            Delivering(self.volume, self.versions, searches, self._deliver)
            if choices.sync == "remote"
            else Operations(self.volume, self.versions, searches)
        )
        # Without it the kernel takes sizes and times from us: where nobody may write, none can be repeated to it.
        self.operations.enable_writeback_cache = "ro" not in plan.options
        self._connect(os.fsencode(plan.point), push)

    def _connect(self, point: bytes, push: Push) -> None:
        """Who tells the kernel, and who is told what."""
        self._hands = Hands(3)
        repeating_hand, announcing_hand, self.syncing_hand = self._hands.each
        self.repeater = Repeater(point, self.volume, self.operations.asked_for, repeating_hand)
        self.operations.repeat(self.repeater)
        self.announcer = Announcer(point, self.volume, self.operations.absent, self.repeater, announcing_hand)
        self.operations.is_own = self.announcer.is_own
        self.volume.room = self._shown_room
        quota = self.files.quota
        # Asking is no sending: a drive that is paused may have more room, too.
        quota.is_online, quota.ask = lambda: self.sync.is_online, self.sync.ask_for_room
        quota.lease.on_more = push.retry_all
        quota.lease.on_lost = self._note_loss
        self.files.on_cut = self._hold_back

    def _past_of(
        self, lookback: Lookback, service: Service, space: SpaceId, top: NodeId
    ) -> tuple[History, Restore, Conflicts]:
        """What is asked of the past of one space."""
        restore = Restore(self.volume, lookback, top)
        conflicts = Conflicts(self.volume, self.stagings, lookback, restore, service, space=space, device=self._device)
        return History(self.volume, lookback, service, space, top), restore, conflicts

    def _join(self, graft: Graft) -> None:
        """What this drive does for a shared space that it has from now on."""
        quota = self.files.add_quota(graft.known.space, graft.lease)
        quota.is_online, quota.ask = lambda: graft.sync.is_online, graft.sync.ask_for_room
        graft.lease.on_more, graft.lease.on_lost = graft.push.retry_all, self._note_loss
        graft.ahead = self._ahead(graft.upload, graft.push)
        self.files.room.aheads[graft.known.space] = graft.ahead

    async def _deliver(self, node: NodeId) -> None:
        """Returns when the server has what was closed or synced, with `sync=remote`."""
        try:
            await self.sync.delivered(node, self._choices.read_seconds)
        except OpenHere as error:
            raise NotSent(str(error)) from error
        except Unreachable as error:
            raise ServerAway(
                f"It cannot be sent now ({error}). What was written is kept here, and sent later."
            ) from error

    def _is_pinned(self, chunk_id: ChunkId) -> bool:
        return self.pins.holds(chunk_id)

    def _make_ahead(self, upload: Upload, push: Push, traffic: Traffic) -> Ahead:
        """What makes room for programs that write more than the cache holds."""
        ahead = self._ahead(upload, push)
        self.files.room.uploaded = lambda: traffic.sent_bytes
        self.files.room.ahead = ahead
        return ahead

    def _ahead(self, upload: Upload, push: Push) -> Ahead:
        return Ahead(self.stagings, self.budget, upload, push, self.files.is_writing_to, self.chunks.add_small)

    def guard(self, point: str) -> None:
        """What is mounted there now ends with this process, however it ends."""
        self._hands.guard(point)

    def _announce(self, effects: Effects) -> None:
        self.announcer.show(effects)
        if self.tree.may_ignore:
            self.ignoring.note_shown(effects.names, self.volume.wake)
        self.pins.notice()

    @property
    def room(self) -> Room:
        """What the server last said of the space."""
        return self.files.quota.lease.room

    def _shown_room(self) -> DiskRoom:
        room, left = self.room, self.files.quota.left_bytes
        if left is None:
            return DiskRoom(room.used + room.free, room.free)
        return DiskRoom(room.quota, max(0, min(room.free, left)))

    def _hold_back(self, node: NodeId, edit: Edit) -> None:
        self.sync.hold_back(
            node,
            "A write to it was refused, as the quota is used up: what there is of it stays here, and the server keeps "
            "what it had. Make room and write it again; or touch it, to send it as it is.",
            edit,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps in step with the server, fetches, and keeps what is known, until cancelled."""
        trio.lowlevel.add_instrument(self.counting.turns)
        trio.lowlevel.add_instrument(self._beat)
        # What is there now stays. Looking for circles in all of it held up programs for 50 ms, time and again.
        gc.freeze()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.reader.run)
            nursery.start_soon(self.sync.run)
            nursery.start_soon(self.flow.run)
            nursery.start_soon(self.ahead.run)
            nursery.start_soon(self.pins.run)
            nursery.start_soon(self.state.keep)
            nursery.start_soon(self.cache.keep)
            nursery.start_soon(self._keep_up)
            nursery.start_soon(self._mend)
            nursery.start_soon(self.chunks.sweep)
            nursery.start_soon(self.backups.run)
            task_status.started()

    async def _make_room_for_changes(self) -> None:
        """Drops clean chunks: on a full disk nothing could be sent any more, as what the server says is kept, too."""
        self.state.is_short = False
        before = self.chunks.used_bytes
        with suppress(DiskFull):  # what there was to drop is dropped
            await self.budget.make_room(_CHANGES_BYTES)
        if self.chunks.used_bytes < before:
            self.sync.retry_now()

    async def _keep_up(self) -> None:
        """Once a second while anything goes on: what is written to and not closed, and what is counted."""
        was_online = False
        while True:
            # A file that was not flushed is flushed in time, whether anything else goes on or not.
            await self._beat.next(may_rest=not self.files.has_unflushed)
            self.flow.sample()
            with suppress(DiskFull):  # programs were told; the next round may find room
                if self.files.flush_closed() or self.files.flush_long_open():
                    self.volume.wake()
                self.counting.keep()
            if self.state.is_short:
                await self._make_room_for_changes()
            self.pins.notice()
            if self.sync.is_online and not was_online:
                self.pins.retry()
            was_online = self.sync.is_online
            if self.files.fetched:
                self.announcer.refresh(self.files.fetched)
                self.files.fetched = set()
            for store in (self.state, self.cache):
                store.unmap()

    def _note_loss(self) -> None:
        self._lost.set()

    async def _mend(self) -> None:
        """Sends again what the server says it lost, as often as it says so."""
        while True:
            await self._lost.wait()
            self._lost = trio.Event()
            with suppress(RemoteError):  # it will say so again
                await self.sync.mend()

    def close(self) -> None:
        """Puts what open files hold into the stores and lets go of everything but them."""
        try:
            self.volume.flush_all()
            self.counting.keep()
        except CacheError as error:
            log.error("what programs had not closed was not kept: %s", error)
        self.announcer.close()
        self.repeater.close()
        self._hands.close()
        self.stagings.close()
        self.chunks.close()
