"""The guard against mass change: what counts, what one event holds together, what undoes it, what waits for a yes."""

import logging
import secrets
from typing import Any

import pytest

from remote.protocol.errors import BadRequest, InTheWay, NotAllowed, NotFound
from remote.protocol.events import ALLOWED, DONE, Event, EventAnswer, Events, EventsRequest, Guard, GuardRequest
from remote.protocol.history import Done, RewindRequest, UndoRequest
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import CommitAnswer, PollAnswer, PollRequest
from remote.protocol.messages import Done as Said
from remote.protocol.nodes import Kind, Manifest
from remote.server.database import events as event_rows
from remote.server.database.events import BurstRow
from remote.server.guard import first_rev, grown, total
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio

FILES = 20


def inline(text: bytes) -> Manifest:
    return Manifest(len(text), text)


async def guard(ann: Any, **fields: Any) -> Guard:
    """Sets a guard that counts what was there a moment ago."""
    wanted = Guard(**{"mode": "tell", "count": FILES, "settled_seconds": 0, **fields})
    return await ann.in_space("guard", GuardRequest(wanted), Guard)


async def events(ann: Any) -> list[Event]:
    return list((await ann.in_space("events", EventsRequest(), Events)).events)


async def undo(ann: Any, event: int, **fields: Any) -> Done:
    return await ann.in_space("undo", UndoRequest(secrets.token_bytes(16), event=event, **fields), Done)


async def says(ann: Any, event: int, word: str) -> None:
    await ann.in_space("events/answer", EventAnswer(event, word), Said)


async def tree(ann: Any, top: NodeId = ROOT, path: bytes = b"") -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    listed = (await ann.listing(top)).folders[0]
    for name, child in zip(listed.names, listed.children, strict=True):
        found[path + name] = (child.node, child.state.kind, child.state.mode, child.state.mtime_ns, child.state.content)
        if child.state.kind is Kind.FOLDER:
            found |= await tree(ann, child.node, path + name + b"/")
    return found


@pytest.fixture
async def work(ann: Any, build: Any) -> NodeId:
    return await ann.new_folder(b"work")


@pytest.fixture
async def files(ann: Any, build: Any, work: NodeId) -> list[NodeId]:
    nodes = [await ann.new_id() for _ in range(FILES)]
    await ann.made(*(build.change(node, file(build, work, at)) for at, node in enumerate(nodes)))
    return nodes


def file(build: Any, work: NodeId, at: int, text: bytes = b"first", name: bytes = b"%d.txt") -> Any:
    return build.file(name % at, work, inline(text + b" %d" % at))


async def revs(ann: Any, nodes: list[NodeId]) -> list[Rev]:
    return [one.rev for one in (await ann.nodes(*nodes)).nodes]


async def remove(ann: Any, build: Any, nodes: list[NodeId]) -> CommitAnswer:
    bases = await revs(ann, nodes)
    return await ann.commit(*(build.change(node, None, base) for node, base in zip(nodes, bases, strict=True)))


async def overwrite(
    ann: Any, build: Any, work: NodeId, nodes: list[NodeId], first: int = 0, **fields: Any
) -> CommitAnswer:
    bases = await revs(ann, nodes)
    changes = [
        build.change(node, file(build, work, at, **fields), base)
        for at, (node, base) in enumerate(zip(nodes, bases, strict=True), first)
    ]
    return await ann.commit(*changes)


