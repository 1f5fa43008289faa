"""A play: devices and what people do with them, step by step, and what must be true at the end.

A step is a tuple of small numbers, so that hypothesis can make, shrink and repeat plays; what a number means is
decided by what the device has at that moment.
"""

import random
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from cache.errors import CacheError
from fusefs.errors import VolumeError
from fusefs.xattrs import ExtendedAttributes
from remote.protocol import deltas
from remote.protocol.errors import RemoteError
from remote.protocol.ids import DeviceId, NodeId
from remote.protocol.manifests import decode_leaf
from remote.protocol.nodes import Entry, Kind, Manifest, Name, NodeState
from remote.protocol.sealing import open_chunk, open_leaf
from tests.model.acting import Acting
from tests.model.device import Device, Time, check_tree
from tests.model.doing import stem
from tests.model.server import IN_MEMORY, SPACE, Desk, check_invariants, new_database, skew_ns

QUIET_SECONDS = 4_000
STEPS_MAX = 300_000
"""Turns of tasks in one play: most take some thousands. One that goes round in no time is not ended by its clock."""
CALM_SECONDS = 3
"""After so long nothing is on its way that was sent before the weather got better."""
_LABEL = re.compile(rb" \((device |restored|ignored here|\d{4}-\d\d-\d\dT)")
"""In names of what `resolve` and the trash put beside what has its name."""
EXPECTED = (VolumeError, CacheError, RemoteError, trio.TooSlowError)


class Step(NamedTuple):
    """What is done next, by which device, and numbers to choose by."""

    verb: str
    device: int
    x: int
    y: int


async def quiet(*devices: Device, is_whole: bool = True) -> None:
    """Everybody comes online and does what is left to do; unless it `is_whole`, folders need not be listed."""
    for device in devices:
        device.wire.calm()
    deadline = trio.current_time() + QUIET_SECONDS
    while not all(device.is_quiet(is_whole=is_whole) for device in devices):
        await trio.sleep(1)
        if trio.current_time() > deadline:
            raise AssertionError("\n".join(device.why_not_quiet() for device in devices))


