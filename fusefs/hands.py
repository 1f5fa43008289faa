"""Hands: calls in our own mount, made by a process of its own.

A thread that waits in the kernel for an answer of its own process cannot be killed, and keeps the process from ending
and its mount from being let go of: after `kill -9` both would hang for ever. So everything that the daemon does in its
mount is done by this process, which holds nothing of FUSE. When the daemon ends, the kernel ends the calls that wait
for it, and the process ends with its input.

What only the daemon can do, as it holds /dev/fuse, may wait in the kernel, too: to make it forget a name, for the
folder, which a program holds while it waits for the daemon. So this process is also told when the daemon dies, and ends
the connection when a killed daemon does not come to its end.
"""

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from fusefs import mounts
from fusefs.control import is_gone

_END_SECONDS: Final = 5.0
_DYING_SECONDS: Final = 0.5
"""How long a killed daemon is given to end of itself: hardly any needs more than a hundredth of it."""
_PR_SET_PDEATHSIG: Final = 1
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_REPLY_MAX: Final = 4_096
_NOBODY: Final = msgspec.msgpack.encode(-1)
"""Not 0, which is the pid of requests that the kernel makes on its own account."""

Value = int | bytes | None | list[bytes]


class Hand:
    """One thread of that process: does one call after the other."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self.tid: Final = int(msgspec.msgpack.decode(channel.recv(_REPLY_MAX) or _NOBODY))
        """The id of the thread: the pid of the requests that come of its calls. -1 when the process did not start."""

    def do(self, what: str, *values: Value | Sequence[bytes]) -> int:
        """Has one of `CALLS` made; raises OSError as the call does, and when the process is gone."""
        with self._lock:
            self._channel.sendall(msgspec.msgpack.encode((what, values)))
            reply = self._channel.recv(_REPLY_MAX)
        if not reply:
            raise OSError(errno.EPIPE, "the process that makes calls in the mount has ended")
        number, result = msgspec.msgpack.decode(reply)
        if number:
            raise OSError(number, result)
        return int(result)


class Hands:
    """The process, with as many threads as are asked for; ends with `close` or with us."""

    def __init__(self, count: int) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        theirs = [pair[1].fileno() for pair in pairs]
        self._channels = [pair[0] for pair in pairs]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(os.getpid()), *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
        )
        for pair in pairs:
            pair[1].close()
        self.each: Final = [Hand(channel) for channel in self._channels]

    def guard(self, point: str) -> None:
        """From now on the connection of what is mounted there ends with us, also when we are killed."""
        with contextlib.suppress(OSError):  # the process did not start, which is told by whoever needs it
            self.each[0].do("guard", os.fsencode(point))

    def close(self) -> None:
        """Ends the process; call it when the mount is gone, for it may wait for an answer there."""
        for channel in self._channels:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
            channel.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


# In that process


def _reach(point: bytes, parts: list[bytes], node: int) -> int:
    """A descriptor of what a path in the mount leads to; no symlink on the way, which may lead out, is followed."""
    fd = os.open(point, os.O_PATH | os.O_CLOEXEC)
    for part in parts:
        try:
            inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    if os.fstat(fd).st_ino != node:
        os.close(fd)
        raise OSError(errno.ESTALE, "it is somewhere else")
    return fd


def _let_go(fd: int) -> None:
    os.close(fd)


def _touch(folder: int, name: bytes, atime_ns: int, mtime_ns: int) -> None:
    os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)


def _change(folder: int, name: bytes, node: int, size: int, atime_ns: int, mtime_ns: int) -> None:
    fd = os.open(name, os.O_WRONLY | _OPEN, dir_fd=folder)
    try:
        if os.fstat(fd).st_ino == node:
            os.ftruncate(fd, size)
            os.utime(fd, ns=(atime_ns, mtime_ns))
    finally:
        os.close(fd)


def _resize(fd: int, size: int, atime_ns: int, mtime_ns: int) -> None:
    itself = f"/proc/self/fd/{fd}"
    # Meanwhile nobody could run it.
    if os.stat(itself).st_size != size:
        os.truncate(itself, size)
    os.utime(itself, ns=(atime_ns, mtime_ns))


def _make_folder(folder: int, name: bytes) -> None:
    os.mkdir(name, dir_fd=folder)


def _make_symlink(folder: int, name: bytes, target: bytes) -> None:
    os.symlink(target, name, dir_fd=folder)


def _make_node(folder: int, name: bytes, mode: int, rdev: int) -> None:
    os.mknod(name, mode, rdev, dir_fd=folder)


def _close_written(folder: int, name: bytes) -> None:
    """Opens for writing and closes: who watches waits for that."""
    os.close(os.open(name, os.O_WRONLY | _OPEN, dir_fd=folder))


def _check(folder: int, name: bytes, node: int) -> None:
    if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino != node:
        raise OSError(errno.ESTALE, "the kernel knows something else by this name")


def _unlink(folder: int, name: bytes, node: int) -> None:
    _check(folder, name, node)
    os.unlink(name, dir_fd=folder)


def _rmdir(folder: int, name: bytes, node: int) -> None:
    _check(folder, name, node)
    os.rmdir(name, dir_fd=folder)


def _rename(folder: int, name: bytes, node: int, new_folder: int, new_name: bytes) -> None:
    _check(folder, name, node)
    os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)


def _fsync(path: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | _OPEN)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_guarded: list[mounts.Mount] = []


def _guard(point: bytes) -> None:
    present = mounts.mount_at(os.fsdecode(point))
    if present is not None:
        _guarded[:] = [present]


CALLS: Final[dict[str, Callable[..., int | None]]] = {
    "guard": _guard,
    "reach": _reach,
    "let_go": _let_go,
    "touch": _touch,
    "change": _change,
    "resize": _resize,
    "make_folder": _make_folder,
    "make_symlink": _make_symlink,
    "make_node": _make_node,
    "close_written": _close_written,
    "unlink": _unlink,
    "rmdir": _rmdir,
    "rename": _rename,
    "fsync": _fsync,
}


def _serve(channel: socket.socket) -> None:
    size_max = channel.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with channel, contextlib.suppress(ConnectionError):  # nobody waits for it any more
        channel.send(msgspec.msgpack.encode(threading.get_native_id()))
        while request := channel.recv(size_max):
            what, values = msgspec.msgpack.decode(request)
            reply: tuple[int, int | str]
            try:
                reply = (0, CALLS[what](*values) or 0)
            except OSError as error:
                reply = (error.errno or errno.EIO, error.strerror or "")
            channel.send(msgspec.msgpack.encode(reply))


def _end_what_waits_for(daemon: int) -> None:
    """Ends the connection of a daemon that was killed, when that keeps it from ending."""
    deadline = time.monotonic() + _DYING_SECONDS
    # We are its child until its last thread has ended.
    while os.getppid() == daemon and time.monotonic() < deadline:
        time.sleep(0.01)
    if os.getppid() == daemon and is_gone(daemon):
        for mount in _guarded:
            mounts.abort(mount)


def main(daemon: int, descriptors: Sequence[str]) -> None:
    """Serves these sockets, a thread each, until all have ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # With a terminal or a service the daemon gets these, too, and ends in order.
        signal.signal(number, signal.SIG_IGN)
    # Sent by the kernel when the thread ends that started us, which is the daemon's main thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    os.chdir("/")
    os.umask(0)
    channels = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
    threads = [threading.Thread(target=_serve, args=(channel,)) for channel in channels]

    def serve_all() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.kill(os.getpid(), signal.SIGUSR1)

    serving = threading.Thread(target=serve_all)
    serving.start()
    signal.sigwait({signal.SIGUSR1})
    if serving.is_alive():
        _end_what_waits_for(daemon)
    serving.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