def test_a_burst_looks_back_for_half_a_window_to_a_whole_one() -> None:
    first = grown(None, 1_000, Rev(5), (3, 1), 100)
    assert (total(first), first_rev(first)) == ((3, 1), 5)
    more = grown(first, 1_049, Rev(6), (1, 0), 100)
    assert (total(more), first_rev(more)) == ((4, 1), 5)
    second = grown(more, 1_050, Rev(7), (0, 2), 100)
    assert (total(second), first_rev(second), second.first_rev) == ((4, 3), 5, 7)
    # What was in the first half of all is forgotten when the window has passed over it.
    third = grown(second, 1_100, Rev(8), (1, 0), 100)
    assert (total(third), first_rev(third)) == ((1, 2), 7)
    assert total(grown(third, 1_199, Rev(9), (1, 0), 100)) == (2, 0)
    assert grown(third, 1_200, Rev(9), (1, 0), 100) == BurstRow(1_200, Rev(9), 1, 0, Rev(0), 0, 0)
    # A clock that was set back begins anew.
    assert total(grown(third, 900, Rev(9), (1, 0), 100)) == (1, 0)


async def test_removing_much_is_one_event_and_one_request_brings_it_back(
    ann: Any, build: Any, work: NodeId, files: list[NodeId], caplog: pytest.LogCaptureFixture
) -> None:
    await guard(ann)
    before, used = await tree(ann), (await ann.space()).used
    await remove(ann, build, files[:7])
    await remove(ann, build, files[7:12])
    assert await events(ann) == []
    with caplog.at_level(logging.WARNING):
        await remove(ann, build, files[12:])
    assert "event 1: mass-change by device" in caplog.text
    assert "txt" not in caplog.text
    caplog.clear()
    await remove(ann, build, [work])
    (event,) = await events(ann)
    assert (event.event, event.state, event.device_name, event.user_name) == (1, "told", "desk1", "ann")
    assert (event.removed, event.overwritten, event.to_rev - event.from_rev) == (FILES, 0, 3)
    assert set(event.examples) <= {b"work/%d.txt" % at for at in range(FILES)}
    assert len(event.examples) == 5
    planned = await undo(ann, 1, is_dry_run=True)
    assert (planned.rev, planned.did.added, await tree(ann)) == (0, FILES + 1, {})
    done = await undo(ann, 1)
    assert (done.did.added, done.kept) == (FILES + 1, 0)
    assert await tree(ann) == before
    assert (await ann.space()).used == used
    assert (await events(ann))[0].state == "undone"
    # Undone, it is an ordinary commit: that can be undone, too.
    await ann.in_space("undo", UndoRequest(secrets.token_bytes(16)), Done)
    assert await tree(ann) == {}


async def test_many_small_overwrites_with_another_name_are_one_event(
    ann: Any, build: Any, work: NodeId, files: list[NodeId]
) -> None:
    """As ransomware does it."""
    await guard(ann)
    before = await tree(ann)
    for at, node in enumerate(files):
        (base,) = await revs(ann, [node])
        await ann.made(build.change(node, file(build, work, at, b"rubbish", b"%d.txt.locked"), base))
        if not at:
            await ann.new_file(b"READ ME.txt", work, inline(b"pay"))
    (event,) = await events(ann)
    assert (event.removed, event.overwritten) == (0, FILES)
    assert event.to_rev - event.from_rev == FILES
    done = await undo(ann, 1)
    assert done.did.changed == FILES
    assert await tree(ann) == before


async def test_what_others_did_lives(ann: Any, sign_in: Any, build: Any, work: NodeId, files: list[NodeId]) -> None:
    laptop = await sign_in("ann")
    await guard(ann, count=19)
    before = await tree(ann)
    await remove(ann, build, files[:5])
    # While it goes on: an edit, a new file under a name that became free, and one in a folder that the device made.
    await overwrite(laptop, build, work, files[5:6], text=b"of the laptop", name=b"mine %d")
    taken = await laptop.new_file(b"0.txt", work, inline(b"of the laptop"))
    made = await ann.new_folder(b"made then", work)
    empty = await ann.new_folder(b"empty", work)
    inside = await laptop.new_file(b"inside", made, inline(b"of the laptop"))
    await overwrite(ann, build, work, files[6:], 6, text=b"rubbish")
    # And since.
    await overwrite(laptop, build, work, files[19:], text=b"later", name=b"later %d")
    (event,) = await events(ann)
    assert (event.device_name, event.removed, event.overwritten) == ("desk1", 5, 14)
    done = await undo(laptop, event.event)
    assert done.kept == 1
    now = await tree(ann)
    for at, node in enumerate(files):
        name = {0: b"0 (restored).txt", 5: b"mine 0", 19: b"later 0"}.get(at, b"%d.txt" % at)
        content = {5: b"of the laptop 0", 19: b"later 0"}.get(at, b"first %d" % at)
        assert (now[b"work/" + name][0], now[b"work/" + name][4].inline) == (node, content)
    assert now[b"work/0.txt"][0] == taken
    assert now[b"work/made then/inside"][0] == inside
    assert b"work/empty" not in now
    assert (await ann.node(empty)).state is None
    assert len(now) == len(before) + 3


