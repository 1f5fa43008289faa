"""The `satchel` command: what can be said on the command line; each command's work is imported when it is asked for.

Every command answers in one process that must start fast, so nothing heavy is imported here.
"""

import os
import sys
from collections.abc import Callable
from typing import Final, TypeVar

import click

from fusefs.cli import access, shares
from fusefs.cli.finding import search
from fusefs.cli.guarding import events, guard
from fusefs.cli.previewing import preview
from fusefs.control import SECONDS_MOST, Exit, Refused

DISTRIBUTION: Final = "satchel"
_F = TypeVar("_F", bound=Callable[..., object])

_OPTIONS_HELP: Final = (
    "Options as mount(8) takes them, by commas: ro, allow_other, noexec and so on; owners=real (show whose everything "
    "is, instead of yours), uid=, gid= (show it as theirs); sync=remote (close and fsync wait for the server); "
    "cache-size=20G, free-floor=5G (left free on the disk), read-seconds=15 (after which a read that cannot be served "
    "fails)."
)

_TIME_HELP: Final = (
    "A time (2026-11-21T10:15:30, UTC unless it says otherwise; a date alone is the end of that day), or a rev."
)
_days = click.IntRange(0, 36_500)
_yes = click.option("--yes", is_flag=True, help="Do it without asking.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 it could not be done, 2 not a command like that, 3 not mounted, 4 not signed in, "
    "5 the server is away, 6 the server does not have all of it yet, 130 interrupted.",
)
@click.version_option(package_name=DISTRIBUTION, message="satchel %(version)s")
def satchel() -> None:
    """Your drive: mount it, work in it, online or not."""


@satchel.command()
@click.argument("url")
@click.option("--user", metavar="NAME", help="Your name at this server.")
@click.option("--sso", is_flag=True, help="Sign in with a browser, where the server has that.")
@click.option("--password-stdin", is_flag=True, help="Read the password (and a code) from standard input, by line.")
@click.option("--device-name", metavar="NAME", help="What this device is called (usual: the name of this machine).")
@click.option("--insecure-http", is_flag=True, help="Allow plain http to another machine, which anybody can listen to.")
def login(
    *, url: str, user: str | None, sso: bool, password_stdin: bool, device_name: str | None, insecure_http: bool
) -> None:
    """Sign this device in at the server with this URL."""
    from fusefs.cli import signing_in  # noqa: PLC0415

    if sso == (user is not None):
        raise click.UsageError("Say who you are with --user NAME, or sign in with a browser: --sso.")
    signing_in.login(
        url, user, is_password_on_stdin=password_stdin, device_name=device_name, allow_insecure=insecure_http
    )


@satchel.command(short_help="Forget this device's sign-in.")
def logout() -> None:
    """Forget this device's sign-in; files and edits that were not sent stay on this machine."""
    from fusefs.cli import signing_in  # noqa: PLC0415

    signing_in.logout()


@satchel.group("devices", invoke_without_command=True, short_help="List your devices, sign one out, wipe it.")
@_json
@click.pass_context
def your_devices(context: click.Context, as_json: bool) -> None:
    """List the devices that are signed in as you, and when each was last there."""
    from fusefs.cli import devices  # noqa: PLC0415

    if context.invoked_subcommand is None:
        devices.listing(as_json=as_json)


@your_devices.command("sign-out", short_help="Sign DEVICE out; what it holds stays on it.")
@click.argument("device")
def sign_out(device: str) -> None:
    """Sign DEVICE out (its name or number); what it holds stays on it, for good: see wipe."""
    from fusefs.cli import devices  # noqa: PLC0415

    devices.sign_out(device, is_wiping=False)


@your_devices.command(short_help="Sign DEVICE out, and have it remove what it holds.")
@click.argument("device")
@_yes
def wipe(device: str, yes: bool) -> None:
    """Sign DEVICE out, and have it remove what it holds of the drive, also what it has not sent: when it is lost."""
    from fusefs.cli import devices  # noqa: PLC0415

    devices.sign_out(device, is_wiping=True, is_sure=yes)


@your_devices.command()
@click.argument("device")
@click.argument("name")
def rename(device: str, name: str) -> None:
    """Call DEVICE something else, also in the versions that it made."""
    from fusefs.cli import devices  # noqa: PLC0415

    devices.rename(device, name)


