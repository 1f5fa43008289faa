"""The real process: commands, addresses, signals, locks."""

import datetime as dt
import hashlib
import http.client
import ipaddress
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from remote.protocol.ids import ChunkId
from remote.protocol.messages import (
    Changes,
    LoginAnswer,
    LoginRequest,
    NodeRange,
    PollRequest,
    PutRequest,
    Spaces,
    WantAnswer,
    WantRequest,
)
from remote.protocol.parts import Head
from remote.server import instance as instances
from tests.ports import port_of_its_own

COMMAND = [sys.executable, "-c", "from remote.server.main import main; main()"]
DEADLINE_SECONDS = 60.0


class Home:
    """A SATCHEL_HOME of its own, and the commands in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SATCHEL_", "XDG_"))}
        test = {name: value for name, value in os.environ.items() if name.startswith("SATCHEL_TEST")}
        self.environment = {**kept, **test, "SATCHEL_HOME": str(directory)}
        self.devices: list[Device] = []
        self.serves_by = COMMAND

    def device(self, url: str, login: LoginAnswer | None = None) -> "Device":
        """A device on a connection of its own, closed at the end of the test."""
        self.devices.append(Device(url, login))
        return self.devices[-1]

    def run(self, *words: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            env={**self.environment, **environment},
            input=text,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def close(self) -> None:
        """Closes the connections of its devices."""
        for device in self.devices:
            device.http.close()

    @contextmanager
    def serving(self, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A running server and its URL."""
        command = [*self.serves_by, "run", "--listen", "127.0.0.1:0", *words]
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Satchel serves on http"), process.stderr and process.stderr.read()
            yield process, line.split()[-1]
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=DEADLINE_SECONDS)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    home.close()


@pytest.fixture
def made(home: Home, cheap_passwords: None) -> Home:
    """An instance with the user ann, as the commands make it."""
    return instance_of_ann(home)


def instance_of_ann(home: Home) -> Home:
    """The home, with a server's data that has this user."""
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", "password")
    return home


class Device:
    """A signed-in device on a real connection."""

    def __init__(self, url: str, login: LoginAnswer | None = None) -> None:
        self.http = httpx.Client(base_url=url, timeout=DEADLINE_SECONDS)
        self.login = login or self.ask("/v1/login", LoginRequest("ann", "password", "desk"), LoginAnswer)
        self.http.headers["authorization"] = f"Bearer {self.login.token}"

    def ask(self, path: str, message: object, kind: type[Any]) -> Any:
        response = self.http.post(path, content=msgspec.msgpack.encode(message))
        assert response.status_code == 200, response.content
        return msgspec.msgpack.decode(response.content, type=kind)

    def in_space(self, what: str, message: object, kind: type[Any]) -> Any:
        return self.ask(f"/v1/spaces/{self.login.home}/{what}", message, kind)


def test_init_run_and_first_sign_in(home: Home) -> None:
    initialised = home.run("init")
    assert (initialised.returncode, "server-key" in initialised.stdout) == (0, True)
    added = home.run("user", "add", "ann", "--password-stdin", text="password\n")
    assert (added.returncode, added.stderr) == (0, "")
    assert (home.directory / "server-key").stat().st_mode & 0o777 == 0o600
    assert (home.directory / "server").stat().st_mode & 0o077 == 0
    with home.serving() as (process, url):
        device = home.device(url)
        assert device.http.get("/v1/health").json() == {"status": "ok", "protocol": 1}
        assert device.ask("/v1/ranges", None, NodeRange).count == 1 << 32
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_init_twice_changes_nothing(made: Home) -> None:
    key = (made.directory / "server-key").read_bytes()
    again = made.run("init")
    assert (again.returncode, "already" in again.stdout) == (0, True)
    assert (made.directory / "server-key").read_bytes() == key


