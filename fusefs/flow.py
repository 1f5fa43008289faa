"""Flow: how fast this drive may send and receive, whether it sends at all now, and its rates; kept over restarts."""

import math
import time
from collections import deque
from typing import Final, Protocol

import msgspec
import trio

from cache.reader import Reader
from cache.syncs import Syncs
from cache.tree import Tree
from fusefs import metered, moments
from fusefs.control import SECONDS_MOST, Exit, Refused
from remote.protocol.cutting import SIZES

RATE_LEAST: Final = 32 << 10
"""The slowest limit: below, reads would fail for their lateness."""
RATE_MOST: Final = 1 << 40
_SLACK_BYTES: Final = 2 * SIZES.most
"""What may have to come in before a read is served: its chunk, behind another."""
_SETTING: Final = "flow"
_LOOK_SECONDS: Final = 30.0
_RATE_SAMPLES: Final = 10
"""Seconds over which the rates are told."""
_FOR_EVER: Final = -1
_SILENT_SECONDS: Final = 3.0
"""A server may take so long over an answer before it is worth a word."""
_MOVING_RATE: Final = 8 << 10
"""Bytes in a second that go up: more than requests that are tried again."""


class Lane(Protocol):
    """One direction of the wire, as the client has it."""

    limit: int

    def set_limit(self, limit: int) -> None:
        """Bytes per second from now on, 0 for as fast as it goes."""


class Gate(Protocol):
    """Whether content may be sent."""

    def shut(self) -> None:
        """Not from now on."""

    def open(self) -> None:
        """From now on."""


class Traffic(Protocol):
    """Counters of the wire since the daemon started, and what may go over it, as the client keeps them."""

    sent_bytes: int
    received_bytes: int
    requests: int

    @property
    def silent_seconds(self) -> float:
        """How long nothing was heard although an answer is due, or one was waited for in vain; 0: all were answered."""

    @property
    def up(self) -> Lane:
        """What is sent."""

    @property
    def down(self) -> Lane:
        """What is received."""

    @property
    def uploads(self) -> Gate:
        """Content on its way up."""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    up: int = 0
    down: int = 0
    paused_until_ns: int = 0
    """By this machine's clock; 0: not paused, _FOR_EVER: until somebody resumes."""
    paused_seconds: float = 0.0
    """How long it was to be at first: a clock that is set back makes it no longer."""


