"""Jobs follow the journals: each change once, from wherever they were, whatever happens meanwhile."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from remote.protocol.errors import ChunkDamaged
from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.nodes import Manifest
from remote.server.database import jobs as rows
from remote.server.instance import Instance
from remote.server.jobs import following, running
from remote.server.jobs.following import Batch, Changed, Follower, Job, NotNow, TableCursors, Trouble
from remote.server.jobs.load import Load
from remote.server.jobs.running import Jobs, catch_up

pytestmark = pytest.mark.anyio


class Recorder(Job):
    """A job that remembers what it was given; `fails` is asked before each."""

    name = "recorder"

    def __init__(self, instance: Instance) -> None:
        self.cursors = TableCursors(instance.database, self.name)
        self.taken: list[Changed] = []
        self.contents: dict[NodeId, bytes] = {}
        self.fails: Callable[[Changed], Exception | None] = lambda _: None
        self.started_over: list[SpaceId] = []
        self.is_closed = False
        self.wanted = 0
        self.arrived = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def take(self, batch: Batch) -> Sequence[Trouble]:
        for one in batch:
            error = self.fails(one)
            if error is not None:
                raise error
            if one.state is not None and one.state.content is not None:
                self.contents[one.node] = b"".join(batch.content(one.state))
            self.taken.append(one)
            if len(self.taken) == self.wanted:
                self.loop.call_soon_threadsafe(self.arrived.set)
        return ()

    def start_over(self, space: SpaceId) -> None:
        self.started_over.append(space)
        self.cursors.end(space)

    def close(self) -> None:
        self.is_closed = True

    @property
    def names(self) -> list[bytes]:
        """Of those that are so now, in the order in which they came; a removed one has none."""
        return [one.state.names[0].name if one.state else b"(removed)" for one in self.taken if one.is_now]


@pytest.fixture
async def job(instance: Instance) -> Recorder:
    return Recorder(instance)


@pytest.fixture
async def follower(instance: Instance, job: Recorder) -> Follower:
    return Follower(job, instance.database, instance.keyring, instance.contents, threading.Event())


def troubles(instance: Instance, space: SpaceId) -> list[tuple[int, str]]:
    found = instance.database.read_now(lambda session: rows.troubles_after(session, space, "recorder", NodeId(0), 99))
    return [(one.node, one.reason) for one in found]


async def test_a_new_job_sees_the_present_once_and_then_what_comes(
    ann: Any, job: Recorder, follower: Follower, build: Any
) -> None:
    node = await ann.new_file(b"a.txt", ROOT, Manifest(3, b"one"))
    await ann.made(build.change(node, build.file(b"b.txt", ROOT, Manifest(3, b"two")), 2))
    gone = await ann.new_file(b"gone")
    await ann.made(build.change(gone, None, 4))
    catch_up(follower, [ann.home])
    assert job.names == [b"", b"b.txt"]
    assert job.contents[node] == b"two"
    catch_up(follower, [ann.home])
    assert len(job.taken) == 2
    await ann.made(build.change(node, build.file(b"c.txt", ROOT, Manifest(5, b"three")), 3))
    await ann.made(build.change(node, None, 6))
    other = await ann.new_folder(b"folder")
    catch_up(follower, [ann.home])
    assert [(one.node, one.rev, one.is_now) for one in job.taken[2:]] == [
        (node, 6, False),
        (node, 7, True),
        (other, 8, True),
    ]
    assert job.contents[node] == b"three"


async def test_it_goes_on_in_the_middle_of_the_present_and_of_a_commit(
    ann: Any, job: Recorder, follower: Follower, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BATCH", 3)
    nodes = [await ann.new_id() for _ in range(7)]
    await ann.made(*[build.change(node, build.file(b"%d" % node)) for node in nodes])
    while follower.step(ann.home):
        pass
    # The top, too.
    assert [one.node for one in job.taken] == [ROOT, *nodes]
    job.taken.clear()
    await ann.made(*[build.change(node, build.file(b"n%d" % node), 2) for node in nodes])
    assert follower.step(ann.home)
    other = await ann.new_file(b"other")
    # Another run, from what is kept.
    again = Follower(job, follower._database, follower._keyring, follower._contents, threading.Event())
    catch_up(again, [ann.home])
    assert [one.node for one in job.taken] == [*nodes, other]


async def test_a_file_that_fails_is_noted_and_holds_nothing_up(
    instance: Instance, ann: Any, job: Recorder, follower: Follower, build: Any
) -> None:
    await ann.new_file(b"a")
    bad = await ann.new_file(b"bad")
    await ann.new_file(b"c")
    job.fails = lambda one: ChunkDamaged("It is broken.") if one.node == bad else None
    catch_up(follower, [ann.home])
    assert set(job.names) == {b"", b"a", b"c"}
    assert troubles(instance, ann.home) == [(bad, "It is broken.")]
    job.taken.clear()
    catch_up(follower, [ann.home])
    assert not job.taken
    job.fails = lambda _: None
    await ann.made(build.change(bad, build.file(b"good"), 3))
    catch_up(follower, [ann.home])
    assert job.names == [b"good"]
    assert troubles(instance, ann.home) == []


@pytest.mark.logs_errors("job recorder failed at node")
async def test_a_fault_of_a_job_is_noted_and_logged(
    instance: Instance, ann: Any, job: Recorder, follower: Follower
) -> None:
    bad = await ann.new_file(b"bad")
    job.fails = lambda one: ZeroDivisionError("oh") if one.node == bad else None
    catch_up(follower, [ann.home])
    assert troubles(instance, ann.home) == [(bad, "ZeroDivisionError: oh")]


async def test_a_job_that_cannot_work_now_loses_nothing(
    instance: Instance, ann: Any, job: Recorder, follower: Follower
) -> None:
    await ann.new_file(b"a")
    job.fails = lambda _: NotNow("The scanner is away.")
    with pytest.raises(NotNow):
        catch_up(follower, [ann.home])
    job.fails = lambda _: None
    catch_up(follower, [ann.home])
    assert job.names == [b"", b"a"]
    assert troubles(instance, ann.home) == []


async def test_a_journal_that_was_put_back_is_begun_anew(
    instance: Instance, ann: Any, job: Recorder, follower: Follower
) -> None:
    await ann.new_file(b"a")
    catch_up(follower, [ann.home])
    cursor = job.cursors.cursor(ann.home)
    assert cursor is not None
    for other in (
        rows.Cursor(cursor.life, Rev(cursor.rev + 1), cursor.ordinal, cursor.walked),
        rows.Cursor(cursor.life + 1, cursor.rev, cursor.ordinal, cursor.walked),
    ):
        job.cursors.put(ann.home, other)
        job.taken.clear()
        catch_up(follower, [ann.home])
        assert job.started_over.pop() == ann.home
        assert job.names == [b"", b"a"]


async def test_a_space_that_is_gone_is_dropped(job: Recorder, follower: Follower) -> None:
    assert not follower.step(SpaceId(77))
    assert job.started_over == [77]


async def test_a_server_runs_its_jobs_and_ends_them(
    instance: Instance, ann: Any, bob: Any, job: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(running, "RETRY_SECONDS", (0.0, 0.0))
    await ann.new_file(b"before")
    failures = [NotNow("not yet")]
    job.fails = lambda _: failures.pop() if failures else None
    job.wanted = 3
    jobs = Jobs([job], instance.database, instance.keyring, instance.contents, instance.hub)
    task = asyncio.create_task(jobs.run())
    await job.arrived.wait()
    assert sorted(job.names) == [b"", b"", b"before"]
    job.arrived.clear()
    job.wanted = 5
    await bob.new_file(b"of bob")
    await ann.new_file(b"of ann")
    await job.arrived.wait()
    assert set(job.names[3:]) == {b"of bob", b"of ann"}
    task.cancel()
    await asyncio.wait((task,))
    assert job.is_closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("job-")]


async def test_who_gives_way_pauses_a_few_times_while_others_want_the_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    load = Load()
    is_high = [True, True, False, *[True] * 10]
    monkeypatch.setattr(load, "is_high", lambda: is_high.pop(0))
    await load.give_way(0.5)
    assert paused == [0.5, 0.5]
    await load.give_way(0.25)
    assert paused == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


def test_the_load_is_high_when_less_than_half_a_processor_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, now, ticks = tmp_path / "stat", 100.0, 1_000
    monkeypatch.setattr(time, "monotonic", lambda: now)
    counted.write_text(f"cpu  9 9 9 {ticks} 100 9 9 9 0 0\n")
    load = Load(counted)
    assert not load.is_high()
    # The second look comes too soon to tell anything.
    for seconds, idle_seconds, expected in ((1.0, 0.4, True), (0.05, 0.1, True), (1.95, 1.2, False), (1.0, 2.0, False)):
        now += seconds
        ticks += round(100 * idle_seconds)
        counted.write_text(f"cpu  9 9 9 {ticks} 100 9 9 9 0 0\n")
        assert load.is_high() is expected, (seconds, idle_seconds)
    counted.unlink()
    now += 1
    assert not load.is_high()
