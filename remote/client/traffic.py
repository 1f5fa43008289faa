"""What went over the wire, counted where it happens, so that retries and cut transfers are in it; and what may go."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from remote.client.pace import Gate, Lane
from remote.protocol.errors import RemoteError, Unreachable


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
    _asking: int = 0
    _silent_since: float | None = None
    _is_in_vain: bool = False
    """A request failed for want of an answer, and nothing was heard since."""

    @property
    def silent_seconds(self) -> float:
        """How long somebody waits for an answer, or has waited in vain, and nothing was heard; 0: all were answered."""
        since = self._silent_since
        return 0.0 if since is None else time.monotonic() - since

    @contextmanager
    def asking(self) -> Iterator[None]:
        """For as long as an answer is due."""
        with self._lock:
            self._asking += 1
            if self._silent_since is None:
                self._silent_since = time.monotonic()
        is_answered = False
        try:
            yield
            is_answered = True
        except Unreachable:
            self._is_in_vain = True
            raise
        except RemoteError:
            is_answered = True
            raise
        finally:
            with self._lock:
                self._asking -= 1
                if is_answered or not (self._asking or self._is_in_vain):
                    self._hear()

    def _hear(self) -> None:
        self._is_in_vain = False
        self._silent_since = time.monotonic() if self._asking else None

    def count(self, *, sent: int = 0, received: int = 0) -> None:
        """Adds bytes; from any thread."""
        with self._lock:
            self.sent_bytes += sent
            self.received_bytes += received
            if received:
                self._hear()

    def sent_head(self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Counts a request and its head."""
        self.requests += 1
        self.count(sent=len(method) + len(target) + len("  HTTP/1.1\r\n\r\n") + _headers_length(headers))

    def received_head(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Counts the head of an answer."""
        self.count(received=len("HTTP/1.1 200 OK\r\n\r\n") + _headers_length(headers))


def _headers_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
