"""A virus scanner for tests: clamd with a socket and a database of its own, which knows two harmless patterns."""

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# In two pieces, so that no scanner takes this file for it.
EICAR = (r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + "-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*").encode()
PATTERN = b"satchel test pattern: " + b"not a virus, but found as one"
LARGEST = 8 << 20
"""Bytes of one content that it takes."""
_START_SECONDS = 30.0


class Scanner:
    """One that can be stopped and started again; `place` is what `--clamd` takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = str(folder / "socket")
        self._process: subprocess.Popen[bytes] | None = None
        database = folder / "database"
        database.mkdir()
        lines = (
            f"{name}:0:*:{pattern.hex()}\n" for name, pattern in (("Eicar-Test", EICAR), ("Satchel-Test", PATTERN))
        )
        (database / "test.ndb").write_text("".join(lines))
        (folder / "clamd.conf").write_text(
            f"LocalSocket {self.place}\nDatabaseDirectory {database}\nForeground yes\nMaxThreads 2\nSelfCheck 0\n"
            f"StreamMaxLength {LARGEST}\nPidFile {folder / 'pid'}\nConcurrentDatabaseReload no\nLogFile /dev/null\n"
        )

    def start(self) -> None:
        """Returns when it listens."""
        command = [shutil.which("clamd") or "/usr/sbin/clamd", "--config-file", str(self._folder / "clamd.conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline, pause = time.monotonic() + _START_SECONDS, threading.Event()
        while not self._listens():
            assert self._process.poll() is None, f"clamd ended with {self._process.returncode}"
            assert time.monotonic() < deadline, "clamd does not listen"
            pause.wait(0.05)

    def stop(self) -> None:
        """Ends it."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        self._process = None
        Path(self.place).unlink(missing_ok=True)

    def end(self) -> None:
        """Ends it if it runs."""
        if self._process is not None:
            self.stop()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(self.place)
            except OSError:
                return False
        return True


@contextmanager
def running_scanner() -> Iterator[Scanner]:
    """A scanner that listens; its socket has a short path, as sockets must."""
    with tempfile.TemporaryDirectory(prefix="clamd-") as folder:
        scanner = Scanner(Path(folder))
        scanner.start()
        try:
            yield scanner
        finally:
            scanner.end()
