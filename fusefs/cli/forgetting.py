"""Forgetting: purging the past, for good, and how much of it is kept."""

import json
from typing import Any, Final

from fusefs.cli.asking import ask, confirm, path_in_mount
from fusefs.cli.showing import shown
from fusefs.cli.trashing import relative
from remote.protocol.sizes import counted, shown_size
from remote.protocol.times import iso

_SECONDS: Final = 300.0


def purge_trash(paths: tuple[str, ...], before: str | None, *, is_sure: bool) -> None:
    """Forgets what was removed; raises Refused."""
    _purge("trash-purge", is_sure=is_sure, paths=[relative(path) for path in paths], before=before)


def purge(path: str, *, is_sure: bool) -> None:
    """Forgets what a path was; raises Refused."""
    _purge("purge", is_sure=is_sure, path=path_in_mount(path))


def _purge(verb: str, *, is_sure: bool, **fields: Any) -> None:  # Any: as the daemon takes them
    if not is_sure:
        found = ask(verb, seconds=_SECONDS, dry_run=True, **fields)
        told = _told(found)
        confirm(
            f"That would forget {told}, for good.",
            " ".join([f"This forgets {told}, for good; nobody can bring it back.", *map(shown, found["left"])]),
            "Nothing was forgotten.",
        )
    found = ask(verb, seconds=_SECONDS, **fields)
    print("\n".join([f"Forgotten: {_told(found)}.", *map(shown, found["left"])]))


def _told(found: dict[str, Any]) -> str:  # Any: JSON
    files, content = counted(found["nodes"], "file"), shown_size(found["size_bytes"])
    return f"{counted(found['versions'], 'version')} of {files}, {content} of content"


def retention(said: dict[str, int | bool | None], *, path: str | None, as_json: bool) -> None:
    """Prints what is kept, after setting what is said; raises Refused."""
    found = ask("retention", seconds=_SECONDS, path="" if path is None else path_in_mount(path), **said)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    lines = [f"Every version is kept for {found['all_days']} days."]
    least = found["all_days"]
    for name, what in (("hourly_days", "hour"), ("daily_days", "day")):
        if found[name] > least:
            least = found[name]
            lines.append(f"Then the last of each {what}, until it is {least} days old.")
    lines.append("Then the last of each week, for ever." if found["for_ever"] else "Nothing older is kept.")
    if found["not_before_ns"]:
        lines.append(
            f"Nothing goes before {iso(found['not_before_ns'])}: "
            "the clock of the server has to go seven days without a leap first."
        )
    print(shown(" ".join(lines)))
