"""The server's log: a line for each event on standard error, as text or as JSON; no secrets, no names of files."""

import json
import logging
import sys
import time
import traceback
from typing import Any


def begin(*, is_json: bool) -> None:
    """Logs warnings and errors; as JSON also a line for each request (see `http.requests`)."""
    if not is_json:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("satchel").setLevel(logging.INFO)


class JsonLine(logging.Formatter):
    """One line of JSON for each event, also of one with a traceback; `fields` of the record stand beside the others."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        # Any: what a field holds is its author's choice.
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info is not None and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)
