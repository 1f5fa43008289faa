"""Running: programs as people run them, at work in the mount, and what must be true when they are done."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.mounted.conftest import Device
from tests.mounted.trees import differences, entries

SECONDS = 240.0
SEND_SECONDS = 180.0


def run(
    *command: str | Path,
    folder: Path | None = None,
    text: str | None = None,
    variables: Mapping[str, str | Path] | None = None,
) -> str:
    """What a program prints; it must succeed."""
    result = subprocess.run(
        command,
        cwd=folder,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={**os.environ, "LC_ALL": "C.UTF-8", **{key: str(value) for key, value in (variables or {}).items()}},
    )
    line = " ".join(map(str, command))
    assert result.returncode == 0, f"{line}: {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def mounted_cold(device: Device) -> None:
    """Sends everything and mounts anew with nothing in the cache: what is read now comes from the server."""
    device.wait(timeout=SEND_SECONDS)
    device.umount()
    device.forget_cache()
    device.mount(*device.options)


def is_kept(device: Device, top: Path) -> None:
    """Fails unless a tree in the mount is the same after a cold mount."""
    before = entries(top)
    mounted_cold(device)
    found = differences(before, entries(top))
    assert not found, "\n".join(found)
