"""The commands of accounts, for whoever runs a server: `user`, and `audit`; all work beside a server that runs."""

import dataclasses
import getpass
import json
import sys
import warnings
from pathlib import Path

import click

from remote.protocol.sizes import counted, shown_size
from remote.protocol.times import iso, span
from remote.server import instance
from remote.server.instance import InstanceTrouble
from remote.server.keeping import Size, data_option, key_option
from remote.server.places import default_data, default_key_file


@click.group()
def user() -> None:
    """Accounts."""


@user.command()
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@data_option
@key_option
def add(name: str, password_stdin: bool, data: Path | None, key_file: Path | None) -> None:
    """Make an account and its home; works while the server runs, too."""
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _asked_password()
    instance.add_account(data or default_data(), key_file or default_key_file(), name, password)
    click.echo(f"Made an account for {name}.")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@data_option
@key_option
def list_users(as_json: bool, data: Path | None, key_file: Path | None) -> None:
    """List the accounts: what they keep, how much they may, and when a device of theirs was last there."""
    found = instance.users(data or default_data(), key_file or default_key_file())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(line) for line in found], indent=2))
        return
    for line in found:
        quota = (
            f" of {shown_size(line.quota)}{' with older versions' if line.counts_past else ''}"
            if line.quota
            else ", no quota"
        )
        seen = iso(line.seen_ns) if line.seen_ns else "never"
        out = "; DISABLED" if line.is_disabled else ""
        devices = counted(line.devices, "device")
        click.echo(f"{line.user_name}  {shown_size(line.used)}{quota}  {devices}, last there: {seen}{out}")


@user.command("password")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@data_option
@key_option
def set_password(name: str, password_stdin: bool, data: Path | None, key_file: Path | None) -> None:
    """Give a user a new password; the devices that are signed in stay so."""
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _asked_password()
    instance.set_password(data or default_data(), key_file or default_key_file(), name, password)
    click.echo(f"{name} has a new password.")


@user.command()
@click.argument("name")
@click.argument("size_bytes", metavar="SIZE", type=Size())
@click.option(
    "--history/--no-history",
    "counts_past",
    default=None,
    help="Whether older versions count, each with its size; as it is without this.",
)
@data_option
@key_option
def quota(name: str, size_bytes: int, counts_past: bool | None, data: Path | None, key_file: Path | None) -> None:
    """Bound what a user may keep to SIZE, in bytes or such as 20G; 0 lifts the bound."""
    where = data or default_data(), key_file or default_key_file()
    instance.set_quota(*where, name, size_bytes, counts_past=counts_past)
    how = "" if counts_past is None else ", older versions included" if counts_past else ", older versions aside"
    click.echo(f"{name} may keep {shown_size(size_bytes)}{how}." if size_bytes else f"{name} has no quota.")


@user.command()
@click.argument("name")
@data_option
@key_option
def disable(name: str, data: Path | None, key_file: Path | None) -> None:
    """Keep a user out, with all devices, app tokens and links; nothing is removed."""
    instance.set_disabled(data or default_data(), key_file or default_key_file(), name, is_disabled=True)
    click.echo(f"{name} is kept out. To let {name} in again: satchel-server user enable {name}")


@user.command()
@click.argument("name")
@data_option
@key_option
def enable(name: str, data: Path | None, key_file: Path | None) -> None:
    """Let a user in again who was kept out."""
    instance.set_disabled(data or default_data(), key_file or default_key_file(), name, is_disabled=False)
    click.echo(f"{name} may sign in again; devices that were signed in still are.")


@user.command()
@click.argument("name")
@click.option("--yes", "is_sure", is_flag=True, help="Do it without asking.")
@data_option
@key_option
def remove(name: str, is_sure: bool, data: Path | None, key_file: Path | None) -> None:
    """Remove a user for good, with all files, their past, devices, app tokens and links; `gc` frees the disk.

    Who owns shared folders or groups cannot be removed before somebody else owns them.
    """
    if not is_sure:
        click.confirm(f"All files of {name}, and their past, are lost for good. Go on?", abort=True)
    instance.remove(data or default_data(), key_file or default_key_file(), name)
    click.echo(f"{name} is removed. What the files took on the disk is freed by two runs of satchel-server gc.")


@user.command()
@click.argument("name")
@click.argument("address", default="")
@data_option
@key_option
def email(name: str, address: str, data: Path | None, key_file: Path | None) -> None:
    """Have mail to a user go to ADDRESS; without one: nowhere."""
    instance.set_user_email(data or default_data(), key_file or default_key_file(), name, address)
    click.echo(f"Mail to {name} goes to {address}." if address else f"No mail goes to {name}.")


@user.command("totp-off")
@click.argument("name")
@data_option
@key_option
def totp_off(name: str, data: Path | None, key_file: Path | None) -> None:
    """Have a user who lost the authenticator app, and the recovery codes, sign in with the password alone."""
    instance.end_totp(data or default_data(), key_file or default_key_file(), name)
    click.echo(f"{name} signs in without codes now.")


@user.command()
@click.argument("name")
@click.argument("issuer")
@click.argument("subject")
@data_option
@key_option
def link(name: str, issuer: str, subject: str, data: Path | None, key_file: Path | None) -> None:
    """Have who signs in at ISSUER as SUBJECT (`sub`) be this user, by `satchel login --sso`."""
    instance.link_identity(data or default_data(), key_file or default_key_file(), name, issuer, subject)
    click.echo(f"{subject} at {issuer} signs in as {name} now.")


@click.command()
@click.option("--since", metavar="TIME", help="From this time on (2026-11-21T10:15, UTC unless it says otherwise).")
@click.option("--user", "user_name", metavar="NAME", help="What concerns this user only.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each, for programs.")
@click.option("--keep-days", type=click.IntRange(1, 36_500), metavar="N", help="Set for how long it is kept.")
@data_option
@key_option
def audit(
    *,
    since: str | None,
    user_name: str | None,
    as_json: bool,
    keep_days: int | None,
    data: Path | None,
    key_file: Path | None,
) -> None:
    """Print who did what, when and from where, the oldest first."""
    data, key_file = data or default_data(), key_file or default_key_file()
    if keep_days is not None:
        instance.set_audit_days(data, key_file, keep_days)
        click.echo(f"What was done is kept for {keep_days} days.")
        return
    try:
        since_ns = span(since)[0] if since else 0
    except ValueError as error:
        raise InstanceTrouble(str(error)) from error
    for line in instance.audit_lines(data, key_file, since_ns, user_name):
        if as_json:
            click.echo(line)
            continue
        one = json.loads(line)
        refused = "" if one["is_good"] else " REFUSED"
        who = one["by"] or "(server)" if one["is_good"] else one["by"] or "(nobody)"
        place = ", ".join(part for part in (one["device"], one["address"]) if part)
        whose = f" [{one['user']}]" if one["user"] not in ("", one["by"]) else ""
        click.echo(f"{one['time']}  {who}{whose}: {one['what']}{refused}: {one['about']}  {place}".rstrip())


def _asked_password() -> str:
    try:
        with warnings.catch_warnings():
            # Where it would be shown as it is typed, it is not asked for.
            warnings.simplefilter("error", getpass.GetPassWarning)
            password = getpass.getpass("Password: ")
            again = getpass.getpass("Once more: ")
    except (EOFError, getpass.GetPassWarning):
        raise InstanceTrouble("There is no terminal to ask for the password: use --password-stdin.") from None
    if password != again:
        raise InstanceTrouble("The two passwords differ; no account was made.")
    return password


ACCOUNT_COMMANDS = (user, audit)
