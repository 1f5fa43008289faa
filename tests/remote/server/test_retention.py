"""Retention: what is kept reads as it was; what is not, or is purged, is gone with all that only it named."""

import asyncio
import random
import secrets
import time
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from remote.protocol.errors import BadRequest, CursorTooOld, NotAllowed, NotFound
from remote.protocol.history import (
    Differences,
    DiffRequest,
    Done,
    Purged,
    PurgeRequest,
    PutBackRequest,
    Retention,
    RetentionRequest,
    RewindRequest,
    Trash,
    TrashRequest,
    UndoRequest,
)
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Manifest
from remote.server import acts, serving
from remote.server.database import spaces as space_rows
from remote.server.instance import Instance
from remote.server.retention import is_clock_steady, nodes_to_purge, waits_until
from remote.server.retention import purge as forgetting

pytestmark = pytest.mark.anyio
HOUR = 3_600 * 1_000_000_000
DAY = 24 * HOUR
NOW = 1_800_000_000_000_000_000


def inline(text: bytes) -> Manifest:
    return Manifest(len(text), text)


async def tree(ann: Any, as_of: int = 0, top: NodeId = ROOT, path: bytes = b"") -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    listed = (await ann.listing(top, as_of=as_of)).folders[0]
    for name, child in zip(listed.names, listed.children, strict=True):
        if child.state is not None:
            found[path + name] = (child.node, child.state)
            if child.state.kind is Kind.FOLDER:
                found |= await tree(ann, as_of, child.node, path + name + b"/")
    return found


async def edit_at_random(ann: Any, build: Any, rng: random.Random, count: int) -> None:
    """So many commits of all kinds."""
    folders, files = [ROOT], []
    states: dict[NodeId, Any] = {}
    for number in range(count):
        what = rng.choice(("make", "make", "edit", "edit", "edit", "move", "remove", "folder", "replace"))
        alive = [node for node in files if states[node] is not None]
        name = b"name-%d" % number
        if what == "folder":
            folders.append(await ann.new_folder(name, rng.choice(folders)))
        elif what == "make" or not alive:
            files.append(await ann.new_file(name, rng.choice(folders), inline(b"%d" % number)))
            states[files[-1]] = True
        else:
            node = rng.choice(alive)
            now = await ann.node(node)
            at = now.state.names[0]
            if what == "remove":
                await ann.made(build.change(node, None, now.rev))
                states[node] = None
            elif what == "move":
                state = build.file(name, rng.choice(folders), now.state.content)
                await ann.made(build.change(node, state, now.rev))
            elif what == "edit":
                await ann.made(build.change(node, build.file(at.name, at.parent, inline(b"%d!" % number)), now.rev))
            else:
                new = await ann.new_id()
                state = build.file(at.name, at.parent, inline(b"%d?" % number))
                await ann.made(build.change(node, None, now.rev), build.change(new, state))
                files.append(new)
                states[new], states[node] = True, None


def set_times(instance: Instance, space: int, times: dict[int, int]) -> None:
    """Says when each rev was made."""

    def put(session: Any) -> None:
        for rev in (*times, *times):
            # First out of each other's way: times are unique.
            session.run("UPDATE journal SET time_ns = ? WHERE space_id = ? AND rev = ?", -rev, space, rev)
        for rev, time_ns in times.items():
            session.run("UPDATE journal SET time_ns = ? WHERE space_id = ? AND rev = ?", time_ns, space, rev)

    instance.database.write_now(put)


def rows(instance: Instance, sql: str, *values: object) -> list[Any]:
    return instance.database.read_now(lambda session: list(session.rows(sql, *values)))


def check_manifests(instance: Instance, space: int) -> None:
    """Exactly what is named is kept."""
    named = {row[0] for row in rows(instance, "SELECT content_id FROM version WHERE space_id = ?", space)} - {None}
    kept = {row[0] for row in rows(instance, "SELECT content_id FROM manifest WHERE space_id = ?", space)}
    assert kept == named
    present = rows(instance, "SELECT content_id FROM node WHERE space_id = ? AND content_id IS NOT NULL", space)
    assert {row[0] for row in present} <= kept


