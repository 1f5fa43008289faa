"""Commits: whole or not at all, on top of what they name, with the invariants kept and the winners told."""

import asyncio
import secrets
import time
from typing import Any

import msgspec
import pytest

from remote.protocol.errors import BadRequest, ChunkMissing, NotFound, QuotaExceeded, TooLarge
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import CHANGES_MAX, COMMIT_BODY_MAX, Commit, CommitAnswer
from remote.protocol.nodes import EMPTY, FILE_SIZE_MAX, ROOT_NAME, Base, Entry, Kind, Manifest, Name
from remote.server import commits, reading
from remote.server.database import spaces as space_rows
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


async def winners(asker: Any, *changes: Any) -> dict[int, Any]:
    """The states of the nodes in the way; the commit must change nothing."""
    before = await asker.changes(0)
    answer = await asker.commit(*changes)
    assert answer.rev == 0
    assert answer.reason.endswith(".")
    after = await asker.changes(0)
    assert (before.head, before.commits) == (after.head, after.commits)
    for winner in answer.winners:
        assert winner == (await asker.nodes(winner.node)).nodes[0]
    return {winner.node: winner.state for winner in answer.winners}


async def refused(asker: Any, kind: type[Exception], *changes: Any) -> str:
    """The sentence of the error; nothing may have changed."""
    before = await asker.changes(0)
    with pytest.raises(kind) as raised:
        await asker.commit(*changes)
    after = await asker.changes(0)
    assert (before.head, before.commits) == (after.head, after.commits)
    return str(raised.value)


async def test_a_commit_gets_the_next_rev_and_is_there(ann: Any, build: Any) -> None:
    head = (await ann.space()).head
    node = await ann.new_id()
    answer = await ann.commit(build.change(node, build.file(b"a", content=Manifest(3, b"abc"))))
    assert answer.rev == head + 1
    listing = (await ann.listing(ROOT)).folders[0]
    assert listing.names == (b"a",)
    assert listing.children[0].rev == answer.rev
    assert listing.children[0].state == build.file(b"a", content=Manifest(3, b"abc"))
    assert (await ann.space()).used == 3


async def test_order_in_a_batch_does_not_matter(ann: Any, build: Any) -> None:
    outer, inner, leaf = [await ann.new_id() for _ in range(3)]
    await ann.made(
        build.change(leaf, build.file(b"leaf", inner)),
        build.change(inner, build.folder(b"inner", outer)),
        build.change(outer, build.folder(b"outer")),
    )
    assert await ann.names(inner) == [b"leaf"]


async def test_names_swap_in_one_commit(ann: Any, build: Any) -> None:
    one, two = await ann.new_file(b"one"), await ann.new_file(b"two")
    head = (await ann.space()).head
    await ann.made(build.change(one, build.file(b"two"), head - 1), build.change(two, build.file(b"one"), head))
    listing = (await ann.listing(ROOT)).folders[0]
    assert [(name, child.node) for name, child in zip(listing.names, listing.children, strict=True)] == [
        (b"one", two),
        (b"two", one),
    ]
    assert await ann.names(as_of=head) == [b"one", b"two"]


async def test_an_op_id_seen_before_gets_the_old_answer(ann: Any, build: Any) -> None:
    node, op_id = await ann.new_id(), secrets.token_bytes(16)
    first = await ann.commit(build.change(node, build.file(b"a")), op_id=op_id)
    second = await ann.commit(build.change(node, build.file(b"a")), op_id=op_id)
    assert first.rev == second.rev
    assert (await ann.space()).head == first.rev
    await ann.made(build.change(node, build.file(b"b"), first.rev))
    assert (await ann.commit(build.change(node, build.file(b"a")), op_id=op_id)).rev == first.rev


