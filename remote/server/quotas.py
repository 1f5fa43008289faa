"""Quotas: what a space may still grow by. A shared space counts for the home of its owner, beside what is in that.

Older versions count where that is set: each content that a file had and has no more with its size, whatever it shares.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.server.database import retention as retention_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.keys import SpaceKey
from remote.server.past import Past


def bounded(session: Session, row: SpaceRow) -> SpaceRow:
    """The space with `used` and `quota` as they bound it, so that their difference is what is left.

    Of a home `used` is that with what it pays for; of a shared space `quota` is what is in it and what its owner has
    left: how much else he stores is no matter of other members.
    """
    if not row.payer:
        return replace(row, used=row.used + row.shared_used)
    home = space_rows.space_row(session, row.payer)
    if home is None or not home.quota:
        return replace(row, quota=0)
    left = max(0, home.quota - home.used - home.shared_used)
    # A quota of 0 would be none.
    return replace(row, quota=max(1, row.used + left))


def together(session: Session, row: SpaceRow) -> list[SpaceId]:
    """All spaces that share the quota of this one, itself among them."""
    home = row.payer or row.space
    return [home, *space_rows.paid_by(session, home)]


def count_past(session: Session, row: SpaceRow, key: SpaceKey, *, counts_past: bool) -> None:
    """Lets older versions count in what the space uses, or no more; whoever pays for it does so from now on."""
    if bool(row.counts_past) == counts_past:
        return
    if counts_past:
        retention_rows.put_past_bytes(session, row.space, _past_sizes(session, row, key))
    growth = retention_rows.all_past_bytes(session, row.space)
    space_rows.set_counts_past(session, row.space, counts_past=counts_past)
    _grow(session, row, growth if counts_past else -growth)


def let_go(session: Session, space: SpaceId, versions: Iterable[tuple[Rev, int]]) -> None:
    """These versions (rev, ordinal) are about to be forgotten: they count no more."""
    row = space_rows.space_row(session, space)
    if row is not None and row.counts_past:
        _grow(session, row, -retention_rows.past_bytes(session, space, versions))


def _grow(session: Session, row: SpaceRow, growth: int) -> None:
    space_rows.grow(session, row.space, growth)
    if row.payer and row.space in space_rows.paid_by(session, row.payer):
        space_rows.pay_anyway(session, row.payer, growth)


def _past_sizes(session: Session, row: SpaceRow, key: SpaceKey) -> list[tuple[int, Rev, int]]:
    """(bytes, rev, ordinal) of versions that count: of each content of a node the last, but of what it has now."""
    past = Past(session, row.space, key, Rev(0))
    found: list[tuple[int, Rev, int]] = []
    for node, versions in groupby(retention_rows.every_version(session, row.space), itemgetter(0)):
        last: dict[bytes, tuple[Rev, int]] = {}
        current: bytes | None = None
        for _, rev, ordinal, mark, content_id in versions:
            if content_id is not None:
                last[content_id] = (rev, ordinal)
            if mark != trees.LOST:
                # What moved to another space is no past: it is counted there.
                current = current if content_id is None and _has_moved(session, row.space, node) else content_id
        found += [(past.content_size(one), *where) for one, where in last.items() if one != current]
    return found


def _has_moved(session: Session, space: SpaceId, node: NodeId) -> bool:
    row = trees.node_row(session, space, node)
    return row is not None and row.state is None and bool(row.parent)
