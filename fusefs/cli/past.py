"""Past: what a file or folder was before, and making it so again."""

import json
import os

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.showing import shown
from remote.protocol.sizes import shown_size
from remote.protocol.times import iso

ANSWER_SECONDS = 120.0


def versions(path: str, *, as_json: bool) -> None:
    """Prints the versions, newest first."""
    found = ask("versions", seconds=ANSWER_SECONDS, path=path_in_mount(path))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print(f"{shown(path)} has no versions on the server yet.")
        return
    print(f"{'rev':>8}  {'time (UTC)':<20}  {'what':>10}  who")
    for one in found:
        when = iso(one["time_ns"])
        what = shown_size(one["size_bytes"]) if one["kind"] == "file" else one["kind"] or "removed"
        mark = "   (lost against another edit)" if one["is_conflict"] else ""
        who = f"  {' on '.join(part for part in (one['user'], one['device']) if part)}" if one["user"] else ""
        name = f"  as {one['name']}" if one["name"] not in ("", os.path.basename(path.rstrip("/"))) else ""
        print(shown(f"{one['at']:>8}  {when}  {what:>10}{who}{name}{mark}"))
    if any(one["space"] for one in found):
        print(
            "home:REV: before its folder was shared; shared1:REV: while it was. satchel restore --at takes these, too."
        )


def restore(path: str, at: str | None, *, is_copy: bool) -> None:
    """Makes the path what it was then, or puts that beside it; raises Refused."""
    found = ask("restore", seconds=ANSWER_SECONDS, path=path_in_mount(path), at=at, copy=is_copy)
    if is_copy:
        what = os.path.join(str(ask("ping")["mount"]), found["path"])
        print(shown(f"{what} is {path} as of rev {found['rev']}; {path} stays as it is."))
        return
    if found["left"]:
        names = ", ".join(found["left"][:10]) + (" and more" if len(found["left"]) > 10 else "")
        print(shown(f"Left as they are, being shared folders, which are gone back to by themselves: {names}"))
    what = f"{path} and what is below it ({found['nodes']} in all) are" if found["nodes"] > 1 else f"{path} is"
    print(f"{shown(what)} as of rev {found['rev']} again; the states until now are kept as versions.")
