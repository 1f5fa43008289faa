"""PostgreSQL with its data directory in the mount: it starts, takes transactions, recovers, and finds all of them."""

import os
import pwd
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import ended
from tests.mounted.programs.running import SECONDS, mounted_cold, run

pytestmark = pytest.mark.mounted

SCALE = 1
TRANSACTIONS = 400
CLIENTS = 4
PORT = "5432"  # names a socket file only: it listens nowhere else


@dataclass
class Postgres:
    """One cluster; all its programs run as a user of its own, as it insists on."""

    programs: Path
    data: Path
    socket: Path
    user: str

    def run(self, name: str, *args: str) -> str:
        """What one of its programs prints; it must succeed."""
        as_user = ("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups")
        return run(*as_user, self.programs / name, *args, folder=self.socket)

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.socket} -c max_wal_size=64MB"
        log = str(self.socket / "log")
        self.run("pg_ctl", "start", "--wait", "-D", str(self.data), "-o", options, "-l", log, "-t", str(int(SECONDS)))

    def stop(self) -> None:
        """Ends it as its service does."""
        self.run("pg_ctl", "stop", "--wait", "-D", str(self.data), "-m", "fast", "-t", str(int(SECONDS)))

    def kill(self) -> None:
        """Ends it as a crash would."""
        server = int((self.data / "postmaster.pid").read_text().split()[0])
        # A new one refuses to start before the last child of the old one is gone.
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for process in (server, *map(int, children)):
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
def postgres(device: Any, tmp_path: Path) -> Iterator[tuple[Any, Postgres]]:
    """A device that all users may see, and a cluster in it that was never started."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    owner = pwd.getpwnam("postgres")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    desk = device("desk", mount=False)
    desk.mount("-o", "allow_other")
    data, socket = desk.path / "data", tmp_path / "socket"
    for folder in (data, socket):
        folder.mkdir(mode=0o700)
        shutil.chown(folder, owner.pw_uid, owner.pw_gid)
    cluster = Postgres(programs, data, socket, "postgres")
    cluster.run("initdb", "--pgdata", str(data), "--auth=trust", "--encoding=UTF8", "--data-checksums")
    yield desk, cluster
    if (data / "postmaster.pid").exists():
        cluster.stop()


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
    cluster.ask("VACUUM FULL")
    cluster.ask("REINDEX DATABASE postgres")
    cluster.stop()
    cluster.run("pg_checksums", "--check", "--pgdata", str(cluster.data))
    mounted_cold(desk)
    cluster.run("pg_checksums", "--check", "--pgdata", str(cluster.data))
    cluster.start()
    assert cluster.ask("SELECT count(*) FROM pgbench_history") == str(2 * each * CLIENTS)
    cluster.stop()
