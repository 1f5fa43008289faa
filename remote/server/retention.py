"""Retention: how much of the past a space keeps, and how it is thinned; and forgetting parts of it at once.

Everything younger than `all_days` is kept. Of what is older the last rev of each hour, day or week stands for that
time: the table `kept` has those revs, and at each of them everything reads as it was. The newest of them is the space's
`floor`: the journal answers no cursor before it. A version that is the state of its node at no kept rev is dropped, and
so is a manifest that no version names: then nothing reaches the chunks that only it named, and the collector of
garbage takes them. A manifest that is in its table is to be kept, with all that it names.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec

from remote.protocol.errors import BadRequest, NotFound
from remote.protocol.history import TRASH_MAX, Purged, PurgeRequest, Retention, RetentionTold
from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind
from remote.server.database import accounts as account_rows
from remote.server.database import conflicts as conflict_rows
from remote.server.database import past as past_rows
from remote.server.database import retention as rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.connection import Row, Session
from remote.server.database.spaces import SpaceRow
from remote.server.keys import SpaceKey
from remote.server.limits import check_count, check_node
from remote.server.past import Past
from remote.server.quotas import let_go
from remote.server.states import decode_state
from remote.server.thinning import SECOND_NS, Found, thinned
from remote.server.trash import Bin

DAY: Final = 86_400
DAYS_MAX: Final = 36_500
KEPT_MAX: Final = 100_000
_FOR_EVER: Final = 1 << 40
CLOCK_GAP_DAYS: Final = 2
"""A clock that moved on further than this between two looks was not watched, or was set."""
CLOCK_STEADY_DAYS: Final = 7
"""So long the clock must have gone as clocks do before anything of the past is let go."""
_STEADY_NS: Final = CLOCK_STEADY_DAYS * DAY * SECOND_NS
_CLOCK: Final = "clock"


def is_clock_steady(session: Session, now_ns: int) -> bool:
    """Notes what the clock says; whether it has gone on without a leap long enough for history to be thinned by it.

    A server whose clock is set years ahead would let go of all its history at once. So after any leap (also after
    days in which no server ran, which looks the same) nothing is thinned for CLOCK_STEADY_DAYS.
    """
    since_ns = _clock_since(session, now_ns)
    said = b"%d %d" % (since_ns, now_ns)
    if account_rows.setting(session, _CLOCK) is None:
        account_rows.put_setting(session, _CLOCK, said)
    else:
        account_rows.replace_setting(session, _CLOCK, said)
    return now_ns >= since_ns + _STEADY_NS


def waits_until(session: Session, now_ns: int) -> int:
    """Until when nothing of the past is let go, as the clock cannot be relied on; 0 when it can."""
    until_ns = _clock_since(session, now_ns) + _STEADY_NS
    return until_ns if now_ns < until_ns else 0


def _clock_since(session: Session, now_ns: int) -> int:
    """Since when the clock has gone on without a leap."""
    stored = account_rows.setting(session, _CLOCK)
    since_ns, last_ns = map(int, stored.split()) if stored is not None else (now_ns, now_ns)
    return since_ns if 0 <= now_ns - last_ns <= CLOCK_GAP_DAYS * DAY * SECOND_NS else now_ns


def check_retention(retention: Retention) -> None:
    """Raises BadRequest for numbers that mean nothing."""
    for name in ("all_days", "hourly_days", "daily_days"):
        if not 0 <= getattr(retention, name) <= DAYS_MAX:
            raise BadRequest(f"{name} is {getattr(retention, name)}; it must be from 0 to {DAYS_MAX}.")


def retention_of(session: Session, space: SpaceId) -> Retention:
    """What the space keeps."""
    found = rows.retention(session, space)
    return Retention(*found) if found is not None else Retention()


def told_retention(session: Session, space: SpaceId, now_ns: int) -> RetentionTold:
    """What the space keeps, and from when on that is acted on."""
    return RetentionTold(
        **msgspec.structs.asdict(retention_of(session, space)), not_before_ns=waits_until(session, now_ns)
    )


def steps_of(retention: Retention) -> tuple[tuple[int, int], ...]:
    """(age, step) in seconds, behind `all_days`: see thinning."""
    found: list[tuple[int, int]] = []
    least = retention.all_days
    for days, step in ((retention.hourly_days, 3_600), (retention.daily_days, DAY)):
        if days > least:
            found.append((days * DAY, step))
            least = days
    if retention.for_ever:
        found.append((_FOR_EVER, 7 * DAY))
    return tuple(found)


@dataclass(frozen=True)
class Thinning:
    """What is to be done, each part in a transaction of its own: revs that are kept no more, and those that are new."""

    dropped: tuple[Rev, ...]
    added: tuple[Rev, ...]


def plan_thinning(session: Session, row: SpaceRow, now_ns: int) -> Thinning:
    """What the space's retention asks for now; the parts of it are done oldest first."""
    retention = retention_of(session, row.space)
    last = space_rows.last_commit_at(session, row.space, now_ns - retention.all_days * DAY * SECOND_NS - 1)
    kept = rows.kept(session, row.space)
    floor = max(row.floor if kept else Rev(0), last[0] if last is not None else Rev(0))
    if not floor:
        return Thinning((), ())
    old_floor = kept[-1] if kept else Rev(0)

    def newest(until: int, _: int) -> Iterator[Found]:
        until = min(until, floor)
        statement = rows.commit_until if until > old_floor else rows.kept_until
        found = statement(session, row.space, Rev(until))
        return iter(() if found is None else (found,))

    def last_before(time_ns: int) -> int:
        found = space_rows.last_commit_at(session, row.space, time_ns - 1)
        return found[0] if found is not None else 0

    keep = {floor, *(Rev(found[0]) for found in thinned(newest, last_before, steps_of(retention), now_ns, KEPT_MAX))}
    return Thinning(
        tuple(rev for rev in kept if rev not in keep), tuple(sorted(rev for rev in keep if rev > old_floor))
    )


