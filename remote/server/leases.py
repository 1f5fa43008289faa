"""Leases: how much of a space's quota each device may fill without asking, so that one that is away can be believed.

Together they never promise more than the quota leaves: all of this runs in transactions that write, one after the
other.
"""

from dataclasses import replace
from typing import Final

from remote.protocol.ids import DeviceId, SpaceId
from remote.protocol.messages import Holding, Room
from remote.server.database import leases as lease_rows
from remote.server.database.connection import Session
from remote.server.database.leases import HoldingRow
from remote.server.database.spaces import SpaceRow

LEASE_NS: Final = 7 * 86_400 * 10**9
"""So long after it was heard last a device's lease is kept for it."""
_NOTED_NS: Final = 86_400 * 10**9
"""That it was heard is noted once in so long: to be heard is to write nothing."""


def heard(session: Session, space: SpaceRow, device: DeviceId, holding: Holding, now_ns: int) -> None:
    """The device holds itself to this: the rest of its lease is free for others."""
    held = _held(session, space.space, now_ns)
    own = held.get(device)
    if own is None:
        # Its own was over: it gets back what is left of it.
        lease = min(holding.lease, _left(space, held, device))
        lease_rows.put_holding(session, space.space, HoldingRow(device, lease, holding.serial, now_ns + LEASE_NS))
    elif holding.serial > own.serial:
        own = replace(own, lease=min(own.lease, holding.lease), serial=holding.serial)
        lease_rows.put_holding(session, space.space, own)


def room(session: Session, space: SpaceRow, device: DeviceId, wanted: int, free_bytes: int, now_ns: int) -> Room:
    """What there is room for, with the device's lease from now on: its share, what it holds, or what it wants."""
    held = _held(session, space.space, now_ns)
    left = _left(space, held, device)
    own = held.get(device) or HoldingRow(device, 0, 0, 0)
    # One share stays free, for a device that comes.
    share = max(0, space.quota - space.used) // (len({*held, device}) + 1)
    lease = min(left, max(own.lease, share, wanted))
    if lease != own.lease or own.until_ns < now_ns + LEASE_NS - _NOTED_NS:
        own = replace(own, lease=lease, until_ns=now_ns + LEASE_NS)
        lease_rows.put_holding(session, space.space, own)
    return Room(space.head, space.quota, space.used, free_bytes, left, lease, min(left, share), own.serial)


def reserved(session: Session, space: SpaceId, device: DeviceId, now_ns: int) -> int:
    """Bytes that are kept for other devices than this one."""
    return sum(row.lease for row in lease_rows.holdings(session, space, now_ns) if row.device != device)


def took(session: Session, space: SpaceId, device: DeviceId, growth: int, now_ns: int) -> None:
    """The device's commit made the space larger by so much: its lease is used up by that, or it freed as much."""
    own = _held(session, space, now_ns).get(device)
    if own is not None and growth:
        lease_rows.put_holding(session, space, replace(own, lease=max(0, own.lease - growth)))


def _held(session: Session, space: SpaceId, now_ns: int) -> dict[DeviceId, HoldingRow]:
    return {row.device: row for row in lease_rows.holdings(session, space, now_ns)}


def _left(space: SpaceRow, held: dict[DeviceId, HoldingRow], device: DeviceId) -> int:
    others = sum(row.lease for row in held.values() if row.device != device)
    return max(0, space.quota - space.used - others)
