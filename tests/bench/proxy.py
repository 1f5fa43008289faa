"""Proxy: a TCP relay in a process of its own that counts bytes and can be as far away as one likes.

Everything remote that is measured goes through it. Without delay the bytes are spliced, so they never come into this
program. With a delay, each byte arrives `delay` later than it was sent, at most IN_FLIGHT_MAX bytes of one connection
and direction are on their way (a sender that is ahead waits, as with a full TCP window), and a new connection carries
nothing before its one round trip of greeting. No loss, no limit of bandwidth.
"""

import argparse
import collections
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

IN_FLIGHT_MAX = 8 << 20
PIECE_BYTES = 256 << 10
_COUNTS = struct.Struct("=QQQQ")  # sent, received, connections, nanoseconds (monotonic) of the last byte


class Counts(NamedTuple):
    """What went over the wire, as the contestant sees it; `last_seconds` is when its last byte did (monotonic)."""

    sent_bytes: int
    received_bytes: int
    connections: int
    last_seconds: float

    def and_(self, more: "Counts") -> "Counts":
        """Both together."""
        return Counts(
            self.sent_bytes + more.sent_bytes,
            self.received_bytes + more.received_bytes,
            self.connections + more.connections,
            max(self.last_seconds, more.last_seconds),
        )

    def since(self, before: "Counts") -> "Counts":
        """What was added; the time stays."""
        return Counts(
            self.sent_bytes - before.sent_bytes,
            self.received_bytes - before.received_bytes,
            self.connections - before.connections,
            self.last_seconds,
        )


NOTHING = Counts(0, 0, 0, 0.0)


class Proxy:
    """A running proxy: `port` leads to `target`."""

    def __init__(self, counts: Path, target: int, delay_seconds: float = 0.0, port: int = 0) -> None:
        """Returns when it accepts connections; `counts` is a file that it makes, `target` a port of this machine."""
        listening = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port = int(listening.getsockname()[1])
        counts.write_bytes(bytes(_COUNTS.size))
        with counts.open("r+b") as file:
            self._counts = mmap.mmap(file.fileno(), _COUNTS.size)
        command = [sys.executable, "-P", __file__, "--listening", str(listening.fileno()), "--target", str(target)]
        command += ["--delay", str(delay_seconds), "--counts", str(counts)]
        with listening:
            self._process = subprocess.Popen(command, pass_fds=(listening.fileno(),), stdin=subprocess.DEVNULL)

    def counts(self) -> Counts:
        """What went through it so far."""
        sent, received, connections, last_ns = _COUNTS.unpack(self._counts[:])
        return Counts(sent, received, connections, last_ns / 1e9)

    def stop(self) -> None:
        """Ends it with all its connections."""
        self._process.kill()
        self._process.wait()
        self._counts.close()


class _Tally:
    """Shared counters, written where the harness reads them."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _COUNTS.size)
        self._lock = threading.Lock()
        self._values = [0, 0, 0]

    def add(self, which: int, count: int) -> None:
        with self._lock:
            self._values[which] += count
            _COUNTS.pack_into(self._map, 0, *self._values, time.monotonic_ns())


def _splice(source: socket.socket, sink: socket.socket, tally: _Tally, which: int) -> None:
    """Moves bytes until the source ends; they stay in the kernel."""
    out, into = os.pipe()
    try:
        while count := os.splice(source.fileno(), into, PIECE_BYTES):
            tally.add(which, count)
            while count:
                count -= os.splice(out, sink.fileno(), count)
    finally:
        os.close(out)
        os.close(into)


class _Distance:
    """One direction of a connection: pieces on their way, each with the time at which it arrives."""

    def __init__(self, delay_seconds: float, open_at: float) -> None:
        self._delay = delay_seconds
        self._open_at = open_at
        self._pieces: collections.deque[tuple[float, bytes]] = collections.deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, piece: bytes) -> None:
        """Sends a piece, b"" as the last one; waits while too much is on its way."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < IN_FLIGHT_MAX)
            self._pieces.append((max(time.monotonic(), self._open_at) + self._delay, piece))
            self._bytes += len(piece)
            self._changed.notify_all()

    def get(self) -> bytes:
        """The next piece, when it has arrived."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._pieces))
            arrives, piece = self._pieces[0]
        time.sleep(max(0.0, arrives - time.monotonic()))
        return piece

    def done(self) -> None:
        """What `get` gave was taken by the other side."""
        with self._changed:
            self._bytes -= len(self._pieces.popleft()[1])
            self._changed.notify_all()


def _carry(source: socket.socket, sink: socket.socket, tally: _Tally, which: int, distance: _Distance) -> None:
    """Moves bytes over a distance until the source ends."""

    def deliver() -> None:
        try:
            while piece := distance.get():
                sink.sendall(piece)
                distance.done()
        except OSError:
            _cut(source, sink)

    deliverer = threading.Thread(target=deliver, daemon=True)
    deliverer.start()
    try:
        while piece := source.recv(PIECE_BYTES):
            tally.add(which, len(piece))
            distance.put(piece)
    finally:
        distance.put(b"")
        deliverer.join()


def _cut(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def _relay(near: socket.socket, target: int, tally: _Tally, delay_seconds: float) -> None:
    """Serves one connection until both sides are done."""
    open_at = time.monotonic() + 2 * delay_seconds
    try:
        far = socket.create_connection(("127.0.0.1", target))
    except OSError:
        near.close()
        return
    tally.add(2, 1)
    ways = ((near, far, 0), (far, near, 1))
    for one in (near, far):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def one_way(source: socket.socket, sink: socket.socket, which: int) -> None:
        try:
            if delay_seconds:
                _carry(source, sink, tally, which, _Distance(delay_seconds, open_at))
            else:
                _splice(source, sink, tally, which)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _cut(source, sink)

    threads = [threading.Thread(target=one_way, args=way, daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    near.close()
    far.close()


def main() -> None:
    """The process; it ends with the one that started it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listening", type=int, required=True)
    parser.add_argument("--target", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--counts", type=Path, required=True)
    given = parser.parse_args()
    tally = _Tally(given.counts)
    # Default: five milliseconds, in which a thread with a byte to hand on waits for one that only computes.
    sys.setswitchinterval(0.0005)
    parent = os.pidfd_open(os.getppid())
    with socket.socket(fileno=given.listening) as listening:
        while parent not in select.select([listening.fileno(), parent], [], [])[0]:
            near, _ = listening.accept()
            threading.Thread(target=_relay, args=(near, given.target, tally, given.delay), daemon=True).start()


if __name__ == "__main__":
    main()
