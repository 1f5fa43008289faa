"""Doctor: looks at all that a mount needs; each finding says what to do."""

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fusefs import mounts
from fusefs.cli.asking import daemon, places
from fusefs.cli.showing import shown, word
from fusefs.control import Exit, Refused
from fusefs.mounts import Pulse
from fusefs.settings import Account, Choices, Places, SettingsError, load_account, load_choices
from remote.protocol.sizes import shown_size

_CLOCK_SECONDS: Final = 2.0
_LOG_BYTES: Final = 64 << 10
_INDEXERS: Final = {"tracker-miner-fs-3", "localsearch-3", "baloo_file", "updatedb"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to do, empty when nothing is."""

    subject: str
    is_good: bool
    sentence: str
    advice: str = ""


def doctor(*, as_json: bool) -> int:
    """Prints all findings; returns 1 when one of them keeps a drive from working."""
    findings = list(_all(places()))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = "ok     " if finding.is_good else "PROBLEM"
            print(shown(f"{mark}  {finding.subject:12} {finding.sentence}"))
            if finding.advice:
                print(shown(f"{'':22}{finding.advice}"))
    return Exit.OK if all(finding.is_good for finding in findings) else Exit.FAILURE


def _all(here: Places) -> Iterator[Finding]:
    yield _device(Path("/dev/fuse"))
    yield _helper()
    yield _binding()
    choices = Choices()
    try:
        choices = load_choices(here.choices_file)
        yield Finding("settings", True, f"{here.choices_file}" if here.choices_file.exists() else "the usual ones")
    except SettingsError as error:
        yield Finding("settings", False, str(error))
    account: Account | None = None
    try:
        account = load_account(here.account_file)
        yield _account(account)
    except SettingsError as error:
        yield Finding("account", False, str(error))
    if account is not None:
        yield from _server(account)
    yield _disk("state", here.state, 64 << 20)
    yield _disk("cache", here.cache, choices.free_floor_bytes or 256 << 20)
    yield from _mounts()
    yield _log(here.log_file)
    yield from _indexers()


def _device(device: Path) -> Finding:
    in_container = "In a container, start it with --device /dev/fuse --cap-add SYS_ADMIN."
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding("kernel", False, f"{device} is missing.", f"As root: modprobe fuse. {in_container}")
    except OSError as error:
        return Finding(
            "kernel",
            False,
            f"{device} cannot be opened: {error.strerror}.",
            f"As root: chmod 666 {device}. {in_container}",
        )
    return Finding("kernel", True, f"{device} can be opened")


def _helper() -> Finding:
    install = "As root: apt-get install fuse3"
    path = shutil.which("fusermount3")
    if path is None:
        is_root = os.geteuid() == 0
        return Finding(
            "fusermount3", is_root, "is missing; root can mount without it" if is_root else "is missing.", install
        )
    if os.geteuid() != 0 and not os.stat(path).st_mode & stat.S_ISUID:
        return Finding("fusermount3", False, f"{path} may not mount for you.", f"As root: chmod u+s {path}")
    return Finding("fusermount3", True, path)


def _binding() -> Finding:
    if importlib.util.find_spec("pyfuse3") is None:
        return Finding(
            "pyfuse3", False, "is not installed.", "Install it: packaging/setup, or pip install 'satchel[mount]'"
        )
    # In a process of its own: a library that does not load must not end this one.
    tried = subprocess.run([sys.executable, "-c", "import pyfuse3"], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["for no reason that it gave"])[-1]
        return Finding("pyfuse3", False, f"does not load: {reason}", "Install libfuse3: apt-get install libfuse3-3")
    return Finding("pyfuse3", True, "loads")


def _account(account: Account | None) -> Finding:
    if account is None:
        return Finding("account", False, "This device is not signed in.", "satchel login URL --user NAME")
    return Finding("account", True, f"{account.user_name} at {account.url}, this device is {account.device_name}")


def _server(account: Account) -> Iterator[Finding]:
    import trio  # noqa: PLC0415 - slow to import, and needed only here

    from remote.client.service import connect  # noqa: PLC0415
    from remote.protocol.errors import Disabled, NotSignedIn, RemoteError, Unreachable  # noqa: PLC0415

    async def ask() -> tuple[float, int]:
        async with connect(
            account.url, account.token, deadline_seconds=5.0, allow_insecure=account.allow_insecure
        ) as service:
            await service.spaces()
            began = time.time_ns()
            answer = await service.spaces()
            ended = time.time_ns()
            return (ended - began) / 1e9, answer.now_ns - (began + ended) // 2

    try:
        seconds, ahead_ns = trio.run(ask)
    except Disabled as error:
        yield Finding(
            "server", False, f"{account.url}: {error}", "What is not sent is kept, and sent when it is enabled"
        )
        return
    except NotSignedIn as error:
        yield Finding(
            "server",
            False,
            f"{account.url} does not know this device's sign-in any more: {error}",
            f"satchel login {account.url} --user {account.user_name}; what was not sent is kept and sent then",
        )
        return
    except Unreachable as error:
        yield Finding(
            "server",
            False,
            str(error),
            "Check the network and the server; meanwhile files that are on this device can be read and written",
        )
        return
    except RemoteError as error:
        yield Finding("server", False, f"{account.url}: {error}", "Ask who runs the server")
        return
    yield Finding("server", True, f"{account.url} answers in {seconds * 1000:.0f} ms and knows this device")
    ahead = ahead_ns / 1e9
    if abs(ahead) > _CLOCK_SECONDS + seconds:
        side = "behind" if ahead > 0 else "ahead of"
        yield Finding(
            "clock",
            False,
            f"This machine's clock is {abs(ahead):.0f} s {side} the server's; edits are corrected by that.",
            "Set it: timedatectl set-ntp true",
        )
    else:
        yield Finding("clock", True, f"agrees with the server's to {abs(ahead):.1f} s")


def _disk(subject: str, folder: Path, floor: int) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    sentence = f"{shown_size(free)} free at {folder}"
    if free < floor:
        return Finding(subject, False, f"{sentence}, less than {shown_size(floor)}.", "Make room on this disk")
    if not os.access(there, os.W_OK):
        return Finding(subject, False, f"{folder} cannot be written to.", "Change its owner or set SATCHEL_HOME")
    return Finding(subject, True, sentence)


def _mounts() -> Iterator[Finding]:
    try:
        running = daemon()
    except Refused as error:
        yield Finding("daemon", False, str(error), "End it, then mount again")
        running = None
    if running is not None:
        yield Finding("daemon", True, f"runs as process {running['pid']}, mounted at {running['mount']}")
    for mount in mounts.ours():
        match mounts.pulse(mount.point):
            case Pulse.DEAD:
                yield Finding(
                    "mount",
                    False,
                    f"{mount.point} is left from a daemon that was killed.",
                    "satchel mount {0} mounts over it; satchel umount {0} takes it away".format(word(mount.point)),
                )
            case Pulse.SILENT:
                cure = "See its log; kill its daemon, mount again"
                if not mounts.has_daemon(mount.point):
                    cure = f"Its daemon was killed and waits in the kernel: satchel umount {word(mount.point)} ends it"
                yield Finding("mount", False, f"{mount.point} does not answer.", cure)
            case Pulse.ALIVE:
                yield Finding("mount", True, f"{mount.point} answers")


def _log(file: Path) -> Finding:
    try:
        with open(file, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return Finding("log", True, "nothing yet")
    except OSError as error:
        return Finding("log", False, f"{file} cannot be read: {error.strerror}.", "Change its owner")
    errors = [line for line in lines if " ERROR " in line or " CRITICAL " in line]
    if errors:
        # Something that happened, not something that is: told, and no reason to fail.
        return Finding("log", True, f"{len(errors)} errors lately, the last: {errors[-1]}", f"See {file}")
    return Finding("log", True, f"no errors lately in {file}")


def _indexers() -> Iterator[Finding]:
    running = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                running.add((process / "comm").read_text().strip())
            except OSError:
                continue
    # The kernel cuts names at 15 bytes.
    found = sorted(name for name in _INDEXERS if name[:15] in running)
    if found:
        yield Finding(
            "indexers",
            True,
            f"{', '.join(found)} may read the whole drive, and so fetch all of it",
            "Leave the drive's folder out in their settings",
        )
