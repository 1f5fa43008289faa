"""The messages of events: what a space's members are told of, and the guard against mass change that finds it.

As in messages.py, a field may be added at the end of a struct with a default.
"""

import msgspec

from remote.protocol.ids import NOWHERE, NodeId, Rev

EVENTS_MAX = 1_000
"""Events in one answer."""

MASS_CHANGE, INFECTED = "mass-change", "infected"
"""The kinds of events: one device removed or overwrote much in a short time; a virus was found in a file."""

TOLD, HELD, ALLOWED, DONE, UNDONE = "told", "held", "allowed", "done", "undone"
"""The states of an event. told: it goes on, or went by; held: what would lose content is not taken from this device
until somebody says yes; allowed: somebody did; done: somebody has seen to it; undone: it was taken back."""
OPEN = (TOLD, HELD)
"""Those that wait for a person."""

OFF, TELL, ASK = "off", "tell", "ask"
"""What a guard does: nothing, tell afterwards, or ask for a yes before it goes on."""


class EventsRequest(msgspec.Struct, frozen=True):
    """The events of a space, newest first, older than `before` (0: from the newest)."""

    before: int = 0
    limit: int = 100


class Event(msgspec.Struct, frozen=True):
    """Something that members are to know of, with who did it.

    A mass change: the commits of that device from `from_rev` to `to_rev` (0: none was taken yet). `removed`,
    `overwritten`: how many files and links; of one that is held at least so many: what was taken before
    (`taken`, both together), and what the largest refused commit would do.
    `examples`: paths of some. `until_ns`: until when it is allowed.
    An infection: the rev that brought it, its `node`, its path as the only example, and what was found as `detail`.
    """

    event: int
    kind: str
    state: str
    user_name: str
    device_name: str
    began_ns: int
    ended_ns: int
    from_rev: Rev
    to_rev: Rev
    removed: int
    overwritten: int
    examples: tuple[bytes, ...] = ()
    until_ns: int = 0
    node: NodeId = NOWHERE
    detail: str = ""
    taken: int = 0


class Events(msgspec.Struct, frozen=True):
    """At most `limit`; `more`: ask again with `before` of the last one."""

    events: tuple[Event, ...]
    more: bool = False


class EventAnswer(msgspec.Struct, frozen=True):
    """What a member says to an event. `says`: allowed (what is held may go on, for an hour; what was found is none, and
    may be read again) or done (seen to)."""

    event: int
    says: str


class Guard(msgspec.Struct, frozen=True):
    """What a space does when one device loses much of it: `mode` is off, tell or ask.

    Much: `count` files removed or overwritten within `window_seconds`, of those whose content was there for
    `settled_seconds` already.
    """

    mode: str = TELL
    count: int = 500
    window_seconds: int = 600
    settled_seconds: int = 600


class GuardRequest(msgspec.Struct, frozen=True):
    """Ask for the guard of a space, or (given) set it."""

    guard: Guard | None = None
