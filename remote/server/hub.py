"""The hub: wakes long polls. A hint only; what is true stands in the journal. Lives on the event loop."""

import asyncio
from collections import defaultdict
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from remote.protocol.ids import SpaceId, UserId

Key = TypeVar("Key", bound=Hashable)


@dataclass(eq=False)
class Waiter:
    """One open poll: `event` is set when something happened, and whose it is then looks what."""

    spaces: frozenset[SpaceId]
    token_hash: bytes
    user: UserId
    event: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Listener:
    """Hears of every space: `event` is set when there are some in `spaces`; who listens takes them out."""

    spaces: set[SpaceId] = field(default_factory=set)
    event: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Who waits for which space."""

    def __init__(self) -> None:
        self._by_space: dict[SpaceId, set[Waiter]] = defaultdict(set)
        self._by_token: dict[bytes, set[Waiter]] = defaultdict(set)
        self._by_user: dict[UserId, set[Waiter]] = defaultdict(set)
        self._listeners: list[Listener] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    def enter(self, spaces: Iterable[SpaceId], token_hash: bytes, user: UserId) -> Waiter:
        """A waiter that hears of everything from now on, until `leave`."""
        waiter = Waiter(frozenset(spaces), token_hash, user)
        for space in waiter.spaces:
            self._by_space[space].add(waiter)
        self._by_token[token_hash].add(waiter)
        self._by_user[user].add(waiter)
        if self.is_closed:
            waiter.event.set()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Forgets the waiter."""
        for space in waiter.spaces:
            _discard(self._by_space, space, waiter)
        _discard(self._by_token, waiter.token_hash, waiter)
        _discard(self._by_user, waiter.user, waiter)

    def listen(self) -> Listener:
        """Hears of every space from now on, for as long as the server runs."""
        self._loop = asyncio.get_running_loop()
        self._listeners.append(Listener())
        return self._listeners[-1]

    def moved(self, space: SpaceId) -> None:
        """Wakes all who wait for this space."""
        for listener in self._listeners:
            listener.spaces.add(space)
            listener.event.set()
        for waiter in self._by_space.get(space, ()):
            waiter.event.set()

    def look(self, spaces: Iterable[SpaceId]) -> None:
        """Wakes all who wait for these spaces, though none of them moved: there is something else for some."""
        for space in spaces:
            for waiter in self._by_space.get(space, ()):
                waiter.event.set()

    def moved_elsewhere(self, space: SpaceId) -> None:
        """The same from the thread of a job."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the server stops
                self._loop.call_soon_threadsafe(self.moved, space)

    def spaces_changed(self, user: UserId) -> None:
        """Wakes all devices of a user: which spaces are his, or what he may do there, is another than before."""
        for waiter in self._by_user.get(user, ()):
            waiter.event.set()

    def signed_out(self, token_hash: bytes) -> None:
        """Wakes the polls of a device: its token ended."""
        for waiter in self._by_token.get(token_hash, ()):
            waiter.event.set()

    def wake(self) -> None:
        """Wakes everybody: nobody knows what happened."""
        for waiters in self._by_token.values():
            for waiter in waiters:
                waiter.event.set()

    @property
    def waiting(self) -> int:
        """How many polls wait."""
        return sum(map(len, list(self._by_token.values())))

    def close(self) -> None:
        """Wakes everybody, now and from now on: the server stops."""
        self.is_closed = True
        self.wake()


def _discard(table: dict[Key, set[Waiter]], key: Key, waiter: Waiter) -> None:
    table[key].discard(waiter)
    if not table[key]:
        del table[key]
