"""Showing: names as a terminal may get them: others give them, and none may drive it."""

import os
import re
import shlex
from typing import Final

_UNSHOWN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines, what turns the direction of writing, and bytes that are no UTF-8."""


def shown(text: str) -> str:
    """One line of text in which what is not to be seen is written like `\\n`, `\\x1b`."""
    return _UNSHOWN.sub(_escape, text)


def word(text: str) -> str:
    """The same as one word of a shell's line, for commands that are printed to be copied."""
    return shlex.quote(shown(text))


def shown_lines(text: str) -> str:
    """The same for text that may have lines."""
    return "\n".join(shown(line) for line in text.split("\n"))


def in_option(mount: str, path: str) -> str:
    """What a command must be told of the shared folder at this path of the mount; nothing for the home."""
    return f" --in {word(os.path.join(mount, path))}" if path else ""


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    # So os.fsdecode writes a byte that is no UTF-8.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()
