"""Asking: a content as a file, each piece of which is asked for over the socket that stands for it."""

import os
import struct
from typing import Final

REQUEST: Final = struct.Struct(">QI")
"""Where, and how many bytes at most; the answer is one message with some of them, at least one."""
PIECE: Final = 1 << 16


class Asked:
    """The content of `size` bytes behind a descriptor; has of a file what is needed to read it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes there; the next piece is asked for when it is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("there is nothing before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def read(self, size: int) -> bytes:
        """Some of the bytes from there on, at most `size`; none at the end."""
        length = min(size, PIECE, self._size - self._at)
        if length <= 0:
            return b""
        os.write(self._descriptor, REQUEST.pack(self._at, length))
        found = os.read(self._descriptor, length)
        if not found:
            raise EOFError("nobody gives any more")
        self._at += len(found)
        return found
