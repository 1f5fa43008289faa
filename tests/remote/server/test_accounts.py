"""Signing in and out, tokens, roles and leased ranges."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from remote.protocol.errors import BadRequest, Busy, NotAllowed, NotFound, NotSignedIn, TooLarge
from remote.protocol.messages import CONTENT_TYPE, LoginAnswer, LoginRequest, NodeRange
from remote.server import accounts
from remote.server.database import accounts as account_rows
from remote.server.database import spaces as space_rows
from remote.server.instance import Instance, InstanceTrouble, add_account
from remote.server.slowing import FAILURE_WAIT_MAX_SECONDS, FAILURES_FREE, FAILURES_REMEMBERED, Failures, network_of

pytestmark = pytest.mark.anyio


async def login(http: httpx.AsyncClient, user: str, password: str, device: str = "desk") -> httpx.Response:
    return await http.post("/v1/login", content=msgspec.msgpack.encode(LoginRequest(user, password, device)))


async def test_login_gives_a_token_and_the_home(ann: Any, instance: Instance) -> None:
    spaces = await ann.spaces()
    assert [space.space for space in spaces.spaces] == [ann.home]
    assert spaces.spaces[0].role == "owner"
    assert spaces.spaces[0].free > 0
    assert len(spaces.spaces[0].domain_secret) == 32
    assert ann.login.instance == instance.name
    assert ann.login.user_name == "ann"


async def test_one_domain_secret_for_the_whole_instance(ann: Any, bob: Any) -> None:
    assert (await ann.space()).domain_secret == (await bob.space()).domain_secret


async def test_a_name_signs_in_whatever_its_case_and_unicode_form(sign_in: Any, http: Any, build: Any) -> None:
    await sign_in("Zoë")
    assert (await login(http, "ZOE\u0308", build.password)).status_code == 200


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", "correct horse"), ("", "x")])
async def test_wrong_name_and_wrong_password_look_alike(
    ann: Any, http: httpx.AsyncClient, build: Any, user: str, password: str
) -> None:
    response = await login(http, user, password)
    assert response.status_code == 401
    assert response.headers["content-type"] == CONTENT_TYPE
    error = build.error_of(response)
    assert isinstance(error, NotSignedIn)
    assert str(error) == "Name and password do not match."


async def test_an_unknown_name_costs_a_hash_too(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    monkeypatch.setattr(accounts, "_verify", lambda stored, password: verified.append(stored))
    await login(http, "nobody", "x")
    assert len(verified) == 1


def test_passwords_are_hashed_by_argon2id_at_full_cost() -> None:
    hashed = accounts.hash_password("a password")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert accounts._NOBODY.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


async def test_wrong_passwords_in_a_row_have_to_wait(ann: Any, http: httpx.AsyncClient, build: Any) -> None:
    for _ in range(FAILURES_FREE):
        assert (await login(http, "ann", "wrong")).status_code == 401
    response = await login(http, "ANN", build.password)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert isinstance(build.error_of(response), Busy)


def test_the_wait_grows_ends_and_is_bounded() -> None:
    now = [0]
    failures = Failures(lambda: now[0], FAILURES_FREE)
    waits = []
    for _ in range(2_000):
        failures.add("ann")
        waits.append(failures.left_seconds("ann"))
    assert waits[:9] == [0, 0, 0, 0, 1, 2, 4, 8, 16]
    assert max(waits) == FAILURE_WAIT_MAX_SECONDS
    now[0] += int(FAILURE_WAIT_MAX_SECONDS * 1e9)
    assert failures.left_seconds("ann") <= 0
    assert failures.left_seconds("bob") <= 0
    # Who stops for a quarter of an hour is as new.
    now[0] += 15 * 60 * 10**9
    failures.add("ann")
    assert failures.left_seconds("ann") <= 0


def test_what_is_remembered_of_wrong_passwords_is_bounded() -> None:
    failures = Failures(lambda: 0, FAILURES_FREE)
    for number in range(FAILURES_REMEMBERED + 100):
        failures.add(number)
    assert len(failures) == FAILURES_REMEMBERED


def test_one_customer_of_ipv6_is_one_address() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:192.0.2.7") == network_of("192.0.2.7")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")


async def test_a_right_password_ends_the_count(ann: Any, http: httpx.AsyncClient, build: Any) -> None:
    for _ in range(3):
        for _ in range(FAILURES_FREE - 1):
            assert (await login(http, "ann", "wrong")).status_code == 401
        assert (await login(http, "ann", build.password)).status_code == 200


async def test_logout_ends_the_token_of_this_device_only(sign_in: Any) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    assert (await first.raw("POST", "/v1/logout")).status_code == 200
    with pytest.raises(NotSignedIn):
        await first.spaces()
    await second.spaces()


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer nonsense", "Bearer " + "x" * 5000])
async def test_without_a_token_nothing_is_answered(ann: Any, build: Any, header: str) -> None:
    for method, path in [
        ("GET", "/v1/spaces"),
        ("POST", "/v1/ranges"),
        ("POST", "/v1/logout"),
        ("POST", "/v1/poll"),
        ("GET", f"/v1/spaces/{ann.home}/changes?since=0"),
        *(("POST", f"/v1/spaces/{ann.home}/{what}") for what in build.space_routes),
    ]:
        response = await ann.http.request(method, path, headers={"authorization": header})
        assert response.status_code == 401, path
        assert isinstance(build.error_of(response), NotSignedIn)


async def test_tokens_are_stored_hashed(ann: Any, tmp_path: Path) -> None:
    stored = sqlite3.connect(tmp_path / "data" / "satchel.db")
    rows = stored.execute("SELECT * FROM token").fetchall() + stored.execute("SELECT * FROM device").fetchall()
    stored.close()
    assert rows
    assert ann.login.token not in repr(rows)
    assert ann.login.token.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "data").glob("satchel*"))


async def test_of_somebody_elses_space_nothing_is_told(ann: Any, bob: Any, build: Any) -> None:
    unknown = 4711
    for space in (ann.home, unknown):
        with pytest.raises(NotFound) as raised:
            await bob.ask("GET", f"/v1/spaces/{space}/changes?since=0", None, object)
        assert str(raised.value) == f"There is no space {space}, or you are no member of it."
        for what in build.space_routes:
            response = await bob.raw("POST", f"/v1/spaces/{space}/{what}", message_for(what))
            assert response.status_code == 404, (what, response.content)


def message_for(what: str) -> bytes:
    messages: dict[str, dict[str, Any]] = {
        "list": {"folders": []},
        "nodes": {"nodes": []},
        "commits": {"op_id": b"0" * 16, "changes": [[1 << 33, 0, 0, None]]},
        "moments": {"folder": 1},
        "as-of": {"time_ns": 0},
        "history": {"node": 1},
        "diff": {"folder": 1, "since": 1},
        "rewind": {"op_id": b"0" * 16, "folder": 1, "to": 1},
        "undo": {"op_id": b"0" * 16},
        "trash": {},
        "purge": {},
        "retention": {},
        "events": {},
        "events/answer": {"event": 1, "says": "done"},
        "guard": {},
        "trash/restore": {"op_id": b"0" * 16, "nodes": []},
        "conflicts": {},
        "conflicts/settle": {"conflicts": []},
        "chunks/want": {"chunks": []},
        "chunks/put": {"chunks": []},
        "chunks/send": {},
        "chunks/get": {"parts": []},
        "chunks/read": {"parts": []},
        "chunks/urls": {"chunks": []},
        "chunks/lost": {"after": b""},
    }
    return msgspec.msgpack.encode(messages[what])


async def test_a_viewer_reads_and_does_not_write(ann: Any, bob: Any, instance: Instance, build: Any) -> None:
    await instance.database.write(lambda session: add_viewer(session, ann.home, bob.login.user))
    assert {space.role for space in (await bob.spaces()).spaces} == {"owner", "viewer"}
    await bob.ask("GET", f"/v1/spaces/{ann.home}/changes?since=0", None, object)
    with pytest.raises(NotAllowed):
        await bob.commit(build.change(await bob.new_id(), build.file(b"a")), space=ann.home)
    for what in ("chunks/want", "chunks/put"):
        assert (await bob.raw("POST", f"/v1/spaces/{ann.home}/{what}", message_for(what))).status_code == 403
    assert await ann.names() == []


def add_viewer(session: Any, space: Any, user: Any) -> None:
    space_rows.add_member(session, space, user, "viewer")
    account_rows.add_mount(session, user, space)


async def test_ranges_are_never_leased_twice(ann: Any, bob: Any) -> None:
    ranges = [await asker.ask("POST", "/v1/ranges", None, NodeRange) for asker in (ann, bob) * 5]
    assert len({leased.first for leased in ranges}) == 10
    for leased in ranges:
        assert leased.count == 1 << 32
        assert leased.first % (1 << 32) == 0
        assert 1 <= leased.first >> 32 < 1 << 30


async def test_a_taken_range_number_is_not_given_again(ann: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([5, 5, 5, 6])
    monkeypatch.setattr(accounts.secrets, "randbelow", lambda limit: next(numbers))
    first = await ann.ask("POST", "/v1/ranges", None, NodeRange)
    second = await ann.ask("POST", "/v1/ranges", None, NodeRange)
    assert (first.first >> 32, second.first >> 32) == (6, 7)


async def test_devices_of_one_user_are_bounded(
    sign_in: Any, http: httpx.AsyncClient, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "DEVICES_MAX", 2)
    first, _ = await sign_in("ann"), await sign_in("ann")
    assert isinstance(build.error_of(await login(http, "ann", build.password)), NotAllowed)
    await first.raw("POST", "/v1/logout")
    await sign_in("ann")


async def test_ranges_of_one_user_are_bounded(ann: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "RANGES_MAX", 2)
    await ann.ask("POST", "/v1/ranges", None, NodeRange)
    await ann.ask("POST", "/v1/ranges", None, NodeRange)
    with pytest.raises(NotAllowed):
        await ann.ask("POST", "/v1/ranges", None, NodeRange)


@pytest.mark.parametrize("name", ["", " ann", "a\nb", "a\0b", "x" * 129, "\u202eann"])
def test_names_that_cannot_be_shown_are_refused(instance: Instance, tmp_path: Path, name: str) -> None:
    with pytest.raises(InstanceTrouble):
        add_account(tmp_path / "data", tmp_path / "key", name, "a password")


async def test_a_user_name_is_taken_once(ann: Any, tmp_path: Path) -> None:
    with pytest.raises(InstanceTrouble, match="already"):
        add_account(tmp_path / "data", tmp_path / "key", "Ann", "a password")
    with pytest.raises(InstanceTrouble, match="at least 8"):
        add_account(tmp_path / "data", tmp_path / "key", "carl", "seven77")


async def test_login_limits(ann: Any, http: httpx.AsyncClient, build: Any) -> None:
    assert isinstance(build.error_of(await login(http, "ann", "x" * 2000)), TooLarge)
    assert isinstance(build.error_of(await login(http, "a" * 129, "x")), TooLarge)
    assert isinstance(build.error_of(await login(http, "ann", build.password, device="")), BadRequest)
    assert (await http.post("/v1/login", content=b"x" * (17 << 10))).status_code == 413


async def test_many_logins_at_once_are_told_to_wait(ann: Any, http: Any, build: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(accounts, "HASHING_WAITING_MAX", 1)
    responses = await asyncio.gather(*(login(http, "ann", build.password) for _ in range(8)))
    assert {response.status_code for response in responses} <= {200, 429}
    answered = [response for response in responses if response.status_code == 200]
    assert answered
    tokens = {msgspec.msgpack.decode(response.content, type=LoginAnswer).token for response in answered}
    assert len(tokens) == len(answered)
