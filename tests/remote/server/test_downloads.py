"""Downloads that are under way on a real connection while the right to them ends."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from remote.protocol.errors import Busy
from remote.server import instance as instances
from remote.server.http import streamed
from remote.server.http.connections import CUT
from tests.remote.server.test_process import DEADLINE_SECONDS, Home

SIZE = 48 << 20
"""Beyond what the sockets hold, and what is sent between two looks at who may."""


@pytest.fixture
def http(tmp_path: Path, cheap_passwords: None) -> Iterator[httpx.Client]:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    for name in ("ann", "bob"):
        instances.add_account(data, key_file, name, "correct horse")
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


@pytest.mark.anyio
async def test_who_takes_nothing_is_cut_and_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "STALL_SECONDS", 0.01)
    aborted = asyncio.Event()
    request: Any = SimpleNamespace(scope={"extensions": {CUT: {"abort": aborted.set}}})
    streams = streamed.Streams(1)

    async def may() -> None:
        """He may."""

    sending = streamed.streamed(request, iter([bytes(1 << 20)]), streams, may)
    assert len(await anext(sending)) == streamed.SENT_AT_ONCE
    with pytest.raises(Busy):
        streams.check()
    # As for a connection whose other end reads nothing: nobody asks for the next piece.
    async with asyncio.timeout(DEADLINE_SECONDS):
        await aborted.wait()
    await sending.aclose()
    streams.check()


@pytest.mark.anyio
async def test_an_answer_that_nobody_takes_ends_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "STALL_SECONDS", 0.01)
    aborted = asyncio.Event()
    taken: list[Any] = []

    async def send(message: Any) -> None:
        # As a connection that is full: nothing goes on before it ends.
        await aborted.wait()
        taken.append(message)

    scope: Any = {"extensions": {CUT: {"abort": aborted.set}}}
    async with asyncio.timeout(DEADLINE_SECONDS):
        await streamed.unless_stalled(scope, send)({"type": "http.response.body", "body": b"", "more_body": False})
    assert len(taken) == 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
