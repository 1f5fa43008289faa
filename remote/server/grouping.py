"""The commands about groups of users, for whoever runs the server; they work beside a server that runs.

Devices whose polls wait at that server hear of it within seconds; rights count at once.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from remote.protocol.errors import RemoteError
from remote.server import groups
from remote.server.instance import Beside, InstanceTrouble, beside
from remote.server.keeping import data_option, key_option
from remote.server.membership import Members, Told
from remote.server.places import default_data, default_key_file

Result = TypeVar("Result")


@click.group()
def group() -> None:
    """Groups of users, which folders can be shared with."""


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@data_option
@key_option
def list_groups(as_json: bool, data: Path | None, key_file: Path | None) -> None:
    """List all groups, whose each is, and who is in it."""
    with beside(data or default_data(), key_file or default_key_file()) as instance:
        found = instance.database.read_now(groups.every_group)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(_Line(one.name, one.owner_name, one.members)) for one in found]))
        return
    for one in found:
        click.echo(f"{one.name}  of {one.owner_name}  {', '.join(one.members) or '(nobody is in it)'}")


@group.command("add")
@click.argument("name")
@click.option("--owner", required=True, metavar="USER", help="Who keeps it: he may change it, too.")
@data_option
@key_option
def add_group(name: str, owner: str, data: Path | None, key_file: Path | None) -> None:
    """Make a group."""
    _changed(
        data,
        key_file,
        lambda members: groups.make_group(
            members.session, name, groups.user_of(members.session, owner), members.now_ns
        ),
    )
    click.echo(f"Made the group {name} of {owner}.")


@group.command("remove")
@click.argument("name")
@data_option
@key_option
def remove_group(name: str, data: Path | None, key_file: Path | None) -> None:
    """End a group; who has folders by it alone loses them."""

    def remove(members: Members) -> None:
        row = groups.group_named(members.session, name)
        groups.remove_group(members, row, row.owner)

    _changed(data, key_file, remove)
    click.echo(f"The group {name} is gone.")


@group.command("member")
@click.argument("name")
@click.argument("user")
@click.option("--remove", is_flag=True, help="Take the user out of it.")
@data_option
@key_option
def group_member(name: str, user: str, remove: bool, data: Path | None, key_file: Path | None) -> None:
    """Put USER into the group NAME; he is invited to what is shared with it."""

    def change(members: Members) -> None:
        row = groups.group_named(members.session, name)
        act = groups.take_from_group if remove else groups.add_to_group
        act(members, row, groups.user_of(members.session, user), row.owner)

    _changed(data, key_file, change)
    click.echo(f"{user} is {'not in' if remove else 'in'} {name} now.")


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    owner: str
    members: tuple[str, ...]


def _changed(data: Path | None, key_file: Path | None, job: Callable[[Members], Result]) -> Result:
    def write(instance: Beside) -> Result:
        return instance.database.write_now(
            lambda session: job(Members(session, instance.keyring, Told(), time.time_ns()))
        )

    with beside(data or default_data(), key_file or default_key_file()) as instance:
        try:
            return write(instance)
        except RemoteError as error:
            raise InstanceTrouble(str(error)) from error
