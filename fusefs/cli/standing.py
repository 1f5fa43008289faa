"""Standing: whether a person's work is safe, waiting until it is, and what was counted."""

import json
import re
import sys
from typing import Any, Final

from fusefs.cli.asking import ask, path_in_mount
from fusefs.cli.guarding import sentence
from fusefs.cli.showing import shown
from fusefs.control import Exit, Refused
from remote.protocol.sizes import counted, shown_size

FILES_SHOWN: Final = 10
FILES_TOLD: Final = 1_000
"""So many of the files that are to be sent are listed for a person, and for a program."""
_PROBLEMS_SHOWN: Final = 3
BACKUP_STATES: Final = {
    "watching": "up to date",
    "working": "being looked through",
    "waiting": "waiting for room",
    "paused": "paused",
    "failing": "tried again",
}
_LOST: Final = "an older edit of yours, kept on this machine until it is sent"
_FIRST_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = 5.0
"""So long is waited in silence, at first and later, before it is looked whether anything is in the way."""
_DIGITS: Final = re.compile(r"[0-9.]+")
_RATE_SHOWN: Final = 10_000
"""Bytes in a second: less comes down only to say that all is as it was."""


def status(path: str | None, *, as_json: bool, is_watching: bool) -> int:
    """Prints how things are, with everything or with a path; returns the exit code that says the same."""
    if path is not None:
        return _status_of(path, as_json=as_json)
    if is_watching:
        from fusefs.cli import watching  # noqa: PLC0415 - takes longer to load than everything else

        watching.watch(as_json=as_json)
    found = ask("status", files=FILES_TOLD if as_json else FILES_SHOWN)
    print(json.dumps(found, indent=2) if as_json else "\n".join(told(found)))
    if found["pending"]["count"]:
        return Exit.PENDING
    if not found["signed_in"]:
        return Exit.SIGN_IN
    return Exit.OK if found["online"] else Exit.UNREACHABLE


def told(found: dict[str, Any], *, with_files: bool = True) -> list[str]:
    """The lines that a person reads; the first one answers whether the work is safe."""
    cache = found["cache"]
    silent = found["silent_seconds"]
    reach = "offline" if not found["online"] else "no answer" if silent else "online"
    lines = [
        _safety(found),
        f"  Drive   {found['user']}@{_host(found['url'])}   mounted at {found['mount']}   {reach}",
    ]
    if not found["online"]:
        lines.append(f"  Server  {found['trouble']}")
    elif silent:
        lines.append(f"  Server  it has not answered for {duration(silent)}")
    if found["paused"]["is_paused"]:
        lines.append(f"  Paused  {found['paused']['reason']}")
    if found["full"]:
        lines.append(f"  Full    programs cannot write: {found['full']}")
    if found["set_back"]:
        lines.append(f"  Server  it was put back to an older state (noticed {found['set_back']}):")
        lines.append("          what it lost and is here is sent again; what was removed since then is there again")
    lines += _up(found, with_files=with_files)
    if found["online"] and found["rates"]["down"] >= _RATE_SHOWN:
        lines.append(f"  Down    {shown_size(found['rates']['down'])} a second")
    lines += [f"  Limit   {line}" for line in told_limits(found["limits"])]
    lines.append(f"  Cache   {shown_size(cache['bytes'])} of {shown_size(cache['limit_bytes'])}")
    if found["pinned"]:
        kept = found["kept"]
        missing = f", {shown_size(kept['missing_bytes'])} to be fetched" if kept["missing_files"] else ""
        lines.append(f"  Pinned  {', '.join(found['pinned'])}: {shown_size(kept['size_bytes'])}{missing}")
    lines += _backups(found["backups"])
    for space in found["spaces"]:
        quota = f" of {shown_size(space['quota_bytes'])}" if space["quota_bytes"] else ""
        shared = f", {space['role']}, of {space['owner']}, at {space['path']}" if space["path"] else ""
        lines.append(f"  Space   {space['name']}: {shown_size(space['used_bytes'])}{quota}{shared}")
    if found["unlisted_folders"]:
        lines.append(
            f"  Names   {counted(found['unlisted_folders'], 'folder')} not listed yet: nothing below is seen offline"
        )
    if found["ignored"]["count"]:
        what = f"{counted(found['ignored']['count'], 'ignored file')} ({shown_size(found['ignored']['bytes'])})"
        lines.append(f"  Local   {what}: on this machine only")
    for stuck in found["stuck"]:
        lines.append(f"  Issue   {stuck['path'] or 'the drive'}: {stuck['sentence']}")
        when = f"tried again in {duration(stuck['seconds'])}" if stuck["seconds"] is not None else "not sent as it is"
        lines.append(f"          {when}; it is safe on this device meanwhile")
    if found["asked"]["count"]:
        what = counted(found["asked"]["count"], "change")
        wait = "waits" if found["asked"]["count"] == 1 else "wait"
        lines.append(f"  Issue   {what} {wait} for your yes: {found['asked']['sentence']}")
    # What is held of this device is told by what waits here.
    others = [one for one in found["events"] if one["state"] == "told" or one["device"] != found["device"]]
    lines += [f"  Issue   {sentence(one, found['mount'])}" for one in others]
    if found["conflicts"]:
        what = counted(found["conflicts"], "edit")
        lines.append(f"  Issue   {what} lost against others, and nobody has settled that: satchel conflicts")
    lines += [f"  Issue   {fault}" for fault in found["rules"]]
    return [shown(line) for line in lines]


