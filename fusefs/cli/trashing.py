"""Trashing: what was removed, and what file managers put into the drive's `.Trash-UID`, in one list.

File managers follow the freedesktop.org trash specification: in a mount they move what is thrown away to
`.Trash-UID/files` at its top, with a file in `.Trash-UID/info` that says where it was. To us they are ordinary folders.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.comparing import undoing
from fusefs.cli.showing import shown
from fusefs.control import Refused
from remote.protocol.sizes import shown_size

_SECONDS: Final = 300.0
_INFO_MAX: Final = 16 << 10


class Thrown(NamedTuple):
    """Something in a `.Trash-UID`: what was there, where it lies, its info, and when it was thrown away."""

    path: str
    place: Path
    info: Path
    time: str


def listing(limit: int, *, as_json: bool) -> None:
    """Prints what can be brought back, newest first."""
    found = ask("trash", seconds=_SECONDS, limit=limit)
    told = [{**one, "where": "history"} for one in found["removed"]]
    told += [_told(one) for one in thrown(Path(str(ask("ping")["mount"])))]
    told.sort(key=lambda one: str(one["time"]), reverse=True)
    told = told[:limit]
    if as_json:
        print(json.dumps(told, indent=2))
        return
    if not told:
        print("The trash is empty.")
        return
    for one in told:
        what = shown_size(one["size_bytes"]) if one["kind"] == "file" else one["kind"]
        many = f"  ({one['count']} in all, {shown_size(one['size_bytes'])})" if one["count"] > 1 else ""
        who = f"  {' on '.join(part for part in (one['user'], one['device']) if part)}" if one["user"] else ""
        place = "  in the file manager's trash" if one["where"] == "folder" else ""
        print(shown(f"{one['time']}  {what:>10}  {one['path']}{many}{who}{place}"))
    if found["more"]:
        print("There is more: satchel trash list --limit N")


def _told(one: Thrown) -> dict[str, Any]:
    is_folder = one.place.is_dir() and not one.place.is_symlink()
    return {
        "path": one.path,
        "kind": "folder" if is_folder else "file",
        "rev": 0,
        "time": one.time,
        "user": "",
        "device": "",
        "count": 1,
        "size_bytes": 0 if is_folder else one.place.lstat().st_size,
        "where": "folder",
    }


def restore(paths: tuple[str, ...]) -> None:
    """Brings back what these paths were: from the file manager's trash, else from history; raises Refused."""
    mount = Path(str(ask("ping")["mount"]))
    in_folder = {one.path: one for one in sorted(thrown(mount), key=lambda one: one.time)}
    left: list[str] = []
    for path in paths:
        wanted = relative(path)
        if wanted in in_folder:
            _put_back(mount, in_folder[wanted])
        else:
            left.append(wanted)
    if left:
        found = ask("trash-restore", seconds=_SECONDS, paths=left)
        for one in [one for one in found["differences"] if one["what"] == "added"][:20]:
            print(shown(f"+ {mount / one['path']}"))
        print(f"{found['added']} came back. {undoing(found)}")


def relative(path: str) -> str:
    """A path as `trash list` shows it, or as it would be in the mount."""
    try:
        return path_in_mount(path)
    except Refused:
        return path.strip("/")


def _put_back(mount: Path, one: Thrown) -> None:
    wanted = mount / one.path
    if os.path.lexists(wanted):
        raise Refused(f"{wanted} is there: move it away first.")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    one.place.rename(wanted)
    one.info.unlink(missing_ok=True)
    print(shown(f"{wanted} is back from the file manager's trash."))


def thrown(mount: Path) -> list[Thrown]:
    """What lies in the trash of file managers."""
    found: list[Thrown] = []
    for bin_ in [*mount.glob(".Trash-*"), *mount.glob(".Trash/*")]:
        if bin_.is_symlink() or not (bin_ / "files").is_dir():
            continue
        for place in (bin_ / "files").iterdir():
            info = bin_ / "info" / f"{place.name}.trashinfo"
            said = _said(info)
            path = os.path.normpath(os.fsdecode(unquote_to_bytes(said.get("Path", place.name))))
            if path.startswith(("/", "../")):
                # Not from this drive: it goes to the top.
                path = os.path.basename(path)
            found.append(Thrown(path, place, info, _time(said.get("DeletionDate", ""), place)))
    return found


def _said(info: Path) -> dict[str, str]:
    """The lines of a .trashinfo."""
    try:
        with open(info, errors="surrogateescape") as file:
            lines = file.read(_INFO_MAX).splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _time(text: str, place: Path) -> str:
    """When it was thrown away (local time there), as ISO 8601 in UTC."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        moment = datetime.fromtimestamp(place.lstat().st_ctime, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
