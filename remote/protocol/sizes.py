"""Sizes as people write them; the same for both sides."""

import re
from typing import Final

_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
SIZE_MAX: Final = 1 << 60
"""More is a mistake, and would not fit where numbers of bytes are kept."""


def size_of(text: str) -> int:
    """Bytes of a size such as "1073741824", "20G" or "500 MB" (all units are binary); raises ValueError."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size")
    size = float(match[1]) * (1 << _UNITS[match[2].upper()])
    if size > SIZE_MAX:
        raise ValueError(f"{text!r} is more than there can be")
    return int(size)


def counted(number: int, noun: str) -> str:
    """So many of something, as a person reads it."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown_size(count: float) -> str:
    """Bytes as a person reads them, in the units that `size_of` takes: "12 bytes", "40.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        # Not "1024.0 KiB", which it would be when rounded.
        if count < (1024 if unit == "bytes" else 1023.95):
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
