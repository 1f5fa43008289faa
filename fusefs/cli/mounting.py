"""Mounting: starts the daemon and returns when the folder can be used, and takes it away again."""

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fusefs import mounts
from fusefs.cli.asking import ask, daemon, places
from fusefs.cli.showing import shown, word
from fusefs.control import DaemonEnded, Exit, NoDaemon, Refused
from fusefs.mounts import Busy, Pulse
from fusefs.settings import Places, load_account

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 60.0
_LOG_LINES: Final = 5
_HEAPS: Final = {
    # Each thread with a heap of its own keeps what chunks took there: sending a large file then took 163 MB, not 107.
    "MALLOC_ARENA_MAX": "2",
    # What a chunk took is kept for the next one: new pages for each cost a tenth of the daemon's time.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}
"""How the C library's memory is set up, unless somebody set it otherwise."""


def mount(folder: str, *, is_foreground: bool, options: str, source: str = "") -> bool:
    """Returns when the folder is mounted and answers, False when it was already; raises Refused.

    With `is_foreground` becomes the daemon. `source`: what to show as the device, "" for the usual.
    """
    here = places()
    here.make()
    if load_account(here.account_file) is None:
        raise Refused("This device is not signed in. Sign in first: satchel login URL --user NAME", Exit.SIGN_IN)
    with _alone(here):
        point = mounts.real(folder)
        if _is_mounted(point):
            return False
        _prepare(point)
        command = [sys.executable, "-m", "fusefs.daemon", point, "--source", source, "-o", options]
        if is_foreground:
            os.environ.update(_environment())
            os.execv(sys.executable, [*command, "--foreground"])  # noqa: S606 - a list of words, no shell
        _start(here, command, point)
    return True


@contextmanager
def _alone(here: Places) -> Iterator[None]:
    """Keeps a second `satchel mount` of this device waiting until this one is done."""
    # Inherited by nobody: when this process becomes the daemon or ends, the lock is gone.
    fd = os.open(here.run / "mounting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refused("Another `satchel mount` of this device has been at it for long.") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _is_mounted(point: str) -> bool:
    """Whether this device is mounted there and answers; raises Refused when it is mounted elsewhere."""
    running = daemon()
    if running is None:
        return False
    if running["mount"] != point:
        raise Refused(
            f"This device is mounted at {running['mount']} already. Unmount that first "
            f"(satchel umount {word(running['mount'])}), or use another SATCHEL_HOME for a second device."
        )
    if not mounts.is_ours_at(point):
        _await_end(point, int(running["pid"]))
        return False
    if mounts.pulse(point) is not Pulse.ALIVE:
        raise Refused(f"{point} is mounted, but does not answer. See `satchel doctor`.")
    return True


def _prepare(point: str) -> None:
    """Makes sure of an empty folder with nothing dead mounted on it; raises Refused."""
    try:
        mounts.clear_dead(point)
        present = mounts.mount_at(point)
        if present is not None and mounts.is_ours_at(point):
            silent = mounts.pulse(point) is Pulse.SILENT
            raise Refused(
                f"{point} is the mount of another device ({present.source})"
                f"{', which does not answer' if silent else ''}. Unmount it first, or choose another folder."
            )
        os.makedirs(point, exist_ok=True)
        entries = os.listdir(point)
    except (FileExistsError, NotADirectoryError):
        raise Refused(f"{point} is a file, and a drive needs a folder. Choose another.") from None
    except OSError as error:
        raise Refused(f"{point} cannot be used ({error.strerror}). Choose another folder.") from error
    except Busy as error:
        raise Refused(f"{point} cannot be freed of a dead mount: {error}") from error
    if entries:
        raise Refused(
            f"{point} is not empty, and mounting would hide what is in it ({os.fsdecode(entries[0])}, ...). "
            "Choose another folder."
        )
    if not os.access(point, os.W_OK):
        raise Refused(f"{point} is not yours to write to, and so cannot be mounted on. Choose another folder.")


def _start(here: Places, command: list[str], point: str) -> None:
    ready, ready_end = os.pipe()
    log = os.open(here.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(ready_end)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, **_environment()},
            pass_fds=(ready_end,),
            start_new_session=True,
        )
    finally:
        os.close(log)
        os.close(ready_end)
    try:
        said = _said(ready)
    finally:
        os.close(ready)
    if said is None:
        process.terminate()
        raise Refused(f"{point} was not ready after {READY_SECONDS:.0f} s.{_log_end(here.log_file)}")
    if not said:
        process.wait(10)
        raise Refused(f"The daemon ended before {point} was ready.{_log_end(here.log_file)}")
    answer: dict[str, Any] = json.loads(said)
    if "error" in answer:
        raise Refused(str(answer["error"]), int(answer["code"]))
    if not mounts.is_ours_at(point) or mounts.pulse(point) is not Pulse.ALIVE:
        raise Refused(f"The daemon is ready, but {point} does not answer.{_log_end(here.log_file)}")
    # It lives on without us: nobody will ask for its end.
    process.returncode = 0


def _environment() -> dict[str, str]:
    """What the daemon must see otherwise than we do: it does not run in our folder, and has many threads."""
    home = os.environ.get("SATCHEL_HOME")
    heaps = {name: os.environ.get(name, value) for name, value in _HEAPS.items()}
    return {**heaps, "SATCHEL_HOME": os.path.abspath(home)} if home else heaps


def _said(ready: int) -> bytes | None:
    """What the daemon says of its start, b"" when it ended, None when it took too long."""
    deadline = time.monotonic() + READY_SECONDS
    said = b""
    while not said.endswith(b"\n"):
        if not select.select([ready], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        part = os.read(ready, 1 << 16)
        if not part:
            return b""
        said += part
    return said


def _log_end(file: Path) -> str:
    try:
        lines = file.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return f" Its log would be {file}."
    return f" The end of its log ({file}):\n" + "\n".join(f"  {line}" for line in lines)


def umount(folder: str, *, is_lazy: bool) -> None:
    """Returns when nothing is mounted there any more and the daemon has ended; raises Refused."""
    point = mounts.real(folder)
    try:
        running = daemon()
        if running is not None and running["mount"] == point:
            _stop(point, int(running["pid"]), is_lazy=is_lazy)
        else:
            _umount_foreign(point, is_lazy=is_lazy)
    except OSError as error:
        raise Refused(f"{point} cannot be unmounted: {error.strerror}") from error
    print(f"{shown(point)} is unmounted.")


def _stop(point: str, process: int, *, is_lazy: bool) -> None:
    try:
        ask("stop", seconds=STOP_SECONDS, lazy=is_lazy)
    except (NoDaemon, DaemonEnded):
        pass
    except Refused as error:
        programs = ", ".join(mounts.users(point))
        if not programs:
            raise
        raise Refused(f"{error} Used by: {programs}.", error.code) from error
    _await_end(point, process)


def _await_end(point: str, process: int) -> None:
    """Returns when the daemon of a mount that was taken away has ended."""
    try:
        ended = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        if not select.select([ended], [], [], STOP_SECONDS)[0]:
            raise Refused(
                f"{point} is unmounted, but its daemon ({process}) still runs after {STOP_SECONDS:.0f} s. "
                "What was closed is safe on this disk."
            )
    finally:
        os.close(ended)


def _umount_foreign(point: str, *, is_lazy: bool) -> None:
    """Unmounts what this device's daemon does not answer for."""
    if not mounts.is_ours_at(point):
        raise Refused(f"Satchel is not mounted at {point}.", Exit.NOT_MOUNTED)
    if mounts.clear_dead(point) and mounts.mount_at(point) is None:
        return
    try:
        mounts.unmount(point, is_lazy=is_lazy)
    except Busy as error:
        programs = ", ".join(mounts.users(point)) or "programs that you may not see"
        raise Refused(
            f"{point} is in use by {programs}. Close them, or: satchel umount --lazy {word(point)}"
        ) from error
