"""What a hostile tester found: full disks, absurd times, symlinks in the way of news. On real mounts."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.mounted


@contextmanager
def no_room(pid: int) -> Iterator[None]:
    """The process cannot write to any file: as a full disk, but without needing one."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_writes_and_keeps_everything_else(server: Any, device: Callable[..., Any]) -> None:
    desk = device("desk")
    desk.expects("Logging error", "Traceback")
    (desk.path / "before").write_bytes(b"b" * 100_000)
    desk.wait()
    with no_room(desk.pid):
        for content in (b"small", b"large" * 50_000):
            with pytest.raises(OSError) as caught:
                (desk.path / "during").write_bytes(content)
            assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        with pytest.raises(OSError) as caught:
            (desk.path / "folder").mkdir()
        assert caught.value.errno == errno.ENOSPC
        assert (desk.path / "before").read_bytes() == b"b" * 100_000
        desk.status()
    (desk.path / "after").write_text("after")
    desk.wait()
    laptop = device("laptop")
    laptop.sees("after", "after")
    laptop.sees("before", b"b" * 100_000)


def test_what_found_no_room_when_it_was_closed_is_kept_when_there_is_room(
    server: Any, device: Callable[..., Any]
) -> None:
    desk, laptop = device("desk"), device("laptop")
    desk.expects("Logging error", "Traceback")
    fd = os.open(desk.path / "a", os.O_WRONLY | os.O_CREAT)
    desk.in_step(laptop)
    os.write(fd, b"typed")
    with no_room(desk.pid), pytest.raises(OSError):
        os.close(fd)
    laptop.sees("a", "typed")


@pytest.mark.parametrize("seconds", [2**40, -(2**40)])
def test_times_beyond_what_can_be_kept_become_the_nearest(
    server: Any, device: Callable[..., Any], seconds: int
) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "a").write_text("x")
    os.utime(desk.path / "a", (seconds, seconds))
    desk.in_step(laptop)
    laptop.sees("a", "x")
    assert abs((laptop.path / "a").stat().st_mtime) > 9e9


def test_a_file_larger_than_the_cache_is_refused_while_the_server_is_away(
    server: Any, device: Callable[..., Any]
) -> None:
    desk = device("desk", cache_size_bytes="16M", read_seconds=1)
    server.stop()
    with pytest.raises(OSError) as caught:
        (desk.path / "large").write_bytes(os.urandom(60 << 20))
    assert caught.value.errno == errno.ENOSPC
    (desk.path / "large").unlink()
    server.start()
    (desk.path / "fits").write_bytes(b"x" * (4 << 20))
    desk.wait()
