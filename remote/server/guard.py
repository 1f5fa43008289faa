"""Guard: notices that one device removes or overwrites much of a space in a short time, and makes one event of it.

It looks at commits alone, so it needs no trust in the device. What counts is content that people rely on: it was there
for a while, and this change takes it from the present. New files that go again do not count; a file that is written to
every second counts once, when its settled content goes; what makes a file what it was before (a restore) does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from remote.protocol.errors import BadRequest
from remote.protocol.events import ALLOWED, ASK, HELD, MASS_CHANGE, OFF, TELL, TOLD, Guard
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Change
from remote.protocol.nodes import Kind, Name
from remote.server.database import events as event_rows
from remote.server.database import past as past_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.events import BurstRow, EventRow
from remote.server.database.spaces import SpaceRow
from remote.server.states import decode_state

NS: Final = 1_000_000_000
ALLOWED_NS: Final = 3_600 * NS
"""How long a yes holds."""
EVENTS_KEPT: Final = 1_000
COUNT_MAX: Final = 1_000_000
SECONDS_MAX: Final = 7 * 24 * 3_600
_EXAMPLES: Final = 5
_DEPTH_MAX: Final = 5_000
_HELD_REASON: Final = (
    "This device would remove or overwrite {count:,} files or more of {space} in a short time, and it was chosen that "
    "such a thing waits for a yes. Nothing of what waits is lost{taken}. If it was meant: satchel guard allow. If not: "
    "satchel guard refuse."
)
_TAKEN: Final = "; {count:,} went before that, and a no brings these back, too"


class Tree(Protocol):
    """The space before the commit."""

    def row(self, node: NodeId) -> trees.NodeRow | None:
        """The node as it is; None when it never was."""
        ...

    def names(self, node: NodeId) -> tuple[Name, ...]:
        """Its names; none when it is removed or never was."""
        ...


class Step(Protocol):
    """A change with what it makes of the node's content; None: no content, or none any more."""

    @property
    def change(self) -> Change:
        """The change."""
        ...

    @property
    def content_id(self) -> bytes | None:
        """What its state's content is called."""
        ...


