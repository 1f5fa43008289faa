"""The commands, as a person types them, on real mounts."""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fusefs import mounts
from fusefs.mounts import Pulse
from tests.mounted.conftest import COMMAND_SECONDS, END_SECONDS, PATIENCE, eventually

pytestmark = pytest.mark.mounted

# Any: conftest.Server, conftest.Device and its maker, which cannot be imported from here.


def test_what_is_written_here_is_read_there(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "folder").mkdir()
    (desk.path / "folder/letter").write_text("dear reader")
    desk.wait()
    laptop.sees("folder/letter", "dear reader")
    assert "All changes are on the server." in desk.must("status")


def test_mount_twice_is_one_mount(device: Any) -> None:
    desk = device("desk")
    process = desk.pid
    assert "is mounted already" in desk.must("mount", desk.path)
    assert "options were not looked at" in desk.cli("mount", "-o", "ro", desk.path).stderr
    assert desk.pid == process
    elsewhere = desk.cli("mount", desk.home / "elsewhere")
    assert elsewhere.returncode == 1
    assert f"mounted at {desk.path} already" in elsewhere.stderr


def test_the_daemon_names_the_folder_in_its_command_line(device: Any) -> None:
    desk = device("desk")
    command = Path(f"/proc/{desk.pid}/cmdline").read_bytes().split(b"\0")
    assert os.fsencode(desk.path) in command


def test_mount_refuses_what_it_would_hide(device: Any, tmp_path: Path) -> None:
    desk = device("desk", mount=False)
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").touch()
    refused = desk.cli("mount", full)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    refused = desk.cli("mount", full / "precious")
    assert refused.returncode == 1
    assert "is a file" in refused.stderr
    assert mounts.mount_at(str(full)) is None


def test_mount_needs_a_sign_in(device: Any) -> None:
    desk = device("desk", mount=False)
    desk.must("logout")
    refused = desk.cli("mount", desk.path)
    assert refused.returncode == 4
    assert "satchel login" in refused.stderr


def test_wrong_options_and_settings_are_refused_with_the_reason(device: Any) -> None:
    desk = device("desk", mount=False)
    refused = desk.cli("mount", desk.path, "-o", "no_such_thing")
    assert refused.returncode == 2
    assert "no_such_thing" in refused.stderr
    desk.configure(read_seconds="soon")
    refused = desk.cli("mount", desk.path)
    assert refused.returncode == 1
    assert "config.toml" in refused.stderr
    assert "read_seconds" in refused.stderr
    desk.expects("not mounted:")


def test_commands_without_a_mount_say_so(device: Any) -> None:
    desk = device("desk", mount=False)
    for command in (["status"], ["wait"], ["stats", "--json"], ["versions", "x"], ["umount", str(desk.path)]):
        result = desk.cli(*command)
        assert result.returncode == 3, command
        assert "not mounted" in result.stderr, command


def test_login_with_a_wrong_password_changes_nothing(device: Any, server: Any) -> None:
    desk = device("desk", mount=False)
    before = (desk.home / "state/account.json").read_bytes()
    refused = desk.cli("login", server.url, "--user", server.user, "--password-stdin", text="wrong\n")
    assert refused.returncode == 4
    assert (desk.home / "state/account.json").read_bytes() == before
    server.stop()
    refused = desk.cli("login", server.url, "--user", server.user, "--password-stdin", text=server.password + "\n")
    assert refused.returncode == 5


def test_login_refuses_plain_http_to_others(device: Any) -> None:
    desk = device("desk", mount=False)
    refused = desk.cli("login", "http://192.0.2.1:1", "--user", "x", "--password-stdin", text="x\n")
    assert refused.returncode == 2
    assert "--insecure-http" in refused.stderr


def test_after_a_kill_the_next_mount_has_what_was_closed(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "kept").write_text("closed before the kill")
    desk.kill()
    assert mounts.pulse(str(desk.path)) is Pulse.DEAD
    assert desk.cli("status").returncode == 3
    desk.mount()
    assert (desk.path / "kept").read_text() == "closed before the kill"
    desk.wait()
    laptop.sees("kept", "closed before the kill")


