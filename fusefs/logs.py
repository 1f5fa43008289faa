"""Logs: one line for each event, in a file of bounded size or on standard error; no contents, no tokens."""

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Final

_BYTES: Final = 5 << 20
_UNSHOWN: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n"}
"""Control characters, in names that others gave: the log is read in a terminal."""
_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"


class _Rotating(logging.handlers.RotatingFileHandler):
    """Also takes along what goes past logging: whatever a library writes to standard output and error."""

    def doRollover(self) -> None:  # noqa: N802 - the name is the standard library's
        super().doRollover()
        self.take_along()

    def take_along(self) -> None:
        """Points standard output and error to the current file."""
        if self.stream is not None:
            for fd in (1, 2):
                os.dup2(self.stream.fileno(), fd)


class _OneLine(logging.Formatter):
    """One line for each event, whatever a name in it holds; only a traceback takes more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the standard library's
        return super().formatMessage(record).translate(_UNSHOWN)


def begin(file: Path | None) -> None:
    """Logs to this file and one older one, or (None) to standard error."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = _Rotating(file, maxBytes=_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace")
        handler.take_along()
    formatter = _OneLine(_FORMAT, "%Y-%m-%dT%H:%M:%S")
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # These tell of every request, with its address.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
