"""Sizes as people write them; the same for both sides."""

import re
from typing import Final

_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def size_of(text: str) -> int:
    """Bytes of a size such as "1073741824", "20G" or "500 MB" (all units are binary); raises ValueError."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size")
    return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))
