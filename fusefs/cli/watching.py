"""Watching: what `satchel status --watch` draws again and again: is the work safe, what goes up, how far, how fast.

The only module that speaks rich.
"""

import json
import threading
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fusefs.cli.asking import ask
from fusefs.cli.showing import shown
from fusefs.cli.standing import FILES_SHOWN, told
from remote.protocol.sizes import shown_size

_SECONDS: Final = 0.5


def watch(*, as_json: bool) -> None:
    """Draws the status until it is interrupted, or until the daemon ends; as JSON, one line each time it is another."""
    pause = threading.Event()
    if as_json:
        last = ""
        while True:
            line = json.dumps(ask("status", files=FILES_SHOWN))
            if line != last:
                print(line, flush=True)
            last = line
            pause.wait(_SECONDS)
    console = Console()
    if not console.is_terminal:
        lines: list[str] = []
        while True:
            found = told(ask("status", files=FILES_SHOWN))
            if found != lines:
                print("\n".join(found), flush=True)
            lines = found
            pause.wait(_SECONDS)
    with Live(drawn(ask("status", files=FILES_SHOWN)), console=console, auto_refresh=False) as live:
        while True:
            pause.wait(_SECONDS)
            live.update(drawn(ask("status", files=FILES_SHOWN)), refresh=True)


def drawn(found: dict[str, Any]) -> RenderableType:
    """The lines of `status`, with a bar for each file that is on its way."""
    first, *rest = told(found, with_files=False)
    is_safe = not found["pending"]["count"]
    parts: list[RenderableType] = [Text(first, style="bold green" if is_safe else "bold yellow")]
    parts += [Text(line, style="red" if line.startswith("  Issue") else "") for line in rest]
    files = Table.grid(padding=(0, 1))
    for column in ("right", "left", "right"):
        files.add_column(justify="left" if column == "left" else "right", no_wrap=True, overflow="ellipsis")
    for file in found["pending"]["files"]:
        bar = ProgressBar(total=max(1, file["bytes"]), completed=file["sent_bytes"], width=24)
        files.add_row(shown_size(file["bytes"]), bar, Text(shown(file["path"]), overflow="ellipsis"))
    more = found["pending"]["count"] - len(found["pending"]["files"])
    parts.append(Padding(files, (0, 0, 0, 10)))
    if more > 0:
        parts.append(Text(f"          and {more} more", style="dim"))
    return Group(*parts)
