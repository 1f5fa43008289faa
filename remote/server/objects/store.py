"""Objects: the small interface of a place that keeps immutable bytes by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from remote.protocol.ids import ChunkId, SpaceId, UserId


@dataclass(frozen=True)
class Stored:
    """One object as the store lists it; `modified_ns`: when it was written."""

    name: str
    size: int
    modified_ns: int


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

    def size(self, name: str) -> int | None:
        """How many bytes the object has, None when there is none."""
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


class Removable(Objects, Protocol):
    """Objects of which whoever collects garbage and looks for damage can ask more."""

    def names(self) -> Iterator[Stored]:
        """All objects, in order of their names; one that comes or goes meanwhile may be told or not."""
        ...

    def remove(self, name: str) -> None:
        """The object is gone, if it was there."""
        ...

    def heal(self, name: str, data: bytes) -> None:
        """The object has these bytes, durably, whatever it had; raises ServerFault when there is no room for them."""
        ...

    def set_aside(self, name: str) -> None:
        """The object has its name no more, but its bytes are kept for whoever wants to look at the damage."""
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


def id_of(name: str) -> tuple[bytes, bool] | None:
    """The id that an object's name tells, and whether it is a pack; None for a name of no object."""
    kind, _, rest = name.partition("/")
    folder, _, text = rest.partition("/")
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    is_named = kind in ("objects", "packs") and len(found) == 32 and text == found.hex() and folder == text[:2]
    return (found, kind == "packs") if is_named else None


def name_of(object_id: bytes, *, is_pack: bool) -> str:
    """The name of an object by its id."""
    return pack_name(object_id) if is_pack else object_name(ChunkId(object_id))
