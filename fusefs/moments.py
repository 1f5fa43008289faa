"""Moments: names for points in time, and which of many are worth listing. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from fusefs.errors import Invalid
from remote.protocol import times
from remote.protocol.messages import Moment

_SECOND: Final = 1_000_000_000
STEPS: Final = ((600, 0), (3_600, 15), (86_400, 600), (30 * 86_400, 3_600), (365 * 86_400, 86_400), (1 << 40, 604_800))
"""Which moments are listed: of those younger than so many seconds, the last of each so many seconds; 0: all."""


def parse(text: str) -> int:
    """The time in ns that an ISO 8601 text means, with or without colons; UTC unless it says otherwise.

    A text with seconds means the end of that second (or of the fraction given), a date alone the end of that day: what
    happened within it is in. Raises Invalid.
    """
    try:
        return times.last_of(text)
    except ValueError as error:
        raise Invalid(str(error)) from None


def span(text: str) -> tuple[int, int]:
    """The beginning in ns of what an ISO 8601 text means, and how long it is; raises Invalid."""
    try:
        return times.span(text)
    except ValueError as error:
        raise Invalid(str(error)) from None


def name(time_ns: int, *, milliseconds: bool = False) -> str:
    """The name of a moment: UTC, without colons, so that names sort and suit every tool."""
    moment = datetime.fromtimestamp(time_ns // _SECOND, UTC)
    fraction = f".{time_ns // 1_000_000 % 1_000:03d}" if milliseconds else ""
    return f"{moment:%Y-%m-%dT%H.%M.%S}{fraction}Z"


def iso(time_ns: int) -> str:
    """The moment as programs read it: ISO 8601, UTC, with colons."""
    return times.iso(time_ns)


def shown(moments: Sequence[Moment]) -> list[tuple[str, Moment]]:
    """The moments, newest first, each with a name that `parse` leads back to the same rev.

    Of several within one second the last has the plain name, the others show milliseconds.
    """
    found: list[tuple[str, Moment]] = []
    names: set[str] = set()
    for moment in moments:
        label = name(moment.time_ns)
        if label in names:
            label = name(moment.time_ns, milliseconds=True)
        if label not in names:
            names.add(label)
            found.append((label, moment))
    return found
