"""Sharing: folders of the drive that others see, too; invitations, roles and groups."""

import json
import os

from fusefs.cli.asking import await_sent, confirm, live_node
from fusefs.cli.server import asked_server, chosen, signed_in_account
from fusefs.cli.showing import shown, word
from fusefs.control import Exit, Refused
from remote.client.account import AccountService
from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.messages import Space
from remote.protocol.sharing import EDITOR, ROLES, Group, Invitation, Member, Members, Wish
from remote.protocol.sizes import shown_size, size_of
from remote.protocol.times import iso


def share(path: str, wishes: tuple[str, ...], *, as_json: bool) -> None:
    """Shares the path with users and groups, each as NAME or NAME:ROLE; raises Refused."""
    node = live_node(path)
    wanted = tuple(_wish(text) for text in wishes)
    await_sent(path, may_follow=True)
    home = SpaceId(signed_in_account().space)
    made = asked_server(lambda service: service.sharing.share(home, node, wanted))
    if as_json:
        print(json.dumps({"space": made.space, "name": made.name, "is_new": made.is_new}, indent=2))
        return
    if made.is_in_new_folder:
        print(f"{shown(path)} is in a new folder beside it now, {shown(made.name)}, which is shared.")
        path = os.path.join(os.path.dirname(path.rstrip("/")), made.name)
    who = ", ".join(f"{shown(wish.who)} ({wish.role})" for wish in wanted)
    print(f"{shown(made.name)} is shared with {who}. Who did not accept yet: satchel share {word(path)}")


def who(path: str, *, as_json: bool) -> None:
    """Prints with whom the path is shared; raises Refused."""
    node = live_node(path)

    async def look(service: AccountService) -> Members | None:
        space = await _space_of(service, node)
        return await service.sharing.members(space.space) if space is not None else None

    found = asked_server(look)
    members = found.members if found is not None else ()
    if as_json:
        print(json.dumps([_member_as_json(member) for member in members], indent=2))
        return
    if found is None:
        above = _shared_above(path)
        if above is None:
            print(f"{shown(path)} is not shared. To share it: satchel share {word(path)} --with NAME")
        else:
            print(f"{shown(path)} is in a shared folder. Who has that: satchel share {word(above)}")
        return
    width = max(len(shown(member.who)) for member in members)
    for member in members:
        standing = {"invited": "invited, has not accepted yet", "declined": "declined, or left"}.get(
            member.standing, member.kind if member.kind == "group" else ""
        )
        parts = (f"{shown(member.who):{width}}", f"{member.role:7}", standing, _by_groups(member))
        print("  ".join(part for part in parts if part).rstrip())
    bound = f" of {shown_size(found.limit)}" if found.limit else ""
    print(f"{shown_size(found.used)}{bound} are in it, which count for {shown(members[0].who)}.")


def unshare(path: str, name: str | None, *, is_sure: bool) -> None:
    """Takes away what a user or group was granted, or (no name) stops sharing the path; raises Refused."""
    space = _shared_space(path)
    if name is not None:
        asked_server(lambda service: service.sharing.revoke(space.space, name))
        print(f"{shown(space.name)} is not shared with {shown(name)} any more.")
        return
    if not is_sure:
        confirm(
            f"{shown(path)} would be an ordinary folder again, and all others would lose it.",
            f"{shown(path)} becomes an ordinary folder again, and all others lose it.",
            "Nothing was done.",
        )
    asked_server(lambda service: service.sharing.end(space.space))
    print(f"{shown(path)} is an ordinary folder again, with all that was in it.")


def transfer(path: str, name: str) -> None:
    """Makes another member the owner; raises Refused."""
    space = _shared_space(path)
    if name == space.owner_name:
        raise Refused(f"{shown(space.name)} belongs to {shown(name)} already.")
    asked_server(lambda service: service.sharing.transfer(space.space, name))
    print(f"{shown(space.name)} belongs to {shown(name)} now, whose quota it counts for; you are a manager of it.")


def limit(path: str, size: str) -> None:
    """Bounds what may be in a shared folder; raises Refused."""
    try:
        size_bytes = size_of(size)
    except ValueError as error:
        raise Refused(f"--limit {shown(size)}: it is a size such as 5G, or 0.", Exit.USAGE) from error
    space = _shared_space(path)
    asked_server(lambda service: service.sharing.limit(space.space, size_bytes))
    bound = f"at most {shown_size(size_bytes)} may be in it" if size_bytes else "its owner's quota alone bounds it"
    print(f"{shown(space.name)}: {bound}.")


def leave(path: str) -> None:
    """Ends this user's membership; raises Refused."""
    space = _shared_space(path)
    asked_server(lambda service: service.sharing.leave(space.space))
    print(f"You left {shown(space.name)}. As long as it is granted to you: satchel accept {space.space}")


