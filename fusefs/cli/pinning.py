"""Pinning: what is to stay on this machine."""

import json

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.showing import shown
from remote.protocol.sizes import shown_size


def pin(path: str) -> None:
    """Keeps the path's content here from now on; raises Refused."""
    found = ask("pin", path=path_in_mount(path))
    when = "is being fetched" if found.get("online", True) else "is fetched when the server is back"
    print(f"{shown(path)} stays on this machine from now on; what is missing of it {when}.")


def listing(*, as_json: bool) -> None:
    """Prints what is pinned, and how much of it is here."""
    found = ask("pins", seconds=None)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for one in found:
        files = "1 file" if one["files"] == 1 else f"{one['files']} files"
        state = f"{shown_size(one['missing_bytes'])} to be fetched" if one["missing_files"] else "all of it is here"
        print(f"{shown(one['path'])}: {files}, {shown_size(one['size_bytes'])}; {state}")
    if not found:
        print("Nothing is pinned.")


def unpin(path: str) -> None:
    """Lets the cache drop the path's content again; raises Refused."""
    found = ask("unpin", path=path_in_mount(path))
    if found["was_pinned"]:
        print(f"{shown(path)} is kept here only as long as there is room.")
    else:
        pinned = ", ".join(found["pinned"]) or "nothing"
        print(shown(f"{path} was not pinned itself. Pinned here: {pinned}."))