async def test_what_the_device_made_may_stay(ann: Any, build: Any, work: NodeId, files: list[NodeId]) -> None:
    await guard(ann)
    new = await ann.new_file(b"new", work, inline(b"new"))
    # A save by rename: a new node has the name of one that goes.
    bases = await revs(ann, files)
    heir = await ann.new_id()
    await ann.made(build.change(files[0], None, bases[0]), build.change(heir, file(build, work, 0, b"rubbish")))
    later = await ann.new_file(b"later", work, inline(b"later"))
    await remove(ann, build, files[1:])
    (event,) = await events(ann)
    assert (event.removed, event.overwritten) == (FILES - 1, 1)
    await undo(ann, 1, keeps_new=True)
    now = await tree(ann)
    assert now[b"work/0.txt"][0] == files[0]
    assert {now[b"work/new"][0], now[b"work/later"][0]} == {new, later}
    assert (await ann.node(heir)).state is None


async def test_what_is_no_loss_is_no_event(
    ann: Any, build: Any, instance: Instance, work: NodeId, files: list[NodeId]
) -> None:
    await guard(ann, count=2, settled_seconds=600)
    # What came just now, as builds and checkouts make and remove it.
    await remove(ann, build, files[:10])
    await overwrite(ann, build, work, files[10:], text=b"second")
    assert await events(ann) == []
    await age(ann, instance, 3_600)
    # One file that is written to all the time is lost once.
    for number in range(10):
        await overwrite(ann, build, work, files[10:11], text=b"log %d" % number)
    # Attributes, names and empty folders hold no content; what a file was before, it may be again.
    bases = await revs(ann, files[11:])
    await ann.made(
        *(
            build.change(node, build.file(b"%d.md" % node, work, inline(b"second %d" % (at + 1)), mode=0o600), base)
            for at, (node, base) in enumerate(zip(files[11:], bases, strict=True))
        )
    )
    await overwrite(ann, build, work, files[10:11], text=b"second")
    await remove(ann, build, [await ann.new_folder(b"empty %d" % number) for number in range(10)])
    # Nor is what a person has the server do.
    await ann.in_space("rewind", RewindRequest(secrets.token_bytes(16), ROOT, Rev(1)), Done)
    assert await tree(ann) == {}
    assert await events(ann) == []


async def test_settled_content_cannot_be_made_to_look_new(
    ann: Any, build: Any, instance: Instance, work: NodeId, files: list[NodeId]
) -> None:
    await guard(ann, settled_seconds=600)
    await age(ann, instance, 3_600)
    bases = await revs(ann, files)
    await ann.made(
        *(
            build.change(node, build.file(b"%d.txt" % at, work, inline(b"first %d" % at), mode=0o600), base)
            for at, (node, base) in enumerate(zip(files, bases, strict=True))
        )
    )
    assert await events(ann) == []
    await overwrite(ann, build, work, files, text=b"rubbish")
    assert [one.overwritten for one in await events(ann)] == [FILES]


