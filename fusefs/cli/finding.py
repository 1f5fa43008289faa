"""Finding: files of the drive by what they are called, are, and say: `satchel search`."""

import json
import os
import re
import time
from typing import Final

import click

from fusefs.cli.flags import as_json_flag

_CONDITION: Final = re.compile(r"[A-Za-z]+:")
_NEXT_CONDITION: Final = re.compile(r"\s(name|type|size|before|after|on|owner|in):")


@click.command(short_help="Find files by name, content, type, size, time or owner.")
@click.argument("words", nargs=-1)
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Such as pdf, image, folder; many times: any.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200), help="Print at most so many.")
@click.option("--offset", default=0, type=click.IntRange(0, 1_000), help="Leave the first so many out.")
@as_json_flag
def search(words: tuple[str, ...], types: tuple[str, ...], limit: int, offset: int, as_json: bool) -> None:
    """Print the files and folders in which all WORDS are, in their names or in what they say, the best first.

    A WORD may also be a condition: name:WORD type:image,pdf size:>10M size:1K..2K before:2026-11-01 after:2026
    on:2026-11-21 owner:NAME in:FOLDER, or "several words" in quotation marks, which stand together in the name. Words
    that are misspelt in one letter are found when little else is. The same as links, in the mount: .search/WORDS
    """
    find([*words, *([f"type:{','.join(types)}"] if types else [])], limit=limit, offset=offset, as_json=as_json)


def find(words: list[str], *, limit: int, offset: int, as_json: bool) -> None:
    """Prints what is found; raises Refused."""
    from fusefs.cli.asking import daemon  # noqa: PLC0415
    from fusefs.cli.server import asked_server  # noqa: PLC0415
    from fusefs.cli.showing import shown  # noqa: PLC0415
    from remote.protocol.search import SearchRequest  # noqa: PLC0415
    from remote.protocol.sizes import shown_size  # noqa: PLC0415

    query = " ".join(_quoted(word) for word in words)
    minutes = time.localtime().tm_gmtoff // 60
    request = SearchRequest(query, limit, offset, local_offset_minutes=minutes)
    answer = asked_server(lambda service: service.search(request))
    alive = daemon()
    mount = str(alive["mount"]) if alive is not None else ""
    paths = [os.path.join(mount, os.fsdecode(one.path)) for one in answer.found]
    if as_json:
        found = [
            {
                "path": path,
                "node": one.node,
                "space": one.space,
                "kind": one.kind.name.lower(),
                "type": one.type,
                "size_bytes": one.size,
                "mtime_ns": one.mtime_ns,
                "why": one.why,
            }
            for path, one in zip(paths, answer.found, strict=True)
        ]
        told = {"found": found, "more": answer.more, "is_behind": answer.is_behind, "is_cut": answer.is_cut}
        print(json.dumps(told, indent=2))
        return
    for path, one in zip(paths, answer.found, strict=True):
        said = "" if one.why == "name" else f"   ({one.why})"
        size = f"   {shown_size(one.size)}" if one.kind.name == "FILE" else ""
        print(f"{shown(path)}{size}{said}")
    if not answer.found:
        print("Nothing was found.")
    if answer.more:
        print(f"There is more: --offset {offset + limit}")
    if answer.is_cut:
        print("There are more than could be looked at: say more of what you look for.")
    if answer.is_behind:
        print("The server has not read all files yet: some may be missing here.")


def _quoted(word: str) -> str:
    """An argument as one thing, where a shell took its quotation marks away: in:My Folder."""
    found = _CONDITION.match(word)
    is_whole_query = _NEXT_CONDITION.search(word) is not None
    if found is None or is_whole_query or '"' in word or not re.search(r"\s", word):
        return word
    return f'{found[0]}"{word[found.end() :]}"'
