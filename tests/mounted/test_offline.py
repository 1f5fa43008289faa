"""Without the server: what was opened before is there, everything can be written, and all of it arrives later."""

import errno
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import PATIENCE
from tests.mounted.trees import Noise, differences, entries, until

pytestmark = pytest.mark.mounted

READ_SECONDS = 1.0
RETURN_SECONDS = 120.0


def test_a_start_without_the_server_and_its_return(device: Any, server: Any) -> None:
    laptop = device("laptop", read_seconds=READ_SECONDS)
    top = laptop.path / "top"
    (top / "folder/inner").mkdir(parents=True)
    for name in ("edited", "renamed", "removed", "moved", "appended"):
        (top / name).write_bytes(f"{name} at first ".encode() * 1_000)
    (top / "cached").write_bytes(Noise(1).part(0, 3_000_000))
    (top / "uncached").write_bytes(Noise(2).part(0, 3_000_000))
    laptop.wait()

    desk = device("desk", read_seconds=READ_SECONDS)
    here = desk.path / "top"
    assert until(lambda: desk.status()["unlisted_folders"] == 0 and here.exists())
    for name in ("cached", "edited", "appended"):
        (here / name).read_bytes()
    desk.umount()
    server.stop()
    desk.mount()

    # Names and attributes of everything, and content that was read before.
    assert {path: one.size for path, one in entries(here, with_content=False).items()} == {
        path: one.size for path, one in entries(top, with_content=False).items()
    }
    assert (here / "cached").read_bytes() == Noise(1).part(0, 3_000_000)
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output error") as refused, (here / "uncached").open("rb") as file:
        file.read(1)
    assert refused.value.errno == errno.EIO
    assert time.monotonic() - began < (READ_SECONDS + 1.0) * PATIENCE

    (here / "created").write_bytes(b"made offline")
    (here / "new folder").mkdir()
    (here / "new folder/inside").write_bytes(Noise(3).part(0, 1_500_000))
    (here / "edited").write_bytes(b"edited offline")
    with (here / "appended").open("ab") as appended:
        appended.write(b"and more")
    (here / "renamed").rename(here / "renamed offline")
    (here / "moved").rename(here / "folder/moved")
    (here / "folder").rename(here / "other folder")
    (here / "removed").unlink()
    (here / "cached").chmod(0o600)
    os.utime(here / "uncached", ns=(1, 1_234_567_890_123_456_789))
    (here / "link").symlink_to("created")
    os.link(here / "created", here / "second name")
    os.setxattr(here / "created", "user.colour", b"green")
    (here / "uncached").rename(here / "uncached and renamed")
    # It also survives another start.
    desk.umount()
    desk.mount()
    assert (here / "edited").read_bytes() == b"edited offline"
    assert desk.status()["pending"]["count"] > 10
    assert desk.cli("status").returncode == 6

    server.start()
    desk.in_step(laptop, timeout=RETURN_SECONDS)
    assert desk.cli("status").returncode == 0
    assert differences(entries(here), entries(top)) == []
    names = set(os.listdir(top))
    assert names >= {"created", "renamed offline", "other folder", "second name", "uncached and renamed"}
    assert not names & {"renamed", "removed", "moved", "folder", "uncached"}
    assert (top / "second name").samefile(top / "created")
    assert os.getxattr(top / "created", "user.colour") == b"green"
    assert (top / "uncached and renamed").read_bytes() == Noise(2).part(0, 3_000_000)


