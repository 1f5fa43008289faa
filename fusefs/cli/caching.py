"""Caching: what this machine keeps of the drive."""

import json
from typing import Any

from fusefs import settings
from fusefs.cli.asking import ask, places
from fusefs.control import Exit, NoDaemon, Refused
from fusefs.settings import SettingsError
from remote.protocol.sizes import shown_size


def show(*, as_json: bool) -> None:
    """Prints how full the cache is, of what, and how often it had what was read; raises Refused."""
    found = ask("cache")
    print(json.dumps(found, indent=2) if as_json else "\n".join(told(found)))


def told(found: dict[str, Any]) -> list[str]:
    """The lines that a person reads."""
    reads = found["hits"] + found["misses"]
    kept = found["used_bytes"] - found["unsent_bytes"]
    pinned, floor = shown_size(found["pinned_bytes"]), shown_size(found["floor_bytes"])
    return [
        f"{shown_size(found['used_bytes'])} of {shown_size(found['limit_bytes'])} are used.",
        f"  Kept    {shown_size(kept)}, which can be fetched again; of it pinned: at most {pinned}",
        f"  Unsent  {shown_size(found['unsent_bytes'])}, which is on this machine only and never dropped",
        f"  Disk    {shown_size(found['disk_free_bytes'])} free; the last {floor} are left to others",
        f"  Reads   {100 * found['hits'] / reads:.1f} % of {reads} were answered from here"
        if reads
        else "  Reads   none",
    ]


def trim(to: str | None) -> None:
    """Drops what can be fetched again, or as much as brings the cache down to this size; raises Refused."""
    target = _bytes(to, "--to") if to is not None else 0
    found = ask("cache-trim", seconds=None, to=target)
    print(f"{shown_size(found['freed_bytes'])} were dropped; {shown_size(found['used_bytes'])} are used.")
    if found["used_bytes"] > target:
        print("What is left is pinned, in use or not on the server yet.")


def limit(text: str) -> None:
    """Keeps a new limit in config.toml, and has the daemon keep to it at once; raises Refused."""
    bound = _bytes(text, "SIZE")
    if bound < settings.CACHE_LEAST:
        raise Refused("The least that a cache may take is 16M.", Exit.USAGE)
    settings.choose_cache_size(places().choices_file, bound)
    try:
        found = ask("cache-limit", seconds=None, bytes=bound)
    except NoDaemon:
        print(f"The cache takes at most {shown_size(bound)} from the next mount on.")
        return
    print(f"The cache takes at most {shown_size(bound)} from now on; {shown_size(found['used_bytes'])} are used.")
    if found["used_bytes"] > found["limit_bytes"]:
        print("That is more: what is pinned, in use or not on the server yet stays, and writers wait.")


def _bytes(text: str, name: str) -> int:
    """Bytes of what somebody typed; raises Refused."""
    try:
        return settings.size_bytes(text, name)
    except SettingsError as error:
        raise Refused(str(error), Exit.USAGE) from None
