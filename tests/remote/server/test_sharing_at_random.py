"""Sharing at random: whatever three users do in whatever order, what the server keeps of it fits together."""

import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from remote.protocol.errors import RemoteError, ServerFault
from remote.protocol.history import Done as ActDone
from remote.protocol.history import RewindRequest
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Change, Done, FolderQuery, Listing, ListRequest
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.protocol.sharing import (
    OWNER,
    ROLES,
    Group,
    GroupMemberRequest,
    GroupRequest,
    PermitRequest,
    RevokeRequest,
    Shared,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
    Wish,
)
from remote.server.accounts import Accounts
from remote.server.database import accounts as account_rows
from remote.server.database import sharing as rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.retention import every_space
from remote.server.database.upkeep import nodes_after
from remote.server.edits import By, Edits, Place
from remote.server.instance import Instance
from remote.server.membership import permitted
from remote.server.states import decode_state

pytestmark = pytest.mark.anyio

NAMES = ("ann", "bob", "carol")
STEPS = 150


@dataclass
class Play:
    """What was done, by chance, and what is known to do it to."""

    chance: random.Random
    users: dict[str, Any]
    state: NodeState
    """Of a file, to be made another."""
    edits: Edits
    accounts: Accounts
    spaces: list[int] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def who(self) -> str:
        return self.chance.choice(NAMES)

    def whom(self) -> str:
        return self.chance.choice((*NAMES, "team"))

    def role(self) -> str:
        return self.chance.choice(ROLES)

    def space(self) -> SpaceId:
        return SpaceId(self.chance.choice(self.spaces[-3:]) if self.spaces else 5)

    async def step(self) -> None:
        """One thing that somebody tries; refusals are part of it, faults are not."""
        name, what = self.who(), self.chance.choice(ACTS)
        try:
            told = await what(self, self.users[name])
            self.done.append(f"{name} {what.__name__}: {told}")
        except ServerFault:
            raise
        except RemoteError as error:
            self.done.append(f"{name} {what.__name__}: refused, {error}")


async def folder(play: Play, user: Any) -> object:
    """A folder with two files, somewhere in the home."""
    parent = await folder_of(play, user, user.home)
    node = await user.new_id()
    outer = replace(play.state, kind=Kind.FOLDER, content=None, names=(Name(parent, b"%d" % node),))
    changes = [Change(node, Rev(0), 1, outer)]
    for name in (b"one", b"two"):
        inner = replace(play.state, names=(Name(node, name),), content=Manifest(5, b"12345"))
        changes.append(Change(await user.new_id(), Rev(0), 1, inner))
    return (await user.commit(*changes)).rev


async def folder_of(play: Play, user: Any, space: int) -> NodeId:
    """Some folder of a space."""
    found, waiting = [ROOT], [ROOT]
    while waiting:
        answer = await user.in_space("list", ListRequest((FolderQuery(waiting.pop()),)), Listing, space)
        below = [one.node for one in answer.folders[0].children if one.state.kind is Kind.FOLDER]
        found += below
        waiting += below
    return play.chance.choice(found)


async def edit(play: Play, user: Any) -> object:
    """A new file in a shared space, or in what may be none of the user's."""
    space = play.space()
    parent = await folder_of(play, user, space)
    node = await user.new_id()
    state = replace(play.state, names=(Name(parent, b"%d" % node),), content=Manifest(7, b"1234567"))
    return (await user.commit(Change(node, Rev(0), 1, state), space=space)).rev


async def remove(play: Play, user: Any) -> object:
    """Takes something away, as far as that goes."""
    space = play.chance.choice([user.home, play.space()])
    parent = await folder_of(play, user, space)
    answer = await user.in_space("list", ListRequest((FolderQuery(parent),)), Listing, space)
    if not answer.folders[0].children:
        return None
    child = play.chance.choice(answer.folders[0].children)
    return (await user.commit(Change(child.node, child.rev, 1, None), space=space)).reason


async def share(play: Play, user: Any) -> object:
    node = await folder_of(play, user, user.home)
    others = [name for name in NAMES if play.users[name] is not user]
    wishes = tuple(Wish(name, play.role()) for name in play.chance.sample(others, play.chance.randint(0, 2)))
    request = ShareRequest(user.home, node, wishes)
    made = await user.ask("POST", "/v1/shares/make", request, Shared)
    if made.is_new:
        play.spaces.append(made.space)
    return made.space


async def permit(play: Play, user: Any) -> object:
    request = PermitRequest(play.space(), play.whom(), play.role())
    return await user.ask("POST", "/v1/shares/permit", request, Done) and request


async def revoke(play: Play, user: Any) -> object:
    request = RevokeRequest(play.space(), play.whom())
    return await user.ask("POST", "/v1/shares/revoke", request, Done) and request


async def transfer(play: Play, user: Any) -> object:
    request = TransferRequest(play.space(), play.whom())
    return await user.ask("POST", "/v1/shares/transfer", request, Done) and request