def test_init_takes_no_directory_with_other_things(home: Home, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    done = home.run("init", "--data", str(tmp_path / "full"))
    assert done.returncode == 1
    assert "letter.txt" in done.stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_init_that_was_killed_goes_on(home: Home) -> None:
    data = home.directory / "server"
    data.mkdir(parents=True)
    (data / "satchel.db.new").write_bytes(b"half")
    (data / "satchel.db.new-wal").write_bytes(b"half")
    assert home.run("init").returncode == 0
    assert sorted(path.name for path in data.iterdir()) == ["lock", "satchel.db"]


def test_the_key_stays_outside_the_data(home: Home) -> None:
    inside = home.directory / "server" / "deep" / "key"
    done = home.run("init", "--master-key", str(inside))
    assert done.returncode == 1
    assert "inside the data directory" in done.stderr
    assert not (home.directory / "server").exists()
    elsewhere = home.run("init", SATCHEL_MASTER_KEY_FILE=str(home.directory / "other" / "key"))
    assert elsewhere.returncode == 0
    assert (home.directory / "other" / "key").stat().st_size == 32


def test_a_wrong_missing_or_open_key_is_refused(made: Home) -> None:
    key = made.directory / "server-key"
    right = key.read_bytes()
    key.write_bytes(secrets.token_bytes(32))
    for words in (["run"], ["user", "add", "bob", "--password-stdin"], ["init"]):
        done = made.run(*words, text="password\n")
        assert done.returncode == 1
        assert "not the one" in done.stderr
    key.write_bytes(b"short")
    assert "no master key" in made.run("run").stderr
    key.write_bytes(right)
    key.chmod(0o644)
    assert "chmod 600" in made.run("run").stderr
    key.unlink()
    assert "cannot be read" in made.run("run").stderr


def test_run_before_init_says_what_to_do(home: Home) -> None:
    for words in (["run"], ["user", "add", "ann", "--password-stdin"]):
        done = home.run(*words, text="password\n")
        assert done.returncode == 1
        assert "satchel-server init" in done.stderr
    assert not (home.directory / "server").exists()


def test_users_are_added_while_it_runs(made: Home) -> None:
    with made.serving() as (_, url):
        added = made.run("user", "add", "bob", "--password-stdin", text="password two\n")
        assert added.returncode == 0, added.stderr
        body = msgspec.msgpack.encode(LoginRequest("bob", "password two", "desk"))
        assert httpx.post(f"{url}/v1/login", content=body, timeout=DEADLINE_SECONDS).status_code == 200
    again = made.run("user", "add", "BOB", "--password-stdin", text="password x\n")
    assert again.returncode == 1
    assert "already" in again.stderr


def test_one_server_for_one_data_directory(made: Home) -> None:
    with made.serving():
        second = made.run("run", "--listen", "127.0.0.1:0")
        assert second.returncode == 1
        assert "open" in second.stderr
    with made.serving():
        pass


def test_a_port_in_use_is_named(made: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = made.run("run", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "--listen" in done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.org:80"])
def test_plain_http_stays_on_this_machine(made: Home, listen: str) -> None:
    done = made.run("run", "--listen", listen)
    assert done.returncode == 1
    assert "--insecure-http" in done.stderr


@pytest.mark.parametrize("listen", ["", "8750", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000"])
def test_addresses_that_are_none(made: Home, listen: str) -> None:
    done = made.run("run", "--listen", listen)
    assert done.returncode == 1
    assert "HOST:PORT" in done.stderr


def test_insecure_http_when_asked_for(made: Home) -> None:
    with made.serving("--listen", "0.0.0.0:0", "--insecure-http") as (_, url):
        port = url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/health", timeout=DEADLINE_SECONDS).status_code == 200


def test_tls(made: Home, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    assert "both" in made.run("run", "--tls-cert", str(certificate)).stderr
    trust = ssl.create_default_context(cafile=str(certificate))
    with made.serving("--tls-cert", str(certificate), "--tls-key", str(key)) as (_, url):
        assert url.startswith("https://")
        assert httpx.get(f"{url}/v1/health", verify=trust, timeout=DEADLINE_SECONDS).status_code == 200


def make_certificate(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "satchel test")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_polls_open(made: Home, number: signal.Signals) -> None:
    with made.serving() as (process, url), ExitStack() as stack:
        device = made.device(url)
        body = msgspec.msgpack.encode(PollRequest({device.login.home: device_head(device)}, 300))
        address = url.removeprefix("http://")
        connections = [http.client.HTTPConnection(address, timeout=DEADLINE_SECONDS) for _ in range(8)]
        for each in connections:
            stack.enter_context(closing(each))
            each.request("GET", "/v1/health")
            each.getresponse().read()
        polls = connections[:5]
        for each in polls:
            each.request("POST", "/v1/poll", body, {"Authorization": f"Bearer {device.login.token}"})
        # The server has the polls: what is asked after them is answered behind them on the same loop.
        device.ask("/v1/ranges", None, NodeRange)
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == 0, "long before the polls would have ended"
        assert [each.getresponse().status for each in polls] == [200] * 5
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_is_under_way_when_it_stops_is_cut_and_no_error(made: Home) -> None:
    with made.serving() as (process, url), ExitStack() as stack:
        device = made.device(url)
        file = device.http.put("/api/v1/files", params={"path": "film"}, content=bytes(48 << 20)).json()["file"]
        data = os.urandom(3 << 20)
        chunk = hashlib.sha256(data).digest()
        wanted = device.in_space("chunks/want", WantRequest(((chunk, len(data)),)), WantAnswer)  # type: ignore[arg-type]
        sent = f"/v1/spaces/{device.login.home}/chunks/send"
        for line in (f"PUT {wanted.urls[chunk]}", f"POST {sent}", f"GET /api/v1/files/{file}/download"):
            host, port = url.removeprefix("http://").split(":")
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS))
            body = b"" if line.startswith("GET") else Head.of(chunk, data).pack() + data[: 2 << 20]  # type: ignore[arg-type]
            head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {device.login.token}\r\n"
            head += f"Content-Length: {3 << 20}\r\n\r\n" if body else "\r\n"
            connection.sendall(head.encode() + body)
        assert connection.recv(1), "the download has begun"
        drafts = made.directory / "server" / "tmp"
        wait_until(lambda: len(list(drafts.iterdir())) == 2)
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_server_with_upkeep_ends_when_it_is_told_to(made: Home) -> None:
    with made.serving("--upkeep") as (process, _):
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_open_polls_hear_of_commands_beside_the_server(made: Home) -> None:
    with made.serving() as (_, url):
        device = made.device(url)
        spaces = msgspec.msgpack.decode(device.http.get("/v1/spaces").content, type=Spaces)
        cursors = {one.space: one.head for one in spaces.spaces}
        top = f"/api/v1/files/1/changes?since={spaces.spaces[0].head}&wait=50"
        answers: dict[str, httpx.Response] = {}

        def poll() -> None:
            body = msgspec.msgpack.encode(PollRequest(cursors, 300, {}, spaces.serial))
            answers["poll"] = device.http.post("/v1/poll", content=body)

        def feed() -> None:
            with httpx.Client(base_url=url, headers=device.http.headers, timeout=DEADLINE_SECONDS) as http:
                answers["feed"] = http.get(top)

        waiting = [threading.Thread(target=each) for each in (poll, feed)]
        for each in waiting:
            each.start()
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS) as http:
            wait_until(lambda: http.get("/v1/health").is_success and not answers)
        assert made.run("user", "disable", "ann").returncode == 0
        for each in waiting:
            each.join(DEADLINE_SECONDS / 2)
        assert {name: answer.status_code for name, answer in answers.items()} == {"poll": 401, "feed": 401}
        assert "disabled" in answers["feed"].text


def device_head(device: Device) -> int:
    raw = device.http.get(f"/v1/spaces/{device.login.home}/changes?since=0").content
    return msgspec.msgpack.decode(raw, type=Changes).head


def connections_of(pid: int, url: str) -> int:
    """Established TCP connections to the server's port."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(fields[1].endswith(port) and fields[3] == "01" for fields in map(str.split, lines))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_bodies_that_are_too_long_are_refused_before_they_come(made: Home) -> None:
    with made.serving() as (_, url):
        device = made.device(url)
        head = (
            f"POST /v1/spaces/{device.login.home}/commits HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {device.login.token}\r\nContent-Length: 99999999999\r\n\r\n"
        )
        assert first_line(url, head.encode()).startswith(b"HTTP/1.1 413")
        endless = head.replace("Content-Length: 99999999999", "Transfer-Encoding: chunked").encode()
        piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        assert first_line(url, endless + piece * 20).startswith(b"HTTP/1.1 413")
        assert first_line(url, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_head_without_end_is_cut_off(made: Home) -> None:
    with made.serving() as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS) as connection:
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-Long: ")
            endless = bytes(64 << 20)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                connection.sendall(endless.replace(b"\0", b"x"))
        long_path = b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        assert first_line(url, long_path) == b""
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS) as http:
            for size in (10, 10_000, 50_000) * 3:
                assert http.get("/v1/health", headers={"x-long": "x" * size}).status_code == 200


def test_a_client_that_leaves_ends_its_poll(made: Home) -> None:
    with made.serving() as (process, url):
        device = made.device(url)
        before = connections_of(process.pid, url)
        body = msgspec.msgpack.encode(PollRequest({device.login.home: 1}, 300))
        head = f"POST /v1/poll HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {device.login.token}\r\n"
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: connections_of(process.pid, url) == before + 1)
        wait_until(lambda: connections_of(process.pid, url) == before)
        device.ask("/v1/ranges", None, NodeRange)
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_connection_that_ends_in_a_body_leaves_nothing(made: Home) -> None:
    with made.serving() as (process, url):
        device = made.device(url)
        data = os.urandom(3 << 20)
        chunk = hashlib.sha256(data).digest()
        wanted = device.in_space("chunks/want", WantRequest(((chunk, len(data)),)), WantAnswer)  # type: ignore[arg-type]
        head = f"PUT {wanted.urls[chunk]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        host, port = url.removeprefix("http://").split(":")
        drafts = made.directory / "server" / "tmp"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + data[: 2 << 20])
            wait_until(lambda: any(path.stat().st_size for path in drafts.iterdir()))
        wait_until(lambda: not any(drafts.iterdir()))
        assert device.http.put(wanted.urls[chunk], content=data).status_code == 201
        process.terminate()
        process.wait(DEADLINE_SECONDS)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_of_a_stream_that_is_cut_whole_chunks_are_kept(made: Home) -> None:
    with made.serving() as (process, url):
        device = made.device(url)
        chunks = [os.urandom(1 << 20) for _ in range(3)]
        ids = [hashlib.sha256(data).digest() for data in chunks]
        body = b"".join(Head.of(chunk, data).pack() + data for chunk, data in zip(ids, chunks, strict=True))  # type: ignore[arg-type]
        head = f"POST /v1/spaces/{device.login.home}/chunks/send HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {device.login.token}\r\n\r\n"
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body[: 5 << 19])
        question = WantRequest(tuple((chunk, 1 << 20) for chunk in ids))  # type: ignore[arg-type]
        wait_until(lambda: device.in_space("chunks/want", question, WantAnswer).missing == (ids[2],))
        drafts = made.directory / "server" / "tmp"
        wait_until(lambda: not any(drafts.iterdir()))
        objects = made.directory / "server" / "objects"
        assert {path.name for path in objects.rglob("*") if path.is_file()} == {chunk.hex() for chunk in ids[:2]}
        process.terminate()
        process.wait(DEADLINE_SECONDS)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_stream_that_is_refused_is_answered_and_its_connection_goes_on(made: Home) -> None:
    with made.serving() as (process, url):
        device = made.device(url)
        chunks = [os.urandom(1 << 20) for _ in range(9)]
        ids = [ChunkId(hashlib.sha256(data).digest()) for data in chunks]
        heads = [Head.of(chunk, data).pack() for chunk, data in zip(ids, chunks, strict=True)]
        good = b"".join(part for pair in zip(heads, chunks, strict=True) for part in pair)
        bad = b"".join((heads[1], chunks[0], good))
        path = f"/v1/spaces/{device.login.home}/chunks/send"
        headers = {"Authorization": f"Bearer {device.login.token}"}
        host, port = url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE_SECONDS)
        with closing(connection):
            lines = []
            for body, status in ((bad, 400), (good, 200), (b"", 200), (good, 200)):
                connection.request("POST", path, body, headers)
                with connection.getresponse() as answer:
                    assert answer.status == status, answer.read()
                    answer.read()
                lines.append(connection.sock)
            assert len(set(lines)) == 1, "one connection for all of them"
        stored = {path.name for path in (made.directory / "server" / "objects").rglob("*") if path.is_file()}
        assert stored == {chunk.hex() for chunk in ids}
        process.terminate()
        process.wait(DEADLINE_SECONDS)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def first_line(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        with suppress(ConnectionResetError), connection.makefile("rb") as answer:
            return answer.readline()
    return b""


def test_leftovers_of_a_kill_are_removed(made: Home) -> None:
    with made.serving() as (process, _):
        process.kill()
        process.wait(DEADLINE_SECONDS)
    draft = made.directory / "server" / "tmp" / "0123"
    draft.write_bytes(b"half")
    with made.serving():
        assert not draft.exists()


def test_a_quota_can_be_set_while_it_runs(made: Home) -> None:
    with made.serving() as (_, url):
        assert made.run("user", "quota", "Ann", "12345").returncode == 0
        device = made.device(url)
        spaces = msgspec.msgpack.decode(device.http.get("/v1/spaces").content, type=Spaces).spaces
        assert (spaces[0].quota, spaces[0].free) == (12345, 12345)
    assert "5.0 MiB" in made.run("user", "quota", "Ann", "5M").stdout
    assert "older versions included" in made.run("user", "quota", "Ann", "5M", "--history").stdout
    assert "with older versions" in made.run("user", "list").stdout
    assert made.run("user", "quota", "Ann", "much").returncode == 2
    assert "no user bob" in made.run("user", "quota", "bob", "5").stderr
    assert made.run("user", "quota", "ann", "-5").returncode == 2


def test_prometheus_reads_what_was_answered_and_how_long_it_took(made: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = made.run("run", "--listen", "127.0.0.1:0", "--metrics", f"127.0.0.1:{port}")
    assert (refused.returncode, "--metrics" in refused.stderr) == (1, True)
    with port_of_its_own() as port, made.serving("--metrics", f"127.0.0.1:{port}") as (_, url):
        device = made.device(url)
        assert device.http.get("/v1/spaces").status_code == 200
        assert device.http.get("/v1/nonsense/17").status_code == 404
        found = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_SECONDS).text
        assert device.http.get("/metrics").status_code == 404
    assert 'satchel_requests_total{method="GET",route="/v1/spaces",status="200"} 1.0' in found
    assert 'satchel_request_seconds_count{method="POST",route="/v1/login"} 1.0' in found
    assert "nonsense" not in found
    assert re.search(r"satchel_free_bytes [\d.e+]+", found)


def test_commands_beside_the_server_tell_what_they_did(made: Home) -> None:
    with made.serving() as (_, url):
        device = made.device(url)
        device.in_space("chunks/put", PutRequest((b"x" * 1_000,)), object)
        assert "1 are doubted from now on" in made.run("gc", "--grace", "0s").stdout
        assert "would be removed: 1 chunks" in made.run("gc", "--grace", "0s", "--dry-run").stdout
        assert "removed: 1 chunks (1000 B)" in made.run("gc", "--grace", "0s").stdout
        assert "ann: 0 B in files, 1 commit" in made.run("usage").stdout
        assert made.run("doctor").stdout.startswith("ok    The master key opens")
        device.in_space("chunks/put", PutRequest((b"x" * 1_000,)), object)
        (pack,) = [path for path in (made.directory / "server" / "packs").rglob("*") if path.is_file()]
        pack.unlink()
        scrubbed = made.run("scrub", "--rate", "1G")
        assert (scrubbed.returncode, "1 chunks found lost" in scrubbed.stdout) == (1, True)
        wrong = made.run("doctor")
        assert (wrong.returncode, "WRONG 1 chunks are lost" in wrong.stdout) == (1, True)
    assert made.run("gc", "--grace", "soon").returncode == 2


def test_groups_are_kept_by_whoever_runs_the_server(made: Home) -> None:
    assert made.run("user", "add", "bob", "--password-stdin", text="correct horse\n").returncode == 0
    assert made.run("group", "add", "team", "--owner", "ann").returncode == 0
    assert made.run("group", "member", "team", "bob").returncode == 0
    assert made.run("group", "list").stdout == "team  of ann  bob\n"
    taken = made.run("group", "add", "Bob", "--owner", "ann")
    assert (taken.returncode, "There is a user" in taken.stderr) == (1, True)
    assert made.run("group", "member", "team", "bob", "--remove").returncode == 0
    assert "is not in team" in made.run("group", "member", "team", "bob", "--remove").stderr
    assert made.run("group", "remove", "team").returncode == 0
    assert made.run("group", "list", "--json").stdout == "[]\n"
