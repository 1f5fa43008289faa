"""Helper: `mount.satchel`, what mount(8) runs for a line of /etc/fstab; told and answering as its page says.

The same program as `satchel`, under another name: /sbin/mount.satchel and /sbin/mount.fuse.satchel are links to it.
"""

import enum
import getopt
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from fusefs import mounts
from fusefs.cli.asking import places
from fusefs.cli.showing import shown, shown_lines
from fusefs.control import Exit, Refused
from fusefs.options import parse_options
from fusefs.settings import Account, load_account

NAMES: Final = ("mount.satchel", "mount.fuse.satchel")
_NOT_AGAIN: Final = frozenset({"allow_other", "allow_root"})
_USAGE: Final = "usage: mount.satchel SOURCE DIR [-sfnv] [-o OPTIONS]; SOURCE is NAME@SERVER, or satchel: for any"


class Code(enum.IntEnum):
    """Exit codes of mount(8)."""

    OK = 0
    USAGE = 1
    SYSTEM = 2
    INTERRUPTED = 8
    FAILURE = 32


class Wanted(NamedTuple):
    """What the command line says."""

    source: str
    folder: str
    options: tuple[str, ...]
    is_sloppy: bool
    """Options that nobody knows are left out."""
    is_fake: bool
    """All is done but the mount."""
    is_verbose: bool


def main(arguments: list[str]) -> int:
    """Mounts; an exit code of mount(8)."""
    try:
        wanted = _parsed(arguments)
        _mount(wanted)
    except Refused as refused:
        print(shown_lines(f"mount.satchel: {refused}"), file=sys.stderr)
        return Code.USAGE if refused.code == Exit.USAGE else Code.FAILURE
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except (OSError, MemoryError) as error:
        print(f"mount.satchel: the system refused what a mount needs: {error}", file=sys.stderr)
        return Code.SYSTEM
    return Code.OK


def _parsed(arguments: list[str]) -> Wanted:
    try:
        flags, words = getopt.gnu_getopt(arguments, "sfnvo:t:")
    except getopt.GetoptError as error:
        raise Refused(f"{error}. {_USAGE}", Exit.USAGE) from None
    if len(words) != 2:
        raise Refused(_USAGE, Exit.USAGE)
    said = {flag for flag, _ in flags}
    options = [option for flag, value in flags if flag == "-o" for option in value.split(",") if option]
    return Wanted(words[0], words[1], tuple(options), "-s" in said, "-f" in said, "-v" in said)


def _mount(wanted: Wanted) -> None:
    from fusefs.cli import mounting  # noqa: PLC0415 - not needed to say what is wrong with a line

    if "remount" in wanted.options:
        _remount(wanted)
        return
    options = [option for option in wanted.options if not option.startswith("setuid=")]
    for user in {option.partition("=")[2] for option in wanted.options if option.startswith("setuid=")}:
        _become(user)
    if wanted.is_sloppy:
        options = [option for option in options if _is_known(option)]
    parse_options(",".join(options))
    account = load_account(places().account_file)
    if account is not None:
        _check_source(wanted.source, account)
    if wanted.is_fake:
        return
    if not mounting.mount(wanted.folder, is_foreground=False, options=",".join(options), source=wanted.source):
        raise Refused(f"{wanted.folder} is mounted already.")
    if wanted.is_verbose:
        print(f"{shown(wanted.folder)} is mounted.")


def _is_known(option: str) -> bool:
    try:
        parse_options(option)
    except Refused:
        return False
    return True


def _check_source(source: str, account: Account) -> None:
    """Raises Refused when a line names another drive than this device's."""
    named = source.removeprefix("satchel:")
    own = account.source
    without_port = own.partition("/")[0].rpartition(":")[0]
    if named not in ("", own, without_port):
        raise Refused(
            f"{source} is not the drive that this device is signed in to, which is {own}. Write that, or satchel: for "
            "whatever it is; or sign in: satchel login URL --user NAME."
        )


def _become(name: str) -> None:
    """Goes on as this user, so that a mount at boot is theirs: their account, their cache, their files."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"setuid={name}: there is no such user.", Exit.USAGE) from None
    if user.pw_uid == os.getuid():
        return
    if os.getuid():
        raise Refused(f"setuid={name}: only root can mount as somebody else.", Exit.USAGE)
    os.initgroups(name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    for variable in [key for key in os.environ if key.startswith("XDG_") or key == "SATCHEL_HOME"]:
        del os.environ[variable]
    runtime = f"/run/user/{user.pw_uid}"
    os.environ.update({"HOME": user.pw_dir, "USER": name, "LOGNAME": name})
    if Path(runtime).is_dir():
        os.environ["XDG_RUNTIME_DIR"] = runtime


def _remount(wanted: Wanted) -> None:
    """Changes what the kernel decides alone, such as ro and rw; raises Refused."""
    point = mounts.real(wanted.folder)
    if not mounts.is_ours_at(point):
        raise Refused(f"Satchel is not mounted at {point}.")
    # mount(8) adds what the mount has already; of that, the kernel's own words are of no concern here.
    told = parse_options(",".join(option for option in wanted.options if option != "remount" and _is_known(option)))
    if told.settings:
        raise Refused("Only options of the kernel, such as ro, can be changed by remount: umount, then mount again.")
    flags = ",".join(["remount", "ro" if "ro" in told.kernel else "rw", *sorted(told.kernel - {"ro", *_NOT_AGAIN})])
    # -i: without us again.
    result = subprocess.run(
        ["mount", "-i", "-o", flags, "--", point], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise Refused(result.stderr.strip() or f"{point} cannot be remounted.")