async def accept(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/shares/accept", SharedSpaceRequest(play.space()), Shared)


async def decline(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/shares/decline", SharedSpaceRequest(play.space()), Done)


async def leave(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/shares/leave", SharedSpaceRequest(play.space()), Done)


async def end(play: Play, user: Any) -> object:
    request = SharedSpaceRequest(play.space())
    return await user.ask("POST", "/v1/shares/end", request, Done) and request


async def make_group(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/groups/make", GroupRequest("team"), Group)


async def end_group(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/groups/remove", GroupRequest("team"), Done)


async def join(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/groups/add-member", GroupMemberRequest("team", play.who()), Done)


async def part(play: Play, user: Any) -> object:
    return await user.ask("POST", "/v1/groups/remove-member", GroupMemberRequest("team", play.who()), Done)


async def rewind(play: Play, user: Any) -> object:
    space = play.chance.choice([user.home, play.space()])
    head = next(one.head for one in (await user.spaces()).spaces if one.space == user.home)
    to = Rev(play.chance.randint(1, head))
    return (await user.in_space("rewind", RewindRequest(secrets.token_bytes(16), ROOT, to), ActDone, space)).rev


async def bring(play: Play, user: Any) -> object:
    """Moves or copies something to somewhere else, out of a space into another one as often as not."""
    source, target = (play.chance.choice([user.home, play.space()]) for _ in range(2))
    listed = await user.in_space(
        "list", ListRequest((FolderQuery(await folder_of(play, user, source)),)), Listing, source
    )
    to = await folder_of(play, user, target)
    if not listed.folders[0].children:
        return None
    node = play.chance.choice(listed.folders[0].children).node
    place = Place(Name(to, b"%d" % play.chance.randint(0, 20)), target, replaces=play.chance.random() < 0.5)
    verb = play.edits.move if play.chance.random() < 0.6 else play.edits.copy
    by = By((await play.accounts.device(user.login.token)).user)
    return source, target, await verb(by, source, node, place)


ACTS: tuple[Callable[[Play, Any], Awaitable[object]], ...] = (
    *(folder, folder, edit, edit, edit, remove, remove, share, share, share, permit, permit, revoke, transfer),
    *(
        bring,
        bring,
        bring,
        bring,
        accept,
        accept,
        accept,
        accept,
        decline,
        leave,
        end,
        make_group,
        end_group,
        join,
        join,
        part,
        rewind,
    ),
)


def faults(session: Session) -> list[str]:
    """What does not fit together."""
    found: list[str] = []
    owners: dict[int, int] = {}
    for user in account_rows.users(session):
        account = account_rows.account(session, user)
        assert account is not None
        for space in account_rows.mounts(session, user):
            found += _wrong_member(session, account, space)
        invited = {row.space for row in rows.invitations(session, user)}
        found += [
            f"{user} is invited to {space} for nothing" for space in invited if not permitted(session, space, user)
        ]
        found += [f"{user} is invited where he is" for space in invited if space_rows.role_of(session, space, user)]
    alive: dict[int, int] = {}
    for space in every_space(session):
        row = space_rows.space_row(session, space)
        assert row is not None
        size = 0
        for node in _nodes(session, space):
            size += node.size if node.state is not None else 0
            if node.state is None or node.node == ROOT:
                continue
            if node.node in alive:
                found.append(f"node {node.node} is in {alive[node.node]} and in {space}")
            alive[node.node] = space
        if row.used != size:
            found.append(f"{space} counts {row.used} bytes and has {size}")
        paid = [space_rows.space_row(session, each) for each in space_rows.paid_by(session, space)]
        if row.shared_used != sum(each.used for each in paid if each is not None):
            found.append(f"{space} counts {row.shared_used} bytes in shared folders")
        owners[space] = len([1 for _, role in space_rows.members(session, space) if role == OWNER])
        is_ended = bool(row.payer) and space not in space_rows.paid_by(session, row.payer)
        if owners[space] != (0 if is_ended else 1):
            found.append(f"{space} has {owners[space]} owners")
    return found


def _wrong_member(session: Session, account: Any, space: SpaceId) -> list[str]:
    role, node = space_rows.role_of(session, space, account.user), account_rows.mount_node(session, account.user, space)
    if space == account.home:
        return [] if role == OWNER and not node else ["a home is not its owner's"]
    row = trees.node_row(session, account.home, node)
    found = []
    if row is None or row.state is None or decode_state(row.state).mounts != space:
        found.append(f"{node} does not stand for {space} in the home of {account.user_name}")
    if role != OWNER and role != permitted(session, space, account.user):
        found.append(f"{account.user_name} is {role} in {space}, and may be {permitted(session, space, account.user)}")
    return found


def _nodes(session: Session, space: SpaceId) -> list[trees.NodeRow]:
    found, after = [], 0
    while ids := nodes_after(session, space, after, 1_000):
        found += [row for node, _ in ids if (row := trees.node_row(session, space, node)) is not None]
        after = ids[-1][0]
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_done_fits_together(
    seed: int, sign_in: Callable[[str], Awaitable[Any]], instance: Instance, build: Any
) -> None:
    users = {name: await sign_in(name) for name in NAMES}
    play = Play(random.Random(seed), users, build.file(b"x"), instance.edits, instance.accounts)
    for _ in range(STEPS):
        await play.step()
        wrong = instance.database.read_now(faults)
        assert not wrong, "\n".join([f"seed {seed}:", *play.done[-12:], *wrong])
    refused = sum("refused" in line for line in play.done)
    assert play.spaces
    assert refused < 0.9 * STEPS
