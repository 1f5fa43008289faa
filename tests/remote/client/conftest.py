"""What the client is tested against: a scripted peer that misbehaves on purpose, and the real server as a process."""

import re
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import trio

from remote.client.service import login
from remote.protocol.messages import CONTENT_TYPE, LoginAnswer


@dataclass(frozen=True)
class Request:
    """One request as the peer received it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    stream: trio.SocketStream


PASSWORD = "of all users"
Script = Callable[[Request], Awaitable[bytes | None]]
"""What the peer writes back; None: it closes the connection (after whatever the script wrote itself)."""


@dataclass
class Peer:
    """An HTTP peer that answers each request as its script says; `requests` are those it received, in order."""

    script: Script | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    @staticmethod
    def reply(status: int, body: bytes, **headers: str) -> bytes:
        """An answer as it goes over the wire."""
        lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    @staticmethod
    def message(answer: msgspec.Struct, status: int = 200) -> bytes:
        """An answer of the protocol as it goes over the wire."""
        return Peer.reply(status, msgspec.msgpack.encode(answer), content_type=CONTENT_TYPE)

    def answer(self, *answers: bytes | None) -> None:
        """Gives these answers one after the other, and the last one ever after."""
        left = list(answers)

        async def script(_request: Request) -> bytes | None:
            return left.pop(0) if len(left) > 1 else left[0]

        self.script = script

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        unread = b""
        try:
            while True:
                while b"\r\n\r\n" not in unread:
                    piece = await stream.receive_some(65_536)
                    if not piece:
                        return
                    unread += piece
                head, unread = unread.split(b"\r\n\r\n", 1)
                line, *lines = head.decode().split("\r\n")
                headers = dict(re.split(": ?", text.lower(), maxsplit=1) for text in lines if text)
                length = int(headers.get("content-length", "0"))
                while len(unread) < length:
                    unread += await stream.receive_some(65_536)
                body, unread = unread[:length], unread[length:]
                method, target, _ = line.split(" ")
                request = Request(method, target, headers, body, stream)
                self.requests.append(request)
                assert self.script is not None
                answer = await self.script(request)
                if answer is None:
                    return
                await stream.send_all(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def _peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        peer.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, peer.serve, listeners)
        yield peer
        nursery.cancel_scope.cancel()


@pytest.fixture
def open_peer() -> Callable[[], AbstractAsyncContextManager[Peer]]:
    """Opens a peer: `async with open_peer() as peer`."""
    return _peer


@dataclass(frozen=True)
class Server:
    """A running server with the accounts anna and ben."""

    url: str
    data: Path
    password: str = PASSWORD

    async def sign_in(self, user: str = "anna", device: str = "desk") -> LoginAnswer:
        return await login(self.url, user, PASSWORD, device)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from remote.server.main import main; main()", *arguments]


@contextmanager
def _run_server(home: Path, *arguments: str) -> Iterator[Server]:
    """An instance with two accounts, made if need be, served by a process of its own until the block ends."""
    places = ["--data", str(home / "data"), "--master-key", str(home / "master.key")]
    names = [] if (home / "data").exists() else ["anna", "ben"]
    subprocess.run(command("init", *places), check=True, capture_output=True)
    for name in names:
        add = command("user", "add", name, "--password-stdin", *places)
        subprocess.run(add, check=True, capture_output=True, input=PASSWORD.encode())
    run = command("run", *places, "--listen", "127.0.0.1:0", *arguments)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            is_ready, _, _ = select.select([process.stdout], [], [], 60)
            line = process.stdout.readline().decode() if is_ready else ""
            found = re.search(r"https?://\S+", line)
            assert found, f"the server did not start: {line}"
            yield Server(found[0], home / "data")
        finally:
            process.terminate()
            said = process.stderr.read().decode()
        assert not said, said


@pytest.fixture
def run_server() -> Callable[..., AbstractContextManager[Server]]:
    """Runs a server: `with run_server(folder, *arguments) as server`."""
    return _run_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One real server process for all tests that do not need one of their own."""
    with _run_server(tmp_path_factory.mktemp("server")) as server:
        yield server
