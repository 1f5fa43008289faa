"""The audit log: who did what, when and from where."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from remote.protocol.account import (
    Audit,
    AuditEntry,
    AuditRequest,
    LinkRequest,
    PasswordRequest,
    RenameDeviceRequest,
    SignOutRequest,
)
from remote.protocol.errors import BadRequest, NotSignedIn
from remote.protocol.history import PurgeRequest, Retention, RetentionRequest
from remote.protocol.ids import ROOT
from remote.protocol.messages import LoginRequest
from remote.server import audit
from remote.server import instance as instances
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


async def noted(asker: Any, **fields: Any) -> tuple[AuditEntry, ...]:
    found: Audit = await asker.ask("POST", "/v1/audit", AuditRequest(**fields), Audit)
    return found.entries


async def test_what_is_done_is_noted_with_device_and_address(sign_in: Any, build: Any, tmp_path: Path) -> None:
    ann, other = await sign_in("ann"), await sign_in("ann")
    await ann.ask("POST", "/v1/devices/rename", RenameDeviceRequest(other.login.device, "phone"), dict)
    await ann.ask("POST", "/v1/devices/sign-out", SignOutRequest(other.login.device, wipe=True), dict)
    link = await ann.ask("POST", "/v1/links/make", LinkRequest(ann.home, ROOT), dict)
    await ann.ask("POST", "/v1/links/revoke", {"link": link["link"]}, dict)
    await ann.ask("POST", "/v1/password", PasswordRequest(build.password, "another one"), dict)
    await ann.in_space("retention", RetentionRequest(Retention(7, 7, 7, for_ever=False)), Retention)
    await ann.in_space("purge", PurgeRequest((), is_dry_run=True), dict)
    await ann.in_space("purge", PurgeRequest(()), dict)
    found = await noted(ann)
    assert [(entry.what, entry.about) for entry in reversed(found)] == [
        ("user added", "ann"),
        ("signed in", "desk1"),
        ("signed in", "desk1"),
        ("device renamed", "desk1 to phone"),
        ("device wiped", "phone"),
        ("link made", f"link {link['link']}, read: /"),
        ("link revoked", f"link {link['link']}, read: /"),
        ("password changed", "0 devices and tokens signed out"),
        ("retention set", "ann: all 7 days, hourly 7, daily 7, then nothing"),
        ("history purged", "0 files and folders in ann: all that was removed"),
    ]
    assert {(entry.by, entry.device_name, entry.address) for entry in found[:7]} == {("ann", "desk1", "127.0.0.1")}
    # The command is no user, and asks from nowhere.
    assert (found[-1].by, found[-1].device_name, found[-1].address) == ("", "", "")


async def test_refused_sign_ins_are_noted_without_the_password(
    ann: Any, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    for name in ("ann", "nobody\x1b[2J"):
        body = msgspec.msgpack.encode(LoginRequest(name, "hunter22", "desk"))
        assert (await http.post("/v1/login", content=body)).status_code == 401
    (entry, *_) = await noted(ann)
    assert (entry.what, entry.about, entry.by, entry.is_good) == ("sign-in", "ann", "", False)
    lines = [json.loads(line) for line in exported(tmp_path)]
    assert [line["about"] for line in lines if not line["is_good"]] == ["ann", "nobody?[2j"]
    assert "hunter22" not in json.dumps(lines)


def exported(tmp_path: Path, **chosen: Any) -> list[str]:
    return list(instances.audit_lines(tmp_path / "data", tmp_path / "key", **chosen))


async def test_everybody_sees_only_what_concerns_him(ann: Any, bob: Any) -> None:
    assert {entry.by for entry in await noted(ann)} == {"ann", ""}
    assert {entry.by for entry in await noted(bob)} == {"bob", ""}


async def test_it_is_read_by_pages_and_times(ann: Any, instance: Instance) -> None:
    for number in range(5):
        await instance.database.write(lambda session, n=number: audit.note(session, ann.login.user, "tried", str(n)))
    whole = await noted(ann)
    assert [entry.about for entry in whole[:5]] == ["4", "3", "2", "1", "0"]
    page = await ann.ask("POST", "/v1/audit", AuditRequest(limit=3), Audit)
    rest = await ann.ask("POST", "/v1/audit", AuditRequest(before_ns=page.next), Audit)
    assert page.entries + rest.entries == whole
    assert rest.next == 0
    assert await noted(ann, since_ns=whole[1].time_ns) == whole[:2]
    for limit in (0, 1_001):
        with pytest.raises(BadRequest):
            await noted(ann, limit=limit)


async def test_what_is_rolled_back_is_not_noted(ann: Any, bob: Any) -> None:
    before = await noted(ann)
    with pytest.raises(Exception, match="no device"):
        await ann.ask("POST", "/v1/devices/sign-out", SignOutRequest(bob.login.device), dict)
    assert await noted(ann) == before


async def test_old_notes_go_and_only_those(ann: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_ENDED_AT_ONCE", 3)
    for _ in range(10):
        await instance.database.write(lambda session: audit.note(session, ann.login.user, "tried"))
    (newest, *others) = await noted(ann)
    await instance.database.write(lambda session: audit.keep_days(session, 30))
    assert await instance.audit.end_old(newest.time_ns) == 0
    assert await instance.audit.end_old(newest.time_ns + 30 * 86_400 * 10**9) == len(others)
    assert await noted(ann) == (newest,)


def test_nothing_but_age_changes_a_note() -> None:
    """The statements of the table are these: it is added to, read, and cut off at a time."""
    text = Path(audit.audit_rows.__file__).read_text()
    assert "UPDATE" not in text
    assert text.count("DELETE") == 1
    assert "DELETE FROM audit WHERE user_id = ? AND time_ns < ?" in text


async def test_notes_hold_no_tokens(sign_in: Any, tmp_path: Path) -> None:
    ann = await sign_in("ann")
    await ann.raw("POST", "/v1/logout")
    with pytest.raises(NotSignedIn):
        await ann.spaces()
    stored = sqlite3.connect(tmp_path / "data" / "satchel.db")
    rows = stored.execute("SELECT * FROM audit").fetchall()
    stored.close()
    assert len(rows) == 3
    assert ann.login.token not in repr(rows)


async def test_the_export_is_a_line_of_json_for_each(ann: Any, bob: Any, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in exported(tmp_path)]
    assert [(line["user"], line["what"]) for line in lines] == [
        ("ann", "user added"),
        ("ann", "signed in"),
        ("bob", "user added"),
        ("bob", "signed in"),
    ]
    assert [json.loads(line)["user"] for line in exported(tmp_path, user="BOB")] == ["bob", "bob"]
    assert exported(tmp_path, since_ns=1 << 62) == []
    with pytest.raises(instances.InstanceTrouble, match="no user carl"):
        exported(tmp_path, user="carl")