@pytest.mark.parametrize("seed", range(2))
async def test_what_is_kept_reads_as_it_was(ann: Any, build: Any, instance: Instance, seed: int) -> None:
    rng = random.Random(seed)
    await edit_at_random(ann, build, rng, 90)
    head = int((await ann.space()).head)
    ages = sorted((rng.uniform(0, 1) ** 3 * 1_000 for _ in range(head)), reverse=True)
    times = {rev: NOW - round(age * DAY) + rev for rev, age in enumerate(ages, start=1)}
    set_times(instance, ann.home, times)
    then = {rev: await tree(ann, rev) for rev in range(1, head + 1)}
    before = len(rows(instance, "SELECT rev FROM version WHERE space_id = ?", ann.home))
    for retention, now_ns in (
        (Retention(), NOW),
        (Retention(all_days=10, hourly_days=20, daily_days=60), NOW + 5 * DAY),
        (Retention(all_days=1, daily_days=100, for_ever=False), NOW + 6 * DAY),
        (Retention(all_days=0, daily_days=0, for_ever=False), NOW + 7 * DAY),
    ):
        assert await ann.in_space("retention", RetentionRequest(retention), Retention) == retention
        assert await instance.acts.thin(now_ns)
        assert not await instance.acts.thin(now_ns)
        kept = [row[0] for row in rows(instance, "SELECT rev FROM kept WHERE space_id = ? ORDER BY rev", ann.home)]
        floor = (await ann.space()).floor
        assert floor == kept[-1]
        for rev in (*kept, *range(floor, head + 1)):
            assert await tree(ann, rev) == then[rev], rev
        for rev, time_ns in times.items():
            # A time leads to the last kept rev before it.
            found = (await ann.as_of(time_ns)).rev
            assert found == (rev if rev >= floor else max((one for one in kept if one <= rev), default=0))
        for moment in await ann.moments(ROOT):
            assert moment >= floor or moment in kept
        check_manifests(instance, ann.home)
    assert len(kept) == 1
    assert len(rows(instance, "SELECT rev FROM version WHERE space_id = ?", ann.home)) < before / 2
    with pytest.raises(CursorTooOld):
        await ann.changes(1)
    # And it goes on.
    await ann.new_file(b"later")