def add_kept(session: Session, space: SpaceId, rev: Rev) -> None:
    """From now on this rev stands for the time since the kept one before it."""
    before = rows.kept_until(session, space, Rev(rev - 1))
    rows.keep(session, space, rev)
    _thin(session, space, Rev(before[0]) if before is not None else Rev(0), rev)


def drop_kept(session: Session, space: SpaceId, rev: Rev) -> None:
    """This rev stands for no time any more; the next one does."""
    before, after = (
        rows.kept_until(session, space, Rev(rev - 1)),
        rows.kept_from(session, space, Rev(rev + 1)),
    )
    rows.unkeep(session, space, rev)
    if after is not None:
        _thin(session, space, Rev(before[0]) if before is not None else Rev(0), Rev(after[0]))


def _thin(session: Session, space: SpaceId, since: Rev, to: Rev) -> None:
    """Of versions with since < rev <= to the last one of each node stays: the others are seen at no kept rev."""
    dropped: list[tuple[Rev, int]] = []
    contents: set[bytes] = set()
    parents: set[NodeId] = set()
    gone: list[tuple[NodeId, Rev]] = []
    for node, found in groupby(rows.versions_between(session, space, since, to), itemgetter(0)):
        versions = list(found)
        states = [version for version in versions if version[3] != trees.LOST]
        stays = states[-1] if states else None
        if stays is not None and stays[5] is None and not _existed(session, space, node, since):
            # It came and went between two kept revs.
            gone.append((node, stays[1]))
            stays = None
        for version in versions:
            if version[5] is not None:
                parents.update(name.parent for name in decode_state(version[5]).names)
            if version is stays or (version[3] != trees.WAS_STATE and rows.is_open(session, space, node, version[1])):
                continue
            dropped.append((version[1], version[2]))
            if version[4] is not None:
                contents.add(version[4])
    let_go(session, space, dropped)
    rows.drop_versions(session, space, dropped)
    rows.drop_names(session, space, sorted(parents), since, to)
    past_rows.forget_removed(session, space, gone)
    drop_unnamed(session, space, contents)


