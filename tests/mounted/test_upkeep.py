"""A server that is damaged, or put back from a backup, under devices that are mounted."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LARGE = hashlib.shake_256(b"large").digest(1 << 20)


def command(server: Any, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "satchel-server", *words, "--data", server.data],
        env={**os.environ, "SATCHEL_HOME": str(server.home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def done(server: Any, *words: str | Path) -> str:
    finished = command(server, *words)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_a_device_that_has_what_was_damaged_on_the_server_heals_it(server: Any, device: Any) -> None:
    desk = device("desk")
    (desk.path / "large").write_bytes(LARGE)
    (desk.path / "small").write_bytes(LARGE[:3_000])
    desk.wait()
    for path in [*server.data.glob("objects/*/*"), *server.data.glob("packs/*/*")]:
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
    scrubbed = command(server, "scrub", "--json")
    found = json.loads(scrubbed.stdout)
    assert (scrubbed.returncode, found["found_lost"] >= 2) == (1, True)
    assert {one["path"] for one in found["files"]} == {"large", "small"}
    # The next look at the server's room tells the device that something is lost.
    (desk.path / "other").touch()
    desk.wait()
    laptop = device("laptop")
    laptop.sees("small", LARGE[:3_000])
    laptop.sees("large", LARGE)
    done(server, "scrub")
    assert "WRONG" not in done(server, "doctor")


def test_what_a_server_put_back_from_a_backup_lost_comes_back_from_the_device(
    server: Any, device: Any, tmp_path: Path
) -> None:
    desk = device("desk")
    (desk.path / "before").write_text("before")
    desk.wait()
    kept = desk.status()["rev"]
    done(server, "backup", tmp_path / "backup")
    (desk.path / "folder").mkdir()
    (desk.path / "folder" / "after").write_bytes(LARGE)
    (desk.path / "before").write_text("changed after")
    desk.wait()
    lost = desk.status()["rev"]
    assert (desk.path / f".versions/rev-{lost}/before").read_text() == "changed after"
    server.stop()
    os.rename(server.data, tmp_path / "broken")
    done(server, "restore", tmp_path / "backup")
    server.start()
    desk.expects("was put back from an older copy")
    assert (desk.path / "folder" / "after").read_bytes() == LARGE
    laptop = device("laptop")
    laptop.sees("folder/after", LARGE)
    laptop.sees("before", "changed after")
    desk.wait()
    assert desk.status()["stuck"] == []
    # Nobody reads a log: it is told, also after mounting again.
    assert desk.status()["set_back"]
    assert "was put back to an older state" in desk.must("status")
    assert laptop.status()["set_back"] == ""
    # A rev that is given again is not what it was in what the server lost.
    (desk.path / "folder" / "newer").write_text("newer")
    (desk.path / "folder" / "after").unlink()
    desk.wait()
    # Until all are given again: what was sent in few commits once may have been sent in more before.
    while desk.status()["rev"] < lost:
        os.utime(desk.path / "folder")
        desk.wait()
    desk.remount()
    assert desk.status()["set_back"]
    now = desk.status()["rev"]
    for rev in range(kept, now + 1):
        there = {path.name for path in (laptop.path / f".versions/rev-{rev}").iterdir()}
        assert {path.name for path in (desk.path / f".versions/rev-{rev}").iterdir()} == there
        here, of_other = (one.path / f".versions/rev-{rev}/before" for one in (desk, laptop))
        assert here.read_text() == of_other.read_text()
