"""Giving: content that a confined process asks for place by place, for tasks that need little of what may be large.

The process has a socket for its input and gets bytes of this one content over it each time that it asks
(`tasks/asking.py`).
"""

import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from remote.server.jobs.confined import TooMuch, Unreadable
from remote.server.jobs.tasks.asking import PIECE, REQUEST

Read = Callable[[int, int], Iterable[bytes | bytearray | memoryview]]
"""Gives the bytes start .. stop of a content, in pieces."""
GIVEN_MAX: Final = 256 << 20
"""Bytes of content that are read for one process."""
_BLOCK: Final = 1 << 20
_BLOCKS_MAX: Final = 8
"""Kept in memory: a reader asks for pieces side by side, and comes back."""


class Giver:
    """Answers one process that asks for a content; to be closed."""

    def __init__(self, size: int, read: Read) -> None:
        self._size = size
        self._read = read
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._given_bytes = 0

    @property
    def theirs(self) -> int:
        """The descriptor that is the process's input."""
        return self._theirs.fileno()

    def fileno(self) -> int:
        """The descriptor that can be read when the process asks."""
        return self._ours.fileno()

    def answer(self) -> None:
        """Gives what it asks for; raises Refused for what no reader of ours asks, and what `read` raises."""
        asked = self._ours.recv(REQUEST.size + 1)
        if len(asked) != REQUEST.size:
            raise Unreadable("What reads it asks for something else.")
        start, length = REQUEST.unpack(asked)
        if not 0 < length <= PIECE or start >= self._size:
            raise Unreadable("What reads it asks for what is not there.")
        number, skipped = divmod(start, _BLOCK)
        # At the end of a block it is less than was asked for, as reads may be.
        try:
            self._ours.send(self._block(number)[skipped : skipped + length])
        except BlockingIOError:
            raise Unreadable("What reads it asks and does not listen.") from None

    def close(self) -> None:
        """Gives nothing any more."""
        self._ours.close()
        self._theirs.close()

    def _block(self, number: int) -> bytes:
        found = self._blocks.get(number)
        if found is not None:
            self._blocks.move_to_end(number)
            return found
        start = number * _BLOCK
        stop = min(start + _BLOCK, self._size)
        self._given_bytes += stop - start
        if self._given_bytes > GIVEN_MAX:
            raise TooMuch(f"More than {GIVEN_MAX >> 20} MiB of it would have to be read.")
        found = self._blocks[number] = b"".join(self._read(start, stop))
        if len(self._blocks) > _BLOCKS_MAX:
            self._blocks.popitem(last=False)
        return found
