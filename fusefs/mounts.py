"""Mounts: what the kernel has mounted where, whether it still answers, and how to unmount it; standard library only."""

import enum
import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FS_TYPE: Final = "fuse.satchel"
CONNECTIONS = Path("/sys/fs/fuse/connections")
"""Where the kernel lets whoever mounted end a connection."""
_PROBE_SECONDS: Final = 10.0
_PROBE_WITHOUT_DAEMON_SECONDS: Final = 2.0
_UNMOUNT_SECONDS: Final = 30.0
_MNT_FORCE: Final = 1


class Pulse(enum.Enum):
    """Whether somebody answers for a mount."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    """Its daemon is gone: every access fails at once."""
    SILENT = enum.auto()
    """Its daemon is there, and does not answer."""


@dataclass(frozen=True)
class Mount:
    """One line of the kernel's list."""

    point: str
    type: str
    source: str
    number: int
    """Of its file system: the name of its connection, too."""


class Busy(Exception):
    """The mount is in use and was left as it is."""


class Stuck(OSError):
    """Its daemon was killed, and waits in the kernel for an answer of its own; only root can end that here."""

    def __init__(self, point: str) -> None:
        super().__init__(
            errno.EPERM,
            f"its daemon was killed and waits in the kernel, and {CONNECTIONS} is not there to end it. As root: umount "
            f"--force {point}",
        )


def mounts() -> list[Mount]:
    """Everything that is mounted, in the order of mounting."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, source = right.split(" ")[:2]
            words = left.split(" ")
            found.append(Mount(_plain(words[4]), kind, _plain(source), int(words[2].partition(":")[2])))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_at(folder: str) -> Mount | None:
    """What is mounted exactly there, the topmost; None when nothing is."""
    for mount in reversed(mounts()):
        if mount.point == folder:
            return mount
    return None


def is_ours_at(folder: str) -> bool:
    """Whether a mount of Satchel, alive or dead, is the topmost there."""
    present = mount_at(folder)
    return present is not None and present.type == FS_TYPE


def ours() -> list[Mount]:
    """Mounts of Satchel, of every device on this machine."""
    return [mount for mount in mounts() if mount.type == FS_TYPE]


def real(folder: str) -> str:
    """Where a folder really lies, without asking the folder itself: what is mounted there may not answer."""
    whole = os.path.abspath(folder)
    if os.path.islink(whole):
        return os.path.realpath(whole)
    return os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole)) if whole != "/" else whole


def pulse(folder: str, seconds: float = _PROBE_SECONDS) -> Pulse:
    """Asks what is mounted there; by another process, for who waits for a silent mount may wait for ever."""
    # Attributes may be known to the kernel long after the daemon has died; only free space is always asked for.
    probe = subprocess.Popen(
        ["stat", "--file-system", "--", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        _, said = probe.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        probe.kill()
        return Pulse.SILENT
    if probe.returncode == 0:
        return Pulse.ALIVE
    is_dead = os.strerror(errno.ENOTCONN).encode() in said or os.strerror(errno.ECONNABORTED).encode() in said
    return Pulse.DEAD if is_dead else Pulse.ALIVE


def unmount(folder: str, *, is_lazy: bool = False) -> None:
    """Unmounts; raises Busy when programs use it, OSError when it cannot be unmounted at all."""
    if os.geteuid() == 0:
        command = ["umount", *(["--lazy"] if is_lazy else []), "--", folder]
    else:
        helper = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount3"
        command = [helper, "-u", *(["-z"] if is_lazy else []), "--", folder]
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_UNMOUNT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"{command[0]} did not end") from None
    if result.returncode == 0 or mount_at(folder) is None:
        return
    said = result.stderr.decode(errors="replace").strip()
    if "busy" in said:
        raise Busy(said)
    raise OSError(errno.EPERM, said)


def clear_dead(folder: str) -> int:
    """Takes away what killed daemons of Satchel left mounted there; returns how many there were. Raises Stuck."""
    count = 0
    while (mount := mount_at(folder)) is not None and mount.type == FS_TYPE and _is_dead(mount):
        unmount(folder, is_lazy=True)
        count += 1
    return count


def _is_dead(mount: Mount) -> bool:
    """Whether nobody answers any more; what waits in the kernel for a daemon that was killed is ended."""
    if has_daemon(mount.point):
        return pulse(mount.point) is Pulse.DEAD
    found = pulse(mount.point, _PROBE_WITHOUT_DAEMON_SECONDS)
    if found is Pulse.SILENT and not has_daemon(mount.point):
        if not abort(mount):
            raise Stuck(mount.point)
        found = pulse(mount.point, _PROBE_WITHOUT_DAEMON_SECONDS)
    return found is Pulse.DEAD


def abort(mount: Mount) -> bool:
    """Ends the connection of a mount: what waits for it fails, and whatever is asked. Whether that could be done.

    A killed daemon of which a thread waits in the kernel, for a folder that a program holds while it waits for the
    daemon, keeps its connection for ever otherwise.
    """
    try:
        (CONNECTIONS / str(mount.number) / "abort").write_text("1")
    except OSError:
        # What keeps these files may not be mounted itself; root need not have it.
        present = mount_at(mount.point)
        if os.geteuid() != 0 or present is None or present.number != mount.number:
            return False
        import ctypes  # noqa: PLC0415 - every command imports this module, and hardly any needs that

        ctypes.CDLL(None).umount2(os.fsencode(mount.point), _MNT_FORCE)
    return True


def has_daemon(point: str) -> bool:
    """Whether a daemon for this folder runs; one that was killed and cannot end does not count."""
    wanted = os.fsencode(point)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"fusefs.daemon" in words and wanted in words:
                return True
    return False


def users(folder: str, limit: int = 10) -> list[str]:
    """Programs that hold something below a folder, as "name (process id)"; only those that this user may see."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid() and _uses(process, folder):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            found.append(f"{name} ({process.name})")
            if len(found) >= limit:
                break
    return found


def _uses(process: Path, folder: str) -> bool:
    links = [process / "cwd", process / "root", process / "exe"]
    try:
        links += (process / "fd").iterdir()
    except OSError:
        return False
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == folder or target.startswith(folder.rstrip("/") + "/"):
            return True
    return False
