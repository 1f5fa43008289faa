"""Objects: the small interface of a place that keeps immutable bytes by name."""

from typing import Protocol

from remote.protocol.ids import ChunkId, SpaceId, UserId


class ObjectMissing(Exception):
    """The store has no such object, though it was told of one: the store was damaged or is away."""


class Objects(Protocol):
    """Named immutable bytes. Methods may block: call them from a thread. Safe to call from many at once."""

    @property
    def may_send(self) -> bool:
        """Whether devices may send objects to the server, many in one body, and not only each to its own URL."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Returns when the object is durable under its name; raises ServerFault when there is no room for it.

        An object that is there already is not touched.
        """
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly these bytes; raises ObjectMissing when there is no such object or it is shorter."""
        ...

    def free_bytes(self) -> int:
        """How much more can be written."""
        ...

    def put_url(self, user: UserId, space: SpaceId, chunk: ChunkId, size: int) -> str:
        """Where these `size` bytes with this SHA-256, and nothing else, can be put once, for PUT_URL_SECONDS.

        Ends with the user's right to write in the space where the store can tell.
        """
        ...

    def get_url(self, user: UserId, space: SpaceId, chunk: ChunkId) -> str:
        """Where the chunk's object can be read for GET_URL_SECONDS, as long as the user may read in the space."""
        ...


PUT_URL_SECONDS = 3_600
GET_URL_SECONDS = 900


def object_name(chunk: ChunkId) -> str:
    """The name of a chunk that is an object of its own."""
    text = chunk.hex()
    return f"objects/{text[:2]}/{text}"


def pack_name(pack: bytes) -> str:
    """The name of a pack."""
    text = pack.hex()
    return f"packs/{text[:2]}/{text}"