async def test_hours_days_and_weeks_are_told_apart(ann: Any, build: Any, instance: Instance) -> None:
    node = await ann.new_file(b"a")
    for number in range(200):
        state = build.file(b"a", content=inline(b"%d" % number))
        await ann.made(build.change(node, state, (await ann.node(node)).rev))
    head = int((await ann.space()).head)
    # One in six hours for fifty days.
    set_times(instance, ann.home, {rev: NOW - (head - rev) * DAY // 4 - DAY // 8 for rev in range(1, head + 1)})
    await ann.in_space("retention", RetentionRequest(Retention(all_days=10, daily_days=30)), Retention)
    await instance.acts.thin(NOW)
    revs = [version.rev for version in (await ann.history(node)).versions]
    assert sum(rev > head - 40 for rev in revs) == 40
    assert 19 <= sum(head - 120 < rev <= head - 40 for rev in revs) <= 22
    assert 3 <= sum(rev <= head - 120 for rev in revs) <= 5
    # Another is said, and what it asks for is not there any more: nothing comes back, nothing fails.
    await ann.in_space("retention", RetentionRequest(Retention(all_days=100)), Retention)
    assert not await instance.acts.thin(NOW)
    assert await ann.in_space("retention", RetentionRequest(), Retention) == Retention(all_days=100)


async def test_conflicts_that_nobody_settled_are_kept(ann: Any, build: Any, instance: Instance) -> None:
    node = await ann.new_file(b"a")
    rev = (await ann.node(node)).rev
    await ann.made(build.change(node, build.file(b"a", content=inline(b"won")), rev))
    await ann.made(build.change(node, build.file(b"a", content=inline(b"lost")), rev, is_conflict=True))
    await ann.made(build.change(node, build.file(b"a", content=inline(b"now")), (await ann.node(node)).rev))
    await ann.in_space("retention", RetentionRequest(Retention(all_days=0, for_ever=False)), Retention)
    await instance.acts.thin(NOW + 400 * DAY)
    (conflict,) = (await ann.conflicts()).conflicts
    assert conflict.lost.state.content == inline(b"lost")
    assert [version.state.content for version in (await ann.history(node)).versions] == [
        inline(b"now"),
        inline(b"lost"),
    ]


async def purge(ann: Any, *nodes: NodeId, **fields: Any) -> Purged:
    return await ann.in_space("purge", PurgeRequest(nodes, **fields), Purged)


async def test_a_purged_past_is_gone_and_the_present_stays(ann: Any, build: Any, instance: Instance) -> None:
    where = await ann.new_folder(b"d")
    node = await ann.new_file(b"secret", where, inline(b"secret"))
    other = await ann.new_file(b"copy", where, inline(b"shared"))
    first = (await ann.node(node)).rev
    await ann.made(build.change(node, build.file(b"renamed", where, inline(b"shared")), first))
    last = await ann.made(build.change(node, build.file(b"now", where, inline(b"now")), (await ann.node(node)).rev))
    assert await purge(ann, where, is_dry_run=True) == Purged(2, 1, 12)
    assert len((await ann.history(node)).versions) == 3
    assert await purge(ann, where) == Purged(2, 1, 12)
    assert await purge(ann, where) == Purged(0, 0, 0)
    assert [version.state.content for version in (await ann.history(node)).versions] == [inline(b"now")]
    assert (await ann.node(other)).state.content == inline(b"shared")
    assert sorted(await tree(ann, first + 1)) == [b"d", b"d/copy"]
    assert sorted(await tree(ann)) == [b"d", b"d/copy", b"d/now"]
    check_manifests(instance, ann.home)
    # Nobody takes what is forgotten for what was not there.
    for request, what in (
        (RewindRequest(secrets.token_bytes(16), ROOT, Rev(first + 1)), "rewind"),
        (UndoRequest(secrets.token_bytes(16), last), "undo"),
    ):
        done = await ann.in_space(what, request, Done)
        assert done.kept == 1
        assert (await ann.node(node)).state.content == inline(b"now")
    assert (await ann.in_space("diff", DiffRequest(ROOT, Rev(1)), Differences)).added
    # A device that is behind ends with the present.
    states = [
        version for commit in (await ann.changes(1)).commits for version in commit.changes if version.node == node
    ]
    assert [version.state is None for version in states] == [True, True, False]


async def test_purged_trash_is_gone(ann: Any, build: Any, instance: Instance) -> None:
    top = await ann.new_folder(b"top")
    node, other = await ann.new_file(b"a", top, inline(b"aaa")), await ann.new_file(b"other", ROOT, inline(b"bb"))
    for each in (node, top, other):
        await ann.made(build.change(each, None, (await ann.node(each)).rev))
    assert (await purge(ann, top)).versions == 1
    (left,) = (await ann.in_space("trash", TrashRequest(), Trash)).removed
    assert left.node == other
    with pytest.raises(NotFound):
        await ann.in_space("trash/restore", PutBackRequest(secrets.token_bytes(16), (node,)), Done)
    assert (await purge(ann)) == Purged(1, 1, 2)
    assert (await ann.in_space("trash", TrashRequest(), Trash)).removed == ()
    check_manifests(instance, ann.home)
    with pytest.raises(NotFound):
        await purge(ann, await ann.new_id())


async def test_a_purge_goes_in_steps_and_leaves_what_changed_meanwhile(
    ann: Any, build: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "PURGED_AT_ONCE", 2)
    names = [b"%d" % number for number in range(5)]
    nodes = [await ann.new_file(name, ROOT, inline(name)) for name in names]
    for node in nodes:
        await ann.made(build.change(node, None, (await ann.node(node)).rev))
    written: list[int] = []
    write = instance.database.write

    async def bring_back(job: Any) -> Any:
        # One of the last step comes back before that.
        written.append(len(written))
        if len(written) == 3:
            back = PutBackRequest(secrets.token_bytes(16), (first,))
            await ann.in_space("trash/restore", back, Done)
        return await write(job)

    first = nodes[0]
    monkeypatch.setattr(instance.database, "write", bring_back)
    assert await purge(ann) == Purged(4, 4, 4)
    monkeypatch.undo()
    assert await ann.names() == [b"0"]
    history = (await ann.history(first)).versions
    assert [version.state is None for version in history] == [False, True, False]
    assert (await purge(ann)) == Purged(0, 0, 0)


async def test_a_purge_forgets_nothing_that_came_after_it_was_asked_for(
    ann: Any, build: Any, instance: Instance
) -> None:
    node = await ann.new_file(b"a", ROOT, inline(b"1"))
    rev = (await ann.node(node)).rev
    for text in (b"2", b"3"):
        rev = await ann.made(build.change(node, build.file(b"a", ROOT, inline(text)), rev))
    (asked,) = instance.database.read_now(partial(planned, instance, ann.home, node))
    await ann.made(build.change(node, build.file(b"a", ROOT, inline(b"4")), rev))
    row = instance.database.read_now(lambda session: space_rows.space_row(session, ann.home))
    instance.database.write_now(
        lambda session: forgetting(session, row, instance.keyring.key(row), [asked], is_dry_run=False)
    )
    versions = (await ann.history(node)).versions
    assert [version.state.content for version in versions] == [inline(b"4"), inline(b"3")]


def planned(instance: Instance, home: Any, node: NodeId, session: Any) -> Any:
    row = space_rows.space_row(session, home)
    assert row is not None
    return nodes_to_purge(session, row, instance.keyring.key(row), PurgeRequest((node,)))


async def test_only_who_may_forget_forgets(ann: Any, bob: Any, instance: Instance) -> None:
    sql = "INSERT INTO member (space_id, user_id, role) VALUES (?, ?, ?)"
    instance.database.write_now(lambda session: session.run(sql, ann.home, bob.login.user, "editor"))
    for request, what, kind in (
        (PurgeRequest(), "purge", Purged),
        (RetentionRequest(Retention(all_days=0)), "retention", Retention),
    ):
        with pytest.raises(NotAllowed, match="forget"):
            await bob.in_space(what, request, kind, ann.home)
    assert await bob.in_space("retention", RetentionRequest(), Retention, ann.home) == Retention()
    with pytest.raises(BadRequest, match="all_days"):
        await ann.in_space("retention", RetentionRequest(Retention(all_days=-1)), Retention)


async def test_a_server_thins_by_itself_once_its_clock_went_steadily(
    ann: Any, build: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ann.new_file(b"a")
    set_times(instance, ann.home, {1: DAY, 2: 2 * DAY})
    for hours in range(0, 7 * 24 + 6, 6):
        assert (await ann.space()).floor == 0
        now = time.time_ns() - (7 * 24 - hours) * HOUR
        instance.database.write_now(lambda session, now=now: is_clock_steady(session, now))
    monkeypatch.setattr(serving, "FIRST_THINNING_SECONDS", 0.0)
    running = asyncio.create_task(serving._thin_regularly(instance))
    with anyio.fail_after(60):
        while (await ann.space()).floor != 2:
            await anyio.lowlevel.checkpoint()
    running.cancel()
    await asyncio.wait((running,))


async def test_nothing_is_thinned_by_a_clock_that_leapt(ann: Any, instance: Instance) -> None:
    await ann.new_file(b"a")
    set_times(instance, ann.home, {1: DAY, 2: 2 * DAY})
    now, quarter = NOW, 6 * HOUR
    for leap in (10 * 365 * DAY, -20 * 365 * DAY):
        for _ in range(40):
            now += quarter
            is_steady = instance.database.write_now(lambda session, now=now: is_clock_steady(session, now))
        assert is_steady
        now += leap
        for past in range(27):
            now += quarter
            assert not await instance.acts.thin_by_clock(now)
            until = instance.database.read_now(lambda session, now=now: waits_until(session, now))
            assert until == now + 7 * DAY - past * quarter
        assert (await ann.space()).floor == 0
    now += 2 * quarter
    assert await instance.acts.thin_by_clock(now)
    assert instance.database.read_now(lambda session: waits_until(session, now)) == 0
    # Nobody looked for so long: that may have been a leap.
    assert instance.database.read_now(lambda session: waits_until(session, now + 3 * DAY)) == now + 10 * DAY
