"""Settling: edits that lost against others, and what is to be done about them."""

import json
import os
from typing import Any, Final

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.past import ANSWER_SECONDS
from fusefs.cli.showing import shown
from fusefs.control import Exit, Refused
from remote.protocol.sizes import shown_size
from remote.protocol.times import iso

_SAME_NS: Final = 5_000_000_000
"""An edit reaches the server within a moment: then one time says both."""


def conflicts(path: str | None, *, as_json: bool) -> None:
    """Prints the conflicts that nobody has settled; raises Refused, also when these are only this machine's."""
    mount = str(ask("ping")["mount"])
    answer = ask("conflicts", seconds=ANSWER_SECONDS, path="" if path is None else path_in_mount(path))
    print(json.dumps(answer["conflicts"], indent=2) if as_json else "\n".join(_told(answer["conflicts"], mount)))
    if answer["trouble"]:
        raise Refused(answer["trouble"], Exit.UNREACHABLE)


def _told(found: list[dict[str, Any]], mount: str) -> list[str]:
    if not found:
        return ["There are no conflicts."]
    lines: list[str] = []
    for at, one in enumerate(found):
        if not at or found[at - 1]["path"] != one["path"]:
            lines.append(os.path.join(mount, one["path"]))
            if one["is_sent"]:
                lines.append(f"  has the name  {_version(one['current'])}")
        where = os.path.join(mount, one["version"]) if one["is_sent"] else "(not sent yet: --keep mine has it back)"
        lines.append(f"  lost          {_version(one['lost'])}  {where}")
    return [*(shown(line) for line in lines), "", "To settle one: satchel resolve PATH --keep mine|theirs|both|REV"]


def _version(one: dict[str, Any]) -> str:
    # The time of the rev, as satchel versions tells it; the edit may be older, when the device was offline.
    when = iso(one["time_ns"])
    if abs(one["time_ns"] - one["edited_ns"]) > _SAME_NS:
        when += f" (edited {iso(one['edited_ns'])})"
    what = shown_size(one["size_bytes"]) if one["kind"] == "file" else one["kind"]
    rev = f"rev {one['rev']}" if one["rev"] else "no rev"
    return f"{rev:<10}  {when}  {what:>10}  {one['device']}"


def resolve(path: str, keep: str) -> None:
    """Settles the conflicts of a path; raises Refused."""
    found = ask("resolve", seconds=ANSWER_SECONDS, path=path_in_mount(path), keep=keep)
    if keep == "both":
        mount = str(ask("ping")["mount"])
        print("\n".join(shown(f"What lost is now {os.path.join(mount, one)}") for one in found["changed"]))
    else:
        what = "is the chosen version now" if found["changed"] else "stays as it is"
        print(f"{shown(path)} {what}; the other is a version.")
