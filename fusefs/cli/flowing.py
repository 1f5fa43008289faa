"""Flowing: limits of speed, pause and resume, as a person says them."""

import re
from typing import Final

from fusefs.cli.asking import ask
from fusefs.cli.standing import told_limits
from fusefs.control import SECONDS_MOST, Exit, Refused
from fusefs.settings import size_bytes

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def limit(up: str | None, down: str | None) -> None:
    """Sets the limits that are given, and prints what they are."""
    found = ask("limit", up=_rate(up, "--up"), down=_rate(down, "--down"))
    print("\n".join(f"{line[0].upper()}{line[1:]}." for line in told_limits(found["limits"])) or "There are no limits.")


def pause(duration: str | None) -> None:
    """Pauses for so long, or until `resume`."""
    found = ask("pause", duration=None if duration is None else seconds_of(duration))
    print(found["paused"]["reason"])


def resume() -> None:
    """Ends a pause."""
    ask("resume")
    print("Sending goes on.")


def _rate(text: str | None, name: str) -> int | None:
    try:
        return None if text is None else size_bytes(text.removesuffix("/s"), name)
    except Refused as refused:
        raise Refused(str(refused), Exit.USAGE) from None


def seconds_of(text: str) -> float:
    """Seconds of a time as people write it: 90s, 30m, 2h, 1h30m; raises Refused."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if not parts or re.sub(r"\d+(?:\.\d+)?\s*[smhd]", "", text).strip():
        raise Refused(f"{text!r} is no length of time. Write it like 90s, 30m, 2h, 1h30m or 7d.", Exit.USAGE)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > SECONDS_MOST:
        raise Refused(f"{text!r} is too long: the most is {SECONDS_MOST // 86_400:,} days.", Exit.USAGE)
    return seconds
