"""How editors save: vim itself in each of its ways, and the system calls of LibreOffice. Nobody ever sees a half."""

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.programs.running import mounted_cold, run

pytestmark = pytest.mark.mounted

LINES = 20_000
OLD = "".join(f"line {number} of the old text\n" for number in range(LINES))
NEW = OLD.replace("old", "new")


def _save(path: Path, *settings: str) -> None:
    """Replaces `old` by `new` everywhere, as somebody in front of it would."""
    # By itself vim makes no backups of files in /tmp.
    options = [part for one in ("backupskip=", *settings) for part in ("-c", f"set {one}")]
    run("vim", "-u", "NONE", "-i", "NONE", "-es", *options, "-c", "%s/old/new/", "-c", "wq", path)


@pytest.mark.parametrize(
    "settings",
    [
        ("backupcopy=no", "writebackup", "fsync"),
        ("backupcopy=yes", "writebackup", "fsync"),
        ("backupcopy=auto", "backup", "backupext=.orig"),
        ("nowritebackup", "nobackup", "nofsync"),
    ],
    ids=["by rename", "in place", "with a backup", "without any"],
)
def test_vim_saves(device: Any, settings: tuple[str, ...]) -> None:
    desk, laptop = device("desk"), device("laptop")
    path = desk.path / "text"
    path.write_text(OLD)
    path.chmod(0o640)
    os.setxattr(path, "user.kept", b"yes")
    desk.in_step(laptop)
    laptop.sees("text", OLD)
    _save(path, *settings)
    assert path.read_text() == NEW
    assert path.stat().st_mode & 0o777 == 0o640
    desk.in_step(laptop)
    laptop.sees("text", NEW)
    expected = ["text", "text.orig"] if "backup" in settings else ["text"]
    assert sorted(os.listdir(desk.path)) == sorted(os.listdir(laptop.path)) == expected
    mounted_cold(desk)
    assert path.read_text() == NEW


def test_vim_recovers_what_was_not_saved(device: Any) -> None:
    desk = device("desk")
    path = desk.path / "text"
    path.write_text(OLD)
    # `:preserve` writes the swap file; a killed vim leaves it behind.
    edit = ["vim", "-u", "NONE", "-i", "NONE", "-es", "-c", "%s/old/new/", "-c", "preserve", "-c", "!kill -9 $PPID"]
    subprocess.run([*edit, path], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert path.read_text() == OLD
    assert (desk.path / ".text.swp").exists()
    mounted_cold(desk)
    recover = ["vim", "-u", "NONE", "-i", "NONE", "-es", "-r", path, "-c", "wq! saved"]
    subprocess.run(recover, cwd=desk.path, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (desk.path / "saved").read_text() == NEW


# LibreOffice itself would be 86 MB of packages to fetch in each run of the suite; this is the order of its calls.
def test_a_document_saved_as_libreoffice_does_is_never_half_anywhere(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    document, lock = desk.path / "report.odt", desk.path / ".~lock.report.odt#"
    contents = [bytes([number]) * (300_000 + number) for number in range(1, 9)]
    document.write_bytes(contents[0])
    desk.in_step(laptop)
    laptop.sees("report.odt", contents[0])
    seen: set[bytes] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            for path in (document, laptop.path / "report.odt"):
                seen.add(path.read_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        fd = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, b",ann,desk,21.11.2026 10:15,file:///config;")
        os.close(fd)
        for number, content in enumerate(contents[1:]):
            temporary = desk.path / f"lu{number}tmp"
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(fd, content)
            os.fchmod(fd, 0o644)
            os.fsync(fd)
            os.close(fd)
            temporary.rename(document)
        lock.unlink()
        desk.in_step(laptop)
        laptop.sees("report.odt", contents[-1])
    finally:
        is_over.set()
        looking.join()
    assert seen <= set(contents), [(len(one), one[:1]) for one in seen - set(contents)]
    assert sorted(os.listdir(laptop.path)) == ["report.odt"]
