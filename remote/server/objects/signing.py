"""Signed URLs of the local store: who holds one may do exactly what it was signed for, until it expires."""

import hmac
from collections.abc import Callable
from urllib.parse import urlencode

from remote.protocol.errors import NotAllowed
from remote.protocol.ids import ChunkId, SpaceId

PATH = "/v1/objects/"


class Signer:
    """Makes and checks signatures that bind method, chunk (the SHA-256 of the body), size, space and expiry."""

    def __init__(self, key: bytes, clock_seconds: Callable[[], float]) -> None:
        self._key = key
        self._clock_seconds = clock_seconds

    def url(self, method: str, space: SpaceId, chunk: ChunkId, size: int, valid_seconds: int) -> str:
        """A URL relative to the server's address; `size` is 0 for GET."""
        expires = int(self._clock_seconds()) + valid_seconds
        signature = self._signature(method, space, chunk, size, expires)
        query = urlencode({"space": space, "expires": expires, "signature": signature.hex()})
        return f"{PATH}{chunk.hex()}?{query}"

    def check(self, method: str, space: SpaceId, chunk: ChunkId, size: int, expires: int, signature: bytes) -> None:
        """Raises NotAllowed unless `url` made exactly this, and it has not expired."""
        if not hmac.compare_digest(signature, self._signature(method, space, chunk, size, expires)):
            raise NotAllowed("The signature does not fit this method, chunk, size, space and expiry.")
        if expires < self._clock_seconds():
            raise NotAllowed("The signed URL has expired: ask for a new one.")

    def _signature(self, method: str, space: SpaceId, chunk: ChunkId, size: int, expires: int) -> bytes:
        text = f"{method}\n{chunk.hex()}\n{size}\n{space}\n{expires}"
        return hmac.digest(self._key, text.encode(), "sha256")
