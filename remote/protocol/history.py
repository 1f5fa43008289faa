"""The messages of history: what differs between two revs, going back, undoing, what was removed, and what is kept.

As in messages.py, a field may be added at the end of a struct with a default.
"""

import msgspec

from remote.protocol.ids import NOW, NodeId, Rev

DIFFERENCES_MAX = 10_000
"""Differences in one answer."""
CHANGED_MAX = 200_000
"""Nodes that one request about history may look at, and that one rewind may change."""
TRASH_MAX = 1_000
"""Removed things in one answer, or brought back or purged by one request."""
STAYS_MAX = 10
KEEP_DAYS = 30
"""Days for which every version is kept, unless a space says otherwise."""


class DiffRequest(msgspec.Struct, frozen=True):
    """What differs in a folder, and in all below it, between two revs (`to` 0: now)."""

    folder: NodeId
    since: Rev
    to: Rev = NOW
    limit: int = 1_000


class Difference(msgspec.Struct, frozen=True):
    """One path that differs. `what`: added, removed, changed (other content), moved, or attributes (only these).

    `kind` is that of `Kind`, in lower case. Paths are relative to the folder; `was_path` says from where it moved.
    """

    node: NodeId
    what: str
    kind: str
    path: bytes
    was_path: bytes = b""
    size: int = 0
    was_size: int = 0


class Differences(msgspec.Struct, frozen=True):
    """The first `limit` differences by path; the counts are of all."""

    since: Rev
    to: Rev
    added: int
    removed: int
    changed: int
    moved: int
    attributes: int
    differences: tuple[Difference, ...]


class RewindRequest(msgspec.Struct, frozen=True):
    """Make a folder, and all below it, what it was as of a rev, by one commit that moves no content.

    `op_id` as in a commit. With `is_dry_run` nothing is changed.
    """

    op_id: bytes
    folder: NodeId
    to: Rev
    is_dry_run: bool = False
    limit: int = 100


class RestoreRequest(msgspec.Struct, frozen=True):
    """Make a path what it was as of a rev, by one commit that moves no content; what came into a folder since stays.

    `is_beside`: what is there now is let be, and the older state is put beside it, under a name with its rev.
    """

    op_id: bytes
    path: bytes
    to: Rev
    is_beside: bool = False
    is_dry_run: bool = False
    limit: int = 100


class UndoRequest(msgspec.Struct, frozen=True):
    """Take back what one commit did (`rev` 0: the last one of this device, or that it asked the server for).

    `event`: instead, what the device of a mass change did from its first rev to its last. With `keeps_new`, what the
    device made then stays, where it is not in the way. `passing`: without a rev, what lies in these folders is let be,
    and a commit of the device that did nothing else is passed over: programs keep them, not people.
    """

    op_id: bytes
    rev: Rev = NOW
    is_dry_run: bool = False
    limit: int = 100
    event: int = 0
    keeps_new: bool = False
    passing: tuple[NodeId, ...] = ()


class Stay(msgspec.Struct, frozen=True):
    """Something that an undo let be: it changed again in `rev`; 0: what it was is kept no more."""

    path: bytes
    rev: Rev


class Done(msgspec.Struct, frozen=True):
    """What such a request did: the `rev` that it made (0: nothing), what it did, and how many nodes it let be.

    `of`: the rev gone back to, or undone. Nodes are let be that somebody changed since what is undone.
    `stays`: of an undo of one rev, the first STAYS_MAX of them.
    """

    rev: Rev
    of: Rev
    did: Differences
    kept: int = 0
    stays: tuple[Stay, ...] = ()


class TrashRequest(msgspec.Struct, frozen=True):
    """What was removed and can be brought back, newest first, from those removed before rev `before` (0: all)."""

    before: Rev = NOW
    limit: int = 100


class Removed(msgspec.Struct, frozen=True):
    """Something that was removed, with what was removed with it: `nodes` in all, of `size` bytes."""

    node: NodeId
    rev: Rev
    time_ns: int
    user_name: str
    device_name: str
    kind: str
    path: bytes
    nodes: int
    size: int


class Trash(msgspec.Struct, frozen=True):
    """Newest first; `next`: ask again with this `before`, 0 when there is no more."""

    removed: tuple[Removed, ...]
    next: Rev = NOW


class PutBackRequest(msgspec.Struct, frozen=True):
    """Bring removed things back under their names, or beside what has these now, with what was removed with them."""

    op_id: bytes
    nodes: tuple[NodeId, ...]
    is_dry_run: bool = False
    limit: int = 100


class PurgeRequest(msgspec.Struct, frozen=True):
    """Forget for good: the past of these nodes and of all below them, or (none given) of all removed before `before`.

    Of what exists, the present stays. What is forgotten cannot be brought back by anybody.
    """

    nodes: tuple[NodeId, ...] = ()
    before: Rev = NOW
    is_dry_run: bool = False


class Purged(msgspec.Struct, frozen=True):
    """How many versions are forgotten, of how many nodes, and the bytes of content that they named (shared or not)."""

    versions: int
    nodes: int
    size: int


class Retention(msgspec.Struct, frozen=True):
    """What a space keeps of its past. All versions for `all_days`; then of each hour, day and week the last state.

    Each number counts from now: `hourly_days` 90: hours are told apart for 90 days. `for_ever`: weeks are kept
    without end; otherwise nothing older than the largest number of days is.
    """

    all_days: int = KEEP_DAYS
    hourly_days: int = 0
    daily_days: int = 365
    for_ever: bool = True


class RetentionTold(Retention, frozen=True):
    """What a space keeps, as the server answers.

    `not_before_ns`: until then nothing is let go, as the server's clock has not gone long enough without a leap.
    0: what is old enough goes.
    """

    not_before_ns: int = 0


class RetentionRequest(msgspec.Struct, frozen=True):
    """Ask for the retention of a space, or (given) set it."""

    retention: Retention | None = None
