"""Loads: the exerciser and the twins of this project, fio with verify, and stress-ng for files with --verify."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mounted.conftest import Device
from tests.stress.exerciser import Exerciser, Mismatch
from tests.stress.options import OPTION_SETS
from tests.stress.result import Result
from tests.stress.stage import Stage
from tests.stress.twins import Twins

SEND_SECONDS: Final = 600.0
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    steps: int
    seconds: int
    megabytes: int
    kills: int
    seed: int


def exercise(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """The exerciser, while a second device looks at what is sent."""
    began = time.monotonic()
    exerciser = Exerciser(stage.device(*OPTION_SETS[options]), sizes.seed, other=stage.device())
    amount = f"{sizes.steps:,} steps"
    try:
        exerciser.run(sizes.steps)
    except Mismatch as mismatch:
        yield Result("exerciser", options, amount, time.monotonic() - began, str(mismatch), is_well=False)
    else:
        yield Result("exerciser", options, amount, time.monotonic() - began, "all equal")


def beside_a_disk(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """Random programs in a drive and in a local folder."""
    if os.geteuid() != 0:
        yield Result("twins", options, "", 0.0, "only root can act as others")
        return
    began = time.monotonic()
    device, other = (stage.device(*OPTION_SETS[options]) for _ in range(2))
    amount = f"{sizes.steps:,} calls"
    try:
        Twins(device, stage.local, sizes.seed, has_owners="owners" in options, other=other).run(sizes.steps)
    except Mismatch as mismatch:
        yield Result("twins", options, amount, time.monotonic() - began, str(mismatch), is_well=False)
    else:
        yield Result("twins", options, amount, time.monotonic() - began, "all alike")


JOBS: Final = {
    "randwrite": ("--rw=randwrite", "--bs=4k", "--ioengine=psync"),
    "randrw, any size and place": ("--rw=randrw", "--bsrange=512-64k", "--bs_unaligned", "--ioengine=psync"),
    "randrw, mmap": ("--rw=randrw", "--bs=4k", "--ioengine=mmap"),
    "randwrite, O_DIRECT": ("--rw=randwrite", "--bs=4k", "--ioengine=libaio", "--iodepth=16", "--direct=1"),
    "randrw, 4 jobs, fsync": ("--rw=randrw", "--bs=16k", "--ioengine=psync", "--numjobs=4", "--fsync=64"),
    "randrw, 2 jobs, O_DIRECT": (
        "--rw=randrw",
        "--bs=8k",
        "--ioengine=libaio",
        "--iodepth=8",
        "--direct=1",
        "--numjobs=2",
    ),
}
SMALL_CACHE_MEGABYTES: Final = 2
"""Size of fio's files where all of them must find room in the smallest cache."""


