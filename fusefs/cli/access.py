"""Access: what can be said on the command line about codes, app tokens, the audit log and mail; work: `accessing`."""

import click

from fusefs.cli.flags import as_json_flag

_stdin = click.option(
    "--password-stdin", "is_on_stdin", is_flag=True, help="Read password and code from standard input, by line."
)


@click.group(invoke_without_command=True, short_help="Have sign-ins ask for a code of your authenticator app.")
@click.pass_context
def totp(context: click.Context) -> None:
    """Have sign-ins ask for a code of your authenticator app, too; alone: say whether they do."""
    from fusefs.cli import accessing  # noqa: PLC0415

    if context.invoked_subcommand is None:
        accessing.totp_state()


@totp.command("on", short_help="Have sign-ins ask for codes from now on.")
@_stdin
def totp_on(is_on_stdin: bool) -> None:
    """Print a secret for your authenticator app, ask for a code of it, and print recovery codes."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.turn_totp_on(is_on_stdin=is_on_stdin)


@totp.command("off")
@_stdin
def totp_off(is_on_stdin: bool) -> None:
    """Be asked for codes no more."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.turn_totp_off(is_on_stdin=is_on_stdin)


@totp.command("codes")
@click.option("--code-stdin", "is_on_stdin", is_flag=True, help="Read the code from standard input.")
def totp_codes(is_on_stdin: bool) -> None:
    """Print new recovery codes; all older ones end."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.recovery_codes(is_on_stdin=is_on_stdin)


@click.group(short_help="Make, list and revoke tokens for programs.")
def token() -> None:
    """App tokens: what a program uses instead of your password, for what you allow only."""


@token.command("add", short_help="Make a token and print it, this once.")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["read", "write", "share", "forget", "webdav", "webdav-read"]),
    help="What it may do; many times. forget: purge and retention; webdav: as the password there.",
)
@click.option("--expires", metavar="TIME", help="It ends after this long: 12h, 30d.")
@as_json_flag
def token_add(name: str, scopes: tuple[str, ...], expires: str | None, as_json: bool) -> None:
    """Make a token and print it, this once: for `Authorization: Bearer`, or as a password for WebDAV."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.make_token(name, scopes, expires, as_json=as_json)


@token.command("list")
@as_json_flag
def token_list(as_json: bool) -> None:
    """List your app tokens, what each may do and when it was last used."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.list_tokens(as_json=as_json)


@token.command("revoke")
@click.argument("which", metavar="NAME")
def token_revoke(which: str) -> None:
    """End a token at once, by its name or number."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.revoke_token(which)


@click.command(short_help="Show what was done in your name.")
@click.option("--since", metavar="TIME", help="From this time on (2026-11-21T10:15, UTC unless it says otherwise).")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@as_json_flag
def audit(since: str | None, limit: int, as_json: bool) -> None:
    """Show what was done in your name or to your account, the newest first: sign-ins, tokens, links, purges."""
    from fusefs.cli import accessing  # noqa: PLC0415

    accessing.audit(since, limit, as_json=as_json)


@click.command(short_help="Say, or set, where mail to you goes.")
@click.argument("address", required=False)
@click.option("--none", "is_none", is_flag=True, help="Get no mail.")
def email(address: str | None, is_none: bool) -> None:
    """Say where the server sends you mail (a new device, a changed password), or have it go to ADDRESS."""
    from fusefs.cli import accessing  # noqa: PLC0415

    if address is not None and is_none:
        raise click.UsageError("Give an ADDRESS or --none, not both.")
    accessing.email("" if is_none else address)


COMMANDS = (totp, token, audit, email)
