"""A slow line: a TCP relay in threads of this process that lets a bounded number of bytes through on the way up."""

import contextlib
import socket
import threading
import time

PIECE = 16 << 10


class SlowLine:
    """A running relay: `port` leads to `target`; `rate` is the bytes per second of all connections together."""

    def __init__(self, target: int, rate: float) -> None:
        self._target = target
        self.rate = rate
        self._free = 0.0
        self._lock = threading.Lock()
        self._pause = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listening]
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """Ends it with all its connections."""
        self._pause.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                # What was let in must be on its way, not in a buffer of the kernel.
                here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECE)
                there = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [here, there]
                for arguments in ((here, there, True), (there, here, False)):
                    thread = threading.Thread(target=self._carry, args=arguments)
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                if is_slow:
                    self._wait(len(piece))
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _wait(self, count: int) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / self.rate
            seconds = self._free - time.monotonic()
        self._pause.wait(seconds)