def fio(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """Each job writes and verifies; those that write only are verified again from the server."""
    if shutil.which("fio") is None:
        yield Result("fio", options, "", 0.0, "not installed: apt-get install fio")
        return
    device = stage.device(*OPTION_SETS[options])
    size = SMALL_CACHE_MEGABYTES if "small" in options else sizes.megabytes
    for number, (name, job) in enumerate(JOBS.items()):
        folder = device.path / f"job-{number}"
        folder.mkdir()
        yield _fio(stage, folder, name, options, size, sizes.seed, job)
        device.wait(timeout=SEND_SECONDS)
    device.umount()
    device.forget_cache()
    device.mount(*device.options)
    for number, (name, job) in enumerate(JOBS.items()):
        if "--rw=randwrite" in job:
            again = (*job, "--verify_only=1")
            cold = f"{name}, again from the server"
            yield _fio(stage, device.path / f"job-{number}", cold, options, size, sizes.seed, again)


def _fio(stage: Stage, folder: Path, name: str, options: str, size: int, seed: int, job: tuple[str, ...]) -> Result:
    usual = ("--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=1", "--group_reporting")
    began = time.monotonic()
    command = ["fio", "--name=file", f"--directory={folder}", f"--size={size}m", f"--randseed={seed}", *usual, *job]
    done = subprocess.run(command, cwd=stage.local, capture_output=True, text=True, check=False)
    is_well = done.returncode == 0 and "verify:" not in done.stderr
    outcome = "crc32c of all blocks right" if is_well else f"exit {done.returncode}\n{done.stderr[-2_000:]}"
    return Result(f"fio {name}", options, f"{size} MiB a job", time.monotonic() - began, outcome, is_well)


STRESSORS: Final = """
access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify fallocate fanotify fcntl fiemap file-ioctl
filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify iomix lease link locka lockf lockofd metamix
mknod mmap mmapfork mmapmany msync open readahead rename revio seek sendfile splice symlink sync-file touch utime verity
xattr
"""
"""All for files but `io`, which holds and syncs every mount of the machine, and a few that mount or ask of devices."""
BOUNDS: Final = {
    # By time it reports a file longer than RLIMIT_FSIZE: when time is up, its own fallocate writes nothing and says 0.
    "fsize": ("--fsize-ops", "100", "--timeout", "60"),
}
SYNCFS_MAY_SAY: Final = {
    # It writes up to 2^62, which the kernel takes, and hands to the daemon when it writes back: beyond 16 TiB.
    "fsize": {errno.EFBIG},
    # It kills programs in unlink(2); SEMANTICS.md, "Not offered", says what the kernel makes of that.
    "fanotify": {errno.EINTR, errno.EIO},
}


def stressors(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """Each stressor of stress-ng that works on files; afterwards nothing is left, and nothing was lost on the way."""
    if shutil.which("stress-ng") is None:
        yield Result("stress-ng", options, "", 0.0, "not installed: apt-get install stress-ng")
        return
    device = stage.device(*OPTION_SETS[options])
    folder = device.path / "stressed"
    folder.mkdir()
    for name in STRESSORS.split():
        yield _stress(device, folder, name, options, sizes.seconds)
    device.wait(timeout=SEND_SECONDS)


def _stress(device: Device, folder: Path, name: str, options: str, seconds: int) -> Result:
    bounds = ("--hdd-bytes", "2m", "--iomix-bytes", "2m", "--mmap-bytes", "2m", "--revio-bytes", "2m")
    began = time.monotonic()
    command = ["stress-ng", f"--{name}", "2", "--timeout", str(seconds), "--verify", "--metrics-brief"]
    done = subprocess.run(
        [*command, "--temp-path", folder, *bounds, *BOUNDS.get(name, ())],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    took = time.monotonic() - began
    said = done.stdout + done.stderr
    wrong = [line for line in said.splitlines() if re.search(r"stress-ng: (fail|error)", line)]
    left = sorted(os.listdir(folder))
    shutil.rmtree(folder)
    folder.mkdir()
    if "unrecognized option" in said:
        return Result(f"stress-ng {name}", options, "", took, "not in this version of stress-ng")
    # What the kernel could not write back, it tells here.
    fd = os.open(folder, os.O_RDONLY)
    if _LIBC.syncfs(fd) and ctypes.get_errno() not in SYNCFS_MAY_SAY.get(name, ()):
        wrong.append(f"syncfs: {os.strerror(ctypes.get_errno())}")
    os.close(fd)
    if left:
        wrong.append(f"left behind: {left[:5]}")
    if "skipped" in said and not wrong:
        return Result(f"stress-ng {name}", options, "", took, "skips itself here")
    found = re.findall(rf"^stress-ng: (?:metrc|info):.*\] {name} +(\d+)", said, re.MULTILINE)
    amount = f"{int(found[0]):,} operations" if found else ""
    if done.returncode or wrong:
        outcome = "; ".join([f"exit {done.returncode}", *wrong[:4]])
        return Result(f"stress-ng {name}", options, amount, took, outcome, is_well=False)
    return Result(f"stress-ng {name}", options, amount, took, "passed")
