"""What the command line can ask of the service, a script can ask by JSON: no verb without its route."""

from collections.abc import Iterator

import click

from fusefs.cli.main import satchel
from remote.server.http.app import make_app
from remote.server.http.scopes import ROUTE_SCOPES
from remote.server.instance import Instance

OF_THIS_MACHINE = frozenset(
    {
        *("backup add", "backup list", "backup remove", "backup now", "backup status"),
        *("cache", "cache trim", "cache limit", "doctor", "fstab", "limit", "mount", "umount", "pause", "resume"),
        *("pin", "unpin", "stats", "status", "wait"),
    }
)
"""Verbs about the mount, its cache and this machine: the service knows nothing of them."""
SPACE = "/api/v1/spaces/{space}"
ROUTES = {
    "login": "POST /api/v1/login",
    "logout": "POST /api/v1/logout",
    "password": "POST /api/v1/password",
    "devices": "GET /api/v1/devices",
    "devices rename": "PATCH /api/v1/devices/{device}",
    "devices sign-out": "DELETE /api/v1/devices/{device}",
    "devices wipe": "DELETE /api/v1/devices/{device}",
    "totp": "GET /api/v1/totp",
    "totp on": "POST /api/v1/totp/on",
    "totp off": "POST /api/v1/totp/off",
    "totp codes": "POST /api/v1/totp/codes",
    "token add": "POST /api/v1/tokens",
    "token list": "GET /api/v1/tokens",
    "token revoke": "DELETE /api/v1/tokens/{token}",
    "audit": "GET /api/v1/audit",
    "email": "PUT /api/v1/email",
    "link make": "POST /api/v1/links",
    "link list": "GET /api/v1/links",
    "link revoke": "DELETE /api/v1/links/{link}",
    "versions": f"GET {SPACE}/versions",
    "diff": f"GET {SPACE}/diff",
    "restore": f"POST {SPACE}/restore",
    "rewind": f"POST {SPACE}/rewind",
    "undo": f"POST {SPACE}/undo",
    "purge": f"POST {SPACE}/purge",
    "retention": f"PUT {SPACE}/retention",
    "trash list": f"GET {SPACE}/trash",
    "trash restore": f"POST {SPACE}/trash/restore",
    "trash purge": f"POST {SPACE}/trash/purge",
    "conflicts": f"GET {SPACE}/conflicts",
    "resolve": f"POST {SPACE}/conflicts/settle",
    "events": f"GET {SPACE}/events",
    "guard": f"PUT {SPACE}/guard",
    "events done": f"POST {SPACE}/events/{{event}}/done",
    "guard allow": f"POST {SPACE}/events/{{event}}/allow",
    # What waits is taken back by undoing it.
    "guard refuse": f"POST {SPACE}/undo",
    "group list": "GET /api/v1/groups",
    "group add": "POST /api/v1/groups",
    "group remove": "DELETE /api/v1/groups",
    "group member": "POST /api/v1/groups/members",
    "search": "GET /api/v1/search",
    "preview": "GET /api/v1/files/{file}/preview",
    "share": "POST /api/v1/files/{file}/share",
    "unshare": "DELETE /api/v1/shares/{space}/members",
    "shared": "GET /api/v1/shares",
    "accept": "POST /api/v1/shares/{space}/accept",
    "decline": "POST /api/v1/shares/{space}/decline",
    "leave": "POST /api/v1/shares/{space}/leave",
}
"""Verb of `satchel` -> the route that does the same."""


def verbs(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Every verb with its group's name in front, and groups that do something by themselves."""
    if not isinstance(command, click.Group) or (words and command.invoke_without_command):
        yield " ".join(words)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from verbs(below, (*words, name))


def test_every_verb_about_the_service_has_its_route() -> None:
    found = set(verbs(satchel))
    missing = found - OF_THIS_MACHINE - set(ROUTES)
    assert missing == set(), "add them to ROUTES (with a route of the JSON API), or to OF_THIS_MACHINE"


def test_the_routes_are_there(instance: Instance) -> None:
    told = make_app(instance).openapi_schema.to_schema()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in told.items() for method in methods}
    assert set(ROUTES.values()) <= routes
    # And one table more says who may.
    assert set(ROUTES.values()) <= set(ROUTE_SCOPES)
