"""Moments: names for points in time, and which of many are worth listing. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from fusefs.errors import Invalid
from remote.protocol.messages import Moment

_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400 * _SECOND
_PATTERN: Final = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T _](\d\d)[.:]?(\d\d)(?:[.:]?(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"\s?(Z|UTC|[+-]\d\d[.:]?\d\d)?"
)
STEPS: Final = ((600, 0), (3_600, 15), (86_400, 600), (30 * 86_400, 3_600), (365 * 86_400, 86_400), (1 << 40, 604_800))
"""Which moments are listed: of those younger than so many seconds, the last of each so many seconds; 0: all."""


def parse(text: str) -> int:
    """The time in ns that an ISO 8601 text means, with or without colons; UTC unless it says otherwise.

    A text with seconds means the end of that second (or of the fraction given), a date alone the end of that day: what
    happened within it is in. Raises Invalid.
    """
    first_ns, length_ns = span(text)
    return first_ns + max(0, length_ns - 1)


def span(text: str) -> tuple[int, int]:
    """The beginning in ns of what an ISO 8601 text means, and how long it is; raises Invalid."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise Invalid(f"{text!r} is no time. Write it like 2026-11-21T10:15:30Z.")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC
        )
    except ValueError as error:
        raise Invalid(f"{text!r} is no time: {error}.") from None
    time_ns = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * _SECOND
    if zone and zone not in ("Z", "UTC"):
        digits = zone[1:].replace(":", "").replace(".", "")
        offset = int(digits[:2]) * 3_600 + int(digits[2:]) * 60
        time_ns -= offset * _SECOND * (1 if zone[0] == "+" else -1)
    if fraction:
        return time_ns + int(fraction.ljust(9, "0")), int(10 ** (9 - len(fraction)))
    return time_ns, _SECOND if second else 0 if hour else _DAY


def name(time_ns: int, *, milliseconds: bool = False) -> str:
    """The name of a moment: UTC, without colons, so that names sort and suit every tool."""
    moment = datetime.fromtimestamp(time_ns // _SECOND, UTC)
    fraction = f".{time_ns // 1_000_000 % 1_000:03d}" if milliseconds else ""
    return f"{moment:%Y-%m-%dT%H.%M.%S}{fraction}Z"


def iso(time_ns: int) -> str:
    """The moment as programs read it: ISO 8601, UTC, with colons."""
    return f"{datetime.fromtimestamp(time_ns // _SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"


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