async def test_a_commit_that_was_refused_is_not_taken_when_it_comes_once_more(
    ann: Any, build: Any, instance: Instance
) -> None:
    """Its device has given it up, and may have removed what it was to bring: a copy may be late on the way."""
    holder, node, missing, large = await ann.new_file(b"a"), *[await ann.new_id() for _ in range(3)]
    of_name = build.change(node, build.file(b"a")), b"1" * 16
    entry = Entry(b"c" * 32, b"k" * 32, 9)
    of_chunk = build.change(missing, build.file(b"b", content=Manifest(9, entries=(entry,)))), b"2" * 16
    of_room = build.change(large, build.file(b"c", content=Manifest(101, b"y" * 101))), b"3" * 16
    await instance.database.write(lambda session: space_rows.set_quota(session, ann.home, 100))
    assert not (await ann.commit(of_name[0], op_id=of_name[1])).rev
    with pytest.raises(ChunkMissing):
        await ann.commit(of_chunk[0], op_id=of_chunk[1])
    with pytest.raises(QuotaExceeded):
        await ann.commit(of_room[0], op_id=of_room[1])
    await instance.database.write(lambda session: space_rows.set_quota(session, ann.home, 0))
    await ann.made(build.change(holder, None, (await ann.node(holder)).rev))
    for change, op_id in (of_name, of_room):
        answer = await ann.commit(change, op_id=op_id)
        assert (answer.rev, answer.winners) == (0, ())
        assert "refused before" in answer.reason
        assert (await ann.commit(change)).rev
    assert await ann.names() == [b"a", b"c"]


async def test_many_commits_at_once_leave_no_gap(ann: Any, build: Any) -> None:
    head = (await ann.space()).head
    ids = [await ann.new_id() for _ in range(40)]
    answers = await asyncio.gather(
        *(ann.commit(build.change(node, build.file(b"%d" % node))) for node in ids),
        *(ann.commit(build.change(NodeId(5), build.file(b"x"), 3)) for _ in range(5)),
        return_exceptions=True,
    )
    revs = sorted(answer.rev for answer in answers if isinstance(answer, CommitAnswer))
    assert revs == list(range(head + 1, head + 41))
    assert sum(isinstance(answer, BadRequest) for answer in answers) == 5
    commits = (await ann.changes(head)).commits
    assert [commit.rev for commit in commits] == revs
    times = [commit.time_ns for commit in commits]
    assert times == sorted(set(times))


async def test_stale_changes_are_refused_as_a_whole(ann: Any, build: Any) -> None:
    stale, fine = await ann.new_file(b"stale"), await ann.new_file(b"fine")
    first = (await ann.node(stale)).rev
    await ann.made(build.change(stale, build.file(b"stale", mode=0o600), first))
    found = await winners(
        ann,
        build.change(fine, build.file(b"fine", mode=0o600), (await ann.node(fine)).rev),
        build.change(stale, build.file(b"stale", mode=0o640), first),
    )
    assert found == {stale: build.file(b"stale", mode=0o600)}


async def test_every_stale_node_is_a_winner_once(ann: Any, build: Any) -> None:
    nodes = [await ann.new_file(b"%d" % number) for number in range(5)]
    found = await winners(ann, *(build.change(node, build.file(b"x%d" % node), 1) for node in nodes))
    assert set(found) == set(nodes)


