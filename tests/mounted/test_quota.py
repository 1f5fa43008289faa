"""A quota is said when programs write, also without the server; what was there stays whole."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.posix.calls import in_child
from tests.mounted.trees import until

pytestmark = pytest.mark.mounted

MB = 1_000_000
STEP = 100_000
RETURN_SECONDS = 120.0


def set_quota(server: Any, size: int) -> None:
    server.command("user", "quota", server.user, f"{size}", "--data", str(server.data))


def filled(path: Path, size: int) -> int:
    """Bytes that write(2) took of so many; EDQUOT is the only error that it may give."""
    taken = 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        while taken < size:
            taken += os.write(file, b"x" * min(STEP, size - taken))
    except OSError as error:
        if error.errno != errno.EDQUOT:
            raise
    finally:
        os.close(file)
    return taken


def space(device: Any) -> dict[str, Any]:
    return dict(device.status()["spaces"][0])


def has_quota(device: Any) -> bool:
    """Whether the device knows of all its spaces that they are bounded."""
    return all(one["quota_bytes"] > 0 for one in device.status()["spaces"])


def knows_used(device: Any, size: int) -> None:
    """Returns when the device has heard that so much of the quota is used."""
    device.wait()
    assert until(lambda: space(device)["used_bytes"] == size), space(device)


def test_write_says_when_the_quota_ends_and_the_server_keeps_the_old_file(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "large").write_bytes(b"l" * 6 * MB)
    (desk.path / "old").write_bytes(b"old")
    desk.in_step(laptop)
    written_at = (desk.path / "old").stat().st_mtime_ns
    # All that is left is to be had in one go, but for what another device holds if that does not answer.
    taken = filled(desk.path / "old", 9 * MB)
    assert 2 * MB < taken <= 4 * MB
    now = (desk.path / "old").stat()
    assert now.st_size == taken
    assert now.st_mtime_ns > written_at
    (stuck,) = desk.status()["stuck"]
    assert stuck["path"] == "old"
    assert stuck["seconds"] is None
    said = desk.cli("status").stdout
    assert "It has no room in the quota" in said.splitlines()[0]
    assert "quota is used up" in said
    # Half a file is not sent, also not by a daemon that was started since.
    desk.remount()
    (desk.path / "other").touch()
    laptop.sees("other", b"")
    assert (laptop.path / "old").read_bytes() == b"old"
    # Room again: at once, and for the whole file.
    (desk.path / "large").unlink()
    assert filled(desk.path / "old", 7 * MB) == 7 * MB
    desk.in_step(laptop)
    assert (laptop.path / "old").read_bytes() == b"x" * 7 * MB
    assert desk.status()["stuck"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as others")
def test_where_it_may_end_a_write_still_tells_its_time_and_takes_setuid(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    desk = device("desk", mount=False).mount("-o", "owners=real,allow_other")
    for name in ("file", "program"):
        (desk.path / name).write_bytes(b"content")
    desk.wait()
    os.utime(desk.path / "file", ns=(1, 1))
    os.chmod(desk.path / "program", 0o4777)  # noqa: S103 - that it is permissive is what is tested

    def write(path: Path) -> None:
        fd = os.open(path, os.O_WRONLY)
        assert os.write(fd, b"c") == 1
        os.close(fd)

    write(desk.path / "file")
    assert until(lambda: (desk.path / "file").stat().st_mtime_ns > 1)
    os.chdir(desk.path)
    try:
        assert in_child(lambda: (os.setuid(4711), write(Path("program")))) == 0
    finally:
        os.chdir("/")
    assert (desk.path / "program").stat().st_mode & 0o7777 == 0o777
    shown = {name: (desk.path / name).stat().st_mtime_ns for name in ("file", "program")}
    desk.wait()
    desk.remount()
    assert {name: (desk.path / name).stat().st_mtime_ns for name in shown} == shown


def test_what_others_hold_and_do_not_need_is_had_without_waiting_for_their_next_poll(device: Any, server: Any) -> None:
    server.add_user("bob")
    all_devices = desk, laptop, phone = [device(name) for name in ("desk", "laptop", "phone")]
    for name in ("plans", "notes"):
        (desk.path / name).mkdir()
        desk.wait()
        desk.must("share", desk.path / name, "--with", "bob:viewer")
    assert until(lambda: all(len(one.status()["spaces"]) == 3 for one in all_devices), RETURN_SECONDS)
    # Nobody writes anything, and all hear of it.
    set_quota(server, 10 * MB)
    assert until(lambda: all(has_quota(one) for one in all_devices), RETURN_SECONDS)
    # One of those who are asked may be slow to answer, on a busy machine.
    assert until(lambda: filled(laptop.path / "plans" / "large", 10 * MB) == 10 * MB, RETURN_SECONDS)
    laptop.in_step(phone)
    assert filled(phone.path / "small", 4) == 0
    (phone.path / "small").unlink()
    (phone.path / "plans" / "large").unlink()
    phone.in_step(desk)
    assert until(lambda: filled(desk.path / "large", 10 * MB) == 10 * MB, RETURN_SECONDS)
    desk.in_step(laptop)
    assert laptop.status()["stuck"] == desk.status()["stuck"] == []


def test_without_the_server_a_device_writes_what_it_holds_of_the_quota(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    desk = device("desk", read_seconds=1)
    (desk.path / "old").write_bytes(b"o" * 6 * MB)
    knows_used(desk, 6 * MB)
    server.stop()
    assert until(lambda: not desk.status()["online"])
    # One share of two: the other one is for a device that may come.
    assert filled(desk.path / "fits", 2 * MB) == 2 * MB
    assert filled(desk.path / "too large", 2 * MB) == 0
    # What does not grow fits always; what is removed or cut off makes room.
    with (desk.path / "old").open("r+b") as file:
        file.write(b"n" * 2 * MB)
    os.truncate(desk.path / "old", 5 * MB)
    (desk.path / "fits").unlink()
    assert filled(desk.path / "other", 4 * MB) == 3 * MB
    with pytest.raises(OSError, match="quota"):
        os.truncate(desk.path / "old", 7 * MB)
    for name in ("other", "too large"):
        (desk.path / name).unlink()
    assert filled(desk.path / "last", 3 * MB) == 3 * MB
    # Known again after a start without the server.
    desk.remount()
    assert filled(desk.path / "too large", MB) == 0
    (desk.path / "too large").unlink()
    server.start()
    knows_used(desk, 8 * MB)
    assert (desk.path / "old").read_bytes() == b"n" * 2 * MB + b"o" * 3 * MB
    assert desk.status()["stuck"] == []


def test_what_two_devices_write_apart_fits_the_quota_together(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    both = [device(name, read_seconds=1) for name in ("desk", "laptop")]
    for one in both:
        assert until(lambda: 0 < space(one)["lease_bytes"] <= 5 * MB)  # noqa: B023 - asked in this round
    server.stop()
    for one in both:
        assert until(lambda: not one.status()["online"])  # noqa: B023
    taken = {one.name: filled(one.path / one.name, 20 * MB) for one in both}
    assert min(taken.values()) > MB
    assert sum(taken.values()) <= 10 * MB
    for one in both:
        # Full or not, it is all that was to be written.
        os.utime(one.path / one.name)
    server.start()
    for one in both:
        one.wait()
    both[0].in_step(both[1], timeout=RETURN_SECONDS)
    assert both[0].status()["stuck"] == both[1].status()["stuck"] == []
    assert {one.name: (both[1].path / one.name).stat().st_size for one in both} == taken


def test_what_the_server_refuses_after_all_stays_and_is_named(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    desk = device("desk", read_seconds=1)
    assert until(lambda: space(desk)["lease_bytes"] == 5 * MB)
    server.stop()
    assert until(lambda: not desk.status()["online"])
    (desk.path / "report").write_bytes(b"r" * 4 * MB)
    # Less than was promised: somebody changed their mind.
    set_quota(server, 1 * MB)
    server.start()
    desk.expects("not taken")
    assert until(lambda: [one["path"] for one in desk.status()["stuck"]] == ["report"])
    told = desk.cli("status")
    assert "report" in told.stdout
    assert told.returncode != 0
    assert desk.status()["pending"]["count"] >= 1
    assert (desk.path / "report").read_bytes() == b"r" * 4 * MB
    set_quota(server, 10 * MB)
    desk.wait()
    assert desk.status()["stuck"] == []


def test_what_the_kernel_takes_on_its_account_is_refused_by_close(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    desk = device("desk")
    (desk.path / "a").write_bytes(b"a" * 7 * MB)
    knows_used(desk, 7 * MB)
    file = (desk.path / "b").open("w+b", buffering=0)
    file.write(b"b" * 7 * MB)
    with pytest.raises(OSError, match="quota") as caught:
        file.close()
    assert caught.value.errno == errno.EDQUOT
    desk.expects("not taken")
    assert (desk.path / "b").read_bytes() == b"b" * 7 * MB, "it is kept here"
    # More was given meanwhile: it is sent.
    set_quota(server, 30 * MB)
    desk.wait()


def test_df_shows_the_quota_and_what_is_left_of_it(device: Any, server: Any) -> None:
    set_quota(server, 10 * MB)
    desk = device("desk")

    def shown() -> tuple[int, int]:
        found = os.statvfs(desk.path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    about = pytest.approx((10 * MB, 10 * MB), abs=10_000)
    assert until(lambda: shown() == about)
    desk.must("pause")
    (desk.path / "a").write_bytes(b"a" * 3 * MB)
    # Not on the server, and it counts.
    assert shown() == pytest.approx((10 * MB, 7 * MB), abs=10_000)
    desk.must("resume")
    desk.wait()
    # What it replaces is kept as a version, which does not count.
    (desk.path / "a").write_bytes(b"b" * 4 * MB)
    desk.wait()
    assert until(lambda: shown() == pytest.approx((10 * MB, 6 * MB), abs=10_000))
    (desk.path / "a").unlink()
    assert shown() == about


def test_a_quota_that_is_set_while_mounted_is_known_as_soon_as_something_is_sent(device: Any, server: Any) -> None:
    desk = device("desk")
    (desk.path / "a").write_bytes(b"a" * 7 * MB)
    desk.wait()
    set_quota(server, 10 * MB)
    (desk.path / "small").write_bytes(b"s" * 5_000)
    desk.wait()
    assert space(desk)["quota_bytes"] == 10 * MB
    assert filled(desk.path / "b", 7 * MB) < 3 * MB