def _backups(backups: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in backups:
        state = "" if one["state"] == "watching" else f": {BACKUP_STATES[one['state']]}. {one['reason']}".rstrip()
        lines.append(f"  Backup  {one['folder']} -> {one['target']}{state}")
        lines += [
            f"  Issue   {one['folder']}/{problem['path']} is not backed up: {problem['sentence']}"
            for problem in one["problems"][:_PROBLEMS_SHOWN]
        ]
        if (more := one["problem_count"] - _PROBLEMS_SHOWN) > 0:
            lines.append(f"          and {more} more: satchel backup status")
        if one["unwatched"]:
            lines.append(f"  Issue   {one['unwatched']} Until then backups are looked through every few minutes.")
    return lines


def _up(found: dict[str, Any], *, with_files: bool) -> list[str]:
    pending = found["pending"]
    if not pending["count"]:
        return []
    words = [counted(pending["count"], "change"), f"{shown_size(pending['bytes'])} of content"]
    if pending["sent_bytes"]:
        words.append(f"{shown_size(pending['sent_bytes'])} of it sent")
    # Of the last seconds: a line that is gone, or a pause, has ended it; and what is blocked is not what went.
    is_going = found["online"] and not found["paused"]["is_paused"] and pending["blocked"] < pending["count"]
    if found["rates"]["up"] and is_going:
        words.append(f"{shown_size(found['rates']['up'])} a second")
    # Less says nothing: what is left then is for the server to answer, or not.
    if pending["seconds_left"] is not None and pending["seconds_left"] >= 1:
        words.append(f"about {duration(pending['seconds_left'])} left")
    lines = [f"  Up      {', '.join(words)}"]
    if not with_files:
        return lines
    for file in pending["files"]:
        share = f"   {100 * file['sent_bytes'] // file['bytes']} % sent" if file["sent_bytes"] else ""
        lost = f"   {_LOST}" if file["state"] == "lost" else ""
        lines.append(f"          {file['path']}   {shown_size(file['bytes'])}{share}{lost}")
    more = pending["count"] - len(pending["files"])
    return [*lines, f"          and {more} more"] if more > 0 else lines


def _safety(found: dict[str, Any]) -> str:
    count = found["pending"]["count"]
    if not count:
        return "All changes are on the server."
    they = "it is" if count == 1 else "they are"
    safe = f"{counted(count, 'change')} not on the server yet; safe on this device"
    if found["paused"]["is_paused"]:
        return f"{safe}, and {they} sent when that goes on."
    if not found["online"] or found["silent_seconds"]:
        return f"{safe}, and {they} sent when the server is back."
    blocked = min(found["pending"]["blocked"], count)
    if not blocked:
        return f"{safe}, and {they} being sent."
    if blocked == count:
        return f"{safe}. {_blocked(found, 'It' if count == 1 else 'They', is_one=count == 1)}."
    rest = "The other one is" if count - blocked == 1 else "The others are"
    return f"{safe}. {rest} being sent; {_blocked(found, f'{blocked}', is_one=blocked == 1)}."


def _blocked(found: dict[str, Any], who: str, *, is_one: bool) -> str:
    """What is in the way of those that are not being sent; who they are."""
    blocked = found["pending"]["blocked"]
    if found["asked"]["count"] == blocked:
        return f"{who} {'waits' if is_one else 'wait'} for your yes: satchel guard allow (or refuse)"
    if found["pending"]["no_room"] == blocked:
        return (
            f"{who} {'has' if is_one else 'have'} no room in the quota, and {'goes' if is_one else 'go'} when there is"
        )
    return f"{who} cannot be sent now, see below"


def _status_of(path: str, *, as_json: bool) -> int:
    found = ask("status-of", path=path_in_mount(path))
    code = Exit.OK if found["state"] in ("synced", "ignored") and not found["pending_below"] else Exit.PENDING
    if as_json:
        print(json.dumps(found, indent=2))
        return code
    sentences = {
        "synced": "The server has it.",
        "pending": "The server does not have it yet; it is safe on this device.",
        "error": f"It cannot be sent now: {found['error']}",
        "ignored": f"It is ignored, by {found['rule']}: it stays on this machine and is never sent.",
    }
    if found["lost_edits"]:
        sentences["pending"] = "The server does not have all that you wrote yet; it is safe on this device."
    print(shown(f"{found['path']}: {sentences[found['state']]}"))
    if found["lost_edits"]:
        print(f"  {counted(found['lost_edits'], 'older edit')} of yours that lost: kept on this machine until sent.")
    if found["size_bytes"]:
        cached = shown_size(found["cached_bytes"])
        print(f"  {cached} of {shown_size(found['size_bytes'])} can be read without the server.")
    for count, what in ((found["pending_below"], "to be sent"), (found["ignored_below"], "ignored")):
        if count:
            print(f"  Below it: {counted(count, 'change')} {what}.")
    if code and found["held"]:
        print(shown(f"  {found['held']}"))
    return code


def told_limits(limits: dict[str, Any]) -> list[str]:
    """A line for each limit that there is."""
    words = {"up": "sends", "down": "receives"}
    return [f"this drive {words[way]} at most {shown_size(rate)} a second" for way, rate in limits.items() if rate]


def duration(seconds: float) -> str:
    """A length of time as a person reads it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"


def _host(url: str) -> str:
    return url.partition("://")[2].rstrip("/")


def wait(path: str | None, timeout: float | None) -> None:
    """Returns when the server has all that was edited; raises Refused with what is missing when it does not in time."""
    relative = "" if path is None else path_in_mount(path)
    seconds = _FIRST_SECONDS if timeout is None else timeout
    answer = ask("wait", seconds=seconds + 30.0, path=relative, timeout=seconds)
    if timeout is None:
        told = ""
        while not answer["sent"]:
            reason = shown(answer["reason"])
            # How long the server is silent by now is nothing new.
            if reason and (new := _DIGITS.sub("", reason)) != told:
                how = "Waiting" if told else "Waiting (for S seconds: --timeout S)"
                print(f"{how}. {reason}", file=sys.stderr, flush=True)
                told = new
            answer = ask("wait", seconds=None, path=relative, timeout=_AGAIN_SECONDS)
    if answer["sent"]:
        return
    names = shown(", ".join(answer["paths"])) or "the last answer"
    more = answer["count"] - len(answer["paths"])
    # The reason comes last: it may end with what to type.
    safe = (
        f"It is safe on this device. {answer['reason']}"
        if answer["reason"]
        else ("It is safe on this device and goes on being sent.")
    )
    raise Refused(
        f"After {timeout:g} s the server does not have: {names}{f' and {more} more' if more > 0 else ''}. {safe}",
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
    return shown_size(value) if name.endswith("_bytes") else f"{value}"
