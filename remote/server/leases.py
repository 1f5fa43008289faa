"""Leases: how much of a space's quota each device may fill without asking, so that one that is away can be believed.

Together they never promise more than the quota leaves: all of this runs in transactions that write, one after the
other. Spaces are given as `quotas.bounded` tells them; those that one home pays for share what it has left.
"""

from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from remote.protocol.ids import DeviceId, SpaceId
from remote.protocol.messages import Holding, Room
from remote.protocol.nodes import FILE_SIZE_MAX
from remote.server.database import leases as lease_rows
from remote.server.database.connection import Session
from remote.server.database.leases import HoldingRow
from remote.server.database.spaces import SpaceRow
from remote.server.quotas import together

Holder: TypeAlias = tuple[SpaceId, DeviceId]

LEASE_NS: Final = 7 * 86_400 * 10**9
"""So long after it was heard last a device's lease is kept for it."""
_NOTED_NS: Final = 86_400 * 10**9
"""That it was heard is noted once in so long: to be heard is to write nothing."""


def heard(session: Session, space: SpaceRow, device: DeviceId, holding: Holding, now_ns: int) -> None:
    """The device holds itself to this: the rest of its lease is free for others."""
    held = _held(session, space, device, now_ns)
    own = held.own
    if own is None:
        # Its own was over: it gets back what is left of it.
        lease = min(holding.lease, _left(space, held))
        lease_rows.put_holding(session, space.space, HoldingRow(device, lease, holding.serial, now_ns + LEASE_NS))
    elif holding.serial > own.serial:
        own = replace(own, lease=min(own.lease, holding.lease), serial=holding.serial)
        lease_rows.put_holding(session, space.space, own)


def room(
    session: Session,
    space: SpaceRow,
    device: DeviceId,
    wanted: int,
    free_bytes: int,
    now_ns: int,
    *,
    is_scarce: bool = False,
) -> Room:
    """What there is room for, with the device's lease from now on: its share, what it holds, or what it wants.

    `is_scarce`: somebody needs what is left, and there are no shares.
    """
    held = _held(session, space, device, now_ns)
    left = _left(space, held)
    own = held.own or HoldingRow(device, 0, 0, 0)
    # One share stays free, for a device that comes.
    share = 0 if is_scarce else max(0, space.quota - space.used) // (len(held.others) + 2)
    lease = min(left, max(own.lease, share, wanted))
    if lease != own.lease or own.until_ns < now_ns + LEASE_NS - _NOTED_NS:
        own = replace(own, lease=lease, until_ns=now_ns + LEASE_NS)
        lease_rows.put_holding(session, space.space, own)
    return Room(space.head, space.quota, space.used, free_bytes, left, lease, min(left, share), own.serial)


def elsewhere(session: Session, space: SpaceRow, device: DeviceId, now_ns: int) -> dict[Holder, int]:
    """What is kept for others, each of whom could let go of some."""
    return {one: lease for one, lease in _held(session, space, device, now_ns).others.items() if lease}


def most(space: SpaceRow) -> int:
    """What there is room for when nobody keeps anything."""
    return _left(space, _Held(None, {}))


def reserved(session: Session, space: SpaceRow, device: DeviceId, now_ns: int) -> tuple[int, int]:
    """Bytes that are kept for others than this device in this space: of all that pays for it, and of its own bound."""
    held = _held(session, space, device, now_ns)
    return held.reserved, held.reserved_in(space.space)


def took(session: Session, space: SpaceId, device: DeviceId, growth: int, now_ns: int) -> None:
    """The device's commit made the space larger by so much: its lease is used up by that, or it freed as much."""
    own = lease_rows.holding(session, space, device, now_ns)
    if own is not None and growth:
        lease_rows.put_holding(session, space, replace(own, lease=max(0, own.lease - growth)))


class _Held(NamedTuple):
    """The device's own lease in this space, and all others of what shares its quota."""

    own: HoldingRow | None
    others: dict[Holder, int]

    @property
    def reserved(self) -> int:
        return sum(self.others.values())

    def reserved_in(self, space: SpaceId) -> int:
        return sum(lease for (each, _), lease in self.others.items() if each == space)


def _held(session: Session, space: SpaceRow, device: DeviceId, now_ns: int) -> _Held:
    own: HoldingRow | None = None
    others: dict[Holder, int] = {}
    for each in together(session, space):
        for row in lease_rows.holdings(session, each, now_ns):
            if each == space.space and row.device == device:
                own = row
            else:
                others[each, row.device] = row.lease
    return _Held(own, others)


def _left(space: SpaceRow, held: _Held) -> int:
    if not space.payer:
        return max(0, space.quota - space.used - held.reserved)
    left = space.paid_left - held.reserved if space.paid_left < FILE_SIZE_MAX else FILE_SIZE_MAX
    if space.limit:
        left = min(left, space.limit - space.used - held.reserved_in(space.space))
    return max(0, left)
