"""Sync: keeps one space and its server in step, both ways, as long as it runs; survives any absence of the server."""

import logging
import math
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from cache.edit import Edit
from cache.errors import CacheError, OpenHere
from cache.polls import Polls
from cache.pull import Pull
from cache.push import AHEAD_NODES, ENOUGH_NODES, Push
from cache.tree import Tree
from remote.protocol.errors import (
    BadRequest,
    Disabled,
    NotAllowed,
    NotFound,
    NotSignedIn,
    RemoteError,
    Unreachable,
    Wiped,
)
from remote.protocol.ids import NodeId

log = logging.getLogger(__name__)

DEBOUNCE_SECONDS: Final = 0.02
"""Without an edit for so long, a program has paused."""
AHEAD_SECONDS: Final = 0.001
"""Without an edit for so long, content of few files is sent ahead of the end of the pause."""
BULK_SECONDS: Final = 0.25
"""While programs go on without a pause, their edits are gathered this long: one commit of hundreds costs hardly more
than one of one, and changes are still to be seen elsewhere within a second."""
ANSWER_SECONDS: Final = 0.25
"""News of a commit of our own need not be asked for when its answer comes so soon."""
POLL_SECONDS: Final = 30
_RETRY_SECONDS: Final = (0.25, 8.0)
"""The first pause and the longest: all is in step again within seconds of the server's return."""
_FOLDERS_AT_ONCE: Final = 200
_WALK_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Stuck:
    """A node that could not be sent, why, and in how many seconds it is tried again."""

    path: bytes
    sentence: str
    seconds: float
    asks: bool = False
    """Whether it waits for a person's yes."""


@dataclass(frozen=True)
class Standing:
    """How far this device and the server are in step."""

    is_online: bool
    trouble: str
    """Why the server cannot be talked to, empty when it can."""
    pending_nodes: int
    stuck: tuple[Stuck, ...]
    held: str
    """Why nothing is sent although the server may be there, empty when all is."""
    cursor: int
    unlisted_folders: int
    asked: int = 0
    """How many of those that are pending wait for a person's yes."""
    no_room: int = 0
    """How many of them the quota has no room for."""
    blocked: int = 0
    """How many of them are not being sent now, these included."""
    is_signed_in: bool = True
    """Whether the server knows this device, as it said last."""
    set_back_ns: int = 0
    """When it was noticed last that the server was put back to an older state; 0: never."""


