"""Long random plays of two users who share folders, each made from its seed alone: what is edited is not lost by it.

tests/model/run --sharing --seeds 10000
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import trio
from msgspec.structs import replace

from cache.grafts import Known
from cache.leaving import Gone
from remote.protocol.errors import BadRequest, NotAllowed, RemoteError
from remote.protocol.ids import ROOT, DeviceId, NodeId, SpaceId
from remote.protocol.nodes import Kind, Name, NodeState
from remote.protocol.sharing import (
    GroupMemberRequest,
    GroupRequest,
    Invitations,
    PermitRequest,
    RevokeRequest,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
    Wish,
)
from tests.model.device import Device, Time, check_tree
from tests.model.play import CALM_SECONDS, Play, Step, as_seen, in_no_time, quiet
from tests.model.server import GUESTS, check_invariants

ROLES = ("editor", "editor", "manager", "viewer")
EDITS = [
    *["create", "create", "create", "mkdir", "mkdir", "symlink", "write", "write", "append", "cut", "save", "save"],
    *["rename", "rename", "exchange", "link", "unlink", "rmdir", "rmtree", "chmod", "utime", "xattr", "read", "patch"],
    *["copy", "special", "replace", "peek", "peek", "deliver"],
]
BEGINNING = ["create", "create", "mkdir", "mkdir", "symlink", "link"]
GROUPS = ["gather", "gather", "scatter", "disband", "admit", "admit", "admit", "dismiss", "accept", "accept"]
GROUPS_FROM = 3_101
"""Plays of lesser seeds have no groups, as they had none when they failed."""
FULL = ["full", "full"]
FULL_FROM = 10_000
"""Disks of lesser seeds are never full."""
SHARING = ["share", "share", "share", "accept", "accept", "leave", "revoke", "permit", "end", "transfer"]
WORLD = ["wait", "wait", "wait", "wait", "offline", "online", "online", "look", "pause", "hold", "hold", "release"]
WEATHER = ["weather", "kill", "kill", "restart", "crash"]


class SharingPlay(Play):
    """Devices of two users of one server."""

    def __init__(self, home: Path, clock: Time, *, devices: int, seed: int, skews: Sequence[float]) -> None:
        super().__init__(home, clock, devices=1, seed=seed, skews=skews)
        self.has_groups = seed >= GROUPS_FROM
        numbers = [(GUESTS if one % 2 else 1) + one // 2 for one in range(devices)]
        self.devices = [
            Device(home, self.server, number, seed=seed, skew_seconds=skews[at]) for at, number in enumerate(numbers)
        ]

    # What people do

    async def _share(self, device: Device, x: int, y: int) -> None:
        """Makes a folder of the home, or what is shared already, known to the other user."""
        node, who = self._folder(device, x), _other(device)
        if self.has_groups:
            # The first is the top, which cannot be shared.
            folders = self._folders(device)[1:]
            node = folders[x % len(folders)] if folders else node
            who = _group(device) if y % 3 == 0 else who
        asked = ShareRequest(device.space, node, (Wish(who, ROLES[y % len(ROLES)]),))
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.make(asker, asked))

    async def _accept(self, device: Device, x: int, y: int) -> None:
        number = DeviceId(device.number)
        found: Invitations = self.server.share(number, lambda sharing, asker: sharing.invitations(asker))
        for one in found.invitations[:1]:
            asked = SharedSpaceRequest(one.space)
            self.server.share(number, lambda sharing, asker: sharing.accept(asker, asked))  # noqa: B023 - called here

    # Each user has one group, which the other is in or not.

    async def _gather(self, device: Device, x: int, y: int) -> None:
        """Puts the other user into the group, which is made if there is none."""
        name, number, groups = _group(device), DeviceId(device.number), self.server.groups
        with suppress(BadRequest):
            self.server.share(number, lambda _, asker: groups.make(asker, GroupRequest(name)))
        member = GroupMemberRequest(name, _other(device))
        self.server.share(number, lambda _, asker: groups.add_member(asker, member))

    async def _scatter(self, device: Device, x: int, y: int) -> None:
        """Takes the other user out of the own group, or the own one out of the other's."""
        groups = self.server.groups
        member = GroupMemberRequest(_group(device), _other(device))
        if y % 2:
            member = GroupMemberRequest(_group(device, of_other=True), _own(device))
        self.server.share(DeviceId(device.number), lambda _, asker: groups.remove_member(asker, member))

    async def _disband(self, device: Device, x: int, y: int) -> None:
        groups, asked = self.server.groups, GroupRequest(_group(device))
        self.server.share(DeviceId(device.number), lambda _, asker: groups.remove(asker, asked))

    async def _admit(self, device: Device, x: int, y: int) -> None:
        """Shares what is shared already with a group, or gives it another role."""
        group = _group(device, of_other=y % 3 == 0)
        asked = PermitRequest(self._space(device, x), group, ROLES[y % len(ROLES)])
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.permit(asker, asked))

    async def _dismiss(self, device: Device, x: int, y: int) -> None:
        asked = RevokeRequest(self._space(device, x), _group(device, of_other=y % 3 == 0))
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.revoke(asker, asked))

    def _space(self, device: Device, x: int) -> SpaceId:
        found = sorted(set(self.server.spaces_of(DeviceId(device.number))) - {device.space})
        if not found:
            raise NotAllowed("there is nothing to choose from")
        return found[x % len(found)]

    async def _leave(self, device: Device, x: int, y: int) -> None:
        asked = SharedSpaceRequest(self._space(device, x))
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.leave(asker, asked))

    async def _revoke(self, device: Device, x: int, y: int) -> None:
        asked = RevokeRequest(self._space(device, x), _other(device))
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.revoke(asker, asked))

    async def _permit(self, device: Device, x: int, y: int) -> None:
        asked = PermitRequest(self._space(device, x), _other(device), ROLES[y % len(ROLES)])
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.permit(asker, asked))

    async def _end(self, device: Device, x: int, y: int) -> None:
        asked = SharedSpaceRequest(self._space(device, x))
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.end(asker, asked))

    async def _transfer(self, device: Device, x: int, y: int) -> None:
        asked = TransferRequest(self._space(device, x), _other(device))
        self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.transfer(asker, asked))

    # What is not noted here: which of two edits wins is for the plays of one user.

    def _note(self, device: Device, node: NodeId) -> None:
        """See Doing."""

    def _named(self, device: Device, node: NodeId) -> None:
        """See Doing."""

    def _gone(self, device: Device, node: NodeId, name: Name) -> None:
        """See Doing."""

    def _check_states(self, device: Device) -> None:
        """What is known of shared folders is what a restart would find."""
        grafts = device.grafts
        for name, kind, here in (("spaces", Known, grafts.known()), ("gone", Gone, grafts.gone())):
            value = device.tree.setting(name)
            kept = msgspec.msgpack.decode(value, type=list[kind]) if value else []  # type: ignore[valid-type]
            assert sorted(map(str, here)) == sorted(map(str, kept)), f"device {device.number}: {name}"

    def _has_come(self, node: NodeId) -> bool:
        """See Doing."""
        return bool(self.server.rows("SELECT 1 FROM node WHERE node_id = ?", node))

    # What must be true

    async def settle(self) -> None:
        """Everybody comes online, may write, has room on the disk, and does what is left to do."""
        for device in self.devices:
            device.fill(0)
            device.wire.calm()
        for device, handle, data in list(self.held):
            await self._let_go(device, handle, data)
        await trio.sleep(CALM_SECONDS)
        for reading in list(self.reading):
            # Of a folder that went, it is refused.
            with suppress(Exception):
                await self._read_on(*reading)
        for device in self.devices:
            device.sync.hold("")
            device.syncs.hold("")
            for space in set(self.server.spaces_of(DeviceId(device.number))) - {device.space}:
                with suppress(RemoteError):
                    asked = PermitRequest(space, _other(device), "editor")
                    self.server.share(DeviceId(device.number), lambda sharing, asker: sharing.permit(asker, asked))  # noqa: B023 - called here
        await quiet(*self.devices)

    async def check(self) -> None:
        """All that is shown is what the server has, and all that was written is somewhere."""
        spaces = self.server.all_spaces()
        alive = {space: self.server.alive_of(space) for space in spaces}
        seen: dict[NodeId, SpaceId] = {}
        for space, there in alive.items():
            check_invariants(there)
            for node in there:
                assert node == ROOT or seen.setdefault(node, space) == space, f"node {node} is in two spaces"
        self._check_payment()
        for device in self.devices:
            check_tree(device)
            await self._check_device(device, alive)
        kept = {
            self._bytes(version.state.content)
            for space in spaces
            for version in self.server.versions_in(space)
            if version.state is not None and version.state.content is not None
        }
        for data, where in self.written.items():
            assert data in kept, f"{data[:40]!r} ({len(data)} bytes, {where}) is lost"

    def _check_payment(self) -> None:
        rows = self.server.rows("SELECT space_id, used, payer, shared_used FROM space")
        for space, used, _, shared in rows:
            paid = sum(row[1] for row in rows if row[2] == space)
            assert shared == paid, f"space {space} pays for {shared} bytes of shared folders, not {paid}"
            sizes = sum(row[0] for row in self.server.rows("SELECT size FROM node WHERE space_id = ?", space))
            assert used == sizes, f"space {space} is said to hold {used} bytes, not {sizes}"

    async def _check_device(self, device: Device, alive: dict[SpaceId, dict[NodeId, NodeState]]) -> None:
        there = dict(alive[device.space])
        for space in set(self.server.spaces_of(DeviceId(device.number))) - {device.space}:
            tops = [node for node, state in alive[device.space].items() if state.mounts == space]
            assert len(tops) == 1, f"space {space} is mounted at {tops}"
            for node, state in alive[space].items():
                if node != ROOT:
                    names = tuple(Name(tops[0], one.name) if one.parent == ROOT else one for one in state.names)
                    there[node] = replace(state, names=names)
        here = device.local()
        assert set(here) == set(there), (
            f"device {device.number} lacks {set(there) - set(here)} and has too many {set(here) - set(there)}"
        )
        for node, state in there.items():
            assert as_seen(here[node]) == as_seen(state), f"node {node} on device {device.number}"
            if state.kind is Kind.FILE and state.content is not None:
                assert await device.content(node) == self._bytes(state.content), f"content of node {node}"
        left = [(node, record) for node, record in device.records() if record.local is None]
        assert not left, f"device {device.number} keeps {left}"
        assert not device.stagings.ids(), f"stagings are left on device {device.number}"
        assert not list((device.folder / "staging").iterdir()), f"files of stagings are left on device {device.number}"
        assert not device.stagings.total_bytes, "staged bytes are left"
        for graft in device.grafts.all.values():
            assert not graft.part.sending, "a commit is on its way for ever"
        assert not device.tree.sending, "a commit is on its way for ever"