class Flow:
    """What was chosen for one drive, applied at once."""

    def __init__(self, tree: Tree, traffic: Traffic, sync: Syncs, reader: Reader, *, heeds_metered: bool) -> None:
        self._reader = reader
        self._tree = tree
        self._traffic = traffic
        self._sync = sync
        self._heeds_metered = heeds_metered
        self._is_metered = False
        # Somebody resumed on this metered network: it counts no more, until the network is another.
        self._is_overridden = False
        self._changed = trio.Event()
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=_RATE_SAMPLES)
        value = tree.setting(_SETTING)
        self._kept = msgspec.msgpack.decode(value, type=_Kept) if value else _Kept()
        self._apply()

    def limit(self, up: int | None, down: int | None) -> None:
        """Sets the limits that are not None, in bytes per second, 0 for none; raises Refused for too low or high."""
        for rate in (up, down):
            if rate is not None and rate and rate < RATE_LEAST:
                raise Refused(f"The least is {RATE_LEAST >> 10}K in a second.", Exit.USAGE)
            if rate is not None and rate > RATE_MOST:
                raise Refused(f"The most is {RATE_MOST >> 30}G in a second; 0 is for no limit.", Exit.USAGE)
        kept = self._kept
        up, down = kept.up if up is None else up, kept.down if down is None else down
        self._keep(msgspec.structs.replace(kept, up=up, down=down))

    def pause(self, seconds: float | None) -> None:
        """Sends nothing any more, for so long or until `resume`; raises Refused for longer than there can be."""
        # What is no number is refused too.
        if seconds is not None and not 0 <= seconds <= SECONDS_MOST:
            raise Refused(f"A pause lasts at most {SECONDS_MOST // 86_400:,} days.", Exit.USAGE)
        until_ns = _FOR_EVER if seconds is None else time.time_ns() + int(seconds * 1e9)
        self._keep(msgspec.structs.replace(self._kept, paused_until_ns=until_ns, paused_seconds=seconds or 0.0))

    def resume(self) -> None:
        """Sends again, also over the metered network that there is now."""
        self._is_overridden = self._is_metered
        self._keep(msgspec.structs.replace(self._kept, paused_until_ns=0))

    def told(self) -> dict[str, object]:
        """Limits, rates and pause for people and programs."""
        sent, received = self.rates()
        until_ns = self._kept.paused_until_ns
        return {
            "limits": {"up": self._kept.up, "down": self._kept.down},
            "rates": {"up": round(sent), "down": round(received)},
            "paused": {
                "is_paused": bool(self._reason()),
                "reason": self._reason(),
                "until": moments.iso(until_ns) if until_ns > 0 else "",
                "is_metered": self._is_metered,
            },
        }

    def sample(self) -> None:
        """To be called about once a second while anything goes over the wire, so that rates are known."""
        self._drop_old_samples()
        self._samples.append((time.monotonic(), self._traffic.sent_bytes, self._traffic.received_bytes))

    def rates(self) -> tuple[float, float]:
        """Bytes per second that went up and came down lately."""
        self._drop_old_samples()
        if not self._samples:
            return 0.0, 0.0
        at, sent, received = self._samples[0]
        seconds = max(1.0, time.monotonic() - at)
        return (self._traffic.sent_bytes - sent) / seconds, (self._traffic.received_bytes - received) / seconds

    def _drop_old_samples(self) -> None:
        """Nothing was sampled while nothing went on: a rate over all of that would be of no use."""
        oldest = time.monotonic() - _RATE_SAMPLES - 1
        while self._samples and self._samples[0][0] < oldest:
            self._samples.popleft()

    def silent_seconds(self) -> float:
        """How long the server has answered nothing of what it was asked; 0 when it has, or content is on its way."""
        seconds = self._traffic.silent_seconds
        is_moving = self.rates()[0] >= _MOVING_RATE
        return 0.0 if seconds < _SILENT_SECONDS or is_moving or self._reason() else seconds

    async def run(self) -> None:
        """Ends pauses when their time has come, and follows what NetworkManager says of the network."""
        async with trio.open_nursery() as nursery:
            if self._heeds_metered:
                nursery.start_soon(metered.watch, self._take_metered)
            while True:
                left = self._seconds_left()
                if 0 < self._kept.paused_seconds < left < math.inf:
                    self.pause(self._kept.paused_seconds)
                    continue
                if left <= 0:
                    self._keep(msgspec.structs.replace(self._kept, paused_until_ns=0))
                    continue
                # A clock that is set, or a machine that slept, is noticed in a while.
                with trio.move_on_after(min(left, _LOOK_SECONDS) if left < math.inf else math.inf):
                    await self._changed.wait()
                self._changed = trio.Event()

    def _seconds_left(self) -> float:
        """Until a pause ends by itself; infinite when it does not, or there is none."""
        until_ns = self._kept.paused_until_ns
        return (until_ns - time.time_ns()) / 1e9 if until_ns > 0 else math.inf

    def _take_metered(self, is_metered: bool) -> None:
        if is_metered != self._is_metered:
            self._is_metered, self._is_overridden = is_metered, False
            self._apply()

    def _keep(self, kept: _Kept) -> None:
        self._tree.set_setting(_SETTING, msgspec.msgpack.encode(kept))
        self._kept = kept
        self._apply()
        self._changed.set()

    def _reason(self) -> str:
        """Why nothing is sent; empty when all may be."""
        until_ns = self._kept.paused_until_ns
        if until_ns == _FOR_EVER:
            return "Sending is paused. Go on with: satchel resume"
        if until_ns:
            return f"Sending is paused until {moments.iso(until_ns)}. Go on before that with: satchel resume"
        if self._is_metered and not self._is_overridden:
            return "Sending is paused on this metered network. Send all the same with: satchel resume"
        return ""

    def _apply(self) -> None:
        self._traffic.up.set_limit(self._kept.up)
        self._traffic.down.set_limit(self._kept.down)
        # Whoever set the limit wants slow reads, not failing ones.
        self._reader.slack_seconds = _SLACK_BYTES / self._kept.down if self._kept.down else 0.0
        reason = self._reason()
        self._sync.hold(reason)
        if reason:
            self._traffic.uploads.shut()
        else:
            self._traffic.uploads.open()
