"""Previewing: what a file of the drive looks like, small, without its content coming here."""

import os
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
    from fusefs.cli.asking import await_sent  # noqa: PLC0415
    from fusefs.cli.server import asked_server  # noqa: PLC0415
    from fusefs.control import Exit, Refused  # noqa: PLC0415
    from remote.protocol.ids import NODE_MAX, NodeId  # noqa: PLC0415

    try:
        node = os.lstat(path).st_ino
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}.", Exit.USAGE) from error
    if node > NODE_MAX:
        raise Refused(f"{path} is a state of the past: there are previews of what is there now.", Exit.USAGE)
    await_sent(path)
    found = asked_server(lambda service: service.preview(NodeId(node), _SIZES[size]))
    if output == "-":
        sys.stdout.buffer.write(found.png)
        return
    try:
        with open(output, "wb") as file:
            file.write(found.png)
    except OSError as error:
        raise Refused(f"{output}: {error.strerror}.") from error
