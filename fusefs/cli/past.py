"""Past: what a file or folder was before, and making it so again."""

import json
from datetime import UTC, datetime

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.standing import size

ANSWER_SECONDS = 120.0


def versions(path: str, *, as_json: bool) -> None:
    """Prints the versions, newest first."""
    found = ask("versions", seconds=ANSWER_SECONDS, path=path_in_mount(path))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print(f"{path} has no versions on the server yet.")
    for one in found:
        when = datetime.fromtimestamp(one["time_ns"] / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        what = "removed" if one["kind"] is None else one["kind"] if one["kind"] != "file" else size(one["size_bytes"])
        mark = "   (lost against another edit)" if one["is_conflict"] else ""
        print(f"{one['rev']:>8}  {when}  {what:>10}  {one['user']} on {one['device']}  {one['path']}{mark}")


def restore(path: str, at: str) -> None:
    """Makes the path what it was then; raises Refused."""
    found = ask("restore", seconds=ANSWER_SECONDS, path=path_in_mount(path), at=at)
    when = datetime.fromtimestamp(found["time_ns"] / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    print(f"{path} is what it was at {when} (rev {found['rev']}); what it was until now is a version, too.")
