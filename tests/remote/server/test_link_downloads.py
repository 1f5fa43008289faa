"""Downloads by links that are under way on a real connection while the link ends."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from remote.server import instance as instances
from tests.remote.server.test_process import DEADLINE_SECONDS, Home

SIZE = 48 << 20
"""Beyond what the sockets hold, and what is sent between two looks at the link."""


@pytest.fixture
def http(tmp_path: Path, cheap_passwords: None) -> Iterator[httpx.Client]:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", "correct horse")
    with home.serving() as (process, url):
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS) as client:
            login = {"user": "ann", "password": "correct horse", "device_name": "script"}
            token = client.post("/api/v1/login", json=login).json()["token"]
            client.headers["authorization"] = f"Bearer {token}"
            yield client
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("query", ["", "?zip"])
def test_a_download_ends_with_its_link(http: httpx.Client, query: str) -> None:
    http.post("/api/v1/folders", json={"path": "films"}).raise_for_status()
    made = http.put("/api/v1/files", params={"path": "films/film"}, content=bytes(SIZE)).json()
    file = made["parent"] if query else made["file"]
    link = http.post("/api/v1/links", json={"file": file}).json()
    address = httpx.URL(link["url"])
    with socket.create_connection((address.host, address.port or 80), timeout=DEADLINE_SECONDS) as download:
        download.sendall(f"GET {address.path}{query} HTTP/1.1\r\nHost: {address.host}\r\n\r\n".encode())
        received = 0
        while received < 1 << 20:
            received += len(download.recv(1 << 20))
        assert http.delete(f"/api/v1/links/{link['link']}").status_code == 200
        try:
            while piece := download.recv(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
    assert received < SIZE
    assert http.get(address.path).status_code == 410
    # Who may still is not cut off.
    assert len(http.get(f"/api/v1/files/{made['file']}/download").content) == SIZE
