"""WebDAV as others speak it: litmus, and what must hold besides."""

import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from xml.dom import minidom

import httpx
import pytest

from remote.server import instance as instances
from tests.mounted.trees import until
from tests.remote.server.test_downloads import SIZE, received_of
from tests.remote.server.test_process import DEADLINE_SECONDS, Home
from tests.scanner import EICAR, running_scanner

SUITES = ("basic", "copymove", "props", "locks", "http")
CONTENT = bytes(range(256)) * 8_000


@pytest.fixture
def url(tmp_path: Path, cheap_passwords: None) -> Iterator[str]:
    """The address of a home by WebDAV."""
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", "password")
    instances.add_account(data, key_file, "bob", "password")
    with home.serving("--webdav") as (process, address):
        yield f"{address}/dav"
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_an_infected_file_is_not_given(tmp_path: Path, cheap_passwords: None) -> None:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", "password")
    with running_scanner() as scanner, home.serving("--webdav", "--clamd", scanner.place) as (process, address):
        with httpx.Client(base_url=f"{address}/dav", auth=("ann", "password"), timeout=DEADLINE_SECONDS) as client:
            assert client.put("/eicar.com", content=EICAR).status_code == 201
            assert client.put("/clean.txt", content=b"clean").status_code == 201
            assert until(lambda: client.get("/eicar.com").status_code == 403, DEADLINE_SECONDS)
            assert EICAR not in client.get("/eicar.com").content
            assert client.get("/clean.txt").content == b"clean"
            assert client.request("PROPFIND", "/eicar.com", headers={"depth": "0"}).status_code == 207
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, auth=("ann", "password"), timeout=DEADLINE_SECONDS) as client:
        yield client