@dataclass
class Losses:
    """What of settled content a commit loses."""

    removed: list[NodeId] = field(default_factory=list)
    overwritten: list[NodeId] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many files and links."""
        return len(self.removed) + len(self.overwritten)


@dataclass
class Watch:
    """The guard at one commit: with what it found, once that is judged."""

    device: Device
    event: EventRow | None = None
    """The event that begins with this commit."""


@dataclass(frozen=True)
class Held:
    """The commit is not to be taken: for the sake of which nodes, and a sentence."""

    nodes: tuple[NodeId, ...]
    reason: str


def check_guard(guard: Guard) -> None:
    """Raises BadRequest for what is no guard."""
    if guard.mode not in (OFF, TELL, ASK):
        raise BadRequest(f"A guard is {OFF}, {TELL} or {ASK}, not {guard.mode[:40]!r}.")
    if not 1 <= guard.count <= COUNT_MAX:
        raise BadRequest(f"A guard counts to 1 .. {COUNT_MAX:,} files, not {guard.count}.")
    if not 2 <= guard.window_seconds <= SECONDS_MAX or not 0 <= guard.settled_seconds <= SECONDS_MAX:
        raise BadRequest(f"A guard looks at 2 .. {SECONDS_MAX:,} seconds; content is settled after 0 to as many.")


def guard_of(session: Session, space: SpaceId) -> Guard:
    """The guard of the space."""
    found = event_rows.guard_row(session, space)
    return Guard(*found) if found else Guard()


def grown(burst: BurstRow | None, now_ns: int, rev: Rev, losses: tuple[int, int], window_ns: int) -> BurstRow:
    """The burst with what this rev loses (removed, overwritten).

    It looks back for half a window to a whole one: by halves, so that two numbers are all that is kept.
    """
    half_ns = window_ns // 2
    if burst is None or not 0 <= now_ns - burst.began_ns < 2 * half_ns:
        return BurstRow(now_ns, rev, *losses, Rev(0), 0, 0)
    if now_ns - burst.began_ns >= half_ns:
        return BurstRow(
            burst.began_ns + half_ns, rev, *losses, burst.first_rev, burst.removed, burst.overwritten, burst.event
        )
    return replace(burst, removed=burst.removed + losses[0], overwritten=burst.overwritten + losses[1])


def total(burst: BurstRow) -> tuple[int, int]:
    """How much a burst removed and overwrote."""
    return burst.removed + burst.earlier_removed, burst.overwritten + burst.earlier_overwritten


def first_rev(burst: BurstRow) -> Rev:
    """The first rev that counts."""
    return burst.earlier_rev or burst.first_rev


def look(
    session: Session, row: SpaceRow, tree: Tree, steps: Sequence[Step], watch: Watch, *, rev: Rev, now_ns: int
) -> Held | None:
    """Counts a commit that is about to become `rev`; one that has to wait for a yes is Held."""
    candidates = [step for step in steps if _may_lose(tree, step)]
    folders = _removed_folders(tree, steps)
    if not candidates and not folders:
        return None
    guard = guard_of(session, row.space)
    if guard.mode == OFF:
        return None
    losses = _losses(session, row.space, tree, steps, candidates, now_ns - guard.settled_seconds * NS)
    user, device = watch.device.user, watch.device.device
    burst = event_rows.burst(session, row.space, user, device)
    event = event_rows.event(session, row.space, burst.event) if burst is not None and burst.event else None
    window_ns = guard.window_seconds * NS
    if event is not None and _is_over(event, now_ns, window_ns):
        burst = event = None
    if not losses.count:
        # Folders go behind what was in them: with the files, they come back.
        if folders and event is not None and event.to_rev:
            event_rows.put_event(session, row.space, replace(event, to_rev=rev))
        return None
    nodes = (*losses.removed, *losses.overwritten, *folders)
    counts = (len(losses.removed), len(losses.overwritten))
    may_go_on = guard.mode != ASK or (event is not None and event.state == ALLOWED)
    begins = event is None
    if event is None:
        new = grown(burst, now_ns, rev, counts, window_ns)
        if sum(total(new)) < guard.count:
            event_rows.put_burst(session, row.space, user, device, new)
            return None
        event = _begun(session, row.space, watch.device, new, now_ns, _examples(tree, nodes))
        # What was taken before belongs to it; of this commit that is to be seen.
        earlier = Rev(0) if first_rev(new) == rev else first_rev(new)
        event = replace(event, from_rev=earlier, to_rev=earlier)
        without = replace(new, removed=new.removed - counts[0], overwritten=new.overwritten - counts[1])
        kept = new if may_go_on else without
        event_rows.put_burst(session, row.space, user, device, replace(kept, event=event.event))
        event_rows.drop_events(session, row.space, event.event - EVENTS_KEPT)
    elif may_go_on:
        event = replace(event, removed=event.removed + counts[0], overwritten=event.overwritten + counts[1])
    if may_go_on:
        state = TOLD if event.state == HELD else event.state
        now = replace(event, state=state, ended_ns=now_ns, from_rev=event.from_rev or rev, to_rev=rev)
        event_rows.put_event(session, row.space, now)
        watch.event = now if begins else None
        return None
    taken = taken_before(session, row.space, event)
    removed = max(event.removed, taken[0] + counts[0])
    overwritten = max(event.overwritten, taken[1] + counts[1])
    held = replace(event, state=HELD, ended_ns=now_ns, removed=removed, overwritten=overwritten)
    event_rows.put_event(session, row.space, held)
    watch.event = held if begins else None
    before = _TAKEN.format(count=sum(taken)) if sum(taken) else ""
    return Held(nodes, _HELD_REASON.format(count=guard.count, space=row.name, taken=before))


def taken_before(session: Session, space: SpaceId, event: EventRow) -> tuple[int, int]:
    """How much was removed and overwritten before the rest of an event was held."""
    burst = event_rows.burst(session, space, event.user, event.device)
    return total(burst) if burst is not None and burst.event == event.event else (0, 0)


def _is_over(event: EventRow, now_ns: int, window_ns: int) -> bool:
    """Whether what comes now is no part of the event any more."""
    if event.state == ALLOWED:
        return now_ns >= event.until_ns
    return event.state not in (TOLD, HELD) or (event.state == TOLD and now_ns - event.ended_ns >= window_ns)


def _begun(session: Session, space: SpaceId, device: Device, burst: BurstRow, now_ns: int, examples: bytes) -> EventRow:
    return EventRow(
        event=event_rows.next_event(session, space),
        kind=MASS_CHANGE,
        state=TOLD,
        user=device.user,
        device=device.device,
        began_ns=burst.began_ns,
        ended_ns=now_ns,
        from_rev=Rev(0),
        to_rev=Rev(0),
        removed=total(burst)[0],
        overwritten=total(burst)[1],
        examples=examples,
    )


def _may_lose(tree: Tree, step: Step) -> bool:
    """Whether the change takes content away from the present."""
    change = step.change
    if change.is_touch or change.is_conflict:
        return False
    present = tree.row(change.node)
    if present is None or present.state is None or present.kind == Kind.FOLDER:
        return False
    return change.state is None or (step.content_id != present.content_id and present.size > 0)


def _losses(
    session: Session, space: SpaceId, tree: Tree, steps: Sequence[Step], candidates: Sequence[Step], settled_ns: int
) -> Losses:
    bound = space_rows.last_commit_at(session, space, settled_ns)
    losses = Losses()
    if bound is None:
        return losses
    heirs = _heirs(tree, steps) if any(step.change.state is None for step in candidates) else {}
    for step in candidates:
        node = step.change.node
        if not _is_settled(session, space, tree, node, bound[0]):
            continue
        heir = next((heirs[name] for name in tree.names(node) if name in heirs), None)
        content_id = step.content_id if step.change.state is not None or heir is None else heir.content_id
        if content_id is not None and event_rows.had_content(session, space, node, content_id):
            continue
        if step.change.state is None and heir is None:
            losses.removed.append(node)
        else:
            losses.overwritten.append(node)
    return losses


def _removed_folders(tree: Tree, steps: Sequence[Step]) -> list[NodeId]:
    removed = [step.change.node for step in steps if step.change.state is None]
    return [node for node in removed if (row := tree.row(node)) is not None and row.kind == Kind.FOLDER]


def _heirs(tree: Tree, steps: Sequence[Step]) -> Mapping[Name, Step]:
    """Who gets a name with this commit: what a save by rename puts in the place of a file overwrites it."""
    return {
        name: step
        for step in steps
        if step.change.state is not None and step.change.state.kind == Kind.FILE and not step.change.is_conflict
        for name in step.change.state.names
        if name not in tree.names(step.change.node)
    }


def _is_settled(session: Session, space: SpaceId, tree: Tree, node: NodeId, bound: Rev) -> bool:
    """Whether the node had its present content as of this rev, whatever else of it changed since."""
    present = tree.row(node)
    if present is None or present.rev <= bound:
        return present is not None
    was = past_rows.then(session, space, node, bound)
    return was is not None and was.state is not None and was.content_id == present.content_id


def _examples(tree: Tree, nodes: Sequence[NodeId]) -> bytes:
    """Paths of the first of these nodes, encoded."""
    return msgspec.msgpack.encode([_path(tree, names[0]) for node in nodes[:_EXAMPLES] if (names := tree.names(node))])


def _path(tree: Tree, name: Name) -> bytes:
    parts, folder = [name.name], name.parent
    while folder != ROOT and len(parts) < _DEPTH_MAX:
        row = tree.row(folder)
        if row is None or row.state is None:
            break
        above = decode_state(row.state).names[0]
        parts.append(above.name)
        folder = above.parent
    return b"/".join(reversed(parts))