@satchel.group(short_help="Make, list and revoke public links.")
def link() -> None:
    """Public links: what people without an account may see, or bring."""


@link.command("make", short_help="Make a public link to PATH.")
@click.argument("path")
@click.option("--expires", metavar="TIME", help="The link is over after this long: 12h, 7d.")
@click.option("--password", "has_password", is_flag=True, help="Ask for a password, which the link then asks for.")
@click.option("--password-stdin", is_flag=True, help="Read that password from standard input.")
@click.option("--downloads", type=click.IntRange(1), default=None, metavar="N", help="It is over after N of them.")
@click.option("--view-only", is_flag=True, help="To look at; browsers show what they can, and there is no archive.")
@click.option("--upload-only", is_flag=True, help="To bring files into the folder PATH; nobody sees what is in it.")
@_json
def make_link(
    *,
    path: str,
    expires: str | None,
    has_password: bool,
    password_stdin: bool,
    downloads: int | None,
    view_only: bool,
    upload_only: bool,
    as_json: bool,
) -> None:
    """Make a public link to PATH, a file or a folder, and print its address."""
    from fusefs.cli import linking  # noqa: PLC0415

    if view_only and upload_only:
        raise click.UsageError("A link is --view-only or --upload-only, not both.")
    linking.make(
        path,
        kind="view" if view_only else "upload" if upload_only else "read",
        expires=expires,
        has_password=has_password,
        is_on_stdin=password_stdin,
        downloads=downloads or 0,
        as_json=as_json,
    )


@link.command("list")
@_json
def list_links(as_json: bool) -> None:
    """List your links, what each is for and how often it was used."""
    from fusefs.cli import linking  # noqa: PLC0415

    linking.listing(as_json=as_json)


@link.command("revoke", short_help="End a link at once, for ever.")
@click.argument("which", metavar="ADDRESS")
def revoke_link(which: str) -> None:
    """End a link at once, for ever; by its address, or its number in `link list --json`."""
    from fusefs.cli import linking  # noqa: PLC0415

    linking.revoke(which)


@satchel.command(short_help="Change your password.")
@click.option("--password-stdin", is_flag=True, help="Read the old one and the new one from standard input, by line.")
@click.option("--sign-out-others", is_flag=True, help="Every other device has to sign in again.")
def password(password_stdin: bool, sign_out_others: bool) -> None:
    """Change the password that you sign in with."""
    from fusefs.cli import devices  # noqa: PLC0415

    devices.change_password(is_on_stdin=password_stdin, is_ending_others=sign_out_others)


@satchel.command()
@click.argument("folder", metavar="DIR")
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to standard error; for systemd and for looking.")
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help=_OPTIONS_HELP)
def mount(folder: str, foreground: bool, options: tuple[str, ...]) -> None:
    """Mount the drive at DIR; returns when it can be used."""
    from fusefs.cli import mounting  # noqa: PLC0415

    is_new = mounting.mount(folder, is_foreground=foreground, options=",".join(options))
    from fusefs.cli.showing import shown  # noqa: PLC0415

    click.echo(f"{shown(os.path.abspath(folder))} is mounted{'' if is_new else ' already'}.")
    if options and not is_new:
        click.echo("The options were not looked at: what is mounted keeps its own until it is unmounted.", err=True)


@satchel.command(short_help="Print the line of /etc/fstab for this drive.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--link", is_flag=True, help="Make /sbin/mount.satchel, by which mount(8) finds Satchel; as root.")
def fstab(folder: str | None, link: bool) -> None:
    """Print the line of /etc/fstab that mounts this drive at DIR."""
    from fusefs.cli import fstab as table  # noqa: PLC0415

    if link:
        click.echo("\n".join(str(made) for made in table.link()))
    if folder is not None:
        click.echo(table.line(folder))
        if sentence := table.unsaid():
            click.echo(sentence, err=True)
    if not table.is_linked():
        click.echo("mount(8) does not find Satchel yet. As root: satchel fstab --link", err=True)


@satchel.command(short_help="Unmount DIR; nothing unsent is lost.")
@click.argument("folder", metavar="DIR")
@click.option("-z", "--lazy", is_flag=True, help="Take it away at once, also while programs use it.")
def umount(folder: str, lazy: bool) -> None:
    """Unmount DIR; what was not sent yet is kept, and sent after the next mount."""
    from fusefs.cli import mounting  # noqa: PLC0415

    mounting.umount(folder, is_lazy=lazy)


