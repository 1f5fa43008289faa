"""Confined: content that nobody vouches for is read by a process that can do nothing else, one for each file.

It is started with nothing but the content and a pipe for what it makes of it, and gives up the rest itself before it
looks at the content (`inside.py`). Whatever takes it over may lie about this one file, and nothing more.
"""

import fcntl
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from signal import SIGXCPU
from typing import Final, Protocol

from remote.server.jobs.following import Stopped
from remote.server.jobs.inside import NO_MEMORY, NOT_CONFINED, UNREADABLE
from remote.server.jobs.tasks.trying import NOT_REFUSED, REFUSED

CONTENT_MAX: Final = 64 << 20
"""Bytes of content that are taken: they are in memory until the process ends."""
_PIECE: Final = 1 << 16
_TOLD_MAX: Final = 500
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Refused(Exception):
    """Nothing came of the content; `str()` says why, in words for the file's owner."""


class Unreadable(Refused):
    """The content is not what the task reads."""


class TooMuch(Refused):
    """The content, or what is made of it, needs more time, memory or room than it may have."""


class NotConfined(Exception):
    """This machine cannot confine a process, so nothing of the kind may run; `str()` says why."""


@dataclass(frozen=True)
class Limits:
    """What one file may take; `seconds` by the clock, `cpu_seconds` of a processor."""

    memory_bytes: int = 768 << 20
    cpu_seconds: int = 20
    seconds: float = 40.0
    output_bytes: int = 8 << 20


class Channel(Protocol):
    """What answers a process that asks for content, instead of giving it all at once."""

    @property
    def theirs(self) -> int:
        """The descriptor that is the process's input."""

    def fileno(self) -> int:
        """The descriptor that can be read when the process asks."""

    def answer(self) -> None:
        """Answers once, without waiting for the process; what it raises ends the process."""


class Confined:
    """Runs tasks, one at a time; from a thread, as it waits."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def run(self, task: str, content: Iterable[bytes | bytearray | memoryview], *arguments: str) -> bytes:
        """What a module of `tasks` makes of the content; raises Refused, NotConfined, and Stopped after `close`."""
        memory = _memory_of(content)
        try:
            return self._run(task, memory, arguments)
        finally:
            os.close(memory)

    def run_asking(self, task: str, channel: Channel, *arguments: str) -> bytes:
        """The same of a content that the task asks for; raises what the channel does, too, which is not closed."""
        return self._run(task, channel.theirs, arguments, channel)

    def close(self) -> None:
        """Ends what runs, at once; nothing is run any more."""
        with self._lock:
            self._is_closed = True
            if self._running is not None:
                self._running.kill()

    def check(self) -> None:
        """Raises NotConfined unless the attempts to get out that we know of are refused here."""
        for attempt in REFUSED:
            try:
                told = self.run("trying", (), attempt)
            except Refused as error:
                raise NotConfined(f"A confined process does not work here: {error}") from error
            if told == NOT_REFUSED:
                raise NotConfined(f"A confined process is not confined here: it could {attempt.replace('-', ' ')}.")

    def _run(self, task: str, standard_input: int, arguments: tuple[str, ...], channel: Channel | None = None) -> bytes:
        limits = self._limits
        words = [task, str(limits.memory_bytes), str(limits.cpu_seconds), *arguments]
        with self._lock:
            if self._is_closed:
                raise Stopped
            process = self._running = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-m", "remote.server.jobs.inside", *words],
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        try:
            output = _output_of(process, limits, channel)
        finally:
            process.kill()
            code = process.wait()
            with self._lock:
                self._running = None
                is_closed = self._is_closed
        if is_closed:
            raise Stopped
        return _judged(code, output)


def _memory_of(content: Iterable[bytes | bytearray | memoryview]) -> int:
    """The content in memory, as a descriptor that can be read from any place and not be written to."""
    descriptor = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        size = 0
        for piece in content:
            size += len(piece)
            if size > CONTENT_MAX:
                raise TooMuch(f"It has more than {CONTENT_MAX >> 20} MiB.")
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _output_of(process: "subprocess.Popen[bytes]", limits: Limits, channel: Channel | None) -> bytes:
    """All that the process says until it closes its end; raises TooMuch. The process may still run."""
    assert process.stdout is not None
    deadline = time.monotonic() + limits.seconds
    output = bytearray()
    with process.stdout as pipe, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if channel is not None:
            selector.register(channel, selectors.EVENT_READ)
        while True:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            # Whoever asks again and again always has something ready.
            if not ready or time.monotonic() > deadline:
                raise TooMuch(f"It takes longer than {limits.seconds:.0f} seconds.")
            if channel is not None and any(key.fileobj is channel for key, _ in ready):
                channel.answer()
                continue
            piece = os.read(pipe.fileno(), _PIECE)
            if not piece:
                break
            output += piece
            if len(output) > limits.output_bytes:
                raise TooMuch("More comes of it than is taken.")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TooMuch(f"It takes longer than {limits.seconds:.0f} seconds.") from None
    return bytes(output)


def _judged(code: int, output: bytes) -> bytes:
    """The output of a process that ended well; raises Refused or NotConfined for any other."""
    if code == 0:
        return output
    # Whoever took the process over may have written this, and it comes to a terminal.
    told = "".join(letter if letter.isprintable() else "?" for letter in output.decode(errors="replace")[:_TOLD_MAX])
    if code == UNREADABLE:
        raise Unreadable(f"It cannot be read: {told}")
    if code == NO_MEMORY:
        raise TooMuch("It needs more memory than it may have.")
    if code == -SIGXCPU:
        raise TooMuch("It takes more of the processor than it may have.")
    if code == NOT_CONFINED:
        raise NotConfined(told)
    raise Unreadable(f"What reads it ended {f'with signal {-code}' if code < 0 else f'with code {code}'}.")
