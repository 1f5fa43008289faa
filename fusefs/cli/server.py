"""Server: what a command asks the server itself, as this device's user; needs no mount."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from fusefs.cli.asking import places
from fusefs.control import Exit, Refused
from fusefs.settings import Account, load_account
from remote.client.account import AccountService, connect_account
from remote.protocol.errors import NotSignedIn, RemoteError, Unreachable

Answer = TypeVar("Answer")


def asked_server(job: Callable[[AccountService], Awaitable[Answer]]) -> Answer:
    """What the server answers this device's user; raises Refused."""
    account = signed_in_account()

    async def ask() -> Answer:
        async with connect_account(account.url, account.token, allow_insecure=account.allow_insecure) as service:
            return await job(service)

    try:
        return trio.run(ask)
    except Unreachable as error:
        raise Refused(f"{error} Nothing was changed; try again later.", Exit.UNREACHABLE) from error
    except NotSignedIn as error:
        raise Refused(str(error), Exit.SIGN_IN) from error
    except RemoteError as error:
        raise Refused(str(error)) from error


def signed_in_account() -> Account:
    """Who this device is; raises Refused."""
    account = load_account(places().account_file)
    if account is None:
        raise Refused("This device is not signed in. Sign in first: satchel login URL --user NAME", Exit.SIGN_IN)
    return account
