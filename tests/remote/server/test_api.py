"""The JSON API: what it says of itself, and history from end to end as a script asks for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from remote.protocol.errors import ServerFault
from remote.protocol.ids import ROOT
from remote.protocol.nodes import Manifest
from remote.server.http import api_common
from remote.server.instance import Instance
from remote.server.slowing import FAILURES_FREE

pytestmark = pytest.mark.anyio


class Script:
    """What asks as a person's script does."""

    def __init__(self, ann: Any) -> None:
        self.http = ann.http
        self.headers = {"authorization": f"Bearer {ann.login.token}"}
        self.space = f"/api/v1/spaces/{ann.home}"

    async def ask(self, method: str, where: str, body: object = None, status: int = 200, **query: Any) -> Any:
        response = await self.http.request(
            method, self.space + where, params=query, headers=self.headers, json=body if method != "GET" else None
        )
        assert response.headers["content-type"].startswith("application/json"), response.content
        assert response.status_code == status, response.content
        return response.json()


async def test_it_describes_itself(ann: Any) -> None:
    response = await ann.http.get("/docs")
    assert response.status_code == 200
    page = response.text
    assert "POST /api/v1/spaces/{space}/rewind" in page
    # It works without a network, and runs nothing.
    assert "<script" not in page
    assert "https://" not in page
    told = (await ann.http.get("/docs/openapi.json")).json()
    assert set(told["paths"]) >= {"/api/v1/spaces", "/api/v1/spaces/{space}/trash", "/api/v1/spaces/{space}/diff"}
    assert not [path for path in told["paths"] if not path.startswith("/api/")]
    assert "Bearer" in page


async def test_history_from_end_to_end(ann: Any, build: Any) -> None:
    script = Script(ann)
    wrong = {"user": "ann", "password": "wrong", "device_name": "script"}
    assert (await ann.http.post("/api/v1/login", json=wrong)).status_code == 401
    signed_in = (await ann.http.post("/api/v1/login", json={**wrong, "password": build.password})).json()
    assert signed_in["home"] == str(ann.home)
    script.headers = {"authorization": f"Bearer {signed_in['token']}"}
    (space,) = (await ann.http.get("/api/v1/spaces", headers=script.headers)).json()
    assert (space["space"], space["role"], space["quota_bytes"]) == (str(ann.home), "owner", 0)
    where = await ann.new_folder(b"work")
    node = await ann.new_file(b"a.txt", where, Manifest(3, b"one"))
    then = (await ann.space()).head
    await ann.made(build.change(node, build.file(b"b.txt", where, Manifest(5, b"other")), then))
    await ann.new_file(b"caf\xe9", where)

    versions = await script.ask("GET", "/versions", path="work/b.txt")
    assert [(one["name"], one["size_bytes"], one["user"]) for one in versions] == [
        ("b.txt", 5, "ann"),
        ("a.txt", 3, "ann"),
    ]
    # What had the path last is found by it, too.
    assert await script.ask("GET", "/versions", path="work/a.txt") == versions
    assert [one["rev"] for one in await script.ask("GET", "/moments", path="work")] == [
        then + 2,
        then + 1,
        then,
        then - 1,
    ]
    found = await script.ask("GET", "/diff", path="work", **{"from": str(then)})
    assert [(one["what"], one["path"], one["was_path"]) for one in found["differences"]] == [
        ("changed", "b.txt", ""),
        ("moved", "b.txt", "a.txt"),
        ("added", "caf\\xe9", ""),
    ]
    planned = await script.ask("POST", "/rewind", {"path": "work", "to": str(then), "dry_run": True})
    assert (planned["rev"], planned["did"]["removed"]) == (0, 1)
    done = await script.ask("POST", "/rewind", {"path": "work", "to": str(then)})
    assert await ann.names(where) == [b"a.txt"]
    (removed,) = (await script.ask("GET", "/trash"))["removed"]
    assert (removed["path"], removed["rev"]) == ("work/caf\\xe9", done["rev"])
    await script.ask("POST", "/trash/restore", {"nodes": [removed["node"]]})
    assert await ann.names(where) == [b"a.txt", b"caf\xe9"]
    undone = await script.ask("POST", "/undo", {})
    assert undone["of"] == done["rev"] + 1
    # What came back is in the trash again.
    assert (await script.ask("POST", "/trash/purge", {}))["nodes"] == 1
    assert (await script.ask("POST", "/purge", {"path": "work"}))["versions"] >= 1
    kept = await script.ask("GET", "/retention")
    assert kept["all_days"] == 30
    assert (await script.ask("PUT", "/retention", {**kept, "all_days": 7}))["all_days"] == 7
    assert await ann.names(ROOT) == [b"work"]


async def test_what_is_wrong_is_said(ann: Any, bob: Any) -> None:
    script = Script(ann)
    for method, path, body, status, code in (
        ("GET", "/versions?path=nowhere", None, 404, "not-found"),
        ("GET", "/diff", None, 400, "bad-request"),
        ("GET", "/diff?from=yesterday", None, 400, "bad-request"),
        ("GET", "/diff?from=1999-01-01", None, 404, "not-found"),
        ("GET", "/diff?from=99999", None, 404, "not-found"),
        ("GET", "/trash?limit=0", None, 400, "bad-request"),
        ("POST", "/rewind", {"path": "work"}, 400, "bad-request"),
        ("POST", "/undo", {"rev": "x"}, 400, "bad-request"),
        ("POST", "/undo", [], 400, "bad-request"),
        ("POST", "/trash/restore", {"nodes": ["x"]}, 400, "bad-request"),
        ("POST", "/trash/restore", {"nodes": []}, 400, "bad-request"),
        ("PUT", "/retention", {"all_days": -1}, 400, "bad-request"),
        ("GET", "/nothing", None, 404, "not-found"),
    ):
        response = await ann.http.request(
            method, script.space + path, headers=script.headers, content=json.dumps(body) if body is not None else None
        )
        told = response.json() if response.headers["content-type"].startswith("application/json") else {}
        assert response.status_code == status, (path, body, response.content)
        assert told.get("code", code) == code, (path, told)
        assert b"Traceback" not in response.content
    assert (await ann.http.get(script.space + "/trash")).status_code == 401
    answer = await ann.http.get(script.space + "/trash", headers={"authorization": f"Bearer {bob.login.token}"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    huge = await ann.http.post(script.space + "/undo", headers=script.headers, content=b" " * 100_000)
    assert huge.status_code == 413


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_any(
    http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_common, "STALL_SECONDS", 0.01)

    async def silent() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        answer = await http.post("/api/v1/login", content=silent())
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")


async def test_who_asks_too_much_is_told_when_to_come_back(ann: Any) -> None:
    wrong = {"user": ann.login.user_name, "password": "wrong", "device_name": "script"}
    for _ in range(FAILURES_FREE):
        assert (await ann.http.post("/api/v1/login", json=wrong)).status_code == 401
    answer = await ann.http.post("/api/v1/login", json=wrong)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.logs_errors("GET /api/v1/devices failed: The disk is full")
async def test_a_fault_of_the_store_is_logged(ann: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ServerFault("The disk is full.")

    monkeypatch.setattr(instance.devices, "devices", full)
    answer = await ann.raw("GET", "/api/v1/devices")
    assert answer.status_code == 500