async def age(ann: Any, instance: Instance, seconds: int) -> None:
    """As if all of it had happened so long ago."""
    sql = "UPDATE journal SET time_ns = time_ns - ? WHERE space_id = ?"
    instance.database.write_now(lambda session: session.run(sql, seconds * 1_000_000_000, ann.home))


async def test_with_ask_nothing_goes_on_before_a_yes(
    ann: Any, sign_in: Any, build: Any, work: NodeId, files: list[NodeId]
) -> None:
    laptop = await sign_in("ann")
    await guard(ann, mode="ask")
    assert (await remove(ann, build, files[:3])).rev
    before = await tree(ann)
    answer = await remove(ann, build, files[3:])
    assert (answer.rev, set(answer.held)) == (0, set(files[3:]))
    assert "satchel guard allow" in answer.reason
    assert "3 went before that, and a no brings these back, too" in answer.reason
    assert (await events(ann))[0].taken == 3
    assert await tree(ann) == before
    # In small steps neither, however long it waits; what loses nothing goes on, and so do others.
    assert (await remove(ann, build, files[3:4])).held == (files[3],)
    assert (await overwrite(ann, build, work, files[3:4], text=b"rubbish")).held == (files[3],)
    await ann.new_file(b"new", work)
    assert (await remove(laptop, build, files[19:])).rev
    (event,) = await events(ann)
    assert (event.state, event.removed, event.overwritten) == ("held", FILES, 1)
    found = await ann.ask("POST", "/v1/poll", poll_now(ann), PollAnswer)
    assert found.rooms[ann.home].events == 1

    await says(laptop, event.event, ALLOWED)
    with pytest.raises(InTheWay, match="waits for no yes"):
        await says(laptop, event.event, ALLOWED)
    assert (await remove(ann, build, files[3:10])).rev
    assert (await remove(ann, build, files[10:19])).rev
    (event,) = await events(ann)
    assert (event.state, event.removed, event.until_ns - event.ended_ns > 3_500 * 10**9) == ("allowed", 19, True)
    found = await ann.ask("POST", "/v1/poll", poll_now(ann), PollAnswer)
    assert found.rooms[ann.home].events == 0
    # All that was taken belongs to it, also what came before the question.
    await undo(ann, event.event)
    assert {b"work/%d.txt" % at for at in range(19)} <= set(await tree(ann))


def poll_now(ann: Any) -> PollRequest:
    return PollRequest({ann.home: Rev(0)}, 1)


async def test_what_went_long_before_is_no_part_of_what_is_held(
    ann: Any, build: Any, instance: Instance, files: list[NodeId]
) -> None:
    await guard(ann, mode="ask", count=10)
    await remove(ann, build, files[:3])
    sql = "UPDATE burst SET began_ns = began_ns - ? WHERE space_id = ?"
    instance.database.write_now(lambda session: session.run(sql, 3_600 * 10**9, ann.home))
    answer = await remove(ann, build, files[3:15])
    assert answer.held
    assert "went before" not in answer.reason
    (event,) = await events(ann)
    assert (event.state, event.removed, event.taken) == ("held", 12, 0)
    # Of several commits that wait, each is told of by the largest.
    await remove(ann, build, files[3:])
    assert (await events(ann))[0].removed == 17


async def test_that_it_was_seen_takes_no_outcome_away(ann: Any, build: Any, files: list[NodeId]) -> None:
    await guard(ann, count=5)
    await remove(ann, build, files[:5])
    await undo(ann, 1)
    await says(ann, 1, DONE)
    assert (await events(ann))[0].state == "undone"


