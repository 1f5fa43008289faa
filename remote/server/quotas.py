"""Quotas: what a space may still grow by. A shared space counts for the home of its owner, beside what is in that."""

from dataclasses import replace

from remote.protocol.ids import SpaceId
from remote.server.database import spaces as space_rows
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow


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
