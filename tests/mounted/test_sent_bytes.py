"""What a change of stored content sends, through a real mount, with everything counted that goes over the wire.

SATCHEL_DELTA_MIB=1024 makes the files as large as the promises name them; usually they are smaller.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytestmark = pytest.mark.mounted

KIB, MIB = 1 << 10, 1 << 20
SIZE = int(os.environ.get("SATCHEL_DELTA_MIB", "24")) * MIB


def stored(device: Any, size: int = SIZE) -> tuple[Any, Path]:
    """A device with a file that the server has."""
    desk = device("desk")
    file: Path = desk.path / "document"
    with file.open("wb") as out:
        for number in range(size // MIB):
            out.write(Random(number).randbytes(MIB))
    desk.wait(timeout=300)
    return desk, file


def sent_by(desk: Any, change: Callable[[], object]) -> int:
    """Bytes that go out until the server has what `change` does."""
    before = desk.stats()["sent_bytes"]
    change()
    desk.wait(timeout=300)
    return int(desk.stats()["sent_bytes"] - before)


def with_a_paragraph_changed(content: bytes, seed: int) -> bytes:
    middle = len(content) // 2 + seed
    return content[:middle] + Random(seed).randbytes(700) + content[middle + 500 :]


def test_4_kib_written_over_in_the_middle_sends_less_than_64_kib(device: Any) -> None:
    desk, file = stored(device)

    def overwrite() -> None:
        with file.open("r+b") as out:
            out.seek(SIZE // 2)
            out.write(Random(0).randbytes(4 * KIB))

    assert sent_by(desk, overwrite) < 64 * KIB


def test_a_byte_inserted_at_the_front_sends_less_than_two_chunks(device: Any) -> None:
    desk, file = stored(device)
    content = file.read_bytes()
    assert sent_by(desk, lambda: file.write_bytes(b"x" + content)) < 2 * MIB
    assert file.read_bytes() == b"x" + content


def _saved_by_rename(file: Path, content: bytes) -> None:
    fresh = file.with_name(".document.tmp")
    with fresh.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(file)


@pytest.mark.parametrize("save", [Path.write_bytes, _saved_by_rename], ids=["in its place", "by rename"])
def test_a_save_with_one_paragraph_changed_sends_less_than_256_kib(device: Any, save: Any) -> None:
    desk, file = stored(device)
    content = file.read_bytes()
    for seed in (1, 2):
        content = with_a_paragraph_changed(content, seed)
        assert sent_by(desk, lambda: save(file, content)) < 256 * KIB  # noqa: B023 - called at once
        assert file.read_bytes() == content
    laptop = device("laptop")
    desk.in_step(laptop)
    assert (laptop.path / "document").read_bytes() == content


def test_what_is_copied_or_moved_sends_no_content(device: Any) -> None:
    desk, file = stored(device)
    folder = desk.path / "folder"
    folder.mkdir()
    assert sent_by(desk, lambda: shutil.copyfile(file, folder / "copy")) < 64 * KIB
    assert sent_by(desk, lambda: file.rename(folder / "moved")) < 16 * KIB
    assert sent_by(desk, lambda: shutil.copytree(folder, desk.path / "copies")) < 128 * KIB
    assert sent_by(desk, lambda: folder.rename(desk.path / "elsewhere")) < 16 * KIB
    assert (desk.path / "elsewhere/moved").read_bytes() == (desk.path / "copies/copy").read_bytes()
