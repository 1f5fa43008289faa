"""Standing: whether a person's work is safe, waiting until it is, and what was counted."""

import json
import sys
from typing import Any

from fusefs.cli.asking import ask, path_in_mount
from fusefs.control import Exit, Refused


def status(*, as_json: bool) -> int:
    """Prints how things are; returns the exit code that says the same."""
    found = ask("status")
    print(json.dumps(found, indent=2) if as_json else "\n".join(told(found)))
    if found["pending"]["count"]:
        return Exit.PENDING
    return Exit.OK if found["online"] else Exit.UNREACHABLE


def told(found: dict[str, Any]) -> list[str]:
    """The lines that a person reads; the first one answers whether the work is safe."""
    pending, cache = found["pending"], found["cache"]
    reach = "online" if found["online"] else "offline"
    lines = [
        _safety(found),
        f"  Drive   {found['user']}@{_host(found['url'])}   mounted at {found['mount']}   {reach}",
    ]
    if not found["online"]:
        lines.append(f"  Server  {found['trouble']}")
    if found["paused"]["is_paused"]:
        lines.append(f"  Paused  {found['paused']['reason']}")
    if pending["count"]:
        lines.append(f"  Up      {_count(pending['count'], 'change')}, {size(pending['bytes'])} of content")
        lines += [f"          {path}" for path in pending["paths"]]
    lines.append(f"  Cache   {size(cache['bytes'])} of {size(cache['limit_bytes'])}")
    if found.get("pinned"):
        kept = found["kept"]
        missing = f", {size(kept['missing_bytes'])} to be fetched" if kept["missing_files"] else ""
        lines.append(f"  Pinned  {', '.join(found['pinned'])}: {size(kept['size_bytes'])}{missing}")
    if found.get("quota_bytes"):
        lines.append(f"  Quota   {size(found['used_bytes'])} of {size(found['quota_bytes'])}")
    if found["unlisted_folders"]:
        lines.append(
            f"  Names   {_count(found['unlisted_folders'], 'folder')} not listed yet: nothing below is seen offline"
        )
    for stuck in found["stuck"]:
        lines.append(f"  Issue   {stuck['path'] or 'the drive'}: {stuck['sentence']}")
        lines.append(f"          tried again in {stuck['seconds']:.0f} s; it is safe on this device meanwhile")
    return lines


def _safety(found: dict[str, Any]) -> str:
    count = found["pending"]["count"]
    if not count:
        return "All changes are on the server."
    they = "it is" if count == 1 else "they are"
    when = "being sent" if found["online"] else "sent when the server is back"
    if found["paused"]["is_paused"]:
        when = "sent when that goes on"
    return f"{_count(count, 'change')} not on the server yet; safe on this device, and {they} {when}."


def _host(url: str) -> str:
    return url.partition("://")[2].rstrip("/")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def wait(path: str | None, timeout: float | None) -> None:
    """Returns when the server has all that was edited; raises Refused with what is missing when it does not in time."""
    relative = "" if path is None else path_in_mount(path)
    if timeout is None and sys.stderr.isatty():
        standing = ask("status")
        if standing["paused"]["is_paused"]:
            print(standing["paused"]["reason"], file=sys.stderr)
        if not standing["online"]:
            print(f"Waiting for the server: {standing['trouble']}", file=sys.stderr)
    seconds = None if timeout is None else timeout + 30.0
    answer = ask("wait", seconds=seconds, path=relative, timeout=timeout)
    if answer["sent"]:
        return
    names = ", ".join(answer["paths"]) or "the last answer"
    more = answer["count"] - len(answer["paths"])
    reason = f" {answer['reason']}" if answer["reason"] else ""
    raise Refused(
        f"After {timeout:g} s the server does not have: {names}{f' and {more} more' if more > 0 else ''}.{reason} "
        "It is safe on this device and goes on being sent.",
        Exit.PENDING,
    )


def stats(*, as_json: bool) -> None:
    """Prints what was counted since this device was set up."""
    found = ask("stats")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):24} {_shown(name, value)}")


def _shown(name: str, value: Any) -> str:
    if name == "turns":
        # How long the daemon kept programs waiting before it looked what they want: all of it, then the tail.
        late = [f"{count} up to {bound} ms" for bound, count in value.items() if count]
        return f"{sum(value.values())}: {', '.join(late)}".replace("up to longer ms", "longer")
    return size(value) if name.endswith("_bytes") else f"{value}"