class Play(Acting):
    """Runs steps on devices of one server, and checks what must be true."""

    async def run(self, steps: Sequence[Step]) -> None:
        """All steps; then everybody comes online, gets quiet, and everything is checked."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for device in self.devices:
                await device.start(nursery)
            await trio.sleep(2)
            for step in steps:
                await self.take(step)
            await self.settle()
            await self.check()
            for device in self.devices:
                await device.stop()

    async def take(self, step: Step) -> None:
        """One step."""
        device = self.devices[step.device % len(self.devices)]
        job: Callable[[Device, int, int], Awaitable[object]] = getattr(self, f"_{step.verb}")
        token = skew_ns.set(lambda: device.skew)
        note = "ok"
        try:
            await job(device, step.x, step.y)
        except EXPECTED as error:
            note = f"{type(error).__name__}: {error}"
        finally:
            skew_ns.reset(token)
        self.log.append(f"{trio.current_time():9.3f} {step.device} {step.verb} {step.x} {step.y}: {note}")
        for each in self.devices:
            self._check_states(each)
        await trio.lowlevel.checkpoint()

    async def settle(self) -> None:
        """Everybody comes online and does what is left to do."""
        for device in self.devices:
            device.fill(0)
            device.wire.calm()
        for device, handle, data in list(self.held):
            await self._let_go(device, handle, data)
        # What was on its way when the weather was bad may be lost yet, with those who wait for it.
        await trio.sleep(CALM_SECONDS)
        for reading in list(self.reading):
            await self._read_on(*reading)
        for device in self.devices:
            device.sync.hold("")
        self.server.quota = 0
        lazy = [device for device in self.devices if not device.is_walking]
        if lazy:
            await quiet(*self.devices, is_whole=False)
        for device in lazy:
            await device.stop()
            device.is_walking = True
            await device.start(self.nursery)
        await quiet(*self.devices)
        # What could not be fetched is tried again within a minute.
        with trio.move_on_after(QUIET_SECONDS):
            while any(device.pins.kept().missing_files for device in self.devices):  # noqa: ASYNC110 - test clock
                await trio.sleep(1)

    # What the world does

    async def _wait(self, device: Device, x: int, y: int) -> None:
        await trio.sleep((0.001, 0.01, 0.05, 0.3, 2, 10)[x % 6])

    async def _offline(self, device: Device, x: int, y: int) -> None:
        device.wire.set_up(False)

    async def _online(self, device: Device, x: int, y: int) -> None:
        device.wire.set_up(True)
        device.sync.retry_now()

    async def _weather(self, device: Device, x: int, y: int) -> None:
        device.wire.loss = (0, 0.1, 0.5)[x % 3]
        device.wire.delay_seconds = (0, 0.05, 1.0)[y % 3]
        device.wire.echo = (0, 0, 0.3)[(x // 3) % 3]

    async def _forget(self, device: Device, x: int, y: int) -> None:
        """The server's journal begins anew: who was away too long must start over."""
        self.server.floor = self.server.head

    async def _crash(self, device: Device, x: int, y: int) -> None:
        """The server is killed and starts again."""
        self.server.crash()

    async def _kill(self, device: Device, x: int, y: int) -> None:
        await self._kill_with(device, lambda folder: None)

    async def _restart(self, device: Device, x: int, y: int) -> None:
        device.fill(0)
        for held in [held for held in self.held if held[0] is device]:
            await self._let_go(*held)
        for reading in [reading for reading in self.reading if reading[0] is device]:
            with suppress(*EXPECTED):
                await self._read_on(*reading)
        await device.stop()
        await device.start(self.nursery)

    async def _pause(self, device: Device, x: int, y: int) -> None:
        """`satchel pause`: nothing is sent, while news comes."""
        device.sync.hold("" if y % 2 else "paused")

    async def _clock(self, device: Device, x: int, y: int) -> None:
        """Somebody, or a battery, sets the clock: years ahead, or back to 1970; mostly it is set right."""
        years = (0, 0, 10, -1)[x % 4]
        device.skew = 100 * 10**9 - self.clock.last_ns if years < 0 else years * 365 * 86_400 * 10**9

    async def _quota(self, device: Device, x: int, y: int) -> None:
        """The server has no room for more, or has it again."""
        self.server.quota = 1 if y % 3 == 0 else 0

    async def _look(self, device: Device, x: int, y: int) -> None:
        """The indexes are right at any time, not only at the end."""
        check_tree(device)

    # What must be true

    async def check(self) -> None:
        """Everything that is promised for the end."""
        there = self.server.alive()
        check_invariants(there)
        kept = {
            self._bytes(version.state.content)
            for version in self.server.all_versions()
            if version.state is not None and version.state.content is not None
        }
        for node, (number, data) in self.private.items():
            assert data not in kept or self._is_in_step(node, number), f"what is ignored was sent: node {node} {data!r}"
        for device in self.devices:
            check_tree(device)
            ignored = {node: device.tree.record(node) for node, _ in device.tree.ignored()}
            here = {node: state for node, state in device.local().items() if node not in ignored}
            assert set(here) == set(there), (
                f"device {device.number} lacks {set(there) - set(here)} and has too many {set(here) - set(there)}"
            )
            for node, state in there.items():
                assert as_seen(here[node]) == as_seen(state), f"node {node} on device {device.number}"
                record = device.tree.record(node)
                assert record is not None, f"node {node} is not known"
                assert record.rev == self.server.now[node].rev, f"node {node}: rev {record.rev}"
                if state.kind is Kind.FILE and state.content is not None:
                    assert await device.content(node) == self._bytes(state.content), f"content of node {node}"
            for node, record in ignored.items():
                if record is not None and record.local is not None and record.local.kind is Kind.FILE:
                    kept.add(await device.content(node))
            for node, record in ignored.items():
                assert device.push.ignoring.holds(node, record), f"node {node} on device {device.number} is not ignored"
            staged = {record.staged for record in ignored.values() if record is not None and record.staged}
            assert set(device.stagings.ids()) == staged, f"stagings are left on device {device.number}"
            assert staged or not list((device.folder / "staging").iterdir()), "files of stagings are left"
            assert staged or not device.stagings.total_bytes, "staged bytes are left"
            assert not device.tree.sending, "a commit is on its way for ever"
            pinned = device.pins.kept()
            assert not pinned.missing_files, f"device {device.number} lacks content of {pinned.missing_files} pinned"
        for data, where in self.written.items():
            assert data in kept, f"{data[:40]!r} ({len(data)} bytes, {where}) is lost"
        self._check_names(there)
        self._check_removals(there)
        self._check_gone()
        await self._check_conflicts()

    def _is_in_step(self, node: NodeId, number: int) -> bool:
        """Whether something else that the server had under a name of this node was moved from there by this device.

        Then it looks like a save by rename of what stays in step.
        """
        others = [
            other
            for other in self.server.now
            for version in self.server.versions_of(other)
            if other != node and version.state is not None and self.called[node] & set(version.state.names)
        ]
        return any(device == number for other in others for device, _ in self.edits[other])

    def _check_states(self, device: Device) -> None:
        """What is said to be synced is, at any time: the server took it so, and it is so now where we heard of all."""
        is_caught_up = device.tree.cursor == self.server.head
        attributes = ExtendedAttributes(device.volume)
        for node, record in device.records():
            state = record.local
            for name in state.names if state is not None else ():
                self.kinds[name].add(state.kind)
                self.called[node].add(name)
            if state is None or state.kind is not Kind.FILE or attributes.get(node, b"user.satchel.state") != b"synced":
                continue
            there = self.server.now.get(node)
            assert there is not None, f"node {node} is said to be synced, and the server never had it"
            if record.rev == there.rev or (is_caught_up and device.tree.news_of(node) is None):
                assert there.state is not None, f"node {node} is said to be synced, and is not there any more"
                assert state.content == there.state.content, f"node {node} is said to be synced"
                continue
            taken = [one.state for one in self.server.versions_of(node) if one.rev == record.rev and one.state]
            assert any(one.content == state.content for one in taken), f"node {node} is said to be synced"

    def _check_gone(self) -> None:
        """What nobody removed is there, or became one with another of its name; and no node was made by itself."""
        called = {node: {name.name for name in names} for node, names in self.called.items()}
        for node, version in self.server.now.items():
            assert node in self.made, f"nobody made node {node}: something was made again under another id"
            if version.state is None and node not in self.removals:
                mine = called.get(node, set())
                assert any(mine & called[other] for other in called if other != node), f"node {node} is gone"

    async def _check_conflicts(self) -> None:
        """What lost is listed as a conflict, of nodes that are there."""
        lost = {
            (node, one.rev) for node in self.server.alive() for one in self.server.versions_of(node) if one.is_conflict
        }
        listed = await Desk(self.server, DeviceId(1)).conflicts(SPACE)
        told = {(one.node, one.lost.rev) for one in listed.conflicts}
        assert told <= lost, f"{told - lost} did not lose"
        assert lost - told <= self.settled, f"{lost - told - self.settled} are not listed"

    def _check_names(self, there: dict[NodeId, NodeState]) -> None:
        for state in there.values():
            for name in state.names:
                plain = stem(name.name)
                # What somebody had put beside another has its name from that.
                if plain != name.name and not _LABEL.search(plain):
                    called = {own.name for own in self.called[name.parent]}
                    folders = [each for each, names in self.called.items() if called & {own.name for own in names}]
                    kinds = {kind for folder in (*folders, name.parent) for kind in self.kinds[Name(folder, plain)]}
                    assert kinds - {state.kind}, f"{name} is a conflict copy"

    def _check_removals(self, there: dict[NodeId, NodeState]) -> None:
        for node, removal in self.removals.items():
            is_needed = any(name.parent == node for state in there.values() for name in state.names)
            if node in there and not removal.is_excused and not is_needed:
                # What was made elsewhere under the same name became an edit of this node.
                edits = self.edits[node] + [one for name in self._all_names(node) for one in self.named[name]]
                assert any(device != removal.device and at > removal.at_ns for device, at in edits), (
                    f"node {node} {there[node]} came back, removed by device {removal.device}"
                )

    def _bytes(self, manifest: Manifest) -> bytes:
        if manifest.inline or not manifest.size:
            return manifest.inline
        level: Sequence[Entry] = manifest.entries
        for _ in range(manifest.depth):
            level = [one for entry in level for one in decode_leaf(open_leaf(entry, self.server.chunk(entry.id)))]
        return b"".join(map(self._plain_of, level))

    def _plain_of(self, entry: Entry) -> bytes:
        if entry.is_hole:
            return bytes(entry.length)
        data = self.server.chunk(entry.id)
        if entry.base is None:
            return open_chunk(entry, data)
        base = self._plain_of(Entry(entry.base.id, entry.base.key, entry.base.length))
        parts = deltas.decode(entry, open_leaf(entry, data))
        return b"".join(base[part.start : part.stop] if isinstance(part, deltas.Copy) else part for part in parts)


