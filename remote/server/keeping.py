"""The commands that keep a store in order: doctor, usage, gc, scrub, backup, restore.

All but the last work beside a server that runs.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from remote.protocol.sizes import counted, size_of
from remote.server.files import shown_name
from remote.server.instance import beside, only_one
from remote.server.jobs.following import NotNow
from remote.server.objects.local import LocalObjects
from remote.server.objects.signing import Signer
from remote.server.places import default_data, default_key_file
from remote.server.search.upkeep import Standing, rebuild
from remote.server.search.upkeep import standing as index_standing
from remote.server.upkeep import backing, standing
from remote.server.upkeep.backing import COLLECT_LOCK
from remote.server.upkeep.collecting import GRACE_SECONDS, Collector
from remote.server.upkeep.hits import Hits
from remote.server.upkeep.packing import Packer
from remote.server.upkeep.scrubbing import SCRUB_LOCK, Scrubber

_HITS_MAX = 1_000
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SIZE_MAX = (1 << 63) - 1


class Size(click.ParamType[int]):
    """Bytes, as people write them."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; fails for what is no size."""
        try:
            size = size_of(str(value))
        except ValueError:
            size = -1
        if not 0 <= size <= _SIZE_MAX:
            self.fail(f"{value!r} must be a number of bytes or a size such as 20G.", param, ctx)
        return size


class _Duration(click.ParamType[float]):
    """Seconds, as people write them."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails for what is no time."""
        text = str(value)
        number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            self.fail(f"{value!r} must be a time such as 24h or 7d.", param, ctx)
        return float(int(number) * _UNITS[unit])


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The server's data (SATCHEL_SERVER_DATA; usual: ~/.local/share/satchel/server).",
)
key_option = click.option(
    "--master-key",
    "key_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The master key, outside the data (SATCHEL_MASTER_KEY_FILE; usual: ~/.config/satchel/server-key).",
)
_json = click.option("--json", "is_json", is_flag=True, help="As one JSON object, for programs.")
_rate = click.option(
    "--rate",
    "rate",
    type=Size(),
    default=0,
    metavar="SIZE",
    help="Read at most SIZE a second (usual: as fast as it goes).",
)


@click.command()
@data_option
@key_option
@_json
def doctor(data: Path | None, key_file: Path | None, is_json: bool) -> None:
    """Look whether all is in order; exit code 1 when something is not."""
    with beside(data or default_data(), key_file or default_key_file()) as instance:
        found = list(standing.look(instance))
    if is_json:
        click.echo(json.dumps([asdict(each) for each in found]))
    else:
        for each in found:
            click.echo(f"{'ok   ' if each.is_good else 'WRONG'} {each.sentence}")
    if not all(each.is_good for each in found):
        sys.exit(1)


@click.command()
@data_option
@key_option
@_json
def usage(data: Path | None, key_file: Path | None, is_json: bool) -> None:
    """Say how much is stored, by space and in all."""
    with beside(data or default_data(), key_file or default_key_file()) as instance:
        found = standing.usage(instance)
    if is_json:
        spaces = [
            {"space": row.space, "name": row.name, "used": row.used, "quota": row.quota, "head": row.head}
            for row in found.spaces
        ]
        click.echo(json.dumps({**asdict(found), "spaces": spaces}))
        return
    for row in found.spaces:
        bound = f" of {_told(row.quota)}" if row.quota else ""
        click.echo(f"{row.name}: {_told(row.used)}{bound} in files, {counted(row.head, 'commit')}")
    click.echo(
        f"{found.chunks} chunks, {_told(found.chunk_bytes)}, in {found.objects} objects ({_told(found.object_bytes)})"
        f" and {found.packs} packs ({_told(found.pack_bytes)}); database {_told(found.database_bytes)};"
        f" {_told(found.free_bytes)} free"
    )
    if found.lost:
        click.echo(f"{found.lost} chunks are lost: satchel-server scrub names the files.")