def _other(device: Device) -> str:
    return "guest" if device.number < GUESTS else "u"


def _own(device: Device) -> str:
    return "u" if device.number < GUESTS else "guest"


def _group(device: Device, *, of_other: bool = False) -> str:
    return f"friends of {_other(device) if of_other else _own(device)}"


def sharing_play(seed: int) -> None:
    """The play of this seed; raises what was wrong, after its log."""
    rng = random.Random(seed)
    devices = rng.choice((2, 3, 3, 4))
    sharing = SHARING * rng.choice((1, 2)) + (GROUPS if seed >= GROUPS_FROM else [])
    verbs = EDITS + sharing + WORLD + (WEATHER if rng.random() < 0.7 else []) + (FULL if seed >= FULL_FROM else [])

    def some(verbs: list[str], count: int) -> list[Step]:
        return [
            Step(rng.choice(verbs), rng.randrange(devices), rng.randrange(100), rng.randrange(100))
            for _ in range(count)
        ]

    beginning = [*some(BEGINNING, rng.choice((6, 12))), Step("wait", 0, 4, 0)]
    steps = [*beginning, *some(verbs, rng.choice((20, 40, 80)))]
    skews = [rng.choice((0, 0, 30, -4_000)) for _ in range(devices)]
    log: list[str] = []

    async def play(home: Path, clock: Time) -> None:
        this = SharingPlay(home, clock, devices=devices, seed=seed, skews=skews)
        this.log = log
        await this.run(steps)

    try:
        in_no_time(play, seed=seed)
    except BaseException:
        print("\n".join(log))
        raise
