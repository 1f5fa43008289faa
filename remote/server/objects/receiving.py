"""Receiving: large chunks that come one behind the other in one body, into the local store together.

The body is laid out as the answer to a read (protocol.parts), of whole chunks only. Each is written as it comes and
checked against its id at its end; those that are kept share the waits for the disk.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from remote.protocol.errors import BadRequest
from remote.protocol.ids import ChunkId
from remote.protocol.messages import SMALL_CHUNK_MAX
from remote.protocol.parts import HEAD_SIZE, Head
from remote.protocol.sealing import Buffer
from remote.server.database.chunks import Place
from remote.server.limits import check_chunk_size
from remote.server.objects.local import Incoming, LocalObjects
from remote.server.objects.store import object_name


class Receiving:
    """Chunks of one body: `keep` those that came whole, or leave and nothing stays. For one thread at a time."""

    def __init__(self, objects: LocalObjects) -> None:
        self._objects = objects
        self._drafts = ExitStack()
        self._head = bytearray()
        self._current: tuple[Head, Incoming] | None = None
        self._whole: list[tuple[Head, Incoming]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drafts.close()

    @property
    def is_at_an_end(self) -> bool:
        """Whether no chunk is half received."""
        return self._current is None and not self._head

    def add(self, pieces: Sequence[Buffer]) -> None:
        """Takes the next bytes of the body; raises BadRequest for a chunk that is not what its head says, TooLarge."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                taken = self._add_to_head(view) if self._current is None else self._add_to_chunk(*self._current, view)
                view = view[taken:]

    def keep(self) -> list[Place]:
        """The chunks that came whole, durable now and under their names."""
        self._objects.keep([(incoming, object_name(head.id)) for head, incoming in self._whole])
        return [Place(head.id, head.length, None) for head, _ in self._whole]

    def _add_to_head(self, view: memoryview) -> int:
        taken = min(len(view), HEAD_SIZE - len(self._head))
        self._head += view[:taken]
        if len(self._head) == HEAD_SIZE:
            head = Head.unpack(self._head)
            self._head.clear()
            name = f"Chunk {head.id.hex()}"
            check_chunk_size(name, head.length)
            if head.first or head.frames:
                raise BadRequest(f"{name} does not come whole.")
            if head.length <= SMALL_CHUNK_MAX:
                raise BadRequest(f"{name} has {head.length} bytes; up to {SMALL_CHUNK_MAX} it goes with put.")
            self._current = head, self._drafts.enter_context(self._objects.incoming(head.length))
        return taken

    def _add_to_chunk(self, head: Head, incoming: Incoming, view: memoryview) -> int:
        taken = min(len(view), incoming.left)
        incoming.add(view[:taken])
        if not incoming.left:
            incoming.check(ChunkId(head.id))
            incoming.start_writing()
            self._whole.append((head, incoming))
            self._current = None
        return taken