def test_after_a_kill_and_without_the_server_everything_but_unfetched_content_works(device: Any, server: Any) -> None:
    desk, laptop = device("desk"), device("laptop", read_seconds=READ_SECONDS)
    # Before there is anything that could be fetched in between.
    laptop.must("pin", laptop.path)
    laptop.must("unpin", laptop.path)
    for name in ("pinned/inner", "other"):
        (desk.path / name).mkdir(parents=True)
    for number in range(20):
        (desk.path / f"pinned/inner/{number}").write_bytes(Noise(number).part(0, 50_000))
        (desk.path / f"other/{number}").write_bytes(Noise(number).part(50_000, 50_000))
    assert until((laptop.path / "pinned").exists)
    laptop.must("pin", laptop.path / "pinned")
    # What comes later is pinned, too.
    (desk.path / "pinned/later").write_bytes(b"later" * 10_000)
    desk.in_step(laptop)
    assert until(lambda: laptop.status()["unlisted_folders"] == 0)
    laptop.holds("pinned/later", 50_000)
    kept = {"files": 21, "size_bytes": 1_050_000, "missing_files": 0, "missing_bytes": 0}
    assert until(lambda: laptop.status()["kept"] == kept)

    # What was fetched in the last second before a kill may have to be fetched again.
    laptop.remount()
    laptop.kill()
    server.stop()
    laptop.mount()
    here = laptop.path
    assert {path: one.size for path, one in entries(here, with_content=False).items()} == {
        path: one.size for path, one in entries(desk.path, with_content=False).items()
    }
    for number in range(20):
        assert (here / f"pinned/inner/{number}").read_bytes() == Noise(number).part(0, 50_000)
    with pytest.raises(OSError, match="Input/output error"):
        (here / "other/7").read_bytes()
    for number in range(300):
        (here / f"other/new-{number}").write_bytes(b"%d" % number)
    with (here / "pinned/later").open("ab") as file:
        file.write(b"!")
    (here / "pinned/inner").rename(here / "other/inner")
    (here / "other/5").unlink()
    assert laptop.cli("status").returncode == 6
    assert "not on the server yet" in laptop.cli("status").stdout

    server.start()
    requests = laptop.stats()["requests"]
    laptop.in_step(desk, timeout=RETURN_SECONDS)
    assert differences(entries(here), entries(desk.path)) == []
    # 300 files and the rest go in batches, not one by one.
    assert laptop.stats()["requests"] - requests < 120


def test_while_mounted_the_server_comes_and_goes(device: Any, server: Any) -> None:
    desk, laptop = device("desk", read_seconds=READ_SECONDS), device("laptop")
    # What a new device was never told of cannot be looked into without the server.
    assert [os.listdir(one.path) for one in (desk, laptop)] == [[], []]
    for number in range(3):
        server.stop()
        (desk.path / f"file-{number}").write_text(f"{number}")
        (laptop.path / f"from-laptop-{number}").write_text(f"{number}")
        server.start()
        desk.wait()
        laptop.wait()
    desk.in_step(laptop, timeout=RETURN_SECONDS)
    laptop.in_step(desk, timeout=RETURN_SECONDS)
    assert len(os.listdir(desk.path)) == 6
    assert differences(entries(desk.path), entries(laptop.path)) == []


def test_a_whole_folder_made_offline_arrives(device: Any, server: Any, tmp_path: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    server.stop()
    source = tmp_path / "source"
    for number in range(300):
        path = source / f"folder-{number % 7}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Noise(number).part(0, number * 97))
    shutil.copytree(source, desk.path / "copy")
    desk.remount()
    server.start()
    desk.in_step(laptop, timeout=RETURN_SECONDS)
    assert differences(entries(source), entries(laptop.path / "copy")) == []


def test_a_program_that_waits_for_content_can_be_ended_at_once(device: Any, server: Any) -> None:
    laptop, desk = device("laptop"), device("desk", read_seconds=600)
    (laptop.path / "file").write_bytes(Noise(1).part(0, 3_000_000))
    laptop.in_step(desk)
    assert (desk.path / "file").stat().st_size == 3_000_000
    server.process.send_signal(signal.SIGSTOP)
    try:
        program = subprocess.Popen(["cat", desk.path / "file"], stdout=subprocess.DEVNULL)
        state = Path(f"/proc/{program.pid}/stat")
        assert until(lambda: state.read_text().rpartition(")")[2].split()[0] == "D"), "it waits"
        program.terminate()
        assert program.wait(60.0) == -signal.SIGTERM
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert (desk.path / "file").read_bytes() == Noise(1).part(0, 3_000_000)