@click.command()
@data_option
@key_option
@_json
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would be removed now.")
@click.option(
    "--grace",
    type=_Duration(),
    default=f"{int(GRACE_SECONDS // 3_600)}h",
    show_default=True,
    metavar="TIME",
    help="Remove what nothing needed in an earlier run, at least so long ago, and nothing needs now.",
)
def gc(data: Path | None, key_file: Path | None, is_json: bool, is_dry: bool, grace: float) -> None:
    """Remove chunks that no version needs, in two runs with some time in between; pack anew what is mostly unused.

    Of a space where not all can be read that must be known for this, nothing is removed; the exit code is 1 then.
    """
    data = data or default_data()
    with (
        beside(data, key_file or default_key_file()) as instance,
        only_one(data, COLLECT_LOCK, "Collecting or a backup"),
    ):
        collector = Collector(instance.database, instance.objects, instance.keyring)
        collected = collector.run(grace, is_dry=is_dry)
        packed = Packer(instance.database, instance.objects, collector).run(is_dry=is_dry)
        waits = standing.waits_told(instance)
    if is_json:
        click.echo(json.dumps({**asdict(collected), "packing": asdict(packed)}))
    else:
        would = "would be " if is_dry else ""
        click.echo(
            f"{collected.spaces} spaces: {collected.needed} chunks are needed, {collected.doubted} are doubted from now"
            f" on, {collected.dropped} were doubted long enough."
        )
        click.echo(
            f"{would}removed: {collected.chunks} chunks ({_told(collected.chunk_bytes)}), {collected.manifests}"
            f" manifests, {collected.objects} objects ({_told(collected.object_bytes)})"
        )
        if is_dry:
            click.echo(f"would be packed anew: {packed.packs} packs")
        else:
            click.echo(f"packed anew: {packed.packs} packs became {packed.became} ({_told(packed.freed_bytes)} freed)")
        if waits:
            click.echo(waits)
    for sentence in collected.left_alone:
        click.echo(f"satchel-server: left as it is: {sentence}", err=True)
    for name in packed.unreadable:
        click.echo(f"satchel-server: {name} is damaged: run satchel-server scrub", err=True)
    if collected.left_alone:
        sys.exit(1)


@click.command()
@data_option
@key_option
@_json
@_rate
@click.option(
    "--at-most", "bytes_max", type=Size(), metavar="SIZE", help="Stop after SIZE; the next run goes on there."
)
@click.option(
    "--replica",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Repair from this backup, or copy of the data.",
)
def scrub(
    data: Path | None,
    key_file: Path | None,
    is_json: bool,
    rate: int,
    bytes_max: int | None,
    replica: Path | None,
) -> None:
    """Read what is stored and look whether it is what it was; name the files of which something is lost.

    What is lost is asked for again: any device that has it in its cache sends it. Exit code 1 while something is lost.
    """
    data = data or default_data()
    with beside(data, key_file or default_key_file()) as instance, only_one(data, SCRUB_LOCK, "Another scrub"):
        copy = LocalObjects(replica, Signer(b"", time.time), is_only=False) if replica is not None else None
        scrubber = Scrubber(instance.database, instance.objects, replica=copy, pace=_pace(rate))
        scrubbed = scrubber.run(bytes_max)
        lost = list(standing.lost(instance))
        hits = list(Hits(instance.database, instance.objects, instance.keyring).of({each.id for each in lost}))
    if is_json:
        click.echo(
            json.dumps(
                {
                    "objects": scrubbed.objects,
                    "object_bytes": scrubbed.object_bytes,
                    "repaired": scrubbed.repaired,
                    "is_whole": scrubbed.is_whole,
                    "found_lost": len(scrubbed.lost),
                    "lost": [{"chunk": each.id.hex(), "size": each.size, "reason": each.reason} for each in lost],
                    "files": [{**asdict(hit), "path": hit.path.decode(errors="replace")} for hit in hits],
                }
            )
        )
    else:
        click.echo(
            f"{scrubbed.objects} objects read ({_told(scrubbed.object_bytes)}), {scrubbed.repaired} repaired,"
            f" {len(scrubbed.lost)} chunks found lost; {'that was all' if scrubbed.is_whole else 'more is to be read'}"
        )
        for each in lost[:_HITS_MAX]:
            found = f"{datetime.fromtimestamp(each.found_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
            click.echo(f"lost: chunk {each.id.hex()}, {each.size} bytes: {each.reason} ({found})")
        for hit in hits[:_HITS_MAX]:
            what = "the file as it is" if hit.is_present else "older versions only"
            # A name may hold anything, also what would drive the terminal.
            path = hit.path.decode(errors="backslashreplace")
            shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path)
            click.echo(f"hit: {hit.space}: /{shown} ({what})")
    if lost:
        sys.exit(1)


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="DIR")
@data_option
@key_option
@_rate
def backup(target: Path, data: Path | None, key_file: Path | None, rate: int) -> None:
    """Copy the instance as it is now into DIR, which is empty or holds an older backup of it; only what is new moves.

    The master key is not in it: keep a copy of that elsewhere.
    """
    with beside(data or default_data(), key_file or default_key_file()) as instance:
        copied = backing.back_up(instance, target, _pace(rate))
    click.echo(
        f"Backed up to {target}: {copied.objects} objects copied ({_told(copied.object_bytes)}), {copied.kept} were"
        f" there, {copied.removed} of older backups removed."
    )
    _tell_damaged(copied, "not whole here, and not in the backup")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR")
