"""Backing up: folders of this machine that are kept in the drive."""

import json
import os
from typing import Any

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.showing import shown
from fusefs.cli.standing import BACKUP_STATES
from fusefs.control import Exit, Refused
from remote.protocol.sizes import counted, shown_size


def add(folder: str, to: str | None, name: str | None, *, is_into: bool) -> None:
    """Keeps a folder in the drive from now on; raises Refused."""
    real = os.path.realpath(folder)
    if not os.path.isdir(real):
        raise Refused(f"{folder} is no folder.")
    target = "" if to is None else path_in_mount(to) if os.path.isabs(to) else to
    found = ask("backup-add", seconds=None, folder=real, to=target, name=name or "", into=is_into)
    print(shown(f"{found['folder']} is kept in {found['target']} from now on. How far it is: satchel backup status"))


def remove(folder: str) -> None:
    """Ends a backup and keeps what is stored; raises Refused."""
    found = ask("backup-remove", seconds=None, folder=_known(folder))
    print(shown(f"{found['folder']} is not backed up any more. What is stored stays in {found['target']}."))


def now(folder: str, *, is_confirmed: bool) -> int:
    """Looks through a folder and waits until the server has it; the exit code; raises Refused."""
    found = ask("backup-now", seconds=None, folder=_known(folder), yes=is_confirmed)
    print("\n".join(shown(line) for line in [*told(found), *problems(found)]))
    return Exit.FAILURE if found["problem_count"] else Exit.OK


def listing(*, as_json: bool) -> None:
    """Prints what is backed up, and where to; raises Refused."""
    found = ask("backups")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print("\n".join(shown(f"{one['folder']} -> {one['target']}") for one in found) or "Nothing is backed up.")


def status(*, as_json: bool) -> int:
    """Prints how each backup stands; the exit code: 0 when all of them are up to date; raises Refused."""
    found = ask("backups")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        lines = [line for one in found for line in (*told(one), *problems(one))]
        print("\n".join(map(shown, lines)) or "Nothing is backed up.")
    is_well = all(one["state"] == "watching" and not one["problem_count"] for one in found)
    return Exit.OK if is_well else Exit.FAILURE


def _known(folder: str) -> str:
    """A path as the daemon knows it; a name of a backup stays one."""
    if os.path.isdir(folder) or "/" in folder:
        return os.path.realpath(folder)
    names = {str(one["name"]) for one in ask("backups")}
    return folder if folder in names else os.path.realpath(folder)


def told(one: dict[str, Any]) -> list[str]:
    """Some lines of how a backup stands."""
    state = BACKUP_STATES[one["state"]]
    names = f", {counted(one['names'], 'name')}" if one["checked"] else ""
    lines = [f"{one['folder']} -> {one['target']}: {state}{names}"]
    if one["checked"]:
        lines.append(f"  Looked through at {one['checked']}")
    if one["taken_files"]:
        lines.append(f"  Read since the mount: {counted(one['taken_files'], 'file')}, {shown_size(one['taken_bytes'])}")
    if one["restless"]:
        lines.append(f"  Being written to, and taken when at rest: {counted(one['restless'], 'file')}")
    return lines + [f"  {line}" for line in (one["reason"], *unwatched(one), *one["rules"]) if line]


def unwatched(one: dict[str, Any]) -> list[str]:
    """A line when changes are not heard of at once."""
    return [f"{one['unwatched']} Until then it is looked through every few minutes."] if one["unwatched"] else []


def problems(one: dict[str, Any]) -> list[str]:
    """Lines of what could not be taken, and of what is left out."""
    lines = [
        f"  Not taken: {problem['path'] or one['folder']}: {problem['sentence']}; again in {problem['seconds']:.0f} s"
        for problem in one["problems"]
    ]
    more = one["problem_count"] - len(one["problems"])
    lines += [f"  and {more} more"] if more > 0 else []
    return lines + [f"  Left out: {skipped['path']}: {skipped['sentence']}" for skipped in one["skipped"]]
