"""Previewing: what a file of the drive looks like, small, without its content coming here."""

import sys
from typing import Final

import click

_SIZES: Final = {"normal": 128, "large": 256, "x-large": 512, "xx-large": 1_024}


@click.command("preview", short_help="Save what a picture, PDF or video looks like, small.")
@click.argument("path")
@click.option("--size", type=click.Choice(tuple(_SIZES)), default="large", show_default=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="The PNG that is written; -: standard output.")
def preview(path: str, size: str, output: str) -> None:
    """Save what PATH, a picture, PDF or video, looks like: of 128, 256, 512 or 1,024 pixels; made by the server."""
    from fusefs.cli.asking import await_sent, live_node  # noqa: PLC0415
    from fusefs.cli.server import asked_server  # noqa: PLC0415
    from fusefs.control import Refused  # noqa: PLC0415

    node = live_node(path)
    await_sent(path)
    found = asked_server(lambda service: service.preview(node, _SIZES[size]))
    if output == "-":
        sys.stdout.buffer.write(found.png)
        return
    try:
        with open(output, "wb") as file:
            file.write(found.png)
    except OSError as error:
        raise Refused(f"{output}: {error.strerror}.") from error