async def test_a_yes_is_over_after_an_hour(
    ann: Any, build: Any, instance: Instance, work: NodeId, files: list[NodeId]
) -> None:
    await guard(ann, mode="ask", count=5)
    await remove(ann, build, files[:5])
    await says(ann, 1, ALLOWED)
    sql = "UPDATE event SET until_ns = 1 WHERE space_id = ? AND event_id = ?"
    instance.database.write_now(lambda session: session.run(sql, ann.home, 1))
    assert (await remove(ann, build, files[:4])).rev
    assert (await remove(ann, build, files[4:8])).held
    assert [(one.event, one.state) for one in await events(ann)] == [(2, "held"), (1, "allowed")]
    # When the guard no longer asks, what waits goes on, and is told.
    await guard(ann, mode="tell", count=5)
    assert (await remove(ann, build, files[4:8])).rev
    assert (await events(ann))[0].state == "told"
    await says(ann, 2, DONE)
    await guard(ann, mode="off")
    assert (await remove(ann, build, files[8:])).rev
    assert len(await events(ann)) == 2


async def test_who_may_not(ann: Any, bob: Any, instance: Instance) -> None:
    assert await ann.in_space("guard", GuardRequest(), Guard) == Guard()
    for wrong in (Guard("perhaps"), Guard(count=0), Guard(window_seconds=1), Guard(settled_seconds=-1)):
        with pytest.raises(BadRequest):
            await ann.in_space("guard", GuardRequest(wrong), Guard)
    with pytest.raises(BadRequest):
        await says(ann, 1, "perhaps")
    for ask in (lambda: says(ann, 1, DONE), lambda: undo(ann, 1)):
        with pytest.raises(NotFound, match="no event 1"):
            await ask()
    with pytest.raises(NotFound, match="no member"):
        await bob.in_space("events", EventsRequest(), Events, ann.home)
    sql = "UPDATE member SET role = 'editor' WHERE space_id = ? AND user_id = ?"
    instance.database.write_now(lambda session: session.run(sql, ann.home, ann.login.user))
    with pytest.raises(NotAllowed, match="set its guard"):
        await guard(ann)


async def test_json(ann: Any, http: Any, build: Any, work: NodeId, files: list[NodeId]) -> None:
    home = f"/api/v1/spaces/{ann.home}"
    headers = {"authorization": ann.headers["authorization"]}
    wanted = {"mode": "ask", "count": FILES, "window_seconds": 600, "settled_seconds": 0}
    assert (await http.put(f"{home}/guard", json=wanted, headers=headers)).json() == wanted
    assert (await http.get(f"{home}/guard", headers=headers)).json() == wanted
    assert (await http.put(f"{home}/guard", json={"mode": "maybe"}, headers=headers)).status_code == 400
    await remove(ann, build, files)
    (event,) = (await http.get(f"{home}/events", headers=headers)).json()["events"]
    assert (event["state"], event["device"], event["removed"]) == ("held", "desk1", FILES)
    undone = await http.post(f"{home}/undo", json={"event": 1}, headers=headers)
    assert (undone.status_code, undone.json()["code"]) == (409, "in-the-way")
    assert (await http.post(f"{home}/events/1/allow", headers=headers)).status_code == 204
    await remove(ann, build, files)
    done = (await http.post(f"{home}/undo", json={"event": 1, "dry_run": True}, headers=headers)).json()
    assert (done["rev"], done["did"]["added"]) == (0, FILES)
    done = (await http.post(f"{home}/undo", json={"event": 1}, headers=headers)).json()
    assert (done["rev"] > 0, done["did"]["added"], done["kept"]) == (True, FILES, 0)
    assert (await http.post(f"{home}/events/1/done", headers=headers)).status_code == 204
    assert (await http.get(f"{home}/events?before=1", headers=headers)).json() == {"events": [], "more": False}


async def test_old_events_are_forgotten(ann: Any, instance: Instance) -> None:
    row = event_rows.EventRow(1, "mass-change", "done", UserId(1), DeviceId(1), 1, 2, Rev(1), Rev(2), 3, 4)

    def fill(session: Any) -> int:
        space = SpaceId(ann.home)
        event_rows.put_event(session, space, row)
        event_rows.drop_events(session, space, event_rows.next_event(session, space))
        return event_rows.next_event(session, space)

    assert instance.database.write_now(fill) == 1
