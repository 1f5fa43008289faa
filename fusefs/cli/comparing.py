"""Comparing: what differs between two times, and making it so again: rewind and undo."""

import difflib
import json
import os
from typing import Any, Final

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.showing import in_option, shown, shown_lines
from fusefs.control import Refused
from remote.protocol.sizes import shown_size

_SECONDS: Final = 300.0
_LINES_SHOWN: Final = 40
_TEXT_MAX: Final = 4 << 20
"""Bytes of a text that is compared line by line."""
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "moved": ">", "attributes": "a"}
_DONE: Final = {"added": "came back", "removed": "went", "changed": "changed", "moved": "moved"}


def diff(path: str, since: str, to: str | None, *, as_json: bool) -> None:
    """Prints what differs; raises Refused."""
    found = ask("diff", seconds=_SECONDS, path=path_in_mount(path), **{"from": since}, to=to)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found["kind"] == "folder":
        print("\n".join(_differences(found, len(found["differences"])) or ["Nothing differs."]))
    else:
        print(_compared(path, found))


def _compared(path: str, found: dict[str, Any]) -> str:
    """The lines that differ between two versions of a file; for what is no text, the sizes."""
    mount = str(ask("ping")["mount"])
    sides = [os.path.join(mount, one) if one is not None else None for one in found["files"]]
    contents = [_content(one) for one in sides]
    if contents[0] == contents[1]:
        return "Its content does not differ." if None not in contents else "It is no file whose content can be shown."
    texts = [_text(one) for one in contents]
    if texts[0] is None or texts[1] is None:
        told = ["not there" if one is None else shown_size(os.lstat(one).st_size) for one in sides]
        return f"It differs, and is no text (or over {shown_size(_TEXT_MAX)}): {told[0]} then, {told[1]} later."
    names = [f"{path} (rev {found[side]})" for side in ("from", "to")]
    lines = difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), names[0], names[1], lineterm="")
    return "\n".join(shown(line) for line in lines)


def _content(path: str | None) -> bytes | None:
    """What is in a file; nothing for one that was not there, None for what has no content or too much."""
    if path is None:
        return b""
    if os.path.islink(path):
        return os.fsencode(os.readlink(path)) + b"\n"
    if not os.path.isfile(path) or os.path.getsize(path) > _TEXT_MAX:
        return None
    with open(path, "rb") as file:
        return file.read()


def _text(content: bytes | None) -> str | None:
    if content is None or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def rewind(path: str, to: str, *, is_dry_run: bool, as_json: bool) -> None:
    """Makes the path what it was, and prints what that did; raises Refused."""
    found = ask("rewind", seconds=_SECONDS, path=path_in_mount(path), to=to, dry_run=is_dry_run)
    _print_done(found, f"{path} is as of rev {found['of']}", is_dry_run=is_dry_run, as_json=as_json)


def undo(
    rev: int | None, event: int | None, *, path: str | None, keeps_new: bool, is_dry_run: bool, as_json: bool
) -> None:
    """Takes back what a commit did, or a mass change, and prints what that was; raises Refused."""
    said: dict[str, Any] = {"rev": rev or 0, "event": event or 0, "keep_new": keeps_new, "dry_run": is_dry_run}
    found = ask("undo", seconds=_SECONDS, path="" if path is None else path_in_mount(path), **said)
    what = f"Event {event}" if event else f"Rev {found['of']}"
    is_undone = bool(found["rev"]) or is_dry_run
    if is_undone or as_json:
        _print_done(found, f"{what} is undone", is_dry_run=is_dry_run, as_json=as_json)
    if not is_undone:
        raise Refused(f"{what} is not undone: nothing was changed. {_staying(found)}".rstrip())


def _staying(found: dict[str, Any]) -> str:
    """What an undo let be, and why."""
    if not found["kept"]:
        return "It is as it was before that already."
    told = _stays(found)
    more = found["kept"] - len(told)
    if more:
        told.append(f"{more} {'more' if told else 'that changed again, or are kept no more as they were'}")
    how = "satchel versions PATH, then satchel restore PATH --at REV"
    return f"As it is stays: {', '.join(told)}. To have what it was: {how}"


def _stays(found: dict[str, Any]) -> list[str]:
    return [
        f"{one['path']} (" + (f"changed again in rev {one['rev']})" if one["rev"] else "what it was is kept no more)")
        for one in found.get("stays", ())
    ]


def _print_done(found: dict[str, Any], sentence: str, *, is_dry_run: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    lines = _differences(found, _LINES_SHOWN)
    counts = ", ".join(f"{found[what]} {word}" for what, word in _DONE.items() if found[what])
    if is_dry_run:
        lines.append(f"Nothing was done. It would be so: {counts or 'nothing would change'}.")
    elif not found["rev"]:
        lines.append("There was nothing to change.")
    else:
        lines.append(f"{shown_lines(sentence)}: {counts or 'only attributes changed'}. {undoing(found)}")
    if found["kept"]:
        stays, it, was = ("stays as it is", "it", "was") if found["kept"] == 1 else ("stay as they are", "they", "were")
        lines.append(f"{found['kept']} {stays}: {it} changed again since then, or what {it} {was} is kept no more.")
        lines += [shown(f"  {one}") for one in _stays(found)]
    if not found["shown"]:
        lines.append("The server has done it; this device shows it when it has heard of it.")
    print("\n".join(lines))


def undoing(found: dict[str, Any]) -> str:
    """How to take back what was done, also in a shared folder."""
    return shown(f"To take that back: satchel undo{in_option(str(ask('ping')['mount']), found['in'])}")


def _differences(found: dict[str, Any], most: int) -> list[str]:
    listed = found["differences"]
    lines = [f"{_SIGNS[one['what']]} {_difference(one)}" for one in listed[:most]]
    count = sum(found[what] for what in _SIGNS)
    if count > len(lines):
        lines.append(f"  and {count - len(lines)} more")
    return [shown(line) for line in lines]


def _difference(one: dict[str, Any]) -> str:
    path = str(one["path"]) + ("/" if one["kind"] == "folder" else "")
    if one["what"] == "moved":
        return f"{one['was_path']} -> {path}"
    if one["kind"] != "file" or one["what"] == "attributes":
        return path
    before, after = shown_size(one["was_size_bytes"]), shown_size(one["size_bytes"])
    sizes = {"added": after, "removed": before}.get(one["what"], after if before == after else f"{before} -> {after}")
    return f"{path}   {sizes}"
