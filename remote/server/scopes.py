"""Scopes: what an app token may be made for, and which of them cover which. Pure."""

from collections.abc import Iterable

from remote.protocol.errors import BadRequest, NotAllowed
from remote.server.asking import DEVICES_ONLY

READ, WRITE, SHARE, FORGET, WEBDAV, WEBDAV_READ = "read", "write", "share", "forget", "webdav", "webdav-read"
SCOPES = (READ, WRITE, SHARE, FORGET, WEBDAV, WEBDAV_READ)
_COVERED = {WRITE: (READ,), WEBDAV: (WEBDAV_READ,)}
"""What else a scope allows."""


def stored_scopes(words: Iterable[str]) -> str:
    """The scopes as they are stored, each once and in order; raises BadRequest for none, and for unknown ones."""
    wanted = set(words)
    if not wanted:
        raise BadRequest(f"An app token needs a scope: {', '.join(SCOPES)}.")
    for word in sorted(wanted):
        if word not in SCOPES:
            raise BadRequest(f"{word[:20]!r} is no scope; there are {', '.join(SCOPES)}.")
    return " ".join(scope for scope in SCOPES if scope in wanted)


def covers(stored: str, needed: str) -> bool:
    """Whether an app token with these scopes may do what needs that one."""
    granted = stored.split()
    return needed in granted or any(needed in _COVERED.get(scope, ()) for scope in granted)


def check_scope(stored: str, needed: str) -> None:
    """Raises NotAllowed when these scopes (none: a device, which may do everything) do not cover the one needed."""
    if not stored or (needed != DEVICES_ONLY and covers(stored, needed)):
        return
    if needed == DEVICES_ONLY:
        raise NotAllowed("No app token may do this: it takes a signed-in device.")
    raise NotAllowed(f"This app token is for {stored.replace(' ', ', ')}; this needs {needed}.")
