"""History: what can be said on the command line about the past.

The work is in `past`, `comparing`, `trashing`, `forgetting` and `settling`.
"""

from typing import Final

import click

from fusefs.cli.flags import as_json_flag, yes_flag

_TIME_HELP: Final = (
    "A time (2026-11-21T10:15:30, UTC unless it says otherwise; a date alone is the end of that day), or a rev."
)
_days = click.IntRange(0, 36_500)


@click.command(short_help="List what PATH was before, newest first.")
@click.argument("path")
@as_json_flag
def versions(path: str, as_json: bool) -> None:
    """List what PATH was before, newest first, with who changed it where."""
    from fusefs.cli import past  # noqa: PLC0415

    past.versions(path, as_json=as_json)


@click.command(short_help="Make PATH again what it was then.")
@click.argument("path")
@click.option("--at", metavar="TIME|REV", help=f"{_TIME_HELP} Not needed for what is removed.")
@click.option("--copy", "is_copy", is_flag=True, help="Leave PATH as it is, and put what it was beside it.")
def restore(path: str, at: str | None, is_copy: bool) -> None:
    """Make PATH again what it was then, also when it was removed; what it is now stays a version.

    In a folder, what came since then stays.
    """
    from fusefs.cli import past  # noqa: PLC0415

    past.restore(path, at, is_copy=is_copy)


@click.command(short_help="Show what differs in PATH between two times.")
@click.argument("path")
@click.option("--from", "since", required=True, metavar="TIME|REV", help=_TIME_HELP)
@click.option("--to", metavar="TIME|REV", help="The same; without it: now.")
@as_json_flag
def diff(path: str, since: str, to: str | None, as_json: bool) -> None:
    """Show what differs in PATH between two times: the paths of a folder, the lines of a text."""
    from fusefs.cli import comparing  # noqa: PLC0415

    comparing.diff(path, since, to, as_json=as_json)


@click.command(short_help="Make PATH, and all in it, what it was then.")
@click.argument("path")
@click.option("--to", required=True, metavar="TIME|REV", help=_TIME_HELP)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@as_json_flag
def rewind(path: str, to: str, dry_run: bool, as_json: bool) -> None:
    """Make PATH, and all in it, what it was then, in one step that moves no content; `satchel undo` takes it back.

    What came since then goes, unlike with `restore`; it stays in `.versions`.
    """
    from fusefs.cli import comparing  # noqa: PLC0415

    comparing.rewind(path, to, is_dry_run=dry_run, as_json=as_json)


@click.command(short_help="Take back what was done last.")
@click.argument("rev", required=False, type=click.IntRange(1))
@click.option("--event", type=click.IntRange(1), metavar="N", help="A mass change that `satchel events` lists.")
@click.option("--keep-new", is_flag=True, help="With --event: what that device made then stays.")
@click.option("--in", "path", metavar="PATH", help="What was done in this shared folder.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@as_json_flag
def undo(rev: int | None, event: int | None, keep_new: bool, path: str | None, dry_run: bool, as_json: bool) -> None:
    """Take back what this device did, or had done, last; or what REV did. Said again, it undoes the undoing.

    What was changed again since then is left as it is.
    """
    from fusefs.cli import comparing  # noqa: PLC0415

    if rev is not None and event is not None:
        raise click.UsageError("Say which REV, or which --event.")
    if keep_new and event is None:
        raise click.UsageError("--keep-new is for --event N.")
    comparing.undo(rev, event, path=path, keeps_new=keep_new, is_dry_run=dry_run, as_json=as_json)


@click.group(short_help="List, restore or purge what was removed.")
def trash() -> None:
    """What was removed, here or elsewhere: it is kept as long as the history is."""


@trash.command("list", short_help="List what was removed, newest first.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@as_json_flag
def trash_list(limit: int, as_json: bool) -> None:
    """List what was removed, newest first: a folder stands for what went with it."""
    from fusefs.cli import trashing  # noqa: PLC0415

    trashing.listing(limit, as_json=as_json)


@trash.command("restore", short_help="Bring back what had PATH last.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def trash_restore(paths: tuple[str, ...]) -> None:
    """Bring back what had PATH last, with all that was removed with it, by any device; in one step."""
    from fusefs.cli import trashing  # noqa: PLC0415

    trashing.restore(paths)


@trash.command("purge", short_help="Forget for good what was removed.")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--all", "is_all", is_flag=True, help="All that was removed, but from shared folders.")
@click.option("--before", metavar="TIME|REV", help="All that was removed until then, but from shared folders.")
@yes_flag
def trash_purge(paths: tuple[str, ...], is_all: bool, before: str | None, yes: bool) -> None:
    """Forget for good what was removed under PATH, or all of it; nobody can bring it back."""
    from fusefs.cli import forgetting  # noqa: PLC0415

    if bool(paths) + is_all + (before is not None) != 1:
        raise click.UsageError("Say which PATH, or --all, or --before.")
    forgetting.purge_trash(paths, before, is_sure=yes)


@click.command(short_help="Forget for good what PATH was before.")
@click.argument("path")
@yes_flag
def purge(path: str, yes: bool) -> None:
    """Forget for good what PATH, and all below it, was before now; what it is now stays."""
    from fusefs.cli import forgetting  # noqa: PLC0415

    forgetting.purge(path, is_sure=yes)


@click.command(short_help="Say, or set, how much history is kept.")
@click.option("--all-days", type=_days, metavar="N", help="Keep every version for so many days.")
@click.option("--hourly-days", type=_days, metavar="N", help="Then the last of each hour, until it is so old.")
@click.option("--daily-days", type=_days, metavar="N", help="Then the last of each day, until it is so old.")
@click.option(
    "--weekly/--no-weekly", "for_ever", default=None, help="Then the last of each week, for ever; or nothing."
)
@click.option("--in", "path", metavar="PATH", help="That of this shared folder.")
@as_json_flag
def retention(
    all_days: int | None,
    hourly_days: int | None,
    daily_days: int | None,
    for_ever: bool | None,
    path: str | None,
    as_json: bool,
) -> None:
    """Say how much of the past is kept, and set what is given; it holds for all devices."""
    from fusefs.cli import forgetting  # noqa: PLC0415

    said = {"all_days": all_days, "hourly_days": hourly_days, "daily_days": daily_days, "for_ever": for_ever}
    forgetting.retention(said, path=path, as_json=as_json)


@click.command(short_help="List edits that lost against others.")
@click.argument("path", required=False)
@as_json_flag
def conflicts(path: str | None, as_json: bool) -> None:
    """List edits that lost against others, in the drive or at PATH and below, until somebody settles them."""
    from fusefs.cli import settling  # noqa: PLC0415

    settling.conflicts(path, as_json=as_json)


@click.command(short_help="Settle the conflict of PATH.")
@click.argument("path")
@click.option(
    "--keep",
    required=True,
    metavar="mine|theirs|both|REV",
    help="What was edited on this device, or elsewhere; both, side by side; or a version by its rev.",
)
def resolve(path: str, keep: str) -> None:
    """Settle the conflicts of PATH, for all devices; what is not kept stays a version."""
    from fusefs.cli import settling  # noqa: PLC0415

    if keep not in ("mine", "theirs", "both") and not keep.isdecimal():
        raise click.UsageError(f"--keep {keep}: it is one of mine, theirs, both, or a rev that satchel versions lists.")
    settling.resolve(path, keep)


COMMANDS: tuple[click.Command, ...] = (
    versions,
    restore,
    diff,
    rewind,
    undo,
    trash,
    purge,
    retention,
    conflicts,
    resolve,
)
