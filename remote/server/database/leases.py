"""Statements on what devices hold of the quotas of spaces (keyed by space)."""

from collections.abc import Iterable
from dataclasses import dataclass

from remote.protocol.ids import DeviceId, SpaceId
from remote.server.database.connection import Session


@dataclass(frozen=True)
class HoldingRow:
    """`lease` bytes are kept for the device until then; `serial` as in messages.Holding."""

    device: DeviceId
    lease: int
    serial: int
    until_ns: int


def holdings(session: Session, space: SpaceId, now_ns: int) -> list[HoldingRow]:
    """Those that are not over."""
    found = session.rows(
        "SELECT device_id, lease, serial, until_ns FROM holding WHERE space_id = ? AND until_ns > ?", space, now_ns
    )
    return [HoldingRow(*row) for row in found]


def holding(session: Session, space: SpaceId, device: DeviceId, now_ns: int) -> HoldingRow | None:
    """That of one device, unless it is over."""
    found = session.row(
        "SELECT lease, serial, until_ns FROM holding WHERE space_id = ? AND device_id = ? AND until_ns > ?",
        space,
        device,
        now_ns,
    )
    return HoldingRow(device, *found) if found else None


def put_holding(session: Session, space: SpaceId, row: HoldingRow) -> None:
    """Writes one device's, over an older one."""
    session.run(
        "INSERT INTO holding (space_id, device_id, lease, serial, until_ns) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id, device_id) DO UPDATE SET"
        " lease = excluded.lease, serial = excluded.serial, until_ns = excluded.until_ns",
        space,
        row.device,
        row.lease,
        row.serial,
        row.until_ns,
    )


def end_holdings(session: Session, spaces: Iterable[SpaceId], device: DeviceId) -> None:
    """The device is gone: what it held is free."""
    for space in spaces:
        session.run("DELETE FROM holding WHERE space_id = ? AND device_id = ?", space, device)