class Sync:
    """Runs Pull and Push; `run` ends only when cancelled."""

    def __init__(
        self,
        tree: Tree,
        pull: Pull,
        push: Push,
        polls: Polls,
        *,
        is_walking: bool = True,
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        """`polls`: by which news is waited for. `is_walking`: list all folders in the background, so that names work
        offline. `on_moved`: called whenever something was sent or heard, or is not any more.
        """
        self._polls = polls
        self._tree = tree
        self._pull = pull
        self._push = push
        self._is_walking = is_walking
        self._on_moved = on_moved
        push.on_taken = self._tell
        self._is_online = False
        self._trouble = "the server was not reached yet"
        self._held = ""
        self._caught_up = trio.Event()
        self._moved = trio.Event()
        self._retry = trio.Event()
        self._gathering_since: float | None = None
        self.is_given_up = False
        """Somebody waited for the server in vain, and it was not heard of since."""
        self._is_room_known = False
        self._begun_at = 0.0
        self._rested_at = 0.0
        self.wiped = trio.Event()
        """Set when the server says that this device is to remove what it holds."""
        self._refused: NotSignedIn | None = None
        self._refused_since = -math.inf

    async def run(self) -> None:
        """Keeps in step until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_pull)
            nursery.start_soon(self._run_push, nursery)
            nursery.start_soon(self._look_ahead)
            if self._is_walking:
                nursery.start_soon(self._walk)

    @property
    def is_online(self) -> bool:
        """Whether the server answered when it was last asked."""
        return self._is_online

    async def ensure_range(self) -> None:
        """Returns when this device has node ids to give; raises RemoteError when it has none and gets none."""
        if not self._tree.has_range:
            leased = await self._pull.service.lease_range()
            if not self._tree.has_range:
                self._tree.lease(leased.first, leased.count)

    async def caught_up(self) -> None:
        """Returns when the server was heard for the first time since the start, and what it said was taken in."""
        await self._caught_up.wait()

    @property
    def may_send(self) -> bool:
        """Whether what is written here is being sent: the server can be reached, and nothing is held back."""
        return self._is_online and not self._held

    def standing(self) -> Standing:
        """How things are now."""
        now = trio.current_time()
        stuck = tuple(
            Stuck(self._tree.path_of(node), trouble.sentence, max(0.0, trouble.again_at - now), trouble.asks)
            for node, trouble in self._push.troubles.stuck(1_000)
        )
        return Standing(
            is_online=self._is_online,
            trouble=self._trouble,
            pending_nodes=self._tree.dirty_count() + self._tree.lost_count(),
            stuck=stuck,
            held=self._held,
            cursor=self._tree.cursor,
            unlisted_folders=self._tree.unlisted_count(),
            asked=self._push.troubles.asked(),
            no_room=self._push.troubles.no_room(),
            blocked=self._push.troubles.blocked(),
            is_signed_in=self._is_online or self._refused is None,
            set_back_ns=self._pull.set_back_ns(),
        )

    def hold(self, reason: str) -> None:
        """Sends nothing from now on but the commit that is on its way, for this reason; an empty one: goes on."""
        if self._held and not reason:
            self._push.retry_all()
        self._held = reason
        self._tell()

    def retry_all(self) -> None:
        """What was in the way of edits may be gone: they are tried again now."""
        self._push.retry_all()

    def moving(self) -> dict[NodeId, int]:
        """Nodes of which content is on its way, or there and not committed yet, with the bytes of it that are there."""
        return self._push.moving()

    def rule_for(self, node: NodeId) -> str:
        """The rule that keeps this node on this machine, empty when it is sent."""
        return self._push.ignoring.rule_for(node)

    def trouble_of(self, node: NodeId) -> str:
        """Why this node cannot be sent, empty when nothing is known to be in its way."""
        trouble = self._push.troubles.nodes.get(node)
        return trouble.sentence if trouble is not None else ""

    def check(self, nodes: Collection[NodeId]) -> None:
        """Raises what keeps one of these nodes of this space from being sent, though the server may be there."""
        self._push.troubles.raise_first(nodes)
        if any(self._tree.news_of(one) is not None and self._pull.mount.is_busy(one) for one in nodes):
            raise OpenHere("It was changed elsewhere meanwhile, and both become one when it is closed here.")
        if self._held:
            raise Unreachable(self._held)

    def check_sign_in(self, since: float) -> None:
        """Raises NotSignedIn when the server knows this device no more, as it said to what was asked after `since`."""
        if self._refused is not None and self._refused_since >= since:
            raise type(self._refused)(str(self._refused))

    def give_up(self) -> None:
        """Somebody waited for the server in vain; raises Unreachable, which says why it cannot be talked to."""
        self.is_given_up = True
        raise Unreachable(self._trouble)

    def wake(self) -> None:
        """Something may be to be sent."""
        self._push.wake()

    async def ask_for_room(self, wanted: int, needed: int) -> None:
        """Returns when the server was asked for a lease of so many bytes, or of what is needed; raises RemoteError."""
        space, lease = self._pull.home.space, self._pull.lease
        while True:
            # What is on its way counts on both sides until its answer is taken in.
            await self._push.answered()
            known = lease.room
            is_taken = lease.take(await self._pull.service.room(space, lease.held(), wanted, needed))
            if is_taken or lease.room is known:
                return
            # It was passed over, as the lease was lowered or a commit answered meanwhile: what there is now?

    def hold_back(self, node: NodeId, sentence: str, edit: Edit) -> None:
        """Does not send this node as the edit leaves it, until it is edited again: what is in it was not to be all."""
        self._push.troubles.hold(node, sentence, edit)

    # The server's side

    async def _run_pull(self) -> None:
        failures = 0
        while True:
            with self._connection() as connection:
                await self.ensure_range()
                await self._pull.catch_up()
                if not self._is_room_known:
                    lease = self._pull.lease
                    lease.take(await self._pull.service.room(self._pull.home.space, lease.held(), 0), is_first=True)
                    self._is_room_known = True
                self._arrived()
                # What came may be rules for what is sent.
                self._push.changed.set()
                if self._tree.news_count():
                    # Some of it may wait for a folder to be listed.
                    self._push.wake()
                failures = 0
                await self._wait_for_news()
            if connection.failed:
                failures += 1
                self._is_online = self._is_room_known = False
                await self._pause(failures)

    async def _wait_for_news(self) -> None:
        """Returns when there may be commits that are not our own, or after POLL_SECONDS."""
        space = self._pull.home.space
        while True:
            answer = await self._polls.poll(space, self._tree.cursor, self._pull.lease, POLL_SECONDS)
            if answer.now_ns:
                self._pull.clock.heard(answer.now_ns)
            # Mostly it is our own commit, whose answer is as near.
            with trio.move_on_after(ANSWER_SECONDS):
                await self._push.answered()
            if space in answer.rooms:
                self._pull.lease.take(answer.rooms[space])
            if answer.heads.get(space) != self._tree.cursor:
                return
            self._arrived()

    def _arrived(self) -> None:
        if not self._caught_up.is_set():
            # What was on its way when this device last stopped has come back with the journal, or never arrived.
            if self._tree.sending and not self._push.is_sending:
                self._tree.set_sending({})
            self._caught_up.set()
        was_online = self._is_online
        self._is_online = True
        if not isinstance(self._refused, Wiped):
            self._refused = None
        self.is_given_up = False
        self._trouble = ""
        if not was_online:
            self._retry.set()
            self._push.retry_all()
        self._tell()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
        self._on_moved()

    @contextmanager
    def _connection(self) -> "Iterator[_Attempt]":
        """Takes in what keeps us from the server, or our own disk from taking what it says: the mount goes on."""
        attempt = _Attempt()
        try:
            yield attempt
        except Unreachable as error:
            # Whoever finds out first says so: a silent server keeps a poll waiting for long.
            attempt.failed = True
            self._is_online = False
            self._trouble = str(error)
        except Wiped as error:
            attempt.failed = True
            self._trouble = str(error)
            self.wiped.set()
            # That is for good, whenever it was asked.
            self._refused, self._refused_since = error, math.inf
            self._tell()
        except NotSignedIn as error:
            attempt.failed = True
            # A poll that began before may stay open for long: until then nothing else would say so.
            self._is_online = False
            cure = "" if isinstance(error, Disabled) else "; what to do: satchel doctor"
            self._trouble = f"{error} Nothing is lost{cure or '.'}"
            self._refused, self._refused_since = error, attempt.began_at
            self._tell()
        except (NotAllowed, NotFound, BadRequest) as error:
            attempt.failed = True
            self._trouble = f"The server refuses this device's space: {error}"
        except (RemoteError, CacheError, OSError) as error:
            attempt.failed = True
            self._trouble = str(error)
        except Exception as error:
            # The outermost loop: what is on this machine can be used whatever goes wrong here.
            log.exception("synchronisation failed and goes on")
            attempt.failed = True
            self._trouble = f"Synchronisation failed ({error!r}) and is tried again. The log says more."

    async def _pause(self, failures: int) -> None:
        """Waits longer after each failure, with jitter, so that a thousand devices do not return at once."""
        longest = min(_RETRY_SECONDS[1], _RETRY_SECONDS[0] * 2 ** min(failures, 10))
        with trio.move_on_after(longest * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter, not a secret
            await self._retry.wait()
        if self._retry.is_set():
            self._retry = trio.Event()

    def retry_now(self) -> None:
        """Somebody has reason to think that the server is back."""
        self._retry.set()

    # Our side

    async def _run_push(self, nursery: trio.Nursery) -> None:
        failures = 0
        while True:
            await self._caught_up.wait()
            with self._connection() as connection:
                is_gathered = await self._wait_for_edits(nursery)
                if await self._pull.retry_waiting():
                    self._push.retry_all()
                if not self._held and await self._push.run_once(nursery, is_gathered=is_gathered):
                    # A line or a machine that is slow is not filled with small commits: half of the time is a rest.
                    now = trio.current_time()
                    self._rested_at = now + min(now - self._begun_at, BULK_SECONDS)
                if self._push.take_heard():
                    if not self._is_online:
                        self._push.retry_all()
                    self._is_online, self._trouble = True, ""
                if self._is_online:
                    # Content that was begun with may fail yet: only an answer ends the longer and longer pauses.
                    failures = 0
            self._tell()
            if connection.failed:
                failures += 1
                self._push.wake()
                await self._pause(failures)

    async def _wait_for_edits(self, nursery: trio.Nursery) -> bool:
        """Whether programs made something and paused, or made much; False: what is on its way can go on."""
        push = self._push
        if self._gathering_since is None:
            with trio.move_on_after(math.inf if self._held else push.seconds_to_next_try()):
                await push.changed.wait()
            push.changed = trio.Event()
            self._gathering_since = trio.current_time()
        earliest = self._gathering_since + DEBOUNCE_SECONDS
        # Who saves again and again does not make more versions than there are pauses.
        may_be_lone = self._gathering_since >= self._begun_at + BULK_SECONDS
        is_ahead, looked_at = False, 0.0
        while True:
            now = trio.current_time()
            due = min(push.edited_at + DEBOUNCE_SECONDS, max(earliest, self._begun_at + BULK_SECONDS))
            due = max(due, self._rested_at)
            if now >= due or (now >= earliest and push.new_nodes >= ENOUGH_NODES):
                self._gathering_since, self._begun_at = None, now
                return True
            pause = min(due - now, DEBOUNCE_SECONDS)
            if is_ahead:
                # What was sent ahead has come there: that is no reason to commit it before the pause is over, unless
                # it is all that there is.
                if await push.goes_on_within(pause) and may_be_lone and push.is_ready:
                    self._gathering_since, self._begun_at = None, trio.current_time()
                    return True
                continue
            may_look = not self._held and looked_at < push.edited_at and push.new_nodes <= AHEAD_NODES
            until_ahead = push.edited_at + AHEAD_SECONDS - now
            if may_look and until_ahead <= 0:
                looked_at = push.edited_at
                is_ahead = await push.begin_ahead(nursery)
            elif await push.goes_on_within(min(pause, until_ahead) if may_look else pause):
                return False

    async def _look_ahead(self) -> None:
        """Lists what programs are likely to look into next."""
        while True:
            await self._pull.looked.wait()
            with self._connection():
                await self._pull.list_ahead()

    async def _walk(self) -> None:
        """Lists folders in the background, round after round, while there are some that can be listed."""
        await self._caught_up.wait()
        failures = 0
        after, left = NodeId(0), -1
        while True:
            moved = self._moved
            if self._pull.is_listing_ahead:
                # The same folders would come twice, and later to who waits for them.
                await trio.sleep(_WALK_PAUSE_SECONDS)
                continue
            folders = self._tree.unlisted(_FOLDERS_AT_ONCE, after)
            if folders:
                with self._connection() as connection:
                    await self._pull.list_folders(folders)
                    after, failures = folders[-1], 0
                if connection.failed:
                    failures += 1
                    await self._pause(failures)
                self._tell()
                await trio.sleep(_WALK_PAUSE_SECONDS)
                continue
            count = self._tree.unlisted_count()
            if count in (0, left):
                # None, or none that this round could list.
                await moved.wait()
            after, left = NodeId(0), count


class _Attempt:
    """When talking to the server began, and whether it failed."""

    def __init__(self) -> None:
        self.began_at = trio.current_time()
        self.failed = False