@satchel.command(short_help="Say whether your work is safe.")
@click.argument("path", required=False)
@click.option("-w", "--watch", is_flag=True, help="Draw it again and again, until interrupted.")
@_json
def status(path: str | None, watch: bool, as_json: bool) -> None:
    """Say whether your work is safe, or PATH; exit code 0: all is on the server, 6: not yet, 5: the server is away."""
    from fusefs.cli import standing  # noqa: PLC0415

    sys.exit(standing.status(path, as_json=as_json, is_watching=watch))


@satchel.command(short_help="Return when the server has all, or PATH.")
@click.argument("path", required=False)
@click.option("--timeout", type=click.FloatRange(0, SECONDS_MOST), metavar="S", help="Give up after this many seconds.")
def wait(path: str | None, timeout: float | None) -> None:
    """Return when the server has everything (or PATH and all below it); exit code 6 when it does not in time."""
    from fusefs.cli import standing  # noqa: PLC0415

    standing.wait(path, timeout)


@satchel.command(short_help="List what PATH was before, newest first.")
@click.argument("path")
@_json
def versions(path: str, as_json: bool) -> None:
    """List what PATH was before, newest first, with who changed it where."""
    from fusefs.cli import past  # noqa: PLC0415

    past.versions(path, as_json=as_json)


@satchel.command(short_help="Make PATH again what it was then.")
@click.argument("path")
@click.option("--at", metavar="TIME|REV", help=f"{_TIME_HELP} Not needed for what is removed.")
@click.option("--copy", "is_copy", is_flag=True, help="Leave PATH as it is, and put what it was beside it.")
def restore(path: str, at: str | None, is_copy: bool) -> None:
    """Make PATH again what it was then, also when it was removed; what it is now stays a version.

    In a folder, what came since then stays.
    """
    from fusefs.cli import past  # noqa: PLC0415

    past.restore(path, at, is_copy=is_copy)


@satchel.command(short_help="Show what differs in PATH between two times.")
@click.argument("path")
@click.option("--from", "since", required=True, metavar="TIME|REV", help=_TIME_HELP)
@click.option("--to", metavar="TIME|REV", help="The same; without it: now.")
@_json
def diff(path: str, since: str, to: str | None, as_json: bool) -> None:
    """Show what differs in PATH between two times: the paths of a folder, the lines of a text."""
    from fusefs.cli import comparing  # noqa: PLC0415

    comparing.diff(path, since, to, as_json=as_json)


@satchel.command(short_help="Make PATH, and all in it, what it was then.")
@click.argument("path")
@click.option("--to", required=True, metavar="TIME|REV", help=_TIME_HELP)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@_json
def rewind(path: str, to: str, dry_run: bool, as_json: bool) -> None:
    """Make PATH, and all in it, what it was then, in one step that moves no content; `satchel undo` takes it back.

    What came since then goes, unlike with `restore`; it stays in `.versions`.
    """
    from fusefs.cli import comparing  # noqa: PLC0415

    comparing.rewind(path, to, is_dry_run=dry_run, as_json=as_json)


