"""mount(8), umount(8) and /etc/fstab: in a mount namespace with a /sbin and an /etc/passwd of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.mounted

SATCHEL = Path(sys.executable).parent / "satchel"
PREPARE = """
mount -t tmpfs none /usr/sbin && {satchel} fstab --link > /dev/null && mount -t tmpfs none /mnt &&
mkdir -m 755 /mnt/home /mnt/drive /mnt/empty && cp /etc/passwd /mnt/passwd &&
echo 'ann:x:4711:4711::/mnt/home:/bin/sh' >> /mnt/passwd && mount --bind /mnt/passwd /etc/passwd &&
chown 4711:4711 /mnt/home /mnt/drive &&
mknod -m 666 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse &&
touch /mnt/fstab && mount --bind /mnt/fstab /etc/fstab && echo ready && exec cat
"""
AS_ANN = ("env", "-u", "SATCHEL_HOME", "HOME=/mnt/home", "setpriv", "--reuid=4711", "--regid=4711", "--clear-groups")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def inside(device: Any) -> Iterator[tuple[Any, Run]]:
    """A device that is signed in, and what runs commands where mount(8) finds Satchel, as this device."""
    if os.geteuid():
        pytest.skip("only root can mount by mount(8) without a line in /etc/fstab")
    desk = device("desk", mount=False)
    desk.path.mkdir()
    namespace = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", PREPARE.format(satchel=SATCHEL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=desk.environment,
    )

    def run(*command: object, text: str = "") -> "subprocess.CompletedProcess[str]":
        words = ["nsenter", f"--target={namespace.pid}", "--mount", *map(str, command)]
        return subprocess.run(
            words, input=text, capture_output=True, text=True, check=False, timeout=120, env=desk.environment
        )

    try:
        assert namespace.stdout is not None
        assert namespace.stdout.readline() == "ready\n"
        yield desk, run
        for point in (desk.path, "/mnt/drive"):
            run("umount", "--lazy", point)
    finally:
        assert namespace.stdin is not None
        namespace.stdin.close()
        namespace.wait(60)
        namespace.stdout.close()


def test_a_line_of_fstab_mounts_and_unmounts(inside: tuple[Any, Run]) -> None:
    desk, run = inside
    printed = run(SATCHEL, "fstab", desk.path)
    line = printed.stdout
    assert f"SATCHEL_HOME ({desk.environment['SATCHEL_HOME']})" in printed.stderr
    source = f"ann@127.0.0.1:{desk.server.port}"
    assert line == f"{source} {desk.path} satchel _netdev,nofail 0 0\n"
    assert run("tee", "/etc/fstab", text=line.replace("_netdev", "_netdev,x-gvfs-name=Mine,ro")).returncode == 0
    assert run("mount", "-a").returncode == 0
    shown = run("findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", desk.path).stdout.split()
    assert shown[:2] == [source, "fuse.satchel"]
    assert "ro" in shown[2].split(",")
    assert "Read-only file system" in run("touch", desk.path / "new").stderr
    assert run("mount", "-a", "-v").stdout.endswith(": already mounted\n"), "found by its source"
    assert run("mount", "-o", "remount,rw", desk.path).returncode == 0
    assert run("touch", desk.path / "new").returncode == 0
    refused = run("mount", "-o", "remount,cache-size=5G", desk.path)
    assert (refused.returncode, "umount" in refused.stderr) == (32, True)
    again = run("mount", desk.path)
    assert (again.returncode, again.stderr) == (32, f"mount.satchel: {desk.path} is mounted already.\n")
    assert run("umount", desk.path).returncode == 0
    assert run("findmnt", desk.path).returncode == 1


def test_both_names_of_the_type_and_every_option_of_mount(inside: tuple[Any, Run]) -> None:
    desk, run = inside
    options = "cache-size=20M,read_seconds=3,noexec,allow_other,owners=real,user=ann,nofail,x-any=1,relatime,lazytime"
    assert run("mount", "-n", "-v", "-t", "fuse.satchel", "satchel:", desk.path, "-o", options).returncode == 0
    shown = run("findmnt", "-no", "SOURCE,OPTIONS", desk.path).stdout
    assert shown.startswith("satchel: ")
    assert {"noexec", "allow_other"} <= set(shown.split()[1].split(","))
    assert int(desk.ask("stats")["cache_limit_bytes"]) <= 20 << 20
    assert run("umount", desk.path).returncode == 0
    assert run("mount", "-s", "-t", "satchel", "satchel:", desk.path, "-o", "dance").returncode == 0
    assert run("umount", desk.path).returncode == 0
    assert run("mount", "-f", "-t", "satchel", "satchel:", desk.path).returncode == 0
    assert run("findmnt", desk.path).returncode == 1, "-f does all but the mount"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 1, r"usage: mount\.satchel"),
        (("satchel:", "DIR", "-x"), 1, r"-x not recognized"),
        (("satchel:", "DIR", "-o", "dance"), 1, r"'dance' is not known\. There are: allow_other"),
        (("satchel:", "DIR", "-o", "setuid=nobody-of-this-name"), 1, r"no such user"),
        (("satchel:", "DIR", "-o", "cache-size=much"), 32, r"cache_size_bytes is 'much'"),
        (("bob@elsewhere.example", "DIR"), 32, r"is not the drive .* is ann@"),
        (("satchel:", "/proc/self/exe"), 32, r"drive needs a folder"),
    ],
)
def test_exit_codes_are_those_of_mount(
    inside: tuple[Any, Run], words: tuple[str, ...], code: int, sentence: str
) -> None:
    desk, run = inside
    refused = run("mount.satchel", *(desk.path if word == "DIR" else word for word in words))
    assert refused.returncode == code, refused.stderr
    assert re.search(sentence, refused.stderr), refused.stderr
    assert refused.stderr.startswith("mount.satchel: ")


def test_what_the_system_refuses_has_its_own_exit_code(inside: tuple[Any, Run]) -> None:
    desk, run = inside
    refused = run("prlimit", "--nofile=7", "mount.satchel", "satchel:", desk.path)
    assert (refused.returncode, "the system refused" in refused.stderr) == (2, True), refused.stderr


def test_who_is_not_signed_in_is_told_how(inside: tuple[Any, Run]) -> None:
    desk, run = inside
    refused = run("env", f"SATCHEL_HOME={desk.home}-nobody", "mount", "-t", "satchel", "satchel:", desk.path)
    assert (refused.returncode, "satchel login" in refused.stderr) == (32, True)


def test_a_user_s_own_line_works_for_her_and_at_boot(inside: tuple[Any, Run]) -> None:
    desk, run = inside
    signed_in = run(
        *(*AS_ANN, SATCHEL, "login", desk.server.url, "--user", desk.server.user, "--password-stdin"),
        text=desk.server.password + "\n",
    )
    assert signed_in.returncode == 0, signed_in.stderr
    line = run(*AS_ANN, SATCHEL, "fstab", "/mnt/drive").stdout
    assert line.endswith(" /mnt/drive satchel noauto,user,setuid=ann,_netdev 0 0\n")
    run("tee", "/etc/fstab", text=line)
    for who in ((), AS_ANN):
        mounted = run(*who, "mount", "/mnt/drive")
        assert mounted.returncode == 0, mounted.stderr
        assert "user_id=4711" in run("findmnt", "-no", "OPTIONS", "/mnt/drive").stdout
        assert run(*AS_ANN, "touch", "/mnt/drive/hers").returncode == 0
        assert run(*AS_ANN, "stat", "-c", "%u:%g", "/mnt/drive/hers").stdout == "4711:4711\n"
        assert run(*AS_ANN, SATCHEL, "wait").returncode == 0
        unmounted = run(*AS_ANN, SATCHEL, "umount", "/mnt/drive") if not who else run(*who, "umount", "/mnt/drive")
        assert unmounted.returncode == 0, unmounted.stderr
        assert run("findmnt", "/mnt/drive").returncode == 1
