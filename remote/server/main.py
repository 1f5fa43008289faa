"""satchel-server: the commands of whoever runs a server."""

import dataclasses
import getpass
import json
import logging
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn

import click

from remote.protocol.errors import RemoteError
from remote.protocol.times import iso
from remote.server import instance
from remote.server.grouping import group
from remote.server.instance import InstanceTrouble
from remote.server.jobs.chosen import SEARCHES, Choice, chosen
from remote.server.keeping import COMMANDS, Size, data_option, key_option
from remote.server.keys import KeyTrouble
from remote.server.places import default_data, default_key_file
from remote.server.serving import Listen, ListenTrouble, keep_memory, parse_listen, serve

DEFAULT_LISTEN = "127.0.0.1:8750"


def listen_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of where to listen; the command gets them together as `listening`."""

    @click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT")
    @click.option("--tls-cert", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
    @click.option("--tls-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
    @click.option("--insecure-http", is_flag=True, help="Plain HTTP also where others can reach it.")
    @wraps(command)
    def wrapped(
        *, listen: str, tls_cert: Path | None, tls_key: Path | None, insecure_http: bool, **others: object
    ) -> None:
        command(listening=Listen(*parse_listen(listen), tls_cert, tls_key, insecure_http), **others)

    return wrapped


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of what the server does beside answering; the command gets them together as `choice`."""

    @click.option(
        "--search",
        type=click.Choice(SEARCHES),
        default=Choice.search,
        show_default=True,
        help="What files are found by; content is read by confined processes, and kept as hashes of its words.",
    )
    @click.option("--previews/--no-previews", default=True, help="Make previews of pictures ahead, or when asked for.")
    @wraps(command)
    def wrapped(*, search: str, previews: bool, **others: object) -> None:
        command(choice=Choice(search, previews), **others)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="satchel", message="satchel-server %(version)s")
def cli() -> None:
    """Keeps everybody's files, their history and who may see what."""


@cli.command()
@data_option
@key_option
def init(data: Path | None, key_file: Path | None) -> None:
    """Make a new instance, and its master key where there is none."""
    data, key_file = data or default_data(), key_file or default_key_file()
    if instance.make(data, key_file):
        click.echo(f"Made an instance in {data}.")
        click.echo(f"Its master key is {key_file}: keep a copy elsewhere; without it nothing can be read.")
    else:
        click.echo(f"There is an instance in {data} already; nothing was changed.")


@cli.command()
@data_option
@key_option
@listen_options
@click.option("--webdav", is_flag=True, help="Answer WebDAV at /dav/ too, with names and passwords, for phones.")
@click.option("--metrics", metavar="HOST:PORT", help="Answer GET /metrics there, for Prometheus; anybody may ask.")
@job_options
def run(
    *,
    data: Path | None,
    key_file: Path | None,
    listening: Listen,
    webdav: bool,
    metrics: str | None,
    choice: Choice,
) -> None:
    """Answer until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listening.check()
    metrics_at = parse_listen(metrics) if metrics is not None else None
    keep_memory()
    with instance.opened(data or default_data(), key_file or default_key_file()) as opened:

        def ready(url: str) -> None:
            click.echo(f"Satchel serves on {url}")

        serve(opened, listening, ready, metrics_at, has_webdav=webdav, jobs=chosen(opened, choice))


@cli.group()
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
            f"of {line.quota} bytes{' with older versions' if line.counts_past else ''}"
            if line.quota
            else "bytes, no quota"
        )
        seen = iso(line.seen_ns) if line.seen_ns else "never"
        click.echo(f"{line.user_name}  {line.used} {quota}  {line.devices} devices, last there: {seen}")


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
    click.echo(f"{name} may keep {size_bytes} bytes{how}." if size_bytes else f"{name} may keep any number of bytes.")


for _command in COMMANDS:
    cli.add_command(_command)
cli.add_command(group)


def main() -> None:
    """Runs the command; what goes wrong is said in one sentence, and the exit code is 1."""
    try:
        cli(prog_name="satchel-server")
    except (InstanceTrouble, KeyTrouble, ListenTrouble, RemoteError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")


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


def _fail(sentence: str) -> NoReturn:
    click.echo(f"satchel-server: {sentence}", err=True)
    sys.exit(1)
