"""A virus scanner for tests: clamd with a socket and a database of its own, which knows two harmless patterns."""

import hashlib
import io
import shutil
import socket
import subprocess
import tarfile
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
_START_SECONDS = 120.0


class Scanner:
    """One that can be stopped and started again; `place` is what `--clamd` takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = str(folder / "socket")
        # It locks its log: one that two share, as /dev/null would be, keeps the second from starting.
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._database = folder / "database"
        self._database.mkdir()
        self._number = 0
        self._known = {"Eicar-Test": EICAR, "Satchel-Test": PATTERN}
        self._write_database()
        (folder / "clamd.conf").write_text(
            f"LocalSocket {self.place}\nDatabaseDirectory {self._database}\nForeground yes\nMaxThreads 2\nSelfCheck 0\n"
            f"StreamMaxLength {LARGEST}\nPidFile {folder / 'pid'}\nConcurrentDatabaseReload no\n"
            f"IdleTimeout 1\nLogFile {self._log}\n"
        )

    def start(self) -> None:
        """Returns when it listens."""
        command = [shutil.which("clamd") or "/usr/sbin/clamd", "--config-file", str(self._folder / "clamd.conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline, pause = time.monotonic() + _START_SECONDS, threading.Event()
        while not self._listens():
            assert self._process.poll() is None, f"clamd ended: {self._log.read_text()}"
            assert time.monotonic() < deadline, "clamd does not listen"
            pause.wait(0.05)

    def learn(self, name: str, pattern: bytes) -> None:
        """Has it find one more pattern, as freshclam does; returns when it does."""
        self._known[name] = pattern
        self._write_database()
        self._ask(b"zRELOAD\0")
        deadline, pause = time.monotonic() + _START_SECONDS, threading.Event()
        while f"/{self._number}/".encode() not in self._ask(b"zVERSION\0"):
            assert time.monotonic() < deadline, "clamd does not load what it is to learn"
            pause.wait(0.02)

    def _write_database(self) -> None:
        """A database as ClamAV's own are, with a number and a time; unsigned."""
        self._number += 1
        lines = "".join(f"{name}:0:*:{pattern.hex()}\n" for name, pattern in self._known.items()).encode()
        head = f"ClamAV-VDB:21 Nov 2026 10-00 +0000:{self._number}:{len(self._known)}:60:X:X:tests:{self._number}"
        info = f"{head}\ndaily.ndb:{len(lines)}:{hashlib.sha256(lines).hexdigest()}\n".encode()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.USTAR_FORMAT) as made:
            for name, body in (("daily.info", info), ("daily.ndb", lines)):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                made.addfile(member, io.BytesIO(body))
        (self._database / "daily.cud").write_bytes(head.ljust(512).encode() + packed.getvalue())

    def _ask(self, what: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(self.place)
            peer.sendall(what)
            return peer.recv(4_096)

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
