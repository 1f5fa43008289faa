"""Times as people write them: ISO 8601 with or without colons; the same for both sides. Pure."""

import re
from datetime import UTC, datetime
from typing import Final

SECOND_NS: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * SECOND_NS
_PATTERN: Final = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T _](\d\d)[.:]?(\d\d)(?:[.:]?(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"\s?(Z|UTC|[+-]\d\d[.:]?\d\d)?"
)


def span(text: str) -> tuple[int, int]:
    """The beginning in ns of what an ISO 8601 text means, UTC unless it says otherwise, and how long it is.

    With seconds it is that second (or the fraction given), a date alone is that day. Raises ValueError.
    """
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time. Write it like 2026-11-21T10:15:30Z.")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC
        )
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: {error}.") from None
    time_ns = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * SECOND_NS
    if zone and zone not in ("Z", "UTC"):
        digits = zone[1:].replace(":", "").replace(".", "")
        offset = int(digits[:2]) * 3_600 + int(digits[2:]) * 60
        time_ns -= offset * SECOND_NS * (1 if zone[0] == "+" else -1)
    if fraction:
        return time_ns + int(fraction.ljust(9, "0")), int(10 ** (9 - len(fraction)))
    return time_ns, SECOND_NS if second else 0 if hour else _DAY_NS


def last_of(text: str) -> int:
    """The last ns of what a text means: what happened within it is in. Raises ValueError."""
    first_ns, length_ns = span(text)
    return first_ns + max(0, length_ns - 1)


def iso(time_ns: int) -> str:
    """The moment as programs read it: ISO 8601, UTC, with colons."""
    return f"{datetime.fromtimestamp(time_ns // SECOND_NS, UTC):%Y-%m-%dT%H:%M:%SZ}"
