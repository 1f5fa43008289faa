"""Quotas: what a space may still grow by. A shared space counts for the home of its owner, beside what is in that.

Older versions count where that is set: each content that a file had and has no more with its size, whatever it shares.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from remote.protocol.ids import NodeId, Rev, SpaceId, UserId
from remote.server.database import retention as retention_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database import upkeep as upkeep_rows
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.keys import SpaceKey
from remote.server.past import Past

_NODES_AT_ONCE: Final = 1_000


NEARLY_PERCENT = 90
"""From here on who pays is told that there is not much room left."""


def nearly_full(session: Session, row: SpaceRow) -> tuple[UserId, str] | None:
    """Who pays for the space and the name of his home, when that is nearly full."""
    home = space_rows.space_row(session, row.payer) if row.payer else row
    if home is None or not home.quota or (home.used + home.shared_used) * 100 < home.quota * NEARLY_PERCENT:
        return None
    owner = space_rows.owner_id(session, home.space)
    return (owner, home.name) if owner is not None else None


def bounded(session: Session, row: SpaceRow) -> SpaceRow:
    """The space with `used` and `quota` as they bound it, so that their difference is what is left.

    Of a home `used` is that with what it pays for; of a shared space `quota` is what is in it and what its owner has
    left, or what he bounds it to when that is less: how much else he stores is no matter of other members.
    """
    if not row.payer:
        return replace(row, used=row.used + row.shared_used)
    home = space_rows.space_row(session, row.payer)
    if home is None or not home.quota:
        return replace(row, limit=row.quota)
    left = max(0, home.quota - home.used - home.shared_used)
    # A quota of 0 would be none.
    quota = max(1, row.used + left)
    return replace(row, quota=min(quota, row.quota or quota), limit=row.quota, paid_left=left)


def together(session: Session, row: SpaceRow) -> list[SpaceId]:
    """All spaces that share the quota of this one, itself among them."""
    home = row.payer or row.space
    return [home, *space_rows.paid_by(session, home)]


def count_past(session: Session, row: SpaceRow, key: SpaceKey, *, counts_past: bool) -> None:
    """Lets older versions count in what the space uses, or no more; whoever pays for it does so from now on."""
    if bool(row.counts_past) == counts_past:
        return
    growth = 0
    for node in _nodes(session, row.space):
        if counts_past:
            sizes = _past_sizes(session, row, key, node)
            retention_rows.put_past_bytes(session, row.space, sizes)
            growth += sum(size for size, _, _ in sizes)
        else:
            growth -= retention_rows.end_past_bytes(session, row.space, node)
    space_rows.set_counts_past(session, row.space, counts_past=counts_past)
    _grow(session, row, growth)


def let_go(session: Session, space: SpaceId, versions: Iterable[tuple[Rev, int]]) -> None:
    """These versions (rev, ordinal) are about to be forgotten: they count no more."""
    row = space_rows.space_row(session, space)
    if row is not None and row.counts_past:
        _grow(session, row, -retention_rows.past_bytes(session, space, versions))


def _grow(session: Session, row: SpaceRow, growth: int) -> None:
    space_rows.grow(session, row.space, growth)
    if row.payer and row.space in space_rows.paid_by(session, row.payer):
        space_rows.pay_anyway(session, row.payer, growth)


def _nodes(session: Session, space: SpaceId) -> Iterator[NodeId]:
    after = 0
    while found := upkeep_rows.nodes_after(session, space, after, _NODES_AT_ONCE):
        yield from (node for node, _ in found)
        after = found[-1][0]


def _past_sizes(session: Session, row: SpaceRow, key: SpaceKey, node: NodeId) -> list[tuple[int, Rev, int]]:
    """(bytes, rev, ordinal) of a node's versions that count: of each content the last, but of what it has now."""
    past = Past(session, row.space, key, Rev(0))
    last: dict[bytes, tuple[Rev, int]] = {}
    current: bytes | None = None
    for rev, ordinal, mark, content_id, _ in retention_rows.versions_of(session, row.space, node):
        if content_id is not None:
            last[content_id] = (rev, ordinal)
        if mark != trees.LOST and (content_id is not None or not _has_moved(session, row.space, node)):
            # What moved to another space is no past: it is counted there.
            current = content_id
    return [(past.content_size(one), *where) for one, where in last.items() if one != current]


def _has_moved(session: Session, space: SpaceId, node: NodeId) -> bool:
    row = trees.node_row(session, space, node)
    return row is not None and row.state is None and bool(row.parent)