@satchel.command(short_help="Take back what was done last.")
@click.argument("rev", required=False, type=click.IntRange(1))
@click.option("--event", type=click.IntRange(1), metavar="N", help="A mass change that `satchel events` lists.")
@click.option("--keep-new", is_flag=True, help="With --event: what that device made then stays.")
@click.option("--in", "path", metavar="PATH", help="What was done in this shared folder.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@_json
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


@satchel.group(short_help="List, restore or purge what was removed.")
def trash() -> None:
    """What was removed, here or elsewhere: it is kept as long as the history is."""


@trash.command("list", short_help="List what was removed, newest first.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@_json
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
@click.option("--all", "is_all", is_flag=True, help="All that was removed.")
@click.option("--before", metavar="TIME|REV", help="All that was removed until then.")
@_yes
def trash_purge(paths: tuple[str, ...], is_all: bool, before: str | None, yes: bool) -> None:
    """Forget for good what was removed under PATH, or all of it; nobody can bring it back."""
    from fusefs.cli import forgetting  # noqa: PLC0415

    if bool(paths) + is_all + (before is not None) != 1:
        raise click.UsageError("Say which PATH, or --all, or --before.")
    forgetting.purge_trash(paths, before, is_sure=yes)


@satchel.command(short_help="Forget for good what PATH was before.")
@click.argument("path")
@_yes
def purge(path: str, yes: bool) -> None:
    """Forget for good what PATH, and all below it, was before now; what it is now stays."""
    from fusefs.cli import forgetting  # noqa: PLC0415

    forgetting.purge(path, is_sure=yes)


@satchel.command(short_help="Say, or set, how much history is kept.")
@click.option("--all-days", type=_days, metavar="N", help="Keep every version for so many days.")
@click.option("--hourly-days", type=_days, metavar="N", help="Then the last of each hour, until it is so old.")
@click.option("--daily-days", type=_days, metavar="N", help="Then the last of each day, until it is so old.")
@click.option(
    "--weekly/--no-weekly", "for_ever", default=None, help="Then the last of each week, for ever; or nothing."
)
@click.option("--in", "path", metavar="PATH", help="That of this shared folder.")
@_json
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


@satchel.command(short_help="List edits that lost against others.")
@click.argument("path", required=False)
@_json
def conflicts(path: str | None, as_json: bool) -> None:
    """List edits that lost against others, in the drive or at PATH and below, until somebody settles them."""
    from fusefs.cli import settling  # noqa: PLC0415

    settling.conflicts(path, as_json=as_json)


@satchel.command(short_help="Settle the conflict of PATH.")
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


@satchel.command(short_help="Keep PATH on this machine: for offline use.")
@click.argument("path", required=False)
@click.option("--list", "is_list", is_flag=True, help="List what is pinned, and how much of it is here.")
@_json
def pin(path: str | None, is_list: bool, as_json: bool) -> None:
    """Keep PATH, and all that is or comes below it, on this machine: for offline use."""
    from fusefs.cli import pinning  # noqa: PLC0415

    if is_list == (path is not None):
        raise click.UsageError("Say which PATH, or --list.")
    if path is not None:
        pinning.pin(path)
    else:
        pinning.listing(as_json=as_json)


@satchel.command()
@click.argument("path")
def unpin(path: str) -> None:
    """Let the cache drop PATH again when it needs room."""
    from fusefs.cli import pinning  # noqa: PLC0415

    pinning.unpin(path)


@satchel.group(invoke_without_command=True, short_help="Say what this machine keeps, trim it, bound it.")
@_json
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Say how full the cache is, of what, and how often it had what was read."""
    from fusefs.cli import caching  # noqa: PLC0415

    if context.invoked_subcommand is None:
        caching.show(as_json=as_json)


@cache.command(short_help="Drop what can be fetched again.")
@click.option("--to", metavar="SIZE", help="Only until no more than this is used, such as 2G.")
def trim(to: str | None) -> None:
    """Drop what can be fetched again; what is pinned or not on the server yet stays."""
    from fusefs.cli import caching  # noqa: PLC0415

    caching.trim(to)


@cache.command("limit", short_help="Let the cache take at most SIZE.")
@click.argument("size")
def cache_limit(size: str) -> None:
    """Let the cache take at most SIZE (such as 20G), from now on and after restarts."""
    from fusefs.cli import caching  # noqa: PLC0415

    caching.limit(size)


@satchel.group(short_help="Keep folders of this machine in the drive.")
def backup() -> None:
    """Keep ordinary folders of this machine in the drive, one way: what changes there is sent, and its history kept."""


@backup.command("add", short_help="Keep DIR in the drive from now on.")
@click.argument("folder", metavar="DIR")
@click.option("--to", metavar="PATH", help="Where in the drive (usual: Backups/DEVICE/NAME).")
@click.option("--name", metavar="NAME", help="What it is called (usual: the name of DIR).")
@click.option("--into", is_flag=True, help="Also when PATH has something in it already.")
def backup_add(folder: str, to: str | None, name: str | None, into: bool) -> None:
    """Keep DIR in the drive from now on, also after restarts; returns at once."""
    from fusefs.cli import backing_up  # noqa: PLC0415

    backing_up.add(folder, to, name, is_into=into)


@backup.command("list")
@_json
def backup_list(as_json: bool) -> None:
    """List what is backed up, and where to."""
    from fusefs.cli import backing_up  # noqa: PLC0415

    backing_up.listing(as_json=as_json)


@backup.command("status", short_help="Say how each backup stands.")
@_json
def backup_status(as_json: bool) -> None:
    """Say how each backup stands, what could not be read and what is left out; exit code 0: all are up to date."""
    from fusefs.cli import backing_up  # noqa: PLC0415

    sys.exit(backing_up.status(as_json=as_json))


@backup.command("now", short_help="Look through DIR and wait until it is sent.")
@click.argument("folder", metavar="DIR")
@click.option("--yes", is_flag=True, help="Also when DIR is empty or another folder: then all of it goes in the drive.")
def backup_now(folder: str, yes: bool) -> None:
    """Look through DIR, and return when the server has all of it; exit code 1 when something could not be read."""
    from fusefs.cli import backing_up  # noqa: PLC0415

    sys.exit(backing_up.now(folder, is_confirmed=yes))


@backup.command("remove", short_help="Back DIR up no more; what is stored stays.")
@click.argument("folder", metavar="DIR")
def backup_remove(folder: str) -> None:
    """Back DIR up no more; what is stored stays in the drive."""
    from fusefs.cli import backing_up  # noqa: PLC0415

    backing_up.remove(folder)


@satchel.command(short_help="Bound how fast it sends and receives.")
@click.option("--up", metavar="RATE", help="The most to be sent in a second, such as 500K or 2M; 0: no limit.")
@click.option("--down", metavar="RATE", help="The most to be received in a second.")
@click.option("--off", is_flag=True, help="No limits.")
def limit(up: str | None, down: str | None, off: bool) -> None:
    """Bound how fast this drive sends and receives, from now on and after restarts; without options: say the limits."""
    from fusefs.cli import flowing  # noqa: PLC0415

    flowing.limit("0" if off else up, "0" if off else down)


@satchel.command(short_help="Send nothing, until `resume`.")
@click.option("--for", "duration", metavar="TIME", help="Go on by itself after this long: 90s, 30m, 2h, 1d.")
def pause(duration: str | None) -> None:
    """Send nothing, also after a restart, until `satchel resume`; what programs read is fetched all the same."""
    from fusefs.cli import flowing  # noqa: PLC0415

    flowing.pause(duration)


@satchel.command(short_help="Send again.")
def resume() -> None:
    """Send again after `pause`; also on this metered network."""
    from fusefs.cli import flowing  # noqa: PLC0415

    flowing.resume()


@satchel.command(short_help="Count what went over the wire.")
@_json
def stats(as_json: bool) -> None:
    """Count what went over the wire since this device was set up, and what the cache could answer."""
    from fusefs.cli import standing  # noqa: PLC0415

    standing.stats(as_json=as_json)


@satchel.command(short_help="Check this machine, and say what to do.")
@_json
def doctor(as_json: bool) -> None:
    """Look at all that a mount needs, and say what to do where something is missing."""
    from fusefs.cli import doctor as examination  # noqa: PLC0415

    sys.exit(examination.doctor(as_json=as_json))


for _command in (*shares.COMMANDS, *access.COMMANDS, guard, events, search, preview):
    satchel.add_command(_command)


def main() -> None:
    """The program; ends with an exit code of `fusefs.control.Exit`."""
    name = os.path.basename(sys.argv[0])
    if name.startswith("mount."):
        from fusefs.cli import helper  # noqa: PLC0415

        sys.exit(helper.main(sys.argv[1:]))
    code: object = Exit.OK
    said = sys.argv[1:]
    if any(not word and before != "-o" for before, word in zip(["", *said], said, strict=False)):
        # An unset variable of a script means nothing, least of all the folder that it runs in, or all of the drive.
        fail("One of the words is empty, such as by a variable that is not set. Nothing was done.", Exit.USAGE)
    try:
        # Not standalone: then click itself would decide about exit codes.
        code = satchel.main(standalone_mode=False)
    except Refused as refused:
        fail(str(refused), refused.code)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted.", 130)
    except BrokenPipeError:
        # Who read our output has seen enough.
        sys.stderr.close()
        sys.exit(Exit.OK)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def fail(sentence: str, code: int) -> None:
    """Says why it cannot be done, and ends."""
    from fusefs.cli.showing import shown_lines  # noqa: PLC0415

    click.echo(f"satchel: {shown_lines(sentence)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
