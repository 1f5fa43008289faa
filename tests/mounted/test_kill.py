"""kill -9 of the daemon during a copy: at the next mount every file that had been closed is whole, and all arrives.

SATCHEL_TEST_KILLS and SATCHEL_TEST_SEED choose how often and when; docs/reliability.md says what came of many.
"""

import os
import random
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import ended
from tests.mounted.trees import differences, digest, entries, many_files, walk

pytestmark = pytest.mark.mounted

KILLS = int(os.environ.get("SATCHEL_TEST_KILLS", "10"))
SEED = int(os.environ.get("SATCHEL_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
FILES = 1_000
PIECE = 64 << 10
SEND_SECONDS = 300.0


@dataclass
class Copy:
    """Copies files one after the other in a thread, until told to end or the mount dies under it."""

    source: Path
    target: Path
    left: list[Path]
    closed: list[Path] = field(default_factory=list)
    """Files for which close() has said that all is well."""
    pieces: int = 0
    """Writes so far: a measure of progress by which to choose moments within a file."""
    moment: int = 0
    at_moment: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Returns at the end, or when a system call fails."""
        try:
            while self.left:
                self._copy(self.left[0])
                self.closed.append(self.left.pop(0))
        except OSError:
            return
        finally:
            self.at_moment.set()

    def _copy(self, path: Path) -> None:
        target = self.target / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with (self.source / path).open("rb") as source, target.open("wb", buffering=0) as file:
            while piece := source.read(PIECE):
                file.write(piece)
                self._count()
        self._count()

    def _count(self) -> None:
        self.pieces += 1
        if self.pieces >= self.moment:
            self.at_moment.set()


def test_what_was_closed_is_whole_after_each_kill(device: Any, tmp_path: Path) -> None:
    print(f"SATCHEL_TEST_SEED={SEED} SATCHEL_TEST_KILLS={KILLS}")
    source, moments = tmp_path / "source", random.Random(SEED)
    many_files(source, FILES, SEED)
    files = sorted(path.relative_to(source) for path in walk(source) if path.is_file())
    moments.shuffle(files)
    digests = {path: digest(source / path) for path in files}
    pieces = sum(1 + -(-(source / path).stat().st_size // PIECE) for path in files)
    desk = device("desk")
    copy, cuts = Copy(source, desk.path / "copy", list(files)), 0
    for kill in range(KILLS):
        # Spread over what is left, at a random write or close; the copy goes on while the signal is on its way.
        left = (pieces - copy.pieces) // (KILLS - kill + 1)
        copy.moment = copy.pieces + moments.randint(1, max(1, 2 * left))
        copy.at_moment.clear()
        thread, process = threading.Thread(target=copy.run), desk.pid
        thread.start()
        copy.at_moment.wait()
        os.kill(process, signal.SIGKILL)
        assert ended(process)
        thread.join()
        desk.mount()
        cuts += bool(copy.left)
        wrong = [path for path in copy.closed if digest(desk.path / "copy" / path) != digests[path]]
        assert wrong == [], f"kill {kill}: of {len(copy.closed)} closed files these are not whole"
    print(f"{cuts} of {KILLS} kills cut a running copy")
    assert cuts, "no kill met a running copy"
    copy.run()
    assert copy.left == []
    desk.wait(timeout=SEND_SECONDS)
    laptop = device("laptop")
    wanted = {path: one.digest for path, one in entries(source).items()}
    assert {path: one.digest for path, one in entries(laptop.path / "copy").items()} == wanted
    assert differences(entries(desk.path / "copy"), entries(laptop.path / "copy")) == []


def test_a_kill_in_the_middle_of_an_upload_is_made_good(device: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    many_files(source, 100, seed=7)
    desk, laptop = device("desk"), device("laptop")
    copy = Copy(source, desk.path / "copy", sorted(p.relative_to(source) for p in walk(source) if p.is_file()))
    copy.run()
    for _ in range(3):
        desk.kill()
        desk.mount()
    desk.in_step(laptop)
    assert {path: one.digest for path, one in entries(laptop.path / "copy").items()} == {
        path: one.digest for path, one in entries(source).items()
    }