def test_umount_takes_a_dead_mount_away(device: Any) -> None:
    desk = device("desk")
    desk.kill()
    desk.umount()
    assert not desk.is_mounted


def test_umount_names_who_uses_the_mount(device: Any) -> None:
    desk = device("desk")
    with subprocess.Popen(["cat"], cwd=desk.path, stdin=subprocess.PIPE) as user:
        refused = desk.cli("umount", desk.path)
        assert refused.returncode == 1
        assert f"cat ({user.pid})" in refused.stderr
        assert (desk.path / "new").write_text("still works")
        assert user.stdin is not None
        user.stdin.close()
    desk.umount()
    assert not desk.is_mounted


def test_umount_lazy_takes_it_away_from_those_who_use_it(device: Any) -> None:
    desk = device("desk")
    process = os.pidfd_open(desk.pid)
    file = os.open(desk.path / "open", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"not closed yet")
    desk.must("umount", "--lazy", desk.path)
    assert not desk.is_mounted
    assert _ended(process)
    with contextlib.suppress(OSError):
        os.close(file)
    desk.mount()
    assert (desk.path / "open").read_text() == "not closed yet"


def test_umount_ends_the_daemon_although_another_namespace_holds_the_mount(device: Any) -> None:
    desk = device("desk")
    process = os.pidfd_open(desk.pid)
    # As a container or a service with a private /tmp does that was started meanwhile.
    command = ["unshare", "--mount", "--propagation", "private", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"x")
        other.stdin.flush()
        assert other.stdout.read(1) == b"x"
        desk.umount()
        assert _ended(process)
        desk.mount()
        process = os.pidfd_open(desk.pid)
        subprocess.run(["umount", desk.path], check=True)
        assert _ended(process)
        other.stdin.close()


FAULTY = """
import trio
from cache.sync import Sync
from fusefs import daemon

async def fail(self):
    await trio.lowlevel.checkpoint()
    raise RuntimeError("a fault of this test")

Sync._walk = fail
daemon.main()
"""
"""A daemon of which one task fails as soon as it is mounted."""


