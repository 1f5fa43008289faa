"""kill -9 of the real server and of its commands, at any moment: what was acknowledged is there, whole and once."""

import hashlib
import itertools
import os
import random
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from remote.protocol.errors import ChunkMissing
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.messages import (
    SMALL_CHUNK_MAX,
    Changes,
    ChunkPart,
    Commit,
    CommitAnswer,
    GetAnswer,
    GetRequest,
    LoginAnswer,
    NodeRange,
    Problem,
    PutRequest,
)
from remote.protocol.nodes import Entry, Manifest
from remote.protocol.parts import Head
from tests.remote.server.test_process import COMMAND, DEADLINE_SECONDS, Device, Home, instance_of_ann

GRACE_SECONDS = 2
"""For so long at the least, what was sent and is named by nothing yet is kept."""


@pytest.fixture
def made(tmp_path: Path, cheap_passwords: None) -> Iterator[Home]:
    """An instance with the user ann."""
    home = instance_of_ann(Home(tmp_path / "home"))
    yield home
    home.close()


class Worker(threading.Thread):
    """Sends chunks and commits files that name them until the server is gone; remembers what was acknowledged."""

    def __init__(self, build: Any, url: str, login: LoginAnswer, first: int, on_done: Callable[[], None]) -> None:
        super().__init__()
        self.build = build
        self.url = url
        self.login = login
        self.next = first
        self.on_done = on_done
        self.done: dict[bytes, tuple[bytes, int]] = {}
        self.open: tuple[bytes, Commit] | None = None

    def run(self) -> None:
        device = Device(self.url, self.login)
        try:
            while True:
                self.once(device)
                self.on_done()
        except httpx.TransportError:
            device.http.close()

    def once(self, device: Device) -> None:
        name = b"%d" % self.next
        data = name * random.Random(self.next).randrange(1, 400)
        is_large = self.next % 8 == 0
        if is_large:
            data *= SMALL_CHUNK_MAX // len(data) + 1
        content = Manifest(5, entries=(Entry(hashlib.sha256(data).digest(), b"k" * 32, 5),))  # type: ignore[arg-type]
        change = self.build.change(NodeId(self.next), self.build.file(name, ROOT, content))
        self.next += 1
        while True:
            commit, sent_at = Commit(secrets.token_bytes(16), (change,)), time.monotonic()
            if is_large:
                path = f"/v1/spaces/{self.login.home}/chunks/send"
                body = Head.of(content.entries[0].id, data).pack() + data
                assert device.http.post(path, content=body).status_code == 200
            else:
                device.in_space("chunks/put", PutRequest((data,)), object)
            self.open = name, commit
            answered = device.http.post(f"/v1/spaces/{self.login.home}/commits", content=msgspec.msgpack.encode(commit))
            if answered.status_code == 200:
                break
            # As devices do: what had to wait until it was taken for garbage is sent again.
            assert msgspec.msgpack.decode(answered.content, type=Problem).code == ChunkMissing.code, answered.content
            assert time.monotonic() - sent_at > GRACE_SECONDS
        answer = msgspec.msgpack.decode(answered.content, type=CommitAnswer)
        assert answer.rev, answer.reason
        self.done[name] = data, answer.rev
        self.open = None


