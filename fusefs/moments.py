"""Moments: names for points in time, and which of many are worth showing. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from fusefs.errors import Invalid
from remote.protocol.messages import Moment

_SECOND: Final = 1_000_000_000
_PATTERN: Final = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T _](\d\d)[.:]?(\d\d)(?:[.:]?(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"\s?(Z|UTC|[+-]\d\d[.:]?\d\d)?"
)
_KEPT: Final = ((timedelta(days=1), 0), (timedelta(days=30), 3_600), (timedelta(days=36_500), 86_400))
"""Moments younger than this are shown one for each so many seconds; 0: all."""
SHOWN_MAX: Final = 2_000


def parse(text: str) -> int:
    """The time in ns that an ISO 8601 text means, with or without colons; UTC unless it says otherwise.

    A text with seconds means the end of that second (or of the fraction given): what happened within it is in.
    Raises Invalid.
    """
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
        return time_ns + int(fraction.ljust(9, "0")) + int(10 ** (9 - len(fraction))) - 1
    return time_ns + (_SECOND - 1 if second else 0)


def name(time_ns: int, *, milliseconds: bool = False) -> str:
    """The name of a moment: UTC, without colons, so that names sort and suit every tool."""
    moment = datetime.fromtimestamp(time_ns // _SECOND, UTC)
    fraction = f".{time_ns // 1_000_000 % 1_000:03d}" if milliseconds else ""
    return f"{moment:%Y-%m-%dT%H.%M.%S}{fraction}Z"


def iso(time_ns: int) -> str:
    """The moment as programs read it: ISO 8601, UTC, with colons."""
    return f"{datetime.fromtimestamp(time_ns // _SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"


def shown(moments: Sequence[Moment], now_ns: int) -> list[tuple[str, Moment]]:
    """The moments to list, newest first, each with a name that `parse` leads back to the same rev.

    Thinned with age. Of several within one second the last has the plain name, the others show milliseconds.
    """
    found: list[tuple[str, Moment]] = []
    names: set[str] = set()
    last_slot: tuple[int, int] | None = None
    for moment in moments:
        age = timedelta(microseconds=max(0, now_ns - moment.time_ns) // 1_000)
        step = next((step for limit, step in _KEPT if age <= limit), _KEPT[-1][1])
        slot = (step, moment.time_ns // (step * _SECOND)) if step else None
        if slot is not None and slot == last_slot:
            continue
        last_slot = slot
        label = name(moment.time_ns)
        if label in names:
            label = name(moment.time_ns, milliseconds=True)
        if label in names:
            continue
        names.add(label)
        found.append((label, moment))
        if len(found) >= SHOWN_MAX:
            break
    return found
