"""PostgreSQL with its data directory in the mount: it starts, takes transactions, recovers, and finds all of them."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import ended, eventually
from tests.mounted.programs.running import SECONDS, mounted_cold, run

pytestmark = pytest.mark.mounted

SCALE = 1
TRANSACTIONS = 200
CLIENTS = 4
PORT = "5432"  # names a socket file only: it listens nowhere else


@dataclass
class Postgres:
    """One cluster; all its programs run as a user of its own, as it insists on."""

    programs: Path
    data: Path
    socket: Path
    user: str
    server: subprocess.Popen[bytes] | None = None

    def command(self, name: str, *args: str) -> list[str]:
        """The command line by which that user runs one of its programs."""
        as_user = ("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups")
        return [*as_user, str(self.programs / name), *args]

    def run(self, name: str, *args: str) -> str:
        """What one of its programs prints; it must succeed."""
        return run(*self.command(name, *args), folder=self.socket)

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = ("listen_addresses=", f"unix_socket_directories={self.socket}", "max_wal_size=64MB")
        options = [part for setting in settings for part in ("-c", setting)]
        with (self.socket / "log").open("ab") as log:
            command = self.command("postgres", "-D", str(self.data), *options)
            self.server = subprocess.Popen(command, cwd=self.socket, stdout=log, stderr=log)
        asked = self.command("pg_isready", "-q", "-h", str(self.socket), "-p", PORT)
        is_ready = eventually(lambda: subprocess.run(asked, cwd=self.socket, check=False).returncode == 0, SECONDS)
        assert is_ready, (self.socket / "log").read_text()

    def stop(self) -> None:
        """Ends it as its service does."""
        assert self.server is not None
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(SECONDS) == 0, (self.socket / "log").read_text()
        self.server = None

    def kill(self) -> None:
        """Ends it as a crash would."""
        assert self.server is not None
        # A new one refuses to start before the last child of the old one is gone.
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        self.server.kill()
        self.server.wait()
        self.server = None
        for process in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            assert ended(process)

    def ask(self, query: str) -> str:
        """What a query answers."""
        return self.run("psql", "-h", str(self.socket), "-p", PORT, "-AtX", "-d", "postgres", "-c", query).strip()

    def bench(self, *args: str) -> str:
        """Runs pgbench."""
        return self.run("pgbench", "-h", str(self.socket), "-p", PORT, *args, "postgres")


@pytest.fixture
def postgres(device: Any) -> Iterator[tuple[Any, Postgres]]:
    """A device that all users may see, and a cluster in it that was never started."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    owner = pwd.getpwnam("postgres")
    desk = device("desk", mount=False)
    # pytest's folders are closed to others, and another pytest that starts would close them again.
    top = Path(tempfile.mkdtemp(prefix="satchel-test-", dir="/var/tmp"))
    top.chmod(0o711)
    desk.path = top / "drive"
    desk.mount("-o", "allow_other,owners=real")
    data, socket = desk.path / "data", top / "socket"
    for folder in (data, socket):
        folder.mkdir(mode=0o700)
        shutil.chown(folder, owner.pw_uid, owner.pw_gid)
    cluster = Postgres(programs, data, socket, "postgres")
    cluster.run("initdb", "--pgdata", str(data), "--auth=trust", "--encoding=UTF8", "--data-checksums")
    yield desk, cluster
    if cluster.server is not None:
        cluster.kill()
    desk.umount()
    shutil.rmtree(top)


def test_it_works_recovers_and_is_the_same_after_a_cold_mount(postgres: tuple[Any, Postgres]) -> None:
    desk, cluster = postgres
    cluster.start()
    cluster.bench("--initialize", "--quiet", "--scale", str(SCALE))
    each = TRANSACTIONS // CLIENTS
    for _ in range(2):
        cluster.bench("--client", str(CLIENTS), "--transactions", str(each), "--no-vacuum")
        sums = cluster.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), "
            "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history)"
        ).split("|")
        assert len(set(sums)) == 1, f"transactions are there by halves: {sums}"
        # The second round begins with what a crash left.
        cluster.kill()
        cluster.start()
    assert cluster.ask("SELECT count(*) FROM pgbench_history") == str(2 * each * CLIENTS)
    cluster.ask("VACUUM FULL pgbench_accounts")
    cluster.ask("REINDEX TABLE pgbench_accounts")
    cluster.stop()
    cluster.run("pg_checksums", "--check", "--pgdata", str(cluster.data))
    mounted_cold(desk)
    cluster.run("pg_checksums", "--check", "--pgdata", str(cluster.data))
    cluster.start()
    assert cluster.ask("SELECT count(*) FROM pgbench_history") == str(2 * each * CLIENTS)
    cluster.stop()
