"""rsync, tar, cp and mv with the mount on either side: all that they copy, and nothing twice."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.programs.running import SEND_SECONDS, is_kept, run
from tests.mounted.trees import differences, entries, many_files, walk

pytestmark = pytest.mark.mounted

PAST_NS = 1_577_880_000_500_000_000
FILES = 300


def _tree(top: Path) -> Path:
    """Files of all sizes, with what else a tree has: links of both kinds, modes, times, names of any bytes, a FIFO."""
    many_files(top, FILES, seed=11, largest=2 << 20)
    files = sorted(path for path in top.rglob("*") if path.is_file())
    source = random.Random(12)
    for number in range(30):
        os.link(source.choice(files), top / f"hard-{number}")
        os.symlink(source.choice(("here", "../there", "/nowhere", "x" * 300)), top / f"soft-{number}")
    for path in source.sample(files, 60):
        path.chmod(source.choice((0o400, 0o600, 0o755, 0o4755, 0o777)))
    for name in (b"na\xc3\xafve", b"\xff\xfe not text", b" leading", b"line\nbreak", b"-dash", b"x" * 255):
        Path(os.fsdecode(os.path.join(os.fsencode(top), name))).write_bytes(name)
    os.mkfifo(top / "fifo", 0o640)
    (top / "empty").mkdir(mode=0o700)
    # From the inside out, each a time of its own. Today's would do, were rsync not content with the same second.
    for number, path in enumerate(reversed(list(walk(top)))):
        os.utime(path, ns=(PAST_NS, PAST_NS + number * 1_000_000_001), follow_symlinks=False)
    return top


def test_rsync_copies_in_and_out_and_transfers_nothing_twice(device: Any, tmp_path: Path) -> None:
    desk, source = device("desk"), _tree(tmp_path / "source")
    here, back = desk.path / "copy", tmp_path / "back"
    wanted = entries(source)
    # -H: hard links; -X: extended attributes.
    rsync = ("rsync", "-aHX", "--itemize-changes", "--delete")
    run(*rsync, f"{source}/", here)
    assert differences(wanted, entries(here)) == []
    assert run(*rsync, f"{source}/", here) == ""
    assert run(*rsync, "--checksum", f"{source}/", here) == ""
    (source / "folder-03/new").write_text("new")
    (source / "hard-1").unlink()
    os.utime(source, ns=(PAST_NS, PAST_NS))
    changed = run(*rsync, f"{source}/", here)
    assert sorted(line.split(" ", 1)[1] for line in changed.splitlines() if not line.startswith(".d")) == [
        "  hard-1",
        "folder-03/new",
    ]
    desk.wait(timeout=SEND_SECONDS)
    laptop = device("laptop")
    run(*rsync, f"{laptop.path / 'copy'}/", back)
    assert run(*rsync, "--dry-run", "--checksum", f"{source}/", back) == ""
    assert run(*rsync, "--dry-run", f"{source}/", laptop.path / "copy") == ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root has files of others to copy")
def test_rsync_of_other_people_s_files_transfers_nothing_twice(device: Any, tmp_path: Path) -> None:
    desk, source = device("desk"), _tree(tmp_path / "source")
    for path in (source, *walk(source)):
        os.lchown(path, 1_234, 1_235)
    rsync = ("rsync", "-a", "--itemize-changes")
    assert run(*rsync, f"{source}/", desk.path / "copy") != ""
    # All is shown as root's, so owners are set again each time; no content is sent, and nothing is made.
    again = run(*rsync, f"{source}/", desk.path / "copy").splitlines()
    assert [line for line in again if line[0] != "."] == []
    assert run(*rsync, "--no-owner", "--no-group", f"{source}/", desk.path / "copy") == ""


def test_tar_keeps_all_there_and_back(device: Any, tmp_path: Path) -> None:
    desk, source = device("desk"), _tree(tmp_path / "source")
    with (source / "sparse").open("wb") as file:
        for offset in (0, 3 << 20, 40 << 20):
            file.seek(offset)
            file.write(b"island" * 1000)
        file.truncate(64 << 20)
    here = desk.path / "unpacked"
    here.mkdir()
    tar = ("tar", "--sparse", "--xattrs")
    run(*tar, "--create", "--file", tmp_path / "first.tar", "--directory", source, ".")
    run(*tar, "--extract", "--preserve-permissions", "--file", tmp_path / "first.tar", "--directory", here)
    assert differences(entries(source), entries(here)) == []
    assert run(*tar, "--compare", "--file", tmp_path / "first.tar", "--directory", here) == ""
    # From the mount into an archive in the mount, and out of it again.
    run(*tar, "--create", "--file", desk.path / "second.tar", "--directory", here, ".")
    again = desk.path / "again"
    again.mkdir()
    run(*tar, "--extract", "--preserve-permissions", "--file", desk.path / "second.tar", "--directory", again)
    assert differences(entries(source), entries(again)) == []
    for path in source.glob("hard-*"):
        assert (again / path.name).stat().st_nlink == path.stat().st_nlink > 1
    is_kept(desk, again)


def test_cp_and_mv_across_the_border_keep_everything(device: Any, tmp_path: Path) -> None:
    desk, source = device("desk"), _tree(tmp_path / "source")
    wanted = entries(source)
    run("cp", "--archive", source, desk.path / "one")
    run("cp", "--archive", "--sparse=always", desk.path / "one", desk.path / "two")
    run("cp", "--archive", "--reflink=auto", desk.path / "two", desk.path / "three")
    run("mv", desk.path / "three", tmp_path / "four")
    run("mv", tmp_path / "four", desk.path / "five")
    for name in ("one", "two", "five"):
        assert differences(wanted, entries(desk.path / name)) == [], name
    assert sorted(os.listdir(desk.path)) == ["five", "one", "two"]
    is_kept(desk, desk.path / "five")
