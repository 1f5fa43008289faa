"""The virus scan as devices meet it: an infected file is listed and cannot be read, and everybody is told."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.trees import until
from tests.scanner import EICAR, PATTERN, Scanner, running_scanner

pytestmark = pytest.mark.mounted


@pytest.fixture
def scanner(server: Any) -> Iterator[Scanner]:
    with running_scanner() as running:
        server.options = ("--clamd", running.place)
        server.restart()
        yield running


def is_refused(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return True
    return False


def test_an_infected_file_is_listed_and_read_by_nobody(scanner: Scanner, server: Any, device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    large = os.urandom(3 << 20) + PATTERN + os.urandom(3 << 20)
    (desk.path / "work").mkdir()
    (desk.path / "work/eicar.com").write_bytes(EICAR)
    (desk.path / "work/large").write_bytes(large)
    (desk.path / "work/clean.txt").write_text("clean")
    desk.in_step(laptop)
    assert until(lambda: len(laptop.status()["events"]) == 2), laptop.status()["events"]
    assert sorted(path.name for path in (laptop.path / "work").iterdir()) == ["clean.txt", "eicar.com", "large"]
    assert (laptop.path / "work/eicar.com").stat().st_size == len(EICAR)
    for name in ("eicar.com", "large"):
        assert is_refused(laptop.path / "work" / name), name
    assert (laptop.path / "work/clean.txt").read_text() == "clean"
    # Small content comes with the state of a file: also where it was made, it is taken back.
    assert until(lambda: is_refused(desk.path / "work/eicar.com"))
    said = laptop.cli("status").stdout
    assert "Eicar-Test.UNOFFICIAL was found in work/eicar.com (" in said
    assert "Satchel-Test.UNOFFICIAL was found in work/large (" in said

    # It can be renamed and replaced; what is clean is read again.
    (laptop.path / "work/eicar.com").rename(laptop.path / "work/renamed.com")
    (desk.path / "work/large").write_bytes(b"clean again")
    laptop.in_step(desk)
    desk.in_step(laptop)
    assert is_refused(laptop.path / "work/renamed.com")
    laptop.sees("work/large", b"clean again")
    server.restart()
    laptop.wait()
    laptop.remount()
    assert is_refused(laptop.path / "work/renamed.com")

    number = next(one["event"] for one in laptop.status()["events"] if one["examples"] == ["work/eicar.com"])
    laptop.must("guard", "allow", str(number))
    assert until(lambda: not is_refused(laptop.path / "work/renamed.com"))
    assert (laptop.path / "work/renamed.com").read_bytes() == EICAR


def test_what_was_cured_by_a_small_edit_can_be_read_again(scanner: Scanner, server: Any, device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    # One chunk: of a larger file others are refused with it, which are in the edited one, too.
    start, end = random.Random(1).randbytes(150_000), random.Random(2).randbytes(150_000)
    file = desk.path / "file"
    file.write_bytes(start + PATTERN + end)
    desk.in_step(laptop)
    # Who reads it before it is scanned has it.
    assert until(lambda: len(laptop.status()["events"]) == 1)
    assert is_refused(laptop.path / "file")
    sent = desk.stats()["sent_bytes"]
    with file.open("r+b") as opened:
        opened.seek(len(start))
        opened.write(bytes(len(PATTERN)))
    desk.in_step(laptop)
    # It went as a delta of the chunk in which the pattern is, which is given to nobody.
    assert desk.stats()["sent_bytes"] - sent < 100_000
    assert until(lambda: not is_refused(laptop.path / "file"))
    assert hashlib.sha256((laptop.path / "file").read_bytes()).digest() == _digest(start, bytes(len(PATTERN)), end)
    assert len(laptop.status()["events"]) == 1
    # The next edit of it is a delta again.
    with file.open("r+b") as opened:
        opened.seek(len(start))
        opened.write(b"edited")
    desk.in_step(laptop)
    assert not is_refused(laptop.path / "file")
    assert hashlib.sha256((laptop.path / "file").read_bytes()).digest() == _digest(
        start, b"edited" + bytes(len(PATTERN) - 6), end
    )


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_what_the_scanner_learns_is_found_in_what_is_there(server: Any, device: Any) -> None:
    pattern = b"satchel test pattern: learnt while the server was away"
    desk = device("desk")
    with running_scanner() as scanner:
        server.options = ("--clamd", scanner.place)
        server.restart()
        (desk.path / "file.bin").write_bytes(os.urandom(1 << 20) + pattern)
        desk.wait()
        server.stop()
        scanner.learn("Learnt", pattern)
        server.start()
        assert until(lambda: len(desk.status()["events"]) == 1), desk.status()["events"]
        assert "Learnt.UNOFFICIAL was found in file.bin" in desk.cli("status").stdout
        desk.umount()
        desk.forget_cache()
        desk.mount()
        assert is_refused(desk.path / "file.bin")
