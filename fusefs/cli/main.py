"""The `satchel` command: what can be said on the command line; each command's work is imported when it is asked for.

Every command answers in one process that must start fast, so nothing heavy is imported here.
"""

import os
import sys
from collections.abc import Callable
from typing import Final, TypeVar

import click

from fusefs.cli import access, history, shares
from fusefs.cli.finding import search
from fusefs.cli.flags import as_json_flag, yes_flag
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
@as_json_flag
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
@yes_flag
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
@as_json_flag
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
@as_json_flag
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

    if folder is None and not link:
        raise click.UsageError("Say at which DIR, or --link.")
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
@as_json_flag
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


@satchel.command(short_help="Keep PATH on this machine: for offline use.")
@click.argument("path", required=False)
@click.option("--list", "is_list", is_flag=True, help="List what is pinned, and how much of it is here.")
@as_json_flag
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
@as_json_flag
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
@as_json_flag
def backup_list(as_json: bool) -> None:
    """List what is backed up, and where to."""
    from fusefs.cli import backing_up  # noqa: PLC0415

    backing_up.listing(as_json=as_json)


@backup.command("status", short_help="Say how each backup stands.")
@as_json_flag
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
@as_json_flag
def stats(as_json: bool) -> None:
    """Count what went over the wire since this device was set up, and what the cache could answer."""
    from fusefs.cli import standing  # noqa: PLC0415

    standing.stats(as_json=as_json)


@satchel.command(short_help="Check this machine, and say what to do.")
@as_json_flag
def doctor(as_json: bool) -> None:
    """Look at all that a mount needs, and say what to do where something is missing."""
    from fusefs.cli import doctor as examination  # noqa: PLC0415

    sys.exit(examination.doctor(as_json=as_json))


for _command in (*history.COMMANDS, *shares.COMMANDS, *access.COMMANDS, guard, events, search, preview):
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
