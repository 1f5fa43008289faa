"""Trying: what content would do that took over the process that reads it; `satchel-server doctor` and the tests run it.

`work` says how the attempt named by its argument was refused, or that it was not.
"""

import io
import os
import socket
from collections.abc import Callable

from remote.server.jobs.tasks.asking import REQUEST

NOT_REFUSED = b"not refused"


def work(content: io.RawIOBase, arguments: list[str]) -> bytes:
    """How an attempt ended."""
    try:
        _ATTEMPTS[arguments[0]](content)
    except OSError as error:
        return f"refused: {error.strerror}".encode()
    return NOT_REFUSED


def _open(_: io.RawIOBase) -> None:
    with open("/etc/passwd", "rb") as file:
        file.read()


def _look(_: io.RawIOBase) -> None:
    os.stat("/etc/passwd")


def _list(_: io.RawIOBase) -> None:
    os.listdir("/")


def _connect(_: io.RawIOBase) -> None:
    with socket.socket() as peer:
        peer.connect(("127.0.0.1", 9))


def _fork(_: io.RawIOBase) -> None:
    if os.fork() == 0:
        os._exit(0)


def _execute(_: io.RawIOBase) -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606 - it must fail


def _kill(_: io.RawIOBase) -> None:
    os.kill(os.getppid(), 0)


def _write_file(_: io.RawIOBase) -> None:
    with open("/tmp/satchel-was-here", "wb") as file:  # noqa: S108 - it must not come to be
        file.write(b"1")


def _write_memory_file(_: io.RawIOBase) -> None:
    os.memfd_create("x")


def _write_content(content: io.RawIOBase) -> None:
    os.pwrite(content.fileno(), b"changed", 0)


def _other_descriptors(_: io.RawIOBase) -> None:
    for descriptor in range(3, 1_024):
        try:
            os.read(descriptor, 1)
        except OSError:
            continue
        return
    raise OSError(0, "there is none")


def _allocate(_: io.RawIOBase) -> None:
    bytearray(4 << 30)


def _loop(_: io.RawIOBase) -> None:
    while True:
        pass


def _wait(content: io.RawIOBase) -> None:
    import time  # noqa: PLC0415 - built in, so nothing is opened

    time.sleep(3_600)


def _flood(_: io.RawIOBase) -> None:
    piece = bytes(1 << 20)
    for _each in range(1 << 10):
        os.write(1, piece)


def _ask(content: io.RawIOBase) -> None:
    while True:
        os.write(content.fileno(), REQUEST.pack(0, 1))
        os.read(content.fileno(), 1)


_ATTEMPTS: dict[str, Callable[[io.RawIOBase], None]] = {
    "open": _open,
    "look": _look,
    "list": _list,
    "connect": _connect,
    "fork": _fork,
    "execute": _execute,
    "kill": _kill,
    "write-file": _write_file,
    "write-memory-file": _write_memory_file,
    "write-content": _write_content,
    "other-descriptors": _other_descriptors,
    "allocate": _allocate,
    "loop": _loop,
    "wait": _wait,
    "flood": _flood,
    "ask": _ask,
}
REFUSED = tuple(name for name in _ATTEMPTS if name not in {"allocate", "loop", "wait", "flood", "ask"})
"""Attempts that fail at once; the others run into a limit."""
