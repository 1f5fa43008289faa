"""Accessing: the second factor, app tokens, the audit log and mail of this device's user, as the server answers."""

import json
import time

from fusefs.cli.flowing import seconds_of
from fusefs.cli.server import asked_server, chosen, signed_in_account
from fusefs.cli.showing import shown
from fusefs.cli.signing_in import asked_password, asked_word
from fusefs.control import Exit, Refused
from remote.client.account import AccountService
from remote.protocol.account import AppToken, AppTokenRequest, Audit, AuditEntry, AuditRequest, RecoveryCodes
from remote.protocol.times import iso, span

_AT_ONCE = 1_000


def totp_state() -> None:
    """Prints whether codes are asked for; raises Refused."""
    state = asked_server(lambda service: service.totp())
    if state.is_on:
        print(f"Sign-ins ask for a code. {state.recovery_codes} recovery codes are left.")
    else:
        print("Sign-ins ask for the password only. To have them ask for a code: satchel totp on")


def turn_totp_on(*, is_on_stdin: bool) -> None:
    """Prints a secret, asks for a code of it, prints recovery codes; raises Refused."""
    account = signed_in_account()
    password = asked_password(f"Password of {account.user_name}", is_on_stdin=is_on_stdin)
    begun = asked_server(lambda service: service.begin_totp(password))
    print("Give this to your authenticator app, as it is or as a QR code (qrencode -t ansiutf8 'ADDRESS'):")
    print(f"    address: {begun.address}\n    secret:  {begun.secret}", flush=True)
    code = asked_word("Code that it shows", is_on_stdin=is_on_stdin)
    _print_codes(asked_server(lambda service: service.turn_totp_on(code)))
    print("From now on sign-ins ask for a code. What is signed in stays so; WebDAV needs an app token now.")


def turn_totp_off(*, is_on_stdin: bool) -> None:
    """Ends codes; raises Refused."""
    account = signed_in_account()
    password = asked_password(f"Password of {account.user_name}", is_on_stdin=is_on_stdin)
    code = asked_word("Code of your authenticator app, or a recovery code", is_on_stdin=is_on_stdin)
    asked_server(lambda service: service.turn_totp_off(password, code))
    print("Sign-ins ask for the password only.")


def recovery_codes(*, is_on_stdin: bool) -> None:
    """Prints new recovery codes; raises Refused."""
    code = asked_word("Code of your authenticator app", is_on_stdin=is_on_stdin)
    _print_codes(asked_server(lambda service: service.recovery_codes(code)))


def _print_codes(made: RecoveryCodes) -> None:
    print("Keep these recovery codes where that device is not; each stands for one code, once:")
    for code in made.codes:
        print(f"    {code}")


def make_token(name: str, scopes: tuple[str, ...], expires: str | None, *, as_json: bool) -> None:
    """Makes a token and prints it; raises Refused."""
    expires_ns = 0 if expires is None else time.time_ns() + int(seconds_of(expires) * 1e9)
    made = asked_server(lambda service: service.make_token(AppTokenRequest(name, scopes, expires_ns)))
    if as_json:
        print(json.dumps({"secret": made.secret, **_token_json(made.entry)}, indent=2))
    else:
        print(made.secret)


def list_tokens(*, as_json: bool) -> None:
    """Prints the tokens; raises Refused."""
    found = asked_server(lambda service: service.tokens()).tokens
    if as_json:
        print(json.dumps([_token_json(one) for one in found], indent=2))
        return
    for one in found:
        used = f"last used {iso(one.seen_ns)}" if one.seen_ns else "not used yet"
        over = one.expires_ns and one.expires_ns <= time.time_ns()
        until = f", {'expired' if over else 'until'} {iso(one.expires_ns)}" if one.expires_ns else ""
        print(f"{shown(one.name)}  {one.token}  {', '.join(one.scopes)}  made {iso(one.created_ns)}, {used}{until}")
    if not found:
        print("There are no app tokens.")


def revoke_token(which: str) -> None:
    """Ends a token by name or number; raises Refused."""

    async def revoke(service: AccountService) -> AppToken:
        tokens = (await service.tokens()).tokens
        found = chosen(which, tokens, lambda one: (one.token, one.name), "app token", "satchel token list")
        await service.revoke_token(found.token)
        return found

    found = asked_server(revoke)
    print(f"The app token {shown(found.name)} is over.")


def audit(since: str | None, limit: int, *, as_json: bool) -> None:
    """Prints what was done, the newest first; raises Refused."""
    try:
        since_ns = span(since)[0] if since else 0
    except ValueError as error:
        raise Refused(str(error), Exit.USAGE) from error

    async def read(service: AccountService) -> list[AuditEntry]:
        found: list[AuditEntry] = []
        page = Audit((), 0)
        while True:
            wanted = min(_AT_ONCE, limit - len(found))
            page = await service.audit(AuditRequest(since_ns, page.next, wanted))
            found += page.entries
            if not page.next or len(found) >= limit:
                return found

    for one in asked_server(read):
        if as_json:
            print(json.dumps(_note_json(one), ensure_ascii=False))
            continue
        refused = "" if one.is_good else " REFUSED"
        place = ", ".join(part for part in (shown(one.device_name), one.address) if part)
        who = shown(one.by) or ("(server)" if one.is_good else "(nobody)")
        print(f"{iso(one.time_ns)}  {who}: {one.what}{refused}: {shown(one.about)}  {place}".rstrip(" :"))


def email(address: str | None) -> None:
    """Prints where mail goes, after it was set when that is asked; raises Refused."""
    if address is None:
        found = asked_server(lambda service: service.email())
    else:
        found = asked_server(lambda service: service.set_email(address))
    print(f"Mail to you goes to {found.email}." if found.email else "You get no mail.")
    if found.email and not found.is_sent:
        print("This server sends none as long as whoever runs it has not set that up.")


def _token_json(one: AppToken) -> dict[str, object]:
    return {
        "token": one.token,
        "name": one.name,
        "scopes": list(one.scopes),
        "created_ns": one.created_ns,
        "expires_ns": one.expires_ns,
        "seen_ns": one.seen_ns,
    }


def _note_json(one: AuditEntry) -> dict[str, object]:
    return {
        "time": iso(one.time_ns),
        "what": one.what,
        "about": one.about,
        "by": one.by,
        "device": one.device_name,
        "address": one.address,
        "is_good": one.is_good,
    }
