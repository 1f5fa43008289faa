"""Linking: public links to files and folders of the drive."""

import json
import time

from fusefs.cli.asking import ask, await_sent, live_node, path_in_mount
from fusefs.cli.flowing import seconds_of
from fusefs.cli.server import asked_server, signed_in_account
from fusefs.cli.showing import shown
from fusefs.cli.signing_in import asked_password
from fusefs.control import Refused
from remote.protocol.account import LinkEntry, LinkRequest
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.times import iso


def make(
    path: str, *, kind: str, expires: str | None, has_password: bool, is_on_stdin: bool, downloads: int, as_json: bool
) -> None:
    """Makes a link to the path and prints its address; raises Refused."""
    relative = path_in_mount(path)
    expires_ns = 0 if expires is None else time.time_ns() + int(seconds_of(expires) * 1e9)
    password = asked_password("Password of the link", is_on_stdin=is_on_stdin) if has_password or is_on_stdin else ""
    live_node(path)
    await_sent(path)
    account = signed_in_account()
    where = ask("where", path=relative)
    request = LinkRequest(SpaceId(where["space"]), NodeId(where["node"]), kind, expires_ns, password, downloads)
    made = asked_server(lambda service: service.make_link(request))
    if as_json:
        print(json.dumps(_as_json(account.url, made), indent=2))
    else:
        print(f"{account.url}{made.path}")


def listing(*, as_json: bool) -> None:
    """Prints the links that were not revoked; raises Refused."""
    account = signed_in_account()
    found = asked_server(lambda service: service.links()).links
    if as_json:
        print(json.dumps([_as_json(account.url, entry) for entry in found], indent=2))
        return
    for entry in found:
        print(f"{account.url}{entry.path}  {_where(entry)}")
        print(f"    {_told(entry)}")
    if not found:
        print("There are no links.")


def revoke(which: str) -> None:
    """Ends a link, by its address or its number; raises Refused."""
    account = signed_in_account()
    found = asked_server(lambda service: service.links()).links
    matching = [entry for entry in found if which in {str(entry.link), entry.path, f"{account.url}{entry.path}"}]
    if not matching:
        raise Refused(f"You have no link {shown(which)}: satchel link list lists what there is.")
    asked_server(lambda service: service.revoke_link(matching[0].link))
    print(f"The link to {_where(matching[0])} is over.")


def _where(entry: LinkEntry) -> str:
    removed = "" if entry.name else "(removed)"
    return " ".join(part for part in (shown(entry.leads_to or entry.name), removed) if part)


def _told(entry: LinkEntry) -> str:
    what = {"read": "to download", "view": "to look at", "upload": "to bring files"}[entry.kind]
    parts = [what]
    if entry.has_password:
        parts.append("with a password")
    if entry.expires_ns:
        parts.append(f"until {iso(entry.expires_ns)}")
    if entry.kind != "upload":
        most = f" of {entry.downloads_max}" if entry.downloads_max else ""
        parts.append(f"{entry.downloads}{most} downloads")
    if entry.is_over:
        parts.append("it is over")
    return ", ".join(parts)


def _as_json(url: str, entry: LinkEntry) -> dict[str, object]:
    return {
        "link": entry.link,
        "url": f"{url}{entry.path}",
        "name": entry.name,
        "leads_to": entry.leads_to,
        "kind": entry.kind,
        "created_ns": entry.created_ns,
        "expires_ns": entry.expires_ns,
        "has_password": entry.has_password,
        "downloads": entry.downloads,
        "downloads_max": entry.downloads_max,
        "is_over": entry.is_over,
    }
