"""What went over the wire, counted where it happens, so that retries and cut transfers are in it; and what may go."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from remote.client.pace import Gate, Lane


@dataclass
class Traffic:
    """Bytes and requests since it was made: bodies as they were moved, and HTTP heads as they are written out.

    TLS, TCP and connection set-up are not in it.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    requests: int = 0
    up: Lane = field(default_factory=Lane)
    down: Lane = field(default_factory=Lane)
    uploads: Gate = field(default_factory=Gate)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, *, sent: int = 0, received: int = 0) -> None:
        """Adds bytes; from any thread."""
        with self._lock:
            self.sent_bytes += sent
            self.received_bytes += received

    def sent_head(self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Counts a request and its head."""
        self.requests += 1
        self.count(sent=len(method) + len(target) + len("  HTTP/1.1\r\n\r\n") + _headers_length(headers))

    def received_head(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Counts the head of an answer."""
        self.count(received=len("HTTP/1.1 200 OK\r\n\r\n") + _headers_length(headers))


def _headers_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
