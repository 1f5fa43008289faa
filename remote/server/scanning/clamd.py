"""Clamd: the one that speaks to ClamAV's daemon, over its socket; it sees content as a stream and no names."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Final

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 300.0
"""How long the scanner may take for one content, and to take a piece of it."""
_PIECE: Final = 1 << 20
_ANSWER_MAX: Final = 4_096
_LENGTH: Final = struct.Struct(">I")
_FOUND: Final = re.compile(r"(?:stream: )?(.+) FOUND")


class ScannerAway(Exception):
    """The scanner does not answer, or not as one does; `str()` says why."""


class TooLarge(Exception):
    """The scanner takes no content of this length."""


class Clamd:
    """A daemon, at the path of its socket, or at host and port."""

    def __init__(self, path: str = "", address: tuple[str, int] | None = None) -> None:
        self._path = path
        self._address = address
        self._lock = threading.Lock()
        self._asked: set[socket.socket] = set()
        self._is_closed = False

    @classmethod
    def at(cls, place: str) -> "Clamd":
        """The one at a path (with a slash in it) or HOST:PORT; raises ValueError."""
        if "/" in place:
            return cls(path=place)
        host, colon, port = place.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ValueError(f"{place} is neither the path of a socket nor HOST:PORT")
        return cls(address=(host.removeprefix("[").removesuffix("]"), int(port)))

    def scan(self, content: Iterable[bytes | bytearray | memoryview]) -> str:
        """What was found in the content, empty for nothing; raises ScannerAway, TooLarge."""
        try:
            with self._connected() as peer, self._noted(peer):
                return _judged(_asked(peer, content))
        except OSError as error:
            raise ScannerAway(f"The virus scanner does not answer: {error.strerror or error}.") from error

    def close(self) -> None:
        """Ends what is going on, from another thread; nothing is asked any more."""
        with self._lock:
            self._is_closed = True
            for peer in self._asked:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

    def version(self) -> str:
        """Which program and patterns it scans with, as it tells it; another text when it has learnt new ones."""
        try:
            with self._connected() as peer, self._noted(peer):
                peer.sendall(b"zVERSION\0")
                told = _answer(peer)
        except OSError as error:
            raise ScannerAway(f"The virus scanner does not answer: {error.strerror or error}.") from error
        if not told:
            raise ScannerAway("The virus scanner does not say which version it is.")
        return told

    @contextlib.contextmanager
    def _noted(self, peer: socket.socket) -> Iterator[None]:
        """While it is entered, `close` ends it."""
        with self._lock:
            if self._is_closed:
                raise ScannerAway("The server stops.")
            self._asked.add(peer)
        try:
            yield
        finally:
            with self._lock:
                self._asked.discard(peer)

    def _connected(self) -> socket.socket:
        if self._address is not None:
            peer = socket.create_connection(self._address, CONNECT_SECONDS)
        else:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                peer.settimeout(CONNECT_SECONDS)
                peer.connect(self._path)
            except BaseException:
                peer.close()
                raise
        peer.settimeout(ANSWER_SECONDS)
        return peer


def _asked(peer: socket.socket, content: Iterable[bytes | bytearray | memoryview]) -> str:
    """The answer to a stream; who has enough of it says so before its end, and hears no more."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        peer.sendall(b"zINSTREAM\0")
        for piece in content:
            view = memoryview(piece)
            for at in range(0, len(view), _PIECE):
                part = view[at : at + _PIECE]
                peer.sendall(_LENGTH.pack(len(part)))
                peer.sendall(part)
        peer.sendall(_LENGTH.pack(0))
    return _answer(peer)


def _answer(peer: socket.socket) -> str:
    told = b""
    while not told.endswith(b"\0") and len(told) < _ANSWER_MAX:
        piece = peer.recv(_ANSWER_MAX)
        if not piece:
            break
        told += piece
    return told.rstrip(b"\0").decode(errors="replace")


def _judged(told: str) -> str:
    if told == "stream: OK":
        return ""
    if found := _FOUND.fullmatch(told):
        return found[1]
    if "size limit exceeded" in told:
        raise TooLarge("It is larger than the virus scanner takes (StreamMaxLength in clamd.conf).")
    raise ScannerAway(f"The virus scanner said: {told[:200] or 'nothing'}")
