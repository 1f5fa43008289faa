"""Server: what a command asks the server itself, as this device's user; needs no mount."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from fusefs.cli.asking import places
from fusefs.cli.showing import shown
from fusefs.control import Exit, Refused
from fusefs.settings import Account, load_account
from remote.client.account import AccountService, connect_account
from remote.protocol.errors import BadRequest, CodeNeeded, Disabled, NotSignedIn, RemoteError, Unreachable

Answer = TypeVar("Answer")
Entry = TypeVar("Entry")


def asked_server(job: Callable[[AccountService], Awaitable[Answer]]) -> Answer:
    """What the server answers this device's user; raises Refused."""
    account = signed_in_account()

    async def ask() -> Answer:
        async with connect_account(account.url, account.token, allow_insecure=account.allow_insecure) as service:
            return await job(service)

    try:
        return trio.run(ask)
    except Unreachable as error:
        raise Refused(f"{error} Try again later.", Exit.UNREACHABLE) from error
    except Disabled as error:
        raise Refused(str(error), Exit.SIGN_IN) from error
    except CodeNeeded as error:
        raise Refused(str(error)) from error
    except BadRequest as error:
        raise Refused(str(error), Exit.USAGE) from error
    except NotSignedIn as error:
        raise Refused(f"{error} What to do: satchel doctor", Exit.SIGN_IN) from error
    except RemoteError as error:
        raise Refused(str(error)) from error


def chosen(
    which: str, entries: Sequence[Entry], called: Callable[[Entry], tuple[int, str]], what: str, listing: str
) -> Entry:
    """The one of these that has this number or name; raises Refused.

    `what`: what it is, as in "no device"; `listing`: the command that prints all.
    """
    found = [entry for entry in entries if which in map(str, called(entry))]
    if not found:
        raise Refused(f"You have no {what} {shown(which)}: {listing} lists what there is.")
    if len(found) > 1:
        numbers = ", ".join(str(called(entry)[0]) for entry in found)
        raise Refused(f"{len(found)} of them are called {shown(which)}; give the number of one: {numbers}")
    return found[0]


def signed_in_account() -> Account:
    """Who this device is; raises Refused."""
    account = load_account(places().account_file)
    if account is None:
        raise Refused("This device is not signed in. Sign in first: satchel login URL --user NAME", Exit.SIGN_IN)
    return account
