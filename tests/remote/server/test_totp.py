"""The second factor: codes at sign-in, each once, and recovery codes."""

import asyncio
import base64
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from remote.protocol.account import RecoveryCodes, TotpBegun, TotpCode, TotpRequest, TotpState
from remote.protocol.errors import Busy, CodeNeeded, InTheWay, NotAllowed
from remote.protocol.messages import LoginRequest
from remote.server import instance as instances
from remote.server.codes import step_of
from remote.server.instance import Instance
from remote.server.slowing import FAILURES_FREE

pytestmark = pytest.mark.anyio
START = 1_800_000_000


class App:
    """An authenticator app: the secret, and what it shows at a time."""

    def __init__(self, begun: TotpBegun) -> None:
        self.secret = base64.b32decode(begun.secret)
        address = urlsplit(begun.address)
        assert (address.scheme, address.netloc, address.path) == ("otpauth", "totp", "/Satchel:ann")
        assert parse_qs(address.query)["secret"] == [begun.secret]
        assert parse_qs(address.query)["period"] == ["30"]

    def code(self, seconds: int) -> str:
        return TOTP(self.secret, 6, SHA1(), 30).generate(seconds).decode()  # noqa: S303


class Clock:
    def __init__(self) -> None:
        self.seconds = START

    def now_ns(self) -> int:
        return self.seconds * 10**9


