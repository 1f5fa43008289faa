"""Merge: each row of the table of merge rules, and the order in which edits are sent."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cache.errors import Contradiction
from cache.merge import Settled, first_batch, free_name, settle, touched, units
from cache.records import Record
from remote.protocol.ids import ROOT, ChunkId, NodeId, Rev
from remote.protocol.nodes import EMPTY, Entry, Kind, Manifest, Name, NodeState, NodeVersion

NODE = NodeId(5)
OLD, NEW, OTHER = (Manifest(3, inline=text) for text in (b"old", b"new", b"oth"))


def file(content: Manifest = OLD, name: bytes = b"f", **changes: object) -> NodeState:
    state = NodeState(Kind.FILE, (Name(ROOT, name),), 0o644, 1, 1, 10, 10, 10, 10, content=content)
    return replace(state, **changes)


def folder(name: bytes = b"d", **changes: object) -> NodeState:
    state = NodeState(Kind.FOLDER, (Name(ROOT, name),), 0o755, 1, 1, 10, 10, 10, 10)
    return replace(state, **changes)


def dirty(local: NodeState | None, synced: NodeState | None, **changes: object) -> Record:
    return replace(Record(rev=Rev(3), local=local, is_dirty=True, synced=synced), **changes)


def news(state: NodeState | None, *, rev: int = 4, edited_ns: int = 100) -> NodeVersion:
    return NodeVersion(NODE, Rev(rev), edited_ns, state)


def settled(record: Record | None, version: NodeVersion, *, newer: bool = False, alive: bool = False) -> Settled:
    """`newer`: whether the edit here is the newer one."""
    return settle(record, version, 200 if newer else 50, alive)


def test_news_of_an_unknown_node_is_taken_as_it_is() -> None:
    assert settled(None, news(file())).record == Record(rev=Rev(4), local=file())
    assert settled(None, news(None)).record is None


def test_the_same_news_twice_changes_nothing() -> None:
    record = Record(rev=Rev(4), local=file())
    assert settled(record, news(file(NEW))).record == record


def test_news_of_a_clean_node_replaces_it_and_keeps_what_is_listed() -> None:
    record = Record(rev=Rev(3), local=folder(), is_listed=True)
    after = settled(record, news(folder(mode=0o700))).record
    assert after == Record(rev=Rev(4), local=folder(mode=0o700), is_listed=True)


def test_a_clean_node_that_is_removed_elsewhere_is_forgotten() -> None:
    assert settled(Record(rev=Rev(3), local=file()), news(None)).record is None


def test_a_folder_removed_elsewhere_lives_with_what_was_put_into_it_here() -> None:
    after = settled(Record(rev=Rev(3), local=folder(), is_listed=True), news(None), alive=True).record
    assert after == Record(rev=Rev(4), local=folder(), is_dirty=True, is_listed=True, is_spared=True)


@pytest.mark.parametrize("is_renamed", [True, False])
def test_a_removed_folder_that_lives_for_what_is_in_it_has_no_other_reason_unless_it_was_renamed(
    is_renamed: bool,
) -> None:
    here = folder(name=b"new", ctime_ns=20) if is_renamed else folder(mode=0o700, ctime_ns=20)
    after = settled(dirty(here, folder()), news(None), alive=True).record
    assert after is not None
    assert after.is_spared is not is_renamed
    # Nor has it one when it is heard of again.
    assert settled(after, news(None, rev=5), alive=False).record == (replace(after, rev=5) if is_renamed else None)


@pytest.mark.parametrize("newer", [True, False])
def test_of_two_contents_the_newer_wins_and_the_other_becomes_a_version(newer: bool) -> None:
    record = dirty(file(OLD), file(OLD), staged=9, staged_size=7)
    after = settled(record, news(file(OTHER)), newer=newer)
    assert after.record is not None
    if newer:
        assert not after.is_local_lost
        assert (after.record.staged, after.record.overrides) == (9, 4)
        assert after.record.synced == file(OTHER)
    else:
        assert after.is_local_lost
        assert after.record == Record(rev=Rev(4), local=file(OTHER))


@pytest.mark.parametrize("newer", [True, False])
def test_equal_content_on_both_sides_is_no_conflict(newer: bool) -> None:
    after = settled(dirty(file(NEW), file(OLD)), news(file(NEW)), newer=newer)
    assert after == Settled(Record(rev=Rev(4), local=file(NEW)))


@pytest.mark.parametrize("newer", [True, False])
def test_content_here_and_permissions_elsewhere_both_count(newer: bool) -> None:
    record = dirty(file(OLD), file(OLD), staged=9)
    after = settled(record, news(file(OLD, mode=0o600)), newer=newer)
    assert after.record is not None
    assert not after.is_local_lost
    assert after.record.local is not None
    assert (after.record.staged, after.record.local.mode, after.record.overrides) == (9, 0o600, 0)


@pytest.mark.parametrize("newer", [True, False])
def test_permissions_on_both_sides_the_newer_wins(newer: bool) -> None:
    after = settled(dirty(file(mode=0o664), file()), news(file(mode=0o600)), newer=newer).record
    assert after is not None
    assert after.local is not None
    assert after.local.mode == (0o664 if newer else 0o600)
    assert after.is_dirty == newer


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize(
    ("agreed", "here", "there", "merged"),
    [
        (0o644, 0o755, 0o600, 0o700),
        (0o644, 0o600, 0o755, 0o700),
        (0o755, 0o644, 0o750, 0o640),
        (0o755, 0o750, 0o644, 0o640),
        (0o644, 0o755, 0o755, 0o755),
        (0o644, 0o755, 0o2664, 0o2775),
    ],
)
def test_the_executable_bit_and_other_permissions_both_count(
    newer: bool, agreed: int, here: int, there: int, merged: int
) -> None:
    record = dirty(file(mode=here), file(mode=agreed))
    after = settled(record, news(file(mode=there)), newer=newer).record
    assert after is not None
    assert after.local is not None
    assert after.local.mode == merged


def test_extended_attributes_merge_one_by_one() -> None:
    agreed = file(xattrs={b"a": b"1", b"b": b"1", b"c": b"1"})
    here = replace(agreed, xattrs={b"a": b"2", b"b": b"1", b"new": b"1"})
    there = replace(agreed, xattrs={b"a": b"1", b"b": b"3", b"c": b"1"})
    after = settled(dirty(here, agreed), news(there)).record
    assert after is not None
    assert after.local is not None
    assert after.local.xattrs == {b"a": b"2", b"b": b"3", b"new": b"1"}


@pytest.mark.parametrize("newer", [True, False])
def test_move_against_move_the_newest_wins(newer: bool) -> None:
    record = dirty(folder(b"here"), folder(b"d"))
    after = settled(record, news(folder(b"there")), newer=newer).record
    assert after is not None
    assert after.local is not None
    assert after.local.names[0].name == (b"here" if newer else b"there")


def test_hard_links_made_and_removed_on_both_sides_all_count() -> None:
    a, b, c, d = (Name(ROOT, name) for name in (b"a", b"b", b"c", b"d"))
    agreed, here, there = file(names=(a, b)), file(names=(a, b, c)), file(names=(b, d))
    after = settled(dirty(here, agreed), news(there)).record
    assert after is not None
    assert after.local is not None
    assert after.local.names == (b, c, d)


@pytest.mark.parametrize("there", [file(NEW), file(OLD, b"moved", ctime_ns=99)])
def test_an_edit_elsewhere_outlives_a_removal_here(there: NodeState) -> None:
    assert settled(dirty(None, file(OLD)), news(there)).record == Record(rev=Rev(4), local=there)


@pytest.mark.parametrize(
    "there", [file(mode=0o600), file(mtime_ns=99), file(xattrs={b"a": b"1"}), file(name=b"moved with its folder")]
)
def test_permissions_and_times_elsewhere_do_not_bring_a_node_back(there: NodeState) -> None:
    after = settled(dirty(None, file(OLD)), news(there)).record
    assert after == dirty(None, there, rev=Rev(4))


@pytest.mark.parametrize(
    "record",
    [
        dirty(file(NEW), file(OLD)),
        dirty(file(OLD), file(OLD), staged=9),
        dirty(file(name=b"moved", ctime_ns=99), file()),
    ],
)
def test_an_edit_here_outlives_a_removal_elsewhere(record: Record) -> None:
    assert settled(record, news(None)).record == replace(record, rev=Rev(4), synced=None)


@pytest.mark.parametrize(
    "record",
    [
        dirty(file(mode=0o600), file()),
        dirty(folder(mtime_ns=99), folder()),
        dirty(file(name=b"moved with its folder"), file()),
    ],
)
def test_permissions_and_times_here_do_not_keep_a_node_that_is_removed_elsewhere(record: Record) -> None:
    assert settled(record, news(None)).record is None


def test_removed_on_both_sides_is_forgotten() -> None:
    assert settled(dirty(None, file()), news(None)).record is None


def test_a_touch_moves_times_unless_a_later_one_was_first() -> None:
    early, late = folder(mtime_ns=20, ctime_ns=20), folder(mtime_ns=5, ctime_ns=30)
    assert touched(early, late, is_on_top=False) == late
    assert touched(late, early, is_on_top=False) == late
    assert touched(late, early, is_on_top=True) == early


@pytest.mark.parametrize(
    ("name", "taken", "free"),
    [
        (b"a.txt", [], b"a (2).txt"),
        (b"a.txt", [b"a (2).txt"], b"a (3).txt"),
        (b".hidden", [], b".hidden (2)"),
        (b"x" * 255, [], b"x" * 251 + b" (2)"),
        (b"f." + b"x" * 250, [], b"f." + b"x" * 249 + b" (2)"),
        ("ü".encode() * 127, [], "ü".encode() * 125 + b" (2)"),
        (b"\xbf" * 255, [], b"\xbf" * 251 + b" (2)"),
    ],
)
def test_a_free_name_is_near_the_wanted_one(name: bytes, taken: list[bytes], free: bytes) -> None:
    assert free_name(name, lambda candidate: candidate in taken) == free


def states(kind: Kind) -> st.SearchStrategy[NodeState]:
    """Few values for each field, so that equal ones are likely."""
    few = st.integers(1, 3)
    name = st.builds(Name, st.just(ROOT), st.sampled_from([b"a", b"b", b"c"]))
    names = st.lists(name, min_size=1, max_size=1 if kind is Kind.FOLDER else 3, unique=True)
    return st.builds(
        NodeState,
        st.just(kind),
        names.map(lambda found: tuple(sorted(found))),
        mode=few,
        uid=few,
        gid=st.just(1),
        mtime_ns=few,
        ctime_ns=few,
        atime_ns=few,
        birth_ns=st.just(1),
        target=st.sampled_from([b"x", b"y"]) if kind is Kind.SYMLINK else st.just(b""),
        xattrs=st.dictionaries(st.sampled_from([b"p", b"q"]), st.sampled_from([b"1", b"2"])),
        content=st.sampled_from([OLD, NEW, OTHER]) if kind is Kind.FILE else st.none(),
    )


@st.composite
def three_views(draw: st.DrawFn) -> tuple[Record, NodeVersion]:
    """What a device may know of a node, and what it then hears."""
    kind = draw(st.sampled_from([Kind.FILE, Kind.FOLDER, Kind.SYMLINK]))
    state = states(kind)
    there = news(draw(st.none() | state), rev=draw(st.integers(2, 5)))
    if draw(st.booleans()):
        return Record(rev=Rev(3), local=draw(state)), there
    local, synced = draw(st.none() | state), draw(st.none() | state)
    rev = 0 if synced is None and draw(st.booleans()) else 3
    staged = 9 if kind is Kind.FILE and local is not None and draw(st.booleans()) else 0
    return dirty(local, synced, rev=Rev(rev), staged=staged, staged_size=staged), there


@settings(max_examples=300, deadline=None)
@given(three_views(), st.booleans(), st.booleans())
def test_any_three_views_have_one_outcome_that_loses_nothing(
    views: tuple[Record, NodeVersion], newer: bool, alive: bool
) -> None:
    record, there = views
    after = settled(record, there, newer=newer, alive=alive)
    assert after == settled(record, there, newer=newer, alive=alive)
    left, here, agreed = after.record, record.local, record.agreed
    if there.rev <= record.rev:
        assert after == Settled(record)
        return
    if left is not None:
        assert left.rev == there.rev
        # The same news again changes nothing.
        assert settled(left, there, newer=newer, alive=alive) == Settled(left)
        assert left.is_dirty or (left.local == there.state and not left.staged)
        assert left.is_dirty or left.synced is None
        assert not left.is_dirty or left.synced == there.state
    shown = left.local if left is not None else None
    was_edited = here is not None and (bool(record.staged) or agreed is None or here.content != agreed.content)
    if was_edited and record.is_dirty and here is not None:
        is_kept = left is not None and (left.staged == record.staged if record.staged else shown == here)
        is_there = not record.staged and shown is not None and shown.content == here.content
        assert is_kept or is_there or after.is_local_lost
    if left is not None and left.is_dirty and shown is not None and there.state is not None:
        # What wins over an edit elsewhere marks it.
        is_edit_there = agreed is None or there.state.content != agreed.content
        is_overwritten = bool(left.staged) or shown.content != there.state.content
        assert not (is_edit_there and is_overwritten) or left.overrides == there.rev
    if here is None and record.is_dirty and shown is not None and agreed is not None:
        edited = ("content", "names", "target")
        assert any(getattr(there.state, field) != getattr(agreed, field) for field in edited), "it came back"
    if there.state is None and shown is not None:
        assert alive or record.is_dirty


@given(st.permutations([Kind.FILE, Kind.FOLDER, Kind.SYMLINK]), st.booleans())
def test_a_node_of_two_kinds_is_refused_by_name(kinds: Sequence[Kind], is_clean: bool) -> None:
    here, there = (replace(folder(), kind=kind) for kind in kinds[:2])
    record = Record(rev=Rev(3), local=here) if is_clean else dirty(here, here)
    with pytest.raises(Contradiction, match="cannot be a"):
        settled(record, news(there))


needs = st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), max_size=13)


@given(st.lists(st.integers(0, 12), max_size=13), needs)
def test_groups_follow_what_they_need_and_who_need_each_other_go_together(
    starts: list[int], graph: dict[int, list[int]]
) -> None:
    def reachable(node: int) -> set[int]:
        seen: set[int] = set()
        todo = list(graph.get(node, []))
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo += graph.get(other, [])
        return seen

    groups = units([NodeId(node) for node in starts], lambda node: [NodeId(one) for one in graph.get(node, [])])
    place = {node: number for number, group in enumerate(groups) for node in group}
    assert len(place) == sum(map(len, groups))
    assert set(place) == set(starts).union(*(reachable(node) for node in starts))
    for node, number in place.items():
        for other in reachable(node):
            assert place[NodeId(other)] <= number
            assert (place[NodeId(other)] == number) == (node in reachable(other) or other == node)


def test_a_chain_of_a_hundred_thousand_needs_no_recursion() -> None:
    count = 100_000
    groups = units([NodeId(0)], lambda node: [NodeId(node + 1)] if node < count else [])
    assert [group[0] for group in groups[:2]] == [count, count - 1]


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), max_size=20), st.integers(1, 10))
def test_a_batch_is_the_first_groups_that_fit_and_one_at_least(groups: list[list[int]], limit: int) -> None:
    nodes: Sequence[list[NodeId]] = [[NodeId(node) for node in group] for group in groups]
    batch = first_batch(nodes, limit, lambda node: 10, 70)
    assert list(batch) == list(nodes[: len(batch)])
    assert len(batch) == min(1, len(groups)) or sum(map(len, batch)) <= min(limit, 7)
    if len(batch) < len(nodes):
        assert sum(map(len, nodes[: len(batch) + 1])) > min(limit, 7)


def test_only_files_conflict_over_content() -> None:
    link = NodeState(Kind.SYMLINK, (Name(ROOT, b"l"),), 0o777, 1, 1, 10, 10, 10, 10, target=b"x")
    after = settled(dirty(replace(link, target=b"here"), link), news(replace(link, target=b"there")), newer=True)
    assert after.record is not None
    assert after.record.local is not None
    assert after.record.local.target == b"here"
    assert not after.is_local_lost


def test_content_with_chunks_is_compared_by_its_manifest() -> None:
    chunked = Manifest(9, entries=(Entry(ChunkId(b"i" * 32), b"k" * 32, 9),))
    assert settled(dirty(file(chunked), file(EMPTY)), news(file(chunked))).record == Record(
        rev=Rev(4), local=file(chunked)
    )
