"""Slowing: who gives wrong passwords has to wait, by name and by address; what is remembered is bounded."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from remote.protocol.errors import Busy
from remote.server.asking import asking

FAILURES_FREE = 5
"""Wrong passwords for a name from one address before the next one has to wait."""
FAILURES_FREE_BY_NAME = 100
"""The same from all addresses together: higher, so that a stranger keeps nobody from signing in."""
FAILURES_FREE_BY_ADDRESS = 20
"""The same for all names together."""
FAILURE_WAIT_MAX_SECONDS = 60.0
FAILURES_REMEMBERED = 10_000
"""Names, addresses, and pairs of them, each."""
_FORGOTTEN_NS = 60 * 10**9
"""So much time takes one wrong password off the count."""
_DOUBLINGS = 10


class Lately:
    """What happened lately, the newest of it only."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._since: OrderedDict[object, float] = OrderedDict()

    def add(self, key: object) -> None:
        """It happens now."""
        self._since[key] = time.monotonic()
        self._since.move_to_end(key)
        if len(self._since) > self._most:
            self._since.popitem(last=False)

    def has(self, key: object) -> bool:
        """Whether it happened within the last `seconds`."""
        since = self._since.get(key)
        return since is not None and time.monotonic() - since < self._seconds


@dataclass(frozen=True)
class _Failed:
    count: int
    last_ns: int


class Failures:
    """Failures by key, the latest of them only; each beyond `free` doubles the wait, and time takes them off."""

    def __init__(self, now_ns: Callable[[], int], free: int) -> None:
        self._now_ns = now_ns
        self._free = free
        self._failed: OrderedDict[object, _Failed] = OrderedDict()

    def left_seconds(self, key: object) -> float:
        """How long to wait before the next try; 0 or less: not at all."""
        count = self._count(key)
        if count < self._free:
            return 0.0
        wait_seconds = min(FAILURE_WAIT_MAX_SECONDS, 2.0 ** (count - self._free))
        return wait_seconds - (self._now_ns() - self._failed[key].last_ns) / 1e9

    def add(self, key: object) -> None:
        """One more."""
        self._failed[key] = _Failed(min(self._count(key) + 1, self._free + _DOUBLINGS), self._now_ns())
        self._failed.move_to_end(key)
        if len(self._failed) > FAILURES_REMEMBERED:
            self._failed.popitem(last=False)

    def forget(self, key: object) -> None:
        """None any more."""
        self._failed.pop(key, None)

    def __len__(self) -> int:
        return len(self._failed)

    def _count(self, key: object) -> int:
        failed = self._failed.get(key)
        if failed is None:
            return 0
        return max(0, failed.count - (self._now_ns() - failed.last_ns) // _FORGOTTEN_NS)


class Slowing:
    """Wrong passwords, codes and secrets by what they are for, and by the address that they come from."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._pairs = Failures(now_ns, FAILURES_FREE)
        self._names = Failures(now_ns, FAILURES_FREE_BY_NAME)
        self._addresses = Failures(now_ns, FAILURES_FREE_BY_ADDRESS)

    def check(self, name: str) -> None:
        """Raises Busy when who asks has to wait before the next try for this name."""
        _wait(max(self._pairs.left_seconds((name, _network())), self._names.left_seconds(name)))
        self.check_address()

    def check_address(self) -> None:
        """Raises Busy when whoever asks from that address has to wait before the next try at all."""
        _wait(self._addresses.left_seconds(_network()))

    def add(self, name: str) -> None:
        """A wrong one for this name."""
        self._pairs.add((name, _network()))
        self._names.add(name)
        self.add_address()

    def add_address(self) -> None:
        """A wrong one for no name in particular."""
        if network := _network():
            self._addresses.add(network)

    def forget(self, name: str) -> None:
        """A right one: no word of the address, which others may share or an attacker use with an account of his own."""
        self._pairs.forget((name, _network()))


def network_of(address: str) -> str:
    """What stands for one who asks: an IPv4 address, or the /64 that a single IPv6 customer has all of."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _network() -> str:
    """Of who asks; empty when that is not known."""
    return network_of(asking().address)


def _wait(left_seconds: float) -> None:
    if left_seconds > 0:
        raise Busy(f"Too many wrong passwords: try again in {math.ceil(left_seconds)} s.", left_seconds)