def test_a_fault_of_the_daemon_leaves_no_dead_folder(device: Any) -> None:
    desk = device("desk", mount=False)
    desk.path.mkdir()
    command = [sys.executable, "-c", FAULTY, desk.path, "--foreground"]
    result = subprocess.run(
        command, env=desk.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert result.returncode == 1
    assert "CRITICAL" in result.stderr
    assert "a fault of this test" in result.stderr
    assert not desk.is_mounted
    desk.mount()


def test_umount_of_the_system_ends_the_daemon(device: Any) -> None:
    desk = device("desk")
    process = os.pidfd_open(desk.pid)
    subprocess.run(["fusermount3", "-u", desk.path], check=True)
    assert _ended(process)
    assert "unmounted from" in desk.log[-1]
    desk.mount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_flushes_unmounts_and_ends(device: Any, number: signal.Signals) -> None:
    desk = device("desk")
    process = os.pidfd_open(desk.pid)
    file = os.open(desk.path / "open", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"not closed yet")
    os.kill(desk.pid, number)
    assert _ended(process)
    assert not desk.is_mounted
    # The mount is gone: closing cannot succeed, and need not.
    with contextlib.suppress(OSError):
        os.close(file)
    desk.mount()
    assert (desk.path / "open").read_text() == "not closed yet"


def _ended(process: int) -> bool:
    try:
        return bool(select.select([process], [], [], END_SECONDS)[0])
    finally:
        os.close(process)


def test_without_the_server_it_mounts_at_once_and_says_that_it_waits(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / "known").write_text("here")
    desk.wait()
    desk.umount()
    server.stop()
    began = time.monotonic()
    desk.mount()
    assert time.monotonic() - began < 3 * PATIENCE
    assert (desk.path / "known").read_text() == "here"
    assert eventually(lambda: desk.cli("status").returncode == 5)
    (desk.path / "new").write_text("made offline")
    status = desk.cli("status")
    assert status.returncode == 6
    assert "1 change" in status.stdout or "2 changes" in status.stdout
    waited = desk.cli("wait", desk.path / "new", "--timeout", "0.2")
    assert waited.returncode == 6
    assert "new" in waited.stderr
    assert "safe on this device. The server is away: " in waited.stderr
    assert "being sent" not in waited.stderr
    assert all(file["sent_bytes"] == 0 for file in desk.status()["pending"]["files"])
    command = [Path(sys.executable).with_name("satchel"), "wait", desk.path / "new"]
    with subprocess.Popen(command, env=desk.environment, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        first = waiting.stderr.readline()
        assert first.startswith("Waiting (for S seconds: --timeout S). The server is away: "), first
        desk.must("pause")
        assert waiting.stderr.readline() == "Waiting. Sending is paused. Go on with: satchel resume\n"
        server.start()
        desk.must("resume")
        assert [line for line in waiting.stderr if "paused" in line] == []
    assert waiting.returncode == 0
    desk.wait()
    assert desk.cli("status").returncode == 0


def test_the_first_mount_without_the_server_is_empty_only_until_it_is_back(device: Any, server: Any) -> None:
    device("laptop").path.joinpath("old").write_text("from before")
    desk = device("desk", mount=False, read_seconds=2)
    server.stop()
    desk.mount()
    # Not known is not empty.
    with pytest.raises(OSError, match=r"Input/output error|timed out"):
        os.listdir(desk.path)
    with pytest.raises(OSError, match=r"Input/output error|timed out"):
        (desk.path / "new").write_text("x")
    assert eventually(lambda: desk.cli("status").returncode == 5)
    server.start()
    desk.wait()
    desk.sees("old", "from before")
    (desk.path / "new").write_text("x")


def test_wait_for_a_path_needs_one_in_the_mount(device: Any, tmp_path: Path) -> None:
    desk = device("desk")
    assert desk.cli("wait", tmp_path).returncode == 1
    missing = desk.cli("wait", desk.path / "missing")
    assert missing.returncode == 1
    assert "missing" in missing.stderr
    (desk.path / "link").symlink_to("nowhere")
    desk.wait("link")


def test_versions_and_restore(device: Any) -> None:
    desk = device("desk")
    file = desk.path / "report"
    file.write_text("first")
    desk.wait()
    file.write_text("second, longer")
    desk.wait()
    found = json.loads(desk.must("versions", file, "--json"))
    assert [one["size_bytes"] for one in found][:1] == [14]
    first = next(one for one in found if one["size_bytes"] == 5)
    assert first["device"] == "desk"
    desk.must("restore", file, "--at", str(first["rev"]))
    assert file.read_text() == "first"
    file.unlink()
    desk.wait()
    gone = json.loads(desk.must("versions", file, "--json"))
    assert gone[0]["kind"] is None
    desk.must("restore", file, "--at", str(found[0]["rev"]))
    assert file.read_text() == "second, longer"


def test_versions_follow_programs_that_save_by_renaming(device: Any) -> None:
    desk = device("desk")
    file, fresh = desk.path / "report", desk.path / "report.new"
    for content in ("1", "22", "333"):
        fresh.write_text(content)
        fresh.rename(file)
        desk.wait()
    found = json.loads(desk.must("versions", file, "--json"))
    # A new content may have been sent under its first name already, which makes two versions with it.
    sizes = [size for size, _ in itertools.groupby(one["size_bytes"] for one in found if one["kind"] == "file")]
    assert sizes == [3, 2, 1]


def test_a_file_that_was_brought_back_has_the_versions_from_before_it_was_removed(device: Any) -> None:
    desk = device("desk")
    folder = desk.path / "folder"
    folder.mkdir()
    file = folder / "report"
    for content in ("1", "22"):
        file.write_text(content)
        desk.wait()
    newest = json.loads(desk.must("versions", file, "--json"))[0]
    # Until it is older than a file that is only written slowly.
    while time.time_ns() < newest["time_ns"] + 1_100_000_000:
        desk.wait()
    file.unlink()
    desk.wait()
    (folder / "other").write_text("something else")
    desk.wait()
    desk.must("restore", file, "--at", str(newest["rev"]))
    desk.wait()
    found = json.loads(desk.must("versions", file, "--json"))
    assert [(one["kind"], one["size_bytes"]) for one in found][-3:] == [(None, 0), ("file", 2), ("file", 1)]
    # What is as it was then already gets no new version.
    desk.must("restore", folder, "--at", str(found[0]["rev"]))
    desk.wait()
    assert json.loads(desk.must("versions", file, "--json")) == found


def test_restore_to_no_time_says_so(device: Any) -> None:
    desk = device("desk")
    (desk.path / "report").write_text("first")
    desk.wait()
    for at, sentence in (("0", "Revs begin with 1"), ("2999-01-01", "still to come"), ("tea time", "is no time")):
        refused = desk.cli("restore", desk.path / "report", "--at", at)
        assert refused.returncode == 2
        assert sentence in refused.stderr
    assert (desk.path / "report").read_text() == "first"


def test_stats_go_on_after_a_restart(device: Any) -> None:
    desk = device("desk")
    (desk.path / "data").write_bytes(os.urandom(100_000))
    desk.wait()
    before = json.loads(desk.must("stats", "--json"))
    assert before["sent_bytes"] > 100_000
    assert before["requests"] > 0
    assert before["turns"]["1"] > 0
    desk.remount()
    after = json.loads(desk.must("stats", "--json"))
    assert after["sent_bytes"] >= before["sent_bytes"]
    assert after["turns"]["1"] > before["turns"]["1"]
    assert "up to 1 ms" in desk.must("stats")


def _wrong(desk: Any) -> dict[str, Any]:
    """What the doctor finds wrong, by subject; without dead mounts that tests beside this one leave for a while."""
    ended = desk.cli("doctor", "--json")
    wrong = [one for one in json.loads(ended.stdout) if not one["is_good"]]
    assert ended.returncode == bool(wrong)
    return {one["subject"]: one for one in wrong if one["subject"] != "mount" or str(desk.path) in one["sentence"]}


def test_doctor_finds_nothing_on_a_good_device_and_names_what_is_wrong(device: Any, server: Any) -> None:
    desk = device("desk")
    assert _wrong(desk) == {}
    desk.kill()
    server.stop()
    found = _wrong(desk)
    assert set(found) == {"server", "mount"}
    assert str(desk.path) in found["mount"]["advice"]
    assert desk.cli("doctor").returncode == 1


def test_a_home_with_a_long_path_works(device: Any, server: Any, tmp_path: Path) -> None:
    desk = device("x" * 120)
    assert len(str(desk.home / "run/control")) > 107
    assert desk.cli("status").returncode == 0


def test_logout_waits_for_the_unmount_and_login_again_goes_on(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / "a").write_text("before")
    desk.wait()
    assert desk.cli("logout").returncode == 1
    desk.umount()
    server.stop()
    desk.mount()
    (desk.path / "b").write_text("not sent before the sign-out")
    desk.umount()
    desk.must("logout")
    server.start()
    desk.login()
    desk.mount()
    desk.wait()
    assert (desk.path / "b").read_text() == "not sent before the sign-out"
    device("laptop").sees("b", "not sent before the sign-out")


def test_foreground_stays_and_ends_by_a_signal(device: Any) -> None:
    desk = device("desk", mount=False)
    desk.path.mkdir()
    command = [Path(sys.executable).with_name("satchel"), "mount", desk.path, "--foreground"]
    with subprocess.Popen(command, env=desk.environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("mounted at" in line for line in process.stderr)
        (desk.path / "a").write_text("x")
        process.terminate()
        process.stderr.read()
    assert process.returncode == 0
    assert not desk.is_mounted


def test_logout_ends_the_token(device: Any) -> None:
    desk = device("desk", mount=False)
    kept = (desk.home / "state" / "account.json").read_bytes()
    desk.must("logout")
    (desk.home / "state" / "account.json").write_bytes(kept)
    found = desk.cli("doctor")
    assert found.returncode == 1
    assert "sign" in found.stdout.lower()
