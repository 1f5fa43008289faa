"""Signing in and out: makes this machine a device of an account, and forgets that again."""

import getpass
import os
import sys
import warnings
import webbrowser
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from cache.errors import CacheError, StoreInUse
from cache.records import STATE_TABLES
from cache.store import Store
from cache.tree import Tree
from fusefs.clearing import clear
from fusefs.cli.asking import daemon, places
from fusefs.cli.showing import word
from fusefs.control import Exit, Refused
from fusefs.settings import IDENTITY, Account, Places, load_account, remove_account, save_account
from remote.client import service as client
from remote.protocol.errors import BadRequest, CodeNeeded, NotAllowed, NotSignedIn, RemoteError, Unreachable
from remote.protocol.messages import LoginAnswer


def login(
    url: str, user: str | None, *, is_password_on_stdin: bool, device_name: str | None, allow_insecure: bool
) -> None:
    """Signs in and keeps the account; without `user`: with a browser. Raises Refused."""
    here = places()
    here.make()
    before = load_account(here.account_file)
    # Who signs in again is still the same device to people.
    kept = before.device_name if before is not None and before.url == url.rstrip("/") else ""
    name = device_name or kept or os.uname().nodename or "unnamed"
    account = (
        _with_browser(url, name, allow_insecure)
        if user is None
        else _by_password(url, user, name, allow_insecure, is_on_stdin=is_password_on_stdin)
    )
    running = daemon()
    if running is None:
        _make_way(here, account)
    else:
        before = load_account(here.account_file)
        if before is None or before.identity != account.identity:
            mount = running["mount"]
            raise Refused(f"{mount} is mounted for another account. Unmount it first: satchel umount {word(mount)}")
    save_account(here.account_file, account)
    print(f"Signed in to {account.url} as {account.user_name}; this device is called {account.device_name}.")
    if running is not None:
        mount = word(running["mount"])
        print(f"The mount still uses the old sign-in. Mount again: satchel umount {mount} && satchel mount {mount}")


def _by_password(url: str, user: str, device_name: str, allow_insecure: bool, *, is_on_stdin: bool) -> Account:
    password = asked_password(f"Password of {user}", is_on_stdin=is_on_stdin)

    def sign_in(code: str) -> Account:
        ask = partial(client.login, url, user, password, device_name, code=code, allow_insecure=allow_insecure)
        return trio.run(_signed_in, url, device_name, ask, allow_insecure)

    try:
        return sign_in("")
    except CodeNeeded as needed:
        print(needed, file=sys.stderr)
    code = asked_word("Code", is_on_stdin=is_on_stdin)
    try:
        return sign_in(code)
    except CodeNeeded as refused:
        raise Refused(f"{url} did not take this code: {refused}", Exit.SIGN_IN) from refused


def _with_browser(url: str, device_name: str, allow_insecure: bool) -> Account:
    def show(address: str, letters: str) -> None:
        print(f"Open this address in a browser, and look that it shows the letters {letters}:\n\n    {address}\n")
        print("Waiting until you have signed in there ...", flush=True)
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(address)

    ask = partial(client.sign_in_elsewhere, url, device_name, show, allow_insecure=allow_insecure)
    return trio.run(_signed_in, url, device_name, ask, allow_insecure)


def asked_word(prompt: str, *, is_on_stdin: bool) -> str:
    """A word from the terminal, or the next line of standard input; raises Refused when there is none."""
    try:
        word = sys.stdin.readline() if is_on_stdin or not sys.stdin.isatty() else input(f"{prompt}: ")
    except EOFError:
        word = ""
    if not word.strip():
        raise Refused(f"Nothing was given for: {prompt}.", Exit.USAGE)
    return word.strip()