def _existed(session: Session, space: SpaceId, node: NodeId, rev: Rev) -> bool:
    then = past_rows.then(session, space, node, rev) if rev else None
    return then is not None and then.state is not None


def drop_unnamed(session: Session, space: SpaceId, contents: Iterable[bytes]) -> None:
    """Forgets those of these manifests that no version names any more."""
    for content_id in contents:
        if not rows.is_named(session, space, content_id):
            rows.drop_manifest(session, space, content_id)


@dataclass(frozen=True)
class Purging:
    """A node as it was when a purge was asked for: what comes later is none of its past. `head`: the space's rev."""

    node: NodeId
    rev: Rev
    is_removed: bool
    head: Rev


def nodes_to_purge(session: Session, row: SpaceRow, key: SpaceKey, request: PurgeRequest) -> list[Purging]:
    """Everything whose past a purge forgets; raises NotFound, TooLarge."""
    check_count("nodes", len(request.nodes), TRASH_MAX)
    bin_ = Bin(session, row, key)
    found: dict[NodeId, None] = {}
    if not request.nodes:
        for node, _ in past_rows.removed_before(session, row.space, request.before or row.head + 1, -1):
            found[node] = None
    for at, node in enumerate(request.nodes):
        check_node(f"nodes[{at}]", node)
        if trees.node_row(session, row.space, node) is None:
            raise NotFound(f"There never was such a file or folder in {row.name}.")
        gone = bin_.find(node)
        below = (one.node for one in bin_.with_all_in_it(gone)) if gone is not None else _below(session, row, node)
        found.update(dict.fromkeys(below))
    present = [there for node in found if (there := trees.node_row(session, row.space, node)) is not None]
    return [Purging(there.node, there.rev, there.state is None, row.head) for there in present]


def _below(session: Session, row: SpaceRow, top: NodeId) -> Iterator[NodeId]:
    """A node and all that is below it now."""
    waiting = [top]
    while waiting:
        node = waiting.pop()
        yield node
        present = trees.node_row(session, row.space, node)
        if present is not None and present.kind == Kind.FOLDER:
            waiting += trees.child_ids(session, row.space, node, -1)


def purge(session: Session, row: SpaceRow, key: SpaceKey, nodes: Iterable[Purging], *, is_dry_run: bool) -> Purged:
    """Forgets what these nodes were before now; of folders only that they were removed, as their names say little.

    Their versions stay as rows without anything in them, until they are thinned: a device that is behind hears of
    them as of removals.
    """
    now = Past(session, row.space, key, Rev(0))
    versions = count = size = 0
    for each in nodes:
        node, is_removed = each.node, each.is_removed
        present = trees.node_row(session, row.space, node)
        if present is None or (is_removed and present.rev != each.rev):
            # Somebody brought it back meanwhile.
            continue
        old = [
            version
            for version in rows.versions_of(session, row.space, node)
            if version[4] is not None
            and (version[0] < each.rev or (version[2] == trees.LOST and version[0] <= each.head))
        ]
        if present.kind == Kind.FOLDER:
            if is_removed and not is_dry_run:
                past_rows.forget_removed(session, row.space, [(node, present.rev)])
            continue
        versions += len(old)
        count += bool(old)
        size += sum(now.content_size(content) for content in {one[3] for one in old if one[3] is not None})
        if not is_dry_run:
            _forget(session, row.space, node, old)
            if is_removed:
                past_rows.forget_removed(session, row.space, [(node, present.rev)])
    return Purged(versions, count, size)


def _forget(session: Session, space: SpaceId, node: NodeId, old: list[Row]) -> None:
    forgotten = [(version[0], version[1]) for version in old]
    let_go(session, space, forgotten)
    rows.forget_versions(session, space, forgotten)
    conflict_rows.end_conflicts(session, space, [(node, version[0]) for version in old])
    for name in {name for version in old for name in decode_state(version[4]).names}:
        rows.forget_name(session, space, name.parent, name.name, node)
    drop_unnamed(session, space, {version[3] for version in old if version[3] is not None})