def as_seen(state: NodeState) -> tuple[Any, ...]:
    """What a mount shows of a node."""
    return (
        state.kind,
        sorted(state.names),
        oct(state.mode),
        state.uid,
        state.gid,
        state.mtime_ns,
        state.atime_ns,
        state.birth_ns,
        state.target,
        state.xattrs,
        state.content,
    )


async def _inline(job: Callable[..., Any], *args: object, **_: object) -> object:
    await trio.lowlevel.checkpoint()
    return job(*args)


class _Patience(trio.abc.Instrument):
    """Ends a play that goes on and on, also where its clock stands still."""

    def __init__(self) -> None:
        self.steps = 0
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == STEPS_MAX:
            self.scope.cancel()


def in_no_time(job: Callable[[Path, Time], Awaitable[None]], *, seed: int = 0) -> None:
    """Runs a job on a home for devices and their clock; nobody waits for real, and it runs the same way each time."""
    clock = Time()
    new_database()
    in_thread = trio.to_thread.run_sync

    async def run_sync(job: Callable[..., Any], *args: object, **options: Any) -> object:
        # Uploads of large files call back from their thread; everything else runs at once, so that plays repeat.
        is_talking = getattr(job, "__name__", "") == "work"
        return await (in_thread(job, *args, **options) if is_talking else _inline(job, *args))

    with (
        tempfile.TemporaryDirectory(prefix="satchel-model-", dir=IN_MEMORY) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(time, "time_ns", clock)
        patch.setattr(time, "monotonic", clock.monotonic)
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        patch.setattr("cache.sync.random", random.Random(seed))
        patch.setattr("os.urandom", random.Random(seed).randbytes)
        # By which trio chooses who of those that can go on goes first; they come in an order of sets, by addresses.
        patch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr("trio._core._run._r", random.Random(seed))
        # What `secrets` draws from: never the same bytes, as these may be op ids on both sides.
        patch.setattr("random._urandom", random.Random(f"server {seed}").randbytes)
        patience = _Patience()

        async def run() -> None:
            with patience.scope:
                await job(Path(home), clock)

        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[patience])
        assert not patience.scope.cancelled_caught, f"the play did not end within {STEPS_MAX} turns of its tasks"


def perform(
    steps: Sequence[Step], *, devices: int = 2, seed: int = 0, skews: Sequence[float] = (), lazy: int = 0
) -> None:
    """Runs a play from its beginning."""
    log: list[str] = []

    async def play(home: Path, clock: Time) -> None:
        this = Play(home, clock, devices=devices, seed=seed, skews=skews, lazy=lazy)
        this.log = log
        await this.run(steps)

    try:
        in_no_time(play, seed=seed)
    except BaseException:
        print("\n".join(log))
        raise