def test_litmus_finds_nothing(url: str, client: httpx.Client, tmp_path: Path) -> None:
    for suite in SUITES:
        done = subprocess.run(
            ["litmus", f"{url}/", "ann", "password"],
            env={"TESTS": suite, "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, said
        assert "0 failed" in said
        assert "SKIPPED" not in said
        client.delete("/litmus/")


def test_only_with_name_and_password(url: str) -> None:
    for auth in (None, ("ann", "wrong"), ("nobody", "password")):
        answer = httpx.request("PROPFIND", url + "/", auth=auth, timeout=DEADLINE_SECONDS)
        assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, "Basic")


def test_a_file_comes_back_whole_and_in_parts(client: httpx.Client) -> None:
    assert client.put("/f%C3%BCr.bin", content=CONTENT).status_code == 201
    assert client.get("/f%C3%BCr.bin").content == CONTENT
    part = client.get("/f%C3%BCr.bin", headers={"range": "bytes=1000000-1000009"})
    assert (part.status_code, part.content) == (206, CONTENT[1_000_000:1_000_010])
    assert client.put("/f%C3%BCr.bin", content=b"short").status_code == 204
    assert client.get("/f%C3%BCr.bin").content == b"short"


def test_a_body_that_is_cut_changes_nothing(url: str, client: httpx.Client) -> None:
    client.put("/kept", content=b"old")
    host, port = httpx.URL(url).host, httpx.URL(url).port
    for name in ("kept", "new"):
        with socket.create_connection((host, port)) as cut:
            head = f"PUT /dav/{name} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic YW5uOnBhc3N3b3Jk\r\n"
            head += "Content-Length: 100000\r\n\r\n"
            cut.sendall(head.encode() + b"x" * 50_000)
            cut.shutdown(socket.SHUT_WR)
            cut.recv(1)
    assert client.get("/kept").content == b"old"
    assert client.get("/new").status_code == 404


def test_a_folder_moves_with_all_that_is_in_it_and_goes_whole(client: httpx.Client) -> None:
    client.request("MKCOL", "/a")
    client.request("MKCOL", "/a/b")
    client.put("/a/b/c", content=CONTENT)
    moved = client.request("MOVE", "/a", headers={"destination": f"{client.base_url}z"})
    assert moved.status_code == 201
    assert client.get("/z/b/c").content == CONTENT
    copied = client.request("COPY", "/z", headers={"destination": f"{client.base_url}copy"})
    assert copied.status_code == 201
    assert client.delete("/z").status_code == 204
    assert client.get("/z/b/c").status_code == 404
    assert client.get("/copy/b/c").content == CONTENT


def test_a_lock_holds_in_one_home_only(url: str, client: httpx.Client) -> None:
    lock = (
        '<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>'
        "<D:locktype><D:write/></D:locktype><D:owner>bob's secret</D:owner></D:lockinfo>"
    )
    with httpx.Client(base_url=url, auth=("bob", "password"), timeout=DEADLINE_SECONDS) as bob:
        locked = bob.request("LOCK", "/", content=lock, headers={"depth": "infinity"})
        assert locked.status_code == 200
        assert client.put("/notes", content=b"ann's").status_code == 201
        seen = client.request("PROPFIND", "/", headers={"depth": "0"}).text
        assert "opaquelocktoken" not in seen
        assert bob.put("/notes", content=b"bob's").status_code == 423
        token = {"lock-token": locked.headers["lock-token"]}
        assert client.request("UNLOCK", "/", headers=token).status_code >= 400
        assert bob.request("UNLOCK", "/", headers=token).status_code == 204


@pytest.mark.parametrize("verb", ["MOVE", "COPY"])
def test_what_lies_in_its_destination_stays(verb: str, client: httpx.Client) -> None:
    client.request("MKCOL", "/a")
    client.request("MKCOL", "/a/b")
    client.put("/a/b/c", content=b"kept")
    base = str(client.base_url).rstrip("/")
    for source, destination in (
        *(("/a", "//a"), ("/a", "//a/b"), ("/a", "/a/b"), ("/a", "/"), ("/a/b", "/a"), ("/a/b", "/a//b")),
        *(("/a/b/c", "/a"), ("/a/b/c", "/"), ("/a/b/c", "/a/b//c"), ("/a/b/c", "/a/b/c/")),
    ):
        answer = client.request(verb, source, headers={"destination": base + destination})
        assert answer.status_code in {403, 409}, (source, destination)
        assert client.get("/a/b/c").content == b"kept", (source, destination)


def test_the_drive_is_not_deleted(client: httpx.Client) -> None:
    client.put("/kept", content=b"kept")
    assert client.delete("/").status_code == 403
    assert client.get("/kept").content == b"kept"


@pytest.mark.parametrize("verb", ["MOVE", "COPY"])
def test_a_name_that_would_be_cut_replaces_nothing(verb: str, client: httpx.Client) -> None:
    client.put("/kept", content=b"kept")
    client.put("/other", content=b"other")
    for name in ("kept%3Fx", "kept%3Bx", "kept;x"):
        answer = client.request(verb, "/other", headers={"destination": f"{client.base_url}{name}"})
        assert answer.status_code == 403
        assert (client.get("/kept").content, client.get("/other").content) == (b"kept", b"other")
    answer = client.request(verb, "/other", headers={"destination": f"{client.base_url}a%2541%23"})
    assert answer.status_code == 201
    assert client.get("/a%2541%23").content == b"other"


def test_no_name_makes_a_folder_unreadable(client: httpx.Client) -> None:
    for name in ("a%01b", "c%EF%BF%BEd", "e%0Af"):
        assert client.put(f"/{name}", content=b"x").status_code == 201
    listed = client.request("PROPFIND", "/", headers={"depth": "1"})
    told = minidom.parseString(listed.content)  # noqa: S318 - of our own server
    hrefs = [each.firstChild.nodeValue for each in told.getElementsByTagName("ns0:href")]
    assert {"/dav/a%01b", "/dav/c%EF%BF%BEd", "/dav/e%0Af"} <= set(hrefs)


def test_a_page_in_the_drive_runs_nothing(client: httpx.Client) -> None:
    client.put("/page.html", content=b"<script>alert(1)</script>")
    answer = client.get("/page.html")
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.fixture
def shared(url: str, client: httpx.Client) -> Iterator[httpx.Client]:
    """Ann has outer/work/{a, sub/b} and shares work with bob, who has it as work; bob's client."""
    for folder in ("outer", "outer/work", "outer/work/sub"):
        assert client.request("MKCOL", f"/{folder}/").status_code == 201
    client.put("/outer/work/a", content=b"of ann")
    client.put("/outer/work/sub/b", content=CONTENT)
    json = url.removesuffix("/dav") + "/api/v1"

    def signed_in(name: str) -> httpx.Client:
        body = {"user": name, "password": "password", "device_name": "script"}
        token = httpx.post(f"{json}/login", json=body, timeout=DEADLINE_SECONDS).json()["token"]
        return httpx.Client(base_url=json, headers={"authorization": f"Bearer {token}"}, timeout=DEADLINE_SECONDS)

    with signed_in("ann") as ann, signed_in("bob") as bob:
        folder = ann.get("/files", params={"path": "outer/work"}).json()["file"]
        made = ann.post(f"/files/{folder}/share", json={"wishes": [{"who": "bob"}]}).json()
        assert bob.post(f"/shares/{made['space']}/accept").status_code == 200
    with httpx.Client(base_url=url, auth=("bob", "password"), timeout=DEADLINE_SECONDS) as bob:
        yield bob


def names_in(client: httpx.Client, folder: str) -> list[str]:
    answer = client.request("PROPFIND", folder, headers={"depth": "1"})
    assert answer.status_code == 207, answer.text
    found = minidom.parseString(answer.content).getElementsByTagNameNS("DAV:", "href")  # noqa: S318  ours
    return sorted(str(one.firstChild.nodeValue).removeprefix(f"/dav{folder}") for one in found)[1:]  # type: ignore[union-attr]


def test_shared_folders_are_gone_into(client: httpx.Client, shared: httpx.Client) -> None:
    assert names_in(shared, "/work/") == ["a", "sub/"]
    assert shared.get("/work/sub/b").content == CONTENT
    assert shared.put("/work/a", content=b"of bob").status_code == 204
    assert client.get("/outer/work/a").content == b"of bob"
    assert client.put("/outer/work/sub/new", content=CONTENT).status_code == 201
    assert shared.get("/work/sub/new").content == CONTENT
    inside = {"destination": f"{shared.base_url}work/moved"}
    assert shared.request("MOVE", "/work/sub/new", headers=inside).status_code == 201
    assert shared.delete("/work/a").status_code == 204
    assert names_in(client, "/outer/work/") == ["moved", "sub/"]


def test_shared_folders_move_whole_and_are_not_removed(client: httpx.Client, shared: httpx.Client) -> None:
    for path in ("/outer/", "/outer/work/"):
        assert client.delete(path).status_code == 403
    moved = client.request("MOVE", "/outer/work/", headers={"destination": f"{client.base_url}ours/"})
    assert moved.status_code in {201, 204}
    assert names_in(client, "/ours/") == ["a", "sub/"]
    client.put("/file", content=b"of ann's home")
    over = client.request("MOVE", "/file", headers={"destination": f"{client.base_url}ours"})
    assert over.status_code == 403
    assert names_in(shared, "/work/") == ["a", "sub/"]
    assert shared.get("/work/sub/b").content == CONTENT


def test_files_go_into_shared_folders_and_out_of_them(client: httpx.Client, shared: httpx.Client) -> None:
    def go(who: httpx.Client, verb: str, source: str, destination: str) -> int:
        return who.request(verb, source, headers={"destination": f"{who.base_url}{destination}"}).status_code

    client.put("/file", content=CONTENT)
    assert go(client, "COPY", "/file", "outer/work/copy") == 201
    assert go(client, "MOVE", "/file", "outer/work/a") == 204
    assert names_in(client, "/") == ["outer/"]
    assert names_in(shared, "/work/") == ["a", "copy", "sub/"]
    assert shared.get("/work/a").content == CONTENT
    # A folder out of it, by another member, into his home.
    assert go(shared, "MOVE", "/work/sub/", "mine/") == 201
    assert names_in(client, "/outer/work/") == ["a", "copy"]
    assert shared.get("/mine/b").content == CONTENT
    # What holds a shared folder is copied with all that is in that, and moves into no other.
    assert go(client, "COPY", "/outer/", "whole/") == 201
    assert names_in(client, "/whole/work/") == ["a", "copy"]
    assert client.get("/whole/work/copy").content == CONTENT
    assert client.delete("/whole/").status_code == 204
    assert shared.put("/mine/b", content=b"of bob").status_code == 204
    assert names_in(shared, "/work/") == ["a", "copy"]


@pytest.mark.parametrize("what", ["token", "right"])
def test_a_download_ends_with_the_token_and_with_the_right(url: str, shared: httpx.Client, what: str) -> None:
    shared.put("/work/film", content=bytes(SIZE)).raise_for_status()
    with httpx.Client(base_url=url.removesuffix("/dav"), timeout=DEADLINE_SECONDS) as http:

        def signed_in(name: str) -> None:
            login = {"user": name, "password": "password", "device_name": "script"}
            http.headers["authorization"] = f"Bearer {http.post('/api/v1/login', json=login).json()['token']}"

        signed_in("bob")
        token = http.post("/api/v1/tokens", json={"name": "phone", "scopes": ["webdav-read"]}).json()
        space = http.get("/api/v1/shares").json()["folders"][0]["space"]
        basic = b64encode(f"bob:{token['secret']}".encode()).decode()

        def end() -> None:
            if what == "token":
                ended = http.delete(f"/api/v1/tokens/{token['entry']['token']}")
            else:
                signed_in("ann")
                ended = http.delete(f"/api/v1/shares/{space}/members", params={"who": "bob"})
            ended.raise_for_status()

        assert received_of(httpx.URL(url), "/dav/work/film", f"authorization: Basic {basic}\r\n", end) < SIZE
    if what == "token":
        assert len(shared.get("/work/film").content) == SIZE


def test_moving_and_copying_over_something_is_one_commit(url: str, client: httpx.Client) -> None:
    with httpx.Client(base_url=url.removesuffix("/dav"), timeout=DEADLINE_SECONDS) as http:
        login = {"user": "ann", "password": "password", "device_name": "script"}
        token = http.post("/api/v1/login", json=login).json()["token"]
        http.headers["authorization"] = f"Bearer {token}"

        def rev() -> int:
            return int(http.get("/api/v1/spaces").json()[0]["rev"])

        for name in ("a", "b"):
            client.request("MKCOL", f"/{name}")
            client.put(f"/{name}/f", content=name.encode())
        client.put("/one", content=b"one")
        client.put("/two", content=b"two")
        for verb, source, destination, status in (
            ("COPY", "a", "c", 201),
            ("COPY", "a", "b", 204),
            ("MOVE", "a", "c", 204),
            ("COPY", "one", "two", 204),
            ("MOVE", "one", "two", 204),
        ):
            before = rev()
            answer = client.request(verb, f"/{source}", headers={"destination": f"{client.base_url}{destination}"})
            assert (answer.status_code, rev()) == (status, before + 1), (verb, source, destination)
        assert [client.get(f"/{name}/f").content for name in ("b", "c")] == [b"a", b"a"]
        assert client.get("/two").content == b"one"
        before = rev()
        assert client.delete("/b").status_code == 204
        assert rev() == before + 1


@pytest.mark.parametrize(
    "given", ["Basic ####", "Basic //4=", "Basic bm9jb2xvbg==", "Basic", "Digest username=ann", "x"]
)
def test_a_sign_in_that_is_none_is_asked_for_again(url: str, given: str) -> None:
    answer = httpx.get(f"{url}/", headers={"authorization": given}, timeout=DEADLINE_SECONDS)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert "app token" in answer.text


def test_what_browsers_see_is_ours(url: str, client: httpx.Client) -> None:
    client.put("/a.txt", content=b"a").raise_for_status()
    folder, missing = client.get("/"), client.get("/<script>missing</script>")
    assert (folder.status_code, missing.status_code) == (403, 404)
    assert "programs that speak WebDAV" in folder.text
    assert "&lt;script&gt;missing" in missing.text
    for answer in (folder, missing, client.put("/b.txt", content=b"b"), client.request("MKCOL", "/none/b")):
        assert "wsgidav" not in answer.text.lower()
        assert len(answer.headers.get_list("date")) == 1


@pytest.mark.parametrize(
    ("destination", "status"),
    [
        ("https://HOST/dav/b.txt", 201),
        ("HTTP://HOST/dav/b.txt", 201),
        ("/dav/b.txt", 201),
        ("https://elsewhere.example/dav/b.txt", 502),
        ("//elsewhere.example/dav/b.txt", 502),
        ("http://HOST/v1/b.txt", 502),
        ("http://HOST/davx/b.txt", 502),
        ("file:///dav/b.txt", 502),
        ("http://HOST/dav/../b.txt", 409),
        ("http://HOST/dav/%2e%2e/b.txt", 409),
        ("http://HOST/dav/b%00.txt", 403),
        ("http://HOST/dav/b%ff.txt", 400),
        ("http://[::1", 400),
        ("", 502),
    ],
)
def test_a_destination_is_in_the_drive_by_whatever_scheme_a_proxy_speaks(
    url: str, client: httpx.Client, destination: str, status: int
) -> None:
    client.put("/a.txt", content=CONTENT).raise_for_status()
    host = url.removeprefix("http://").removesuffix("/dav")
    answer = client.request("MOVE", "/a.txt", headers={"destination": destination.replace("HOST", host)})
    assert answer.status_code == status, answer.text
    names = {"/a.txt": client.get("/a.txt").status_code, "/b.txt": client.get("/b.txt").status_code}
    assert names == ({"/a.txt": 404, "/b.txt": 200} if status == 201 else {"/a.txt": 200, "/b.txt": 404})


def test_a_name_that_is_no_text_replaces_no_other_file(client: httpx.Client) -> None:
    client.put("/\N{REPLACEMENT CHARACTER}", content=b"mine").raise_for_status()
    assert client.put("/%ff", content=b"other").status_code == 400
    assert client.get("/%ff").status_code == 400
    assert client.get("/\N{REPLACEMENT CHARACTER}").content == b"mine"


def test_a_question_has_bounds(client: httpx.Client) -> None:
    wanted = b"".join(b'<p%d xmlns="x:"/>' % number for number in range(100_000))
    for method in ("PROPFIND", "PROPPATCH", "LOCK"):
        answer = client.request(method, "/", headers={"depth": "0"}, content=wanted)
        assert answer.status_code == 413
        assert "bytes" in answer.text
    for headers in ({"depth": "infinity"}, {}):
        endless = client.request("PROPFIND", "/", headers=headers)
        assert endless.status_code == 403
        assert "propfind-finite-depth" in endless.text
    for count, status in ((50, 207), (51, 403)):
        named = b"".join(b'<p%d xmlns="x:"/>' % number for number in range(count))
        body = b'<propfind xmlns="DAV:"><prop>%s</prop></propfind>' % named
        many = client.request("PROPFIND", "/", headers={"depth": "1"}, content=body)
        assert (many.status_code, "at most 50" in many.text) == (status, status == 403)
    assert client.request("PROPFIND", "/", headers={"depth": "1"}).status_code == 207
