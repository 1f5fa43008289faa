"""Accounts by the commands, against a server that is a process: codes, app tokens, sign-on, logs."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from remote.server import instance as instances
from tests.remote.server.test_process import DEADLINE_SECONDS, Home
from tests.remote.server.test_sso import IdentityProvider

SATCHEL = [sys.executable, "-c", "from fusefs.cli.main import main; main()"]


class Machine:
    """A machine with the satchel command, of one user."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SATCHEL_H", "XDG_"))}
        hidden = ("DISPLAY", "WAYLAND_DISPLAY")
        kept = {name: value for name, value in kept.items() if name not in hidden}
        self.environment = {**kept, "SATCHEL_HOME": str(folder)}

    def run(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SATCHEL, *words],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def must(self, *words: str, text: str = "") -> str:
        done = self.run(*words, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def login(self, *words: str, text: str = "password\n") -> subprocess.CompletedProcess[str]:
        return self.run("login", self.url, "--user", "ann", "--password-stdin", *words, text=text)


@pytest.fixture
def home(tmp_path: Path, cheap_passwords: None) -> Home:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", "password")
    instances.add_account(data, key_file, "bob", "password")
    return home


@pytest.fixture
def url(home: Home) -> Iterator[str]:
    with home.serving("--webdav") as (process, url):
        yield url
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.fixture
def desk(tmp_path: Path, url: str) -> Machine:
    return Machine(tmp_path / "desk", url)


def code_of(address: str, seconds: float) -> str:
    """What an authenticator app shows that was given this address."""
    secret = base64.b32decode(re.findall(r"secret=([A-Z2-7]+)", address)[0])
    return TOTP(secret, 6, SHA1(), 30).generate(int(seconds)).decode()  # noqa: S303


def test_codes_from_beginning_to_end(home: Home, desk: Machine, tmp_path: Path) -> None:
    assert desk.login("--device-name", "desk").returncode == 0
    assert "password only" in desk.must("totp")
    process = subprocess.Popen(
        [*SATCHEL, "totp", "on", "--password-stdin"],
        env=desk.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("password\n")
    process.stdin.flush()
    while "otpauth://" not in (line := process.stdout.readline()):
        assert line
    began = time.time()
    told, _ = process.communicate(f"{code_of(line, began)}\n", DEADLINE_SECONDS)
    assert process.returncode == 0
    recovery = re.findall(r"^    ([a-z2-7]{4}(?:-[a-z2-7]{4}){3})$", told, flags=re.MULTILINE)
    assert len(recovery) == 10

    laptop = Machine(tmp_path / "laptop", desk.url)
    assert (refused := laptop.login()).returncode == 2
    assert "code of its authenticator app" in refused.stderr
    assert (refused := laptop.login(text="password\n000\n")).returncode == 4
    assert "did not take this code" in refused.stderr
    # The code of the next half minute is taken too, and newer than the one that turned codes on.
    assert laptop.login(text=f"password\n{code_of(line, began + 30)}\n").returncode == 0
    assert laptop.login(text=f"password\n{recovery[0]}\n").returncode == 0
    assert "9 recovery codes" in laptop.must("totp")
    fresh = laptop.must("totp", "codes", "--code-stdin", text=f"{recovery[1]}\n")
    assert recovery[2] not in fresh
    found = re.findall(r"^    (\S+)$", fresh, flags=re.MULTILINE)
    laptop.must("totp", "off", "--password-stdin", text=f"password\n{found[0]}\n")
    assert laptop.login().returncode == 0


def test_who_lost_the_app_is_let_in_by_whoever_runs_the_server(home: Home, desk: Machine) -> None:
    assert desk.login().returncode == 0
    done = home.run("user", "totp-off", "ann")
    assert (done.returncode, done.stdout) == (0, "ann signs in without codes now.\n")
    assert home.run("user", "totp-off", "nobody").returncode == 1


def test_app_tokens_by_the_commands_and_over_webdav(home: Home, desk: Machine) -> None:
    assert desk.login("--device-name", "desk").returncode == 0
    phone = desk.must("token", "add", "phone", "--scope", "webdav").strip()
    reader = json.loads(desk.must("token", "add", "reader", "--scope", "webdav-read", "--expires", "1h", "--json"))
    script = desk.must("token", "add", "script", "--scope", "read").strip()
    assert desk.run("token", "add", "x", "--scope", "everything").returncode == 2
    assert desk.run("token", "add", "script", "--scope", "read").returncode == 1, "a name that is taken is no misuse"

    def dav(method: str, secret: str, user: str = "ann", **more: Any) -> httpx.Response:
        return httpx.request(method, f"{desk.url}/dav/a.txt", auth=(user, secret), timeout=DEADLINE_SECONDS, **more)

    assert dav("PUT", phone, content=b"by phone").status_code == 201
    assert dav("GET", reader["secret"]).content == b"by phone"
    assert dav("PUT", reader["secret"], content=b"x").status_code == 403
    assert dav("DELETE", reader["secret"]).status_code == 403
    assert dav("GET", script).status_code == 403
    assert dav("GET", phone, user="bob").status_code == 401
    assert dav("GET", phone + "x").status_code == 401
    # Nor is it good for more than WebDAV.
    bearer = {"authorization": f"Bearer {phone}"}
    assert httpx.get(f"{desk.url}/api/v1/spaces", headers=bearer, timeout=DEADLINE_SECONDS).status_code == 403
    bearer = {"authorization": f"Bearer {script}"}
    spaces = httpx.get(f"{desk.url}/api/v1/spaces", headers=bearer, timeout=DEADLINE_SECONDS)
    assert spaces.status_code == 200
    # Versions name the token.
    assert dav("MOVE", phone, headers={"Destination": f"{desk.url}/dav/b.txt"}).status_code == 201
    asked = f"{desk.url}/api/v1/spaces/{spaces.json()[0]['space']}/versions"
    versions = httpx.get(asked, params={"path": "b.txt"}, headers=bearer, timeout=DEADLINE_SECONDS).json()
    assert [version["device"] for version in versions] == ["phone", "phone"]

    listed = {one["name"]: one for one in json.loads(desk.must("token", "list", "--json"))}
    assert {name: one["scopes"] for name, one in listed.items()} == {
        "phone": ["webdav"],
        "reader": ["webdav-read"],
        "script": ["read"],
    }
    assert listed["phone"]["seen_ns"]
    desk.must("token", "revoke", "phone")
    assert dav("GET", phone).status_code == 401
    assert desk.run("token", "revoke", "phone").returncode == 1
    assert "phone" not in desk.must("token", "list")


def test_webdav_by_password_says_what_to_do_when_codes_are_on(home: Home, desk: Machine) -> None:
    assert desk.login().returncode == 0
    token = json.loads(next(Path(desk.environment["SATCHEL_HOME"]).rglob("account.json")).read_text())["token"]
    headers = {"authorization": f"Bearer {token}"}
    begun = httpx.post(
        f"{desk.url}/api/v1/totp/begin", headers=headers, json={"password": "password"}, timeout=DEADLINE_SECONDS
    ).json()
    code = code_of(begun["address"], time.time())
    assert (
        httpx.post(
            f"{desk.url}/api/v1/totp/on", headers=headers, json={"code": code}, timeout=DEADLINE_SECONDS
        ).status_code
        == 200
    )
    answer = httpx.request("PROPFIND", f"{desk.url}/dav/", auth=("ann", "password"), timeout=DEADLINE_SECONDS)
    assert (answer.status_code, "satchel token add" in answer.text) == (403, True)
    assert (
        httpx.request("PROPFIND", f"{desk.url}/dav/", auth=("ann", "wrong"), timeout=DEADLINE_SECONDS).status_code
        == 401
    )


def test_who_signs_in_again_keeps_the_name_of_the_device(desk: Machine) -> None:
    assert desk.login("--device-name", "my desk").returncode == 0
    assert "called my desk" in desk.login().stdout
    assert "called another" in desk.login("--device-name", "another").stdout


def test_users_are_kept_out_and_let_in_again(home: Home, desk: Machine) -> None:
    assert desk.login().returncode == 0
    token = desk.must("token", "add", "phone", "--scope", "webdav").strip()
    assert home.run("user", "disable", "ann").returncode == 0
    assert desk.run("devices").returncode == 4
    assert "disabled" in desk.login().stderr
    assert (
        httpx.request("PROPFIND", f"{desk.url}/dav/", auth=("ann", token), timeout=DEADLINE_SECONDS).status_code == 401
    )
    assert [one["is_disabled"] for one in json.loads(home.run("user", "list", "--json").stdout)] == [True, False]
    assert home.run("user", "enable", "ann").returncode == 0
    assert desk.run("devices").returncode == 0
    # Without a yes nothing is removed.
    assert home.run("user", "remove", "ann").returncode == 1
    assert desk.run("devices").returncode == 0
    assert home.run("user", "remove", "ann", "--yes").returncode == 0
    assert desk.run("devices").returncode == 4
    assert [one["user_name"] for one in json.loads(home.run("user", "list", "--json").stdout)] == ["bob"]


def test_the_audit_log_by_both_commands(home: Home, desk: Machine) -> None:
    assert desk.login("--device-name", "desk").returncode == 0
    assert desk.login(text="wrong words\n").returncode == 4
    desk.must("token", "add", "phone", "--scope", "webdav")
    mine = desk.must("audit")
    assert re.search(r"ann: app token made: phone for webdav  desk, 127\.0\.0\.1", mine)
    assert re.search(r"\(nobody\): sign-in REFUSED: ann  127\.0\.0\.1", mine)
    lines = [json.loads(line) for line in desk.must("audit", "--json", "--limit", "2").splitlines()]
    assert [line["what"] for line in lines] == ["app token made", "sign-in"]
    whole = [json.loads(line) for line in home.run("audit", "--json").stdout.splitlines()]
    assert [(line["user"], line["what"]) for line in whole[:2]] == [("ann", "user added"), ("bob", "user added")]
    assert {
        line["user"] for line in map(json.loads, home.run("audit", "--json", "--user", "bob").stdout.splitlines())
    } == {"bob"}
    assert "(server) [ann]: user added: ann" in home.run("audit").stdout
    assert home.run("audit", "--since", "2099-01-01").stdout == ""
    assert home.run("audit", "--since", "yesterday").returncode == 1
    assert home.run("audit", "--keep-days", "30").returncode == 0


def test_mail_addresses_by_both_commands(home: Home, desk: Machine) -> None:
    assert desk.login().returncode == 0
    assert "You get no mail" in desk.must("email")
    assert "goes to ann@example.org" in desk.must("email", "ann@example.org")
    assert desk.run("email", "nonsense").returncode == 2
    assert home.run("user", "email", "ann", "ann@example.com").returncode == 0
    assert "ann@example.com" in desk.must("email")
    assert "You get no mail" in desk.must("email", "--none")


def test_logs_as_json_say_who_asked_for_what_and_no_secrets(home: Home, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('proxies = ["127.0.0.1"]\n')
    with home.serving("--log-format", "json", "--webdav", "--config", str(config)) as (process, url):
        desk = Machine(tmp_path / "desk", url)
        assert desk.login("--device-name", "desk").returncode == 0
        token = desk.must("token", "add", "phone", "--scope", "webdav").strip()
        httpx.request(
            "PROPFIND", f"{url}/dav/secret-name/", auth=("ann", token), headers={"depth": "0"}, timeout=DEADLINE_SECONDS
        )
        httpx.get(f"{url}/s/a-secret-of-a-link/name?password=hunter2", timeout=DEADLINE_SECONDS)
        httpx.get(f"{url}/nowhere/at-all", timeout=DEADLINE_SECONDS)
        httpx.get(f"{url}/v1/health", headers={"x-forwarded-for": "192.0.2.7"}, timeout=DEADLINE_SECONDS)
        process.terminate()
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    lines = [json.loads(line) for line in said.splitlines()]
    routes = [(line["method"], line["route"], line["status"], line["user"]) for line in lines]
    assert ("POST", "/v1/login", 200, "ann") in routes
    assert ("POST", "/v1/tokens/make", 200, "ann") in routes
    assert ("GET", "/s/{secret}/{path}", 404, "") in routes
    assert [route[1:] for route in routes if route[0] == "PROPFIND"] == [("/dav", 404, "ann")]
    assert ("GET", "(none)", 404, "") in routes
    assert all(line["seconds"] > 0 and line["time"] for line in lines)
    assert [line["route"] for line in lines if line["address"] == "192.0.2.7"] == ["/v1/health"]
    assert {line["address"] for line in lines} == {"127.0.0.1", "192.0.2.7"}
    assert len({line["request"] for line in lines}) == len(lines)
    for secret in (token, "secret-name", "a-secret-of-a-link", "hunter2", "at-all", "password"):
        assert secret not in said


def test_a_browser_signs_a_device_in(home: Home, tmp_path: Path) -> None:
    provider = IdentityProvider()
    try:
        config = tmp_path / "server.toml"
        config.write_text(
            f'url = "http://127.0.0.1"\n[oidc]\nissuer = "{provider.issuer}"\nclient_id = "satchel"\n'
            'client_secret = "a client\'s secret"\ncreates_accounts = true\n'
        )
        assert home.run("run", "--config", str(config)).stderr.endswith(f"run chmod 600 {config}\n")
        config.chmod(0o600)
        with home.serving("--config", str(config)) as (_, url):
            desk = Machine(tmp_path / "desk", url)
            words = [*SATCHEL, "login", url, "--sso"]
            process = subprocess.Popen(words, env=desk.environment, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            letters = re.findall(r"the letters ([A-Z-]{9})", process.stdout.readline())[0]
            assert process.stdout.readline() == "\n"
            address = process.stdout.readline().strip()
            with httpx.Client(timeout=DEADLINE_SECONDS) as browser:
                page = browser.get(address)
                assert letters in page.text
                link = re.findall(r'href="([^"]+)"', page.text)[0].replace("&amp;", "&")
                back = browser.get(link).headers["location"]
                # The server listens on a port of its own here, which its configuration cannot know.
                done = browser.get(back.replace("http://127.0.0.1", url))
            assert "is signed in now" in done.text
            told, _ = process.communicate(timeout=DEADLINE_SECONDS)
            assert process.returncode == 0
            assert "as carl" in told
            assert json.loads(desk.must("devices", "--json"))[0]["is_this"]
    finally:
        provider.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense = 1\n", "nonsense"),
        ("[smtp]\n", "host"),
        ('proxies = ["everybody"]\n', "everybody"),
        ('[smtp]\nhost = "mail.example.org"\nsender = "nobody"\n', "smtp.sender"),
        ('[smtp]\nhost = "mail.example.org"\nsender = "a@b.c"\nuser = "a"\nsecurity = "none"\n', "in the clear"),
        ('[oidc]\nissuer = "https://id.example.org"\nclient_id = "a"\n', "url must be"),
        ('url = "https://drive"\n[oidc]\nissuer = "http://id.example.org"\nclient_id = "a"\n', "oidc.issuer"),
        ('url = "http://127.0.0.1.example.org"\n[oidc]\nissuer = "https://id"\nclient_id = "a"\n', "url must be"),
        ("[", "is no configuration"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_why(home: Home, tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text(text)
    done = home.run("run", "--listen", "127.0.0.1:0", "--config", str(config))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
