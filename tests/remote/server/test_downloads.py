"""Downloads that are under way on a real connection while the right to them ends."""

import hashlib
import os
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from remote.protocol.ids import ChunkId
from remote.protocol.messages import ChunkPart, GetRequest
from remote.protocol.parts import Head
from remote.server import instance as instances
from tests.remote.server.test_process import DEADLINE_SECONDS, Home, connections_of, make_certificate, wait_until

IMPATIENT = (
    "from remote.server import listening; listening.UNTAKEN_SECONDS = 3; from remote.server.main import main; main()"
)
SIZE = 48 << 20
"""Beyond what the sockets hold, and what is sent between two looks at who may."""
READ_SIZE = 12 << 20
"""What one answer may have of chunks; beyond what the sockets hold."""


@pytest.fixture
def made(tmp_path: Path, cheap_passwords: None) -> Home:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    for name in ("ann", "bob"):
        instances.add_account(data, key_file, name, "correct horse")
    return home


@pytest.fixture
def http(made: Home) -> Iterator[httpx.Client]:
    with asked(made) as (client, _):
        yield client


@contextmanager
def asked(made: Home, *words: str, trust: ssl.SSLContext | None = None) -> Iterator[tuple[httpx.Client, int]]:
    """A client of ann's with a server and its process id; in the end the server has nothing to complain of."""
    with made.serving(*words) as (process, url):
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS, verify=trust or True) as client:
            login = {"user": "ann", "password": "correct horse", "device_name": "script"}
            told = client.post("/api/v1/login", json=login).json()
            client.headers["authorization"] = f"Bearer {told['token']}"
            yield client, process.pid
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def received_of(address: httpx.URL, target: str, headers: str, end: Callable[[], None]) -> int:
    """How many bytes of a download arrive when `end` is called in the middle of it."""
    with socket.create_connection((address.host, address.port or 80), timeout=DEADLINE_SECONDS) as download:
        download.sendall(f"GET {target} HTTP/1.1\r\nHost: {address.host}\r\n{headers}\r\n".encode())
        received = 0
        while received < 1 << 20:
            received += len(download.recv(1 << 20))
        end()
        try:
            while piece := download.recv(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
    return received


@pytest.mark.parametrize("query", ["", "?zip"])
def test_a_download_ends_with_its_link(http: httpx.Client, query: str) -> None:
    http.post("/api/v1/folders", json={"path": "films"}).raise_for_status()
    made = http.put("/api/v1/files", params={"path": "films/film"}, content=bytes(SIZE)).json()
    file = made["parent"] if query else made["file"]
    link = http.post("/api/v1/links", json={"file": file}).json()
    address = httpx.URL(link["url"])

    def end() -> None:
        assert http.delete(f"/api/v1/links/{link['link']}").status_code == 200

    assert received_of(address, f"{address.path}{query}", "", end) < SIZE
    assert http.get(address.path).status_code == 410
    # Who may still is not cut off.
    assert len(http.get(f"/api/v1/files/{made['file']}/download").content) == SIZE


@pytest.mark.parametrize("what", ["token", "right"])
def test_a_download_ends_with_the_token_and_with_the_right(http: httpx.Client, what: str) -> None:
    login = {"user": "bob", "password": "correct horse", "device_name": "script"}
    token = http.post("/api/v1/login", json=login).json()["token"]
    bob = {"authorization": f"Bearer {token}"}
    folder = http.post("/api/v1/folders", json={"path": "films"}).json()["file"]
    file = http.put("/api/v1/files", params={"path": "films/film"}, content=bytes(SIZE)).json()["file"]
    space = http.post(f"/api/v1/files/{folder}/share", json={"wishes": [{"who": "bob"}]}).json()["space"]
    assert http.post(f"/api/v1/shares/{space}/accept", headers=bob).status_code == 200

    def end() -> None:
        if what == "token":
            http.post("/api/v1/logout", headers=bob).raise_for_status()
        else:
            ended = http.delete(f"/api/v1/shares/{space}/members", params={"who": "bob"})
            ended.raise_for_status()

    target = f"/api/v1/files/{file}/download?space={space}"
    assert received_of(http.base_url, target, f"authorization: Bearer {token}\r\n", end) < SIZE
    assert len(http.get(f"/api/v1/files/{file}/download").content) == SIZE


@pytest.mark.parametrize("what", ["chunks", "chunks by TLS", "download", "webdav"])
def test_who_takes_nothing_of_an_answer_loses_the_connection(made: Home, tmp_path: Path, what: str) -> None:
    made.serves_by = [sys.executable, "-c", IMPATIENT]
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    words = ("--tls-cert", str(certificate), "--tls-key", str(key)) if "TLS" in what else ()
    trust = ssl.create_default_context(cafile=str(certificate))
    with asked(made, "--webdav", *words, trust=trust) as (http, pid):
        url, request = str(http.base_url), request_of(what, http)
        with connected(url, trust if words else None) as idle, connected(url, trust if words else None) as slow:
            there = connections_of(pid, url)
            idle.sendall(request)
            slow.sendall(request)
            # The other one takes a little all the time, and loses nothing.
            received = 0
            while received < READ_SIZE:
                piece = slow.recv(1 << 12 if connections_of(pid, url) == there else 1 << 20)
                assert piece, f"{received} bytes came"
                received += len(piece)
            wait_until(lambda: connections_of(pid, url) == there - 1)


def request_of(what: str, http: httpx.Client) -> bytes:
    """One whose answer has READ_SIZE bytes or more."""
    headers = f"Host: {http.base_url.host}\r\nAuthorization: {http.headers['authorization']}\r\n"
    if what in {"download", "webdav"}:
        made = http.put("/api/v1/files", params={"path": "film"}, content=os.urandom(READ_SIZE)).json()
        if what == "download":
            return f"GET /api/v1/files/{made['file']}/download HTTP/1.1\r\n{headers}\r\n".encode()
        password = b64encode(b"ann:correct horse").decode()
        return f"GET /dav/film HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {password}\r\n\r\n".encode()
    space = http.get("/api/v1/spaces").json()[0]["space"]
    chunks = [os.urandom(1 << 20) for _ in range(READ_SIZE >> 20)]
    ids = [ChunkId(hashlib.sha256(chunk).digest()) for chunk in chunks]
    sent = b"".join(Head.of(one, chunk).pack() + chunk for one, chunk in zip(ids, chunks, strict=True))
    http.post(f"/v1/spaces/{space}/chunks/send", content=sent).raise_for_status()
    body = msgspec.msgpack.encode(GetRequest(tuple(ChunkPart(one) for one in ids)))
    head = f"POST /v1/spaces/{space}/chunks/read HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def connected(url: str, trust: ssl.SSLContext | None) -> Iterator[socket.socket]:
    """A connection with a small window, so that little is on its way."""
    address = httpx.URL(url)
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        plain.settimeout(DEADLINE_SECONDS)
        plain.connect((address.host, address.port))
        if trust is None:
            yield plain
        else:
            with trust.wrap_socket(plain, server_hostname=address.host) as wrapped:
                yield wrapped
