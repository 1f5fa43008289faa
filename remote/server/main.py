"""satchel-server: the commands of whoever runs a server."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn

import click

from remote.protocol.errors import RemoteError
from remote.server import instance, logs
from remote.server.config import Config, ConfigTrouble, read_config
from remote.server.grouping import group
from remote.server.instance import InstanceTrouble
from remote.server.jobs.chosen import SEARCHES, Choice, chosen
from remote.server.keeping import COMMANDS, data_option, key_option
from remote.server.keys import KeyTrouble
from remote.server.listening import Listen, ListenTrouble, parse_listen
from remote.server.places import default_data, default_key_file
from remote.server.registry import ACCOUNT_COMMANDS
from remote.server.scanning.clamd import Clamd

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


def _clamd(_: click.Context, __: click.Parameter, place: str | None) -> str | None:
    try:
        if place is not None:
            Clamd.at(place)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return place


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
    @click.option(
        "--clamd", metavar="PATH|HOST:PORT", callback=_clamd, help="Look for viruses, by ClamAV's daemon that is there."
    )
    @click.option("--upkeep", is_flag=True, help="Do what gc does each day and what scrub does each month, quietly.")
    @wraps(command)
    def wrapped(*, search: str, previews: bool, clamd: str | None, upkeep: bool, **others: object) -> None:
        command(choice=Choice(search, previews, clamd or "", upkeep), **others)

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
    had_key = key_file.exists()
    if instance.make(data, key_file):
        click.echo(f"Made an instance in {data}.")
        whence = ", which was there: another instance may have it, too" if had_key else ""
        click.echo(f"Its master key is {key_file}{whence}. Keep a copy elsewhere: without it no content can be read.")
    else:
        click.echo(f"There is an instance in {data} already; nothing was changed.")


@cli.command()
@data_option
@key_option
@listen_options
@click.option("--webdav", is_flag=True, help="Answer WebDAV at /dav/ too, with names and passwords, for phones.")
@click.option("--metrics", metavar="HOST:PORT", help="Answer GET /metrics there, for Prometheus; anybody may ask.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Further settings: mail, single sign-on, proxies (docs/server.md).",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@job_options
def run(
    *,
    data: Path | None,
    key_file: Path | None,
    listening: Listen,
    webdav: bool,
    metrics: str | None,
    config_file: Path | None,
    log_format: str,
    choice: Choice,
) -> None:
    """Answer until SIGTERM or SIGINT."""
    # The web framework takes as long to import as all the rest, and no other command needs it.
    from remote.server.serving import keep_memory, serve  # noqa: PLC0415

    is_logged = log_format == "json"
    logs.begin(is_json=is_logged)
    config = read_config(config_file) if config_file is not None else Config()
    listening.check()
    metrics_at = parse_listen(metrics) if metrics is not None else None
    keep_memory()
    with instance.opened(data or default_data(), key_file or default_key_file(), config=config) as opened:

        def ready(url: str) -> None:
            click.echo(f"Satchel serves on {url}")

        serve(
            opened,
            listening,
            ready,
            metrics_at,
            has_webdav=webdav,
            is_logged=is_logged,
            jobs=chosen(opened, choice),
            has_upkeep=choice.has_upkeep,
        )


for _command in (*COMMANDS, *ACCOUNT_COMMANDS):
    cli.add_command(_command)
cli.add_command(group)


def main() -> None:
    """Runs the command; what goes wrong is said in one sentence, and the exit code is 1."""
    try:
        cli(prog_name="satchel-server")
    except (ConfigTrouble, InstanceTrouble, KeyTrouble, ListenTrouble, RemoteError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")


def _fail(sentence: str) -> NoReturn:
    click.echo(f"satchel-server: {sentence}", err=True)
    sys.exit(1)
