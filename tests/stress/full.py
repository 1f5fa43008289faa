"""Full: the local disk of a device fills up while programs write, and the server is away."""

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.stress.loads import SEND_SECONDS, Sizes
from tests.stress.options import OPTION_SETS
from tests.stress.result import Result
from tests.stress.stage import Stage

MIB: Final = 1 << 20
DISK_BYTES: Final = 48 * MIB
WRITERS: Final = 3
REFUSALS: Final = 20
FILES: Final = 300


def full_disk(stage: Stage, options: str, sizes: Sizes) -> Iterator[Result]:
    """What was closed is whole while the disk is full, after a kill, and on the server when that is back."""
    if os.geteuid():
        yield Result("full disk", options, "", 0.0, "needs root, to mount a small disk")
        return
    disk = stage.home / "device-0"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", disk], check=True)
    device = stage.device(*OPTION_SETS[options])
    device.expects("Logging error", "Traceback", "No space left", "took no more", "not kept")
    device.umount()
    device.configure(free_floor_bytes=0).mount(*device.options)
    (device.path / "first").touch()
    device.wait()
    stage.server.stop()
    began = time.monotonic()
    closed, refused = _fill(device.path)
    problems = [f"a write failed by {os.strerror(number)}" for number in refused - {errno.ENOSPC}]
    problems += ["the disk did not fill"] if not refused else []
    problems += [f"{path.name} is not whole on the full disk" for path, content in closed if not _is(path, content)]
    device.kill()
    # A start needs a little room.
    subprocess.run(["mount", "-o", f"remount,size={4 * DISK_BYTES}", disk], check=True)
    device.mount(*device.options)
    problems += [f"{path.name} is not whole after a kill" for path, content in closed if not _is(path, content)]
    stage.server.start()
    device.wait(timeout=SEND_SECONDS)
    other = stage.device()
    there = [(other.path / path.name, content) for path, content in closed]
    problems += [f"{path.name} is not whole on a second device" for path, content in there if not _is(path, content)]
    device.umount()
    stage.devices.remove(device)
    subprocess.run(["umount", disk], check=True)
    outcome = "\n".join(["something was lost", *problems[:20]]) if problems else "nothing promised was lost"
    amount = f"{len(closed):,} files closed, then ENOSPC"
    yield Result("full disk", options, amount, time.monotonic() - began, outcome, is_well=not problems)


def _is(path: Path, content: bytes) -> bool:
    return path.read_bytes() == content


def _fill(top: Path) -> tuple[list[tuple[Path, bytes]], set[int]]:
    """Files whose close() said that all is well, and the errors of the others."""
    closed: list[tuple[Path, bytes]] = []
    refused: list[int] = []

    def write(number: int) -> None:
        for count in range(FILES):
            path, content = top / f"file-{number}-{count}", os.urandom(1 + count * 7_919 % (2 * MIB))
            try:
                with path.open("wb", buffering=0) as file:
                    for offset in range(0, len(content), 100_000):
                        file.write(content[offset : offset + 100_000])
            except OSError as error:
                refused.append(error.errno or 0)
                if len(refused) > REFUSALS:
                    return
            else:
                closed.append((path, content))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return closed, set(refused)
