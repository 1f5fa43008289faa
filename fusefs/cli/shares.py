"""Shares: what can be said on the command line about shared folders; the work is in `sharing`."""

import click

from fusefs.cli.flags import as_json_flag, yes_flag


@click.command(short_help="Share PATH with others, or say with whom it is.")
@click.argument("path")
@click.option("--with", "wishes", multiple=True, metavar="NAME[:ROLE]", help="A user or a group of yours; many times.")
@click.option("--transfer", metavar="USER", help="Make this member the owner, whose quota then counts.")
@click.option("--limit", metavar="SIZE", help="Let at most so much be in it, such as 5G; 0: what its owner has left.")
@as_json_flag
def share(path: str, wishes: tuple[str, ...], transfer: str | None, limit: str | None, as_json: bool) -> None:
    """Share PATH, a folder or file, with users and groups; without options: say with whom it is shared.

    ROLE is viewer (reads), editor (reads and writes; this one, when none is given) or manager (also shares).
    A file is put into a new folder beside it, which is then shared.
    """
    from fusefs.cli import sharing  # noqa: PLC0415

    if sum((transfer is not None, bool(wishes), limit is not None)) > 1:
        raise click.UsageError("One thing at a time: --with, --transfer or --limit.")
    if limit is not None:
        sharing.limit(path, limit)
    elif transfer is not None:
        sharing.transfer(path, transfer)
    elif wishes:
        sharing.share(path, wishes, as_json=as_json)
    else:
        sharing.who(path, as_json=as_json)


@click.command(short_help="Take a shared folder away from somebody, or stop sharing it.")
@click.argument("path")
@click.argument("name", required=False)
@yes_flag
def unshare(path: str, name: str | None, yes: bool) -> None:
    """Take PATH away from NAME (a user or group); without NAME: from all others, as an ordinary folder of yours."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.unshare(path, name, is_sure=yes)


@click.command(short_help="List what is shared with you, and invitations.")
@as_json_flag
def shared(as_json: bool) -> None:
    """List shared folders that you own or are a member of, and those that you are invited to."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.shared_with_me(as_json=as_json)


@click.command(short_help="Accept an invitation to a shared folder.")
@click.argument("which", metavar="NAME|NUMBER")
def accept(which: str) -> None:
    """Accept an invitation, by the folder's name or the number that `satchel shared` tells."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.accept(which)


@click.command(short_help="Decline an invitation to a shared folder.")
@click.argument("which", metavar="NAME|NUMBER")
def decline(which: str) -> None:
    """Decline an invitation; it can still be accepted later."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.decline(which)


@click.command(short_help="Leave a shared folder: it goes from your drive.")
@click.argument("path")
def leave(path: str) -> None:
    """Leave the shared folder PATH: it goes from your drive, and stays for the others."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.leave(path)


@click.group(short_help="Groups of users to share with.")
def group() -> None:
    """Groups of users, which folders can be shared with; each belongs to who made it."""


@group.command("add")
@click.argument("name")
def add_group(name: str) -> None:
    """Make a group."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.add_group(name)


@group.command("list")
@as_json_flag
def list_groups(as_json: bool) -> None:
    """List the groups that you own or are in."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.groups(as_json=as_json)


@group.command("remove")
@click.argument("name")
def remove_group(name: str) -> None:
    """End a group of yours; who has folders by it alone loses them."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.remove_group(name)


@group.command("member", short_help="Put USER into the group NAME, or take him out.")
@click.argument("name")
@click.argument("user")
@click.option("--remove", is_flag=True, help="Take the user out of the group; you may take out yourself of any.")
def group_member(name: str, user: str, remove: bool) -> None:
    """Put USER into the group NAME: he is invited to what is shared with it."""
    from fusefs.cli import sharing  # noqa: PLC0415

    sharing.group_member(name, user, is_removing=remove)


COMMANDS: tuple[click.Command, ...] = (share, unshare, shared, accept, decline, leave, group)
