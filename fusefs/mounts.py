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
_PROBE_SECONDS: Final = 10.0
_UNMOUNT_SECONDS: Final = 30.0


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


class Busy(Exception):
    """The mount is in use and was left as it is."""


def mounts() -> list[Mount]:
    """Everything that is mounted, in the order of mounting."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, source = right.split(" ")[:2]
            found.append(Mount(_plain(left.split(" ")[4]), kind, _plain(source)))
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


def pulse(folder: str) -> Pulse:
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
        _, said = probe.communicate(timeout=_PROBE_SECONDS)
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
    """Takes away what killed daemons of Satchel left mounted there; returns how many there were."""
    count = 0
    while is_ours_at(folder) and pulse(folder) is Pulse.DEAD:
        unmount(folder, is_lazy=True)
        count += 1
    return count


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