async def test_creating_what_is_there_is_stale(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    assert set(await winners(ann, build.change(node, build.file(b"a")))) == {node}


async def test_the_holder_of_a_taken_name_wins(ann: Any, build: Any) -> None:
    holder = await ann.new_file(b"a")
    found = await winners(ann, build.change(await ann.new_id(), build.file(b"a")))
    assert found == {holder: build.file(b"a")}
    mover = await ann.new_file(b"b")
    found = await winners(ann, build.change(mover, build.file(b"a"), (await ann.node(mover)).rev))
    assert set(found) == {holder}


async def test_a_name_freed_in_the_same_commit_can_be_taken(ann: Any, build: Any) -> None:
    holder, heir = await ann.new_file(b"a"), await ann.new_id()
    await ann.made(build.change(heir, build.file(b"a")), build.change(holder, None, (await ann.node(holder)).rev))
    assert (await ann.listing(ROOT)).folders[0].children[0].node == heir


async def test_one_name_for_two_nodes_is_a_contradiction(ann: Any, build: Any) -> None:
    one, two = await ann.new_id(), await ann.new_id()
    await refused(ann, BadRequest, build.change(one, build.file(b"a")), build.change(two, build.file(b"a")))
    kept = await ann.new_file(b"kept")
    await refused(
        ann,
        BadRequest,
        build.change(kept, build.file(b"kept", mode=0), (await ann.node(kept)).rev),
        build.change(one, build.file(b"kept")),
    )


async def test_a_removed_parent_wins_as_removed(ann: Any, build: Any) -> None:
    parent = await ann.new_folder(b"d")
    await ann.made(build.change(parent, None, (await ann.node(parent)).rev))
    found = await winners(ann, build.change(await ann.new_id(), build.file(b"a", parent)))
    assert found == {parent: None}


async def test_parents_that_cannot_be(ann: Any, build: Any) -> None:
    node, leaf, unborn = await ann.new_id(), await ann.new_file(b"file"), await ann.new_id()
    await refused(ann, BadRequest, build.change(node, build.file(b"a", unborn)))
    await refused(ann, BadRequest, build.change(node, build.file(b"a", leaf)))
    await refused(ann, BadRequest, build.change(node, build.file(b"a", node)))
    await refused(ann, BadRequest, build.change(node, build.folder(b"a", node)))
    other = await ann.new_id()
    await refused(ann, BadRequest, build.change(node, build.file(b"a", other)), build.change(other, build.file(b"b")))


async def test_a_folder_with_children_is_not_removed(ann: Any, build: Any) -> None:
    parent = await ann.new_folder(b"d")
    child, other = await ann.new_file(b"a", parent), await ann.new_file(b"b", parent)
    rev = (await ann.node(parent)).rev
    assert set(await winners(ann, build.change(parent, None, rev))) == {child, other}
    gone = build.change(child, None, (await ann.node(child)).rev)
    assert set(await winners(ann, build.change(parent, None, rev), gone)) == {other}
    kept = build.change(child, build.file(b"a", parent, mode=0), (await ann.node(child)).rev)
    await refused(ann, BadRequest, build.change(parent, None, rev), kept)
    moved = build.change(other, build.file(b"b"), (await ann.node(other)).rev)
    await ann.made(build.change(parent, None, rev), gone, moved)
    assert await ann.names() == [b"b"]


async def test_a_child_into_a_folder_removed_with_it(ann: Any, build: Any) -> None:
    parent = await ann.new_folder(b"d")
    rev = (await ann.node(parent)).rev
    child = build.change(await ann.new_id(), build.file(b"a", parent))
    await refused(ann, BadRequest, build.change(parent, None, rev), child)


async def test_a_removed_node_comes_back_on_top_of_its_removal(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    removal = await ann.made(build.change(node, None, (await ann.node(node)).rev))
    assert (await ann.node(node)).state is None
    assert set(await winners(ann, build.change(node, build.file(b"a"), removal - 1))) == {node}
    await refused(ann, BadRequest, build.change(node, None, removal))
    await ann.made(build.change(node, build.file(b"b"), removal))
    assert await ann.names() == [b"b"]


async def test_a_cycle_made_by_two_devices_is_refused_with_the_folder_in_the_way(ann: Any, build: Any) -> None:
    one, two = await ann.new_folder(b"one"), await ann.new_folder(b"two")
    revs = (await ann.node(one)).rev, (await ann.node(two)).rev
    await ann.made(build.change(one, build.folder(b"one", two), revs[0]))
    found = await winners(ann, build.change(two, build.folder(b"two", one), revs[1]))
    assert set(found) == {one}


async def test_a_cycle_within_a_commit_is_a_contradiction(ann: Any, build: Any) -> None:
    one, two = await ann.new_id(), await ann.new_id()
    await refused(
        ann, BadRequest, build.change(one, build.folder(b"a", two)), build.change(two, build.folder(b"b", one))
    )


async def test_a_long_cycle_is_found(ann: Any, build: Any) -> None:
    top = at = await ann.new_folder(b"top")
    for _ in range(20):
        at = await ann.new_folder(b"in", at)
    found = await winners(ann, build.change(top, build.folder(b"top", at), (await ann.node(top)).rev))
    assert len(found) == 20
    assert top not in found


async def test_the_root_stays(ann: Any, build: Any) -> None:
    rev = (await ann.node(ROOT)).rev
    await refused(ann, BadRequest, build.change(ROOT, None, rev))
    await refused(ann, BadRequest, build.change(ROOT, build.folder(b"a", 5), rev))
    await refused(ann, BadRequest, build.change(ROOT, build.state(Kind.FILE, (ROOT_NAME,), content=EMPTY), rev))
    await refused(ann, BadRequest, build.change(await ann.new_id(), build.folder(b"", 0)))
    await ann.made(build.change(ROOT, build.state(Kind.FOLDER, (ROOT_NAME,), mode=0o700), rev))
    assert (await ann.node(ROOT)).state.mode == 0o700


async def test_a_kind_is_for_ever(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    assert "for ever" in await refused(ann, BadRequest, build.change(node, build.folder(b"a"), 2))


async def test_new_ids_come_from_leased_ranges(ann: Any, bob: Any, build: Any) -> None:
    message = await refused(ann, BadRequest, build.change(await bob.new_id(), build.file(b"a")))
    assert "leased" in message
    await refused(ann, BadRequest, build.change(NodeId(77), build.file(b"a")))


async def test_a_range_serves_all_devices_of_a_user(sign_in: Any, build: Any) -> None:
    first, second = await sign_in("ann"), await sign_in("ann")
    assert (await second.commit(build.change(await first.new_id(), build.file(b"a")))).rev


async def test_hard_links_come_and_go(ann: Any, build: Any) -> None:
    where = await ann.new_folder(b"d")
    node = await ann.new_file(b"a")
    both = build.state(Kind.FILE, (Name(ROOT, b"a"), Name(where, b"b")), content=EMPTY)
    rev = await ann.made(build.change(node, both, (await ann.node(node)).rev))
    assert await ann.names() == [b"a", b"d"]
    assert await ann.names(where) == [b"b"]
    one = build.state(Kind.FILE, (Name(where, b"b"),), content=EMPTY)
    await ann.made(build.change(node, one, rev))
    assert await ann.names() == [b"d"]
    assert await ann.names(where) == [b"b"]
    assert await ann.names(as_of=rev) == [b"a", b"d"]


async def test_two_names_in_one_folder_come_twice(ann: Any, build: Any) -> None:
    node = await ann.new_id()
    await ann.made(build.change(node, build.state(Kind.FILE, (Name(ROOT, b"b"), Name(ROOT, b"a")), content=EMPTY)))
    listing = (await ann.listing(ROOT)).folders[0]
    assert listing.names == (b"a", b"b")
    assert [child.node for child in listing.children] == [node, node]


async def test_of_two_touches_at_once_the_later_gives_the_times(ann: Any, build: Any) -> None:
    node = await ann.new_folder(b"d", ROOT)
    rev = await ann.made(build.change(node, build.folder(b"d", mode=0o700), (await ann.node(node)).rev))
    later = build.folder(b"elsewhere", mtime_ns=5, atime_ns=6, ctime_ns=1_800_000_000_000_000_000)
    touched = await ann.made(build.change(node, later, 1, is_touch=True))
    state = (await ann.node(node)).state
    assert (state.mtime_ns, state.atime_ns, state.ctime_ns) == (5, 6, 1_800_000_000_000_000_000)
    assert (state.mode, state.names) == (0o700, (Name(ROOT, b"d"),))
    assert touched == (await ann.node(node)).rev == rev + 1
    earlier = build.folder(b"d", mtime_ns=1_900_000_000_000_000_000, ctime_ns=1_799_999_999_999_999_999)
    answer = await ann.commit(build.change(node, earlier, 1, is_touch=True))
    assert answer.rev == rev + 2
    assert (await ann.changes(rev + 1)).commits[0].changes == ()
    assert (await ann.node(node)).rev == touched


async def test_a_touch_of_the_present_sets_times_back(ann: Any, build: Any) -> None:
    node = await ann.new_folder(b"d", ROOT)
    rev = (await ann.node(node)).rev
    past = build.folder(b"d", mtime_ns=5, atime_ns=6, ctime_ns=7)
    assert await ann.made(build.change(node, past, rev, is_touch=True)) == rev + 1
    state = (await ann.node(node)).state
    assert (state.mtime_ns, state.atime_ns, state.ctime_ns) == (5, 6, 7)


async def test_a_touch_of_a_removed_folder_does_nothing(ann: Any, build: Any) -> None:
    node = await ann.new_folder(b"d")
    await ann.made(build.change(node, None, (await ann.node(node)).rev))
    assert (await ann.commit(build.change(node, build.folder(b"d"), 1, is_touch=True))).rev
    assert (await ann.node(node)).state is None
    await refused(ann, BadRequest, build.change(await ann.new_id(), build.folder(b"x"), is_touch=True))


async def test_a_lost_state_is_kept_as_a_version_only(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a", content=Manifest(3, b"won"))
    rev = (await ann.node(node)).rev
    lost = build.file(b"a", content=Manifest(4, b"lost"))
    kept = await ann.made(build.change(node, lost, 1, is_conflict=True))
    assert (await ann.node(node)).rev == rev
    assert (await ann.nodes(node, as_of=kept)).nodes[0].rev == rev
    assert (await ann.changes(rev)).commits[0].changes == ()
    assert (await ann.space()).used == 3
    versions = (await ann.history(node)).versions
    assert [(version.rev, version.is_conflict) for version in versions] == [(kept, True), (rev, False)]
    assert versions[0].state == lost
    await refused(ann, BadRequest, build.change(await ann.new_id(), build.file(b"x"), is_conflict=True))


async def test_a_lost_state_may_travel_with_the_merged_one(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    rev = (await ann.node(node)).rev
    lost, merged = build.file(b"a", mode=0o600), build.file(b"a", mode=0o640)
    both = await ann.made(build.change(node, lost, 1, is_conflict=True), build.change(node, merged, rev))
    assert (await ann.node(node)).state == merged
    assert [version.is_conflict for version in (await ann.history(node, limit=1)).versions] == [False, True]
    assert [version.rev for version in (await ann.history(node, before=both)).versions] == [rev]


async def test_an_overridden_version_carries_the_mark(ann: Any, build: Any) -> None:
    node = await ann.new_file(b"a")
    rev = (await ann.node(node)).rev
    await ann.made(build.change(node, build.file(b"a", mode=0o600), rev, overrides=rev))
    assert [version.is_conflict for version in (await ann.history(node)).versions] == [False, True]
    assert (await ann.nodes(node, as_of=rev)).nodes[0].rev == rev
    assert (await ann.changes(rev - 1)).commits[0].changes[0].node == node
    await refused(ann, BadRequest, build.change(node, build.file(b"a"), rev + 1, overrides=1))


async def test_conflicts_are_listed_until_somebody_settles_them(ann: Any, build: Any, bob: Any) -> None:
    first, second = await ann.new_file(b"a", content=Manifest(3, b"won")), await ann.new_file(b"b")
    rev = (await ann.node(second)).rev
    lost = await ann.made(build.change(first, build.file(b"a", content=Manifest(4, b"lost")), 1, is_conflict=True))
    await ann.made(build.change(second, build.file(b"b", content=Manifest(3, b"new")), rev, overrides=rev))
    found = (await ann.conflicts()).conflicts
    assert [(one.node, one.lost.rev, one.lost.is_conflict) for one in found] == [
        (first, lost, True),
        (second, rev, True),
    ]
    assert [one.lost.state.content.inline for one in found] == [b"lost", b""]
    assert [one.current.state.content.inline for one in found] == [b"won", b"new"]
    assert {one.lost.device_name for one in found} == {one.current.device_name for one in found} == {"desk1"}
    assert found[0].lost.device == ann.login.device
    assert [one.node for one in (await ann.conflicts(first, lost)).conflicts] == [second]
    with pytest.raises(NotFound):
        await bob.settle((first, lost), space=ann.home)
    await ann.settle((first, lost), (first, lost), (second, 1))
    assert [one.node for one in (await ann.conflicts()).conflicts] == [second]
    # History still tells what lost.
    assert [version.is_conflict for version in (await ann.history(first)).versions] == [True, False]
    await ann.made(build.change(second, None, (await ann.node(second)).rev))
    assert not (await ann.conflicts()).conflicts


async def test_many_conflicts_are_told_in_parts(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CONFLICTS_MAX", 2)
    nodes = [await ann.new_file(b"%d" % number) for number in range(3)]
    for node in nodes:
        rev = (await ann.node(node)).rev
        state = build.file(b"%d" % (node - nodes[0]), content=Manifest(1, b"x"))
        # Both of one rev: what lost, and what lost to it.
        both = await ann.made(build.change(node, state, 1, is_conflict=True), build.change(node, state, rev))
        await ann.made(build.change(node, state, both, overrides=both))
    found, more, after = [], True, (0, 0)
    while more:
        answer = await ann.conflicts(*after)
        found += answer.conflicts
        more, after = answer.more, (found[-1].node, found[-1].lost.rev)
    assert [one.node for one in found] == [node for node in nodes for _ in range(2)]


async def test_the_quota_refuses_growth(ann: Any, build: Any, instance: Instance) -> None:
    await instance.database.write(lambda session: space_rows.set_quota(session, ann.home, 1_000))
    node = await ann.new_file(b"a", content=Manifest(900, b"x" * 900))
    rev = (await ann.node(node)).rev
    message = await refused(
        ann, QuotaExceeded, build.change(await ann.new_id(), build.file(b"b", content=Manifest(101, b"y" * 101)))
    )
    assert "900 bytes of 1000 bytes" in message
    space = await ann.space()
    assert (space.quota, space.used, space.free) == (1_000, 900, 100)
    rev = await ann.made(build.change(node, build.file(b"a", content=Manifest(1000, b"x" * 1000)), rev))
    await instance.database.write(lambda session: space_rows.set_quota(session, ann.home, 10))
    rev = await ann.made(build.change(node, build.file(b"a", content=Manifest(999, b"x" * 999)), rev))
    await ann.made(build.change(node, None, rev))
    assert (await ann.space()).used == 0


def entry(chunk: bytes, length: int = 1, base: Base | None = None) -> Entry:
    return Entry(chunk, b"k" * 32, length, base)  # type: ignore[arg-type]


async def test_chunks_must_have_been_sent_to_this_space(ann: Any, bob: Any, build: Any) -> None:
    here, elsewhere = b"here" * 10, b"elsewhere" * 10
    await ann.put(here)
    await bob.put(elsewhere)
    ids = build.chunk_id(here), build.chunk_id(elsewhere)
    both = Manifest(2, entries=(entry(ids[0]), entry(ids[1])))
    message = await refused(ann, ChunkMissing, build.change(await ann.new_id(), build.file(b"a", content=both)))
    assert ids[1].hex() in message
    assert ids[0].hex() not in message
    based = Manifest(1, entries=(entry(ids[0], 1, Base(ids[1], b"k" * 32, 5)),))
    await refused(ann, ChunkMissing, build.change(await ann.new_id(), build.file(b"a", content=based)))
    kept = build.change(await ann.new_file(b"z"), build.file(b"z", content=both), 1, is_conflict=True)
    await refused(ann, ChunkMissing, kept)
    hole = Entry(b"", b"", 10)  # type: ignore[arg-type]
    fine = Manifest(11, entries=(entry(ids[0]), hole))
    assert (await ann.commit(build.change(await ann.new_id(), build.file(b"a", content=fine)))).rev


BAD_MANIFESTS = {
    "sizes do not add up": Manifest(5, entries=(Entry(b"i" * 32, b"k" * 32, 4),)),  # type: ignore[arg-type]
    "inline of another size": Manifest(5, b"abc"),
    "inline and entries": Manifest(5, b"abc", entries=(Entry(b"", b"", 2),)),  # type: ignore[arg-type]
    "long inline": Manifest(2049, b"x" * 2049),
    "short id": Manifest(4, entries=(Entry(b"i" * 31, b"k" * 32, 4),)),  # type: ignore[arg-type]
    "short key": Manifest(4, entries=(Entry(b"i" * 32, b"k" * 31, 4),)),  # type: ignore[arg-type]
    "empty entry": Manifest(0, entries=(Entry(b"i" * 32, b"k" * 32, 0),)),  # type: ignore[arg-type]
    "negative size": Manifest(-1),
    "nothing covers it": Manifest(10),
    "too many entries": Manifest(65, entries=(Entry(b"", b"", 1),) * 65),  # type: ignore[arg-type]
    "too deep": Manifest(4, depth=5, entries=(Entry(b"i" * 32, b"k" * 32, 4),)),  # type: ignore[arg-type]
    "depth without entries": Manifest(0, depth=1),
}


@pytest.mark.parametrize("what", BAD_MANIFESTS)
async def test_manifests_that_cannot_be(ann: Any, build: Any, what: str) -> None:
    message = await refused(
        ann, BadRequest, build.change(await ann.new_id(), build.file(b"a", content=BAD_MANIFESTS[what]))
    )
    assert message.startswith("changes[0].state.content")


BAD_STATES: dict[str, dict[str, Any]] = {
    "no name": {"names": ()},
    "dot": {"names": (Name(ROOT, b"."),)},
    "dot dot": {"names": (Name(ROOT, b".."),)},
    "the past": {"names": (Name(ROOT, b".versions"),)},
    "empty name": {"names": (Name(ROOT, b""),)},
    "slash": {"names": (Name(ROOT, b"a/b"),)},
    "nul": {"names": (Name(ROOT, b"a\0b"),)},
    "long name": {"names": (Name(ROOT, b"x" * 256),)},
    "name twice": {"names": (Name(ROOT, b"a"), Name(ROOT, b"a"))},
    "many names": {"names": tuple(Name(ROOT, b"%d" % number) for number in range(1001))},
    "parent 0": {"names": (Name(NodeId(0), b"a"),)},
    "parent negative": {"names": (Name(NodeId(-1), b"a"),)},
    "parent over 63 bits": {"names": (Name(NodeId(1 << 63), b"a"),)},
    "mode": {"mode": 0o10000},
    "negative mode": {"mode": -1},
    "uid": {"uid": 1 << 32},
    "gid": {"gid": -1},
    "mtime": {"mtime_ns": 1 << 63},
    "birth": {"birth_ns": 1 << 63},
    "rdev of a file": {"rdev": 5},
    "target of a file": {"target": b"x"},
    "no content": {"content": None},
    "xattr name": {"xattrs": {b"x" * 256: b""}},
    "xattr empty name": {"xattrs": {b"": b""}},
    "xattr value": {"xattrs": {b"user.a": b"x" * 65537}},
    "xattr total": {"xattrs": {b"user.%d" % number: b"x" * 65000 for number in range(3)}},
    "content of a fifo": {"kind": Kind.FIFO},
    "symlink without target": {"kind": Kind.SYMLINK, "content": None},
    "long target": {"kind": Kind.SYMLINK, "content": None, "target": b"x" * 4096},
    "nul in target": {"kind": Kind.SYMLINK, "content": None, "target": b"a\0"},
    "folder with two names": {"kind": Kind.FOLDER, "content": None, "names": (Name(ROOT, b"a"), Name(ROOT, b"b"))},
}


@pytest.mark.parametrize("what", BAD_STATES)
async def test_states_that_cannot_be(ann: Any, build: Any, what: str) -> None:
    bad = msgspec.structs.replace(build.file(b"a"), **BAD_STATES[what])
    assert "changes[0].state" in await refused(ann, BadRequest, build.change(await ann.new_id(), bad))


@pytest.mark.parametrize("kind", [Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE, Kind.SYMLINK])
async def test_special_files_travel(ann: Any, build: Any, kind: Kind) -> None:
    node = await ann.new_id()
    fields: dict[str, Any] = {"target": b"/x"} if kind == Kind.SYMLINK else {}
    if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        fields = {"rdev": 0x0103}
    state = build.state(kind, (Name(ROOT, b"s"),), xattrs={b"user.a": b"\0\xff"}, **fields)
    await ann.made(build.change(node, state))
    assert (await ann.node(node)).state == state


async def test_what_was_edited_in_the_future_was_edited_now(ann: Any, build: Any) -> None:
    node, now_ns = await ann.new_id(), time.time_ns()
    early = msgspec.structs.replace(build.change(node, build.file(b"a")), edited_ns=now_ns - 1_000_000_000)
    first = await ann.commit(early)
    assert (await ann.node(node)).edited_ns == early.edited_ns
    late = msgspec.structs.replace(build.change(node, build.file(b"b"), first.rev), edited_ns=now_ns + (1 << 60))
    second = await ann.commit(late)
    assert now_ns <= (await ann.node(node)).edited_ns <= second.now_ns


async def test_changes_that_cannot_be(ann: Any, build: Any) -> None:
    node = await ann.new_id()
    fine = build.file(b"a")
    await refused(ann, BadRequest)
    await refused(ann, BadRequest, build.change(node, fine), build.change(node, fine))
    await refused(ann, BadRequest, build.change(0, fine))
    await refused(ann, BadRequest, build.change(-5, fine))
    await refused(ann, BadRequest, build.change(1 << 63, fine))
    await refused(ann, BadRequest, build.change(node, fine, -1))
    await refused(ann, BadRequest, build.change(node, fine, 1 << 63))
    await refused(ann, BadRequest, build.change(node, fine, 7))
    await refused(ann, BadRequest, build.change(node, None))
    await refused(ann, BadRequest, build.change(node, fine, is_touch=True))
    await refused(ann, BadRequest, build.change(node, build.folder(b"a"), is_touch=True, is_conflict=True))
    await refused(ann, BadRequest, build.change(node, fine, is_conflict=True, overrides=1))
    await refused(ann, BadRequest, build.change(node, None, is_touch=True))
    await refused(ann, BadRequest, build.change(node, fine, overrides=1))
    with pytest.raises(BadRequest):
        await ann.commit(build.change(node, fine), op_id=b"short")


async def test_files_of_holes_cannot_make_the_space_uncountable(ann: Any, build: Any) -> None:
    """What is used is kept in 63 bits; beyond them every later commit failed."""
    node = await ann.new_id()
    for size in (FILE_SIZE_MAX + 1, (1 << 63) - 1):
        await refused(ann, TooLarge, build.change(node, build.file(b"a", content=holes(size))))
    await ann.made(build.change(node, build.file(b"a", content=holes(FILE_SIZE_MAX))))
    assert (await ann.space()).used == FILE_SIZE_MAX


def holes(size: int) -> Manifest:
    return Manifest(size, entries=(Entry(b"", b"", size),))  # type: ignore[arg-type]


async def test_too_many_changes_and_too_long_bodies(ann: Any, build: Any) -> None:
    first = await ann.new_id()
    many = [build.change(first + at, build.file(b"%d" % at)) for at in range(CHANGES_MAX + 1)]
    await refused(ann, TooLarge, *many)
    await ann.made(*many[1:])
    response = await ann.raw("POST", f"/v1/spaces/{ann.home}/commits", b"\0" * (COMMIT_BODY_MAX + 1))
    assert response.status_code == 413


async def test_a_full_batch_of_small_files(ann: Any, build: Any) -> None:
    where, first = await ann.new_folder(b"d"), await ann.new_id()
    await ann.made(
        *(
            build.change(first + 1 + at, build.file(b"%04d" % at, where, Manifest(9, b"%09d" % at)))
            for at in range(CHANGES_MAX)
        )
    )
    listing = (await ann.listing(where)).folders[0]
    assert len(listing.names) == CHANGES_MAX
    assert listing.children[7].state.content == Manifest(9, b"000000007")


async def test_in_a_space_that_is_none(ann: Any, build: Any) -> None:
    with pytest.raises(NotFound):
        await ann.commit(build.change(await ann.new_id(), build.file(b"a")), space=99)
    for space in ("0", "-1", "x", str(1 << 63), "9" * 5000, "%2e%2e"):
        response = await ann.raw("POST", f"/v1/spaces/{space}/commits", b"")
        assert response.status_code == 404, space


async def test_contents_are_not_in_the_clear_on_disk(ann: Any, build: Any, instance: Instance, tmp_path: Any) -> None:
    await ann.new_file(b"a", content=Manifest(12, b"TOP SECRET!!"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert b"TOP SECRET" not in stored
    assert (await ann.space()).domain_secret not in stored


async def test_garbage_is_a_bad_request(ann: Any, build: Any) -> None:
    fine = msgspec.msgpack.encode(Commit(b"0" * 16, (build.change(await ann.new_id(), build.file(b"a")),)))
    for body in (b"", b"\xc1", fine[:-3], fine + b"x", b"\x91" * 100_000, msgspec.msgpack.encode({"op_id": 5})):
        response = await ann.raw("POST", f"/v1/spaces/{ann.home}/commits", body)
        assert response.status_code == 400, body[:20]
        assert isinstance(build.error_of(response), BadRequest)
    assert (await ann.space()).head == Rev(1)


async def test_winners_are_bounded(ann: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "WINNERS_BYTES_MAX", 1_000)
    where = await ann.new_folder(b"d")
    for number in range(4):
        await ann.new_file(b"%d" % number, where, Manifest(600, b"x" * 600))
    found = await winners(ann, build.change(where, None, (await ann.node(where)).rev))
    assert len(found) == 2
