"""What `du` and `stat` tell of space: what of a file lies on this machine, and never that nothing is in it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

MIB = 1 << 20


def taken(path: Path) -> int:
    """Bytes that stat(2) says a file takes here, as the daemon knows it now."""
    told = subprocess.run(
        ["stat", "--cached=never", "--format=%b", "--", path], capture_output=True, text=True, check=True
    )
    return int(told.stdout) * 512


def test_blocks_are_what_lies_on_this_machine(device: Any, tmp_path: Path) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.path.joinpath("big").write_bytes(os.urandom(20 * MIB))
    desk.path.joinpath("tiny").write_bytes(b"x")
    assert (taken(desk.path / "big"), taken(desk.path / "tiny")) == (20 * MIB, 512)
    desk.in_step(laptop)
    assert until(lambda: taken(desk.path / "big") == 20 * MIB), "sent, and still here"
    there = laptop.path / "big"
    assert there.stat().st_blocks == 1, "nothing of it is there, and yet it is not empty"
    with open(there, "rb") as file:
        os.pread(file.fileno(), 4096, 10 * MIB)
        assert until(lambda: 4096 <= taken(there) < 20 * MIB), "a part of it"
        while file.read(MIB):
            pass
    assert until(lambda: there.stat().st_blocks * 512 == 20 * MIB), "the kernel is told when it was closed"
    du = subprocess.run(["du", "--bytes", "--summarize", laptop.path], capture_output=True, text=True, check=True)
    assert int(du.stdout.split()[0]) == 20 * MIB + 1


def test_a_listing_tells_what_lies_on_this_machine_by_now(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.path.joinpath("file").write_bytes(os.urandom(100_000))
    desk.in_step(laptop)
    there = laptop.path / "file"

    def listed() -> int:
        # Its attributes come with its name.
        os.listdir(laptop.path)
        return there.stat().st_blocks * 512

    assert listed() == 512, "nothing of it is there"
    assert len(there.read_bytes()) == 100_000
    assert until(lambda: listed() >= 100_000)
    desk.path.joinpath("file").write_bytes(b"short")
    desk.in_step(laptop)
    os.listdir(laptop.path)
    assert there.stat().st_size == 5
    there.chmod(0o600)
    os.listdir(laptop.path)
    assert there.stat().st_mode & 0o777 == 0o600


def test_a_sparse_file_takes_what_was_written_to_it(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    path = desk.path / "sparse"
    path.touch()
    os.truncate(path, 5 << 30)
    assert path.stat().st_blocks == 1
    with open(path, "r+b") as file:
        file.seek(1 << 30)
        file.write(os.urandom(300_000))
    assert 300_000 <= taken(path) <= 400_000
    desk.in_step(laptop)
    assert until(lambda: 300_000 <= taken(path) <= 2 * MIB), "holes are not sent, and take nothing"
    with open(laptop.path / "sparse", "rb") as file:
        file.seek(1 << 30)
        assert len(file.read(300_000)) == 300_000
    assert 300_000 <= taken(laptop.path / "sparse") <= 2 * MIB
    assert int(os.getxattr(laptop.path / "sparse", "user.satchel.cached_bytes")) >= (5 << 30) - 2 * MIB, (
        "what is zeros needs nobody"
    )


def test_blocks_of_what_is_written_over_grow_with_it(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.path.joinpath("file").write_bytes(os.urandom(10 * MIB))
    desk.in_step(laptop)
    there = laptop.path / "file"
    with open(there, "r+b") as file:
        file.write(os.urandom(MIB))
    assert MIB <= taken(there) < 3 * MIB, "the rest is on the server"


@pytest.mark.parametrize(
    "copy",
    [
        lambda source, target: ["cp", "--sparse=auto", source, target],
        lambda source, target: ["cp", "--sparse=always", source, target],
        lambda source, target: ["rsync", "--sparse", source, target],
        lambda source, target: [
            "sh",
            "-c",
            f"tar -C {source.parent} -Scf - {source.name} | tar -C {target.parent} -xf -",
        ],
    ],
    ids=["cp", "cp --sparse=always", "rsync", "tar -S"],
)
def test_sparse_copies_of_what_is_not_here_are_whole(
    device: Any, tmp_path: Path, copy: Callable[[Path, Path], list[str | Path]]
) -> None:
    desk, laptop = device("desk"), device("laptop")
    content = os.urandom(2 * MIB) + bytes(8 * MIB) + os.urandom(MIB)
    desk.path.joinpath("file").write_bytes(content)
    desk.in_step(laptop)
    subprocess.run(copy(laptop.path / "file", tmp_path / "file"), check=True)
    assert (tmp_path / "file").read_bytes() == content
    # The same of a file that is being written: the kernel tells what it was told when it was empty.
    with open(desk.path / "open", "wb") as file:
        file.write(content)
        file.flush()
        (tmp_path / "open").unlink(missing_ok=True)
        subprocess.run(copy(desk.path / "open", tmp_path / "open"), check=True)
    assert (tmp_path / "open").read_bytes() == content
