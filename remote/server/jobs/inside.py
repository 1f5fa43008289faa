"""Inside: the main of a confined process: python -I -m remote.server.jobs.inside TASK MEMORY CPU [ARGUMENT ...].

Loads the task (a module of ours), gives up everything, and only then looks at the content, which is standard input.
What the task makes of it goes to standard output; exit code 0. Else what went wrong does, with one of the codes below.
"""

import contextlib
import importlib
import io
import os
import resource
import sys
from ctypes import CDLL
from typing import Final, NoReturn, Protocol, cast

from remote.server.jobs.seccomp import CannotConfine, confine

UNREADABLE, NO_MEMORY, NOT_CONFINED = 3, 4, 5
"""Exit codes: the content is not what the task reads; it needs too much memory; this machine cannot confine."""
TASKS: Final = "remote.server.jobs.tasks."
"""Modules that may be tasks lie there."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _SIGKILL = 1, 4, 9
_NOBODY: Final = 65_534
_REASON_MAX: Final = 500


class Task(Protocol):
    """A module in `tasks`: it imports all it needs when it is loaded, for later nothing can be opened."""

    def work(self, content: io.RawIOBase, arguments: list[str]) -> bytes:
        """What is asked for of the content; raises whatever it likes for content that it cannot read."""


def main() -> None:
    """Does the task and ends the process."""
    name, memory, cpu_seconds, *arguments = sys.argv[1:]
    # A module has what the protocol asks for as functions.
    task = cast(Task, importlib.import_module(TASKS + name))
    content = io.FileIO(0, "rb")
    try:
        _give_up(int(memory), int(cpu_seconds))
    except (CannotConfine, OSError, ValueError) as error:
        _end(str(error).encode(), NOT_CONFINED)
    try:
        made = task.work(content, arguments)
    except MemoryError:
        _end(b"it needs too much memory", NO_MEMORY)
    except Exception as error:  # noqa: BLE001 - what a parser raises for what somebody else wrote is its own affair
        _end(f"{type(error).__name__}: {error}"[:_REASON_MAX].encode(errors="replace"), UNREADABLE)
    _end(made, 0)


def _give_up(memory: int, cpu_seconds: int) -> None:
    """Leaves this process time, memory, its input and its output."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    library = CDLL(None, use_errno=True)
    # After the change of user, which takes it away: who started it must not leave it behind.
    library.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_AS, memory),
    ):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    confine()


def _end(told: bytes, code: int) -> NoReturn:
    """Says it and ends at once: nothing is tidied up that could be in the hands of somebody else."""
    with contextlib.suppress(OSError):
        at = 0
        while at < len(told):
            at += os.write(1, told[at:])
    os._exit(code)


if __name__ == "__main__":
    main()
