"""Signed URLs of the local store: who holds one may do exactly what it was signed for, until it expires."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from remote.protocol.errors import NotAllowed
from remote.protocol.ids import ChunkId, SpaceId, UserId

PATH = "/v1/objects/"


@dataclass(frozen=True)
class Grant:
    """What a URL is good for; `size` is that of the body to PUT. The chunk is the SHA-256 of the body."""

    method: str
    user: UserId
    space: SpaceId
    chunk: ChunkId
    size: int = 0


class Signer:
    """Makes and checks signatures that bind a grant and when it expires."""

    def __init__(self, key: bytes, clock_seconds: Callable[[], float]) -> None:
        self._key = key
        self._clock_seconds = clock_seconds

    def url(self, grant: Grant, valid_seconds: int) -> str:
        """A URL relative to the server's address."""
        expires = int(self._clock_seconds()) + valid_seconds
        signature = self._signature(grant, expires).hex()
        query = {"space": grant.space, "user": grant.user, "expires": expires, "signature": signature}
        return f"{PATH}{grant.chunk.hex()}?{urlencode(query)}"

    def check(self, grant: Grant, expires: int, signature: bytes) -> None:
        """Raises NotAllowed unless `url` made exactly this, and it has not expired."""
        self._check(self._signature(grant, expires), expires, signature, "method, chunk, size, space, user and expiry")

    def sign_text(self, text: str, expires: int) -> bytes:
        """The signature of what a URL of another kind is good for; a text begins with the word of its kind."""
        return hmac.digest(self._key, f"{text}\n{expires}".encode(), "sha256")

    def check_text(self, text: str, expires: int, signature: bytes) -> None:
        """Raises NotAllowed unless `sign_text` made exactly this, and it has not expired."""
        self._check(self.sign_text(text, expires), expires, signature, "part, size, user and expiry")

    def _check(self, right: bytes, expires: int, signature: bytes, what: str) -> None:
        if not hmac.compare_digest(signature, right):
            raise NotAllowed(f"The signature does not fit this {what}.")
        if expires < self._clock_seconds():
            raise NotAllowed("The signed URL has expired: ask for a new one.")

    def _signature(self, grant: Grant, expires: int) -> bytes:
        return self.sign_text(
            f"{grant.method}\n{grant.chunk.hex()}\n{grant.size}\n{grant.space}\n{grant.user}", expires
        )
