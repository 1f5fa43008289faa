"""Settling: edits that lost against others, and what is to be done about them."""

import json
import os
from datetime import UTC, datetime
from typing import Any

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.past import ANSWER_SECONDS
from fusefs.cli.standing import size


def conflicts(path: str | None, *, as_json: bool) -> None:
    """Prints the conflicts that nobody has settled; raises Refused."""
    mount = str(ask("ping")["mount"])
    found = ask("conflicts", seconds=ANSWER_SECONDS, path="" if path is None else path_in_mount(path))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("There are no conflicts.")
        return
    for at, one in enumerate(found):
        if not at or found[at - 1]["path"] != one["path"]:
            print(os.path.join(mount, one["path"]))
            print(f"  has the name  {_version(one['current'])}")
        print(f"  lost          {_version(one['lost'])}  {os.path.join(mount, one['version'])}")
    print("\nTo settle one: satchel resolve PATH --keep mine|theirs|both|REV")


def _version(one: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(one["edited_ns"] / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    what = size(one["size_bytes"]) if one["kind"] == "file" else one["kind"]
    return f"rev {one['rev']:<6}  {when}  {what:>10}  {one['device']}"


def resolve(path: str, keep: str) -> None:
    """Settles the conflicts of a path; raises Refused."""
    found = ask("resolve", seconds=ANSWER_SECONDS, path=path_in_mount(path), keep=keep)
    if keep == "both":
        print("\n".join(f"What lost is now {os.path.join(str(ask('ping')['mount']), one)}" for one in found["changed"]))
    else:
        print(
            f"{path} {'is the chosen version now' if found['changed'] else 'stays as it is'}; the other is a version."
        )
