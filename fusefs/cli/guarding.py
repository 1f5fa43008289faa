"""Guarding: the `guard` and `events` commands: what one device lost of the drive in a short time, and what to do of it.

Loaded by every command, so what is heavy is imported when it is asked for.
"""

from typing import Any, Final

import click

from fusefs.cli.flags import as_json_flag

_SECONDS: Final = 300.0
_in = click.option("--in", "path", metavar="PATH", help="In this shared folder.")
_MODES: Final = {
    "off": "A device may remove and overwrite as much as it likes; nobody is told.",
    "tell": "You are told when a device removes or overwrites {count:,} files within {window}.",
    "ask": "A device that would remove or overwrite {count:,} files within {window} waits for your yes.",
}


@click.group("guard", invoke_without_command=True, short_help="What happens when a device removes or overwrites much.")
@click.option("--mode", type=click.Choice(("off", "tell", "ask")), help="Do nothing, tell you, or wait for your yes.")
@click.option("--count", type=click.IntRange(1, 1_000_000), metavar="N", help="So many files are much.")
@click.option("--window-seconds", type=click.IntRange(2, 604_800), metavar="S", help="Within so long.")
@click.option(
    "--settled-seconds", type=click.IntRange(0, 604_800), metavar="S", help="Files that are newer do not count."
)
@_in
@as_json_flag
@click.pass_context
def guard(
    context: click.Context,
    *,
    mode: str | None,
    count: int | None,
    window_seconds: int | None,
    settled_seconds: int | None,
    path: str | None,
    as_json: bool,
) -> None:
    """Say, or set, what happens when one device removes or overwrites much of the drive; it holds for all devices."""
    from fusefs.cli.asking import ask  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    found = ask(
        "guard",
        seconds=_SECONDS,
        mode=mode,
        count=count,
        window_seconds=window_seconds,
        settled_seconds=settled_seconds,
        path=_relative(path),
    )
    if as_json:
        _print_json(found)
        return
    from fusefs.cli.standing import duration  # noqa: PLC0415

    click.echo(_MODES[found["mode"]].format(count=found["count"], window=duration(found["window_seconds"])))
    if found["mode"] != "off" and found["settled_seconds"]:
        click.echo(f"Files that are newer than {duration(found['settled_seconds'])} do not count.")


@guard.command("allow", short_help="Say yes: what waits goes on.")
@click.argument("event", required=False, type=click.IntRange(1))
@_in
def allow(event: int | None, path: str | None) -> None:
    """Say yes to what waits for it (EVENT, where there are several): it goes on, for an hour.

    Of an EVENT that tells of a virus: say that it is none; the file can be read again.
    """
    from fusefs.cli.asking import ask  # noqa: PLC0415

    found = ask("guard-allow", seconds=_SECONDS, event=event or 0, path=_relative(path))
    click.echo(f"Event {found['event']} goes on. To take it back later: satchel undo --event {found['event']}")


@guard.command("refuse", short_help="Say no: what waits is taken back.")
@click.argument("event", required=False, type=click.IntRange(1))
@_in
def refuse(event: int | None, path: str | None) -> None:
    """Say no to what this device holds for a yes: it is kept as versions, and all is as it was before."""
    from fusefs.cli import comparing  # noqa: PLC0415
    from fusefs.cli.asking import ask  # noqa: PLC0415

    found = ask("guard-refuse", seconds=_SECONDS, event=event or 0, path=_relative(path))
    comparing.undo(None, int(found["event"]), path=path, keeps_new=False, is_dry_run=False, as_json=False)


@click.group("events", invoke_without_command=True, short_help="List what you were told of.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="At most so many.")
@_in
@as_json_flag
@click.pass_context
def events(context: click.Context, limit: int, path: str | None, as_json: bool) -> None:
    """List what happened in the drive that you are to know of, newest first: mass changes, and viruses."""
    from fusefs.cli.asking import ask  # noqa: PLC0415
    from fusefs.cli.showing import shown  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    found = ask("events", seconds=_SECONDS, limit=limit, path=_relative(path))
    if as_json:
        _print_json(found["events"])
        return
    mount = str(ask("ping")["mount"])
    for one in found["events"]:
        click.echo(shown(sentence(one, mount)))
        if one["examples"]:
            click.echo(shown(f"    such as {', '.join(one['examples'])}"))
    if not found["events"]:
        click.echo("There were none.")


@events.command("done", short_help="Say that you have seen to it.")
@click.argument("event", type=click.IntRange(1))
@_in
def done(event: int, path: str | None) -> None:
    """Say that you have seen EVENT, so that `satchel status` tells of it no more."""
    from fusefs.cli.asking import ask  # noqa: PLC0415

    ask("event-done", seconds=_SECONDS, event=event, path=_relative(path))
    click.echo(f"Event {event} is done.")


def sentence(event: dict[str, Any], mount: str) -> str:
    """An event as a person reads it, with what to do."""
    if event["kind"] == "infected":
        return _infected(event, mount)
    parts = [f"{event[what]:,} {what}" for what in ("removed", "overwritten") if event[what]]
    who = event["device"] or "the server"
    number = _number(event, mount)
    before = f", which also brings back the {event['taken']:,} that went before" if event["taken"] else ""
    ends = {
        "told": f"To take that back: satchel undo --event {number}; if it was meant: satchel events done {number}",
        "held": f"Waits for your yes: satchel guard allow {number}, or satchel guard refuse {number}{before}",
        "allowed": f"You said yes. To take it back: satchel undo --event {number}",
        "done": "Seen to.",
        "undone": "Taken back.",
    }
    # What is held comes commit by commit: nobody knows all of it yet.
    least = "at least " if event["state"] == "held" else ""
    what = f"{least}{', '.join(parts)} by {who} ({event['user']})"
    return f"Event {event['event']}, {event['began']}: {what}. {ends[event['state']]}"


def _number(event: dict[str, Any], mount: str) -> str:
    """What a command must be told of an event."""
    from fusefs.cli.showing import in_option  # noqa: PLC0415

    return f"{event['event']}{in_option(mount, event['in'])}"


def _relative(path: str | None) -> str:
    from fusefs.cli.asking import path_in_mount  # noqa: PLC0415

    return "" if path is None else path_in_mount(path)


def _infected(event: dict[str, Any], mount: str) -> str:
    number, path = _number(event, mount), event["examples"][0]
    ends = {
        "told": "Nobody can read that version; older ones are there: satchel versions. If it is none: satchel guard "
        f"allow {number}; if you have seen to it: satchel events done {number}",
        "allowed": "It was said to be none, and can be read.",
        "done": "Seen to.",
    }
    what = f"{event['detail']} was found in {path} ({event['user']}, {event['device'] or 'the server'})"
    return f"Event {event['event']}, {event['began']}: {what}. {ends[event['state']]}"


def _print_json(found: object) -> None:
    import json  # noqa: PLC0415

    click.echo(json.dumps(found, indent=2))
