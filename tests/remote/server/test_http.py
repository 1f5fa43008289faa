"""What holds for every request: versions, unknown paths, faults without details."""

from typing import Any

import httpx
import msgspec
import pytest

from remote.protocol.errors import BY_CODE, BadRequest, NotFound
from remote.protocol.messages import CONTENT_TYPE, Problem
from remote.server import reading
from remote.server.http.problems import STATUSES
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


async def test_a_browser_is_told_what_this_is(http: httpx.AsyncClient) -> None:
    response = await http.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "Satchel" in response.text


async def test_health_needs_no_sign_in(http: httpx.AsyncClient) -> None:
    response = await http.get("/v1/health")
    assert (response.status_code, response.json()["status"]) == (200, "ok")


async def test_answers_carry_type_and_version(ann: Any) -> None:
    response = await ann.raw("GET", "/v1/spaces")
    assert response.headers["content-type"] == CONTENT_TYPE
    assert response.headers["satchel-protocol"] == "1"


@pytest.mark.parametrize("version", ["0", "2", "x", "", "1.0"])
async def test_other_versions_are_refused(ann: Any, build: Any, version: str) -> None:
    for path in ("/v1/ranges", "/v1/login", "/v1/poll"):
        response = await ann.raw("POST", path, **{"satchel-protocol": version})
        assert response.status_code == 400
        assert "version 1" in str(build.error_of(response))


async def test_without_a_version_it_is_1(ann: Any) -> None:
    response = await ann.http.get("/v1/spaces", headers={"authorization": ann.headers["authorization"]})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/spaces/1/nothing", 404),
        ("GET", "/v1/../etc/passwd", 404),
        ("GET", "/schema", 404),
        ("GET", "/v1/login", 405),
        ("DELETE", "/v1/spaces", 405),
        ("PATCH", "/v1/objects/00", 405),
    ],
)
async def test_what_is_not_there(ann: Any, build: Any, method: str, path: str, status: int) -> None:
    response = await ann.raw(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == CONTENT_TYPE
    assert isinstance(build.error_of(response), NotFound | BadRequest)


@pytest.mark.logs_errors(r"GET /s/\{secret\} failed")
async def test_a_fault_of_a_link_logs_no_secret(
    instance: Instance, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(instance.links, "opened", fail)
    assert (await http.get("/s/the-secret-of-a-link")).status_code == 500
    assert "the-secret" not in caplog.text


@pytest.mark.logs_errors("POST /v1/spaces/.* failed")
async def test_a_fault_says_nothing_of_the_inside(ann: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(reading, "as_of", fail)
    response = await ann.raw("POST", f"/v1/spaces/{ann.home}/as-of", msgspec.msgpack.encode({"time_ns": 0}))
    assert response.status_code == 500
    assert msgspec.msgpack.decode(response.content, type=Problem).code == "fault"
    assert b"secret" not in response.content
    assert b"Zero" not in response.content


@pytest.mark.parametrize(
    "what",
    [
        "list",
        "nodes",
        "moments",
        "as-of",
        "history",
        "chunks/want",
        "chunks/put",
        "chunks/get",
        "chunks/read",
        "chunks/urls",
    ],
)
async def test_garbage_in_any_route_is_a_bad_request(ann: Any, build: Any, what: str) -> None:
    deep = b"\x81\xa1x" * 200_000 + b"\x00"
    for body in (b"", b"\xc1", b"\x80", b"\x90", b"\xff" * 100, deep, msgspec.msgpack.encode({"x": [1, 2]})):
        response = await ann.raw("POST", f"/v1/spaces/{ann.home}/{what}", body)
        assert response.status_code == 400, what
        assert isinstance(build.error_of(response), BadRequest)


async def test_every_error_has_a_status() -> None:
    assert set(STATUSES) == set(BY_CODE.values())


async def test_content_lengths_that_are_none(ann: Any) -> None:
    response = await ann.raw("POST", "/v1/poll", b"x", **{"content-length": "-5"})
    assert response.status_code == 400