@pytest.mark.parametrize("seed", range(5))
def test_kill_at_any_moment_loses_nothing_acknowledged(made: Home, build: Any, seed: int) -> None:
    kill_after = random.Random(seed).randrange(3, 120)
    with made.serving() as (process, url):
        login = made.device(url).login
        leased = made.device(url, login).ask("/v1/ranges", None, NodeRange)
        left = iter(range(kill_after))

        def count() -> None:
            if next(left, None) is None:
                process.kill()

        workers = [Worker(build, url, login, leased.first + at * 100_000, count) for at in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(DEADLINE_SECONDS)
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    with made.serving() as (_, url):
        device = made.device(url, login)
        raw = device.http.get(f"/v1/spaces/{login.home}/changes?since=0").content
        commits = msgspec.msgpack.decode(raw, type=Changes).commits
        assert [commit.rev for commit in commits] == list(range(1, len(commits) + 1))
        revs = {change.state.names[0].name: change.rev for each in commits for change in each.changes if change.state}
        for worker in workers:
            for name, (data, rev) in worker.done.items():
                assert revs[name] == rev
                part = ChunkPart(hashlib.sha256(data).digest())  # type: ignore[arg-type]
                assert device.in_space("chunks/get", GetRequest((part,)), GetAnswer).parts == (data,)
            if worker.open is not None:
                # Not acknowledged: taken or not, asking again gives one commit.
                name, commit = worker.open
                answer = device.in_space("commits", commit, CommitAnswer)
                assert answer.rev == revs.get(name, answer.rev)
                assert answer.rev
    assert sum(len(worker.done) for worker in workers) >= kill_after


def look_at_what_was_acknowledged(device: Device, workers: list[Worker]) -> int:
    """How many files are there; each that is there has what was sent."""
    raw = device.http.get(f"/v1/spaces/{device.login.home}/changes?since=0").content
    commits = msgspec.msgpack.decode(raw, type=Changes).commits
    assert [commit.rev for commit in commits] == list(range(1, len(commits) + 1))
    there = {change.state.names[0].name for each in commits for change in each.changes if change.state}
    found = 0
    for worker in workers:
        for name, (data, _) in worker.done.items():
            if name in there:
                part = ChunkPart(hashlib.sha256(data).digest())  # type: ignore[arg-type]
                assert device.in_space("chunks/get", GetRequest((part,)), GetAnswer).parts == (data,)
                found += 1
    return found


def test_a_backup_taken_while_it_is_used_restores_to_a_consistent_service(made: Home, build: Any) -> None:
    target, again = str(made.directory / "backup"), str(made.directory / "again")
    with made.serving() as (process, url):
        login = made.device(url).login
        leased = made.device(url, login).ask("/v1/ranges", None, NodeRange)
        done = threading.Event()
        workers = [Worker(build, url, login, leased.first + at * 100_000, done.set) for at in range(2)]
        for worker in workers:
            worker.start()
        assert done.wait(DEADLINE_SECONDS)
        for _ in range(2):
            backed_up = made.run("backup", target)
            assert (backed_up.returncode, backed_up.stderr) == (0, "")
        process.kill()
        for worker in workers:
            worker.join(DEADLINE_SECONDS)
    restored = made.run("restore", target, "--data", again)
    assert (restored.returncode, restored.stderr) == (0, "")
    looked = made.run("doctor", "--data", again)
    assert looked.returncode == 0, looked.stdout
    with made.serving("--data", again) as (_, url):
        device = made.device(url, login)
        assert 1 <= look_at_what_was_acknowledged(device, workers) <= sum(len(worker.done) for worker in workers)


@pytest.mark.parametrize("seed", range(1))
def test_collecting_that_is_killed_at_any_moment_takes_nothing_that_is_needed(
    made: Home, build: Any, seed: int
) -> None:
    chance = random.Random(seed)
    with made.serving() as (process, url):
        login = made.device(url).login
        leased = made.device(url, login).ask("/v1/ranges", None, NodeRange)
        done = threading.Semaphore(0)
        workers = [Worker(build, url, login, leased.first + at * 100_000, done.release) for at in range(2)]
        for worker in workers:
            worker.start()
        litter = made.device(url, login)
        for _ in range(4):
            litter.in_space("chunks/put", PutRequest(tuple(os.urandom(2_000) for _ in range(300))), object)
            collecting = subprocess.Popen([*COMMAND, "gc", "--grace", f"{GRACE_SECONDS}s"], env=made.environment)
            for _ in range(chance.randrange(5, 60)):
                assert done.acquire(timeout=DEADLINE_SECONDS)
            collecting.kill()
            collecting.wait(DEADLINE_SECONDS)
        collected = made.run("gc", "--grace", f"{GRACE_SECONDS}s")
        assert (collected.returncode, collected.stderr) == (0, "")
        process.kill()
        for worker in workers:
            worker.join(DEADLINE_SECONDS)
    with made.serving() as (_, url):
        found = look_at_what_was_acknowledged(made.device(url, login), workers)
        assert found == sum(len(worker.done) for worker in workers)
    looked = made.run("doctor")
    assert looked.returncode == 0, looked.stdout


class Mover(threading.Thread):
    """Moves and copies things of its own between the home and the shared folder `team` until the server is gone."""

    def __init__(self, url: str, token: str, number: int, seed: int, on_done: Callable[[], None]) -> None:
        super().__init__()
        self.url = url
        self.is_webdav = bool(number % 2)
        self.http = script(url, token)
        self.chance = random.Random(f"{seed} {number}")
        self.on_done = on_done
        self.file = {f"file-{number}": self.chance.randbytes(3_000)}
        self.folder = {f"folder-{number}/{name}": name.encode() * 50 for name in ("a", "deep/b", "deep/c")}
        self.places = dict.fromkeys((f"file-{number}", f"folder-{number}"), "")
        """Where each is, as far as it was answered."""
        self.copies: dict[str, str] = {}
        """Of what copies are, that were answered."""
        self.asked: tuple[str, str, str] | None = None
        """What was not answered: (verb, what, where to)."""

    @property
    def whole(self) -> dict[str, bytes]:
        """What there is of its own, by path from where it is."""
        return {**self.file, **self.folder}

    def make(self) -> None:
        for path in (path for path in self.folder if path.endswith("a")):
            answered(self.http.post("/folders", json={"path": str(Path(path).parent)}))
            answered(self.http.post("/folders", json={"path": str(Path(path).parent / "deep")}))
        for path, content in self.whole.items():
            answered(self.http.put("/files", params={"path": path}, content=content))

    def run(self) -> None:
        with suppress(httpx.TransportError), closing(self.http), httpx.Client(auth=("ann", "password")) as self.dav:
            for number in itertools.count():
                self.once(number)
                self.on_done()

    def once(self, number: int) -> None:
        top = self.chance.choice(list(self.places))
        source = self.places[top] + top
        if self.chance.random() < 0.3:
            target = f"{self.chance.choice(('', 'team/'))}copy-{number}-{top}"
            self.asked = "COPY", top, target
            self.do("COPY", source, target)
            self.copies[target] = top
        else:
            there = "" if self.places[top] else "team/"
            self.asked = "MOVE", top, there + top
            self.do("MOVE", source, there + top)
            self.places[top] = there
        self.asked = None

    def do(self, verb: str, source: str, target: str) -> None:
        if self.is_webdav:
            there = {"destination": f"{self.url}/dav/{target}"}
            answered(self.dav.request(verb, f"{self.url}/dav/{source}", headers=there, timeout=DEADLINE_SECONDS))
            return
        found = answered(self.http.get("/files", params={"path": source})).json()
        where, wanted = f"/files/{found['file']}", {"path": target, "space": ""}
        within = {"space": found["space"]}
        if verb == "COPY":
            answered(self.http.post(f"{where}/copy", params=within, json=wanted))
        else:
            answered(self.http.patch(where, params=within, json=wanted))


def script(url: str, token: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=DEADLINE_SECONDS)


def answered(response: httpx.Response) -> httpx.Response:
    assert response.is_success, response.content
    return response


def tree(http: httpx.Client, file: str = "1", space: str = "") -> dict[str, bytes]:
    """All files below a folder with their content, by path; what is in shared folders, too."""
    found: dict[str, bytes] = {}
    for one in answered(http.get(f"/files/{file}/children", params={"space": space})).json()["files"]:
        name, within = one["name"], {"space": one["space"]}
        if one["kind"] == "folder":
            found |= {f"{name}/{path}": content for path, content in tree(http, one["file"], one["space"]).items()}
        else:
            found[name] = answered(http.get(f"/files/{one['file']}/download", params=within)).content
    return found


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_files_move_between_spaces_each_is_whole_in_one_place(made: Home, seed: int) -> None:
    kill_after = random.Random(seed).randrange(5, 60)
    with made.serving("--webdav") as (process, url):
        device = made.device(url)
        with script(url, device.login.token) as http:
            team = answered(http.post("/folders", json={"path": "team"})).json()["file"]
            answered(http.post(f"/files/{team}/share", json={}))
        left = iter(range(kill_after))

        def count() -> None:
            if next(left, None) is None:
                process.kill()

        movers = [Mover(url, device.login.token, number, seed, count) for number in range(4)]
        for mover in movers:
            mover.make()
        for mover in movers:
            mover.start()
        for mover in movers:
            mover.join(DEADLINE_SECONDS)
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    with made.serving() as (_, url), script(url, device.login.token) as http:
        found = tree(http)
    for mover in movers:
        verb, what, where = mover.asked or ("", "", "")
        for top, place in mover.places.items():
            may_be = {place + top, where} if verb == "MOVE" and what == top else {place + top}
            (there,) = {path for path in (top, f"team/{top}") if taken_out(found, path, top, mover.whole)}
            assert there in may_be
        for copy, top in mover.copies.items():
            assert taken_out(found, copy, top, mover.whole)
        if verb == "COPY":
            taken_out(found, where, what, mover.whole)
    assert not found, "nothing else is there"


def taken_out(found: dict[str, bytes], path: str, top: str, whole: dict[str, bytes]) -> bool:
    """Whether there is something of this path, which is taken out of `found`; it must be whole then."""
    there = {each: found.pop(each) for each in list(found) if each == path or each.startswith(f"{path}/")}
    wanted = {path + each.removeprefix(top): content for each, content in whole.items() if each.split("/")[0] == top}
    assert not there or there == wanted, f"{path} is half there: {sorted(there)}"
    return bool(there)