@pytest.fixture
def clock(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(instance.totp._codes, "_now_ns", clock.now_ns)
    return clock


@pytest.fixture
async def app(ann: Any, build: Any, clock: Clock) -> App:
    """Ann's, with codes turned on half a minute ago."""
    app = App(await ann.ask("POST", "/v1/totp/begin", TotpRequest(build.password), TotpBegun))
    codes = await ann.ask("POST", "/v1/totp/on", TotpCode(app.code(START)), RecoveryCodes)
    assert len(set(codes.codes)) == 10
    ann.recovery = codes.codes
    clock.seconds += 30
    return app


async def login(http: httpx.AsyncClient, build: Any, code: str = "", password: str = "") -> None:
    message = LoginRequest("ann", password or build.password, "phone", code)
    response = await http.post("/v1/login", content=msgspec.msgpack.encode(message))
    if response.status_code != 200:
        raise build.error_of(response)


async def test_a_code_is_needed_besides_the_password(ann: Any, app: App, clock: Clock, http: Any, build: Any) -> None:
    with pytest.raises(CodeNeeded, match="asks for the code"):
        await login(http, build)
    with pytest.raises(CodeNeeded, match="not right"):
        await login(http, build, "000000" if app.code(clock.seconds) != "000000" else "000001")
    with pytest.raises(Exception, match="Name and password do not match"):
        await login(http, build, app.code(clock.seconds), "wrong")
    await login(http, build, f" {app.code(clock.seconds)[:3]} {app.code(clock.seconds)[3:]} ")
    # Who is signed in stays so.
    await ann.spaces()
    assert await ann.ask("GET", "/v1/totp", None, TotpState) == TotpState(True, 10)


async def test_a_code_is_taken_once(ann: Any, app: App, clock: Clock, http: Any, build: Any) -> None:
    await login(http, build, app.code(clock.seconds))
    with pytest.raises(CodeNeeded, match="used already"):
        await login(http, build, app.code(clock.seconds))
    # Nor an older one, which somebody may have seen.
    with pytest.raises(CodeNeeded):
        await login(http, build, app.code(clock.seconds - 30))
    clock.seconds += 30
    await login(http, build, app.code(clock.seconds))


async def test_of_two_who_give_one_code_at_once_one_is_refused(app: App, clock: Clock, http: Any, build: Any) -> None:
    now = app.code(clock.seconds)
    done = await asyncio.gather(*(login(http, build, now) for _ in range(2)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["CodeNeeded", "NoneType"]


async def test_the_code_by_which_codes_are_turned_on_counts_as_taken(app: App, http: Any, build: Any) -> None:
    with pytest.raises(CodeNeeded):
        await login(http, build, app.code(START))


async def test_a_recovery_code_is_taken_once(ann: Any, app: App, http: Any, build: Any) -> None:
    await login(http, build, ann.recovery[3].upper())
    with pytest.raises(CodeNeeded):
        await login(http, build, ann.recovery[3])
    assert await ann.ask("GET", "/v1/totp", None, TotpState) == TotpState(True, 9)


async def test_new_recovery_codes_end_the_old_ones(ann: Any, app: App, clock: Clock, http: Any, build: Any) -> None:
    with pytest.raises(CodeNeeded):
        await ann.ask("POST", "/v1/totp/codes", TotpCode("123"), RecoveryCodes)
    fresh = await ann.ask("POST", "/v1/totp/codes", TotpCode(app.code(clock.seconds)), RecoveryCodes)
    with pytest.raises(CodeNeeded):
        await login(http, build, ann.recovery[0])
    await login(http, build, fresh.codes[0])


async def test_wrong_codes_in_a_row_have_to_wait(app: App, clock: Clock, http: Any, build: Any) -> None:
    right = app.code(clock.seconds)
    wrong = [f"{number:06}" for number in range(20) if f"{number:06}" != right]
    for code in wrong[:FAILURES_FREE]:
        with pytest.raises(CodeNeeded):
            await login(http, build, code)
    with pytest.raises(Busy):
        await login(http, build, right)


async def test_codes_are_turned_off_by_password_and_code(
    ann: Any, app: App, clock: Clock, http: Any, build: Any
) -> None:
    now = app.code(clock.seconds)
    for password, code, family in (("wrong", now, NotAllowed), (build.password, "1", CodeNeeded)):
        with pytest.raises(family):
            await ann.ask("POST", "/v1/totp/off", TotpRequest(password, code), dict)
    await ann.ask("POST", "/v1/totp/off", TotpRequest(build.password, now), dict)
    await login(http, build)
    assert await ann.ask("GET", "/v1/totp", None, TotpState) == TotpState(False)
    with pytest.raises(InTheWay):
        await ann.ask("POST", "/v1/totp/codes", TotpCode(now), RecoveryCodes)


async def test_codes_are_asked_for_only_when_one_was_right(ann: Any, clock: Clock, http: Any, build: Any) -> None:
    with pytest.raises(NotAllowed, match="present password"):
        await ann.ask("POST", "/v1/totp/begin", TotpRequest("wrong"), TotpBegun)
    with pytest.raises(InTheWay):
        await ann.ask("POST", "/v1/totp/on", TotpCode("123456"), RecoveryCodes)
    app = App(await ann.ask("POST", "/v1/totp/begin", TotpRequest(build.password), TotpBegun))
    with pytest.raises(NotAllowed, match="clocks"):
        await ann.ask("POST", "/v1/totp/on", TotpCode(app.code(START - 3_600)), RecoveryCodes)
    await login(http, build)
    await ann.ask("POST", "/v1/totp/on", TotpCode(app.code(START)), RecoveryCodes)
    with pytest.raises(InTheWay):
        await ann.ask("POST", "/v1/totp/begin", TotpRequest(build.password), TotpBegun)


async def test_who_runs_the_server_turns_codes_off(app: App, tmp_path: Path, http: Any, build: Any) -> None:
    instances.end_totp(tmp_path / "data", tmp_path / "key", "ANN")
    await login(http, build)
    with pytest.raises(instances.InstanceTrouble, match="no user carl"):
        instances.end_totp(tmp_path / "data", tmp_path / "key", "carl")


async def test_nothing_of_it_is_stored_in_the_clear(ann: Any, app: App, tmp_path: Path) -> None:
    stored = sqlite3.connect(tmp_path / "data" / "satchel.db")
    rows = stored.execute("SELECT * FROM totp").fetchall() + stored.execute("SELECT * FROM recovery_code").fetchall()
    stored.close()
    assert len(rows) == 11
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("satchel*"))
    assert app.secret not in kept
    assert base64.b32encode(app.secret) not in kept
    assert not any(code.encode() in kept or code.replace("-", "").encode() in kept for code in ann.recovery)


def test_codes_are_those_of_rfc_6238_a_step_before_and_after() -> None:
    secret = b"12345678901234567890"
    # The eight digits of the RFC's appendix B end with these six.
    for seconds, code in ((1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")):
        for now in (seconds - 30, seconds, seconds + 30):
            assert step_of(secret, code, now, 0) == seconds // 30
        assert step_of(secret, code, seconds + 90, 0) == 0
        assert step_of(secret, code, seconds, seconds // 30) == 0
    assert step_of(secret, "ümlaut", START, 0) == 0
