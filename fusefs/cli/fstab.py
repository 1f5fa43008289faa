"""Fstab: the line of /etc/fstab for this device's drive, and the links by which mount(8) finds us."""

import os
import pwd
import sys
from pathlib import Path
from typing import Final

from fusefs.cli.asking import places
from fusefs.cli.helper import NAMES
from fusefs.control import Exit, Refused
from fusefs.settings import load_account

SBIN: Final = Path("/sbin")


def line(folder: str) -> str:
    """The line that mounts this device's drive at a folder, whoever of root and its user asks; raises Refused."""
    account = load_account(places().account_file)
    if account is None:
        raise Refused("This device is not signed in. Sign in first: satchel login URL --user NAME", Exit.SIGN_IN)
    user = pwd.getpwuid(os.getuid()).pw_name
    options = "_netdev,nofail" if os.getuid() == 0 else f"noauto,user,setuid={user},_netdev"
    point = os.path.abspath(folder)
    for character in "\\ \t\n#":
        point = point.replace(character, f"\\{ord(character):03o}")
    return f"{account.source} {point} satchel {options} 0 0"


def unsaid() -> str:
    """A sentence about what mount(8) would have to know and the line cannot say; empty when it says all."""
    home = os.environ.get("SATCHEL_HOME")
    if not home:
        return ""
    return (
        f"The line knows nothing of SATCHEL_HOME ({home}): without that in its environment, as at boot, mount(8) "
        "mounts the device that was signed in without it."
    )


def is_linked(sbin: Path = SBIN) -> bool:
    """Whether mount(8) finds us."""
    return all(os.access(sbin / name, os.X_OK) for name in NAMES)


def link(sbin: Path = SBIN) -> list[Path]:
    """Makes the links, as root; raises Refused."""
    program = os.path.abspath(sys.argv[0])
    made = []
    for name in NAMES:
        target = sbin / name
        if target.exists() and not target.is_symlink():
            raise Refused(f"{target} is there already and not a link: a package has brought it, and it does.")
        new = target.with_name(f"{name}.new")
        try:
            new.unlink(missing_ok=True)
            new.symlink_to(program)
            new.replace(target)
        except OSError as error:
            raise Refused(f"{target} cannot be made ({error.strerror}). As root: satchel fstab --link") from error
        made.append(target)
    return made
