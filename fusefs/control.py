"""Control: how a command asks the daemon: one line of JSON each way on a Unix socket. Standard library only.

The asking side lies here, for commands must start fast; the answering side is `fusefs.verbs`. A request is
`{"verb": ..., ...}`, an answer `{"ok": ...}` or `{"error": sentence, "code": exit code}`. Paths travel as JSON strings
in which bytes that are no UTF-8 stand as lone surrogates, as os.fsdecode makes them.
"""

import enum
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

CREDENTIALS: Final = struct.Struct("3i")
"""Of who is at the other end of a Unix socket: process, user, group."""
REQUEST_MAX: Final = 64 << 10
ANSWER_MAX: Final = 64 << 20
SECONDS_MOST: Final = 3_650 * 86_400
"""The longest time that a person may ask for."""
ASK_SECONDS: Final = 30.0


class Exit(enum.IntEnum):
    """What the exit code of a command says."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_MOUNTED = 3
    SIGN_IN = 4
    UNREACHABLE = 5
    PENDING = 6


class Refused(Exception):
    """It cannot be done: a sentence for a person, and the exit code of the command."""

    def __init__(self, sentence: str, code: int = Exit.FAILURE) -> None:
        super().__init__(sentence)
        self.code = code


class NoDaemon(Refused):
    """No daemon of this device runs."""

    def __init__(self) -> None:
        super().__init__("Satchel is not mounted on this device. Mount it: satchel mount DIR", Exit.NOT_MOUNTED)


class DaemonEnded(Refused):
    """The daemon ended while it was asked."""

    def __init__(self) -> None:
        super().__init__("The daemon ended before it answered; its log says why. Mount again: satchel mount DIR")


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """The path of a socket by a descriptor of its folder: the system takes at most 107 bytes, a home may be deeper."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


# What the verbs answer is JSON of many shapes: each asker knows its own.
def ask(address: Path, verb: str, /, *, seconds: float | None = ASK_SECONDS, **fields: object) -> Any:
    """What the daemon answers; raises NoDaemon, Refused. `seconds` None waits for as long as the daemon lives."""
    request = json.dumps({"verb": verb, **fields}).encode() + b"\n"
    if len(request) > REQUEST_MAX:
        raise Refused("The request is too long: a path of this length is not possible.", Exit.USAGE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            with short_path(address) as short:
                connection.connect(short)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise NoDaemon from None
        except OSError as error:
            raise Refused(f"The daemon cannot be asked at {address}: {error.strerror or error}.") from error
        if is_gone(_peer(connection)):
            raise NoDaemon
        try:
            connection.sendall(request)
            line = _line(connection)
        except TimeoutError:
            raise Refused(
                f"The daemon did not answer within {seconds:.0f} s. See `satchel doctor`; your files are safe where "
                "they are."
            ) from None
        except (BrokenPipeError, ConnectionResetError):
            line = b""
    if not line:
        raise DaemonEnded
    answer = json.loads(line)
    if "error" in answer:
        # A name in it may have lines; what the daemon says has one.
        raise Refused(str(answer["error"]).replace("\n", "\\n"), int(answer.get("code", Exit.FAILURE)))
    return answer["ok"]


def is_gone(process: int) -> bool:
    """Whether a process has ended, or was killed and is only kept by a thread that waits in the kernel."""
    if not process:  # not of what this process can see
        return False
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


def _peer(connection: socket.socket) -> int:
    """The process that listens there: one that was killed may be kept by the kernel, and its socket with it."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(said)[0])


def _line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := connection.recv(1 << 16):
        parts.append(part)
        size += len(part)
        if part.endswith(b"\n"):
            return b"".join(parts)
        if size > ANSWER_MAX:
            raise Refused("The daemon's answer is too long.")
    return b""
