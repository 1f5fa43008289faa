"""Asking: this device's daemon, and where a path lies in its mount."""

import os
import sys
from typing import Any, Final

from fusefs import control
from fusefs.control import ASK_SECONDS, Exit, NoDaemon, Refused
from fusefs.settings import Places
from remote.protocol.ids import NODE_MAX, NodeId

SENT_SECONDS: Final = 30.0
"""How long a command waits for what others are to see to be on the server."""


def places() -> Places:
    """Where this device keeps what it keeps."""
    return Places.of_environment()


# What the verbs answer is JSON of many shapes: each command knows its own.
def ask(verb: str, /, *, seconds: float | None = ASK_SECONDS, **fields: object) -> Any:
    """What this device's daemon answers; raises Refused."""
    return control.ask(places().socket, verb, seconds=seconds, **fields)


def daemon() -> dict[str, Any] | None:
    """Who answers for this device: `mount`, `pid`; None when nobody does."""
    try:
        return dict(ask("ping"))
    except NoDaemon:
        return None


def confirm(would: str, does: str, otherwise: str) -> None:
    """Raises Refused unless somebody at a terminal says yes: with `would` where there is none, `otherwise` for a no."""
    if not sys.stdin.isatty():
        raise Refused(f"{would} If you mean it: --yes", Exit.USAGE)
    print(does)
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused(otherwise)


def path_in_mount(path: str) -> str:
    """The path relative to the top of this device's mount, "" for the top; a symlink at its end is not followed.

    But a link of a search is: what was found is meant.
    """
    mount = str(ask("ping")["mount"])
    whole = _found(os.path.abspath(path))
    folder = os.path.realpath(os.path.dirname(whole))
    found = os.path.join(folder, os.path.basename(whole))
    if not found.startswith(mount + "/"):
        if os.path.realpath(whole) == mount:
            return ""
        raise Refused(f"{path} does not lie in this device's drive, which is mounted at {mount}.")
    return found[len(mount) + 1 :]


def _found(path: str) -> str:
    """Where a link of a search leads; any other path as it is."""
    if "/.search/" in path and os.path.islink(path) and os.lstat(path).st_ino > NODE_MAX:
        return os.path.realpath(path)
    return path


def live_node(path: str) -> NodeId:
    """What a path in the mount leads to; raises Refused, also for a state of the past."""
    path_in_mount(path)
    try:
        node = os.lstat(_found(os.path.abspath(path))).st_ino
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}.") from error
    if node > NODE_MAX:
        raise Refused(f"{path} is a state of the past, and this is for what is there now: restore it first.")
    return NodeId(node)


def await_sent(path: str, *, may_follow: bool = False) -> None:
    """Returns when the server has the path with all that is below it; raises Refused when that takes long.

    With `may_follow`, what is below a folder that the server knows may come later.
    """
    relative = path_in_mount(path)
    if may_follow:
        found = ask("status-of", path=relative)
        if found["kind"] == "folder" and found["rev"]:
            return
    ask("sent", seconds=None, path=relative, within=SENT_SECONDS)
