"""The error family of the wire: what a Service raises, and the code under which each error travels.

Status codes of HTTP belong to the two borders (remote.client, remote.server), not here.
"""

from typing import ClassVar


class RemoteError(Exception):
    """Something that the server answered, or that kept it from answering; `str()` is a sentence for a person."""

    code: ClassVar[str] = "fault"


class Unreachable(RemoteError):
    """No answer came in time: the network or the server is away; nothing is known about what was asked."""

    code = "unreachable"


class ServerFault(RemoteError):
    """The server failed at a request that was in order; trying again later may succeed."""

    code = "fault"


class Busy(RemoteError):
    """The server asks to come back after `retry_after_seconds`."""

    code = "busy"

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BadRequest(RemoteError):
    """The request breaks the protocol or one of its limits; nothing was changed and trying again is useless."""

    code = "bad-request"


class TooLarge(BadRequest):
    """A body, path, name or count is over the limit that the message names."""

    code = "too-large"


class NotSignedIn(RemoteError):
    """The token is missing, unknown or revoked, or name and password do not match."""

    code = "not-signed-in"


class Wiped(NotSignedIn):
    """The user signed this device out from another one, and wants what it holds of the drive to be removed from it."""

    code = "wiped"


class Disabled(NotSignedIn):
    """Whoever runs the server keeps this account out: signing in again is useless."""

    code = "disabled"


class CodeNeeded(NotSignedIn):
    """The password is right, and the account asks for a code besides: it is missing, wrong, or was used before."""

    code = "code-needed"


class NotAllowed(RemoteError):
    """The signed-in user may not do this."""

    code = "not-allowed"


class NotFound(RemoteError):
    """There is no such space, node, rev or chunk (or none that this user may know of)."""

    code = "not-found"


class Infected(NotFound):
    """A virus was found in this content: it is given out no more, until a manager of the space says that it is fine."""

    code = "infected"


class InTheWay(RemoteError):
    """Something as it is now keeps this from being done; nothing was changed, and the message names it."""

    code = "in-the-way"


class Changed(RemoteError):
    """What is there is not what the request names as its condition; nothing was changed: look again, then decide."""

    code = "changed"


class Gone(RemoteError):
    """It was there, and is over for good: a link that expired, was revoked, or was used as often as it may be."""

    code = "gone"


class CursorTooOld(RemoteError):
    """The journal no longer reaches back to this cursor: list again."""

    code = "cursor-too-old"


class QuotaExceeded(RemoteError):
    """The space is full; nothing of the commit was taken."""

    code = "quota-exceeded"
    is_kept = False
    """Whether there is room, but kept for other devices; the server knows, and tells nobody."""


class ChunkMissing(RemoteError):
    """A commit names chunks that the store does not hold for this space: send them, then commit again."""

    code = "chunk-missing"


class ChunkDamaged(RemoteError):
    """Stored or received bytes are not what their id, key or frame table says; they were not used."""

    code = "chunk-damaged"


BY_CODE: dict[str, type[RemoteError]] = {
    family.code: family
    for family in (
        Unreachable,
        ServerFault,
        Busy,
        BadRequest,
        TooLarge,
        NotSignedIn,
        Wiped,
        Disabled,
        CodeNeeded,
        NotAllowed,
        NotFound,
        Infected,
        InTheWay,
        Changed,
        Gone,
        CursorTooOld,
        QuotaExceeded,
        ChunkMissing,
        ChunkDamaged,
    )
}
"""The class for each code that can travel."""
