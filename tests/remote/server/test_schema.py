"""The description at /docs is true: schemathesis asks what it allows, and what it does not, of a real server.

More than the suite does: `SATCHEL_TEST_EXAMPLES=300 SATCHEL_TEST_SEED=7 pytest tests/remote/server/test_schema.py`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from remote.server import instance as instances
from tests.remote.server.test_process import DEADLINE_SECONDS, Home

PASSWORD = "correct horse"
EXAMPLES = int(os.environ.get("SATCHEL_TEST_EXAMPLES", "4"))
SEED = os.environ.get("SATCHEL_TEST_SEED", "20261121")
_COMMAND = "from schemathesis.cli import schemathesis; schemathesis()"
RUN_SECONDS = 400.0 + 20.0 * EXAMPLES
ENDING = "^/api/v1/(login|logout|password|devices/.*)$"
"""Paths that may end the token which asks, or slow its user down: asked last, where that is no matter."""

CONFIG = """
[generation]
# Parameters that nobody has heard of are passed over, as everywhere on the web.
allow-extra-parameters = false
[checks.negative_data_rejection]
# 413: what breaks the description may be too large as well.
expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413, 422, 429]
"""
NOISE = "WARNING uvicorn.error: Invalid HTTP request received."
"""What is no HTTP at all is among what is asked."""


@dataclass
class Asked:
    """A running server, and a user who has something there."""

    url: str
    token: str
    space: str
    file: str

    def ask(self, directory: Path, *words: str, has_ids: bool) -> str:
        """What schemathesis says; fails with it."""
        known = f'[parameters]\n"path.space" = {self.space}\n"path.file" = "{self.file}"\n"query.space" = ""\n'
        config = directory / "schemathesis.toml"
        config.write_text((known if has_ids else "") + CONFIG)
        done = subprocess.run(
            [
                *(sys.executable, "-c", _COMMAND, "--config-file", str(config)),
                *("run", f"{self.url}/docs/openapi.json", "--header", f"Authorization: Bearer {self.token}"),
                # What JSON Schema cannot say (that a day is in the calendar, say) is refused with 400 as well.
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES), "--seed", SEED),
                *("--request-timeout", str(DEADLINE_SECONDS), "--suppress-health-check", "too_slow"),
                *("--continue-on-failure", "--no-color", *words),
            ],
            cwd=directory,
            env={**os.environ, "HOME": str(directory), "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-20_000:]
        return said


@pytest.fixture
def asked(tmp_path: Path, cheap_passwords: None) -> Iterator[Asked]:
    home = Home(tmp_path / "home")
    data, key_file = home.directory / "server", home.directory / "server-key"
    instances.make(data, key_file)
    instances.add_account(data, key_file, "ann", PASSWORD)
    with home.serving() as (process, url):
        with httpx.Client(base_url=f"{url}/api/v1", timeout=DEADLINE_SECONDS) as http:
            login = {"user": "ann", "password": PASSWORD, "device_name": "script"}
            signed_in = http.post("/login", json=login).json()
            http.headers["authorization"] = f"Bearer {signed_in['token']}"
            made = http.put("/files", params={"path": "a.txt"}, content=b"content" * 1_000).json()
        yield Asked(url, signed_in["token"], signed_in["home"], made["file"])
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        logged = [line for line in process.stderr.read().splitlines() if not line.endswith(NOISE)]
        assert logged == []


def test_it_answers_as_described_whatever_is_asked(asked: Asked, tmp_path: Path) -> None:
    said = asked.ask(tmp_path, "--exclude-path-regex", ENDING, has_ids=False)
    assert "Stateful" in said


def test_it_answers_as_described_about_what_is_there(asked: Asked, tmp_path: Path) -> None:
    asked.ask(tmp_path, "--exclude-path-regex", ENDING, has_ids=True)
    asked.ask(tmp_path, "--include-path-regex", ENDING, has_ids=True)


def test_every_route_below_api_is_described(asked: Asked) -> None:
    told = json.loads(httpx.get(f"{asked.url}/docs/openapi.json", timeout=DEADLINE_SECONDS).content)
    for path, methods in told["paths"].items():
        assert path.startswith("/api/v1/"), path
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert {"400", "401", "403", "404"} <= set(operation["responses"]), (method, path)
