"""Extended attributes, access control lists, and what statx(2) tells."""

import ctypes
import errno
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.posix.calls import LIBC, checked, fails, in_child

pytestmark = pytest.mark.mounted

ACL = struct.pack("<I" + "HHI" * 3, 2, *(0x01, 6, 0xFFFFFFFF), *(0x04, 4, 0xFFFFFFFF), *(0x20, 4, 0xFFFFFFFF))
"""Version 2, then tag, rights and id of owner, group and others."""


@pytest.fixture
def file(device: Any) -> Path:
    """An empty file in a mounted drive."""
    path = Path(device("desk").path) / "file"
    path.touch()
    return path


def _get(path: Path, name: bytes, room: int) -> int:
    return checked(LIBC.getxattr(os.fsencode(path), name, ctypes.create_string_buffer(max(room, 1)), room))


def _list(path: Path, room: int) -> int:
    return checked(LIBC.listxattr(os.fsencode(path), ctypes.create_string_buffer(max(room, 1)), room))


def test_sizes_are_told_and_too_little_room_is_said(file: Path) -> None:
    os.setxattr(file, "user.a", b"12345")
    os.setxattr(file, "user.empty", b"")
    assert _get(file, b"user.a", 0) == 5
    assert _get(file, b"user.a", 5) == 5
    assert _get(file, b"user.empty", 0) == 0
    with fails(errno.ERANGE):
        _get(file, b"user.a", 4)
    assert _list(file, 0) == len(b"user.a\0user.empty\0")
    with fails(errno.ERANGE):
        _list(file, 5)
    os.setxattr(file, "user.a", b"other")
    assert os.getxattr(file, "user.a") == b"other"


def test_limits_are_said_by_their_errno(file: Path) -> None:
    longest = "user." + "n" * 250
    os.setxattr(file, longest, b"x")
    assert os.listxattr(file) == [longest]
    with fails(errno.ERANGE):
        os.setxattr(file, longest + "n", b"x")
    os.removexattr(file, longest)
    os.setxattr(file, "user.large", bytes(65_536))
    assert os.getxattr(file, "user.large") == bytes(65_536)
    with fails(errno.E2BIG):
        os.setxattr(file, "user.larger", bytes(65_537))
    os.setxattr(file, "user.second", bytes(60_000))
    with fails(errno.ENOSPC):
        os.setxattr(file, "user.third", bytes(60_000))
    with fails(errno.ENOSPC):
        os.setxattr(file, "user.second", bytes(65_536))
    assert os.getxattr(file, "user.second") == bytes(60_000), "what was there stays"
    os.removexattr(file, "user.large")
    os.setxattr(file, "user.third", bytes(60_000))


def test_what_is_not_there_and_what_cannot_be(file: Path) -> None:
    for act in (os.getxattr, os.removexattr):
        with fails(errno.ENODATA):
            act(file, "user.nothing")
    with fails(errno.EOPNOTSUPP):
        os.setxattr(file, "nonsense", b"x")
    for path, name in ((file, "system.posix_acl_access"), (file.parent, "system.posix_acl_default")):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(path, name, ACL)
        with fails(errno.EOPNOTSUPP):
            os.getxattr(path, name)
        with fails(errno.EOPNOTSUPP):
            os.removexattr(path, name)
    for act in (os.getxattr, os.removexattr):
        with fails(errno.EOPNOTSUPP):
            act(file, "nonsense")
    with fails(errno.EINVAL):
        os.setxattr(file, "user.", b"x")
    os.symlink("file", file.with_name("link"))
    with fails(errno.EPERM):
        os.setxattr(file.with_name("link"), "user.a", b"x", follow_symlinks=False)
    for act in (lambda: os.setxattr(file, "user.satchel.rev", b"1"), lambda: os.removexattr(file, "user.satchel.rev")):
        with fails(errno.EPERM):
            act()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set these")
def test_attributes_of_the_system_are_kept(file: Path) -> None:
    os.setxattr(file, "trusted.a", b"1")
    capability = b"\x01\0\0\x02" + bytes(16)
    os.setxattr(file, "security.capability", capability)
    assert os.getxattr(file, "security.capability") == capability
    assert sorted(os.listxattr(file)) == ["security.capability", "trusted.a"]
    with open(file, "ab") as opened:
        opened.write(b"x")
    assert os.listxattr(file) == ["trusted.a"], "who changes a program takes its rights"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set these")
def test_who_cannot_read_an_attribute_does_not_see_its_name(device: Any) -> None:
    drive = device("desk", mount=False).mount("-o", "allow_other").path
    (drive / "file").touch()
    for name in ("user.a", "trusted.a"):
        os.setxattr(drive / "file", name, b"1")
    os.chdir(drive)

    def list_as_another() -> None:
        os.setresuid(4711, 4711, 4711)
        assert os.listxattr("file") == ["user.a"], "who copies attributes would fail at the others"

    try:
        assert in_child(list_as_another) == 0
    finally:
        os.chdir("/")
    assert os.listxattr(drive / "file") == ["trusted.a", "user.a"]


def test_attributes_go_with_the_node(device: Any) -> None:
    desk, laptop = device("desk"), device("laptop")
    (desk.path / "folder").mkdir()
    os.setxattr(desk.path / "folder", "user.colour", b"blue")
    os.rename(desk.path / "folder", desk.path / "moved")
    desk.in_step(laptop)
    assert os.getxattr(laptop.path / "moved", "user.colour") == b"blue"
    os.removexattr(laptop.path / "moved", "user.colour")
    laptop.in_step(desk)
    assert os.listxattr(desk.path / "moved") == []


def test_copies_carry_them_along(file: Path) -> None:
    os.setxattr(file, "user.a", b"1")
    copy = file.with_name("copy")
    subprocess.run(["cp", "--preserve=all", file, copy], check=True)
    assert os.listxattr(copy) == ["user.a"], "ours tell of one node only, and stay"


def test_when_a_file_was_made_is_not_told(file: Path) -> None:
    told = subprocess.run(["stat", "--format=%W", file], capture_output=True, text=True, check=True)
    assert told.stdout in ("-\n", "0\n"), "then SEMANTICS.md must say so"