@data_option
@key_option
def restore(source: Path, data: Path | None, key_file: Path | None) -> None:
    """Make an instance of the backup in DIR, in a new data directory; every byte is checked.

    Devices notice that the server is back at an earlier state, keep what they have, and send what it lost.
    """
    data = data or default_data()
    copied = backing.restore(source, data, key_file or default_key_file())
    click.echo(
        f"Made an instance in {data}: {copied.objects + copied.kept} objects, {_told(copied.object_bytes)} copied."
        f" Start it with: satchel-server run --data {data}"
    )
    _tell_damaged(copied, "not whole in the backup, and noted as lost: satchel-server scrub names the files")


@click.command()
@click.option("--rebuild", "is_rebuilt", is_flag=True, help="Make it anew; beside a server that runs, too.")
@click.option("--names-only", is_flag=True, help="With --rebuild: read no content.")
@data_option
@key_option
@_json
def index(data: Path | None, key_file: Path | None, is_json: bool, is_rebuilt: bool, names_only: bool) -> None:
    """Say how far the index for search is, and which files could not be read."""
    with beside(data or default_data(), key_file or default_key_file()) as instance:
        try:
            found = []
            for one in rebuild(instance, reads_content=not names_only) if is_rebuilt else index_standing(instance):
                found.append(one)
                if not is_json:
                    _tell_index(one)
        except NotNow as error:
            click.echo(f"satchel-server: the index was not made whole: {error}", err=True)
            sys.exit(1)
    if is_json:
        told = [
            {**asdict(one), "unread": [{**asdict(each), "path": shown_name(each.path)} for each in one.unread]}
            for one in found
        ]
        click.echo(json.dumps(told))


def _tell_index(one: Standing) -> None:
    if not one.is_walked:
        click.echo(f"{one.name}: {counted(one.files, 'file')} so far ({_told(one.size_bytes)})")
    else:
        behind = f", {counted(one.behind, 'commit')} behind" if one.behind else ""
        unread = f", {one.to_be_read} still to be read" if one.to_be_read else ""
        click.echo(f"{one.name}: {counted(one.files, 'file')} ({_told(one.size_bytes)}){behind}{unread}")
    for each in one.unread:
        click.echo(f"  by name only: /{shown_name(each.path)}: {each.reason}")


def _tell_damaged(copied: backing.Copied, what: str) -> None:
    for name in copied.damaged[:_HITS_MAX]:
        click.echo(f"satchel-server: {name} is {what}", err=True)
    if copied.damaged:
        sys.exit(1)


def _pace(rate: int) -> Callable[[int], None]:
    """Waits so that no more than so many bytes a second are told of; 0: never."""
    begun = time.monotonic()
    done = 0

    def pace(size: int) -> None:
        nonlocal done
        done += size
        if rate:
            time.sleep(max(0.0, begun + done / rate - time.monotonic()))

    return pace


def _told(size: int) -> str:
    """Bytes as people read them."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1_024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1_024
    return f"{number:.1f} TiB"


COMMANDS = (doctor, usage, gc, scrub, backup, restore, index)