def shared_with_me(*, as_json: bool) -> None:
    """Prints shared folders that the user is a member of, and invitations; raises Refused."""

    async def look(service: AccountService) -> tuple[list[Space], tuple[Invitation, ...]]:
        spaces = [space for space in (await service.sharing.spaces()).spaces if space.mount]
        return spaces, (await service.sharing.invitations()).invitations

    spaces, invitations = asked_server(look)
    if as_json:
        told = {
            "folders": [_space_as_json(space) for space in spaces],
            "invitations": [_invitation_as_json(invitation) for invitation in invitations],
        }
        print(json.dumps(told, indent=2))
        return
    for space in spaces:
        print(f"{shown(space.name)}  of {shown(space.owner_name)}  {space.role}  {shown_size(space.used)}")
    for invitation in invitations:
        verb = "declined or left" if invitation.is_declined else f"invited by {shown(invitation.invited_by)}"
        what = f"{shown(invitation.name)}  of {shown(invitation.owner_name)}  {invitation.role}"
        print(f"{what}  {verb} {iso(invitation.invited_ns)}: satchel accept {invitation.space}")
    if not spaces and not invitations:
        print("Nothing is shared with you, and you share nothing.")


def accept(which: str) -> None:
    """Accepts an invitation, by the folder's name or the space's number; raises Refused."""
    invitation = _invitation(which)
    asked_server(lambda service: service.sharing.accept(invitation.space))
    print(f"{shown(invitation.name)} is at the top of your drive, or will be within seconds. You may move it.")


def decline(which: str) -> None:
    """Declines an invitation; raises Refused."""
    invitation = _invitation(which)
    asked_server(lambda service: service.sharing.decline(invitation.space))
    print(f"Declined. Should you want it after all: satchel accept {invitation.space}")


def groups(*, as_json: bool) -> None:
    """Prints the groups that the user owns or is in; raises Refused."""
    found = asked_server(lambda service: service.sharing.groups()).groups
    if as_json:
        print(json.dumps([_group_as_json(group) for group in found], indent=2))
        return
    for group in found:
        whose = "yours" if group.is_own else f"of {shown(group.owner_name)}"
        print(f"{shown(group.name)}  {whose}  {', '.join(map(shown, group.members)) or '(nobody is in it)'}")
    if not found:
        print("There are no groups.")


def add_group(name: str) -> None:
    """Makes a group; raises Refused."""
    asked_server(lambda service: service.sharing.make_group(name))
    print(f"The group {shown(name)} is made. To put somebody into it: satchel group member {word(name)} USER")


def remove_group(name: str) -> None:
    """Ends a group; raises Refused."""
    asked_server(lambda service: service.sharing.remove_group(name))
    print(f"The group {shown(name)} is gone; who had folders by it alone lost them.")


def group_member(name: str, who_: str, *, is_removing: bool) -> None:
    """Puts a user into a group, or takes him out; raises Refused."""
    if is_removing:
        asked_server(lambda service: service.sharing.remove_group_member(name, who_))
        print(f"{shown(who_)} is not in {shown(name)} any more.")
    else:
        asked_server(lambda service: service.sharing.add_group_member(name, who_))
        print(f"{shown(who_)} is in {shown(name)}, and invited to what is shared with it.")


def _wish(text: str) -> Wish:
    name, colon, role = text.rpartition(":")
    if not colon:
        return Wish(text, EDITOR)
    if role not in ROLES:
        raise Refused(f"{shown(text)}: behind the name comes one of {', '.join(ROLES)}.", Exit.USAGE)
    return Wish(name, role)


async def _space_of(service: AccountService, node: NodeId) -> Space | None:
    spaces = (await service.sharing.spaces()).spaces
    return next((space for space in spaces if space.mount == node), None)


def _shared_above(path: str) -> str | None:
    """The shared folder that the path is in."""
    spaces = asked_server(lambda service: service.sharing.spaces()).spaces
    mounts = {space.mount for space in spaces if space.mount}
    at = os.path.realpath(path)
    while (at := os.path.dirname(at)) != "/" and not os.path.ismount(at):
        if os.lstat(at).st_ino in mounts:
            return at
    return None


def _shared_space(path: str) -> Space:
    node = live_node(path)
    found = asked_server(lambda service: _space_of(service, node))
    if found is None:
        raise Refused(f"{shown(path)} is not a shared folder itself: satchel shared lists them.")
    return found


def _invitation(which: str) -> Invitation:
    found = asked_server(lambda service: service.sharing.invitations()).invitations
    return chosen(which, found, lambda one: (one.space, one.name), "invitation to", "satchel shared")


def _by_groups(member: Member) -> str:
    """By which groups somebody has his role; a role of his own is told apart from what a group adds nothing to."""
    names = ", ".join(map(shown, member.groups))
    if not names:
        return ""
    return f"also by {names}" if member.is_own else f"by {names}"


def _member_as_json(member: Member) -> dict[str, object]:
    return {
        "who": member.who,
        "kind": member.kind,
        "role": member.role,
        "standing": member.standing,
        "groups": list(member.groups),
        "is_own": member.is_own,
    }


def _space_as_json(space: Space) -> dict[str, object]:
    return {
        "space": space.space,
        "name": space.name,
        "owner": space.owner_name,
        "role": space.role,
        "used_bytes": space.used,
    }


def _invitation_as_json(invitation: Invitation) -> dict[str, object]:
    return {
        "space": invitation.space,
        "name": invitation.name,
        "owner": invitation.owner_name,
        "role": invitation.role,
        "invited_by": invitation.invited_by,
        "invited_ns": invitation.invited_ns,
        "is_declined": invitation.is_declined,
    }


def _group_as_json(group: Group) -> dict[str, object]:
    return {"name": group.name, "owner": group.owner_name, "members": list(group.members), "is_own": group.is_own}