def asked_password(prompt: str, *, is_on_stdin: bool) -> str:
    """A password from the terminal, or the next line of standard input; raises Refused when there is none."""
    if is_on_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        try:
            with warnings.catch_warnings():
                # Where it would be shown as it is typed, it is not asked for.
                warnings.simplefilter("error", getpass.GetPassWarning)
                password = getpass.getpass(f"{prompt}: ")
        except (EOFError, getpass.GetPassWarning):
            raise Refused("There is no terminal to ask for the password: use --password-stdin.", Exit.USAGE) from None
    if not password:
        raise Refused("No password was given.", Exit.USAGE)
    return password


async def _signed_in(
    url: str, device_name: str, sign_in: Callable[[], Awaitable[LoginAnswer]], allow_insecure: bool
) -> Account:
    try:
        answer = await sign_in()
        async with client.connect(url, answer.token, allow_insecure=allow_insecure) as service:
            spaces = (await service.spaces()).spaces
    except BadRequest as error:
        hint = "" if allow_insecure else " (--insecure-http allows it.)" if "plain http" in str(error) else ""
        raise Refused(f"{error}{hint}", Exit.USAGE) from error
    except CodeNeeded:
        raise
    except NotSignedIn as error:
        raise Refused(f"{url} did not sign this device in: {error}", Exit.SIGN_IN) from error
    except Unreachable as error:
        raise Refused(f"{error} Nothing was changed here; try again later.", Exit.UNREACHABLE) from error
    except (NotAllowed, RemoteError) as error:
        raise Refused(f"{url} did not sign this device in: {error}") from error
    home = next((space for space in spaces if space.space == answer.home), None)
    if home is None:
        raise Refused(f"{url} knows {answer.user_name}, but gives no home. Ask who runs the server.")
    return Account(
        url=url.rstrip("/"),
        token=answer.token,
        device=answer.device,
        device_name=device_name,
        user=answer.user,
        user_name=answer.user_name,
        space=answer.home,
        secret=home.domain_secret,
        instance=answer.instance,
        allow_insecure=allow_insecure,
    )


def _make_way(here: Places, account: Account) -> None:
    """Lets go of the files of another account, when the server has all of them; raises Refused when not."""
    if not here.tree_file.exists():
        return
    try:
        store = Store(here.tree_file, STATE_TABLES, has_journal=True)
    except StoreInUse as error:
        raise Refused(str(error)) from error
    except CacheError as error:
        raise Refused(f"{error} Then sign in again.") from error
    try:
        tree = Tree(store)
        owner = tree.setting(IDENTITY)
        if owner is None or owner.decode() == account.identity:
            return
        if not tree.is_all_sent():
            raise Refused(
                f"This device holds {tree.dirty_count()} changes of another account that its server does not have yet. "
                "Sign in as before and mount to send them, or use a folder of its own: SATCHEL_HOME=DIR satchel login."
            )
        if tree.ignored_count():
            raise Refused(
                f"This device holds {tree.ignored_count()} ignored files of another account, which no server has. Sign "
                "in as before, mount and move them, or use a folder of its own: SATCHEL_HOME=DIR satchel login."
            )
    finally:
        store.close()
    # Everything in it is on the other server.
    clear(here)


def logout() -> None:
    """Forgets the account; raises Refused while mounted."""
    here = places()
    running = daemon()
    if running is not None:
        raise Refused(f"{running['mount']} is still mounted. Unmount it first: satchel umount {word(running['mount'])}")
    account = load_account(here.account_file)
    if account is None:
        print("Nobody is signed in on this device.")
        return
    try:
        trio.run(partial(client.logout, account.url, account.token, allow_insecure=account.allow_insecure))
    except NotSignedIn:
        pass  # signed out from afar already
    except RemoteError as error:
        print(f"The server could not be told ({error}), so this device stays in its list until somebody removes it.")
    remove_account(here.account_file)
    print(
        f"Signed out of {account.url}. Edits that were not sent yet stay in {here.state} and are sent when "
        f"{account.user_name} signs in here again."
    )
